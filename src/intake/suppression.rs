//! Addresses that are not sent to for a while: those whose mail hosts said that there is no such mailbox, those whose
//! owners complained, and those somebody put here.
//!
//! What is learned is forgotten soon at first, so that a directory that was down for an hour locks nobody out for long:
//! the first hard bounce counts for an hour, the next for a week, each further one for a month. After each, one message
//! passes as a try, for which others wait ten minutes at most; if it is delivered, all is forgotten.
//!
//! Whoever types addresses into an app's form chooses their spelling, and with it what a host answers. So an address is
//! learned only where what was sent is, octet for octet, its address form, and no host reads another address in it. A
//! domain is never learned: only people put one here.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::refusal::Refusal;
use crate::base::clock::{Step, Timestamp};
use crate::event::cause::Cause;
use crate::event::{Kind, Suppress};
use crate::ledger::side::{SideChange, SideRow, SideTable};
pub(crate) use crate::ledger::suppression::Standing;
use crate::ledger::suppression::{Bounce, Counted, keys, teaches};
pub use crate::ledger::suppression::{Source, Suppression};
use crate::mail::address::{Mailbox, domain_key};
use crate::mail::id::MessageId;
use crate::queue::Ending;

/// Addresses kept at most; beyond that nothing more is learned.
const ADDRESSES_MAX: usize = 500_000;
/// How often a full list is looked through for what can be forgotten.
const SWEEP: Duration = Duration::from_secs(3600);
/// Rows that are written down at once for a backup.
const ROWS_AT_ONCE: usize = 1000;

impl Suppression {
    /// What a user hears: what became of its own message; else, as over HTTP, until when.
    fn refusal(&self, until: Option<Timestamp>, user: &str) -> Refusal {
        Refusal::Suppressed { bounced: self.bounced_for(user), until, address: self.address.clone() }
    }
}

/// The list.
#[derive(Debug, Default)]
pub struct Suppressions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Box<str>, Suppression>,
    swept_at: Timestamp,
    /// Rows of an earlier version that count no more, to be removed with the next change.
    leftovers: Vec<SideChange>,
}

impl Suppressions {
    /// Takes up the rows found at start, in the place of what is known. Domains that version 0.1 learned from a reply are
    /// dropped.
    pub(super) fn take_up(&self, rows: Vec<SideRow>, now: Timestamp) {
        let mut state = State::default();
        for (key, value) in rows {
            let Some(entry) = Suppression::decode(&value) else { continue };
            if entry.source == Source::Learned && entry.address.starts_with('@') {
                state.leftovers.push(SideChange(SideTable::Suppression, key, None));
            } else {
                state.entries.insert(entry.address.clone().into(), entry.taken_up(now));
            }
        }
        *self.0.lock() = state;
    }

    /// Whether mail may go there; where a term is over, one message at a time may, as a try.
    pub(super) fn check(&self, mailbox: &Mailbox, user: &str, now: Timestamp) -> Result<(), Refusal> {
        self.0.lock().check(mailbox, (user, None), now)
    }

    /// As [`Suppressions::check`]; if it passes, this message is the try.
    pub(super) fn try_with(
        &self,
        mailbox: &Mailbox,
        (user, id): (&str, MessageId),
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let mut state = self.0.lock();
        state.check(mailbox, (user, Some(id)), now)?;
        for key in keys(mailbox) {
            if let Some(entry) = state.entries.get_mut(key.as_str()) {
                entry.try_with(id, now);
            }
        }
        Ok(())
    }

    /// Learns from the end of an entry; the changes are to be stored.
    pub(super) fn learn(&self, ending: &Ending, step: Step) -> Vec<SideChange> {
        let (mailbox, kind) = (ending.recipient(), ending.event.kind());
        let mut state = self.0.lock();
        let mut changes = std::mem::take(&mut state.leftovers);
        let entries = &mut state.entries;
        for key in keys(mailbox) {
            if let Some(entry) = entries.get_mut(key.as_str()) {
                entry.end_try(ending.message.id);
                if kind == Kind::Delivered && entry.source == Source::Learned {
                    entries.remove(key.as_str());
                    changes.push(row(&key, None));
                }
            }
        }
        let [address, _] = keys(mailbox);
        let learned = match ending.suppress {
            _ if kind != Kind::Failed || !teaches(mailbox) => None,
            Suppress::No => None,
            Suppress::Count => state.bounced(address, (ending, step), Bounce::Soft),
            Suppress::Address => state.bounced(address, (ending, step), Bounce::Hard),
        };
        changes.extend(learned);
        changes
    }

    /// Gives up a try that came to nothing.
    pub(super) fn release(&self, mailbox: &Mailbox, id: MessageId) {
        let entries = &mut self.0.lock().entries;
        for key in keys(mailbox) {
            if let Some(entry) = entries.get_mut(key.as_str()) {
                entry.end_try(id);
            }
        }
    }

