//! Names under which mail was taken, each for a while, and those under which a message is being accepted right now.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::same::{DIGEST_LEN, Digest};
use crate::base::clock::Timestamp;
use crate::ledger::side::{SideChange, SideTable};
use crate::mail::id::MessageId;

/// What was taken later than this from now was taken by a clock that was ahead, and is forgotten.
pub(super) const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// Version of the rows that hold a digest, whose name is a user's key.
const VERSION_WITH_DIGEST: u8 = 1;
/// Version of the rows whose name is a digest, with the end of their window.
const VERSION_WITH_END: u8 = 2;

/// As the row is called.
pub(super) type Name = Box<[u8]>;

/// A message taken under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: MessageId,
    pub(super) at: Timestamp,
    /// When it may be forgotten.
    pub(super) until: Timestamp,
    /// What it was; none: the name says so.
    pub(super) digest: Option<Digest>,
}

impl Record {
    /// Whether it was taken less than `span` ago; what a clock took that was ahead was not.
    pub(super) fn is_within(&self, span: Duration, now: Timestamp) -> bool {
        now.since(self.at) < span && self.at <= now.plus(AHEAD_MAX)
    }

    pub(super) fn encode(&self) -> Box<[u8]> {
        let mut value = vec![if self.digest.is_some() { VERSION_WITH_DIGEST } else { VERSION_WITH_END }];
        value.extend_from_slice(&self.id.to_bytes());
        value.extend_from_slice(&self.at.as_millis().to_be_bytes());
        match &self.digest {
            Some(digest) => value.extend_from_slice(digest),
            None => value.extend_from_slice(&self.until.as_millis().to_be_bytes()),
        }
        value.into()
    }

    /// Reads a row; one with a digest is kept for `memory`.
    pub(super) fn decode(value: &[u8], memory: Duration) -> Option<Self> {
        let (&version, rest) = value.split_first()?;
        let (id, rest) = rest.split_at_checked(16)?;
        let (at, rest) = rest.split_at_checked(8)?;
        let id = MessageId::from_bytes(id.try_into().ok()?);
        let time = |octets: &[u8]| Some(Timestamp::from_millis(u64::from_be_bytes(octets.try_into().ok()?)));
        let at = time(at)?;
        match version {
            VERSION_WITH_DIGEST if rest.len() == DIGEST_LEN => {
                Some(Self { id, at, until: at.plus(memory), digest: Some(rest.try_into().ok()?) })
            }
            VERSION_WITH_END => Some(Self { id, at, until: time(rest)?, digest: None }),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Slot {
    /// Somebody is about to be accepted under it; the channel closes when that is decided.
    Pending(watch::Receiver<()>),
    Taken(Record),
}

#[derive(Debug, Default)]
struct Slots {
    slots: HashMap<Name, Slot>,
    /// The first is forgotten first.
    order: BTreeSet<(Timestamp, Name)>,
}

#[derive(Debug)]
pub(super) struct Memory {
    known: Mutex<Slots>,
    names_max: usize,
}

/// What there is to some names.
#[derive(Debug)]
pub(super) enum Look<'a> {
    /// Nothing; they are kept for whoever asked.
    Reserved(Reservation<'a>),
    /// Another submission is being accepted; to be asked again when the channel closes.
    Pending(watch::Receiver<()>),
    /// A message was taken.
    Taken(Record),
}

impl Memory {
    /// With what was found at start, but for what cannot have been taken yet.
    pub(super) fn new(records: Vec<(Name, Record)>, names_max: usize, now: Timestamp) -> Self {
        let mut known = Slots::default();
        for (name, record) in records.into_iter().filter(|(_, record)| record.at <= now.plus(AHEAD_MAX)) {
            known.order.insert((record.until, name.clone()));
            known.slots.insert(name, Slot::Taken(record));
        }
        Self { known: Mutex::new(known), names_max }
    }

    /// Looks for a message that was taken under one of these names less than `span` ago. Where there is none, the first
    /// name is kept for a message with this digest.
    pub(super) fn look(&self, names: &[Name], span: Duration, digest: Option<Digest>, now: Timestamp) -> Look<'_> {
        let mut known = self.known.lock();
        for name in names {
            match known.slots.get(name) {
                Some(Slot::Pending(pending)) => return Look::Pending(pending.clone()),
                Some(Slot::Taken(record)) if record.is_within(span, now) => return Look::Taken(record.clone()),
                Some(Slot::Taken(_)) | None => {}
            }
        }
        let name = names.first().cloned().unwrap_or_default();
        let (waking, pending) = watch::channel(());
        if let Some(Slot::Taken(old)) = known.slots.insert(name.clone(), Slot::Pending(pending)) {
            known.order.remove(&(old.until, name.clone()));
        }
        let until = now.plus(span);
        Look::Reserved(Reservation { memory: self, name, digest, now, until, is_taken: false, _waking: waking })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.lock().slots.len()
    }
}

/// A name that waits for its message to be accepted. Dropped before, it is free again.
#[derive(Debug)]
pub(in crate::intake) struct Reservation<'a> {
    memory: &'a Memory,
    name: Name,
    digest: Option<Digest>,
    now: Timestamp,
    until: Timestamp,
    is_taken: bool,
    /// Its end wakes those who wait.
    _waking: watch::Sender<()>,
}

impl Reservation<'_> {
    /// What is to be stored together with the message, and what goes meanwhile.
    pub(in crate::intake) fn changes(&self, id: MessageId) -> Vec<SideChange> {
        let mut changes = vec![SideChange(SideTable::Idempotency, self.name.clone(), Some(self.record(id).encode()))];
        let mut known = self.memory.known.lock();
        let is_full = |known: &Slots| known.order.len() >= self.memory.names_max;
        while known.order.first().is_some_and(|(until, _)| *until <= self.now || is_full(&known)) {
            let Some((_, name)) = known.order.pop_first() else { break };
            known.slots.remove(&name);
            changes.push(SideChange(SideTable::Idempotency, name, None));
        }
        changes
    }

    /// The message is accepted.
    pub(in crate::intake) fn taken(mut self, id: MessageId) {
        self.is_taken = true;
        let record = self.record(id);
        let mut known = self.memory.known.lock();
        known.order.insert((record.until, self.name.clone()));
        known.slots.insert(self.name.clone(), Slot::Taken(record));
    }

    fn record(&self, id: MessageId) -> Record {
        Record { id, at: self.now, until: self.until, digest: self.digest }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.memory.known.lock().slots.remove(&self.name);
        }
    }
}
