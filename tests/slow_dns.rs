//! Recipients whose name servers are slow, at both doors, on simulated time: nobody waits for them longer than a second.

use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::support::in_memory::Life;
use otp_relay::testing::accounts::credentials::{Account, Credentials, TokenHash};
use otp_relay::testing::accounts::user::{Senders, TRUSTED, User};
use otp_relay::testing::base::clock::{Clock, ManualClock, Timestamp};
use otp_relay::testing::base::shares::Sharing;
use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::testing::event::NoSink;
use otp_relay::testing::http::{Api, Parts, Settings};
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::net::places::Limits;
use otp_relay::testing::net::{Connecting, Network};
use otp_relay::testing::report::log::{EventLog, Format, Output};
use otp_relay::testing::report::refusals::Refusals;
use otp_relay::testing::report::stats::Statistics;
use otp_relay::testing::report::trace::{self, Traces};
use otp_relay::testing::report::webhooks::Webhooks;
use otp_relay::testing::report::{Reporter, log};
use otp_relay::testing::smtp::server_session::SessionSettings;
use otp_relay::testing::submission::listener::{LiveSettings, Submission};
use otp_relay::testing::tls;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

/// Domains say in their names how many milliseconds an answer takes, and which: `600.gone.test`. `silent` never answers.
#[derive(Clone)]
struct SlowDns;

impl Dns for SlowDns {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(async move {
            let (delay, kind) = domain.split_once('.').unwrap();
            if delay.starts_with("silent") {
                return pending().await;
            }
            tokio::time::sleep(Duration::from_millis(delay.parse().unwrap())).await;
            let record = MxRecord { preference: 10, exchange: "mx.test".to_owned() };
            match kind {
                "gone.test" => Err(DnsError::NoSuchName),
                "ill.test" => Err(DnsError::Failed("SERVFAIL".into())),
                _ => Ok(Records { records: vec![record], ttl: Duration::from_secs(60), secure: false }),
            }
        })
    }

    fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async { Ok(Records { records: vec![[93, 184, 215, 1].into()], ttl: SECOND * 60, secure: false }) })
    }
}

impl Network for SlowDns {
    /// What is accepted stays in the queue.
    fn connect(&self, _: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        Box::pin(pending())
    }
}

/// A relay with both doors.
struct Scene {
    clock: Arc<ManualClock>,
    life: Life,
    submission: Arc<Submission>,
    api: Arc<Api>,
    _folder: tempfile::TempDir,
}

fn live_settings() -> LiveSettings {
    let session = SessionSettings {
        hostname: "relay.test".into(),
        message_size_max: 1 << 20,
        recipients_max: 100,
        starttls: false,
        deliver_by: (SECOND * 5, SECOND * 86_400),
        command_timeout: SECOND * 60,
        idle_timeout: SECOND * 300,
    };
    let limits = Limits { connections_max: 10, connections_per_address_max: 10 };
    LiveSettings { session, limits, sharing: Sharing::Alone }
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manual = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_255_200_000)));
        let life = Life::begin(&MemoryStore::default(), &SlowDns, &manual, Arc::new(NoSink), 20);
        let clock: Arc<dyn Clock> = manual.clone();
        let senders = Senders::Patterns(vec!["*@app.test".to_owned()]);
        let user = Arc::new(User { senders, ..User::unlimited(TRUSTED) });
        let account = Account { user, password: None, token: Some(TokenHash::of("token")) };
        let credentials = Arc::new(Credentials::new(HashMap::from([(TRUSTED.to_owned(), account)]), b"salt"));
        let settings = log::Settings { format: Format::Text, ..log::Settings::default() };
        let refusals = Refusals::new(clock.clone(), settings.recipients.clone());
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        tls::self_signed::ensure(&certificate, &key, "relay.test", clock.now()).unwrap();
        let acceptor = tls::acceptor(&certificate, &key).unwrap();
        let (ours, draining) = ((clock.clone(), refusals.clone()), CancellationToken::new());
        let submission = Submission::new(
            (life.door.clone(), life.delivery.clone()),
            credentials.clone(),
            ours,
            live_settings(),
            acceptor,
            draining,
        );
        let reporter = Reporter::start(life.queue.happened().clone(), EventLog::new(&settings), Vec::new()).unwrap();
        let traces = Traces::start(folder.path(), trace::Limits::of(SECOND * 60), clock.clone()).unwrap();
        traces.follow(&life.queue);
        let stats = Statistics::start(&folder.path().join("stats"), clock.clone(), &life.queue).unwrap();
        let tls = tls::opportunistic_connector().unwrap();
        let webhooks =
            Webhooks::start(&folder.path().join("webhooks"), Vec::new(), &life.queue, clock.clone(), tls).unwrap();
        let parts = Parts {
            stats,
            webhooks,
            door: life.door.clone(),
            queue: life.queue.clone(),
            credentials,
            operator: TokenHash::of("operator-token"),
            traces,
            metrics: Arc::default(),
            ends: Arc::default(),
            delivery: life.delivery.clone(),
            destinations: Arc::default(),
            providers: Arc::default(),
            upkeep: Arc::default(),
            reporter,
            refusals,
            log: Output::new(std::io::sink()),
            clock,
            draining: Default::default(),
            beside: None,
        };
        let api = Api::new(parts, Settings::default());
        Self { clock: manual, life, submission, api, _folder: folder }
    }

    /// A client's connection, greeted.
    async fn client(&self) -> BufReader<DuplexStream> {
        let (ours, theirs) = duplex(64 << 10);
        let submission = self.submission.clone();
        tokio::spawn(async move { submission.converse_with_trusted(Box::new(theirs)).await });
        let mut client = BufReader::new(ours);
        hear(&mut client).await;
        say(&mut client, "EHLO client.test").await;
        client
    }

    /// The replies to the RCPTs of one transaction, and how long each took in milliseconds.
    async fn rcpts(&self, client: &mut BufReader<DuplexStream>, recipients: &[&str]) -> Vec<(String, u128)> {
        say(client, "MAIL FROM:<otp@app.test>").await;
        let mut replies = Vec::new();
        for recipient in recipients {
            let before = self.clock.now();
            let reply = say(client, &format!("RCPT TO:<{recipient}>")).await;
            replies.push((reply[..9].to_owned(), self.clock.now().since(before).as_millis()));
        }
        replies
    }

    /// Status and problem of a message over HTTP, and how long the answer took in milliseconds.
    async fn post(&self, to: &[&str]) -> (u16, String, u128) {
        let (mut client, server) = duplex(64 << 10);
        let body = json!({"from": "otp@app.test", "to": to, "subject": "one", "text": "It is 481516.\n"}).to_string();
        let head =
            "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\nConnection: close\r\n";
        let request = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let before = self.clock.now();
        let talk = async {
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (answer, self.clock.now().since(before).as_millis())
        };
        let ((), (answer, waited)) = tokio::join!(self.api.converse(server), talk);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let problem: Value = serde_json::from_str(body).unwrap();
        (head[9..12].parse().unwrap(), problem["type"].as_str().unwrap_or_default().to_owned(), waited)
    }
}

