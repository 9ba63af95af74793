//! sled 0.34 and what it takes to be durable with it: one thread that flushes (concurrent flushes hang, sled issue 1308);
//! `fdatasync` on the file after every flush, because sled's own is `sync_file_range` on Linux (issue 1452); a sync of its
//! settings, which it never does; leftovers of a snapshot removed before opening (issue 1533); and values so small that
//! no page of them reaches a quarter of a segment, where sled moves it to a file of its own that is never synced. After an
//! error all further writes fail until the database is opened again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use sled::{Batch, Db};

use super::record::{FORMAT_ROW, PARTING, side_key};
use crate::base::files;
use crate::base::files::locks::{patiently, wait_for_lock};
use crate::base::format::{self, FORMAT};
use crate::ledger::embedded::store::{StoreError, Table};

pub(super) const SEGMENT_LEN: usize = 512 << 10;
/// The file that says how the database was left: closed, or open in a certain run of the machine.
const STATE: &str = "state";
const CLOSED: &str = "closed";
/// Octets from which on a batch is full.
pub(super) const BATCH_LEN: usize = 256 << 10;
const CACHE_LEN: u64 = 4 << 20;
/// Rows with nothing in them between events and messages. A leaf is split when it has more than sixteen, so that some
/// have nothing but these.
const PARTING_ROWS: u8 = 64;
/// How often a page is looked at after something was read from it. The engine lets go of pages beyond its cache only when
/// it has counted 64 looks at those of one of its 256 shards: with one look at each, a long queue would come to be in
/// memory as a whole.
pub(crate) const PAGE_TOUCHES: usize = 15;
/// How many times as long as what is live a file has to be, to be written anew.
const GIVE_BACK_FACTOR: u64 = 4;

/// Whether there is room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    /// Nothing is written that can wait for the next start.
    No,
}

/// A database that is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) db: Db,
    // After `db`, since that is the order in which they end.
    state: OnDisk,
}

/// The database's files beside the engine, which says last that they are closed.
#[derive(Debug)]
struct OnDisk {
    /// A second handle to the database file, to sync it.
    file: File,
    path: PathBuf,
    is_spoiled: bool,
}

impl Open {
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(|e| io_error(&e))?;
        remove_snapshot_leftovers(path).and_then(|()| remove_lone_settings(path)).map_err(|e| io_error(&e))?;
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .segment_size(SEGMENT_LEN)
            .cache_capacity(CACHE_LEN)
            .flush_every_ms(None);
        let db = open_patiently(&config).map_err(|error| open_error(error, path))?;
        let file = OpenOptions::new().read(true).write(true).open(path.join("db")).map_err(|e| io_error(&e))?;
        let open = Self { db, state: OnDisk { file, path: path.to_owned(), is_spoiled: false } };
        open.sync()?;
        // The engine syncs neither its settings, without which it does not open again, nor the names of its files.
        File::open(path.join("conf")).and_then(|settings| settings.sync_all()).map_err(|e| io_error(&e))?;
        for folder in [Some(path), path.parent()].into_iter().flatten() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| io_error(&e))?;
        }
        // Replace the marker before the first write: it must not say "closed" or name an earlier boot.
        let state = path.join(STATE);
        let run = run_of_machine().unwrap_or_default();
        files::replace(&state, run.as_bytes()).or_else(|_| files::destroy(&state)).map_err(|e| io_error(&e))?;
        Ok(open)
    }

    /// Refuses what a newer program wrote, and writes down the format of what this one writes.
    pub(super) fn take_on_format(&self, path: &Path, room: Room) -> Result<(), StoreError> {
        let key = side_key(Table::Meta, FORMAT_ROW);
        let found = self.db.get(&key).map_err(engine_error)?;
        let newer = |newer| StoreError::Newer(path.display().to_string(), newer);
        if format::check(found.as_deref()).map_err(newer)? == FORMAT && found.is_some() || room == Room::No {
            return Ok(());
        }
        self.db.insert(key, format::text().as_bytes()).map_err(engine_error)?;
        self.sync()
    }

    /// Keeps events and messages on leaves of their own. The engine writes a leaf anew with every tenth change, and events are
    /// long rows: beside each message that comes or goes they would be written again and again.
    pub(super) fn part_events_from_messages(&self) -> Result<(), StoreError> {
        for key in (0..PARTING_ROWS).map(|number| [PARTING, number]) {
            if !self.db.contains_key(key).map_err(engine_error)? {
                self.db.insert(key, &[]).map_err(engine_error)?;
            }
        }
        Ok(())
    }

    /// Copies what is live to a database of its own, and closes that; false where it is not worth while.
    pub(super) fn copy_to(&self, path: &Path, len_min: u64, rows_max: usize) -> Result<bool, StoreError> {
        let len = self.state.file.metadata().map_err(|e| io_error(&e))?.len();
        if len < len_min {
            return Ok(false);
        }
        let mut live = 0;
        for (number, row) in self.db.iter().enumerate() {
            let (key, value) = row.map_err(engine_error)?;
            live += (key.len() + value.len()) as u64;
            if number >= rows_max || live * GIVE_BACK_FACTOR > len {
                return Ok(false);
            }
        }
        let mut copy = Filling::new(path)?;
        for row in self.db.iter() {
            let (key, value) = row.map_err(engine_error)?;
            copy.add(&key, &value)?;
        }
        copy.finish()?;
        Ok(true)
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(engine_error)?;
        self.state.file.sync_data().map_err(|e| io_error(&e))
    }

    /// A commit failed. The engine holds changes that are not on disk and must not get there, since they were reported as
    /// failed; what was stored before can still be read.
    pub(super) fn is_spoiled(&self) -> bool {
        self.state.is_spoiled
    }

    /// Says so.
    pub(super) fn spoil(&mut self) {
        self.state.is_spoiled = true;
    }
}

