//! The one thread that owns the store.
//!
//! What waits when the thread comes round is committed as one batch with one sync, then all waiters are woken; batches
//! form by themselves under load. Changes that nobody waits for yet ride along with the next batch, or go by themselves
//! after a moment. In simulation the same code runs in the caller's place.

mod job;
mod storage;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::inbox::{Haste, Inbox};
use super::store::{Change, ReadEvents, Store, StoreError};
use crate::base::clock::Clock;
use crate::base::lane::Lane;
use crate::ledger::cursor::Cursor;
use crate::ledger::latest::{Latest, Next};
use crate::ledger::outbox::Read;
use crate::ledger::read::Activity;
use crate::mail::id::MessageId;
use crate::mail::message::Content;
pub use job::JournalError;
use job::{Health, Job};
use storage::{StorageThread, undoing};

/// A handle on the storage thread.
pub struct Journal {
    jobs: Arc<Inbox<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// In simulation, who does the work in place of the thread.
    inline: Option<Mutex<StorageThread>>,
    health: Arc<Health>,
    events: Arc<Latest>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

impl Journal {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the events cannot be read, or the operating system gives no thread.
    pub fn start(store: Box<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (jobs, health) = (Arc::new(Inbox::new(clock.clone())), Arc::new(Health::default()));
        let mut storage = StorageThread::new(store, clock, health.clone())?;
        let events = storage.events.clone();
        let queue = jobs.clone();
        let thread = std::thread::Builder::new().name("storage".into()).spawn(move || storage.run(&queue));
        let thread = thread.map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Self { jobs, thread: Mutex::new(Some(thread)), inline: None, health, events })
    }

