//! The way into the queue: stored first, then brought to life.

use std::sync::Arc;

use super::ending::{Delay, Known};
use super::entry::{Message, Progress, SignedContent, State};
use super::journal::PendingCommit;
use super::schedule::{Entry, Held, Schedule, entries_of};
use super::store::Change;
use super::timers::Timer;
use super::{AppendError, Queue};
use crate::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Happened};
use crate::mail::id::EntryId;
use crate::mail::message::Content;
use crate::plan::greylist::Forecast;
use crate::shares::Beyond;

/// Content of fresh messages kept in memory, so that it need not be read back, at most; beyond it is read.
const CONTENT_IN_MEMORY_MAX: usize = 64 << 20;

/// An entry that cannot be expected to arrive in time.
#[derive(Debug, Clone)]
pub struct Risk {
    /// Which of the recipients.
    pub index: u16,
    /// The destination's name.
    pub destination: Arc<str>,
    /// Why.
    pub forecast: Forecast,
}

/// What is known of a message at its admission.
#[derive(Debug, Clone, Copy, Default)]
pub struct Foreknowledge<'a> {
    /// Of entries that come too late.
    pub risks: &'a [Risk],
    /// More for people, told with the acceptance.
    pub note: Option<&'static str>,
}

impl Queue {
    /// Starts storing a message; [`Queue::stored`] says when it is durable, then [`Queue::admit`] brings it to life. A
    /// caller that is busy meanwhile lets it wait for others (not `at_once`), so that fewer syncs serve more messages.
    ///
    /// # Errors
    /// When there are too many entries already, in all or of the message's user.
    pub fn append(
        &self,
        message: &Arc<Message>,
        content: Content,
        mut side: Vec<Change>,
        at_once: bool,
    ) -> Result<PendingCommit, AppendError> {
        let recipients = message.envelope.recipients.len();
        let portion = self.sharing.lock().of(self.settings.entries_max);
        let taken = self.entries.lock().take(&message.user, recipients, portion);
        taken.map_err(|beyond| match beyond {
            Beyond::Whole => AppendError::QueueFull { entries_max: self.settings.entries_max },
            Beyond::Share => AppendError::ShareFull(portion),
        })?;
        side.insert(0, Change::Accept(message.clone(), content));
        Ok(self.journal.begin_commit(message.lane, side, at_once))
    }

    /// Waits until what [`Queue::append`] began is durable.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn stored(&self, commit: &mut PendingCommit) -> Result<(), AppendError> {
        Ok(self.journal.finish(commit).await?)
    }

    /// Takes back what [`Queue::append`] began: the places in the queue, and what may be stored.
    pub fn abandon(&self, message: &Message, commit: &mut PendingCommit) {
        self.entries.lock().give_back(&message.user, message.envelope.recipients.len());
        self.journal.withdraw(message.lane, std::mem::take(&mut commit.undo));
    }

    /// Brings a stored message to life: its entries are offered to the workers, also those at risk.
    pub fn admit(&self, message: &Arc<Message>, content: SignedContent, known: Foreknowledge<'_>) {
        let recipients = message.envelope.recipients.len();
        let mut schedule = self.schedule.lock();
        let keep = schedule.content_len + content.len() <= CONTENT_IN_MEMORY_MAX;
        let content = keep.then(|| Arc::new(content));
        schedule.content_len += content.as_ref().map_or(0, |content| content.len());
        let entry = || Entry::new(Some(State::Queued), Progress::default());
        let held = Held {
            message: message.clone(),
            content,
            entries: (0..recipients).map(|_| entry()).collect(),
            live: u16::try_from(recipients).unwrap_or(u16::MAX),
        };
        schedule.held.insert(message.id, held);
        let mut is_first = false;
        for entry in entries_of(message) {
            is_first |= schedule.add_timer(message.expires_at, entry, Timer::Expiry);
            if let Some(late_at) = message.late_at() {
                is_first |= schedule.add_timer(late_at, entry, Timer::Late);
            }
        }
        let now = self.clock.now();
        let superseded = self.take_slots(&mut schedule, message, now);
        let foreseen: Vec<_> =
            known.risks.iter().filter_map(|risk| self.foresee(&mut schedule, message, risk, now)).collect();
        drop(schedule);
        if is_first {
            self.timers_changed.notify_one();
        }
        let several = (recipients > 1).then(|| format!("{recipients} recipients"));
        let notes: Vec<String> = several.into_iter().chain(known.note.map(str::to_owned)).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; ").into());
        self.events.emit(Event { head: message.head(now), what: Happened::Accepted { note } });
        superseded.into_iter().chain(foreseen).for_each(|event| self.events.emit(event));
        for entry in entries_of(message) {
            self.offer(entry, message.clone());
        }
    }

    /// An entry is at risk from the beginning. Noted before it can be claimed, so that no attempt tells it again.
    fn foresee(&self, schedule: &mut Schedule, message: &Arc<Message>, risk: &Risk, now: Timestamp) -> Option<Event> {
        let id = EntryId { message: message.id, index: risk.index };
        let held = schedule.held.get_mut(&message.id)?;
        let telling = held.telling_of_delay(risk.index, Delay::AtRisk, now);
        let entry = held.entries.get_mut(usize::from(risk.index))?;
        entry.progress.at_risk = true;
        let progress = entry.progress.clone();
        let attempted = Attempted {
            destination: Some(risk.destination.clone()),
            cause: Some(Cause::Greylisted),
            note: Some(risk.forecast.text().into()),
            ..Attempted::default()
        };
        let head = message.entry_head(id.index, progress.attempts, now);
        let event = Event { head, what: Happened::AtRisk { attempted, next_attempt_at: Some(now) } };
        let mut changes = vec![Change::Update(id, Box::new(progress))];
        changes.extend(self.consequences(schedule, message, &event, Known { telling, ..Known::default() }));
        self.journal.commit_later(changes);
        Some(event)
    }
}
