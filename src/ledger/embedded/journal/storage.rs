//! The work of the storage thread: batches, what waits for the next one, and what a failure leaves to be done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::job::{CommitAnswer, Health, Job, JournalError};
use crate::base::clock::{Clock, Step, Timestamp};
use crate::base::lane::Lanes;
use crate::base::telemetry;
use crate::event::Event;
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::inbox::{Inbox, Waited};
use crate::ledger::embedded::store::{Change, ReadEvents, Store, StoreError};
use crate::ledger::latest::Latest;
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// Groups committed with one sync at most.
pub(super) const BATCH_GROUPS_MAX: usize = 512;
/// Octets of content committed with one sync at most, so that no code waits behind megabytes of others.
pub(super) const BATCH_LEN_MAX: usize = 4 << 20;
/// How long to leave a failed store alone before trying again.
pub(super) const RECOVERY_PAUSE: Duration = Duration::from_secs(1);
/// Informative events that wait for a commit to be stored with at most; more bring one about.
const RIDING_MAX: usize = 1024;
/// Numbers of events for each millisecond of the wall clock: so a database that was lost does not give them again.
const NUMBERS_PER_MS: u64 = 1 << 12;
const NEARLY_FULL: &str = "the disk is nearly full";
/// How long the store's own work waits for a moment without commits.
const HOUSEKEEPING_PATIENCE: Duration = Duration::from_secs(5);

/// The work of the storage thread.
pub(super) struct StorageThread {
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    is_inline: bool,
    /// Changes that nobody waits for, not yet committed; kept over failures.
    pub(super) later: VecDeque<Vec<Change>>,
    /// The last commit failed, and may be found on disk as far as it got. The first of `later` sets that right and holds what
    /// waited before; with what rode along it is one group.
    is_first_whole: bool,
    pub(super) events: Arc<Latest>,
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
    pub(super) fn new(
        mut store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
    ) -> Result<Self, StoreError> {
        let from = Cursor::behind(clock.wall().as_millis().saturating_mul(NUMBERS_PER_MS));
        let held = store.open_events(from)?;
        Ok(Self {
            store,
            clock,
            health,
            is_inline: false,
            later: VecDeque::new(),
            is_first_whole: false,
            events: Arc::new(Latest::new(held.swept, held.newest)),
            riding: Vec::new(),
            retry_at: None,
            revive_at: None,
            tend_at: None,
        })
    }

    /// In the caller's place.
    pub(super) fn inline(
        store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
    ) -> Result<Self, StoreError> {
        Ok(Self { is_inline: true, ..Self::new(store, clock, health)? })
    }

