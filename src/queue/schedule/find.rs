//! What is there, and what people and apps do with it. A look at a long queue is a look at one page of it after the other.

use std::ops::Bound;
use std::time::Duration;

use super::{Content, Entry, LiveMessage, Schedule, Timer, entries_of};
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::event::Kind;
use crate::event::cause::Cause;
use crate::ledger::entry::{Progress, State};
use crate::ledger::filter::Filter;
pub use crate::ledger::listing::Cancelled;
pub(crate) use crate::ledger::listing::{EntrySnapshot, Snapshot};
use crate::mail::id::{EntryId, MessageId};
use crate::queue::effects::Effects;
use crate::queue::ending::End;
use crate::queue::index::IndexCursor;

/// What was to be tried again.
#[derive(Debug, Clone, Default)]
pub struct RetriedEntries {
    /// What is tried now.
    pub entries: Vec<EntryId>,
    /// Where something was left out because it was tried again a moment ago: when the first of that may be.
    pub kept_back: Option<Duration>,
}

/// Whom an attempt out of turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Again {
    /// Whoever asks, so often at most.
    After(Duration),
    /// Entries that wait because nobody answered.
    Unreachable,
}

impl LiveMessage {
    fn snapshot(&self, covers: impl Fn(u16, &Entry) -> bool) -> Snapshot {
        let entries = entries_of(&self.message).zip(&self.entries).filter(|(id, entry)| covers(id.index, entry));
        let entries = entries.map(|(id, entry)| {
            let may_have_arrived = entry.is_out || entry.may_have_arrived;
            EntrySnapshot { id, state: entry.state, progress: Progress::clone(&entry.progress), may_have_arrived }
        });
        Snapshot { message: self.message.clone(), entries: entries.collect() }
    }

    /// Its live entries that a filter covers.
    fn covered<'a>(&'a self, filter: &'a Filter) -> impl Iterator<Item = EntryId> + 'a {
        let is_meant = filter.covers_message(&self.message);
        let entries = entries_of(&self.message).zip(&self.entries).filter(move |_| is_meant);
        entries.filter(|(id, entry)| self.is_covered(filter, id.index, entry)).map(|(id, _)| id)
    }

    fn is_covered(&self, filter: &Filter, index: u16, entry: &Entry) -> bool {
        filter.covers_entry(&self.message.recipient(index).mailbox, entry.state)
    }
}

impl Schedule {
    /// Live entries that a filter covers, of one page: of at most `most` entries that are looked at, behind a place. The
    /// place behind which there is more, if there is. By age, unless the filter names a recipient or a domain.
    pub(in crate::queue) fn page(
        &self,
        filter: &Filter,
        behind: Option<IndexCursor>,
        most: usize,
    ) -> (Vec<EntryId>, Option<IndexCursor>) {
        if let Some(id) = filter.message {
            let held = self.held.get(&id);
            return (held.into_iter().flat_map(|held| held.covered(filter)).collect(), None);
        }
        if let Some(places) = self.index.of_address(filter, behind, most) {
            let next =
                places.last().filter(|_| places.len() == most).map(|(number, id)| IndexCursor::Address(*number, *id));
            let covers = |id: &EntryId| {
                let held = self.held.get(&id.message).filter(|held| filter.covers_message(&held.message));
                held.is_some_and(|held| held.is_covered(filter, id.index, &held.entries[usize::from(id.index)]))
            };
            return (places.into_iter().map(|(_, id)| id).filter(covers).collect(), next);
        }
        let behind = match behind {
            Some(IndexCursor::Message(id)) => Bound::Excluded(id),
            Some(IndexCursor::Address(..)) | None => Bound::Unbounded,
        };
        match &filter.user {
            Some(user) => self.page_of(self.index.of_user(user, behind), filter, most),
            None => self.page_of(self.held.range((behind, Bound::Unbounded)).map(|(id, _)| *id), filter, most),
        }
    }

