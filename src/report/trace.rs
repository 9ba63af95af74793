//! Traces: what happened to each message, kept for whoever asks "where is my code?".
//!
//! A thread of its own reads the events that were committed and folds them into memory; what changed it writes every half
//! second, so that a code that is accepted and delivered at once costs one write, and a slow disk keeps nobody from
//! anything. With what it writes goes its place among the events: after a crash it goes on from there, and an event that a
//! trace holds already is not added again. A trace never holds content, subject, code or password: events do not either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

pub(crate) use super::trace_form::Trace;
pub use super::trace_form::{decode, encode};
use crate::base::clock::{Clock, Timestamp};
use crate::event::{Event, Kind};
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::StoreError;
use crate::ledger::embedded::store::sled::engine::guarded;
pub use crate::ledger::embedded::store::sled::traces::Limits;
use crate::ledger::embedded::store::sled::traces::{Records, Stored};
use crate::ledger::latest::Confirmation;

use crate::mail::id::MessageId;
use crate::queue::Queue;

/// How long changes are gathered before they are written.
const WRITE_PAUSE: Duration = Duration::from_millis(500);
/// How long events may wait to be folded, unless somebody asks.
const FOLD_PAUSE: Duration = Duration::from_millis(250);
/// How often what was written is made sure of, so that its events may go.
const SYNC_PAUSE: Duration = Duration::from_secs(10);
/// How long to wait at most for events that are being folded.
const CATCHING_UP_MAX: Duration = Duration::from_secs(1);
/// Events folded in one go.
const FOLDED_MAX: usize = 512;
/// Traces in memory from which on they are written, whatever the time.
const WRITTEN_FROM: usize = 1_000;
/// Traces that are kept where they cannot be written.
const IN_MEMORY_MAX: usize = 4_000;
/// Stored traces looked at in one search.
const LOOKS_MAX: usize = 2_000;

/// Messages of which a recipient is erased in one go.
const ERASED_AT_ONCE: usize = 100;

/// A trace in memory.
#[derive(Debug)]
struct HeldTrace {
    trace: Arc<Trace>,
    /// Whether it has to be written; then it leaves memory, and is read back if there is news.
    is_new: bool,
}

#[derive(Debug, Default)]
struct Memory {
    held: BTreeMap<MessageId, HeldTrace>,
    /// Somebody waits for what was committed so far.
    is_asked: bool,
    is_closed: bool,
}

/// All traces.
pub struct Traces {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Which messages are wanted; what is none does not matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceFilter<'a> {
    /// To this recipient ([`plain_key`](crate::mail::address::Mailbox::plain_key)).
    pub recipient: Option<&'a str>,
    /// Of this user.
    pub user: Option<&'a str>,
    /// Older than this one.
    pub(crate) below: Option<MessageId>,
}

impl TraceFilter<'_> {
    fn is_below(&self, id: MessageId) -> bool {
        self.below.is_none_or(|below| id < below)
    }

    fn covers(&self, trace: &Trace) -> bool {
        let is_to = |plain: &str| {
            let recipients = trace.events.iter().filter_map(|event| event.head.recipient.as_ref());
            recipients.into_iter().any(|mailbox| mailbox.plain_key() == plain)
        };
        self.is_below(trace.id) && self.user.is_none_or(|user| *trace.user == *user) && self.recipient.is_none_or(is_to)
    }
}

/// What the thread that writes works on.
struct Shared {
    memory: Mutex<Memory>,
    wake: Condvar,
    /// None where the folder could not be opened, so that there are only the latest traces; and after the end.
    records: RwLock<Option<Records>>,
    /// Where events come from.
    source: Mutex<Option<Source>>,
    folded: watch::Sender<Cursor>,
}

#[derive(Clone)]
struct Source {
    queue: Arc<Queue>,
    confirmation: Confirmation,
}

