//! Statistics: how many codes came in time, by lane, user, tag, destination and provider; by minutes for a day and hours for
//! thirty. A reader of events whose counts are committed with its place among them, so that each event counts once, also over
//! crashes.

pub(crate) mod counts;
pub(crate) mod table;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::base::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::StoreError;
use crate::ledger::embedded::store::sled::reader_rows::{ReaderRows, RowChange};
use crate::ledger::latest::Confirmation;
use crate::queue::Queue;
use counts::Counts;
use table::{BYS, By, Names, Resolution, RowKey, add_to_row, parts, row_prefix};

/// How long events may wait to be counted, unless somebody asks.
const PAUSE: Duration = Duration::from_millis(500);
/// How often what was counted is written, unless somebody asks.
const WRITE_PAUSE: Duration = Duration::from_secs(2);
/// How often what was written is made sure of, so that its events may go.
const SYNC_PAUSE: Duration = Duration::from_secs(10);
/// How often old steps are removed, and how many rows at once.
const FORGET_PAUSE: Duration = Duration::from_secs(60);
const FORGOTTEN_MAX: usize = 5000;
/// How long somebody who asks waits at most.
const CATCHING_UP_MAX: Duration = Duration::from_secs(1);
/// Events counted in one go.
const COUNTED_MAX: usize = 512;
/// Steps of all groups in one answer; with more the steps are hours.
pub(crate) const POINTS_MAX: usize = 20_000;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Selection {
    /// From the step of this time on.
    pub from: Timestamp,
    /// Up to the step of this time, which is left out.
    pub to: Timestamp,
    /// How groups are made; none: only the whole.
    pub by: Option<By>,
    /// Whose entries; none: all.
    pub user: Option<Arc<str>>,
}

/// What was counted of those with one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// In all steps.
    pub total: Counts,
    /// By the begin of the step; those in which nothing happened are left out.
    pub(crate) series: BTreeMap<u64, Counts>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The begin of the first step.
    pub from: Timestamp,
    /// The end of the last.
    pub to: Timestamp,
    /// How fine the steps are.
    pub(crate) resolution: Resolution,
    /// All entries.
    pub total: Counts,
    /// By their names.
    pub groups: BTreeMap<String, Group>,
}

#[derive(Debug, Default)]
struct State {
    is_asked: bool,
    is_closed: bool,
}

struct Shared {
    rows: ReaderRows,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    wake: Condvar,
    written: watch::Sender<Cursor>,
}

