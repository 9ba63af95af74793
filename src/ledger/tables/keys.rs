//! By what repeats are known: names of messages that were accepted lately, each for its time.
//!
//! Under a name that an app gave, the digest says what the message was; other names say it themselves. Of each of these there
//! is a bound of its own.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::ledger::IDEMPOTENCY_AHEAD_MAX;
use crate::ledger::accept::{Digest, Idempotency, KeyHash, Repeated};
use crate::mail::id::MessageId;

/// Names of apps remembered at most; beyond that the oldest go.
const KEYS_MAX: usize = 500_000;
/// Names of contents remembered at most; beyond that those go that count no more the soonest.
const CONTENTS_MAX: usize = 500_000;
/// Names that are forgotten at once because they count no more, where nothing else happens.
const SWEPT_AT_ONCE: usize = 64;

/// A message that was accepted under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct KeyRow {
    pub(in crate::ledger) message: MessageId,
    pub(in crate::ledger) at: Timestamp,
    /// When it may be forgotten.
    pub(in crate::ledger) until: Timestamp,
    /// What it was; none: the name says so.
    pub(in crate::ledger) digest: Option<Digest>,
}

impl KeyRow {
    /// Whether it was accepted less than `span` ago; what a clock took that was ahead was not.
    fn is_within(&self, span: Duration, now: Timestamp) -> bool {
        now.since(self.at) < span && self.at <= now.plus(IDEMPOTENCY_AHEAD_MAX)
    }

    fn compared_with(&self, digest: Option<&Digest>) -> Repeated {
        match (&self.digest, digest) {
            (Some(known), Some(asked)) if known.day != asked.day => {
                Repeated::OtherDay { day: known.day, message: self.message }
            }
            (Some(known), Some(asked)) if known.octets != asked.octets => Repeated::Other,
            (Some(_) | None, Some(_) | None) => Repeated::Same(self.message),
        }
    }
}

/// Names of one sort.
#[derive(Clone, Debug)]
struct Names {
    rows: HashMap<KeyHash, KeyRow>,
    /// The first is forgotten first.
    order: BTreeSet<(Timestamp, KeyHash)>,
    names_max: usize,
}

impl Names {
    fn bounded(names_max: usize) -> Self {
        Self { rows: HashMap::new(), order: BTreeSet::new(), names_max }
    }

    fn remove(&mut self, name: &KeyHash) -> Option<KeyRow> {
        let row = self.rows.remove(name)?;
        self.order.remove(&(row.until, *name));
        Some(row)
    }

    fn insert(&mut self, name: KeyHash, row: KeyRow) {
        self.remove(&name);
        self.order.insert((row.until, name));
        self.rows.insert(name, row);
    }

    /// Forgets what is over, so many at most, and the first of them where there is no room for one more; says which.
    fn make_room(&mut self, most: usize, now: Timestamp) -> Vec<KeyHash> {
        let mut gone = Vec::new();
        while let Some((until, name)) = self.order.first().copied() {
            let is_over = until <= now && gone.len() < most;
            if !is_over && self.order.len() < self.names_max {
                break;
            }
            self.remove(&name);
            gone.push(name);
        }
        gone
    }
}

/// What was accepted lately, of all users.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct Keys {
    by_key: Names,
    by_content: Names,
}

impl Default for Keys {
    fn default() -> Self {
        Self::bounded(KEYS_MAX, CONTENTS_MAX)
    }
}

impl Keys {
    fn bounded(keys_max: usize, contents_max: usize) -> Self {
        Self { by_key: Names::bounded(keys_max), by_content: Names::bounded(contents_max) }
    }

    fn of(&mut self, digest: Option<&Digest>) -> &mut Names {
        if digest.is_some() { &mut self.by_key } else { &mut self.by_content }
    }

    /// What is stored of a name.
    pub(in crate::ledger) fn row(&self, name: &KeyHash) -> Option<&KeyRow> {
        self.by_key.rows.get(name).or_else(|| self.by_content.rows.get(name))
    }

