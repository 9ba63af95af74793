//! The compatible doors over real sockets, with HTTP only: each row of their table.

use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::{Answer, Http};
use crate::support::{Events, start_relay};
use mail_parser::{MessageParser, MimeHeaders as _};
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::{Value, json};

const PIPELINING: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000"];
const TOKEN: &str = "token of shop";

struct Bench {
    relay: Relay,
    events: Events,
    mx: FakeMx,
    /// Nobody.
    http: Http,
    operator: Http,
    folder: tempfile::TempDir,
}

/// A door, with the requests of its libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Emails,
    Email,
    MailSend,
}

const ALL: [Door; 3] = [Door::Emails, Door::Email, Door::MailSend];

impl Bench {
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(PIPELINING).await;
        let user = |name: &str, more: &str| {
            let hash = token_hash(&format!("token of {name}"));
            format!("[[user]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@{name}.test\"]\n{more}")
        };
        let users = format!("{}{}", user("shop", ""), user("slow", "rate = \"1/1h\"\n"));
        let (relay, events) = start_relay(folder.path(), mx.address, &format!("{users}{more}"));
        let address = relay.http_address().unwrap();
        let http = Http { address, token: String::new() };
        let token = std::fs::read_to_string(folder.path().join("data/api.token")).unwrap();
        let operator = Http { token: token.trim().to_owned(), ..http.clone() };
        Self { relay, events, mx, http, operator, folder }
    }

    async fn ask(&self, door: Door, token: &str, fields: &str, body: &Value) -> Answer {
        let token = match (door, token) {
            (_, "") => String::new(),
            (Door::Email, token) => format!("X-Postmark-Server-Token: {token}\r\n"),
            (Door::Emails | Door::MailSend, token) => format!("Authorization: Bearer {token}\r\n"),
        };
        self.http.ask("POST", door.path(), &format!("{token}{fields}"), &body.to_string()).await
    }

    async fn send(&self, door: Door, body: &Value) -> Answer {
        self.ask(door, TOKEN, "", body).await
    }
}

