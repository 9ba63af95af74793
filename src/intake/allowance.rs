//! What a message takes of what is limited: a place in the budget of each recipient, and tokens of its user's rate.

use std::sync::Arc;

use super::aftermath::Aftermath;
use super::buckets::Buckets;
use super::budget::Request;
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::ledger::entry::Message;
use crate::ledger::side::SideChange;
use crate::mail::id::EntryId;

/// What was taken for a message; given back unless the message is accepted.
pub(super) struct Allowance<'a> {
    aftermath: &'a Aftermath,
    buckets: &'a Buckets,
    message: Arc<Message>,
    /// To be stored with the message.
    changes: Vec<SideChange>,
    counts_for_rate: bool,
    is_kept: bool,
}

impl<'a> Allowance<'a> {
    /// Takes all of it, or nothing.
    ///
    /// # Errors
    /// What there is not enough of.
    pub(super) fn take(
        aftermath: &'a Aftermath,
        buckets: &'a Buckets,
        user: &User,
        message: &Arc<Message>,
        is_repeatable: bool,
    ) -> Result<Self, Refusal> {
        let mut taken = Self {
            aftermath,
            buckets,
            message: message.clone(),
            changes: Vec::new(),
            counts_for_rate: false,
            is_kept: false,
        };
        let (Message { user: name, lane, id, accepted_at: now, .. }, recipients) =
            (message.as_ref(), &message.envelope.recipients);
        let request = Request { user: name, lane: *lane, id: *id, is_repeatable, now: *now };
        taken.changes = aftermath.budgets.take(&request, recipients)?;
        buckets.take(user, recipients.len(), *now)?;
        taken.counts_for_rate = true;
        Ok(taken)
    }

    /// What of it is to be stored with the message.
    pub(super) fn changes(&mut self) -> Vec<SideChange> {
        std::mem::take(&mut self.changes)
    }

    /// The message was accepted.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Allowance<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let Message { user, id, envelope, .. } = self.message.as_ref();
        if self.counts_for_rate {
            self.buckets.give_back(user, envelope.recipients.len());
        }
        for (recipient, index) in envelope.recipients.iter().zip(0..) {
            // What may be stored of it is superfluous within the window, and gone after it.
            let _ = self.aftermath.budgets.give_back(user, &recipient.mailbox, EntryId { message: *id, index });
        }
    }
}
