//! What each version left in its data directory is taken up: live messages, side tables, traces, tokens, and of this version's also what
//! it added: verifications, statistics, webhooks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::FakeMx;
use crate::support::http::Http;
use crate::support::{Events, copy_folder, start_relay_by};
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::base::clock::{ManualClock, Timestamp};
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::{Value, json};

/// What is said of the folder of a version beside it.
struct Made {
    version: &'static str,
    /// The waits in the folder are over, the lives of a day, the suppressions and the code of half an hour are not.
    later: Timestamp,
    /// The message to done@example.test.
    done: String,
    /// A verification, and its code.
    verification: Option<(String, String)>,
}

fn of_0_1() -> Made {
    // 2026-11-28T15:40:00Z.
    let later = Timestamp::from_millis(1_795_880_400_000);
    Made { version: "0.1", later, done: "01M8HCBBC8DRZ59YM6YRMJE6ZA".into(), verification: None }
}

fn of_0_2() -> Made {
    let made = std::fs::read(folder_of("0.2").join("made.json")).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    let later = Timestamp::from_millis(made["stopped_at"].as_u64().unwrap() + 10 * 60_000);
    Made { version: "0.2", later, done: text("done"), verification: Some((text("verification"), text("code"))) }
}

fn folder_of(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version)
}

/// A relay on a copy of the folder of a version.
struct Upgraded {
    _folder: tempfile::TempDir,
    relay: Relay,
    events: Events,
    mx: FakeMx,
    operator: Http,
}

