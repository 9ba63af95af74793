//! Verifications: the relay makes a code, sends it, and checks what somebody typed.
//!
//! No code is kept, only its digest under a key that goes when it is of no more use (`ledger::embedded::code_keys`). A check is
//! on disk before it is answered. `state` is one verification as a value, `guesses` counts wrong checks, `rows` is what is stored.

mod checks;
pub(crate) mod code;
mod guesses;
mod requests;
mod rows;
mod state;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::requests::{
    CheckError, CheckResult, Limits, Plan, Refused, Request, Secrecy, Selector, Slot, View,
};
pub(super) use self::rows::reads;
use self::state::{Again, Fate, Verification};
pub(crate) use self::state::{Key, State};
use self::table::Table;
use super::refusal::Refusal;
use crate::accounts::supersede::Supersede;
use crate::base::clock::{Clock, Step, Timestamp};
use crate::event::Kind;
use crate::ledger::embedded::code_keys::CodeKeys;
use crate::ledger::entry::Message;
use crate::ledger::side::{SideChange, SideRow};
use crate::mail::budget_form::budget_form;
use crate::mail::id::MessageId;
use crate::queue::inspect::Filter;
use crate::queue::{Ending, Queue};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};

/// Live verifications of a user and recipient.
const LIVE_OF_RECIPIENT_MAX: usize = 4;
/// The lives that a code can have.
pub(crate) const LIFE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));
/// By how much a code's key outlasts it: its message begins to live a little later than it.
const KEY_SLACK: Duration = Duration::from_secs(10);
/// For how long to leave what could not be done.
const PAUSE: Duration = Duration::from_secs(10);

/// All verifications.
pub struct Verifications {
    table: Mutex<Table>,
    keys: Arc<CodeKeys>,
    turns: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    changed: Notify,
}

/// What is done for one verification is done one after the other.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

impl Slot {
    /// The message with the code. The next one takes its place if it has not left by then, whatever else is configured.
    pub(super) fn carried_by(&self, message: Message) -> Message {
        let supersede = Some(Supersede::ByKey);
        Message { verification: Some(self.id.clone()), key: Some(self.id.clone()), supersede, ..message }
    }
}

impl Verifications {
    /// None yet.
    pub fn new(keys: Arc<CodeKeys>) -> Self {
        let (table, turns) = (Mutex::new(Table::default()), Mutex::default());
        Self { table, keys, turns, changed: Notify::new() }
    }

    /// Takes up the rows found at start.
    pub(super) fn take_up(&self, rows: Vec<SideRow>, limits: &Limits, now: Timestamp) {
        let found = rows::read(rows, now);
        let mut table = self.table.lock();
        let held = table.take_up(found, limits, now);
        drop(table);
        held.into_iter().for_each(|bucket| self.keys.found(bucket));
    }

