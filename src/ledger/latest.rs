//! The events that were committed, for those who read them: the latest in memory, the rest in the store.
//!
//! Events get their numbers in the order of the commits, and nobody sees one before the change that it tells of is on disk.
//! What is only informative gets its number at once and is stored with the next commit; a crash may lose it, and no number is
//! given twice. A reader is nothing but its place. One that keeps up is fed from memory. What every reader has confirmed, and
//! that is some minutes old, may go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::base::clock::Timestamp;
use crate::event::Event;
use crate::ledger::cursor::Cursor;

/// Events in memory.
pub(crate) const IN_MEMORY_MAX: usize = 8192;
/// How long events are kept that every reader has confirmed.
const KEPT_FOR: Duration = Duration::from_secs(300);
/// How many of those are kept at most.
const KEPT_MAX: u64 = 32_768;
/// How long events are kept that a reader has not confirmed.
const UNREAD_FOR: Duration = Duration::from_secs(24 * 3600);
/// How exactly it is known how old events are.
const MARK_PAUSE: Duration = Duration::from_secs(30);
/// Fewer events than this are not worth removing.
const SWEEP_MIN: u64 = 1024;

/// What a reader finds behind its place.
#[derive(Debug)]
pub enum Next {
    /// These events, each with its place.
    Events(Vec<(Cursor, Arc<Event>)>),
    /// Nothing yet.
    Nothing,
    /// Events that only the store has.
    InStore,
    /// Events that are gone; the first that is still there comes behind this place.
    Missed(Cursor),
}

/// The latest events, and the places of those who read them.
#[derive(Debug)]
pub struct Latest {
    inner: Mutex<Inner>,
    arrived: Condvar,
    newest: watch::Sender<Cursor>,
    /// Where those are that count; one that is gone does not.
    readers: Mutex<Vec<Weak<AtomicU64>>>,
    is_swept: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Arc<Event>>,
    /// The place before the first of them.
    before: Cursor,
    /// Everything up to here is gone.
    swept: Cursor,
    /// When which place was the newest.
    marks: VecDeque<(Timestamp, Cursor)>,
    is_closed: bool,
}

impl Inner {
    fn newest(&self) -> Cursor {
        self.before.plus(self.events.len() as u64)
    }
}

/// A reader's promise not to ask again for what it has confirmed.
#[derive(Debug, Clone)]
pub struct Confirmation(Arc<AtomicU64>);

impl Confirmation {
    /// What comes up to this place is of no use to the reader any more, also after a power cut.
    pub fn confirm(&self, at: Cursor) {
        self.0.fetch_max(at.number(), Ordering::Relaxed);
    }
}

impl Latest {
    /// Nothing in memory yet; the store has what is between these places.
    pub(in crate::ledger) fn new(swept: Cursor, newest: Cursor) -> Self {
        let inner = Inner { events: VecDeque::new(), before: newest, swept, marks: VecDeque::new(), is_closed: false };
        let readers = Mutex::default();
        let newest = watch::Sender::new(newest);
        Self { inner: Mutex::new(inner), arrived: Condvar::new(), newest, readers, is_swept: AtomicBool::new(false) }
    }

    /// Events that are on disk now, or need not be. Threads that wait for them are woken by [`Latest::wake`].
    pub(in crate::ledger) fn publish(&self, events: Vec<Arc<Event>>) {
        if events.is_empty() {
            return;
        }
        let mut latest = self.inner.lock();
        latest.events.extend(events);
        while latest.events.len() > IN_MEMORY_MAX {
            latest.events.pop_front();
            latest.before = latest.before.plus(1);
        }
        let newest = latest.newest();
        drop(latest);
        self.newest.send_replace(newest);
    }

    /// Wakes the threads that read events, once whoever waited for a commit has its answer.
    pub(in crate::ledger) fn wake(&self) {
        self.arrived.notify_all();
    }

    /// Nothing comes any more.
    pub(in crate::ledger) fn close(&self) {
        self.inner.lock().is_closed = true;
        self.arrived.notify_all();
    }

