//! Looking into the queue and steering it, for the people and apps that ask: what is there, take this back, try that
//! now. However much there is, others have the queue in between.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::Queue;
use super::ending::End;
use super::entry::{Message, Progress, State};
use super::schedule::{Entry, Held, Schedule, entries_of};
use super::timers::Timer;
use crate::clock::Timestamp;
use crate::event::Kind;
use crate::event::cause::Cause;
use crate::mail::address::{Mailbox, domain_key};
use crate::mail::id::{EntryId, MessageId};

/// Entries that are looked at before others may have the queue.
const SLICE: usize = 1000;

/// One message as it stands.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is known since its acceptance.
    pub message: Arc<Message>,
    /// Its entries, in the order of its recipients.
    pub entries: Vec<EntrySnapshot>,
}

/// One entry as it stands.
#[derive(Debug, Clone)]
pub struct EntrySnapshot {
    /// Its id.
    pub id: EntryId,
    /// None: it has ended, while others of its message live.
    pub state: Option<State>,
    /// How far it got.
    pub progress: Progress,
    /// Its content is on its way, or was and got no answer.
    pub may_have_arrived: bool,
}

/// Which live entries are meant; what is none, does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// To this domain, as [`domain_key`] writes it.
    pub domain: Option<String>,
    /// To this recipient, as [`Mailbox::plain_key`] writes it.
    pub recipient: Option<String>,
    /// Of this user.
    pub user: Option<Arc<str>>,
    /// With this supersession key.
    pub key: Option<Arc<str>>,
    /// Of this message.
    pub message: Option<MessageId>,
}

/// What a list shows.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The oldest messages that fit, with those of their entries that fit.
    pub messages: Vec<Snapshot>,
    /// Entries that fit in all.
    pub entries: usize,
}

/// What was to be tried again.
#[derive(Debug, Clone, Default)]
pub struct Retried {
    /// What is tried now.
    pub entries: Vec<EntryId>,
    /// Where something was left out because it was tried again a moment ago: when the first of that may be.
    pub kept_back: Option<Duration>,
}

/// What became of an entry that was to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// Which.
    pub id: EntryId,
    /// Its recipient.
    pub recipient: Mailbox,
    /// Its content was on its way to the mail host already.
    pub may_still_arrive: bool,
}

impl Filter {
    /// The live entries of one message.
    pub fn of_message(id: MessageId) -> Self {
        Self { message: Some(id), ..Self::default() }
    }

    fn covers_message(&self, message: &Message) -> bool {
        self.message.is_none_or(|id| id == message.id)
            && self.user.as_ref().is_none_or(|user| *user == message.user)
            && (self.key.is_none() || self.key == message.key)
    }

    fn covers_entry(&self, message: &Message, index: u16, entry: &Entry) -> bool {
        if entry.state.is_none() || self.state.is_some_and(|state| entry.state != Some(state)) {
            return false;
        }
        let mailbox = &message.recipient(index).mailbox;
        self.domain.as_ref().is_none_or(|domain| is_at(mailbox, domain))
            && self.recipient.as_ref().is_none_or(|plain| is_recipient(mailbox, plain))
    }
}

/// Whether it is at the domain; mostly without allocating, for this is asked of every entry under the lock.
fn is_at(mailbox: &Mailbox, domain: &str) -> bool {
    let own = mailbox.domain();
    own.eq_ignore_ascii_case(domain) || (!own.is_ascii() && domain_key(own).as_deref() == Some(domain))
}

fn is_recipient(mailbox: &Mailbox, plain: &str) -> bool {
    let domain = plain.rsplit_once('@').map_or("", |(_, domain)| domain);
    is_at(mailbox, domain) && mailbox.plain_key() == plain
}

impl Held {
    fn snapshot(&self, covers: impl Fn(u16, &Entry) -> bool) -> Snapshot {
        let entries = entries_of(&self.message)
            .filter(|id| covers(id.index, &self.entries[usize::from(id.index)]))
            .map(|id| {
                let entry = &self.entries[usize::from(id.index)];
                let may_have_arrived = entry.is_out || entry.may_have_arrived;
                EntrySnapshot { id, state: entry.state, progress: entry.progress.clone(), may_have_arrived }
            })
            .collect();
        Snapshot { message: self.message.clone(), entries }
    }
}

impl Schedule {
    /// The live entries of these messages that a filter covers.
    fn covered(&self, ids: &[MessageId], filter: &Filter) -> Vec<EntryId> {
        let mut covered = Vec::new();
        let held = ids.iter().filter_map(|id| self.held.get(id));
        for held in held.filter(|held| filter.covers_message(&held.message)) {
            let fits =
                |id: &EntryId| filter.covers_entry(&held.message, id.index, &held.entries[usize::from(id.index)]);
            covered.extend(entries_of(&held.message).filter(fits));
        }
        covered
    }

