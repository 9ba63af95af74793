//! Looking into the queue and steering it, for the people and apps that ask: what is there, take this back, try that
//! now.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::Queue;
use super::ending::End;
use super::entry::{Message, Progress, State};
use super::schedule::{Entry, Held, Schedule, entries_of};
use super::timers::Timer;
use crate::clock::Timestamp;
use crate::event::Kind;
use crate::mail::address::{Mailbox, domain_key};
use crate::mail::id::{EntryId, MessageId};
use crate::plan::cause::Cause;

/// One message as it stands.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is known since its acceptance.
    pub message: Arc<Message>,
    /// Its entries, in the order of its recipients.
    pub entries: Vec<EntrySnapshot>,
}

/// One entry as it stands.
#[derive(Debug, Clone)]
pub struct EntrySnapshot {
    /// Its id.
    pub id: EntryId,
    /// None: it has ended, while others of its message live.
    pub state: Option<State>,
    /// How far it got.
    pub progress: Progress,
    /// Its content is on its way, or was and got no answer.
    pub may_have_arrived: bool,
}

/// Which live entries are meant; what is none, does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// To this domain, as [`domain_key`] writes it.
    pub domain: Option<String>,
    /// To this recipient, as [`Mailbox::plain_key`] writes it.
    pub recipient: Option<String>,
    /// Of this user.
    pub user: Option<Arc<str>>,
    /// With this supersession key.
    pub key: Option<Arc<str>>,
    /// Of this message.
    pub message: Option<MessageId>,
}

/// What a list shows.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The oldest messages that fit, with those of their entries that fit.
    pub messages: Vec<Snapshot>,
    /// Entries that fit in all.
    pub entries: usize,
}

/// What became of an entry that was to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// Which.
    pub id: EntryId,
    /// Its recipient.
    pub recipient: Mailbox,
    /// Its content was on its way to the mail host already.
    pub may_still_arrive: bool,
}

impl Filter {
    /// The live entries of one message.
    pub fn of_message(id: MessageId) -> Self {
        Self { message: Some(id), ..Self::default() }
    }

    fn covers_message(&self, message: &Message) -> bool {
        self.message.is_none_or(|id| id == message.id)
            && self.user.as_ref().is_none_or(|user| *user == message.user)
            && (self.key.is_none() || self.key == message.key)
    }

    fn covers_entry(&self, message: &Message, index: u16, entry: &Entry) -> bool {
        if entry.state.is_none() || self.state.is_some_and(|state| entry.state != Some(state)) {
            return false;
        }
        let mailbox = &message.recipient(index).mailbox;
        self.domain.as_ref().is_none_or(|domain| is_at(mailbox, domain))
            && self.recipient.as_ref().is_none_or(|plain| is_recipient(mailbox, plain))
    }
}

/// Whether it is at the domain; mostly without allocating, for this is asked of every entry under the lock.
fn is_at(mailbox: &Mailbox, domain: &str) -> bool {
    let own = mailbox.domain();
    own.eq_ignore_ascii_case(domain) || (!own.is_ascii() && domain_key(own).as_deref() == Some(domain))
}

fn is_recipient(mailbox: &Mailbox, plain: &str) -> bool {
    let domain = plain.rsplit_once('@').map_or("", |(_, domain)| domain);
    is_at(mailbox, domain) && mailbox.plain_key() == plain
}

impl Held {
    fn snapshot(&self, covers: impl Fn(u16, &Entry) -> bool) -> Snapshot {
        let entries = entries_of(&self.message)
            .filter(|id| covers(id.index, &self.entries[usize::from(id.index)]))
            .map(|id| {
                let entry = &self.entries[usize::from(id.index)];
                let may_have_arrived = entry.is_out || entry.may_have_arrived;
                EntrySnapshot { id, state: entry.state, progress: entry.progress.clone(), may_have_arrived }
            })
            .collect();
        Snapshot { message: self.message.clone(), entries }
    }
}

impl Schedule {
    /// The live entries that a filter covers, the oldest messages first.
    fn covered(&self, filter: &Filter) -> Vec<EntryId> {
        let one = filter.message.map(|id| self.held.get(&id).into_iter());
        let all = filter.message.is_none().then(|| self.held.values());
        let candidates = one.into_iter().flatten().chain(all.into_iter().flatten());
        let mut covered = Vec::new();
        for held in candidates.filter(|held| filter.covers_message(&held.message)) {
            let fits =
                |id: &EntryId| filter.covers_entry(&held.message, id.index, &held.entries[usize::from(id.index)]);
            covered.extend(entries_of(&held.message).filter(fits));
        }
        covered.sort_unstable();
        covered
    }
}

