//! The API over a connection in memory, in front of a relay that keeps what it takes; and what holds of every mail that a door
//! takes, whatever its shape.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mail_parser::MessageParser;
use otp_relay::testing::accounts::credentials::{Account, Credentials, TokenHash};
use otp_relay::testing::http::{Api, Parts, Settings};
use otp_relay::testing::mail::id::MessageId;
use otp_relay::testing::report::log::{EventLog, Format, Output};
use otp_relay::testing::report::refusals::Refusals;
use otp_relay::testing::report::stats::Statistics;
use otp_relay::testing::report::trace::{Limits, Traces};
use otp_relay::testing::report::webhooks::Webhooks;
use otp_relay::testing::report::{Reporter, log};
use otp_relay::testing::smtp::data::line_fault;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::Runtime;

use crate::relay::{Relay, runtime, user};

/// Octets of a message.
pub const SIZE_MAX: usize = 16 << 10;
/// Recipients of a message.
pub const RECIPIENTS_MAX: usize = 4;
/// What the relay puts in front.
pub const STAMP_MAX: usize = 400;
/// What stands for a secret in a request.
pub const SECRET: &str = "481516";

/// An API and its relay.
pub struct Bench {
    pub runtime: Runtime,
    pub relay: Relay,
    pub api: Arc<Api>,
    _folder: TempDir,
}

/// One for all inputs.
pub static BENCH: LazyLock<Bench> = LazyLock::new(|| bench(Beside::Nothing));

/// One that answers the sandbox's own paths too.
pub static SANDBOX: LazyLock<Bench> = LazyLock::new(|| bench(Beside::Sandbox));

/// What is answered beside the API's own paths.
#[derive(PartialEq, Eq)]
enum Beside {
    Nothing,
    Sandbox,
}

fn bench(beside: Beside) -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    let relay = Relay::new();
    let account = Account { user: user(), password: None, token: Some(TokenHash::of("shop-token")) };
    let settings = log::Settings { format: Format::Text, ..log::Settings::default() };
    let reporter = Reporter::start(relay.queue.happened().clone(), EventLog::new(&settings), Vec::new());
    let reporter = reporter.expect("a thread");
    let limits = Limits::of(Duration::from_secs(60));
    let traces = Traces::start(folder.path(), limits, relay.clock.clone()).expect("a folder");
    traces.follow(&relay.queue);
    let stats = Statistics::start(&folder.path().join("stats"), relay.clock.clone(), &relay.queue).expect("a thread");
    let tls = otp_relay::testing::tls::opportunistic_connector().expect("a connector");
    let hooks = folder.path().join("webhooks");
    let webhooks = Webhooks::start(&hooks, Vec::new(), &relay.queue, relay.clock.clone(), tls).expect("a thread");
    let parts = Parts {
        door: relay.door.clone(),
        queue: relay.queue.clone(),
        credentials: Arc::new(Credentials::new(HashMap::from([("shop".to_owned(), account)]), b"salt")),
        operator: TokenHash::of("operator-token"),
        traces,
        stats,
        webhooks,
        beside: (beside == Beside::Sandbox).then(otp_relay::testing::demo::paths_alone),
        metrics: Arc::default(),
        ends: Arc::default(),
        destinations: Arc::default(),
        providers: Arc::default(),
        upkeep: Arc::default(),
        refusals: Refusals::new(relay.clock.clone(), settings.recipients.clone()),
        log: Output::new(std::io::sink()),
        delivery: relay.delivery(),
        reporter,
        clock: relay.clock.clone(),
        draining: Default::default(),
    };
    let api =
        Api::new(parts, Settings { message_size_max: SIZE_MAX, recipients_max: RECIPIENTS_MAX, ..Settings::default() });
    Bench { runtime: runtime(), relay, api, _folder: folder }
}

