//! Intake: the one way into the queue, for SMTP and HTTP alike. It asks who may send what to whom, completes and signs
//! what comes, and stores it.

pub(crate) mod aftermath;
mod allowance;
mod buckets;
pub mod budget;
pub mod door;
mod dsn;
mod forecasts;
pub mod idempotency;
mod learning;
mod notices;
pub mod options;
mod parsed_content;
pub mod recipient;
pub(crate) mod refusal;
mod settings;
pub(crate) mod stamp;
pub mod suppression;
mod terms;
#[cfg(test)]
mod testing;
mod unsigned;
pub(crate) mod verification;

use crate::ledger::side::{SideRow, SideTable};

/// Whether a row of one of the tables kept here can be read; none: another room reads it.
pub(crate) fn reads(table: SideTable, row: &SideRow) -> Option<bool> {
    match table {
        SideTable::Verification => Some(verification::reads(row)),
        SideTable::Idempotency
        | SideTable::Budget
        | SideTable::Greylist
        | SideTable::Suppression
        | SideTable::Meta
        | SideTable::Ledger => None,
    }
}
