//! The end of an entry, and what it entails: rows of side tables, a notification to the sender.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::entry::{Message, Progress};
use super::schedule::{Restored, Schedule};
use super::store::Change;
use super::{Queue, Supersede};
use crate::clock::Timestamp;
use crate::event::{Event, Kind, Step};
use crate::mail::id::EntryId;
use crate::mail::message::Content;
use crate::plan::action::Suppress;

/// The end of an entry, or that it is at risk, for those who have to do something about it.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    /// Its message.
    pub message: &'a Arc<Message>,
    /// Which of the recipients.
    pub index: u16,
    /// Which end.
    pub kind: Kind,
    /// Why.
    pub cause: Option<&'static str>,
    /// What the remote server said last.
    pub reply: Option<Arc<str>>,
    /// The host that said it.
    pub destination: Option<Arc<str>>,
    /// What becomes of the address.
    pub suppress: Suppress,
    /// Whether the content was sent, in any attempt.
    pub was_sent: bool,
    /// Whether the host that took it sees to telling the sender.
    pub is_passed_on: bool,
    /// Whether the time of `BY=` is over, while the entry lives on.
    pub is_late: bool,
    /// When.
    pub now: Timestamp,
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
    fn ended(&self, ending: &Ending<'_>) -> Consequences;
}

/// What the queue knows beside the event; as in [`Ending`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) was_sent: bool,
    pub(super) is_passed_on: bool,
    pub(super) suppress: Suppress,
    pub(super) is_late: bool,
}

/// How an entry ends.
#[derive(Debug)]
pub(super) struct End {
    pub(super) kind: Kind,
    pub(super) destination: Option<Arc<str>>,
    pub(super) cause: Option<&'static str>,
    pub(super) reply: Option<Arc<str>>,
    pub(super) note: Option<Arc<str>>,
    pub(super) steps: Option<Arc<[Step]>>,
    pub(super) may_have_arrived: bool,
    pub(super) notifies: bool,
    pub(super) suppress: Suppress,
}

impl End {
    pub(super) fn of(kind: Kind) -> Self {
        let (destination, cause, reply, note) = (None, None, None, None);
        Self {
            kind,
            destination,
            cause,
            reply,
            note,
            steps: None,
            may_have_arrived: false,
            notifies: false,
            suppress: Suppress::No,
        }
    }
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
        let may_have_arrived = end.may_have_arrived || is_unknown && end.kind != Kind::Delivered;
        self.entries.fetch_sub(1, Ordering::Relaxed);
        if is_last && let Some(held) = schedule.held.remove(&id.message) {
            schedule.content_len -= held.content.map_or(0, |content| content.len());
        }
        schedule.forget(id, &message, &progress, self.settings.supersede);
        let mut changes = vec![if is_last {
            Change::Remove(id.message)
        } else {
            Change::Update(id, Box::new(Progress { ended: true, ..Progress::default() }))
        }];
        let event = Event {
            destination: end.destination,
            cause: end.cause,
            reply: end.reply.or_else(|| progress.last_reply.clone()),
            note: end.note,
            steps: end.steps,
            may_have_arrived,
            ..self.entry_event(&message, id, &progress, end.kind, now)
        };
        let was_sent = progress.was_sent || may_have_arrived || end.kind == Kind::Delivered;
        let known = Known { was_sent, is_passed_on: end.notifies, suppress: end.suppress, is_late: false };
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
        let Known { was_sent, is_passed_on, suppress, is_late } = known;
        let ending = Ending {
            message,
            index: event.entry.unwrap_or_default(),
            kind: event.kind,
            cause: event.cause,
            reply: event.reply.clone(),
            destination: event.destination.clone(),
            suppress,
            was_sent,
            is_passed_on,
            is_late,
            now: event.time,
        };
        let Consequences { mut changes, notification } = aftermath.ended(&ending);
        if let Some((notification, content)) = notification {
            changes.push(Change::Accept(notification.clone(), content));
            self.adopt(schedule, notification, event.time);
        }
        changes
    }

    /// Takes a message in that the relay itself has to send; it is stored soon, and read back when its turn comes.
    fn adopt(&self, schedule: &mut Schedule, message: Arc<Message>, now: Timestamp) {
        self.entries.fetch_add(message.envelope.recipients.len(), Ordering::Relaxed);
        self.events.emit(self.event(&message, Kind::Accepted, now));
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
