//! A claim on an entry: the right to make one attempt, and the duty to say how it ended.

use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use super::ending::{Delay, End, Known};
use super::entry::{LEASE, Lease, Message, Progress, SignedContent, State};
use super::greylists::Greylists;
use super::journal::JournalError;
use super::schedule::{Entry, Schedule};
use super::store::Change;
use super::timers::Timer;
use crate::clock::Timestamp;
use crate::event::Suppress;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::mail::id::EntryId;
use crate::mail::message::Content;
use crate::plan::way::Detour;

/// Longest remote reply that is kept.
const REPLY_LEN_MAX: usize = 512;

/// Why an entry must not be sent (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Its life is over.
    Expired,
    /// It ended, or somebody else has it.
    Ended,
}

/// Why content must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReleased {
    /// There is nothing to send any more.
    Gone(Gone),
    /// The note of the attempt could not be written.
    NotNoted,
}

/// How an attempt ended, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The receiver took the message.
    Delivered {
        /// What it came to.
        attempted: Attempted,
        /// Whether the host was asked to notify the sender of a success itself (RFC 3461 section 5.2.2).
        notifies: bool,
    },
    /// Not yet.
    Deferred {
        /// What it came to.
        attempted: Attempted,
        /// When to try again. At or after the end of life there is no other attempt; the entry expires then.
        next_attempt_at: Timestamp,
        /// Whether the plan cannot promise any more that it arrives in time.
        at_risk: bool,
    },
    /// Never.
    Failed {
        /// What it came to.
        attempted: Attempted,
        /// What becomes of the address.
        suppress: Suppress,
    },
    /// The life ended during the attempt, before the content was sent.
    Expired(Attempted),
    /// Nothing came of it; the attempt does not count and the entry is ready again. It is told if there is a note.
    Released(Attempted),
}

impl Settlement {
    /// Put off for a reason that says nothing of what can be promised.
    pub fn put_off(attempted: Attempted, next_attempt_at: Timestamp) -> Self {
        Self::Deferred { attempted, next_attempt_at, at_risk: false }
    }

    /// What the attempt came to.
    pub fn attempted_mut(&mut self) -> &mut Attempted {
        match self {
            Self::Delivered { attempted, .. }
            | Self::Deferred { attempted, .. }
            | Self::Failed { attempted, .. }
            | Self::Expired(attempted)
            | Self::Released(attempted) => attempted,
        }
    }
}

/// How long an entry rests after an attempt that never said how it ended.
const LOST_ATTEMPT_PAUSE: Duration = Duration::from_secs(5);

/// The right to make one attempt. Dropped without being settled, as when the attempt panicked, it defers the entry.
#[derive(Debug)]
pub struct Claim {
    queue: Arc<Queue>,
    id: EntryId,
    lease: Lease,
    message: Arc<Message>,
    content: Option<Arc<SignedContent>>,
    progress: Progress,
    is_settled: bool,
}

impl Claim {
    pub(super) fn new(
        queue: Arc<Queue>,
        id: EntryId,
        lease: Lease,
        message: Arc<Message>,
        content: Option<Arc<SignedContent>>,
        progress: Progress,
    ) -> Self {
        Self { queue, id, lease, message, content, progress, is_settled: false }
    }

    /// The entry.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Its message.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// How far it got, this attempt counted.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The recipient's domain, as `domain_key` writes it.
    pub fn domain(&self) -> String {
        self.message.recipient(self.id.index).mailbox.domain_key()
    }

    /// Says by which way the next attempt goes, if the entry is put off next.
    pub fn go_by(&mut self, detour: Option<Detour>) {
        self.progress.detour = detour.map(Box::new);
    }

    /// Whether an attempt with an unknown outcome must be the last.
    pub fn is_at_most_once(&self) -> bool {
        self.queue.settings.deliver_at_most_once
    }

    /// What destinations were seen to do with strangers.
    pub fn greylists(&self) -> &Greylists {
        &self.queue.greylists
    }

    /// Stores rows of side tables soon, along with how the attempt ended if that is said next; also where the entry was
    /// taken away meanwhile.
    pub fn note(&self, rows: Vec<Change>) {
        if !rows.is_empty() {
            self.queue.journal.commit_later(rows);
        }
    }

    /// Tells that the attempt begins.
    pub fn begins(&self, destination: Option<Arc<str>>, now: Timestamp) {
        self.queue.events.emit(self.event(Happened::Attempted { destination }, now));
    }

    fn event(&self, what: Happened, now: Timestamp) -> Event {
        Event { head: self.message.entry_head(self.id.index, self.progress.attempts, now), what }
    }

