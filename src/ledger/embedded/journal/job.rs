//! What the storage thread is asked for, and what can be seen of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::{Change, ReadEvents};
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// Why a message could not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The disk is full, or nearly.
    #[error("no room left on the disk")]
    Full,
    /// The store fails; the log says how.
    #[error("storage failed")]
    Failed,
    /// The relay is shutting down.
    #[error("storage is closed")]
    Closed,
}

pub(super) type CommitAnswer = oneshot::Sender<Result<(), JournalError>>;
pub(super) type ContentAnswer = oneshot::Sender<Result<Option<Content>, JournalError>>;
pub(super) type EventsAnswer = oneshot::Sender<Result<ReadEvents, JournalError>>;

pub(super) enum Job {
    /// Changes that somebody waits for.
    Commit(Vec<Change>, CommitAnswer),
    /// What undoes a commit that came before it in its lane; it stays behind that, and is kept where it cannot be stored.
    Withdraw(Vec<Change>),
    /// Changes that nobody waits for.
    Later(Vec<Change>),
    /// Content wanted back.
    Load(MessageId, ContentAnswer),
    /// A recipient's events are taken out, in memory and in the store.
    Erase(Box<str>, oneshot::Sender<Result<usize, JournalError>>),
    /// Events behind this place, for a reader that lags.
    Read(Cursor, EventsAnswer),
    /// Commit everything that was pushed so far, then answer.
    Flush(CommitAnswer),
}

/// What can be seen of the store from outside.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) failing: AtomicBool,
    /// Why, while it is.
    pub(super) fault: Mutex<Option<Arc<str>>>,
    /// Changes of a commit that failed, which are written again.
    pub(super) kept: AtomicUsize,
    /// Since when the thread has been at work on what waits; none while it rests.
    pub(super) busy_since: Mutex<Option<Instant>>,
}
