//! From fields that two programs read differently, at both doors, and the domains that a key signs for.

use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::dkim::{record, verify};
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::json;

use crate::support::client::Client;
use crate::support::fake_mx::FakeMx;
use crate::support::http::Http;
use crate::support::{Events, start_relay};

const HOST: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8"];

struct Bench {
    relay: Relay,
    events: Events,
    mx: FakeMx,
    shop: Http,
    folder: tempfile::TempDir,
}

impl Bench {
    /// The user `shop` may send as anybody at app.test, as may whoever is at loopback.
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(HOST).await;
        let hash = token_hash("token of shop");
        let user = format!("[[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@app.test\"]\n");
        let (relay, events) =
            start_relay(folder.path(), mx.address, &format!("{user}[otp]\nrecipient_budget = \"off\"\n{more}"));
        let shop = Http { address: relay.http_address().unwrap(), token: "token of shop".to_owned() };
        Self { relay, events, mx, shop, folder }
    }

    async fn by_smtp(&self, from: &str) -> String {
        let mut app = Client::connect(self.relay.addresses()[0]).await;
        app.submit(&["alice@example.test"], &format!("{from}\r\nSubject: x\r\n\r\nx")).await
    }

    async fn by_http(&self, from: &str) -> (u16, String) {
        let raw = format!("{from}\r\nSubject: x\r\n\r\nx\r\n");
        let request = json!({"from": "otp@app.test", "to": "alice@example.test", "raw": raw});
        let answer = self.shop.post("/v1/messages", request).await;
        (answer.status, answer.json()["detail"].as_str().unwrap_or_default().to_owned())
    }
}

/// Each of these some program reads as mail from bank.test.
const FOREIGN: &[(&str, &str)] = &[
    ("ceo@bank.test <otp@app.test>", "554 5.6.0 an unquoted @"),
    ("ceo@bank.test:otp@app.test;", "554 5.6.0 an unquoted @"),
    ("ceo@bank.test: <otp@app.test>;", "554 5.6.0 an unquoted @"),
    ("The CEO ceo @ bank.test <otp@app.test>", "554 5.6.0 an unquoted @"),
    ("[ceo@bank.test] <otp@app.test>", "554 5.6.0 an unquoted @"),
    ("ceo@bank.test\r\n <otp@app.test>", "554 5.6.0 an unquoted @"),
    ("otp@app.test, ceo@bank.test <otp@app.test>", "554 5.6.0 an unquoted @"),
    ("Codes:ceo@bank.test <otp@app.test>;", "554 5.6.0 an unquoted @"),
    ("otp@app.test <otp@app.test>", "554 5.6.0 an unquoted @"),
    ("=?utf-8?q?ceo=40bank=2Etest?= <otp@app.test>", "550 5.7.1 From not allowed"),
    ("=?utf-8?b?Y2VvQGJhbmsudGVzdA==?= <otp@app.test>", "550 5.7.1 From not allowed"),
    ("=?utf-8?q?ceo=40bank.test=2C?= <otp@app.test>", "550 5.7.1 From not allowed"),
    ("=?utf-8?q?ceo=40bank.test?=: otp@app.test;", "550 5.7.1 From not allowed"),
    ("=?utf-8?q?ceo=40bank.test=3E?=@app.test", "554 5.6.0 an encoded word"),
    ("\"x\\\" <ceo@bank.test>, \\\"\" <otp@app.test>", "550 5.7.1 From not allowed"),
    ("((x) ceo@bank.test) <otp@app.test>", "550 5.7.1 From not allowed"),
    ("(\\) <ceo@bank.test>,) otp@app.test", "550 5.7.1 From not allowed"),
    ("\"ceo@bank.test\"@app.test", "550 5.7.1 From not allowed"),
    ("otp@app.test ceo@bank.test", "554 5.6.0"),
    ("<otp@app.test> <ceo@bank.test>", "554 5.6.0"),
    ("otp@app.test (", "554 5.6.0"),
    ("otp@app.test, Codes:ceo@bank.test;", "550 5.7.1 From not allowed"),
];

