//! The HTTP API over real sockets: every endpoint and every documented error.

use std::collections::BTreeSet;

use crate::support::bench::Bench;
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use otp_relay::testing::event::Kind;
use otp_relay::testing::event::cause::Cause;
use serde_json::{Value, json};

const PIPELINING: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000"];

async fn bench() -> Bench {
    bench_with("").await
}

async fn bench_with(more: &str) -> Bench {
    bench_on(tempfile::tempdir().unwrap(), FakeMx::start(PIPELINING).await, more)
}

fn bench_on(folder: tempfile::TempDir, mx: FakeMx, more: &str) -> Bench {
    Bench::on(folder, mx, "senders = [\"*@NAME.test\"]\nlife = \"2m\"", more)
}

fn mail(to: &str) -> Value {
    json!({"from": "otp@shop.test", "to": to, "subject": "481516 is your code", "text": "It is 481516.\n"})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn text(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_in_and_its_story_comes_out() {
    let mut bench = bench().await;
    let answer = bench.shop.post("/v1/messages", with(mail("alice@example.test"), json!({"tag": "signup"}))).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.id();
    assert_eq!(answer.json()["entries"][0]["recipient"], "alice@example.test");
    let delivered = bench.events.next(Kind::Delivered).await;
    assert_eq!(delivered.head.id.to_string(), id);
    let message = bench.shop.get(&format!("/v1/messages/{id}")).await.json();
    assert_eq!(
        (&message["user"], &message["lane"], &message["tag"]),
        (&json!("shop"), &json!("otp"), &json!("signup"))
    );
    let entry = &message["entries"][0];
    assert_eq!((&entry["state"], &entry["attempts"]), (&json!("delivered"), &json!(1)));
    assert_eq!(entry["last_reply"], "250 2.0.0 taken");
    let events = message["events"].as_array().unwrap();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("accepted", "delivered"));
    let steps = events.last().unwrap()["steps"].as_array().unwrap();
    let stages: Vec<&str> = steps.iter().map(|step| step["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["DNS", "connect", "banner", "EHLO", "MAIL", "RCPT", "DATA", "content"]);
    assert_eq!((&steps[0]["host"], &steps[0]["result"]), (&json!("example.test"), &json!("mx.test")));
    assert!(steps[1..].iter().all(|step| step["ms"].is_u64() && step["host"] == "mx.test"));
    assert_eq!(steps[5]["result"], "250 2.1.5 ok");
    let received = &bench.mx.received()[0];
    let content = text(&received.content);
    assert!(received.mail.starts_with("MAIL FROM:<otp@shop.test>"));
    assert!(content.starts_with("Received: by relay.test (otp-relay) with HTTP id "), "{content}");
    assert!(content.contains("Subject: 481516 is your code\r\n") && content.contains("@shop.test>\r\n"), "{content}");
    assert!(!message.to_string().contains("481516"), "{message}");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_composed_by_the_template() {
    let mut bench = bench().await;
    for (locale, subject) in [("en", "481516 is your code for Example Shop"), ("de-AT", "481516 ist Ihr Code")] {
        let otp = json!({"code": "481516", "app": "Example Shop", "locale": locale});
        let body = json!({"from": "otp@shop.test", "to": ["alice@example.test"], "otp": otp, "life": "5m"});
        assert_eq!(bench.shop.post("/v1/messages", body).await.status, 202);
        bench.events.next(Kind::Delivered).await;
        let received = bench.mx.received();
        let content = &received.last().unwrap().content;
        let mail = mail_parser::MessageParser::default().parse(content).unwrap();
        assert!(mail.subject().unwrap().starts_with(subject));
        assert_eq!(mail.from().unwrap().first().unwrap().name(), Some("Example Shop"));
        assert!(mail.body_text(0).unwrap().contains(if locale == "en" { "for 5 minutes" } else { "gilt 5 Minuten" }));
        assert!(mail.body_html(0).unwrap().contains("481516"));
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_made_to_end_in_crlf() {
    let mut bench = bench().await;
    let raw = "From: otp@shop.test\nSubject: x\nX-OTP-Tag: raw\n\none\r\ntwo\n";
    let body = json!({"from": "otp@shop.test", "to": "alice@example.test", "raw": raw});
    assert_eq!(bench.shop.post("/v1/messages", body).await.status, 202);
    let delivered = bench.events.next(Kind::Delivered).await;
    assert_eq!(delivered.head.tag.as_deref(), Some("raw"));
    assert!(text(&bench.mx.received()[0].content).ends_with("\r\nSubject: x\r\n\r\none\r\ntwo\r\n"));
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_wait_for_the_end() {
    let bench = bench().await;
    bench.mx.trick("RCPT TO:<bob", Trick::Say("550 5.1.1 no such user"), 1);
    let to = json!({"to": ["alice@example.test", "bob@example.test"], "wait": "delivered"});
    let answer = bench.shop.post("/v1/messages", with(mail(""), to)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let entries = answer.json()["entries"].clone();
    assert_eq!((&entries[0]["state"], &entries[1]["state"]), (&json!("delivered"), &json!("failed")));
    assert_eq!(
        (&entries[1]["cause"], &entries[1]["last_reply"]),
        (&json!("bad_mailbox"), &json!("550 5.1.1 no such user"))
    );
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_used_say_why() {
    let bench = bench().await;
    let alice = || mail("alice@example.test");
    for (body, status, detail) in [
        (json!({"from": "otp@shop.test"}), 422, "missing field `to`"),
        (with(alice(), json!({"lfe": 5})), 422, "unknown field `lfe`"),
        (with(alice(), json!({"to": 5})), 422, "an address or a list of addresses"),
        (with(alice(), json!({"to": []})), 422, "to: 1 to 100 addresses"),
        (with(alice(), json!({"to": "alice"})), 422, "to: an address has the form"),
        (with(alice(), json!({"from": "@"})), 422, "from: "),
        (with(alice(), json!({"text": "a\rb"})), 422, "text: a CR without LF"),
        (with(alice(), json!({"html": "a\r"})), 422, "html: a CR without LF"),
        (with(alice(), json!({"subject": "a\r\nBcc: b@example.test"})), 422, "subject: "),
        (with(alice(), json!({"raw": "From: otp@shop.test\n\nx"})), 422, "exactly one of these"),
        (with(alice(), json!({"text": null})), 422, "exactly one of these"),
        (with(alice(), json!({"life": 4})), 422, "a life is 5 to 86400 seconds"),
        (with(alice(), json!({"life": "soon"})), 422, "life: "),
        (with(alice(), json!({"lane": "fast"})), 422, "lane: "),
        (with(alice(), json!({"key": ""})), 422, "a key is 1 to 200"),
        (with(alice(), json!({"tag": "a b"})), 422, "a tag is 1 to 64"),
        (with(alice(), json!({"wait": "long"})), 422, "unknown variant"),
        (with(alice(), json!({"to": "a@gone.test"})), 422, "a@gone.test: no such domain"),
        (with(alice(), json!({"to": "a@null.test"})), 422, "null MX"),
        (with(alice(), json!({"to": "a@[192.0.2.1]"})), 422, "addresses in brackets"),
        (with(alice(), json!({"from": "otp@bank.test"})), 403, "allowed are *@shop.test"),
        (with(alice(), json!({"text": "x".repeat(1 << 20)})), 413, "a message of more than"),
        (with(alice(), json!({"text": "x".repeat(3 << 20)})), 413, "a request of more than"),
        (json!({"from": "otp@shop.test", "to": "a@example.test", "otp": {"code": "<b>"}}), 422, "otp.code"),
        (
            json!({"from": "otp@shop.test", "to": "a@example.test", "raw": "From: ceo@bank.test\n\nx"}),
            403,
            "From not allowed",
        ),
        (json!({"from": "otp@shop.test", "to": "a@example.test", "raw": "Subject: x\n\nx"}), 422, "no From field"),
    ] {
        let answer = bench.shop.post("/v1/messages", body.clone()).await;
        let problem = answer.json();
        assert_eq!(answer.status, status, "{body}: {problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(answer.field("content-type"), "application/problem+json");
        let told = problem["detail"].as_str().unwrap();
        assert!(told.contains(detail), "{told}");
    }
    assert_eq!(bench.shop.ask("POST", "/v1/messages", "", "{").await.status, 422);
    for path in ["/v1/messages/%FF", "/v1/suppressions/%ff@example.test"] {
        let answer = bench.shop.get(path).await;
        assert_eq!((answer.status, answer.field("content-type")), (404, "application/problem+json"), "{path}");
    }
    assert_eq!(bench.relay.queue().depth().messages, 0);
    assert!(bench.mx.received().is_empty());
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_token_is_heard() {
    let bench = bench().await;
    let nobody = Http { token: String::new(), ..bench.shop.clone() };
    let stranger = Http { token: "token of nobody".into(), ..bench.shop.clone() };
    for (method, path) in [
        ("POST", "/v1/messages"),
        ("GET", "/v1/messages?recipient=a@example.test"),
        ("GET", "/v1/messages/01M7YRRT9A0000000000000000"),
        ("DELETE", "/v1/messages/01M7YRRT9A0000000000000000"),
        ("POST", "/v1/messages/01M7YRRT9A0000000000000000/verified"),
        ("GET", "/v1/events"),
        ("GET", "/v1/queue"),
        ("POST", "/v1/queue/retry"),
    ] {
        for http in [&nobody, &stranger] {
            let answer = http.ask(method, path, "", "{}").await;
            assert_eq!((answer.status, answer.field("www-authenticate")), (401, "bearer"), "{method} {path}");
        }
    }
    let basic = nobody.ask("GET", "/v1/queue", "Authorization: Basic dG9rZW4gb2Ygc2hvcA==\r\n", "").await;
    assert_eq!(basic.status, 401);
    assert_eq!(bench.shop.get("/v2").await.status, 404);
    assert_eq!(bench.shop.ask("PUT", "/v1/messages", "", "").await.status, 405);
    let file = std::fs::metadata(bench.folder.path().join("data/api.token")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
    bench.relay.shut_down().await;
}

/// A client that sends all of its request before it reads, as most do, hears why it was refused; also of a request that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_heard_behind_a_long_request() {
    let bench = bench().await;
    let nobody = Http { token: String::new(), ..bench.shop.clone() };
    let long = "x".repeat(24 << 20);
    for (http, path, status) in [
        (&nobody, "/v1/messages", 401),
        (&bench.shop, "/v1/messages", 413),
        (&bench.shop, "/emails/batch", 413),
        (&bench.shop, "/v2", 404),
        (&bench.shop, "/v1/queue/retry", 413),
    ] {
        assert_eq!(http.ask("POST", path, "", &long).await.status, status, "{path}");
        let fields = format!("X-Long: {long}\r\n");
        assert_eq!(http.ask("POST", path, &fields, "{}").await.status, 431, "{path}");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_see_their_own_and_the_operator_everything() {
    let mut bench = bench().await;
    let sent = bench.operator.post("/v1/messages", mail("alice@example.test")).await;
    assert_eq!((sent.status, &sent.json()["user"]), (202, &json!("shop")));
    bench.events.next(Kind::Delivered).await;
    let id = sent.id();
    let path = format!("/v1/messages/{id}");
    for (http, status) in [(&bench.operator, 200), (&bench.shop, 200), (&bench.bank, 404)] {
        assert_eq!(http.get(&path).await.status, status);
    }
    for (http, count) in [(&bench.operator, 1), (&bench.shop, 1), (&bench.bank, 0)] {
        let list = http.get("/v1/messages?recipient=ALICE%40example.test").await.json();
        assert_eq!(list["messages"].as_array().unwrap().len(), count);
    }
    assert_eq!(bench.bank.delete(&path).await.status, 404);
    assert_eq!(bench.bank.post(&format!("{path}/verified"), json!({})).await.status, 404);
    assert_eq!(bench.bank.get(&format!("/v1/events?message={id}")).await.status, 404);
    let nobodys = with(mail("alice@example.test"), json!({"from": "otp@nobody.test"}));
    assert_eq!(bench.operator.post("/v1/messages", nobodys).await.status, 403);
    let plus = with(mail("alice+1@example.test"), json!({"to": ["alice+1@example.test", "alice+1@example.test"]}));
    assert_eq!(bench.shop.post("/v1/messages", plus).await.json()["entries"].as_array().unwrap().len(), 1);
    let list = bench.shop.get("/v1/messages?recipient=alice+1@example.test").await.json();
    assert_eq!(list["messages"].as_array().unwrap().len(), 1);
    assert_eq!(bench.operator.get("/v1/messages?limit=101").await.status, 422);
    assert_eq!(bench.operator.get("/v1/messages?recipient=alice").await.status, 422);
    assert_eq!(bench.operator.get("/v1/messages/1").await.status, 404);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_can_be_taken_back() {
    let mut bench = bench().await;
    bench.mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted"), 1);
    let id = bench.shop.post("/v1/messages", mail("alice@example.test")).await.id();
    bench.events.next(Kind::Greylisted).await;
    let waiting = bench.shop.get(&format!("/v1/messages/{id}")).await.json();
    assert_eq!(
        (&waiting["entries"][0]["state"], &waiting["entries"][0]["cause"]),
        (&json!("deferred"), &json!("greylisted"))
    );
    assert!(waiting["entries"][0]["next_attempt_at"].is_string());
    let answer = bench.shop.delete(&format!("/v1/messages/{id}")).await;
    assert_eq!((answer.status, &answer.json()["may_still_arrive"]), (200, &json!(false)));
    assert_eq!(answer.json()["entries"][0]["state"], "cancelled");
    bench.events.next(Kind::Cancelled).await;
    assert_eq!(bench.shop.get(&format!("/v1/messages/{id}")).await.json()["entries"][0]["state"], "cancelled");
    let again = bench.shop.delete(&format!("/v1/messages/{id}")).await.json();
    assert_eq!(again["entries"][0]["state"], "cancelled");
    bench.relay.shut_down().await;
    assert!(bench.mx.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_may_still_arrive() {
    let mut bench = bench().await;
    bench.mx.trick("content", Trick::Say("451 4.3.0 later"), 1);
    bench.mx.trick("content", Trick::Close, 1);
    let body = with(mail("alice@example.test"), json!({"key": "login:42"}));
    bench.shop.post("/v1/messages", body).await;
    bench.events.next(Kind::Deferred).await;
    let retried = bench.shop.post("/v1/queue/retry", json!({"destination": "example.test"})).await.json();
    assert_eq!(retried["retried"].as_array().unwrap().len(), 1);
    let lost = bench.events.next(Kind::Deferred).await;
    assert_eq!(lost.cause(), Some(Cause::OutcomeUnknown));
    assert!(bench.bank.delete("/v1/messages?key=login:42").await.json()["entries"].as_array().unwrap().is_empty());
    assert_eq!(bench.shop.delete("/v1/messages").await.status, 422);
    let answer = bench.shop.delete("/v1/messages?key=login:42&recipient=alice@example.test").await.json();
    assert_eq!((&answer["may_still_arrive"], &answer["entries"][0]["state"]), (&json!(true), &json!("cancelled")));
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_can_be_looked_at_and_hurried() {
    let mut bench = bench().await;
    // Each message twice: the session that is opened for it ahead, and its attempt.
    bench.mx.trick("banner", Trick::Say("421 4.3.2 later"), 4);
    let id = bench.shop.post("/v1/messages", mail("alice@a.test")).await.id();
    bench.events.next(Kind::Deferred).await;
    bench.operator.post("/v1/messages", with(mail("bob@b.test"), json!({"from": "otp@bank.test"}))).await;
    bench.events.next(Kind::Deferred).await;
    for (http, query, count) in [
        (&bench.operator, "", 2),
        (&bench.operator, "?state=deferred", 2),
        (&bench.operator, "?state=queued", 0),
        (&bench.operator, "?destination=A.test", 1),
        (&bench.shop, "?limit=5", 1),
        (&bench.shop, "?destination=b.test", 0),
    ] {
        let queue = http.get(&format!("/v1/queue{query}")).await.json();
        assert_eq!((&queue["entries"], queue["messages"].as_array().unwrap().len()), (&json!(count), count), "{query}");
    }
    assert_eq!(bench.operator.get("/v1/queue?state=delivered").await.status, 422);
    assert_eq!(bench.operator.get("/v1/queue?colour=red").await.status, 422);
    assert_eq!(bench.operator.post("/v1/queue/retry", json!({})).await.status, 422);
    assert_eq!(bench.bank.post("/v1/queue/retry", json!({"id": id})).await.status, 404);
    let others = bench.bank.post("/v1/queue/retry", json!({"destination": "a.test"})).await.json();
    assert!(others["retried"].as_array().unwrap().is_empty());
    let retried = bench.operator.post("/v1/queue/retry", json!({"id": format!("{id}-1")})).await.json();
    assert_eq!(retried["retried"], json!([format!("{id}-1")]));
    assert_eq!(bench.events.next(Kind::Delivered).await.head.id.to_string(), id);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_would_come_too_late_is_at_risk_in_the_answer() {
    let mut bench = bench().await;
    bench.mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted, try again in 900 seconds"), 2);
    let first = with(mail("alice@example.test"), json!({"life": "1h"}));
    let first = bench.shop.post("/v1/messages", first).await.json();
    assert_eq!((&first["entries"][0]["at_risk"], &first["entries"][0]["predicted_at"]), (&json!(false), &Value::Null));
    let refused = bench.events.next(Kind::Greylisted).await;
    let opens_at = json!(refused.head.time.plus(std::time::Duration::from_millis(901_200)).rfc3339());
    let answer = bench.shop.post("/v1/messages", mail("alice@example.test")).await;
    assert_eq!(answer.status, 202);
    let second = answer.json();
    let told = bench.events.next(Kind::AtRisk).await;
    assert_eq!((told.head.id.to_string(), told.head.attempt), (second["id"].as_str().unwrap().to_owned(), 0));
    let first = bench.shop.get(&format!("/v1/messages/{}", first["id"].as_str().unwrap())).await.json();
    let second_now = bench.shop.get(&format!("/v1/messages/{}", told.head.id)).await.json();
    let listed = bench.shop.get("/v1/queue").await.json()["messages"][1].clone();
    for (message, at_risk) in [(&first, false), (&second, true), (&second_now, true), (&listed, true)] {
        let entry = &message["entries"][0];
        assert_eq!((&entry["at_risk"], &entry["predicted_at"]), (&json!(at_risk), &opens_at), "{message}");
    }
    bench.shop.delete(&format!("/v1/messages/{}", told.head.id)).await;
    let ended = bench.shop.get(&format!("/v1/messages/{}", told.head.id)).await.json();
    let entry = &ended["entries"][0];
    assert_eq!((&entry["at_risk"], &entry["predicted_at"]), (&json!(true), &Value::Null), "what it was");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_code_is_noted_once() {
    let mut bench = bench().await;
    let body = with(mail("alice@example.test"), json!({"tag": "signup"}));
    let id = bench.shop.post("/v1/messages", body).await.id();
    bench.events.next(Kind::Delivered).await;
    for _ in 0..2 {
        assert_eq!(bench.shop.post(&format!("/v1/messages/{id}/verified"), json!({})).await.status, 204);
    }
    let verified = bench.events.next(Kind::Verified).await;
    assert_eq!((verified.head.id.to_string(), verified.head.tag.as_deref()), (id.clone(), Some("signup")));
    let message = bench.shop.get(&format!("/v1/messages/{id}")).await.json();
    let is_verified = |event: &&Value| event["event"] == "verified";
    assert_eq!(message["events"].as_array().unwrap().iter().filter(is_verified).count(), 1);
    assert_eq!(message["entries"][0]["state"], "delivered");
    let unknown = "/v1/messages/01M7YRRT9A0000000000000000/verified";
    assert_eq!(bench.shop.post(unknown, json!({})).await.status, 404);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_outlive_the_relay() {
    let mut bench = bench().await;
    let id = bench.shop.post("/v1/messages", mail("alice@example.test")).await.id();
    bench.events.next(Kind::Delivered).await;
    let before = bench.shop.get(&format!("/v1/messages/{id}")).await.json();
    let (token, folder, mx) = (bench.operator.token.clone(), bench.folder, bench.mx);
    bench.relay.shut_down().await;
    let bench = bench_on(folder, mx, "");
    assert_eq!(bench.operator.token, token);
    assert_eq!(bench.shop.get(&format!("/v1/messages/{id}")).await.json(), before);
    let list = bench.shop.get("/v1/messages?recipient=alice@example.test").await.json();
    assert_eq!(list["messages"][0]["id"], id);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_can_be_followed() {
    let bench = bench().await;
    let (mut all, mut shops, mut banks) = (
        bench.operator.follow("/v1/events", "").await,
        bench.shop.follow("/v1/events", "").await,
        bench.bank.follow("/v1/events", "").await,
    );
    let id = bench.shop.post("/v1/messages", mail("alice@example.test")).await.id();
    let mut last_id = String::new();
    for stream in [&mut all, &mut shops] {
        let (event_id, name, data) = stream.next().await.unwrap();
        assert_eq!((name.as_str(), &data["id"]), ("accepted", &json!(id)));
        assert_eq!((&data["event"], &data["recipient"]), (&json!("accepted"), &json!("alice@example.test")));
        last_id = event_id;
        while stream.next().await.unwrap().1 != "delivered" {}
    }
    let own = with(mail("bob@example.test"), json!({"from": "otp@bank.test"}));
    bench.bank.post("/v1/messages", own).await;
    assert_eq!(banks.next().await.unwrap().2["recipient"], "bob@example.test");
    let mut again = bench.shop.follow("/v1/events", &format!("Last-Event-ID: {last_id}\r\n")).await;
    assert_ne!(again.next().await.unwrap().1, "accepted");
    let mut of_other_life = bench.shop.follow("/v1/events", "Last-Event-ID: 1-5\r\n").await;
    assert_eq!(of_other_life.next().await.unwrap().1, "missed");
    assert_eq!(of_other_life.next().await.unwrap().1, "accepted");
    // The story of one message, which ends with it.
    let mut story = bench.shop.follow(&format!("/v1/events?message={id}"), "").await;
    let mut names = Vec::new();
    while let Some((_, name, data)) = story.next().await {
        assert_eq!(data["id"], id);
        names.push(name);
    }
    assert_eq!((names[0].as_str(), names.last().unwrap().as_str()), ("accepted", "delivered"));
    bench.relay.shut_down().await;
    let mut last = String::new();
    while let Some((_, name, _)) = all.next().await {
        last = name;
    }
    assert_eq!(last, "bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_bounded() {
    let bench = bench().await;
    let mut streams = Vec::new();
    for (http, count) in [(&bench.shop, 8), (&bench.operator, 16)] {
        for _ in 0..count {
            streams.push(http.follow("/v1/events", "").await);
        }
        let answer = http.get("/v1/events").await;
        assert_eq!((answer.status, answer.field("retry-after")), (429, "5"));
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_need_no_token() {
    let mut bench = bench().await;
    let anybody = Http { token: String::new(), ..bench.shop.clone() };
    assert_eq!(anybody.get("/healthz").await.status, 200);
    assert_eq!(anybody.get("/readyz").await.status, 200);
    bench.shop.post("/v1/messages", with(mail("alice@example.test"), json!({"tag": "signup"}))).await;
    bench.events.next(Kind::Delivered).await;
    // The events are in the counters once an answer that waits for them has been given.
    bench.shop.get("/v1/messages?recipient=alice@example.test").await;
    let metrics = anybody.get("/metrics").await;
    assert!(metrics.field("content-type").starts_with("text/plain; version=0.0.4"));
    for line in [
        "otp_relay_events_total{event=\"accepted\",lane=\"otp\"} 1",
        "otp_relay_events_total{event=\"delivered\",lane=\"otp\"} 1",
        "otp_relay_tag_events_total{event=\"delivered\",tag=\"signup\"} 1",
        "otp_relay_delivery_seconds_count{lane=\"otp\"} 1",
        "otp_relay_delivery_seconds_bucket{lane=\"otp\",le=\"+Inf\"} 1",
        "otp_relay_queue_entries{state=\"deferred\"} 0",
        "otp_relay_sessions 1",
        "otp_relay_destinations_down 0",
        "otp_relay_able_to_store 1",
    ] {
        assert!(metrics.body.lines().any(|told| told == line), "{line} is missing in {}", metrics.body);
    }
    bench.relay.shut_down().await;
}

/// Nobody has to guess what a name means, and no name is gone without a word.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_in_the_list() {
    let bench = bench().await;
    let told = bench.shop.get("/metrics").await;
    let names = |text: &str| -> BTreeSet<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split(' ').next().unwrap().trim_start_matches("otp_relay_").to_owned()).collect()
    };
    let listed: BTreeSet<String> = include_str!("../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect();
    assert_eq!(names(&told.body), listed);
    let open = bench.shop.ask("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n", "").await;
    assert!(open.field("content-type").starts_with("application/openmetrics-text"), "{}", open.body);
    assert!(open.body.ends_with("# EOF\n") && !open.body.contains("# TYPE otp_relay_events_total "));
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_s_cookie_reads_and_changes_nothing_by_itself() {
    let bench = bench().await;
    let token = bench.operator.token.clone();
    let anybody = Http { token: String::new(), ..bench.operator.clone() };
    let page = anybody.get("/").await;
    assert_eq!((page.status, page.field("x-content-type-options")), (200, "nosniff"));
    assert!(page.field("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
    let body = json!({"token": token}).to_string();
    assert_eq!(anybody.ask("POST", "/page/session", "", &body).await.status, 403);
    let own = "X-OTP-Page: 1\r\n";
    let signed_in = anybody.ask("POST", "/page/session", own, &body).await;
    assert_eq!(signed_in.status, 204, "{}", signed_in.body);
    let set = signed_in.field("set-cookie");
    assert!(set.starts_with("otp_relay_token=") && set.ends_with("; httponly; samesite=strict"), "{set}");
    let by_tls = anybody.ask("POST", "/page/session", &format!("{own}Origin: https://relay.test\r\n"), &body).await;
    assert!(by_tls.field("set-cookie").ends_with("; samesite=strict; secure"), "{}", by_tls.field("set-cookie"));
    let cookie = format!("Cookie: other=1; otp_relay_token={token}\r\n");
    let data = anybody.ask("GET", "/page/data", &cookie, "").await;
    assert_eq!((data.json()["who"].as_str(), data.field("cache-control")), (Some("operator"), "no-store"));
    let address = "/v1/suppressions/bob@example.test";
    let put = bench.operator.ask("PUT", address, "", "{\"reason\":\"x\"}").await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(anybody.ask("DELETE", address, &cookie, "").await.status, 401);
    assert_eq!(anybody.ask("DELETE", address, &format!("{cookie}{own}"), "").await.status, 204);
    let wrong = anybody.ask("POST", "/page/session", own, "{\"token\":\"nobody\"}").await;
    assert_eq!(wrong.status, 401);
    assert_eq!(anybody.get("/page/data").await.json()["who"], Value::Null);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_relay_says_so() {
    let bench = bench().await;
    bench.relay.begin_to_drain();
    let ready = bench.shop.get("/readyz").await;
    assert_eq!((ready.status, ready.field("retry-after")), (503, "5"));
    let answer = bench.shop.post("/v1/messages", mail("alice@example.test")).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "5"));
    assert_eq!(bench.shop.get("/healthz").await.status, 200);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let mut bench = bench_with("[queue]\nentries_max = 1\n").await;
    bench.mx.trick("RCPT", Trick::Say("451 4.3.0 later"), 9);
    assert_eq!(bench.shop.post("/v1/messages", mail("alice@example.test")).await.status, 202);
    bench.events.next(Kind::Deferred).await;
    let answer = bench.shop.post("/v1/messages", mail("bob@example.test")).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "5"));
    assert_eq!(answer.json()["type"], "urn:otp-relay:full");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_answered_with_the_first() {
    let mut bench = bench_with("[otp]\nrecipient_budget = \"1/10m\"\n").await;
    let key = "Idempotency-Key: login-42\r\n";
    let otp = |code: &str| {
        let otp = json!({"code": code, "app": "Shop"});
        json!({"from": "otp@shop.test", "to": "alice@example.test", "otp": otp}).to_string()
    };
    let first = bench.shop.ask("POST", "/v1/messages", key, &otp("481516")).await;
    bench.events.next(Kind::Delivered).await;
    let again = bench.shop.ask("POST", "/v1/messages", key, &otp("481516")).await;
    assert_eq!((first.status, again.status), (202, 202), "{again:?}");
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.json()["entries"][0]["state"], "delivered");
    let other = bench.shop.ask("POST", "/v1/messages", key, &otp("232342")).await;
    assert_eq!((other.status, other.json()["type"].as_str()), (409, Some("urn:otp-relay:idempotency-conflict")));
    assert!(!other.body.contains("232342"));
    let without_ascii = bench.shop.ask("POST", "/v1/messages", "Idempotency-Key: \u{fc}\r\n", &otp("1234")).await;
    assert_eq!(without_ascii.status, 422);
    assert_eq!(bench.mx.received().len(), 1);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enough_is_enough_for_a_recipient() {
    let mut bench = bench_with("[otp]\nrecipient_budget = \"1/10m\"\n").await;
    let notice = with(mail("alice@example.test"), json!({"lane": "notice"}));
    assert_eq!(bench.shop.post("/v1/messages", mail("alice@example.test")).await.status, 202);
    bench.events.next(Kind::Delivered).await;
    for body in [mail("alice@example.test"), notice] {
        let mut answer = bench.shop.post("/v1/messages", body).await;
        if answer.status == 202 {
            answer = bench.shop.post("/v1/messages", mail("alice@example.test")).await;
        }
        assert_eq!((answer.status, answer.json()["type"].as_str()), (429, Some("urn:otp-relay:budget")), "{answer:?}");
        let wait: u64 = answer.field("retry-after").parse().unwrap();
        assert!((1..=600).contains(&wait), "{wait}");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_code_takes_the_older_ones_place() {
    let mut bench = bench().await;
    bench.mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted"), 1);
    let keyed = || with(mail("alice@example.test"), json!({"key": "login:42"}));
    let older = bench.shop.post("/v1/messages", keyed()).await.id();
    bench.events.next(Kind::Greylisted).await;
    bench.shop.post("/v1/messages", keyed()).await;
    bench.events.next(Kind::Delivered).await;
    let message = bench.shop.get(&format!("/v1/messages/{older}")).await.json();
    assert_eq!(message["entries"][0]["state"], "superseded");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_can_be_suppressed_and_freed() {
    let mut bench = bench().await;
    bench.mx.trick("RCPT TO:<alice", Trick::Say("550 5.1.1 no such user"), 1);
    let id = bench.shop.post("/v1/messages", mail("alice@example.test")).await.json()["id"].clone();
    bench.events.next(Kind::Failed).await;
    let listed = bench.operator.get("/v1/suppressions").await.json();
    assert_eq!(listed["count"], 1);
    let entry = &listed["suppressions"][0];
    assert_eq!((&entry["address"], &entry["source"]), (&json!("alice@example.test"), &json!("learned")));
    assert_eq!(entry["reason"], "bad_mailbox: 550 5.1.1 no such user");
    let refused = bench.shop.post("/v1/messages", mail("Alice@example.test")).await;
    assert_eq!((refused.status, &refused.json()["type"]), (422, &json!("urn:otp-relay:suppressed")));
    assert_ne!(id, json!(null));

    assert_eq!(bench.shop.delete("/v1/suppressions/alice@example.test").await.status, 403);
    assert_eq!(bench.operator.delete("/v1/suppressions/alice@example.test").await.status, 204);
    assert_eq!(bench.operator.delete("/v1/suppressions/alice@example.test").await.status, 404);
    assert_eq!(bench.operator.get("/v1/suppressions/alice@example.test").await.status, 404);
    assert_eq!(bench.shop.post("/v1/messages", mail("alice@example.test")).await.status, 202);

    let put = bench.operator.ask("PUT", "/v1/suppressions/@spam.test", "", r#"{"reason": "traps"}"#).await;
    assert_eq!((put.status, &put.json()["source"]), (200, &json!("manual")));
    assert_eq!(bench.shop.post("/v1/messages", mail("anybody@spam.test")).await.status, 422);
    assert_eq!(bench.operator.ask("PUT", "/v1/suppressions/nobody", "", "{}").await.status, 422);
    let learned = bench.operator.ask("PUT", "/v1/suppressions/a@b.test", "", r#"{"source": "learned"}"#).await;
    assert_eq!(learned.status, 422);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_for_the_operator() {
    let bench = bench().await;
    let answer = bench.operator.get("/v1/destinations/example.test").await;
    let learned = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!((&learned["hosts"], &learned["greylisting"]), (&json!(["mx.test"]), &Value::Null));
    assert_eq!(bench.shop.get("/v1/destinations/example.test").await.status, 403);
    assert_eq!(bench.operator.get("/v1/destinations/gone.test").await.status, 422);
    assert_eq!(bench.operator.get("/v1/destinations/not%20a%20domain").await.status, 422);
    bench.relay.shut_down().await;
}

/// What happened is told once it is on disk, so a stream goes on behind what was read of it, whatever happened to the relay.
#[tokio::test(flavor = "multi_thread")]
async fn events_and_statistics_outlast_a_restart() {
    let mut bench = bench().await;
    let mut stream = bench.shop.follow("/v1/events", "").await;
    bench.shop.post("/v1/messages", mail("alice@example.test")).await;
    let (id, name, _) = stream.next().await.unwrap();
    assert_eq!(name, "accepted");
    bench.events.next(Kind::Delivered).await;
    let Bench { relay, mx, folder, .. } = bench;
    relay.shut_down().await;
    let bench = bench_on(folder, mx, "");
    let mut stream = bench.shop.follow("/v1/events", &format!("Last-Event-ID: {id}\r\n")).await;
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != "delivered") {
        names.push(stream.next().await.unwrap().1);
    }
    assert!(!names.contains(&"missed".to_owned()) && !names.contains(&"accepted".to_owned()), "{names:?}");
    let stats = bench.shop.get("/v1/stats?by=destination").await.json();
    assert_eq!((&stats["total"]["accepted"], &stats["total"]["in_time"]), (&json!(1), &json!(1)), "{stats}");
    assert_eq!((&stats["groups"][0]["name"], &stats["step_s"]), (&json!("example.test"), &json!(60)));
    assert_eq!(bench.bank.get("/v1/stats").await.json()["total"]["accepted"], 0, "a user sees its own");
    for wrong in ["by=mood", "from=yesterday", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "of=me"] {
        assert_eq!(bench.operator.get(&format!("/v1/stats?{wrong}")).await.status, 422, "{wrong}");
    }
    bench.relay.shut_down().await;
}
