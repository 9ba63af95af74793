//! The store over sled. How the engine is kept durable stands in `engine.rs`, which changes become which rows in `rows.rs`,
//! what these look like in `record.rs`.

mod batched;
pub(crate) mod engine;
mod engine_log;
mod event_rows;
pub(crate) mod reader_rows;
pub mod record;
mod repair;
mod rows;
mod salvage;
pub(crate) mod traces;
pub mod verify;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sled::{Db, IVec};

use crate::base::clock::Timestamp;
use crate::base::files;
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::store::sled::engine::{
    Open, PAGE_TOUCHES, Room, engine_error, exchange, guarded, io_error, touch_page,
};
use crate::ledger::embedded::store::sled::event_rows::EventRows;
use crate::ledger::embedded::store::sled::record::{
    FORMAT_ROW, Gathered, KIND_HEAD, Leftovers, MESSAGE, SIDE, decode_message, message_id, message_key, table_of,
};
use crate::ledger::embedded::store::sled::rows::{apply, read_message_bytes, set_aside};
use crate::ledger::embedded::store::{Change, Found, HeldEvents, ReadEvents, Store, StoreError, Table};
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// How often a page is looked at for each message of a scan, which goes through pages of several.
const TOUCHES_IN_SCAN: usize = 4;
/// A file shorter than this is never written anew.
const GIVE_BACK_MIN: u64 = 64 << 20;
/// Rows that are copied at most; more would keep a start, or commits, waiting.
const COPIED_MAX: usize = 20_000;
/// Between two looks whether there is space to be given back.
const GIVE_BACK_PAUSE: Duration = Duration::from_secs(3600);
/// Below this much free space no new message is taken; what is stored can still be updated and removed.
const FREE_SPACE_MIN: u64 = 64 << 20;

/// A database folder.
#[derive(Debug)]
pub struct SledStore {
    path: PathBuf,
    open: Option<Open>,
    ring: KeyRing,
    /// When space was last given back, or was to be.
    gave_back_at: Timestamp,
    events: EventRows,
}

impl SledStore {
    /// Opens the database in `path`, making it if there is none. Content is sealed with the keys of `ring`. A database
    /// that is damaged is set aside under another name; what can be read of it is in a new one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process has it open.
    pub fn open(path: &Path, ring: KeyRing) -> Result<Self, StoreError> {
        let open = repair::open(path, ring.now())?;
        let room = if free_space(path) < FREE_SPACE_MIN { Room::No } else { Room::Yes };
        guarded(|| open.take_on_format(path, room))?;
        if let Room::Yes = room {
            guarded(|| open.part_events_from_messages())?;
        }
        let mut store = Self {
            path: path.to_owned(),
            open: Some(open),
            gave_back_at: ring.now(),
            ring,
            events: EventRows::default(),
        };
        store.try_to_give_back();
        if store.open.is_none() {
            store.open = Some(Open::new(path)?);
        }
        Ok(store)
    }

    fn try_to_give_back(&mut self) {
        if let Err(error) = self.give_back(GIVE_BACK_MIN, COPIED_MAX) {
            tracing::warn!(%error, "the queue's file cannot be written anew; it stays as long as it is");
        }
    }

    /// The engine never shortens its file. Where most of it is of no use, what is live is copied to a new one, which then
    /// takes its place at once.
    fn give_back(&mut self, len_min: u64, rows_max: usize) -> Result<(), StoreError> {
        let new = self.path.with_extension("new");
        if fs::exists(&new).map_err(|e| io_error(&e))? {
            fs::remove_dir_all(&new).map_err(|e| io_error(&e))?;
        }
        let Some(open) = self.open.as_ref().filter(|open| !open.is_spoiled()) else { return Ok(()) };
        if !guarded(|| open.copy_to(&new, len_min, rows_max))? {
            return Ok(());
        }
        self.open = None;
        let (old_len, new_len) = exchange(&self.path, &new).map_err(|e| io_error(&e))?;
        tracing::info!(old_len, new_len, "the queue's file was written anew");
        self.open = Some(guarded(|| Open::new(&self.path))?);
        fs::remove_dir_all(&new).map_err(|e| io_error(&e))
    }

    /// Whether it is open and takes commits.
    fn is_sound(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.is_spoiled())
    }

    fn db(&self) -> Result<&Db, StoreError> {
        self.open.as_ref().map(|open| &open.db).ok_or_else(|| StoreError::Failed("the database is closed".into()))
    }
}