/// The statistics.
pub struct Statistics {
    /// None where the folder cannot be used.
    shared: Option<Arc<Shared>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Statistics {
    /// Opens the folder and starts the thread that counts what happens in this queue. A folder that cannot be used is told in
    /// the log; then nothing is counted.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(folder: &Path, clock: Arc<dyn Clock>, queue: &Arc<Queue>) -> std::io::Result<Arc<Self>> {
        let rows = match ReaderRows::open(folder) {
            Ok(rows) => rows,
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%error, "{folder} cannot be opened, so there are no statistics; remove it to begin anew");
                return Ok(Arc::new(Self { shared: None, thread: Mutex::new(None) }));
            }
        };
        let at = rows.cursor().unwrap_or_else(|| queue.happened().before_oldest());
        let confirmation = queue.happened().register(at);
        let written = watch::Sender::new(at);
        let shared = Arc::new(Shared { rows, clock, state: Mutex::default(), wake: Condvar::new(), written });
        let counting = CountingThread::new(shared.clone(), queue.clone(), confirmation, at);
        let thread = std::thread::Builder::new().name("stats".into()).spawn(move || counting.run())?;
        Ok(Arc::new(Self { shared: Some(shared), thread: Mutex::new(Some(thread)) }))
    }

    /// Returns when the events up to this place are counted; false if that takes too long.
    pub(crate) async fn caught_up(&self, to: Cursor) -> bool {
        let Some(shared) = &self.shared else { return false };
        let mut written = shared.written.subscribe();
        shared.state.lock().is_asked = true;
        shared.wake.notify_all();
        let waiting = written.wait_for(|written| *written >= to);
        tokio::time::timeout(CATCHING_UP_MAX, waiting).await.is_ok_and(|written| written.is_ok())
    }

    /// What was counted; none where it cannot be read.
    pub fn answer(&self, asked: &Selection) -> Option<Answer> {
        let shared = self.shared.as_ref()?;
        shared.answer(asked).map_err(|error| tracing::warn!(%error, "the statistics cannot be read")).ok()
    }

    /// The same by whole hours, which is less to read.
    pub(crate) fn hourly(&self, asked: &Selection) -> Option<Answer> {
        let read = self.shared.as_ref()?.read(Resolution::Hours, asked);
        read.map_err(|error| tracing::warn!(%error, "the statistics cannot be read")).ok().map(|(answer, _)| answer)
    }

    /// Counts what was committed and ends the thread.
    pub fn close(&self) {
        let Some(shared) = &self.shared else { return };
        shared.state.lock().is_closed = true;
        shared.wake.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that counts panicked");
        }
        shared.rows.close();
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn answer(&self, asked: &Selection) -> Result<Answer, StoreError> {
        let oldest = self.clock.wall().minus(Resolution::Minutes.kept_for());
        if asked.from >= oldest {
            let (answer, points) = self.read(Resolution::Minutes, asked)?;
            if points <= POINTS_MAX {
                return Ok(answer);
            }
        }
        self.read(Resolution::Hours, asked).map(|(answer, _)| answer)
    }

    /// And how many steps that is.
    fn read(&self, resolution: Resolution, asked: &Selection) -> Result<(Answer, usize), StoreError> {
        let step_ms = resolution.step_s() * 1000;
        let from = resolution.step(asked.from);
        let to = resolution.step(asked.to.plus(Duration::from_millis(step_ms - 1)));
        let (mut total, mut groups) = (Counts::default(), BTreeMap::<String, Group>::new());
        self.visit(resolution, (By::Lane, from, to), asked, |_, _, counts| total.merge(&counts))?;
        let mut points = 0;
        if let Some(by) = asked.by {
            self.visit(resolution, (by, from, to), asked, |step, name, counts| {
                let group = groups.entry(name.to_owned()).or_default();
                group.total.merge(&counts);
                let known = group.series.len();
                group.series.entry(step).or_default().merge(&counts);
                points += group.series.len() - known;
            })?;
        }
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        Ok((Answer { from: at(from), to: at(to), resolution, total, groups }, points))
    }

    fn visit(
        &self,
        resolution: Resolution,
        (by, from, to): (By, u64, u64),
        asked: &Selection,
        mut visit: impl FnMut(u64, &str, Counts),
    ) -> Result<(), StoreError> {
        let keys = row_prefix(resolution, by, from)..row_prefix(resolution, by, to);
        self.rows.scan(keys, &mut |key, value| {
            if let Some((step, user, name)) = parts(key)
                && asked.user.as_ref().is_none_or(|asked| **asked == *user)
                && let Ok(counts) = serde_json::from_slice(value)
            {
                visit(step, name, counts);
            }
            true
        })
    }
}

/// The thread's own.
struct CountingThread {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    confirmation: Confirmation,
    at: Cursor,
    /// What was counted and is not in the rows yet.
    counted: HashMap<RowKey, Counts>,
    /// Rows of the latest steps, as they are stored.
    known: HashMap<Vec<u8>, Counts>,
    names: Names,
    written_at: Instant,
    synced_at: Instant,
    forgot_at: Instant,
}

impl CountingThread {
    fn new(shared: Arc<Shared>, queue: Arc<Queue>, confirmation: Confirmation, at: Cursor) -> Self {
        let now = shared.clock.instant();
        let (counted, known) = Default::default();
        let (names, written_at, synced_at, forgot_at) = (Names::default(), now, now, now);
        Self { shared, queue, confirmation, at, counted, known, names, written_at, synced_at, forgot_at }
    }

