//! What the input of others can cost at most on an I/O thread: a relay on one thread, real sockets, and cases that are made
//! to cost much. What is passed to another thread does not count, only what is left.
//!
//! `cargo bench --bench io_thread` prints the table; the figures are processor time of the relay's thread between two turns
//! of a task that does nothing, so they include whatever else is done in between and are bounds from above.

#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(missing_docs, unreachable_pub, reason = "modules of one program")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::destination::dane;
use otp_relay::testing::destination::mta_sts::Policy;
use otp_relay::testing::destination::tlsa::TlsaRecord;
use otp_relay::testing::event::Kind;
use otp_relay::testing::mail::authors::Authors;
use otp_relay::testing::tls;
use otp_relay::testing::tls::verify::Roots;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384};
use support::Events;
use support::client::Client;
use support::fake_mx::{FakeMx, Trick};
use support::http::Http;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;

const RUNS: usize = 20;
const LIMIT_US: u64 = 1000;
const TOKEN: &str = "token of shop";

/// Processor time of the calling thread, in microseconds.
fn spent_us() -> u64 {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    u64::try_from(spent.tv_sec() * 1_000_000 + spent.tv_nsec() / 1000).unwrap()
}

/// The relay, and the longest turn of its thread since somebody looked.
struct Measured {
    longest_us: Arc<AtomicU64>,
    events: Events,
    submission: std::net::SocketAddr,
    http: Http,
}

impl Measured {
    fn start(mx: &FakeMx, folder: &std::path::Path) -> Self {
        let (mx, folder) = (mx.address, folder.to_owned());
        let longest_us = Arc::new(AtomicU64::new(0));
        let (shared, (sender, receiver)) = (longest_us.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let hash = token_hash(TOKEN);
                let more = format!(
                    "[[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@app.test\"]\n\
                     [otp]\nrecipient_budget = \"off\"\n\
                     [[destination]]\ndomains = [\"strict.test\"]\ntls = \"verify\"\n"
                );
                let (relay, events) = support::start_relay(&folder, mx, &more);
                sender.send((events, relay.addresses()[0], relay.http_address().unwrap())).unwrap();
                let mut before = spent_us();
                loop {
                    tokio::task::yield_now().await;
                    let now = spent_us();
                    shared.fetch_max(now - before, Ordering::Relaxed);
                    before = now;
                }
            });
        });
        let (events, submission, http) = receiver.recv().unwrap();
        Self { longest_us, events, submission, http: Http { address: http, token: TOKEN.to_owned() } }
    }

    /// A message by SMTP, to its end.
    async fn by_smtp(&mut self, recipient: &str, content: &str, end: Option<Kind>) {
        let mut app = Client::connect(self.submission).await;
        // No mail comes of a failure, which would be measured too.
        for command in ["MAIL FROM:<otp@app.test>", &format!("RCPT TO:<{recipient}> NOTIFY=NEVER"), "DATA"] {
            let reply = app.say(command).await;
            assert!(reply.starts_with(['2', '3']), "{reply}");
        }
        let reply = app.say(&format!("{content}\r\n.")).await;
        assert_eq!(reply.starts_with("250"), end.is_some(), "{reply}");
        self.ends(recipient, end).await;
    }

    async fn by_http(&mut self, fields: &str, body: &[u8], status: u16) {
        let mut stream = tokio::net::TcpStream::connect(self.http.address).await.unwrap();
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
             {fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        self.ends("kate@example.test", (status == 202).then_some(Kind::Delivered)).await;
    }

    /// Waits for the end of the entry.
    async fn ends(&mut self, recipient: &str, end: Option<Kind>) {
        let Some(end) = end else { return };
        loop {
            let event = self.events.next_of(&[Kind::Delivered, Kind::Failed, Kind::Deferred]).await;
            if event.head.recipient.as_ref().is_some_and(|to| to.as_str() == recipient) {
                assert_eq!(event.kind(), end);
                return;
            }
        }
    }
}

/// The rows of the table.
#[derive(Default)]
struct Table(Vec<(String, Vec<u64>)>);

impl Table {
    fn add(&mut self, what: &str, us: u64) {
        match self.0.iter_mut().find(|(name, _)| name == what) {
            Some((_, all)) => all.push(us),
            None => self.0.push((what.to_owned(), vec![us])),
        }
    }

