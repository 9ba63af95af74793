//! One node's end of the shared ledger: heartbeats, what it remembers, and the verbs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::copies::Copies;
use super::database::{Database, Unanswered};
use super::membership::{Beat, Joining};
use super::parting::Parting;
use crate::base::clock::{Clock, Timestamp};
use crate::ledger::accept::KeySecret;
use crate::ledger::attempt::{Epoch, Held, Lost, NodeName, Notice};
use crate::ledger::cursor::Cursor;
use crate::ledger::heartbeat::{OwnLease, Sign, Timing, Watch};
use crate::ledger::latest::Latest;
use crate::ledger::read::Peer;
use crate::ledger::rules::Delivery;
use crate::ledger::tables::accept::{Accepting, Supersession};
use crate::ledger::tables::settle::Verdict;
use crate::ledger::tables::state::{Fenced, Signal, State};
use crate::ledger::time::LedgerTime;
use crate::ledger::{Lease, NOTICES_MAX};
use crate::mail::id::EntryId;

mod chores;
mod verbs;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Events that come with a heartbeat, at most.
const EVENTS_AT_ONCE: usize = 1024;
/// How often a node compares what it holds with the database.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// Who a node is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// By this number it is known over its epochs: two that run at once never share it.
    pub id: u64,
    /// Its name.
    pub name: NodeName,
    /// The address by which it leaves.
    pub egress: Arc<str>,
    /// How long it may count on its epoch.
    pub lease: Duration,
    /// Whether content may leave twice.
    pub delivery: Delivery,
    /// Live entries of all nodes, at most.
    pub entries_max: usize,
}

impl Settings {
    /// A node that leaves by an address of its own.
    pub fn of(id: u64) -> Self {
        let name: NodeName = format!("node{id}").into();
        Self {
            id,
            egress: name.clone(),
            name,
            lease: Duration::from_millis(1200),
            delivery: Delivery::AtLeastOnce,
            entries_max: 200_000,
        }
    }
}

/// A node did not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Another live node has its name.
    #[error("another live node has this name")]
    NameTaken,
    /// The database does not answer.
    #[error("the database does not answer")]
    Unavailable,
}

/// What changes.
struct Local {
    /// [`Epoch::UNOWNED`]: not joined.
    epoch: Epoch,
    own: OwnLease,
    time: LedgerTime,
    latest: Timestamp,
    watches: BTreeMap<Epoch, Watch>,
    peers: Arc<[Peer]>,
    copies: Copies,
    /// Those for which the channel has no room.
    waiting: VecDeque<Notice>,
    /// Nothing was lost since the last comparison.
    is_connected: bool,
    is_available: bool,
    has_orphans: bool,
    dead: Vec<(Epoch, u64)>,
    compared_at: Option<Instant>,
    /// Until then the process stands still.
    still_until: Option<Instant>,
    is_stopped: bool,
}

struct Inner {
    database: Database,
    clock: Arc<dyn Clock>,
    key_secret: KeySecret,
    settings: Settings,
    timing: Timing,
    local: Mutex<Local>,
    chores: Notify,
    /// What happened, as far as it was read.
    latest: Arc<Latest>,
    notices: mpsc::Sender<Notice>,
    receiving: Mutex<Option<mpsc::Receiver<Notice>>>,
}

/// A node. Dropped, it is as if it had crashed.
pub struct Node {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl Node {
    /// Joins, and sends heartbeats from now on. `clock` is the node's own.
    ///
    /// # Errors
    /// Where it may not, or the database does not answer.
    pub async fn join(database: &Database, clock: Arc<dyn Clock>, settings: Settings) -> Result<Self, JoinError> {
        let (notices, receiving) = mpsc::channel(NOTICES_MAX);
        let now = clock.instant();
        let local = Local {
            epoch: Epoch::UNOWNED,
            own: OwnLease::default(),
            time: LedgerTime::begin(now, now, clock.now()),
            latest: Timestamp::default(),
            watches: BTreeMap::new(),
            peers: Arc::from([]),
            copies: Copies::default(),
            waiting: VecDeque::new(),
            is_connected: true,
            is_available: true,
            has_orphans: true,
            dead: Vec::new(),
            compared_at: Some(now),
            still_until: None,
            is_stopped: false,
        };
        let inner = Arc::new(Inner {
            database: database.clone(),
            clock,
            // All nodes share it.
            key_secret: KeySecret::new(b"the nodes of one simulation"),
            timing: Timing::of(settings.lease),
            settings,
            local: Mutex::new(local),
            chores: Notify::new(),
            latest: Arc::new(Latest::new(Cursor::default(), Cursor::default())),
            notices,
            receiving: Mutex::new(Some(receiving)),
        });
        inner.enter().await?;
        inner.beat().await;
        let tasks = vec![tokio::spawn(inner.clone().run()), tokio::spawn(inner.clone().run_chores())];
        Ok(Self { inner, tasks: Mutex::new(tasks) })
    }