    /// All that hold, the latest first, at most `limit`; and how many there are.
    pub fn list(&self, now: Timestamp, limit: usize) -> (Vec<Suppression>, usize) {
        let entries = &self.0.lock().entries;
        let mut held: Vec<Suppression> =
            entries.values().filter(|entry| !entry.is_silent() && entry.holds(now)).cloned().collect();
        let count = held.len();
        held.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.address.cmp(&b.address)));
        held.truncate(limit);
        (held, count)
    }

    /// All rows as they are stored, for a backup. The list is let go of again and again meanwhile: clients wait for it.
    pub(crate) fn rows(&self) -> Vec<SideRow> {
        let keys: Vec<Box<str>> = self.0.lock().entries.keys().cloned().collect();
        let mut rows = Vec::with_capacity(keys.len());
        for some in keys.chunks(ROWS_AT_ONCE) {
            let state = self.0.lock();
            let known = some.iter().filter_map(|key| state.entries.get(key));
            rows.extend(known.map(|entry| (entry.address.as_bytes().into(), entry.encode())));
        }
        rows
    }

    /// The suppression of exactly this address or `@domain`, if it holds.
    pub fn get(&self, address: &str, now: Timestamp) -> Option<Suppression> {
        let entries = &self.0.lock().entries;
        entries.get(address).filter(|entry| !entry.is_silent() && entry.holds(now)).cloned()
    }

    /// How an address stands, by an entry of its own or one of its domain.
    pub fn standing(&self, mailbox: &Mailbox, now: Timestamp) -> Standing {
        let entries = &self.0.lock().entries;
        let known = keys(mailbox).into_iter().filter_map(|key| entries.get(key.as_str()));
        let ends = known.filter_map(|entry| match entry.standing(now, None) {
            Standing::Open => None,
            Standing::Suppressed { until } => Some(until),
        });
        // What stays outlasts what has an end.
        let longest = ends.max_by_key(|until| (until.is_none(), *until));
        longest.map_or(Standing::Open, |until| Standing::Suppressed { until })
    }

    /// Puts an address or `@domain` on the list; the change is to be stored.
    pub(super) fn put(&self, address: &str, source: Source, reason: &str, now: Timestamp) -> (Suppression, SideChange) {
        let entry = Suppression::lasting(address, source, reason, now);
        self.0.lock().entries.insert(address.into(), entry.clone());
        let change = row(address, Some(&entry));
        (entry, change)
    }

    /// Takes it off the list; the change is to be stored. None if it was not there.
    pub(super) fn remove(&self, address: &str) -> Option<SideChange> {
        self.0.lock().entries.remove(address).map(|_| row(address, None))
    }
}

/// Reads an address, or a whole domain as `@example.com`, into the form in which it is kept.
pub fn suppression_key(text: &str) -> Option<String> {
    match text.trim().strip_prefix('@') {
        Some(domain) => domain_key(domain).map(|domain| format!("@{domain}")),
        None => Mailbox::parse(text.trim()).ok().map(|mailbox| mailbox.plain_key()),
    }
}

impl State {
    fn check(&self, mailbox: &Mailbox, who: (&str, Option<MessageId>), now: Timestamp) -> Result<(), Refusal> {
        let (user, id) = who;
        for key in keys(mailbox) {
            if let Some(entry) = self.entries.get(key.as_str())
                && let Standing::Suppressed { until } = entry.standing(now, id)
            {
                return Err(entry.refusal(until, user));
            }
        }
        Ok(())
    }

    /// Counts a refusal for this address.
    fn bounced(&mut self, key: String, (ending, step): (&Ending, Step), bounce: Bounce) -> Option<SideChange> {
        let now = ending.now();
        self.make_room(now);
        if self.entries.len() >= ADDRESSES_MAX && !self.entries.contains_key(key.as_str()) {
            return None;
        }
        let said = ending.event.reply().unwrap_or("no reply");
        let cause = ending.event.cause().map(Cause::name);
        let reason = format!("{}: {said}", cause.unwrap_or("failed"));
        let silent = || Suppression::silent(&key, now);
        let entry = self.entries.entry(key.clone().into()).or_insert_with(silent);
        match entry.bounced(bounce, (&ending.message.user, &reason), now) {
            Counted::No => return None,
            Counted::Noted => {}
            Counted::Suppressed => {
                let until = entry.until.map(|until| step.wall(until).rfc3339());
                tracing::info!(id = %ending.message.id, cause, until, bounces = entry.bounces(), "recipient suppressed");
            }
        }
        Some(row(&key, Some(entry)))
    }

    /// Forgets what was not confirmed for long, where the list is full.
    fn make_room(&mut self, now: Timestamp) {
        if self.entries.len() >= ADDRESSES_MAX && now.since(self.swept_at) >= SWEEP {
            self.swept_at = now;
            self.entries.retain(|_, entry| !entry.is_faded(now));
        }
    }
}

/// Whether a stored row can be read.
pub(crate) fn reads(row: &SideRow) -> bool {
    Suppression::decode(&row.1).is_some()
}

fn row(key: &str, entry: Option<&Suppression>) -> SideChange {
    let value = entry.map(Suppression::encode);
    SideChange(SideTable::Suppression, key.as_bytes().into(), value)
}

#[cfg(test)]
mod tests;
