//! One ledger for many nodes, in memory: for tests and simulation. What is certain of a shared ledger is tried here first,
//! under lost requests and answers, delays, nodes that are cut off, crash or stand still, and a database that goes away and
//! comes back without its last commits.

mod copies;
mod database;
mod faults;
mod membership;
mod node;
mod parting;
#[cfg(test)]
mod tests;

pub use database::{Allowed, Database};
pub use faults::{Faults, Replication};
pub use node::{JoinError, Node, Settings};
