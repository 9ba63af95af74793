//! The ledger of one node over a crash, over a disk that fails, and for those who do not wait for its answer.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock};
use otp_relay::testing::event::Kind;
use otp_relay::testing::ledger::accept::{KnownWait, NewMessage, Refused, Repeated};
use otp_relay::testing::ledger::attempt::{Held, Lost, Mark, Notice, Settled, Side, Target};
use otp_relay::testing::ledger::cursor::Cursor;
use otp_relay::testing::ledger::embedded::node::{Node, Settings, Storage};
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::ledger::embedded::store::{Change, Found, HeldEvents, ReadEvents, Store, StoreError};
use otp_relay::testing::ledger::entry::Progress;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::read::{Page, Put, RowChange, Table, Version};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::ledger::side::SideTable;
use otp_relay::testing::ledger::suppression::Bounce;
use otp_relay::testing::mail::id::{EntryId, IdSource, MessageId};
use otp_relay::testing::mail::message::Content;

use super::{START, World, attempt, embedded_settings};

const ALL: Page = Page { after: None, most: usize::MAX };

/// A disk on which a message is stored only when it may be.
struct Slow {
    disk: MemoryStore,
    goes: mpsc::Receiver<()>,
}

impl Store for Slow {
    fn commit(&mut self, groups: &[&[Change]]) -> Result<(), StoreError> {
        if groups.iter().any(|group| group.iter().any(|change| matches!(change, Change::Accept(..)))) {
            // An error says that it always may from now on.
            let _ = self.goes.recv();
        }
        self.disk.commit(groups)
    }

    fn content(&mut self, id: MessageId) -> Result<Option<Content>, StoreError> {
        self.disk.content(id)
    }

    fn scan(&mut self, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
        self.disk.scan(visit)
    }

    fn has_room(&mut self) -> bool {
        self.disk.has_room()
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        self.disk.recover()
    }

    fn open_events(&mut self, from: Cursor) -> Result<HeldEvents, StoreError> {
        self.disk.open_events(from)
    }

    fn events(&mut self, after: Cursor) -> Result<ReadEvents, StoreError> {
        self.disk.events(after)
    }
}

/// One disk, and whoever runs on it.
struct Machine {
    disk: MemoryStore,
    clock: Arc<dyn Clock>,
    ids: Arc<IdSource>,
    settings: Settings,
}

impl Machine {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let (ids, settings) = (Arc::new(IdSource::new()), embedded_settings(100));
        Self { disk: MemoryStore::default(), clock, ids, settings }
    }

    fn node(&self) -> Arc<Node> {
        let disk = Box::new(self.disk.clone());
        Arc::new(Node::open(disk, Storage::Inline, self.clock.clone(), self.settings.clone()).unwrap())
    }

    fn start(&self) -> World {
        World::of(self.node(), self.ids.clone())
    }

    /// What is not on the disk is gone.
    fn crash(&mut self, world: World) {
        self.disk = self.disk.image();
        drop(world);
    }
}

fn held(world: &World) -> Vec<Held> {
    let mut notices = world.ledger.notices().unwrap();
    let mut all = Vec::new();
    while let Ok(notice) = notices.try_recv() {
        let Notice::Acquired(held) = notice else { panic!("{notice:?}") };
        all.extend(held);
    }
    all
}

