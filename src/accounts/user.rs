//! Who sends.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::supersede::Supersede;
use crate::base::lane::Lane;
use crate::base::rate::Rate;
use crate::mail::address::{Mailbox, pattern_covers};

/// The name under which clients in trusted networks act.
pub const TRUSTED: &str = "trusted";

/// An app, or a group of them, with its rights and its default options.
#[derive(Debug, Clone)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// What it may put into reverse-path and From.
    pub senders: Senders,
    /// Its default lane, and the most urgent it may ask for.
    pub lane: Lane,
    /// The life of its messages unless they ask for another.
    pub life: Duration,
    /// How many recipients it may send to in which time; none: no limit.
    pub rate: Option<Rate>,
    /// What its messages get that do not ask for it themselves.
    pub defaults: Defaults,
}

/// Options for an app that cannot set header fields. What a message says itself counts more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Defaults {
    /// Which newer message takes the place of which older one; none: as `otp.supersede` says.
    pub(crate) supersede: Option<Supersede>,
    /// The supersession key.
    pub key: Option<Arc<str>>,
    /// The label for events.
    pub tag: Option<Arc<str>>,
    /// For how long the same mail to the same recipients is a repeat; zero: it never is.
    pub(crate) idempotency_window: Duration,
}

/// The supersession key that makes a message take the place of any other of its user to the same recipient: keys are
/// compared together with user and recipient, so one and the same will do for all.
pub(crate) const KEY_OF_RECIPIENT: &str = "recipient";

/// Whom a user may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Senders {
    /// Addresses that one of these patterns covers.
    Patterns(Vec<String>),
    /// Any address of a domain with a DKIM key.
    SigningDomains,
}

/// What a message without an option gets where nothing else is configured.
pub(crate) const DEFAULT_LIFE: Duration = Duration::from_secs(600);

impl User {
    /// A user with the defaults, which may send as nobody yet.
    pub fn unlimited(name: &str) -> Self {
        let senders = Senders::Patterns(Vec::new());
        let defaults = Defaults::default();
        Self { name: name.into(), senders, lane: Lane::Otp, life: DEFAULT_LIFE, rate: None, defaults }
    }

    /// Whether it may send as this address. `signs`: whether a domain (lower case, A-labels) has a DKIM key.
    pub fn may_send_as(&self, mailbox: &Mailbox, signs: impl Fn(&str) -> bool) -> bool {
        match &self.senders {
            Senders::Patterns(patterns) => patterns.iter().any(|pattern| pattern_covers(pattern, mailbox)),
            Senders::SigningDomains => signs(&mailbox.domain_key()),
        }
    }

    /// What it may send as, for a refusal.
    pub fn allowed(&self) -> String {
        match &self.senders {
            Senders::Patterns(patterns) if patterns.is_empty() => "no senders are configured for this user".to_owned(),
            Senders::Patterns(patterns) => format!("allowed are {}", patterns.join(", ")),
            Senders::SigningDomains => "allowed are the domains with a DKIM key".to_owned(),
        }
    }
}

/// What the configuration keeps of an API token: its SHA-256 in hexadecimal.
pub fn token_hash(token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    HEXLOWER.encode(digest.as_ref())
}
