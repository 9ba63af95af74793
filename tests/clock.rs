//! The wall clock is set while the relay runs: lives, retries and sealed content go on as before, what is told and
//! stored follows the wall clock.

use std::sync::Arc;
use std::time::Duration;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use crate::support::{Events, pass, start_relay_by};
use otp_relay::testing::base::clock::{Clock as _, ManualClock, Timestamp};
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::json;

/// 2026-11-21T10:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// How far the wall clock is set: back and forward, by minutes and by a day.
const STEPS_MS: [i64; 4] = [-HOUR_MS / 6, -24 * HOUR_MS, HOUR_MS / 6, 24 * HOUR_MS];

struct World {
    folder: tempfile::TempDir,
    mx: FakeMx,
}

impl World {
    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), mx: FakeMx::start(&["PIPELINING"]).await }
    }

    fn start(&self, clock: &Arc<ManualClock>) -> (Relay, Events) {
        start_relay_by(clock.clone(), self.folder.path(), self.mx.address, "")
    }

    async fn submit(relay: &Relay) {
        let mut app = Client::connect(relay.addresses()[0]).await;
        let reply = app.submit(&["alice@example.test"], &mail("481516 is your code")).await;
        assert!(reply.starts_with("250"), "{reply}");
    }
}

fn moved(at: Timestamp, ms: i64) -> Timestamp {
    Timestamp::from_millis(at.as_millis().strict_add_signed(ms))
}

/// Whether two times are at most a minute apart: what the test itself takes.
fn is_about(at: Timestamp, expected: Timestamp) -> bool {
    at.since(expected).max(expected.since(at)) < MINUTE
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_ends_come_at_their_time_and_are_told_by_the_wall_clock() {
    for step_ms in STEPS_MS {
        let (world, clock) = (World::new().await, Arc::new(ManualClock::new(START)));
        world.mx.trick("content", Trick::Say("451 4.3.0 try again"), 100);
        let (relay, mut events) = world.start(&clock);
        World::submit(&relay).await;
        let deferred = events.next(Kind::Deferred).await;
        assert!(is_about(deferred.head.time, START) && is_about(deferred.head.expires_at, START.plus(10 * MINUTE)));

        clock.set_wall_clock(step_ms);
        pass(&relay, &clock, 2 * MINUTE);
        let deferred = events.next(Kind::Deferred).await;
        assert_eq!(deferred.head.attempt, 2, "{step_ms}");
        assert!(is_about(deferred.head.time, moved(START.plus(2 * MINUTE), step_ms)), "{step_ms}: {deferred:?}");
        assert!(is_about(deferred.head.expires_at, moved(START.plus(10 * MINUTE), step_ms)), "{step_ms}: {deferred:?}");

        pass(&relay, &clock, 8 * MINUTE);
        let end = events.next_end().await;
        assert_eq!(end.kind(), Kind::Expired, "{step_ms}");
        relay.shut_down().await;
    }
}

/// What is accepted after the clock was set, before and after a restart by the new wall clock.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_outlives_a_restart_by_the_new_wall_clock() {
    for step_ms in STEPS_MS {
        let (world, clock) = (World::new().await, Arc::new(ManualClock::new(START)));
        world.mx.trick("content", Trick::Say("451 4.3.0 try again"), 1);
        let (relay, mut events) = world.start(&clock);
        clock.set_wall_clock(step_ms);
        World::submit(&relay).await;
        events.next(Kind::Deferred).await;
        relay.shut_down().await;

        let clock = Arc::new(ManualClock::new(clock.wall().plus(MINUTE)));
        let (relay, mut events) = world.start(&clock);
        let end = events.next_end().await;
        assert_eq!(end.kind(), Kind::Delivered, "{step_ms}");
        assert!(is_about(end.head.expires_at, moved(START.plus(10 * MINUTE), step_ms)), "{step_ms}: {end:?}");
        relay.shut_down().await;
        let received = world.mx.received();
        assert!(String::from_utf8_lossy(&received[0].content).contains("481516 is your code"), "{step_ms}");
    }
}

