//! Rows on their way to the engine.

use sled::{Batch, Db, IVec};

use super::engine::engine_error;
use crate::ledger::embedded::store::StoreError;

/// Rows to be written; none as the value removes.
#[derive(Default)]
pub(super) struct Rows {
    rows: Vec<(IVec, Option<IVec>)>,
    /// A group has several, which are on disk together or not at all.
    pub(super) need_batch: bool,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn insert(&mut self, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.rows.push((key.into(), Some(value.into())));
    }

    pub(super) fn remove(&mut self, key: impl Into<IVec>) {
        self.rows.push((key.into(), None));
    }

    /// Those with such keys are not written.
    pub(super) fn take_back(&mut self, prefix: &[u8]) {
        self.rows.retain(|(key, _)| !key.starts_with(prefix));
    }

    /// Hands them to the engine. A row is on disk wholly or not at all by itself; a batch costs one write more, and the
    /// waking of all the engine's threads for it.
    pub(super) fn apply(self, db: &Db) -> Result<(), StoreError> {
        if !self.need_batch {
            return self.rows.into_iter().try_for_each(|(key, value)| {
                let written = value.map_or_else(|| db.remove(&key), |value| db.insert(&key, value));
                written.map(drop).map_err(engine_error)
            });
        }
        let mut batch = Batch::default();
        for (key, value) in self.rows {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        db.apply_batch(batch).map_err(engine_error)
    }
}
