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

use std::time::Duration;

use super::versioned::Versioned;
use crate::base::clock::Timestamp;
use crate::ledger::entry::Message;
use crate::ledger::read::Version;
use crate::ledger::suppression::{Standing, Suppression, keys};
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// How often a full list is looked through for what can be forgotten.
const SWEEP: Duration = Duration::from_secs(3600);
/// Addresses that are forgotten with one statement, at most.
const SWEPT_AT_ONCE: usize = 1000;

/// The list: by its address, or by `@` and the name of a whole domain.
#[derive(Clone, Debug, Default)]
pub(in crate::ledger) struct Suppressions {
    rows: Versioned<Suppression>,
    swept_at: Timestamp,
}

impl Suppressions {
    pub(super) fn rows(&self) -> &Versioned<Suppression> {
        &self.rows
    }

    pub(in crate::ledger) fn get(&self, address: &str) -> Option<&Suppression> {
        self.rows.get(address.as_bytes())
    }

    pub(super) fn set(&mut self, address: &str, version: Version, entry: Option<Suppression>) {
        self.rows.set(address.as_bytes(), version, entry);
    }

    /// The rows under these keys by which nothing is sent, and until when.
    fn closed<'a>(
        &'a self,
        keys: &'a [String; 2],
        id: Option<MessageId>,
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a Suppression, Option<Timestamp>)> {
        keys.iter().filter_map(|key| self.get(key)).filter_map(move |row| match row.standing(now, id) {
            Standing::Open => None,
            Standing::Suppressed { until } => Some((row, until)),
        })
    }

    /// The row by which a recipient is not sent to, and how it stands by an entry of its own and one of its domain.
    pub(super) fn against(&self, mailbox: &Mailbox, now: Timestamp) -> (Option<Suppression>, Standing) {
        // Names need not be made where there are none.
        if self.rows.is_empty() {
            return (None, Standing::Open);
        }
        let keys = keys(mailbox);
        let closed: Vec<_> = self.closed(&keys, None, now).collect();
        // What stays outlasts what has an end.
        let longest = closed.iter().map(|(_, until)| *until).max_by_key(|until| (until.is_none(), *until));
        let standing = longest.map_or(Standing::Open, |until| Standing::Suppressed { until });
        (closed.first().map(|(row, until)| (*row).clone().until(*until)), standing)
    }

    /// Whether the message is a try, of which there is one at a time.
    ///
    /// # Errors
    /// The row by which one of its recipients is not sent to.
    pub(super) fn admit(&self, message: &Message, now: Timestamp) -> Result<bool, Box<Suppression>> {
        let mut is_try = false;
        if self.rows.is_empty() {
            return Ok(is_try);
        }
        for recipient in &message.envelope.recipients {
            let keys = keys(&recipient.mailbox);
            if let Some((row, until)) = self.closed(&keys, Some(message.id), now).next() {
                return Err(Box::new(row.clone().until(until)));
            }
            is_try |= keys.iter().any(|key| self.get(key).is_some());
        }
        Ok(is_try)
    }

    /// Others to its recipients wait for this message.
    pub(super) fn try_with(&mut self, message: &Message, now: Timestamp) {
        for key in message.envelope.recipients.iter().flat_map(|recipient| keys(&recipient.mailbox)) {
            if let Some(row) = self.rows.get_mut(key.as_bytes()) {
                row.try_with(message.id, now);
            }
        }
    }

    /// Some addresses of a full list that were not confirmed for long. The list is looked through with each call until none is
    /// left, then once an hour.
    pub(super) fn take_faded(&mut self, most: usize, now: Timestamp) -> Vec<String> {
        if self.rows.len() < most || now.since(self.swept_at) < SWEEP {
            return Vec::new();
        }
        let faded = self.rows.iter().filter(|(_, entry)| entry.is_faded(now));
        let faded: Vec<String> = faded.map(|(_, entry)| entry.address.clone()).take(SWEPT_AT_ONCE).collect();
        if faded.len() < SWEPT_AT_ONCE {
            self.swept_at = now;
        }
        faded
    }

    /// They do not any more.
    pub(super) fn end_try(&mut self, mailbox: &Mailbox, id: MessageId) {
        if self.rows.is_empty() {
            return;
        }
        for key in keys(mailbox) {
            if let Some(row) = self.rows.get_mut(key.as_bytes()) {
                row.end_try(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
