//! What is in memory of live messages: who is due when, whose life ends when, who holds which place.
//!
//! A value, and nothing else: nothing here locks, stores, tells, logs or reads a clock. What a change leads to is handed
//! back as [`Effects`]. `accept`, `attempt`, `fire` and `find` have the commands.

mod accept;
mod attempt;
mod find;
mod fire;
mod owned;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::effects::Effects;
use super::ending::{End, Ending, Reporting};
use super::index::Index;
use crate::base::clock::Timestamp;
use crate::base::shares::Shares;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::ledger::attempt::Epoch;
use crate::ledger::entry::{Message, Outcome, Progress, SignedContent, State};
use crate::mail::id::{EntryId, MessageId};
pub(super) use attempt::Hold;
pub(super) use find::Again;
pub use find::{Cancelled, RetriedEntries};
pub(crate) use find::{EntrySnapshot, Snapshot};
use timers::{Timer, Timers};

/// Ended entries, of messages with live ones, whose end is remembered for a notification.
const OUTCOMES_MAX: usize = 100_000;

/// Numbers about the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages with a live entry.
    pub messages: usize,
    /// Entries that wait for a slot, that are being sent, that wait for their next attempt.
    pub(crate) queued: usize,
    pub(crate) sending: usize,
    pub(crate) deferred: usize,
    /// Of them, those that are not expected to arrive in time; while an attempt is running, as before it.
    pub(crate) at_risk: usize,
}

impl Depth {
    /// Entries in a state, or in all.
    pub(super) fn of_state(&self, state: Option<State>) -> usize {
        match state {
            Some(State::Queued) => self.queued,
            Some(State::Sending) => self.sending,
            Some(State::Deferred) => self.deferred,
            None => self.queued + self.sending + self.deferred,
        }
    }

    fn count(&mut self, state: State) -> &mut usize {
        match state {
            State::Queued => &mut self.queued,
            State::Sending => &mut self.sending,
            State::Deferred => &mut self.deferred,
        }
    }
}

/// The live part of one message.
#[derive(Debug)]
pub(super) struct LiveMessage {
    pub(super) message: Arc<Message>,
    content: Option<Arc<SignedContent>>,
    entries: Box<[Entry]>,
    live: u16,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// None: it has ended. Changed by [`Entry::turn`] only, which counts.
    state: Option<State>,
    /// Shared with the ledger, as long as both say the same.
    progress: Arc<Progress>,
    /// The running attempt has sent the content.
    is_out: bool,
    /// An earlier attempt sent it and got no answer; known to this process only.
    may_have_arrived: bool,
    /// Whether it is counted as at risk.
    counts_as_at_risk: bool,
    /// When somebody asked for an attempt; known to this process only.
    retried_at: Option<Timestamp>,
    /// Until then its content may go without a gate.
    fresh_until: Timestamp,
}

impl Entry {
    fn new(progress: Arc<Progress>) -> Self {
        Self {
            state: None,
            progress,
            is_out: false,
            may_have_arrived: false,
            counts_as_at_risk: false,
            retried_at: None,
            fresh_until: Timestamp::default(),
        }
    }

    fn progress_mut(&mut self) -> &mut Progress {
        Arc::make_mut(&mut self.progress)
    }

    /// How far it got in another process.
    fn take_up(&mut self, progress: Arc<Progress>) {
        self.progress = progress;
        if self.progress.lease.is_some() {
            self.progress_mut().lease = None;
        }
    }

    fn turn(&mut self, state: Option<State>, counts: &mut Depth) {
        if let Some(before) = self.state {
            *counts.count(before) -= 1;
        }
        if let Some(after) = state {
            *counts.count(after) += 1;
        }
        self.state = state;
        self.count_risk(counts);
    }

    /// Counts it as at risk, or not any more.
    fn count_risk(&mut self, counts: &mut Depth) {
        let is_at_risk = self.state.is_some() && self.progress.at_risk;
        if is_at_risk != self.counts_as_at_risk {
            counts.at_risk = if is_at_risk { counts.at_risk + 1 } else { counts.at_risk - 1 };
            self.counts_as_at_risk = is_at_risk;
        }
    }
}

/// All live messages of this process.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// By age.
    held: BTreeMap<MessageId, LiveMessage>,
    timers: Timers,
    /// When the timers are looked at next; that of the first may be gone by then.
    looks_at: Option<Timestamp>,
    index: Index,
    /// Entries by state.
    counts: Depth,
    /// Live entries and those about to be accepted, by user.
    shares: Shares,
    content_len: usize,
    next_token: u64,
    /// How many ended entries are remembered for the notification of their message.
    outcomes: usize,
    /// Under which all of it is ours.
    owner: Epoch,
    /// What turned out at start to have no future.
    doomed: VecDeque<(EntryId, End)>,
}

/// What became of an entry's content, as far as is known at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// It never left.
    Kept,
    /// It may arrive all the same.
    MayHaveArrived,
}

