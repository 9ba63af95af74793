//! A relay without sockets and files: the production queue, door and delivery over a made-up network, on simulated time.

#![allow(dead_code, reason = "each test program uses a part")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use otp_relay::testing::accounts::user::{Senders, User};
use otp_relay::testing::base::clock::ManualClock;
use otp_relay::testing::base::lane::Lane;
use otp_relay::testing::config::Config;
use otp_relay::testing::delivery::smart_host::SmartHost;
use otp_relay::testing::delivery::{self, Delivery};
use otp_relay::testing::destination::resolver::{Answer, Dns, Records};
use otp_relay::testing::event::{Event, Kind, Sink};
use otp_relay::testing::intake::budget::Limits;
use otp_relay::testing::intake::door::{self, Door};
use otp_relay::testing::intake::idempotency::RotatingSecrets;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::IdSource;
use otp_relay::testing::net::Network;
use otp_relay::testing::queue::Queue;
use otp_relay::testing::relay::builder::{Builder, Core};
use otp_relay::testing::smtp::server_session::{Protocol, Submission};
use otp_relay::testing::tls::verify::Roots;
use parking_lot::Mutex;

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

/// Addresses of made-up hosts, each in a network of its own.
#[derive(Default)]
pub struct Addresses(Mutex<Vec<String>>);

impl Addresses {
    /// The address of a host.
    pub fn of(&self, host: &str) -> IpAddr {
        let mut names = self.0.lock();
        let number = names.iter().position(|known| known == host).unwrap_or_else(|| {
            names.push(host.to_owned());
            names.len() - 1
        });
        let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
        Ipv4Addr::new(192, high, low, 1).into()
    }

    /// The number and the name of the host at an address.
    pub fn host(&self, address: IpAddr) -> (usize, String) {
        let IpAddr::V4(address) = address else { panic!("{address} was given to nobody") };
        let [_, high, low, _] = address.octets();
        let number = usize::from(high) * 256 + usize::from(low);
        (number, self.0.lock()[number].clone())
    }
}

/// These records, for an hour.
pub fn found<T: Send + 'static>(records: Vec<T>) -> Answer<'static, T> {
    Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(3600), secure: false }) })
}

/// A code for one recipient, and the app that sends it.
pub fn code_to(recipient: &str, life: Duration) -> (User, Submission) {
    let senders = Senders::Patterns(vec!["*@app.test".into()]);
    let user = User { senders, lane: Lane::Otp, life, ..User::unlimited("app") };
    let submission = Submission {
        envelope: Envelope {
            reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(recipient).unwrap())],
        },
        content: "From: otp@app.test\r\n\r\nhello\r\n".into(),
        client_name: "app.test".into(),
        protocol: Protocol { extended: true, utf8: false, encrypted: false, authenticated: true, http: false },
    };
    (user, submission)
}

/// How many sessions there may be, and how often content may go.
pub struct Bounds {
    /// With one destination.
    pub sessions_of_one: usize,
    /// In all.
    pub sessions: usize,
    /// `queue.deliver_at_most_once`.
    pub at_most_once: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { sessions_of_one: 20, sessions: 1000, at_most_once: false }
    }
}

/// The same secret every day.
struct Secrets;

impl RotatingSecrets for Secrets {
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
        let mut config = Config::default();
        config.queue.entries_max = 10_000;
        config.queue.deliver_at_most_once = bounds.at_most_once;
        config.smart_hosts = smart_hosts;
        config.delivery = delivery::Settings {
            hostname: "relay.test".into(),
            connections_per_destination_max: bounds.sessions_of_one,
            connections_max: bounds.sessions,
            allow_private_destinations: true,
            ..delivery::Settings::default()
        };
        config.intake =
            door::Settings { hostname: "relay.test".into(), budgets: Limits::default(), ..door::Settings::default() };
        let network = Arc::new(network.clone());
        let builder =
            Builder::new(&config).clock(clock.clone()).network(network.clone()).dns(network).roots(ROOTS.clone());
        let ids = IdSource::with_random(|| u128::from(NEXT_ID.fetch_add(1, Ordering::Relaxed)));
        let builder = builder.store_inline(Box::new(store.clone())).events(sink).ids(ids).secrets(Arc::new(Secrets));
        let Core { queue, door, delivery, .. } = builder.build().unwrap();
        let timers = tokio::spawn(queue.clone().run());
        let own = door.clone();
        let digests = tokio::spawn(async move { own.run_digests().await });
        Self { queue, door, delivery, timers, digests }
    }

    /// Stops in order: attempts under way get so long.
    pub async fn shut_down(self, patience: Duration) {
        self.queue.stop();
        self.delivery.drain(patience).await;
        self.timers.abort();
        self.digests.abort();
        // As the storage thread does it when it ends.
        self.queue.flush().await.unwrap();
        self.queue.close();
    }

    /// Everything in memory is gone at once; what attempts were doing stays undone.
    pub async fn end(self) {
        self.timers.abort();
        self.digests.abort();
        self.queue.freeze();
        self.delivery.drain(Duration::ZERO).await;
    }
}

/// A sink that keeps all events.
#[derive(Default)]
pub struct RecordedEvents(pub Mutex<Vec<Event>>);

impl Sink for RecordedEvents {
    fn emit(&self, event: Event) {
        self.0.lock().push(event);
    }
}

impl RecordedEvents {
    /// Events of a kind, by which this holds.
    pub fn count(&self, kind: Kind, holds: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().iter().filter(|event| event.kind() == kind && holds(event)).count()
    }
}
