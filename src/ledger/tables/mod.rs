//! What a ledger decides by: the rows of messages, entries, keys, budgets, slots, suppressions, facts and waits, as a value.
//! Nothing here waits, stores or reads a clock. Who asks holds the one lock, and sees to it that what was touched is stored:
//! `memory` keeps the value as it is, `embedded` makes rows of what was touched.

pub(in crate::ledger) mod accept;
pub(in crate::ledger) mod budgets;
pub(in crate::ledger) mod keys;
mod learning;
mod look;
pub(in crate::ledger) mod settle;
mod shared;
pub(in crate::ledger) mod state;
mod suppressions;
mod versioned;
