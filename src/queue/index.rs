//! Where the live entries of a recipient, a domain or a user are, without a look at all others.
//!
//! An address is kept as a number: half of it of the domain, half of the whole address, so that one tree serves for both.
//! Two addresses can have one number, so whoever finds an entry here compares what it says. Numbers are as short as keeps that
//! rare, since each entry has one.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;
use std::sync::Arc;

use crate::ledger::filter::Filter;
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};

/// The first and the last entry there can be.
const FIRST: EntryId = EntryId { message: MessageId::from_bytes([0; 16]), index: 0 };
const LAST: EntryId = EntryId { message: MessageId::from_bytes([u8::MAX; 16]), index: u16::MAX };

/// The number of an address: three bytes of its domain, three of the whole. Bytes leave no gap before an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AddressNumber([u8; 6]);

/// The places of live entries.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_address: BTreeSet<(AddressNumber, EntryId)>,
    by_user: HashMap<Arc<str>, BTreeSet<MessageId>>,
    /// Nobody outside can tell which addresses share a number.
    numbers: RandomState,
}

/// A place in the index: where the next look goes on behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexCursor {
    /// Among addresses.
    Address(AddressNumber, EntryId),
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

    pub(super) fn add_message(&mut self, user: &Arc<str>, id: MessageId) {
        self.by_user.entry(user.clone()).or_default().insert(id);
    }

    pub(super) fn remove_message(&mut self, user: &str, id: MessageId) {
        let Some(messages) = self.by_user.get_mut(user) else { return };
        messages.remove(&id);
        if messages.is_empty() {
            self.by_user.remove(user);
        }
    }

    /// Entries that a filter may cover, at most so many, where it names a recipient or a domain.
    pub(super) fn of_address(
        &self,
        filter: &Filter,
        behind: Option<IndexCursor>,
        most: usize,
    ) -> Option<Vec<(AddressNumber, EntryId)>> {
        let (first, last) = match (&filter.recipient, &filter.domain) {
            (Some(plain), _) => (self.address(plain), self.address(plain)),
            (None, Some(domain)) => self.domain(domain),
            (None, None) => return None,
        };
        let from = match behind {
            Some(IndexCursor::Address(number, id)) => Bound::Excluded((number, id)),
            Some(IndexCursor::Message(_)) | None => Bound::Included((first, FIRST)),
        };
        Some(self.by_address.range((from, Bound::Included((last, LAST)))).take(most).copied().collect())
    }

    /// Live messages of a user, behind one of them, the oldest first.
    pub(super) fn of_user(&self, user: &str, behind: Bound<MessageId>) -> impl Iterator<Item = MessageId> {
        self.by_user.get(user).into_iter().flat_map(move |messages| messages.range((behind, Bound::Unbounded))).copied()
    }

    /// Of an address in its plain form.
    fn address(&self, plain: &str) -> AddressNumber {
        let domain = plain.rsplit_once('@').map_or("", |(_, domain)| domain);
        let ([a, b, c], [d, e, f]) = (self.three_bytes(domain), self.three_bytes(plain));
        AddressNumber([a, b, c, d, e, f])
    }

    /// The first and the last number that an address of the domain can have.
    fn domain(&self, domain: &str) -> (AddressNumber, AddressNumber) {
        let [a, b, c] = self.three_bytes(domain);
        let with = |rest| AddressNumber([a, b, c, rest, rest, rest]);
        (with(0), with(u8::MAX))
    }

    fn three_bytes(&self, text: &str) -> [u8; 3] {
        let [a, b, c, ..] = self.numbers.hash_one(text).to_be_bytes();
        [a, b, c]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each entry has one.
    #[test]
    fn places_are_small() {
        assert_eq!(size_of::<(AddressNumber, EntryId)>(), 24);
    }
}
