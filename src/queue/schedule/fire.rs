//! What becomes due: attempts, ends of life, leases that nobody renewed.

use super::{Delay, Schedule, Timer};
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Event, Happened, Kind, Suppress};
use crate::ledger::entry::State;
use crate::mail::id::EntryId;
use crate::queue::effects::Effects;
use crate::queue::ending::{End, Ending};

impl Schedule {
    /// Fires the timers that are due, at most so many; returns when the next one is.
    pub(in crate::queue) fn fire(&mut self, most: usize, now: Timestamp, effects: &mut Effects) -> Option<Timestamp> {
        for _ in 0..most {
            let Some((id, timer)) = self.timers.pop_due(now) else { break };
            self.fire_one(id, timer, now, effects);
        }
        self.looks_at = self.timers.first_at();
        self.looks_at
    }

    fn fire_one(&mut self, id: EntryId, timer: Timer, now: Timestamp, effects: &mut Effects) {
        let Some(held) = self.held.get_mut(&id.message) else { return };
        let entry = &mut held.entries[usize::from(id.index)];
        let Some(state) = entry.state else { return };
        match (timer, state) {
            (Timer::Due, State::Deferred) => {
                entry.turn(Some(State::Queued), &mut self.counts);
                effects.offer(id, held.message.clone());
            }
            // The content is out: what the receiver says about it is waited for.
            (Timer::Expiry, State::Sending) if entry.is_out => {}
            (Timer::Expiry, _) => {
                let attempted = Attempted { cause: entry.progress.cause, ..Attempted::default() };
                self.end(id, End::after(Kind::Expired, attempted), now, effects);
            }
            (Timer::Lease, State::Sending) => {
                let Some(lease) = entry.progress.lease else { return };
                if lease.ends_at > now {
                    self.timers.insert(lease.ends_at, id, Timer::Lease);
                    return;
                }
                let is_out = entry.is_out;
                let progress = entry.progress_mut();
                progress.lease = None;
                progress.content_sent &= is_out;
                entry.may_have_arrived |= std::mem::take(&mut entry.is_out);
                entry.turn(Some(State::Queued), &mut self.counts);
                effects.lost.push(id);
                effects.offer(id, held.message.clone());
            }
            // The attempt's end decides whether it is late.
            (Timer::Late, State::Sending) if entry.is_out => {}
            (Timer::Late, _) => self.report_late(id, now, effects),
            (Timer::Due, State::Queued | State::Sending) | (Timer::Lease, State::Queued | State::Deferred) => {}
        }
    }

    /// The time of `BY=;N` is over, and the entry goes on (RFC 2852 section 4): the sender is told, once.
    fn report_late(&mut self, id: EntryId, now: Timestamp, effects: &mut Effects) {
        let Some(held) = self.held.get_mut(&id.message) else { return };
        let entry = &mut held.entries[usize::from(id.index)];
        if std::mem::replace(&mut entry.progress_mut().late, true) {
            return;
        }
        let (state, progress) = (entry.state, entry.progress.clone());
        let reporting = held.reporting_of_delay(id.index, Delay::Late, now);
        let attempted = Attempted {
            cause: progress.cause,
            reply: progress.last_reply.clone(),
            note: Some("not delivered within the time of BY=".into()),
            ..Attempted::default()
        };
        let next_attempt_at = (state == Some(State::Deferred)).then_some(progress.next_attempt_at);
        let head = held.message.entry_head(id.index, progress.attempts, now);
        let ending = Ending {
            message: held.message.clone(),
            event: Event { head, what: Happened::AtRisk { attempted, next_attempt_at } },
            suppress: Suppress::No,
            was_sent: progress.was_sent,
            is_passed_on: false,
            is_late: true,
            reporting,
        };
        effects.keep(&progress, ending);
    }
}
