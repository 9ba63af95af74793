//! What each verb does, refuses and answers to a repeat.

use std::time::Duration;

use otp_relay::testing::event::Kind;
use otp_relay::testing::ledger::IDEMPOTENCY_MEMORY;
use otp_relay::testing::ledger::accept::{
    Accepted, Ahead, BudgetAsk, BudgetLimit, Idempotency, KeyHash, KeyOf, KnownWait, MayHaveArrived, NewMessage,
    NoRoom, OverBudget, Precheck, Refused, Repeated, Stored,
};
use otp_relay::testing::ledger::attempt::{Lost, Mark, Settled, Side, Target};
use otp_relay::testing::ledger::cursor::Cursor;
use otp_relay::testing::ledger::entry::State;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::outbox::Read;
use otp_relay::testing::ledger::read::{Page, Put, RowChange, Table, Version};
use otp_relay::testing::ledger::suppression::Bounce;
use otp_relay::testing::mail::address::Mailbox;
use otp_relay::testing::mail::id::EntryId;

use super::{Engine, World, attempt, budget_ask, first, key, known_by};

/// Each is run on every implementation.
macro_rules! suite {
    ($($(#[$doc:meta])* async fn $name:ident($world:ident: &World) $body:block)*) => {
        $($(#[$doc])* async fn $name($world: &World) $body)*

        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(&super::Engine::Memory.begin(100).await).await;
            })*
        }

        mod embedded {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(&super::Engine::Embedded.begin(100).await).await;
            })*
        }

        mod sled {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(&super::Engine::Sled.begin(100).await).await;
            })*
        }
    };
}

const ALL: Page = Page { after: None, most: usize::MAX };

fn refused(result: Result<Accepted, Refused>) -> Refused {
    result.unwrap_err()
}

fn repeat(first: &NewMessage) -> Refused {
    Refused::Repeats(Repeated::Same(first.message.id))
}

fn ask(recipient: &str) -> Precheck {
    Precheck {
        sender: "otp@app.test".into(),
        recipient: Mailbox::parse(recipient).unwrap(),
        budgets: Vec::new(),
        ahead: Vec::new(),
    }
}