impl Queue {
    /// A message with all its entries, while one of them lives.
    pub fn message(&self, id: MessageId) -> Option<Snapshot> {
        self.schedule.lock().held.get(&id).map(|held| held.snapshot(|_, _| true))
    }

    /// How far a live entry got.
    pub fn progress(&self, id: EntryId) -> Option<Progress> {
        let schedule = self.schedule.lock();
        let entry = schedule.held.get(&id.message)?.entries.get(usize::from(id.index))?;
        entry.state.map(|_| entry.progress.clone())
    }

    /// Whether an entry of the message lives.
    pub fn is_live(&self, id: MessageId) -> bool {
        self.schedule.lock().held.contains_key(&id)
    }

    /// Live entries, of at most `limit` messages, the oldest first.
    pub fn list(&self, filter: &Filter, limit: usize) -> Listing {
        let schedule = self.schedule.lock();
        let covered = schedule.covered(filter);
        let mut messages: BTreeMap<MessageId, Snapshot> = BTreeMap::new();
        for id in &covered {
            if messages.len() == limit && !messages.contains_key(&id.message) {
                break;
            }
            let Some(held) = schedule.held.get(&id.message) else { continue };
            messages
                .entry(id.message)
                .or_insert_with(|| held.snapshot(|index, entry| filter.covers_entry(&held.message, index, entry)));
        }
        Listing { messages: messages.into_values().collect(), entries: covered.len() }
    }

    /// All live entries with their recipients' domains; for a start, when somebody begins to count them.
    pub fn live_domains(&self) -> Vec<(EntryId, String)> {
        let schedule = self.schedule.lock();
        let live = schedule.covered(&Filter::default());
        let domain = |id: EntryId| {
            let held = schedule.held.get(&id.message)?;
            Some((id, held.message.recipient(id.index).mailbox.domain_key()))
        };
        live.into_iter().filter_map(domain).collect()
    }

    /// The live messages to a recipient ([`Mailbox::plain_key`]), at most `limit`, the oldest first.
    pub fn live_of_recipient(&self, plain: &str, limit: usize) -> Vec<Snapshot> {
        self.list(&Filter { recipient: Some(plain.to_owned()), ..Filter::default() }, limit).messages
    }

    /// Ends the live entries that the filter covers. What was not on its way yet does not leave any more: an attempt
    /// asks before it connects and before it sends the content.
    pub fn cancel(&self, filter: &Filter, now: Timestamp) -> Vec<Cancelled> {
        let mut cancelled = Vec::new();
        let mut schedule = self.schedule.lock();
        for id in schedule.covered(filter) {
            let Some(event) = self.end(&mut schedule, id, End::of(Kind::Cancelled), now) else { continue };
            let may_still_arrive = event.may_have_arrived;
            cancelled.extend(event.recipient.clone().map(|recipient| Cancelled { id, recipient, may_still_arrive }));
            self.events.emit(event);
        }
        cancelled
    }

    /// Makes entries due that wait for their next attempt and that the filter covers; says which.
    pub fn retry_now(&self, filter: &Filter, now: Timestamp) -> Vec<EntryId> {
        let schedule = self.schedule.lock();
        let covered = schedule.covered(filter);
        self.make_due(schedule, &covered, |_| true, now)
    }

    /// Makes those of the entries due that wait because nobody answered; somebody does now.
    pub fn retry_unreachable(&self, entries: &[EntryId], now: Timestamp) {
        let nobody_answered = [Cause::Unreachable.name(), Cause::ConnectionLost.name()];
        let waits_for_it =
            |progress: &Progress| progress.cause.as_deref().is_some_and(|cause| nobody_answered.contains(&cause));
        self.make_due(self.schedule.lock(), entries, waits_for_it, now);
    }

    fn make_due(
        &self,
        mut schedule: MutexGuard<'_, Schedule>,
        entries: &[EntryId],
        covers: impl Fn(&Progress) -> bool,
        now: Timestamp,
    ) -> Vec<EntryId> {
        let mut due = Vec::new();
        for id in entries {
            let Some(held) = schedule.held.get_mut(&id.message) else { continue };
            let Some(entry) = held.entries.get_mut(usize::from(id.index)) else { continue };
            if entry.state != Some(State::Deferred) || !covers(&entry.progress) {
                continue;
            }
            let was_due = std::mem::replace(&mut entry.progress.next_attempt_at, now);
            entry.state = Some(State::Queued);
            due.push((*id, held.message.clone()));
            schedule.timers.remove(&(was_due, *id, Timer::Due));
        }
        drop(schedule);
        let ids = due.iter().map(|(id, _)| *id).collect();
        due.into_iter().for_each(|(id, message)| self.offer(id, message));
        ids
    }
}
