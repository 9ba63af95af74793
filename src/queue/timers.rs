//! What becomes due: attempts, ends of life, leases that nobody renewed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Queue;
use super::ending::{Delay, End, Known};
use super::entry::{Message, State};
use super::schedule::Schedule;
use super::store::Change;
use crate::clock::Timestamp;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::mail::id::EntryId;

/// Timers handled before others get a turn.
const TURN_MAX: usize = 1000;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next attempt.
    Due,
    /// The end of life.
    Expiry,
    /// The end of a lease.
    Lease,
    /// The time of `BY=;N`.
    Late,
}

enum Rung {
    Offer(EntryId, Arc<Message>),
    Tell(Box<Event>),
}

impl Queue {
    /// Runs the timers until [`Queue::stop`]. Sleeps until the first is due; nothing is polled.
    pub async fn run_timers(self: Arc<Self>) {
        self.end_restored();
        while !self.stopped.load(Ordering::Relaxed) {
            let now = self.clock.now();
            let next = self.ring(now);
            match next {
                Some(at) if at <= now => tokio::task::yield_now().await,
                Some(at) => {
                    let until = tokio::time::Instant::from_std(self.clock.instant() + at.since(now));
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(until) => {}
                        () = self.timers_changed.notified() => {}
                    }
                }
                None => self.timers_changed.notified().await,
            }
        }
    }

    /// Handles what is due; returns when the next timer is.
    fn ring(&self, now: Timestamp) -> Option<Timestamp> {
        let mut rung = Vec::new();
        let next = {
            let mut schedule = self.schedule.lock();
            for _ in 0..TURN_MAX {
                match schedule.timers.first() {
                    Some((at, _, _)) if *at <= now => {}
                    _ => break,
                }
                if let Some((_, id, timer)) = schedule.timers.pop_first() {
                    rung.extend(self.ring_one(&mut schedule, id, timer, now));
                }
            }
            schedule.timers.first().map(|(at, _, _)| *at)
        };
        for what in rung {
            match what {
                Rung::Offer(entry, message) => self.offer(entry, message),
                Rung::Tell(event) => self.events.emit(*event),
            }
        }
        next
    }

    fn ring_one(&self, schedule: &mut Schedule, id: EntryId, timer: Timer, now: Timestamp) -> Option<Rung> {
        let held = schedule.held.get_mut(&id.message)?;
        let entry = &mut held.entries[usize::from(id.index)];
        let message = held.message.clone();
        match (timer, entry.state?) {
            (Timer::Due, State::Deferred) => {
                entry.state = Some(State::Queued);
                Some(Rung::Offer(id, message))
            }
            // The content is out: what the receiver says about it is waited for.
            (Timer::Expiry, State::Sending) if entry.is_out => None,
            (Timer::Expiry, _) => {
                let attempted = Attempted { cause: entry.progress.cause, ..Attempted::default() };
                self.end(schedule, id, End::after(Kind::Expired, attempted), now)
                    .map(|event| Rung::Tell(Box::new(event)))
            }
            (Timer::Lease, State::Sending) => {
                let lease = entry.progress.lease?;
                if lease.ends_at > now {
                    schedule.add_timer(lease.ends_at, id, Timer::Lease);
                    return None;
                }
                tracing::error!(entry = %id, "an attempt did not renew its lease; the entry is offered again");
                entry.progress.lease = None;
                entry.may_have_arrived |= std::mem::take(&mut entry.is_out);
                entry.state = Some(State::Queued);
                Some(Rung::Offer(id, message))
            }
            // The attempt's end decides whether it is late.
            (Timer::Late, State::Sending) if entry.is_out => None,
            (Timer::Late, _) => self.tell_late(schedule, id, now).map(|event| Rung::Tell(Box::new(event))),
            (Timer::Due, State::Queued | State::Sending) | (Timer::Lease, State::Queued | State::Deferred) => None,
        }
    }

    /// The time of `BY=;N` is over, and the entry goes on (RFC 2852 section 4): the sender is told, once.
    fn tell_late(&self, schedule: &mut Schedule, id: EntryId, now: Timestamp) -> Option<Event> {
        let held = schedule.held.get_mut(&id.message)?;
        let entry = &mut held.entries[usize::from(id.index)];
        if std::mem::replace(&mut entry.progress.late, true) {
            return None;
        }
        let (message, progress) = (held.message.clone(), entry.progress.clone());
        let telling = held.telling_of_delay(id.index, Delay::Late, now);
        let entry = &held.entries[usize::from(id.index)];
        let next_attempt_at = (entry.state == Some(State::Deferred)).then_some(progress.next_attempt_at);
        let attempted = Attempted {
            cause: progress.cause,
            reply: progress.last_reply.clone(),
            note: Some("not delivered within the time of BY=".into()),
            ..Attempted::default()
        };
        let head = message.entry_head(id.index, progress.attempts, now);
        let event = Event { head, what: Happened::AtRisk { attempted, next_attempt_at } };
        let known = Known { was_sent: progress.was_sent, is_late: true, telling, ..Known::default() };
        let mut changes = vec![Change::Update(id, Box::new(progress))];
        changes.extend(self.consequences(schedule, &message, &event, known));
        self.journal.commit_later(changes);
        Some(event)
    }
}
