//! What a message takes of what is limited: a place in the budget of each recipient, and tokens of its user's rate.

use std::sync::Arc;

use super::aftermath::Aftermath;
use super::buckets::Buckets;
use super::budget::{Expectation, Request};
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::ledger::accept::{Ahead, BudgetAsk, KeyOf, Precheck};
use crate::ledger::entry::Message;
use crate::queue::Queue;

/// What was taken for a message; given back unless the message is accepted.
pub(super) struct Allowance<'a> {
    buckets: &'a Buckets,
    message: Arc<Message>,
    /// The places that it asks the ledger for.
    budgets: Vec<BudgetAsk>,
    /// They count here until the ledger has decided on them.
    _expectation: Expectation<'a>,
    counts_for_rate: bool,
    is_kept: bool,
}

/// When a message is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Next. The ledger says then what stands in its way.
    AtOnce,
    /// When the others of its request are ready too. What is known to stand in its way is said before any of them is stored.
    WithOthers,
}

impl<'a> Allowance<'a> {
    /// Takes all of it, or nothing; of places in budgets it only makes sure that there are enough.
    ///
    /// # Errors
    /// What there is not enough of.
    pub(super) async fn take(
        (aftermath, buckets, queue): (&'a Aftermath, &'a Buckets, &Queue),
        user: &User,
        message: &Arc<Message>,
        is_repeatable: bool,
        pace: Pace,
    ) -> Result<Self, Refusal> {
        let request = Request { user: &message.user, lane: message.lane, is_repeatable };
        let recipients = message.envelope.recipients.iter().map(|recipient| &recipient.mailbox);
        let limits = aftermath.settings.load().budgets;
        let budgets = limits.asks(request, recipients, |name| queue.key_hash(KeyOf::Budget, name));
        let (expectation, ahead) = match pace {
            Pace::AtOnce => (Expectation::none(&aftermath.expected, message.id), aftermath.expected.ahead(&budgets)),
            Pace::WithOthers => aftermath.expected.expect(message.id, &budgets),
        };
        let mut taken = Self {
            buckets,
            message: message.clone(),
            budgets,
            _expectation: expectation,
            counts_for_rate: false,
            is_kept: false,
        };
        if pace == Pace::WithOthers || !ahead.is_empty() {
            taken.check(queue, &ahead).await?;
        }
        buckets.take(user, message.envelope.recipients.len(), message.accepted_at)?;
        taken.counts_for_rate = true;
        Ok(taken)
    }

    /// Asks what is known to stand in its way, places that other messages of this node are about to take included. Only its
    /// acceptance decides.
    async fn check(&self, queue: &Queue, ahead: &[Ahead]) -> Result<(), Refusal> {
        let message = &self.message;
        let mut over_budget = None;
        for (index, recipient) in (0..).zip(&message.envelope.recipients) {
            let of_mailbox = self.budgets.iter().filter(|ask| ask.entries.first() == Some(&index));
            let ask = Precheck {
                sender: Box::default(),
                recipient: recipient.mailbox.clone(),
                budgets: of_mailbox.cloned().collect(),
                ahead: ahead.to_vec(),
            };
            let obstacles = queue.precheck(ask).await?;
            if let Some(found) = obstacles.suppression {
                return Err(Refusal::suppressed(&found, &message.user));
            }
            over_budget = over_budget.or(obstacles.budget);
        }
        over_budget.map_or(Ok(()), |over| Err(Refusal::over_budget(over.why, message.accepted_at)))
    }

    /// The places that it asks the ledger for.
    pub(super) fn budgets(&mut self) -> Vec<BudgetAsk> {
        std::mem::take(&mut self.budgets)
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
        let Message { user, envelope, .. } = self.message.as_ref();
        if self.counts_for_rate {
            self.buckets.give_back(user, envelope.recipients.len());
        }
    }
}
