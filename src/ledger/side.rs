//! Rows of small tables that whoever is above the ledger decides: stored with what they belong to, found again at a start.

use super::Answer;

/// Small tables whose rows change together with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SideTable {
    /// Idempotency keys, as versions before the ledger's own rows wrote them.
    Idempotency,
    /// Places in budgets, as versions before the ledger's own rows wrote them.
    Budget,
    /// What is known of greylisting, and who waits since when.
    Greylist,
    /// Which addresses are not sent to.
    Suppression,
    /// Facts about the store itself.
    Meta,
    /// Verifications: digests of their codes, what was spent of them, and wrong guesses.
    Verification,
    /// What the ledger of one node decides by itself, beside messages.
    Ledger,
}

impl SideTable {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Idempotency,
        Self::Budget,
        Self::Greylist,
        Self::Suppression,
        Self::Meta,
        Self::Verification,
        Self::Ledger,
    ];
}

/// Key and value of a side table's row.
pub type SideRow = (Box<[u8]>, Box<[u8]>);

/// A row of a side table is written, by its key; without a value it is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideChange(pub SideTable, pub Box<[u8]>, pub Option<Box<[u8]>>);

/// The side tables.
pub trait SideTables: Send + Sync {
    /// The rows of a side table as they were when the ledger was opened, or joined; given out once.
    fn take_side(&self, table: SideTable) -> Vec<SideRow>;

    /// Stores rows; durable when it returns `Ok`. Its place in the order is that of its first poll.
    fn store(&self, rows: Vec<SideChange>) -> Answer<'_, ()>;

    /// Stores rows soon, with what else changes. A crash may lose them.
    fn store_soon(&self, rows: Vec<SideChange>);
}
