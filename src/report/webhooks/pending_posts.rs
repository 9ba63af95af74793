//! The posts of one endpoint that are to be made: which is due when, in the order of its message, and how often it was tried.
//! A value: nothing here sends, stores or reads a clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Key;
use crate::base::clock::Timestamp;
use crate::event::{Event, stored};
use crate::ledger::embedded::store::sled::reader_rows::RowChange;
use crate::mail::id::MessageId;

/// The pauses between the tries, in seconds: 24 h in all.
const PAUSES_S: [u64; 8] = [5, 30, 120, 600, 1800, 7200, 18_000, 57_600];
/// More than this no endpoint may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Octets of a stored event.
const EVENT_LEN_MAX: usize = 4096;
const VERSION: u8 = 1;

/// A post that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// What it tells of.
    pub(super) event: Arc<Event>,
    /// How often it was tried.
    pub(super) tries: u32,
    /// When it came.
    pub(super) since: Timestamp,
    due_at: Timestamp,
    is_stored: bool,
}

/// What becomes of a post that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is tried again then.
    At(Timestamp),
    /// It was tried for the last time.
    GivenUp,
}

/// The posts that are to be made, by their number.
#[derive(Debug, Default)]
pub(super) struct PendingPosts {
    items: BTreeMap<u64, Item>,
    /// Those of one message, the oldest first; only that may be under way.
    of_message: HashMap<MessageId, VecDeque<u64>>,
    due: BTreeSet<(Timestamp, u64)>,
    next: u64,
    /// Those of which the store knows less, and those that it knows too much.
    changed: BTreeSet<u64>,
    gone: Vec<u64>,
}

/// What the rows of an endpoint begin with.
pub(super) fn prefix(key: Key) -> Vec<u8> {
    [&b"w"[..], &key].concat()
}

fn row_key(key: Key, number: u64) -> Vec<u8> {
    [&prefix(key)[..], &number.to_be_bytes()].concat()
}

impl Item {
    fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.extend_from_slice(&self.tries.to_be_bytes());
        value.extend_from_slice(&self.since.as_millis().to_be_bytes());
        value.extend_from_slice(&self.due_at.as_millis().to_be_bytes());
        stored::write(&self.event, EVENT_LEN_MAX, &mut value);
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let [VERSION, rest @ ..] = value else { return None };
        let (tries, rest) = rest.split_first_chunk::<4>()?;
        let (since, rest) = rest.split_first_chunk::<8>()?;
        let (due_at, event) = rest.split_first_chunk::<8>()?;
        let time = |octets: &[u8; 8]| Timestamp::from_millis(u64::from_be_bytes(*octets));
        Some(Self {
            event: Arc::new(stored::read(event)?),
            tries: u32::from_be_bytes(*tries),
            since: time(since),
            due_at: time(due_at),
            is_stored: true,
        })
    }
}

impl PendingPosts {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.items.first_key_value().map(|(_, item)| item.since)
    }

    /// Adds a post that is due now.
    pub(super) fn add(&mut self, event: Arc<Event>, now: Timestamp) {
        let item = Item { event, tries: 0, since: now, due_at: now, is_stored: false };
        let number = self.next;
        self.changed.insert(number);
        self.insert(number, item);
    }

    /// Adds what a row says; in the order of the keys.
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) {
        let number = key.last_chunk::<8>().map(|number| u64::from_be_bytes(*number));
        let Some(number) = number else { return };
        match Item::decode(value) {
            Some(item) => self.insert(number, item),
            None => {
                self.next = self.next.max(number + 1);
                self.gone.push(number);
            }
        }
    }

    fn insert(&mut self, number: u64, item: Item) {
        self.next = self.next.max(number + 1);
        let chain = self.of_message.entry(item.event.head.id).or_default();
        chain.push_back(number);
        if chain.len() == 1 {
            self.due.insert((item.due_at, number));
        }
        self.items.insert(number, item);
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One that is due. It stays under way until [`PendingPosts::done`] or [`PendingPosts::failed`].
    pub(super) fn take(&mut self, now: Timestamp) -> Option<(u64, Arc<Event>)> {
        let (at, number) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        let item = self.items.get_mut(&number)?;
        item.tries += 1;
        Some((number, item.event.clone()))
    }

    /// A post was taken, or is of no use any more.
    pub(super) fn done(&mut self, number: u64) {
        let Some(item) = self.items.remove(&number) else { return };
        self.changed.remove(&number);
        if item.is_stored {
            self.gone.push(number);
        }
        let id = item.event.head.id;
        let Some(chain) = self.of_message.get_mut(&id) else { return };
        chain.retain(|other| *other != number);
        match chain.front().and_then(|next| Some((self.items.get(next)?.due_at, *next))) {
            Some(next) => {
                self.due.insert(next);
            }
            None => {
                self.of_message.remove(&id);
            }
        }
    }

    /// A post failed; the endpoint may have asked for a pause.
    pub(super) fn failed(&mut self, number: u64, asked: Option<Duration>, now: Timestamp) -> Option<Next> {
        let item = self.items.get_mut(&number)?;
        let pause = usize::try_from(item.tries).ok().and_then(|tries| PAUSES_S.get(tries.checked_sub(1)?));
        let Some(pause) = pause else {
            self.done(number);
            return Some(Next::GivenUp);
        };
        let pause = Duration::from_secs(*pause).max(asked.unwrap_or_default().min(PAUSE_MAX));
        item.due_at = now.plus(pause);
        self.due.insert((item.due_at, number));
        self.changed.insert(number);
        Some(Next::At(item.due_at))
    }

    /// Takes a recipient out of what waits.
    pub(super) fn erase(&mut self, plain: &str) {
        for (number, item) in self.items.iter_mut().filter(|(_, item)| item.event.is_about(plain)) {
            item.event = Arc::new(item.event.without_recipient());
            self.changed.insert(*number);
        }
    }

    pub(super) fn clear(&mut self) {
        let all: Vec<u64> = self.items.keys().copied().collect();
        all.into_iter().for_each(|number| self.done(number));
    }

    /// What the store does not know yet.
    pub(super) fn changes(&mut self, key: Key) -> Vec<RowChange> {
        let mut changes: Vec<RowChange> =
            std::mem::take(&mut self.gone).into_iter().map(|number| (row_key(key, number), None)).collect();
        for number in std::mem::take(&mut self.changed) {
            if let Some(item) = self.items.get_mut(&number) {
                item.is_stored = true;
                changes.push((row_key(key, number), Some(item.encode())));
            }
        }
        changes
    }
}

