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
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::base::clock::{Step, Timestamp};
use crate::event::cause::Cause;
use crate::event::{Kind, Suppress};
use crate::ledger::embedded::store::{Change, Row, Table};
use crate::mail::address::{Mailbox, domain_key};
use crate::mail::id::MessageId;
use crate::queue::Ending;

const HOUR: Duration = Duration::from_secs(3600);
/// How long the first, the second and each further hard bounce counts.
const TERMS: [Duration; 3] = [HOUR, Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400)];
/// How long others wait for the message that is the try: whoever sent it may have given it a day.
const TRY_MAX: Duration = Duration::from_secs(600);
/// So many refusals that say nothing of the address for certain count as a hard bounce.
const SOFT_MAX: u32 = 3;
/// What was learned and has not been confirmed for so long is forgotten.
const MEMORY: Duration = Duration::from_secs(60 * 86_400);
/// Addresses kept at most; beyond that nothing more is learned.
const ADDRESSES_MAX: usize = 500_000;
/// How often a full list is looked through for what can be forgotten.
const SWEEP: Duration = HOUR;
/// Rows that are written down at once for a backup.
const ROWS_AT_ONCE: usize = 1000;
/// Version of the rows.
const VERSION: u8 = 2;
/// Longest reason.
const REASON_LEN_MAX: usize = 200;

/// Where a suppression comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From what mail hosts said; passes.
    Learned,
    /// Somebody put it here; stays.
    Manual,
    /// The recipient complained; stays.
    Complaint,
}

/// Whether an address is sent to: all that its sender may know of what others did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Open,
    /// It is not.
    Suppressed {
        /// Until when; none: it stays.
        until: Option<Timestamp>,
    },
}

/// Why an address is not sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// The address in lower case; for a whole domain, `@` and its name.
    pub address: String,
    /// Where it comes from.
    pub source: Source,
    /// In a few words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; none: it stays.
    pub until: Option<Timestamp>,
    /// Whose message bounced: to others it is not told what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    /// Hard bounces so far.
    #[serde(default)]
    bounces: u32,
    /// Refusals that may have been about the address, since the last hard bounce.
    #[serde(default)]
    soft: u32,
    /// The message that is the try.
    #[serde(skip)]
    trying: Option<Try>,
}

/// A message that is sent although its recipient was suppressed until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Try {
    id: MessageId,
    /// Until when others wait for it.
    ends: Timestamp,
}

impl Suppression {
    fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether it only counts what may come to a suppression.
    fn is_silent(&self) -> bool {
        self.source == Source::Learned && self.bounces == 0
    }

    /// What a clock wrote that was ahead holds for as long as it was meant to, from now on.
    fn taken_up(self, now: Timestamp) -> Self {
        let ahead = self.since.since(now);
        Self { since: self.since.minus(ahead), until: self.until.map(|until| until.minus(ahead)), ..self }
    }

    /// How the address stands for a message; what is the try itself does not wait for it.
    fn standing(&self, now: Timestamp, id: Option<MessageId>) -> Standing {
        let others = self.trying.filter(|trying| now < trying.ends && Some(trying.id) != id);
        match others {
            _ if self.is_silent() => Standing::Open,
            _ if self.holds(now) => Standing::Suppressed { until: self.until },
            Some(Try { ends, .. }) => Standing::Suppressed { until: Some(ends) },
            None => Standing::Open,
        }
    }

