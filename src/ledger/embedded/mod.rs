//! The ledger of one node: a storage thread over an embedded engine, the events that were committed, and the keys that
//! content is sealed under.

pub(crate) mod code_keys;
mod inbox;
pub mod journal;
pub mod key_ring;
pub mod node;
mod seal;
pub mod store;
