//! Messages are accepted: what comes while a commit is under way goes with the next one. Until its commit is over, a message has
//! all that it needs, and its entries are not there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Inner, rows};
use crate::base::clock::Timestamp;
use crate::ledger::accept::{Accepted, NewMessage, Refused, Stored};
use crate::ledger::embedded::journal::{JournalError, PendingCommit};
use crate::ledger::embedded::store::Change;
use crate::ledger::tables::accept::Reserved;
use crate::mail::id::MessageId;

/// Messages that are accepted with one commit, at most.
const ACCEPTED_AT_ONCE: usize = 128;
/// Why a message is withdrawn.
const NOBODY_WAITS: &str = "given up before it was acknowledged";

/// A message that waits for the next commit.
struct Asking {
    new: NewMessage,
    answer: oneshot::Sender<Result<Accepted, Refused>>,
}

/// Messages that wait for the next commit.
#[derive(Default)]
pub(super) struct Waiters {
    asking: VecDeque<Asking>,
    /// Somebody is at it.
    is_written: bool,
}

/// What became of a message that asks.
enum Decided {
    Told(Result<Accepted, Refused>),
    New { sequence: u64, commit: PendingCommit },
}

/// What is told of a message once all that belongs to it is on disk.
struct Answer {
    id: MessageId,
    is_new: bool,
    told: Result<Accepted, Refused>,
    answer: oneshot::Sender<Result<Accepted, Refused>>,
}

impl Inner {
    pub(super) async fn accept(self: &Arc<Self>, new: NewMessage) -> Result<Accepted, Refused> {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiters = self.waiters.lock();
            waiters.asking.push_back(Asking { new, answer });
            !std::mem::replace(&mut waiters.is_written, true)
        };
        if is_first {
            // On a task of its own: whoever asked may go away at any moment.
            tokio::spawn(self.clone().write_accepted());
        }
        answered.await.unwrap_or(Err(Refused::Unavailable(Stored::Unknown)))
    }

    /// Accepts what waits, as much at once as there is.
    async fn write_accepted(self: Arc<Self>) {
        loop {
            let asking: Vec<Asking> = {
                let mut waiters = self.waiters.lock();
                let count = waiters.asking.len().min(ACCEPTED_AT_ONCE);
                if count == 0 {
                    waiters.is_written = false;
                    return;
                }
                waiters.asking.drain(..count).collect()
            };
            let mut begun = self.begin(asking);
            let mut stored = Vec::with_capacity(begun.len());
            for (_, decided) in &mut begun {
                stored.push(match decided {
                    Decided::New { commit, .. } => self.journal.finish(commit).await,
                    Decided::Told(_) => Ok(()),
                });
            }
            let answers = self.conclude(begun, stored);
            // What was superseded has ended for good before anybody hears of it. Where that cannot be written now it is kept.
            let superseded = |answer: &Answer| matches!(&answer.told, Ok(accepted) if !accepted.superseded.is_empty());
            if answers.iter().any(superseded) {
                let _ = self.journal.flush().await;
            }
            answers.into_iter().for_each(|answer| self.tell(answer));
        }
    }

    /// Where nobody waits for it any more, what was accepted is taken back.
    fn tell(&self, Answer { id, is_new, told, answer }: Answer) {
        let unheard = answer.send(told);
        if is_new && matches!(unheard, Err(Ok(_))) {
            let mut tables = self.tables.lock();
            tables.state.withdraw(self.by.me, id, NOBODY_WAITS, self.clock.now());
            self.store(&mut tables, Vec::new());
        }
    }

    fn begin(&self, asking: Vec<Asking>) -> Vec<(Asking, Decided)> {
        let now = self.clock.now();
        let mut tables = self.tables.lock();
        let decide = |asking: Asking| {
            if tables.has_left {
                return (asking, Decided::Told(Err(Refused::Unavailable(Stored::No))));
            }
            let decided = match tables.state.reserve(self.by, &asking.new, now) {
                Err(refused) => Decided::Told(Err(refused)),
                Ok(Reserved::Known(accepted)) => Decided::Told(Ok(accepted)),
                Ok(Reserved::New(sequence)) => {
                    let changes = self.drain(&mut tables);
                    let commit = self.journal.begin_commit(asking.new.message.lane, changes, true);
                    Decided::New { sequence, commit }
                }
            };
            (asking, decided)
        };
        asking.into_iter().map(decide).collect()
    }

    fn conclude(&self, begun: Vec<(Asking, Decided)>, stored: Vec<Result<(), JournalError>>) -> Vec<Answer> {
        let now = self.clock.now();
        let (mut lost, mut answers) = (BTreeSet::new(), Vec::with_capacity(begun.len()));
        for ((Asking { new, answer }, decided), stored) in begun.into_iter().zip(stored) {
            let id = new.message.id;
            let mut tables = self.tables.lock();
            let is_new = matches!(decided, Decided::New { .. });
            let told = match (decided, stored) {
                // What it repeats was not stored.
                (Decided::Told(Err(Refused::Repeat(first))), _) if lost.contains(&first) => {
                    Err(Refused::Unavailable(Stored::No))
                }
                (Decided::Told(Ok(_)), _) if lost.contains(&id) => Err(Refused::Unavailable(Stored::No)),
                (Decided::Told(told), _) => told,
                (Decided::New { sequence, .. }, Ok(())) => {
                    let without = NewMessage { content: rows::no_content(), ..new };
                    let accepted = tables.state.admit(self.by, &without, sequence, now);
                    tables.tell(&events_of(&without, now));
                    self.store(&mut tables, Vec::new());
                    Ok(accepted)
                }
                (Decided::New { .. }, Err(error)) => {
                    lost.insert(id);
                    tables.state.release(&new);
                    self.store(&mut tables, vec![rows::no_slots(id)]);
                    Err(match error {
                        JournalError::Full => Refused::Full,
                        JournalError::Failed | JournalError::Closed => Refused::Unavailable(Stored::No),
                    })
                }
            };
            answers.push(Answer { id, is_new, told, answer });
        }
        answers
    }
}

/// What an acceptance tells.
fn events_of(new: &NewMessage, now: Timestamp) -> Vec<Change> {
    new.events(now).into_iter().map(|event| Change::Event(Arc::new(event))).collect()
}