/// The clock was ahead when it was accepted, and right at the next start: its life is no longer than it was meant to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_begun_by_a_clock_that_was_ahead_is_no_longer() {
    let (world, clock) = (World::new().await, Arc::new(ManualClock::new(START.plus(1440 * MINUTE))));
    world.mx.trick("content", Trick::Say("451 4.3.0 try again"), 100);
    let (relay, mut events) = world.start(&clock);
    World::submit(&relay).await;
    events.next(Kind::Deferred).await;
    relay.shut_down().await;

    let clock = Arc::new(ManualClock::new(START));
    let (relay, mut events) = world.start(&clock);
    let deferred = events.next(Kind::Deferred).await;
    assert!(is_about(deferred.head.expires_at, START.plus(10 * MINUTE)), "{deferred:?}");
    pass(&relay, &clock, 11 * MINUTE);
    assert_eq!(events.next_end().await.kind(), Kind::Expired);
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn date_and_received_carry_the_wall_clock() {
    let (world, clock) = (World::new().await, Arc::new(ManualClock::new(START)));
    let (relay, mut events) = world.start(&clock);
    clock.set_wall_clock(24 * HOUR_MS);
    World::submit(&relay).await;
    assert_eq!(events.next_end().await.kind(), Kind::Delivered);
    relay.shut_down().await;
    let content = String::from_utf8(world.mx.received()[0].content.clone()).unwrap();
    assert!(content.contains("\r\n\tSun, 22 Nov 2026 10:0"), "{content}");
}

/// Before, what the relay composed carried its own time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_composed_carries_the_wall_clock() {
    let (world, clock) = (World::new().await, Arc::new(ManualClock::new(START)));
    let (relay, mut events) = world.start(&clock);
    clock.set_wall_clock(24 * HOUR_MS);
    let token = std::fs::read_to_string(world.folder.path().join("data/api.token")).unwrap().trim().to_owned();
    let operator = Http { address: relay.http_address().unwrap(), token };
    let code = json!({"from": "otp@app.test", "to": "alice@example.test", "otp": {"code": "481516"}});
    let answer = operator.post("/v1/messages", code).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(answer.json()["accepted_at"].as_str().unwrap().starts_with("2026-11-22T10:0"), "{}", answer.body);
    assert_eq!(events.next_end().await.kind(), Kind::Delivered);
    // A notification of a failure, too.
    world.mx.trick("RCPT TO:<nobody", Trick::Say("550 5.1.1 no such user"), 1);
    let mut app = Client::connect(relay.addresses()[0]).await;
    assert!(app.submit(&["nobody@example.test"], &mail("1")).await.starts_with("250"));
    assert_eq!(events.next(Kind::Delivered).await.head.recipient.unwrap().as_str(), "otp@app.test");
    relay.shut_down().await;
    let received = world.mx.received();
    assert_eq!(received.len(), 2);
    for mail in &received {
        let content = String::from_utf8(mail.content.clone()).unwrap();
        assert!(content.contains("\r\nDate: Sun, 22 Nov 2026 10:0"), "{content}");
    }
    let told = String::from_utf8(received[1].content.clone()).unwrap();
    assert!(
        told.contains("Arrival-Date: Sun, 22 Nov 2026") && told.contains("Last-Attempt-Date: Sun, 22 Nov"),
        "{told}"
    );
}

/// Before, the refusal told the relay's own time, and so did the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_suppression_is_told_by_the_wall_clock() {
    let (world, clock) = (World::new().await, Arc::new(ManualClock::new(START)));
    world.mx.trick("content", Trick::Say("550 5.1.1 no such user"), 1);
    let (relay, mut events) = world.start(&clock);
    World::submit(&relay).await;
    assert_eq!(events.next_end().await.kind(), Kind::Failed);
    clock.set_wall_clock(24 * HOUR_MS);
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.say("MAIL FROM:<otp@app.test>").await;
    let reply = app.say("RCPT TO:<alice@example.test>").await;
    assert!(reply.starts_with("550 5.1.1 suppressed: hard bounce on 2026-11-22, until 2026-11-22T11:0"), "{reply}");
    relay.shut_down().await;
}
