//! Users against each other, and users who are none any more.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use otp_relay::testing::event::Kind;
use otp_relay::testing::smtp::sasl::ScramVerifier;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::malice::api::{Bench, mail, user};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::fake_mx::Trick;

/// `[[user]]` with a password and whatever else.
fn with_password(name: &str, password: &str, senders: &str) -> String {
    let hash = ScramVerifier::derive(password, b"saltsaltsaltsalt", NonZeroU32::new(1000).unwrap()).to_text();
    format!("[[user]]\nname = \"{name}\"\npassword_hash = \"{hash}\"\nsenders = [\"{senders}\"]\n")
}

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n";

async fn login(address: SocketAddr, user: &str, password: &str) -> (Client, String) {
    let mut client = Client::connect(address).await;
    let plain = BASE64.encode(format!("\0{user}\0{password}"));
    let reply = client.say(&format!("AUTH PLAIN {plain}")).await;
    (client, reply)
}

/// Before, a user could have all eight.
#[tokio::test(flavor = "multi_thread")]
async fn one_user_leaves_others_a_quarter_of_the_queue() {
    let mut bench = Bench::with("[queue]\nentries_max = 8\n").await;
    bench.mx.trick("RCPT TO:<slow", Trick::Say("451 4.3.0 later"), 1000);
    bench.mx.trick("RCPT TO:<otp@shop", Trick::Say("451 4.3.0 later"), 1000);
    bench.mx.trick("RCPT TO:<bad", Trick::Say("550 5.1.1 no such user"), 1000);
    // What shop hears of its own mail, three notifications that wait, is shop's.
    for number in 0..3 {
        bench.shop.post("/v1/messages", mail("shop", &format!("bad{number}@example.test"))).await;
        bench.events.next(Kind::Failed).await;
    }
    for number in 0..3 {
        let sent = bench.shop.post("/v1/messages", mail("shop", &format!("slow{number}@example.test"))).await;
        assert_eq!(sent.status, 202, "{sent:?}");
    }
    let refused = bench.shop.post("/v1/messages", mail("shop", "slow9@example.test")).await;
    assert_eq!((refused.status, refused.field("retry-after")), (429, "5"), "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:otp-relay:share");
    assert!(refused.body.contains("6 of 8"), "{refused:?}");
    // The honest one is not held up, at either door.
    let sent = bench.bank.post("/v1/messages", mail("bank", "bob@example.test")).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    let mut app = Client::connect(bench.relay.addresses()[0]).await;
    assert!(app.submit(&["carol@example.test"], &crate::support::client::mail("one")).await.starts_with("250"));
    bench.events.next(Kind::Delivered).await;
    bench.events.next(Kind::Delivered).await;
    // What ends makes room.
    assert_eq!(bench.shop.delete("/v1/messages?recipient=slow0@example.test").await.status, 200);
    assert_eq!(bench.shop.post("/v1/messages", mail("shop", "slow9@example.test")).await.status, 202);
    bench.relay.shut_down().await;
}

/// Over SMTP the refusal says whose share it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_the_queue_is_named_over_smtp() {
    let mut bench = Bench::with("[queue]\nentries_max = 4\n").await;
    bench.mx.trick("RCPT TO:<slow", Trick::Say("451 4.3.0 later"), 1000);
    let mut app = Client::connect(bench.relay.addresses()[0]).await;
    let content = crate::support::client::mail("one");
    assert!(
        app.submit(&["slow1@example.test", "slow2@example.test", "slow3@example.test"], &content)
            .await
            .starts_with("250")
    );
    bench.events.next(Kind::Deferred).await;
    let reply = app.submit(&["slow4@example.test"], &content).await;
    assert_eq!(reply, "452 4.3.1 this user's share of the queue is full: 3 of 4 (queue.entries_max)");
    assert_eq!(bench.bank.post("/v1/messages", mail("bank", "bob@example.test")).await.status, 202);
    bench.events.next(Kind::Delivered).await;
    // Where there is nobody else, there is nothing to leave.
    bench.reload("");
    assert!(app.submit(&["slow4@example.test"], &content).await.starts_with("250"));
    bench.relay.shut_down().await;
}

