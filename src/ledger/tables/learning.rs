//! What ends teach of addresses, and what is found of that at a start.

use super::state::{State, Touched};
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::ledger::entry::Message;
use crate::ledger::suppression::{Bounce, Counted, Learned, Source, Suppression, keys, teaches};
use crate::mail::address::Mailbox;

/// Addresses kept at most; beyond that nothing more is learned.
const ADDRESSES_MAX: usize = 500_000;

impl State {
    /// A stored row. False: it counts no more, and is to go. Version 0.1 learned domains from replies.
    pub(in crate::ledger) fn take_up_suppression(&mut self, known: Suppression, now: Timestamp) -> bool {
        if known.source == Source::Learned && known.address.starts_with('@') {
            return false;
        }
        let (version, known) = (self.next_version(), known.taken_up(now));
        self.suppressions.set(&known.address.clone(), version, Some(known));
        true
    }

    fn change_suppression(&mut self, address: &str, entry: Option<Suppression>) {
        let version = self.next_version();
        self.suppressions.set(address, version, entry);
        self.touched.push(Touched::Suppression(address.into()));
    }

    /// Counts a refusal of this recipient, which said `reason`. Where the address is suppressed by that, says so.
    pub(super) fn count_bounce(
        &mut self,
        message: &Message,
        mailbox: &Mailbox,
        (bounce, cause, reason): (Bounce, Option<Cause>, &str),
        now: Timestamp,
    ) -> Option<Learned> {
        if !teaches(mailbox) {
            return None;
        }
        let key = mailbox.plain_key();
        let known = self.suppressions.get(&key).cloned();
        if known.is_none() && !self.has_room_for_suppression(ADDRESSES_MAX, now) {
            return None;
        }
        let mut entry = known.unwrap_or_else(|| Suppression::silent(&key, now));
        let learned = match entry.bounced(bounce, (&message.user, reason), now) {
            Counted::No => return None,
            Counted::Noted => None,
            Counted::Suppressed => {
                Some(Learned { id: message.id, cause, until: entry.until, bounces: entry.bounces() })
            }
        };
        self.change_suppression(&key, Some(entry));
        learned
    }

    /// A full list forgets what was not confirmed for long.
    pub(super) fn has_room_for_suppression(&mut self, most: usize, now: Timestamp) -> bool {
        for address in self.suppressions.take_faded(most, now) {
            self.change_suppression(&address, None);
        }
        self.suppressions.rows().len() < most
    }

    /// What was learned against a recipient is forgotten.
    pub(super) fn lift_suppression(&mut self, mailbox: &Mailbox) {
        if self.suppressions.rows().is_empty() {
            return;
        }
        for key in keys(mailbox) {
            if self.suppressions.get(&key).is_some_and(|known| known.source == Source::Learned) {
                self.change_suppression(&key, None);
            }
        }
    }
}