/// What the API says to what comes over a connection.
pub async fn converse(api: &Arc<Api>, request: &[u8]) -> Vec<u8> {
    let (mut client, server) = duplex(256 << 10);
    let mut answer = Vec::new();
    let talk = async {
        // Who is refused early need not read on.
        let _ = client.write_all(request).await;
        // Followers of events are never done.
        let _ = tokio::time::timeout(Duration::from_secs(90), client.read_to_end(&mut answer)).await;
        drop(client);
    };
    tokio::join!(api.converse(server), talk);
    answer
}

/// Status, type and body of a whole answer.
pub fn taken_apart(answer: &[u8]) -> Option<(u16, String, Vec<u8>)> {
    let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).expect("heads are text");
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().expect("a status");
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    Some((status, content_type.to_owned(), answer[end + 4..].to_vec()))
}

/// As [`asked`], of what a thread of its own answers: simulated time stands still meanwhile, which else goes on when nobody of the
/// runtime has anything to do.
pub fn asked_of_thread(bench: &Bench, line: &str, token: &str, body: &[u8]) -> (u16, Value) {
    let (over, until_over) = std::sync::mpsc::channel::<()>();
    // Time is not set forward while a task blocks.
    let blocking = bench.runtime.spawn_blocking(move || until_over.recv().is_err());
    let answer = asked(bench, line, token, body);
    drop(over);
    bench.runtime.block_on(blocking).expect("it ends");
    answer
}

/// Asks with a body; returns status and body of the answer, which is JSON, or a problem.
pub fn asked(bench: &Bench, line: &str, token: &str, body: &[u8]) -> (u16, Value) {
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {token}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    let answer = bench.runtime.block_on(converse(&bench.api, &[head.as_bytes(), body].concat()));
    let (status, content_type, json) = taken_apart(&answer).expect("every request is answered");
    let expected = if status < 400 { "application/json" } else { "application/problem+json" };
    assert_eq!(content_type, expected, "{line}: {status}");
    (status, serde_json::from_slice(&json).expect("an answer is JSON"))
}

/// Gives a body to a compatible door and checks what comes of it; `ids` reads the ids of the messages out of an answer's head
/// and body.
pub fn at_door(path: &str, token: &str, body: &[u8], ids: impl Fn(&str, &Value) -> Vec<String>) {
    let Bench { runtime, relay, api, .. } = &*BENCH;
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: relay\r\n{token}Connection: close\r\nContent-Length: {length}\r\n\r\n");
    let answer = runtime.block_on(converse(api, &[head.as_bytes(), body].concat()));
    let (status, content_type, json) = taken_apart(&answer).expect("every request is answered");
    assert!([200, 202, 400, 403, 413, 422, 429].contains(&status), "{status}");
    assert!(json.is_empty() || content_type == "application/json", "{content_type}");
    let json: Value =
        if json.is_empty() { Value::Null } else { serde_json::from_slice(&json).expect("an answer is JSON") };
    let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    for id in ids(&head, &json) {
        let id: MessageId = id.parse().expect("an id is a UUID");
        // The same message twice is one.
        if relay.queue.message(id).is_none() {
            continue;
        }
        let (message, content) = relay.taken(id);
        relay.forget(id);
        assert_eq!(line_fault(&content), None);
        assert!(!content.contains(&0) && content.len() <= SIZE_MAX + STAMP_MAX);
        let sender = message.envelope.reverse_path.mailbox().expect("there is a sender");
        assert!(user().may_send_as(sender, |_| false));
        assert!((1..=RECIPIENTS_MAX).contains(&message.envelope.recipients.len()));
        let read = MessageParser::default().parse(&content).expect("it can be read");
        let count =
            |name: &str| read.headers().iter().filter(|header| header.name().eq_ignore_ascii_case(name)).count();
        for single in ["From", "To", "Subject", "Message-ID", "Date", "MIME-Version"] {
            assert_eq!(count(single), 1, "{single}");
        }
        for none in ["Bcc", "Return-Path", "DKIM-Signature", "Sender", "Resent-To"] {
            assert_eq!(count(none), 0, "{none}");
        }
        assert!(!read.headers().iter().any(|header| header.name().to_ascii_lowercase().starts_with("x-otp-")));
    }
    assert_eq!(relay.queue.depth().messages, 0, "nothing else is in the queue");
}
