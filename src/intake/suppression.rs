//! Addresses that are not sent to, as the operator and users see them. The ledger keeps the list and decides by it.

use super::door::Door;
use super::refusal::Refusal;
use crate::base::clock::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::accept::Precheck;
use crate::ledger::read::Table;
use crate::ledger::side::SideRow;
pub(crate) use crate::ledger::suppression::Standing;
pub use crate::ledger::suppression::{Source, Suppression};
use crate::mail::address::{Mailbox, domain_key};

/// Rows that are read without a pause, at most: the thread is others' too.
const ROWS_AT_ONCE: usize = 1000;

impl Door {
    /// All suppressions that hold, the latest first, at most `limit`; and how many there are.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn suppressions(&self, limit: usize) -> Result<(Vec<Suppression>, usize), Refusal> {
        let now = self.parts.queue.ledger_time();
        let mut held = Vec::new();
        for rows in self.suppression_rows().await?.chunks(ROWS_AT_ONCE) {
            held.extend(rows.iter().filter_map(|(_, value)| shown(value, now)));
            tokio::task::yield_now().await;
        }
        let count = held.len();
        held.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.address.cmp(&b.address)));
        held.truncate(limit);
        Ok((held, count))
    }

    /// All rows as they are stored, for a backup.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub(crate) async fn suppression_rows(&self) -> Result<Vec<SideRow>, LedgerError> {
        self.parts.queue.rows(Table::Suppression).await
    }

    /// The suppression of exactly this address or `@domain`, if it holds.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn suppression(&self, address: &str) -> Result<Option<Suppression>, Refusal> {
        let row = self.parts.queue.row(Table::Suppression, address.as_bytes()).await?;
        Ok(row.and_then(|value| shown(&value, self.parts.queue.ledger_time())))
    }

    /// Whether an address is sent to, and if not, until when: what a user may ask, one address at a time. By an entry of its
    /// own or one of its domain.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn standing(&self, address: &Mailbox) -> Result<Standing, Refusal> {
        let ask =
            Precheck { sender: Box::default(), recipient: address.clone(), budgets: Vec::new(), ahead: Vec::new() };
        Ok(self.parts.queue.precheck(ask).await?.standing)
    }

    /// Puts an address (as `suppression_key` writes it) on the list of those.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn suppress(&self, address: &str, source: Source, reason: &str) -> Result<Suppression, Refusal> {
        let queue = &self.parts.queue;
        let entry = Suppression::lasting(address, source, reason, queue.ledger_time());
        queue.replace_row(Table::Suppression, address.as_bytes(), Some(entry.encode())).await?;
        Ok(entry)
    }

    /// Takes an address off the list; says whether it was there, or something was counted towards that.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn unsuppress(&self, address: &str) -> Result<bool, Refusal> {
        Ok(self.parts.queue.replace_row(Table::Suppression, address.as_bytes(), None).await?.is_some())
    }
}

/// A row, where it holds.
fn shown(value: &[u8], now: Timestamp) -> Option<Suppression> {
    Suppression::decode(value).filter(|entry| !entry.is_silent() && entry.holds(now))
}

/// Reads an address, or a whole domain as `@example.com`, into the form in which it is kept.
pub fn suppression_key(text: &str) -> Option<String> {
    match text.trim().strip_prefix('@') {
        Some(domain) => domain_key(domain).map(|domain| format!("@{domain}")),
        None => Mailbox::parse(text.trim()).ok().map(|mailbox| mailbox.plain_key()),
    }
}

#[cfg(test)]
mod tests;
