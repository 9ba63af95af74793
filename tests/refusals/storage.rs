//! Where there is no room, or the relay stops, at both doors.

use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::relay::Environment;
use serde_json::{Value, json};

use crate::support::client::mail;
use crate::support::http::Http;
use crate::{Bench, FROM, TRUSTING, expect};

fn code(to: &str) -> Value {
    json!({"from": "otp@app.test", "to": to, "otp": {"code": "481516"}})
}

/// Whether `/metrics` counts this.
async fn counts(bench: &Bench, number: u32, labels: &str) -> bool {
    let metrics = bench.operator.get("/metrics").await.body;
    metrics.contains(&format!("otp_relay_refused_total{{{labels}}} {number}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_so_with_its_limit() {
    let bench = Bench::new("[queue]\nentries_max = 1\n").await;
    let mut client = bench.client("127.0.0.50", TRUSTING).await;
    assert!(client.submit(&["alice@ill.test"], &mail("1")).await.starts_with("250"), "nobody knows the way there");
    let reply = client.submit(&["bob@ill.test"], &mail("2")).await;
    assert_eq!(reply, "452 4.3.1 the queue is full (queue.entries_max = 1), try again later");
    let answer =
        bench.http.post("/v1/messages", json!({"from": "otp@app.test", "to": "carol@ill.test", "otp": {"code": "1"}}));
    let answer = answer.await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("the queue is full (queue.entries_max = 1)"), "{}", answer.body);
    drop(client);
    let lines = bench.end().await;
    let limit = "queue.entries_max";
    expect(&lines, &json!({"door": "smtp", "stage": "content", "code": 452, "reason": "queue_full", "limit": limit}));
    expect(&lines, &json!({"door": "http", "code": 503, "reason": "queue_full", "limit": limit}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_was_no_room_for_costs_nothing_of_a_rate() {
    let bench = Bench::new("[queue]\nentries_max = 1\n").await;
    let slow = Http { token: "token of slow".to_owned(), ..bench.http.clone() };
    let first = bench.http.post("/v1/messages", code("alice@ill.test")).await.json();
    for _ in 0..2 {
        let refused = slow.post("/v1/messages", code("bob@ill.test")).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
    }
    let path = format!("/v1/messages/{}", first["id"].as_str().unwrap());
    assert_eq!(bench.http.delete(&path).await.status, 200);
    let taken = slow.post("/v1/messages", code("bob@ill.test")).await;
    assert_eq!(taken.status, 202, "{}", taken.body);
    let refused = slow.post("/v1/messages", code("bob@ill.test")).await;
    assert_eq!(refused.status, 429, "what was taken does: {}", refused.body);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_says_so_and_is_told() {
    let store = MemoryStore::default();
    let bench = Bench::on(Environment { store: Some(store.clone()), ..Environment::default() }, "", "").await;
    let mut client = bench.client("127.0.0.90", TRUSTING).await;
    assert!(client.submit(&["alice@example.test"], &mail("1")).await.starts_with("250"));
    store.set_failing(true);
    let reply = client.submit(&["bob@example.test"], &mail("2")).await;
    assert_eq!(reply, "452 4.3.1 the disk is full or fails, try again later");
    assert_eq!(bench.http.post("/v1/messages", code("carol@example.test")).await.status, 503);
    assert!(counts(&bench, 1, "door=\"smtp\",stage=\"content\",reason=\"disk_full\"").await);
    assert!(counts(&bench, 1, "door=\"http\",stage=\"messages\",reason=\"disk_full\"").await);
    store.set_failing(false);
    drop(client);
    let lines = bench.end().await;
    expect(
        &lines,
        &json!({"peer": "127.0.0.90", "door": "smtp", "stage": "content", "code": 452, "reason": "disk_full",
            "recipient": "b***b@example.test", "text": "the disk is full or fails, try again later"}),
    );
    expect(&lines, &json!({"door": "http", "user": "shop", "code": 503, "reason": "disk_full"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_tells_whom_it_turns_away() {
    let bench = Bench::new("").await;
    let mut idle = bench.client("127.0.0.91", TRUSTING).await;
    let mut client = bench.client("127.0.0.92", TRUSTING).await;
    for line in [FROM, "RCPT TO:<alice@example.test>", "DATA"] {
        client.say(line).await;
    }
    let mut stream = bench.http.follow("/v1/events", "").await;
    bench.relay.begin_to_drain();
    assert_eq!(idle.hear().await, "421 4.3.2 shutting down, try again in a moment");
    // What is under way may end.
    assert!(client.say(&format!("{}\r\n.", mail("1"))).await.starts_with("250"));
    assert_eq!(client.hear().await, "421 4.3.2 shutting down, try again in a moment");
    let answer = bench.http.post("/v1/messages", code("bob@example.test")).await;
    assert_eq!(answer.status, 503);
    assert!(counts(&bench, 2, "door=\"smtp\",stage=\"command\",reason=\"shutting_down\"").await);
    assert!(counts(&bench, 1, "door=\"http\",stage=\"messages\",reason=\"shutting_down\"").await);
    let addresses = bench.addresses.clone();
    let stopping = tokio::spawn(bench.end());
    let (_, name, bye) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &bye["reason"]), ("bye", &json!("shutting down")), "{addresses:?}");
    let lines = stopping.await.unwrap();
    for expected in [
        json!({"peer": "127.0.0.91", "door": "smtp", "stage": "command", "code": 421, "reason": "shutting_down"}),
        json!({"peer": "127.0.0.92", "stage": "command", "code": 421, "reason": "shutting_down"}),
        json!({"door": "http", "user": "shop", "stage": "messages", "code": 503, "reason": "shutting_down"}),
    ] {
        expect(&lines, &expected);
    }
}
