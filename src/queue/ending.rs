//! The end of an entry, and what it entails: rows of side tables, a notification to the sender.

use std::sync::{Arc, Weak};

use super::entry::{Message, Outcome, Progress};
use super::schedule::{Entry, Held, Restored, Schedule};
use super::store::Change;
use super::{Queue, Supersede};
use crate::clock::Timestamp;
use crate::event::Suppress;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::mail::address::Mailbox;
use crate::mail::id::EntryId;
use crate::mail::message::Content;

/// Ended entries, of messages with live ones, whose end is remembered for a notification.
const OUTCOMES_MAX: usize = 100_000;

/// The end of an entry, or that it is at risk, for those who have to do something about it.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Its message.
    pub message: Arc<Message>,
    /// What happened to it; an event of one entry.
    pub event: Event,
    /// What becomes of the address.
    pub suppress: Suppress,
    /// Whether the content was sent, in any attempt.
    pub was_sent: bool,
    /// Whether the host that took it sees to telling the sender.
    pub is_passed_on: bool,
    /// Whether the time of `BY=` is over, while the entry lives on.
    pub is_late: bool,
    /// Whether the sender is told now.
    pub telling: Telling,
}

impl Ending {
    /// Which entry.
    pub fn entry(&self) -> EntryId {
        EntryId { message: self.message.id, index: self.event.head.entry.unwrap_or_default() }
    }

    /// To whom.
    pub fn recipient(&self) -> &Mailbox {
        &self.message.recipient(self.entry().index).mailbox
    }

    /// When.
    pub fn now(&self) -> Timestamp {
        self.event.head.time
    }
}

/// One notification tells of a message: of its ends when the last entry has ended, and once that it is late.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Telling {
    /// With the end of another entry, or it was told already.
    #[default]
    Not,
    /// Now, together with these other entries.
    Now(Vec<(u16, Outcome)>),
}

/// What the end of an entry entails, stored together with it.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Rows of side tables.
    pub changes: Vec<Change>,
    /// A message to somebody who wants to know.
    pub notification: Option<(Arc<Message>, Content)>,
}

/// Who has to do something about ends. Called with the queue locked: it must not call the queue.
pub trait Aftermath: Send + Sync {
    /// An entry ends, or is at risk.
    fn ended(&self, ending: &Ending) -> Consequences;
}

/// What the queue knows beside the event; as in [`Ending`].
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) was_sent: bool,
    pub(super) is_passed_on: bool,
    pub(super) suppress: Suppress,
    pub(super) is_late: bool,
    pub(super) telling: Telling,
}

/// How an entry ends.
#[derive(Debug)]
pub(super) struct End {
    pub(super) kind: Kind,
    pub(super) attempted: Attempted,
    pub(super) notifies: bool,
    pub(super) suppress: Suppress,
}

impl End {
    pub(super) fn of(kind: Kind) -> Self {
        Self::after(kind, Attempted::default())
    }

    pub(super) fn after(kind: Kind, attempted: Attempted) -> Self {
        Self { kind, attempted, notifies: false, suppress: Suppress::No }
    }
}

/// How the entries of a message ended that are to be told of.
fn outcomes(entries: &mut [Entry]) -> Vec<(u16, Outcome)> {
    let outcomes = entries.iter_mut().zip(0..);
    outcomes.filter_map(|(entry, index)| Some((index, *entry.progress.outcome.take()?))).collect()
}

impl Held {
    /// Whether the sender is told that an entry is late or at risk: with all that are late at this moment, once.
    pub(super) fn telling_of_delay(&self, index: u16, delay: Delay, now: Timestamp) -> Telling {
        let others = || self.entries.iter().zip(0..).filter(move |(_, other)| *other != index);
        let is_wanted = |other: u16| {
            let notify = self.message.recipient(other).notify;
            notify.map_or(delay == Delay::Late, |notify| notify.delay)
        };
        let is_told = |progress: &Progress| match delay {
            Delay::Late => progress.late,
            Delay::AtRisk => progress.at_risk,
        };
        if others().any(|(entry, other)| is_told(&entry.progress) && is_wanted(other)) {
            return Telling::Not;
        }
        let is_late_too = |entry: &Entry| delay == Delay::Late && entry.state.is_some() && !entry.is_out;
        let outcome = |(entry, other): (&Entry, u16)| {
            let reply = entry.progress.last_reply.clone();
            (other, Outcome { kind: Kind::AtRisk, at: now, reply, destination: None, is_passed_on: false })
        };
        Telling::Now(others().filter(|(entry, _)| is_late_too(entry)).map(outcome).collect())
    }
}

/// What a sender can be told before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delay {
    /// The time of `BY=` is over.
    Late,
    /// It may not arrive in time.
    AtRisk,
}

