//! How many messages may go to one mailbox within a time, of one user and of all together, so that nobody's mailbox can be
//! flooded with codes through an app's login form, in whatever spelling of the address.
//!
//! The ledger counts and decides. Here is what it is asked, and which places messages of this node are about to ask for: of
//! several that are prepared together, none is refused because of another that came later.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::lane::Lane;
use crate::base::rate::Rate;
use crate::ledger::accept::{Ahead, BudgetAsk, BudgetLimit, KeyHash};
use crate::mail::address::Mailbox;
use crate::mail::budget_form::budget_form;
use crate::mail::id::MessageId;

/// So many of a user's messages to a mailbox the budget over all users never refuses.
const OWN_MIN: u32 = 2;

/// What may go to one mailbox; none: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of one user.
    pub own: Option<Rate>,
    /// Of all users together.
    pub total: Option<Rate>,
}

/// What places are taken for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) user: &'a str,
    pub(super) lane: Lane,
    pub(super) is_repeatable: bool,
}

impl Limits {
    /// The places that a message to these needs, with the hashes of their names; one ask a mailbox.
    pub(super) fn asks<'m>(
        &self,
        request: Request<'_>,
        recipients: impl IntoIterator<Item = &'m Mailbox>,
        hash: impl Fn(&[u8]) -> KeyHash,
    ) -> Vec<BudgetAsk> {
        if self.own.is_none() && self.total.is_none() {
            return Vec::new();
        }
        let Request { user, lane, is_repeatable } = request;
        let limit = |rate: Rate| {
            let most = rate.count.saturating_add(lane.rules().budget_bonus);
            BudgetLimit { count: rate.count, most, span: rate.span }
        };
        let mut asks: Vec<BudgetAsk> = Vec::new();
        for (index, recipient) in (0..).zip(recipients) {
            let form = budget_form(recipient);
            let key = hash(form.as_bytes());
            if let Some(ask) = asks.iter_mut().find(|ask| ask.key == key) {
                ask.entries.push(index);
                continue;
            }
            let (own, total) = (self.own.map(limit), self.total.map(limit));
            // No user's name has a line end, and no address.
            let whose = hash(format!("{user}\n{form}").as_bytes());
            asks.push(BudgetAsk { key, whose, entries: vec![index], own, total, own_min: OWN_MIN, is_repeatable });
        }
        asks
    }
}

/// Places that messages of this node are about to ask for.
#[derive(Debug, Default)]
pub(super) struct Expected(Mutex<HashMap<KeyHash, Vec<Ahead>>>);

impl Expected {
    /// Those in the mailboxes that are asked for.
    pub(super) fn ahead(&self, asks: &[BudgetAsk]) -> Vec<Ahead> {
        let expected = self.0.lock();
        asks.iter().filter_map(|ask| expected.get(&ask.key)).flatten().copied().collect()
    }

    /// Notes what a message is about to ask for, until what comes back is dropped; and says what was noted before.
    pub(super) fn expect(&self, message: MessageId, asks: &[BudgetAsk]) -> (Expectation<'_>, Vec<Ahead>) {
        let mut before = Vec::new();
        let keys = asks.iter().map(|ask| ask.key).collect();
        if !asks.is_empty() {
            let mut expected = self.0.lock();
            for ask in asks {
                let others = expected.entry(ask.key).or_default();
                before.extend_from_slice(others);
                let count = u32::try_from(ask.entries.len()).unwrap_or(u32::MAX);
                others.push(Ahead { key: ask.key, whose: ask.whose, message, count });
            }
        }
        (Expectation { expected: self, message, keys }, before)
    }
}

/// What a message is about to ask for. It counts until this is dropped; from the ledger's decision on it counts once, there.
#[derive(Debug)]
pub(super) struct Expectation<'a> {
    expected: &'a Expected,
    message: MessageId,
    keys: Vec<KeyHash>,
}

impl<'a> Expectation<'a> {
    /// Nothing.
    pub(super) fn none(expected: &'a Expected, message: MessageId) -> Self {
        Self { expected, message, keys: Vec::new() }
    }
}