impl Door {
    fn path(self) -> &'static str {
        match self {
            Self::Emails => "/emails",
            Self::Email => "/email",
            Self::MailSend => "/v3/mail/send",
        }
    }

    fn mail_from(self, from: &str, to: &str) -> Value {
        match self {
            Self::Emails => json!({"from": from, "to": [to], "subject": "481516", "text": "It is 481516.\n"}),
            Self::Email => json!({"From": from, "To": to, "Subject": "481516", "TextBody": "It is 481516.\n"}),
            Self::MailSend => json!({
                "personalizations": [{"to": [{"email": to}]}], "from": {"email": from}, "subject": "481516",
                "content": [{"type": "text/plain", "value": "It is 481516.\n"}],
            }),
        }
    }

    fn mail(self, to: &str) -> Value {
        self.mail_from("otp@shop.test", to)
    }

    /// With a header field.
    fn with_header(self, mut mail: Value, name: &str, value: &str) -> Value {
        match self {
            Self::Emails | Self::MailSend => mail["headers"] = json!({name: value}),
            Self::Email => mail["Headers"] = json!([{"Name": name, "Value": value}]),
        }
        mail
    }

    fn id(self, answer: &Answer) -> String {
        match self {
            Self::Emails => answer.id(),
            Self::Email => answer.json()["MessageID"].as_str().unwrap().to_owned(),
            Self::MailSend => answer.field("x-message-id").to_owned(),
        }
    }

    /// The answer is this refusal, in the door's shape.
    #[track_caller]
    fn check(self, answer: &Answer, expected: [(u16, &str); 3]) -> String {
        let (status, name) = expected[self as usize];
        assert_eq!(answer.status, status, "{self:?}: {answer:?}");
        assert_eq!(answer.field("content-type"), "application/json", "{self:?}");
        let json = answer.json();
        match self {
            Self::Emails => {
                assert_eq!((&json["statusCode"], &json["name"]), (&json!(status), &json!(name)), "{json}");
                json["message"].as_str().unwrap().to_owned()
            }
            Self::Email => {
                assert_eq!(json["ErrorCode"].to_string(), name, "{json}");
                json["Message"].as_str().unwrap().to_owned()
            }
            Self::MailSend => {
                assert!(json["errors"][0].get("field").is_some(), "{json}");
                json["errors"][0]["message"].as_str().unwrap().to_owned()
            }
        }
    }
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36 && id.bytes().enumerate().all(|(at, b)| [8, 13, 18, 23].contains(&at) == (b == b'-'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_taken_at_each_door() {
    let mut bench = Bench::new("").await;
    for door in ALL {
        let answer = bench.send(door, &door.mail("alice@example.test")).await;
        let id = door.id(&answer);
        assert!(is_uuid(&id), "{door:?}: {id}");
        match door {
            Door::Emails => assert_eq!((answer.status, answer.json().as_object().unwrap().len()), (200, 1)),
            Door::Email => {
                let json = answer.json();
                assert_eq!((answer.status, &json["ErrorCode"], &json["Message"]), (200, &json!(0), &json!("OK")));
                assert_eq!(json["To"], "alice@example.test");
                assert!(json["SubmittedAt"].as_str().unwrap().ends_with('Z'));
            }
            Door::MailSend => assert_eq!((answer.status, answer.body.as_str()), (202, "")),
        }
        let delivered = bench.events.next(Kind::Delivered).await;
        let message = bench.operator.get(&format!("/v1/messages/{id}")).await.json();
        assert_eq!((&message["id"], &message["user"]), (&json!(delivered.head.id.to_string()), &json!("shop")));
        let received = bench.mx.received();
        let content = MessageParser::default().parse(&received.last().unwrap().content).unwrap().into_owned();
        assert_eq!((content.subject(), content.body_text(0).unwrap().trim()), (Some("481516"), "It is 481516."));
    }
    bench.relay.shut_down().await;
}

/// Everything that a mail can have, in each shape.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_mail_arrives() {
    let mut bench = Bench::new("").await;
    let emails = json!({
        "from": "Shop, Inc. <otp@shop.test>", "to": "Alice <alice@example.test>", "cc": ["carl@example.test"],
        "bcc": "bob@example.test", "reply_to": "help@shop.test", "subject": "x", "text": "t", "html": "<b>h</b>",
        "headers": {"X-Ref": "7", "From": "x@y.test", "X-OTP-Key": "login"}, "tags": [{"name": "kind", "value": "sign up"}],
        "attachments": [{"filename": "a.txt", "content": "aGkK", "content_type": "text/plain"},
            {"filename": "l.png", "content": [137, 80, 78, 71], "content_type": "image/png", "content_id": "logo"}],
        "topic_id": null, "unknown": {"x": 1}, "scheduled_at": null, "template": null,
    });
    let email = json!({
        "From": "\"Shop, Inc.\" <otp@shop.test>", "To": "Alice <alice@example.test>", "Cc": "carl@example.test",
        "Bcc": "bob@example.test,", "ReplyTo": "help@shop.test", "Subject": "x", "TextBody": "t", "HtmlBody": "<b>h</b>",
        "Headers": [{"Name": "X-Ref", "Value": "7"}, {"Name": "from", "Value": "x@y.test"}, {"Name": "X-OTP-Key", "Value": "login"}],
        "Tag": "sign up", "Metadata": {"a": "b"}, "MessageStream": "outbound", "TrackOpens": true, "TrackLinks": "None",
        "Attachments": [{"Name": "a.txt", "Content": "aGkK", "ContentType": "text/plain", "ContentID": null},
            {"Name": "l.png", "Content": "iVBORw==", "ContentType": "image/png", "ContentID": "cid:logo"}],
    });
    let send = json!({
        "from": {"email": "otp@shop.test", "name": "Shop, Inc."}, "reply_to": {"email": "help@shop.test"}, "subject": "never",
        "personalizations": [{"to": [{"email": "alice@example.test", "name": "Alice"}], "cc": [{"email": "carl@example.test"}],
            "bcc": [{"email": "bob@example.test"}], "subject": "x", "headers": {"x-ref": "7"}, "custom_args": {"a": "b"},
            "substitutions": {}}],
        "content": [{"type": "text/plain", "value": "t"}, {"type": "text/html; charset=utf-8", "value": "<b>h</b>"}],
        "headers": {"X-Ref": "6", "X-OTP-Key": "login"}, "categories": ["sign up", "b"], "asm": {"group_id": 1},
        "tracking_settings": {}, "mail_settings": {"sandbox_mode": {"enable": false}}, "ip_pool_name": "p",
        "attachments": [{"filename": "a.txt", "content": "aGkK", "type": "text/plain", "disposition": "attachment"},
            {"filename": "l.png", "content": "iVBORw==", "type": "image/png", "content_id": "<logo>"}],
    });
    for (door, body) in ALL.into_iter().zip([emails, email, send]) {
        let before = bench.mx.received().len();
        let answer = bench.send(door, &body).await;
        assert!(answer.status < 300, "{door:?} {answer:?}");
        let ends = [bench.events.next_end().await, bench.events.next_end().await, bench.events.next_end().await];
        assert!(ends.iter().all(|end| end.kind() == Kind::Delivered && end.head.tag.as_deref() == Some("sign_up")));
        let message = bench.operator.get(&format!("/v1/messages/{}", door.id(&answer))).await.json();
        let mut to: Vec<&str> =
            message["entries"].as_array().unwrap().iter().map(|e| e["recipient"].as_str().unwrap()).collect();
        to.sort_unstable();
        assert_eq!(to, ["alice@example.test", "bob@example.test", "carl@example.test"]);
        let received = bench.mx.received()[before].content.clone();
        let raw = String::from_utf8(received.clone()).unwrap();
        assert!(!raw.contains("bob@") && !raw.contains("x@y.test") && !raw.contains("X-OTP"), "{raw}");
        assert_eq!(raw.to_lowercase().matches("x-ref: 7").count(), 1, "{raw}");
        let mail = MessageParser::default().parse(&received).unwrap();
        assert_eq!(mail.from().unwrap().first().unwrap().name(), Some("Shop, Inc."));
        assert_eq!(mail.to().unwrap().first().unwrap().name(), Some("Alice"));
        assert_eq!(mail.cc().unwrap().first().unwrap().address(), Some("carl@example.test"));
        assert_eq!(mail.reply_to().unwrap().first().unwrap().address(), Some("help@shop.test"));
        assert_eq!((mail.subject(), mail.body_html(0).as_deref().map(str::trim)), (Some("x"), Some("<b>h</b>")));
        let logo = mail.parts.iter().find(|part| part.content_id() == Some("logo")).expect("a logo");
        assert_eq!(logo.contents(), b"\x89PNG");
        let text = mail.parts.iter().find(|part| part.attachment_name() == Some("a.txt")).expect("a file");
        assert_eq!(text.contents(), b"hi\n");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_statuses_of_the_table() {
    let bench = Bench::new("[submission]\nmessage_size_max = \"64KiB\"\n").await;
    bench.operator.ask("PUT", "/v1/suppressions/gone@example.test", "", "{\"reason\": \"test\"}").await;
    for door in ALL {
        let mail = door.mail("alice@example.test");
        let answer = bench.ask(door, "", "", &mail).await;
        door.check(&answer, [(401, "missing_api_key"), (401, "10"), (401, "")]);
        let answer = bench.ask(door, "wrong", "", &mail).await;
        door.check(&answer, [(403, "invalid_api_key"), (401, "10"), (401, "")]);
        let sender = door.mail_from("otp@bank.test", "alice@example.test");
        door.check(&bench.send(door, &sender).await, [(403, "validation_error"), (422, "400"), (403, "")]);
        let bad = [(422, "validation_error"), (422, "300"), (400, "")];
        for (mail, what) in [
            (door.mail_from("otp@", "alice@example.test"), "rom"),
            (door.mail_from("ceo@bank.test <otp@shop.test>", "alice@example.test"), "rom"),
            (door.mail("alice"), "to"),
            (door.with_header(mail.clone(), "X-A", "b\r\nBcc: c@d.test"), "CR or LF"),
            (door.with_header(mail.clone(), "X-OTP-Life", "soon"), "X-OTP-Life"),
            (json!([]), "body"),
            (json!({"from": 5, "From": 5}), "body"),
        ] {
            let told = door.check(&bench.send(door, &mail).await, bad);
            assert!(told.to_lowercase().contains(&what.to_lowercase()), "{door:?} {mail}: {told}");
        }
        let missing = [(422, "missing_required_field"), (422, "300"), (400, "")];
        door.check(&bench.send(door, &json!({})).await, missing);
        for recipient in ["gone@example.test", "a@null.test", "a@gone.test"] {
            let told = door.check(
                &bench.send(door, &door.mail(recipient)).await,
                [(422, "validation_error"), (422, "406"), (400, "")],
            );
            assert!(told.contains(recipient), "{told}");
            if door == Door::Email {
                let found = format!("Found inactive addresses: {recipient}. Inactive ");
                assert!(told.starts_with(&found), "{told}");
            }
        }
        let huge = door.with_header(door.mail("alice@example.test"), "X-A", &"x".repeat(200 << 10));
        door.check(&bench.send(door, &huge).await, [(413, "validation_error"), (413, "300"), (413, "")]);
        let answer = bench.http.ask("GET", door.path(), "", "").await;
        door.check(&answer, [(405, "method_not_allowed"), (405, "300"), (405, "")]);
        assert!(answer.field("allow").contains("post"), "{answer:?}");
    }
    assert_eq!(bench.relay.queue().depth().messages, 0);
    assert!(bench.mx.received().is_empty());
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_named() {
    let bench = Bench::new("").await;
    let with = |door: Door, more: Value| {
        let mut mail = door.mail("alice@example.test");
        mail.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mail
    };
    for (door, more, name) in [
        (Door::Emails, json!({"template": {"id": "x"}}), "template"),
        (Door::Emails, json!({"scheduled_at": "in 1 min"}), "scheduled_at"),
        (Door::Emails, json!({"attachments": [{"path": "https://shop.test/a.pdf"}]}), "attachments.path"),
        (Door::Email, json!({"TemplateId": 5}), "TemplateId"),
        (Door::Email, json!({"TemplateAlias": "x", "TemplateModel": {}}), "TemplateAlias"),
        (Door::MailSend, json!({"template_id": "d-1"}), "template_id"),
        (Door::MailSend, json!({"send_at": 1_795_255_200}), "send_at"),
        (Door::MailSend, json!({"mail_settings": {"sandbox_mode": {"enable": true}}}), "sandbox_mode"),
        (Door::MailSend, json!({"mail_settings": {"bcc": {"enable": true, "email": "x@y.test"}}}), "mail_settings.bcc"),
    ] {
        let answer = bench.send(door, &with(door, more)).await;
        let told = door.check(&answer, [(422, "validation_error"), (422, "300"), (400, "")]);
        assert!(told.contains(name), "{told}");
    }
    let mut later = Door::MailSend.mail("alice@example.test");
    later["personalizations"][0]["send_at"] = json!(1_795_255_200);
    let answer = bench.send(Door::MailSend, &later).await;
    assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (400, &json!("personalizations[0].send_at")));
    assert_eq!(bench.relay.queue().depth().messages, 0);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_say_when_to_come_back() {
    let bench = Bench::new("[otp]\nrecipient_budget = \"2/10m\"\n").await;
    for door in ALL {
        let to = format!("budget-{door:?}@example.test").to_lowercase();
        for _ in 0..2 {
            assert!(bench.send(door, &door.mail(&to)).await.status < 300);
        }
        let answer = bench.send(door, &door.mail(&to)).await;
        door.check(&answer, [(429, "rate_limit_exceeded"), (429, "429"), (429, "")]);
        let reset: u64 = answer.field("ratelimit-reset").parse().unwrap();
        assert_eq!((answer.field("ratelimit-limit"), answer.field("ratelimit-remaining")), ("2", "0"));
        assert!((1..=600).contains(&reset) && answer.field("retry-after") == answer.field("ratelimit-reset"));
    }
    let slow = |door: Door| door.mail_from("otp@slow.test", "alice@example.test");
    let first = bench.ask(Door::Emails, "token of slow", "", &slow(Door::Emails)).await;
    assert_eq!(first.status, 200, "{first:?}");
    for door in ALL {
        let answer = bench.ask(door, "token of slow", "", &slow(door)).await;
        door.check(&answer, [(429, "rate_limit_exceeded"), (429, "429"), (429, "")]);
        assert_eq!(answer.field("ratelimit-limit"), "1");
    }
    bench.relay.begin_to_drain();
    for door in ALL {
        let answer = bench.send(door, &door.mail("alice@example.test")).await;
        door.check(&answer, [(503, "application_error"), (503, "100"), (503, "")]);
        assert_eq!(answer.field("retry-after"), "5");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_the_same_message() {
    let bench = Bench::new("[otp]\nrecipient_budget = \"off\"\n").await;
    let conflict = [(409, "invalid_idempotent_request"), (422, "300"), (400, "")];
    for door in ALL {
        let mail = |to: &str| door.with_header(door.mail(to), "X-OTP-Idempotency-Key", &format!("key of {door:?}"));
        let first = bench.send(door, &mail("alice@example.test")).await;
        let again = bench.send(door, &mail("alice@example.test")).await;
        assert_eq!(door.id(&first), door.id(&again), "{door:?}");
        door.check(&bench.send(door, &mail("bob@example.test")).await, conflict);
    }
    let key = "Idempotency-Key: 7f3a\r\n";
    let mail = Door::Emails.mail("alice@example.test");
    let first = bench.ask(Door::Emails, TOKEN, key, &mail).await.json();
    assert_eq!(bench.ask(Door::Emails, TOKEN, key, &mail).await.json(), first);
    let other = Door::Emails.mail("bob@example.test");
    Door::Emails.check(&bench.ask(Door::Emails, TOKEN, key, &other).await, conflict);
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(256));
    assert_eq!(bench.ask(Door::Emails, TOKEN, &long, &mail).await.status, 200);
    for key in ["Idempotency-Key: \r\n".to_owned(), format!("Idempotency-Key: {}\r\n", "k".repeat(257))] {
        assert_eq!(bench.ask(Door::Emails, TOKEN, &key, &mail).await.status, 422);
    }
    // Many at once: one message, whoever is answered with an id has that of the one.
    let key = "Idempotency-Key: at once\r\n";
    let answers = (0..16).map(|_| bench.ask(Door::Emails, TOKEN, key, &mail));
    let answers = futures_util::future::join_all(answers).await;
    let mut ids: Vec<String> = Vec::new();
    for answer in &answers {
        match answer.status {
            200 => ids.push(answer.json()["id"].to_string()),
            _ => _ = Door::Emails.check(answer, [(409, "concurrent_idempotent_requests"), (0, ""), (0, "")]),
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{answers:?}");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let bench = Bench::new("").await;
    let emails = |to: &[&str]| Value::from(to.iter().map(|to| Door::Emails.mail(to)).collect::<Vec<_>>());
    let ask = async |fields: &str, body: &Value| {
        let fields = format!("Authorization: Bearer {TOKEN}\r\n{fields}");
        bench.http.ask("POST", "/emails/batch", &fields, &body.to_string()).await
    };
    let answer = ask("Idempotency-Key: b\r\n", &emails(&["a@example.test", "b@example.test"])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json().get("errors").is_none());
    let again = ask("Idempotency-Key: b\r\n", &emails(&["a@example.test", "b@example.test"])).await;
    assert_eq!(again.json(), answer.json());
    let before = bench.operator.get("/v1/messages?limit=100").await.json()["messages"].as_array().unwrap().len();
    assert_eq!(before, 2);
    for bad in [
        emails(&["c@example.test", "a@gone.test"]),
        emails(&["c@example.test", "nobody"]),
        emails(&[]),
        emails(&["c@example.test"; 101]),
        // The sixth is beyond the budget.
        emails(&["c@example.test"; 6]),
        json!({"from": "x"}),
    ] {
        let answer = ask("", &bad).await;
        assert!([422, 429].contains(&answer.status), "{answer:?}");
        assert!(answer.json()["name"].is_string());
    }
    let answer = ask("Idempotency-Key: b\r\n", &emails(&["a@example.test", "other@example.test"])).await;
    assert_eq!((answer.status, &answer.json()["name"]), (409, &json!("invalid_idempotent_request")));
    let after = bench.operator.get("/v1/messages?limit=100").await.json()["messages"].as_array().unwrap().len();
    assert_eq!(after, before, "nothing of a refused batch is stored");
    assert_eq!(ask("", &emails(&["c@example.test"; 5])).await.status, 200, "nor counted");
    let mixed = emails(&["d@example.test", "nobody", "a@gone.test", "e@example.test"]);
    let answer = ask("x-batch-validation: permissive\r\n", &mixed).await;
    let json = answer.json();
    assert_eq!((answer.status, json["data"].as_array().unwrap().len()), (200, 2), "{json}");
    assert_eq!((&json["errors"][0]["index"], &json["errors"][1]["index"]), (&json!(1), &json!(2)));
    assert!(json["errors"][1]["message"].as_str().unwrap().contains("a@gone.test"));
    // The same mail twice under one key is one message.
    let keyed = Door::Emails.with_header(Door::Emails.mail("f@example.test"), "X-OTP-Idempotency-Key", "twice");
    let json = ask("", &json!([keyed.clone(), keyed])).await.json();
    assert_eq!(json["data"][0]["id"], json["data"][1]["id"], "{json}");
    let huge = json!([{"from": "otp@shop.test", "to": "a@example.test", "subject": "x", "text": "x".repeat(17 << 20)}]);
    assert_eq!(ask("", &huge).await.status, 413);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_the_second_door_tells_in_place() {
    let bench = Bench::new("").await;
    let mut mails: Vec<Value> =
        ["a@example.test", "a@gone.test", "b@example.test"].map(|to| Door::Email.mail(to)).into();
    mails.push(json!({"From": 5}));
    let fields = format!("X-Postmark-Server-Token: {TOKEN}\r\n");
    let answer = bench.http.ask("POST", "/email/batch", &fields, &Value::from(mails).to_string()).await;
    let json = answer.json();
    assert_eq!(answer.status, 200);
    let codes: Vec<u64> = json.as_array().unwrap().iter().map(|one| one["ErrorCode"].as_u64().unwrap()).collect();
    assert_eq!(codes, [0, 406, 0, 300]);
    assert_eq!((&json[0]["To"], &json[2]["To"]), (&json!("a@example.test"), &json!("b@example.test")));
    let many = Value::from(vec![Door::Email.mail("a@example.test"); 501]);
    assert_eq!(bench.http.ask("POST", "/email/batch", &fields, &many.to_string()).await.status, 422);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_personalization_is_a_message() {
    let bench = Bench::new("").await;
    let mut mail = Door::MailSend.mail("a@example.test");
    let to = |to: &str| json!({"to": [{"email": to}], "headers": {"X-OTP-Tag": to.split('@').next().unwrap()}});
    mail["personalizations"] = json!([to("a@example.test"), to("b@example.test")]);
    mail["headers"] = json!({"X-OTP-Idempotency-Key": "p"});
    let answer = bench.send(Door::MailSend, &mail).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let ids: Vec<String> = answer.field("x-message-id").split(',').map(str::to_owned).collect();
    for (id, tag) in ids.iter().zip(["a", "b"]) {
        let message = bench.operator.get(&format!("/v1/messages/{id}")).await.json();
        assert_eq!((&message["tag"], message["entries"].as_array().unwrap().len()), (&json!(tag), 1));
    }
    assert_eq!(bench.send(Door::MailSend, &mail).await.field("x-message-id"), answer.field("x-message-id"));
    mail["personalizations"] = json!([to("c@example.test"), to("a@gone.test")]);
    mail["headers"] = json!({});
    assert_eq!(bench.send(Door::MailSend, &mail).await.status, 400);
    let all = bench.operator.get("/v1/messages").await.json();
    assert_eq!(all["messages"].as_array().unwrap().len(), 2, "nothing of a refused request is stored");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_mail_stands_is_told_and_it_can_be_cancelled() {
    let mut bench = Bench::new("").await;
    let shop = Http { token: TOKEN.to_owned(), ..bench.http.clone() };
    let show = async |id: &str| shop.get(&format!("/emails/{id}")).await.json();
    let send = async |to: Value| {
        let mut mail = Door::Emails.mail("x@example.test");
        mail["to"] = to;
        shop.post("/emails", mail).await.id()
    };
    let id = send(json!("alice@example.test")).await;
    bench.events.next(Kind::Delivered).await;
    let json = show(&id).await;
    let expected = json!({"object": "email", "id": id, "from": "otp@shop.test", "to": ["alice@example.test"], "cc": [],
        "bcc": [], "reply_to": [], "created_at": json["created_at"], "subject": "", "html": null, "text": null,
        "last_event": "delivered"});
    assert_eq!(json, expected);
    let answer = shop.post(&format!("/emails/{id}/cancel"), json!({})).await;
    assert_eq!((answer.status, &answer.json()["statusCode"]), (422, &json!(422)));
    bench.mx.trick("RCPT TO:<bob", Trick::Say("550 5.1.1 no such user"), 1);
    let id = send(json!(["alice@example.test", "bob@example.test"])).await;
    bench.events.next(Kind::Failed).await;
    assert_eq!(show(&id).await["last_event"], "bounced", "the worst of both");
    bench.mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted, try again in 300 seconds"), 99);
    let id = send(json!("carl@example.test")).await;
    bench.events.next(Kind::Greylisted).await;
    assert_eq!(show(&id).await["last_event"], "delivery_delayed");
    for _ in 0..2 {
        let answer = shop.post(&format!("/emails/{id}/cancel"), json!({})).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"object": "email", "id": id})));
    }
    assert_eq!(show(&id).await["last_event"], "canceled");
    let slow = Http { token: "token of slow".to_owned(), ..bench.http.clone() };
    for path in [format!("/emails/{id}"), "/emails/1".to_owned(), "/emails/00000000-0000-0000-0000-000000000000".into()]
    {
        let answer = slow.get(&path).await;
        Door::Emails.check(&answer, [(404, "not_found"), (0, ""), (0, "")]);
    }
    assert_eq!(slow.post(&format!("/emails/{id}/cancel"), json!({})).await.status, 404);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_doors_are_not_there_and_slashes_count_once() {
    let mut bench = Bench::new("").await;
    let more =
        format!("[[user]]\nname = \"shop\"\ntoken_hash = \"{}\"\nsenders = [\"*@shop.test\"]\n", token_hash(TOKEN));
    let mut config = crate::support::configured(bench.folder.path(), bench.mx.address, &more, "");
    config.http.doors.retain(|door| door.name() == "emails");
    bench.relay.reload(config).unwrap();
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let mail = Door::Emails.mail("alice@example.test").to_string();
    for path in ["//emails", "/emails", "///emails"] {
        assert_eq!(bench.http.ask("POST", path, &token, &mail).await.status, 200, "{path}");
    }
    for door in [Door::Email, Door::MailSend] {
        let answer = bench.send(door, &door.mail("alice@example.test")).await;
        assert_eq!((answer.status, answer.field("content-type")), (404, "application/problem+json"));
    }
    bench.events.next(Kind::Delivered).await;
    bench.relay.shut_down().await;
}
