//! The ledger of one node: one lock over the tables decides, the journal commits. The lock of the data directory is the lease, so
//! nobody else ever owns anything here; an epoch is given at each opening all the same, and who has left may do nothing.
//!
//! What is to be accepted waits for its commit before its entries are there, and where the commit fails it gives back what it
//! had taken. All else is decided at once and never undone: the journal keeps it, in its order, until it can be written.

mod accepting;
mod former;
mod forms;
mod rows;
mod verbs;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};

use super::journal::Journal;
use super::store::{self, Change, Store, StoreError};
use crate::base::clock::{Clock, Timestamp};
use crate::ledger::NOTICES_MAX;
use crate::ledger::accept::KeySecret;
use crate::ledger::attempt::{Epoch, Held, NodeName, Notice};
use crate::ledger::read::Peer;
use crate::ledger::rules::Delivery;
use crate::ledger::side::{SideRow, SideTable};
use crate::ledger::tables::accept::{Accepting, Supersession};
use crate::ledger::tables::state::{NodeRow, State, Touched, Waiting};
use crate::mail::id::{EntryId, MessageId};
use rows::Found;
pub(crate) use rows::reads;

/// How long what has ended is known, so that a repeat finds it, and how many of those at most.
const ENDED_KNOWN_FOR: Duration = Duration::from_secs(600);
const ENDED_KNOWN_MAX: usize = 8192;
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
    Wait(Waiting),
}

/// An entry that ended, and whether its message did by that.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: Timestamp,
    entry: EntryId,
    is_last: bool,
}

/// What the lock is over.
struct Tables {
    state: State,
    /// Messages that wait for their commits.
    under_way: HashSet<MessageId>,
    /// In their order.
    ended: VecDeque<Ended>,
    fading: BTreeSet<(Timestamp, Fading)>,
}

struct Inner {
    journal: Journal,
    clock: Arc<dyn Clock>,
    by: Accepting,
    key_secret: KeySecret,
    peers: Arc<[Peer]>,
    /// Longer than any process runs.
    lease_until: Instant,
    has_left: AtomicBool,
    tables: Mutex<Tables>,
    /// Told when a message that waited for its commit does not any more.
    concluded: Notify,
    notices: mpsc::Sender<Notice>,
    receiving: Mutex<Option<mpsc::Receiver<Notice>>>,
    /// Rows found at the opening, until somebody takes them.
    side: Mutex<Vec<(SideTable, SideRow)>>,
}

/// The ledger of one node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("epoch", &self.0.by.me).finish_non_exhaustive()
    }
}

/// Who makes commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A thread of its own.
    Threaded,
    /// The caller, for simulated time.
    Inline,
}

impl Node {
    /// One node alone, whose entries whoever is above it counts.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn alone(
        store: Box<dyn Store>,
        storage: Storage,
        clock: Arc<dyn Clock>,
        delivery: Delivery,
    ) -> Result<Arc<Self>, StoreError> {
        let settings = Settings { name: "node".into(), egress: "node".into(), delivery, entries_max: usize::MAX };
        Self::open(store, storage, clock, settings).map(Arc::new)
    }

    /// Takes up what the store holds. All that lives is ours, and comes as the first notices.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        mut store: Box<dyn Store>,
        storage: Storage,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let Settings { name, egress, delivery, entries_max } = settings;
        let now = clock.now();
        let mut found = Found::begin(now);
        store.scan(&mut |seen| match seen {
            store::Found::Message(message, progress) => found.take_up_message(*message, progress, delivery, now),
            store::Found::Side(table, row) => found.take_up_row(table, row, now),
            store::Found::Unreadable(name) => {
                tracing::error!(record = name, "a stored record cannot be read and was set aside; the rest is served");
            }
        })?;
        // No number is given twice, also where a disk that is full does not keep it.
        let me = Epoch(now.as_millis().max(found.last_epoch.0 + 1));
        let by = Accepting { me, delivery, entries_max, supersession: Supersession::ByOwner };
        let journal = match storage {
            Storage::Threaded => Journal::start(store, clock.clone())?,
            Storage::Inline => Journal::inline(store, clock.clone())?,
        };
        let row = NodeRow { id: 0, name: name.clone(), egress: egress.clone(), beat: 1, revoked_at: None };
        found.state.nodes.insert(me, row);
        let (key_secret, mut changes) = found.secret_of_names()?;
        changes.push(rows::epoch_row(me));
        changes.extend(found.take_up_former(&key_secret, now));
        changes.extend(found.give_to(by, &key_secret, now));
        let outlived = std::mem::take(&mut found.outlived);
        let side = std::mem::take(&mut found.side);
        let (notices, receiving) = mpsc::channel(NOTICES_MAX);
        let mut tables = Tables::new(found.state);
        tables.fade_all();
        announce_what_lives(&notices, &tables.state, &outlived);
        let inner = Inner {
            journal,
            by,
            key_secret,
            peers: Arc::from([Peer { epoch: me, name, egress }]),
            lease_until: clock.instant() + Duration::from_secs(100 * 365 * 86_400),
            has_left: AtomicBool::new(false),
            clock,
            notices,
            receiving: Mutex::new(Some(receiving)),
            concluded: Notify::new(),
            tables: Mutex::new(tables),
            side: Mutex::new(side),
        };
        changes.extend(inner.drain(&mut inner.tables.lock()));
        inner.journal.commit_later(changes);
        Ok(Self(Arc::new(inner)))
    }
}

