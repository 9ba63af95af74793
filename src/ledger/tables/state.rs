//! What the database holds: rows, and the one place where an entry ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use litemap::LiteMap;

use super::budgets::Budgets;
use super::keys::Keys;
use super::suppressions::Suppressions;
use super::versioned::Versioned;
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::ledger::accept::{KeyHash, KnownWait, MayHaveArrived};
use crate::ledger::attempt::{Attempt, Epoch, Held, NodeName};
use crate::ledger::entry::{Message, Progress};
use crate::ledger::read::Version;
use crate::ledger::rules::Standing;
use crate::ledger::side::{SideChange, SideTable};
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;

/// A node from its joining on.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct NodeRow {
    /// Stays over its epochs.
    pub(in crate::ledger) id: u64,
    pub(in crate::ledger) name: NodeName,
    pub(in crate::ledger) egress: Arc<str>,
    pub(in crate::ledger) beat: u64,
    /// When it was declared dead, for ever.
    pub(in crate::ledger) revoked_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(in crate::ledger) struct MessageRow {
    pub(in crate::ledger) message: Arc<Message>,
    /// None: it is kept elsewhere.
    pub(in crate::ledger) content: Option<Box<Content>>,
    pub(in crate::ledger) sequence: u64,
    /// Those that live.
    pub(in crate::ledger) entries: LiteMap<u16, EntryRow>,
    /// What is known of others that ended, for the notification; mostly there are none.
    pub(in crate::ledger) ended: Option<Box<LiteMap<u16, Box<Progress>>>>,
}

#[derive(Clone, Debug)]
pub(in crate::ledger) struct EntryRow {
    pub(in crate::ledger) standing: Standing,
    pub(in crate::ledger) slots: Box<[KeyHash]>,
    /// None: it is fresh.
    /// Shared with the queue's schedule, as long as both say the same.
    pub(in crate::ledger) progress: Option<Arc<Progress>>,
}

impl EntryRow {
    /// How far it got.
    pub(in crate::ledger) fn progress(&self) -> Progress {
        self.progress.as_deref().cloned().unwrap_or_default()
    }

    pub(in crate::ledger) fn progress_mut(&mut self) -> &mut Progress {
        Arc::make_mut(self.progress.get_or_insert_default())
    }
}

/// That an entry ended, and by which attempt of whom.
#[derive(Clone, Copy, Debug)]
pub(in crate::ledger) struct EndRow {
    pub(in crate::ledger) kind: Kind,
    pub(in crate::ledger) by: Option<(Epoch, u32)>,
    pub(in crate::ledger) at: Timestamp,
}

/// A supersession slot that entries live in.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct SlotRow {
    /// The place in the order of the newest message that took it, and which that is.
    pub(in crate::ledger) sequence: u64,
    pub(in crate::ledger) newest: MessageId,
    /// Its entries, and older ones that their owner has to end yet.
    pub(in crate::ledger) holders: Vec<EntryId>,
}

/// What a node hears of with its next heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Signal {
    Ended(EntryId, Kind),
    Due(EntryId),
    Yours(EntryId),
}

/// Who waits for which triplet: reverse-path and recipient.
pub(in crate::ledger) type Waiting = (Box<str>, Box<str>);

/// A row that was decided above: its table and key.
pub(in crate::ledger) type SideName = (SideTable, Box<[u8]>);

/// What a statement changed, in its order. Rows are named: what they say then, whoever stores them looks up.
#[derive(Clone, Debug)]
pub(in crate::ledger) enum Touched {
    /// A message was accepted.
    Accepted(Arc<Message>, Content),
    /// Something happened.
    Event(Arc<Event>),
    /// An entry got further, or ended while others of its message live.
    Entry(EntryId),
    /// The last entry of a message ended.
    Gone(EntryId),
    Key(KeyHash),
    Budget(KeyHash),
    Suppression(Box<str>),
    Fact(Box<[u8]>),
    Wait(Waiting),
    /// A row that was decided above.
    Side(SideChange),
    /// The content of an attempt may go. No row says so.
    Gated(Epoch, Attempt),
}

