//! What the ledger of one node asks of an engine. Narrow on purpose.

pub mod memory;
pub mod sled;

use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::base::format::Newer;
use crate::event::Event;
use crate::ledger::cursor::Cursor;
use crate::ledger::entry::{Message, Progress};
pub use crate::ledger::read::ReadEvents;
use crate::ledger::side::SideChange;
pub use crate::ledger::side::{SideRow as Row, SideTable as Table};
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;

/// A change to what is stored. Changes committed together become visible and durable together.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new message with its content; its entries are those of its recipients, fresh.
    Accept(Arc<Message>, Content),
    /// How far an entry got.
    Update(EntryId, Arc<Progress>),
    /// A message and all that belongs to it goes.
    Remove(MessageId),
    /// A row of a side table is written, or removed.
    Side(Table, Box<[u8]>, Option<Box<[u8]>>),
    /// Something happened. It gets the next number.
    Event(Arc<Event>),
}

impl From<SideChange> for Change {
    fn from(SideChange(table, key, value): SideChange) -> Self {
        Self::Side(table, key, value)
    }
}

/// What a scan finds.
#[derive(Debug)]
pub enum Found {
    /// A message, with those of its entries that are not fresh.
    Message(Box<Message>, Vec<(u16, Progress)>),
    /// A row of a side table.
    Side(Table, Row),
    /// A record that cannot be read; it has been set aside under this name.
    Unreadable(String),
}

/// Which events a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldEvents {
    /// Everything up to this place is gone.
    pub swept: Cursor,
    /// The next event gets the number behind this place.
    pub newest: Cursor,
}

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk, or too little to go on safely.
    #[error("no room left on the disk")]
    Full,
    /// Another process has it open.
    #[error("another process uses the data directory {0}")]
    InUse(String),
    /// What is stored is not what was written.
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
    /// A newer program wrote it.
    #[error("the database in {0} cannot be used: {1}")]
    Newer(String, Newer),
    /// The engine failed.
    #[error("storage failed: {0}")]
    Failed(String),
}

/// A durable store. One thread uses it; each call is finished when it returns.
pub trait Store: Send {
    /// Applies the changes, all or none of each slice, and returns when they would survive a power cut.
    ///
    /// # Errors
    /// Then none of them may count as stored, and the store refuses further changes until [`Store::recover`] succeeds.
    fn commit(&mut self, groups: &[&[Change]]) -> Result<(), StoreError>;

    /// The content of a message; none if it is gone.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it cannot be had any more, others when the engine fails for now.
    fn content(&mut self, id: MessageId) -> Result<Option<Content>, StoreError>;

    /// Shows everything, messages in the order of their ids.
    ///
    /// # Errors
    /// When the engine fails.
    fn scan(&mut self, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError>;

    /// Whether there is room for more messages.
    fn has_room(&mut self) -> bool;

    /// After an error: tries to get back into working order, with nothing of the failed commit.
    ///
    /// # Errors
    /// While it cannot.
    fn recover(&mut self) -> Result<(), StoreError>;

    /// Which events it holds. From now on the next one gets a number above `from`, and above those that a former process
    /// may have given.
    ///
    /// # Errors
    /// When the engine fails.
    fn open_events(&mut self, from: Cursor) -> Result<HeldEvents, StoreError> {
        Ok(HeldEvents { swept: from, newest: from })
    }

    /// Some events behind a place, in their order.
    ///
    /// # Errors
    /// When the engine fails.
    fn events(&mut self, after: Cursor) -> Result<ReadEvents, StoreError> {
        Ok((Vec::new(), after))
    }

    /// Takes a recipient's events out; their numbers stay, without anybody in them. It is durable when it returns.
    ///
    /// # Errors
    /// When there may be some left.
    fn erase_events(&mut self, _plain: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Events up to this place go with the next commits, not all at once, and others if they are too many. Returns up to
    /// where they are gone.
    fn sweep(&mut self, to: Option<Cursor>) -> Cursor {
        to.unwrap_or_default()
    }

    /// When [`Store::housekeep`] has something to do; asked after each commit.
    fn due_at(&mut self, _now: Timestamp) -> Option<Timestamp> {
        None
    }

    /// Does what is better done while nobody waits.
    fn housekeep(&mut self, _now: Timestamp) {}
}
