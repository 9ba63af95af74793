//! Where the live entries of a recipient, a domain or a user are, without a look at all others.
//!
//! An address is kept as a number: half of it of the domain, half of the whole address, so that one tree serves for both.
//! Two addresses can have one number, so whoever finds an entry here compares what it says.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;

use super::filter::Filter;
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};

/// The first and the last entry there can be.
const FIRST: EntryId = EntryId { message: MessageId::from_bytes([0; 16]), index: 0 };
const LAST: EntryId = EntryId { message: MessageId::from_bytes([u8::MAX; 16]), index: u16::MAX };

/// The places of live entries.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_address: BTreeSet<(u64, EntryId)>,
    by_user: BTreeSet<(u64, MessageId)>,
    /// Nobody outside can tell which addresses share a number.
    numbers: RandomState,
}

/// A place in the index: where the next look goes on behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Among addresses.
    Address(u64, EntryId),
    /// Among messages, of one user or of all.
    Message(MessageId),
}

impl Index {
    pub(super) fn add_entry(&mut self, mailbox: &Mailbox, id: EntryId) {
        self.by_address.insert((self.address(&mailbox.plain_key()), id));
    }

    pub(super) fn remove_entry(&mut self, mailbox: &Mailbox, id: EntryId) {
        self.by_address.remove(&(self.address(&mailbox.plain_key()), id));
    }

    pub(super) fn add_message(&mut self, user: &str, id: MessageId) {
        self.by_user.insert((self.numbers.hash_one(user), id));
    }

    pub(super) fn remove_message(&mut self, user: &str, id: MessageId) {
        self.by_user.remove(&(self.numbers.hash_one(user), id));
    }

    /// Entries that a filter may cover, at most so many, where it names a recipient or a domain.
    pub(super) fn of_address(
        &self,
        filter: &Filter,
        behind: Option<Place>,
        most: usize,
    ) -> Option<Vec<(u64, EntryId)>> {
        let (first, last) = match (&filter.recipient, &filter.domain) {
            (Some(plain), _) => (self.address(plain), self.address(plain)),
            (None, Some(domain)) => (self.domain(domain), self.domain(domain) | u64::from(u32::MAX)),
            (None, None) => return None,
        };
        let from = match behind {
            Some(Place::Address(number, id)) => Bound::Excluded((number, id)),
            Some(Place::Message(_)) | None => Bound::Included((first, FIRST)),
        };
        Some(self.by_address.range((from, Bound::Included((last, LAST)))).take(most).copied().collect())
    }

    /// Live messages of a user, behind one of them, the oldest first.
    pub(super) fn of_user(&self, user: &str, behind: Bound<MessageId>) -> impl Iterator<Item = MessageId> {
        let number = self.numbers.hash_one(user);
        let from = match behind {
            Bound::Excluded(id) => Bound::Excluded((number, id)),
            Bound::Included(id) => Bound::Included((number, id)),
            Bound::Unbounded => Bound::Included((number, FIRST.message)),
        };
        self.by_user.range((from, Bound::Included((number, LAST.message)))).map(|(_, id)| *id)
    }

    /// Of an address in its plain form.
    fn address(&self, plain: &str) -> u64 {
        let domain = plain.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.domain(domain) | self.numbers.hash_one(plain) >> 32
    }

    fn domain(&self, domain: &str) -> u64 {
        self.numbers.hash_one(domain) & !u64::from(u32::MAX)
    }
}