    /// What was accepted under one of the names of this message less than its span ago, and how it compares.
    pub(in crate::ledger) fn find(&self, asked: &Idempotency, now: Timestamp) -> Option<Repeated> {
        let names = if asked.digest.is_some() { &self.by_key } else { &self.by_content };
        let mut rows = std::iter::once(&asked.key).chain(&asked.also).filter_map(|name| names.rows.get(name));
        let row = rows.find(|row| row.is_within(asked.span, now))?;
        Some(row.compared_with(asked.digest.as_ref()))
    }

    /// A message takes its name. Says which rows change by that.
    pub(in crate::ledger) fn take(&mut self, asked: &Idempotency, message: MessageId, now: Timestamp) -> Vec<KeyHash> {
        let Idempotency { key, digest, span, .. } = asked;
        let names = self.of(digest.as_ref());
        names.remove(key);
        let mut changed = names.make_room(usize::MAX, now);
        names.insert(*key, KeyRow { message, at: now, until: now.plus(*span), digest: *digest });
        changed.push(*key);
        changed
    }

    /// A message gives its name back; says whether it had it.
    pub(in crate::ledger) fn give_back(&mut self, name: KeyHash, message: MessageId) -> bool {
        if self.row(&name).is_none_or(|row| row.message != message) {
            return false;
        }
        self.by_key.remove(&name).or_else(|| self.by_content.remove(&name)).is_some()
    }

    /// The names of a message. Looks through all.
    pub(in crate::ledger) fn of_message(&self, message: MessageId) -> Vec<KeyHash> {
        let rows = self.by_key.rows.iter().chain(&self.by_content.rows);
        rows.filter(|(_, row)| row.message == message).map(|(name, _)| *name).collect()
    }

    /// Forgets some of what counts no more; says whose rows go.
    pub(in crate::ledger) fn sweep(&mut self, now: Timestamp) -> Vec<KeyHash> {
        let mut over = Vec::new();
        for names in [&mut self.by_key, &mut self.by_content] {
            while over.len() < SWEPT_AT_ONCE
                && let Some((_, name)) = names.order.first().copied().filter(|(until, _)| *until <= now)
            {
                names.remove(&name);
                over.push(name);
            }
        }
        over
    }