#[derive(Clone, Debug, Default)]
pub(in crate::ledger) struct State {
    pub(in crate::ledger) nodes: BTreeMap<Epoch, NodeRow>,
    pub(in crate::ledger) messages: BTreeMap<MessageId, MessageRow>,
    /// Messages without entries here: those about to be admitted, and those whose last entry has ended.
    pub(in crate::ledger) accepted: HashMap<MessageId, u64>,
    pub(in crate::ledger) ended: HashMap<EntryId, EndRow>,
    /// All that happened, where they are kept here.
    pub(in crate::ledger) events: Vec<Arc<Event>>,
    /// What the statements since the last look have changed.
    pub(in crate::ledger) touched: Vec<Touched>,
    pub(in crate::ledger) keys: Keys,
    pub(in crate::ledger) budgets: Budgets,
    pub(in crate::ledger) slots: HashMap<KeyHash, SlotRow>,
    /// Places of messages that are about to come.
    pub(in crate::ledger) under_way: BTreeSet<u64>,
    /// Slots without a live entry, each with the latest place given when its last one ended. A slot is forgotten once every
    /// message up to that place has been admitted or given up.
    pub(in crate::ledger) emptied: VecDeque<(u64, KeyHash)>,
    pub(in crate::ledger) suppressions: Suppressions,
    pub(in crate::ledger) facts: Versioned<Box<[u8]>>,
    pub(in crate::ledger) waits: HashMap<Waiting, KnownWait>,
    /// Rows that were decided above, where they are kept here.
    pub(in crate::ledger) side: BTreeMap<SideName, Box<[u8]>>,
    pub(in crate::ledger) signals: HashMap<Epoch, Vec<Signal>>,
    /// Up to which number hand-overs of an epoch are void: it gave them up.
    pub(in crate::ledger) void: HashMap<Epoch, u64>,
    pub(in crate::ledger) live: usize,
    pub(in crate::ledger) sequence: u64,
    pub(in crate::ledger) version: u64,
}

/// The epoch was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Fenced;

/// Entries that became a node's, with what it needs to insert them again.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct Taken {
    pub(in crate::ledger) held: Held,
    pub(in crate::ledger) content: Content,
    pub(in crate::ledger) sequence: u64,
    pub(in crate::ledger) slots: Vec<(u16, KeyHash)>,
}

/// A node's memory of one of its entries: enough to insert it again.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct HeldCopy {
    pub(in crate::ledger) message: Arc<Message>,
    pub(in crate::ledger) content: Content,
    pub(in crate::ledger) sequence: u64,
    pub(in crate::ledger) slots: Vec<KeyHash>,
    pub(in crate::ledger) progress: Progress,
}

impl MessageRow {
    /// Some of its entries, as their new owner sees them.
    pub(in crate::ledger) fn taken(&self, indices: &[u16]) -> Taken {
        let rows = || self.entries.iter().filter(|(index, _)| indices.contains(index));
        let progress = |row: &EntryRow| match &row.progress {
            Some(progress) if progress.attempts == row.standing.attempt => progress.clone(),
            Some(_) | None => Arc::new(Progress { attempts: row.standing.attempt, ..row.progress() }),
        };
        let held = Held {
            message: self.message.clone(),
            entries: rows().map(|(index, row)| (*index, progress(row))).collect(),
            ended: self.left().map(|(index, left)| (*index, left.clone())).collect(),
            outlived: Vec::new(),
        };
        let slots = rows().flat_map(|(index, row)| row.slots.iter().map(|slot| (*index, *slot))).collect();
        Taken { held, content: self.content(), sequence: self.sequence, slots }
    }

    /// Its content, where that is kept here.
    pub(in crate::ledger) fn content(&self) -> Content {
        self.content.as_deref().cloned().unwrap_or_default()
    }

    /// What is known of entries that ended.
    pub(in crate::ledger) fn left(&self) -> impl Iterator<Item = (&u16, &Progress)> {
        self.ended.iter().flat_map(|ended| ended.iter()).map(|(index, left)| (index, &**left))
    }
}

impl State {
    pub(in crate::ledger) fn is_alive(&self, epoch: Epoch) -> bool {
        self.nodes.get(&epoch).is_some_and(|node| node.revoked_at.is_none())
    }

    /// # Errors
    /// Where this epoch may do nothing any more.
    pub(in crate::ledger) fn living(&self, epoch: Epoch) -> Result<(), Fenced> {
        if self.is_alive(epoch) { Ok(()) } else { Err(Fenced) }
    }

    /// The place of a message that was accepted.
    pub(in crate::ledger) fn sequence_of(&self, id: MessageId) -> Option<u64> {
        self.messages.get(&id).map(|held| held.sequence).or_else(|| self.accepted.get(&id).copied())
    }

