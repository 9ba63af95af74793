//! Opening a database that may be damaged. What can be read of a damaged one goes into a new one, and it is set aside.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::engine::{Filling, Open, SEGMENT_LEN, guarded, io_error, tail};
use super::record::is_key;
use super::salvage::Log;
use crate::base::clock::Timestamp;
use crate::base::files;
use crate::base::files::locks::wait_for_lock;
use crate::ledger::embedded::store::StoreError;

/// Opens the database in `path`, making it if there is none. A damaged one is set aside under another name.
///
/// # Errors
/// [`StoreError::InUse`] where another process has it open; when the disk cannot be read or written.
pub(super) fn open(path: &Path, now: Timestamp) -> Result<Open, StoreError> {
    let new = path.with_extension("new");
    finish_repair(path, &new).map_err(|e| io_error(&e))?;
    let what = match guarded(|| damage(path).map_err(|e| io_error(&e)))? {
        0 => match guarded(|| Open::new(path)) {
            Err(StoreError::Damaged(what)) => what,
            result => return result,
        },
        places => format!("what stands at {places} places was never written there"),
    };
    let rows = guarded(|| restore(path, &new))?;
    let aside = path.with_extension(format!("damaged-{}", now.as_secs()));
    fs::rename(path, &aside).and_then(|()| finish_repair(path, &new)).map_err(|e| io_error(&e))?;
    tracing::error!(
        database = %aside.display(),
        rows,
        "the queue's database is damaged and was set aside; what can be read of it is used, messages may be missing: {what}"
    );
    Open::new(path)
}

/// Puts a new database in the place of one that was set aside; otherwise there is none there.
fn finish_repair(path: &Path, new: &Path) -> io::Result<()> {
    if fs::exists(path)? || !fs::exists(new)? {
        return Ok(());
    }
    fs::rename(new, path)?;
    path.parent().map_or(Ok(()), files::sync_folder)
}

/// How many places of the file are damaged, as far as that is certain. None in one that another process has open.
fn damage(path: &Path) -> io::Result<usize> {
    let file = match File::open(path.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    if !wait_for_lock(&file)? {
        return Ok(0);
    }
    let log = Log::new(&file, SEGMENT_LEN)?;
    log.look(tail(path)).map(|look| look.damaged)
}

/// Copies what can be read to a new database; how many rows that is.
fn restore(path: &Path, new: &Path) -> Result<usize, StoreError> {
    if fs::exists(new).map_err(|e| io_error(&e))? {
        fs::remove_dir_all(new).map_err(|e| io_error(&e))?;
    }
    let mut copy = Filling::new(new)?;
    let file = File::open(path.join("db")).map_err(|e| io_error(&e))?;
    let log = Log::new(&file, SEGMENT_LEN).map_err(|e| io_error(&e))?;
    let look = log.look(tail(path)).map_err(|e| io_error(&e))?;
    log.rows(&look, is_key, |key, value| copy.add(key, value))?;
    copy.finish()
}
