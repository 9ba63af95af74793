//! The queue on simulated time: claims and leases, ends of life, limits, and storage that fails.

use std::sync::Arc;
use std::time::Duration;

use super::AppendError;
use super::claim::{NotReleased, Settlement};
use super::inspect::Filter;
use super::testing::{Bench, LIFE};
use crate::base::clock::{Clock as _, ManualClock, Timestamp};
use crate::base::shares::Sharing;
use crate::event::{Attempted, Kind, Suppress};
use crate::ledger::accept::Refused;
use crate::ledger::entry::{LEASE, LostClaim, State};
use crate::mail::id::EntryId;

fn delivered() -> Settlement {
    Settlement::Delivered { attempted: Attempted::default(), notifies: false }
}

fn put_off(next_attempt_at: Timestamp) -> Settlement {
    Settlement::put_off(Attempted::default(), next_attempt_at)
}

async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_claimed_once_and_settled_once() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    assert_eq!(bench.offers(), [entry]);
    let claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    assert_eq!(bench.queue.claim(entry, bench.clock.now()).unwrap_err(), LostClaim::Ended);
    assert_eq!(claim.check(bench.clock.now()), Ok(()));
    claim.settle(delivered(), bench.clock.now());
    assert_eq!(bench.events(), [Kind::Accepted, Kind::Delivered]);
    assert_eq!(bench.queue.depth().messages, 0);
    bench.queue.flush().await.unwrap();
    assert!(bench.store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deferred_entry_is_offered_when_it_is_due_and_not_before() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    bench.offers();
    let claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    let next_attempt_at = bench.clock.now().plus(Duration::from_secs(30));
    claim.settle(put_off(next_attempt_at), bench.clock.now());
    pass(Duration::from_millis(29_990)).await;
    assert!(bench.offers().is_empty());
    assert_eq!(bench.queue.claim(entry, bench.clock.now()).unwrap_err(), LostClaim::Ended);
    pass(Duration::from_millis(20)).await;
    assert_eq!(bench.offers(), [entry]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_expires_at_its_second() {
    let bench = Bench::new();
    bench.accept(1).await.unwrap();
    pass(LIFE.checked_sub(Duration::from_millis(10)).unwrap()).await;
    assert_eq!(bench.events(), [Kind::Accepted]);
    pass(Duration::from_millis(20)).await;
    assert_eq!(bench.events(), [Kind::Expired]);
    bench.queue.flush().await.unwrap();
    assert!(bench.store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_outlives_the_message_does_not_send_it() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    pass(LIFE.checked_sub(Duration::from_secs(5)).unwrap()).await;
    let claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    pass(Duration::from_secs(6)).await;
    assert_eq!(claim.check(bench.clock.now()), Err(LostClaim::Expired));
    claim.settle(Settlement::Expired(Attempted::default()), bench.clock.now());
    assert_eq!(bench.events(), [Kind::Accepted, Kind::Expired]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_renews_ends_and_its_claim_is_void() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    bench.offers();
    let mut renewed = bench.queue.claim(entry, bench.clock.now()).unwrap();
    pass(Duration::from_secs(60)).await;
    renewed.renew(bench.clock.now(), Duration::from_secs(60));
    pass(LEASE).await;
    assert!(bench.offers().is_empty());
    pass(Duration::from_secs(61)).await;
    assert_eq!(bench.offers(), [entry]);
    let second = bench.queue.claim(entry, bench.clock.now()).unwrap();
    assert_eq!(renewed.check(bench.clock.now()), Err(LostClaim::Ended));
    renewed.settle(delivered(), bench.clock.now());
    assert_eq!(bench.events(), [Kind::Accepted]);
    second.settle(Settlement::Failed { attempted: Attempted::default(), suppress: Suppress::No }, bench.clock.now());
    assert_eq!(bench.events(), [Kind::Failed]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_vanishes_gives_the_entry_back() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    bench.offers();
    drop(bench.queue.claim(entry, bench.clock.now()).unwrap());
    assert!(bench.offers().is_empty());
    pass(Duration::from_secs(6)).await;
    assert_eq!(bench.offers(), [entry]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_keeps_what_it_has() {
    let bench = Bench::new();
    let first = bench.accept(2).await.unwrap();
    assert_eq!(bench.accept(2).await, Err(AppendError::QueueFull { entries_max: 3 }));
    bench.accept(1).await.unwrap();
    let claim = bench.queue.claim(first, bench.clock.now()).unwrap();
    claim.settle(delivered(), bench.clock.now());
    bench.accept(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_refuses_new_mail_and_loses_no_old() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    bench.store.set_failing(true);
    assert_eq!(bench.accept(1).await, Err(AppendError::Refused(Refused::Full)));
    assert!(!bench.queue.is_able_to_store());
    let claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    claim.settle(delivered(), bench.clock.now());
    bench.store.set_failing(false);
    pass(Duration::from_secs(2)).await;
    bench.accept(1).await.unwrap();
    assert!(bench.queue.is_able_to_store());
    // The removal that could not be written meanwhile went along.
    assert_eq!(bench.store.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_resumes_every_entry_in_its_place() {
    let bench = Bench::new();
    let entry = bench.accept(3).await.unwrap();
    let now = bench.clock.now();
    let other = EntryId { index: 1, ..entry };
    bench.queue.claim(entry, now).unwrap().settle(delivered(), now);
    let next_attempt_at = now.plus(Duration::from_secs(100));
    let claim = bench.queue.claim(other, now).unwrap();
    claim.settle(put_off(next_attempt_at), now);
    bench.queue.flush().await.unwrap();
    let again = Bench::on(bench.store.clone(), bench.clock.clone());
    pass(Duration::from_secs(1)).await;
    assert_eq!(again.offers(), [EntryId { index: 2, ..entry }]);
    pass(Duration::from_secs(100)).await;
    assert_eq!(again.offers(), [other]);
    let claim = again.queue.claim(other, again.clock.now()).unwrap();
    assert_eq!(claim.progress().attempts, 2);
    assert_eq!(claim.stored_content().await.unwrap().unwrap().head.as_ref(), b"A: b\r\n");
}

/// With `deliver_at_most_once`, a crash between the last bytes and their answer must not send twice.
#[tokio::test(start_paused = true)]
async fn a_restart_does_not_repeat_what_may_have_arrived() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    let mut claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    claim.release_content(bench.clock.now()).await.unwrap();
    let again = Bench::on(bench.store.clone(), bench.clock.clone());
    pass(Duration::from_millis(1)).await;
    assert_eq!(again.events(), [Kind::Failed]);
    assert_eq!(again.queue.depth().messages, 0);
    drop(claim);
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_the_relay_was_down_is_told_at_start() {
    let bench = Bench::new();
    bench.accept(1).await.unwrap();
    let later = Arc::new(ManualClock::new(bench.clock.now().plus(LIFE)));
    let again = Bench::on(bench.store.clone(), later);
    pass(Duration::from_millis(1)).await;
    assert_eq!(again.events(), [Kind::Expired]);
    assert!(again.offers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_does_not_leave_any_more() {
    let bench = Bench::new();
    let entry = bench.accept(2).await.unwrap();
    let mut claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    let cancelled = bench.queue.cancel(&Filter::of_message(entry.message), bench.clock.now());
    assert_eq!(cancelled.iter().map(|c| c.may_still_arrive).collect::<Vec<_>>(), [false, false]);
    assert_eq!(cancelled[1].recipient.as_str(), "user1@example.test");
    assert_eq!(claim.check(bench.clock.now()), Err(LostClaim::Ended));
    assert_eq!(claim.release_content(bench.clock.now()).await, Err(NotReleased::LostClaim(LostClaim::Ended)));
    claim.settle(delivered(), bench.clock.now());
    assert_eq!(bench.events(), [Kind::Accepted, Kind::Cancelled, Kind::Cancelled]);
    assert!(bench.queue.message(entry.message).is_none());
    assert!(bench.queue.cancel(&Filter::of_message(entry.message), bench.clock.now()).is_empty());
    bench.queue.flush().await.unwrap();
    assert!(bench.store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_may_still_arrive() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    let mut claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    claim.release_content(bench.clock.now()).await.unwrap();
    let cancelled = bench.queue.cancel(&Filter::of_message(entry.message), bench.clock.now());
    assert!(cancelled[0].may_still_arrive);
    claim.settle(delivered(), bench.clock.now());
    assert_eq!(bench.events(), [Kind::Accepted, Kind::Cancelled]);
}

/// An attempt that was put off has sent nothing that could still arrive.
#[tokio::test(start_paused = true)]
async fn a_refused_attempt_is_no_longer_on_its_way() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    let mut claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    claim.release_content(bench.clock.now()).await.unwrap();
    let next_attempt_at = bench.clock.now().plus(Duration::from_secs(30));
    claim.settle(put_off(next_attempt_at), bench.clock.now());
    let recipient = Filter { recipient: Some("user0@example.test".into()), ..Filter::default() };
    bench.offers();
    assert!(!bench.queue.cancel(&recipient, bench.clock.now())[0].may_still_arrive);
    pass(Duration::from_secs(31)).await;
    assert!(bench.offers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deferred_entry_can_be_made_due() {
    let bench = Bench::new();
    let entry = bench.accept(1).await.unwrap();
    let at_domain = Filter { domain: Some("example.test".into()), ..Filter::default() };
    assert!(bench.queue.retry_now(&at_domain, bench.clock.now()).is_empty(), "it is queued already");
    bench.offers();
    let claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
    let next_attempt_at = bench.clock.now().plus(Duration::from_secs(30));
    claim.settle(put_off(next_attempt_at), bench.clock.now());
    let elsewhere = Filter { domain: Some("other.test".into()), ..Filter::default() };
    assert!(bench.queue.retry_now(&elsewhere, bench.clock.now()).is_empty());
    assert_eq!(bench.queue.retry_now(&at_domain, bench.clock.now()), [entry]);
    assert_eq!(bench.offers(), [entry]);
    pass(Duration::from_secs(31)).await;
    assert!(bench.offers().is_empty(), "the old time is forgotten");
    bench.queue.claim(entry, bench.clock.now()).unwrap();
}

/// Whoever may ask as often as it likes would have a mail host called as often as it likes.
#[tokio::test(start_paused = true)]
async fn a_user_has_an_entry_tried_again_now_and_then() {
    let bench = Bench::new();
    let minute = Duration::from_secs(60);
    let entry = bench.accept(1).await.unwrap();
    let all = Filter::default();
    let defer = |entry: EntryId| {
        let claim = bench.queue.claim(entry, bench.clock.now()).unwrap();
        let next_attempt_at = bench.clock.now().plus(Duration::from_secs(300));
        claim.settle(put_off(next_attempt_at), bench.clock.now());
    };
    let ask = || {
        let retried = bench.queue.retry_after(&all, minute, bench.clock.now());
        (retried.entries, retried.kept_back.map(|wait| wait.as_secs()))
    };
    defer(entry);
    assert_eq!(ask(), (vec![entry], None));
    defer(entry);
    pass(Duration::from_secs(20)).await;
    assert_eq!(ask(), (vec![], Some(40)));
    // Others are tried, and the operator is free.
    let other = bench.accept(1).await.unwrap();
    defer(other);
    assert_eq!(ask(), (vec![other], Some(40)));
    assert_eq!(bench.queue.retry_now(&all, bench.clock.now()), [entry]);
    defer(entry);
    defer(other);
    pass(Duration::from_secs(41)).await;
    assert_eq!(ask(), (vec![entry], Some(19)));
}

/// One user leaves a quarter of the queue to others; what it is told of its own mail counts too.
#[tokio::test(start_paused = true)]
async fn one_user_does_not_fill_the_queue() {
    let bench = Bench::new();
    bench.queue.set_sharing(Sharing::Several);
    let portion = Sharing::Several.of(3);
    assert_eq!(bench.accept(3).await.unwrap_err(), AppendError::ShareFull(portion));
    let first = bench.accept(2).await.unwrap();
    assert_eq!(bench.accept(1).await.unwrap_err(), AppendError::ShareFull(portion));
    bench.queue.cancel(&Filter::of_message(first.message), bench.clock.now());
    bench.accept(1).await.unwrap();
    // What a start finds counts as well.
    let again = Bench::on(bench.store.clone(), bench.clock.clone());
    again.queue.set_sharing(Sharing::Several);
    again.accept(1).await.unwrap();
    assert_eq!(again.accept(1).await.unwrap_err(), AppendError::ShareFull(portion));
    // Alone, it may have all.
    again.queue.set_sharing(Sharing::Alone);
    again.accept(1).await.unwrap();
    assert_eq!(again.accept(1).await.unwrap_err(), AppendError::QueueFull { entries_max: 3 });
}

#[tokio::test(start_paused = true)]
async fn lists_are_bounded_and_in_order() {
    let bench = Bench::new();
    let first = bench.accept(2).await.unwrap();
    bench.accept(1).await.unwrap();
    let listing = bench.queue.list(&Filter::default(), 1);
    assert_eq!((listing.messages.len(), listing.entries), (1, 3));
    assert_eq!(listing.messages[0].entries.len(), 2);
    assert_eq!(listing.messages[0].message.id, first.message);
    let to_user0 = Filter { recipient: Some("user0@example.test".to_owned()), ..Filter::default() };
    let of_recipient = bench.queue.list(&to_user0, 9);
    assert_eq!(of_recipient.messages.iter().map(|m| m.entries.len()).collect::<Vec<_>>(), [1, 1]);
    let _claim = bench.queue.claim(first, bench.clock.now()).unwrap();
    let sending = Filter { state: Some(State::Sending), ..Filter::default() };
    assert_eq!(bench.queue.list(&sending, 9).messages[0].entries[0].id, first);
    let somebody = Filter { user: Some("other".into()), ..Filter::default() };
    assert_eq!(bench.queue.list(&somebody, 9).entries, 0);
}

/// A crash came before it was written down that the newer message took the older one's place; and what a start finds of
/// that ends before the newer one can be cancelled.
#[tokio::test(start_paused = true)]
async fn what_was_superseded_stays_so_when_the_newer_one_is_cancelled_at_a_start() {
    let bench = Bench::new();
    let older = bench.accept_under(Some("login"), 1).await.unwrap();
    let newer = bench.accept_under(Some("login"), 1).await.unwrap();
    bench.queue.freeze();
    let again = Bench::on(bench.store.clone(), bench.clock.clone());
    // In the same moment, before the timers have run.
    again.queue.cancel(&Filter::of_message(newer.message), again.clock.now());
    assert!(again.queue.claim(older, again.clock.now()).is_err());
    again.queue.flush().await.unwrap();
    again.queue.freeze();
    let last = Bench::on(again.store.clone(), again.clock.clone());
    pass(Duration::from_millis(1)).await;
    assert!(last.queue.claim(older, last.clock.now()).is_err());
    assert_eq!(last.offers(), []);
}
