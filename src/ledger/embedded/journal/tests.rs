use super::storage::{BATCH_GROUPS_MAX, BATCH_LEN_MAX, RECOVERY_PAUSE, gather, moved_to_wall};
use std::time::Duration;

use super::*;
use crate::base::clock::{ManualClock, Step, Timestamp};
use crate::base::lane::Lanes;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::ledger::embedded::store::Table;
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::ledger::entry::Message;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

/// A journal that works in the caller's place, its store and its clock.
struct Bench {
    journal: Journal,
    store: MemoryStore,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        let (store, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(START)));
        Self { journal: Journal::inline(Box::new(store.clone()), clock.clone()).unwrap(), store, clock }
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), JournalError> {
        let mut pending = self.journal.begin_commit(Lane::Otp, changes, true);
        pending.answer.try_recv().unwrap()
    }
}

fn id(number: u8) -> MessageId {
    MessageId::from_bytes([number; 16])
}

fn accept(number: u8) -> Change {
    let recipients = vec![Recipient::new(Mailbox::parse("alice@example.com").unwrap())];
    let envelope = Envelope { reverse_path: ReversePath::NULL, parameters: MailParameters::default(), recipients };
    let life = START..START.plus(Duration::from_secs(600));
    Change::Accept(
        Arc::new(Message::new(id(number), "shop".into(), envelope, life)),
        Content { head: "A: b\r\n".into(), body: "\r\n".into() },
    )
}

fn key(value: Option<&[u8]>) -> Change {
    Change::Side(Table::Idempotency, b"key".as_slice().into(), value.map(Into::into))
}

#[test]
fn what_was_refused_is_taken_back_with_the_next_commit() {
    let bench = Bench::new();
    // The store says no, and yet it is on the disk.
    bench.store.fail_next(1);
    assert_eq!(bench.commit(vec![accept(1)]), Err(JournalError::Failed));
    assert!(bench.store.holds(id(1)) && bench.journal.is_failing());
    assert_eq!(bench.commit(vec![accept(2)]), Err(JournalError::Full), "it is left alone for a moment");
    bench.clock.advance(RECOVERY_PAUSE);
    assert_eq!(bench.commit(vec![accept(3)]), Ok(()));
    assert_eq!([1, 2, 3].map(|number| bench.store.holds(id(number))), [false, false, true]);
    assert!(!bench.journal.is_failing() && bench.journal.fault().is_none());
}

#[test]
fn what_nobody_waits_for_outlasts_a_failure() {
    let bench = Bench::new();
    bench.commit(vec![accept(1), accept(2)]).unwrap();
    bench.journal.commit_later(vec![Change::Remove(id(1))]);
    bench.store.set_failing(true);
    assert_eq!(bench.commit(vec![accept(3)]), Err(JournalError::Full));
    assert!(bench.store.holds(id(1)), "nothing was committed");
    bench.store.heal();
    bench.clock.advance(RECOVERY_PAUSE);
    bench.commit(vec![accept(4)]).unwrap();
    assert_eq!([1, 2, 3, 4].map(|number| bench.store.holds(id(number))), [false, true, false, true]);
}

#[test]
fn an_acceptance_is_undone() {
    let undone = undoing(&[accept(1), key(Some(b"1")), Change::Remove(id(2))]);
    assert!(matches!(&undone[..], [Change::Remove(one)] if *one == id(1)));
    assert!(undoing(&[key(None), Change::Remove(id(2))]).is_empty());
}

#[test]
fn a_batch_has_bounds() {
    let mut jobs = Lanes::default();
    (0..2 * BATCH_GROUPS_MAX).for_each(|_| jobs.push(Lane::Otp, Job::Later(Vec::new())));
    assert_eq!((gather(&mut jobs).len(), jobs.len()), (BATCH_GROUPS_MAX, BATCH_GROUPS_MAX));
    let mut jobs = Lanes::default();
    let long = || match accept(1) {
        Change::Accept(message, _) => {
            Change::Accept(message, Content { head: vec![b'x'; BATCH_LEN_MAX / 2].into(), body: "".into() })
        }
        other => other,
    };
    (0..5).for_each(|_| jobs.push(Lane::Otp, Job::Later(vec![long()])));
    assert_eq!((gather(&mut jobs).len(), jobs.len()), (2, 3));
}

/// Whoever wanted it may go away before the thread has seen either.
#[test]
fn what_undoes_a_commit_stays_behind_it() {
    let (store, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(START)));
    let mut thread = StorageThread::new(Box::new(store.clone()), clock.clone(), Arc::default()).unwrap();
    let withdrawn = |number| vec![Job::Commit(vec![accept(number)], oneshot::channel().0), withdrawal(number)];
    thread.work(withdrawn(1));
    assert!(!store.holds(id(1)), "in one batch");
    thread.work(vec![Job::Commit(vec![accept(2)], oneshot::channel().0)]);
    store.fail_next(0);
    thread.work(vec![withdrawal(2)]);
    assert!(store.holds(id(2)), "it cannot be written");
    clock.advance(RECOVERY_PAUSE);
    thread.work(vec![Job::Flush(oneshot::channel().0)]);
    assert!(!store.holds(id(2)), "and is kept until it can");
}

