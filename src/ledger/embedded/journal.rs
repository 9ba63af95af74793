//! The one thread that owns the store.
//!
//! What waits when the thread comes round is committed as one batch with one sync, then all waiters are woken; batches
//! form by themselves under load. Changes that nobody waits for yet ride along with the next batch, or go by themselves
//! after a moment. In simulation the same code runs in the caller's place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::events::{Events, Next};
use super::inbox::{Haste, Inbox, Waited};
use super::store::{Change, ReadEvents, Store, StoreError, Table};
use crate::base::clock::{Clock, Step, Timestamp};
use crate::base::lane::{Lane, Lanes};
use crate::base::telemetry;
use crate::event::Event;
use crate::ledger::cursor::Cursor;
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// Groups committed with one sync at most.
const BATCH_GROUPS_MAX: usize = 512;
/// Octets of content committed with one sync at most, so that no code waits behind megabytes of others.
const BATCH_LEN_MAX: usize = 4 << 20;
/// How long to leave a failed store alone before trying again.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);
/// Informative events that wait for a commit to be stored with at most; more bring one about.
const RIDING_MAX: usize = 1024;
/// Numbers of events for each millisecond of the wall clock: so a database that was lost does not give them again.
const NUMBERS_PER_MS: u64 = 1 << 12;
const NEARLY_FULL: &str = "the disk is nearly full";
/// How long the store's own work waits for a moment without commits.
const HOUSEKEEPING_PATIENCE: Duration = Duration::from_secs(5);

/// Why a message could not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The disk is full, or nearly.
    #[error("no room left on the disk")]
    Full,
    /// The store fails; the log says how.
    #[error("storage failed")]
    Failed,
    /// The relay is shutting down.
    #[error("storage is closed")]
    Closed,
}

type CommitAnswer = oneshot::Sender<Result<(), JournalError>>;
type ContentAnswer = oneshot::Sender<Result<Option<Content>, JournalError>>;
type EventsAnswer = oneshot::Sender<Result<ReadEvents, JournalError>>;

/// Events behind a reader's place.
#[derive(Debug)]
pub struct Read {
    /// Each with its place.
    pub events: Vec<(Cursor, Arc<Event>)>,
    /// Where the reader is now.
    pub at: Cursor,
    /// Events before these are gone that the reader has not read.
    pub has_missed: bool,
}

enum Job {
    /// Changes that somebody waits for.
    Commit(Vec<Change>, CommitAnswer),
    /// Changes that nobody waits for.
    Later(Vec<Change>),
    /// Content wanted back.
    Load(MessageId, ContentAnswer),
    /// A recipient's events are taken out, in memory and in the store.
    Erase(Box<str>, oneshot::Sender<Result<usize, JournalError>>),
    /// Events behind this place, for a reader that lags.
    Read(Cursor, EventsAnswer),
    /// Commit everything that was pushed so far, then answer.
    Flush(CommitAnswer),
}

/// A handle on the storage thread.
pub struct Journal {
    jobs: Arc<Inbox<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// In simulation, who does the work in place of the thread.
    inline: Option<Mutex<StorageThread>>,
    health: Arc<Health>,
    events: Arc<Events>,
}

/// What the storage thread is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It waits for work.
    Rests,
    /// It has been at one batch of commits, or at housekeeping, for so long.
    Works(Duration),
    /// It is gone: nothing is stored any more until the relay starts anew.
    Panicked,
}

