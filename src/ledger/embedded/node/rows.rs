//! Which rows the tables are stored as, and what a start makes of them. Times in them are of the wall clock.
//!
//! Messages and how far their entries got are rows of their own, and suppressions in a table of theirs, by address; all else is
//! in one side table, by a letter: `k` an idempotency key, `b` a budget, `f` a fact, `w` a wait, `e` the last epoch, `h` the
//! secret under which names are hashed.

use std::collections::BTreeMap;
use std::sync::Arc;

use litemap::LiteMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::former::{self, Former};
use super::forms;
use crate::base::clock::{Step, Timestamp};
use crate::ledger::accept::{Accepted, KeyHash, KeyOf, KeySecret, KnownWait, slots_of};
use crate::ledger::attempt::Epoch;
use crate::ledger::common::Common;
use crate::ledger::embedded::store::{Change, StoreError, Table};
use crate::ledger::entry::{Message, Progress};
use crate::ledger::rules::{Delivery, Standing};
use crate::ledger::side::{SideRow, SideTable};
use crate::ledger::suppression::Suppression;
use crate::ledger::tables::accept::Accepting;
use crate::ledger::tables::state::{EntryRow, MessageRow, State, Touched, Waiting};
use crate::mail::id::{EntryId, MessageId};

/// Version of the rows.
const VERSION: u8 = 1;
/// Places in the order of messages for each millisecond of the clock.
const PLACES_PER_MS: u64 = 1 << 12;

#[derive(Serialize, Deserialize)]
struct WaitJson {
    egress: Arc<str>,
    since: Timestamp,
    until: Timestamp,
}

fn name(letter: u8, rest: &[u8]) -> Box<[u8]> {
    [&[letter], rest].concat().into()
}

fn row(name: Box<[u8]>, value: Option<&impl Serialize>) -> Change {
    let value = value.map(|value| {
        let mut octets = vec![VERSION];
        // It has no maps and nothing else that could fail.
        let _ = serde_json::to_writer(&mut octets, value);
        octets.into_boxed_slice()
    });
    Change::Side(Table::Ledger, name, value)
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let (version, json) = value.split_first()?;
    (*version == VERSION).then(|| serde_json::from_slice(json).ok()).flatten()
}

fn hash(octets: &[u8]) -> Option<KeyHash> {
    octets.try_into().ok().map(KeyHash)
}

fn wait_name((sender, recipient): &Waiting) -> Box<[u8]> {
    name(b'w', format!("{sender}\n{recipient}").as_bytes())
}

/// The last epoch that was given.
pub(super) fn epoch_row(epoch: Epoch) -> Change {
    row(name(b'e', b""), Some(&epoch.0))
}

/// The secret under which names are hashed, as long as the data directory lives.
fn secret_row(secret: &[u8; 32]) -> Change {
    row(name(b'h', b""), Some(secret))
}

/// Made when there is none.
///
/// # Errors
/// When the system has no random octets.
fn new_secret() -> Result<[u8; 32], StoreError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| StoreError::Failed("no random octets".into()))?;
    Ok(secret)
}

/// What the statements have changed, as it is stored.
pub(super) fn changes(state: &State, touched: Vec<Touched>, step: Step) -> Vec<Change> {
    let mut changes = Vec::with_capacity(touched.len());
    for touched in touched {
        match touched {
            Touched::Accepted(message, content) => changes.push(Change::Accept(message, content)),
            Touched::Event(event) => changes.push(Change::Event(event)),
            Touched::Gated(..) => {}
            Touched::Entry(id) => changes.extend(progress_of(state, id).map(|progress| Change::Update(id, progress))),
            Touched::Gone(id) => changes.push(Change::Remove(id.message)),
            Touched::Key(key) => {
                let value = state.keys.row(&key).map(|known| forms::encode_key(known, step));
                changes.push(Change::Side(Table::Ledger, name(b'k', &key.0), value));
            }
            Touched::Budget(key) => {
                let value = state.budgets.row(&key).map(|(span, places)| forms::encode_places(span, places, step));
                changes.push(Change::Side(Table::Ledger, name(b'b', &key.0), value));
            }
            Touched::Suppression(address) => {
                let value = state.suppressions.get(&address).map(Suppression::encode);
                changes.push(Change::Side(Table::Suppression, address.into_boxed_bytes(), value));
            }
            Touched::Fact(key) => {
                let value = state.facts.get(&key).cloned();
                changes.push(Change::Side(Table::Ledger, name(b'f', &key), value));
            }
            Touched::Side(row) => changes.push(row.into()),
            Touched::Wait(waiting) => {
                let json = state.waits.get(&waiting).map(|wait| WaitJson {
                    egress: wait.egress.clone(),
                    since: step.wall(wait.since),
                    until: step.wall(wait.until),
                });
                changes.push(row(wait_name(&waiting), json.as_ref()));
            }
        }
    }
    changes
}

