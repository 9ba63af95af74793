//! The network of the sandbox: its own mail hosts, over pipes. Nothing else is reached, also not this machine, whose mail server
//! may send on what an address literal like `[127.0.0.1]` leads to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::mail_host::MailHosts;
use super::zone::Zone;
use crate::net::{BoxStream, Connecting, Network};

/// Octets that a pipe holds.
const PIPE_LEN: usize = 64 << 10;

/// Connects to the mail hosts.
pub(super) struct SandboxNetwork {
    pub(super) zone: Arc<Zone>,
    pub(super) hosts: Arc<MailHosts>,
}

impl Network for SandboxNetwork {
    fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        let host = self.zone.host_at(to.ip());
        Box::pin(async move {
            let Some(host) = host else {
                let text = "the sandbox reaches its own mail hosts only";
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::super::certificates::Acceptors;
    use super::super::stage::own_resolver;
    use super::super::verdicts::Verifier;
    use super::*;
    use crate::base::clock::{Clock as _, FastClock};
    use crate::destination::resolver::Dns as _;

    /// Whatever wants to connect uses this: mail, MTA-STS policies, a CA. Names lead to its own hosts only.
    #[tokio::test]
    async fn nothing_but_its_own_hosts_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let (zone, clock) = (Arc::new(Zone::default()), Arc::new(FastClock::new(1)));
        let this_machine = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let hosts = MailHosts {
            clock: clock.clone(),
            greylist: std::time::Duration::ZERO,
            faults: Arc::default(),
            inbox: Arc::default(),
            acceptors: Acceptors::new(&folder.path().join("ca.pem"), clock.wall()).unwrap(),
            verifier: Verifier { zone: zone.clone(), resolver: own_resolver(nowhere).unwrap() },
            tries: parking_lot::Mutex::default(),
        };
        let network = SandboxNetwork { zone: zone.clone(), hosts: Arc::new(hosts) };
        for domain in ["gmail.com", "example.test"] {
            let mx = zone.mx(domain).await.unwrap().records.remove(0);
            let address = zone.ipv4(&mx.exchange).await.unwrap().records[0];
            assert!(zone.ipv6(&mx.exchange).await.is_err() && zone.txt(&format!("_mta-sts.{domain}")).await.is_err());
            let mut banner = [0; 4];
            let mut stream = network.connect(SocketAddr::new(address, 25), None).await.unwrap();
            stream.read_exact(&mut banner).await.unwrap();
            assert_eq!(&banner, b"220 ", "{domain}");
        }
        let listening = this_machine.local_addr().unwrap();
        for to in ["127.0.0.1:25", "[::1]:25", "10.255.255.255:25", "192.0.2.1:443", "[2001:db8::1]:25", "0.0.0.0:80"] {
            for to in [to.parse().unwrap(), listening] {
                let Err(error) = network.connect(to, None).await else { panic!("{to} is reached") };
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}");
            }
        }
    }
}
