//! The way of mail without its edges: queue, delivery and door, tied together here and nowhere else. `serve` and `demo` put
//! listeners, the API and files around it; simulation, tests and fuzzing run it on a network, a store and a clock of theirs.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::TlsConnector;

use super::random::fill_random;
use crate::base::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::delivery::smart_host::SmartHosts;
use crate::delivery::{self, Delivery};
use crate::destination::fetch::HttpsFetch;
use crate::destination::lookups::{BoundedDns, BoundedFetch};
use crate::destination::mx::Router;
use crate::destination::policies::Policies;
use crate::destination::resolver::{Dns, HickoryDns};
use crate::dkim::Keys;
use crate::dkim::pool::SigningPool;
use crate::event::{NoSink, Sink};
use crate::intake::aftermath::Aftermath;
use crate::intake::door::{self, Door};
use crate::intake::idempotency::RotatingSecrets;
use crate::ledger::embedded::code_keys::CodeKeys;
use crate::ledger::embedded::node::{Node, Storage};
use crate::ledger::embedded::store::Store;
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::mail::id::IdSource;
use crate::net::{Network, TcpNetwork};
use crate::queue::Queue;
use crate::tls::{self, verify::Roots};

/// What mail goes through.
#[derive(Clone)]
pub struct Core {
    /// What was taken.
    pub queue: Arc<Queue>,
    /// Who is asked for names.
    pub dns: Arc<dyn Dns>,
    /// Where domains are.
    pub router: Arc<Router>,
    /// The MTA-STS policies, if they are kept.
    pub(crate) policies: Option<Arc<Policies>>,
    /// The way out.
    pub delivery: Arc<Delivery>,
    /// The way in.
    pub door: Arc<Door>,
    /// The keys to sign with.
    pub keys: Arc<ArcSwap<Keys>>,
}

/// Whether entries are offered to delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offers {
    Made,
    Left,
}

/// Builds a [`Core`]. Every part has a default: the system's clock and network, DNS as configured, and memory that is gone with
/// the process for all that is kept.
pub struct Builder {
    config: Config,
    clock: Arc<dyn Clock>,
    network: Arc<dyn Network>,
    dns: Option<Arc<dyn Dns>>,
    roots: Option<Roots>,
    policies: Option<(PathBuf, u16)>,
    store: Box<dyn Store>,
    storage: Storage,
    events: Arc<dyn Sink>,
    signing: SigningPool,
    ids: IdSource,
    secrets: Option<Arc<dyn RotatingSecrets>>,
    code_keys: Option<CodeKeys>,
    offers: Offers,
}

