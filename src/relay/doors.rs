//! The sockets that a relay listens on.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::data_dir;
use super::inherited_sockets::InheritedSockets;
use crate::accounts::credentials::TokenHash;
use crate::config::Config;
use crate::submission::listener::{self, ListenerSettings};

/// Listening sockets, bound and not yet served.
pub(super) struct Doors {
    pub(super) listeners: Vec<(TcpListener, ListenerSettings)>,
    pub(super) http: Option<TcpListener>,
}

impl Doors {
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let all = config.addresses();
        let mut inherited = InheritedSockets::from_env();
        let mut bind = |address| inherited.take(address).unwrap_or_else(|| listener::bind(address, &all));
        let mut listeners = Vec::new();
        for settings in &config.listeners {
            listeners.push((bind(settings.address)?, settings.clone()));
        }
        let http = config.http.address.map(bind).transpose()?;
        inherited.warn_of_rest();
        Ok(Self { listeners, http })
    }

    pub(super) fn operator(&self, config: &Config) -> anyhow::Result<TokenHash> {
        match self.http {
            Some(_) => data_dir::token(&config.token_file()),
            // Nobody can ask.
            None => Ok(TokenHash::of(&data_dir::new_token()?)),
        }
    }

    pub(super) fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(|(socket, _)| socket.local_addr()).collect()
    }

    pub(super) fn http_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.http.as_ref().map(TcpListener::local_addr).transpose()
    }
}
