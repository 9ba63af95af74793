//! Whatever is refused before it is a message leaves a line, at either door, and the line says enough and not too much.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use otp_relay::app::Relay;
use otp_relay::event::Kind;
use otp_relay::intake::user::token_hash;
use otp_relay::report::log::{self, Format, Output};
use otp_relay::smtp::sasl::ScramVerifier;
use otp_relay::smtp::server_session::{Access, Event, Peer, Phase, ServerSession, SessionSettings, Step};
use serde_json::{Value, json};
use support::client::{Client, mail};
use support::fake_mx::{FakeMx, Trick};
use support::http::Http;
use support::{Events, PATIENCE, configured, start_relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

/// Stands in every input that is refused, and in no line.
const SECRET: &str = "S3CRET";

/// The log of this process.
struct Log {
    written: Kept,
    output: Output,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let written = Kept::default();
    let output = Output::new(written.clone());
    log::init(&log::Settings { format: Format::Json, ..log::Settings::default() }, output.clone());
    Log { written, output }
});

/// All lines of refusals at these listeners.
fn refused_at(listeners: &[SocketAddr]) -> Vec<Value> {
    assert!(LOG.output.settle(PATIENCE));
    let written = String::from_utf8(LOG.written.0.lock().unwrap().clone()).unwrap();
    assert!(!written.contains(SECRET), "{written}");
    let lines = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_here = |line: &Value| listeners.iter().any(|address| line["listener"] == address.to_string());
    lines.filter(|line| line["message"] == "refused" && is_here(line)).collect()
}

/// Whether one of the lines has all of these.
#[track_caller]
fn expect(lines: &[Value], expected: &Value) {
    let has_all = |line: &&Value| expected.as_object().unwrap().iter().all(|(name, value)| line[name] == *value);
    let of_peer: Vec<_> = lines.iter().filter(|line| line["peer"] == expected["peer"]).collect();
    let line = lines.iter().find(has_all).unwrap_or_else(|| panic!("{expected} among {of_peer:#?}"));
    assert_eq!(line["level"], "info");
    for name in ["time", "door", "listener", "user", "stage", "reason", "text"] {
        assert!(line[name].is_string(), "{name} in {line}");
    }
}

const LISTENERS: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.1.1\"]\n";

/// Indices of the listeners: the one that trusts everybody comes first.
const TRUSTING: usize = 0;
const LOGIN: usize = 1;
const IMPLICIT: usize = 2;
const PROXIED: usize = 3;

struct Bench {
    relay: Relay,
    addresses: Vec<SocketAddr>,
    http: Http,
    operator: Http,
    mx: FakeMx,
    events: Events,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new(more: &str) -> Self {
        LazyLock::force(&LOG);
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(&["PIPELINING", "SMTPUTF8"]).await;
        let hash = ScramVerifier::derive("secret", b"saltsaltsaltsalt", NonZeroU32::new(1000).unwrap()).to_text();
        let user = |name: &str| {
            format!(
                "[[user]]\nname = \"{name}\"\npassword_hash = \"{hash}\"\ntoken_hash = \"{}\"\nsenders = [\"*@app.test\"]\n",
                token_hash(&format!("token of {name}"))
            )
        };
        let more = format!("{LISTENERS}{}{}[log]\nformat = \"json\"\n{more}", user("shop"), user("bank"));
        let (relay, events) = start_relay(folder.path(), mx.address, &more);
        let mut addresses = relay.addresses().to_vec();
        let address = relay.http_address().unwrap();
        addresses.push(address);
        let operator = std::fs::read_to_string(folder.path().join("data/api.token")).unwrap().trim().to_owned();
        let http = |token: &str| Http { address, token: token.to_owned() };
        Self { relay, addresses, http: http("token of shop"), operator: http(&operator), mx, events, folder }
    }

    /// Says these lines, one after the other, and hears what comes.
    async fn says(&self, from: &str, listener: usize, lines: &[&str]) {
        let mut client = self.client(from, listener).await;
        for line in lines {
            client.say(line).await;
        }
        client.send(b"QUIT\r\n").await;
        while !client.hear().await.is_empty() {}
    }

