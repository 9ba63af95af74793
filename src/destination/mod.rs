//! Where mail for a domain goes: DNS, and what may be believed of it.

pub mod authoritative;
mod by_owner;
pub mod dane;
pub mod demand;
mod edns;
pub mod fetch;
pub mod lookups;
pub mod mta_sts;
pub mod mx;
pub mod policies;
pub mod public;
pub mod resolver;
pub mod route;
pub mod shares;
pub mod tlsa;
mod turns;
pub mod via;