    /// The place behind the newest event.
    pub fn newest(&self) -> Cursor {
        *self.newest.borrow()
    }

    /// The place before the oldest event that is in memory.
    pub fn before_latest(&self) -> Cursor {
        self.inner.lock().before
    }

    /// The place before the oldest event that is still there.
    pub fn before_oldest(&self) -> Cursor {
        let latest = self.inner.lock();
        latest.swept
    }

    /// Up to `most` events behind a place.
    pub fn after(&self, at: Cursor, most: usize) -> Next {
        self.inner.lock().after(at, most)
    }

    /// The same, after waiting for news for some time at most. None: nothing comes any more.
    pub fn wait(&self, at: Cursor, most: usize, patience: Duration) -> Option<Next> {
        let mut latest = self.inner.lock();
        if at == latest.newest() && !latest.is_closed {
            self.arrived.wait_for(&mut latest, patience);
        }
        match latest.after(at, most) {
            Next::Nothing if latest.is_closed => None,
            next @ (Next::Events(_) | Next::Nothing | Next::InStore | Next::Missed(_)) => Some(next),
        }
    }

    /// Takes a recipient's events out; their numbers stay, without anybody in them. Returns how many.
    pub(in crate::ledger) fn erase(&self, plain: &str) -> usize {
        let mut latest = self.inner.lock();
        let theirs = latest.events.iter_mut().filter(|event| event.is_about(plain));
        theirs.map(|event| *event = Arc::new(event.without_recipient())).count()
    }

    /// Whether nothing comes any more.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().is_closed
    }

    /// Tells of every new event; [`Latest::after`] has it then.
    pub fn watch(&self) -> watch::Receiver<Cursor> {
        self.newest.subscribe()
    }

    /// From now on nothing goes that a reader at this place has not confirmed, but for the bounds.
    pub fn register(&self, at: Cursor) -> Confirmation {
        let place = Arc::new(AtomicU64::new(at.number()));
        self.readers.lock().push(Arc::downgrade(&place));
        Confirmation(place)
    }

    /// All readers are registered: what they have confirmed may go.
    pub fn begin_to_sweep(&self) {
        self.is_swept.store(true, Ordering::Relaxed);
    }

    /// Up to where events may go at this time; none while that is not worth the work.
    pub(in crate::ledger) fn may_go(&self, now: Timestamp) -> Option<Cursor> {
        if !self.is_swept.load(Ordering::Relaxed) {
            return None;
        }
        let mut readers = self.readers.lock();
        readers.retain(|place| place.strong_count() > 0);
        let places = readers.iter().filter_map(Weak::upgrade);
        let confirmed = places.map(|place| place.load(Ordering::Relaxed)).min();
        drop(readers);
        let mut latest = self.inner.lock();
        let newest = latest.newest();
        if latest.marks.back().is_none_or(|(at, _)| at.plus(MARK_PAUSE) <= now) {
            // What is from before the start counts as old.
            let first = if latest.marks.is_empty() { latest.before } else { newest };
            latest.marks.push_back((now, first));
        }
        let older_than = |age: Duration| {
            let old = latest.marks.iter().take_while(|(at, _)| *at <= now.minus(age));
            old.last().map(|(_, place)| *place)
        };
        let kept = newest.minus(KEPT_MAX).min(confirmed.map_or(newest, Cursor::behind));
        let passed = older_than(KEPT_FOR).map(|old| old.min(confirmed.map_or(newest, Cursor::behind)));
        let to = passed.into_iter().chain([kept]).chain(older_than(UNREAD_FOR)).max()?;
        while latest.marks.len() > 1 && latest.marks[1].0 <= now.minus(UNREAD_FOR) {
            latest.marks.pop_front();
        }
        (to >= latest.swept.plus(SWEEP_MIN)).then_some(to)
    }

    /// What comes up to this place is gone.
    pub(in crate::ledger) fn swept(&self, to: Cursor) {
        let mut latest = self.inner.lock();
        latest.swept = latest.swept.max(to);
    }
}

