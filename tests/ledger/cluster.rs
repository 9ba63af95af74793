//! Several nodes on one ledger: who owns what, who is revoked when, and what each hears of the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock};
use otp_relay::testing::base::lane::Lane;
use otp_relay::testing::event::Kind;
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::ledger::Ledger;
use otp_relay::testing::ledger::accept::{NewMessage, NoRoom, Refused, Repeated, Stored};
use otp_relay::testing::ledger::attempt::{Lost, Mark, Notice, Side, Target};
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::memory::{Database, Faults, JoinError, Node, Replication, Settings};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::id::{EntryId, IdSource};
use tokio::sync::mpsc;

use super::{START, World, attempt, first};

struct Member {
    world: World,
    node: Arc<Node>,
    notices: mpsc::Receiver<Notice>,
}

pub struct Cluster {
    pub database: Database,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<IdSource>,
}

impl Cluster {
    pub fn new(replication: Replication) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
        let database = Database::new(clock.clone(), 3, replication);
        Self { database, clock, ids: Arc::new(IdSource::new()) }
    }

    pub async fn node(&self, id: u64) -> Arc<Node> {
        Arc::new(Node::join(&self.database, self.clock.clone(), Settings::of(id)).await.unwrap())
    }

    async fn join_as(&self, settings: Settings) -> Member {
        let node = Arc::new(Node::join(&self.database, self.clock.clone(), settings).await.unwrap());
        let notices = node.notices().unwrap();
        let world = World::of(node.clone(), self.ids.clone());
        Member { world, node, notices }
    }

    async fn join(&self, id: u64) -> Member {
        self.join_as(Settings::of(id)).await
    }

    pub fn ends(&self) -> Vec<Kind> {
        self.database.events().iter().map(|event| event.kind()).filter(|kind| kind.is_end()).collect()
    }
}

impl Member {
    /// What was heard so far.
    fn noticed(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).collect()
    }

    fn acquired(&mut self) -> Vec<EntryId> {
        let mut acquired = Vec::new();
        for notice in self.noticed() {
            let Notice::Acquired(held) = notice else { continue };
            for one in held {
                acquired
                    .extend(one.entries.iter().map(|(index, _)| EntryId { message: one.message.id, index: *index }));
            }
        }
        acquired
    }

    async fn accept(&self, recipient: &str) -> (NewMessage, EntryId) {
        let new = self.world.message(&[recipient]);
        let id = self.world.accept(&new).await;
        (new, id)
    }
}

pub async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn entries_are_handed_over_to_a_node_or_to_whoever_takes_them() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, mut b) = (cluster.join(1).await, cluster.join(2).await);
    let ((first, one), (_, two)) = (a.accept("a@one.test").await, a.accept("b@one.test").await);
    let to_b = Target::Node("node2".into());
    assert_eq!(a.node.hand_over(vec![one], to_b.clone()).await.unwrap(), [one]);
    assert_eq!(a.node.hand_over(vec![one], to_b).await.unwrap(), [], "it is not ours any more");
    assert_eq!(a.node.gate(attempt(one, 1), Mark::Visible).await, Err(Lost::TakenOver));
    pass(300).await;
    assert_eq!(b.acquired(), [one]);
    assert_eq!(a.node.hand_over(vec![two], Target::Node("nobody".into())).await.unwrap(), []);
    a.node.gate(attempt(two, 1), Mark::Visible).await.unwrap();
    assert_eq!(a.node.hand_over(vec![two], Target::Unowned).await.unwrap(), [two]);
    let end = b.world.end(&first.message, 0, Kind::Delivered, Vec::new());
    b.node.settle(attempt(one, 1), end).await.unwrap();
    pass(300).await;
    assert!(cluster.database.owners().iter().all(|(_, _, is_alive)| *is_alive), "somebody has it");
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_dead_node_are_taken_over_the_urgent_first() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, mut b, mut c) = (cluster.join(1).await, cluster.join(2).await, cluster.join(3).await);
    let (mut entries, mut urgent) = (Vec::new(), HashSet::new());
    for number in 0..700 {
        let new = a.world.message(&["a@one.test"]);
        let lane = if number % 2 == 0 { Lane::Otp } else { Lane::Notice };
        let message = Arc::new(Message { lane, ..(*new.message).clone() });
        let new = NewMessage { message, ..new };
        a.world.accept(&new).await;
        entries.push(first(&new));
        if lane == Lane::Otp {
            urgent.insert(first(&new));
        }
    }
    a.node.crash();
    pass(1000).await;
    assert!(b.acquired().is_empty() && c.acquired().is_empty(), "it may still count on its epoch");
    pass(1000).await;
    let (by_b, by_c) = (b.acquired(), c.acquired());
    let is_urgent = |id: &EntryId| urgent.contains(id);
    for by in [&by_b, &by_c] {
        assert!(by.iter().take(100).all(is_urgent) || by.is_empty(), "not by urgency");
    }
    let mut all = [by_b, by_c].concat();
    all.sort_unstable();
    entries.sort_unstable();
    assert_eq!(all, entries, "each once");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stood_still_is_fenced_and_joins_anew() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (mut a, mut b) = (cluster.join(1).await, cluster.join(2).await);
    let (new, id) = a.accept("a@one.test").await;
    let former = a.node.lease().epoch;
    a.node.stand_still(Duration::from_secs(4));
    pass(2000).await;
    assert_eq!(b.acquired(), [id]);
    let lease = a.node.lease();
    assert!(lease.until < cluster.clock.instant(), "what it does next is a look at its lease");
    pass(2300).await;
    assert!(matches!(a.noticed().as_slice(), [Notice::Fenced]), "and it has nothing");
    assert!(a.node.lease().epoch > former);
    pass(300).await;
    assert!(a.node.lease().until > cluster.clock.instant());
    let end = a.world.end(&new.message, 0, Kind::Delivered, Vec::new());
    assert_eq!(a.node.settle(attempt(id, 1), end).await, Err(Lost::TakenOver));
    assert_eq!(b.node.settle(attempt(id, 1), b.world.end(&new.message, 0, Kind::Delivered, Vec::new())).await, Ok(()));
    a.accept("b@one.test").await;
    assert_eq!(cluster.ends(), [Kind::Delivered]);
}

