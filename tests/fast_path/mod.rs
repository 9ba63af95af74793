//! How fast a code leaves, in simulated time: what a dead host costs, and what it is worth that a session is there
//! before the code is.

mod crowded;
mod hidden;
pub mod network;
mod ours;
mod slow;

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock as _, ManualClock, Timestamp};
use otp_relay::testing::event::Kind;
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};

use crate::support::in_memory::{Life, RecordedEvents, code_to};
use network::{GOOD, Hosts, Manner, Mood};

const MX1: &str = "192.0.2.1";
const MX2: &str = "192.0.2.2";
const ROUND_TRIP: Duration = GOOD.latency;
const SECOND: Duration = Duration::from_secs(1);

struct World {
    life: Life,
    hosts: Hosts,
    told: Arc<RecordedEvents>,
    clock: Arc<ManualClock>,
    start: Timestamp,
}

impl World {
    fn new(moods: &[(&str, Mood)]) -> Self {
        Self::limited(moods, 20)
    }

    /// With so many sessions with one destination at most.
    fn limited(moods: &[(&str, Mood)], sessions_max: usize) -> Self {
        let start = Timestamp::from_millis(1_795_255_200_000);
        let (clock, hosts, told) =
            (Arc::new(ManualClock::new(start)), Hosts::new(moods), Arc::new(RecordedEvents::default()));
        let life = Life::begin(&MemoryStore::default(), &hosts, &clock, told.clone(), sessions_max);
        Self { life, hosts, told, clock, start }
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().since(self.start)
    }

    async fn submit(&self, recipient: &str) {
        self.submit_for(SECOND * 600, recipient).await;
    }

    async fn submit_for(&self, life: Duration, recipient: &str) {
        self.submit_with(life, recipient, Options::default()).await;
    }

    async fn submit_with(&self, life: Duration, recipient: &str, options: Options) {
        let (user, submission) = code_to(recipient, life);
        let receipt = self.life.door.submit(&user, submission, options, None).await.unwrap();
        self.life.delivery.take_up(receipt.offered);
    }

    /// From the submission of a message to its arrival.
    async fn cost(&self, recipient: &str) -> Duration {
        let before = self.elapsed();
        self.submit(recipient).await;
        self.hosts.arrival(recipient).await.saturating_sub(before)
    }

    fn told(&self, kind: Kind) -> usize {
        self.told.count(kind, |_| true)
    }
}

/// A first message costs at most so much more than one to a host that answers at once.
async fn first_costs_at_most(more: Duration, moods: &[(&str, Mood)], domain: &str) {
    let good = World::new(&[(MX2, Mood::Serves(GOOD))]).cost("a@one.test").await;
    let world = World::new(moods);
    let first = world.cost(&format!("a@{domain}")).await;
    assert!(first <= good + more, "{first:?} instead of {good:?}");
}

#[tokio::test(start_paused = true)]
async fn a_first_host_that_refuses_costs_nothing() {
    first_costs_at_most(Duration::ZERO, &[(MX1, Mood::Refuses), (MX2, Mood::Serves(GOOD))], "two.test").await;
}

#[tokio::test(start_paused = true)]
async fn a_first_host_that_is_silent_costs_a_moment_and_only_once() {
    let moods = [(MX1, Mood::Silent), (MX2, Mood::Serves(GOOD))];
    first_costs_at_most(Duration::from_millis(250), &moods, "two.test").await;
    let world = World::new(&moods);
    world.cost("a@two.test").await;
    // At once, so that it needs another session.
    world.submit("b@two.test").await;
    world.hosts.arrival("b@two.test").await;
    let asked = world.hosts.seen("connect").iter().filter(|seen| seen.host.to_string() == MX1).count();
    assert_eq!(asked, 1, "it is remembered as silent");
}

#[tokio::test(start_paused = true)]
async fn a_first_host_that_is_busy_costs_a_round_trip() {
    let busy = Manner { banner: "421 4.3.2 too busy", ..GOOD };
    let moods = [(MX1, Mood::Serves(busy)), (MX2, Mood::Serves(GOOD))];
    first_costs_at_most(ROUND_TRIP, &moods, "two.test").await;
}