impl Schedule {
    /// One that holds nothing yet, of what this epoch owns.
    pub(super) fn new(owner: Epoch) -> Self {
        Self { owner, ..Self::default() }
    }

    /// Under which all of it is ours.
    pub(super) fn owner(&self) -> Epoch {
        self.owner
    }

    /// Our epoch is another one: what is held is held under it.
    pub(super) fn set_owner(&mut self, owner: Epoch) {
        self.owner = owner;
    }

    /// Our epoch was revoked: nothing is ours any more.
    pub(super) fn forget_all(&mut self) {
        *self = Self { next_token: self.next_token, ..Self::new(Epoch::UNOWNED) };
    }

    /// Messages and entries by state.
    pub(super) fn depth(&self) -> Depth {
        Depth { messages: self.held.len(), ..self.counts }
    }

    /// The message of a live entry, and how far that got.
    pub(super) fn progress(&self, id: EntryId) -> Option<(&Arc<Message>, &Arc<Progress>)> {
        let held = self.held.get(&id.message)?;
        let entry = held.entries.get(usize::from(id.index))?;
        entry.state.map(|_| (&held.message, &entry.progress))
    }

    pub(super) fn is_live(&self, id: MessageId) -> bool {
        self.held.contains_key(&id)
    }

    pub(super) fn shares(&mut self) -> &mut Shares {
        &mut self.shares
    }

    fn entry_mut(&mut self, id: EntryId) -> Option<(&mut Entry, &mut Depth)> {
        let entry = self.held.get_mut(&id.message)?.entries.get_mut(usize::from(id.index))?;
        Some((entry, &mut self.counts))
    }

    /// Takes a message in, with the states of its entries, of which one is live at least.
    fn hold(
        &mut self,
        message: Arc<Message>,
        content: Option<Arc<SignedContent>>,
        entries: Vec<(Option<State>, Entry)>,
    ) {
        self.content_len += content.as_ref().map_or(0, |content| content.len());
        self.index.add_message(&message.user, message.id);
        let mut live = 0;
        let counts = &mut self.counts;
        let index = &mut self.index;
        let entries = entries_of(&message).zip(entries).map(|(id, (state, mut entry))| {
            entry.turn(state, counts);
            if state.is_some() {
                live += 1;
                index.add_entry(&message.recipient(id.index).mailbox, id);
            }
            entry
        });
        let entries = entries.collect();
        self.held.insert(message.id, LiveMessage { message, content, entries, live });
    }

    fn add_timer(&mut self, at: Timestamp, entry: EntryId, timer: Timer, effects: &mut Effects) {
        self.timers.insert(at, entry, timer);
        if self.looks_at.is_none_or(|looks_at| at < looks_at) {
            self.looks_at = Some(at);
            effects.wakes = true;
        }
    }

    /// Sets the timers of a life; that of the late hour only while it has not been told.
    fn add_timers_of_life(&mut self, message: &Message, id: EntryId, is_late: bool, effects: &mut Effects) {
        self.add_timer(message.expires_at, id, Timer::Expiry, effects);
        if let Some(late_at) = message.late_at().filter(|_| !is_late) {
            self.add_timer(late_at, id, Timer::Late, effects);
        }
    }

    /// Drops all that points to an entry.
    fn forget(&mut self, id: EntryId, message: &Message, progress: &Progress) {
        self.index.remove_entry(&message.recipient(id.index).mailbox, id);
        self.timers.remove(message.expires_at, id, Timer::Expiry);
        if let Some(late_at) = message.late_at() {
            self.timers.remove(late_at, id, Timer::Late);
        }
        self.timers.remove(progress.next_attempt_at, id, Timer::Due);
        if let Some(lease) = progress.lease {
            self.timers.remove(lease.ends_at, id, Timer::Lease);
        }
    }

    /// Ends an entry: out of memory at once, off the disk soon. The last of a message takes its content along. None if the
    /// entry had ended already.
    fn end(&mut self, id: EntryId, end: End, now: Timestamp, effects: &mut Effects) -> Option<Content> {
        let (left, ending, content) = self.ended(id, end, now)?;
        effects.end(left, ending);
        Some(content)
    }

    /// The ledger has ended an entry of ours, and published the event. What follows from it is left to do.
    pub(in crate::queue) fn ended_elsewhere(&mut self, id: EntryId, end: End, now: Timestamp, effects: &mut Effects) {
        if let Some((_, ending, _)) = self.ended(id, end, now) {
            effects.ended_elsewhere(ending);
        }
    }

