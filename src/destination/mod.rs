//! Where mail for a domain goes: DNS, and what may be believed of it.

pub mod mx;
pub mod resolver;
