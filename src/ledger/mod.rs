//! The ledger: the shared truth about accepted mail. Who owns which entry, what ended, what a recipient has had. It is not the
//! schedule: the queue above it knows when who is due.
//!
//! [`Ledger`] is the seam. What may happen to an entry is in `rules`, until when a node may count on its epoch in
//! `heartbeat`: values, which no implementation can do otherwise.

pub mod accept;
pub mod attempt;
mod common;
pub mod cursor;
pub mod embedded;
pub mod entry;
pub mod filter;
pub mod heartbeat;
pub mod latest;
pub(crate) mod listing;
pub mod memory;
pub mod outbox;
pub mod read;
pub mod rules;
pub mod side;
pub mod suppression;
mod tables;
pub(crate) mod time;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::base::clock::Timestamp;
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;
use accept::{Accepted, Idempotency, KeyHash, KeyOf, NewMessage, Obstacles, Precheck, Refused, Repeated};
use attempt::{Attempt, Epoch, Lost, Mark, Notice, Settled, Target};
use filter::Filter;
use listing::{Cancelled, Listing};
use outbox::Outbox;
use read::{Health, MessageStatus, Page, Peer, Put, Row, RowChange, Table, Version};
use side::SideTables;

/// How long an entry may be attempted without a gate after it was accepted or gated.
pub const FRESH: Duration = Duration::from_millis(250);
/// Notices that wait for whoever takes them, at most; beyond, they wait in the ledger.
pub(crate) const NOTICES_MAX: usize = 1024;
/// How long a message is known by its idempotency key.
pub const IDEMPOTENCY_MEMORY: Duration = Duration::from_secs(86_400);
/// How far ahead of now an acceptance may lie. Beyond, a clock that was ahead made it, and no repeat is recognized by it.
pub(crate) const IDEMPOTENCY_AHEAD_MAX: Duration = Duration::from_secs(3600);

/// The right to work on what is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who we are.
    pub epoch: Epoch,
    /// Until then nobody can have revoked our epoch. One node alone never reaches it.
    pub until: Instant,
}

/// Why a look at the ledger, or a change, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// It does not answer.
    #[error("the ledger does not answer")]
    Unavailable,
    /// No room.
    #[error("no room left in the ledger")]
    Full,
    /// What is stored is not what was written.
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
    /// It failed.
    #[error("the ledger failed: {0}")]
    Fault(String),
}

/// What became of a look or a change.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// Durable truth about accepted mail. Every verb is conditional: it says what became of it, and it may be repeated with the
/// same arguments after an error. Each call is one item; a ledger gathers what comes meanwhile into one commit. Calls take
/// their places in the order of their first polls.
pub trait Ledger: SideTables + Outbox {
    /// Ledger time. Never goes back.
    fn now(&self) -> Timestamp;

    /// Who we are and until when nobody can have revoked our epoch. Asked before each connection and before the last octets of
    /// each content.
    fn lease(&self) -> Lease;

    /// A name under the secret of all nodes, as [`NewMessage`] wants it.
    fn key_hash(&self, of: KeyOf, name: &[u8]) -> KeyHash;

    /// What others did to what is ours. Given out once; 1,024 wait at most, a full channel delays notices and never a
    /// heartbeat.
    fn notices(&self) -> Option<mpsc::Receiver<Notice>>;

    /// One transaction: idempotency, suppression, budget, supersession, message, entries, event. Durable when it returns `Ok`.
    /// The entries are ours and may be attempted at once, without a gate, for [`FRESH`].
    fn accept(&self, new: NewMessage) -> BoxFuture<'_, Result<Accepted, Refused>>;

    /// Takes in a message of the relay's own, which is never refused: stored soon, with what else changes. A crash may lose it.
    fn adopt(&self, new: NewMessage);

    /// What would stand in the way of a message to this recipient: suppression, budget, a wait of its triplet. Decides nothing.
    fn precheck(&self, ask: Precheck) -> Answer<'_, Obstacles>;

    /// What was accepted before that is known by these names. Decides nothing; of what is not durable yet it says nothing.
    fn recall(&self, of: Idempotency) -> Answer<'_, Option<Repeated>>;

    /// Asked before an attempt's content goes, unless it was accepted or gated within [`FRESH`]. A durable mark is on disk when
    /// it returns.
    fn gate(&self, attempt: Attempt, mark: Mark) -> BoxFuture<'_, Result<(), Lost>>;

    /// How an attempt ended, with all that follows from it, in one transaction: end or new due time, events, side rows, a
    /// notification. It is decided when it returns `Ok`, and never undone; a crash may lose it, and then the entry is as it
    /// was before.
    fn settle(&self, attempt: Attempt, settled: Settled) -> BoxFuture<'_, Result<(), Lost>>;

    /// The content of a message; none: it is gone, or its key is.
    fn content(&self, message: MessageId, expires_at: Timestamp) -> Answer<'_, Option<Content>>;

    /// Entries to another node or to nobody. Says which went; the others have ended or were taken.
    fn hand_over(&self, entries: Vec<EntryId>, to: Target) -> Answer<'_, Vec<EntryId>>;

    /// Ends entries whoever owns them. The owner's next gate fails; it hears of it with its next heartbeat.
    fn cancel(&self, which: Filter) -> Answer<'_, Vec<Cancelled>>;

    /// Makes entries due now, whoever owns them.
    fn make_due(&self, which: Filter) -> Answer<'_, Vec<EntryId>>;

    /// Live entries of all nodes; by recipient, message or state without a scan of all.
    fn find(&self, which: Filter, page: Page) -> Answer<'_, Listing>;

    /// A message alive or ended, as the events tell it.
    fn lookup(&self, message: MessageId) -> Answer<'_, Option<MessageStatus>>;

    /// A row of a shared table; none: there is none.
    fn row(&self, table: Table, key: Box<[u8]>) -> Answer<'_, Option<Row>>;

    /// At most 1,000 rows of a shared table that changed since a version, in the order of their versions, and the version to
    /// read on from; the end is reached when no row comes. A row that changes meanwhile comes once more. Of removed rows the
    /// latest 10,000 are known.
    fn rows(&self, table: Table, since: Version) -> Answer<'_, (Vec<Row>, Version)>;

    /// A change that holds only if the row's version is still the one it was made from.
    fn put(&self, table: Table, change: RowChange) -> Answer<'_, Put>;

    /// Nodes alive, for dividing limits; ours included.
    fn peers(&self) -> Arc<[Peer]>;

    /// How it is.
    fn health(&self) -> Health;

    /// Hands over all entries that are not being sent, waits for those that are until `grace` is over, leaves the cluster.
    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()>;
}