    /// Takes an entry out. What is known of it while others of its message live, its end, and its content.
    fn ended(&mut self, id: EntryId, end: End, now: Timestamp) -> Option<(Option<Box<Progress>>, Ending, Content)> {
        let held = self.held.get_mut(&id.message)?;
        let entry = held.entries.get_mut(usize::from(id.index))?;
        entry.state?;
        entry.turn(None, &mut self.counts);
        held.live -= 1;
        let (message, is_last) = (held.message.clone(), held.live == 0);
        let progress = std::mem::take(&mut entry.progress);
        let is_unknown = std::mem::take(&mut entry.is_out) || entry.may_have_arrived;
        let End { kind, attempted, notifies, suppress } = end;
        let may_have_arrived = attempted.may_have_arrived || is_unknown && kind != Kind::Delivered;
        let reply = attempted.reply.or_else(|| progress.last_reply.clone());
        // There is no other attempt that a plan could be for.
        let attempted = Attempted { reply, may_have_arrived, plan: None, ..attempted };
        self.shares.give_back(&message.user, 1);
        self.forget(id, &message, &progress);
        let head = message.entry_head(id.index, progress.attempts, now);
        let event = Event { head, what: Happened::of(kind, attempted, None) };
        let was_sent = progress.was_sent || may_have_arrived || kind == Kind::Delivered;
        let (left, reporting) = if is_last {
            (None, Reporting::Now(self.let_go(id.message)))
        } else {
            (Some(self.remember(id, &event, &progress, notifies)), Reporting::Not)
        };
        let ending = Ending { message, event, suppress, was_sent, is_passed_on: notifies, is_late: false, reporting };
        Some((left, ending, if may_have_arrived { Content::MayHaveArrived } else { Content::Kept }))
    }

    /// The last entry of a message has ended; how others did that are to be told of.
    fn let_go(&mut self, id: MessageId) -> Vec<(u16, Outcome)> {
        let mut others = Vec::new();
        if let Some(mut held) = self.held.remove(&id) {
            self.content_len -= held.content.as_ref().map_or(0, |content| content.len());
            self.index.remove_message(&held.message.user, id);
            others = held.take_outcomes();
        }
        self.outcomes = self.outcomes.saturating_sub(others.len());
        others
    }

    /// An entry has ended while others of its message live: how is kept for the notification that tells of all.
    fn remember(&mut self, id: EntryId, event: &Event, progress: &Progress, notifies: bool) -> Box<Progress> {
        let Progress { at_risk, late, .. } = *progress;
        let mut ended = Progress { ended: true, at_risk, late, ..Progress::default() };
        if let Some(held) = self.held.get_mut(&id.message) {
            if held.message.may_tell(id.index, event.kind()) && self.outcomes < OUTCOMES_MAX {
                self.outcomes += 1;
                ended.outcome = Some(Box::new(Outcome {
                    kind: event.kind(),
                    at: event.head.time,
                    reply: event.what.attempted().and_then(|attempted| attempted.reply.clone()),
                    destination: event.what.destination().cloned(),
                    is_passed_on: notifies,
                }));
            }
            held.entries[usize::from(id.index)].progress = Arc::new(ended.clone());
        }
        Box::new(ended)
    }
}

/// What a sender can be told before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    /// The time of `BY=` is over.
    Late,
    /// It may not arrive in time.
    AtRisk,
}

impl LiveMessage {
    /// How the entries ended that are to be told of.
    fn take_outcomes(&mut self) -> Vec<(u16, Outcome)> {
        let outcomes = self.entries.iter_mut().zip(0..);
        outcomes.filter_map(|(entry, index)| Some((index, *entry.progress_mut().outcome.take()?))).collect()
    }

    /// Whether the sender is told that an entry is late or at risk: with all that are late at this moment, once.
    fn reporting_of_delay(&self, index: u16, delay: Delay, now: Timestamp) -> Reporting {
        let others = || self.entries.iter().zip(0..).filter(move |(_, other)| *other != index);
        let is_wanted = |other: u16| {
            let notify = self.message.recipient(other).notify;
            notify.map_or(delay == Delay::Late, |notify| notify.delay)
        };
        let is_told = |progress: &Progress| match delay {
            Delay::Late => progress.late,
            Delay::AtRisk => progress.at_risk,
        };
        if others().any(|(entry, other)| is_told(&entry.progress) && is_wanted(other)) {
            return Reporting::Not;
        }
        let is_late_too = |entry: &Entry| delay == Delay::Late && entry.state.is_some() && !entry.is_out;
        let outcome = |(entry, other): (&Entry, u16)| {
            let reply = entry.progress.last_reply.clone();
            (other, Outcome { kind: Kind::AtRisk, at: now, reply, destination: None, is_passed_on: false })
        };
        Reporting::Now(others().filter(|(entry, _)| is_late_too(entry)).map(outcome).collect())
    }
}

pub(super) fn entries_of(message: &Message) -> impl Iterator<Item = EntryId> + use<> {
    let id = message.id;
    let count = u16::try_from(message.envelope.recipients.len()).unwrap_or(u16::MAX);
    (0..count).map(move |index| EntryId { message: id, index })
}
