//! Rows by their keys and by their versions, so that those since a version are found.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::ledger::read::{ROWS_AT_ONCE, Row, RowChange, Version};

/// Rows of which is known that they are gone, at most; beyond, the oldest are forgotten.
pub(super) const GONE_MAX: usize = 10_000;

/// Rows by their keys and by their versions.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct Versioned<V> {
    /// Without a value: it is gone.
    rows: BTreeMap<Arc<[u8]>, (Version, Option<V>)>,
    order: BTreeMap<Version, Arc<[u8]>>,
    /// Versions as which rows went, in their order; some of those rows may be there again.
    gone: VecDeque<Version>,
    live: usize,
}

impl<V> Default for Versioned<V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), order: BTreeMap::new(), gone: VecDeque::new(), live: 0 }
    }
}

impl<V> Versioned<V> {
    pub(in crate::ledger) fn is_empty(&self) -> bool {
        self.live == 0
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(in crate::ledger) fn get(&self, key: &[u8]) -> Option<&V> {
        self.rows.get(key)?.1.as_ref()
    }

    /// For what is no change of the row.
    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        self.rows.get_mut(key)?.1.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &V)> {
        self.rows.iter().filter_map(|(key, (_, value))| Some((key, value.as_ref()?)))
    }

    /// Keys and versions, of rows and of what is gone.
    #[cfg(test)]
    pub(super) fn known(&self) -> (usize, usize) {
        (self.rows.len(), self.order.len())
    }

    /// Since which version the row says what it says, or is gone.
    fn version(&self, key: &[u8]) -> Option<Version> {
        self.rows.get(key).map(|(version, _)| *version)
    }

    /// What the row says from this version on, which is higher than any before; none: it goes.
    pub(in crate::ledger) fn set(&mut self, key: &[u8], version: Version, value: Option<V>) {
        let former = self.rows.remove_entry(key);
        if let Some((_, (version, former))) = &former {
            self.order.remove(version);
            self.live -= usize::from(former.is_some());
        }
        let key = former.map_or_else(|| key.into(), |(key, _)| key);
        match value {
            Some(_) => self.live += 1,
            None => self.gone.push_back(version),
        }
        self.order.insert(version, key.clone());
        self.rows.insert(key, (version, value));
        while self.gone.len() > GONE_MAX
            && let Some(oldest) = self.gone.pop_front()
        {
            let is_gone = |key: &&Arc<[u8]>| self.get(key).is_none();
            if let Some(key) = self.order.get(&oldest).filter(is_gone).cloned() {
                self.order.remove(&oldest);
                self.rows.remove(&key);
            }
        }
    }

    pub(super) fn row(&self, key: &[u8], encode: impl Fn(&V) -> Box<[u8]>) -> Option<Row> {
        let (version, value) = self.rows.get(key)?;
        Some(Row { key: key.into(), value: value.as_ref().map(encode), version: *version })
    }

    /// The first rows changed since a version, and up to which version that is.
    pub(super) fn page(&self, since: Version, encode: impl Fn(&V) -> Box<[u8]>) -> (Vec<Row>, Version) {
        let later = self.order.range((Bound::Excluded(since), Bound::Unbounded));
        let rows: Vec<Row> = later.take(ROWS_AT_ONCE).filter_map(|(_, key)| self.row(key, &encode)).collect();
        let up_to = rows.last().map_or(since, |row| row.version);
        (rows, up_to)
    }

    /// The row as it is now, where that forbids the change; none: it may be made. A row that is not there may be made from version
    /// 0, or from the version of its removal.
    pub(super) fn raced(&self, change: &RowChange, encode: impl Fn(&V) -> Box<[u8]>) -> Option<Row> {
        let known = self.version(&change.key).unwrap_or_default();
        let is_none = self.get(&change.key).is_none();
        if change.from == known || (is_none && change.from == Version::default()) {
            return None;
        }
        let gone = || Row { key: change.key.clone(), value: None, version: known };
        Some(self.row(&change.key, encode).unwrap_or_else(gone))
    }
}
