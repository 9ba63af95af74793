//! The queue: what was accepted and has not ended, on disk and in memory.
//!
//! The store keeps messages; the schedule (who is due when, whose life ends when) lives in memory and is rebuilt at
//! start. Nothing but `intake` puts messages in; each leaves by exactly one end per recipient, said here.

pub mod claim;
pub mod entry;
pub mod greylists;
mod inbox;
pub mod journal;
pub mod memory_store;
pub mod order;
pub mod sled_store;
pub mod steer;
pub mod store;
mod supersede;
mod timers;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};
use crate::event::{Event, Kind, Sink, Step};
use crate::lane::Lane;
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;
use crate::plan::action::Suppress;
use claim::{Claim, Gone};
use entry::{LEASE, Lease, Message, Progress, SignedContent, State};
use greylists::Greylists;
use journal::{Journal, JournalError, PendingCommit};
use store::{Change, Found, Row, Store, StoreError, Table};
pub use supersede::Supersede;
use timers::Timer;

/// Content of fresh messages kept in memory, so that it need not be read back, at most; beyond it is read.
const CONTENT_IN_MEMORY_MAX: usize = 64 << 20;

/// What the queue needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Live entries at most.
    pub entries_max: usize,
    /// Whether an attempt is noted on disk before its last bytes leave.
    pub deliver_at_most_once: bool,
    /// Which newer message takes the place of which older one.
    pub supersede: Supersede,
}

/// The end of an entry, or that it is at risk, for those who have to do something about it.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    /// Its message.
    pub message: &'a Arc<Message>,
    /// Which of the recipients.
    pub index: u16,
    /// Which end.
    pub kind: Kind,
    /// Why.
    pub cause: Option<&'static str>,
    /// What the remote server said last.
    pub reply: Option<Arc<str>>,
    /// The host that said it.
    pub destination: Option<Arc<str>>,
    /// What becomes of the address.
    pub suppress: Suppress,
    /// Whether the content was sent, in any attempt.
    pub was_sent: bool,
    /// Whether the host that took it sees to telling the sender.
    pub is_passed_on: bool,
    /// When.
    pub now: Timestamp,
}

/// What the end of an entry entails, stored together with it.
#[derive(Debug, Default)]
pub struct Consequences {
    /// Rows of side tables.
    pub changes: Vec<Change>,
    /// A message to somebody who wants to know.
    pub notification: Option<(Arc<Message>, Content)>,
}

/// Who has to do something about ends. Called with the queue locked: it must not call the queue.
pub trait Aftermath: Send + Sync {
    /// An entry ends, or is at risk.
    fn ended(&self, ending: &Ending<'_>) -> Consequences;
}

/// Who delivers. Told of every entry that could be sent now; claims it when there is a free slot.
pub trait Workers: Send + Sync {
    /// An entry is ready.
    fn offer(&self, offer: Offer);
}

/// An entry that is ready.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which.
    pub entry: EntryId,
    /// Its lane.
    pub lane: Lane,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// Its message; the recipient's domain says where it goes.
    pub message: Arc<Message>,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// `queue.entries_max` is reached.
    #[error("the queue is full")]
    QueueFull,
    /// The store did not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The live part of one message.
#[derive(Debug)]
struct Held {
    message: Arc<Message>,
    content: Option<Arc<SignedContent>>,
    entries: Box<[Entry]>,
    live: u16,
}

#[derive(Debug)]
struct Entry {
    state: Option<State>,
    progress: Progress,
    /// The running attempt has sent the content.
    is_out: bool,
    /// An earlier attempt sent it and got no answer; known to this process only.
    may_have_arrived: bool,
}

impl Entry {
    fn new(state: Option<State>, progress: Progress) -> Self {
        Self { state, progress, is_out: false, may_have_arrived: false }
    }
}

#[derive(Debug, Default)]
struct Schedule {
    held: HashMap<MessageId, Held>,
    timers: BTreeSet<(Timestamp, EntryId, Timer)>,
    content_len: usize,
    next_token: u64,
    /// Who holds the place that a newer message would take.
    slots: HashMap<Box<str>, EntryId>,
}

/// Numbers about the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages with a live entry.
    pub messages: usize,
    /// Entries that wait for a slot, that are being sent, that wait for their next attempt.
    pub queued: usize,
    /// See above.
    pub sending: usize,
    /// See above.
    pub deferred: usize,
}