    fn page_of(
        &self,
        ids: impl Iterator<Item = MessageId>,
        filter: &Filter,
        most: usize,
    ) -> (Vec<EntryId>, Option<IndexCursor>) {
        let (mut found, mut looked) = (Vec::new(), 0);
        for id in ids {
            let Some(held) = self.held.get(&id) else { continue };
            found.extend(held.covered(filter));
            looked += held.entries.len();
            if looked >= most {
                return (found, Some(IndexCursor::Message(id)));
            }
        }
        (found, None)
    }

    /// A message with those of its entries that a filter covers, or with all.
    pub(in crate::queue) fn snapshot(&self, id: MessageId, filter: Option<&Filter>) -> Option<Snapshot> {
        let held = self.held.get(&id)?;
        let covers = |index, entry: &Entry| filter.is_none_or(|filter| held.is_covered(filter, index, entry));
        Some(held.snapshot(covers))
    }

    /// Lane, acceptance and end of life of a live entry.
    pub(in crate::queue) fn span(&self, id: EntryId) -> Option<(Lane, Timestamp, Timestamp)> {
        let message = &self.held.get(&id.message)?.message;
        Some((message.lane, message.accepted_at, message.expires_at))
    }

    /// The domain of a live entry's recipient.
    pub(in crate::queue) fn domain(&self, id: EntryId) -> Option<String> {
        Some(self.held.get(&id.message)?.message.recipient(id.index).mailbox.domain_key())
    }

    /// Ends these entries because the app took them back.
    pub(in crate::queue) fn cancel(
        &mut self,
        entries: &[EntryId],
        kind: Kind,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Vec<Cancelled> {
        let mut cancelled = Vec::new();
        for id in entries {
            let Some(held) = self.held.get(&id.message) else { continue };
            let recipient = held.message.recipient(id.index).mailbox.clone();
            if let Some(content) = self.end(*id, End::of(kind), now, effects) {
                let may_still_arrive = content == Content::MayHaveArrived;
                cancelled.push(Cancelled { id: *id, recipient, may_still_arrive });
            }
        }
        cancelled
    }

    /// Makes those of the entries due that wait for their next attempt and may have it now.
    pub(in crate::queue) fn retry(
        &mut self,
        entries: &[EntryId],
        again: Again,
        now: Timestamp,
        effects: &mut Effects,
    ) -> RetriedEntries {
        let mut retried = RetriedEntries::default();
        for id in entries {
            let Some(held) = self.held.get_mut(&id.message) else { continue };
            let Some(entry) = held.entries.get_mut(usize::from(id.index)) else { continue };
            if entry.state != Some(State::Deferred) {
                continue;
            }
            match entry.wait_for(again, now) {
                Some(wait) if wait.is_zero() => {}
                Some(wait) => {
                    retried.kept_back = Some(retried.kept_back.map_or(wait, |shortest| shortest.min(wait)));
                    continue;
                }
                None => continue,
            }
            let was_due = std::mem::replace(&mut entry.progress_mut().next_attempt_at, now);
            entry.turn(Some(State::Queued), &mut self.counts);
            effects.offer(*id, held.message.clone());
            self.timers.remove(was_due, *id, Timer::Due);
            retried.entries.push(*id);
        }
        retried
    }
}

impl Entry {
    /// How long it has to wait for an attempt out of turn; none if it is not meant.
    fn wait_for(&mut self, again: Again, now: Timestamp) -> Option<Duration> {
        let Again::After(pause) = again else {
            let nobody_answered = matches!(self.progress.cause, Some(Cause::Unreachable | Cause::ConnectionLost));
            return nobody_answered.then_some(Duration::ZERO);
        };
        // A time that lies ahead is another clock's.
        let last = self.retried_at.filter(|last| *last <= now);
        let wait = last.map_or(Duration::ZERO, |last| pause.saturating_sub(now.since(last)));
        if wait.is_zero() && !pause.is_zero() {
            self.retried_at = Some(now);
        }
        Some(wait)
    }
}