    /// One that does all its work on the thread that calls it.
    fn add_function<T>(&mut self, what: &str, mut function: impl FnMut() -> T) {
        for _ in 0..RUNS {
            let before = spent_us();
            black_box(function());
            self.add(what, spent_us() - before);
        }
    }

    fn print(&self) {
        println!("| case | median, µs | longest of {RUNS}, µs | |\n| --- | --- | --- | --- |");
        for (what, all) in &self.0 {
            let mut all = all.clone();
            all.sort_unstable();
            let longest = all[all.len() - 1];
            let verdict = if longest > LIMIT_US { "above 1 ms" } else { "" };
            println!("| {what} | {} | {longest} | {verdict} |", all[all.len() / 2]);
        }
    }
}

fn mail(fields: &str, body: &str) -> String {
    format!("From: App <otp@app.test>\r\nTo: user\r\nSubject: one\r\n{fields}\r\n{body}")
}

/// A body of this many octets in which each word looks like a code, in lines that may be.
fn codes(octets: usize) -> String {
    let words: String =
        (0..octets / 9).map(|word| format!("A{word:06}{}", if word % 8 == 7 { "\r\n" } else { "C " })).collect();
    words[..octets.min(words.len())].trim_end().to_owned()
}

/// As long as a reply may be, and each word one that looks like a code.
fn longest_reply(code: &str) -> &'static str {
    let line: String = (0..800).map(|word| format!("A{word:06}C ")).collect();
    Box::leak((format!("{code}-{line}\r\n").repeat(8) + code + " end").into_boxed_str())
}

/// A host's certificate, and nine authorities of one name with keys of their own that all claim to have signed it.
fn hostile_chain() -> (Vec<CertificateDer<'static>>, CertificateDer<'static>, String, String) {
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "X");
        CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()).unwrap()
    };
    let (signer, anchor) = (authority(), authority());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let own = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap().signed_by(&key, &signer).unwrap();
    let others: Vec<_> = (0..9).map(|_| authority()).collect();
    let chain = std::iter::once(own.der().clone()).chain(others.iter().map(|other| other.der().clone())).collect();
    let pem = own.pem() + &others.iter().map(|other| other.pem()).collect::<String>();
    (chain, anchor.der().clone(), pem, key.serialize_pem())
}

fn acceptor(folder: &std::path::Path, chain: &str, key: &str) -> TlsAcceptor {
    let files = [folder.join("chain.pem"), folder.join("key.pem")];
    std::fs::write(&files[0], chain).unwrap();
    std::fs::write(&files[1], key).unwrap();
    tls::acceptor(&files[0], &files[1]).unwrap()
}