impl Builder {
    /// With these settings and all defaults.
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            clock: Arc::new(SystemClock::default()),
            network: Arc::new(TcpNetwork),
            dns: None,
            roots: None,
            policies: None,
            store: Box::new(MemoryStore::default()),
            storage: Storage::Inline,
            events: Arc::new(NoSink),
            signing: SigningPool::inline(),
            ids: IdSource::new(),
            secrets: None,
            code_keys: None,
            offers: Offers::Made,
        }
    }

    /// The time.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// How mail hosts are connected to.
    #[must_use]
    pub fn network(self, network: Arc<dyn Network>) -> Self {
        Self { network, ..self }
    }

    /// Who is asked for names.
    #[must_use]
    pub fn dns(self, dns: Arc<dyn Dns>) -> Self {
        Self { dns: Some(dns), ..self }
    }

    /// Who is believed about names.
    #[must_use]
    pub fn roots(self, roots: Roots) -> Self {
        Self { roots: Some(roots), ..self }
    }

    /// MTA-STS, with the folder for policies and the port of the web servers that have them.
    #[must_use]
    pub(crate) fn policies(self, folder: PathBuf, port: u16) -> Self {
        Self { policies: Some((folder, port)), ..self }
    }

    /// Where entries are kept, by a thread of its own.
    #[must_use]
    pub fn store(self, store: Box<dyn Store>) -> Self {
        Self { store, storage: Storage::Threaded, ..self }
    }

    /// Where entries are kept, in the caller's place.
    #[must_use]
    pub fn store_inline(self, store: Box<dyn Store>) -> Self {
        Self { store, storage: Storage::Inline, ..self }
    }

    /// Who hears of events.
    #[must_use]
    pub fn events(self, events: Arc<dyn Sink>) -> Self {
        Self { events, ..self }
    }

    #[must_use]
    pub(crate) fn signing(self, signing: SigningPool) -> Self {
        Self { signing, ..self }
    }

    /// Who makes ids.
    #[must_use]
    pub fn ids(self, ids: IdSource) -> Self {
        Self { ids, ..self }
    }

    /// Secrets for what is remembered of content.
    #[must_use]
    pub fn secrets(self, secrets: Arc<dyn RotatingSecrets>) -> Self {
        Self { secrets: Some(secrets), ..self }
    }

    /// What digests of codes are made with.
    #[must_use]
    pub(crate) fn code_keys(self, code_keys: CodeKeys) -> Self {
        Self { code_keys: Some(code_keys), ..self }
    }

    /// Whatever is taken stays in the queue.
    #[must_use]
    pub fn idle(self) -> Self {
        Self { offers: Offers::Left, ..self }
    }

    /// Takes up what the store holds. Nothing runs yet.
    ///
    /// # Errors
    /// What cannot be used, in a sentence for the operator.
    pub fn build(self) -> anyhow::Result<Core> {
        let dns = self.bounded_dns()?;
        let roots = self.roots.clone().map_or_else(|| Roots::load(self.config.delivery.ca_file.as_deref()), Ok)?;
        let policies = self.opened_policies(&dns, &roots)?;
        let Self { config, clock, network, store, storage, events, ids, secrets, code_keys, offers, .. } = self;
        let router = Router::new(dns.clone(), clock.clone(), config.delivery.allow_private_destinations);
        let router = router.routing_by(config.intake.route_by);
        let router = Arc::new(policies.iter().fold(router, |router, policies| router.with_policies(policies.clone())));
        let (sharing, signing) = (config.sharing(), Arc::new(self.signing));
        let keys = Arc::new(ArcSwap::from_pointee(config.keys));
        let code_keys = Arc::new(code_keys.map_or_else(keys_in_memory, Ok)?);
        let aftermath = Aftermath::new(config.intake, ids, keys.clone(), code_keys, clock.clone());
        let ledger = Node::alone(store, storage, clock.clone(), config.queue.delivery())?;
        let queue = Queue::open(ledger, config.queue, clock.clone(), events, aftermath.entail())?;
        queue.set_sharing(sharing);
        let reverse_path = config.delivery.reverse_path.clone();
        let parts = delivery::Parts {
            queue: queue.clone(),
            router: router.clone(),
            network,
            tls: tls::opportunistic_connector()?,
            roots,
            smart_hosts: SmartHosts::new(config.smart_hosts),
            keys: keys.clone(),
            signing: signing.clone(),
            clock: clock.clone(),
        };
        let delivery = Delivery::new(parts, config.delivery);
        match offers {
            Offers::Made => drop(tokio::spawn(delivery.clone().run())),
            Offers::Left => drop(queue.take_offers()),
        }
        let parts = door::Parts {
            aftermath,
            queue: queue.clone(),
            router: router.clone(),
            keys: keys.clone(),
            signing,
            secrets: secrets.map_or_else(OneSecret::made, Ok)?,
            clock,
            reverse_path,
            smart_hosts: delivery.smart_hosts().domains(),
        };
        let door = Door::new(parts);
        Ok(Core { queue, dns, router, policies, delivery, door, keys })
    }

    fn bounded_dns(&self) -> anyhow::Result<Arc<dyn Dns>> {
        let dns: Arc<dyn Dns> = match &self.dns {
            Some(dns) => dns.clone(),
            None => Arc::new(HickoryDns::new(&self.config.resolver)?),
        };
        Ok(Arc::new(BoundedDns::new(dns, self.clock.clone())))
    }

    fn opened_policies(&self, dns: &Arc<dyn Dns>, roots: &Roots) -> anyhow::Result<Option<Arc<Policies>>> {
        let Some((folder, port)) = &self.policies else { return Ok(None) };
        let fetch = HttpsFetch {
            dns: dns.clone(),
            network: self.network.clone(),
            tls: TlsConnector::from(Arc::new(roots.client_config()?)),
            port: *port,
            allow_private: self.config.delivery.allow_private_destinations,
        };
        let fetch = Arc::new(BoundedFetch::new(Arc::new(fetch), self.clock.clone()));
        Ok(Some(Policies::open(folder.clone(), dns.clone(), fetch, self.clock.clone())?))
    }
}

fn keys_in_memory() -> anyhow::Result<CodeKeys> {
    let mut secret = zeroize::Zeroizing::new([0; 32]);
    fill_random(&mut secret[..])?;
    Ok(CodeKeys::in_memory(&secret))
}

/// A secret that is gone with the process.
struct OneSecret([u8; 32]);

impl OneSecret {
    fn made() -> anyhow::Result<Arc<dyn RotatingSecrets>> {
        let mut secret = [0; 32];
        fill_random(&mut secret)?;
        Ok(Arc::new(Self(secret)))
    }
}

impl RotatingSecrets for OneSecret {
    fn of(&self, _: u64) -> Option<[u8; 32]> {
        Some(self.0)
    }
}
