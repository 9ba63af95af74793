//! The database that the nodes share, and the way to it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::faults::{Dice, Fate, Faults, Replication};
use crate::base::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::ledger::attempt::Epoch;
use crate::ledger::side::{SideChange, SideRow, SideTable};
use crate::ledger::tables::state::{State, Touched};
use crate::mail::id::EntryId;

/// Commits that a fail-over may lose, at most.
const HISTORY: usize = 8;

struct Disk {
    state: State,
    /// Given out once, whatever a fail-over loses.
    next_epoch: u64,
    faults: Faults,
    dice: Dice,
    replication: Replication,
    /// What it held before each of the last statements.
    history: VecDeque<State>,
    is_available: bool,
    /// Nodes whose packets are dropped.
    cut: BTreeSet<u64>,
    /// What it has said, whatever it has forgotten since.
    allowed: HashMap<EntryId, Allowed>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    disk: Mutex<Disk>,
}

/// When content of an entry was last allowed to go: by its acceptance, or by the gate of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// When.
    pub at: Timestamp,
    /// For whom and for which attempt; none: whoever accepted it may begin at once.
    pub attempt: Option<(Epoch, u32)>,
}

impl Disk {
    /// What was changed is stored as soon as it is here; events are kept.
    fn keep_touched(&mut self, now: Timestamp) {
        for touched in std::mem::take(&mut self.state.touched) {
            match touched {
                Touched::Event(event) => self.state.events.push(event),
                Touched::Side(SideChange(table, key, value)) => {
                    let name = (table, key);
                    match value {
                        Some(value) => drop(self.state.side.insert(name, value)),
                        None => drop(self.state.side.remove(&name)),
                    }
                }
                Touched::Accepted(message, ..) => {
                    for (index, _) in (0..).zip(&message.envelope.recipients) {
                        let entry = EntryId { message: message.id, index };
                        self.allowed.insert(entry, Allowed { at: now, attempt: None });
                    }
                }
                Touched::Gated(epoch, attempt) => {
                    let allowed = Allowed { at: now, attempt: Some((epoch, attempt.number)) };
                    self.allowed.insert(attempt.entry, allowed);
                }
                Touched::Entry(_)
                | Touched::Gone(..)
                | Touched::Key(_)
                | Touched::Budget(_)
                | Touched::Suppression(_)
                | Touched::Fact(_)
                | Touched::Wait(_) => {}
            }
        }
    }
}

/// The database; clones are the same one.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

/// No answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The request never left.
    NotSent,
    /// It may have been done.
    Unknown,
}

impl Database {
    /// An empty one. `clock` is its own; `seed` decides what goes wrong once it may.
    pub fn new(clock: Arc<dyn Clock>, seed: u64, replication: Replication) -> Self {
        let disk = Disk {
            state: State::default(),
            next_epoch: 0,
            faults: Faults::default(),
            dice: Dice::new(seed),
            replication,
            history: VecDeque::new(),
            is_available: true,
            cut: BTreeSet::new(),
            allowed: HashMap::new(),
        };
        Self(Arc::new(Inner { clock, disk: Mutex::new(disk) }))
    }

