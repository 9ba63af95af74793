//! The ledger of one node: a storage thread over an embedded engine, and the keys that content is sealed under.

mod inbox;
pub mod journal;
pub mod key_ring;
mod seal;
pub mod store;
