//! The HTTP API against who would keep others out of it: clients without a token, and users who ask for too much.

use std::net::SocketAddr;
use std::path::Path;

use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use crate::support::{Events, PATIENCE, configured, start_relay};

const HOST: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8"];

/// A relay with two users beside `trusted`, and who asks it.
pub(crate) struct Bench {
    pub(crate) relay: Relay,
    pub(crate) events: Events,
    pub(crate) mx: FakeMx,
    pub(crate) operator: Http,
    pub(crate) shop: Http,
    pub(crate) bank: Http,
    pub(crate) nobody: Http,
    pub(crate) folder: tempfile::TempDir,
}

/// `[[user]]` with a token.
pub(crate) fn user(name: &str) -> String {
    let hash = token_hash(&format!("token of {name}"));
    format!("[[user]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@{name}.test\"]\n")
}

impl Bench {
    pub(crate) async fn with(more: &str) -> Self {
        let (folder, mx) = (tempfile::tempdir().unwrap(), FakeMx::start(HOST).await);
        let more = format!("{}{}[otp]\nrecipient_budget = \"off\"\n{more}", user("shop"), user("bank"));
        let (relay, events) = start_relay(folder.path(), mx.address, &more);
        let address = relay.http_address().unwrap();
        let http = |token: &str| Http { address, token: token.to_owned() };
        let operator = http(operator_token(folder.path()).trim());
        let (shop, bank) = (http("token of shop"), http("token of bank"));
        Self { relay, events, mx, operator, shop, bank, nobody: http(""), folder }
    }

    /// The relay goes on with other users.
    pub(crate) fn reload(&self, more: &str) {
        self.relay.reload(configured(self.folder.path(), self.mx.address, more, "")).unwrap();
    }

    /// Everybody who is honest is answered, and mail goes out.
    async fn is_well(&mut self) {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(self.nobody.get(path).await.status, 200, "{path}");
        }
        assert_eq!(self.operator.get("/v1/queue").await.status, 200);
        let sent = self.bank.post("/v1/messages", mail("bank", "bob@example.test")).await;
        assert_eq!(sent.status, 202, "{sent:?}");
        let id = sent.id();
        while self.events.next(Kind::Delivered).await.head.id.to_string() != id {}
    }
}

fn operator_token(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("data/api.token")).unwrap()
}

pub(crate) fn mail(from: &str, to: &str) -> Value {
    json!({"from": format!("otp@{from}.test"), "to": to, "subject": "your code", "text": "481516\n"})
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends a request as it is, and returns the status and the head of its answer.
async fn raw(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|octets| octets == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the API answers");
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.to_ascii_lowercase())
}

/// The API has 320 places. Before they gave way, 256 of these were enough.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let mut bench = Bench::with("").await;
    let address = bench.nobody.address;
    for from in ["127.0.0.1", "127.0.0.77"] {
        let mut silent = Vec::new();
        for number in 0..400 {
            let mut stream = connect(from, address).await;
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\nX-").await.unwrap();
            }
            silent.push(stream);
        }
        bench.is_well().await;
        drop(silent);
    }
    // From many addresses, so that none has most.
    let mut silent = Vec::new();
    for number in 0..400 {
        silent.push(connect(&format!("127.0.1.{}", number % 250), address).await);
    }
    bench.is_well().await;
    bench.relay.shut_down().await;
}

/// Tokens that are worth nothing take no places either.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_keep_nobody_out() {
    let mut bench = Bench::with("").await;
    let mut open = Vec::new();
    for _ in 0..400 {
        let mut stream = connect("127.0.0.1", bench.nobody.address).await;
        let request = "GET /v1/queue HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer wrong\r\n\r\n";
        assert_eq!(raw(&mut stream, request).await.0, 401);
        open.push(stream);
    }
    bench.is_well().await;
    bench.relay.shut_down().await;
}