    /// Takes up a row found at a start, but for what cannot have been accepted yet; says whether it did.
    pub(in crate::ledger) fn take_up(&mut self, name: KeyHash, row: KeyRow, now: Timestamp) -> bool {
        let is_taken = row.at <= now.plus(IDEMPOTENCY_AHEAD_MAX);
        if is_taken {
            self.of(row.digest.as_ref()).insert(name, row);
        }
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(30);

    fn at(at_s: u64) -> Timestamp {
        Timestamp::from_millis(at_s * 1000)
    }

    fn message(number: u8) -> MessageId {
        MessageId::from_bytes([number; 16])
    }

    fn content(number: u8) -> Idempotency {
        Idempotency { key: KeyHash([number; 16]), digest: None, span: SPAN, also: Vec::new() }
    }

    fn key(number: u8, day: u64, octet: u8) -> Idempotency {
        Idempotency { digest: Some(Digest { day, octets: [octet; 32] }), ..content(number) }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        for keyed in [false, true] {
            let mut keys = Keys::bounded(3, 3);
            let mut rows = BTreeSet::new();
            let asked = |number| if keyed { key(number, 1, 1) } else { content(number) };
            for number in 0..10_u8 {
                for name in keys.take(&asked(number), message(number), at(5)) {
                    if keys.row(&name).is_some() {
                        rows.insert(name)
                    } else {
                        rows.remove(&name)
                    };
                }
                let count = usize::from(number + 1).min(3);
                let known = [&keys.by_key, &keys.by_content].map(|names| names.rows.len().max(names.order.len()));
                assert_eq!((known.iter().sum::<usize>(), rows.len()), (count, count));
            }
            assert_eq!(keys.find(&asked(9), at(5)), Some(Repeated::Same(message(9))), "the oldest went");
            let changed = keys.take(&asked(99), message(99), at(35));
            let known = keys.by_key.rows.len() + keys.by_content.rows.len();
            assert_eq!((changed.len(), known), (4, 1), "what is over goes with the next");
        }
    }

    #[test]
    fn names_of_apps_and_of_contents_have_bounds_of_their_own() {
        let mut keys = Keys::bounded(1, 1);
        keys.take(&key(1, 1, 1), message(1), at(0));
        keys.take(&content(2), message(2), at(0));
        assert_eq!(keys.find(&key(1, 1, 1), at(1)), Some(Repeated::Same(message(1))));
        assert_eq!(keys.find(&content(2), at(1)), Some(Repeated::Same(message(2))));
        keys.take(&key(3, 1, 1), message(3), at(1));
        assert_eq!((keys.find(&key(1, 1, 1), at(1)), keys.find(&content(2), at(1)).is_some()), (None, true));
    }

    #[test]
    fn a_digest_says_what_it_was_under_the_secret_of_its_day() {
        let mut keys = Keys::default();
        keys.take(&key(1, 7, 1), message(1), at(0));
        assert_eq!(keys.find(&key(1, 7, 1), at(29)), Some(Repeated::Same(message(1))));
        assert_eq!(keys.find(&key(1, 7, 2), at(29)), Some(Repeated::Other));
        let of_another_day = Repeated::OtherDay { day: 7, message: message(1) };
        assert_eq!(keys.find(&key(1, 8, 1), at(29)), Some(of_another_day));
        assert_eq!(keys.find(&key(1, 7, 1), at(30)), None);
        assert_eq!(keys.find(&key(2, 7, 1), at(29)), None);
    }

    #[test]
    fn a_content_is_known_by_names_of_other_days() {
        let mut keys = Keys::default();
        keys.take(&content(1), message(1), at(0));
        let after_midnight = Idempotency { also: vec![KeyHash([9; 16]), KeyHash([1; 16])], ..content(2) };
        assert_eq!(keys.find(&after_midnight, at(29)), Some(Repeated::Same(message(1))));
        assert_eq!(keys.find(&after_midnight, at(30)), None, "the window is over");
        let longer = Idempotency { span: 2 * SPAN, ..after_midnight };
        assert_eq!(keys.find(&longer, at(59)), Some(Repeated::Same(message(1))), "it is that of who asks");
    }

    #[test]
    fn what_a_clock_took_that_was_ahead_is_not_remembered_for_days() {
        let week = 7 * 86_400;
        let asked = Idempotency { span: Duration::from_secs(86_400), ..key(1, 7, 1) };
        let mut keys = Keys::default();
        keys.take(&asked, message(1), at(week));
        assert_eq!(keys.find(&asked, at(week - 3600)), Some(Repeated::Same(message(1))), "set back a little");
        assert_eq!(keys.find(&asked, at(week - 3601)), None);
        let row = *keys.row(&asked.key).unwrap();
        assert!(!Keys::default().take_up(asked.key, row, at(week - 3601)), "over a restart");
        let mut again = Keys::default();
        assert!(again.take_up(asked.key, row, at(week - 3600)));
        assert_eq!(again.find(&asked, at(week)), Some(Repeated::Same(message(1))));
    }

    #[test]
    fn a_name_is_given_back_by_its_message_only() {
        let mut keys = Keys::default();
        for asked in [key(1, 7, 1), content(2)] {
            keys.take(&asked, message(1), at(0));
            assert!(!keys.give_back(asked.key, message(2)));
            assert_eq!(keys.of_message(message(1)), [asked.key]);
            assert!(keys.give_back(asked.key, message(1)) && !keys.give_back(asked.key, message(1)));
            assert_eq!(keys.find(&asked, at(1)), None);
        }
        assert!(keys.by_key.order.is_empty() && keys.by_content.order.is_empty());
    }

    #[test]
    fn what_is_over_goes_a_few_at_a_time() {
        let mut keys = Keys::default();
        for number in 0..100 {
            keys.take(&content(number), message(number), at(0));
        }
        assert_eq!(keys.sweep(at(29)), []);
        assert_eq!((keys.sweep(at(30)).len(), keys.sweep(at(30)).len()), (SWEPT_AT_ONCE, 100 - SWEPT_AT_ONCE));
    }
}