impl Store for SledStore {
    fn commit(&mut self, groups: &[&[Change]]) -> Result<(), StoreError> {
        let open = self.open.as_mut().filter(|open| !open.is_spoiled()).ok_or(StoreError::Full)?;
        let mut removed = HashMap::new();
        let mut events = self.events.writing();
        let result =
            guarded(|| apply(&open.db, &mut self.ring, groups, &mut events, &mut removed).and_then(|()| open.sync()));
        match result {
            Ok(()) => {
                self.events.written(events);
                removed.into_values().for_each(|bucket| self.ring.removed(bucket));
            }
            Err(_) => {
                self.events.failed();
                open.spoil();
            }
        }
        result
    }

    fn content(&mut self, id: MessageId) -> Result<Option<Content>, StoreError> {
        let db = self.db()?;
        let Some(record) = guarded(|| read_message_bytes(db, id))? else { return Ok(None) };
        touch_page(db, &message_key(id, KIND_HEAD, 0)?, PAGE_TOUCHES).map_err(engine_error)?;
        let Some(decoded) = decode_message(record, |bucket| self.ring.key(bucket)) else { return Ok(None) };
        decoded.content.map(Some).map_err(|error| StoreError::Damaged(error.to_string()))
    }

    fn scan(&mut self, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
        self.ring.forget_found();
        let Self { open, ring, .. } = self;
        let db = &open.as_ref().ok_or(StoreError::Full)?.db;
        let mut current = Gathered::<IVec>::default();
        let mut leftovers = Leftovers::default();
        for row in db.scan_prefix([MESSAGE]) {
            let (key, value) = row.map_err(engine_error)?;
            let Some(id) = message_id(&key) else {
                leftovers.unreadable.push((key, None));
                continue;
            };
            if current.id != Some(id) {
                std::mem::replace(&mut current, Gathered::of(id)).finish(ring, visit, &mut leftovers);
                touch_page(db, &key, TOUCHES_IN_SCAN).map_err(engine_error)?;
            }
            current.add(key, &value);
        }
        current.finish(ring, visit, &mut leftovers);
        for key in leftovers.orphans {
            db.remove(key).map_err(engine_error)?;
        }
        for (key, fault) in leftovers.unreadable {
            set_aside(db, &key, fault, visit)?;
        }
        for row in db.scan_prefix([SIDE]) {
            let (key, value) = row.map_err(engine_error)?;
            match key.get(1).copied().and_then(table_of) {
                Some(Table::Meta) if &key[2..] == FORMAT_ROW => {}
                Some(table) => visit(Found::Side(table, (key[2..].into(), value.as_ref().into()))),
                None => set_aside(db, &key, None, visit)?,
            }
        }
        Ok(())
    }

    fn has_room(&mut self) -> bool {
        self.is_sound() && free_space(&self.path) >= FREE_SPACE_MIN
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        if self.is_sound() {
            return Ok(());
        }
        if free_space(&self.path) < FREE_SPACE_MIN {
            return Err(StoreError::Full);
        }
        // What can still be read is given up only where something can be written.
        let trial = self.path.with_extension("trial");
        files::replace(&trial, b"works").and_then(|()| files::destroy(&trial)).map_err(|e| io_error(&e))?;
        let spoiled = self.open.take();
        guarded(|| {
            drop(spoiled);
            Ok(())
        })?;
        self.open = Some(guarded(|| Open::new(&self.path))?);
        Ok(())
    }

    fn open_events(&mut self, from: Cursor) -> Result<HeldEvents, StoreError> {
        let db = &self.open.as_ref().ok_or(StoreError::Full)?.db;
        guarded(|| self.events.open(db, from))
    }

    fn events(&mut self, after: Cursor) -> Result<ReadEvents, StoreError> {
        let db = self.db()?;
        guarded(|| self.events.read(db, after))
    }

    fn erase_events(&mut self, plain: &str) -> Result<(), StoreError> {
        let open = self.open.as_ref().filter(|open| !open.is_spoiled()).ok_or(StoreError::Full)?;
        guarded(|| self.events.erase(&open.db, plain).and_then(|()| open.sync()))
    }

    fn sweep(&mut self, to: Option<Cursor>) -> Cursor {
        self.events.sweep(to)
    }

    fn due_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.ring.due_at(now)
    }

    fn housekeep(&mut self, now: Timestamp) {
        self.ring.housekeep(now);
        if self.ring.is_at_rest() && self.gave_back_at.plus(GIVE_BACK_PAUSE) <= now {
            self.gave_back_at = now;
            self.try_to_give_back();
        }
    }
}

fn free_space(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(u64::MAX, |stat| stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests;
