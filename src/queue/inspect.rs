//! Inspection and control of the queue, for the people and apps that ask: what is there, cancel this, try that
//! now. However much there is, others have the queue in between.

use std::ops::ControlFlow;
use std::time::Duration;

use super::Queue;
use super::effects::Effects;
use super::outbox::Patience;
use super::schedule::{Again, Schedule};
pub use super::schedule::{Cancelled, RetriedEntries};
pub(crate) use super::schedule::{EntrySnapshot, Snapshot};
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::event::Kind;
use crate::ledger::entry::Progress;
pub use crate::ledger::filter::Filter;
pub(crate) use crate::ledger::listing::Listing;
use crate::mail::id::{EntryId, MessageId};
use std::collections::BTreeMap;

/// Entries that are looked at before others may have the queue.
const PAGE: usize = 64;
/// Pages of a long look that may come one behind the other; from then on it rests behind each, so that it takes no core from
/// those who claim entries.
const PAGES_AT_ONCE: usize = 16;
const PAGE_REST: Duration = Duration::from_micros(50);
/// Messages that are copied before others may have the queue.
const SNAPSHOTS: usize = 32;

/// The live entries of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many.
    pub entries: usize,
    /// Since when the oldest was accepted.
    pub(crate) oldest: Duration,
    /// How long the first of them to end still lives.
    pub(crate) least_left: Duration,
}

impl Queue {
    /// A message with all its entries, while one of them lives. Where it is none, the ends of all have been told.
    pub fn message(&self, id: MessageId) -> Option<Snapshot> {
        let snapshot = self.outbox.schedule(|schedule| schedule.snapshot(id, None));
        let lives = |snapshot: &Snapshot| snapshot.entries.iter().all(|entry| entry.state.is_some());
        if !snapshot.as_ref().is_some_and(lives) {
            drop(self.pass_on(Patience::Wait));
        }
        snapshot
    }

    /// How far a live entry got.
    pub fn progress(&self, id: EntryId) -> Option<Progress> {
        self.outbox.schedule(|schedule| schedule.progress(id).map(|(_, progress)| Progress::clone(progress)))
    }

    /// Whether an entry of the message lives. Where none does, the ends of all have been told.
    pub fn is_live(&self, id: MessageId) -> bool {
        let is_live = self.outbox.schedule(|schedule| schedule.is_live(id));
        if !is_live {
            drop(self.pass_on(Patience::Wait));
        }
        is_live
    }

    /// Goes through the live entries that a filter covers, page by page, as long as there are more and `look` wants them;
    /// between two pages others may have the queue. A long look takes a while, for threads that may wait.
    fn pages(&self, filter: &Filter, mut look: impl FnMut(&Schedule, Vec<EntryId>) -> ControlFlow<()>) {
        if filter.state.is_some() && self.depth().of_state(filter.state) == 0 {
            return;
        }
        let mut behind = None;
        for page in 1.. {
            let next = self.outbox.schedule_in_turns(|schedule| {
                let (page, next) = schedule.page(filter, behind, PAGE);
                if look(schedule, page).is_break() { None } else { next }
            });
            let Some(next) = next else { return };
            behind = Some(next);
            if page >= PAGES_AT_ONCE {
                std::thread::sleep(PAGE_REST);
            }
        }
    }

    /// The same, where something is done to each page.
    fn apply_to_pages<T>(
        &self,
        filter: &Filter,
        mut command: impl FnMut(&mut Schedule, &[EntryId], &mut Effects) -> T,
        mut done: impl FnMut(T),
    ) {
        let mut behind = None;
        loop {
            let (result, next) = self.apply(Patience::Wait, |schedule, effects| {
                let (page, next) = schedule.page(filter, behind, PAGE);
                (command(schedule, &page, effects), next)
            });
            done(result);
            let Some(next) = next else { return };
            behind = Some(next);
        }
    }