/// What the certificates of others cost where they are judged, which is on a thread of its own.
fn judging(table: &mut Table, chain: &[CertificateDer<'static>], anchor: &CertificateDer<'static>) {
    let now = SystemClock::default().now();
    let roots = Roots::load(None).unwrap();
    table.add_function("chain of 10, nobody's (apart)", || roots.verify(chain, "mx.test", now));
    let record = |data: Vec<u8>| TlsaRecord { usage: 2, selector: 0, matching: 0, data };
    let records = [record(anchor.as_ref().to_vec())];
    for len in [5, 6, 8] {
        table
            .add_function(&format!("chain of {len}, nobody's (apart)"), || roots.verify(&chain[..len], "mx.test", now));
    }
    table.add_function("chain of 10, authority of DNS (apart)", || dane::verify(&records, chain, &["mx.test"], now));
    table.add_function("chain of 4, authority of DNS (apart)", || {
        dane::verify(&records, &chain[..4], &["mx.test"], now)
    });
    let many: Vec<_> = (0..32u8).map(|byte| record(vec![byte; 2000])).collect();
    table.add_function("32 TLSA records beside a chain of 10", || dane::verify(&many, chain, &["mx.test"], now));
}

fn parsing(table: &mut Table) {
    let policy =
        |line: &str| format!("version: STSv1\nmode: enforce\nmax_age: 600\n{}", line.repeat(65_000 / line.len()));
    let (fields, hosts) = (policy("a:b\n"), policy("mx: *.a.test\n"));
    table.add_function("MTA-STS policy of 64 KiB, unknown fields", || Policy::parse(fields.as_bytes()).is_ok());
    table.add_function("MTA-STS policy of 64 KiB, hosts", || Policy::parse(hosts.as_bytes()).is_ok());
    let authors =
        (0..4000).map(|author| format!("\"A {author}\" <a{author}@app.test>")).collect::<Vec<_>>().join(",\r\n ");
    table.add_function("From with 4,000 authors, read (apart)", || Authors::read(authors.as_bytes()).is_ok());
}

async fn handling(table: &mut Table, relay: &mut Measured, mx: &FakeMx) {
    let plain = mail("", "It is 481516.");
    let fields = mail(&format!("X-A: {}\r\n", "b".repeat(118)).repeat(990), "x");
    let folded = mail(&format!("X-A: b\r\n{}", " c\r\n".repeat(32_000)), "x");
    let authors =
        (0..1000).map(|author| format!("\"A {author}\" <a{author}@app.test>")).collect::<Vec<_>>().join(",\r\n ");
    let many = format!("From: {authors}\r\nSender: otp@app.test\r\nTo: user\r\nSubject: one\r\n\r\nx");
    let long = mail("", &codes(1_000_000));
    let dots = mail("", &"..\r\n".repeat(240_000));
    let wide = mail("", &"x".repeat(1_000_000));
    let small = |len| {
        format!(
            "{{\"from\":\"otp@app.test\",\"to\":\"kate@example.test\",\"subject\":\"one\",\"text\":\"{}\"}}",
            "\\u0061".repeat(len)
        )
    };
    let nested = format!("{{\"from\":{}", "[".repeat(32_000));
    let (short, large) = (small(5_000), small(150_000));
    let delivered = Some(Kind::Delivered);
    for _ in 0..RUNS {
        macro_rules! case {
            ($what:literal, $work:expr) => {
                // What came before has had its time.
                tokio::time::sleep(std::time::Duration::from_millis(60)).await;
                relay.longest_us.store(0, Ordering::Relaxed);
                $work.await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                table.add($what, relay.longest_us.load(Ordering::Relaxed));
            };
        }
        case!("nothing", std::future::ready(()));
        case!("a code", relay.by_smtp("kate@example.test", &plain, delivered));
        case!("header section of 128 KiB in 990 fields", relay.by_smtp("kate@example.test", &fields, delivered));
        case!("header section of 128 KiB in one folded field", relay.by_smtp("kate@example.test", &folded, delivered));
        case!("From with 1,000 authors", relay.by_smtp("kate@example.test", &many, delivered));
        case!("message of 1 MB, words like codes", relay.by_smtp("kate@example.test", &long, delivered));
        case!("message of 1 MB, a dot in each line", relay.by_smtp("kate@example.test", &dots, delivered));
        case!("message of 1 MB in one line", relay.by_smtp("kate@example.test", &wide, delivered));
        case!("JSON of 30 KiB", relay.by_http("", short.as_bytes(), 202));
        case!("JSON of 900 KiB", relay.by_http("", large.as_bytes(), 202));
        case!("JSON of 32,000 brackets", relay.by_http("", nested.as_bytes(), 422));
        mx.trick("RCPT TO:<mallory", Trick::Say(longest_reply("550")), 1);
        case!("reply of 64 KiB, message of 1 MB", relay.by_smtp("mallory@example.test", &long, Some(Kind::Failed)));
        mx.trick("content", Trick::Say(longest_reply("550")), 1);
        case!(
            "reply of 64 KiB to the content of 30 KiB",
            relay.by_smtp("mallory@example.test", &long[..30_000], Some(Kind::Failed))
        );
        case!(
            "handshake with a chain of 10, to be verified",
            relay.by_smtp("kate@strict.test", &plain, Some(Kind::Deferred))
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut table = Table::default();
    let folder = tempfile::tempdir().unwrap();
    let (chain, anchor, pem, key) = hostile_chain();
    parsing(&mut table);
    judging(&mut table, &chain, &anchor);
    runtime.block_on(async {
        let mx = FakeMx::start_with(&["PIPELINING", "8BITMIME"], Some(acceptor(folder.path(), &pem, &key))).await;
        let mut relay = Measured::start(&mx, folder.path());
        handling(&mut table, &mut relay, &mx).await;
    });
    table.print();
}
