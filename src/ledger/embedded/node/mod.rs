//! The ledger of one node: one lock over the tables decides, the journal commits. The lock of the data folder is the lease, so
//! nobody else ever owns anything here; an epoch is given at each opening all the same, and who has left may do nothing.
//!
//! What is to be accepted waits for its commit before its entries are there, and where the commit fails it gives back what it
//! had taken. All else is decided at once and never taken back: the journal keeps it, in its order, until it can be written.

mod accepting;
mod rows;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;

use super::journal::Journal;
use super::store::{self, Change, Store, StoreError};
use crate::base::clock::{Clock, Timestamp};
use crate::base::lane::Lane;
use crate::ledger::accept::KeyHash;
use crate::ledger::attempt::{Epoch, Held, NodeName, Notice};
use crate::ledger::cursor::Cursor;
use crate::ledger::read::{MessageStatus, Peer};
use crate::ledger::rules::Delivery;
use crate::ledger::tables::accept::Accepting;
use crate::ledger::tables::state::{NodeRow, State, Touched, Waiting};
use crate::ledger::{IDEMPOTENCY_MEMORY, NOTICES_MAX};
use crate::mail::id::{EntryId, MessageId};
use accepting::Waiters;
use rows::Found;

/// How long what has ended is known, so that a repeat finds it.
const ENDED_KNOWN_FOR: Duration = Duration::from_secs(600);
/// Rows that are looked at with one change, whether they may go.
const FADED_AT_ONCE: usize = 64;

/// Who the node is, and by which rules it goes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: NodeName,
    /// The address by which it leaves.
    pub egress: Arc<str>,
    /// Whether content may leave twice.
    pub delivery: Delivery,
    /// Live entries at most.
    pub entries_max: usize,
}

/// What may be forgotten at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fading {
    Ended(EntryId),
    Message(MessageId),
    Key(KeyHash),
    Budget(KeyHash),
    Wait(Waiting),
}

/// What the lock is over.
struct Tables {
    state: State,
    /// What became of messages that live or ended lately.
    statuses: BTreeMap<MessageId, MessageStatus>,
    fading: BTreeSet<(Timestamp, Fading)>,
    has_left: bool,
}

struct Inner {
    journal: Journal,
    clock: Arc<dyn Clock>,
    by: Accepting,
    peers: Arc<[Peer]>,
    /// Longer than any process runs.
    lease_until: Instant,
    tables: Mutex<Tables>,
    waiters: Mutex<Waiters>,
    /// Settlements that could not be written yet.
    kept: AtomicUsize,
    notices: mpsc::Sender<Notice>,
    receiving: Mutex<Option<mpsc::Receiver<Notice>>>,
}

/// The ledger of one node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("epoch", &self.0.by.me).finish_non_exhaustive()
    }
}