    pub(super) fn run(&mut self, jobs: &Inbox<Job>) {
        self.record_housekeeping();
        if !self.store.has_room() {
            self.record_failure(JournalError::Full, NEARLY_FULL);
        }
        loop {
            match jobs.wait(self.revive_at.into_iter().chain(self.tend_at).min(), gather) {
                Waited::Batch(batch) => {
                    *self.health.busy_since.lock() = Some(self.clock.instant());
                    self.work(batch);
                    self.record_housekeeping();
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
            self.record_success();
        }
    }

    fn record_housekeeping(&mut self) {
        let now = self.store_time();
        self.tend_at = self.store.due_at(now).map(|at| self.clock.instant() + at.since(now));
    }

    /// Has the store do what was due `patience` ago.
    fn housekeep(&mut self, patience: Duration) {
        if self.tend_at.is_some_and(|at| at + patience <= self.clock.instant()) {
            self.store.housekeep(self.store_time());
            self.record_housekeeping();
        }
    }

    /// By which keys go: the earlier of both times. Content stored before the wall clock was set forward ends by the
    /// relay's time, content stored after it was set back by the wall clock.
    fn store_time(&self) -> Timestamp {
        self.clock.now().min(self.clock.wall())
    }

    pub(super) fn work(&mut self, jobs: Vec<Job>) {
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
                Job::Commit(changes, answer) => waiting.push((changes, Some(answer))),
                Job::Withdraw(changes) => waiting.push((changes, None)),
                Job::Flush(answer) => flushing.push(answer),
                Job::Later(changes) => self.later.push_back(changes),
            }
        }
        if !waiting.is_empty() || !flushing.is_empty() {
            let is_caught_up = waiting.is_empty() && self.later.is_empty() && self.retry_at.is_none();
            let result = if is_caught_up { Ok(()) } else { self.commit(&waiting) };
            for answer in waiting.into_iter().filter_map(|(_, answer)| answer).chain(flushing) {
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

    fn commit(&mut self, waiting: &[(Vec<Change>, Option<CommitAnswer>)]) -> Result<(), JournalError> {
        self.recover()?;
        let accepts = |changes: &Vec<Change>| changes.iter().any(|change| matches!(change, Change::Accept(..)));
        if waiting.iter().any(|(changes, _)| accepts(changes)) && !self.store.has_room() {
            self.record_failure(JournalError::Full, NEARLY_FULL);
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
                self.health.kept.store(0, Ordering::Relaxed);
                self.sweep();
                self.record_success();
                Ok(())
            }
            Err(error) => {
                self.retry_at = Some(self.clock.instant() + RECOVERY_PAUSE);
                // It may still be found on disk: what was refused must not be delivered, and where the process dies in the
                // midst of the next commit, no part of this one may have lost its events alone.
                let undone = waiting.iter().flat_map(|(changes, answer)| match answer {
                    Some(_) => undoing(changes),
                    None => changes.clone(),
                });
                let whole: Vec<Change> = self.later.drain(..).flatten().chain(undone).collect();
                self.later.push_back(whole);
                self.is_first_whole = true;
                let kind = match error {
                    StoreError::Full => JournalError::Full,
                    StoreError::InUse(_) | StoreError::Damaged(_) | StoreError::Newer(..) | StoreError::Failed(_) => {
                        JournalError::Failed
                    }
                };
                self.record_failure(kind, &error.to_string());
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
                self.record_failure(JournalError::Failed, &error.to_string());
                Err(JournalError::Full)
            }
        }
    }

    /// What works without room for new mail is no sign that there is some again.
    fn record_success(&mut self) {
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

    fn record_failure(&mut self, kind: JournalError, what: &str) {
        self.revive_at = Some(self.clock.instant() + RECOVERY_PAUSE);
        self.health.kept.store(self.later.iter().map(Vec::len).sum(), Ordering::Relaxed);
        *self.health.fault.lock() = Some(what.into());
        if !self.health.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(cause = %kind, "new mail is refused: {what}");
        }
    }
}

/// Takes what waits, up to the bounds of one batch.
pub(super) fn gather(jobs: &mut Lanes<Job>) -> Vec<Job> {
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
    let (Job::Commit(changes, _) | Job::Withdraw(changes) | Job::Later(changes)) = job else { return 0 };
    changes.iter().map(|change| if let Change::Accept(_, content) = change { content.len() } else { 0 }).sum()
}

/// What is stored carries times of the wall clock, by which the next start goes; none where that shows the relay's time.
pub(super) fn moved_to_wall(groups: &[&[Change]], step: Step) -> Option<Vec<Vec<Change>>> {
    if step == Step::NONE {
        return None;
    }
    Some(groups.iter().map(|group| group.iter().map(|change| moved(change, step)).collect()).collect())
}

fn moved(change: &Change, step: Step) -> Change {
    match change {
        Change::Accept(message, content) => Change::Accept(Arc::new(message.moved(step)), content.clone()),
        Change::Update(entry, progress) => Change::Update(*entry, Arc::new(progress.moved(step))),
        Change::Event(event) if step != Step::NONE => Change::Event(Arc::new(Event::clone(event).by_wall(step))),
        Change::Remove(_) | Change::Side(..) | Change::Event(_) => change.clone(),
    }
}

fn events_of(changes: &[Change]) -> impl Iterator<Item = Arc<Event>> {
    changes.iter().filter_map(|change| if let Change::Event(event) = change { Some(event.clone()) } else { None })
}

/// What undoes an acceptance: the message goes. Of what it had taken, whoever decided on it says what becomes.
pub(super) fn undoing(changes: &[Change]) -> Vec<Change> {
    let undo = |change: &Change| match change {
        Change::Accept(message, _) => Some(Change::Remove(message.id)),
        Change::Side(..) | Change::Update(..) | Change::Remove(_) | Change::Event(_) => None,
    };
    changes.iter().filter_map(undo).collect()
}