    /// What a user hears: what became of its own message; else, as over HTTP, until when.
    fn refusal(&self, until: Option<Timestamp>, user: &str) -> Refusal {
        let is_own = self.source == Source::Learned && self.user.as_deref() == Some(user);
        Refusal::Suppressed { bounced: is_own.then_some(self.since), until, address: self.address.clone() }
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
    leftovers: Vec<Change>,
}

impl Suppressions {
    /// Takes up the rows found at start, in the place of what is known. Domains that version 0.1 learned from a reply are
    /// dropped.
    pub(super) fn take_up(&self, rows: Vec<Row>, now: Timestamp) {
        let mut state = State::default();
        for (key, value) in rows {
            let Some(entry) = decode(&value) else { continue };
            if entry.source == Source::Learned && entry.address.starts_with('@') {
                state.leftovers.push(Change::Side(Table::Suppression, key, None));
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
            if let Some(entry) = state.entries.get_mut(key.as_str()).filter(|entry| !entry.is_silent()) {
                entry.trying = Some(Try { id, ends: now.plus(TRY_MAX) });
            }
        }
        Ok(())
    }

    /// Learns from the end of an entry; the changes are to be stored.
    pub(super) fn learn(&self, ending: &Ending, step: Step) -> Vec<Change> {
        let (mailbox, kind) = (ending.recipient(), ending.event.kind());
        let mut state = self.0.lock();
        let mut changes = std::mem::take(&mut state.leftovers);
        let entries = &mut state.entries;
        for key in keys(mailbox) {
            if let Some(entry) = entries.get_mut(key.as_str()) {
                entry.trying = entry.trying.filter(|trying| trying.id != ending.message.id);
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
                entry.trying = entry.trying.filter(|trying| trying.id != id);
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
    pub fn rows(&self) -> Vec<Row> {
        let keys: Vec<Box<str>> = self.0.lock().entries.keys().cloned().collect();
        let mut rows = Vec::with_capacity(keys.len());
        for some in keys.chunks(ROWS_AT_ONCE) {
            let state = self.0.lock();
            let known = some.iter().filter_map(|key| state.entries.get(key));
            rows.extend(known.map(|entry| (entry.address.as_bytes().into(), encode(entry))));
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
    pub(super) fn put(&self, address: &str, source: Source, reason: &str, now: Timestamp) -> (Suppression, Change) {
        let entry = Suppression {
            address: address.to_owned(),
            source,
            reason: reason.chars().filter(|c| !c.is_control()).take(REASON_LEN_MAX).collect(),
            since: now,
            until: None,
            user: None,
            bounces: 1,
            soft: 0,
            trying: None,
        };
        self.0.lock().entries.insert(address.into(), entry.clone());
        let change = row(address, Some(&entry));
        (entry, change)
    }

    /// Takes it off the list; the change is to be stored. None if it was not there.
    pub(super) fn remove(&self, address: &str) -> Option<Change> {
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

fn keys(mailbox: &Mailbox) -> [String; 2] {
    [mailbox.plain_key(), format!("@{}", mailbox.domain_key())]
}

/// Whether what a host says of the address it was sent is said of this mailbox: hosts may fold other spellings into one
/// that is somebody else's, and what routes is answered by rules about routes.
fn teaches(mailbox: &Mailbox) -> bool {
    mailbox.is_plain() && !mailbox.is_routed()
}

/// A refusal for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounce {
    /// It says that there is no such address.
    Hard,
    /// It may pass; several count as a hard one.
    Soft,
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
    fn bounced(&mut self, key: String, (ending, step): (&Ending, Step), bounce: Bounce) -> Option<Change> {
        let now = ending.now();
        self.make_room(now);
        if self.entries.len() >= ADDRESSES_MAX && !self.entries.contains_key(key.as_str()) {
            return None;
        }
        let entry = self.entries.entry(key.clone().into()).or_insert_with(|| Suppression {
            address: key.clone(),
            source: Source::Learned,
            reason: String::new(),
            since: now,
            until: Some(now),
            user: None,
            bounces: 0,
            soft: 0,
            trying: None,
        });
        // What was under way when it began to hold says nothing new, and what somebody put there stays.
        if entry.source != Source::Learned || (entry.bounces > 0 && entry.holds(now)) {
            return None;
        }
        if now.since(entry.since) >= MEMORY {
            (entry.bounces, entry.soft) = (0, 0);
        }
        entry.since = now;
        entry.soft += u32::from(bounce == Bounce::Soft);
        if bounce == Bounce::Hard || entry.soft >= SOFT_MAX {
            let term = TERMS[usize::try_from(entry.bounces).unwrap_or(usize::MAX).min(TERMS.len() - 1)];
            entry.bounces += 1;
            entry.soft = 0;
            entry.until = Some(now.plus(term));
            let said = ending.event.reply().unwrap_or("no reply");
            let cause = ending.event.cause().map(Cause::name);
            let reason = format!("{}: {said}", cause.unwrap_or("failed"));
            entry.user = Some(ending.message.user.as_ref().into());
            entry.reason = reason.chars().take(REASON_LEN_MAX).collect();
            let until = entry.until.map(|until| step.wall(until).rfc3339());
            tracing::info!(id = %ending.message.id, cause, until, bounces = entry.bounces, "recipient suppressed");
        }
        Some(row(&key, Some(entry)))
    }

    /// Forgets what was not confirmed for long, where the list is full.
    fn make_room(&mut self, now: Timestamp) {
        if self.entries.len() >= ADDRESSES_MAX && now.since(self.swept_at) >= SWEEP {
            self.swept_at = now;
            self.entries.retain(|_, entry| entry.source != Source::Learned || now.since(entry.since) < MEMORY);
        }
    }
}

/// Version 0.1 wrote the JSON alone, which begins with a brace.
fn decode(value: &[u8]) -> Option<Suppression> {
    let json = match value {
        [VERSION, json @ ..] => json,
        [b'{', ..] => value,
        _ => return None,
    };
    serde_json::from_slice(json).ok()
}

fn encode(entry: &Suppression) -> Box<[u8]> {
    let mut value = vec![VERSION];
    // It has no maps and nothing else that could fail.
    let _ = serde_json::to_writer(&mut value, entry);
    value.into()
}

/// Whether a stored row can be read.
pub(crate) fn reads(row: &Row) -> bool {
    decode(&row.1).is_some()
}

fn row(key: &str, entry: Option<&Suppression>) -> Change {
    let value = entry.map(encode);
    Change::Side(Table::Suppression, key.as_bytes().into(), value)
}

#[cfg(test)]
mod tests;
