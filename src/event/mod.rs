//! What happens to messages, as plain values. Whoever makes something happen says so once; `report` turns it into log
//! lines and the rest. An event never holds a subject, a body, a code or a password.

pub mod cause;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::lane::Lane;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// What can happen: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A message is on disk and was acknowledged.
    Accepted,
    /// An entry waits for a delivery slot.
    Queued,
    /// An attempt began.
    Attempted,
    /// An attempt ended without a decision; there will be another.
    Deferred,
    /// As `Deferred`, because the receiver makes strangers wait.
    Greylisted,
    /// The plan cannot promise delivery within the life any more.
    AtRisk,
    /// The receiver took the message.
    Delivered,
    /// It will not be delivered.
    Failed,
    /// Its life ended first.
    Expired,
    /// A newer message took its place.
    Superseded,
    /// The app withdrew it.
    Cancelled,
    /// A notification said that it did not arrive after all.
    Bounced,
    /// The recipient complained.
    Complained,
    /// The app saw the code being used.
    Verified,
}

/// All kinds, in their order.
pub const KINDS: [Kind; 14] = [
    Kind::Accepted,
    Kind::Queued,
    Kind::Attempted,
    Kind::Deferred,
    Kind::Greylisted,
    Kind::AtRisk,
    Kind::Delivered,
    Kind::Failed,
    Kind::Expired,
    Kind::Superseded,
    Kind::Cancelled,
    Kind::Bounced,
    Kind::Complained,
    Kind::Verified,
];

impl Kind {
    /// As in logs, the API and webhooks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Attempted => "attempted",
            Self::Deferred => "deferred",
            Self::Greylisted => "greylisted",
            Self::AtRisk => "at_risk",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Bounced => "bounced",
            Self::Complained => "complained",
            Self::Verified => "verified",
        }
    }

    /// Whether an entry has no future after this.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Expired | Self::Superseded | Self::Cancelled)
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// When.
    pub time: Timestamp,
    /// To which message.
    pub id: MessageId,
    /// To which of its entries, from 0; none where it is about all.
    pub entry: Option<u16>,
    /// Whose message.
    pub user: Arc<str>,
    /// Its lane.
    pub lane: Lane,
    /// Its label.
    pub tag: Option<Arc<str>>,
    /// To whom.
    pub recipient: Option<Mailbox>,
    /// Where: the destination's name, or the host of an attempt.
    pub destination: Option<Arc<str>>,
    /// Why, from the closed set of causes.
    pub cause: Option<&'static str>,
    /// What the remote server said, on one line.
    pub reply: Option<Arc<str>>,
    /// Which attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// When the next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// What that time follows from, for people.
    pub plan: Option<&'static str>,
    /// When the message's life ends.
    pub expires_at: Timestamp,
    /// How long it has been under way.
    pub since_accepted: Duration,
    /// Whether it may arrive all the same.
    pub may_have_arrived: bool,
    /// More for people: the cipher, the number of recipients.
    pub note: Option<Arc<str>>,
    /// What an attempt did, step by step; for traces, not for the log.
    pub steps: Option<Arc<[Step]>>,
}

/// One step of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which: `DNS`, `connect`, `banner`, `EHLO`, `STARTTLS`, `MAIL`, `RCPT`, `DATA`, `content`.
    pub stage: Arc<str>,
    /// The host; of `DNS` the domain that was asked for.
    pub host: Arc<str>,
    /// Milliseconds since the step before, or since the attempt began.
    pub ms: u32,
    /// What the host answered on one line, or what else came of it.
    pub result: Arc<str>,
}

/// What becomes of the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Suppress {
    /// Nothing.
    #[default]
    No,
    /// It counts; several of its kind suppress the address for a while.
    Count,
    /// The address is suppressed. Nothing that a host says suppresses a domain.
    Address,
}

impl Suppress {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Count => "count",
            Self::Address => "address",
        }
    }
}

/// Where events go.
pub trait Sink: Send + Sync {
    /// Takes an event; never waits.
    fn emit(&self, event: Event);
}

/// Takes events nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSink;

impl Sink for NoSink {
    fn emit(&self, _event: Event) {}
}