#[tokio::test(start_paused = true)]
async fn what_others_did_is_heard_with_the_next_heartbeat() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (mut a, b) = (cluster.join(1).await, cluster.join(2).await);
    let ((_, cancelled), (_, due)) = (a.accept("a@one.test").await, a.accept("b@one.test").await);
    let by = |id: EntryId| Filter::of_message(id.message);
    assert_eq!(b.node.cancel(by(cancelled)).await.unwrap().len(), 1);
    assert_eq!(a.node.gate(attempt(cancelled, 1), Mark::Visible).await, Err(Lost::Ended(Kind::Cancelled)));
    assert_eq!(b.node.make_due(by(due)).await.unwrap(), [due]);
    let slot = |world: &World| world.in_slot("login", &["c@one.test"]);
    let older = slot(&a.world);
    a.world.accept(&older).await;
    let accepted = b.node.accept(slot(&b.world)).await.unwrap();
    assert_eq!(accepted.superseded.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first(&older)]);
    pass(300).await;
    let heard = a.noticed();
    assert!(heard.iter().any(|notice| matches!(notice, Notice::MakeDue(ids) if *ids == [due])), "{heard:?}");
    let superseded = |notice: &Notice| matches!(notice, Notice::Ended(id, Kind::Superseded) if *id == first(&older));
    assert!(heard.iter().any(superseded), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn content_that_may_leave_once_does_not_leave_again() {
    let cluster = Cluster::new(Replication::Synchronous);
    let once = |id| Settings { delivery: Delivery::AtMostOnce, ..Settings::of(id) };
    let (a, mut b) = (cluster.join_as(once(1)).await, cluster.join_as(once(2)).await);
    let ((_, out), (_, waits)) = (a.accept("a@one.test").await, a.accept("b@one.test").await);
    a.node.gate(attempt(out, 1), Mark::Durable).await.unwrap();
    a.node.crash();
    pass(2000).await;
    assert_eq!(b.acquired(), [waits]);
    let events = cluster.database.events();
    let end = events.iter().find(|event| event.kind().is_end()).unwrap();
    assert_eq!((end.entry(), end.cause(), end.may_have_arrived()), (Some(out), Some(Cause::OutcomeUnknown), true));
}

#[tokio::test(start_paused = true)]
async fn an_outage_revokes_nobody_and_loses_nothing() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (mut a, mut b) = (cluster.join(1).await, cluster.join(2).await);
    let (new, id) = a.accept("a@one.test").await;
    let epochs = (a.node.lease().epoch, b.node.lease().epoch);
    cluster.database.set_available(false);
    let end = a.world.end(&new.message, 0, Kind::Delivered, Vec::new());
    assert_eq!(a.node.settle(attempt(id, 1), end).await, Err(Lost::Unavailable));
    assert_eq!(a.node.health().kept, 1);
    pass(1500).await;
    assert!(a.node.health().fault.is_some());
    let refused = a.node.accept(a.world.message(&["b@one.test"])).await.unwrap_err();
    assert_eq!(refused, Refused::Unavailable(Stored::No), "at once");
    assert!(a.node.lease().until < cluster.clock.instant());
    pass(60_000).await;
    cluster.database.set_available(true);
    pass(1500).await;
    assert_eq!((a.node.lease().epoch, b.node.lease().epoch), epochs);
    for member in [&mut a, &mut b] {
        let heard = member.noticed();
        assert!(matches!(heard.as_slice(), [Notice::Unavailable, Notice::Available]), "{heard:?}");
    }
    assert_eq!(cluster.ends(), [Kind::Delivered], "what was kept is written");
    assert_eq!(a.node.health().kept, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_in_doubt_is_taken_back() {
    let cluster = Cluster::new(Replication::Synchronous);
    let a = cluster.join(1).await;
    cluster.database.set_faults(Faults { answers_lost: 1000, ..Faults::default() });
    let doubtful = a.node.accept(a.world.message(&["a@one.test"])).await.unwrap_err();
    assert_eq!(doubtful, Refused::Unavailable(Stored::Unknown));
    assert_eq!(cluster.database.owners().len(), 1);
    cluster.database.set_faults(Faults::default());
    pass(1000).await;
    assert_eq!(cluster.database.owners(), []);
    assert_eq!(cluster.ends(), [Kind::Cancelled]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let cluster = Cluster::new(Replication::Synchronous);
    let a = cluster.join(1).await;
    cluster.database.set_faults(Faults { delay_max: Duration::from_millis(300), ..Faults::default() });
    {
        let accepting = a.node.accept(a.world.message(&["a@one.test"]));
        let gone = tokio::time::timeout(Duration::from_millis(1), accepting).await;
        assert!(gone.is_err());
    }
    pass(15_000).await;
    assert_eq!(cluster.database.owners(), []);
}

#[tokio::test(start_paused = true)]
async fn mail_survives_a_fail_over_that_lost_its_commit() {
    let cluster = Cluster::new(Replication::Asynchronous);
    let a = cluster.join(1).await;
    let mut lost = 0;
    for _ in 0..20 {
        let (_, kept) = a.accept("a@one.test").await;
        let (ended, id) = a.accept("b@one.test").await;
        a.node.settle(attempt(id, 1), a.world.end(&ended.message, 0, Kind::Delivered, Vec::new())).await.unwrap();
        cluster.database.set_available(false);
        pass(500).await;
        cluster.database.fail_over();
        lost += usize::from(!cluster.database.owners().iter().any(|(id, ..)| *id == kept));
        pass(2000).await;
        let owners = cluster.database.owners();
        assert!(owners.iter().any(|(id, _, is_alive)| *id == kept && *is_alive), "it is there again");
        assert!(!owners.iter().any(|(other, ..)| *other == id), "and what had ended is not");
    }
    assert!(lost > 0, "the fail-overs lost something");
}

#[tokio::test(start_paused = true)]
async fn a_name_belongs_to_one_node_and_a_node_runs_once() {
    let cluster = Cluster::new(Replication::Synchronous);
    let a = cluster.join(1).await;
    let (_, id) = a.accept("a@one.test").await;
    let other = Settings { name: "node1".into(), ..Settings::of(2) };
    let refused = Node::join(&cluster.database, cluster.clock.clone(), other).await.err();
    assert_eq!(refused, Some(JoinError::NameTaken));
    a.node.crash();
    // The same node begins again at once: nobody needs to wait for its lease.
    let mut again = cluster.join(1).await;
    pass(300).await;
    assert_eq!(again.acquired(), [id]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_hands_everything_over() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, mut b) = (cluster.join(1).await, cluster.join(2).await);
    let (_, id) = a.accept("a@one.test").await;
    a.node.shutdown(Duration::from_secs(10)).await;
    pass(300).await;
    assert_eq!(b.acquired(), [id]);
    assert_eq!(b.node.peers().len(), 1);
    let refused = a.node.accept(a.world.message(&["b@one.test"])).await.unwrap_err();
    assert_eq!(refused, Refused::Unavailable(Stored::No));
}

#[tokio::test(start_paused = true)]
async fn keys_and_budgets_hold_over_nodes() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (cluster.join(1).await, cluster.join(2).await);
    let (keyed, counted) = (a.world.keyed("once", 1), a.world.within("b", 1, &["a@one.test"]));
    a.world.accept(&keyed).await;
    let id = a.world.accept(&counted).await;
    let repeat = b.node.accept(b.world.keyed("once", 1)).await;
    assert_eq!(repeat, Err(Refused::Repeats(Repeated::Same(keyed.message.id))));
    assert_eq!(b.node.accept(b.world.keyed("once", 2)).await, Err(Refused::Repeats(Repeated::Other)));
    let next = || b.world.within("b", 1, &["a@one.test"]);
    assert!(matches!(b.node.accept(next()).await, Err(Refused::Budget(NoRoom::Own { count: 1, .. }))));
    let budget = counted.budgets[0].key;
    let end = a.world.end(&counted.message, 0, Kind::Failed, vec![Side::GivesBack(budget)]);
    a.node.settle(attempt(id, 1), end).await.unwrap();
    b.world.accept(&next()).await;
}