    async fn client(&self, from: &str, listener: usize) -> Client {
        let mut client = Client::connect_only(from, self.addresses[listener]).await;
        client.greet().await;
        client
    }

    async fn connect(&self, from: &str, listener: usize) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        socket.connect(self.addresses[listener]).await.unwrap()
    }

    async fn end(self) -> Vec<Value> {
        self.relay.shut_down().await;
        refused_at(&self.addresses)
    }
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", BASE64.encode(format!("\0{user}\0{password}")))
}

const FROM: &str = "MAIL FROM:<otp@app.test>";

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_an_smtp_session_leaves_a_line() {
    let bench = Bench::new("[otp]\nrecipient_budget = \"1/10m\"\n[submission]\nrecipients_max = 2\n").await;
    let put = bench.operator.ask("PUT", "/v1/suppressions/carol@example.test", "", "{\"source\":\"manual\"}").await;
    assert!(put.status < 300, "{put:?}");
    let unknown = "unknown user";
    // Before a login.
    bench.says("127.0.0.10", LOGIN, &[FROM]).await;
    bench.says("127.0.0.11", LOGIN, &[&plain("shop", SECRET)]).await;
    bench.says("127.0.0.12", LOGIN, &[&plain(SECRET, SECRET)]).await;
    bench.says("127.0.0.13", LOGIN, &[&format!("{SECRET} {SECRET}")]).await;
    bench.says("127.0.0.14", LOGIN, &["AUTH CRAM-MD5", "AUTH PLAIN S3CRET!"]).await;
    bench.says("127.0.0.15", LOGIN, &[&format!("{FROM} SIZE=1 S3CRET=1"), "RCPT TO:<a@b.test>"]).await;
    bench.says("127.0.0.16", LOGIN, &[&"S3CRET\r\n".repeat(25)]).await;
    // A line that does not end in CRLF, as a command and in content.
    let mut client = bench.client("127.0.0.17", LOGIN).await;
    client.send(b"MAIL FROM:<S3CRET@app.test>\nRCPT TO:<x@example.test>\r\n").await;
    while !client.hear().await.is_empty() {}
    let mut client = bench.client("127.0.0.18", TRUSTING).await;
    for line in [FROM, "RCPT TO:<dave@example.test>", "DATA"] {
        client.say(line).await;
    }
    client.send(b"From: otp@app.test\r\n\r\nS3CRET\n.\r\n").await;
    while !client.hear().await.is_empty() {}
    // What intake refuses.
    bench.says("127.0.0.20", TRUSTING, &["MAIL FROM:<ceo@bank.test>"]).await;
    bench.says("127.0.0.21", TRUSTING, &[FROM, "RCPT TO:<alice@gone.test>"]).await;
    bench.says("127.0.0.22", TRUSTING, &[FROM, "RCPT TO:<carol@example.test>"]).await;
    let once: &[&str] = &[FROM, "RCPT TO:<erin@example.test>", "DATA", &format!("{}\r\n.", mail("1"))];
    bench.says("127.0.0.23", TRUSTING, once).await;
    bench.says("127.0.0.23", TRUSTING, once).await;
    bench.says("127.0.0.24", TRUSTING, &[&format!("{FROM} SIZE=999999999")]).await;
    let rcpts = ["RCPT TO:<a1@example.test>", "RCPT TO:<a2@example.test>", "RCPT TO:<third@example.test>"];
    bench.says("127.0.0.25", TRUSTING, &[&[FROM], &rcpts[..]].concat()).await;
    let life = "From: otp@app.test\r\nX-OTP-Life: S3CRET\r\n\r\nx\r\n.";
    bench.says("127.0.0.26", TRUSTING, &[FROM, "RCPT TO:<frank@example.test>", "DATA", life]).await;
    let no_author = "Subject: S3CRET\r\n\r\nx\r\n.";
    bench.says("127.0.0.27", TRUSTING, &[FROM, rcpts[0], rcpts[1], "DATA", no_author]).await;
    bench.says("127.0.0.28", TRUSTING, &["DATA", "RCPT TO:<gr\u{f6}\u{df}e@example.test>"]).await;
    bench.says("127.0.0.29", TRUSTING, &[FROM, "RCPT TO:<S3CRET>", "RCPT TO:<gr\u{f6}\u{df}e@example.test>"]).await;
    bench.says("127.0.0.31", TRUSTING, &[FROM, "RCPT TO:<a%S3CRET@example.test>"]).await;
    let long = format!(
        "From: otp@app.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n{}\r\n--x--\r\n.",
        SECRET.repeat(200)
    );
    bench.says("127.0.0.32", TRUSTING, &[FROM, rcpts[0], "DATA", &long]).await;
    // Who goes away, and who is one too many.
    let mut client = bench.client("127.0.0.30", TRUSTING).await;
    for line in [FROM, "RCPT TO:<dave@example.test>", "DATA"] {
        client.say(line).await;
    }
    client.send(b"From: otp@app.test\r\nSubject: S3CRET").await;
    drop(client);
    let metrics = bench.operator.get("/metrics").await.body;
    assert!(
        metrics.contains("otp_relay_refused_total{door=\"smtp\",stage=\"rcpt\",reason=\"suppressed\"} 1\n"),
        "{metrics}"
    );
    let lines = bench.end().await;
    for expected in [
        json!({"peer": "127.0.0.10", "user": unknown, "stage": "mail", "code": 530, "enhanced": "5.7.0",
            "reason": "unauthenticated", "door": "smtp", "text": "authentication required"}),
        json!({"peer": "127.0.0.11", "user": "shop", "stage": "auth", "code": 535, "reason": "credentials"}),
        json!({"peer": "127.0.0.12", "user": unknown, "stage": "auth", "code": 535, "reason": "credentials"}),
        json!({"peer": "127.0.0.13", "stage": "command", "code": 500, "reason": "syntax",
            "text": "command not recognized"}),
        json!({"peer": "127.0.0.14", "stage": "auth", "code": 504, "reason": "auth"}),
        json!({"peer": "127.0.0.15", "stage": "mail", "code": 555, "reason": "syntax"}),
        json!({"peer": "127.0.0.15", "stage": "rcpt", "code": 503, "reason": "sequence"}),
        json!({"peer": "127.0.0.16", "stage": "command", "code": 421, "reason": "errors"}),
        json!({"peer": "127.0.0.17", "stage": "mail", "code": 554, "reason": "line_ends"}),
        json!({"peer": "127.0.0.18", "user": "trusted", "stage": "content", "code": 554, "reason": "line_ends"}),
        json!({"peer": "127.0.0.20", "stage": "mail", "code": 550, "reason": "sender", "limit": "user.senders"}),
        json!({"peer": "127.0.0.21", "stage": "rcpt", "code": 550, "enhanced": "5.1.2", "reason": "domain",
            "recipient": "a***e@gone.test", "text": "no such domain"}),
        json!({"peer": "127.0.0.22", "stage": "rcpt", "code": 550, "reason": "suppressed",
            "recipient": "c***l@example.test"}),
        json!({"peer": "127.0.0.23", "stage": "content", "code": 450, "reason": "budget",
            "limit": "otp.recipient_budget", "recipient": "e***n@example.test"}),
        json!({"peer": "127.0.0.24", "stage": "mail", "code": 552, "reason": "size",
            "limit": "submission.message_size_max"}),
        json!({"peer": "127.0.0.25", "stage": "rcpt", "code": 452, "reason": "recipients",
            "limit": "submission.recipients_max", "recipient": "t***d@example.test"}),
        json!({"peer": "127.0.0.26", "stage": "content", "code": 501, "reason": "option",
            "recipient": "f***k@example.test"}),
        json!({"peer": "127.0.0.27", "stage": "content", "code": 554, "reason": "message",
            "recipient": "***@example.test", "more_recipients": 1}),
        json!({"peer": "127.0.0.28", "stage": "data", "code": 503, "reason": "sequence"}),
        json!({"peer": "127.0.0.29", "stage": "rcpt", "code": 501, "reason": "syntax"}),
        json!({"peer": "127.0.0.29", "stage": "rcpt", "code": 553, "reason": "smtputf8",
            "recipient": "g***e@example.test"}),
        json!({"peer": "127.0.0.31", "stage": "rcpt", "code": 501, "enhanced": "5.1.3", "reason": "routed",
            "limit": "submission.routed_addresses"}),
        json!({"peer": "127.0.0.32", "stage": "content", "code": 554, "reason": "long_line",
            "limit": "submission.long_lines"}),
        json!({"peer": "127.0.0.30", "user": "trusted", "stage": "content", "code": null, "reason": "closed"}),
    ] {
        expect(&lines, &expected);
    }
    let whole = serde_json::to_string(&lines).unwrap();
    for address in ["alice@", "carol@", "erin@", "frank@", "third@"] {
        assert!(!whole.contains(address), "{address} in {whole}");
    }
    let of_budget = |line: &&Value| line["reason"] == "syntax" && line["peer"] == "127.0.0.16";
    assert_eq!(lines.iter().filter(of_budget).count(), 1, "one line for one peer and reason");
}