    /// Makes those of the entries due that wait for their next attempt and that `covers` lets pass.
    fn make_due(
        &mut self,
        entries: &[EntryId],
        mut covers: impl FnMut(&mut Entry) -> bool,
        now: Timestamp,
    ) -> Vec<(EntryId, Arc<Message>)> {
        let mut due = Vec::new();
        for id in entries {
            let Some(held) = self.held.get_mut(&id.message) else { continue };
            let Some(entry) = held.entries.get_mut(usize::from(id.index)) else { continue };
            if entry.state != Some(State::Deferred) || !covers(entry) {
                continue;
            }
            let was_due = std::mem::replace(&mut entry.progress.next_attempt_at, now);
            entry.state = Some(State::Queued);
            due.push((*id, held.message.clone()));
            self.timers.remove(&(was_due, *id, Timer::Due));
        }
        due
    }
}

impl Queue {
    /// A message with all its entries, while one of them lives.
    pub fn message(&self, id: MessageId) -> Option<Snapshot> {
        self.schedule.lock().held.get(&id).map(|held| held.snapshot(|_, _| true))
    }

    /// How far a live entry got.
    pub fn progress(&self, id: EntryId) -> Option<Progress> {
        let schedule = self.schedule.lock();
        let entry = schedule.held.get(&id.message)?.entries.get(usize::from(id.index))?;
        entry.state.map(|_| entry.progress.clone())
    }

    /// Whether an entry of the message lives.
    pub fn is_live(&self, id: MessageId) -> bool {
        self.schedule.lock().held.contains_key(&id)
    }

    /// Goes through the ids of all live messages, or one's, the oldest first; between two slices others may have the queue.
    pub(super) fn in_slices(&self, only: Option<MessageId>, mut look: impl FnMut(&mut Schedule, &[MessageId])) {
        let mut schedule = self.schedule.lock();
        if let Some(id) = only {
            return look(&mut schedule, &[id]);
        }
        let mut behind = Bound::Unbounded;
        loop {
            let mut entries = 0;
            let rest = schedule.held.range((behind, Bound::Unbounded));
            let slice = rest.take_while(|(_, held)| {
                let has_room = entries < SLICE;
                entries += held.entries.len();
                has_room
            });
            let ids: Vec<MessageId> = slice.map(|(id, _)| *id).collect();
            let Some(last) = ids.last() else { return };
            look(&mut schedule, &ids);
            behind = Bound::Excluded(*last);
            MutexGuard::bump(&mut schedule);
        }
    }

    /// Live entries, of at most `limit` messages, the oldest first.
    pub fn list(&self, filter: &Filter, limit: usize) -> Listing {
        let mut listing = Listing::default();
        self.in_slices(filter.message, |schedule, ids| {
            for id in ids {
                let covered = schedule.covered(std::slice::from_ref(id), filter).len();
                listing.entries += covered;
                if let Some(held) = schedule.held.get(id).filter(|_| covered > 0 && listing.messages.len() < limit) {
                    let covers = |index, entry: &Entry| filter.covers_entry(&held.message, index, entry);
                    listing.messages.push(held.snapshot(covers));
                }
            }
        });
        listing
    }

    /// All live entries with their recipients' domains; for a start, when somebody begins to count them.
    pub fn live_domains(&self) -> Vec<(EntryId, String)> {
        let mut live = Vec::new();
        self.in_slices(None, |schedule, ids| {
            let covered = schedule.covered(ids, &Filter::default());
            let domain = |id: EntryId| {
                let held = schedule.held.get(&id.message)?;
                Some((id, held.message.recipient(id.index).mailbox.domain_key()))
            };
            live.extend(covered.into_iter().filter_map(domain));
        });
        live
    }

    /// The live messages to a recipient ([`Mailbox::plain_key`]), at most `limit`, the oldest first.
    pub fn live_of_recipient(&self, plain: &str, limit: usize) -> Vec<Snapshot> {
        self.list(&Filter { recipient: Some(plain.to_owned()), ..Filter::default() }, limit).messages
    }

    /// Ends the live entries that the filter covers. What was not on its way yet does not leave any more: an attempt
    /// asks before it connects and before it sends the content.
    pub fn cancel(&self, filter: &Filter, now: Timestamp) -> Vec<Cancelled> {
        // What a start found to be superseded ends first: its newer one may be what is cancelled here.
        self.end_restored();
        let mut cancelled = Vec::new();
        self.in_slices(filter.message, |schedule, ids| {
            for id in schedule.covered(ids, filter) {
                let Some(event) = self.end(schedule, id, End::of(Kind::Cancelled), now) else { continue };
                let may_still_arrive = event.may_have_arrived();
                cancelled.extend(event.head.recipient.clone().map(|recipient| Cancelled {
                    id,
                    recipient,
                    may_still_arrive,
                }));
                self.events.emit(event);
            }
        });
        cancelled
    }