impl Node {
    /// Takes up what the store holds, with a storage thread. All that lives is ours, and comes as the first notices.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Box<dyn Store>, clock: Arc<dyn Clock>, settings: Settings) -> Result<Self, StoreError> {
        Self::take_up(store, clock, settings, Commits::OnAThread).await
    }

    /// The same with commits in the caller's place, for simulated time.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub async fn open_inline(
        store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        Self::take_up(store, clock, settings, Commits::Inline).await
    }

    async fn take_up(
        mut store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        commits: Commits,
    ) -> Result<Self, StoreError> {
        let Settings { name, egress, delivery, entries_max } = settings;
        let now = clock.now();
        let mut found = Found::begin(now);
        store.scan(&mut |seen| match seen {
            store::Found::Message(message, progress) => found.take_up_message(*message, progress, delivery, now),
            store::Found::Side(table, row) => found.take_up_row(table, &row, now),
            store::Found::Unreadable(name) => {
                tracing::error!(record = name, "a stored record cannot be read and was set aside; the rest is served");
            }
        })?;
        // No number is given twice, also where a disk that is full does not keep it.
        let me = Epoch(now.as_millis().max(found.last_epoch.0 + 1));
        let journal = match commits {
            Commits::OnAThread => Journal::start(store, clock.clone())?,
            Commits::Inline => Journal::inline(store, clock.clone())?,
        };
        if let Err(error) = journal.commit(Lane::Otp, vec![rows::epoch_row(me)]).await {
            tracing::warn!(%error, "the node's epoch cannot be written yet");
        }
        let row = NodeRow { id: 0, name: name.clone(), egress: egress.clone(), beat: 1, revoked_at: None };
        found.state.nodes.insert(me, row);
        let leftovers = found.give_to(me, delivery, now);
        let (notices, receiving) = mpsc::channel(NOTICES_MAX);
        let mut tables = Tables::new(found.state);
        tables.fade_all();
        tell_what_lives(&notices, &tables.state);
        let inner = Inner {
            journal,
            by: Accepting { me, delivery, entries_max },
            peers: Arc::from([Peer { epoch: me, name, egress }]),
            lease_until: clock.instant() + Duration::from_secs(100 * 365 * 86_400),
            clock,
            notices,
            receiving: Mutex::new(Some(receiving)),
            waiters: Mutex::default(),
            tables: Mutex::new(tables),
            kept: AtomicUsize::new(0),
        };
        inner.read_what_happened().await?;
        inner.store(&mut inner.tables.lock(), leftovers);
        Ok(Self(Arc::new(inner)))
    }
}

/// Who makes commits.
#[derive(Clone, Copy)]
enum Commits {
    OnAThread,
    Inline,
}

impl Tables {
    fn new(state: State) -> Self {
        Self { state, statuses: BTreeMap::new(), fading: BTreeSet::new(), has_left: false }
    }

    /// Notes when what was found may go.
    fn fade_all(&mut self) {
        let Self { state, fading, .. } = self;
        fading.extend(state.keys.iter().map(|(key, row)| (row.at.plus(IDEMPOTENCY_MEMORY), Fading::Key(*key))));
        fading.extend(state.budgets.iter().filter_map(|(key, places)| {
            let last = places.iter().map(|place| place.at.plus(place.span)).max()?;
            Some((last, Fading::Budget(*key)))
        }));
        fading.extend(state.waits.iter().map(|(waiting, wait)| (wait.until, Fading::Wait(waiting.clone()))));
    }

    /// Notes when what was changed may go.
    fn fade(&mut self, touched: &Touched, now: Timestamp) {
        let state = &self.state;
        let fading = match touched {
            Touched::Key(key) => state.keys.get(key).map(|row| (row.at.plus(IDEMPOTENCY_MEMORY), Fading::Key(*key))),
            Touched::Budget(key) => {
                let places = state.budgets.get(key).map_or(&[][..], Vec::as_slice);
                let last = places.iter().map(|place| place.at.plus(place.span)).max();
                last.map(|last| (last, Fading::Budget(*key)))
            }
            Touched::Wait(waiting) => state.waits.get(waiting).map(|wait| (wait.until, Fading::Wait(waiting.clone()))),
            Touched::Entry(id) if state.ended.contains_key(id) => Some((now.plus(ENDED_KNOWN_FOR), Fading::Ended(*id))),
            Touched::Gone(id, _) => {
                self.fading.insert((now.plus(ENDED_KNOWN_FOR), Fading::Message(id.message)));
                Some((now.plus(ENDED_KNOWN_FOR), Fading::Ended(*id)))
            }
            Touched::Accepted(..)
            | Touched::Event(_)
            | Touched::Entry(_)
            | Touched::Gated(..)
            | Touched::Suppression(_)
            | Touched::Fact(_) => None,
        };
        self.fading.extend(fading);
    }

