//! Accounts: users with their rights, passwords and tokens, and the throttling of guesses.

pub mod credentials;
pub mod supersede;
pub(crate) mod throttle;
pub mod user;