impl PendingPosts {
    /// The changes could not be stored; they come again.
    pub(super) fn not_stored(&mut self, changes: &[RowChange]) {
        for (key, value) in changes {
            let Some(number) = key.last_chunk::<8>().map(|number| u64::from_be_bytes(*number)) else { continue };
            if value.is_some() && self.items.contains_key(&number) {
                self.changed.insert(number);
            } else {
                self.gone.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Happened, Head};

    const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
    const KEY: Key = [1; 8];

    fn event(message: u8, attempt: u32) -> Arc<Event> {
        let head = Head { attempt, ..Head::sample(MessageId::from_bytes([message; 16]), START) };
        Arc::new(Event { head, what: Happened::Verified { since_delivered: None } })
    }

    fn taken(waiting: &mut PendingPosts, now: Timestamp) -> Vec<(u64, u8, u32)> {
        std::iter::from_fn(|| waiting.take(now))
            .map(|(number, event)| (number, event.head.id.to_bytes()[0], event.head.attempt))
            .collect()
    }

    #[test]
    fn those_of_one_message_go_one_after_the_other() {
        let mut waiting = PendingPosts::default();
        for (message, attempt) in [(1, 1), (1, 2), (2, 1), (1, 3)] {
            waiting.add(event(message, attempt), START);
        }
        assert_eq!(taken(&mut waiting, START), [(0, 1, 1), (2, 2, 1)]);
        waiting.done(2);
        assert_eq!(waiting.failed(0, None, START), Some(Next::At(START.plus(Duration::from_secs(5)))));
        assert_eq!(taken(&mut waiting, START), [], "what follows waits for it");
        let later = START.plus(Duration::from_secs(5));
        assert_eq!(taken(&mut waiting, later), [(0, 1, 1)]);
        waiting.done(0);
        assert_eq!(taken(&mut waiting, later), [(1, 1, 2)]);
        waiting.done(1);
        assert_eq!(taken(&mut waiting, later), [(3, 1, 3)]);
        waiting.done(3);
        assert_eq!((waiting.len(), waiting.next_due(), waiting.of_message.len()), (0, None, 0));
    }

    #[test]
    fn a_post_is_tried_nine_times_in_24_hours() {
        let mut waiting = PendingPosts::default();
        waiting.add(event(1, 1), START);
        waiting.add(event(1, 2), START);
        let (mut now, mut tries) = (START, 0);
        loop {
            let (number, _) = waiting.take(now).unwrap();
            tries += 1;
            match waiting.failed(number, None, now).unwrap() {
                Next::At(at) => now = at,
                Next::GivenUp => break,
            }
        }
        let hours = now.since(START).as_secs_f64() / 3600.0;
        assert!(tries == 9 && (23.7..24.1).contains(&hours), "{tries} tries in {hours} h");
        assert_eq!(taken(&mut waiting, now), [(1, 1, 2)], "what follows goes on");
        let asked = Some(Duration::from_secs(3600));
        assert_eq!(waiting.failed(1, asked, now), Some(Next::At(now.plus(Duration::from_secs(3600)))));
    }

    #[test]
    fn what_is_stored_is_found_again() {
        let mut waiting = PendingPosts::default();
        (1..=3).for_each(|message| waiting.add(event(message, 1), START));
        let (first, _) = waiting.take(START).unwrap();
        waiting.done(first);
        let (second, _) = waiting.take(START).unwrap();
        waiting.failed(second, None, START);
        let rows = waiting.changes(KEY);
        assert_eq!(rows.len(), 2, "what was taken at once is never stored");
        assert_eq!(waiting.changes(KEY), []);
        let mut again = PendingPosts::default();
        for (key, value) in &rows {
            again.restore(key, value.as_deref().unwrap());
        }
        assert_eq!(again.items.values().map(|item| item.tries).collect::<Vec<_>>(), [1, 0]);
        assert_eq!((again.next, again.oldest()), (3, Some(START)));
        again.clear();
        assert_eq!(again.changes(KEY).iter().filter(|(_, value)| value.is_none()).count(), 2);
        again.restore(&row_key(KEY, 9), b"\x07what another version wrote");
        assert_eq!(again.changes(KEY).len(), 1);
    }
}