    /// The process ends between two instructions.
    pub fn crash(&self) {
        self.inner.local.lock().is_stopped = true;
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    /// The process does nothing for so long.
    pub fn stand_still(&self, span: Duration) {
        self.inner.local.lock().still_until = Some(self.inner.clock.instant() + span);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.crash();
    }
}

impl Inner {
    fn accepting(&self, me: Epoch) -> Accepting {
        let Settings { delivery, entries_max, .. } = self.settings;
        Accepting { me, delivery, entries_max, supersession: Supersession::ByStatement }
    }

    async fn stand(&self) {
        loop {
            let (now, until) = (self.clock.instant(), self.local.lock().still_until);
            match until {
                Some(until) if until > now => tokio::time::sleep(until - now).await,
                Some(_) | None => return,
            }
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        statement: impl FnOnce(&mut State, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        self.stand().await;
        if self.local.lock().is_stopped {
            return Err(Unanswered::NotSent);
        }
        let answer = self.database.ask(self.settings.id, patience, statement).await;
        self.stand().await;
        if answer.is_err() {
            self.local.lock().is_connected = false;
        }
        answer
    }

    /// Gets an epoch.
    async fn enter(&self) -> Result<Epoch, JoinError> {
        let Settings { id, name, egress, .. } = self.settings.clone();
        let joining = Joining { epoch: self.database.next_epoch(), id, name, egress };
        let sent = self.clock.instant();
        let joined = self.ask(PATIENCE, move |state, now| (state.join(joining, now), now)).await;
        let (epoch, shown) = joined.map_err(|_| JoinError::Unavailable)?;
        let epoch = epoch.map_err(|_| JoinError::NameTaken)?;
        let answered = self.clock.instant();
        let mut local = self.local.lock();
        if local.epoch == Epoch::UNOWNED {
            local.epoch = epoch;
            local.own = OwnLease::default();
            local.has_orphans = true;
            if local.latest == Timestamp::default() {
                local.time = LedgerTime::begin(sent, answered, shown);
            }
        }
        Ok(local.epoch)
    }

    async fn run(self: Arc<Self>) {
        loop {
            let due = self.clock.instant() + self.timing.interval();
            tokio::time::sleep(self.timing.interval()).await;
            self.beat().await;
            // A late one is not caught up with.
            if self.clock.instant() > due + self.timing.lease() {
                tracing::debug!(node = %self.settings.name, "a heartbeat was late");
            }
        }
    }

    async fn beat(&self) {
        self.stand().await;
        let epoch = self.local.lock().epoch;
        let me = if epoch == Epoch::UNOWNED { self.enter().await.ok() } else { Some(epoch) };
        let Some(me) = me else { return self.unanswered() };
        let sent = self.clock.instant();
        let at = self.latest.newest();
        let statement =
            move |state: &mut State, now| state.heartbeat(me, now).map(|beat| (beat, state.events(at, EVENTS_AT_ONCE)));
        match self.ask(self.timing.patience(), statement).await {
            Ok(Ok((beat, read))) => {
                self.latest.publish(read.events.into_iter().map(|(_, event)| event).collect());
                self.latest.wake();
                self.answered(me, sent, beat);
            }
            Ok(Err(Fenced)) => {
                self.fence(me);
                // The next heartbeat is the first of the new epoch.
                let _ = self.enter().await;
            }
            Err(_) => self.unanswered(),
        }
    }

    fn unanswered(&self) {
        let now = self.clock.instant();
        let mut local = self.local.lock();
        local.is_connected = false;
        if local.is_available && !local.own.holds(now) {
            local.is_available = false;
            local.waiting.push_back(Notice::Unavailable);
        }
        self.pass_on(&mut local);
    }

    fn answered(&self, me: Epoch, sent: Instant, beat: Beat) {
        let answered = self.clock.instant();
        let Beat { now, peers, signals, given, has_orphans } = beat;
        let mut local = self.local.lock();
        if local.epoch != me {
            return;
        }
        local.own.answered(sent, self.timing);
        if let Some(jump) = local.time.sample(sent, answered, now) {
            tracing::warn!(by_ms = jump.by_ms, "the ledger's clock was set");
        }
        self.watch(&mut local, me, &peers, (sent, answered));
        local.peers = peers.into_iter().map(|(peer, _)| peer).collect();
        local.has_orphans |= has_orphans;
        local.on_signals(signals, answered);
        let acquired: Vec<Held> = given.into_iter().filter_map(|taken| local.copies.acquire(taken)).collect();
        local.acquired(acquired);
        let is_due = local.compared_at.is_none_or(|at| answered - at >= RECONCILE_EVERY);
        let has_kept = local.copies.kept_len() > 0;
        if local.has_orphans || !local.dead.is_empty() || !local.is_connected || is_due || has_kept {
            self.chores.notify_one();
        }
        self.pass_on(&mut local);
    }

    fn watch(&self, local: &mut Local, me: Epoch, peers: &[(Peer, u64)], (sent, answered): (Instant, Instant)) {
        local.watches.retain(|epoch, _| peers.iter().any(|(peer, _)| peer.epoch == *epoch));
        for (peer, number) in peers.iter().filter(|(peer, _)| peer.epoch != me) {
            let sign = match local.watches.get_mut(&peer.epoch) {
                Some(watch) => watch.reading(*number, sent, answered, self.timing),
                None => {
                    local.watches.insert(peer.epoch, Watch::begin(*number, answered));
                    Sign::Alive
                }
            };
            if let Sign::Dead(number) = sign {
                local.dead.push((peer.epoch, number));
            }
        }
    }

    /// Our epoch was revoked: nothing is ours any more.
    fn fence(&self, me: Epoch) {
        let mut local = self.local.lock();
        if local.epoch != me {
            return;
        }
        local.epoch = Epoch::UNOWNED;
        local.own = OwnLease::default();
        local.copies = Copies::default();
        local.watches.clear();
        local.dead.clear();
        local.waiting.push_back(Notice::Fenced);
        self.pass_on(&mut local);
    }

    fn pass_on(&self, local: &mut Local) {
        while let Some(notice) = local.waiting.pop_front() {
            if let Err(refused) = self.notices.try_send(notice) {
                local.waiting.push_front(refused.into_inner());
                return;
            }
        }
    }

    fn lease(&self) -> Lease {
        let local = self.local.lock();
        // Before the first answer there is none.
        let until = local.own.until().unwrap_or_else(|| self.clock.instant());
        Lease { epoch: local.epoch, until }
    }

    fn ledger_time(&self) -> Timestamp {
        let now = self.clock.instant();
        let mut local = self.local.lock();
        local.latest = local.time.now(now).max(local.latest);
        local.latest
    }

    fn says(&self, me: Epoch, verdict: Verdict) -> Lost {
        match verdict {
            Verdict::Lost(Lost::Fenced) => {
                self.fence(me);
                Lost::Fenced
            }
            Verdict::Lost(lost) => lost,
            Verdict::Missing => Lost::TakenOver,
        }
    }
}

impl Local {
    fn on_signals(&mut self, signals: Vec<Signal>, now: Instant) {
        let mut due: Vec<EntryId> = Vec::new();
        for signal in signals {
            match signal {
                Signal::Ended(id, kind) => self.ended_elsewhere(id, Parting::Ended(kind), now),
                Signal::Due(id) if self.copies.holds(id) => due.push(id),
                Signal::Due(_) | Signal::Yours(_) => {}
            }
        }
        if !due.is_empty() {
            self.waiting.push_back(Notice::MakeDue(due));
        }
    }

    fn ended_elsewhere(&mut self, id: EntryId, parting: Parting, now: Instant) {
        if self.copies.ended_elsewhere(id, parting, now) {
            self.waiting.push_back(Notice::Ended(id, parting.kind()));
        }
    }

    fn acquired(&mut self, acquired: Vec<Held>) {
        if !acquired.is_empty() {
            self.waiting.push_back(Notice::Acquired(acquired));
        }
    }
}
