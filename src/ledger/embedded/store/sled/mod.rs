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
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::base::clock::Timestamp;
    use crate::event::cause::Cause;
    use crate::ledger::embedded::key_ring::Sealing;
    use crate::ledger::entry::{Message, Progress};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::{EntryId, IdSource};
    use crate::mail::message::Content;

    static IDS: std::sync::LazyLock<IdSource> = std::sync::LazyLock::new(IdSource::new);

    fn message(recipients: usize) -> Arc<Message> {
        let id = IDS.next(Timestamp::from_millis(1_795_255_200_000));
        let mailbox = |n: usize| Recipient::new(Mailbox::parse(&format!("user{n}@example.com")).unwrap());
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: (0..recipients).map(mailbox).collect(),
        };
        let life = Timestamp::from_millis(1_795_255_200_000)..Timestamp::from_millis(1_795_255_800_000);
        Arc::new(Message::new(id, "shop".into(), envelope, life))
    }

    fn ring(folder: &Path, sealing: Sealing) -> KeyRing {
        KeyRing::open(&folder.join("keys"), sealing, Timestamp::from_millis(1_795_255_200_000)).unwrap()
    }

    fn open(folder: &Path) -> Result<SledStore, StoreError> {
        SledStore::open(&folder.join("queue"), ring(folder, Sealing::On))
    }

    fn content(len: usize) -> Content {
        let body: Vec<u8> = (0..len).map(|i| (i * 7919 % 251) as u8).collect();
        Content { head: Bytes::from_static(b"From: a@example.com\r\n"), body: body.into() }
    }

    type Scanned = (Vec<(Message, Vec<(u16, Progress)>)>, Vec<String>);

    fn scan(store: &mut SledStore) -> Scanned {
        let (mut messages, mut unreadable) = (Vec::new(), Vec::new());
        store
            .scan(&mut |found| match found {
                Found::Message(message, entries) => messages.push((*message, entries)),
                Found::Unreadable(name) => unreadable.push(name),
                Found::Side(..) => {}
            })
            .unwrap();
        (messages, unreadable)
    }

    #[test]
    fn what_is_committed_is_found_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let (small, large) = (message(1), message(100));
        let progress = Progress { attempts: 2, cause: Some(Cause::Greylisted), ..Progress::default() };
        let entry = EntryId { message: large.id, index: 7 };
        {
            let mut store = open(folder.path()).unwrap();
            store
                .commit(&[
                    &[Change::Accept(small.clone(), content(100))],
                    &[
                        Change::Accept(large.clone(), content(1 << 20)),
                        Change::Update(entry, Box::new(progress.clone())),
                        Change::Side(Table::Budget, b"k".as_slice().into(), Some(b"v".as_slice().into())),
                    ],
                ])
                .unwrap();
        }
        let mut store = open(folder.path()).unwrap();
        assert_eq!(store.content(small.id).unwrap(), Some(content(100)));
        assert_eq!(store.content(large.id).unwrap(), Some(content(1 << 20)));
        let (messages, unreadable) = scan(&mut store);
        assert_eq!(messages, [((*small).clone(), vec![]), ((*large).clone(), vec![(7, progress)])]);
        assert!(unreadable.is_empty());
        store.commit(&[&[Change::Remove(small.id), Change::Remove(large.id)]]).unwrap();
        assert_eq!(store.content(large.id).unwrap(), None);
        assert!(scan(&mut store).0.is_empty());
    }

    /// What a failed commit left is set right by one group, which may take back what it adds itself.
    #[test]
    fn what_a_group_adds_and_removes_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        let (kept, gone, old) = (message(1), message(1), message(1));
        store.commit(&[&[Change::Accept(old.clone(), content(9000))]]).unwrap();
        let progress = Box::<Progress>::default();
        store
            .commit(&[&[
                Change::Accept(gone.clone(), content(9000)),
                Change::Update(EntryId { message: gone.id, index: 0 }, progress.clone()),
                Change::Accept(kept.clone(), content(100)),
                Change::Update(EntryId { message: old.id, index: 0 }, progress),
                Change::Remove(gone.id),
                Change::Remove(old.id),
            ]])
            .unwrap();
        assert_eq!(scan(&mut store), (vec![((*kept).clone(), vec![])], vec![]));
    }

    /// sled keeps pages beyond a quarter of a segment in files that nothing syncs.
    #[test]
    fn no_page_becomes_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        for _ in 0..8 {
            let large: Vec<Change> = (0..4).map(|_| Change::Accept(message(100), content(1 << 20))).collect();
            let groups: Vec<&[Change]> = large.chunks(1).collect();
            store.commit(&groups).unwrap();
        }
        let blobs = fs::read_dir(folder.path().join("queue/blobs")).map_or(0, Iterator::count);
        assert_eq!(blobs, 0);
    }

    #[test]
    fn space_is_given_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        let kept = message(1);
        store.commit(&[&[Change::Accept(kept.clone(), content(5000))]]).unwrap();
        let gone: Vec<Change> = (0..8).map(|_| Change::Accept(message(1), content(1 << 20))).collect();
        store.commit(&[&gone]).unwrap();
        let len = |folder: &Path| fs::metadata(folder.join("queue/db")).unwrap().len();
        store.give_back(1 << 20, usize::MAX).unwrap();
        assert!(len(folder.path()) > 8 << 20, "all of it is live");
        for change in &gone {
            let Change::Accept(message, _) = change else { continue };
            store.commit(&[&[Change::Remove(message.id)]]).unwrap();
        }
        store.give_back(1 << 20, 1).unwrap();
        assert!(len(folder.path()) > 8 << 20, "there are more rows than may be copied");
        store.give_back(1 << 20, usize::MAX).unwrap();
        assert!(len(folder.path()) <= 1 << 20, "{}", len(folder.path()));
        for _ in 0..2 {
            assert_eq!(scan(&mut store), (vec![((*kept).clone(), vec![])], vec![]));
            assert_eq!(store.content(kept.id).unwrap(), Some(content(5000)));
            drop(store);
            store = open(folder.path()).unwrap();
        }
        assert!(!folder.path().join("queue.new").exists());
    }

    /// A crash came while it was copied, or before the old one was removed.
    #[test]
    fn what_is_left_of_a_copy_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("queue.new")).unwrap();
        let _store = open(folder.path()).unwrap();
        assert!(!folder.path().join("queue.new").exists());
    }

    /// The sentence names the format; nothing is changed, so that the newer program goes on with it.
    #[test]
    fn what_a_newer_program_wrote_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        let (key, newer) = (FORMAT_ROW, b"9999\n".as_slice());
        assert!(scan(&mut store).0.is_empty(), "the row is nobody's");
        store.commit(&[&[Change::Side(Table::Meta, key.into(), Some(newer.into()))]]).unwrap();
        drop(store);
        for _ in 0..2 {
            let error = open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("it has format 9999, which a newer otp-relay wrote"), "{error}");
        }
    }

    #[test]
    fn a_second_process_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let _store = open(folder.path()).unwrap();
        assert!(matches!(open(folder.path()), Err(StoreError::InUse(_))));
    }

    #[test]
    fn leftovers_of_a_snapshot_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        fs::write(folder.path().join("queue/snap.00000001.generating"), b"half").unwrap();
        assert!(open(folder.path()).is_ok());
    }

    #[test]
    fn half_a_first_start_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("queue")).unwrap();
        fs::write(folder.path().join("queue/conf"), b"segment_size: 52").unwrap();
        drop(open(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the keys and the queue");
    }

    #[test]
    fn after_a_failed_commit_the_rest_can_be_read_and_recovers() {
        let folder = tempfile::tempdir().unwrap();
        let kept = message(1);
        let in_an_hour = kept.expires_at.plus(Duration::from_secs(3600));
        let refused = Arc::new(Message { expires_at: in_an_hour, ..(*message(1)).clone() });
        let mut store = open(folder.path()).unwrap();
        store.commit(&[&[Change::Accept(kept.clone(), content(100))]]).unwrap();
        let (keys, away) = (folder.path().join("keys"), folder.path().join("away"));
        fs::rename(&keys, &away).unwrap();
        let accept = [Change::Accept(refused.clone(), content(9))];
        assert!(store.commit(&[&accept]).is_err(), "its key cannot be made");
        assert!(store.commit(&[&[Change::Remove(kept.id)]]).is_err(), "nothing goes on before it has recovered");
        assert_eq!(store.content(kept.id).unwrap(), Some(content(100)));
        fs::rename(&away, &keys).unwrap();
        store.recover().unwrap();
        assert_eq!(scan(&mut store).0, [((*kept).clone(), vec![])]);
        store.commit(&[&accept]).unwrap();
        assert_eq!(store.content(refused.id).unwrap(), Some(content(9)));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (message(1), message(1));
        let mut store = open(folder.path()).unwrap();
        store.commit(&[&[Change::Accept(good.clone(), content(9)), Change::Accept(bad.clone(), content(9))]]).unwrap();
        let key = message_key(bad.id, KIND_HEAD, 0).unwrap();
        store.db().unwrap().insert(&key, b"\x01garbage").unwrap();
        let (messages, unreadable) = scan(&mut store);
        assert_eq!(messages.len(), 1);
        assert_eq!(unreadable, [format!("{}, record 0", bad.id)]);
        assert!(scan(&mut store).1.is_empty());
    }

    #[test]
    fn a_message_accepted_and_removed_by_one_commit_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        let (stays, goes) = (message(1), message(1));
        let accept = [stays.clone(), goes.clone()].map(|message| Change::Accept(message, content(5000)));
        store.commit(&[&accept[..1], &accept[1..], &[Change::Remove(goes.id)]]).unwrap();
        assert_eq!(scan(&mut store).0, [((*stays).clone(), vec![])]);
    }

    #[test]
    fn a_removed_message_leaves_no_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        let message = message(3);
        let entry = EntryId { message: message.id, index: 1 };
        let before = store.db().unwrap().len();
        store.commit(&[&[Change::Accept(message.clone(), content(20_000))]]).unwrap();
        store.commit(&[&[Change::Update(entry, Box::default())]]).unwrap();
        store.commit(&[&[Change::Remove(message.id)]]).unwrap();
        assert_eq!(store.db().unwrap().len(), before);
    }
}
