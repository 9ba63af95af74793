//! The places taken in budgets, by mailbox: sliding windows of one user and of all together, with a bound on the mailboxes.
//!
//! A mailbox is one row with the places of all users, each under its user's name in this mailbox. How much may go there,
//! whoever asks says; all who ask go by the same limits, but for a moment when these change.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::ledger::accept::{Ahead, BudgetAsk, BudgetLimit, KeyHash, NoRoom};
use crate::mail::id::{EntryId, MessageId};

/// Mailboxes counted at most; beyond that, the oldest that has room left goes.
const MAILBOXES_MAX: usize = 500_000;
/// Mailboxes of each force that are forgotten at once because their places count no more.
const SWEPT_AT_ONCE: usize = 64;

/// A place taken in a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Place {
    pub(in crate::ledger) at: Timestamp,
    /// Which user's.
    pub(in crate::ledger) whose: KeyHash,
    pub(in crate::ledger) entry: EntryId,
    /// It may be asked for again under the same idempotency key, which does not count.
    pub(in crate::ledger) is_repeatable: bool,
}

/// Whether a mailbox still has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Force {
    /// Nobody is refused on its account: it may be forgotten.
    Idle,
    /// Somebody is.
    InForce,
}

/// What went to one mailbox, the oldest first.
#[derive(Clone, Debug, Default)]
struct Account {
    places: Vec<Place>,
    /// How long they count, as was last said.
    span: Duration,
    /// Its place in the order in which mailboxes are forgotten.
    rank: Option<(Force, Timestamp)>,
}

/// What went to whom lately.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct Budgets {
    accounts: HashMap<KeyHash, Account>,
    /// The first is forgotten first.
    order: BTreeSet<(Force, Timestamp, KeyHash)>,
    mailboxes_max: usize,
    /// How long places count, as was last said.
    longest: Duration,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::bounded(MAILBOXES_MAX)
    }
}

/// The places that are not older than this.
fn within(places: &[Place], span: Duration, now: Timestamp) -> impl Iterator<Item = &Place> {
    places.iter().filter(move |place| now.since(place.at) < span)
}