/// A new database that is filled row by row.
pub(super) struct Filling {
    open: Open,
    batch: Batch,
    batch_len: usize,
    rows: usize,
}

impl Filling {
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { open: Open::new(path)?, batch: Batch::default(), batch_len: 0, rows: 0 })
    }

    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.rows += 1;
        self.batch_len += key.len() + value.len();
        self.batch.insert(key, value);
        if self.batch_len < BATCH_LEN {
            return Ok(());
        }
        self.batch_len = 0;
        self.open.db.apply_batch(std::mem::take(&mut self.batch)).map_err(engine_error)
    }

    /// How many rows are now on disk.
    pub(super) fn finish(self) -> Result<usize, StoreError> {
        self.open.db.apply_batch(self.batch).map_err(engine_error)?;
        self.open.sync()?;
        Ok(self.rows)
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        if !self.is_spoiled && self.file.sync_data().is_ok() {
            // Best effort: without the marker the next start treats the tail as possibly torn.
            let _ = files::replace(&self.path.join(STATE), CLOSED.as_bytes());
        }
    }
}

/// What is known of the last writes to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// All are in it: it was closed in order.
    Whole,
    /// Those that were begun are in it: the process was killed, the machine went on.
    Written,
    /// Any of those after the last sync may be missing.
    Unknown,
}

impl Tail {
    /// Whether it takes damage to find such a thing here: a message with other octets than were written, or something
    /// else with a message behind it.
    pub(super) fn is_damage(self, was_changed: bool, has_next: bool) -> bool {
        match self {
            Self::Whole => was_changed || has_next,
            Self::Written => was_changed && has_next,
            Self::Unknown => false,
        }
    }
}

/// What is known of the last writes to the database in `path`.
pub(super) fn tail(path: &Path) -> Tail {
    match fs::read_to_string(path.join(STATE)) {
        Ok(state) if state == CLOSED => Tail::Whole,
        Ok(state) if run_of_machine().is_some_and(|run| run == state) => Tail::Written,
        Ok(_) | Err(_) => Tail::Unknown,
    }
}

/// A name that is another after each start of the machine.
fn run_of_machine() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

/// Does what asks the engine. It panics where a file is damaged in a way that it did not expect.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // Nothing but the database is shared with what panicked, and that is given up.
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Damaged("the engine panicked".into())))
}

/// Opens a database. Where this process has just closed it, the engine's threads may hold its lock a moment longer.
pub(crate) fn open_patiently(config: &sled::Config) -> Result<Db, sled::Error> {
    patiently(|| config.open(), is_locked)
}

/// Whether a database could not be opened because it is open already.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("lock"))
}

/// Has two closed databases change places, all at once; returns the lengths of the files, of the first before and after.
pub(super) fn exchange(path: &Path, new: &Path) -> io::Result<(u64, u64)> {
    let lengths = (closed_len(path)?, closed_len(new)?);
    renameat2(AT_FDCWD, path, AT_FDCWD, new, RenameFlags::RENAME_EXCHANGE)?;
    path.parent().map_or(Ok(()), files::sync_folder)?;
    Ok(lengths)
}

/// The length of a database's file, once the threads of the engine that had it open have let go of it.
fn closed_len(path: &Path) -> io::Result<u64> {
    let file = File::open(path.join("db"))?;
    match wait_for_lock(&file)? {
        true => Ok(file.metadata()?.len()),
        false => Err(io::ErrorKind::ResourceBusy.into()),
    }
}

/// A crash while sled writes a snapshot leaves a file that keeps it from opening ever again.
pub(crate) fn remove_snapshot_leftovers(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A crash in the midst of the first start can leave half of the engine's settings, with no database yet; with them it
/// would not open.
fn remove_lone_settings(path: &Path) -> io::Result<()> {
    if fs::metadata(path.join("db")).is_ok_and(|db| db.len() > 0) {
        return Ok(());
    }
    match fs::remove_file(path.join("conf")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Touches the page of a key that was read, until sled's access counter lets its cache evict it.
pub(crate) fn touch_page(db: &Db, key: &[u8], touches: usize) -> Result<(), sled::Error> {
    (0..touches).try_for_each(|_| db.get(key).map(drop))
}

pub(crate) fn engine_error(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => io_error(&error),
        sled::Error::ReportableBug(_) | sled::Error::Corruption { .. } => StoreError::Damaged(error.to_string()),
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) => StoreError::Failed(error.to_string()),
    }
}

pub(crate) fn io_error(error: &io::Error) -> StoreError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return StoreError::Full;
    }
    StoreError::Failed(error.to_string())
}

fn open_error(error: sled::Error, path: &Path) -> StoreError {
    if is_locked(&error) {
        return StoreError::InUse(path.display().to_string());
    }
    engine_error(error)
}