    fn run(mut self) {
        let names = &mut self.names;
        let restored = self.shared.rows.scan(b"n".to_vec()..b"o".to_vec(), &mut |key, value| {
            names.restore(key, value);
            true
        });
        if let Err(error) = restored {
            tracing::warn!(%error, "the names in the statistics cannot be read");
        }
        loop {
            let (is_asked, is_closed) = {
                let mut state = self.shared.state.lock();
                if !state.is_closed && !state.is_asked {
                    self.shared.wake.wait_for(&mut state, PAUSE);
                }
                (std::mem::take(&mut state.is_asked), state.is_closed)
            };
            self.count();
            let now = self.shared.clock.instant();
            if is_asked || is_closed || now >= self.written_at + WRITE_PAUSE {
                self.written_at = now;
                self.try_to(Self::write);
            }
            if is_closed || now >= self.synced_at + SYNC_PAUSE {
                self.synced_at = now;
                self.try_to(Self::confirm);
            }
            if now >= self.forgot_at + FORGET_PAUSE {
                self.forgot_at = now;
                self.try_to(Self::forget);
            }
            if is_closed {
                return;
            }
        }
    }

    fn try_to(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        if let Err(error) = work(self) {
            tracing::warn!(%error, "the statistics cannot be written for now");
        }
    }

    fn count(&mut self) {
        loop {
            let Ok(read) = self.queue.wait_for_events_after(self.at, COUNTED_MAX) else { return };
            if read.has_missed {
                tracing::warn!("events are gone that the statistics had not counted");
            }
            for (_, event) in &read.events {
                self.add(event);
            }
            if std::mem::replace(&mut self.at, read.at) == read.at {
                return;
            }
        }
    }

    fn add(&mut self, event: &Event) {
        for who in RowKey::of(event) {
            self.counted.entry(who).or_default().add(event);
        }
    }

    /// Brings what was counted into the rows, with the place up to which that is.
    fn write(&mut self) -> Result<(), StoreError> {
        if *self.shared.written.borrow() < self.at {
            let mut rows: HashMap<Vec<u8>, Counts> = HashMap::new();
            for (who, counts) in &self.counted {
                for key in who.keys(&mut self.names) {
                    if !rows.contains_key(&key) {
                        let known = self.known.get(&key).cloned();
                        let known = known.map_or_else(|| self.stored(&key), Ok)?;
                        rows.insert(key.clone(), known);
                    }
                    rows.entry(key.clone()).and_modify(|row| add_to_row(&key, row, counts));
                }
            }
            let row = |(key, counts): (&Vec<u8>, &Counts)| (key.clone(), serde_json::to_vec(counts).ok());
            let mut changes: Vec<RowChange> = rows.iter().map(row).collect();
            changes.extend(self.names.changes());
            self.shared.rows.apply(changes, Some(self.at))?;
            self.counted.clear();
            self.known = rows;
            self.shared.written.send_replace(self.at);
        }
        Ok(())
    }

    fn stored(&self, key: &[u8]) -> Result<Counts, StoreError> {
        let stored = self.shared.rows.get(key)?;
        Ok(stored.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default())
    }

    fn confirm(&mut self) -> Result<(), StoreError> {
        self.shared.rows.sync()?;
        self.confirmation.confirm(*self.shared.written.borrow());
        Ok(())
    }

    /// Removes steps that are too old.
    fn forget(&mut self) -> Result<(), StoreError> {
        let now = self.shared.clock.wall();
        let mut gone: Vec<RowChange> = Vec::new();
        for resolution in [Resolution::Minutes, Resolution::Hours] {
            let oldest = resolution.step(now.minus(resolution.kept_for()));
            for by in BYS {
                let keys = row_prefix(resolution, by, 0)..row_prefix(resolution, by, oldest);
                self.shared.rows.scan(keys, &mut |key, _| {
                    gone.push((key.to_vec(), None));
                    gone.len() < FORGOTTEN_MAX
                })?;
            }
        }
        if gone.is_empty() { Ok(()) } else { self.shared.rows.apply(gone, None) }
    }
}

#[cfg(test)]
mod tests;
