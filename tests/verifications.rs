//! Verifications over real sockets: what an app says and hears, and what it cannot find out.

use std::time::Duration;

use crate::support::bench::Bench;
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::{Answer, Http};
use otp_relay::testing::event::Kind;
use serde_json::{Value, json};

const PIPELINING: &[&str] = &["PIPELINING", "8BITMIME", "SIZE 10000000"];

async fn bench() -> Bench {
    bench_with("").await
}

async fn bench_with(more: &str) -> Bench {
    bench_on(tempfile::tempdir().unwrap(), FakeMx::start(PIPELINING).await, more)
}

fn bench_on(folder: tempfile::TempDir, mx: FakeMx, more: &str) -> Bench {
    Bench::on(folder, mx, "senders = [\"otp@NAME.test\"]", more)
}

/// The mail that came last, and the code in it.
fn last_mail(bench: &Bench) -> (String, String) {
    let received = bench.mx.received();
    let mail = mail_parser::MessageParser::default().parse(&received.last().unwrap().content).unwrap();
    let text = mail.body_text(0).unwrap().into_owned();
    let subject = mail.subject().unwrap().to_owned();
    (text.lines().next().unwrap().to_owned(), format!("{subject}\n{text}"))
}

async fn start(http: &Http, body: Value) -> Answer {
    http.post("/v1/verifications", body).await
}

async fn check(http: &Http, id: &str, code: &str) -> Answer {
    http.post(&format!("/v1/verifications/{id}/check"), json!({"code": code})).await
}

