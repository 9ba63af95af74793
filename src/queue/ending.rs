//! The end of an entry, and what it entails: rows of side tables, a notification to the sender.

use std::sync::Arc;

use super::settlement::Settlement;
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Event, Kind, Suppress};
use crate::ledger::attempt::Side;
use crate::ledger::entry::{Message, Outcome};
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;

/// The end of an entry, or that it is at risk, for those who have to do something about it.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Its message.
    pub message: Arc<Message>,
    /// What happened to it; an event of one entry.
    pub event: Event,
    /// What becomes of the address.
    pub suppress: Suppress,
    /// Whether the content was sent, in any attempt.
    pub was_sent: bool,
    /// Whether the host that took it notifies the sender.
    pub is_passed_on: bool,
    /// Whether the time of `BY=` is over, while the entry lives on.
    pub is_late: bool,
    /// Whether the sender is told now.
    pub reporting: Reporting,
}

impl Ending {
    /// Which entry.
    pub fn entry(&self) -> EntryId {
        EntryId { message: self.message.id, index: self.event.head.entry.unwrap_or_default() }
    }

    /// To whom.
    pub fn recipient(&self) -> &Mailbox {
        &self.message.recipient(self.entry().index).mailbox
    }

    /// When.
    pub fn now(&self) -> Timestamp {
        self.event.head.time
    }
}

/// One notification tells of a message: of its ends when the last entry has ended, and once that it is late.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reporting {
    /// With the end of another entry, or it was told already.
    #[default]
    Not,
    /// Now, together with these other entries.
    Now(Vec<(u16, Outcome)>),
}

/// What the end of an entry entails, stored together with it.
#[derive(Debug, Default)]
pub struct Consequences {
    /// What changes besides.
    pub(crate) side: Vec<Side>,
    /// The name of the budget in which the entry gives its place back.
    pub(crate) gives_back: Option<String>,
    /// A message to somebody who wants to know.
    pub notification: Option<(Arc<Message>, Content)>,
}

/// Says what an end entails, or that an entry is at risk. It is given to the queue at its opening and called for one end
/// after the other, in the order in which they happened, while nothing of the schedule is locked. It must not call the
/// queue.
pub(crate) type Entail = Box<dyn Fn(&Ending) -> Consequences + Send + Sync>;

/// How an entry ends.
#[derive(Debug)]
pub(super) struct End {
    pub(super) kind: Kind,
    pub(super) attempted: Attempted,
    pub(super) notifies: bool,
    pub(super) suppress: Suppress,
}

impl End {
    pub(super) fn of(kind: Kind) -> Self {
        Self::after(kind, Attempted::default())
    }

    /// A newer message has its place.
    pub(super) fn superseded_by(newer: MessageId) -> Self {
        let note = Some(format!("by {newer}").into());
        Self::after(Kind::Superseded, Attempted { note, ..Attempted::default() })
    }

    pub(super) fn after(kind: Kind, attempted: Attempted) -> Self {
        Self { kind, attempted, notifies: false, suppress: Suppress::No }
    }
}

/// An attempt behind which there is no other.
impl From<Settlement> for End {
    fn from(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Delivered { attempted, notifies } => {
                Self { notifies, ..Self::after(Kind::Delivered, attempted) }
            }
            Settlement::Failed { attempted, suppress } => Self { suppress, ..Self::after(Kind::Failed, attempted) },
            Settlement::Deferred { attempted, .. }
            | Settlement::Expired(attempted)
            | Settlement::Released(attempted) => Self::after(Kind::Expired, attempted),
        }
    }
}
