//! MTA-STS, DANE and REQUIRETLS over real sockets, with certificates made for the test, good and bad: what may be sent is
//! sent, and it is told who verified the host; what may not is never sent, in clear text least of all.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::FakeMx;
use crate::support::{Events, start_relay_delivering};
use aws_lc_rs::digest::{SHA256, digest};
use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::testing::destination::tlsa::TlsaRecord;
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::relay::{Environment, Relay};
use otp_relay::testing::tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;

const EXTENSIONS: &[&str] = &["PIPELINING", "8BITMIME"];

/// A certificate authority with a folder for what it issues.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate, and how to be a server with it.
struct Issued {
    certificate: CertificateDer<'static>,
    acceptor: TlsAcceptor,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// For this host, with the authority's own certificate behind it.
    fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (chain, private) = (self.folder.path().join("chain.pem"), self.folder.path().join("key.pem"));
        std::fs::write(&chain, own.pem() + &self.issuer.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        Issued { certificate: own.der().clone(), acceptor: tls::acceptor(&chain, &private).unwrap() }
    }

    /// The configuration that believes in it.
    fn believed(&self) -> String {
        format!("ca_file = \"{}\"\n", self.folder.path().join("ca.pem").display())
    }
}

/// What DNS says of TLS; every domain is served by mx.test, and all web servers are at loopback.
#[derive(Default)]
struct World {
    /// Whether DNSSEC vouches for all of it.
    secure: bool,
    tlsa: Mutex<Option<Result<Vec<TlsaRecord>, DnsError>>>,
    /// The id of the policy of all domains that begin with `sts`.
    id: Mutex<Option<String>>,
    /// Whether mx.test is an alias of end.test, where the TLSA records are then.
    is_alias: bool,
}

impl World {
    fn answer<T: Send + 'static>(&self, found: Result<Vec<T>, DnsError>) -> Answer<'static, T> {
        let secure = self.secure;
        Box::pin(async move { Ok(Records { records: found?, ttl: Duration::from_secs(60), secure }) })
    }
}

impl Dns for World {
    fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
        self.answer(Ok(vec![MxRecord { preference: 10, exchange: "mx.test".into() }]))
    }

    fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        self.answer(Ok(vec![IpAddr::from(Ipv4Addr::LOCALHOST)]))
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        self.answer(Err(DnsError::NoRecords))
    }

    fn txt<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
        let id = self.id.lock().unwrap().clone().filter(|_| name.starts_with("_mta-sts.sts"));
        self.answer(id.map(|id| vec![format!("v=STSv1; id={id};")]).ok_or(DnsError::NoSuchName))
    }

    fn tlsa<'a>(&'a self, name: &'a str) -> Answer<'a, TlsaRecord> {
        if self.is_alias && name == "_25._tcp.mx.test" {
            return self.answer(Err(DnsError::NoRecords));
        }
        assert_eq!(name, if self.is_alias { "_25._tcp.end.test" } else { "_25._tcp.mx.test" });
        self.answer(self.tlsa.lock().unwrap().clone().unwrap_or(Err(DnsError::NoRecords)))
    }

    fn alias<'a>(&'a self, host: &'a str) -> Answer<'a, String> {
        assert_eq!(host, "mx.test");
        self.answer(if self.is_alias { Ok(vec!["end.test".into()]) } else { Err(DnsError::NoRecords) })
    }
}

