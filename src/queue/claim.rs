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
use crate::event::{Event, Kind, Step};
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

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The receiver took the message.
    Delivered,
    /// Not yet.
    Deferred {
        /// When to try again. At or after the end of life there is no other attempt; the entry expires then.
        next_attempt_at: Timestamp,
    },
    /// Never.
    Failed,
    /// The life ended during the attempt, before the content was sent.
    Expired,
    /// Nothing came of it; the attempt does not count and the entry is ready again. It is told if there is a note.
    Released,
}

/// What to tell of an attempt.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The host, or the destination where it did not come to a host.
    pub destination: Option<Arc<str>>,
    /// The cause, unless it was delivered.
    pub cause: Option<&'static str>,
    /// What the host said.
    pub reply: Option<Arc<str>>,
    /// Whether the receiver may have taken it although it did not say so.
    pub may_have_arrived: bool,
    /// What becomes of the address if it failed for good.
    pub suppress: Suppress,
    /// Whether the host was asked to notify the sender of a success itself (RFC 3461 section 5.2.2).
    pub notifies: bool,
    /// Whether the plan cannot promise any more that it arrives in time.
    pub at_risk: bool,
    /// What the time of the next attempt follows from.
    pub plan: Option<&'static str>,
    /// More for people.
    pub note: Option<Arc<str>>,
    /// What was done, step by step.
    pub steps: Option<Arc<[Step]>>,
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

    /// Emits an event about the attempt.
    pub fn tell(&self, kind: Kind, destination: Option<Arc<str>>, now: Timestamp) {
        let event = self.queue.entry_event(&self.message, self.id, &self.progress, kind, now);
        self.queue.events.emit(Event { destination, reply: None, ..event });
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
    pub fn settle(mut self, settlement: &Settlement, report: Report, now: Timestamp) {
        self.is_settled = true;
        self.settle_inner(settlement, report, now);
    }

    fn settle_inner(&mut self, settlement: &Settlement, report: Report, now: Timestamp) {
        let queue = self.queue.clone();
        let mut schedule = queue.schedule.lock();
        match self.entry(&mut schedule) {
            // That may have been told while the attempt was running.
            Some(entry) => self.progress.late |= entry.progress.late,
            None => return,
        }
        let (kind, next_attempt_at) = match *settlement {
            Settlement::Delivered => (Kind::Delivered, None),
            Settlement::Failed => (Kind::Failed, None),
            Settlement::Expired => (Kind::Expired, None),
            Settlement::Deferred { .. } if self.message.expires_at <= now => (Kind::Expired, None),
            Settlement::Deferred { next_attempt_at } if report.cause == Some("greylisted") => {
                (Kind::Greylisted, Some(next_attempt_at))
            }
            Settlement::Deferred { next_attempt_at } => (Kind::Deferred, Some(next_attempt_at)),
            Settlement::Released => {
                self.release(&mut schedule);
                if report.note.is_some() {
                    let Report { destination, reply, note, steps, .. } = report;
                    let event = self.queue.entry_event(&self.message, self.id, &self.progress, Kind::Queued, now);
                    queue.events.emit(Event { destination, reply, note, steps, ..event });
                }
                drop(schedule);
                queue.offer(self.id, self.message.clone());
                return;
            }
        };
        self.progress.cause = report.cause.map(Arc::from);
        self.progress.last_reply = report.reply.as_deref().map(shortened);
        let events = if let Some(at) = next_attempt_at {
            self.put_off(&mut schedule, kind, report, at, now)
        } else {
            self.end(&mut schedule, kind, report, now).into_iter().collect()
        };
        // Told under the lock: who no longer finds the entry in the queue finds its end among the events.
        events.into_iter().for_each(|event| queue.events.emit(event));
    }

    /// Another attempt follows at `at`. That it may come too late is told once.
    fn put_off(
        &mut self,
        schedule: &mut Schedule,
        kind: Kind,
        report: Report,
        at: Timestamp,
        now: Timestamp,
    ) -> Vec<Event> {
        let is_news = report.at_risk && !self.progress.at_risk;
        self.progress.at_risk |= report.at_risk;
        if let Some(entry) = self.entry(schedule) {
            entry.may_have_arrived |= report.may_have_arrived;
        }
        self.defer(schedule, at, now);
        let event = Event {
            destination: report.destination,
            cause: report.cause,
            next_attempt_at: (at < self.message.expires_at).then_some(at),
            plan: report.plan,
            may_have_arrived: report.may_have_arrived,
            note: report.note,
            steps: report.steps,
            ..self.queue.entry_event(&self.message, self.id, &self.progress, kind, now)
        };
        let mut events = vec![event.clone()];
        if is_news {
            let at_risk = Event { kind: Kind::AtRisk, note: None, steps: None, ..event };
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

    fn end(&self, schedule: &mut Schedule, kind: Kind, report: Report, now: Timestamp) -> Option<Event> {
        if let Some(entry) = self.entry(schedule) {
            // What became of the content is known now, or `report` says that it is not.
            entry.is_out = false;
            entry.progress = Progress { lease: entry.progress.lease, ..self.progress.clone() };
        }
        let Report { destination, cause, may_have_arrived, note, steps, notifies, suppress, .. } = report;
        let reply = self.progress.last_reply.clone();
        let end = End { kind, destination, cause, reply, note, steps, may_have_arrived, notifies, suppress };
        self.queue.end(schedule, self.id, end, now)
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
            let settlement = Settlement::Deferred { next_attempt_at: now.plus(LOST_ATTEMPT_PAUSE) };
            self.settle_inner(&settlement, Report::default(), now);
        }
    }
}

fn shortened(text: &str) -> Arc<str> {
    if text.len() <= REPLY_LEN_MAX {
        return text.into();
    }
    let end = (0..=REPLY_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].into()
}