impl Upgraded {
    async fn start(made: &Made) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&folder_of(made.version).join("data"), &folder.path().join("data"));
        std::fs::write(folder.path().join("hook.secret"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let mx = FakeMx::start(&["PIPELINING", "8BITMIME"]).await;
        let clock = Arc::new(ManualClock::new(made.later));
        // Nobody listens at the webhook's port.
        let more = format!(
            "[[user]]\nname = \"shop\"\ntoken_hash = \"{}\"\nsenders = [\"*@app.test\"]\n\
             [[webhook]]\nurl = \"http://127.0.0.1:9/events\"\nsecret_file = \"hook.secret\"\n\
             events = [\"delivered\", \"failed\", \"expired\", \"superseded\"]\n\
             [otp]\nrecipient_budget = \"3/1d\"",
            token_hash("token of shop")
        );
        let (relay, events) = start_relay_by(clock, folder.path(), mx.address, &more);
        let token = std::fs::read_to_string(folder.path().join("data/api.token")).unwrap().trim().to_owned();
        let operator = Http { address: relay.http_address().unwrap(), token };
        Self { _folder: folder, relay, events, mx, operator }
    }

    async fn client(&self) -> Client {
        Client::connect(self.relay.addresses()[0]).await
    }

    /// The reply to RCPT.
    async fn rcpt(&self, recipient: &str) -> String {
        let mut client = self.client().await;
        client.say("MAIL FROM:<otp@app.test>").await;
        client.say(&format!("RCPT TO:<{recipient}>")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_messages_are_delivered_as_they_were_accepted() {
    for made in [of_0_1(), of_0_2()] {
        live_messages_are_delivered(&made).await;
    }
}

async fn live_messages_are_delivered(made: &Made) {
    let mut upgraded = Upgraded::start(made).await;
    let mut expected: BTreeSet<String> = (0..4).map(|number| format!("later{number}")).collect();
    expected.extend((0..3).map(|number| format!("grey{number}")));
    expected.extend(["key", "idem", "reset"].map(|name| format!("later-{name}")));
    for _ in 0..expected.len() {
        let end = upgraded.events.next_end().await;
        assert_eq!((end.kind(), end.head.attempt >= 2), (Kind::Delivered, true), "{end:?}");
    }
    let received = upgraded.mx.received();
    let names = received.iter().map(|mail| mail.rcpt["RCPT TO:<".len()..].split('@').next().unwrap().to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
    assert_eq!(received.len(), expected.len(), "none twice");
    for mail in &received {
        let content = String::from_utf8(mail.content.clone()).unwrap();
        let recipient = mail.rcpt["RCPT TO:<".len()..].split('>').next().unwrap();
        assert!(content.ends_with(&format!("\r\n\r\n481516 is your code, {recipient}.\r\n")), "{content}");
        assert!(!content.contains("X-OTP-"), "{content}");
    }
    upgraded.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_keys_and_suppressions_count_on() {
    for made in [of_0_1(), of_0_2()] {
        side_tables_count_on(&made).await;
    }
}

async fn side_tables_count_on(made: &Made) {
    let upgraded = Upgraded::start(made).await;
    for (recipient, expected) in [
        ("budget@example.test", "450 4.7.28 3 codes in 24h for this recipient"),
        ("nobody@example.test", "550 5.1.1 suppressed"),
        ("blocked@example.test", "550 5.1.1 suppressed"),
        ("somebody@blocked.test", "550 5.1.1 suppressed"),
        // Version 0.1 learned this domain from a reply.
        ("denied@victim.test", "250 "),
        ("somebody@victim.test", "250 "),
        ("somebody@example.test", "250 "),
    ] {
        let mut client = upgraded.client().await;
        client.say("MAIL FROM:<otp@app.test>").await;
        let reply = client.say(&format!("RCPT TO:<{recipient}>")).await;
        // A budget in which a reset still has room is refused behind the content.
        let reply = if recipient.starts_with("budget") && reply.starts_with("250") {
            client.say("DATA").await;
            client.say(&format!("{}\r\n.", mail("code"))).await
        } else {
            reply
        };
        assert!(reply.starts_with(expected), "{recipient}: {reply}");
    }
    let mut client = upgraded.client().await;
    let repeat = "Date: Sat, 28 Nov 2026 15:30:00 +0000\r\nFrom: otp@app.test\r\nTo: done@example.test\r\n\
                  Subject: another\r\nX-OTP-Idempotency-Key: 7f3b\r\n\r\nanother\r\n";
    let reply = client.submit(&["done@example.test"], repeat).await;
    assert!(reply.starts_with("554 5.6.0"), "the key was used for other content: {reply}");
    upgraded.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_facts_can_be_read() {
    for made in [of_0_1(), of_0_2()] {
        traces_can_be_read(&made).await;
    }
}

async fn traces_can_be_read(made: &Made) {
    let upgraded = Upgraded::start(made).await;
    let answer = upgraded.operator.get(&format!("/v1/messages/{}", made.done)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let entry = answer.json()["entries"][0].clone();
    assert_eq!((entry["state"].as_str(), entry["recipient"].as_str()), (Some("delivered"), Some("done@example.test")));
    assert_eq!(entry["last_reply"], "250 2.0.0 kept");
    let answer = upgraded.operator.get("/v1/destinations/example.test").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(upgraded.rcpt("somebody@example.test").await, "250 2.1.5 recipient ok");
    upgraded.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_waits_is_right_once_and_figures_and_posts_go_on() {
    let made = of_0_2();
    let upgraded = Upgraded::start(&made).await;
    let stats = upgraded.operator.get("/v1/stats").await.json();
    assert_eq!(stats["total"]["accepted"], 20, "{stats}");
    let webhooks = upgraded.operator.get("/v1/webhooks").await.json();
    assert!(webhooks["webhooks"][0]["waiting"].as_u64() >= Some(10), "{webhooks}");
    let (verification, code) = made.verification.unwrap();
    let shop = Http { address: upgraded.operator.address, token: "token of shop".into() };
    let check = format!("/v1/verifications/{verification}/check");
    for expected in [true, false] {
        let answer = shop.post(&check, json!({ "code": code })).await.json();
        assert_eq!((&answer["valid"], &answer["state"]), (&json!(expected), &json!("approved")), "{answer}");
    }
    upgraded.relay.shut_down().await;
}