    pub(in crate::ledger) fn entry(&self, id: EntryId) -> Option<&EntryRow> {
        self.messages.get(&id.message)?.entries.get(&id.index)
    }

    pub(in crate::ledger) fn entry_mut(&mut self, id: EntryId) -> Option<&mut EntryRow> {
        self.messages.get_mut(&id.message)?.entries.get_mut(&id.index)
    }

    pub(in crate::ledger) fn next_version(&mut self) -> Version {
        self.version += 1;
        Version(self.version)
    }

    pub(in crate::ledger) fn publish(&mut self, event: Event) {
        self.touched.push(Touched::Event(Arc::new(event)));
    }

    /// Rows that were decided above.
    pub(in crate::ledger) fn change_rows(&mut self, rows: Vec<SideChange>) {
        self.touched.extend(rows.into_iter().map(Touched::Side));
    }

    /// Takes a recipient's events out; says how many.
    pub(in crate::ledger) fn erase(&mut self, plain: &str) -> usize {
        let theirs = self.events.iter_mut().filter(|event| event.is_about(plain));
        theirs.map(|event| *event = Arc::new(event.without_recipient())).count()
    }

    /// Whoever owns it hears of it, unless that is whoever does it.
    pub(in crate::ledger) fn signal(&mut self, owner: Epoch, by: Epoch, signal: Signal) {
        if owner != by && self.is_alive(owner) {
            self.signals.entry(owner).or_default().push(signal);
        }
    }

    /// The row goes. Whoever calls this writes the end event in the same breath.
    pub(in crate::ledger) fn remove(&mut self, id: EntryId, end: EndRow) -> Option<EntryRow> {
        let held = self.messages.get_mut(&id.message)?;
        let row = held.entries.remove(&id.index)?;
        self.suppressions.end_try(&held.message.recipient(id.index).mailbox, id.message);
        if held.entries.is_empty() {
            self.touched.push(Touched::Gone(id));
            self.accepted.insert(id.message, held.sequence);
            self.messages.remove(&id.message);
        } else {
            self.touched.push(Touched::Entry(id));
        }
        self.live -= 1;
        self.ended.insert(id, end);
        for slot in &row.slots {
            if let Some(place) = self.slots.get_mut(slot) {
                place.holders.retain(|holder| *holder != id);
                if place.holders.is_empty() {
                    self.emptied.push_back((self.sequence, *slot));
                }
            }
        }
        self.forget_slots();
        Some(row)
    }

    /// Forgets slots without a live entry that no older message can take any more.
    pub(in crate::ledger) fn forget_slots(&mut self) {
        while let Some((latest, slot)) = self.emptied.front().copied()
            && self.under_way.first().is_none_or(|first| *first > latest)
        {
            self.emptied.pop_front();
            if self.slots.get(&slot).is_some_and(|place| place.holders.is_empty()) {
                self.slots.remove(&slot);
            }
        }
    }

    /// Ends an entry whoever owns it. None where it has ended.
    pub(in crate::ledger) fn end_by(
        &mut self,
        by: Epoch,
        id: EntryId,
        kind: Kind,
        attempted: Attempted,
        now: Timestamp,
    ) -> Option<MayHaveArrived> {
        let message = self.messages.get(&id.message)?.message.clone();
        let row = self.remove(id, EndRow { kind, by: None, at: now })?;
        let may_have_arrived = attempted.may_have_arrived || row.standing.is_out;
        let attempted = Attempted { may_have_arrived, ..attempted };
        let head = message.entry_head(id.index, row.standing.attempt, now);
        self.publish(Event { head, what: Happened::of(kind, attempted, None) });
        self.signal(row.standing.owner, by, Signal::Ended(id, kind));
        Some(if may_have_arrived { MayHaveArrived::Yes } else { MayHaveArrived::No })
    }

    /// The end of an attempt, if this is a repeat of it.
    pub(in crate::ledger) fn is_repeat(&self, me: Epoch, attempt: Attempt, kind: Kind) -> bool {
        let by = Some((me, attempt.number));
        self.ended.get(&attempt.entry).is_some_and(|end| end.by == by && end.kind == kind)
    }

    /// Who waits as which triplet.
    pub(in crate::ledger) fn waiting(message: &Message, index: u16) -> Waiting {
        let sender = message.envelope.reverse_path.mailbox().map_or_else(String::new, |sender| sender.plain_key());
        (sender.into(), message.recipient(index).mailbox.plain_key().into())
    }
}