/// A web server with one policy; returns its port.
async fn serve_policy(issued: Issued, head: &'static str, policy: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not like the certificate hangs up.
            let Ok(mut stream) = issued.acceptor.accept(stream).await else { continue };
            let (mut request, mut octet) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut octet).await.is_ok() {
                request.push(octet[0]);
            }
            assert!(request.starts_with(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"));
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{policy}", policy.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

const GOOD_HEAD: &str = "200 OK\r\nContent-Type: text/plain";

fn policy(mode: &str, host: &str) -> String {
    format!("version: STSv1\nmode: {mode}\nmx: {host}\nmax_age: 86400\n")
}

/// A relay in a world.
struct Stage {
    authority: Authority,
    world: Arc<World>,
    policy_port: u16,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Without policies and DNSSEC.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { authority: Authority::new(), world: Arc::default(), policy_port: 9, folder }
    }

    /// With this policy for `sts.test`, well served.
    async fn with_policy(policy: String) -> Self {
        let stage = Self::new();
        let issued = stage.authority.issue("mta-sts.sts.test");
        stage.served(issued, GOOD_HEAD, policy).await
    }

    async fn served(self, issued: Issued, head: &'static str, policy: String) -> Self {
        *self.world.id.lock().unwrap() = Some("1".to_owned());
        Self { policy_port: serve_policy(issued, head, policy).await, ..self }
    }

    /// With DNSSEC and these TLSA records of mx.test.
    fn with_dane(self, tlsa: Result<Vec<TlsaRecord>, DnsError>) -> Self {
        let world = World { secure: true, tlsa: Mutex::new(Some(tlsa)), ..World::default() };
        Self { world: Arc::new(world), ..self }
    }

    /// `more` is added to the configuration.
    fn start(&self, mx: &FakeMx, more: &str) -> (Relay, Events) {
        let environment =
            Environment { dns: Some(self.world.clone()), policy_port: self.policy_port, ..Environment::default() };
        start_relay_delivering(environment, self.folder.path(), mx.address, more, &self.authority.believed())
    }

    async fn host(&self, issued: &Issued) -> FakeMx {
        FakeMx::start_with(EXTENSIONS, Some(issued.acceptor.clone())).await
    }

    /// A message is delivered to a host with this certificate.
    async fn delivered(&self, issued: &Issued, recipient: &str, how: &str) -> FakeMx {
        let mx = self.host(issued).await;
        assert_delivered(&first_attempt(self, &mx, recipient, &mail("one")).await, &mx, how);
        mx
    }

    /// A message is held back from a host with this certificate.
    async fn held(&self, issued: &Issued, recipient: &str, why: &str) -> FakeMx {
        let mx = self.host(issued).await;
        assert_held(&first_attempt(self, &mx, recipient, &mail("one")).await, &mx, why);
        mx
    }

    /// The same, from a host without TLS.
    async fn held_in_clear(&self, recipient: &str) {
        let mx = FakeMx::start(EXTENSIONS).await;
        assert_held(&first_attempt(self, &mx, recipient, &mail("one")).await, &mx, "STARTTLS");
    }
}

fn sha256(octets: &[u8]) -> Vec<u8> {
    digest(&SHA256, octets).as_ref().to_vec()
}

/// `3 1 1` for a certificate.
fn end_entity(certificate: &CertificateDer<'_>) -> TlsaRecord {
    let key = tls::verify::public_key_info(certificate).unwrap();
    TlsaRecord { usage: 3, selector: 1, matching: 1, data: sha256(&key) }
}

fn folder_of(stage: &Stage) -> &Path {
    stage.folder.path()
}

/// What comes of a message to this recipient at its first attempt.
async fn first_attempt(stage: &Stage, mx: &FakeMx, recipient: &str, content: &str) -> Event {
    let (relay, mut events) = stage.start(mx, "");
    let reply = Client::connect(relay.addresses()[0]).await.submit(&[recipient], content).await;
    // Messages that were held before may be due again.
    let outcome = loop {
        let event = outcome(&mut events).await;
        if reply.contains(&event.head.id.to_string()) {
            break event;
        }
    };
    relay.shut_down().await;
    outcome
}

async fn outcome(events: &mut Events) -> Event {
    events.next_of(&[Kind::Delivered, Kind::Deferred, Kind::Failed, Kind::Greylisted]).await
}

#[track_caller]
fn assert_delivered(event: &Event, mx: &FakeMx, how: &str) {
    assert_eq!(event.kind(), Kind::Delivered, "{:?} {:?}", event.cause(), event.reply());
    let note = event.note().unwrap_or_default();
    assert!(note.starts_with("TLSv1.3 ") && note.contains(how), "{note}");
    assert_eq!(mx.received().len(), 1);
}

/// Not sent, to be tried again, and not a word of it said to the host.
#[track_caller]
fn assert_held(event: &Event, mx: &FakeMx, why: &str) {
    assert_eq!((event.kind(), event.cause()), (Kind::Deferred, Some(Cause::TlsRequired)), "{:?}", event.reply());
    let reply = event.reply().unwrap_or_default();
    assert!(reply.contains(why), "{reply}");
    assert!(!mx.log().iter().any(|line| line.starts_with("MAIL")), "{:?}", mx.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_asked_for_any_certificate_will_do() {
    let stage = Stage::new();
    stage.delivered(&Authority::new().issue("elsewhere.test"), "a@plain.test", "not verified").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_fetched_and_enforced() {
    let stage = Stage::with_policy(policy("enforce", "mx.test")).await;
    let good = stage.authority.issue("mx.test");
    stage.delivered(&good, "a@sts.test", "verified by name (MTA-STS)").await;

    let self_made = Authority::new().issue("mx.test");
    for (issued, why) in
        [(&self_made, "invalid peer certificate"), (&stage.authority.issue("other.test"), "not valid for name")]
    {
        let mx = stage.held(issued, "a@sts.test", why).await;
        assert!(mx.log().iter().any(|line| line == "STARTTLS"));
    }
    stage.held_in_clear("a@sts.test").await;
    // What the sender says of its own message counts more than the policy.
    let mx = stage.host(&self_made).await;
    let relaxed = format!("TLS-Required: No\r\n{}", mail("one"));
    let event = first_attempt(&stage, &mx, "a@sts.test", &relaxed).await;
    assert_delivered(&event, &mx, "not verified");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_policy_does_not_name_is_not_even_connected_to() {
    let stage = Stage::with_policy(policy("enforce", "*.elsewhere.test")).await;
    let mx = stage.held(&stage.authority.issue("mx.test"), "a@sts.test", "policy does not name it").await;
    assert_eq!(mx.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_tested_holds_nothing_back() {
    let stage = Stage::with_policy(policy("testing", "mx.test")).await;
    stage.delivered(&Authority::new().issue("mx.test"), "a@sts.test", "MTA-STS would refuse").await;
    stage.delivered(&stage.authority.issue("mx.test"), "a@sts.test", "verified by name (MTA-STS, testing)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_policy_does_not_count() {
    let enforce = || policy("enforce", "mx.test");
    let unknown = Authority::new();
    for (head, policy, is_good) in [
        ("301 Moved Permanently\r\nLocation: /\r\nContent-Type: text/plain", enforce(), true),
        ("200 OK\r\nContent-Type: text/html", enforce(), true),
        (GOOD_HEAD, "version: STSv1\n".to_owned(), true),
        (GOOD_HEAD, enforce() + &"x: y\n".repeat(20_000), true),
        (GOOD_HEAD, enforce(), false),
    ] {
        let stage = Stage::new();
        let issued = if is_good { &stage.authority } else { &unknown }.issue("mta-sts.sts.test");
        let stage = stage.served(issued, head, policy).await;
        stage.delivered(&unknown.issue("mx.test"), "a@sts.test", "not verified").await;
    }
}

/// Whoever can make the policy vanish, from DNS and from the web, cannot make it forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_outlives_its_publication_and_a_restart() {
    let mut stage = Stage::with_policy(policy("enforce", "mx.test")).await;
    stage.delivered(&stage.authority.issue("mx.test"), "a@sts.test", "verified by name").await;
    assert!(folder_of(&stage).join("data/mta-sts/sts.test").exists());
    stage.world = Arc::default();
    stage.policy_port = 9;
    stage.held(&Authority::new().issue("mx.test"), "a@sts.test", "invalid peer certificate").await;
}

/// The host's name is an alias, and the records, the certificate and the name asked for are those of its end.
#[tokio::test(flavor = "multi_thread")]
async fn records_stand_at_the_end_of_an_alias() {
    let (stage, unknown) = (Stage::new(), Authority::new());
    let record = TlsaRecord { usage: 2, selector: 0, matching: 1, data: sha256(unknown.issuer.der()) };
    let world = World { secure: true, tlsa: Mutex::new(Some(Ok(vec![record]))), is_alias: true, ..World::default() };
    let stage = Stage { world: Arc::new(world), ..stage };
    stage.delivered(&unknown.issue("end.test"), "a@dane.test", "verified by DANE-TA").await;
    stage.held(&Authority::new().issue("mx.test"), "b@dane.test", "not one of those in DNS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dane_goes_by_dns_alone() {
    let stage = Stage::new();
    let unknown = Authority::new();
    // Nobody knows the authority, and the name is another's: the key is the right one.
    let own = unknown.issue("elsewhere.test");
    let ta = |name| {
        let issued = unknown.issue(name);
        let record = TlsaRecord { usage: 2, selector: 0, matching: 1, data: sha256(unknown.issuer.der()) };
        (issued, record)
    };
    let stage = stage.with_dane(Ok(vec![end_entity(&own.certificate)]));
    stage.delivered(&own, "a@dane.test", "verified by DANE-EE").await;

    let (good, record) = ta("mx.test");
    let stage = stage.with_dane(Ok(vec![record.clone()]));
    stage.delivered(&good, "a@dane.test", "verified by DANE-TA").await;

    let (wrong_name, _) = ta("elsewhere.test");
    stage.held(&wrong_name, "a@dane.test", "not valid for name").await;

    // A certificate that every browser would believe, and DNS says another.
    let stage = stage.with_dane(Ok(vec![end_entity(&own.certificate)]));
    stage.held(&stage.authority.issue("mx.test"), "a@dane.test", "not one of those in DNS").await;
    stage.held_in_clear("a@dane.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_had_or_used() {
    let forged = DnsError::Failed("forged".into());
    let stage = Stage::new().with_dane(Err(forged));
    let mx = stage.held(&stage.authority.issue("mx.test"), "a@dane.test", "TLSA records cannot be looked up").await;
    assert_eq!(mx.connections(), 0);

    let unusable: TlsaRecord = "0 0 1 00".parse().unwrap();
    let stage = stage.with_dane(Ok(vec![unusable]));
    stage.delivered(&Authority::new().issue("elsewhere.test"), "a@dane.test", "not verified").await;
    stage.held_in_clear("a@dane.test").await;
}

/// The session that is there already is used only where it is good enough.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_judged_anew() {
    let stage = Stage::with_policy(policy("enforce", "mx.test")).await;
    for (issued, connections) in [(stage.authority.issue("mx.test"), 1), (Authority::new().issue("mx.test"), 2)] {
        let mx = stage.host(&issued).await;
        let (relay, mut events) = stage.start(&mx, "");
        let mut app = Client::connect(relay.addresses()[0]).await;
        app.submit(&["a@plain.test"], &mail("one")).await;
        assert_delivered(&outcome(&mut events).await, &mx, "not verified");
        app.submit(&["a@sts.test"], &mail("two")).await;
        let event = outcome(&mut events).await;
        let is_good = connections == 1;
        assert_eq!(event.kind(), if is_good { Kind::Delivered } else { Kind::Deferred }, "{:?}", event.reply());
        assert_eq!(event.note().is_some_and(|note| note.contains("verified by name (MTA-STS)")), is_good);
        assert_eq!((mx.connections(), mx.received().len()), (connections, if is_good { 2 } else { 1 }));
        relay.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requiretls_needs_a_host_that_is_known_and_passes_it_on() {
    async fn submit(stage: &mut Stage, mx: &FakeMx, recipient: &str) -> Event {
        // The notification of the message before is not to come in between.
        stage.folder = tempfile::tempdir().unwrap();
        let (relay, mut events) = stage.start(mx, "");
        let mut app = Client::connect_encrypted(relay.addresses()[0]).await;
        assert!(app.say("MAIL FROM:<otp@app.test> REQUIRETLS").await.starts_with("250"));
        assert!(app.say(&format!("RCPT TO:<{recipient}>")).await.starts_with("250"));
        assert!(app.say("DATA").await.starts_with("354"));
        assert!(app.say(&format!("{}\r\n.", mail("one"))).await.starts_with("250"));
        let event = outcome(&mut events).await;
        relay.shut_down().await;
        event
    }
    let refuses = |event: &Event, mx: &FakeMx| {
        assert_eq!((event.kind(), event.cause()), (Kind::Failed, Some(Cause::TlsRequired)), "{:?}", event.reply());
        // The notification to the sender, which holds nothing of it, may go.
        assert!(!mx.log().iter().any(|line| line.starts_with("MAIL FROM:<otp@")), "{:?}", mx.log());
    };
    let mut stage = Stage::with_policy(policy("enforce", "mx.test")).await;
    let good = stage.authority.issue("mx.test");
    let offering = || FakeMx::start_with(&["PIPELINING", "REQUIRETLS"], Some(good.acceptor.clone()));
    let mx = offering().await;
    assert_delivered(&submit(&mut stage, &mx, "a@sts.test").await, &mx, "verified by name (REQUIRETLS)");
    assert!(mx.received()[0].mail.contains(" REQUIRETLS"), "{}", mx.received()[0].mail);
    let mx = stage.host(&good).await;
    refuses(&submit(&mut stage, &mx, "a@sts.test").await, &mx);
    // Nobody vouches for the name of the host.
    let mx = offering().await;
    refuses(&submit(&mut stage, &mx, "a@plain.test").await, &mx);
    let bad = Authority::new().issue("mx.test");
    let mx = FakeMx::start_with(&["REQUIRETLS"], Some(bad.acceptor)).await;
    assert_held(&submit(&mut stage, &mx, "a@sts.test").await, &mx, "invalid peer certificate");
    let mut stage = stage.with_dane(Ok(vec![end_entity(&good.certificate)]));
    let mx = offering().await;
    assert_delivered(&submit(&mut stage, &mx, "a@dane.test").await, &mx, "verified by DANE-EE");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_can_ask_for_more() {
    let stage = Stage::new();
    let exception = |tls: &str| format!("[[destination]]\ndomains = [\"*.strict.test\"]\ntls = \"{tls}\"\n");
    let (good, bad) = (stage.authority.issue("mx.test"), Authority::new().issue("mx.test"));
    for (tls, issued, recipient, expected) in [
        ("verify", &good, "a@b.strict.test", Kind::Delivered),
        ("verify", &bad, "a@b.strict.test", Kind::Deferred),
        ("verify", &bad, "a@lax.test", Kind::Delivered),
        ("dane", &good, "a@b.strict.test", Kind::Deferred),
        ("none", &good, "a@b.strict.test", Kind::Delivered),
    ] {
        let mx = stage.host(issued).await;
        let (relay, mut events) = stage.start(&mx, &exception(tls));
        Client::connect(relay.addresses()[0]).await.submit(&[recipient], &mail("one")).await;
        let event = outcome(&mut events).await;
        assert_eq!(event.kind(), expected, "{tls} {recipient} {:?}", event.reply());
        assert_eq!(mx.log().iter().any(|line| line == "STARTTLS"), !["dane", "none"].contains(&tls));
        relay.shut_down().await;
    }
}
