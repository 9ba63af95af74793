//! Where mail for a domain goes: DNS, and what may be believed of it.

pub(crate) mod authoritative;
mod by_owner;
pub mod dane;
pub mod demand;
mod edns;
pub(crate) mod fetch;
pub(crate) mod lookups;
pub mod mta_sts;
pub mod mx;
pub(crate) mod policies;
pub mod public;
mod records;
pub mod resolver;
pub mod route;
pub(crate) mod shares;
pub mod tlsa;
mod turns;
pub(crate) mod via;
