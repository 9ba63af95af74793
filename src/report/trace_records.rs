//! Traces on disk: a sled folder of their own, apart from the queue's, so that nothing about them touches mail.
//!
//! Nothing here is synced on purpose: the engine writes along by itself. Keys: `t` and the message's id, for the trace;
//! `r`, the recipient and the id, to find it by, with its user; `m` for the number and size of what is stored, which changes
//! in the same batch.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sled::{Batch, Db};

use super::trace_form::{Trace, decode, encode};
use crate::clock::Timestamp;
use crate::mail::id::MessageId;
use crate::queue::engine::{
    LOOKS, engine_error, guarded, io_error, look_again, open_patiently, remove_snapshot_leftovers,
};
use crate::queue::store::StoreError;

/// How long a crash may set the engine back.
const FLUSH_PAUSE_MS: u64 = 1000;
const CACHE_LEN: u64 = 4 << 20;
/// Traces removed in one go.
const FORGET_MAX: usize = 2000;

const TRACE: u8 = b't';
const RECIPIENT: u8 = b'r';
const TOTALS: &[u8] = b"m";

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

/// The stored traces.
#[derive(Debug)]
pub(super) struct Records {
    db: Db,
    totals: Mutex<Totals>,
}

impl Records {
    /// Opens the folder, making it if there is none. What is damaged is set aside, in the place of what was so before.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let error = match guarded(|| Self::open_as_it_is(folder).map_err(engine_error)) {
            Err(StoreError::Damaged(error)) => error,
            result => return result,
        };
        let aside = folder.with_extension("damaged");
        if std::fs::exists(&aside).map_err(|e| io_error(&e))? {
            std::fs::remove_dir_all(&aside).map_err(|e| io_error(&e))?;
        }
        std::fs::rename(folder, &aside).map_err(|e| io_error(&e))?;
        tracing::warn!(%error, "the stored traces are damaged; they are now in {}, and new ones are begun", aside.display());
        guarded(|| Self::open_as_it_is(folder).map_err(engine_error))
    }

    fn open_as_it_is(folder: &Path) -> Result<Self, sled::Error> {
        std::fs::create_dir_all(folder)?;
        remove_snapshot_leftovers(folder)?;
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_LEN).flush_every_ms(Some(FLUSH_PAUSE_MS));
        let db = open_patiently(&config)?;
        let totals = db.get(TOTALS)?.and_then(|value| Totals::decode(&value)).unwrap_or_default();
        Ok(Self { db, totals: Mutex::new(totals) })
    }

    /// The trace of a message, if it can be read.
    pub(super) fn get(&self, id: MessageId) -> Option<Trace> {
        let key = trace_key(id);
        let value = self.db.get(key).ok()??;
        look_again(&self.db, &key, LOOKS).ok()?;
        decode(&value)
    }

    /// Messages to a recipient, the newest first; where a user is named, of its own only.
    pub(super) fn ids_of_recipient(&self, plain: &str, user: Option<&str>, limit: usize) -> Vec<MessageId> {
        let prefix = recipient_prefix(plain);
        let rows = self.db.scan_prefix(&prefix).rev().filter_map(Result::ok);
        let rows =
            rows.filter_map(|(key, of)| Some((MessageId::from_bytes(key.get(prefix.len()..)?.try_into().ok()?), of)));
        let is_asked = |id: MessageId, of: &[u8]| match user {
            None => true,
            // Version 0.1 wrote no user here.
            Some(user) if of.is_empty() => self.get(id).is_some_and(|trace| *trace.user == *user),
            Some(user) => of == user.as_bytes(),
        };
        rows.filter(|(id, of)| is_asked(*id, of)).map(|(id, _)| id).take(limit).collect()
    }

    /// Writes traces, in place of what was there of them.
    pub(super) fn put(&self, traces: &[Arc<Trace>]) -> Result<(), sled::Error> {
        for some in traces.chunks(100) {
            let mut totals = self.totals.lock();
            let mut next = *totals;
            let mut batch = Batch::default();
            for trace in some {
                let key = trace_key(trace.id);
                let value = encode(trace);
                match self.db.get(key)? {
                    Some(old) => next.octets = next.octets.saturating_sub(old.len() as u64),
                    None => next.messages += 1,
                }
                next.octets += value.len() as u64;
                batch.insert(&key, value);
                for recipient in trace.recipients() {
                    batch.insert(recipient_key(&recipient, trace.id), trace.user.as_bytes());
                }
            }
            batch.insert(TOTALS, &next.encode());
            self.db.apply_batch(batch)?;
            *totals = next;
        }
        Ok(())
    }

    /// Removes the oldest traces beyond the limits.
    pub(super) fn forget(&self, limits: &Limits, now: Timestamp) -> Result<(), sled::Error> {
        let end_of_retention = now.minus(limits.retention);
        let mut totals = self.totals.lock();
        let mut next = *totals;
        let mut batch = Batch::default();
        for row in self.db.scan_prefix([TRACE]).take(FORGET_MAX) {
            let (key, value) = row?;
            let Some(id) = key.get(1..).and_then(|id| id.try_into().ok()).map(MessageId::from_bytes) else { continue };
            let is_too_much = next.messages > limits.messages_max || next.octets > limits.octets_max;
            if !is_too_much && id.time() > end_of_retention {
                break;
            }
            for recipient in decode(&value).iter().flat_map(Trace::recipients) {
                batch.remove(recipient_key(&recipient, id));
            }
            next.messages = next.messages.saturating_sub(1);
            next.octets = next.octets.saturating_sub(value.len() as u64);
            batch.remove(key);
        }
        if next.messages == totals.messages {
            return Ok(());
        }
        batch.insert(TOTALS, &next.encode());
        self.db.apply_batch(batch)?;
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
    use crate::clock::{Clock as _, SystemClock};
    use crate::mail::id::IdSource;

    fn trace(id: MessageId, user: &str) -> Arc<Trace> {
        let now = SystemClock::default().now();
        let event = serde_json::json!({"kind": "accepted", "time": now, "recipient": "alice@example.com", "attempt": 0, "since_accepted_ms": 0});
        let trace = serde_json::json!({"id": id, "accepted_at": now, "expires_at": now, "user": user, "lane": "otp", "events": [event]});
        Arc::new(decode(&[&[1], trace.to_string().as_bytes()].concat()).unwrap())
    }

    /// Whatever others sent to the same address, one's own are found; also by rows that version 0.1 wrote, without a user.
    #[test]
    fn a_users_own_are_found_among_others() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let ids = IdSource::new();
        let next = || ids.next(SystemClock::default().now());
        let own: Vec<MessageId> = (0..3).map(|_| next()).collect();
        records.put(&own.iter().map(|id| trace(*id, "shop")).collect::<Vec<_>>()).unwrap();
        records.put(&(0..40).map(|_| trace(next(), "bank")).collect::<Vec<_>>()).unwrap();
        let plain = "alice@example.com";
        for _ in 0..2 {
            assert_eq!(records.ids_of_recipient(plain, Some("shop"), 2), [own[2], own[1]]);
            assert_eq!(records.ids_of_recipient(plain, Some("bank"), 100).len(), 40);
            assert_eq!(records.ids_of_recipient(plain, None, 100).len(), 43);
            assert!(records.ids_of_recipient(plain, Some("sho"), 100).is_empty());
            for row in records.db.scan_prefix([RECIPIENT]).keys() {
                records.db.insert(row.unwrap(), &[]).unwrap();
            }
        }
    }
}
