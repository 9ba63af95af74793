//! Whether mail may go to a recipient, before there is a message: its form, suppression, limits, and whether its domain can
//! receive mail.

use std::time::Duration;

use super::budget::Request;
use super::door::Door;
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::base::clock::Timestamp;
use crate::destination::route::RouteError;
use crate::ledger::accept::{KeyOf, Precheck};
use crate::mail::address::Mailbox;

/// How long all recipients of a message together wait for DNS. Clients that send while somebody looks at a page give a command
/// three to five seconds.
pub const DNS_WAIT: Duration = Duration::from_secs(1);

/// An answer that is there at once, or has to be waited for.
#[derive(Debug, PartialEq, Eq)]
pub enum RecipientCheck {
    /// Known.
    Done(Result<(), Refusal>),
    /// Ask [`Door::wait_for_domain`].
    NeedsDns,
}

impl Door {
    /// May mail go to this recipient? Asks the ledger, and says so where DNS has to be asked too.
    pub async fn check_recipient(&self, user: &User, recipient: &Mailbox) -> RecipientCheck {
        let settings = self.settings();
        let now = self.parts.clock.now();
        let room = match settings.check_form(recipient) {
            Ok(()) => self.check_obstacles(user, recipient, now).await,
            refused @ Err(_) => refused,
        };
        if room.is_err() {
            return RecipientCheck::Done(room);
        }
        if recipient.address_literal().is_some() {
            return RecipientCheck::Done(Err(Refusal::AddressLiteral));
        }
        if !settings.covers(recipient) {
            return RecipientCheck::Done(Err(Refusal::NotInOnlyTo));
        }
        match self.parts.router.remembered(&self.parts.router.name(recipient)) {
            Some(Err(error)) if settings.verify_domain => RecipientCheck::Done(domain_verdict(&error)),
            Some(_) => RecipientCheck::Done(Ok(())),
            None => RecipientCheck::NeedsDns,
        }
    }

    /// Whether a message to this recipient could pass in any lane that the user may use, or as a repeat.
    async fn check_obstacles(&self, user: &User, recipient: &Mailbox, now: Timestamp) -> Result<(), Refusal> {
        let (queue, lane) = (&self.parts.queue, user.lane.with_most_budget());
        let request = Request { user: &user.name, lane, is_repeatable: false };
        let budgets = self.settings().budgets.asks(request, [recipient], |name| queue.key_hash(KeyOf::Budget, name));
        let ahead = self.parts.aftermath.expected.ahead(&budgets);
        let ask = Precheck { sender: Box::default(), recipient: recipient.clone(), budgets, ahead };
        let obstacles = queue.precheck(ask).await?;
        if let Some(found) = obstacles.suppression {
            return Err(self.by_wall(Refusal::suppressed(&found, &user.name)));
        }
        self.buckets.check(user, now)?;
        match obstacles.budget {
            Some(over) if !over.may_repeat => Err(Refusal::over_budget(over.why, now)),
            Some(_) | None => Ok(()),
        }
    }

    /// Looks the recipient's domain up. Trouble with DNS, and no answer within `patience`, is no refusal; and where
    /// domains are not verified, the look-up only saves delivery the time.
    ///
    /// # Errors
    /// When the domain cannot receive mail.
    pub async fn wait_for_domain(&self, recipient: &Mailbox, patience: Duration) -> Result<(), Refusal> {
        let (router, domain) = (self.parts.router.clone(), self.parts.router.name(recipient));
        // On a task of its own, so that the answer is kept even when it comes too late for this command.
        let lookup = tokio::spawn(async move { router.route(&domain).await });
        if !self.settings().verify_domain {
            return Ok(());
        }
        match tokio::time::timeout(patience, lookup).await {
            Ok(Ok(Err(error))) => domain_verdict(&error),
            Ok(Ok(Ok(_)) | Err(_)) | Err(_) => Ok(()),
        }
    }
}

fn domain_verdict(error: &RouteError) -> Result<(), Refusal> {
    match error {
        RouteError::NoSuchDomain => Err(Refusal::NoSuchDomain),
        RouteError::NullMx => Err(Refusal::NullMx),
        RouteError::NoHost => Err(Refusal::NoMailHost),
        RouteError::Private => Err(Refusal::PrivateHosts),
        RouteError::Trouble(_) => Ok(()),
    }
}