suite! {
    async fn what_is_accepted_is_there(world: &World) {
        let new = world.message(&["a@one.test", "b@two.test"]);
        let accepted = world.ledger.accept(new.clone()).await.unwrap();
        let later = world.ledger.accept(world.message(&["c@one.test"])).await.unwrap();
        assert!(later.sequence > accepted.sequence);
        assert_eq!((accepted.superseded.len(), accepted.overtaken.len(), accepted.waits.len()), (0, 0, 0));
        let listing = world.ledger.find(Filter::of_message(new.message.id), ALL).await.unwrap();
        assert_eq!((listing.messages.len(), listing.entries), (1, 2));
        assert_eq!(listing.messages[0].message, new.message);
        let to_one = Filter { recipient: Some("b@two.test".into()), ..Filter::default() };
        assert_eq!(world.ledger.find(to_one, ALL).await.unwrap().entries, 1);
        let behind = Page { after: Some(new.message.id), most: 10 };
        assert_eq!(world.ledger.find(Filter::default(), behind).await.unwrap().entries, 1);
        let content = world.ledger.content(new.message.id, new.message.expires_at).await.unwrap();
        assert_eq!(content, Some(new.content));
        let status = world.ledger.lookup(new.message.id).await.unwrap().unwrap();
        assert_eq!(status.entries.values().map(|entry| entry.kind).collect::<Vec<_>>(), [Kind::Accepted; 2]);
        assert!(!status.is_over());
        assert_eq!(world.kinds().await, [Kind::Accepted; 2]);
    }

    async fn an_acceptance_that_is_repeated_finds_its_own(world: &World) {
        let new = world.taking_slot("s", world.keyed("once", 1));
        let accepted = world.ledger.accept(new.clone()).await.unwrap();
        assert_eq!(world.ledger.accept(new.clone()).await.unwrap().sequence, accepted.sequence);
        let end = world.end(&new.message, 0, Kind::Delivered, Vec::new());
        world.ledger.settle(attempt(first(&new), 1), end).await.unwrap();
        assert_eq!(world.ledger.accept(new.clone()).await.unwrap().sequence, accepted.sequence);
        assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Delivered]);
        assert_eq!(world.ledger.find(Filter::default(), ALL).await.unwrap().entries, 0);
    }

    async fn a_key_is_taken_once_a_day(world: &World) {
        let new = world.keyed("once", 1);
        world.accept(&new).await;
        assert_eq!(refused(world.ledger.accept(world.keyed("once", 1)).await), repeat(&new));
        assert_eq!(refused(world.ledger.accept(world.keyed("once", 2)).await), Refused::Repeats(Repeated::Other));
        world.accept(&world.keyed("another", 1)).await;
        tokio::time::sleep(IDEMPOTENCY_MEMORY).await;
        world.accept(&world.keyed("once", 2)).await;
        assert_eq!(world.kinds().await, [Kind::Accepted; 3]);
    }

    async fn what_was_accepted_can_be_recalled(world: &World) {
        let asked = |name, day, octet| known_by(key(KeyOf::Idempotency, name), day, octet);
        assert_eq!(world.ledger.recall(asked("once", 1, 1)).await, Ok(None));
        let new = world.keyed("once", 1);
        let message = world.accept(&new).await.message;
        assert_eq!(world.ledger.recall(asked("once", 1, 1)).await, Ok(Some(Repeated::Same(message))));
        assert_eq!(world.ledger.recall(asked("once", 1, 2)).await, Ok(Some(Repeated::Other)));
        // Whoever has the secret of that day makes the digest of that day.
        let of_that_day = Repeated::OtherDay { day: 1, message };
        assert_eq!(world.ledger.recall(asked("once", 2, 1)).await, Ok(Some(of_that_day)));
        let later = NewMessage { idempotency: Some(asked("once", 2, 1)), ..world.message(&["a@one.test"]) };
        assert_eq!(refused(world.ledger.accept(later).await), Refused::Repeats(of_that_day));
        assert_eq!(world.ledger.recall(asked("another", 1, 1)).await, Ok(None), "it decided nothing");
    }

    async fn a_content_is_known_within_its_window(world: &World) {
        let window = Duration::from_secs(30);
        let name = |name: &str| key(KeyOf::Idempotency, name);
        let known_by = |today, also: &[&str]| {
            let also = also.iter().map(|of| name(of)).collect();
            Idempotency { key: name(today), digest: None, span: window, also }
        };
        let new = |idempotency| NewMessage { idempotency: Some(idempotency), ..world.message(&["a@one.test"]) };
        let first = new(known_by("monday", &[]));
        world.accept(&first).await;
        tokio::time::sleep(Duration::from_secs(29)).await;
        let after_midnight = known_by("tuesday", &["sunday", "monday"]);
        assert_eq!(world.ledger.recall(after_midnight.clone()).await, Ok(Some(Repeated::Same(first.message.id))));
        assert_eq!(refused(world.ledger.accept(new(after_midnight.clone())).await), repeat(&first));
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.accept(&new(after_midnight)).await;
    }

    async fn what_nobody_was_told_of_is_not_known(world: &World) {
        let new = NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 1) };
        let id = world.accept(&new).await;
        let side = vec![
            Side::GivesBack(key(KeyOf::Budget, "b")),
            Side::Unknown(key(KeyOf::Idempotency, "another")),
            Side::Unknown(key(KeyOf::Idempotency, "once")),
        ];
        world.ledger.settle(attempt(id, 0), world.end(&new.message, 0, Kind::Cancelled, side)).await.unwrap();
        let again = NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 2) };
        world.accept(&again).await;
    }

    async fn a_budget_is_never_exceeded(world: &World) {
        let new = world.within("b", 3, &["a@one.test", "b@one.test"]);
        world.accept(&new).await;
        let start = world.ledger.now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.accept(&world.within("b", 3, &["a@one.test"])).await;
        // One place is enough for one, none for two.
        let span = Duration::from_secs(60);
        let again_at = start.plus(span);
        let no_room = NoRoom::Own { count: 3, span, again_at };
        let refusal = Refused::Budget(no_room);
        assert_eq!(refused(world.ledger.accept(world.within("b", 3, &["a@one.test"])).await), refusal);
        let end = world.end(&new.message, 1, Kind::Failed, vec![Side::GivesBack(key(KeyOf::Budget, "b"))]);
        let second = EntryId { message: new.message.id, index: 1 };
        world.ledger.settle(attempt(second, 1), end).await.unwrap();
        let two = world.within("b", 3, &["a@one.test", "b@one.test"]);
        assert_eq!(refused(world.ledger.accept(two).await), refusal, "all or none");
        let mut ask = ask("a@one.test");
        ask.budgets = world.within("b", 3, &["a@one.test"]).budgets;
        assert_eq!(world.ledger.precheck(ask.clone()).await.unwrap().budget, None);
        world.accept(&world.within("b", 3, &["c@one.test"])).await;
        let over = Some(OverBudget { why: no_room, may_repeat: false });
        assert_eq!(world.ledger.precheck(ask).await.unwrap().budget, over);
        tokio::time::sleep(span).await;
        world.accept(&world.within("b", 3, &["a@one.test", "b@one.test"])).await;
    }

    async fn a_budget_over_all_users_leaves_each_its_first_two(world: &World) {
        let limit = |count, span_s| Some(BudgetLimit { count, most: count, span: Duration::from_secs(span_s) });
        let ask = |user: u8| BudgetAsk {
            whose: KeyHash([user; 16]),
            own: limit(3, 60),
            total: limit(4, 100),
            ..budget_ask(key(KeyOf::Budget, "b"))
        };
        let by = |user| NewMessage { budgets: vec![ask(user)], ..world.message(&["a@one.test"]) };
        let start = world.ledger.now();
        for user in [1, 1, 1, 2, 2] {
            world.accept(&by(user)).await;
        }
        let own = NoRoom::Own { count: 3, span: Duration::from_secs(60), again_at: start.plus(Duration::from_secs(60)) };
        assert_eq!(refused(world.ledger.accept(by(1)).await), Refused::Budget(own), "its own is told first");
        assert_eq!(refused(world.ledger.accept(by(2)).await), Refused::Budget(NoRoom::Total));
        let mut precheck = Precheck { budgets: vec![ask(2)], ..self::ask("a@one.test") };
        let over = Some(OverBudget { why: NoRoom::Total, may_repeat: false });
        assert_eq!(world.ledger.precheck(precheck.clone()).await.unwrap().budget, over);
        precheck.budgets = vec![ask(3)];
        assert_eq!(world.ledger.precheck(precheck.clone()).await.unwrap().budget, None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(refused(world.ledger.accept(by(1)).await), Refused::Budget(NoRoom::Total), "its places still count");
        world.accept(&by(3)).await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        world.accept(&by(1)).await;
    }

    async fn what_may_be_a_repeat_and_what_is_ahead_are_told_of_a_budget(world: &World) {
        let keyed = world.keyed("once", 1);
        let own = Some(BudgetLimit { count: 1, most: 1, span: Duration::from_secs(60) });
        let repeatable = BudgetAsk { own, is_repeatable: true, ..budget_ask(key(KeyOf::Budget, "b")) };
        let ahead = Ahead { key: repeatable.key, whose: repeatable.whose, message: keyed.message.id, count: 1 };
        let mut precheck = Precheck { budgets: vec![repeatable.clone()], ..ask("a@one.test") };
        assert_eq!(world.ledger.precheck(precheck.clone()).await.unwrap().budget, None);
        precheck.ahead = vec![ahead];
        let over = |may_repeat, again_at| {
            let why = NoRoom::Own { count: 1, span: Duration::from_secs(60), again_at };
            Some(OverBudget { why, may_repeat })
        };
        let again_at = world.ledger.now().plus(Duration::from_secs(60));
        assert_eq!(world.ledger.precheck(precheck.clone()).await.unwrap().budget, over(false, again_at));
        world.accept(&NewMessage { budgets: vec![repeatable.clone()], ..keyed }).await;
        precheck.budgets[0].own = Some(BudgetLimit { count: 1, most: 2, span: Duration::from_secs(60) });
        assert_eq!(world.ledger.precheck(precheck.clone()).await.unwrap().budget, None, "it counts once");
        precheck.budgets = vec![repeatable];
        assert_eq!(world.ledger.precheck(precheck).await.unwrap().budget, over(true, again_at));
    }

    async fn who_is_suppressed_is_not_sent_to(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        let bounced = Side::Bounced { bounce: Bounce::Hard, reason: "550 no".into() };
        let end = world.end(&new.message, 0, Kind::Failed, vec![bounced]);
        world.ledger.settle(attempt(id, 1), end).await.unwrap();
        let refusal = refused(world.ledger.accept(world.message(&["b@one.test", "A@one.test"])).await);
        assert!(matches!(&refusal, Refused::Suppressed(found) if found.address == "a@one.test"), "{refusal:?}");
        let obstacles = world.ledger.precheck(ask("a@one.test")).await.unwrap();
        assert_eq!(obstacles.suppression.map(|found| found.reason), Some("550 no".into()));
        // After an hour one message passes as a try.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let tried = world.message(&["a@one.test"]);
        let id = world.accept(&tried).await;
        assert!(matches!(refused(world.ledger.accept(world.message(&["a@one.test"])).await), Refused::Suppressed(_)));
        let end = world.end(&tried.message, 0, Kind::Delivered, vec![Side::Lifted]);
        world.ledger.settle(attempt(id, 1), end).await.unwrap();
        world.accept(&world.message(&["a@one.test"])).await;
        assert_eq!(world.ledger.precheck(ask("a@one.test")).await.unwrap().suppression, None);
    }

    async fn the_newer_takes_the_slot(world: &World) {
        let old = world.accept(&world.in_slot("login", &["a@one.test"])).await;
        let other = world.accept(&world.in_slot("reset", &["a@one.test"])).await;
        let new = world.in_slot("login", &["a@one.test", "a@one.test"]);
        let accepted = world.ledger.accept(new.clone()).await.unwrap();
        let at_once: Vec<_> = accepted.superseded.iter().map(|(_, arrived)| *arrived).collect();
        assert!(at_once.iter().all(|it| *it == MayHaveArrived::Yes), "it may have been attempted without a gate");
        assert_eq!(world.replaced(&accepted).await, [old]);
        assert_eq!(world.ledger.gate(attempt(old, 1), Mark::Visible).await, Err(Lost::Ended(Kind::Superseded)));
        world.ledger.gate(attempt(other, 1), Mark::Visible).await.unwrap();
        // The same recipient twice in one message is no newer code.
        assert_eq!(world.ledger.find(Filter::of_message(new.message.id), ALL).await.unwrap().entries, 2);
        let newest = world.ledger.accept(world.in_slot("login", &["a@one.test"])).await.unwrap();
        assert_eq!(world.replaced(&newest).await.len(), 2);
        let status = world.ledger.lookup(old.message).await.unwrap().unwrap();
        assert!(status.is_over());
        assert_eq!(status.entries[&0].may_have_arrived, !at_once.is_empty(), "an owner knows better");
    }

    async fn numbers_of_attempts_only_grow(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        world.ledger.gate(attempt(id, 1), Mark::Visible).await.unwrap();
        world.ledger.gate(attempt(id, 1), Mark::Durable).await.unwrap();
        let first = world.deferred(&new.message, 1, Vec::new());
        world.ledger.settle(attempt(id, 1), first.clone()).await.unwrap();
        world.ledger.settle(attempt(id, 1), first.clone()).await.unwrap();
        assert_eq!(world.ledger.gate(attempt(id, 1), Mark::Visible).await, Err(Lost::TakenOver), "it is settled");
        let waiting = Filter { state: Some(State::Deferred), ..Filter::default() };
        let listing = world.ledger.find(waiting, ALL).await.unwrap();
        let Settled::Deferred { progress, .. } = first else { panic!() };
        assert_eq!(listing.messages[0].entries[0].progress, *progress);
        assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Deferred]);
    }

    async fn an_entry_ends_once(world: &World) {
        let new = world.message(&["a@one.test", "b@one.test"]);
        let id = world.accept(&new).await;
        let delivered = world.end(&new.message, 0, Kind::Delivered, Vec::new());
        world.ledger.settle(attempt(id, 1), delivered.clone()).await.unwrap();
        world.ledger.settle(attempt(id, 1), delivered).await.unwrap();
        let failed = world.end(&new.message, 0, Kind::Failed, Vec::new());
        let lost = Err(Lost::Ended(Kind::Delivered));
        assert_eq!(world.ledger.settle(attempt(id, 1), failed).await, lost);
        assert_eq!(world.ledger.settle(attempt(id, 2), world.deferred(&new.message, 2, Vec::new())).await, lost);
        assert_eq!(world.ledger.gate(attempt(id, 2), Mark::Visible).await, lost);
        assert_eq!(world.ledger.cancel(Filter::of_message(id.message)).await.unwrap().len(), 1, "the other one");
        assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Delivered, Kind::Cancelled]);
        assert_eq!(world.ledger.content(id.message, new.message.expires_at).await.unwrap(), None);
        let status = world.ledger.lookup(id.message).await.unwrap().unwrap();
        assert_eq!(status.entries[&0].kind, Kind::Delivered);
        assert!(status.is_over());
    }

    async fn who_cancels_hears_whether_it_had_gone(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        world.ledger.settle(attempt(id, 1), world.deferred(&new.message, 1, Vec::new())).await.unwrap();
        let waits = world.ledger.cancel(Filter::of_message(id.message)).await.unwrap();
        assert_eq!(waits.iter().map(|one| (one.id, one.may_still_arrive)).collect::<Vec<_>>(), [(id, false)]);
        let id = world.accept(&world.message(&["a@one.test"])).await;
        world.ledger.gate(attempt(id, 1), Mark::Visible).await.unwrap();
        let goes = world.ledger.cancel(Filter::of_message(id.message)).await.unwrap();
        assert!(goes[0].may_still_arrive);
        assert_eq!(world.ledger.cancel(Filter::of_message(id.message)).await.unwrap(), []);
    }

    async fn what_waits_is_made_due(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        world.ledger.settle(attempt(id, 1), world.deferred(&new.message, 1, Vec::new())).await.unwrap();
        assert_eq!(world.ledger.make_due(Filter::of_message(id.message)).await.unwrap(), [id]);
        let listing = world.ledger.find(Filter::default(), ALL).await.unwrap();
        assert!(listing.messages[0].entries[0].progress.next_attempt_at <= world.ledger.now());
        assert_eq!(world.ledger.make_due(Filter { user: Some("other".into()), ..Filter::default() }).await.unwrap(), []);
    }

    async fn events_are_read_on_from_a_cursor(world: &World) {
        for _ in 0..5 {
            world.accept(&world.message(&["a@one.test"])).await;
        }
        let Read { events: some, at: cursor, .. } = world.ledger.events(Cursor::default(), 3).await.unwrap();
        assert_eq!((some.len(), some[2].0), (3, cursor));
        let Read { events: rest, at: end, .. } = world.ledger.events(cursor, 10).await.unwrap();
        assert_eq!(rest.len(), 2);
        let nothing = world.ledger.events(end, 10).await.unwrap();
        assert!(nothing.events.is_empty() && nothing.at == end);
        world.ledger.cancel(Filter::default()).await.unwrap();
        let Read { events: ends, .. } = world.ledger.events(end, 10).await.unwrap();
        assert_eq!(ends.len(), 5);
        assert!(ends.iter().all(|(at, event)| *at > end && event.kind() == Kind::Cancelled));
    }

    async fn a_row_changes_only_from_its_version(world: &World) {
        let change = |value: &[u8], from| RowChange { key: (*b"mx").into(), value: Some(value.into()), from };
        let Put::Done(first) = world.ledger.put(Table::Fact, change(b"1", Version(0))).await.unwrap() else { panic!() };
        let Put::Raced(row) = world.ledger.put(Table::Fact, change(b"2", Version(0))).await.unwrap() else { panic!() };
        assert_eq!((row.version, row.value.as_deref()), (first, Some(&b"1"[..])));
        let Put::Done(second) = world.ledger.put(Table::Fact, change(b"2", first)).await.unwrap() else { panic!() };
        assert!(second > first);
        let (rows, last) = world.ledger.rows(Table::Fact, first).await.unwrap();
        assert_eq!((rows.len(), last), (1, second));
        assert_eq!(world.ledger.rows(Table::Fact, last).await.unwrap(), (Vec::new(), second));
        let gone = RowChange { key: (*b"mx").into(), value: None, from: second };
        assert!(matches!(world.ledger.put(Table::Fact, gone).await.unwrap(), Put::Done(_)));
        let (rows, _) = world.ledger.rows(Table::Fact, last).await.unwrap();
        assert_eq!(rows[0].value, None, "that it is gone is told too");
    }

    async fn an_end_brings_its_notification(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        let note = world.message(&["otp@app.test"]);
        let Settled::End { end, events, side, .. } = world.end(&new.message, 0, Kind::Failed, Vec::new()) else { panic!() };
        let settled = Settled::End { end, events, side, notification: Some(Box::new(note.clone())) };
        world.ledger.settle(attempt(id, 1), settled.clone()).await.unwrap();
        world.ledger.settle(attempt(id, 1), settled).await.unwrap();
        assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Accepted, Kind::Failed], "who reads of the end finds it");
        world.ledger.gate(attempt(first(&note), 1), Mark::Visible).await.unwrap();
    }

    async fn a_full_ledger_takes_no_more(world: &World) {
        for _ in 0..50 {
            world.accept(&world.message(&["a@one.test", "b@one.test"])).await;
        }
        assert_eq!(refused(world.ledger.accept(world.message(&["a@one.test"])).await), Refused::Full);
        world.ledger.cancel(Filter { recipient: Some("b@one.test".into()), ..Filter::default() }).await.unwrap();
        world.accept(&world.message(&["a@one.test"])).await;
    }

    async fn a_triplet_that_waits_is_known(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        let now = world.ledger.now();
        let wait = KnownWait { egress: "here".into(), since: now, until: now.plus(Duration::from_secs(3600)) };
        let deferred = world.deferred(&new.message, 1, vec![Side::Waits(wait.clone())]);
        world.ledger.settle(attempt(id, 1), deferred).await.unwrap();
        let accepted = world.ledger.accept(world.message(&["b@one.test", "a@one.test"])).await.unwrap();
        assert_eq!(accepted.waits, [(1, wait.clone())]);
        assert_eq!(world.ledger.precheck(ask("a@one.test")).await.unwrap().wait, Some(wait));
        assert_eq!(world.ledger.precheck(ask("b@one.test")).await.unwrap().wait, None);
    }

    async fn what_never_was_is_not_there(world: &World) {
        let never = world.message(&["a@one.test"]);
        let id = first(&never);
        assert!(world.ledger.gate(attempt(id, 1), Mark::Visible).await.is_err());
        assert!(world.ledger.settle(attempt(id, 1), world.end(&never.message, 0, Kind::Delivered, Vec::new())).await.is_err());
        assert_eq!(world.ledger.lookup(id.message).await.unwrap(), None);
        assert_eq!(world.ledger.hand_over(vec![id], Target::Unowned).await.unwrap(), []);
        assert_eq!(world.kinds().await, []);
    }

    async fn who_has_left_may_do_nothing(world: &World) {
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        world.ledger.gate(attempt(id, 1), Mark::Visible).await.unwrap();
        world.ledger.shutdown(Duration::from_secs(1)).await;
        let refusal = refused(world.ledger.accept(world.message(&["b@one.test"])).await);
        assert_eq!(refusal, Refused::Unavailable(Stored::No));
        assert!(world.ledger.gate(attempt(id, 1), Mark::Visible).await.is_err());
        let end = world.end(&new.message, 0, Kind::Delivered, Vec::new());
        assert_eq!(world.ledger.settle(attempt(id, 1), end).await, Err(Lost::Fenced));
        assert!(world.ledger.cancel(Filter::default()).await.is_err());
        assert!(world.ledger.find(Filter::default(), ALL).await.is_err());
    }

    #[expect(clippy::disallowed_methods, reason = "the ledger under test goes by the runtime's time")]
    async fn the_lease_lasts_while_the_ledger_answers(world: &World) {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(333)).await;
            let lease = world.ledger.lease();
            assert!(lease.until > tokio::time::Instant::now().into_std());
        }
        assert_eq!(world.ledger.health().fault, None);
        assert_eq!(world.ledger.peers().len(), 1);
    }
}
