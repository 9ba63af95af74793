//! What is asked of the ledger while an entry lives, and what it answers.

use std::sync::Arc;

use crate::event::{Event, Kind};
use crate::ledger::accept::{KeyHash, KnownWait, NewMessage};
use crate::ledger::entry::{Message, Progress};
use crate::ledger::side::SideChange;
use crate::ledger::suppression::Bounce;
use crate::mail::id::{EntryId, MessageId};

/// A node from its joining to its leaving or revocation. The ledger gives each number once; 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Nobody's.
    pub const UNOWNED: Self = Self(0);
}

/// The name of a node, which stays over its epochs.
pub type NodeName = Arc<str>;

/// One attempt of an entry. Numbers only grow; what is said again of the same number is the same settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which entry.
    pub entry: EntryId,
    /// Which attempt, from 1; at the end of a life without an attempt, how many there were.
    pub number: u32,
}

impl Attempt {
    /// The one that an event of an entry is about.
    pub fn of(event: &Event) -> Option<Self> {
        event.entry().map(|entry| Self { entry, number: event.head.attempt })
    }
}

/// How an attempt is marked before its content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Others can see it.
    Visible,
    /// It is on disk when the call returns (`queue.deliver_at_most_once`).
    Durable,
}

/// How an entry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In which way.
    pub kind: Kind,
    /// What is known of it while others of its message live, for the notification that tells of all.
    pub left: Option<Box<Progress>>,
}

/// How an attempt ended, with all that follows from it.
#[derive(Clone, Debug)]
pub enum Settled {
    /// The entry has no future.
    End {
        /// How it ended.
        end: End,
        /// What happened, in order; the end is among it, once.
        events: Vec<Event>,
        /// What else changes.
        side: Vec<Side>,
        /// A message to whoever wants to know.
        notification: Option<Box<NewMessage>>,
    },
    /// There will be another attempt.
    Deferred {
        /// How far it got, with the time of the next attempt.
        progress: Arc<Progress>,
        /// What happened, in order.
        events: Vec<Event>,
        /// What else changes.
        side: Vec<Side>,
        /// A message to whoever wants to know.
        notification: Option<Box<NewMessage>>,
    },
    /// Nothing has become of an attempt, but it was told that the entry is at risk or late.
    Noted {
        /// How far it got, with that it was told.
        progress: Arc<Progress>,
        /// What happened, in order.
        events: Vec<Event>,
        /// What else changes.
        side: Vec<Side>,
        /// A message to whoever wants to know.
        notification: Option<Box<NewMessage>>,
    },
}

/// What changes besides: a closed set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// The entry's place in this budget is given back.
    GivesBack(KeyHash),
    /// Nobody was told that its message was accepted: it is not known by this name.
    Unknown(KeyHash),
    /// The recipient's mail host refused it for good.
    Bounced {
        /// For certain, or not.
        bounce: Bounce,
        /// What it said.
        reason: Box<str>,
    },
    /// It was delivered: what was learned against the recipient is lifted.
    Lifted,
    /// Its triplet waits.
    Waits(KnownWait),
    /// A row that was decided above.
    Row(SideChange),
}

/// Why an attempt must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The entry has ended.
    Ended(Kind),
    /// Another node owns it.
    TakenOver,
    /// Our epoch was revoked.
    Fenced,
    /// The ledger does not answer. A settlement is kept and repeated by the ledger; the caller is done.
    Unavailable,
}

/// To whom entries are handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever takes them first.
    Unowned,
    /// This node.
    Node(NodeName),
}

/// What others did to what is ours.
#[derive(Clone, Debug)]
pub enum Notice {
    /// These entries are ours now.
    Acquired(Vec<Held>),
    /// This one is not any more. A kind that is no end: it lives on with another node.
    Ended(EntryId, Kind),
    /// These are due now.
    MakeDue(Vec<EntryId>),
    /// Our epoch was revoked: nothing is ours any more. What is acquired later is so under the new epoch.
    Fenced,
    /// No heartbeat has been answered for a lease.
    Unavailable,
    /// One is again.
    Available,
}

/// Entries of one message that have become ours.
#[derive(Clone, Debug)]
pub struct Held {
    /// Their message.
    pub message: Arc<Message>,
    /// Which, and how far they got.
    pub entries: Vec<(u16, Arc<Progress>)>,
    /// What is known of others of its entries that ended, for the notification that tells of all.
    pub ended: Vec<(u16, Progress)>,
    /// Those of them that a newer message, which is named, makes useless. Their owner ends them.
    pub outlived: Vec<(u16, MessageId)>,
}