fn other(code: &str) -> String {
    format!("{}{}", if code.starts_with('1') { '2' } else { '1' }, &code[1..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_made_sent_and_checked() {
    let mut bench = bench().await;
    let body = json!({"to": "alice@example.test", "app": "Example Shop", "locale": "de", "purpose": "signup"});
    let begun = start(&bench.shop, body).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let (json, id) = (begun.json(), begun.id());
    assert_eq!(
        (&json["state"], &json["purpose"], &json["checks_left"], &json["sends"]),
        (&json!("pending"), &json!("signup"), &json!(5), &json!(1))
    );
    assert_eq!(json["message"]["entries"][0]["recipient"], "alice@example.test");
    assert!(json["resend_at"].is_string() && json["expires_at"].is_string(), "{json}");
    let delivered = bench.events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.verification.as_deref(), delivered.head.tag.as_deref()), (Some(&*id), Some("signup")));
    let (code, mail) = last_mail(&bench);
    assert!(mail.contains("Example Shop") && mail.contains("Best\u{e4}tigen Sie Ihre E-Mail-Adresse"), "{mail}");
    assert!(code.len() == 6 && code.bytes().all(|octet| octet.is_ascii_digit()), "{code}");
    let wrong = check(&bench.shop, &id, &other(&code)).await;
    assert_eq!((wrong.status, wrong.json()), (200, json!({"valid": false, "state": "pending", "checks_left": 4})));
    assert_eq!(check(&bench.shop, &id, "12 34").await.status, 422);
    assert_eq!(check(&bench.bank, &id, &code).await.status, 404);
    assert_eq!(bench.bank.get(&format!("/v1/verifications/{id}")).await.status, 404);
    let right = check(&bench.shop, &id, &code).await;
    assert_eq!((right.status, right.json()), (200, json!({"valid": true, "state": "approved", "checks_left": 0})));
    let verified = bench.events.next(Kind::Verified).await;
    assert_eq!(verified.head.verification.as_deref(), Some(&*id));
    assert!(verified.since_delivered().is_some());
    assert_eq!(check(&bench.shop, &id, &code).await.json()["valid"], false);
    let shown = bench.shop.get(&format!("/v1/verifications/{id}")).await.json();
    assert_eq!((&shown["state"], &shown["message"]["entries"][0]["state"]), (&json!("approved"), &json!("delivered")));
    assert!(!shown.to_string().contains(&code));
    let trace = bench.shop.get(&format!("/v1/messages/{}", shown["message"]["id"].as_str().unwrap())).await.json();
    let last = trace["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["event"], &last["verification"]), (&json!("verified"), &json!(id)));
    assert!(last["ms_since_delivered"].is_u64(), "{last}");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_belongs_to_what_is_pending() {
    let mut bench = bench_with("[verification]\nresend_after = [\"1h\"]\n").await;
    let body = |session: Option<&str>| json!({"to": "alice@example.test", "session": session});
    let first = start(&bench.shop, body(None)).await;
    let again = start(&bench.shop, body(None)).await;
    assert_eq!((first.status, again.status), (202, 200));
    assert_eq!(first.id(), again.id());
    assert_eq!(again.json()["sends"], 1);
    let apart = start(&bench.shop, body(Some("s"))).await;
    assert_eq!(apart.status, 202);
    assert_ne!(apart.id(), first.id());
    assert_ne!(start(&bench.bank, body(None)).await.id(), first.id(), "another app's");
    for _ in 0..3 {
        bench.events.next(Kind::Delivered).await;
    }
    assert_eq!(bench.mx.received().len(), 3);
    // A repeat of the request, whatever became of it.
    let key = "Idempotency-Key: k1\r\n";
    let keyed = body(Some("k")).to_string();
    let one = bench.shop.ask("POST", "/v1/verifications", key, &keyed).await;
    let withdrawn = bench.shop.delete(&format!("/v1/verifications/{}", one.id())).await;
    assert_eq!((withdrawn.status, &withdrawn.json()["state"]), (200, &json!("cancelled")));
    let two = bench.shop.ask("POST", "/v1/verifications", key, &keyed).await;
    assert_eq!((one.status, two.status, one.id() == two.id()), (202, 200, true), "{one:?} {two:?}");
    let three = bench.shop.ask("POST", "/v1/verifications", key, &body(Some("other")).to_string()).await;
    assert_eq!(three.status, 409);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_texts_letters_and_faults() {
    let mut bench = bench().await;
    let body = json!({"to": "alice@example.test", "alphabet": "letters", "length": 10, "life": "5m", "from": "Shop <otp@shop.test>",
        "subject": "Code {{code}}", "text": "It is {{ code }}.\n", "html": "<b>{{code}}</b>"});
    let begun = start(&bench.shop, body).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    bench.events.next(Kind::Delivered).await;
    let (_, mail) = last_mail(&bench);
    let code = mail.lines().next().unwrap().strip_prefix("Code ").unwrap().to_owned();
    assert!(code.len() == 10 && mail.contains(&format!("It is {code}.")), "{mail}");
    let typed = format!("{} {}", &code[..5].to_lowercase(), &code[5..]);
    assert_eq!(check(&bench.shop, &begun.id(), &typed).await.json()["valid"], true);
    for (more, expected) in [
        (json!({"life": 59}), "life"),
        (json!({"life": "31m"}), "life"),
        (json!({"length": 5}), "length"),
        (json!({"length": 11}), "length"),
        (json!({"alphabet": "letters", "length": 7}), "length"),
        (json!({"text": "no code", "subject": "x"}), "{{code}}"),
        (json!({"text": "{{code}}"}), "subject"),
        (json!({"purpose": "a b"}), "purpose"),
        (json!({"session": "x".repeat(65)}), "session"),
        (json!({"to": "nobody"}), "to"),
        (json!({"quiet": true, "wait": "delivered"}), "wait"),
        (json!({"code": "481516"}), "unknown field"),
    ] {
        let mut body = json!({"to": "bob@example.test"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = start(&bench.shop, body).await;
        assert_eq!(answer.status, 422, "{more}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(expected), "{more}: {answer:?}");
    }
    assert_eq!(start(&bench.shop, json!({"to": "bob@example.test", "from": "otp@bank.test"})).await.status, 403);
    assert_eq!(
        start(&bench.operator, json!({"to": "bob@example.test"})).await.status,
        422,
        "the operator has no address"
    );
    assert_eq!(start(&bench.operator, json!({"to": "bob@example.test", "from": "otp@bank.test"})).await.status, 202);
    assert_eq!(
        Http { token: String::new(), ..bench.shop.clone() }.post("/v1/verifications", json!({})).await.status,
        401
    );
    bench.relay.shut_down().await;
}

/// Where it may be told, it is; and a code that was not sent costs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_not_sent_to_is_told_unless_quiet() {
    let mut bench = bench().await;
    let put = bench.operator.ask("PUT", "/v1/suppressions/gone@example.test", "", "{}").await;
    assert_eq!(put.status, 200);
    let open = start(&bench.shop, json!({"to": "gone@example.test"})).await;
    assert_eq!(open.status, 422, "{open:?}");
    let quiet = |to: &str| json!({"to": to, "quiet": true});
    let shape = |answer: &Answer| {
        let json = answer.json();
        let names: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
        (answer.status, names, json["state"].clone())
    };
    let (gone, there) =
        (start(&bench.shop, quiet("gone@example.test")).await, start(&bench.shop, quiet("here@example.test")).await);
    assert_eq!(shape(&gone), shape(&there));
    assert_eq!(shape(&gone).1, ["expires_at", "id", "resend_at", "state"]);
    let (gone_again, there_again) =
        (start(&bench.shop, quiet("gone@example.test")).await, start(&bench.shop, quiet("here@example.test")).await);
    assert_eq!((gone.id(), there.id()), (gone_again.id(), there_again.id()));
    assert_eq!(shape(&gone_again), shape(&there_again));
    assert_eq!(gone_again.json()["resend_at"], gone.json()["resend_at"]);
    // What really happened is in the events.
    let failed = bench.events.next(Kind::Failed).await;
    assert_eq!(failed.head.verification.as_deref(), Some(&*gone.id()));
    assert!(failed.note().unwrap().contains("suppressed"), "{failed:?}");
    let answers = [check(&bench.shop, &gone.id(), "000000").await, check(&bench.shop, &there.id(), "0000000").await];
    assert_eq!(answers[0].json(), answers[1].json());
    let shown = [
        bench.shop.get(&format!("/v1/verifications/{}", gone.id())).await,
        bench.shop.get(&format!("/v1/verifications/{}", there.id())).await,
    ];
    assert_eq!(shape(&shown[0]), shape(&shown[1]));
    // By address: nobody, a wrong code, and one that was not sent.
    let mut told = Vec::new();
    for to in ["nobody@example.test", "here@example.test", "gone@example.test", "HERE@example.test"] {
        let answer =
            bench.shop.post("/v1/verifications/check", json!({"to": to, "purpose": "login", "code": "0000000"})).await;
        told.push((answer.status, answer.json()));
    }
    assert!(
        told.iter().all(|answer| *answer == (200, json!({"valid": false, "state": "pending", "checks_left": 0}))),
        "{told:?}"
    );
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn races_and_restarts_over_http() {
    let mut bench = bench().await;
    let begun = start(&bench.shop, json!({"to": "alice@example.test"})).await;
    bench.events.next(Kind::Delivered).await;
    let (code, _) = last_mail(&bench);
    let id = begun.id();
    assert_eq!(check(&bench.shop, &id, &other(&code)).await.json()["checks_left"], 4);
    bench.relay.shut_down().await;
    let mut bench = bench_on(bench.folder, bench.mx, "");
    let shown = bench.shop.get(&format!("/v1/verifications/{id}")).await.json();
    assert_eq!((&shown["state"], &shown["checks_left"]), (&json!("pending"), &json!(4)));
    let asked = (0..32).map(|_| {
        let (http, id, code) = (bench.shop.clone(), id.clone(), code.clone());
        tokio::spawn(async move { check(&http, &id, &code).await.json()["valid"] == true })
    });
    let valid =
        futures_util::future::join_all(asked).await.into_iter().filter(|valid| *valid.as_ref().unwrap()).count();
    assert_eq!(valid, 1);
    bench.events.next(Kind::Verified).await;
    bench.relay.shut_down().await;
    let bench = bench_on(bench.folder, bench.mx, "");
    assert_eq!(
        check(&bench.shop, &id, &code).await.json(),
        json!({"valid": false, "state": "approved", "checks_left": 0})
    );
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_bounces_is_undeliverable_and_a_wait_sees_it() {
    let bench = bench().await;
    bench.mx.trick("RCPT TO:<bob", Trick::Say("550 5.1.1 no such user"), 1);
    let begun = start(&bench.shop, json!({"to": "bob@example.test", "wait": "delivered"})).await;
    assert_eq!((begun.status, &begun.json()["state"]), (202, &json!("undeliverable")), "{begun:?}");
    let answer = check(&bench.shop, &begun.id(), "000000").await;
    assert_eq!(answer.json(), json!({"valid": false, "state": "undeliverable", "checks_left": 0}));
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_end_in_429_with_their_end() {
    let bench = bench_with("[verification]\nrecipient_checks = \"3/1h\"\n").await;
    let begun = start(&bench.shop, json!({"to": "alice@example.test", "session": "mine"})).await;
    for _ in 0..3 {
        let answer =
            bench.shop.post("/v1/verifications/check", json!({"to": "alice@example.test", "code": "000000"})).await;
        assert_eq!(answer.status, 200);
    }
    let refused = [
        bench.shop.post("/v1/verifications/check", json!({"to": "alice@example.test", "code": "000000"})).await,
        start(&bench.shop, json!({"to": "alice+2@example.test"})).await,
    ];
    for answer in refused {
        assert_eq!(answer.status, 429, "{answer:?}");
        let wait: u64 = answer.field("retry-after").parse().unwrap();
        assert!((3590..=3600).contains(&wait), "{wait}");
    }
    let own = check(&bench.shop, &begun.id(), "0000000").await;
    assert_eq!(own.json(), json!({"valid": false, "state": "pending", "checks_left": 4}));
    assert_eq!(start(&bench.bank, json!({"to": "alice@example.test"})).await.status, 202, "another app's");
    tokio::time::timeout(Duration::from_secs(20), bench.relay.shut_down()).await.unwrap();
}