impl Drop for Expectation<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut expected = self.expected.0.lock();
        for key in &self.keys {
            let Some(others) = expected.get_mut(key) else { continue };
            others.retain(|one| one.message != self.message);
            if others.is_empty() {
                expected.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::clock::{Clock, ManualClock, Timestamp};
    use crate::event::{Attempted, Event, Happened, Kind};
    use crate::intake::refusal::Refusal;
    use crate::ledger::Ledger as _;
    use crate::ledger::accept::{KeyOf, NewMessage, Precheck, Refused};
    use crate::ledger::attempt::{Attempt, End, Settled, Side};
    use crate::ledger::embedded::node::{Node, Storage};
    use crate::ledger::embedded::store::memory::MemoryStore;
    use crate::ledger::embedded::store::{Change, Store as _, Table};
    use crate::ledger::entry::Message;
    use crate::ledger::filter::Filter;
    use crate::ledger::outbox::Outbox as _;
    use crate::ledger::read::Page;
    use crate::ledger::rules::Delivery;
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::{EntryId, IdSource};
    use crate::mail::message::Content;

    const SPAN: Duration = Duration::from_secs(600);

    fn at(at_s: u64) -> Timestamp {
        Timestamp::from_millis(at_s * 1000)
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    /// What the door asks, and one node's ledger that answers.
    struct World {
        limits: Limits,
        disk: MemoryStore,
        clock: Arc<ManualClock>,
        node: Arc<Node>,
        expected: Expected,
        ids: IdSource,
    }

    impl World {
        fn new() -> Self {
            Self::with(2, None)
        }

        fn with(own: u32, total: Option<u32>) -> Self {
            Self::on(MemoryStore::default(), own, total, 0)
        }

        /// On what is stored, from this time on.
        fn on(disk: MemoryStore, own: u32, total: Option<u32>, at_s: u64) -> Self {
            let rate = |count| Rate { count, span: SPAN };
            let limits = Limits { own: Some(rate(own)), total: total.map(rate) };
            let clock = Arc::new(ManualClock::new(at(at_s)));
            let store = Box::new(disk.clone());
            let node = Node::alone(store, Storage::Inline, clock.clone(), Delivery::AtLeastOnce).unwrap();
            Self { limits, disk, clock, node, expected: Expected::default(), ids: IdSource::new() }
        }

        /// On what a crash now would leave.
        async fn again(&self, own: u32, total: Option<u32>, at_s: u64) -> Self {
            self.node.flush().await.unwrap();
            Self::on(self.disk.image(), own, total, at_s)
        }

        /// Says so at this time.
        fn go_to(&self, at_s: u64) -> Timestamp {
            self.clock.advance(at(at_s).since(self.clock.now()));
            assert_eq!(self.clock.now(), at(at_s), "times only grow");
            at(at_s)
        }

        fn asks(&self, (user, lane): (&str, Lane), recipients: &[Mailbox]) -> Vec<BudgetAsk> {
            let request = Request { user, lane, is_repeatable: lane == Lane::Notice };
            self.limits.asks(request, recipients, |name| self.node.key_hash(KeyOf::Budget, name))
        }

        async fn take(&self, lane: Lane, recipients: &[&str], at_s: u64) -> Result<EntryId, Refusal> {
            self.take_as("shop", lane, recipients, at_s).await
        }

        async fn take_as(&self, user: &str, lane: Lane, to: &[&str], at_s: u64) -> Result<EntryId, Refusal> {
            let now = self.go_to(at_s);
            let recipients: Vec<Mailbox> = to.iter().map(|text| mailbox(text)).collect();
            let envelope = Envelope {
                reverse_path: ReversePath::NULL,
                parameters: MailParameters::default(),
                recipients: recipients.iter().cloned().map(Recipient::new).collect(),
            };
            let life = now..now.plus(Duration::from_secs(60));
            let message = Arc::new(Message::new(self.ids.next(now), user.into(), envelope, life));
            let what = Happened::Accepted { note: None, others: Arc::default() };
            let event = Event { head: message.head(now), what };
            let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
            let entry = EntryId { message: message.id, index: 0 };
            let budgets = self.asks((user, lane), &recipients);
            let new = NewMessage { budgets, ..NewMessage::plain(message, content, event) };
            match self.node.accept(new).await {
                Ok(_) => Ok(entry),
                Err(Refused::Budget(why)) => Err(Refusal::over_budget(why, now)),
                Err(other) => panic!("{other:?}"),
            }
        }

        /// As at RCPT.
        async fn check(&self, recipient: &str, at_s: u64) -> Result<(), Refusal> {
            let (now, recipient) = (self.go_to(at_s), mailbox(recipient));
            let budgets = self.asks(("shop", Lane::Otp.with_most_budget()), std::slice::from_ref(&recipient));
            let ahead = self.expected.ahead(&budgets);
            let ask = Precheck { sender: "".into(), recipient, budgets, ahead };
            match self.node.precheck(ask).await.unwrap().budget {
                Some(over) if !over.may_repeat => Err(Refusal::over_budget(over.why, now)),
                Some(_) | None => Ok(()),
            }
        }

        /// An entry ends that was not sent.
        async fn give_back(&self, entry: EntryId, form: &str) {
            let found = self.node.find(Filter::of_message(entry.message), Page { after: None, most: 1 }).await;
            let head = found.unwrap().messages[0].message.entry_head(entry.index, 0, self.clock.now());
            let event = Event { head, what: Happened::Failed(Attempted::default()) };
            let side = vec![Side::GivesBack(self.node.key_hash(KeyOf::Budget, form.as_bytes()))];
            let end = End { kind: Kind::Failed, left: None };
            let settled = Settled::End { end, events: vec![event], side, notification: None };
            self.node.settle(Attempt { entry, number: 0 }, settled).await.unwrap();
        }

        /// Of which mailboxes there are rows, as a crash now would leave them.
        async fn stored(&self) -> Vec<KeyHash> {
            self.node.flush().await.unwrap();
            let rows = self.disk.rows().into_iter();
            let ours = rows.filter_map(|(table, key)| match table {
                Table::Ledger if key[0] == b'b' => Some(KeyHash(key[1..].try_into().unwrap())),
                Table::Budget => panic!("a row of a former version: {key:?}"),
                Table::Ledger
                | Table::Idempotency
                | Table::Greylist
                | Table::Suppression
                | Table::Meta
                | Table::Verification => None,
            });
            ours.collect()
        }

        fn hash(&self, form: &str) -> KeyHash {
            self.node.key_hash(KeyOf::Budget, form.as_bytes())
        }
    }

    fn wait(result: Result<impl Sized, Refusal>) -> Option<u64> {
        result.err().and_then(|refusal| refusal.retry_after()).map(|wait| wait.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_slides() {
        let world = World::new();
        for (at, expected) in [(0, None), (100, None), (200, Some(400)), (599, Some(1)), (600, None), (601, Some(99))] {
            assert_eq!(wait(world.take(Lane::Otp, &["a@example.com"], at).await), expected, "at {at} s");
        }
        assert_eq!(wait(world.take(Lane::Otp, &["b@example.com"], 601).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_has_one_place_more_and_rcpt_refuses_only_what_could_not_pass() {
        let world = World::new();
        world.take(Lane::Otp, &["a@example.com"], 0).await.unwrap();
        world.take(Lane::Otp, &["a@example.com"], 1).await.unwrap();
        assert_eq!(world.check("a@example.com", 2).await, Ok(()));
        assert_eq!(wait(world.take(Lane::Notice, &["a@example.com"], 2).await), Some(598));
        assert_eq!(wait(world.take(Lane::Reset, &["a@example.com"], 2).await), None);
        assert_eq!(wait(world.take(Lane::Reset, &["a@example.com"], 3).await), Some(597));
        assert_eq!(wait(world.check("A+x@EXAMPLE.com", 3).await), Some(597));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_a_repeat_passes_at_rcpt() {
        let world = World::new();
        for at in 0..2 {
            // Under an idempotency key.
            world.take(Lane::Notice, &["a@example.com"], at).await.unwrap();
        }
        world.take(Lane::Reset, &["a@example.com"], 2).await.unwrap();
        assert_eq!(world.check("a@example.com", 599).await, Ok(()));
        assert!(world.take(Lane::Reset, &["a@example.com"], 599).await.is_err(), "it is none");
        let another = world.take_as("bank", Lane::Otp, &["a@example.com"], 599).await;
        assert!(another.is_ok(), "whose budget is its own");
    }

    #[tokio::test(start_paused = true)]
    async fn spellings_of_one_mailbox_share_its_budget() {
        let world = World::new();
        world.take(Lane::Otp, &["J.Doe+a@gmail.com", "\"j..doe\"@googlemail.com"], 0).await.unwrap();
        assert!(world.take(Lane::Otp, &["jd.oe@gmail.com"], 1).await.is_err());
        assert!(world.take(Lane::Otp, &["x@b.example", "\"x\"@b.example", "x+2@b.example"], 1).await.is_err());
        assert!(world.take(Lane::Otp, &["j.doe@b.example", "jdoe@b.example", "jdoe@b.example"], 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_given_back_and_survive_a_restart() {
        let world = World::new();
        let first = world.take(Lane::Otp, &["\"a\"@example.com"], 0).await.unwrap();
        world.take(Lane::Otp, &["a@example.com"], 1).await.unwrap();
        let again = world.again(2, None, 2).await;
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).await.is_err());
        again.give_back(first, "a@example.com").await;
        assert_eq!(again.stored().await.len(), 1);
        again.take(Lane::Otp, &["a@example.com"], 2).await.unwrap();
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).await.is_err());
        // When all of it is over, nothing is left of it.
        let rest = again.again(2, None, 3).await;
        rest.take(Lane::Otp, &["b@example.com"], 2000).await.unwrap();
        assert_eq!(rest.stored().await, [rest.hash("b@example.com")]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rows_of_version_0_1_still_count() {
        let mut value = vec![1];
        for at_s in [0_u64, 1] {
            value.extend_from_slice(&(at_s * 1000).to_be_bytes());
            value.extend_from_slice(&[9; 16]);
            value.extend_from_slice(&[0, 0, 0]);
        }
        let with_rows = |written: &[&str], own| {
            let row = |written: &&str| {
                let key = format!("shop\n{written}").into_bytes().into();
                Change::Side(Table::Budget, key, Some(value.clone().into()))
            };
            let mut disk = MemoryStore::default();
            disk.commit(&[&written.iter().map(row).collect::<Vec<_>>()]).unwrap();
            World::on(disk, own, None, 2)
        };
        for (written, spelling) in [
            ("a@example.com", "A@example.com"),
            ("\"a\"@example.com", "a@example.com"),
            ("j.doe@yandex.com", "j-doe@ya.ru"),
            ("\"a b@example.com", "\"a b\"@example.com"),
        ] {
            let world = with_rows(&[written], 2);
            let is_cut = written.starts_with("\"a b");
            assert_eq!(world.take(Lane::Otp, &[spelling], 2).await.is_err(), !is_cut, "{written}");
        }
        // Rows that turn out to be one mailbox's come together, under its name.
        let world = with_rows(&["a@example.com", "\"a\"@example.com"], 5);
        world.take(Lane::Otp, &["a@example.com"], 2).await.unwrap();
        assert_eq!(world.stored().await, [world.hash("a@example.com")]);
        assert!(world.again(5, None, 3).await.take(Lane::Otp, &["a@example.com"], 3).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn all_users_share_a_budget_that_leaves_each_its_first_two() {
        let world = World::with(3, Some(4));
        let take = async |user: &str, at| world.take_as(user, Lane::Otp, &["a@example.com"], at).await.map(|_| ());
        for at in 0..3 {
            assert_eq!(take("shop", at).await, Ok(()));
        }
        assert_eq!(take("bank", 3).await, Ok(()));
        // The fourth of all was the first of the bank's; its second passes, its third does not.
        assert_eq!(take("bank", 4).await, Ok(()));
        assert_eq!(take("bank", 5).await, Err(Refusal::TotalBudget));
        assert_eq!((take("game", 6).await, take("game", 7).await), (Ok(()), Ok(())));
        assert_eq!(take("game", 8).await, Err(Refusal::TotalBudget));
        // Its own budget is told with its own count.
        assert!(matches!(take("shop", 9).await, Err(Refusal::Budget { count: 3, .. })));
        assert_eq!(take("game", 604).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_clock_took_that_was_ahead_counts_no_longer_than_a_window() {
        let world = World::new();
        for at in [0, 1] {
            world.take(Lane::Otp, &["a@example.com"], 30_000_000 + at).await.unwrap();
        }
        let again = world.again(2, None, 10).await;
        assert_eq!(wait(again.take(Lane::Otp, &["a@example.com"], 20).await), Some(590));
        assert!(again.take(Lane::Otp, &["a@example.com"], 611).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn rows_hold_times_of_the_wall_clock() {
        let world = World::new();
        // It was set forward by an hour since the start.
        world.clock.set_wall_clock(3_600_000);
        for at in [0, 1] {
            world.take(Lane::Otp, &["a@example.com"], at).await.unwrap();
        }
        let again = world.again(2, None, 3602).await;
        assert_eq!(wait(again.take(Lane::Otp, &["a@example.com"], 3602).await), Some(598));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_of_all_survives_a_restart() {
        let world = World::with(3, Some(4));
        for (user, at) in [("shop", 0), ("shop", 1), ("bank", 2), ("bank", 3)] {
            world.take_as(user, Lane::Otp, &["a@example.com"], at).await.unwrap();
        }
        let again = world.again(3, Some(4), 4).await;
        let third = again.take_as("bank", Lane::Otp, &["a@example.com"], 4).await;
        assert_eq!(third.err(), Some(Refusal::TotalBudget));
        assert!(again.take_as("game", Lane::Otp, &["a@example.com"], 4).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_changed_count_from_then_on() {
        let mut world = World::new();
        for at in [0, 100] {
            world.take(Lane::Otp, &["a@example.com"], at).await.unwrap();
        }
        let rate = |count, seconds| Some(Rate { count, span: Duration::from_secs(seconds) });
        world.limits.own = rate(3, 600);
        world.take(Lane::Otp, &["a@example.com"], 200).await.unwrap();
        assert_eq!(wait(world.take(Lane::Otp, &["a@example.com"], 201).await), Some(399));
        // A shorter window forgets, a longer one goes as far back as is known.
        world.limits.own = rate(1, 60);
        assert_eq!(wait(world.take(Lane::Otp, &["a@example.com"], 201).await), Some(59));
        world.limits.own = rate(3, 1000);
        assert_eq!(wait(world.take(Lane::Otp, &["a@example.com"], 700).await), Some(300));
        world.limits.own = None;
        world.take(Lane::Otp, &["a@example.com"], 701).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_are_about_to_ask_for_counts_once() {
        let world = World::new();
        let asks = || world.asks(("shop", Lane::Otp.with_most_budget()), &[mailbox("a@example.com")]);
        let nobody = world.ids.next(at(0));
        let (first, before) = world.expected.expect(nobody, &asks());
        assert_eq!(before, []);
        let taken = world.take(Lane::Otp, &["a@example.com"], 0).await.unwrap();
        let (second, before) = world.expected.expect(taken.message, &asks());
        assert_eq!(before.iter().map(|one| one.message).collect::<Vec<_>>(), [nobody]);
        // One has its place, one will ask: of the three that a reset may have there is one more.
        assert_eq!(world.check("a@example.com", 1).await, Ok(()));
        let (third, _) = world.expected.expect(world.ids.next(at(1)), &asks());
        assert_eq!(wait(world.check("a@example.com", 1).await), Some(599));
        drop(third);
        assert_eq!(world.check("a@example.com", 1).await, Ok(()));
        drop((first, second));
        assert!(world.expected.0.lock().is_empty());
    }
}