impl Traces {
    /// Opens the folder and starts the thread that writes. A folder that cannot be used is told in the log; the relay
    /// then goes without stored traces.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(folder: &Path, limits: Limits, clock: Arc<dyn Clock>) -> std::io::Result<Arc<Self>> {
        let records = Records::open(folder)
            .map_err(|error| {
                let folder = folder.display();
                tracing::warn!(%error, "{folder} cannot be opened, so only the latest traces are kept; remove it to begin anew");
            })
            .ok();
        let shared = Arc::new(Shared {
            memory: Mutex::default(),
            wake: Condvar::new(),
            records: RwLock::new(records),
            source: Mutex::default(),
            folded: watch::Sender::default(),
        });
        let writer = shared.clone();
        let thread = std::thread::Builder::new().name("traces".into()).spawn(move || writer.run(limits, &*clock))?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Reads the events of this queue from now on, from where it stopped before.
    pub fn follow(&self, queue: &Arc<Queue>) {
        let known = self.shared.stored(|records| Ok(records.cursor())).flatten();
        let at = known.unwrap_or_else(|| queue.happened().before_oldest());
        let confirmation = queue.happened().register(at);
        self.shared.folded.send_replace(at);
        *self.shared.source.lock() = Some(Source { queue: queue.clone(), confirmation });
    }

    /// Returns when the events up to this place are in the traces; false if that takes too long.
    pub(crate) async fn caught_up(&self, to: Cursor) -> bool {
        let mut folded = self.shared.folded.subscribe();
        if *folded.borrow() >= to {
            return true;
        }
        self.shared.memory.lock().is_asked = true;
        self.shared.wake.notify_all();
        let waiting = folded.wait_for(|folded| *folded >= to);
        tokio::time::timeout(CATCHING_UP_MAX, waiting).await.is_ok_and(|folded| folded.is_ok())
    }

    /// The trace of a message.
    pub fn get(&self, id: MessageId) -> Option<Arc<Trace>> {
        if let Some(held) = self.shared.memory.lock().held.get(&id) {
            return Some(held.trace.clone());
        }
        self.shared.stored(|records| Ok(get(records, id))).flatten().map(Arc::new)
    }

    /// Forgets what is kept of a recipient, named as in [`TraceFilter`]: whole traces where the message had no other, else what
    /// happened to this one. Returns of how many messages.
    pub(crate) fn erase(&self, plain: &str) -> usize {
        let mut ids: BTreeSet<MessageId> = BTreeSet::new();
        {
            let mut memory = self.shared.memory.lock();
            let held = memory.held.iter().filter(|(_, held)| held.trace.recipients().contains(plain));
            ids.extend(held.map(|(id, _)| *id));
            for id in &ids {
                let rest = memory.held.get(id).and_then(|held| held.trace.without(plain));
                match (rest, memory.held.get_mut(id)) {
                    (Some(rest), Some(held)) => *held = HeldTrace { trace: Arc::new(rest), is_new: true },
                    (None, _) => drop(memory.held.remove(id)),
                    (Some(_), None) => {}
                }
            }
        }
        let stored = self.shared.stored(|records| erase(records, plain));
        ids.extend(stored.unwrap_or_default());
        ids.len()
    }

    /// Shows the traces of messages accepted from a time on, in their order, until `visit` has seen enough.
    pub(crate) fn each_since(&self, since: Timestamp, mut visit: impl FnMut(&Trace) -> bool) {
        let held = || -> BTreeMap<MessageId, Arc<Trace>> {
            let memory = self.shared.memory.lock();
            let young = memory.held.iter().filter(|(id, _)| id.time() >= since);
            young.map(|(id, held)| (*id, held.trace.clone())).collect()
        };
        let in_memory = held();
        let mut wants_more = true;
        self.shared.stored(|records| {
            records.each_since(since, |id, value| {
                if !in_memory.contains_key(&id) {
                    wants_more = decode(value).is_none_or(|trace| visit(&trace));
                }
                wants_more
            })
        });
        for trace in in_memory.values() {
            if wants_more {
                wants_more = visit(trace);
            }
        }
    }

