//! What a user's settings do for an app that cannot set header fields, at both doors.

use std::path::Path;

use crate::support::client::Client;
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use crate::support::{Events, copy_folder, start_relay};
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::config::Config;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::relay::Relay;
use serde_json::{Value, json};

const HOST: &[&str] = &["PIPELINING", "8BITMIME"];
const TOKEN: &str = "token of the app";
const WINDOW: &str = "idempotency_window = \"10m\"";

/// A relay, a mail host and an app that may come in without a login, or over HTTP.
struct Scene {
    folder: tempfile::TempDir,
    mx: FakeMx,
    relay: Relay,
    events: Events,
}

/// The part of the configuration in which the app's user is.
fn user(settings: &str, more: &str) -> String {
    format!("token_hash = \"{}\"\n{settings}\n{more}", token_hash(TOKEN))
}

impl Scene {
    async fn with(settings: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(HOST).await;
        let (relay, events) = start_relay(folder.path(), mx.address, &user(settings, more));
        Self { folder, mx, relay, events }
    }

    /// The same relay, or one that finds the files of `folder`, with these settings.
    async fn begin_again(self, folder: tempfile::TempDir, settings: &str) -> Self {
        self.relay.shut_down().await;
        let (relay, events) = start_relay(folder.path(), self.mx.address, &user(settings, ""));
        Self { folder, mx: self.mx, relay, events }
    }

    async fn app(&self) -> Client {
        Client::connect(self.relay.addresses()[0]).await
    }

    async fn submit(&self, recipient: &str, content: &str) -> String {
        self.app().await.submit(&[recipient], content).await
    }

    /// What is accepted over SMTP.
    async fn accepted(&mut self, recipient: &str, content: &str) -> Event {
        let reply = self.submit(recipient, content).await;
        assert!(reply.starts_with("250 2.0.0 accepted id="), "{reply}");
        self.events.next(Kind::Accepted).await
    }

    /// What is accepted over HTTP.
    async fn posted(&self, body: Value) -> Value {
        let http = Http { address: self.relay.http_address().unwrap(), token: TOKEN.to_owned() };
        let answer = http.post("/v1/messages", body).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.json()
    }
}

/// As an app renders it for the `number`th time: what a program makes anew is other each time.
fn rendered(number: u32, code: &str) -> String {
    format!(
        "Date: Sat, 21 Nov 2026 10:00:{number:02} +0000\r\nMessage-ID: <{number}@app.test>\r\nFrom: App <otp@app.test>\r\n\
         To: user\r\nSubject: {code} is your code\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/alternative; boundary=\"==={number}\"\r\n\r\n--==={number}\r\n\
         Content-Type: text/plain\r\n\r\n{code}\r\n--==={number}\r\nContent-Type: text/html\r\n\r\n<b>{code}</b>\r\n\
         --==={number}--"
    )
}

fn letter(code: &str) -> Value {
    json!({"from": "otp@app.test", "to": "alice@example.test", "subject": "Your code", "text": format!("It is {code}.\n")})
}

fn id_in(reply: &str) -> &str {
    reply.rsplit("id=").next().unwrap()
}