    /// Live entries, of at most `limit` messages, the oldest first.
    pub fn list(&self, filter: &Filter, limit: usize) -> Listing {
        // How many there are of a state, or in all, is known without a look at them.
        let known = filter.is_of_state().then(|| self.depth().of_state(filter.state));
        let (mut entries, mut ids) = (0, Vec::new());
        self.pages(filter, |_, page| {
            entries += page.len();
            ids.extend(page.into_iter().map(|id| id.message));
            ids.dedup();
            let is_all = known.is_some_and(|known| ids.len() >= limit || entries >= known);
            if is_all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // Those of a domain come by their addresses.
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(limit);
        let mut messages = Vec::with_capacity(ids.len());
        for some in ids.chunks(SNAPSHOTS) {
            messages.extend(self.outbox.schedule_in_turns(|schedule| {
                let snapshots = some.iter().filter_map(|id| schedule.snapshot(*id, Some(filter)));
                snapshots.filter(|snapshot| !snapshot.entries.is_empty()).collect::<Vec<_>>()
            }));
        }
        Listing { messages, entries: known.unwrap_or(entries) }
    }

    /// The newest messages that have live entries which a filter covers, with ids below a place: at most `limit` ids, the
    /// newest first.
    pub(crate) fn newest(&self, filter: &Filter, below: Option<MessageId>, limit: usize) -> Vec<MessageId> {
        let mut newest = std::collections::BTreeSet::new();
        self.pages(filter, |_, page| {
            for id in page.into_iter().map(|id| id.message).filter(|id| below.is_none_or(|below| *id < below)) {
                newest.insert(id);
                if newest.len() > limit {
                    newest.pop_first();
                }
            }
            ControlFlow::Continue(())
        });
        newest.into_iter().rev().collect()
    }

    /// All live entries with their recipients' domains; for a start, when somebody begins to count them.
    pub(crate) fn live_domains(&self) -> Vec<(EntryId, String)> {
        self.outbox.schedule(|schedule| {
            let (all, _) = schedule.page(&Filter::default(), None, usize::MAX);
            all.into_iter().filter_map(|id| Some((id, schedule.domain(id)?))).collect()
        })
    }

    /// Live entries by lane.
    pub fn standing(&self, now: Timestamp) -> BTreeMap<Lane, Standing> {
        let mut all: BTreeMap<Lane, Standing> = BTreeMap::new();
        self.pages(&Filter::default(), |schedule, page| {
            for (lane, accepted_at, expires_at) in page.into_iter().filter_map(|id| schedule.span(id)) {
                let (age, left) = (now.since(accepted_at), expires_at.since(now));
                let of_lane = all.entry(lane).or_insert(Standing { entries: 0, oldest: age, least_left: left });
                of_lane.entries += 1;
                of_lane.oldest = of_lane.oldest.max(age);
                of_lane.least_left = of_lane.least_left.min(left);
            }
            ControlFlow::Continue(())
        });
        all
    }

    /// Ends the live entries that the filter covers. What was not on its way yet does not leave any more: an attempt
    /// asks before it connects and before it sends the content.
    pub fn cancel(&self, filter: &Filter, now: Timestamp) -> Vec<Cancelled> {
        self.end_live(filter, Kind::Cancelled, now)
    }

    /// The same for what is of no use any more, because what it was to bring about has happened.
    pub(crate) fn supersede(&self, filter: &Filter, now: Timestamp) -> Vec<Cancelled> {
        self.end_live(filter, Kind::Superseded, now)
    }

    fn end_live(&self, filter: &Filter, kind: Kind, now: Timestamp) -> Vec<Cancelled> {
        // What a start found to be superseded ends first: its newer one may be what is cancelled here.
        self.end_doomed();
        let mut cancelled = Vec::new();
        let end = |schedule: &mut Schedule, page: &[EntryId], effects: &mut Effects| {
            schedule.cancel(page, kind, now, effects)
        };
        self.apply_to_pages(filter, end, |some| cancelled.extend(some));
        cancelled
    }

    /// Makes entries due that wait for their next attempt and that the filter covers; says which.
    pub fn retry_now(&self, filter: &Filter, now: Timestamp) -> Vec<EntryId> {
        self.retry_after(filter, Duration::ZERO, now).entries
    }

    /// The same, but for entries that were made due so less than `pause` ago.
    pub fn retry_after(&self, filter: &Filter, pause: Duration, now: Timestamp) -> RetriedEntries {
        self.end_doomed();
        let mut all = RetriedEntries::default();
        let retry = |schedule: &mut Schedule, page: &[EntryId], effects: &mut Effects| {
            schedule.retry(page, Again::After(pause), now, effects)
        };
        self.apply_to_pages(filter, retry, |some| {
            all.entries.extend(some.entries);
            all.kept_back = all.kept_back.into_iter().chain(some.kept_back).min();
        });
        all
    }

    /// Makes those of the entries due that wait because nobody answered; somebody does now.
    pub(crate) fn retry_unreachable(&self, entries: &[EntryId], now: Timestamp) {
        for page in entries.chunks(PAGE) {
            self.apply(Patience::PassBy, |schedule, effects| schedule.retry(page, Again::Unreachable, now, effects));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::{Clock as _, ManualClock};
    use crate::event::NoSink;
    use crate::ledger::embedded::node::{Node, Storage};
    use crate::ledger::embedded::store::memory::MemoryStore;
    use crate::ledger::entry::{Message, SignedContent};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::IdSource;
    use crate::mail::message::Content;
    use crate::queue::{Consequences, Ending, Settings};

    fn queue_of(messages: usize, recipients: usize) -> Arc<Queue> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_255_200_000)));
        let (now, ids) = (clock.now(), IdSource::new());
        let settings = Settings { entries_max: 100_000, deliver_at_most_once: false };
        let store = Box::new(MemoryStore::default());
        let entail = Box::new(|_: &Ending| Consequences::default());
        let queue = Queue::open(
            Node::alone(store, Storage::Inline, clock.clone(), settings.delivery()).unwrap(),
            settings,
            clock,
            Arc::new(NoSink),
            entail,
        )
        .unwrap();
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
            let acceptance = queue.begin(queue.new_message(message.clone(), content.clone(), None)).unwrap();
            drop(queue.admit(acceptance, SignedContent { signatures: Default::default(), content }, &[]));
        }
        queue
    }

    /// The work between two moments at which others may have the queue, not the time it takes.
    #[test]
    fn the_queue_is_looked_through_in_pages() {
        const REST: usize = PAGE / 2 + 1;
        let pages = |queue: &Queue| {
            let mut pages = Vec::new();
            queue.pages(&Filter::default(), |_, page| {
                pages.push(page.len());
                ControlFlow::Continue(())
            });
            pages
        };
        assert_eq!(pages(&queue_of(0, 1)), [0]);
        let queue = queue_of(2 * PAGE + REST, 1);
        assert_eq!(pages(&queue), [PAGE, PAGE, REST]);
        assert_eq!(pages(&queue_of(10, PAGE / 4)), [PAGE, PAGE, PAGE / 2]);
        let listing = queue.list(&Filter::default(), PAGE + 1);
        assert_eq!((listing.messages.len(), listing.entries), (PAGE + 1, 2 * PAGE + REST));
        assert_eq!(queue.depth().messages, 2 * PAGE + REST);
        let newest = queue.newest(&Filter::default(), None, PAGE);
        let rest = queue.newest(&Filter::default(), newest.last().copied(), usize::MAX);
        assert_eq!((newest.len(), rest.len()), (PAGE, PAGE + REST));
        assert!([newest, rest].concat().is_sorted_by(|a, b| a > b));
        let some = queue.list(&Filter::default(), usize::MAX).messages;
        let one = Filter::of_message(some[PAGE].message.id);
        assert_eq!(queue.list(&one, 9).entries, 1);
        assert_eq!(queue.cancel(&one, Timestamp::from_millis(1)).len(), 1);
        assert_eq!(queue.cancel(&Filter::default(), Timestamp::from_millis(1)).len(), 2 * PAGE + REST - 1);
        assert_eq!(pages(&queue), [0]);
    }
}
