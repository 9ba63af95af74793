//! A relay without sockets, files and mail hosts: whatever it takes stays in its queue, in memory. It has one user, `shop`,
//! who may send as anybody at `shop.example`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::accounts::user::{Senders, User};
use otp_relay::testing::base::clock::{Clock, ManualClock, Timestamp};
use otp_relay::testing::base::rate::Rate;
use otp_relay::testing::config::Config;
use otp_relay::testing::delivery::Delivery;
use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::testing::intake::budget::Limits;
use otp_relay::testing::intake::door::{self, Door};
use otp_relay::testing::intake::idempotency::RotatingSecrets;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::ledger::embedded::store::{Found, Store};
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::mail::id::{IdSource, MessageId};
use otp_relay::testing::queue::Queue;
use otp_relay::testing::queue::inspect::Filter;
use otp_relay::testing::relay::builder::{Builder, Core};
use tokio::runtime::Runtime;

/// When the relay's time stands still.
pub const NOW: Timestamp = Timestamp::from_millis(1_795_255_200_000);
/// Its name.
pub const HOSTNAME: &str = "relay.example.com";

/// The relay.
pub struct Relay {
    pub queue: Arc<Queue>,
    pub door: Arc<Door>,
    delivery: Arc<Delivery>,
    pub clock: Arc<dyn Clock>,
    pub store: MemoryStore,
}

/// Every domain but those with `missing` in their names has a host.
struct EveryDomain;

impl Dns for EveryDomain {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(async move {
            if domain.contains("missing") {
                return Err(DnsError::NoSuchName);
            }
            let record = MxRecord { preference: 10, exchange: "mx.example".to_owned() };
            Ok(Records { records: vec![record], ttl: Duration::from_secs(300), secure: false })
        })
    }

    fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async { Ok(Records { records: vec![[93, 184, 215, 1].into()], ttl: Duration::ZERO, secure: false }) })
    }
}

struct Secrets;

impl RotatingSecrets for Secrets {
    fn of(&self, _: u64) -> Option<[u8; 32]> {
        Some([7; 32])
    }
}

/// A runtime whose time flies while nobody does anything.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// `shop`.
pub fn user() -> Arc<User> {
    let senders = Senders::Patterns(vec!["*@shop.example".to_owned()]);
    Arc::new(User { senders, ..User::unlimited("shop") })
}

impl Relay {
    /// An empty one without limits.
    pub fn new() -> Self {
        let store = MemoryStore::default();
        Self::open(Box::new(store.clone()), store, None)
    }

    /// One that finds this in its store.
    pub fn restored(found: Vec<Found>, budget: Option<Rate>) -> Self {
        Self::open(Box::new(Stored(found)), MemoryStore::default(), budget)
    }

    fn open(stored: Box<dyn Store>, store: MemoryStore, recipient_budget: Option<Rate>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
        let mut config = Config::default();
        config.queue.entries_max = 10_000;
        config.delivery.hostname = HOSTNAME.to_owned();
        config.intake = door::Settings {
            hostname: HOSTNAME.to_owned(),
            routed_addresses: true,
            budgets: Limits { own: recipient_budget, total: recipient_budget },
            ..door::Settings::default()
        };
        let builder = Builder::new(&config).clock(clock.clone()).dns(Arc::new(EveryDomain)).idle();
        let builder = builder.store_inline(stored).ids(IdSource::with_random(|| 0)).secrets(Arc::new(Secrets));
        let Core { queue, door, delivery, .. } = builder.build().expect("the store can be read");
        Self { door, queue, delivery, clock, store }
    }

    /// Who would deliver, and is never asked to.
    pub fn delivery(&self) -> Arc<Delivery> {
        self.delivery.clone()
    }

    /// A message that was taken: what is known of it, and its content as it is stored.
    pub fn taken(&self, id: MessageId) -> (Arc<Message>, Vec<u8>) {
        let message = self.queue.message(id).expect("what was taken is in the queue").message;
        let content = self.store.clone().content(id).expect("memory does not fail").expect("what was taken is stored");
        (message, [content.head, content.body].concat())
    }

    /// Takes it out again.
    pub fn forget(&self, id: MessageId) {
        self.queue.cancel(&Filter::of_message(id), self.clock.now());
        assert!(self.queue.message(id).is_none());
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

/// A store that takes everything and keeps nothing.
struct Stored(Vec<Found>);

impl Store for Stored {
    fn commit(
        &mut self,
        _: &[&[otp_relay::testing::ledger::embedded::store::Change]],
    ) -> Result<(), otp_relay::testing::ledger::embedded::store::StoreError> {
        Ok(())
    }

    fn content(
        &mut self,
        _: MessageId,
    ) -> Result<
        Option<otp_relay::testing::mail::message::Content>,
        otp_relay::testing::ledger::embedded::store::StoreError,
    > {
        Ok(None)
    }

    fn scan(
        &mut self,
        visit: &mut dyn FnMut(Found),
    ) -> Result<(), otp_relay::testing::ledger::embedded::store::StoreError> {
        self.0.drain(..).for_each(visit);
        Ok(())
    }

    fn has_room(&mut self) -> bool {
        true
    }

    fn recover(&mut self) -> Result<(), otp_relay::testing::ledger::embedded::store::StoreError> {
        Ok(())
    }
}
