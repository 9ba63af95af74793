//! An attempt: claimed, renewed, its content released, settled.

use std::sync::Arc;

use super::{Delay, Entry, Schedule, Timer};
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Event, Happened, Suppress};
use crate::ledger::entry::{LEASE, Lease, LostClaim, Message, Progress, SignedContent, State};
use crate::mail::id::EntryId;
use crate::queue::effects::Effects;
use crate::queue::ending::{End, Ending};
use crate::queue::settlement::Settlement;

/// Longest remote reply that is kept.
const REPLY_LEN_MAX: usize = 512;

/// What a claim knows of its entry.
#[derive(Debug)]
pub(in crate::queue) struct Hold {
    pub(in crate::queue) id: EntryId,
    pub(in crate::queue) lease: Lease,
    pub(in crate::queue) message: Arc<Message>,
    /// How far it got, this attempt counted.
    pub(in crate::queue) progress: Progress,
}

/// An entry that was claimed, with its content if that is in memory.
pub(in crate::queue) type ClaimedEntry = (Hold, Option<Arc<SignedContent>>);

impl Hold {
    /// An event about the attempt.
    pub(in crate::queue) fn event(&self, what: Happened, now: Timestamp) -> Event {
        Event { head: self.message.entry_head(self.id.index, self.progress.attempts, now), what }
    }
}