    /// Forgets some of what counts no more.
    fn forget(&mut self, now: Timestamp) {
        for _ in 0..FADED_AT_ONCE {
            let Some((_, fading)) = self.fading.first().filter(|(at, _)| *at <= now) else { return };
            let fading = fading.clone();
            self.fading.pop_first();
            let state = &mut self.state;
            match fading {
                Fading::Ended(id) => drop(state.ended.remove(&id)),
                Fading::Message(id) => {
                    state.accepted.remove(&id);
                    self.statuses.remove(&id);
                }
                Fading::Key(key) => {
                    if state.keys.get(&key).is_some_and(|row| now.since(row.at) >= IDEMPOTENCY_MEMORY) {
                        state.keys.remove(&key);
                        state.touched.push(Touched::Key(key));
                    }
                }
                Fading::Budget(key) => {
                    if state.budgets.get(&key).is_some_and(|places| !places.iter().any(|place| place.counts(now))) {
                        state.budgets.remove(&key);
                        state.touched.push(Touched::Budget(key));
                    }
                }
                Fading::Wait(waiting) => {
                    if state.waits.get(&waiting).is_some_and(|wait| wait.until <= now) {
                        state.waits.remove(&waiting);
                        state.touched.push(Touched::Wait(waiting));
                    }
                }
            }
        }
    }

    /// What became of messages, as these changes tell it.
    fn tell(&mut self, changes: &[Change]) {
        for change in changes {
            let Change::Event(event) = change else { continue };
            let id = event.head.id;
            let message = self.state.messages.get(&id).map(|held| held.message.clone());
            let status = self.statuses.entry(id).or_insert_with(|| MessageStatus::begin(event));
            status.tell(message.as_deref(), event);
        }
    }
}

impl Inner {
    /// What became of messages that live or ended lately, as stored events tell it.
    async fn read_what_happened(&self) -> Result<(), StoreError> {
        let (mut at, now) = (Cursor::default(), self.clock.now());
        loop {
            let read = self.journal.events_after(at, usize::MAX).await;
            let read = read.map_err(|error| StoreError::Failed(error.to_string()))?;
            let mut tables = self.tables.lock();
            for (_, event) in &read.events {
                tables.tell(&[Change::Event(event.clone())]);
                let (id, is_live) = (event.head.id, tables.state.messages.contains_key(&event.head.id));
                if !is_live && event.kind().is_end() {
                    tables.fading.insert((now.plus(ENDED_KNOWN_FOR), Fading::Message(id)));
                }
            }
            if read.at == at {
                return Ok(());
            }
            at = read.at;
        }
    }

    /// What the last statements changed, as it is to be stored; what counts no more goes along.
    fn drain(&self, tables: &mut Tables) -> Vec<Change> {
        let now = self.clock.now();
        tables.forget(now);
        let touched = std::mem::take(&mut tables.state.touched);
        touched.iter().for_each(|touched| tables.fade(touched, now));
        rows::changes(&tables.state, touched, self.clock.step())
    }

    /// Has what was decided stored soon, and these changes with it. Called under the lock, so that the order is kept.
    fn store(&self, tables: &mut Tables, and: Vec<Change>) {
        let mut changes = self.drain(tables);
        tables.tell(&changes);
        changes.extend(and);
        if !changes.is_empty() {
            self.journal.commit_later(changes);
        }
    }

    fn tables(&self) -> Option<MutexGuard<'_, Tables>> {
        Some(self.tables.lock()).filter(|tables| !tables.has_left)
    }
}

/// All that lives, in as many notices as there is room for.
fn tell_what_lives(notices: &mpsc::Sender<Notice>, state: &State) {
    let mut all: Vec<Held> = Vec::with_capacity(state.messages.len());
    for held in state.messages.values() {
        let indices: Vec<u16> = held.entries.keys().copied().collect();
        all.push(held.taken(&indices).held);
    }
    let some = (all.len() / (NOTICES_MAX / 2)).max(1);
    while !all.is_empty() {
        let rest = all.split_off(some.min(all.len()));
        // There is room for twice as many.
        let _ = notices.try_send(Notice::Acquired(std::mem::replace(&mut all, rest)));
    }
}
