//! What happens to messages, as plain values. Whoever makes something happen says so once; `report` turns it into log
//! lines and the rest. An event never holds a subject, a body, a code or a password.

pub mod cause;
pub(crate) mod json;
pub mod stored;
#[cfg(test)]
mod testing;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::{self, Timestamp};
use crate::base::lane::Lane;
use crate::base::named::named;
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};
use cause::Cause;

named! {
    /// What can happen: a closed set.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Kind: name, ALL {
        /// A message is on disk and was acknowledged.
        Accepted = "accepted",
        /// An entry waits for a delivery slot.
        Queued = "queued",
        /// An attempt began.
        Attempted = "attempted",
        /// An attempt ended without a decision; there will be another.
        Deferred = "deferred",
        /// As `Deferred`, because the receiver greylists.
        Greylisted = "greylisted",
        /// The plan cannot promise delivery within the life any more.
        AtRisk = "at_risk",
        /// The receiver took the message.
        Delivered = "delivered",
        /// It will not be delivered.
        Failed = "failed",
        /// Expired before that.
        Expired = "expired",
        /// A newer message took its place.
        Superseded = "superseded",
        /// The app withdrew it.
        Cancelled = "cancelled",
        /// A notification said that it did not arrive after all.
        Bounced = "bounced",
        /// The recipient complained.
        Complained = "complained",
        /// The app saw the code being used.
        Verified = "verified",
    }
}

/// All kinds, in their order.
pub(crate) const KINDS: [Kind; 14] = Kind::ALL;

impl Kind {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it only tells of work in progress: nothing is stored for its sake, and a crash may lose it.
    pub(crate) fn is_informative(self) -> bool {
        matches!(self, Self::Queued | Self::Attempted)
    }

    /// Whether an entry has no future after this.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Expired | Self::Superseded | Self::Cancelled)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To whom, and when.
    pub head: Head,
    /// What.
    pub what: Happened,
}

/// What every event has: the message, the entry and the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub time: Timestamp,
    pub id: MessageId,
    /// To which of its entries, from 0; none where it is about all.
    pub entry: Option<u16>,
    pub user: Arc<str>,
    pub lane: Lane,
    pub tag: Option<Arc<str>>,
    /// Its reverse-path; none for notifications.
    pub from: Option<Mailbox>,
    /// What the app's own tracing knows it by.
    pub traceparent: Option<Arc<str>>,
    /// The verification whose code it carries.
    pub verification: Option<Arc<str>>,
    /// The message's Message-ID field, where it is not [`usual_message_id`]; empty where it is no text that could be told.
    pub(crate) message_id: Option<Arc<str>>,
    pub recipient: Option<Mailbox>,
    /// Which attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// When the message's life ends.
    pub expires_at: Timestamp,
    /// How long it has been under way.
    pub since_accepted: Duration,
}

impl Head {
    /// The message's Message-ID field, angle brackets included, as far as it is known.
    pub(crate) fn message_id(&self) -> Option<String> {
        match &self.message_id {
            Some(known) => Some(known.to_string()).filter(|known| !known.is_empty()),
            None => usual_message_id(self.id, self.from.as_ref()),
        }
    }
}

/// The Message-ID field of a message to which the relay gave it, and whose author is its reverse-path.
pub(crate) fn usual_message_id(id: MessageId, from: Option<&Mailbox>) -> Option<String> {
    from.map(|from| id.header_field(&from.domain_key()))
}

/// What an attempt came to, from the attempt itself to whoever reads of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempted {
    /// The host, or the destination where it did not come to a host.
    pub destination: Option<Arc<str>>,
    /// The cause, unless it was delivered.
    pub cause: Option<Cause>,
    /// What the host said, on one line.
    pub reply: Option<Arc<str>>,
    /// What the time of the next attempt follows from, for people.
    pub plan: Option<Cow<'static, str>>,
    /// More for people: the cipher, what comes next.
    pub note: Option<Arc<str>>,
    /// What was done, step by step; for traces, not for the log.
    pub steps: Option<Arc<[Step]>>,
    /// Whether the receiver may have taken it although it did not say so.
    pub may_have_arrived: bool,
}