    /// Makes entries due that wait for their next attempt and that the filter covers; says which.
    pub fn retry_now(&self, filter: &Filter, now: Timestamp) -> Vec<EntryId> {
        self.retry_after(filter, Duration::ZERO, now).entries
    }

    /// The same, but for entries that were made due so less than `pause` ago.
    pub fn retry_after(&self, filter: &Filter, pause: Duration, now: Timestamp) -> Retried {
        self.end_restored();
        let (mut due, mut kept_back) = (Vec::new(), None::<Duration>);
        let mut covers = |entry: &mut Entry| {
            // A time that lies ahead is another clock's.
            let last = entry.retried_at.filter(|last| *last <= now);
            let wait = last.map_or(Duration::ZERO, |last| pause.saturating_sub(now.since(last)));
            if !wait.is_zero() {
                kept_back = Some(kept_back.map_or(wait, |shortest| shortest.min(wait)));
                return false;
            }
            if !pause.is_zero() {
                entry.retried_at = Some(now);
            }
            true
        };
        self.in_slices(filter.message, |schedule, ids| {
            let covered = schedule.covered(ids, filter);
            due.extend(schedule.make_due(&covered, &mut covers, now));
        });
        Retried { entries: self.offer_all(due), kept_back }
    }

    /// Makes those of the entries due that wait because nobody answered; somebody does now.
    pub fn retry_unreachable(&self, entries: &[EntryId], now: Timestamp) {
        let waits_for_it =
            |entry: &mut Entry| matches!(entry.progress.cause, Some(Cause::Unreachable | Cause::ConnectionLost));
        let due = self.schedule.lock().make_due(entries, waits_for_it, now);
        self.offer_all(due);
    }

    fn offer_all(&self, due: Vec<(EntryId, Arc<Message>)>) -> Vec<EntryId> {
        let ids = due.iter().map(|(id, _)| *id).collect();
        due.into_iter().for_each(|(id, message)| self.offer(id, message));
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, ManualClock};
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::IdSource;
    use crate::mail::message::Content;
    use crate::queue::entry::SignedContent;
    use crate::queue::memory_store::MemoryStore;
    use crate::queue::{Foreknowledge, Settings, Storage, Supersede};

    struct Nobody;

    impl crate::event::Sink for Nobody {
        fn emit(&self, _: crate::event::Event) {}
    }

    fn queue_of(messages: usize, recipients: usize) -> Arc<Queue> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_255_200_000)));
        let (now, ids) = (clock.now(), IdSource::new());
        let settings = Settings { entries_max: 100_000, deliver_at_most_once: false, supersede: Supersede::Off };
        let store = Box::new(MemoryStore::default());
        let queue = Queue::open(store, Storage::Inline, settings, clock, Arc::new(Nobody), 1).unwrap();
        for _ in 0..messages {
            let mailbox = |n: usize| Recipient::new(Mailbox::parse(&format!("user{n}@example.test")).unwrap());
            let envelope = Envelope {
                reverse_path: ReversePath::NULL,
                parameters: MailParameters::default(),
                recipients: (0..recipients).map(mailbox).collect(),
            };
            let life = now..now.plus(Duration::from_secs(600));
            let message = Arc::new(Message::new(ids.next(now), "app".into(), envelope, life));
            let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
            queue.append(&message, content.clone(), Vec::new(), true).unwrap();
            queue.admit(&message, SignedContent { signatures: Default::default(), content }, Foreknowledge::default());
        }
        queue
    }

    /// The work between two moments at which others may have the queue, not the time it takes.
    #[test]
    fn the_queue_is_looked_through_in_slices() {
        let slices = |queue: &Queue| {
            let mut slices = Vec::new();
            queue.in_slices(None, |_, ids| slices.push(ids.len()));
            slices
        };
        assert_eq!(slices(&queue_of(0, 1)), [0; 0]);
        let queue = queue_of(2 * SLICE + 500, 1);
        assert_eq!(slices(&queue), [SLICE, SLICE, 500]);
        assert_eq!(slices(&queue_of(10, SLICE / 4)), [4, 4, 2]);
        let listing = queue.list(&Filter::default(), SLICE + 1);
        assert_eq!((listing.messages.len(), listing.entries), (SLICE + 1, 2 * SLICE + 500));
        assert_eq!(queue.depth().messages, 2 * SLICE + 500);
        let some = queue.list(&Filter::default(), usize::MAX).messages;
        let one = Filter::of_message(some[SLICE].message.id);
        assert_eq!(queue.list(&one, 9).entries, 1);
        assert_eq!(queue.cancel(&one, Timestamp::from_millis(1)).len(), 1);
        assert_eq!(queue.cancel(&Filter::default(), Timestamp::from_millis(1)).len(), 2 * SLICE + 499);
        assert_eq!(slices(&queue), [0; 0]);
    }
}
