//! Traces on disk: a sled folder of their own, apart from the queue's, so that nothing about them touches mail.
//!
//! Nothing waits for a sync here: the engine writes along by itself, and what it has written is made sure of now and then. Keys: `t` and the message's id, for the trace;
//! `r`, the recipient and the id, to find it by, with its user; `m` for the number and size of what is stored, which changes
//! in the same batch; `c`, up to which of the events that is; `f` for the format.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use sled::{Batch, Db};

use super::engine::{
    PAGE_TOUCHES, engine_error, guarded, io_error, open_patiently, remove_snapshot_leftovers, touch_page,
};
use crate::base::clock::Timestamp;
use crate::base::format;
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::StoreError;
use crate::mail::id::MessageId;

/// Pause between flushes in the background: a crash may lose what was written in it, in milliseconds.
const FLUSH_PAUSE_MS: u64 = 1000;
const CACHE_LEN: u64 = 4 << 20;
/// Traces removed in one go.
const FORGET_MAX: usize = 2000;

const TRACE: u8 = b't';
const RECIPIENT: u8 = b'r';
const TOTALS: &[u8] = b"m";
pub(super) const FORMAT_ROW: &[u8] = b"f";
const CURSOR: &[u8] = b"c";

/// What bounds the stored traces; beyond, the oldest go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Since the message was accepted.
    pub retention: Duration,
    /// Messages.
    pub messages_max: u64,
    /// Octets of traces; on disk it is some two times that.
    pub octets_max: u64,
}

impl Limits {
    /// These bounds with another retention.
    pub fn of(retention: Duration) -> Self {
        Self { retention, messages_max: 1_000_000, octets_max: 1 << 30 }
    }
}

/// What is stored in all.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    messages: u64,
    octets: u64,
}

/// A trace as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: MessageId,
    pub(crate) user: Box<str>,
    /// By what it is found: `Mailbox::plain_key` of each recipient.
    pub(crate) recipients: Vec<Box<str>>,
    /// What the reader wrote, for itself.
    pub(crate) value: Vec<u8>,
}

/// The stored traces.
#[derive(Debug)]
pub(crate) struct Records {
    db: Db,
    /// A second handle to the database file, to sync it.
    file: File,
    totals: Mutex<Totals>,
}