/// What happened. [`Kind`] is its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A message is on disk and was acknowledged.
    Accepted {
        /// More for people: the number of recipients.
        note: Option<Arc<str>>,
        /// The domains of the recipients beyond the first, in their order; empty where they are not known.
        others: Arc<[Arc<str>]>,
    },
    /// An entry waits for a delivery slot; with what the last attempt left.
    Queued(Attempted),
    /// An attempt began.
    Attempted {
        /// Where to.
        destination: Option<Arc<str>>,
    },
    /// An attempt ended without a decision; there will be another.
    Deferred {
        /// What it came to.
        attempted: Attempted,
        /// When the next one is due; none where that would be after the end of life.
        next_attempt_at: Option<Timestamp>,
    },
    /// The plan cannot promise delivery within the life any more.
    AtRisk {
        /// What the last attempt came to, or would come to.
        attempted: Attempted,
        /// When the next one is due.
        next_attempt_at: Option<Timestamp>,
    },
    /// The receiver took the message.
    Delivered(Attempted),
    /// It will not be delivered.
    Failed(Attempted),
    /// Expired before that.
    Expired(Attempted),
    /// A newer message took its place.
    Superseded(Attempted),
    /// The app withdrew it.
    Cancelled(Attempted),
    /// A notification said that it did not arrive after all.
    Bounced(Attempted),
    /// The recipient complained.
    Complained(Attempted),
    /// The app saw the code being used.
    Verified {
        /// How long after its delivery, where that is known.
        since_delivered: Option<Duration>,
    },
}

impl Happened {
    /// Its name.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Accepted { .. } => Kind::Accepted,
            Self::Queued(_) => Kind::Queued,
            Self::Attempted { .. } => Kind::Attempted,
            Self::Deferred { attempted, .. } if attempted.cause == Some(Cause::Greylisted) => Kind::Greylisted,
            Self::Deferred { .. } => Kind::Deferred,
            Self::AtRisk { .. } => Kind::AtRisk,
            Self::Delivered(_) => Kind::Delivered,
            Self::Failed(_) => Kind::Failed,
            Self::Expired(_) => Kind::Expired,
            Self::Superseded(_) => Kind::Superseded,
            Self::Cancelled(_) => Kind::Cancelled,
            Self::Bounced(_) => Kind::Bounced,
            Self::Complained(_) => Kind::Complained,
            Self::Verified { .. } => Kind::Verified,
        }
    }

    /// As [`Happened::kind`] tells it apart again; what a kind has not is left out.
    pub fn of(kind: Kind, attempted: Attempted, next_attempt_at: Option<Timestamp>) -> Self {
        match kind {
            Kind::Accepted => Self::Accepted { note: attempted.note, others: Arc::default() },
            Kind::Queued => Self::Queued(attempted),
            Kind::Attempted => Self::Attempted { destination: attempted.destination },
            Kind::Greylisted => {
                Self::Deferred { attempted: Attempted { cause: Some(Cause::Greylisted), ..attempted }, next_attempt_at }
            }
            Kind::Deferred => Self::Deferred { attempted, next_attempt_at },
            Kind::AtRisk => Self::AtRisk { attempted, next_attempt_at },
            Kind::Delivered => Self::Delivered(attempted),
            Kind::Failed => Self::Failed(attempted),
            Kind::Expired => Self::Expired(attempted),
            Kind::Superseded => Self::Superseded(attempted),
            Kind::Cancelled => Self::Cancelled(attempted),
            Kind::Bounced => Self::Bounced(attempted),
            Kind::Complained => Self::Complained(attempted),
            Kind::Verified => Self::Verified { since_delivered: None },
        }
    }

    /// What the last attempt came to, where there was one, or would come to.
    pub fn attempted(&self) -> Option<&Attempted> {
        match self {
            Self::Deferred { attempted, .. }
            | Self::AtRisk { attempted, .. }
            | Self::Queued(attempted)
            | Self::Delivered(attempted)
            | Self::Failed(attempted)
            | Self::Expired(attempted)
            | Self::Superseded(attempted)
            | Self::Cancelled(attempted)
            | Self::Bounced(attempted)
            | Self::Complained(attempted) => Some(attempted),
            Self::Accepted { .. } | Self::Attempted { .. } | Self::Verified { .. } => None,
        }
    }

    /// Where: the destination's name, or the host of an attempt.
    pub fn destination(&self) -> Option<&Arc<str>> {
        if let Self::Attempted { destination } = self {
            return destination.as_ref();
        }
        self.attempted()?.destination.as_ref()
    }

    pub(crate) fn note(&self) -> Option<&Arc<str>> {
        if let Self::Accepted { note, .. } = self {
            return note.as_ref();
        }
        self.attempted()?.note.as_ref()
    }

    /// The domains of the recipients beyond the first.
    pub fn others(&self) -> &[Arc<str>] {
        if let Self::Accepted { others, .. } = self { others } else { &[] }
    }

    /// As [`Happened::attempted`], to be changed.
    pub(crate) fn attempted_mut(&mut self) -> Option<&mut Attempted> {
        match self {
            Self::Deferred { attempted, .. }
            | Self::AtRisk { attempted, .. }
            | Self::Queued(attempted)
            | Self::Delivered(attempted)
            | Self::Failed(attempted)
            | Self::Expired(attempted)
            | Self::Superseded(attempted)
            | Self::Cancelled(attempted)
            | Self::Bounced(attempted)
            | Self::Complained(attempted) => Some(attempted),
            Self::Accepted { .. } | Self::Attempted { .. } | Self::Verified { .. } => None,
        }
    }
}

