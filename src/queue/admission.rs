//! The way into the queue: stored first, then brought to life.

use std::sync::Arc;

use super::effects::{Effects, accepted};
use super::offers::Offered;
use super::outbox::Patience;
use super::risk::Foreknowledge;
use super::schedule::Schedule;
use super::{AppendError, Queue};
use crate::base::clock::Timestamp;
use crate::base::shares::Beyond;
use crate::event::{Attempted, Event, Happened};
use crate::ledger::embedded::journal::PendingCommit;
use crate::ledger::embedded::store::Change;
use crate::ledger::entry::{Message, SignedContent};
use crate::mail::message::Content;

/// What is told of an entry of a message that was stored and not acknowledged.
fn given_up(message: &Message, index: u16, now: Timestamp) -> Event {
    let attempted = Attempted { note: Some("given up before it was acknowledged".into()), ..Attempted::default() };
    Event { head: message.entry_head(index, 0, now), what: Happened::Cancelled(attempted) }
}

impl Queue {
    /// Starts storing a message; [`Queue::stored`] says when it is durable, then [`Queue::admit`] brings it to life. A
    /// caller that is busy meanwhile lets it wait for others (not `at_once`), so that fewer syncs serve more messages.
    /// `note` is more for people, told with the acceptance.
    ///
    /// # Errors
    /// When there are too many entries already, in all or of the message's user.
    pub fn append(
        &self,
        message: &Arc<Message>,
        content: Content,
        side: Vec<Change>,
        note: Option<&'static str>,
        at_once: bool,
    ) -> Result<PendingCommit, AppendError> {
        let recipients = message.envelope.recipients.len();
        let portion = self.sharing.lock().of(self.settings.entries_max);
        let taken = self.outbox.schedule(|schedule| schedule.shares().take(&message.user, recipients, portion));
        taken.map_err(|beyond| match beyond {
            Beyond::Whole => AppendError::QueueFull { entries_max: self.settings.entries_max },
            Beyond::Share => AppendError::ShareFull(portion),
        })?;
        let event = accepted(message, note, self.clock.now());
        let mut changes = vec![Change::Accept(message.clone(), content), Change::Event(Arc::new(event))];
        changes.extend(side);
        Ok(self.journal.begin_commit(message.lane, changes, at_once))
    }

    /// Waits until what [`Queue::append`] began is durable.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn stored(&self, commit: &mut PendingCommit) -> Result<(), AppendError> {
        Ok(self.journal.finish(commit).await?)
    }

    /// Takes back what [`Queue::append`] began: the places in the queue, and what may be stored. Where its acceptance was told,
    /// its end is told too.
    pub(crate) fn abandon(&self, message: &Message, commit: &mut PendingCommit) {
        let count = message.envelope.recipients.len();
        self.outbox.schedule(|schedule| schedule.shares().give_back(&message.user, count));
        let mut changes = std::mem::take(&mut commit.undo);
        if !commit.has_failed() {
            let now = self.clock.now();
            changes.extend((0..).take(count).map(|index| Change::Event(Arc::new(given_up(message, index, now)))));
        }
        self.journal.withdraw(message.lane, changes);
    }

    /// Brings a stored message to life: its entries are offered to the workers, also those at risk.
    pub fn admit(&self, message: &Arc<Message>, content: SignedContent, known: Foreknowledge<'_>) -> Offered {
        let event = accepted(message, known.note, self.clock.now());
        let accept = |schedule: &mut Schedule, effects: &mut Effects| {
            schedule.accept(message, content, known.risks, event, effects);
        };
        self.apply_and_offer(Patience::PassBy, accept).1
    }

    /// Takes in a message of the relay's own that no end entails; it is stored soon.
    pub(crate) fn take_in(&self, message: Arc<Message>, content: Content) {
        let now = self.clock.now();
        let event = Change::Event(Arc::new(accepted(&message, None, now)));
        self.journal.commit_later(vec![Change::Accept(message.clone(), content), event]);
        self.apply(Patience::PassBy, |schedule, effects| schedule.adopt(message, now, effects));
    }
}