    /// Ids of messages that are wanted, the newest first, at most `limit`; and how far down these are all there are, where
    /// there are more.
    pub(crate) fn newest(&self, wanted: TraceFilter<'_>, limit: usize) -> (Vec<MessageId>, Option<MessageId>) {
        let held: Vec<Arc<Trace>> = self.shared.memory.lock().held.values().map(|held| held.trace.clone()).collect();
        let in_memory = held.iter().filter(|trace| wanted.covers(trace)).map(|trace| trace.id);
        let mut found: BTreeSet<MessageId> = in_memory.collect();
        let stored = self.shared.stored(|records| Ok(newest_stored(records, wanted, limit)));
        let (stored, floor) = stored.unwrap_or_default();
        found.extend(stored);
        let mut newest: Vec<MessageId> = found.into_iter().rev().collect();
        newest.retain(|id| floor.is_none_or(|floor| *id >= floor));
        if newest.len() <= limit {
            return (newest, floor);
        }
        newest.truncate(limit);
        let last = newest.last().copied();
        (newest, last)
    }

    /// Writes what is new and ends the thread.
    pub fn close(&self) {
        self.shared.memory.lock().is_closed = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes traces panicked");
        }
        self.shared.records.write().take();
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Does what asks the engine; none where it cannot, or there are no stored traces. Damaged ones are let go.
    fn stored<T>(&self, work: impl FnOnce(&Records) -> Result<T, StoreError>) -> Option<T> {
        let records = self.records.read();
        let result = guarded(|| records.as_ref().map(work).transpose());
        drop(records);
        match result {
            Err(StoreError::Damaged(error)) => {
                tracing::error!(error, "the stored traces are damaged; until the next start only the latest are kept");
                let records = self.records.write().take();
                // What ends the engine may find the same damage.
                let _ = guarded(|| {
                    drop(records);
                    Ok(())
                });
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the stored traces cannot be used for now");
                None
            }
            Ok(done) => done,
        }
    }

    fn run(&self, limits: Limits, clock: &dyn Clock) {
        let (mut written_at, mut synced_at) = (clock.instant(), clock.instant());
        loop {
            let is_closed = {
                let mut memory = self.memory.lock();
                if !memory.is_closed && !memory.is_asked {
                    self.wake.wait_for(&mut memory, FOLD_PAUSE);
                }
                memory.is_asked = false;
                memory.is_closed
            };
            self.fold();
            let now = clock.instant();
            if is_closed || now >= written_at + WRITE_PAUSE {
                written_at = now;
                self.write();
                self.stored(|records| forget(records, &limits, clock.wall()));
            }
            if is_closed || now >= synced_at + SYNC_PAUSE {
                synced_at = now;
                self.confirm();
            }
            if is_closed {
                return;
            }
        }
    }

    /// Takes in what was committed since.
    fn fold(&self) {
        let Some(Source { queue, .. }) = self.source.lock().clone() else { return };
        loop {
            let at = *self.folded.borrow();
            let Ok(read) = queue.wait_for_events_after(at, FOLDED_MAX) else { return };
            if read.has_missed {
                tracing::warn!("events are gone that the traces had not read");
            }
            for (at, event) in &read.events {
                self.add(*at, event);
            }
            self.folded.send_replace(read.at);
            if read.at == at {
                return;
            }
            if self.memory.lock().held.len() >= WRITTEN_FROM {
                self.write();
            }
        }
    }

    /// What was written is on disk for good, so that its events may go.
    fn confirm(&self) {
        let Some(Source { confirmation, .. }) = self.source.lock().clone() else { return };
        if self.records.read().is_none() {
            return confirmation.confirm(*self.folded.borrow());
        }
        if let Some(Some(at)) = self.stored(|records| records.sync().map(|()| records.cursor())) {
            confirmation.confirm(at);
        }
    }

    fn add(&self, at: Cursor, event: &Arc<Event>) {
        let id = event.head.id;
        let mut memory = self.memory.lock();
        if !memory.held.contains_key(&id) {
            drop(memory);
            // Nobody else adds to `held`, so it is still missing afterwards.
            let trace = Arc::new(self.known(event));
            memory = self.memory.lock();
            memory.held.insert(id, HeldTrace { trace, is_new: true });
        }
        if let Some(held) = memory.held.get_mut(&id) {
            Arc::make_mut(&mut held.trace).add(at, event);
            held.is_new = true;
        }
    }