impl Event {
    /// Whether it is about this recipient ([`Mailbox::plain_key`]).
    pub(crate) fn is_about(&self, plain: &str) -> bool {
        self.head.recipient.as_ref().is_some_and(|recipient| recipient.plain_key() == plain)
    }

    /// The same of nobody in particular: the address, and what may quote it, are gone.
    pub(crate) fn without_recipient(&self) -> Self {
        let mut event = self.clone();
        event.head.recipient = None;
        if let Some(attempted) = event.what.attempted_mut() {
            (attempted.reply, attempted.note, attempted.steps) = (None, None, None);
        }
        event
    }

    /// The name of what happened.
    pub fn kind(&self) -> Kind {
        self.what.kind()
    }

    /// The entry it is about.
    pub fn entry(&self) -> Option<EntryId> {
        self.head.entry.map(|index| EntryId { message: self.head.id, index })
    }

    /// Where: the destination's name, or the host of an attempt.
    pub fn destination(&self) -> Option<&str> {
        self.what.destination().map(|destination| &**destination)
    }

    /// Why.
    pub fn cause(&self) -> Option<Cause> {
        self.what.attempted()?.cause
    }

    /// What the remote server said.
    pub fn reply(&self) -> Option<&str> {
        self.what.attempted()?.reply.as_deref()
    }

    /// More for people.
    pub fn note(&self) -> Option<&str> {
        self.what.note().map(|note| &**note)
    }

    /// How long after its delivery the code was used.
    pub fn since_delivered(&self) -> Option<Duration> {
        if let Happened::Verified { since_delivered } = &self.what { *since_delivered } else { None }
    }

    /// What an attempt did.
    pub fn steps(&self) -> Option<&Arc<[Step]>> {
        self.what.attempted()?.steps.as_ref()
    }

    /// Whether it may arrive, or has arrived, although nobody said so.
    pub fn may_have_arrived(&self) -> bool {
        self.what.attempted().is_some_and(|attempted| attempted.may_have_arrived)
    }

    /// When the next attempt is due.
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        if let Happened::Deferred { next_attempt_at, .. } | Happened::AtRisk { next_attempt_at, .. } = &self.what {
            return *next_attempt_at;
        }
        None
    }

    /// With the times that the wall clock shows.
    pub(crate) fn by_wall(mut self, step: clock::Step) -> Self {
        self.head.time = step.wall(self.head.time);
        self.head.expires_at = step.wall(self.head.expires_at);
        if let Happened::Deferred { next_attempt_at: Some(at), .. }
        | Happened::AtRisk { next_attempt_at: Some(at), .. } = &mut self.what
        {
            *at = step.wall(*at);
        }
        self
    }
}

/// One step of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// Which: `DNS`, `connect`, `banner`, `EHLO`, `STARTTLS`, `MAIL`, `RCPT`, `DATA`, `content`.
    #[schema(value_type = String)]
    pub stage: Cow<'static, str>,
    /// The host; of `DNS` the domain that was asked for.
    pub host: Arc<str>,
    /// Milliseconds since the step before, or since the attempt began.
    pub ms: u32,
    /// What the host answered on one line, or what else came of it.
    pub result: Arc<str>,
}

named! {
    /// What becomes of the address.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Suppress: name {
        /// Nothing.
        #[default]
        No = "no",
        /// It counts; several of its kind suppress the address for a while.
        Count = "count",
        /// The address is suppressed. Nothing that a host says suppresses a domain.
        Address = "address",
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