/// Before, a user could have all eight.
#[tokio::test(flavor = "multi_thread")]
async fn one_user_leaves_others_a_quarter_of_the_connections() {
    let users = with_password("app", "secret", "*@app.test") + &with_password("other", "secret", "*@app.test");
    let bench = Bench::with(&format!("[submission]\nconnections_max = 8\n{LISTENER}{users}")).await;
    let address = bench.relay.addresses()[1];
    let mut open = Vec::new();
    for _ in 0..6 {
        let (client, reply) = login(address, "app", "secret").await;
        assert!(reply.starts_with("235"), "{reply}");
        open.push(client);
    }
    for _ in 0..8 {
        let (mut client, reply) = login(address, "app", "secret").await;
        let expected = "421 4.7.0 this user's share of connections is in use: 6 of 8 (submission.connections_max)";
        assert_eq!(reply, expected);
        assert!(client.is_closed().await);
    }
    let (mut honest, reply) = login(address, "other", "secret").await;
    assert!(reply.starts_with("235"), "{reply}");
    let mut trusted = Client::connect(bench.relay.addresses()[0]).await;
    for client in [&mut honest, &mut trusted] {
        let reply = client.submit(&["bob@example.test"], &crate::support::client::mail("one")).await;
        assert!(reply.starts_with("250"), "{reply}");
    }
    assert!(open[0].say("NOOP").await.starts_with("250"));
    bench.relay.shut_down().await;
}

/// Before, a session went on for as long as its client liked.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_at_mail_once_its_user_is_removed_or_has_another_password() {
    let other = with_password("other", "secret", "*@app.test");
    let app = |password: &str, senders: &str| format!("{LISTENER}{other}{}", with_password("app", password, senders));
    let bench = Bench::with(&app("secret", "*@app.test")).await;
    let address = bench.relay.addresses()[1];
    let content = crate::support::client::mail("one");
    let (mut client, _) = login(address, "app", "secret").await;
    let (mut honest, _) = login(address, "other", "secret").await;
    assert!(client.submit(&["a@example.test"], &content).await.starts_with("250"));
    // Rights are those of the moment.
    bench.reload(&app("secret", "*@new.test"));
    assert!(client.say("MAIL FROM:<otp@app.test>").await.starts_with("550 5.7.1"));
    assert!(client.say("MAIL FROM:<otp@new.test>").await.starts_with("250"));
    assert!(client.say("RSET").await.starts_with("250"));
    // A transaction goes on; the next does not begin.
    bench.reload(&app("secret", "*@app.test"));
    assert!(client.say("MAIL FROM:<otp@app.test>").await.starts_with("250"));
    bench.reload(&app("changed", "*@app.test"));
    assert!(client.say("RCPT TO:<a@example.test>").await.starts_with("250"));
    assert!(client.say("RSET").await.starts_with("250"));
    assert_eq!(
        client.say("MAIL FROM:<otp@app.test>").await,
        "421 4.7.0 this login does not hold any more, log in again"
    );
    assert!(client.is_closed().await);
    assert!(login(address, "app", "secret").await.1.starts_with("535"));
    let (mut client, reply) = login(address, "app", "changed").await;
    assert!(reply.starts_with("235"), "{reply}");
    bench.reload(&format!("{LISTENER}{other}"));
    // Also where more comes along with it.
    client.send(b"MAIL FROM:<otp@app.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n").await;
    assert!(client.hear().await.starts_with("421 4.7.0"));
    assert!(client.is_closed().await);
    assert!(honest.submit(&["b@example.test"], &content).await.starts_with("250"));
    bench.relay.shut_down().await;
}

