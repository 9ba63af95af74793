//! What an outcome means and when to try again; pure, so that a thousand schedules can be judged in a moment.

pub mod action;
pub mod cause;
pub mod facts;
pub mod greylist;
pub mod hint;
pub mod next;
pub mod parties;
mod parts;
mod rules;
mod spelling;
pub mod step;
mod strangers;
pub mod way;
mod wording;
