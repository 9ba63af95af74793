//! How messages come in: accepted, made by the relay itself, or found at start.

use std::sync::Arc;

use super::{Delay, Entry, Schedule, Timer, entries_of};
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Kind, Suppress};
use crate::ledger::FRESH;
use crate::ledger::accept::Risk;
use crate::ledger::entry::{Message, Progress, SignedContent, State};
use crate::mail::id::{EntryId, MessageId};
use crate::queue::effects::{Effects, accepted};
use crate::queue::ending::{End, Ending};

/// Content of fresh messages kept in memory, so that it need not be read back, at most; beyond it is read.
const CONTENT_IN_MEMORY_MAX: usize = 64 << 20;

impl Schedule {
    /// A message is stored and comes to life: its entries are ready, also those at risk.
    pub(in crate::queue) fn accept(
        &mut self,
        message: &Arc<Message>,
        content: SignedContent,
        (risks, outlived): (&[Risk], &[(EntryId, MessageId)]),
        acceptance: Event,
        effects: &mut Effects,
    ) {
        let now = acceptance.head.time;
        let fresh = || Entry { fresh_until: now.plus(FRESH), ..Entry::new(Arc::default()) };
        let keep = self.content_len + content.len() <= CONTENT_IN_MEMORY_MAX;
        let entries = entries_of(message).map(|_| (Some(State::Queued), fresh())).collect();
        self.hold(message.clone(), keep.then(|| Arc::new(content)), entries);
        effects.accepted(acceptance);
        for id in entries_of(message) {
            self.add_timers_of_life(message, id, false, effects);
        }
        // Where the message itself is the older one, because another overtook it on its way to the disk, its own entries
        // end.
        for (id, newer) in outlived {
            self.end(*id, End::superseded_by(*newer), now, effects);
        }
        risks.iter().for_each(|risk| self.foresee(message, risk, now, effects));
        entries_of(message).for_each(|id| effects.offer(id, message.clone()));
    }

    /// An entry is at risk from the beginning. Noted before it can be claimed, so that no attempt tells it again.
    fn foresee(&mut self, message: &Arc<Message>, risk: &Risk, now: Timestamp, effects: &mut Effects) {
        let id = EntryId { message: message.id, index: risk.index };
        let Some(held) = self.held.get_mut(&message.id) else { return };
        let reporting = held.reporting_of_delay(risk.index, Delay::AtRisk, now);
        let Some(entry) = held.entries.get_mut(usize::from(risk.index)) else { return };
        entry.progress_mut().at_risk = true;
        entry.count_risk(&mut self.counts);
        let head = message.entry_head(id.index, entry.progress.attempts, now);
        let ending = Ending {
            message: message.clone(),
            event: Event { head, what: risk.happened(now) },
            suppress: Suppress::No,
            was_sent: false,
            is_passed_on: false,
            is_late: false,
            reporting,
        };
        effects.keep(&entry.progress, ending);
    }

    /// A message that the relay itself has to send. It counts for the user whose message it is about, and is never refused.
    pub(in crate::queue) fn adopt(&mut self, message: Arc<Message>, now: Timestamp, effects: &mut Effects) {
        self.shares.add(&message.user, message.envelope.recipients.len());
        effects.accepted(accepted(&message, None, now));
        self.take_up(message, Vec::new(), now, effects);
    }

    /// Returns how many entries live.
    pub(super) fn take_up(
        &mut self,
        message: Arc<Message>,
        stored: Vec<(u16, Arc<Progress>)>,
        now: Timestamp,
        effects: &mut Effects,
    ) -> usize {
        let fresh = |_| (Some(State::Deferred), Entry::new(Arc::default()));
        let mut entries: Vec<(Option<State>, Entry)> = entries_of(&message).map(fresh).collect();
        for (index, progress) in stored {
            if let Some((state, entry)) = entries.get_mut(usize::from(index)) {
                *state = (!progress.ended).then_some(State::Deferred);
                entry.take_up(progress);
            }
        }
        let live = entries.iter().filter(|(state, _)| state.is_some()).count();
        if live == 0 {
            return 0;
        }
        self.outcomes += entries.iter().filter(|(_, entry)| entry.progress.outcome.is_some()).count();
        self.hold(message.clone(), None, entries);
        for id in entries_of(&message) {
            self.plan(&message, id, now, effects);
        }
        live
    }

    /// Sets the timers of an entry that was taken up, or notes that it has no future.
    pub(super) fn plan(&mut self, message: &Arc<Message>, id: EntryId, now: Timestamp, effects: &mut Effects) {
        let Some((entry, _)) = self.entry_mut(id).filter(|(entry, _)| entry.state.is_some()) else { return };
        if entry.progress.content_sent {
            let cause = Some(Cause::OutcomeUnknown);
            let unknown = Attempted { cause, may_have_arrived: true, ..Attempted::default() };
            self.doomed.push_back((id, End::after(Kind::Failed, unknown)));
        } else if message.expires_at <= now {
            self.doomed.push_back((id, End::of(Kind::Expired)));
        } else {
            if entry.progress.next_attempt_at < now {
                entry.progress_mut().next_attempt_at = now;
            }
            let (due_at, is_late) = (entry.progress.next_attempt_at, entry.progress.late);
            self.add_timer(due_at, id, Timer::Due, effects);
            self.add_timers_of_life(message, id, is_late, effects);
        }
    }

    /// Ends some of what turned out at start to have no future: lives that ended meanwhile, entries whose place a newer one
    /// had taken, and attempts of which only the answer is missing and that must not be made twice. Says whether there are
    /// more.
    pub(in crate::queue) fn end_doomed(&mut self, most: usize, now: Timestamp, effects: &mut Effects) -> bool {
        let doomed: Vec<(EntryId, End)> = self.doomed.drain(..most.min(self.doomed.len())).collect();
        for (id, end) in doomed {
            self.end(id, end, now, effects);
        }
        !self.doomed.is_empty()
    }
}
