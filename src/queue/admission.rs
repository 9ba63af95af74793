//! The way into the queue: stored first, then brought to life.

use std::sync::Arc;

use super::effects::Effects;
use super::offers::Offered;
use super::outbox::Patience;
use super::risk::Foreknowledge;
use super::schedule::Schedule;
use super::{AppendError, Queue};
use crate::base::shares::Beyond;
use crate::ledger::embedded::journal::PendingCommit;
use crate::ledger::embedded::store::Change;
use crate::ledger::entry::{Message, SignedContent};
use crate::mail::message::Content;

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
        let taken = self.outbox.schedule(|schedule| schedule.shares().take(&message.user, recipients, portion));
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
        let count = message.envelope.recipients.len();
        self.outbox.schedule(|schedule| schedule.shares().give_back(&message.user, count));
        self.journal.withdraw(message.lane, std::mem::take(&mut commit.undo));
    }

    /// Brings a stored message to life: its entries are offered to the workers, also those at risk.
    pub fn admit(&self, message: &Arc<Message>, content: SignedContent, known: Foreknowledge<'_>) -> Offered {
        let (now, recipients) = (self.clock.now(), message.envelope.recipients.len());
        let several = (recipients > 1).then(|| format!("{recipients} recipients"));
        let notes: Vec<String> = several.into_iter().chain(known.note.map(str::to_owned)).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; ").into());
        let accept = |schedule: &mut Schedule, effects: &mut Effects| {
            schedule.accept(message, content, known.risks, note, now, effects);
        };
        self.apply_and_offer(Patience::PassBy, accept).1
    }

    /// Takes in a message of the relay's own that no end entails; it is stored soon.
    pub fn take_in(&self, message: Arc<Message>, content: Content) {
        let now = self.clock.now();
        self.journal.commit_later(vec![Change::Accept(message.clone(), content)]);
        self.apply(Patience::PassBy, |schedule, effects| schedule.adopt(message, now, effects));
    }
}
