//! A relay without sockets and files: the production queue, door and delivery over a made-up network, on simulated time.

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use otp_relay::clock::{Clock, ManualClock};
use otp_relay::delivery::smart_host::{SmartHost, SmartHosts};
use otp_relay::delivery::{self, Delivery};
use otp_relay::destination::lookups::BoundedDns;
use otp_relay::destination::mx::Router;
use otp_relay::destination::resolver::Dns;
use otp_relay::dkim::Keys;
use otp_relay::dkim::pool::SigningPool;
use otp_relay::event::Sink;
use otp_relay::intake::budget::Limits;
use otp_relay::intake::door::{self, Door};
use otp_relay::intake::idempotency::DailySecrets;
use otp_relay::mail::id::IdSource;
use otp_relay::net::Network;
use otp_relay::queue::memory_store::MemoryStore;
use otp_relay::queue::{self, Queue, Storage, Workers};
use otp_relay::tls::{self, verify::Roots};

/// Nobody in a made-up network has a certificate.
static ROOTS: LazyLock<Roots> = LazyLock::new(|| Roots::load(None).unwrap());

/// Numbers for message ids; set back, a run has the same ones again.
pub static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// One relay from its start to its crash.
pub struct Life {
    pub queue: Arc<Queue>,
    pub door: Arc<Door>,
    pub delivery: Arc<Delivery>,
    timers: tokio::task::JoinHandle<()>,
    digests: tokio::task::JoinHandle<()>,
}

/// How many sessions there may be.
pub struct Bounds {
    /// With one destination.
    pub sessions_of_one: usize,
    /// In all.
    pub sessions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { sessions_of_one: 20, sessions: 1000 }
    }
}

/// The same secret every day.
struct Secrets;

impl DailySecrets for Secrets {
    fn of(&self, _: u64) -> Option<[u8; 32]> {
        Some([7; 32])
    }
}

impl Life {
    /// A relay with what `store` holds.
    pub fn begin(
        store: &MemoryStore,
        network: &(impl Network + Dns + Clone + 'static),
        clock: &Arc<ManualClock>,
        sink: Arc<dyn Sink>,
        sessions_max: usize,
    ) -> Self {
        Self::begin_with(store, network, clock, sink, sessions_max, Vec::new())
    }

    /// The same, with smart hosts.
    pub fn begin_with(
        store: &MemoryStore,
        network: &(impl Network + Dns + Clone + 'static),
        clock: &Arc<ManualClock>,
        sink: Arc<dyn Sink>,
        sessions_max: usize,
        smart_hosts: Vec<SmartHost>,
    ) -> Self {
        let bounds = Bounds { sessions_of_one: sessions_max, ..Bounds::default() };
        Self::begin_within(bounds, store, network, clock, sink, smart_hosts)
    }

    /// The same, with these bounds.
    pub fn begin_within(
        bounds: Bounds,
        store: &MemoryStore,
        network: &(impl Network + Dns + Clone + 'static),
        clock: &Arc<ManualClock>,
        sink: Arc<dyn Sink>,
        smart_hosts: Vec<SmartHost>,
    ) -> Self {
        let clock: Arc<dyn Clock> = clock.clone();
        let settings = queue::Settings { entries_max: 10_000, ..queue::Settings::default() };
        let queue = Queue::open(Box::new(store.clone()), Storage::Inline, settings, clock.clone(), sink, 1).unwrap();
        let dns = Arc::new(BoundedDns::new(Arc::new(network.clone()), clock.clone()));
        let router = Arc::new(Router::new(dns, clock.clone(), true));
        let keys = Arc::new(ArcSwap::from_pointee(Keys::default()));
        let signing = Arc::new(SigningPool::inline());
        let parts = delivery::Parts {
            queue: queue.clone(),
            router: router.clone(),
            network: Arc::new(network.clone()),
            tls: tls::opportunistic_connector().unwrap(),
            roots: ROOTS.clone(),
            smart_hosts: SmartHosts::new(smart_hosts),
            keys: keys.clone(),
            signing: signing.clone(),
            clock: clock.clone(),
        };
        let settings = delivery::Settings {
            hostname: "relay.test".into(),
            connections_per_destination_max: bounds.sessions_of_one,
            connections_max: bounds.sessions,
            ..delivery::Settings::default()
        };
        let delivery = Delivery::new(parts, settings);
        tokio::spawn(delivery.clone().run());
        let workers: Arc<dyn Workers> = delivery.clone();
        queue.set_workers(Arc::downgrade(&workers));
        let settings =
            door::Settings { hostname: "relay.test".into(), budgets: Limits::default(), ..door::Settings::default() };
        let ids = IdSource::with_random(|| u128::from(NEXT_ID.fetch_add(1, Ordering::Relaxed)));
        let secrets = Arc::new(Secrets);
        let goes_straight = Box::new(|_: &str| true);
        let parts = door::Parts {
            queue: queue.clone(),
            router,
            keys,
            signing,
            ids,
            secrets,
            clock,
            reverse_path: None,
            goes_straight,
            may_be_carried: Box::new(|_| false),
        };
        let door = Door::new(parts, settings);
        let timers = tokio::spawn(queue.clone().run_timers());
        let own = door.clone();
        let digests = tokio::spawn(async move { own.run_digests().await });
        Self { queue, door, delivery, timers, digests }
    }

    /// Everything in memory is gone at once; what attempts were doing stays undone.
    pub async fn end(self) {
        self.timers.abort();
        self.digests.abort();
        self.queue.freeze();
        self.delivery.drain(Duration::ZERO).await;
    }
}
