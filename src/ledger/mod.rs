//! The ledger: what was accepted and has not ended, as it is stored. The queue above it knows when who is due.

pub mod cursor;
pub mod embedded;
pub mod entry;