#[tokio::test(start_paused = true)]
async fn ipv6_that_does_not_work_costs_a_moment() {
    for dead in [Mood::NoRoute, Mood::Silent] {
        let moods = [("2001:db8::1", dead), ("2001:db8::2", Mood::Serves(GOOD))];
        first_costs_at_most(Duration::from_millis(250), &moods, "six.test").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_begun_when_the_recipient_is_named() {
    for (chunking, expected) in [(false, ROUND_TRIP * 2), (true, ROUND_TRIP)] {
        let world = World::new(&[(MX2, Mood::Serves(Manner { chunking, ..GOOD }))]);
        let (sender, recipient) = ("<otp@app.test>", "a@one.test");
        world.life.delivery.prewarm(&ReversePath::parse(sender).unwrap(), &Mailbox::parse(recipient).unwrap());
        tokio::time::sleep(ROUND_TRIP * 4).await;
        let cost = world.cost(recipient).await;
        assert!(cost <= expected + Duration::from_millis(2), "{cost:?}");
        assert_eq!(world.hosts.seen("connect").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_takes_the_session_that_is_being_opened() {
    let world = World::new(&[(MX2, Mood::Serves(GOOD))]);
    let recipient = "a@one.test";
    world.life.delivery.prewarm(&ReversePath::parse("<otp@app.test>").unwrap(), &Mailbox::parse(recipient).unwrap());
    tokio::time::sleep(ROUND_TRIP).await;
    // The banner is there; EHLO, the commands and the content are to come.
    let cost = world.cost(recipient).await;
    assert!(cost <= ROUND_TRIP * 3 + Duration::from_millis(2), "{cost:?}");
    assert_eq!(world.hosts.seen("connect").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_several_came_at_once_as_many_sessions_are_ready() {
    let world = World::new(&[(MX2, Mood::Serves(GOOD))]);
    let names = |from: u32| (from..from + 3).map(|n| format!("user{n}@one.test"));
    for name in names(0) {
        world.submit(&name).await;
    }
    tokio::time::sleep(SECOND * 5).await;
    let since = world.elapsed();
    for name in names(10) {
        world.submit(&name).await;
    }
    for name in names(10) {
        let cost = world.hosts.arrival(&name).await - since;
        assert!(cost <= ROUND_TRIP * 2 + Duration::from_millis(2), "{cost:?}");
    }
    assert!(world.hosts.seen("connect").len() <= 4, "one spare is enough");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_ends_idle_sessions_is_not_found_closed_by_the_next_code() {
    let world = World::new(&[(MX2, Mood::Serves(Manner { rest_max: SECOND * 10, ..GOOD }))]);
    world.cost("a@one.test").await;
    tokio::time::sleep(SECOND * 8).await;
    world.cost("b@one.test").await;
    // The host ends the session meanwhile; another has been opened in its place.
    tokio::time::sleep(SECOND * 15).await;
    let cost = world.cost("c@one.test").await;
    assert!(cost <= ROUND_TRIP * 2 + Duration::from_millis(2), "{cost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_few_messages_in_a_session_is_asked_for_no_more() {
    let world = World::new(&[(MX2, Mood::Serves(Manner { messages_max: 3, ..GOOD }))]);
    for n in 0..12 {
        world.cost(&format!("user{n}@one.test")).await;
    }
    assert_eq!(world.told(Kind::Deferred), 0);
    assert_eq!(world.hosts.seen("421").len(), 1, "learned from the first time");
}

#[tokio::test(start_paused = true)]
async fn no_more_sessions_are_opened_than_a_host_allows() {
    let world = World::new(&[(MX2, Mood::Serves(Manner { sessions_max: 2, ..GOOD }))]);
    for n in 0..60 {
        world.submit(&format!("user{n}@one.test")).await;
    }
    for n in 0..60 {
        world.hosts.arrival(&format!("user{n}@one.test")).await;
    }
    let refused = world.hosts.seen("421").len();
    assert!((1..30).contains(&refused), "{refused} connections were too many");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_down_is_asked_rarely_and_noticed_when_it_is_back() {
    let world = World::new(&[(MX2, Mood::Refuses)]);
    for n in 0..20 {
        world.submit(&format!("user{n}@one.test")).await;
    }
    tokio::time::sleep(SECOND * 100).await;
    let asked = world.hosts.seen("connect").len();
    assert!((8..40).contains(&asked), "asked {asked} times in 100 s for 20 messages");
    assert_eq!(world.life.delivery.destinations_down(), 1);
    world.hosts.turn(MX2, Mood::Serves(GOOD));
    let back = world.elapsed();
    for n in 0..20 {
        let waited = world.hosts.arrival(&format!("user{n}@one.test")).await - back;
        assert!(waited <= SECOND * 12, "{waited:?} after it was back");
    }
    assert!(world.told(Kind::AtRisk) > 0);
    assert_eq!(world.life.delivery.destinations_down(), 0);
}

/// What was learned of a host that greylists is told with the acceptance of a code that does not live so
/// long, and only of that.
#[tokio::test(start_paused = true)]
async fn a_code_that_a_known_host_lets_pass_too_late_is_at_risk_at_once() {
    let greylisting = Manner { greylists: SECOND * 300, ..GOOD };
    let world = World::new(&[(MX2, Mood::Serves(greylisting))]);
    world.submit("a@one.test").await;
    assert_eq!(world.told(Kind::AtRisk), 0, "nothing is known");
    world.hosts.arrival("a@one.test").await;
    world.submit("b@one.test").await;
    assert_eq!(world.told(Kind::AtRisk), 0, "it lives long enough");
    let before = world.elapsed();
    world.submit_for(SECOND * 120, "c@one.test").await;
    let at_risk = world.told.0.lock().iter().find(|event| event.kind() == Kind::AtRisk).cloned().unwrap();
    assert_eq!((at_risk.head.recipient.as_ref().unwrap().as_str(), at_risk.head.attempt), ("c@one.test", 0));
    assert_eq!(at_risk.head.time.since(world.start), before, "it is told with the acceptance");
    assert!(at_risk.note().unwrap().contains(" 302 s from now"));
    tokio::time::sleep(SECOND * 130).await;
    assert_eq!((world.told(Kind::AtRisk), world.told(Kind::Expired)), (1, 1));
}
