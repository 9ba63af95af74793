//! Retries that a greylisting host recognises, over real sockets: the same host, and one wait for all codes of a
//! recipient.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::{Events, manual_clock, pass, start_relay, start_relay_by, start_with_host};
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::queue::inspect::Filter;

const PIPELINING: &[&str] = &["PIPELINING"];

fn mail(subject: &str) -> String {
    format!("From: otp@app.test\r\nSubject: {subject}\r\n\r\ncode")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_begins_with_the_host_that_made_it_wait() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let clock = manual_clock();
    let (relay, mut events) = start_relay_by(clock.clone(), folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    // The first choice is silent for a moment, so the second one begins the wait.
    mx.trick("banner", Trick::Close, 1);
    mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted"), 1);
    app.submit(&["bob@twins.test"], &mail("one")).await;
    let deferred = events.next(Kind::Greylisted).await;
    assert_eq!(deferred.destination(), Some("mx2.test"));
    pass(&relay, &clock, Duration::from_secs(60));
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (2, Some("mx2.test")));
    let steps = delivered.steps().unwrap();
    assert!(steps[1..].iter().all(|step| &*step.host == "mx2.test"), "nobody else was asked: {steps:?}");
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_code_inherits_the_wait_of_the_older_one() {
    let (folder, mx, relay, mut events) = start_with_host(PIPELINING, "").await;
    mx.trick("RCPT", Trick::Say("450 4.2.0 Greylisted for 40 seconds"), 3);
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("one")).await;
    let first = events.next(Kind::Greylisted).await;
    let window =
        first.head.time.plus(Duration::from_millis(41_200))..first.head.time.plus(Duration::from_millis(41_400));
    assert!(window.contains(&first.next_attempt_at().unwrap()));
    app.submit(&["alice@example.test"], &mail("two")).await;
    let second = events.next(Kind::Greylisted).await;
    assert!(second.head.id != first.head.id && window.contains(&second.next_attempt_at().unwrap()), "{second:?}");
    relay.shut_down().await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("three")).await;
    let third = events.next(Kind::Greylisted).await;
    assert!(
        third.head.id != second.head.id && window.contains(&third.next_attempt_at().unwrap()),
        "after a restart: {third:?}"
    );
    relay.shut_down().await;
}

/// The older code's wait is longer than the newer one's life: the app hears of it with the acceptance, once, also over
/// a restart; and it is tried all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_inherits_too_long_a_wait_is_at_risk_from_the_beginning() {
    let (folder, mx, relay, mut events) = start_with_host(PIPELINING, "").await;
    mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted, try again in 900 seconds"), 9);
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &format!("X-OTP-Life: 3600\r\n{}", mail("one"))).await;
    events.next(Kind::Greylisted).await;
    app.say("MAIL FROM:<otp@app.test>").await;
    app.say("RCPT TO:<bob@example.test>").await;
    app.say("RCPT TO:<alice@example.test> NOTIFY=DELAY").await;
    app.say("DATA").await;
    app.say(&format!("X-OTP-Life: 600\r\n{}\r\n.", mail("two"))).await;
    let at_risk = events.next(Kind::AtRisk).await;
    let recipient = at_risk.head.recipient.as_ref().unwrap().as_str();
    assert_eq!((recipient, at_risk.head.entry, at_risk.head.attempt), ("alice@example.test", Some(1), 0));
    assert_eq!((at_risk.cause(), at_risk.destination()), (Some(Cause::Greylisted), Some("mx.test")));
    assert!(at_risk.next_attempt_at().is_some_and(|at| at <= at_risk.head.time && at < at_risk.head.expires_at));
    assert!(at_risk.note().as_ref().unwrap().ends_with(" s from now"), "{at_risk:?}");
    // Alice's first attempt, Bob's copy and what NOTIFY=DELAY asked for come in any order.
    let (mut tried, mut delivered) = (None, Vec::new());
    while tried.is_none() || delivered.len() < 2 {
        let event = events.next_of(&[Kind::AtRisk, Kind::Greylisted, Kind::Delivered]).await;
        assert_ne!(event.kind(), Kind::AtRisk, "told again: {event:?}");
        if event.kind() == Kind::Greylisted {
            tried = Some((event.head.id, event.head.entry, event.head.attempt));
        } else {
            delivered.push(event.head.recipient.unwrap().to_string());
        }
    }
    delivered.sort();
    assert_eq!(
        (tried, delivered),
        (Some((at_risk.head.id, Some(1), 1)), vec!["bob@example.test".into(), "otp@app.test".into()])
    );
    relay.shut_down().await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    relay.queue().retry_now(&Filter::of_message(at_risk.head.id), at_risk.head.time);
    let tried = next_unless_at_risk(&mut events, Kind::Greylisted).await;
    assert_eq!((tried.head.id, tried.head.attempt), (at_risk.head.id, 2));
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["carol@example.test"], &mail("three")).await;
    next_unless_at_risk(&mut events, Kind::Delivered).await;
    relay.shut_down().await;
}

/// The next event of this kind, before which nothing is told to be at risk.
async fn next_unless_at_risk(events: &mut Events, kind: Kind) -> Event {
    let event = events.next_of(&[Kind::AtRisk, kind]).await;
    assert_eq!(event.kind(), kind, "{event:?}");
    event
}