fn acquired(world: &World) -> Vec<(EntryId, Progress)> {
    let entries = held(world).into_iter().flat_map(|one| {
        let id = one.message.id;
        one.entries
            .into_iter()
            .map(move |(index, progress)| (EntryId { message: id, index }, Progress::clone(&progress)))
    });
    entries.collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_holds_over_a_crash() {
    let mut machine = Machine::new();
    let world = machine.start();
    let once = world.taking_slot("login", world.keyed("once", 1));
    let id = world.accept(&once).await;
    let deferred = world.deferred(&once.message, 1, Vec::new());
    world.ledger.settle(attempt(id, 1), deferred.clone()).await.unwrap();
    let counted = world.within("b", 2, &["c@one.test", "d@one.test"]);
    let counted_id = world.accept(&counted).await;
    let wait = KnownWait { egress: "here".into(), since: START, until: START.plus(Duration::from_secs(3600)) };
    let waits = world.deferred(&counted.message, 1, vec![Side::Waits(wait.clone())]);
    world.ledger.settle(attempt(counted_id, 1), waits).await.unwrap();
    let gone = world.message(&["e@one.test"]);
    let gone_id = world.accept(&gone).await;
    let bounced = Side::Bounced { bounce: Bounce::Hard, reason: "550 no".into() };
    world.ledger.settle(attempt(gone_id, 1), world.end(&gone.message, 0, Kind::Failed, vec![bounced])).await.unwrap();
    let fact = RowChange { key: (*b"mx").into(), value: Some((*b"1").into()), from: Version(0) };
    world.ledger.put(Table::Fact, fact).await.unwrap();
    let (before, epoch) = (world.kinds().await, world.ledger.lease().epoch);
    machine.crash(world);

    let world = machine.start();
    assert!(world.ledger.lease().epoch > epoch, "no epoch is given twice");
    assert_eq!(world.kinds().await, before);
    let Settled::Deferred { progress, .. } = deferred else { panic!() };
    let held = acquired(&world);
    assert_eq!(held.len(), 3);
    assert_eq!(held[0], (id, Progress::clone(&progress)));
    assert_eq!(world.ledger.content(id.message, once.message.expires_at).await.unwrap(), Some(once.content));
    assert_eq!(world.ledger.accept(world.keyed("once", 1)).await, Err(Refused::Repeats(Repeated::Same(id.message))));
    assert_eq!(world.ledger.accept(world.keyed("once", 2)).await, Err(Refused::Repeats(Repeated::Other)));
    let more = world.ledger.accept(world.within("b", 2, &["x@one.test"])).await;
    assert!(matches!(more, Err(Refused::Budget(_))), "{more:?}");
    let bounced = world.ledger.accept(world.message(&["e@one.test"])).await;
    assert!(matches!(bounced, Err(Refused::Suppressed(_))), "{bounced:?}");
    assert_eq!(world.ledger.accept(world.message(&["c@one.test"])).await.unwrap().waits, [(0, wait)]);
    let (facts, _) = world.ledger.rows(Table::Fact, Version(0)).await.unwrap();
    assert_eq!(facts[0].value.as_deref(), Some(&b"1"[..]));
    let accepted = world.ledger.accept(world.in_slot("login", &["a@one.test"])).await.unwrap();
    assert_eq!(world.replaced(&accepted).await, [id]);
    let status = world.ledger.lookup(gone_id.message).await.unwrap().unwrap();
    assert!(status.is_over() && status.entries[&0].kind == Kind::Failed);
}

#[tokio::test(start_paused = true)]
async fn of_two_in_a_slot_the_older_ends_at_the_start() {
    let mut machine = Machine::new();
    let world = machine.start();
    let old = world.accept(&world.in_slot("login", &["a@one.test"])).await;
    // The newer is on the disk; its owner had no time to end the older.
    let new = world.in_slot("login", &["a@one.test"]);
    assert_eq!(world.ledger.accept(new.clone()).await.unwrap().outlived, [(old, new.message.id)]);
    machine.crash(world);
    let world = machine.start();
    let outlived = held(&world).into_iter().map(|one| (one.message.id, one.outlived)).collect::<Vec<_>>();
    assert_eq!(outlived, [(old.message, vec![(0, new.message.id)]), (new.message.id, vec![])]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_takes_nothing() {
    let machine = Machine::new();
    let world = machine.start();
    let new = || NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 1) };
    machine.disk.set_failing(true);
    assert_eq!(world.ledger.accept(new()).await, Err(Refused::Full));
    assert_eq!(world.ledger.find(Filter::default(), ALL).await.unwrap().entries, 0);
    assert!(world.ledger.health().fault.is_some());
    machine.disk.heal();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.accept(&new()).await;
    assert_eq!(world.kinds().await, [Kind::Accepted]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_settled_yet_is_kept() {
    let mut machine = Machine::new();
    let world = machine.start();
    let new = world.message(&["a@one.test"]);
    let id = world.accept(&new).await;
    machine.disk.set_failing(true);
    let end = world.end(&new.message, 0, Kind::Delivered, Vec::new());
    assert_eq!(world.ledger.settle(attempt(id, 1), end.clone()).await, Ok(()), "that is decided");
    assert!(world.ledger.flush().await.is_err());
    assert!(world.ledger.health().kept > 0);
    assert!(machine.disk.holds(id.message));
    assert_eq!(world.ledger.gate(attempt(id, 2), Mark::Visible).await, Err(Lost::Ended(Kind::Delivered)));
    machine.disk.heal();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.ledger.settle(attempt(id, 1), end).await, Ok(()), "a repeat");
    world.ledger.flush().await.unwrap();
    assert_eq!((world.ledger.health().kept, world.ledger.health().fault), (0, None));
    assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Delivered]);
    machine.crash(world);
    assert!(machine.disk.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_what_is_not_stored_is_not_stored_either() {
    let machine = Machine::new();
    let world = machine.start();
    machine.disk.set_failing(true);
    // In one commit.
    let (first, repeat) = (world.keyed("once", 1), world.keyed("once", 1));
    let (first, repeat) = tokio::join!(world.ledger.accept(first), world.ledger.accept(repeat));
    assert_eq!((first, repeat), (Err(Refused::Full), Err(Refused::Full)));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_a_message_is_taken_back() {
    let machine = Machine::new();
    let (go, goes) = mpsc::channel();
    let disk = Box::new(Slow { disk: machine.disk.clone(), goes });
    let node = Node::open(disk, Storage::Threaded, machine.clock.clone(), machine.settings.clone()).unwrap();
    let world = World::of(Arc::new(node), machine.ids.clone());
    let new = NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 1) };
    {
        let accepting = world.ledger.accept(new.clone());
        let waited = futures_util::FutureExt::now_or_never(accepting);
        assert_eq!(waited, None, "it is asked, and whoever asked goes away");
    }
    drop(go);
    let again = NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 1) };
    world.accept(&again).await;
    assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Cancelled, Kind::Accepted]);
    assert!(!machine.disk.holds(new.message.id) && machine.disk.holds(again.message.id));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_left_does_not_leave_again_after_a_crash() {
    let mut machine = Machine::new();
    machine.settings.delivery = Delivery::AtMostOnce;
    let world = machine.start();
    let (gated, fresh) = (world.message(&["a@one.test"]), world.message(&["b@one.test"]));
    let (gated, fresh) = (world.accept(&gated).await, world.accept(&fresh).await);
    world.ledger.gate(attempt(gated, 1), Mark::Durable).await.unwrap();
    machine.crash(world);
    let world = machine.start();
    let held = acquired(&world);
    let may_have_left: Vec<_> = held.iter().map(|(id, progress)| (*id, progress.content_sent)).collect();
    assert_eq!(may_have_left, [(gated, true), (fresh, false)], "its owner ends it");
    assert_eq!(world.ledger.gate(attempt(gated, 1), Mark::Durable).await, Ok(()), "a repeat of the same attempt");
}