    fn write(&self) {
        // Everything up to here is in memory.
        let at = *self.folded.borrow();
        let changed: Vec<Arc<Trace>> = {
            let mut memory = self.memory.lock();
            let new = memory.held.values_mut().filter(|held| held.is_new);
            new.map(|held| {
                held.is_new = false;
                held.trace.clone()
            })
            .collect()
        };
        if !changed.is_empty() {
            let changed: Vec<Stored> = changed.iter().map(|trace| stored(trace)).collect();
            self.stored(|records| records.put(&changed, Some(at)));
        }
        let mut memory = self.memory.lock();
        if self.records.read().is_some() {
            memory.held.retain(|_, held| held.is_new);
        } else {
            while memory.held.len() > IN_MEMORY_MAX {
                memory.held.pop_first();
            }
        }
    }

    /// What is stored of a message of which there is news.
    fn known(&self, event: &Event) -> Trace {
        let stored = (event.kind() != Kind::Accepted)
            .then(|| self.stored(|records| Ok(get(records, event.head.id))))
            .flatten()
            .flatten();
        stored.unwrap_or_else(|| Trace::new(event))
    }
}

fn get(records: &Records, id: MessageId) -> Option<Trace> {
    decode(&records.get(id)?)
}

/// Forgets what is stored of a recipient; whose messages those were.
fn erase(records: &Records, plain: &str) -> Result<Vec<MessageId>, StoreError> {
    let ids: Vec<MessageId> = records.of_recipient(plain).map(|(id, _)| id).collect();
    for some in ids.chunks(ERASED_AT_ONCE) {
        let traces: Vec<Trace> = some.iter().filter_map(|id| get(records, *id)).collect();
        records.remove(&traces.iter().map(stored).collect::<Vec<_>>())?;
        records.put(
            &traces.iter().filter_map(|trace| trace.without(plain)).map(|rest| stored(&rest)).collect::<Vec<_>>(),
            None,
        )?;
        records.forget_names(plain, some)?;
    }
    Ok(ids)
}

/// Ids of stored messages that are wanted, and where the search stopped, if before the end.
fn newest_stored(records: &Records, wanted: TraceFilter<'_>, limit: usize) -> (Vec<MessageId>, Option<MessageId>) {
    let mut found = Vec::new();
    if let Some(recipient) = wanted.recipient {
        let all = records.of_recipient(recipient).filter(|(id, _)| wanted.is_below(*id));
        for (number, (id, of)) in all.enumerate() {
            let is_own = match (wanted.user, of) {
                (None, _) => true,
                (Some(user), Some(of)) => *user == *of,
                // Version 0.1 wrote no user beside the recipient.
                (Some(user), None) => get(records, id).is_some_and(|trace| *trace.user == *user),
            };
            found.extend(is_own.then_some(id));
            if found.len() == limit || number == LOOKS_MAX {
                return (found, Some(id));
            }
        }
        return (found, None);
    }
    for (number, (id, value)) in records.below(wanted.below).enumerate() {
        let is_own = |user: &str| decode(&value).is_some_and(|trace| *trace.user == *user);
        found.extend(wanted.user.is_none_or(is_own).then_some(id));
        if found.len() == limit || number == LOOKS_MAX {
            return (found, Some(id));
        }
    }
    (found, None)
}

fn stored(trace: &Trace) -> Stored {
    let recipients = trace.recipients().into_iter().map(Into::into).collect();
    Stored { id: trace.id, user: (*trace.user).into(), recipients, value: encode(trace) }
}

/// Removes the oldest traces beyond the limits.
fn forget(records: &Records, limits: &Limits, now: Timestamp) -> Result<(), StoreError> {
    let beyond = records.beyond(limits, now)?;
    let gone = beyond.into_iter().map(|(id, value)| {
        let trace = decode(&value);
        let recipients = trace.iter().flat_map(Trace::recipients).map(Into::into).collect();
        Stored { id, user: "".into(), recipients, value }
    });
    records.remove(&gone.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