    /// Waits until nobody else does something for this verification.
    pub(crate) async fn turn(&self, key: &Key) -> Turn {
        let lock = {
            let mut turns = self.turns.lock();
            if turns.len() >= 1024 {
                turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            turns.entry(key.clone()).or_default().clone()
        };
        Turn(lock.lock_owned().await)
    }

    /// Whether the key of a code of this life is there; otherwise [`Verifications::prepare`] writes a file.
    pub(crate) fn is_prepared(&self, life: Duration, now: Timestamp) -> bool {
        self.keys.is_ready(CodeKeys::bucket(now.plus(life).plus(KEY_SLACK)))
    }

    /// Makes the key of a code of this life.
    pub(crate) fn prepare(&self, life: Duration, now: Timestamp) -> std::io::Result<()> {
        self.keys.prepare(CodeKeys::bucket(now.plus(life).plus(KEY_SLACK)))
    }

    /// What a request comes to; its code is live from here on. Under the turn.
    ///
    /// # Errors
    /// Why nothing is sent.
    pub(crate) fn plan(&self, request: &Request<'_>, limits: &Limits, now: Timestamp) -> Result<Plan, Refused> {
        let key = Key::new(&request.user.name, request.to, request.purpose, request.session);
        let mut table = self.table.lock();
        if let Some(asked) = request.idempotency_key
            && let Some(one) = table.asked(&key.user, asked)
        {
            return if one.key == key { Ok(Plan::Repeat(view(one, limits, now))) } else { Err(Refused::Conflict) };
        }
        let form: Arc<str> = budget_form(request.to).into();
        let whose = (key.user.clone(), form.clone());
        let pending = table.latest(&key).filter(|one| one.state(now) == State::Pending);
        let (id, is_new) = if let Some(one) = pending {
            match one.again(limits, now) {
                Again::Early => return Ok(Plan::Repeat(view(one, limits, now))),
                Again::Enough(_) if one.quiet => return Ok(Plan::Repeat(view(one, limits, now))),
                Again::Enough(wait) => return Err(Refused::Sends(wait)),
                Again::Send => (one.id.clone(), false),
            }
        } else {
            table.admits(&whose, now)?;
            (code::new_id().map_err(|_| Refused::Internal)?, true)
        };
        let code = code::new_code(request.alphabet, request.length).map_err(|_| Refused::Internal)?;
        let bucket = CodeKeys::bucket(now.plus(request.life).plus(KEY_SLACK));
        let digest = self.keys.new_digest(bucket, &[&key.user, &id], &code).map_err(|_| Refused::Internal)?;
        let expires_at = now.plus(request.life);
        let send = state::Send { message: None, digest, bucket, at: now, expires_at, fate: Fate::UnderWay };
        let asked: Option<Arc<str>> = request.idempotency_key.map(Arc::from);
        let index = if is_new {
            table.insert(Verification {
                id: id.clone(),
                key,
                form,
                lane: request.user.lane,
                quiet: request.secrecy == Secrecy::Quiet,
                checks: limits.checks,
                created_at: now,
                asked: asked.iter().cloned().collect(),
                sends: vec![send],
                spent: 0,
                end: None,
                answers: Vec::new(),
            });
            0
        } else {
            table.send_again(&id, send, asked.as_ref())
        };
        drop(table);
        self.changed.notify_one();
        Ok(Plan::Send(Slot { id, is_new, code, index, asked }))
    }

    /// The row of a verification whose code goes with this message, to be stored with it.
    pub fn sent(&self, slot: &Slot, message: &Message, step: Step) -> Vec<SideChange> {
        let mut table = self.table.lock();
        let Some(one) = table.get_mut(&slot.id) else { return Vec::new() };
        if let Some(send) = one.sends.get_mut(slot.index) {
            send.message = Some(message.id);
            // It began to live a little later.
            send.expires_at = message.expires_at;
        }
        let change = rows::start(one, step);
        table.is_due(&slot.id);
        vec![change]
    }

    /// The row of a verification whose code nobody sees yet.
    pub(crate) fn begun(&self, slot: &Slot, step: Step) -> Vec<SideChange> {
        self.table.lock().get_mut(&slot.id).map(|one| rows::start(one, step)).into_iter().collect()
    }

    /// A code was not sent after all, and nobody was told of it: as if it had not been asked for. The rows that say so.
    pub(crate) fn withdrawn(&self, slot: &Slot, step: Step) -> Vec<SideChange> {
        let mut table = self.table.lock();
        let Some(send) = table.withdraw(&slot.id, slot.index, slot.asked.as_ref()) else { return Vec::new() };
        let changes = match table.get_mut(&slot.id) {
            Some(one) if !one.sends.is_empty() => vec![rows::start(one, step)],
            Some(one) => {
                let changes = rows::removed(one);
                table.remove(&slot.id);
                changes
            }
            None => Vec::new(),
        };
        drop(table);
        self.keys.released(send.bucket);
        changes
    }

    /// A code was not sent, and nobody may tell: the verification goes on without it.
    pub fn refused(&self, slot: &Slot, now: Timestamp, step: Step) -> Vec<SideChange> {
        self.on_fate(&slot.id, slot.index, Fate::Gone(now), now, step)
    }

    fn on_fate(&self, id: &str, index: usize, fate: Fate, now: Timestamp, step: Step) -> Vec<SideChange> {
        let mut table = self.table.lock();
        let before = table.held(id);
        let Some(one) = table.get_mut(id) else { return Vec::new() };
        one.on_fate(index, fate, now);
        let after = table.held(id);
        let change = rows::fate(id, index, fate, step);
        table.is_due(id);
        drop(table);
        self.release(before, after);
        self.changed.notify_one();
        change.into_iter().collect()
    }

    /// What the end of an entry means for the code that it carries; the rows that are stored with it.
    pub(super) fn learn(&self, ending: &Ending, step: Step) -> Vec<SideChange> {
        let Some(id) = &ending.message.verification else { return Vec::new() };
        let now = ending.now();
        let may_have_arrived = ending.was_sent || ending.event.may_have_arrived();
        let fate = match ending.event.kind() {
            Kind::Delivered => Fate::Arrived(now),
            Kind::Failed | Kind::Expired | Kind::Superseded | Kind::Cancelled if may_have_arrived => Fate::Perhaps(now),
            Kind::Failed | Kind::Expired | Kind::Superseded | Kind::Cancelled => Fate::Gone(now),
            // None of these ends an entry.
            Kind::Accepted
            | Kind::Queued
            | Kind::Attempted
            | Kind::Deferred
            | Kind::Greylisted
            | Kind::AtRisk
            | Kind::Bounced
            | Kind::Complained
            | Kind::Verified => return Vec::new(),
        };
        let Some(index) = self.table.lock().index_of(id, ending.message.id) else { return Vec::new() };
        self.on_fate(id, index, fate, now, step)
    }

    fn release(&self, before: Vec<u32>, after: Vec<u32>) {
        let mut after = after;
        for bucket in before {
            match after.iter().position(|other| *other == bucket) {
                Some(at) => drop(after.swap_remove(at)),
                None => self.keys.released(bucket),
            }
        }
    }

    /// Forgets the final ones of an address in its plain form; the rows that go.
    pub(super) fn erase(&self, plain: &str, now: Timestamp) -> Vec<SideChange> {
        self.table.lock().erase(plain, now)
    }

    /// How a verification of this user stands.
    pub(crate) fn view(&self, user: &str, id: &str, limits: &Limits, now: Timestamp) -> Option<View> {
        let mut table = self.table.lock();
        let one = table.get_mut(id).filter(|one| *one.key.user == *user)?;
        Some(view(one, limits, now))
    }

    /// Whether there is, or was, a verification of this key.
    pub(crate) fn is_known(&self, key: &Key) -> bool {
        self.table.lock().latest(key).is_some()
    }

    /// Whose a verification is.
    pub(crate) fn key_of(&self, id: &str) -> Option<Key> {
        self.table.lock().get_mut(id).map(|one| one.key.clone())
    }

    /// Withdraws a verification of this user: whether anything of it may still arrive, if there is one.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn cancel(
        &self,
        user: &str,
        id: &str,
        queue: &Queue,
        clock: &dyn Clock,
    ) -> Result<Option<bool>, Refusal> {
        let Some(key) = self.key_of(id).filter(|key| *key.user == *user) else { return Ok(None) };
        let _turn = self.turn(&key).await;
        let (now, step) = (clock.now(), clock.step());
        let (before, after, messages, is_pending) = {
            let mut table = self.table.lock();
            let before = table.held(id);
            let Some(one) = table.get_mut(id) else { return Ok(None) };
            let is_pending = one.state(now) == State::Pending;
            if is_pending {
                one.end = Some((State::Cancelled, now));
            }
            let messages: Vec<MessageId> = one.sends.iter().filter_map(|send| send.message).collect();
            table.is_due(id);
            (before, table.held(id), messages, is_pending)
        };
        self.release(before, after);
        if is_pending {
            queue.store_side(vec![rows::cancelled(id, now, step)]).await?;
        }
        for message in messages {
            queue.cancel(&Filter::of_message(message), now);
        }
        let may_arrive = |one: &mut Verification| one.sends.iter().any(|send| !matches!(send.fate, Fate::Gone(_)));
        Ok(Some(self.table.lock().get_mut(id).is_some_and(may_arrive)))
    }

