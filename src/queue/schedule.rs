//! What is in memory of live messages: who is due when, whose life ends when, who holds which place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::Supersede;
use super::ending::End;
use super::entry::{Message, Progress, SignedContent, State};
use super::timers::Timer;
use crate::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Attempted, Kind};
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};

/// The live part of one message.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) message: Arc<Message>,
    pub(super) content: Option<Arc<SignedContent>>,
    pub(super) entries: Box<[Entry]>,
    pub(super) live: u16,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) state: Option<State>,
    pub(super) progress: Progress,
    /// The running attempt has sent the content.
    pub(super) is_out: bool,
    /// An earlier attempt sent it and got no answer; known to this process only.
    pub(super) may_have_arrived: bool,
    /// When somebody asked for an attempt; known to this process only.
    pub(super) retried_at: Option<Timestamp>,
}

impl Entry {
    pub(super) fn new(state: Option<State>, progress: Progress) -> Self {
        Self { state, progress, is_out: false, may_have_arrived: false, retried_at: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// By age.
    pub(super) held: BTreeMap<MessageId, Held>,
    pub(super) timers: BTreeSet<(Timestamp, EntryId, Timer)>,
    pub(super) content_len: usize,
    pub(super) next_token: u64,
    /// How many ended entries are remembered for the notification of their message.
    pub(super) outcomes: usize,
    /// Who holds the place that a newer message would take.
    pub(super) slots: HashMap<Box<str>, EntryId>,
}

/// What turned out at start to have no future.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) ended: Vec<(EntryId, End)>,
    /// Messages all of whose entries had ended.
    pub(super) empty: Vec<MessageId>,
}

/// What many stored messages have in common, so that it is in memory once.
#[derive(Debug, Default)]
pub(super) struct Common {
    texts: HashSet<Arc<str>>,
    senders: HashSet<Mailbox>,
}

impl Common {
    /// Puts what is known in the place of its equals.
    pub(super) fn share(&mut self, message: &mut Message, stored: &mut [(u16, Progress)]) {
        let replies = stored.iter_mut().map(|(_, progress)| &mut progress.last_reply);
        for text in replies.chain([&mut message.signing_domain, &mut message.tag]).flatten() {
            share(&mut self.texts, text);
        }
        share(&mut self.texts, &mut message.user);
        message.envelope.reverse_path.0.iter_mut().for_each(|sender| share(&mut self.senders, sender));
    }
}

fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, one: &mut T) {
    match known.get(one) {
        Some(equal) => one.clone_from(equal),
        None => drop(known.insert(one.clone())),
    }
}

impl Schedule {
    /// Adds a timer; says whether it is now the first.
    pub(super) fn add_timer(&mut self, at: Timestamp, entry: EntryId, timer: Timer) -> bool {
        self.timers.insert((at, entry, timer));
        self.timers.first() == Some(&(at, entry, timer))
    }

    /// Drops all that points to an entry.
    pub(super) fn forget(&mut self, id: EntryId, message: &Message, progress: &Progress, supersede: Supersede) {
        self.timers.remove(&(message.expires_at, id, Timer::Expiry));
        if let Some(late_at) = message.late_at() {
            self.timers.remove(&(late_at, id, Timer::Late));
        }
        self.timers.remove(&(progress.next_attempt_at, id, Timer::Due));
        if let Some(lease) = progress.lease {
            self.timers.remove(&(lease.ends_at, id, Timer::Lease));
        }
        for slot in supersede.slots(message, id.index) {
            if self.slots.get(&slot) == Some(&id) {
                self.slots.remove(&slot);
            }
        }
    }

    pub(super) fn restore(
        &mut self,
        message: Arc<Message>,
        stored: Vec<(u16, Progress)>,
        now: Timestamp,
        supersede: Supersede,
        restored: &mut Restored,
    ) {
        let fresh = |_| Entry::new(Some(State::Deferred), Progress::default());
        let mut entries: Box<[Entry]> = message.envelope.recipients.iter().map(fresh).collect();
        for (index, progress) in stored {
            if let Some(entry) = entries.get_mut(usize::from(index)) {
                entry.state = (!progress.ended).then_some(State::Deferred);
                self.outcomes += usize::from(progress.outcome.is_some());
                entry.progress = Progress { lease: None, ..progress };
            }
        }
        let live = entries.iter().filter(|entry| entry.state.is_some()).count();
        if live == 0 {
            self.outcomes -= entries.iter().filter(|entry| entry.progress.outcome.is_some()).count();
            restored.empty.push(message.id);
            return;
        }
        for id in entries_of(&message) {
            let entry = &mut entries[usize::from(id.index)];
            if entry.state.is_none() {
                continue;
            }
            if entry.progress.content_sent {
                let cause = Some(Cause::OutcomeUnknown);
                let unknown = Attempted { cause, may_have_arrived: true, ..Attempted::default() };
                restored.ended.push((id, End::after(Kind::Failed, unknown)));
            } else if message.expires_at <= now {
                restored.ended.push((id, End::of(Kind::Expired)));
            } else {
                entry.progress.next_attempt_at = entry.progress.next_attempt_at.max(now);
                self.add_timer(entry.progress.next_attempt_at, id, Timer::Due);
                self.add_timer(message.expires_at, id, Timer::Expiry);
                if let Some(late_at) = message.late_at().filter(|_| !entry.progress.late) {
                    self.add_timer(late_at, id, Timer::Late);
                }
            }
            // Also one whose own life is over may be the newer one, whose crash came before the older one's end was
            // written down.
            restored.ended.extend(self.take_slots_of(supersede, &message, id));
        }
        let live = u16::try_from(live).unwrap_or(u16::MAX);
        self.held.insert(message.id, Held { message, content: None, entries, live });
    }
}

pub(super) fn entries_of(message: &Message) -> impl Iterator<Item = EntryId> + use<> {
    let id = message.id;
    let count = u16::try_from(message.envelope.recipients.len()).unwrap_or(u16::MAX);
    (0..count).map(move |index| EntryId { message: id, index })
}
