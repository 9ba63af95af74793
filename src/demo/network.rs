//! The network of the sandbox: its own mail hosts, over pipes, and this machine. Nothing else is reached.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::mail_host::MailHosts;
use super::zone::Zone;
use crate::net::{BoxStream, Connecting, Network, TcpNetwork};

/// Octets that a pipe holds.
const PIPE_LEN: usize = 64 << 10;

/// Connects to the mail hosts.
pub(super) struct SandboxNetwork {
    pub(super) zone: Arc<Zone>,
    pub(super) hosts: Arc<MailHosts>,
}

impl Network for SandboxNetwork {
    fn connect(&self, to: SocketAddr, source: Option<IpAddr>) -> Connecting<'_> {
        if to.ip().is_loopback() {
            // An app's own server, for webhooks.
            return TcpNetwork.connect(to, source);
        }
        let host = self.zone.host_at(to.ip());
        Box::pin(async move {
            let Some(host) = host else {
                let text = "the sandbox reaches nothing outside this machine";
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
            };
            let (near, far) = tokio::io::duplex(PIPE_LEN);
            let hosts = self.hosts.clone();
            tokio::spawn(async move {
                if let Err(error) = hosts.serve(host, Box::new(far)).await {
                    tracing::debug!(%error, "a connection to a mail host of the sandbox broke");
                }
            });
            Ok(Box::new(near) as BoxStream)
        })
    }
}