/// The client goes away before it hears 250, and sends the mail again.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_repeated_after_a_lost_250_goes_once() {
    let mut scene = Scene::with(WINDOW, "").await;
    let mut first = scene.app().await;
    for line in ["MAIL FROM:<otp@app.test>", "RCPT TO:<alice@example.test>", "DATA"] {
        first.say(line).await;
    }
    first.send(format!("{}\r\n.\r\n", rendered(1, "481516")).as_bytes()).await;
    drop(first);
    let accepted = scene.events.next(Kind::Accepted).await;
    let reply = scene.submit("alice@example.test", &rendered(2, "481516")).await;
    let is_repeat = reply.starts_with("250 2.0.0 accepted before, state=");
    assert!(is_repeat && id_in(&reply) == accepted.head.id.to_string(), "{reply}");
    scene.events.next(Kind::Delivered).await;
    // Another code, and another recipient, are no repeats.
    scene.accepted("alice@example.test", &rendered(3, "481517")).await;
    scene.events.next(Kind::Delivered).await;
    scene.accepted("bob@example.test", &rendered(3, "481517")).await;
    scene.events.next(Kind::Delivered).await;
    assert_eq!(scene.mx.received().len(), 3);
    // Over HTTP the same, with an id for each mail and a state.
    let first = scene.posted(letter("111111")).await;
    assert_eq!(scene.posted(letter("111111")).await["id"], first["id"]);
    assert_ne!(scene.posted(letter("222222")).await["id"], first["id"]);
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_window_a_mail_goes_as_often_as_it_comes() {
    let mut scene = Scene::with("", "").await;
    for number in [1, 2] {
        scene.accepted("alice@example.test", &rendered(number, "481516")).await;
        scene.events.next(Kind::Delivered).await;
    }
    assert_eq!(scene.mx.received().len(), 2);
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_connections_that_send_one_mail_one_is_the_first() {
    let mut scene = Scene::with(WINDOW, "[otp]\nrecipient_budget = \"2/10m\"").await;
    let address = scene.relay.addresses()[0];
    let race = (0..8).map(|number| async move {
        let mut app = Client::connect(address).await;
        app.submit(&["alice@example.test"], &rendered(number, "481516")).await
    });
    let replies = futures_util::future::join_all(race).await;
    let firsts = replies.iter().filter(|reply| reply.starts_with("250 2.0.0 accepted id=")).count();
    assert_eq!(firsts, 1, "{replies:?}");
    assert!(replies.iter().all(|reply| reply.starts_with("250") && id_in(reply) == id_in(&replies[0])), "{replies:?}");
    scene.events.next(Kind::Delivered).await;
    assert_eq!((scene.mx.received().len(), scene.relay.queue().depth().messages), (1, 0));
    scene.relay.shut_down().await;
}

/// A repeat needs no place in the recipient's budget, at RCPT and behind the content.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_within_a_window_passes_a_budget_that_is_used_up() {
    let mut scene = Scene::with(WINDOW, "[otp]\nrecipient_budget = \"1/10m\"").await;
    let first = scene.accepted("alice@example.test", &rendered(1, "481516")).await;
    let repeat = scene.submit("alice@example.test", &rendered(2, "481516")).await;
    assert!(repeat.starts_with("250") && id_in(&repeat) == first.head.id.to_string(), "{repeat}");
    let other = scene.submit("alice@example.test", &rendered(2, "481517")).await;
    assert!(other.starts_with("450 4.7.28 "), "{other}");
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_holds_over_a_restart_and_over_a_crash() {
    let mut scene = Scene::with(WINDOW, "").await;
    let first = scene.accepted("alice@example.test", &rendered(1, "481516")).await;
    // As a crash behind the 250 would leave the files.
    let crashed = tempfile::tempdir().unwrap();
    copy_folder(scene.folder.path(), crashed.path());
    let after_a_stop = std::mem::replace(&mut scene.folder, tempfile::tempdir().unwrap());
    for folder in [after_a_stop, crashed] {
        scene = scene.begin_again(folder, WINDOW).await;
        let repeat = scene.submit("alice@example.test", &rendered(2, "481516")).await;
        assert!(repeat.starts_with("250") && id_in(&repeat) == first.head.id.to_string(), "{repeat}");
    }
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_message_asks_for_itself_counts_more() {
    let settings = format!("tag = \"login\"\nkey = \"recipient\"\n{WINDOW}");
    let mut scene = Scene::with(&settings, "[otp]\nrecipient_budget = \"off\"").await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted, try again in 300 seconds"), 99);
    let tagged = scene.accepted("alice@example.test", &rendered(1, "1")).await;
    assert_eq!(tagged.head.tag.as_deref(), Some("login"));
    scene.events.next(Kind::Greylisted).await;
    let own = format!("X-OTP-Tag: own\r\nX-OTP-Key: login:42\r\n{}", rendered(2, "2"));
    let other = scene.accepted("alice@example.test", &own).await;
    assert_eq!(other.head.tag.as_deref(), Some("own"));
    // Under another key nobody's place is taken; under the user's the first one's is.
    let newer = scene.accepted("alice@example.test", &rendered(3, "3")).await;
    let superseded = scene.events.next(Kind::Superseded).await;
    let by = format!("by {}", newer.head.id);
    assert_eq!((superseded.head.id, superseded.note()), (tagged.head.id, Some(by.as_str())));
    assert!(scene.relay.queue().is_live(other.head.id));
    // An idempotency key of its own makes a message new, whatever the window.
    let keyed = format!("X-OTP-Idempotency-Key: a\r\n{}", rendered(3, "3"));
    scene.accepted("alice@example.test", &keyed).await;
    // Over HTTP.
    let posted = scene.posted(letter("4")).await;
    assert_eq!((posted["tag"].as_str(), posted["key"].as_str()), (Some("login"), Some("recipient")));
    let mut own = letter("5");
    own["tag"] = "own".into();
    own["key"] = "mine".into();
    let posted = scene.posted(own).await;
    assert_eq!((posted["tag"].as_str(), posted["key"].as_str()), (Some("own"), Some("mine")));
    scene.relay.shut_down().await;
}

/// A notification that an app passes on takes nobody's place, and no code takes its.
#[tokio::test(flavor = "multi_thread")]
async fn a_null_reverse_path_has_no_key_by_default() {
    let mut scene = Scene::with("key = \"recipient\"\nsupersede = \"same-recipient\"", "").await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted, try again in 300 seconds"), 99);
    let code = scene.accepted("alice@example.test", &rendered(1, "1")).await;
    let mut app = scene.app().await;
    for line in ["MAIL FROM:<>", "RCPT TO:<alice@example.test>", "DATA"] {
        app.say(line).await;
    }
    assert!(app.say(&format!("{}\r\n.", rendered(2, "2"))).await.starts_with("250"));
    scene.events.next(Kind::Accepted).await;
    assert!(scene.relay.queue().is_live(code.head.id));
    scene.relay.shut_down().await;
}

/// A user's own rule, also over a restart that finds another one in the configuration: a message goes by the rule under which
/// it was accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_supersedes_by_its_own_rule() {
    let mut scene = Scene::with("supersede = \"same-recipient\"", "").await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted, try again in 300 seconds"), 99);
    let first = scene.accepted("alice@example.test", &rendered(1, "1")).await;
    scene.accepted("alice@example.test", &rendered(2, "2")).await;
    assert_eq!(scene.events.next(Kind::Superseded).await.head.id, first.head.id);
    let folder = std::mem::replace(&mut scene.folder, tempfile::tempdir().unwrap());
    let live = |scene: &Scene| scene.relay.queue().depth().messages;
    scene = scene.begin_again(folder, "supersede = \"off\"").await;
    assert_eq!(live(&scene), 1);
    scene.accepted("alice@example.test", &format!("X-OTP-Key: a\r\n{}", rendered(3, "3"))).await;
    scene.accepted("alice@example.test", &format!("X-OTP-Key: a\r\n{}", rendered(4, "4"))).await;
    assert_eq!(live(&scene), 3, "nothing takes anything's place");
    let folder = std::mem::replace(&mut scene.folder, tempfile::tempdir().unwrap());
    scene = scene.begin_again(folder, "supersede = \"same-recipient\"").await;
    assert_eq!(live(&scene), 3);
    scene.accepted("alice@example.test", &rendered(5, "5")).await;
    scene.events.next(Kind::Superseded).await;
    assert_eq!(live(&scene), 3, "one of the same rule ends, the others do not");
    scene.relay.shut_down().await;
}

#[test]
fn mistakes_are_told_with_their_lines() {
    let told = |line: &str| {
        let text = format!("[[user]]\nname = \"shop\"\nsenders = [\"*@app.test\"]\n{line}\n");
        let (_, findings) = Config::from_text(&text, Path::new(""), Some(Path::new("relay.toml")));
        let lines = findings.lines(Some(Path::new("relay.toml")));
        lines.into_iter().filter(|line| line.contains("relay.toml:")).collect::<Vec<_>>().join("\n")
    };
    for (line, expected) in [
        (
            "supersede = \"always\"",
            "error: relay.toml:4: [user] supersede: one of \"by-key\", \"same-recipient\", \"off\"",
        ),
        ("key = \"login\"", "error: relay.toml:4: [user] key: \"recipient\", or \"\", is needed"),
        ("tag = \"a b\"", "error: relay.toml:4: [user] tag: 1 to 64 letters, digits and - _ . : /, or \"\", is needed"),
        ("idempotency_window = \"2d\"", "error: relay.toml:4: [user] idempotency_window: a time from 0ms to 1d"),
        ("idempotency_window = 30", "error: relay.toml:4: [user] idempotency_window: a text in quotes"),
        ("supersede = \"off\"\nkey = \"recipient\"", "warning: relay.toml:5: [user] key: has no effect with supersede"),
    ] {
        let told = told(line);
        assert!(told.starts_with(expected) && told.lines().count() == 1, "{line}: {told}");
    }
    for line in
        ["supersede = \"by-key\"\nkey = \"\"\ntag = \"\"\nidempotency_window = \"0s\"", "idempotency_window = \"1d\""]
    {
        assert_eq!(told(line), "");
    }
}

/// Whoever goes away in the middle of a mail leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_cut_off_is_no_first() {
    let mut scene = Scene::with(WINDOW, "").await;
    let mut cut_off = scene.app().await;
    for line in ["MAIL FROM:<otp@app.test>", "RCPT TO:<alice@example.test>", "DATA"] {
        cut_off.say(line).await;
    }
    cut_off.send(rendered(1, "481516").as_bytes()).await;
    drop(cut_off);
    scene.accepted("alice@example.test", &rendered(1, "481516")).await;
    scene.relay.shut_down().await;
}