/// The queue.
pub struct Queue {
    journal: Journal,
    clock: Arc<dyn Clock>,
    events: Arc<dyn Sink>,
    settings: Settings,
    schedule: Mutex<Schedule>,
    timers_changed: Notify,
    workers: OnceLock<Weak<dyn Workers>>,
    aftermath: OnceLock<Weak<dyn Aftermath>>,
    greylists: Greylists,
    /// Rows of side tables found at start, until somebody takes them.
    side: Mutex<Vec<(Table, Row)>>,
    /// Live entries and those about to be accepted.
    entries: AtomicUsize,
    owner: u64,
    /// What `open` found to have no future.
    restored: Mutex<Restored>,
    /// No more entries are offered.
    stopped: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// How the storage does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On a thread of its own.
    Threaded,
    /// In the caller's place, for simulation.
    Inline,
}

impl Queue {
    /// Takes up what the store holds. `owner` is a number that no other process uses; whoever opens the store has
    /// shown by its lock that all former owners are gone, so their leases end here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        mut store: Box<dyn Store>,
        storage: Storage,
        settings: Settings,
        clock: Arc<dyn Clock>,
        events: Arc<dyn Sink>,
        owner: u64,
    ) -> Result<Arc<Self>, StoreError> {
        let now = clock.now();
        let mut schedule = Schedule::default();
        let mut restored = Restored::default();
        let mut side = Vec::new();
        store.scan(&mut |found| match found {
            Found::Message(message, progress) => {
                schedule.restore(Arc::from(message), progress, now, settings.supersede, &mut restored);
            }
            Found::Side(table, row) => side.push((table, row)),
            Found::Unreadable(name) => {
                tracing::error!(record = name, "a stored record cannot be read and was set aside; the rest is served");
            }
        })?;
        let journal = match storage {
            Storage::Threaded => Journal::start(store, clock.clone()).map_err(|e| StoreError::Failed(e.to_string()))?,
            Storage::Inline => Journal::inline(store, clock.clone()),
        };
        let entries = schedule.held.values().map(|held| usize::from(held.live)).sum();
        let greylists = side.extract_if(.., |(of, _)| *of == Table::Greylist).map(|(_, row)| row).collect();
        let queue = Arc::new(Self {
            journal,
            clock,
            events,
            settings,
            schedule: Mutex::new(schedule),
            timers_changed: Notify::new(),
            workers: OnceLock::new(),
            aftermath: OnceLock::new(),
            greylists: Greylists::new(greylists),
            side: Mutex::new(side),
            restored: Mutex::new(restored),
            entries: AtomicUsize::new(entries),
            owner,
            stopped: AtomicBool::new(false),
        });
        Ok(queue)
    }

    /// Says who does something about ends; once, before the timers run.
    pub fn set_aftermath(&self, aftermath: Weak<dyn Aftermath>) {
        if self.aftermath.set(aftermath).is_err() {
            tracing::error!("somebody sees to ends already");
        }
    }

    /// The rows of a side table as they were at start; they can be taken once.
    pub fn take_side(&self, table: Table) -> Vec<Row> {
        let mut side = self.side.lock();
        side.extract_if(.., |(of, _)| *of == table).map(|(_, row)| row).collect()
    }

    /// What destinations were seen to do with strangers.
    pub fn greylists(&self) -> &Greylists {
        &self.greylists
    }

    /// Says who delivers; once, before the timers run.
    pub fn set_workers(&self, workers: Weak<dyn Workers>) {
        if self.workers.set(workers).is_err() {
            tracing::error!("the queue has workers already");
        }
    }

    /// Starts storing a message; [`Queue::stored`] says when it is durable, then [`Queue::admit`] brings it to life. A
    /// caller that is busy meanwhile lets it wait for others (not `at_once`), so that fewer syncs serve more messages.
    ///
    /// # Errors
    /// When there are too many entries already.
    pub fn append(
        &self,
        message: &Arc<Message>,
        content: Content,
        mut side: Vec<Change>,
        at_once: bool,
    ) -> Result<PendingCommit, AppendError> {
        let recipients = message.envelope.recipients.len();
        let before = self.entries.fetch_add(recipients, Ordering::Relaxed);
        if before + recipients > self.settings.entries_max {
            self.entries.fetch_sub(recipients, Ordering::Relaxed);
            return Err(AppendError::QueueFull);
        }
        side.insert(0, Change::Accept(message.clone(), content));
        Ok(self.journal.begin_commit(message.lane, side, at_once))
    }

    /// Stores rows of side tables.
    ///
    /// # Errors
    /// When they could not be stored.
    pub async fn store_side(&self, changes: Vec<Change>) -> Result<(), AppendError> {
        Ok(self.journal.commit(Lane::Otp, changes).await?)
    }

    /// Waits until what [`Queue::append`] began is durable.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn stored(&self, commit: &mut PendingCommit) -> Result<(), AppendError> {
        Ok(self.journal.finish(commit).await?)
    }

    /// Takes back what [`Queue::append`] began: the places in the queue, and what may be stored.
    pub fn abandon(&self, message: &Message, commit: &mut PendingCommit) {
        self.entries.fetch_sub(message.envelope.recipients.len(), Ordering::Relaxed);
        self.journal.withdraw(message.lane, std::mem::take(&mut commit.undo));
    }

    /// Brings a stored message to life: its entries are offered to the workers.
    pub fn admit(&self, message: &Arc<Message>, content: SignedContent) {
        let recipients = message.envelope.recipients.len();
        let mut schedule = self.schedule.lock();
        let keep = schedule.content_len + content.len() <= CONTENT_IN_MEMORY_MAX;
        let content = keep.then(|| Arc::new(content));
        schedule.content_len += content.as_ref().map_or(0, |content| content.len());
        let entry = || Entry::new(Some(State::Queued), Progress::default());
        let held = Held {
            message: message.clone(),
            content,
            entries: (0..recipients).map(|_| entry()).collect(),
            live: u16::try_from(recipients).unwrap_or(u16::MAX),
        };
        schedule.held.insert(message.id, held);
        let mut is_first = false;
        for entry in entries_of(message) {
            is_first |= schedule.add_timer(message.expires_at, entry, Timer::Expiry);
        }
        let now = self.clock.now();
        let superseded = self.take_slots(&mut schedule, message, now);
        drop(schedule);
        if is_first {
            self.timers_changed.notify_one();
        }
        let note = (recipients > 1).then(|| format!("{recipients} recipients").into());
        self.events.emit(Event { note, ..self.event(message, Kind::Accepted, now) });
        superseded.into_iter().for_each(|event| self.events.emit(event));
        for entry in entries_of(message) {
            self.offer(entry, message.clone());
        }
    }

    /// Takes an entry for an attempt. It stays claimed until the claim is settled or dropped, or its lease ends.
    ///
    /// # Errors
    /// When there is nothing to claim (any more).
    pub fn claim(self: &Arc<Self>, id: EntryId, now: Timestamp) -> Result<Claim, Gone> {
        let mut guard = self.schedule.lock();
        let schedule = &mut *guard;
        let Some(held) = schedule.held.get_mut(&id.message) else { return Err(Gone::Ended) };
        if held.message.expires_at <= now {
            return Err(Gone::Expired);
        }
        let message = held.message.clone();
        let content = held.content.clone();
        let entry = &mut held.entries[usize::from(id.index)];
        if entry.state != Some(State::Queued) {
            return Err(Gone::Ended);
        }
        schedule.next_token += 1;
        let lease = Lease { owner: self.owner, token: schedule.next_token, ends_at: now.plus(LEASE) };
        entry.state = Some(State::Sending);
        entry.is_out = false;
        entry.progress.lease = Some(lease);
        entry.progress.attempts += 1;
        let progress = entry.progress.clone();
        let is_first = schedule.add_timer(lease.ends_at, id, Timer::Lease);
        drop(guard);
        if is_first {
            self.timers_changed.notify_one();
        }
        // A fresh entry's lease goes without saying: it belongs to whoever accepted it, and ends with the process.
        if progress.attempts > 1 {
            self.journal.commit_later(vec![Change::Update(id, Box::new(progress.clone()))]);
        }
        Ok(Claim::new(self.clone(), id, lease, message, content, progress))
    }

    /// Emits an event about a live entry on behalf of the workers.
    pub fn tell(&self, id: EntryId, kind: Kind, destination: Option<Arc<str>>) {
        let schedule = self.schedule.lock();
        let Some(held) = schedule.held.get(&id.message) else { return };
        let (message, progress) = (held.message.clone(), held.entries[usize::from(id.index)].progress.clone());
        drop(schedule);
        let event = self.entry_event(&message, id, &progress, kind, self.clock.now());
        self.events.emit(Event { destination, ..event });
    }

    /// Messages and entries by state.
    pub fn depth(&self) -> Depth {
        let schedule = self.schedule.lock();
        let mut depth = Depth { messages: schedule.held.len(), ..Depth::default() };
        for entry in schedule.held.values().flat_map(|held| held.entries.iter()) {
            match entry.state {
                Some(State::Queued) => depth.queued += 1,
                Some(State::Sending) => depth.sending += 1,
                Some(State::Deferred) => depth.deferred += 1,
                None => {}
            }
        }
        depth
    }

    /// Whether new mail can be stored.
    pub fn is_able_to_store(&self) -> bool {
        !self.journal.is_failing()
    }

    /// Offers no more entries. Claims that are held can still be settled.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.timers_changed.notify_one();
    }

    /// As a crash would have it: from now on nothing that happens to claims is written down or told.
    pub fn freeze(&self) {
        self.stop();
        *self.schedule.lock() = Schedule::default();
    }

    /// Writes down what is left and closes the store.
    pub fn close(&self) {
        self.stop();
        self.journal.close();
    }

    /// Makes everything done so far durable.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.journal.flush().await
    }

    fn offer(&self, entry: EntryId, message: Arc<Message>) {
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Some(workers) = self.workers.get().and_then(Weak::upgrade) {
            workers.offer(Offer { entry, lane: message.lane, expires_at: message.expires_at, message });
        }
    }

    /// The parts of an event that the message knows.
    fn event(&self, message: &Message, kind: Kind, now: Timestamp) -> Event {
        Event {
            kind,
            time: now,
            id: message.id,
            entry: None,
            user: message.user.clone(),
            lane: message.lane,
            tag: message.tag.clone(),
            recipient: message.envelope.recipients.first().map(|recipient| recipient.mailbox.clone()),
            destination: None,
            cause: None,
            reply: None,
            attempt: 0,
            next_attempt_at: None,
            expires_at: message.expires_at,
            since_accepted: now.since(message.accepted_at),
            may_have_arrived: false,
            note: None,
            steps: None,
        }
    }

    fn entry_event(&self, message: &Message, id: EntryId, progress: &Progress, kind: Kind, now: Timestamp) -> Event {
        Event {
            entry: Some(id.index),
            recipient: Some(message.recipient(id.index).mailbox.clone()),
            attempt: progress.attempts,
            cause: None,
            reply: progress.last_reply.clone(),
            ..self.event(message, kind, now)
        }
    }

    /// Ends an entry: out of memory at once, off the disk soon. The last of a message takes its content along. Returns
    /// the event; none if the entry had ended already.
    fn end(&self, schedule: &mut Schedule, id: EntryId, end: End, now: Timestamp) -> Option<Event> {
        let held = schedule.held.get_mut(&id.message)?;
        let entry = &mut held.entries[usize::from(id.index)];
        entry.state.take()?;
        held.live -= 1;
        let is_last = held.live == 0;
        let (message, progress) = (held.message.clone(), std::mem::take(&mut entry.progress));
        let is_unknown = std::mem::take(&mut entry.is_out) || entry.may_have_arrived;
        let may_have_arrived = end.may_have_arrived || is_unknown && end.kind != Kind::Delivered;
        self.entries.fetch_sub(1, Ordering::Relaxed);
        if is_last && let Some(held) = schedule.held.remove(&id.message) {
            schedule.content_len -= held.content.map_or(0, |content| content.len());
        }
        schedule.forget(id, &message, &progress, self.settings.supersede);
        let mut changes = vec![if is_last {
            Change::Remove(id.message)
        } else {
            Change::Update(id, Box::new(Progress { ended: true, ..Progress::default() }))
        }];
        let event = Event {
            destination: end.destination,
            cause: end.cause,
            reply: end.reply.or_else(|| progress.last_reply.clone()),
            note: end.note,
            steps: end.steps,
            may_have_arrived,
            ..self.entry_event(&message, id, &progress, end.kind, now)
        };
        let was_sent = progress.was_sent || may_have_arrived || end.kind == Kind::Delivered;
        changes.extend(self.consequences(schedule, &message, &event, (was_sent, end.notifies, end.suppress)));
        self.journal.commit_later(changes);
        Some(event)
    }

    /// What else happens when something happened to an entry; the changes are to be stored along with it.
    fn consequences(
        &self,
        schedule: &mut Schedule,
        message: &Arc<Message>,
        event: &Event,
        (was_sent, is_passed_on, suppress): (bool, bool, Suppress),
    ) -> Vec<Change> {
        let Some(aftermath) = self.aftermath.get().and_then(Weak::upgrade) else { return Vec::new() };
        let ending = Ending {
            message,
            index: event.entry.unwrap_or_default(),
            kind: event.kind,
            cause: event.cause,
            reply: event.reply.clone(),
            destination: event.destination.clone(),
            suppress,
            was_sent,
            is_passed_on,
            now: event.time,
        };
        let Consequences { mut changes, notification } = aftermath.ended(&ending);
        if let Some((notification, content)) = notification {
            changes.push(Change::Accept(notification.clone(), content));
            self.adopt(schedule, notification, event.time);
        }
        changes
    }

    /// Takes a message in that the relay itself has to send; it is stored soon, and read back when its turn comes.
    fn adopt(&self, schedule: &mut Schedule, message: Arc<Message>, now: Timestamp) {
        self.entries.fetch_add(message.envelope.recipients.len(), Ordering::Relaxed);
        self.events.emit(self.event(&message, Kind::Accepted, now));
        schedule.restore(message, Vec::new(), now, Supersede::Off, &mut Restored::default());
        self.timers_changed.notify_one();
    }

    /// Ends what turned out at start to have no future: lives that ended meanwhile, entries whose place a newer one had
    /// taken, and attempts of which only the answer is missing and that must not be made twice.
    fn end_restored(&self) {
        let now = self.clock.now();
        let Restored { ended, empty } = std::mem::take(&mut *self.restored.lock());
        for (id, end) in ended {
            let event = self.end(&mut self.schedule.lock(), id, end, now);
            event.into_iter().for_each(|event| self.events.emit(event));
        }
        if !empty.is_empty() {
            self.journal.commit_later(empty.into_iter().map(Change::Remove).collect());
        }
    }
}

