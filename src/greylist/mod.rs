//! Greylisting: what is known of destinations that greylist, which triplets wait there since when, and when to come again. Pure;
//! `table` holds it in memory, and says which rows of it are to be stored.

pub mod facts;
mod learned_facts;
pub mod pending;
pub(crate) mod retry;
pub mod step;
pub mod table;