/// What can be seen of the store from outside.
#[derive(Debug, Default)]
struct Health {
    failing: AtomicBool,
    /// Why, while it is.
    fault: Mutex<Option<Arc<str>>>,
    /// Since when the thread has been at work on what waits; none while it rests.
    busy_since: Mutex<Option<Instant>>,
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
        let storage = StorageThread { is_inline: true, ..StorageThread::new(store, clock, health.clone())? };
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
        self.push(lane, Job::Later(changes), Haste::Later);
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
    pub fn events(&self) -> &Arc<Events> {
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

    /// The same, for threads that may wait.
    ///
    /// # Errors
    /// When they cannot be read for now.
    pub fn wait_for_events_after(&self, at: Cursor, most: usize) -> Result<Read, JournalError> {
        match self.in_memory(at, most) {
            Ok(read) => Ok(read),
            Err(lagging) => {
                let answer = self.read(lagging.at);
                lagging.finish(answer.blocking_recv().unwrap_or(Err(JournalError::Closed)))
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

/// The work of the storage thread.
struct StorageThread {
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    is_inline: bool,
    /// Changes that nobody waits for, not yet committed; kept over failures.
    later: VecDeque<Vec<Change>>,
    /// The last commit failed, and may be found on disk as far as it got. What sets that right, what rode along and what
    /// waited before it are one group: the first of `later`.
    is_first_whole: bool,
    events: Arc<Events>,
    /// Informative events that were published and are stored with the next commit.
    riding: Vec<Change>,
    /// Before then nothing is committed.
    retry_at: Option<Instant>,
    /// After a failure: when to look whether it is over.
    revive_at: Option<Instant>,
    /// When the store has work of its own.
    tend_at: Option<Instant>,
}

impl StorageThread {
    fn new(mut store: Box<dyn Store>, clock: Arc<dyn Clock>, health: Arc<Health>) -> Result<Self, StoreError> {
        let from = Cursor::behind(clock.wall().as_millis().saturating_mul(NUMBERS_PER_MS));
        let held = store.open_events(from)?;
        Ok(Self {
            store,
            clock,
            health,
            is_inline: false,
            later: VecDeque::new(),
            is_first_whole: false,
            events: Arc::new(Events::new(held.swept, held.newest)),
            riding: Vec::new(),
            retry_at: None,
            revive_at: None,
            tend_at: None,
        })
    }

    fn run(&mut self, jobs: &Inbox<Job>) {
        self.note_tending();
        if !self.store.has_room() {
            self.note_failure(JournalError::Full, NEARLY_FULL);
        }
        loop {
            match jobs.wait(self.revive_at.into_iter().chain(self.tend_at).min(), gather) {
                Waited::Batch(batch) => {
                    *self.health.busy_since.lock() = Some(self.clock.instant());
                    self.work(batch);
                    self.note_tending();
                    self.housekeep(HOUSEKEEPING_PATIENCE);
                    *self.health.busy_since.lock() = None;
                }
                Waited::Nothing => {
                    *self.health.busy_since.lock() = Some(self.clock.instant());
                    if self.revive_at.is_some_and(|at| at <= self.clock.instant()) {
                        self.revive();
                    }
                    self.housekeep(Duration::ZERO);
                    *self.health.busy_since.lock() = None;
                }
                Waited::Closed => {
                    self.retry_at = None;
                    self.commit_later_changes();
                    self.events.close();
                    return;
                }
            }
        }
    }

    /// After a failure: whoever stopped sending mail because of it learns that it is over, also without any commit.
    fn revive(&mut self) {
        if !self.later.is_empty() {
            self.commit_later_changes();
            self.events.wake();
        } else if self.recover().is_ok() {
            self.note_success();
        }
    }

    fn note_tending(&mut self) {
        let now = self.store_time();
        self.tend_at = self.store.due_at(now).map(|at| self.clock.instant() + at.since(now));
    }

    /// Has the store do what was due `patience` ago.
    fn housekeep(&mut self, patience: Duration) {
        if self.tend_at.is_some_and(|at| at + patience <= self.clock.instant()) {
            self.store.housekeep(self.store_time());
            self.note_tending();
        }
    }

    /// By which keys go: the earlier of both times. Content stored before the wall clock was set forward ends by the
    /// relay's time, content stored after it was set back by the wall clock.
    fn store_time(&self) -> Timestamp {
        self.clock.now().min(self.clock.wall())
    }

    fn work(&mut self, jobs: Vec<Job>) {
        let mut waiting = Vec::new();
        let mut flushing = Vec::new();
        let mut loading = Vec::new();
        let mut reading = Vec::new();
        let mut erasing = Vec::new();
        for job in jobs {
            match job {
                Job::Load(id, answer) => loading.push((id, answer)),
                Job::Read(at, answer) => reading.push((at, answer)),
                Job::Erase(plain, answer) => erasing.push((plain, answer)),
                Job::Commit(changes, answer) => waiting.push((changes, answer)),
                Job::Flush(answer) => flushing.push(answer),
                Job::Later(changes) => self.later.push_back(changes),
            }
        }
        if !waiting.is_empty() || !flushing.is_empty() {
            let is_caught_up = waiting.is_empty() && self.later.is_empty() && self.retry_at.is_none();
            let result = if is_caught_up { Ok(()) } else { self.commit(&waiting) };
            for answer in waiting.into_iter().map(|(_, answer)| answer).chain(flushing) {
                // Whoever asked may have gone away.
                let _ = answer.send(result);
            }
        } else if !self.is_inline || !loading.is_empty() {
            self.commit_later_changes();
        }
        self.events.wake();
        for (id, answer) in loading {
            drop(answer.send(self.load(id)));
        }
        for (at, answer) in reading {
            drop(answer.send(self.read(at)));
        }
        for (plain, answer) in erasing {
            let _ = answer.send(self.erase(&plain));
        }
    }

    /// What rides along is rewritten too, since it was told already.
    fn erase(&mut self, plain: &str) -> Result<usize, JournalError> {
        for change in &mut self.riding {
            if let Change::Event(event) = change
                && event.is_about(plain)
            {
                *event = Arc::new(event.without_recipient());
            }
        }
        let erased = self.store.erase_events(plain);
        erased.map(|()| self.events.erase(plain)).map_err(|error| {
            tracing::error!(%error, "stored events of a recipient cannot be erased");
            JournalError::Failed
        })
    }

    fn read(&mut self, at: Cursor) -> Result<ReadEvents, JournalError> {
        self.store.events(at).map_err(|error| {
            tracing::error!(%error, "stored events cannot be read");
            JournalError::Failed
        })
    }

    fn load(&mut self, id: MessageId) -> Result<Option<Content>, JournalError> {
        self.store.content(id).or_else(|error| {
            tracing::error!(%id, %error, "stored content cannot be read");
            if matches!(error, StoreError::Damaged(_)) { Ok(None) } else { Err(JournalError::Failed) }
        })
    }

    /// Those that cannot be committed stay where they are and go with the next commit that succeeds.
    fn commit_later_changes(&mut self) {
        if !self.later.is_empty() && !self.ride_along() {
            // The failure was noted, and nobody waits.
            let _ = self.commit(&[]);
        }
    }

    /// Where all that waits is informative, nothing is committed for its sake: it is told, and stored with what comes next.
    fn ride_along(&mut self) -> bool {
        let is_informative = |change: &Change| matches!(change, Change::Event(event) if event.kind().is_informative());
        let waiting: usize = self.later.iter().map(Vec::len).sum();
        if self.is_inline
            || self.is_first_whole
            || self.riding.len() + waiting > RIDING_MAX
            || !self.later.iter().flatten().all(is_informative)
        {
            return false;
        }
        let step = self.clock.step();
        let told: Vec<Change> = self.later.drain(..).flatten().map(|change| moved(&change, step)).collect();
        self.events.publish(events_of(&told).collect());
        self.riding.extend(told);
        true
    }

    /// What was read everywhere, and is old, goes with the commits.
    fn sweep(&mut self) {
        let to = self.events.may_go(self.clock.now());
        self.events.swept(self.store.sweep(to));
    }

    fn commit(&mut self, waiting: &[(Vec<Change>, CommitAnswer)]) -> Result<(), JournalError> {
        self.recover()?;
        let accepts = |changes: &Vec<Change>| changes.iter().any(|change| matches!(change, Change::Accept(..)));
        if waiting.iter().any(|(changes, _)| accepts(changes)) && !self.store.has_room() {
            self.note_failure(JournalError::Full, NEARLY_FULL);
            return Err(JournalError::Full);
        }
        let groups: Vec<&[Change]> =
            self.later.iter().map(Vec::as_slice).chain(waiting.iter().map(|(changes, _)| changes.as_slice())).collect();
        let moved: Option<Vec<Vec<Change>>> = moved_to_wall(&groups, self.clock.step());
        let mut groups: Vec<&[Change]> =
            moved.as_ref().map_or(groups, |moved| moved.iter().map(Vec::as_slice).collect());
        let whole: Vec<Change>;
        match groups.first_mut() {
            Some(first) if self.is_first_whole => {
                whole = [&self.riding, *first].concat();
                *first = &whole;
            }
            _ if !self.riding.is_empty() => groups.insert(0, &self.riding),
            _ => {}
        }
        let since = self.clock.instant();
        let committed = self.store.commit(&groups);
        telemetry::COMMIT.add(self.clock.instant().saturating_duration_since(since));
        match committed {
            Ok(()) => {
                // What rode along comes first, and was told.
                let happened = groups.iter().flat_map(|group| events_of(group)).skip(self.riding.len()).collect();
                self.events.publish(happened);
                self.later.clear();
                self.riding.clear();
                self.is_first_whole = false;
                self.sweep();
                self.note_success();
                Ok(())
            }
            Err(error) => {
                self.retry_at = Some(self.clock.instant() + RECOVERY_PAUSE);
                // It may still be found on disk: what was refused must not be delivered, and where the process dies in the
                // midst of the next commit, no part of this one may have lost its events alone.
                let undone = waiting.iter().flat_map(|(changes, _)| undoing(changes));
                let whole = self.later.drain(..).flatten().chain(undone).collect();
                self.later.push_back(whole);
                self.is_first_whole = true;
                let kind = match error {
                    StoreError::Full => JournalError::Full,
                    StoreError::InUse(_) | StoreError::Damaged(_) | StoreError::Newer(..) | StoreError::Failed(_) => {
                        JournalError::Failed
                    }
                };
                self.note_failure(kind, &error.to_string());
                Err(kind)
            }
        }
    }

    fn recover(&mut self) -> Result<(), JournalError> {
        if self.retry_at.is_some_and(|at| self.clock.instant() < at) {
            return Err(JournalError::Full);
        }
        match self.store.recover() {
            Ok(()) => {
                self.retry_at = None;
                Ok(())
            }
            Err(error) => {
                self.retry_at = Some(self.clock.instant() + RECOVERY_PAUSE);
                self.note_failure(JournalError::Failed, &error.to_string());
                Err(JournalError::Full)
            }
        }
    }

    /// What works without room for new mail is no sign that there is some again.
    fn note_success(&mut self) {
        if self.revive_at.is_none() {
            return;
        }
        if !self.store.has_room() {
            self.revive_at = Some(self.clock.instant() + RECOVERY_PAUSE);
            return;
        }
        self.revive_at = None;
        self.health.failing.store(false, Ordering::Relaxed);
        *self.health.fault.lock() = None;
        tracing::info!("storage works again");
    }

    fn note_failure(&mut self, kind: JournalError, what: &str) {
        self.revive_at = Some(self.clock.instant() + RECOVERY_PAUSE);
        *self.health.fault.lock() = Some(what.into());
        if !self.health.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(cause = %kind, "new mail is refused: {what}");
        }
    }
}

/// Takes what waits, up to the bounds of one batch.
fn gather(jobs: &mut Lanes<Job>) -> Vec<Job> {
    let mut len = 0;
    let mut batch = Vec::with_capacity(jobs.len().min(BATCH_GROUPS_MAX));
    while batch.len() < BATCH_GROUPS_MAX && len < BATCH_LEN_MAX {
        let Some(job) = jobs.pop() else { break };
        len += job_len(&job);
        batch.push(job);
    }
    batch
}

fn job_len(job: &Job) -> usize {
    let (Job::Commit(changes, _) | Job::Later(changes)) = job else { return 0 };
    changes.iter().map(|change| if let Change::Accept(_, content) = change { content.len() } else { 0 }).sum()
}

/// What is stored carries times of the wall clock, by which the next start goes; none where that shows the relay's time.
fn moved_to_wall(groups: &[&[Change]], step: Step) -> Option<Vec<Vec<Change>>> {
    if step == Step::NONE {
        return None;
    }
    Some(groups.iter().map(|group| group.iter().map(|change| moved(change, step)).collect()).collect())
}

fn moved(change: &Change, step: Step) -> Change {
    match change {
        Change::Accept(message, content) => Change::Accept(Arc::new(message.moved(step)), content.clone()),
        Change::Update(entry, progress) => Change::Update(*entry, Box::new(progress.moved(step))),
        Change::Event(event) if step != Step::NONE => Change::Event(Arc::new(Event::clone(event).by_wall(step))),
        Change::Remove(_) | Change::Side(..) | Change::Event(_) => change.clone(),
    }
}

fn events_of(changes: &[Change]) -> impl Iterator<Item = Arc<Event>> {
    changes.iter().filter_map(|change| if let Change::Event(event) = change { Some(event.clone()) } else { None })
}

/// What undoes an acceptance: the message goes, and with it the key by which a repeat would be taken for done. Other rows
/// count a little too much for a while.
fn undoing(changes: &[Change]) -> Vec<Change> {
    let undo = |change: &Change| match change {
        Change::Accept(message, _) => Some(Change::Remove(message.id)),
        Change::Side(Table::Idempotency, key, Some(_)) => Some(Change::Side(Table::Idempotency, key.clone(), None)),
        Change::Side(..) | Change::Update(..) | Change::Remove(_) | Change::Event(_) => None,
    };
    changes.iter().filter_map(undo).collect()
}

#[cfg(test)]
mod tests;
