//! The tables that all nodes share.

use super::state::{State, Touched, version_of};
use crate::base::clock::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::read::{Put, Row, RowChange, Table, Version};
use crate::ledger::suppression::Suppression;

impl State {
    fn table_rows(&self, table: Table) -> Vec<Row> {
        match table {
            Table::Suppression => {
                let value = |entry: &Suppression| serde_json::to_vec(entry).ok().map(Vec::into_boxed_slice);
                let rows = self.suppressions.iter().map(|(key, (version, entry))| Row {
                    key: key.as_bytes().into(),
                    value: entry.as_ref().and_then(value),
                    version: *version,
                });
                rows.collect()
            }
            Table::Fact => {
                let rows = self.facts.iter();
                rows.map(|(key, (version, value))| Row { key: key.clone(), value: value.clone(), version: *version })
                    .collect()
            }
        }
    }

    pub(in crate::ledger) fn rows(&self, table: Table, since: Version) -> (Vec<Row>, Version) {
        let mut rows = self.table_rows(table);
        rows.retain(|row| row.version > since);
        rows.sort_by_key(|row| row.version);
        (rows, version_of(table, self).max(since))
    }

    /// # Errors
    /// Where the row is not of its table.
    pub(in crate::ledger) fn put(
        &mut self,
        table: Table,
        change: RowChange,
        now: Timestamp,
    ) -> Result<Put, LedgerError> {
        let RowChange { key, value, from } = change;
        let known = self.table_rows(table).into_iter().find(|row| row.key == key);
        if let Some(row) = known.filter(|row| row.version != from) {
            return Ok(Put::Raced(row));
        }
        let version = self.next_version();
        match table {
            Table::Suppression => {
                let bad = |what: &str| LedgerError::Damaged(what.to_owned());
                let name = std::str::from_utf8(&key).map_err(|_| bad("no address"))?;
                let entry = value.as_deref().map(serde_json::from_slice::<Suppression>).transpose();
                let entry = entry.map_err(|_| bad("no suppression"))?.map(|entry| entry.taken_up(now));
                self.suppressions.insert(name.into(), (version, entry));
                self.touched.push(Touched::Suppression(name.into()));
            }
            Table::Fact => {
                self.touched.push(Touched::Fact(key.clone()));
                self.facts.insert(key, (version, value));
            }
        }
        Ok(Put::Done(version))
    }
}