/// Before, a stream went on for ever, and a wait to its end.
#[tokio::test(flavor = "multi_thread")]
async fn streams_waits_and_connections_end_once_the_token_is_removed_or_changed() {
    let mut bench = Bench::with("").await;
    let address = bench.nobody.address;
    for users in [user("bank"), user("bank") + &user("shop").replace(|c: char| c.is_ascii_digit(), "0")] {
        bench.reload(&(user("shop") + &user("bank")));
        bench.mx.trick("RCPT TO:<waits", Trick::Say("451 4.7.1 later"), 9);
        let mut stream = bench.shop.follow("/v1/events", "").await;
        let mut others = bench.bank.follow("/v1/events", "").await;
        let mut body = mail("shop", "waits@example.test");
        body["wait"] = json!("delivered");
        let shop = bench.shop.clone();
        let wait = tokio::spawn(async move { shop.post("/v1/messages", body).await });
        while stream.next().await.unwrap().1 != "deferred" {}
        let mut kept = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET /v1/queue HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer token of shop\r\n\r\n";
        // A message whose body is under way when the token goes.
        let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
        let body = mail("shop", "late@example.test").to_string();
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer token of shop\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(status(&mut kept, request).await, 200);

        bench.reload(&users);
        let last = async {
            loop {
                let (_, name, data) = stream.next().await.unwrap();
                // The next attempt may have begun before.
                if name == "bye" || !["queued", "attempted", "deferred"].contains(&name.as_str()) {
                    return (name, data["reason"].clone());
                }
            }
        };
        let (name, reason) = tokio::time::timeout(PATIENCE, last).await.expect("the stream ends");
        assert_eq!((name.as_str(), reason), ("bye", json!("this token is not valid any more")));
        assert!(stream.next().await.is_none());
        assert_eq!(wait.await.unwrap().status, 401);
        assert_eq!(status(&mut kept, request).await, 401);
        assert_eq!(status(&mut slow, body.as_bytes()).await, 401);
        // Others go on.
        let sent = bench.bank.post("/v1/messages", mail("bank", "bob@example.test")).await;
        assert_eq!(sent.status, 202);
        assert_eq!(others.next().await.unwrap().1, "accepted");
        while bench.events.next(Kind::Delivered).await.head.id.to_string() != sent.json()["id"] {}
    }
    bench.relay.shut_down().await;
}

/// The status of what comes next over a connection that stays open.
async fn status(stream: &mut tokio::net::TcpStream, octets: &[u8]) -> u16 {
    stream.write_all(octets).await.unwrap();
    let mut answer = vec![0; 64 << 10];
    let len = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..len]).split(' ').nth(1).unwrap().parse().unwrap()
}

/// What hosts said of others' recipients is not a user's business. Before, any token read all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_hears_yes_or_no_of_a_suppression() {
    let mut bench = Bench::with("").await;
    bench.mx.trick("RCPT TO:<alice", Trick::Say("550 5.1.1 account 4711 closed"), 1);
    bench.shop.post("/v1/messages", mail("shop", "alice@example.test")).await;
    bench.events.next(Kind::Failed).await;
    bench.operator.ask("PUT", "/v1/suppressions/@spam.test", "", r#"{"reason": "traps of Example Inc"}"#).await;
    for http in [&bench.shop, &bench.bank] {
        let list = http.get("/v1/suppressions").await;
        assert_eq!(list.status, 403);
        let answer = http.get("/v1/suppressions/ALICE@example.test").await;
        let told = answer.json();
        assert_eq!(
            (answer.status, &told["suppressed"], &told["address"]),
            (200, &json!(true), &json!("alice@example.test"))
        );
        assert!(told["until"].is_string(), "{told}");
        let domain = http.get("/v1/suppressions/anybody@spam.test").await;
        assert_eq!(domain.json(), json!({"address": "anybody@spam.test", "suppressed": true}));
        let free = http.get("/v1/suppressions/bob@example.test").await;
        assert_eq!(free.json(), json!({"address": "bob@example.test", "suppressed": false}));
        assert_eq!(http.get("/v1/suppressions/@spam.test").await.status, 422);
        for answer in [&list, &answer, &domain] {
            assert!(!answer.body.contains("4711") && !answer.body.contains("Inc"), "{answer:?}");
        }
    }
    // Whose message bounced hears of it at the door, others only that it is so. Before, all heard it.
    for (name, http, is_own) in [("shop", &bench.shop, true), ("bank", &bench.bank, false)] {
        let refused = http.post("/v1/messages", mail(name, "alice@example.test")).await;
        assert_eq!((refused.status, refused.body.contains("hard bounce on")), (422, is_own), "{refused:?}");
        assert!(refused.body.contains(", until "), "{refused:?}");
    }
    assert!(bench.operator.get("/v1/suppressions").await.body.contains("4711"));
    assert!(bench.operator.get("/v1/suppressions/alice@example.test").await.body.contains("4711"));
    bench.relay.shut_down().await;
}

