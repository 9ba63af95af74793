//! Delivery: from an entry that is ready to the mail host's final answer.
//!
//! From above to below: the `dispatcher` hands entries to sites; a `worker` is one session with a site and makes its
//! attempts; an `attempt` goes through gate, load, connect, transact and conclude, with a `race` for a session; the `dialer`
//! and what it knows of hosts; `sites` with their sessions and the bound that all share. Nothing here calls upward: what is
//! to be begun goes out as a value.

mod address_health;
mod address_rotation;
mod attempt;
mod backoff;
mod caller;
mod candidates;
mod connect;
mod crowd;
mod dialer;
mod dispatcher;
mod environment;
mod fallback;
mod framing;
mod judged_failure;
mod lacking;
mod limits;
mod mask;
mod next_hop;
mod next_hops;
mod outage;
mod pace;
mod peer;
mod places;
mod planning;
mod prewarm;
mod quirks;
mod race;
mod security;
mod sessions;
mod settings;
mod settle;
mod site;
mod sites;
pub mod smart_host;
mod steps;
mod tasks;
mod transact;
pub(crate) mod trial;
mod waiting_sites;
mod window;
mod wire;
mod wording;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_rustls::TlsConnector;

use crate::base::clock::Clock;
use crate::destination::mx::Router;
use crate::dkim::Keys;
use crate::dkim::pool::SigningPool;
use crate::mail::address::{Mailbox, ReversePath};
use crate::net::Network;
use crate::queue::{Offered, Queue};
use crate::tls::verify::Roots;
use address_health::AddressHealth;
use dialer::Dialer;
use dispatcher::Dispatcher;
use environment::Environment;
use pace::Paces;
use quirks::Quirks;
pub(crate) use settings::Exception;
pub use settings::Settings;
use sites::{SessionRequests, Sites};
use smart_host::SmartHosts;
use tasks::Tasks;

pub struct Parts {
    pub queue: Arc<Queue>,
    pub router: Arc<Router>,
    pub network: Arc<dyn Network>,
    /// For the handshake, which does not judge the certificate.
    pub tls: TlsConnector,
    /// Who is believed about names.
    pub(crate) roots: Roots,
    pub smart_hosts: SmartHosts,
    /// For content read back from the store, which has no signatures.
    pub keys: Arc<ArcSwap<Keys>>,
    pub(crate) signing: Arc<SigningPool>,
    pub clock: Arc<dyn Clock>,
}

/// The delivery engine.
pub struct Delivery {
    env: Arc<Environment>,
    dispatcher: Arc<Dispatcher>,
    /// What sites will ask for, until somebody runs it.
    begins: Mutex<Option<SessionRequests>>,
}

impl Delivery {
    /// An engine that waits for offers. It has to be [run](Self::run).
    pub fn new(parts: Parts, settings: Settings) -> Arc<Self> {
        let Parts { queue, router, network, tls, roots, smart_hosts, keys, signing, clock } = parts;
        let (settings, tasks) = (Arc::new(settings), Tasks::default());
        let (sites, begins) = Sites::new(settings.clone(), clock.clone(), tasks.clone());
        let dialer = Arc::new(Dialer {
            network,
            tls,
            roots,
            clock: clock.clone(),
            settings: settings.clone(),
            address_health: AddressHealth::default(),
            paces: Arc::new(Paces::default()),
            quirks: Quirks::default(),
        });
        let env = Environment { queue, router, smart_hosts, keys, signing, clock, settings, dialer, sites, tasks };
        let env = Arc::new(env);
        let dispatcher = Dispatcher::new(env.clone());
        Arc::new(Self { env, dispatcher, begins: Mutex::new(Some(begins)) })
    }

    /// Takes what the queue offers, and begins sessions that sites ask for, until it is drained. To be called once.
    pub fn run(self: Arc<Self>) -> impl Future<Output = ()> + use<> {
        let begins = self.begins.lock().take();
        if let Some(offers) = self.env.queue.take_offers() {
            self.dispatcher.takes(offers);
        }
        async move {
            if let Some(begins) = begins {
                tokio::join!(self.dispatcher.clone().run(begins), self.dispatcher.clone().take());
            }
        }
    }

    /// Takes entries that are ready in the place of who has them from the queue; nobody has to be woken for them.
    pub fn take_up(&self, offered: Offered) {
        self.dispatcher.take_up(offered);
    }

    /// A message with this reverse-path to this recipient is about to come: what can be done ahead, may be.
    pub fn prewarm(&self, reverse_path: &ReversePath, recipient: &Mailbox) {
        self.dispatcher.prewarm(reverse_path, recipient);
    }

    /// Ends: no new attempts; those under way get `patience`, then they are put off.
    pub async fn drain(&self, patience: Duration) {
        self.env.tasks.drain(patience).await;
    }

    /// Connections open, idle ones included.
    pub fn connections(&self) -> usize {
        self.env.sites.sessions()
    }

    /// The same by the first host of each destination that has some.
    pub(crate) fn connections_by_host(&self) -> Vec<(Arc<str>, usize)> {
        self.env.sites.sessions_by_host()
    }

    /// Destinations where nobody answers for some time now.
    pub fn destinations_down(&self) -> usize {
        self.env.sites.down()
    }

    /// Who else carries mail.
    pub fn smart_hosts(&self) -> &SmartHosts {
        &self.env.smart_hosts
    }
}
