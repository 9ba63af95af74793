//! Intake: the one way into the queue, for SMTP and HTTP alike. It asks who may send what to whom, completes and signs
//! what comes, and stores it.

pub mod aftermath;
mod buckets;
pub mod budget;
pub mod budget_form;
mod budget_table;
pub mod door;
mod dsn;
pub mod idempotency;
mod notices;
mod opened;
pub mod options;
pub mod refusal;
mod settings;
pub mod stamp;
pub mod suppression;
mod terms;
mod unsigned;
