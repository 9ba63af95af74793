//! The tables that all nodes share.

use super::state::{State, Touched};
use crate::base::clock::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::read::{Put, Row, RowChange, Table, Version};
use crate::ledger::suppression::Suppression;

impl State {
    /// A row of a table, where there is one.
    pub(in crate::ledger) fn row(&self, table: Table, key: &[u8]) -> Option<Row> {
        let row = match table {
            Table::Suppression => self.suppressions.rows().row(key, Suppression::encode),
            Table::Fact => self.facts.row(key, Clone::clone),
        };
        row.filter(|row| row.value.is_some())
    }

    pub(in crate::ledger) fn rows(&self, table: Table, since: Version) -> (Vec<Row>, Version) {
        match table {
            Table::Suppression => self.suppressions.rows().page(since, Suppression::encode),
            Table::Fact => self.facts.page(since, Clone::clone),
        }
    }

    /// # Errors
    /// Where the row is not of its table.
    pub(in crate::ledger) fn put(
        &mut self,
        table: Table,
        change: RowChange,
        now: Timestamp,
    ) -> Result<Put, LedgerError> {
        let raced = match table {
            Table::Suppression => self.suppressions.rows().raced(&change, Suppression::encode),
            Table::Fact => self.facts.raced(&change, Clone::clone),
        };
        if let Some(row) = raced {
            return Ok(Put::Raced(row));
        }
        let RowChange { key, value, .. } = change;
        match table {
            Table::Suppression => {
                let bad = |what: &str| LedgerError::Damaged(what.to_owned());
                let name = std::str::from_utf8(&key).map_err(|_| bad("no address"))?;
                let read = |value: &[u8]| Suppression::decode(value).ok_or_else(|| bad("no suppression"));
                let entry = value.as_deref().map(read).transpose()?;
                let version = self.next_version();
                self.suppressions.set(name, version, entry.map(|entry| entry.taken_up(now)));
                self.touched.push(Touched::Suppression(name.into()));
                Ok(Put::Done(version))
            }
            Table::Fact => {
                let version = self.next_version();
                self.facts.set(&key, version, value);
                self.touched.push(Touched::Fact(key));
                Ok(Put::Done(version))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::read::ROWS_AT_ONCE;
    use crate::ledger::tables::versioned::GONE_MAX;

    fn put(state: &mut State, key: &[u8], value: Option<&[u8]>, from: Version) -> Put {
        let change = RowChange { key: key.into(), value: value.map(Into::into), from };
        state.put(Table::Fact, change, Timestamp::default()).unwrap()
    }

    fn done(put: Put) -> Version {
        let Put::Done(version) = put else { panic!("{put:?}") };
        version
    }

    #[test]
    fn a_row_that_is_gone_is_made_anew_from_none_or_from_its_going() {
        let mut state = State::default();
        let first = done(put(&mut state, b"mx", Some(b"1"), Version(0)));
        let went = done(put(&mut state, b"mx", None, first));
        assert_eq!(state.row(Table::Fact, b"mx"), None);
        let gone = Row { key: (*b"mx").into(), value: None, version: went };
        assert_eq!(put(&mut state, b"mx", Some(b"2"), first), Put::Raced(gone), "it was changed meanwhile");
        let again = done(put(&mut state, b"mx", Some(b"2"), went));
        let went = done(put(&mut state, b"mx", None, again));
        let anew = done(put(&mut state, b"mx", Some(b"3"), Version(0)));
        assert!(anew > went);
        let unknown = Row { key: (*b"my").into(), value: None, version: Version(0) };
        assert_eq!(put(&mut state, b"my", Some(b"1"), Version(7)), Put::Raced(unknown));
    }

    #[test]
    fn a_long_table_is_read_in_pages() {
        let mut state = State::default();
        let key = |number: usize| format!("{number:05}").into_bytes();
        for number in 0..ROWS_AT_ONCE + 2 {
            done(put(&mut state, &key(number), Some(b"1"), Version(0)));
        }
        let (page, at) = state.rows(Table::Fact, Version(0));
        assert_eq!((page.len(), page[0].key.to_vec(), at), (ROWS_AT_ONCE, key(0), page[ROWS_AT_ONCE - 1].version));
        // What changes meanwhile comes once more, as it is then.
        let changed = done(put(&mut state, &key(0), Some(b"2"), page[0].version));
        let (rest, at) = state.rows(Table::Fact, at);
        assert_eq!(rest.iter().map(|row| row.key.to_vec()).collect::<Vec<_>>(), [1000, 1001, 0].map(key));
        assert_eq!((rest[2].value.as_deref(), at), (Some(&b"2"[..]), changed));
        assert_eq!(state.rows(Table::Fact, at), (Vec::new(), at));
    }

    #[test]
    fn of_what_is_gone_the_latest_is_known() {
        let mut state = State::default();
        let key = |number: usize| format!("{number}").into_bytes();
        for number in 0..GONE_MAX + 2 {
            let version = done(put(&mut state, &key(number), Some(b"1"), Version(0)));
            done(put(&mut state, &key(number), None, version));
        }
        assert_eq!((state.facts.known(), state.facts.len()), ((GONE_MAX, GONE_MAX), 0));
        assert_eq!(state.rows(Table::Fact, Version(0)).0[0].key.to_vec(), key(2));
        // What is there again stays.
        done(put(&mut state, &key(2), Some(b"2"), Version(0)));
        let version = done(put(&mut state, b"last", Some(b"1"), Version(0)));
        done(put(&mut state, b"last", None, version));
        assert_eq!(state.row(Table::Fact, &key(2)).unwrap().value.as_deref(), Some(&b"2"[..]));
    }
}