    /// Lets go what is over, and its keys. Goes on until it is dropped.
    pub(super) async fn run(&self, queue: &Queue, clock: &dyn Clock, span: impl Fn() -> Duration) {
        loop {
            let (now, step) = (clock.now(), clock.step());
            let (over, changes) = self.table.lock().let_go(span(), now);
            over.into_iter().for_each(|bucket| self.keys.released(bucket));
            if !changes.is_empty() {
                // What could not be removed is removed after the next start.
                let _ = queue.store_side(changes).await;
            }
            // As the keys of content: by the earlier of both times.
            let by = now.min(step.wall(now));
            if self.keys.due_at(by).is_some_and(|at| at <= by) {
                let keys = self.keys.clone();
                let _ = tokio::task::spawn_blocking(move || keys.housekeep(by)).await;
            }
            let next = self.table.lock().next_due().into_iter().map(|at| at.since(now));
            let next = next.chain(self.keys.due_at(by).map(|at| at.since(by))).min();
            let Some(next) = next else {
                self.changed.notified().await;
                continue;
            };
            let until = tokio::time::Instant::from_std(clock.instant() + next.max(PAUSE));
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

fn view(one: &Verification, limits: &Limits, now: Timestamp) -> View {
    View {
        id: one.id.clone(),
        purpose: one.key.purpose.clone(),
        state: one.state(now),
        expires_at: one.expires_at(),
        checks_left: one.checks_left(now),
        sends: one.sends.len(),
        resend_at: one.resend_at(limits),
        message: one.sends.iter().rev().find_map(|send| send.message),
        secrecy: if one.quiet { Secrecy::Quiet } else { Secrecy::Open },
    }
}

#[cfg(test)]
mod tests;