/// Odd, and clear to everybody.
const HONEST: &[&str] = &[
    "\"otp codes\"@app.test",
    "otp @ app.test",
    "otp(codes)@app.test (ceo@bank.test)",
    "\"ceo@bank.test\" <otp@app.test>",
    "(ceo@bank.test) App <otp@app.test>",
    "[Staging] App Inc. <otp@app.test>",
    "Codes: otp@app.test, App <code@app.test>;",
    "=?utf-8?q?Caf=C3=A9_=40_home?= <otp@app.test>",
    "=?utf-8?q?otp=40app.test?= <otp@app.test>",
    "=?utf-8?b?w5xidW5n?=\r\n =?utf-8?q?_x?= <otp@app.test>",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_other_program_reads_another_author() {
    let mut bench = Bench::new("").await;
    for (from, expected) in FOREIGN {
        let reply = bench.by_smtp(&format!("From: {from}")).await;
        assert!(reply.starts_with(expected), "{}: {reply}", from.escape_debug());
        let (status, detail) = bench.by_http(&format!("From: {from}")).await;
        let same = if expected.starts_with("550") { 403 } else { 422 };
        assert_eq!(status, same, "{}: {detail}", from.escape_debug());
        assert!(detail.starts_with(expected.get(10..).unwrap_or_default()), "{detail}");
    }
    assert!(bench.mx.received().is_empty());
    for from in HONEST {
        let reply = bench.by_smtp(&format!("From: {from}")).await;
        assert!(reply.starts_with("250"), "{}: {reply}", from.escape_debug());
        bench.events.next(Kind::Delivered).await;
        let (status, detail) = bench.by_http(&format!("From: {from}")).await;
        assert_eq!(status, 202, "{}: {detail}", from.escape_debug());
        bench.events.next(Kind::Delivered).await;
    }
    bench.relay.shut_down().await;
    let received = bench.mx.received();
    assert_eq!(received.len(), 2 * HONEST.len());
    for (index, message) in received.iter().enumerate() {
        let text = String::from_utf8(message.content.clone()).unwrap();
        assert!(text.contains(&format!("\r\nFrom: {}\r\n", HONEST[index / 2])), "{text}");
    }
}

/// What the API composes has one author too.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_composes_for_one_author() {
    let mut bench = Bench::new("").await;
    let send = |from: &str| {
        let request = json!({"from": from, "to": "alice@example.test", "subject": "x", "text": "x"});
        let shop = bench.shop.clone();
        async move { shop.post("/v1/messages", request).await.status }
    };
    for (from, status) in [
        ("ceo@bank.test <otp@app.test>", 422),
        ("ceo\u{ff20}bank.test <otp@app.test>", 422),
        ("\"a\" ceo@bank.test \"b\" <otp@app.test>", 403),
        ("\"a\\\" <ceo@bank.test>, \\\"b\" <otp@app.test>", 403),
        ("\"Caf\u{e9} ceo@bank.test\" <otp@app.test>", 403),
        ("App <ceo@bank.test>", 403),
    ] {
        assert_eq!(send(from).await, status, "{from}");
    }
    for from in ["\"ceo@bank.test\" <otp@app.test>", "Caf\u{e9} <otp@app.test>", "otp@app.test"] {
        assert_eq!(send(from).await, 202, "{from}");
        bench.events.next(Kind::Delivered).await;
    }
    bench.relay.shut_down().await;
    assert_eq!(bench.mx.received().len(), 3);
}

/// A parent domain's key signs for those below; who may send as whom is another matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_parents_key_signs_and_allows_nothing() {
    let pem = record::generate_ed25519().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), &pem).unwrap();
    let mx = FakeMx::start(HOST).await;
    // The user `trusted` is not declared here.
    let text = format!(
        "hostname = \"relay.test\"\ndata_dir = \"data\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nauth = \"trusted\"\ntrusted_networks = [\"127.0.0.0/8\"]\n\
         [[user]]\nname = \"shop\"\ntoken_hash = \"{}\"\nsenders = [\"*@*.app.test\"]\n\
         [[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"key\"\n\
         [http]\naddress = \"127.0.0.1:0\"\n[delivery]\nport = {}\nallow_private_destinations = true\n",
        token_hash("token of shop"),
        mx.address.port()
    );
    let (relay, mut events) = crate::support::start_relay_from(folder.path(), &text);
    for (from, expected) in [("otp@sub.app.test", "550 5.7.1"), ("otp@app.test", "250"), ("otp@xapp.test", "550 5.7.1")]
    {
        let mut app = Client::connect(relay.addresses()[0]).await;
        let reply = app.say(&format!("MAIL FROM:<{from}>")).await;
        assert!(reply.starts_with(expected), "{from}: {reply}");
    }
    let shop = Http { address: relay.http_address().unwrap(), token: "token of shop".to_owned() };
    for (from, status) in [("otp@mail.app.test", 202), ("otp@a.b.app.test", 202), ("otp@app.test", 403)] {
        let request = json!({"from": from, "to": "alice@example.test", "otp": {"code": "481516"}});
        assert_eq!(shop.post("/v1/messages", request).await.status, status, "{from}");
        if status == 202 {
            events.next(Kind::Delivered).await;
        }
    }
    relay.shut_down().await;
    let received = mx.received();
    assert_eq!(received.len(), 2);
    let resolver =
        otp_relay::testing::destination::resolver::build(hickory_resolver::config::ResolverConfig::default()).unwrap();
    for message in received {
        let verdicts = verify::verify_against(resolver.clone(), &message.content, &record::txt_record(&pem).unwrap())
            .await
            .unwrap();
        assert!(verdicts.len() == 1 && verdicts[0].domain == "app.test" && verdicts[0].result.is_ok(), "{verdicts:?}");
    }
}

/// The hint how to override a suppression is pasted into a shell, and the address is an unknown sender's.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_is_safe_to_paste() {
    let bench = Bench::new("").await;
    let operator = std::fs::read_to_string(bench.folder.path().join("data/api.token")).unwrap();
    let operator = Http { token: operator.trim().to_owned(), ..bench.shop.clone() };
    for (address, path, hint) in [
        ("$home@example.test", "%24home@example.test", "remove '$home@example.test'"),
        ("`id`@example.test", "%60id%60@example.test", "remove '`id`@example.test'"),
        ("o'hara@example.test", "o'hara@example.test", "remove 'o'\\''hara@example.test'"),
        ("--token=x@example.test", "--token=x@example.test", "remove -- '--token=x@example.test'"),
        ("alice@example.test", "alice@example.test", "remove 'alice@example.test'"),
    ] {
        let put = operator.ask("PUT", &format!("/v1/suppressions/{path}"), "", "{\"reason\":\"x\"}").await;
        assert_eq!(put.status, 200, "{address}: {}", put.body);
        let mut app = Client::connect(bench.relay.addresses()[0]).await;
        app.say("MAIL FROM:<otp@app.test>").await;
        let reply = app.say(&format!("RCPT TO:<{address}>")).await;
        assert!(reply.starts_with("550 5.1.1") && reply.ends_with(hint), "{address}: {reply}");
        let request = json!({"from": "otp@app.test", "to": address, "otp": {"code": "481516"}});
        let detail = bench.shop.post("/v1/messages", request).await.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.ends_with(hint), "{detail}");
    }
    bench.relay.shut_down().await;
}