fn as_count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Budgets {
    fn bounded(mailboxes_max: usize) -> Self {
        Self { accounts: HashMap::new(), order: BTreeSet::new(), mailboxes_max, longest: Duration::ZERO }
    }

    /// What went to a mailbox, the oldest first.
    fn of(&self, key: &KeyHash) -> &[Place] {
        self.accounts.get(key).map_or(&[], |account| &account.places)
    }

    /// The places in a mailbox and how long they count, for its row; none: it has no row.
    pub(in crate::ledger) fn row(&self, key: &KeyHash) -> Option<(Duration, &[Place])> {
        self.accounts.get(key).map(|account| (account.span, &*account.places))
    }

    /// # Errors
    /// Where the message would be one too many. Those that are ahead and have their places here count once.
    pub(in crate::ledger) fn room(&self, ask: &BudgetAsk, ahead: &[Ahead], now: Timestamp) -> Result<(), NoRoom> {
        let taken = self.of(&ask.key);
        let is_taken = |message| taken.iter().any(|place| place.entry.message == message);
        let ahead = ahead.iter().filter(|one| one.key == ask.key && !is_taken(one.message));
        let (mut own_ahead, mut all_ahead) = (0, 0);
        for one in ahead {
            all_ahead += as_count(one.count);
            own_ahead += if one.whose == ask.whose { as_count(one.count) } else { 0 };
        }
        let is_own = |place: &&Place| place.whose == ask.whose;
        let wanted = ask.entries.len();
        if let Some(BudgetLimit { count, most, span }) = ask.own {
            let own = within(taken, span, now).filter(is_own).count() + own_ahead;
            let too_many = (own + wanted).saturating_sub(as_count(most));
            if let Some(before_last) = too_many.checked_sub(1) {
                let last_to_go = within(taken, span, now).filter(is_own).nth(before_last);
                let again_at = last_to_go.map_or(now, |place| place.at).plus(span);
                return Err(NoRoom::Own { count, span, again_at });
            }
        }
        if let Some(BudgetLimit { most, span, .. }) = ask.total {
            let before = wanted.saturating_sub(1);
            let own = within(taken, span, now).filter(is_own).count() + own_ahead + before;
            let all = within(taken, span, now).count() + all_ahead + before;
            if own >= as_count(ask.own_min) && all >= as_count(most) {
                return Err(NoRoom::Total);
            }
        }
        Ok(())
    }

    /// Whether what was sent to this mailbox may be asked for again under its idempotency key.
    pub(in crate::ledger) fn may_repeat(&self, ask: &BudgetAsk, now: Timestamp) -> bool {
        within(self.of(&ask.key), ask.longest(), now).any(|place| place.is_repeatable && place.whose == ask.whose)
    }

    /// Takes the places; where there are too many mailboxes, the one that can best be spared is forgotten. Says which rows
    /// change by that.
    pub(in crate::ledger) fn take(&mut self, ask: &BudgetAsk, message: MessageId, now: Timestamp) -> Vec<KeyHash> {
        self.longest = ask.longest();
        let mut changed = self.sweep(now);
        while !self.accounts.contains_key(&ask.key) && self.accounts.len() >= self.mailboxes_max {
            let Some((_, _, forgotten)) = self.order.pop_first() else { break };
            self.accounts.remove(&forgotten);
            changed.push(forgotten);
        }
        let account = self.accounts.entry(ask.key).or_default();
        account.span = self.longest;
        account.places.retain(|place| now.since(place.at) < self.longest);
        let entries = ask.entries.iter().map(|index| EntryId { message, index: *index });
        let place = |entry| Place { at: now, whose: ask.whose, entry, is_repeatable: ask.is_repeatable };
        // Most mailboxes have one place.
        account.places.reserve_exact(ask.entries.len());
        account.places.extend(entries.map(place));
        let is_used_up = are_used_up(&account.places, ask, now);
        self.file(ask.key, if is_used_up { Force::InForce } else { Force::Idle });
        changed.push(ask.key);
        changed
    }

    /// Gives an entry's place back; says whether it had one.
    pub(in crate::ledger) fn give_back(&mut self, key: KeyHash, entry: EntryId) -> bool {
        self.give_back_those(key, |place| place.entry == entry)
    }

    /// Gives back all that a message has in a mailbox; says whether it had something.
    pub(in crate::ledger) fn give_back_of(&mut self, key: KeyHash, message: MessageId) -> bool {
        self.give_back_those(key, |place| place.entry.message == message)
    }

    fn give_back_those(&mut self, key: KeyHash, goes: impl Fn(&Place) -> bool) -> bool {
        let Some(account) = self.accounts.get_mut(&key) else { return false };
        let before = account.places.len();
        account.places.retain(|place| !goes(place));
        if account.places.len() == before {
            return false;
        }
        self.file(key, Force::Idle);
        true
    }

    /// The mailboxes in which a message has places. Looks through all.
    pub(in crate::ledger) fn of_message(&self, message: MessageId) -> Vec<KeyHash> {
        let has_place = |account: &Account| account.places.iter().any(|place| place.entry.message == message);
        self.accounts.iter().filter(|(_, account)| has_place(account)).map(|(key, _)| *key).collect()
    }

    /// Forgets some of what counts no more; says whose rows go.
    pub(in crate::ledger) fn sweep(&mut self, now: Timestamp) -> Vec<KeyHash> {
        let mut over = Vec::new();
        for force in [Force::Idle, Force::InForce] {
            for _ in 0..SWEPT_AT_ONCE {
                let first = self.order.range((force, Timestamp::default(), KeyHash::FIRST)..).next().copied();
                let is_over = |at| now.since(at) >= self.longest;
                let Some(rank @ (_, _, key)) = first.filter(|(of, at, _)| *of == force && is_over(*at)) else { break };
                self.order.remove(&rank);
                self.accounts.remove(&key);
                over.push(key);
            }
        }
        over
    }

    /// Takes up a row found at a start. What a clock took that was ahead counts as taken now.
    pub(in crate::ledger) fn take_up(&mut self, key: KeyHash, span: Duration, places: Vec<Place>, now: Timestamp) {
        self.longest = self.longest.max(span);
        let account = self.accounts.entry(key).or_default();
        account.span = account.span.max(span);
        account.places.reserve_exact(places.len());
        account.places.extend(places.into_iter().map(|place| Place { at: place.at.min(now), ..place }));
        account.places.sort_by_key(|place| place.at);
        self.file(key, Force::Idle);
    }

    /// Puts a mailbox in its place among those that are forgotten; one without places is so at once.
    fn file(&mut self, key: KeyHash, force: Force) {
        let Some(account) = self.accounts.get_mut(&key) else { return };
        if let Some((force, at)) = account.rank.take() {
            self.order.remove(&(force, at, key));
        }
        let Some(newest) = account.places.last() else {
            self.accounts.remove(&key);
            return;
        };
        account.rank = Some((force, newest.at));
        self.order.insert((force, newest.at, key));
    }
}