fn withdrawal(number: u8) -> Job {
    Job::Withdraw(vec![Change::Remove(id(number))])
}

#[test]
fn stored_times_are_the_wall_clocks() {
    let ahead = ManualClock::new(START);
    ahead.set_wall_clock(3_600_000);
    let (changes, group) = (vec![accept(1), Change::Remove(id(2))], 0);
    let moved = moved_to_wall(&[&changes], ahead.step()).unwrap();
    let Change::Accept(message, _) = &moved[group][0] else { panic!("{moved:?}") };
    assert_eq!(message.expires_at, START.plus(Duration::from_secs(600 + 3600)));
    assert!(moved_to_wall(&[&changes], Step::NONE).is_none());
}

fn event(number: u8, what: Happened) -> Change {
    let Change::Accept(message, _) = accept(number) else { panic!() };
    Change::Event(Arc::new(Event { head: message.head(START), what }))
}

fn kinds(journal: &Journal, at: &mut Cursor) -> Vec<Kind> {
    let read = futures_executor::block_on(journal.events_after(*at, 10)).unwrap();
    *at = read.at;
    read.events.iter().map(|(_, event)| event.kind()).collect()
}

#[test]
fn an_event_is_seen_when_what_it_tells_of_is_stored() {
    let bench = Bench::new();
    let mut at = bench.journal.events().newest();
    bench.journal.commit_later(vec![event(1, Happened::Delivered(Attempted::default()))]);
    assert_eq!(kinds(&bench.journal, &mut at), []);
    bench.store.fail_next(5);
    assert!(
        bench.commit(vec![accept(2), event(2, Happened::Accepted { note: None, others: Arc::default() })]).is_err()
    );
    assert_eq!(kinds(&bench.journal, &mut at), [], "of a commit that failed nothing is told");
    bench.clock.advance(RECOVERY_PAUSE);
    bench.commit(vec![accept(3), event(3, Happened::Accepted { note: None, others: Arc::default() })]).unwrap();
    assert_eq!(kinds(&bench.journal, &mut at), [Kind::Delivered, Kind::Accepted]);
    let stored: Vec<u64> = bench.store.stored_events().iter().map(|(at, _)| at.number()).collect();
    assert_eq!(stored, [at.number() - 1, at.number()], "nor is anything left of it");
}

#[test]
fn what_is_informative_brings_about_no_commit() {
    let (store, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(START)));
    let health = Arc::new(Health::default());
    let mut thread = StorageThread::new(Box::new(store.clone()), clock, health).unwrap();
    let (events, attempted) = (thread.events.clone(), Happened::Attempted { destination: None });
    let seen = |at: u64| matches!(events.after(events.newest().minus(at), 9), Next::Events(_));
    thread.work(vec![Job::Later(vec![event(1, attempted.clone())])]);
    assert!(seen(1) && store.commits() == 0 && store.stored_events().is_empty());
    thread.work(vec![Job::Later(vec![Change::Remove(id(1)), event(1, Happened::Delivered(Attempted::default()))])]);
    assert_eq!((store.commits(), store.stored_events().len()), (1, 2));
    let stored: Vec<Kind> = store.stored_events().iter().map(|(_, event)| event.kind()).collect();
    assert_eq!(stored, [Kind::Attempted, Kind::Delivered]);
    assert_eq!(store.stored_events()[1].0, events.newest());
    // Behind what could not be stored it waits its turn.
    store.set_failing(true);
    thread.work(vec![Job::Later(vec![Change::Remove(id(2))])]);
    thread.work(vec![Job::Later(vec![event(2, attempted)])]);
    assert_eq!(store.stored_events()[1].0, events.newest());
}

#[test]
fn what_a_failed_commit_left_is_set_right_at_once_or_not_at_all() {
    let accepted = |number| event(number, Happened::Accepted { note: None, others: Arc::default() });
    for reached in 0..=3 {
        let bench = Bench::new();
        bench.commit(vec![accept(1), accepted(1)]).unwrap();
        bench.journal.commit_later(vec![event(1, Happened::Delivered(Attempted::default())), Change::Remove(id(1))]);
        // Both are on the disk, and the app is told that the second was refused.
        bench.store.fail_next(2);
        assert!(bench.commit(vec![accept(2), accepted(2)]).is_err() && bench.store.holds(id(2)));
        bench.clock.advance(RECOVERY_PAUSE);
        // What came meanwhile waits behind that. The next commit fails too when it has come so far, and the process dies.
        bench.journal.commit_later(vec![event(3, Happened::Attempted { destination: None })]);
        bench.store.fail_next(reached);
        assert!(bench.commit(vec![accept(4), accepted(4)]).is_err());
        let left = bench.store.image();
        let told = |number: u8, kind: Kind| {
            let events = left.stored_events();
            events.iter().filter(|(_, event)| event.head.id == id(number) && event.kind() == kind).count()
        };
        for number in [1, 2, 4] {
            let is_there = left.holds(id(number));
            assert_eq!(told(number, Kind::Accepted), usize::from(is_there || number == 1), "{number} after {reached}");
        }
        assert_eq!(told(1, Kind::Delivered), 1, "the end stays, whatever is written anew");
        assert!(!left.holds(id(1)));
    }
}