    /// Without a thread: each call does its work at once. For simulation, where time stands still meanwhile. Changes that
    /// nobody waits for wait for the next commit, however long that takes: a crash loses more of them than it could with
    /// the thread.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub fn inline(store: Box<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let health = Arc::new(Health::default());
        let jobs = Arc::new(Inbox::new(clock.clone()));
        let storage = StorageThread::inline(store, clock, health.clone())?;
        let events = storage.events.clone();
        Ok(Self { jobs, thread: Mutex::new(None), inline: Some(Mutex::new(storage)), health, events })
    }

    /// Commits the changes as one; the answer comes when they are durable.
    ///
    /// # Errors
    /// Then none of them is stored.
    pub async fn commit(&self, lane: Lane, changes: Vec<Change>) -> Result<(), JournalError> {
        let mut pending = self.begin_commit(lane, changes, true);
        self.finish(&mut pending).await
    }

    /// As [`Journal::commit`], for callers that do something else meanwhile. Without `at_once` it happens when others
    /// are committed too, soon anyway, or when [`Journal::finish`] is called, whichever comes first: a caller that is
    /// busy for a while saves everybody a sync.
    pub fn begin_commit(&self, lane: Lane, changes: Vec<Change>, at_once: bool) -> PendingCommit {
        let (answer, receiver) = oneshot::channel();
        let undo = undoing(&changes);
        self.push(lane, Job::Commit(changes, answer), if at_once { Haste::Now } else { Haste::Later });
        PendingCommit { answer: receiver, undo, has_failed: false }
    }

    /// Waits for a commit that was begun.
    ///
    /// # Errors
    /// Then none of its changes is stored.
    pub async fn finish(&self, commit: &mut PendingCommit) -> Result<(), JournalError> {
        let result = match commit.answer.try_recv() {
            Ok(result) => result,
            Err(_) => {
                self.jobs.hurry();
                (&mut commit.answer).await.unwrap_or(Err(JournalError::Closed))
            }
        };
        commit.has_failed = result.is_err();
        result
    }

    /// As [`Journal::finish`], but without haste.
    ///
    /// # Errors
    /// Then none of its changes is stored.
    pub async fn wait(&self, commit: &mut PendingCommit) -> Result<(), JournalError> {
        let result = (&mut commit.answer).await.unwrap_or(Err(JournalError::Closed));
        commit.has_failed = result.is_err();
        result
    }

    /// Somebody waits for what was begun so far.
    pub fn hurry(&self) {
        self.jobs.hurry();
    }

    /// Commits the changes soon, in the order of the calls, whatever else waits.
    pub fn commit_later(&self, changes: Vec<Change>) {
        if let Some(storage) = &self.inline {
            storage.lock().later.push_back(changes);
        } else {
            self.jobs.push_in_order(Job::Later(changes));
        }
    }

    /// Commits soon what undoes a commit of the same lane that nobody waits for any more.
    pub fn withdraw(&self, lane: Lane, changes: Vec<Change>) {
        self.push(lane, Job::Withdraw(changes), Haste::Later);
    }

    /// The content of a message; none if it is gone for good.
    ///
    /// # Errors
    /// When it cannot be read for now.
    pub async fn content(&self, lane: Lane, id: MessageId) -> Result<Option<Content>, JournalError> {
        let (answer, receiver) = oneshot::channel();
        self.push(lane, Job::Load(id, answer), Haste::Now);
        receiver.await.unwrap_or(Err(JournalError::Closed))
    }

    /// The events that were committed.
    pub fn events(&self) -> &Arc<Latest> {
        &self.events
    }

    /// Up to `most` events behind a place, more where they come from the store.
    ///
    /// # Errors
    /// When they cannot be read for now.
    pub async fn events_after(&self, at: Cursor, most: usize) -> Result<Read, JournalError> {
        match self.in_memory(at, most) {
            Ok(read) => Ok(read),
            Err(lagging) => {
                let answer = self.read(lagging.at);
                lagging.finish(answer.await.unwrap_or(Err(JournalError::Closed)))
            }
        }
    }

    fn in_memory(&self, at: Cursor, most: usize) -> Result<Read, Lagging> {
        let (mut at, mut has_missed) = (at, false);
        loop {
            match self.events.after(at, most) {
                Next::Events(events) => {
                    let at = events.last().map_or(at, |(at, _)| *at);
                    return Ok(Read { events, at, has_missed });
                }
                Next::Nothing => return Ok(Read { events: Vec::new(), at, has_missed }),
                Next::InStore => return Err(Lagging { at, has_missed }),
                Next::Missed(oldest) => (at, has_missed) = (oldest, true),
            }
        }
    }

    /// Takes a recipient's events out, wherever they are; their numbers stay. Returns how many of those in memory.
    ///
    /// # Errors
    /// When the store failed; then there may be some left.
    pub async fn erase(&self, plain: &str) -> Result<usize, JournalError> {
        let (answer, receiver) = oneshot::channel();
        self.push(Lane::Notice, Job::Erase(plain.into(), answer), Haste::Now);
        receiver.await.unwrap_or(Err(JournalError::Closed))
    }

    fn read(&self, at: Cursor) -> oneshot::Receiver<Result<ReadEvents, JournalError>> {
        let (answer, receiver) = oneshot::channel();
        self.push(Lane::Notice, Job::Read(at, answer), Haste::Now);
        receiver
    }

    /// Makes everything pushed so far durable.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn flush(&self) -> Result<(), JournalError> {
        let (answer, receiver) = oneshot::channel();
        self.push(Lane::Notice, Job::Flush(answer), Haste::Now);
        receiver.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Whether the last commit failed.
    pub fn is_failing(&self) -> bool {
        self.health.failing.load(Ordering::Relaxed)
    }

    /// Changes of a commit that failed, which are written again.
    pub(crate) fn kept(&self) -> usize {
        self.health.kept.load(Ordering::Relaxed)
    }

    /// Why the last commit failed, if it did.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.health.fault.lock().clone()
    }

    /// What the storage thread is at: a disk that hangs shows here.
    pub fn activity(&self, now: Instant) -> Activity {
        // While the journal runs, the thread ends by a panic only.
        if self.thread.lock().as_ref().is_some_and(JoinHandle::is_finished) {
            return Activity::Panicked;
        }
        match *self.health.busy_since.lock() {
            Some(since) => Activity::Works(now.saturating_duration_since(since)),
            None => Activity::Rests,
        }
    }

    fn push(&self, lane: Lane, job: Job, haste: Haste) {
        if let Some(storage) = &self.inline {
            let mut storage = storage.lock();
            storage.work(vec![job]);
            return;
        }
        // A job that comes too late is dropped, and with it the sender of its answer.
        self.jobs.push(lane, job, haste);
    }

    /// Commits what was pushed, closes the store and ends the thread.
    pub fn close(&self) {
        self.jobs.close();
        if self.inline.is_some() {
            self.events.close();
        }
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the storage thread panicked");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// A reader that is fed from the store.
struct Lagging {
    at: Cursor,
    has_missed: bool,
}

impl Lagging {
    fn finish(self, read: Result<ReadEvents, JournalError>) -> Result<Read, JournalError> {
        read.map(|(events, at)| Read { events, at, has_missed: self.has_missed })
    }
}

/// A commit under way.
#[derive(Debug)]
pub struct PendingCommit {
    answer: oneshot::Receiver<Result<(), JournalError>>,
    /// What undoes it.
    pub(crate) undo: Vec<Change>,
    has_failed: bool,
}

impl PendingCommit {
    /// Whether somebody was told that it failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }
}

#[cfg(test)]
mod tests;