/// Whether a mailbox has had all that its user may send to it, or all users together.
fn are_used_up(taken: &[Place], ask: &BudgetAsk, now: Timestamp) -> bool {
    let is_full = |limit: Option<BudgetLimit>, of: &dyn Fn(&&Place) -> bool| {
        limit.is_some_and(|limit| within(taken, limit.span, now).filter(of).count() >= as_count(limit.count))
    };
    is_full(ask.own, &|place| place.whose == ask.whose) || is_full(ask.total, &|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(600);

    fn at(at_s: u64) -> Timestamp {
        Timestamp::from_millis(at_s * 1000)
    }

    fn hash(name: &str) -> KeyHash {
        KeyHash::of(b"secret", crate::ledger::accept::KeyOf::Budget, name.as_bytes())
    }

    fn message(number: u8) -> MessageId {
        MessageId::from_bytes([number; 16])
    }

    /// So many places in a mailbox of two, for this user.
    fn ask(user: &str, mailbox: &str, places: u16) -> BudgetAsk {
        let limit = |count| Some(BudgetLimit { count, most: count, span: SPAN });
        BudgetAsk {
            key: hash(mailbox),
            whose: hash(&format!("{user}\n{mailbox}")),
            entries: (0..places).collect(),
            own: limit(2),
            total: None,
            own_min: 2,
            is_repeatable: false,
        }
    }

    /// Takes a place where there is room.
    fn take(budgets: &mut Budgets, ask: &BudgetAsk, at_s: u64) -> Result<Vec<KeyHash>, NoRoom> {
        budgets.room(ask, &[], at(at_s))?;
        Ok(budgets.take(ask, message(7), at(at_s)))
    }

    /// Who names many recipients cannot make the relay forget whom it protects, nor stop counting.
    #[test]
    fn a_full_table_forgets_the_oldest_that_have_room() {
        let mut budgets = Budgets::bounded(100);
        // As on disk: what is changed has a row while it is there.
        let mut rows = BTreeSet::new();
        let mut store = |budgets: &Budgets, changed: Vec<KeyHash>| {
            for key in changed {
                if budgets.row(&key).is_some() {
                    rows.insert(key)
                } else {
                    rows.remove(&key)
                };
            }
            rows.len()
        };
        for at in [0, 1] {
            let changed = take(&mut budgets, &ask("shop", "victim", 1), at).unwrap();
            store(&budgets, changed);
        }
        for number in 0..1000 {
            let changed = take(&mut budgets, &ask("shop", &format!("a{number}"), 1), 2 + number / 10).unwrap();
            store(&budgets, changed);
        }
        assert!(take(&mut budgets, &ask("shop", "victim", 1), 200).is_err());
        assert_eq!(store(&budgets, Vec::new()), 100);
        // The latest are counted as ever.
        let changed = take(&mut budgets, &ask("shop", "a999", 1), 200).unwrap();
        store(&budgets, changed);
        assert!(take(&mut budgets, &ask("shop", "a999", 1), 200).is_err());
        // Where nobody has room left, the oldest goes all the same: the table has its bound.
        for number in 0..200 {
            let changed = take(&mut budgets, &ask("shop", &format!("b{number}"), 2), 300).unwrap();
            store(&budgets, changed);
        }
        assert_eq!((store(&budgets, Vec::new()), budgets.accounts.len(), budgets.order.len()), (100, 100, 100));
        assert!(budgets.of(&hash("victim")).is_empty());
    }

    #[test]
    fn who_is_counted_no_more_leaves_no_place() {
        let mut budgets = Budgets::bounded(100);
        take(&mut budgets, &ask("bank", "a", 1), 0).unwrap();
        for at in [500, 900, 1300, 1700] {
            take(&mut budgets, &ask("shop", "a", 1), at).unwrap();
        }
        let (span, places) = budgets.row(&hash("a")).unwrap();
        let places: Vec<_> = places.iter().map(|place| (place.whose, place.at)).collect();
        let shop = hash("shop\na");
        assert_eq!((span, places), (SPAN, vec![(shop, at(1300)), (shop, at(1700))]));
    }

    #[test]
    fn what_is_over_goes_a_few_at_a_time() {
        let mut budgets = Budgets::bounded(1000);
        for number in 0..200 {
            // Every second one is in force.
            take(&mut budgets, &ask("shop", &format!("a{number}"), 1 + number % 2), 0).unwrap();
        }
        assert_eq!(budgets.sweep(at(599)), []);
        let (most, rest) = (2 * SWEPT_AT_ONCE, 200 - 2 * SWEPT_AT_ONCE);
        assert_eq!((budgets.sweep(at(600)).len(), budgets.sweep(at(600)).len()), (most, rest));
        assert!(budgets.accounts.is_empty() && budgets.order.is_empty());
    }

    #[test]
    fn a_place_that_is_given_back_is_free_and_nobody_is_in_force() {
        let mut budgets = Budgets::bounded(100);
        take(&mut budgets, &ask("shop", "a", 2), 0).unwrap();
        assert!(take(&mut budgets, &ask("shop", "a", 1), 1).is_err());
        let entry = |index| EntryId { message: message(7), index };
        assert!(budgets.give_back(hash("a"), entry(1)) && !budgets.give_back(hash("a"), entry(1)));
        assert_eq!(budgets.order.first().unwrap().0, Force::Idle);
        take(&mut budgets, &ask("shop", "a", 1), 1).unwrap();
        assert_eq!(budgets.of_message(message(7)), [hash("a")]);
        assert!(budgets.give_back_of(hash("a"), message(7)) && budgets.row(&hash("a")).is_none());
        assert!(!budgets.give_back(hash("nobody"), entry(0)));
    }

    #[test]
    fn what_is_ahead_counts_for_its_user_and_for_all() {
        let mut budgets = Budgets::bounded(100);
        let limit = |count| Some(BudgetLimit { count, most: count, span: SPAN });
        let asked = |user: &str| BudgetAsk { own: limit(3), total: limit(4), ..ask(user, "a", 1) };
        let ahead = |number, user: &str, count| {
            let BudgetAsk { key, whose, .. } = asked(user);
            Ahead { key, whose, message: message(number), count }
        };
        assert_eq!(budgets.room(&asked("shop"), &[ahead(1, "shop", 2)], at(0)), Ok(()));
        let again_at = at(600);
        let own = NoRoom::Own { count: 3, span: SPAN, again_at };
        assert_eq!(budgets.room(&asked("shop"), &[ahead(1, "shop", 2), ahead(2, "shop", 1)], at(0)), Err(own));
        let others = [ahead(1, "shop", 2), ahead(2, "bank", 2)];
        assert_eq!(budgets.room(&asked("shop"), &others, at(0)), Err(NoRoom::Total));
        assert_eq!(budgets.room(&asked("game"), &others, at(0)), Ok(()), "its first two pass");
        let elsewhere = Ahead { key: hash("b"), ..ahead(1, "shop", 9) };
        assert_eq!(budgets.room(&asked("shop"), &[elsewhere], at(0)), Ok(()));
        // What has its place is ahead of nobody any more.
        budgets.take(&BudgetAsk { entries: vec![0, 1], ..asked("shop") }, message(1), at(0));
        assert_eq!(budgets.room(&asked("shop"), &[ahead(1, "shop", 2)], at(0)), Ok(()));
    }
}