#[tokio::test(start_paused = true)]
async fn what_counts_no_more_leaves_no_row() {
    let mut machine = Machine::new();
    let world = machine.start();
    let new = NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 1) };
    let id = world.accept(&new).await;
    world.ledger.settle(attempt(id, 1), world.end(&new.message, 0, Kind::Delivered, Vec::new())).await.unwrap();
    let rows = machine.disk.rows().len();
    tokio::time::sleep(Duration::from_secs(2 * 86_400)).await;
    let change = RowChange { key: (*b"mx").into(), value: None, from: Version(0) };
    assert!(matches!(world.ledger.put(Table::Fact, change).await, Ok(Put::Done(_))));
    assert_eq!(machine.disk.rows().len(), rows - 2, "key and budget");
    machine.crash(world);
    assert_eq!(acquired(&machine.start()), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_comes_back() {
    let machine = Machine::new();
    let world = machine.start();
    let mut notices = world.ledger.notices().unwrap();
    let id = world.accept(&world.message(&["a@one.test"])).await;
    assert_eq!(world.ledger.hand_over(vec![id], Target::Node("nobody".into())).await.unwrap(), []);
    assert!(notices.try_recv().is_err());
    assert_eq!(world.ledger.hand_over(vec![id], Target::Unowned).await.unwrap(), [id]);
    let Ok(Notice::Acquired(held)) = notices.try_recv() else { panic!() };
    assert_eq!(held[0].message.id, id.message);
    world.ledger.gate(attempt(id, 1), Mark::Visible).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn suppressions_are_rows_under_their_addresses() {
    let mut machine = Machine::new();
    let row = |address: &str, source: &str| {
        let json = format!(
            r#"{{"address":"{address}","source":"{source}","reason":"554 no","since":1,"until":1795300000000,"bounces":1}}"#
        );
        Change::Side(SideTable::Suppression, address.as_bytes().into(), Some(json.into_bytes().into()))
    };
    // As version 0.1 wrote them, which learned domains too; and one that cannot be read.
    let unreadable = Change::Side(SideTable::Suppression, (*b"x@one.test").into(), Some((*b"?").into()));
    let rows = [row("@two.test", "learned"), row("@three.test", "manual"), row("a@one.test", "learned"), unreadable];
    machine.disk.commit(&[&rows]).unwrap();
    let world = machine.start();
    world.accept(&world.message(&["a@two.test"])).await;
    for suppressed in ["a@three.test", "a@one.test"] {
        let refused = world.ledger.accept(world.message(&[suppressed])).await;
        assert!(matches!(refused, Err(Refused::Suppressed(_))), "{suppressed}: {refused:?}");
    }
    let new = world.message(&["b@one.test"]);
    let id = world.accept(&new).await;
    let bounced = Side::Bounced { bounce: Bounce::Hard, reason: "550 no".into() };
    world.ledger.settle(attempt(id, 1), world.end(&new.message, 0, Kind::Failed, vec![bounced])).await.unwrap();
    world.ledger.flush().await.unwrap();
    let keys = |machine: &Machine| -> Vec<String> {
        let rows = machine.disk.rows().into_iter().filter(|(table, _)| *table == SideTable::Suppression);
        rows.map(|(_, key)| String::from_utf8(key.into()).unwrap()).collect()
    };
    assert_eq!(keys(&machine), ["@three.test", "a@one.test", "b@one.test", "x@one.test"]);
    machine.crash(world);

    let world = machine.start();
    let found = world.ledger.row(Table::Suppression, (*b"b@one.test").into()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(found.value.as_deref().unwrap()).contains(r#""reason":"550 no""#));
    assert!(world.ledger.take_side(SideTable::Suppression).is_empty(), "nobody above keeps the list");
    let gone = RowChange { key: found.key, value: None, from: found.version };
    assert!(matches!(world.ledger.put(Table::Suppression, gone).await, Ok(Put::Done(_))));
    assert_eq!(keys(&machine), ["@three.test", "a@one.test", "x@one.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_not_stored_keeps_nobody_waiting() {
    let machine = Machine::new();
    let world = machine.start();
    let new = world.message(&["a@one.test"]);
    let id = world.accept(&new).await;
    let bounced = Side::Bounced { bounce: Bounce::Hard, reason: "550 no".into() };
    world.ledger.settle(attempt(id, 1), world.end(&new.message, 0, Kind::Failed, vec![bounced])).await.unwrap();
    world.ledger.flush().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    machine.disk.set_failing(true);
    assert_eq!(world.ledger.accept(world.message(&["a@one.test"])).await, Err(Refused::Full));
    machine.disk.heal();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.accept(&world.message(&["a@one.test"])).await;
    let next = world.ledger.accept(world.message(&["a@one.test"])).await;
    assert!(matches!(next, Err(Refused::Suppressed(_))), "that is the try: {next:?}");
}