    /// From now on so much goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.0.disk.lock().faults = faults;
    }

    /// It goes away, or comes back as it was.
    pub fn set_available(&self, is_available: bool) {
        self.0.disk.lock().is_available = is_available;
    }

    /// A node's packets are dropped from now on, or pass again.
    pub fn set_cut(&self, node: u64, is_cut: bool) {
        let mut disk = self.0.disk.lock();
        if is_cut {
            disk.cut.insert(node)
        } else {
            disk.cut.remove(&node)
        };
    }

    /// A standby takes its place; where replication is asynchronous, some of the last commits are gone.
    pub fn fail_over(&self) {
        let lost = {
            let mut disk = self.0.disk.lock();
            let most = u64::try_from(disk.history.len()).unwrap_or(0);
            match disk.replication {
                Replication::Asynchronous => usize::try_from(disk.dice.below(most + 1)).unwrap_or(0),
                Replication::Synchronous => 0,
            }
        };
        self.fail_over_without(lost);
    }

    /// A standby takes its place that has not seen so many of the last statements.
    pub(super) fn fail_over_without(&self, lost: usize) {
        let mut disk = self.0.disk.lock();
        let kept = disk.history.len().saturating_sub(lost);
        let first_lost = disk.history.drain(kept..).next();
        if let Some(state) = first_lost {
            disk.state = state;
        }
        disk.history.clear();
        disk.is_available = true;
    }

    /// All events so far, in order; for laws.
    pub fn events(&self) -> Vec<Event> {
        self.0.disk.lock().state.events.iter().map(|event| (**event).clone()).collect()
    }

    /// When entries ended; for laws.
    pub fn ends(&self) -> HashMap<EntryId, Timestamp> {
        self.0.disk.lock().state.ended.iter().map(|(id, end)| (*id, end.at)).collect()
    }

    /// Live entries with their owners, and whether those are alive; for laws.
    pub fn owners(&self) -> Vec<(EntryId, Epoch, bool)> {
        let disk = self.0.disk.lock();
        let messages = disk.state.messages.values();
        let owners = messages.flat_map(|held| {
            held.entries.iter().map(|(index, row)| {
                let owner = row.standing.owner;
                (EntryId { message: held.message.id, index: *index }, owner, disk.state.is_alive(owner))
            })
        });
        owners.collect()
    }

    /// Who owns an entry, and whether a node's epoch is alive; for laws.
    pub fn standing(&self, entry: EntryId, epoch: Epoch) -> (Option<Epoch>, bool) {
        let disk = self.0.disk.lock();
        (disk.state.entry(entry).map(|row| row.standing.owner), disk.state.is_alive(epoch))
    }

    /// When content of an entry was last allowed to go; for laws.
    pub fn allowed(&self, entry: EntryId) -> Option<Allowed> {
        self.0.disk.lock().allowed.get(&entry).copied()
    }

    /// Entries that an epoch ended after it was revoked; for laws.
    pub fn ended_by_the_revoked(&self) -> Vec<EntryId> {
        let disk = self.0.disk.lock();
        let revoked_at = |epoch| disk.state.nodes.get(&epoch)?.revoked_at;
        let ended = disk.state.ended.iter();
        let late =
            ended.filter(|(_, end)| end.by.and_then(|(epoch, _)| revoked_at(epoch)).is_some_and(|at| at < end.at));
        late.map(|(id, _)| *id).collect()
    }

    /// Rows that were decided above the ledger.
    pub(super) fn side(&self, table: SideTable) -> Vec<SideRow> {
        let disk = self.0.disk.lock();
        let rows = disk.state.side.iter().filter(|((of, _), _)| *of == table);
        rows.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn next_epoch(&self) -> Epoch {
        let mut disk = self.0.disk.lock();
        disk.next_epoch += 1;
        Epoch(disk.next_epoch)
    }

    fn run<T>(&self, node: u64, statement: impl FnOnce(&mut State, Timestamp) -> T) -> Option<T> {
        let now = self.0.clock.now();
        let mut disk = self.0.disk.lock();
        if !disk.is_available || disk.cut.contains(&node) {
            return None;
        }
        if disk.replication == Replication::Asynchronous {
            let before = disk.state.clone();
            disk.history.push_back(before);
            if disk.history.len() > HISTORY {
                disk.history.pop_front();
            }
        }
        let answer = statement(&mut disk.state, now);
        disk.keep_touched(now);
        Some(answer)
    }

    fn is_reachable(&self, node: u64) -> bool {
        let disk = self.0.disk.lock();
        disk.is_available && !disk.cut.contains(&node)
    }

    /// Has a statement done for a node, which waits so long for the answer.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        node: u64,
        patience: Duration,
        statement: impl FnOnce(&mut State, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let fate = {
            let mut disk = self.0.disk.lock();
            let faults = disk.faults;
            (!faults.are_none()).then(|| disk.dice.fate(&faults))
        };
        let Some(fate) = fate else {
            return match self.run(node, statement) {
                Some(answer) => Ok(answer),
                None => Err(self.silence(node, patience).await),
            };
        };
        let answer = self.send(node, fate, statement);
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Unanswered::Unknown),
        }
    }

    /// A database that is down refuses connections; one that cannot be reached says nothing.
    async fn silence(&self, node: u64, patience: Duration) -> Unanswered {
        if self.0.disk.lock().cut.contains(&node) {
            tokio::time::sleep(patience).await;
            return Unanswered::Unknown;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        Unanswered::NotSent
    }

    /// The request goes its way whatever becomes of who sent it.
    fn send<T: Send + 'static>(
        &self,
        node: u64,
        fate: Fate,
        statement: impl FnOnce(&mut State, Timestamp) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            let done = match fate.there {
                Some(there) => {
                    tokio::time::sleep(there).await;
                    this.run(node, statement)
                }
                None => None,
            };
            if let (Some(done), Some(back)) = (done, fate.back) {
                tokio::time::sleep(back).await;
                if this.is_reachable(node) {
                    let _ = answer.send(done);
                    return;
                }
            }
            if !fate.is_noticed {
                // Longer than anybody waits.
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            drop(answer);
        });
        answered
    }
}