    /// The content with its signatures, if it is still in memory.
    pub fn signed_content(&self) -> Option<&Arc<SignedContent>> {
        self.content.as_ref()
    }

    /// The content read back from the store, without signatures; none if it is gone for good.
    ///
    /// # Errors
    /// When it cannot be read for now.
    pub async fn stored_content(&self) -> Result<Option<Content>, JournalError> {
        self.queue.journal.content(self.message.lane, self.id.message).await
    }

    /// Whether the entry may still be sent: its life is not over, and nobody took it away.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Timestamp) -> Result<(), Gone> {
        if self.message.expires_at <= now {
            return Err(Gone::Expired);
        }
        let mut schedule = self.queue.schedule.lock();
        if self.entry(&mut schedule).is_some() { Ok(()) } else { Err(Gone::Ended) }
    }

    /// Makes the lease outlast a wait of `wait` from now.
    pub fn renew(&mut self, now: Timestamp, wait: Duration) {
        let ends_at = now.plus(wait).plus(LEASE);
        let mut schedule = self.queue.schedule.lock();
        let lease = Lease { ends_at, ..self.lease };
        if let Some(entry) = self.entry(&mut schedule) {
            // Its timer rings at the old end, sees the new one, and is set again.
            entry.progress.lease = Some(lease);
        }
    }

    /// To be called before the content leaves. From then on the entry may arrive, whatever happens to it here. With
    /// `deliver_at_most_once` it returns when a note of the attempt is on disk.
    ///
    /// # Errors
    /// When the content must not be sent: the life is over, the entry was taken away, or the note could not be written.
    pub async fn release_content(&mut self, now: Timestamp) -> Result<(), NotReleased> {
        if self.queue.settings.deliver_at_most_once {
            self.check(now).map_err(NotReleased::Gone)?;
            self.progress.content_sent = true;
            let change = Change::Update(self.id, Box::new(self.progress.clone()));
            self.queue.journal.commit(self.message.lane, vec![change]).await.map_err(|_| NotReleased::NotNoted)?;
        }
        let now = now.max(self.queue.clock.now());
        if self.message.expires_at <= now {
            return Err(NotReleased::Gone(Gone::Expired));
        }
        let queue = self.queue.clone();
        let mut schedule = queue.schedule.lock();
        let entry = self.entry(&mut schedule).ok_or(NotReleased::Gone(Gone::Ended))?;
        entry.is_out = true;
        self.progress.was_sent = true;
        Ok(())
    }

    /// Says how the attempt ended. If the lease was lost meanwhile, nothing changes.
    pub fn settle(mut self, settlement: Settlement, now: Timestamp) {
        self.is_settled = true;
        self.settle_inner(settlement, now);
    }

    fn settle_inner(&mut self, mut settlement: Settlement, now: Timestamp) {
        let queue = self.queue.clone();
        let mut schedule = queue.schedule.lock();
        match self.entry(&mut schedule) {
            // That may have been told while the attempt was running.
            Some(entry) => self.progress.late |= entry.progress.late,
            None => return,
        }
        if !matches!(settlement, Settlement::Released(_)) {
            let attempted = settlement.attempted_mut();
            attempted.reply = attempted.reply.take().map(shortened);
            self.progress.cause = attempted.cause;
            self.progress.last_reply.clone_from(&attempted.reply);
        }
        let end = |kind, attempted, notifies, suppress| End { kind, attempted, notifies, suppress };
        let events = match settlement {
            Settlement::Delivered { attempted, notifies } => {
                self.end(&mut schedule, end(Kind::Delivered, attempted, notifies, Suppress::No), now)
            }
            Settlement::Failed { attempted, suppress } => {
                self.end(&mut schedule, end(Kind::Failed, attempted, false, suppress), now)
            }
            Settlement::Deferred { attempted, .. } if self.message.expires_at <= now => {
                self.end(&mut schedule, end(Kind::Expired, attempted, false, Suppress::No), now)
            }
            Settlement::Expired(attempted) => {
                self.end(&mut schedule, end(Kind::Expired, attempted, false, Suppress::No), now)
            }
            Settlement::Deferred { attempted, next_attempt_at, at_risk } => {
                self.put_off(&mut schedule, attempted, (next_attempt_at, at_risk), now)
            }
            Settlement::Released(attempted) => {
                self.release(&mut schedule);
                if attempted.note.is_some() {
                    queue.events.emit(self.event(Happened::Queued(attempted), now));
                }
                drop(schedule);
                queue.offer(self.id, self.message.clone());
                return;
            }
        };
        // Told under the lock: who no longer finds the entry in the queue finds its end among the events.
        events.into_iter().for_each(|event| queue.events.emit(event));
    }

    /// Another attempt follows at `at`. That it may come too late is told once.
    fn put_off(
        &mut self,
        schedule: &mut Schedule,
        attempted: Attempted,
        (at, at_risk): (Timestamp, bool),
        now: Timestamp,
    ) -> Vec<Event> {
        let is_news = at_risk && !self.progress.at_risk;
        self.progress.at_risk |= at_risk;
        if let Some(entry) = self.entry(schedule) {
            entry.may_have_arrived |= attempted.may_have_arrived;
        }
        self.defer(schedule, at, now);
        let next_attempt_at = (at < self.message.expires_at).then_some(at);
        let at_risk = Attempted { note: None, steps: None, ..attempted.clone() };
        let mut events = vec![self.event(Happened::Deferred { attempted, next_attempt_at }, now)];
        if is_news {
            let at_risk = self.event(Happened::AtRisk { attempted: at_risk, next_attempt_at }, now);
            let was_sent = self.progress.was_sent;
            let held = schedule.held.get(&self.id.message);
            let telling = held.map(|held| held.telling_of_delay(self.id.index, Delay::AtRisk, now)).unwrap_or_default();
            let known = Known { was_sent, telling, ..Known::default() };
            let changes = self.queue.consequences(schedule, &self.message, &at_risk, known);
            if !changes.is_empty() {
                self.queue.journal.commit_later(changes);
            }
            events.push(at_risk);
        }
        events
    }

    fn end(&self, schedule: &mut Schedule, end: End, now: Timestamp) -> Vec<Event> {
        if let Some(entry) = self.entry(schedule) {
            // What became of the content is known now, or `end` says that it is not.
            entry.is_out = false;
            entry.progress = Progress { lease: entry.progress.lease, ..self.progress.clone() };
        }
        self.queue.end(schedule, self.id, end, now).into_iter().collect()
    }

    fn defer(&mut self, schedule: &mut Schedule, at: Timestamp, now: Timestamp) {
        self.progress.next_attempt_at = at;
        self.progress.first_deferred_at.get_or_insert(now);
        self.progress.lease = None;
        self.progress.content_sent = false;
        self.put_back(schedule, State::Deferred);
        let change = Change::Update(self.id, Box::new(self.progress.clone()));
        self.queue.journal.commit_later(vec![change]);
        let mut is_first = false;
        if at < self.message.expires_at {
            is_first = schedule.add_timer(at, self.id, Timer::Due);
        }
        // The expiry timer may have rung while the attempt was running.
        is_first |= schedule.add_timer(self.message.expires_at, self.id, Timer::Expiry);
        if let Some(late_at) = self.message.late_at().filter(|_| !self.progress.late) {
            is_first |= schedule.add_timer(late_at, self.id, Timer::Late);
        }
        if is_first {
            self.queue.timers_changed.notify_one();
        }
    }

    fn release(&mut self, schedule: &mut Schedule) {
        self.progress.attempts -= 1;
        self.progress.lease = None;
        self.put_back(schedule, State::Queued);
        if schedule.add_timer(self.message.expires_at, self.id, Timer::Expiry) {
            self.queue.timers_changed.notify_one();
        }
    }

    /// Writes state and progress back; content that no attempt needs soon leaves memory.
    fn put_back(&self, schedule: &mut Schedule, state: State) {
        schedule.timers.remove(&(self.lease.ends_at, self.id, Timer::Lease));
        let Some(held) = schedule.held.get_mut(&self.id.message) else { return };
        let entry = &mut held.entries[usize::from(self.id.index)];
        entry.state = Some(state);
        entry.progress = self.progress.clone();
        entry.is_out = false;
        if held.entries.iter().all(|entry| matches!(entry.state, None | Some(State::Deferred))) {
            let freed = held.content.take().map_or(0, |content| content.len());
            schedule.content_len -= freed;
        }
    }

    /// The entry, while this claim holds it.
    fn entry<'a>(&self, schedule: &'a mut Schedule) -> Option<&'a mut Entry> {
        let held = schedule.held.get_mut(&self.id.message)?;
        let entry = &mut held.entries[usize::from(self.id.index)];
        let is_ours = entry.progress.lease.is_some_and(|lease| lease.token == self.lease.token);
        (entry.state == Some(State::Sending) && is_ours).then_some(entry)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_settled {
            let now = self.queue.clock.now();
            self.settle_inner(Settlement::put_off(Attempted::default(), now.plus(LOST_ATTEMPT_PAUSE)), now);
        }
    }
}

fn shortened(text: Arc<str>) -> Arc<str> {
    if text.len() <= REPLY_LEN_MAX {
        return text;
    }
    let end = (0..=REPLY_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}