/// The same connection, where the handshake begins.
async fn starttls(mut stream: TcpStream) -> TcpStream {
    stream.write_all(b"EHLO x\r\n").await.unwrap();
    let mut heard = Vec::new();
    for (end, next) in [(&b"RCPTMAX="[..], &b"STARTTLS\r\n"[..]), (b"ready", b"")] {
        while !heard.windows(end.len()).any(|window| window == end) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
        }
        stream.write_all(next).await.unwrap();
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_to_nothing_leave_a_line() {
    let bench = Bench::new("[submission]\nconnections_per_address_max = 3\n").await;
    // Handshakes, with STARTTLS and without.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let distrusting = TlsConnector::from(Arc::new(config));
    let name = || ServerName::try_from("relay.test").unwrap();
    let stream = bench.connect("127.0.0.40", IMPLICIT).await;
    assert!(distrusting.connect(name(), stream).await.is_err());
    let stream = starttls(bench.connect("127.0.0.41", LOGIN).await).await;
    assert!(distrusting.connect(name(), stream).await.is_err());
    // Some look at the certificate when the handshake is over, and leave.
    let stream = starttls(bench.connect("127.0.0.46", LOGIN).await).await;
    let mut stream = otp_relay::tls::opportunistic_connector().unwrap().connect(name(), stream).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let hello = [&[1, 0, 0, 41, 3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
    let old = [&[22, 3, 1, 0, u8::try_from(hello.len()).unwrap()], &hello[..]].concat();
    for (from, octets) in [("127.0.0.42", &old[..]), ("127.0.0.43", b"EHLO S3CRET\r\n"), ("127.0.0.44", b"")] {
        let mut stream = bench.connect(from, IMPLICIT).await;
        stream.write_all(octets).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    // A proxy that says nothing of whom it speaks for, and one client too many.
    let mut stream = bench.connect("127.0.1.1", PROXIED).await;
    stream.write_all(b"EHLO S3CRET\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(bench.client("127.0.0.45", LOGIN).await);
    }
    let mut stream = bench.connect("127.0.0.45", LOGIN).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drop(clients);
    let lines = bench.end().await;
    let untrusted = "the client does not trust the certificate (unknown CA)";
    for expected in [
        json!({"peer": "127.0.0.40", "stage": "tls", "code": null, "reason": "tls_untrusted", "text": untrusted}),
        json!({"peer": "127.0.0.41", "stage": "tls", "reason": "tls_untrusted", "text": untrusted}),
        json!({"peer": "127.0.0.46", "stage": "tls", "reason": "tls_untrusted",
            "text": "the client closed when it saw the certificate, as clients do that do not trust it"}),
        json!({"peer": "127.0.0.42", "reason": "tls_version", "text": "the client speaks TLS 1.0 only"}),
        json!({"peer": "127.0.0.43", "reason": "tls_plain_text", "text": "plain text where TLS was expected"}),
        json!({"peer": "127.0.0.44", "reason": "tls_closed", "text": "closed during the handshake"}),
        json!({"peer": "127.0.1.1", "stage": "proxy_header", "reason": "proxy_header", "text": "no PROXY header"}),
        json!({"peer": "127.0.0.45", "stage": "connect", "code": 421, "reason": "connections_of_address",
            "limit": "submission.connections_per_address_max"}),
    ] {
        expect(&lines, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_request_leaves_a_line() {
    let bench = Bench::new("[otp]\nrecipient_budget = \"1/10m\"\n[submission]\nmessage_size_max = \"64KiB\"\n").await;
    let (shop, address) = (&bench.http, bench.http.address);
    let bank = Http { address, token: "token of bank".to_owned() };
    let nobody = Http { address, token: SECRET.to_owned() };
    let code = |from: &str, to: &str| json!({"from": from, "to": to, "otp": {"code": "481516"}});
    let statuses = [
        nobody.get("/v1/messages/x").await.status,
        shop.post("/v1/messages", code("ceo@bank.test", "alice@example.test")).await.status,
        shop.ask("PATCH", "/v1/events", "", "").await.status,
        shop.ask("POST", "/v1/messages", "", &format!("{{\"{SECRET}\":1}}")).await.status,
        shop.get(&format!("/v1/queue?{SECRET}=1")).await.status,
        shop.post("/v1/messages", code("otp@app.test", "alice@gone.test")).await.status,
        shop.ask("POST", "/v1/messages", "", &SECRET.repeat(100_000)).await.status,
        shop.ask("POST", "/v1/messages", "X: ", &format!("\r\n\u{1}{SECRET}")).await.status,
    ];
    assert_eq!(statuses[..6], [401, 403, 405, 422, 422, 422]);
    assert_eq!(statuses[6], 413);
    let once = shop.post("/v1/messages", code("otp@app.test", "bob@example.test")).await;
    assert_eq!(once.status, 202, "{}", once.body);
    assert_eq!(shop.post("/v1/messages", code("otp@app.test", "bob@example.test")).await.status, 429);
    let id = once.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(bank.get(&format!("/v1/messages/{id}")).await.status, 404);
    let key = "Idempotency-Key: one\r\n";
    let with_key = |to: &str| code("otp@app.test", to).to_string();
    assert_eq!(shop.ask("POST", "/v1/messages", key, &with_key("dave@example.test")).await.status, 202);
    assert_eq!(shop.ask("POST", "/v1/messages", key, &with_key("erin@example.test")).await.status, 409);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{SECRET}\r\n\r\n").as_bytes()).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let lines = bench.end().await;
    for expected in [
        json!({"door": "http", "user": "unknown user", "stage": "messages", "code": 401, "reason": "token"}),
        json!({"user": "shop", "stage": "messages", "code": 403, "reason": "sender", "limit": "user.senders"}),
        json!({"stage": "events", "code": 405, "reason": "method"}),
        json!({"user": "shop", "stage": "messages", "code": 422, "reason": "invalid"}),
        json!({"stage": "messages", "code": 422, "reason": "domain", "recipient": "a***e@gone.test",
            "text": "no such domain"}),
        json!({"stage": "messages", "code": 413, "reason": "size", "limit": "submission.message_size_max"}),
        json!({"user": "shop", "stage": "messages", "code": 429, "reason": "budget",
            "limit": "otp.recipient_budget", "recipient": "b***b@example.test"}),
        json!({"user": "bank", "stage": "messages", "code": 404, "reason": "not_found"}),
        json!({"user": "shop", "code": 409, "reason": "idempotency"}),
        json!({"user": "unknown user", "stage": "request", "code": 400, "reason": "syntax"}),
    ] {
        expect(&lines, &expected);
    }
    assert!(!serde_json::to_string(&lines).unwrap().contains("481516"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_and_ended_logins_have_reasons_of_their_own() {
    let bench = Bench::new("[submission]\nconnections_max = 4\n").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = bench.client("127.0.0.60", LOGIN).await;
        assert!(client.say(&plain("shop", "secret")).await.starts_with("235"));
        clients.push(client);
    }
    bench.says("127.0.0.61", LOGIN, &[&plain("shop", "secret")]).await;
    // The same configuration without the users.
    let text = format!("{LISTENERS}[log]\nformat = \"json\"\n");
    bench.relay.reload(configured(bench.folder.path(), bench.mx.address, &text, "")).unwrap();
    assert!(clients[0].say(FROM).await.starts_with("421 4.7.0"));
    drop(clients);
    let lines = bench.end().await;
    let peer = |last: u8| format!("127.0.0.{last}");
    expect(&lines, &json!({"peer": peer(61), "user": "shop", "stage": "auth", "code": 421, "reason": "share"}));
    expect(&lines, &json!({"peer": peer(60), "user": "shop", "stage": "mail", "code": 421, "reason": "login_ended"}));
}

/// Whoever comes from a trusted network has a name, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_trusted_networks_is_told_as_theirs() {
    let bench = Bench::new("[submission]\nconnections_max = 4\n").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(bench.client("127.0.0.62", TRUSTING).await);
    }
    let mut stream = bench.connect("127.0.0.63", TRUSTING).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drop(clients);
    let expected = json!({"peer": "127.0.0.63", "user": "trusted", "stage": "connect", "code": 421, "reason": "share"});
    expect(&bench.end().await, &expected);
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

/// What a mail host quotes of the recipient.
const QUOTING: &str = "550-5.1.1 <Alice.Quoted@Example.test>: no mailbox alice.quoted here\r\n\
    550 5.1.1 was alice.quoted=example.test@srs.test, and other.person@else.test";

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_quote_addresses_are_told_as_configured() {
    let mut ids = Vec::new();
    for recipients in ["masked", "hashed"] {
        let mut bench = Bench::new(&format!("recipients = \"{recipients}\"\n")).await;
        bench.mx.trick("RCPT", Trick::Say(QUOTING), 1);
        let mut client = bench.client("127.0.0.60", TRUSTING).await;
        let reply = client.submit(&["alice.quoted@example.test"], &mail("1")).await;
        let id = reply.split("id=").nth(1).unwrap().to_owned();
        bench.events.next(Kind::Failed).await;
        let whole = bench.operator.get(&format!("/v1/messages/{id}")).await.body;
        assert!(whole.contains("<Alice.Quoted@Example.test>") && whole.contains("other.person@else.test"), "{whole}");
        let (_, _, followed) =
            bench.operator.follow(&format!("/v1/events?message={id}"), "").await.next().await.unwrap();
        assert_eq!(followed["recipient"], "alice.quoted@example.test");
        drop(client);
        bench.end().await;
        ids.push(id);
    }
    let written = String::from_utf8(LOG.written.0.lock().unwrap().clone()).unwrap();
    for id in &ids {
        let failed = |line: &&str| line.contains(id.as_str()) && line.contains("\"event\":\"failed\"");
        assert!(written.lines().find(failed).unwrap().contains("no mailbox"), "the reply is told");
    }
    for line in written.lines().filter(|line| ids.iter().any(|id| line.contains(id.as_str()))) {
        let lower = line.to_lowercase();
        assert!(!lower.contains("alice.quoted") && !lower.contains("other.person"), "{line}");
    }
}

/// Simulated time: a client that falls silent is told so, and where it was.
#[test]
fn a_timeout_says_in_the_middle_of_what() {
    let settings = Arc::new(SessionSettings {
        hostname: "relay.test".to_owned(),
        message_size_max: 1000,
        recipients_max: 10,
        starttls: false,
        deliver_by: (Duration::from_secs(5), Duration::from_secs(60)),
        command_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(300),
    });
    let now = start();
    let phase = |lines: &str| {
        let peer = Peer { access: Access::Trusted, encrypted: false, loopback: true };
        let mut session = ServerSession::new(settings.clone(), peer, now);
        let mut step = session.handle(Event::Received(lines.as_bytes()), now);
        while let Step::CheckSender(_) | Step::CheckRecipient(_) = step {
            step = session.handle(Event::Checked(Ok(())), now);
        }
        let step = session.handle(Event::Timeout, session.deadline().0);
        assert!(matches!(step, Step::Close));
        let refused = session.take_refused();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].reply.code, 421);
        refused[0].phase
    };
    assert_eq!(phase(""), Phase::Command);
    assert_eq!(phase("EHLO x\r\n"), Phase::Command);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\n"), Phase::Mail);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"), Phase::Rcpt);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nFrom"), Phase::Content);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 99\r\nFrom"), Phase::Bdat);
}

fn start() -> Instant {
    use otp_relay::clock::{Clock as _, SystemClock};
    SystemClock::default().instant()
}