impl Tables {
    fn new(state: State) -> Self {
        Self { state, under_way: HashSet::new(), ended: VecDeque::new(), fading: BTreeSet::new() }
    }

    /// Notes when what was found may go.
    fn fade_all(&mut self) {
        let Self { state, fading, .. } = self;
        fading.extend(state.waits.iter().map(|(waiting, wait)| (wait.until, Fading::Wait(waiting.clone()))));
    }

    /// Notes when what was changed may go.
    fn fade(&mut self, touched: &Touched, now: Timestamp) {
        let state = &self.state;
        let fading = match touched {
            Touched::Wait(waiting) => state.waits.get(waiting).map(|wait| (wait.until, Fading::Wait(waiting.clone()))),
            Touched::Entry(id) if state.ended.contains_key(id) => {
                self.ended.push_back(Ended { at: now, entry: *id, is_last: false });
                None
            }
            Touched::Gone(id) => {
                self.ended.push_back(Ended { at: now, entry: *id, is_last: true });
                None
            }
            Touched::Accepted(..)
            | Touched::Event(_)
            | Touched::Entry(_)
            | Touched::Gated(..)
            | Touched::Key(_)
            | Touched::Budget(_)
            | Touched::Suppression(_)
            | Touched::Side(_)
            | Touched::Fact(_) => None,
        };
        self.fading.extend(fading);
    }

    /// Forgets ends that nobody repeats any more.
    fn forget_ended(&mut self, now: Timestamp) {
        while let Some(oldest) = self.ended.front() {
            if self.ended.len() <= ENDED_KNOWN_MAX && now.since(oldest.at) < ENDED_KNOWN_FOR {
                return;
            }
            self.state.ended.remove(&oldest.entry);
            if oldest.is_last {
                self.state.accepted.remove(&oldest.entry.message);
            }
            self.ended.pop_front();
        }
    }

    /// Forgets some of what counts no more.
    fn forget(&mut self, now: Timestamp) {
        self.forget_ended(now);
        self.state.sweep(now);
        for _ in 0..FADED_AT_ONCE {
            let Some((_, fading)) = self.fading.first().filter(|(at, _)| *at <= now) else { return };
            let fading = fading.clone();
            self.fading.pop_first();
            let state = &mut self.state;
            match fading {
                Fading::Wait(waiting) => {
                    if state.waits.get(&waiting).is_some_and(|wait| wait.until <= now) {
                        state.waits.remove(&waiting);
                        state.touched.push(Touched::Wait(waiting));
                    }
                }
            }
        }
    }
}

impl Inner {
    /// What the last statements changed, as it is to be stored; what counts no more goes along.
    fn drain(&self, tables: &mut Tables) -> Vec<Change> {
        let now = self.clock.now();
        tables.forget(now);
        let touched = std::mem::take(&mut tables.state.touched);
        touched.iter().for_each(|touched| tables.fade(touched, now));
        rows::changes(&tables.state, touched, self.clock.step())
    }

    /// Has what was decided stored soon. Called under the lock, so that the order is kept.
    fn store(&self, tables: &mut Tables) {
        let changes = self.drain(tables);
        if !changes.is_empty() {
            self.journal.commit_later(changes);
        }
    }

    fn tables(&self) -> Option<MutexGuard<'_, Tables>> {
        Some(self.tables.lock()).filter(|_| !self.has_left.load(Ordering::Relaxed))
    }
}

/// All that lives, in as many notices as there is room for.
fn announce_what_lives(notices: &mpsc::Sender<Notice>, state: &State, outlived: &BTreeMap<EntryId, MessageId>) {
    let some = (state.messages.len() / (NOTICES_MAX / 2)).max(1);
    let mut waiting = state.messages.values();
    loop {
        let held = waiting.by_ref().take(some).map(|held| {
            let indices: Vec<u16> = held.entries.keys().copied().collect();
            let id = held.message.id;
            let newer = |index: u16| Some((index, *outlived.get(&EntryId { message: id, index })?));
            let outlived = indices.iter().filter_map(|index| newer(*index)).collect();
            Held { outlived, ..held.taken(&indices).held }
        });
        let held: Vec<Held> = held.collect();
        if held.is_empty() {
            return;
        }
        // There is room for twice as many.
        let _ = notices.try_send(Notice::Acquired(held));
    }
}