/// How an entry ends.
#[derive(Debug)]
struct End {
    kind: Kind,
    destination: Option<Arc<str>>,
    cause: Option<&'static str>,
    reply: Option<Arc<str>>,
    note: Option<Arc<str>>,
    steps: Option<Arc<[Step]>>,
    may_have_arrived: bool,
    notifies: bool,
    suppress: Suppress,
}

impl End {
    fn of(kind: Kind) -> Self {
        let (destination, cause, reply, note) = (None, None, None, None);
        Self {
            kind,
            destination,
            cause,
            reply,
            note,
            steps: None,
            may_have_arrived: false,
            notifies: false,
            suppress: Suppress::No,
        }
    }
}

/// What turned out at start to have no future.
#[derive(Debug, Default)]
struct Restored {
    ended: Vec<(EntryId, End)>,
    /// Messages all of whose entries had ended.
    empty: Vec<MessageId>,
}

impl Schedule {
    /// Adds a timer; says whether it is now the first.
    fn add_timer(&mut self, at: Timestamp, entry: EntryId, timer: Timer) -> bool {
        self.timers.insert((at, entry, timer));
        self.timers.first() == Some(&(at, entry, timer))
    }

    /// Drops all that points to an entry.
    fn forget(&mut self, id: EntryId, message: &Message, progress: &Progress, supersede: Supersede) {
        self.timers.remove(&(message.expires_at, id, Timer::Expiry));
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

    fn restore(
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
                entry.progress = Progress { lease: None, ..progress };
            }
        }
        let live = entries.iter().filter(|entry| entry.state.is_some()).count();
        if live == 0 {
            restored.empty.push(message.id);
            return;
        }
        for id in entries_of(&message) {
            let entry = &mut entries[usize::from(id.index)];
            if entry.state.is_none() {
                continue;
            }
            let unknown = End { cause: Some("outcome_unknown"), may_have_arrived: true, ..End::of(Kind::Failed) };
            if entry.progress.content_sent {
                restored.ended.push((id, unknown));
            } else if message.expires_at <= now {
                restored.ended.push((id, End::of(Kind::Expired)));
            } else {
                entry.progress.next_attempt_at = entry.progress.next_attempt_at.max(now);
                self.add_timer(entry.progress.next_attempt_at, id, Timer::Due);
                self.add_timer(message.expires_at, id, Timer::Expiry);
            }
            // Also one whose own life is over may be the newer one, whose crash came before the older one's end was
            // written down.
            restored.ended.extend(self.take_slots_of(supersede, &message, id));
        }
        let live = u16::try_from(live).unwrap_or(u16::MAX);
        self.held.insert(message.id, Held { message, content: None, entries, live });
    }
}

fn entries_of(message: &Message) -> impl Iterator<Item = EntryId> + use<> {
    let id = message.id;
    let count = u16::try_from(message.envelope.recipients.len()).unwrap_or(u16::MAX);
    (0..count).map(move |index| EntryId { message: id, index })
}