/// A user's own connections, which it keeps open. Before, 256 of them kept out everybody, health checks too.
#[tokio::test(flavor = "multi_thread")]
async fn one_users_connections_leave_room_for_others() {
    let mut bench = Bench::with("").await;
    let mut open = Vec::new();
    let request = "GET /v1/queue HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer token of shop\r\n\r\n";
    for _ in 0..192 {
        let mut stream = connect("127.0.0.1", bench.nobody.address).await;
        assert_eq!(raw(&mut stream, request).await.0, 200);
        open.push(stream);
    }
    for _ in 0..200 {
        let mut stream = connect("127.0.0.1", bench.nobody.address).await;
        let (status, head) = raw(&mut stream, request).await;
        assert!(status == 429 && head.contains("retry-after: 5") && head.contains("connection: close"), "{head}");
        assert!(head.contains("problem+json"), "{head}");
        open.push(stream);
    }
    bench.is_well().await;
    // Its own go on, and what it closes it can open again.
    assert_eq!(raw(&mut open[0], request).await.0, 200);
    open.clear();
    let again = async { while bench.shop.get("/v1/queue").await.status != 200 {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_followers_and_waits_leave_room_for_others() {
    let mut bench = Bench::with("").await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(bench.shop.follow("/v1/events", "").await);
    }
    let answer = bench.shop.get("/v1/events").await;
    assert_eq!((answer.status, answer.field("retry-after")), (429, "5"), "{answer:?}");
    let _others = (bench.bank.follow("/v1/events", "").await, bench.operator.follow("/v1/events", "").await);

    bench.mx.trick("RCPT TO:<waits", Trick::Say("451 4.7.1 later"), 1000);
    let mut body = mail("shop", "waits@example.test");
    body["wait"] = json!("delivered");
    let mut waits = Vec::new();
    for _ in 0..32 {
        let (shop, body) = (bench.shop.clone(), body.clone());
        waits.push(tokio::spawn(async move { shop.post("/v1/messages", body).await }));
    }
    for _ in 0..32 {
        bench.events.next(Kind::Accepted).await;
    }
    let answer = bench.shop.post("/v1/messages", body.clone()).await;
    assert_eq!((answer.status, answer.field("retry-after")), (429, "5"), "{answer:?}");
    // That they are accepted is told once it is on disk; a moment later they are in the queue.
    let all_in = async {
        while bench.relay.queue().depth().messages < 32 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_in).await.unwrap();
    assert_eq!(bench.relay.queue().depth().messages, 32, "what is refused is not sent");
    let mut of_bank = mail("bank", "bob@example.test");
    of_bank["wait"] = json!("delivered");
    assert_eq!(bench.bank.post("/v1/messages", of_bank).await.status, 200);
    assert_eq!(bench.shop.post("/v1/messages", mail("shop", "carol@example.test")).await.status, 202);
    bench.is_well().await;
    assert_eq!(bench.shop.delete("/v1/messages?recipient=waits@example.test").await.status, 200);
    for wait in waits {
        assert_eq!(wait.await.unwrap().status, 200);
    }
    bench.relay.shut_down().await;
}

/// A page in somebody's browser, whose owner points the page's name at this relay, gets nothing that needs no token.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_is_not_answered() {
    let bench = Bench::with("").await;
    let mut config = configured(bench.folder.path(), bench.mx.address, &user("shop"), "");
    config.http.hosts = vec!["otp.example.com".to_owned()];
    bench.relay.reload(config).unwrap();
    let token = "Authorization: Bearer token of shop\r\n";
    let check = async |request: &str, fields: &str, expected: u16| {
        let mut stream = connect("127.0.0.1", bench.nobody.address).await;
        let (status, head) = raw(&mut stream, &format!("{request}\r\n{fields}\r\n")).await;
        assert_eq!(status, expected, "{request} {fields}");
        assert!(expected == 200 || head.contains("application/problem+json"), "{head}");
    };
    let queue = "GET /v1/queue HTTP/1.1";
    let names =
        ["otp.example.com", "OTP.example.com:443", "relay.test", "relay", "localhost:8587", "127.0.0.1:8587", "[::1]"];
    for name in names {
        check(queue, &format!("Host: {name}\r\n"), 401).await;
        check(queue, &format!("Host: {name}\r\n{token}"), 200).await;
    }
    for name in ["evil.example", "otp.example.com.evil.example", "127.0.0.1.evil.example", ""] {
        check(queue, &format!("Host: {name}\r\n"), 421).await;
        check("GET / HTTP/1.1", &format!("Host: {name}\r\n"), 421).await;
        check(queue, &format!("Host: {name}\r\nAuthorization: Bearer wrong\r\n"), 421).await;
        check(queue, &format!("Host: {name}\r\n{token}"), 200).await;
        check("GET /healthz HTTP/1.1", &format!("Host: {name}\r\n"), 200).await;
        check("GET /metrics HTTP/1.1", &format!("Host: {name}\r\n"), 200).await;
    }
    check("GET http://evil.example/v1/queue HTTP/1.1", "Host: localhost\r\n", 421).await;
    for fields in ["", "Host: relay\r\nHost: relay\r\n", "Host: a b\r\n", "Host: relay:x\r\n"] {
        check(queue, &format!("{fields}{token}"), 400).await;
        check("GET /healthz HTTP/1.1", fields, 400).await;
    }
    // As old checks of health ask.
    check("GET /healthz HTTP/1.0", "", 200).await;
    check("GET /v1/queue HTTP/1.0", "", 401).await;
    bench.relay.shut_down().await;
}
