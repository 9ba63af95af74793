//! Messages and entries as those see them who look into the queue.

use std::sync::Arc;

use crate::ledger::entry::{Message, Progress, State};
use crate::mail::address::Mailbox;
use crate::mail::id::EntryId;

/// What a list shows.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The oldest messages that fit, with those of their entries that fit.
    pub messages: Vec<Snapshot>,
    /// Entries that fit in all.
    pub entries: usize,
}

/// One message as it stands.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is known since its acceptance.
    pub message: Arc<Message>,
    /// Its entries, in the order of its recipients.
    pub entries: Vec<EntrySnapshot>,
}

/// One entry as it stands.
#[derive(Debug, Clone)]
pub struct EntrySnapshot {
    /// Its id.
    pub id: EntryId,
    /// None: it has ended, while others of its message live.
    pub state: Option<State>,
    /// How far it got.
    pub progress: Progress,
    /// Its content is on its way, or was and got no answer.
    pub may_have_arrived: bool,
}

/// What became of an entry that was to be cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// Which.
    pub id: EntryId,
    /// Its recipient.
    pub recipient: Mailbox,
    /// Its content was on its way to the mail host already.
    pub may_still_arrive: bool,
}
