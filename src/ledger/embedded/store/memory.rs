//! A store in memory, for tests and simulation. It keeps what was committed apart from what it is told, can fail on
//! demand, and survives the crash of whoever uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Change, Found, HeldEvents, ReadEvents, Store, StoreError, Table};
use crate::event::Event;
use crate::ledger::cursor::Cursor;
use crate::ledger::entry::{Message, Progress};
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// Events handed out at once.
const READ_MAX: usize = 256;
/// Numbers that a former process may have given without storing the event.
const GIVEN_MAX: u64 = 4096;

type Row = (Table, Box<[u8]>);
type Stored = (Arc<Message>, Content, BTreeMap<u16, Progress>);

#[derive(Debug, Default, Clone)]
struct Disk {
    messages: BTreeMap<MessageId, Stored>,
    side: BTreeMap<Row, Box<[u8]>>,
    events: BTreeMap<u64, Arc<Event>>,
    /// The number of the last event that was committed.
    newest: u64,
    swept: u64,
    failing: bool,
    /// The next commit fails when it has come so far.
    fails_after: Option<usize>,
    /// A commit failed, and nobody has recovered the store since.
    is_spoiled: bool,
    is_unreadable: bool,
    commits: u64,
}

/// A store whose clones share one "disk": keep a clone, drop the rest, and open the queue again on it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Disk>>);

impl MemoryStore {
    /// From now on commits fail as on a full disk, or succeed again.
    pub fn set_failing(&self, failing: bool) {
        self.0.lock().failing = failing;
    }

    /// The next commit reports an error, although its first `groups` groups are on the disk; then nothing is committed
    /// before [`Store::recover`].
    pub fn fail_next(&self, groups: usize) {
        self.0.lock().fails_after = Some(groups);
    }

    /// From now on content cannot be read, until [`MemoryStore::heal`].
    pub fn hide_content(&self) {
        self.0.lock().is_unreadable = true;
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        let mut disk = self.0.lock();
        (disk.failing, disk.fails_after, disk.is_unreadable) = (false, None, false);
    }

    /// What the disk holds now, as after a crash at this moment.
    #[must_use]
    pub fn image(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Whether this message is stored.
    pub fn holds(&self, id: MessageId) -> bool {
        self.0.lock().messages.contains_key(&id)
    }

    /// Messages stored.
    pub fn len(&self) -> usize {
        self.0.lock().messages.len()
    }

    /// The keys of the side tables' rows.
    pub fn rows(&self) -> Vec<(Table, Box<[u8]>)> {
        self.0.lock().side.keys().cloned().collect()
    }

    /// The events that are stored, in their order.
    pub fn stored_events(&self) -> Vec<(Cursor, Arc<Event>)> {
        self.0.lock().events.iter().map(|(number, event)| (Cursor::behind(*number), event.clone())).collect()
    }

    /// Whether no message is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Commits so far.
    pub fn commits(&self) -> u64 {
        self.0.lock().commits
    }
}

impl Disk {
    fn apply(&mut self, change: &Change, newest: &mut u64) {
        match change {
            Change::Event(event) => {
                *newest += 1;
                self.events.insert(*newest, event.clone());
            }
            Change::Accept(message, content) => {
                self.messages.insert(message.id, (message.clone(), content.clone(), BTreeMap::new()));
            }
            Change::Update(entry, progress) => {
                if let Some((_, _, entries)) = self.messages.get_mut(&entry.message) {
                    entries.insert(entry.index, (**progress).clone());
                }
            }
            Change::Remove(id) => {
                self.messages.remove(id);
            }
            Change::Side(table, key, Some(value)) => {
                self.side.insert((*table, key.clone()), value.clone());
            }
            Change::Side(table, key, None) => {
                self.side.remove(&(*table, key.clone()));
            }
        }
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, groups: &[&[Change]]) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        if disk.failing || disk.is_spoiled {
            return Err(StoreError::Full);
        }
        disk.commits += 1;
        let failed = disk.fails_after.take();
        let mut newest = disk.newest;
        // Those of a commit that failed, unless nothing of this one gets to the disk either.
        if failed != Some(0) {
            drop(disk.events.split_off(&(newest + 1)));
        }
        for change in groups.iter().take(failed.unwrap_or(usize::MAX)).copied().flatten() {
            disk.apply(change, &mut newest);
        }
        disk.is_spoiled = failed.is_some();
        if failed.is_none() {
            disk.newest = newest;
        }
        failed.map_or(Ok(()), |_| Err(StoreError::Failed("as it was told to".into())))
    }

    fn content(&mut self, id: MessageId) -> Result<Option<Content>, StoreError> {
        let disk = self.0.lock();
        if disk.is_unreadable {
            return Err(StoreError::Failed("as it was told to".into()));
        }
        Ok(disk.messages.get(&id).map(|(_, content, _)| content.clone()))
    }

    fn scan(&mut self, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
        let disk = self.0.lock();
        for (message, _, entries) in disk.messages.values() {
            let entries = entries.iter().map(|(index, progress)| (*index, progress.clone())).collect();
            visit(Found::Message(Box::new((**message).clone()), entries));
        }
        for ((table, key), value) in &disk.side {
            visit(Found::Side(*table, (key.clone(), value.clone())));
        }
        Ok(())
    }

    fn has_room(&mut self) -> bool {
        let disk = self.0.lock();
        !disk.failing && !disk.is_spoiled
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        disk.is_spoiled &= disk.failing;
        if disk.failing { Err(StoreError::Full) } else { Ok(()) }
    }

    fn open_events(&mut self, from: Cursor) -> Result<HeldEvents, StoreError> {
        let mut disk = self.0.lock();
        let stored = disk.events.last_key_value().map_or(disk.newest, |(number, _)| *number);
        disk.newest = from.number().max(stored.max(disk.newest) + GIVEN_MAX);
        if disk.events.is_empty() {
            disk.swept = disk.newest;
        }
        Ok(HeldEvents { swept: Cursor::behind(disk.swept), newest: Cursor::behind(disk.newest) })
    }

    fn events(&mut self, after: Cursor) -> Result<ReadEvents, StoreError> {
        let disk = self.0.lock();
        let behind = disk.events.range(after.plus(1).number()..=disk.newest);
        let found: Vec<_> =
            behind.take(READ_MAX).map(|(number, event)| (Cursor::behind(*number), event.clone())).collect();
        let is_all = found.len() < READ_MAX;
        let last = found.last().map(|(at, _)| *at).filter(|_| !is_all);
        Ok((found, last.unwrap_or(Cursor::behind(disk.newest)).max(after)))
    }

    fn erase_events(&mut self, plain: &str) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        let theirs = disk.events.values_mut().filter(|event| event.is_about(plain));
        theirs.for_each(|event| *event = Arc::new(event.without_recipient()));
        Ok(())
    }

    fn sweep(&mut self, to: Option<Cursor>) -> Cursor {
        let mut disk = self.0.lock();
        if let Some(to) = to {
            disk.events = disk.events.split_off(&to.plus(1).number());
            disk.swept = disk.swept.max(to.number());
        }
        Cursor::behind(disk.swept)
    }
}
