//! What an outcome means and when to try again; pure, so that a thousand schedules can be judged in a moment.

pub mod action;
pub mod cause;
pub mod failover;
pub mod hint;
pub mod next;
pub(crate) mod parties;
mod parts;
mod rules;
mod spelling;
mod wording;