impl Records {
    /// Opens the folder, making it if there is none. What is damaged is set aside, in the place of what was so before.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let error = match guarded(|| Self::open_as_it_is(folder)) {
            Err(StoreError::Damaged(error)) => error,
            result => return result,
        };
        let aside = folder.with_extension("damaged");
        if std::fs::exists(&aside).map_err(|e| io_error(&e))? {
            std::fs::remove_dir_all(&aside).map_err(|e| io_error(&e))?;
        }
        std::fs::rename(folder, &aside).map_err(|e| io_error(&e))?;
        tracing::warn!(%error, "the stored traces are damaged; they are now in {}, and new ones are begun", aside.display());
        guarded(|| Self::open_as_it_is(folder))
    }

    fn open_as_it_is(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).and_then(|()| remove_snapshot_leftovers(folder)).map_err(|e| io_error(&e))?;
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_LEN).flush_every_ms(Some(FLUSH_PAUSE_MS));
        let db = open_patiently(&config).map_err(engine_error)?;
        let format = db.get(FORMAT_ROW).map_err(engine_error)?;
        format::check(format.as_deref()).map_err(|newer| StoreError::Newer(folder.display().to_string(), newer))?;
        db.insert(FORMAT_ROW, format::text().as_bytes()).map_err(engine_error)?;
        let totals = db.get(TOTALS).map_err(engine_error)?.and_then(|value| Totals::decode(&value)).unwrap_or_default();
        let file = OpenOptions::new().read(true).write(true).open(folder.join("db")).map_err(|e| io_error(&e))?;
        Ok(Self { db, file, totals: Mutex::new(totals) })
    }

    /// Up to which event traces are stored.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        let number = self.db.get(CURSOR).ok()??.as_ref().try_into().ok()?;
        Some(Cursor::behind(u64::from_be_bytes(number)))
    }

    /// Returns when what was written would survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(engine_error)?;
        self.file.sync_data().map_err(|e| io_error(&e))
    }

    /// The trace of a message, if it can be had.
    pub(crate) fn get(&self, id: MessageId) -> Option<Vec<u8>> {
        let key = trace_key(id);
        let value = self.db.get(key).ok()??;
        touch_page(&self.db, &key, PAGE_TOUCHES).ok()?;
        Some(value.to_vec())
    }

    /// Messages to a recipient, the newest first, each with its user; none where version 0.1 wrote no user.
    pub(crate) fn of_recipient(&self, plain: &str) -> impl Iterator<Item = (MessageId, Option<Box<str>>)> {
        let prefix = recipient_prefix(plain);
        let rows = self.db.scan_prefix(&prefix).rev().filter_map(Result::ok);
        rows.filter_map(move |(key, user)| {
            let id = MessageId::from_bytes(key.get(prefix.len()..)?.try_into().ok()?);
            let user = String::from_utf8(user.to_vec()).ok().filter(|user| !user.is_empty());
            Some((id, user.map(String::into_boxed_str)))
        })
    }

    /// Traces below a message's, the newest first.
    pub(crate) fn below(&self, id: Option<MessageId>) -> impl Iterator<Item = (MessageId, Vec<u8>)> {
        let end = id.map_or_else(|| vec![TRACE + 1], |id| trace_key(id).to_vec());
        let rows = self.db.range(vec![TRACE]..end).rev().filter_map(Result::ok);
        rows.filter_map(|(key, value)| Some((MessageId::from_bytes(key.get(1..)?.try_into().ok()?), value.to_vec())))
    }

    /// Shows the traces of messages with ids from a time on, until `visit` has seen enough.
    pub(crate) fn each_since(
        &self,
        since: Timestamp,
        mut visit: impl FnMut(MessageId, &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut first = [0; 17];
        first[0] = TRACE;
        first[1..7].copy_from_slice(&since.as_millis().to_be_bytes()[2..]);
        for row in self.db.range(first..[TRACE + 1; 17]) {
            let (key, value) = row.map_err(engine_error)?;
            touch_page(&self.db, &key, PAGE_TOUCHES).map_err(engine_error)?;
            let id = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes);
            if id.is_some_and(|id| !visit(id, &value)) {
                break;
            }
        }
        Ok(())
    }

    /// Writes traces, in place of what was there of them; with them all events up to `at` are stored, where that is said.
    pub(crate) fn put(&self, traces: &[Stored], at: Option<Cursor>) -> Result<(), StoreError> {
        for some in traces.chunks(100) {
            let mut totals = self.totals.lock();
            let mut next = *totals;
            let mut batch = Batch::default();
            for trace in some {
                let key = trace_key(trace.id);
                match self.db.get(key).map_err(engine_error)? {
                    Some(old) => next.octets = next.octets.saturating_sub(old.len() as u64),
                    None => next.messages += 1,
                }
                next.octets += trace.value.len() as u64;
                batch.insert(&key, &*trace.value);
                for recipient in &trace.recipients {
                    batch.insert(recipient_key(recipient, trace.id), trace.user.as_bytes());
                }
            }
            batch.insert(TOTALS, &next.encode());
            self.db.apply_batch(batch).map_err(engine_error)?;
            *totals = next;
        }
        let Some(at) = at else { return Ok(()) };
        self.db.insert(CURSOR, &at.number().to_be_bytes()).map(drop).map_err(engine_error)
    }

    /// The oldest traces beyond the limits, some of them: what [`Records::remove`] is to remove.
    pub(crate) fn beyond(&self, limits: &Limits, now: Timestamp) -> Result<Vec<(MessageId, Vec<u8>)>, StoreError> {
        let end_of_retention = now.minus(limits.retention);
        let mut left = *self.totals.lock();
        let mut found = Vec::new();
        for row in self.db.scan_prefix([TRACE]).take(FORGET_MAX) {
            let (key, value) = row.map_err(engine_error)?;
            let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes) else { continue };
            let is_too_much = left.messages > limits.messages_max || left.octets > limits.octets_max;
            if !is_too_much && id.time() > end_of_retention {
                break;
            }
            left.messages = left.messages.saturating_sub(1);
            left.octets = left.octets.saturating_sub(value.len() as u64);
            found.push((id, value.to_vec()));
        }
        Ok(found)
    }

    /// Removes that by which these messages are found under a recipient, also where there is no trace.
    pub(crate) fn forget_names(&self, plain: &str, ids: &[MessageId]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        ids.iter().for_each(|id| batch.remove(recipient_key(plain, *id)));
        self.db.apply_batch(batch).map_err(engine_error)
    }

    /// Removes traces, with that by which they are found.
    pub(crate) fn remove(&self, traces: &[Stored]) -> Result<(), StoreError> {
        if traces.is_empty() {
            return Ok(());
        }
        let mut totals = self.totals.lock();
        let mut next = *totals;
        let mut batch = Batch::default();
        for trace in traces {
            for recipient in &trace.recipients {
                batch.remove(recipient_key(recipient, trace.id));
            }
            next.messages = next.messages.saturating_sub(1);
            next.octets = next.octets.saturating_sub(trace.value.len() as u64);
            batch.remove(&trace_key(trace.id));
        }
        batch.insert(TOTALS, &next.encode());
        self.db.apply_batch(batch).map_err(engine_error)?;
        *totals = next;
        Ok(())
    }
}

