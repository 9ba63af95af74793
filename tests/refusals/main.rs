//! Whatever is refused before it is a message leaves a line, at either door, and the line says enough and not too much.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "modules of one test program")]

mod http;
mod smtp;
mod storage;
// A process has one log, so this is a program of its own.
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use crate::support::lines::Lines;
use crate::support::{Events, PATIENCE, TableDns, start_relay_delivering};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::{Environment, Relay};
use otp_relay::testing::report::log::{self, Format, Output};
use otp_relay::testing::smtp::sasl::ScramVerifier;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

/// Stands in every input that is refused, and in no line.
const SECRET: &str = "S3CRET";

/// The log of this process.
struct Log {
    written: Lines,
    output: Output,
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let written = Lines::default();
    let output = Output::new(written.clone());
    log::init(&log::Settings { format: Format::Json, ..log::Settings::default() }, output.clone());
    Log { written, output }
});

/// All lines of refusals at these listeners.
fn refused_at(listeners: &[SocketAddr]) -> Vec<Value> {
    assert!(LOG.output.settle(PATIENCE));
    let written = LOG.written.text();
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
        Self::on(Environment::default(), more, "").await
    }

    /// In another environment, with more under `[delivery]`.
    async fn on(environment: Environment, more: &str, delivery: &str) -> Self {
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
        let users = format!("{}{}{}rate = \"1/10m\"\n", user("shop"), user("bank"), user("slow"));
        let more = format!("{LISTENERS}{users}[log]\nformat = \"json\"\n{more}");
        let environment = Environment { dns: Some(Arc::new(TableDns)), ..environment };
        let (relay, events) = start_relay_delivering(environment, folder.path(), mx.address, &more, delivery);
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
    let written = LOG.written.text();
    for id in &ids {
        let failed = |line: &&str| line.contains(id.as_str()) && line.contains("\"event\":\"failed\"");
        assert!(written.lines().find(failed).unwrap().contains("no mailbox"), "the reply is told");
    }
    for line in written.lines().filter(|line| ids.iter().any(|id| line.contains(id.as_str()))) {
        let lower = line.to_lowercase();
        assert!(!lower.contains("alice.quoted") && !lower.contains("other.person"), "{line}");
    }
}
