//! What intake needs to know.

use std::time::Duration;

use super::budget;
use super::refusal::Refusal;
use super::stamp::LongLines;
use super::verification;
use crate::accounts::supersede::Supersede;
use crate::base::rate::Rate;
use crate::mail::address::{Mailbox, pattern_covers};
use crate::mail::trial::{Asks, RouteBy, Trial};

/// What intake needs to know; can change while it works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name in Received.
    pub hostname: String,
    /// Whether a domain that cannot receive mail is refused.
    pub verify_domain: bool,
    /// Whether the client's address goes into Received.
    pub received_client: bool,
    /// What is done about lines of more than 998 bytes.
    pub long_lines: LongLines,
    /// Whether local parts in which a host may read another address (`%`, `!`, `@`) are taken.
    pub routed_addresses: bool,
    /// Recipient patterns outside which nothing is taken; empty: everything is.
    pub only_to: Vec<String>,
    /// What may go to one recipient, of a user and of all.
    pub budgets: budget::Limits,
    /// What codes may be checked, and how often sent.
    pub verification: verification::Limits,
    /// Which newer message takes the place of which older one, where its user has no rule of its own.
    pub supersede: Supersede,
    /// Whether addresses are learned that are not to be sent to.
    pub learning: Learning,
    /// By what the way of a recipient's mail is found; in the sandbox an address can ask for a refusal, too.
    pub route_by: RouteBy,
}

/// Whether hard bounces become suppressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Learning {
    /// They do.
    #[default]
    On,
    /// Nothing is learned of them.
    Off,
}

/// What one user may send to one recipient where nothing else is configured.
pub const BUDGET: Rate = Rate { count: 5, span: Duration::from_secs(600) };
/// What all users together may.
pub(crate) const BUDGET_TOTAL: Rate = Rate { count: 20, span: Duration::from_secs(600) };

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            verify_domain: true,
            received_client: false,
            long_lines: LongLines::default(),
            routed_addresses: false,
            only_to: Vec::new(),
            budgets: budget::Limits { own: Some(BUDGET), total: Some(BUDGET_TOTAL) },
            verification: verification::Limits::default(),
            supersede: Supersede::default(),
            learning: Learning::default(),
            route_by: RouteBy::default(),
        }
    }
}

impl Settings {
    /// Whether mail is taken for an address of this form. One that routes may reach whom it does not name.
    pub(super) fn check_form(&self, recipient: &Mailbox) -> Result<(), Refusal> {
        if recipient.is_routed() && !self.routed_addresses { Err(Refusal::Routed) } else { self.tried(recipient) }
    }

    /// In the sandbox, the refusal that an address asks for.
    fn tried(&self, recipient: &Mailbox) -> Result<(), Refusal> {
        let trial = match self.route_by {
            RouteBy::Domain => None,
            RouteBy::Trial => Trial::of(&recipient.plain_local_part()),
        };
        let Rate { count, span } = BUDGET;
        match trial.map(|trial| trial.asks) {
            Some(Asks::Suppressed) => {
                Err(Refusal::Suppressed { bounced: None, until: None, address: recipient.plain_key() })
            }
            Some(Asks::Budget) => Err(Refusal::Budget { count, window: span, wait: span }),
            _ => Ok(()),
        }
    }

    /// The supersession rule to keep with a message: its user's own, else `otp.supersede`. By-key is kept as none.
    pub(super) fn rule_of(&self, own: Option<Supersede>) -> Option<Supersede> {
        Some(own.unwrap_or(self.supersede)).filter(|rule| *rule != Supersede::default())
    }

    /// Whether `only_to` lets mail to this recipient through.
    pub(super) fn covers(&self, recipient: &Mailbox) -> bool {
        self.only_to.is_empty() || self.only_to.iter().any(|pattern| pattern_covers(pattern, recipient))
    }
}