impl Totals {
    fn encode(self) -> [u8; 16] {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.messages.to_be_bytes());
        value[8..].copy_from_slice(&self.octets.to_be_bytes());
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (messages, octets) = value.split_at_checked(8)?;
        Some(Self {
            messages: u64::from_be_bytes(messages.try_into().ok()?),
            octets: u64::from_be_bytes(octets.try_into().ok()?),
        })
    }
}

/// Whether a row is a trace.
pub(super) fn is_trace(key: &[u8]) -> bool {
    key.len() == 17 && key[0] == TRACE
}

fn trace_key(id: MessageId) -> [u8; 17] {
    let mut key = [TRACE; 17];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

/// An address has no NUL in it, so none is the beginning of another's.
fn recipient_prefix(plain: &str) -> Vec<u8> {
    [&[RECIPIENT], plain.as_bytes(), &[0]].concat()
}

fn recipient_key(plain: &str, id: MessageId) -> Vec<u8> {
    [recipient_prefix(plain), id.to_bytes().to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};
    use crate::mail::id::IdSource;

    const ALICE: &str = "alice@example.com";

    fn trace(id: MessageId, user: &str) -> Stored {
        Stored { id, user: user.into(), recipients: vec![ALICE.into()], value: vec![b'x'; 100] }
    }

    /// Whatever others sent to the same address, each is found with its user; of those that version 0.1 wrote none is known.
    #[test]
    fn messages_are_found_by_recipient_with_their_user() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let ids = IdSource::new();
        let next = || ids.next(SystemClock::default().now());
        let own: Vec<MessageId> = (0..3).map(|_| next()).collect();
        records.put(&own.iter().map(|id| trace(*id, "shop")).collect::<Vec<_>>(), None).unwrap();
        records.put(&(0..40).map(|_| trace(next(), "bank")).collect::<Vec<_>>(), None).unwrap();
        let of = |user: Option<&str>| -> Vec<MessageId> {
            records.of_recipient(ALICE).filter(|(_, whose)| whose.as_deref() == user).map(|(id, _)| id).collect()
        };
        assert_eq!(of(Some("shop")), [own[2], own[1], own[0]], "the newest first");
        assert_eq!((of(Some("bank")).len(), of(Some("sho")).len()), (40, 0));
        for row in records.db.scan_prefix([RECIPIENT]).keys() {
            records.db.insert(row.unwrap(), &[]).unwrap();
        }
        assert_eq!((of(None).len(), of(Some("bank")).len()), (43, 0));
    }

    #[test]
    fn the_oldest_go_beyond_the_limits() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let (ids, now) = (IdSource::new(), SystemClock::default().now());
        let all: Vec<Stored> = (0..10).map(|_| trace(ids.next(now), "shop")).collect();
        records.put(&all, None).unwrap();
        let limits = Limits { messages_max: 7, ..Limits::of(Duration::from_secs(3600)) };
        let beyond: Vec<MessageId> = records.beyond(&limits, now).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(beyond, all[..3].iter().map(|trace| trace.id).collect::<Vec<_>>());
        records.remove(&all[..3]).unwrap();
        assert!(records.beyond(&limits, now).unwrap().is_empty() && records.get(all[0].id).is_none());
        assert_eq!((records.of_recipient(ALICE).count(), records.totals.lock().octets), (7, 700));
        let later = now.plus(Duration::from_secs(3601));
        assert_eq!(records.beyond(&limits, later).unwrap().len(), 7);
    }
}
