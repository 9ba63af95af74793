//! What a reader of events keeps: a database of its own, apart from the queue's, so that nothing about it touches mail. Its
//! place among the events is committed with its rows, so after a crash both are of the same moment.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::Path;

use parking_lot::RwLock;
use sled::{Batch, Db};

use super::engine::{engine_error, guarded, io_error, open_patiently, remove_snapshot_leftovers, touch_page};
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::StoreError;

/// Pause between flushes in the background: a crash may lose what was written in it, in milliseconds.
const FLUSH_PAUSE_MS: u64 = 1000;
const CACHE_LEN: u64 = 2 << 20;
/// How often a page is looked at for each row that was read from it.
const TOUCHES: usize = 2;
/// Where the place is. No other row begins so.
const CURSOR: &[u8] = b"\0cursor";

/// A row's key, and its value; none where it goes.
pub(crate) type RowChange = (Vec<u8>, Option<Vec<u8>>);

/// The rows of one reader.
#[derive(Debug)]
pub(crate) struct ReaderRows(RwLock<Option<Open>>);

#[derive(Debug)]
struct Open {
    db: Db,
    /// A second handle to the database file, to sync it.
    file: File,
}

impl Open {
    fn new(folder: &Path) -> Result<Self, sled::Error> {
        std::fs::create_dir_all(folder)?;
        remove_snapshot_leftovers(folder)?;
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_LEN).flush_every_ms(Some(FLUSH_PAUSE_MS));
        let db = open_patiently(&config)?;
        let file = OpenOptions::new().read(true).write(true).open(folder.join("db"))?;
        Ok(Self { db, file })
    }
}

impl ReaderRows {
    /// Opens the folder, making it if there is none. What is damaged is set aside, in the place of what was so before.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let open = || guarded(|| Open::new(folder).map_err(engine_error));
        let error = match open() {
            Err(StoreError::Damaged(error)) => error,
            result => return result.map(|open| Self(RwLock::new(Some(open)))),
        };
        let aside = folder.with_extension("damaged");
        if std::fs::exists(&aside).map_err(|e| io_error(&e))? {
            std::fs::remove_dir_all(&aside).map_err(|e| io_error(&e))?;
        }
        std::fs::rename(folder, &aside).map_err(|e| io_error(&e))?;
        tracing::warn!(%error, "what is stored in {} is damaged; it is now in {}", folder.display(), aside.display());
        open().map(|open| Self(RwLock::new(Some(open))))
    }

    fn with<T>(&self, work: impl FnOnce(&Open) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let open = self.0.read();
        let open = open.as_ref().ok_or_else(|| StoreError::Failed("it is closed".into()))?;
        guarded(|| work(open))
    }

    /// Up to which event its rows are.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        let stored = self.get(CURSOR).ok()??;
        Some(Cursor::behind(u64::from_be_bytes(stored.try_into().ok()?)))
    }

    /// # Errors
    /// When it cannot be read.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|open| Ok(open.db.get(key).map_err(engine_error)?.map(|value| value.to_vec())))
    }

    /// Shows the rows with these keys, in their order, until `visit` has seen enough.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn scan(
        &self,
        keys: Range<Vec<u8>>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.with(|open| {
            for row in open.db.range(keys) {
                let (key, value) = row.map_err(engine_error)?;
                touch_page(&open.db, &key, TOUCHES).map_err(engine_error)?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Changes rows, all or none; with them everything up to `at` is in the rows.
    ///
    /// # Errors
    /// When nothing was changed.
    pub(crate) fn apply(&self, changes: Vec<RowChange>, at: Option<Cursor>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        if let Some(at) = at {
            batch.insert(CURSOR, &at.number().to_be_bytes());
        }
        self.with(|open| open.db.apply_batch(batch).map_err(engine_error))
    }

    /// Returns when what was changed would survive a power cut.
    ///
    /// # Errors
    /// When it may not.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.with(|open| {
            open.db.flush().map_err(engine_error)?;
            open.file.sync_data().map_err(|e| io_error(&e))
        })
    }

    /// Lets go of the database.
    pub(crate) fn close(&self) {
        let open = self.0.write().take();
        // What ends the engine may find damage.
        let _ = guarded(|| {
            drop(open);
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_place_are_of_one_moment() {
        let folder = tempfile::tempdir().unwrap();
        let rows = ReaderRows::open(folder.path()).unwrap();
        assert_eq!(rows.cursor(), None);
        rows.apply(vec![(b"a1".to_vec(), Some(b"x".to_vec())), (b"b1".to_vec(), None)], Some(Cursor::behind(7)))
            .unwrap();
        rows.apply(vec![(b"a2".to_vec(), Some(b"y".to_vec()))], None).unwrap();
        rows.sync().unwrap();
        rows.close();
        assert!(rows.get(b"a1").is_err(), "it is closed");
        let rows = ReaderRows::open(folder.path()).unwrap();
        assert_eq!(rows.cursor(), Some(Cursor::behind(7)));
        let mut seen = Vec::new();
        rows.scan(b"a".to_vec()..b"b".to_vec(), &mut |key, _| {
            seen.push(key.to_vec());
            seen.len() < 2
        })
        .unwrap();
        assert_eq!(seen, [b"a1", b"a2"]);
    }
}
