//! What is asked of the ledger beside messages: what would stand in the way of one, and rows of the tables that all nodes share.

use std::collections::BTreeMap;

use super::Queue;
use crate::base::clock::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::accept::{Idempotency, Obstacles, Precheck, Repeated};
use crate::ledger::read::{Put, RowChange, Table, Version};
use crate::ledger::side::SideRow;

/// What a row says.
type Value = Box<[u8]>;

impl Queue {
    /// Ledger time: what is stored is counted by it.
    pub(crate) fn ledger_time(&self) -> Timestamp {
        self.ledger.now()
    }

    /// What would stand in the way of a message to a recipient. Decides nothing.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub(crate) async fn precheck(&self, ask: Precheck) -> Result<Obstacles, LedgerError> {
        self.ledger.precheck(ask).await
    }

    /// What was accepted before that is known by these names. Decides nothing.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub(crate) async fn recall(&self, of: Idempotency) -> Result<Option<Repeated>, LedgerError> {
        self.ledger.recall(of).await
    }

    /// What a row says, where there is one.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub(crate) async fn row(&self, table: Table, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        Ok(self.ledger.row(table, key.into()).await?.and_then(|row| row.value))
    }

    /// All rows of a table, by their keys. Read in pages: others have the ledger in between, and the thread too.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub(crate) async fn rows(&self, table: Table) -> Result<Vec<SideRow>, LedgerError> {
        let (mut known, mut since) = (BTreeMap::new(), Version::default());
        loop {
            let (page, at) = self.ledger.rows(table, since).await?;
            if page.is_empty() {
                return Ok(known.into_iter().collect());
            }
            for row in page {
                match row.value {
                    Some(value) => drop(known.insert(row.key, value)),
                    None => drop(known.remove(&row.key)),
                }
            }
            since = at;
            tokio::task::yield_now().await;
        }
    }

    /// Writes a row, or takes it out, whatever others make of it meanwhile; durable when it returns. Says what it said before.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn replace_row(
        &self,
        table: Table,
        key: &[u8],
        value: Option<Value>,
    ) -> Result<Option<Value>, LedgerError> {
        let known = self.ledger.row(table, key.into()).await?;
        let (mut former, mut from) = known.map_or_else(Default::default, |row| (row.value, row.version));
        loop {
            if former.is_none() && value.is_none() {
                return Ok(None);
            }
            let change = RowChange { key: key.into(), value: value.clone(), from };
            match self.ledger.put(table, change).await? {
                Put::Done(_) => return Ok(former),
                Put::Raced(row) => (former, from) = (row.value, row.version),
            }
        }
    }
}