impl Inner {
    fn after(&self, at: Cursor, most: usize) -> Next {
        if at < self.swept {
            return Next::Missed(self.swept);
        }
        if at < self.before {
            return Next::InStore;
        }
        let skip = usize::try_from(at.number() - self.before.number()).unwrap_or(usize::MAX);
        if skip >= self.events.len() {
            return Next::Nothing;
        }
        let found = self.events.iter().skip(skip).take(most);
        Next::Events(found.zip(1..).map(|(event, number)| (at.plus(number), event.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Happened, Head};
    use crate::mail::id::MessageId;

    fn event(number: u32) -> Arc<Event> {
        let time = Timestamp::from_millis(1_795_255_200_000);
        let head = Head { attempt: number, ..Head::sample(MessageId::from_bytes([0; 16]), time) };
        Arc::new(Event { head, what: Happened::Verified { since_delivered: None } })
    }

    fn events() -> Latest {
        Latest::new(Cursor::behind(70), Cursor::behind(100))
    }

    fn attempts(next: Next) -> Vec<(u64, u32)> {
        let Next::Events(events) = next else { panic!("{next:?}") };
        events.into_iter().map(|(at, event)| (at.number(), event.head.attempt)).collect()
    }

    #[test]
    fn each_reader_walks_at_its_own_pace() {
        let events = events();
        assert!(matches!(events.after(Cursor::behind(100), 10), Next::Nothing));
        events.publish((1..=5).map(event).collect());
        assert_eq!(attempts(events.after(Cursor::behind(102), 2)), [(103, 3), (104, 4)]);
        assert!(matches!(events.after(Cursor::behind(105), 10), Next::Nothing));
        assert!(matches!(events.after(Cursor::behind(99), 10), Next::InStore));
        assert!(matches!(events.after(Cursor::behind(69), 10), Next::Missed(at) if at.number() == 70));
        assert_eq!(events.newest().number(), 105);
    }

    #[test]
    fn who_lags_reads_from_the_store() {
        let events = events();
        events.publish((0..u32::try_from(IN_MEMORY_MAX).unwrap() + 3).map(event).collect());
        assert!(matches!(events.after(Cursor::behind(102), 1), Next::InStore));
        assert_eq!(attempts(events.after(Cursor::behind(103), 1)), [(104, 3)]);
    }

    #[test]
    fn what_somebody_has_not_read_stays_for_a_day() {
        let events = events();
        let at = |minutes: u64| Timestamp::from_millis(1_795_255_200_000).plus(Duration::from_secs(60 * minutes));
        let slow = events.register(Cursor::behind(100));
        assert_eq!(events.may_go(at(0)), None, "not all readers are known yet");
        events.begin_to_sweep();
        events.publish((0..5000).map(event).collect());
        assert_eq!(events.may_go(at(0)), None);
        assert_eq!(events.may_go(at(1)), None);
        slow.confirm(Cursor::behind(3000));
        assert_eq!(events.may_go(at(5)), None, "they are not old enough");
        assert_eq!(events.may_go(at(7)), Some(Cursor::behind(3000)));
        events.swept(Cursor::behind(3000));
        assert_eq!(events.may_go(at(8)), None);
        assert_eq!(events.may_go(at(60 * 24 + 2)), Some(Cursor::behind(5100)), "nobody comes for them any more");
    }

    #[test]
    fn what_everybody_has_read_is_bounded_by_its_number() {
        let events = events();
        let quick = events.register(Cursor::behind(100));
        events.begin_to_sweep();
        events.publish((0..40_000).map(event).collect());
        let now = Timestamp::from_millis(1_795_255_200_000);
        assert_eq!(events.may_go(now), None);
        quick.confirm(Cursor::behind(40_100));
        assert_eq!(events.may_go(now), Some(Cursor::behind(40_100 - KEPT_MAX)));
    }
}
