//! An attempt is gated and settled, and what else an owner may do with its entries.

use super::accept::Accepting;
use super::state::{EndRow, Signal, State, Touched};
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Kind};
use crate::ledger::accept::NewMessage;
use crate::ledger::attempt::{Attempt, Epoch, Lost, Settled, Side, Target};
use crate::ledger::rules::{Deferral, Delivery, Denied, Takeover};
use crate::ledger::suppression::Learned;
use crate::mail::id::EntryId;

/// Why a step of an owner was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Verdict {
    /// For one of the reasons that its caller may hear.
    Lost(Lost),
    /// Nothing is known of the entry: the database came back without it.
    Missing,
}

impl State {
    fn why_lost(&self, entry: EntryId) -> Verdict {
        self.ended.get(&entry).map_or(Verdict::Missing, |end| Verdict::Lost(Lost::Ended(end.kind)))
    }

    /// # Errors
    /// Where the content must not go.
    pub(in crate::ledger) fn gate(&mut self, me: Epoch, attempt: Attempt) -> Result<(), Verdict> {
        self.living(me).map_err(|_| Verdict::Lost(Lost::Fenced))?;
        let why = self.why_lost(attempt.entry);
        let row = self.entry_mut(attempt.entry).ok_or(why)?;
        row.standing = row.standing.gate(me, attempt.number).map_err(lost)?;
        self.touched.push(Touched::Gated(me, attempt));
        Ok(())
    }

    /// Says what was learned of the recipient.
    ///
    /// # Errors
    /// Where nothing was changed.
    pub(in crate::ledger) fn settle(
        &mut self,
        by: Accepting,
        attempt: Attempt,
        settled: Settled,
        now: Timestamp,
    ) -> Result<Option<Learned>, Verdict> {
        self.living(by.me).map_err(|_| Verdict::Lost(Lost::Fenced))?;
        let learned;
        match settled {
            Settled::End { end, events, side, notification } => {
                if self.is_repeat(by.me, attempt, end.kind) {
                    return Ok(None);
                }
                let why = self.why_lost(attempt.entry);
                let row = self.entry(attempt.entry).ok_or(why)?;
                row.standing.end(by.me).map_err(lost)?;
                learned = self.change_side(attempt.entry, side, &events, now);
                if let Some(left) = end.left
                    && let Some(row) = self.messages.get_mut(&attempt.entry.message)
                {
                    row.ended.get_or_insert_default().insert(attempt.entry.index, left);
                }
                let by_attempt = Some((by.me, attempt.number));
                self.remove(attempt.entry, EndRow { kind: end.kind, by: by_attempt, at: now });
                debug_assert_eq!(events.iter().filter(|event| is_end_of(event, attempt.entry)).count(), 1);
                self.publish_with(events, notification, by, now);
            }
            Settled::Noted { progress, events, side, notification } => {
                let why = self.why_lost(attempt.entry);
                let row = self.entry_mut(attempt.entry).ok_or(why)?;
                row.standing.end(by.me).map_err(lost)?;
                let known = row.progress.get_or_insert_default();
                if (known.at_risk, known.late) == (progress.at_risk, progress.late) {
                    return Ok(None);
                }
                *known = progress;
                self.touched.push(Touched::Entry(attempt.entry));
                learned = self.change_side(attempt.entry, side, &events, now);
                self.publish_with(events, notification, by, now);
            }
            Settled::Deferred { progress, events, side, notification } => {
                let why = self.why_lost(attempt.entry);
                let row = self.entry_mut(attempt.entry).ok_or(why)?;
                match row.standing.defer(by.me, attempt.number).map_err(lost)? {
                    Deferral::Repeat => return Ok(None),
                    Deferral::Done(standing) => row.standing = standing,
                }
                row.progress = Some(progress);
                self.touched.push(Touched::Entry(attempt.entry));
                learned = self.change_side(attempt.entry, side, &events, now);
                self.publish_with(events, notification, by, now);
            }
        }
        Ok(learned)
    }

    fn publish_with(
        &mut self,
        events: Vec<Event>,
        notification: Option<Box<NewMessage>>,
        by: Accepting,
        now: Timestamp,
    ) {
        if let Some(new) = notification {
            self.adopt(by, &new, now);
        }
        events.into_iter().for_each(|event| self.publish(event));
    }

    fn change_side(&mut self, entry: EntryId, side: Vec<Side>, events: &[Event], now: Timestamp) -> Option<Learned> {
        if side.is_empty() {
            return None;
        }
        let message = self.messages.get(&entry.message).map(|row| row.message.clone())?;
        let mailbox = &message.recipient(entry.index).mailbox;
        let mut learned = None;
        for change in side {
            match change {
                Side::GivesBack(key) => {
                    if self.budgets.give_back(key, entry) {
                        self.touched.push(Touched::Budget(key));
                    }
                }
                Side::Unknown(key) => {
                    if self.keys.give_back(key, entry.message) {
                        self.touched.push(Touched::Key(key));
                    }
                }
                Side::Bounced { bounce, reason } => {
                    let cause = events.last().and_then(Event::cause);
                    learned = self.count_bounce(&message, mailbox, (bounce, cause, &reason), now);
                }
                Side::Lifted => self.lift_suppression(mailbox),
                Side::Waits(wait) => {
                    let waiting = Self::waiting(&message, entry.index);
                    self.touched.push(Touched::Wait(waiting.clone()));
                    self.waits.insert(waiting, wait);
                }
                Side::Row(row) => self.touched.push(Touched::Side(row)),
            }
        }
        learned
    }

    /// An entry without an owner that lives gets one. What may have left and must not leave again ends; false then.
    pub(in crate::ledger) fn take_one(&mut self, me: Epoch, delivery: Delivery, id: EntryId, now: Timestamp) -> bool {
        let Some(row) = self.entry_mut(id) else { return false };
        match row.standing.take_over(me, delivery) {
            Takeover::Taken(standing) => {
                row.standing = standing;
                true
            }
            Takeover::OutcomeUnknown => {
                let cause = Some(Cause::OutcomeUnknown);
                let unknown = Attempted { cause, may_have_arrived: true, ..Attempted::default() };
                self.end_by(me, id, Kind::Failed, unknown, now);
                false
            }
        }
    }

    /// Entries to another node or to nobody; says which went.
    pub(in crate::ledger) fn hand_over(&mut self, me: Epoch, entries: &[EntryId], to: &Target) -> Vec<EntryId> {
        if !self.is_alive(me) {
            return Vec::new();
        }
        let to = match to {
            Target::Unowned => Epoch::UNOWNED,
            Target::Node(name) => {
                let mut living = self.nodes.iter().filter(|(_, node)| node.revoked_at.is_none());
                match living.find(|(_, node)| node.name == *name) {
                    Some((epoch, _)) => *epoch,
                    None => return Vec::new(),
                }
            }
        };
        let mut went = Vec::new();
        for id in entries {
            let Some(row) = self.entry_mut(*id) else { continue };
            if let Ok(standing) = row.standing.hand_over(me, to) {
                row.standing = standing;
                self.signal(to, me, Signal::Yours(*id));
                went.push(*id);
            }
        }
        went
    }
}

fn lost(denied: Denied) -> Verdict {
    match denied {
        Denied::NotOwner | Denied::Passed => Verdict::Lost(Lost::TakenOver),
    }
}

fn is_end_of(event: &Event, entry: EntryId) -> bool {
    Kind::is_end(event.kind()) && event.entry() == Some(entry)
}
