//! What the API takes and tells beyond the first message: all fields, lists in pages, TLS, bodies in every form, and its own
//! description.

use std::collections::BTreeSet;

use crate::support::bench::Bench;
use crate::support::fake_mx::FakeMx;
use crate::support::http::{Answer, Http};
use crate::support::start_relay_from;
use mail_parser::{MessageParser, MimeHeaders as _};
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn bench() -> Bench {
    let mx = FakeMx::start(&["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000"]).await;
    let own = "senders = [\"*@NAME.test\"]";
    Bench::on(tempfile::tempdir().unwrap(), mx, own, "[otp]\nrecipient_budget = \"off\"\n")
}

fn mail(to: &str) -> Value {
    json!({"from": "otp@shop.test", "to": to, "subject": "481516 is your code", "text": "It is 481516.\n"})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_all_that_a_mail_can_have() {
    let mut bench = bench().await;
    let more = json!({
        "cc": ["Carl <carl@example.test>"], "bcc": "bob@example.test", "reply_to": "Help, Desk <help@shop.test>",
        "headers": {"X-Ref": "7", "Sender": "x@y.test", "X-OTP-Tag": "signup", "Message-ID": "<1@shop.test>"},
        "attachments": [{"filename": "a.csv", "content": "YSxiCjEsMgo", "content_type": "text/csv"}],
    });
    let body = with(mail("Alice <alice@example.test>"), more).to_string();
    let answer = bench.shop.ask("POST", "/v1/messages", &format!("traceparent: {TRACEPARENT}\r\n"), &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let json = answer.json();
    assert_eq!((&json["traceparent"], &json["tag"]), (&json!(TRACEPARENT), &json!("signup")));
    for _ in 0..3 {
        let delivered = bench.events.next(Kind::Delivered).await;
        assert_eq!(delivered.head.traceparent.as_deref(), Some(TRACEPARENT));
    }
    let received = bench.mx.received()[0].content.clone();
    let text = String::from_utf8(received.clone()).unwrap();
    assert!(!text.contains("bob@") && !text.contains("x@y.test") && !text.to_lowercase().contains("x-otp"), "{text}");
    assert!(text.contains("Message-ID: <1@shop.test>\r\n") && text.contains("X-Ref: 7\r\n"), "{text}");
    let read = MessageParser::default().parse(&received).unwrap();
    assert_eq!(read.cc().unwrap().first().unwrap().name(), Some("Carl"));
    assert_eq!(read.reply_to().unwrap().first().unwrap().name(), Some("Help, Desk"));
    assert_eq!(read.attachment(0).unwrap().attachment_name(), Some("a.csv"));
    assert_eq!(read.attachment(0).unwrap().contents(), b"a,b\n1,2\n");
    // It ended: the trace knows it still, under either form of its id.
    let id: otp_relay::testing::mail::id::MessageId = json["id"].as_str().unwrap().parse().unwrap();
    for id in [id.to_string(), id.uuid()] {
        let message = bench.shop.get(&format!("/v1/messages/{id}")).await.json();
        assert_eq!((&message["traceparent"], &message["from"]), (&json!(TRACEPARENT), &json!("otp@shop.test")));
    }
    for (more, detail) in [
        (json!({"cc": "carl"}), "cc: "),
        (json!({"bcc": ["bob"]}), "bcc: "),
        (json!({"reply_to": "x"}), "reply_to: "),
        (json!({"headers": {"X-A": "b\r\nBcc: c@d.test"}}), "headers: a CR or LF"),
        (json!({"headers": {"X-A\r\nBcc": "b"}}), "headers: "),
        (json!({"attachments": [{"content": "https://shop.test/a"}]}), "attachments[0].content: base64"),
        (json!({"attachments": [{"content": "YQ==", "path": "x"}]}), "unknown field `path`"),
        (json!({"attachments": [{}]}), "missing field `content`"),
        (json!({"cc": vec!["a@example.test"; 101]}), "cc: 1 to 100"),
    ] {
        let answer = bench.shop.post("/v1/messages", with(mail("alice@example.test"), more.clone())).await;
        let told = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(answer.status == 422 && told.contains(detail), "{more}: {answer:?}");
    }
    bench.relay.shut_down().await;
}

async fn ids(http: &Http, query: &str) -> (Vec<String>, Value) {
    let answer = http.get(&format!("/v1/messages{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    let json = answer.json();
    let ids = json["messages"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
    (ids.collect(), json["next"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_listed_in_pages() {
    let mut bench = bench().await;
    let mut sent = Vec::new();
    for number in 0..7 {
        let tag = if number % 2 == 0 { "even" } else { "odd" };
        let body = with(mail(&format!("user{}@example.test", number % 3)), json!({"tag": tag}));
        let answer = bench.shop.post("/v1/messages", body).await;
        sent.insert(0, answer.id());
        bench.events.next(Kind::Delivered).await;
    }
    let own = with(mail("user0@example.test"), json!({"from": "otp@bank.test"}));
    let of_bank = bench.bank.post("/v1/messages", own).await.id();
    bench.events.next(Kind::Delivered).await;
    assert_eq!(ids(&bench.shop, "").await, (sent.clone(), Value::Null));
    assert_eq!(ids(&bench.operator, "").await.0, [vec![of_bank.clone()], sent.clone()].concat());
    assert_eq!(ids(&bench.bank, "").await.0, [of_bank]);
    let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (page, next) = ids(&bench.shop, &format!("?limit=3{after}")).await;
        assert!(page.len() <= 3);
        seen.extend(page);
        pages += 1;
        match next.as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((seen, pages), (sent.clone(), 3));
    let even: Vec<String> = sent.iter().step_by(2).cloned().collect();
    assert_eq!(ids(&bench.shop, "?tag=even").await.0, even);
    assert_eq!(ids(&bench.shop, "?tag=even&limit=4").await, (even, Value::Null), "the last page says so");
    let of_user = |number: usize| sent.iter().skip(6 - number).step_by(3).cloned().collect::<Vec<_>>();
    assert_eq!(ids(&bench.shop, "?recipient=user1@example.test").await.0, [&sent[2], &sent[5]].map(Clone::clone));
    assert_eq!(of_user(6).len(), 3);
    assert_eq!(ids(&bench.shop, "?state=delivered").await.0.len(), 7);
    assert!(ids(&bench.shop, "?state=failed").await.0.is_empty());
    let accepted_at = bench.shop.get(&format!("/v1/messages/{}", sent[1])).await.json()["accepted_at"].clone();
    assert_eq!(ids(&bench.shop, &format!("?since={}", accepted_at.as_str().unwrap())).await.0, sent[..2]);
    // What waits is in the list as well.
    bench.mx.trick("RCPT", crate::support::fake_mx::Trick::Say("451 4.7.1 Greylisted, try again in 300 seconds"), 99);
    let waiting = bench.shop.post("/v1/messages", mail("late@example.test")).await.json()["id"].clone();
    bench.events.next(Kind::Greylisted).await;
    assert_eq!(json!(ids(&bench.shop, "?state=deferred").await.0), json!([waiting]));
    assert_eq!(json!(ids(&bench.shop, "?limit=1").await), json!([[waiting], waiting]));
    for query in
        ["?limit=101", "?limit=0", "?limit=x", "?state=lost", "?since=soon", "?after=x", "?recipient=x", "?page=2"]
    {
        assert_eq!(bench.shop.get(&format!("/v1/messages{query}")).await.status, 422, "{query}");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_known_is_told_those_that_are() {
    let bench = bench().await;
    for (path, allowed) in [
        ("/v1/messages", ["delete", "get", "post"].as_slice()),
        ("/v1/messages/01M7YRRT9A0000000000000000", &["delete", "get"]),
        ("/v1/queue/retry", &["post"]),
        ("/healthz", &["get"]),
        ("/emails/batch", &["post"]),
    ] {
        let answer = bench.shop.ask("PATCH", path, "", "").await;
        assert_eq!(answer.status, 405, "{path}");
        let told: BTreeSet<&str> = answer.field("allow").split(',').map(str::trim).collect();
        assert!(allowed.iter().all(|method| told.contains(method)) && !told.contains("patch"), "{path}: {told:?}");
    }
    bench.relay.shut_down().await;
}

/// What comes over a connection of its own, to the end.
async fn raw(bench: &Bench, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(bench.shop.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(crate::support::PATIENCE, reading).await.expect("an answer").unwrap();
    answer
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_in_every_form() {
    let bench = bench().await;
    let body = mail("alice@example.test").to_string();
    let token = "Authorization: Bearer token of shop\r\n";
    let request = |head: &str, octets: &[u8]| {
        let head = format!("POST /v1/messages {head}{token}");
        [head.as_bytes(), format!("Content-Length: {}\r\n\r\n", octets.len()).as_bytes(), octets].concat()
    };
    let close = "HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n";
    let packed = gzip(body.as_bytes());
    let (first, second) = body.split_at(20);
    let chunks = format!("{:x}\r\n{first}\r\n{:x};x=y\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    let chunked = format!("POST /v1/messages {close}{token}Transfer-Encoding: chunked\r\n\r\n{chunks}");
    for (what, request) in [
        ("HTTP/1.0", request("HTTP/1.0\r\n", body.as_bytes())),
        ("a charset", request(&format!("{close}Content-Type: application/json; charset=UTF-8\r\n"), body.as_bytes())),
        ("another type", request(&format!("{close}Content-Type: text/plain\r\n"), body.as_bytes())),
        ("a byte-order mark", request(close, format!("\u{feff}{body}").as_bytes())),
        ("gzip", request(&format!("{close}Content-Encoding: gzip\r\n"), &packed)),
        ("chunked", chunked.into_bytes()),
    ] {
        let answer = raw(&bench, &request).await;
        assert!(answer.split("\r\n").next().unwrap().contains(" 202 "), "{what}: {answer}");
    }
    // Nothing of the body leaves before the relay has said that it wants it.
    let mut stream = TcpStream::connect(bench.shop.address).await.unwrap();
    let head =
        format!("POST /v1/messages {close}{token}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    // A bomb is unpacked to its bound only.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let answer = raw(&bench, &request(&format!("{close}Content-Encoding: gzip\r\n"), &bomb)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_go_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let hash = token_hash("token of shop");
    let text = format!(
        "hostname = \"relay.test\"\ndata_dir = \"data\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@shop.test\"]\n\
         [http]\naddress = \"127.0.0.1:0\"\ntls = true\n"
    );
    let (relay, _events) = start_relay_from(folder.path(), &text);
    let address = relay.http_address().unwrap();
    let connector = otp_relay::testing::tls::opportunistic_connector().unwrap();
    let ask = async |request: String| {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = tokio_rustls::rustls::pki_types::ServerName::try_from("relay.test").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let own = otp_relay::testing::tls::read_certificates(&folder.path().join("data/self-signed.pem")).unwrap();
        assert_eq!(shown, own[0]);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Some end a stream without a word of TLS.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let head = "HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n";
    assert!(ask(format!("GET /healthz {head}\r\n")).await.starts_with("HTTP/1.1 200 "));
    let token = "Authorization: Bearer token of shop\r\n";
    assert!(ask(format!("GET /v1/messages {head}{token}\r\n")).await.starts_with("HTTP/1.1 200 "));
    let mut clear = TcpStream::connect(address).await.unwrap();
    clear.write_all(format!("GET /healthz {head}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_of_a_message_over_smtp_is_shown_and_does_not_leave() {
    let mut bench = bench().await;
    let raw = format!("From: otp@shop.test\nX-OTP-Traceparent: {TRACEPARENT}\nSubject: x\n\nx\n");
    let body = json!({"from": "otp@shop.test", "to": "alice@example.test", "raw": raw});
    let id = bench.shop.post("/v1/messages", body).await.id();
    bench.events.next(Kind::Delivered).await;
    let message = bench.shop.get(&format!("/v1/messages/{id}")).await.json();
    assert_eq!(message["traceparent"], TRACEPARENT);
    let content = String::from_utf8(bench.mx.received()[0].content.clone()).unwrap();
    assert!(!content.to_lowercase().contains("traceparent"), "{content}");
    assert!(bench.folder.path().exists());
    bench.relay.shut_down().await;
}

/// A small part of JSON Schema: what the description uses.
struct Schemas<'a>(&'a Value);

impl Schemas<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let named = self.0.pointer(name.trim_start_matches('#')).ok_or_else(|| format!("{at}: no {name}"))?;
            return self.check(named, value, at);
        }
        if let Some(all) = schema["allOf"].as_array() {
            all.iter().try_for_each(|one| self.check(one, value, at))?;
        }
        for any in ["oneOf", "anyOf"] {
            if let Some(some) = schema[any].as_array() {
                let fits = some.iter().any(|one| self.check(one, value, at).is_ok());
                fits.then_some(()).ok_or_else(|| format!("{at}: {value} fits none of {any}"))?;
            }
        }
        if let Some(allowed) = schema["enum"].as_array() {
            allowed.contains(value).then_some(()).ok_or_else(|| format!("{at}: {value} is not in {allowed:?}"))?;
        }
        self.check_type(schema, value, at)?;
        let known = schema["properties"].as_object();
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            value.get(name).ok_or_else(|| format!("{at}.{name} is missing"))?;
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            match known.and_then(|known| known.get(name)) {
                Some(schema) => self.check(schema, member, &format!("{at}.{name}"))?,
                None if known.is_some() => return Err(format!("{at}.{name} is not described")),
                None => {}
            }
        }
        for item in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
            self.check(&schema["items"], item, &format!("{at}[]"))?;
        }
        Ok(())
    }

    fn check_type(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let is = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            _ => false,
        };
        let fits = match &schema["type"] {
            Value::String(kind) => is(kind),
            Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => true,
        };
        fits.then_some(()).ok_or_else(|| format!("{at}: {value} is no {}", schema["type"]))
    }

    /// The answer is one that the description has for this request.
    fn check_answer(&self, method: &str, path: &str, answer: &Answer) {
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let response = &responses[answer.status.to_string()];
        assert!(response.is_object(), "{method} {path} answers {}: {}", answer.status, answer.body);
        let content_type = answer.field("content-type").split(';').next().unwrap().trim().to_owned();
        let Some(content) = response["content"].as_object() else {
            assert!(answer.body.is_empty(), "{method} {path}: {}", answer.body);
            return;
        };
        let described = content.get(&content_type).unwrap_or_else(|| panic!("{method} {path}: {content_type}"));
        if ["application/json", "application/problem+json"].contains(&content_type.as_str()) {
            self.check(&described["schema"], &answer.json(), path).unwrap_or_else(|error| panic!("{method} {error}"));
        }
    }
}

/// What is sent and what is answered has a type, but for the description itself, whose form OpenAPI says.
#[tokio::test(flavor = "multi_thread")]
async fn every_body_of_the_description_has_a_type() {
    let bench = bench().await;
    let description = bench.shop.get("/openapi.json").await.json();
    let mut typed = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap().values();
            for body in responses.chain([&operation["requestBody"]]) {
                for (kind, content) in body["content"].as_object().into_iter().flatten() {
                    let schema = content["schema"].as_object().filter(|schema| !schema.is_empty());
                    assert!(schema.is_some() || path == "/openapi.json", "{method} {path}: {kind}: {content}");
                    typed += usize::from(schema.is_some());
                }
            }
        }
    }
    assert!(typed > 300, "{typed}");
    for (name, schema) in description["components"]["schemas"].as_object().unwrap() {
        let says = ["type", "$ref", "oneOf", "anyOf", "allOf"].iter().any(|key| !schema[key].is_null());
        assert!(says, "{name}: {schema}");
    }
    bench.relay.shut_down().await;
}

/// What answers well to somebody who asks for everything.
const SUCCESSES: [&str; 10] = [
    "GET /v1/messages",
    "GET /v1/queue",
    "GET /v1/destinations/{domain}",
    "POST /emails",
    "GET /emails/{id}",
    "GET /v1/stats",
    "GET /v1/webhooks",
    "POST /v1/webhooks/test",
    "POST /v1/verifications",
    "POST /v1/verifications/check",
];

/// Each path of the description is there, and answers as it says: whoever asks, and whatever is missing.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_true() {
    let mut bench = bench().await;
    let answer = bench.shop.get("/openapi.json").await;
    let description = answer.json();
    assert_eq!(answer.field("content-type"), "application/json");
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let schemas = Schemas(&description);
    let id = bench.shop.post("/v1/messages", with(mail("alice@example.test"), json!({"wait": "delivered"}))).await;
    schemas.check_answer("POST", "/v1/messages", &id);
    let id = id.id();
    bench.mx.trick("RCPT TO:<bob", crate::support::fake_mx::Trick::Say("550 5.1.1 no such user"), 1);
    bench.shop.post("/v1/messages", with(mail("bob@example.test"), json!({"wait": "delivered"}))).await;
    bench.mx.trick("RCPT", crate::support::fake_mx::Trick::Say("451 4.7.1 Greylisted, try again in 300 seconds"), 99);
    bench.shop.post("/v1/messages", mail("late@example.test")).await;
    bench.events.next(Kind::Greylisted).await;
    bench.operator.ask("PUT", "/v1/suppressions/gone@example.test", "", "{\"reason\": \"x\"}").await;
    let nobody = Http { token: String::new(), ..bench.shop.clone() };
    let start = json!({"from": "otp@shop.test", "to": "carl@example.test"}).to_string();
    let check = json!({"to": "carl@example.test", "code": "000000"}).to_string();
    let (mut checked, mut successes) = (0, BTreeSet::new());
    for (path, methods) in description["paths"].as_object().unwrap() {
        let real =
            path.replace("{id}", &id).replace("{domain}", "example.test").replace("{address}", "gone@example.test");
        for method in methods.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            if path == "/v1/events" {
                continue;
            }
            for http in [&bench.operator, &bench.shop, &bench.bank, &nobody] {
                for body in [
                    "",
                    "{}",
                    "[]",
                    "{\"to\": 5}",
                    &mail("alice@example.test").to_string(),
                    "{\"reason\": \"x\"}",
                    &start,
                    &check,
                ] {
                    let token = format!("X-Postmark-Server-Token: {}\r\n", http.token);
                    let answer = http.ask(&method, &real, &token, body).await;
                    schemas.check_answer(&method, path, &answer);
                    checked += 1;
                    if answer.status < 300 {
                        successes.insert(format!("{method} {path}"));
                    }
                }
            }
        }
    }
    assert!(checked > 400, "{checked}");
    for what in SUCCESSES {
        assert!(successes.contains(what), "{what}: {successes:?}");
    }
    // Whatever the description has not is not there.
    for path in ["/v1/message", "/v1", "/emails/1/send", "/v3/mail", "/openapi.yaml"] {
        assert_eq!(bench.operator.get(path).await.status, 404, "{path}");
    }
    bench.relay.shut_down().await;
}