/// Before, twenty newer messages of anybody hid one's own.
#[tokio::test(flavor = "multi_thread")]
async fn others_mail_to_a_recipient_hides_nothing() {
    let mut bench = Bench::with("").await;
    let own = bench.shop.post("/v1/messages", mail("shop", "alice@example.test")).await.json()["id"].clone();
    bench.events.next(Kind::Delivered).await;
    for _ in 0..25 {
        assert_eq!(bench.bank.post("/v1/messages", mail("bank", "alice@example.test")).await.status, 202);
        bench.events.next(Kind::Delivered).await;
    }
    let list =
        async |http: &crate::support::http::Http| http.get("/v1/messages?recipient=alice@example.test").await.json();
    let of_shop = list(&bench.shop).await;
    assert_eq!(of_shop["messages"].as_array().unwrap().len(), 1, "{of_shop}");
    assert_eq!(of_shop["messages"][0]["id"], own);
    assert_eq!(list(&bench.bank).await["messages"].as_array().unwrap().len(), 20);
    assert_eq!(list(&bench.operator).await["messages"].as_array().unwrap().len(), 20);
    bench.relay.shut_down().await;
}

/// Before, a user could have a host called as often as it asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_hurries_an_entry_once_a_minute() {
    let mut bench = Bench::with("").await;
    bench.mx.trick("RCPT TO:<slow", Trick::Say("451 4.3.0 later"), 1000);
    let id = bench.shop.post("/v1/messages", mail("shop", "slow@example.test")).await.json()["id"].clone();
    bench.events.next(Kind::Deferred).await;
    assert_eq!(bench.shop.post("/v1/queue/retry", json!({"id": id})).await.status, 200);
    bench.events.next(Kind::Deferred).await;
    let before = bench.mx.connections();
    for body in [json!({"id": id}), json!({"destination": "example.test"})] {
        let again = bench.shop.post("/v1/queue/retry", body).await;
        let wait: u64 = again.field("retry-after").parse().unwrap();
        assert!(again.status == 429 && (1..=60).contains(&wait), "{again:?}");
    }
    assert_eq!(bench.mx.connections(), before);
    // What was not tried again lately is.
    bench.shop.post("/v1/messages", mail("shop", "slow2@example.test")).await;
    bench.events.next(Kind::Deferred).await;
    let others = bench.shop.post("/v1/queue/retry", json!({"destination": "example.test"})).await.json();
    assert_eq!(others["retried"].as_array().unwrap().len(), 1);
    assert!(others["others_in"].as_u64().is_some_and(|wait| (1..=60).contains(&wait)), "{others}");
    bench.events.next(Kind::Deferred).await;
    // The operator is free, as often as it likes.
    for _ in 0..2 {
        let retried = bench.operator.post("/v1/queue/retry", json!({"id": id})).await;
        assert_eq!(retried.json()["retried"].as_array().unwrap().len(), 1);
        bench.events.next(Kind::Deferred).await;
    }
    bench.relay.shut_down().await;
}