/// Whether a stored row can be read; none: whoever is above reads it.
pub(crate) fn reads(table: SideTable, row: &SideRow) -> Option<bool> {
    match table {
        SideTable::Ledger => Some(Found::default().take_up_side(&row.0, &row.1, Timestamp::MAX).is_some()),
        SideTable::Budget => Some(former::reads_budget(row)),
        SideTable::Idempotency => Some(former::reads_key(row)),
        SideTable::Greylist | SideTable::Suppression | SideTable::Meta | SideTable::Verification => None,
    }
}

/// How far an entry got, or how it ended while others of its message live. None: its message is gone too.
fn progress_of(state: &State, id: EntryId) -> Option<Arc<Progress>> {
    let held = state.messages.get(&id.message)?;
    Some(Arc::new(match held.entries.get(&id.index) {
        Some(row) => return Some(row.progress.clone().unwrap_or_default()),
        None => held.left().find(|(index, _)| **index == id.index).map_or_else(ended, |(_, left)| left.clone()),
    }))
}

/// Nothing more is known of it.
fn ended() -> Progress {
    Progress { ended: true, ..Progress::default() }
}

/// What a start found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) state: State,
    pub(super) last_epoch: Epoch,
    secret: Option<[u8; 32]>,
    /// Messages all of whose entries had ended.
    empty: Vec<MessageId>,
    /// Entries beside which a newer message lives, and which.
    pub(super) outlived: BTreeMap<EntryId, MessageId>,
    /// Rows that count no more.
    leftovers: Vec<Change>,
    former: Former,
    /// Rows of whoever is above.
    pub(super) side: Vec<(SideTable, SideRow)>,
    common: Common,
}

impl Found {
    /// Nothing yet. Places in the order of messages go on above those that a former process may have given.
    pub(super) fn begin(now: Timestamp) -> Self {
        let sequence = now.as_millis().saturating_mul(PLACES_PER_MS);
        Self { state: State { sequence, ..State::default() }, ..Self::default() }
    }

    pub(super) fn take_up_message(
        &mut self,
        message: Message,
        progress: Vec<(u16, Progress)>,
        delivery: Delivery,
        now: Timestamp,
    ) {
        let (message, progress) = crate::ledger::entry::taken_up(message, progress, now);
        let (mut message, mut progress) = (message, progress);
        self.common.share(&mut message, &mut progress);
        let message: Arc<Message> = Arc::from(message);
        let mut progress: BTreeMap<u16, Progress> = progress.into_iter().collect();
        let recipients = message.envelope.recipients.len();
        let (mut entries, mut ended) = (LiteMap::with_capacity(recipients), None::<Box<LiteMap<_, _>>>);
        for (index, _) in (0..).zip(&message.envelope.recipients) {
            let progress = progress.remove(&index);
            let (number, content_sent) = progress.as_ref().map_or((0, false), |of| (of.attempts, of.content_sent));
            if let Some(left) = progress.as_ref().filter(|of| of.ended) {
                ended.get_or_insert_default().insert(index, Box::new(left.clone()));
                continue;
            }
            let is_out = delivery == Delivery::AtLeastOnce || content_sent;
            let settled = if content_sent { number.saturating_sub(1) } else { number };
            let standing = Standing { owner: Epoch::UNOWNED, attempt: number, settled, is_out };
            entries.insert(index, EntryRow { standing, slots: Box::default(), progress: progress.map(Arc::new) });
        }
        if entries.is_empty() {
            self.empty.push(message.id);
            return;
        }
        self.state.live += entries.len();
        let held = MessageRow { message, content: None, sequence: 0, entries, ended };
        self.state.messages.insert(held.message.id, held);
    }