async fn say(client: &mut BufReader<DuplexStream>, line: &str) -> String {
    client.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    hear(client).await
}

async fn hear(client: &mut BufReader<DuplexStream>) -> String {
    loop {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        if line.as_bytes().get(3) != Some(&b'-') {
            return line.trim_end().to_owned();
        }
    }
}

fn took(reply: &str, ms: u128) -> (String, u128) {
    (reply.to_owned(), ms)
}

/// An answer in time counts, though it takes two look-ups to believe that a domain is not there; one that is late does not,
/// and no answer is no refusal.
#[tokio::test(start_paused = true)]
async fn rcpt_waits_for_a_second_and_accepts() {
    let scene = Scene::new();
    let mut client = scene.client().await;
    for (domain, expected) in [
        ("0.gone.test", took("550 5.1.2", 0)),
        ("300.here.test", took("250 2.1.5", 300)),
        ("400.gone.test", took("550 5.1.2", 800)),
        ("600.gone.test", took("250 2.1.5", 1000)),
        ("1500.gone.test", took("250 2.1.5", 1000)),
        ("1500.here.test", took("250 2.1.5", 1000)),
        ("200.ill.test", took("250 2.1.5", 200)),
        ("silent.here.test", took("250 2.1.5", 1000)),
    ] {
        let replies = scene.rcpts(&mut client, &[&format!("alice@{domain}")]).await;
        assert_eq!(replies, [expected], "{domain}");
        say(&mut client, "RSET").await;
    }
    scene.life.end().await;
}

/// The recipients of a message share the second; the next message has one of its own.
#[tokio::test(start_paused = true)]
async fn a_transaction_waits_for_a_second_in_all() {
    let scene = Scene::new();
    let mut client = scene.client().await;
    let recipients = ["a@700.here.test", "b@silent1.test", "c@silent2.test", "d@300.here.test", "e@0.gone.test"];
    let replies = scene.rcpts(&mut client, &recipients).await;
    let expected = [700, 300, 0, 0, 0].map(|ms| took("250 2.1.5", ms));
    assert_eq!(replies, expected);
    say(&mut client, "DATA").await;
    let reply = say(&mut client, "From: otp@app.test\r\n\r\nIt is 481516.\r\n.").await;
    assert!(reply.starts_with("250 2.0.0 accepted id="), "{reply}");
    assert_eq!(scene.rcpts(&mut client, &["f@silent3.test"]).await, [took("250 2.1.5", 1000)]);
    scene.life.end().await;
}

#[tokio::test(start_paused = true)]
async fn over_http_an_answer_waits_for_a_second_and_accepts() {
    let scene = Scene::new();
    let unknown = || "urn:otp-relay:recipient".to_owned();
    assert_eq!(scene.post(&["a@400.gone.test"]).await, (422, unknown(), 800));
    assert_eq!(scene.post(&["a@300.here.test"]).await, (202, String::new(), 300));
    assert_eq!(scene.post(&["a@600.gone.test"]).await, (202, String::new(), 1000));
    assert_eq!(scene.post(&["a@silent1.test", "b@silent2.test", "c@1500.gone.test"]).await, (202, String::new(), 1000));
    scene.life.end().await;
}