impl Schedule {
    /// Takes an entry for an attempt.
    pub(in crate::queue) fn claim(
        &mut self,
        id: EntryId,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<ClaimedEntry, LostClaim> {
        let Some(held) = self.held.get_mut(&id.message) else { return Err(LostClaim::Ended) };
        if held.message.expires_at <= now {
            return Err(LostClaim::Expired);
        }
        let (message, content) = (held.message.clone(), held.content.clone());
        let entry = &mut held.entries[usize::from(id.index)];
        if entry.state != Some(State::Queued) {
            return Err(LostClaim::Ended);
        }
        self.next_token += 1;
        let lease = Lease { owner: self.owner.0, token: self.next_token, ends_at: now.plus(LEASE) };
        entry.turn(Some(State::Sending), &mut self.counts);
        entry.is_out = false;
        let progress = entry.progress_mut();
        progress.lease = Some(lease);
        progress.attempts = progress.attempts.saturating_add(1);
        let progress = progress.clone();
        self.add_timer(lease.ends_at, id, Timer::Lease, effects);
        Ok((Hold { id, lease, message, progress }, content))
    }

    /// Whether a claim still holds its entry.
    pub(in crate::queue) fn check(&mut self, hold: &Hold) -> Result<(), LostClaim> {
        self.leased(hold).map(|_| ()).ok_or(LostClaim::Ended)
    }

    /// Makes the lease last until then.
    pub(in crate::queue) fn renew(&mut self, hold: &Hold, ends_at: Timestamp) {
        let lease = Lease { ends_at, ..hold.lease };
        if let Some(entry) = self.leased(hold) {
            // Its timer rings at the old end, sees the new one, and is set again.
            entry.progress_mut().lease = Some(lease);
        }
    }

    /// The note that the content goes is about to be stored; whatever else is stored of the entry before the attempt ends has to
    /// say so too.
    pub(in crate::queue) fn record_content(&mut self, hold: &mut Hold) -> Result<(), LostClaim> {
        let entry = self.leased(hold).ok_or(LostClaim::Ended)?;
        entry.progress_mut().content_sent = true;
        hold.progress.late |= entry.progress.late;
        hold.progress.content_sent = true;
        Ok(())
    }

    /// Whether the content may go without a gate.
    pub(in crate::queue) fn is_fresh(&mut self, hold: &Hold, now: Timestamp) -> bool {
        self.leased(hold).is_some_and(|entry| now < entry.fresh_until)
    }

    /// Until then the content may go without another gate.
    pub(in crate::queue) fn gated(&mut self, hold: &Hold, fresh_until: Timestamp) {
        if let Some(entry) = self.leased(hold) {
            entry.fresh_until = fresh_until;
        }
    }

    /// The content leaves; from now on it may arrive, whatever happens to the entry here.
    pub(in crate::queue) fn release_content(&mut self, hold: &mut Hold) -> Result<(), LostClaim> {
        self.leased(hold).ok_or(LostClaim::Ended)?.is_out = true;
        hold.progress.was_sent = true;
        Ok(())
    }

    /// An attempt has ended. If its lease was lost meanwhile, nothing changes.
    pub(in crate::queue) fn settle(
        &mut self,
        hold: &mut Hold,
        mut settlement: Settlement,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.leased(hold) else { return };
        entry.fresh_until = Timestamp::default();
        // That may have been told while the attempt was running.
        hold.progress.late |= entry.progress.late;
        if !matches!(settlement, Settlement::Released(_)) {
            let attempted = settlement.attempted_mut();
            attempted.reply = attempted.reply.take().map(shortened);
            hold.progress.cause = attempted.cause;
            hold.progress.last_reply.clone_from(&attempted.reply);
        }
        match settlement {
            Settlement::Released(attempted) => self.release(hold, attempted, now, effects),
            Settlement::Deferred { attempted, next_attempt_at, at_risk } if now < hold.message.expires_at => {
                let promise = if at_risk { Promise::None } else { Promise::Kept };
                self.put_off(hold, attempted, (next_attempt_at, promise), now, effects);
            }
            settlement @ (Settlement::Delivered { .. }
            | Settlement::Deferred { .. }
            | Settlement::Failed { .. }
            | Settlement::Expired(_)) => {
                if let Some(entry) = self.leased(hold) {
                    // What became of the content is known now, or the settlement says that it is not.
                    entry.is_out = false;
                    entry.progress = Arc::new(Progress { lease: entry.progress.lease, ..hold.progress.clone() });
                }
                self.end(hold.id, End::from(settlement), now, effects);
            }
        }
    }

    /// Another attempt follows at `at`. That it may come too late is told once.
    fn put_off(
        &mut self,
        hold: &mut Hold,
        attempted: Attempted,
        (at, promise): (Timestamp, Promise),
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let is_news = promise == Promise::None && !hold.progress.at_risk;
        hold.progress.at_risk |= is_news;
        if let Some(entry) = self.leased(hold) {
            entry.may_have_arrived |= attempted.may_have_arrived;
        }
        hold.progress.next_attempt_at = at;
        hold.progress.first_deferred_at.get_or_insert(now);
        hold.progress.lease = None;
        hold.progress.content_sent = false;
        let progress = self.put_back(hold, State::Deferred);
        if at < hold.message.expires_at {
            self.add_timer(at, hold.id, Timer::Due, effects);
        }
        // They may have rung while the attempt was running.
        self.add_timers_of_life(&hold.message, hold.id, hold.progress.late, effects);
        let next_attempt_at = (at < hold.message.expires_at).then_some(at);
        let at_risk = is_news.then(|| {
            let held = self.held.get(&hold.id.message);
            let reporting = held.map(|held| held.reporting_of_delay(hold.id.index, Delay::AtRisk, now));
            let attempted = Attempted { note: None, steps: None, ..attempted.clone() };
            Ending {
                message: hold.message.clone(),
                event: hold.event(Happened::AtRisk { attempted, next_attempt_at }, now),
                suppress: Suppress::No,
                was_sent: hold.progress.was_sent,
                is_passed_on: false,
                is_late: false,
                reporting: reporting.unwrap_or_default(),
            }
        });
        effects.defer(&progress, hold.event(Happened::Deferred { attempted, next_attempt_at }, now), at_risk);
    }

    /// The attempt does not count, and the entry is ready again.
    fn release(&mut self, hold: &mut Hold, attempted: Attempted, now: Timestamp, effects: &mut Effects) {
        hold.progress.attempts -= 1;
        hold.progress.lease = None;
        self.put_back(hold, State::Queued);
        self.add_timer(hold.message.expires_at, hold.id, Timer::Expiry, effects);
        if attempted.note.is_some() {
            effects.publish(hold.event(Happened::Queued(attempted), now));
        }
        effects.offer(hold.id, hold.message.clone());
    }

    /// Writes state and progress back; content that no attempt needs soon leaves memory.
    fn put_back(&mut self, hold: &Hold, state: State) -> Arc<Progress> {
        self.timers.remove(hold.lease.ends_at, hold.id, Timer::Lease);
        let progress = Arc::new(hold.progress.clone());
        let Some(held) = self.held.get_mut(&hold.id.message) else { return progress };
        let entry = &mut held.entries[usize::from(hold.id.index)];
        entry.progress = progress.clone();
        entry.turn(Some(state), &mut self.counts);
        entry.is_out = false;
        if held.entries.iter().all(|entry| matches!(entry.state, None | Some(State::Deferred))) {
            self.content_len -= held.content.take().map_or(0, |content| content.len());
        }
        progress
    }

    /// The entry, while this claim holds it.
    fn leased(&mut self, hold: &Hold) -> Option<&mut Entry> {
        let (entry, _) = self.entry_mut(hold.id)?;
        let is_ours = entry.progress.lease.is_some_and(|lease| lease.token == hold.lease.token);
        (entry.state == Some(State::Sending) && is_ours).then_some(entry)
    }
}

/// Whether the plan can promise that it arrives in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Kept,
    None,
}

fn shortened(text: Arc<str>) -> Arc<str> {
    if text.len() <= REPLY_LEN_MAX {
        return text;
    }
    let end = (0..=REPLY_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}