    /// A row of ours that cannot be read counts for nothing.
    pub(super) fn take_up_row(&mut self, table: SideTable, row: SideRow, now: Timestamp) {
        match table {
            SideTable::Ledger => drop(self.take_up_side(&row.0, &row.1, now)),
            SideTable::Suppression => {
                let known = Suppression::decode(&row.1);
                if known.is_some_and(|known| !self.state.take_up_suppression(known, now)) {
                    self.leftovers.push(Change::Side(table, row.0, None));
                }
            }
            SideTable::Budget => self.former.budgets.push(row),
            SideTable::Idempotency => self.former.keys.push(row),
            SideTable::Greylist | SideTable::Meta | SideTable::Verification => self.side.push((table, row)),
        }
    }

    fn take_up_side(&mut self, key: &[u8], value: &[u8], now: Timestamp) -> Option<()> {
        let (letter, rest) = key.split_first()?;
        match letter {
            b'e' => self.last_epoch = Epoch(read(value)?),
            b'h' => self.secret = Some(read(value)?),
            b'k' => {
                let (name, row) = (hash(rest)?, forms::decode_key(value)?);
                if !self.state.keys.take_up(name, row, now) {
                    // A clock wrote it that was ahead.
                    self.state.touched.push(Touched::Key(name));
                }
            }
            b'b' => {
                let (span, places) = forms::decode_places(value)?;
                self.state.budgets.take_up(hash(rest)?, span, places, now);
            }
            b'f' => {
                let version = self.state.next_version();
                self.state.facts.set(rest, version, Some(value.into()));
            }
            b'w' => {
                let (sender, recipient) = std::str::from_utf8(rest).ok()?.split_once('\n')?;
                let WaitJson { egress, since, until } = read(value)?;
                self.state.waits.insert((sender.into(), recipient.into()), KnownWait { egress, since, until });
            }
            _ => {}
        }
        Some(())
    }

    /// The secret under which names are hashed, made where there is none; and its row then.
    ///
    /// # Errors
    /// When the system has no random octets.
    pub(super) fn secret_of_names(&self) -> Result<(KeySecret, Vec<Change>), StoreError> {
        if let Some(secret) = self.secret {
            return Ok((KeySecret::new(&secret), Vec::new()));
        }
        let secret = new_secret()?;
        Ok((KeySecret::new(&secret), vec![secret_row(&secret)]))
    }

    /// Takes up what former versions wrote. Returns what becomes of that.
    pub(super) fn take_up_former(&mut self, secret: &KeySecret, now: Timestamp) -> Vec<Change> {
        std::mem::take(&mut self.former).take_up(&mut self.state, secret, now)
    }

    /// Gives all that lives to whoever takes it up, the older first: a newer message has the slots. What may have left and must
    /// not leave again is ended by its owner, as all that has no future. Returns what is to be removed.
    pub(super) fn give_to(&mut self, by: Accepting, secret: &KeySecret, now: Timestamp) -> Vec<Change> {
        let ids: Vec<MessageId> = self.state.messages.keys().copied().collect();
        for id in ids {
            self.state.sequence += 1;
            let sequence = self.state.sequence;
            let Some(held) = self.state.messages.get_mut(&id) else { continue };
            held.sequence = sequence;
            let mut slots = slots_of(&held.message, |name| secret.hash(KeyOf::Slot, name));
            slots.retain(|(index, _)| held.entries.contains_key(index));
            for (index, row) in held.entries.iter_mut() {
                row.standing.owner = by.me;
                row.slots = slots.iter().filter(|(of, _)| of == index).map(|(_, slot)| *slot).collect();
            }
            let mut taken = Accepted { sequence, ..Accepted::default() };
            self.state.take_slots(by, id, &slots, &mut taken, now);
            self.outlived.extend(taken.outlived);
        }
        let empty = std::mem::take(&mut self.empty).into_iter().map(Change::Remove);
        empty.chain(std::mem::take(&mut self.leftovers)).collect()
    }
}
