//! What the relay stands on: clock, network, DNS and store, each with its default, exchangeable for tests and the demo.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::builder::{Builder, Core};
use super::data_dir::DataDir;
use crate::accounts::credentials::Admits;
use crate::base::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::destination::resolver::{Dns, HickoryDns};
use crate::dkim::pool::SigningPool;
use crate::event::Sink;
use crate::ledger::embedded::code_keys::CodeKeys;
use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::store::Store;
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::ledger::embedded::store::sled::SledStore;
use crate::net::{Network, TcpNetwork};
use crate::report::log::Output;

/// HTTPS.
const POLICY_PORT: u16 = 443;

/// What the relay stands on, exchangeable for tests and the demo.
pub struct Environment {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How mail hosts are connected to.
    pub network: Arc<dyn Network>,
    /// DNS, if not as configured.
    pub dns: Option<Arc<dyn Dns>>,
    /// Where web servers have their MTA-STS policies.
    pub policy_port: u16,
    /// What keeps the queue, if not the database in the data directory.
    pub store: Option<MemoryStore>,
    /// Somebody else who wants to hear of events, after log and counters.
    pub events: Option<Arc<dyn Sink>>,
    /// Where the log goes.
    pub output: Output,
    /// Who is let in.
    pub admits: Admits,
    /// What the HTTP API answers beside its own paths, and before them.
    pub beside: Option<axum::Router>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            network: Arc::new(TcpNetwork),
            dns: None,
            policy_port: POLICY_PORT,
            store: None,
            events: None,
            output: Output::stdout(),
            admits: Admits::default(),
            beside: None,
        }
    }
}

impl Environment {
    /// The way of mail, with what it keeps in the data directory.
    pub(super) fn core(&self, config: &Config, folder: &DataDir, draining: &CancellationToken) -> anyhow::Result<Core> {
        let now = self.clock.now();
        let dns = match &self.dns {
            Some(dns) => dns.clone(),
            None => {
                let dns = Arc::new(HickoryDns::new(&config.resolver)?);
                let probed = dns.clone();
                tokio::spawn(while_running(draining.clone(), async move { probed.keep_probing().await }));
                dns
            }
        };
        let ring = KeyRing::open(&folder.keys(), config.seal, now)
            .with_context(|| format!("the keys in {} cannot be used", folder.keys().display()))?;
        let code_keys = CodeKeys::open(&folder.code_keys(), now)
            .with_context(|| format!("the keys in {} cannot be used", folder.code_keys().display()))?;
        let store: Box<dyn Store> = match &self.store {
            Some(store) => Box::new(store.clone()),
            None => Box::new(SledStore::open(&folder.queue(), ring)?),
        };
        let builder = Builder::new(config).clock(self.clock.clone()).network(self.network.clone()).dns(dns);
        let builder = builder.store(store).policies(folder.policies(), self.policy_port);
        let builder = builder.signing(SigningPool::start()?).secrets(Arc::new(folder.rotating_secrets(now)));
        let builder = builder.code_keys(code_keys);
        builder.build()
    }
}

/// Something that goes on until the relay stops.
pub(super) async fn while_running(draining: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = draining.cancelled() => {}
        () = work => {}
    }
}
