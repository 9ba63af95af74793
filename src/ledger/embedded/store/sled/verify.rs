//! Reads everything in a database's files without the engine and without changing an octet, and counts it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use super::engine::{SEGMENT_LEN, io_error, tail};
use super::record::{
    EVENT, FORMAT_ROW, Gathered, Leftovers, MESSAGE, PARTING, SET_ASIDE, SIDE, is_key, message_id, side_key, table_of,
};
use super::salvage::Log;
use super::traces;
use crate::base::files::locks::wait_for_lock;
use crate::base::format;
use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::store::{Found, Row, StoreError, Table};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The format of the database.
    pub format: u32,
    /// Messages that can be read.
    pub messages: usize,
    /// Entries of theirs that are not fresh.
    pub entries: usize,
    /// Messages whose key is missing or wrong, or that cannot be read.
    pub unreadable: usize,
    /// Rows that earlier starts set aside.
    pub set_aside: usize,
    /// Places in the file that hold something else than was written there.
    pub damaged: usize,
    /// Rows of the side tables, for whoever reads each of them.
    pub side: Vec<(Table, Row)>,
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads the queue's database.
///
/// # Errors
/// When there is none, another process has it open, or a newer program wrote it.
pub fn queue(path: &Path, keys: &mut KeyRing) -> Result<Contents, StoreError> {
    let (rows, damaged) = rows(path, is_key)?;
    let format = rows.get(&side_key(Table::Meta, FORMAT_ROW));
    let mut contents = Contents { format: checked(path, format)?, damaged, ..Contents::default() };
    let mut current = Gathered::<Vec<u8>>::default();
    let mut leftovers = Leftovers::default();
    let mut count = |found: Found| match found {
        Found::Message(_, entries) => {
            contents.messages += 1;
            contents.entries += entries.len();
        }
        Found::Side(..) | Found::Unreadable(_) => {}
    };
    let mut side = Vec::new();
    let (mut set_aside, mut unreadable) = (0, 0);
    for (key, value) in rows {
        match (key.first(), message_id(&key)) {
            (Some(&MESSAGE), Some(id)) => {
                if current.id != Some(id) {
                    std::mem::replace(&mut current, Gathered::of(id)).finish(keys, &mut count, &mut leftovers);
                }
                current.add(key, &value);
            }
            (Some(&SET_ASIDE), _) => set_aside += 1,
            (Some(&EVENT | &PARTING), _) if is_key(&key) => {}
            (Some(&SIDE), _) => match key.get(1).copied().and_then(table_of) {
                Some(Table::Meta) => {}
                Some(table) => side.push((table, (key[2..].into(), value.into()))),
                None => unreadable += 1,
            },
            _ => unreadable += 1,
        }
    }
    current.finish(keys, &mut count, &mut leftovers);
    let mut lost: Vec<_> = leftovers.unreadable.iter().filter_map(|(key, _)| message_id(key)).collect();
    lost.dedup();
    Ok(Contents { side, set_aside, unreadable: unreadable + lost.len(), ..contents })
}

/// Reads the stored traces: each as it was written, and how many places are damaged.
///
/// # Errors
/// As [`queue`].
pub fn traces(path: &Path, mut visit: impl FnMut(&[u8])) -> Result<usize, StoreError> {
    let (rows, damaged) = rows(path, |_| true)?;
    checked(path, rows.get(traces::FORMAT_ROW))?;
    rows.iter().filter(|(key, _)| traces::is_trace(key)).for_each(|(_, value)| visit(value));
    Ok(damaged)
}

fn checked(path: &Path, format: Option<&Vec<u8>>) -> Result<u32, StoreError> {
    let newer = |newer| StoreError::Newer(path.display().to_string(), newer);
    format::check(format.map(Vec::as_slice)).map_err(newer)
}

/// All rows in the order of their keys, held in memory; and how many places are damaged.
fn rows(path: &Path, is_key: impl Fn(&[u8]) -> bool) -> Result<(Rows, usize), StoreError> {
    let read = |error: &io::Error| io_error(error);
    let file = File::open(path.join("db")).map_err(|error| read(&error))?;
    if !wait_for_lock(&file).map_err(|error| read(&error))? {
        return Err(StoreError::InUse(path.display().to_string()));
    }
    let log = Log::new(&file, SEGMENT_LEN).map_err(|error| read(&error))?;
    let look = log.look(tail(path)).map_err(|error| read(&error))?;
    let mut rows = Rows::new();
    log.rows(&look, is_key, |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    Ok((rows, look.damaged))
}