impl Queue {
    /// Ends an entry: out of memory at once, off the disk soon. The last of a message takes its content along. Returns
    /// the event; none if the entry had ended already.
    pub(super) fn end(&self, schedule: &mut Schedule, id: EntryId, end: End, now: Timestamp) -> Option<Event> {
        let held = schedule.held.get_mut(&id.message)?;
        let entry = &mut held.entries[usize::from(id.index)];
        entry.state.take()?;
        held.live -= 1;
        let is_last = held.live == 0;
        let (message, progress) = (held.message.clone(), std::mem::take(&mut entry.progress));
        let is_unknown = std::mem::take(&mut entry.is_out) || entry.may_have_arrived;
        let End { kind, attempted, notifies, suppress } = end;
        let may_have_arrived = attempted.may_have_arrived || is_unknown && kind != Kind::Delivered;
        self.entries.lock().give_back(&message.user, 1);
        let reply = attempted.reply.clone().or_else(|| progress.last_reply.clone());
        let (change, telling) = if is_last {
            let held = schedule.held.remove(&id.message);
            schedule.content_len -= held.as_ref().and_then(|held| held.content.as_ref()).map_or(0, |c| c.len());
            let others = held.map_or_else(Vec::new, |mut held| outcomes(&mut held.entries));
            schedule.outcomes = schedule.outcomes.saturating_sub(others.len());
            (Change::Remove(id.message), Telling::Now(others))
        } else {
            let outcome = Outcome {
                kind,
                at: now,
                reply: reply.clone(),
                destination: attempted.destination.clone(),
                is_passed_on: notifies,
            };
            let is_kept = message.may_tell(id.index, kind) && schedule.outcomes < OUTCOMES_MAX;
            schedule.outcomes += usize::from(is_kept);
            let outcome = is_kept.then(|| Box::new(outcome));
            let Progress { at_risk, late, .. } = progress;
            entry.progress = Progress { ended: true, at_risk, late, outcome, ..Progress::default() };
            (Change::Update(id, Box::new(entry.progress.clone())), Telling::Not)
        };
        schedule.forget(id, &message, &progress, self.settings.supersede);
        let mut changes = vec![change];
        // There is no other attempt that a plan could be for.
        let attempted = Attempted { reply, may_have_arrived, plan: None, ..attempted };
        let what = Happened::of(kind, attempted, None);
        let event = Event { head: message.entry_head(id.index, progress.attempts, now), what };
        let was_sent = progress.was_sent || may_have_arrived || kind == Kind::Delivered;
        let known = Known { was_sent, is_passed_on: notifies, suppress, is_late: false, telling };
        changes.extend(self.consequences(schedule, &message, &event, known));
        self.journal.commit_later(changes);
        Some(event)
    }

    /// What else happens when something happened to an entry; the changes are to be stored along with it.
    pub(super) fn consequences(
        &self,
        schedule: &mut Schedule,
        message: &Arc<Message>,
        event: &Event,
        known: Known,
    ) -> Vec<Change> {
        let Some(aftermath) = self.aftermath.get().and_then(Weak::upgrade) else { return Vec::new() };
        let Known { was_sent, is_passed_on, suppress, is_late, telling } = known;
        let (message, event) = (message.clone(), event.clone());
        let now = event.head.time;
        let ending = Ending { message, event, suppress, was_sent, is_passed_on, is_late, telling };
        let Consequences { mut changes, notification } = aftermath.ended(&ending);
        if let Some((notification, content)) = notification {
            changes.push(Change::Accept(notification.clone(), content));
            self.adopt(schedule, notification, now);
        }
        changes
    }

    /// Takes in a message of the relay's own that no end entails.
    pub fn take_in(&self, message: Arc<Message>, content: Content) {
        let now = self.clock.now();
        let mut schedule = self.schedule.lock();
        self.journal.commit_later(vec![Change::Accept(message.clone(), content)]);
        self.adopt(&mut schedule, message, now);
    }

    /// Takes a message in that the relay itself has to send; it is stored soon, and read back when its turn comes. It
    /// counts for the user whose message it is about, and is never refused.
    fn adopt(&self, schedule: &mut Schedule, message: Arc<Message>, now: Timestamp) {
        self.entries.lock().add(&message.user, message.envelope.recipients.len());
        self.events.emit(Event { head: message.head(now), what: Happened::Accepted { note: None } });
        schedule.restore(message, Vec::new(), now, Supersede::Off, &mut Restored::default());
        self.timers_changed.notify_one();
    }

    /// Ends what turned out at start to have no future: lives that ended meanwhile, entries whose place a newer one had
    /// taken, and attempts of which only the answer is missing and that must not be made twice.
    pub(super) fn end_restored(&self) {
        let now = self.clock.now();
        let Restored { ended, empty } = std::mem::take(&mut *self.restored.lock());
        for (id, end) in ended {
            let event = self.end(&mut self.schedule.lock(), id, end, now);
            event.into_iter().for_each(|event| self.events.emit(event));
        }
        if !empty.is_empty() {
            self.journal.commit_later(empty.into_iter().map(Change::Remove).collect());
        }
    }
}
