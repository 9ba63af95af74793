//! Retries that a greylisting host recognises, over real sockets: the same host, and one wait for all codes of a
//! recipient.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use otp_relay::event::Kind;
use support::client::Client;
use support::fake_mx::{FakeMx, Trick};
use support::start_relay;

const PIPELINING: &[&str] = &["PIPELINING"];

fn mail(subject: &str) -> String {
    format!("From: otp@app.test\r\nSubject: {subject}\r\n\r\ncode")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_begins_with_the_host_that_made_it_wait() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    // The first choice is silent for a moment, so the second one begins the wait.
    mx.trick("banner", Trick::Close, 1);
    mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted"), 1);
    app.submit(&["bob@twins.test"], &mail("one")).await;
    let deferred = events.next(Kind::Greylisted).await;
    assert_eq!(deferred.destination.as_deref(), Some("mx2.test"));
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.attempt, delivered.destination.as_deref()), (2, Some("mx2.test")));
    let steps = delivered.steps.unwrap();
    assert!(steps.iter().all(|step| &*step.host == "mx2.test"), "nobody else was asked: {steps:?}");
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_code_inherits_the_wait_of_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    mx.trick("RCPT", Trick::Say("450 4.2.0 Greylisted for 40 seconds"), 3);
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("one")).await;
    let first = events.next(Kind::Greylisted).await;
    let window = first.time.plus(Duration::from_millis(41_200))..first.time.plus(Duration::from_millis(41_400));
    assert!(window.contains(&first.next_attempt_at.unwrap()));
    app.submit(&["alice@example.test"], &mail("two")).await;
    let second = events.next(Kind::Greylisted).await;
    assert!(second.id != first.id && window.contains(&second.next_attempt_at.unwrap()), "{second:?}");
    relay.shut_down().await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("three")).await;
    let third = events.next(Kind::Greylisted).await;
    assert!(third.id != second.id && window.contains(&third.next_attempt_at.unwrap()), "after a restart: {third:?}");
    relay.shut_down().await;
}
