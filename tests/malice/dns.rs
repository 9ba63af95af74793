//! Name servers, and owners of zones, whose answers are to keep mail from others or lead it inward.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use otp_relay::testing::base::clock::{ManualClock, SystemClock, Timestamp};
use otp_relay::testing::destination::mx::Router;
use otp_relay::testing::destination::resolver::{
    Answer, Denial, Dns, DnsError, HickoryDns, MxRecord, Records, Settings,
};
use otp_relay::testing::destination::route::RouteError;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Environment;
use tokio::net::UdpSocket;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::FakeMx;
use crate::support::start_relay_delivering;

/// Denies the domain so many times, each for this long, then has a mail host for it at loopback.
struct Denying {
    left: AtomicUsize,
    ttl: Duration,
    asked: AtomicUsize,
    forgotten: AtomicUsize,
}

impl Denying {
    fn new(times: usize, ttl_s: u64) -> Arc<Self> {
        let (asked, forgotten) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { left: AtomicUsize::new(times), ttl: Duration::from_secs(ttl_s), asked, forgotten })
    }
}

fn found<T: Send + 'static>(records: Vec<T>) -> Answer<'static, T> {
    Box::pin(async move { Ok(Records { records, secure: false, ttl: Duration::from_secs(300) }) })
}

impl Dns for Denying {
    fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let is_left = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok() {
            let ttl = self.ttl;
            return Box::pin(async move { Err(DnsError::Denied(Denial::Name, ttl)) });
        }
        found(vec![MxRecord { preference: 10, exchange: "mx.test".to_owned() }])
    }

    fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        found(vec![IpAddr::from([127, 0, 0, 1])])
    }

    fn forget(&self, _: &str) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }
}

fn router(dns: Arc<dyn Dns>) -> (Router, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
    (Router::new(dns, clock.clone(), true), clock)
}

#[tokio::test(start_paused = true)]
async fn one_denial_refuses_nobody() {
    let dns = Denying::new(1, 600);
    let (router, _) = router(dns.clone());
    assert!(router.route("busy.test").await.is_ok());
    assert_eq!(dns.asked.load(Ordering::SeqCst), 2);
    assert!(dns.forgotten.load(Ordering::SeqCst) > 0, "asked again past what the resolver remembers");
}

#[tokio::test(start_paused = true)]
async fn a_denial_holds_for_its_own_time_and_ten_minutes_at_most() {
    for (ttl_s, holds_s) in [(30, 30), (0, 0), (86_400, 600)] {
        let dns = Denying::new(2, ttl_s);
        let (router, clock) = router(dns.clone());
        assert_eq!(router.route("gone.test").await, Err(RouteError::NoSuchDomain), "{ttl_s} s");
        if holds_s > 0 {
            clock.advance(Duration::from_millis(holds_s * 1000 - 1));
            assert_eq!(router.route("gone.test").await, Err(RouteError::NoSuchDomain), "{ttl_s} s");
            assert_eq!(dns.asked.load(Ordering::SeqCst), 2, "known");
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(router.remembered("gone.test"), None);
        assert!(router.route("gone.test").await.is_ok(), "another code looks again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_goes_out_although_one_answer_denied_its_domain() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(&["PIPELINING"]).await;
    let dns = Denying::new(1, 86_400);
    let environment = Environment { dns: Some(dns.clone()), ..Environment::default() };
    let (relay, mut events) = start_relay_delivering(environment, folder.path(), mx.address, "", "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    assert!(app.submit(&["alice@busy.test"], &mail("one")).await.starts_with("250"));
    events.next(Kind::Delivered).await;
    assert!(dns.forgotten.load(Ordering::SeqCst) > 0, "the second look-up is another one");
    relay.shut_down().await;
}

/// A name server over UDP that denies the first question about MX with this SOA minimum, and answers the others.
async fn slipping_name_server(minimum_s: u32) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        let mut has_slipped = false;
        while let Ok((len, peer)) = socket.recv_from(&mut query).await {
            let end = 12 + query[12..len].iter().position(|octet| *octet == 0).unwrap_or(0) + 5;
            let kind = query[end - 3];
            // The name of the question (a pointer to octet 12), type, IN, a minute, length, data.
            let record = |kind: u8, data: &[u8]| {
                let head = [0xc0, 0x0c, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()];
                [&head[..], data].concat()
            };
            let soa = || {
                let numbers = [1, 60, 60, 60, minimum_s].map(u32::to_be_bytes).concat();
                let mut soa = record(6, &[&b"\xc0\x0c\xc0\x0c"[..], &numbers].concat());
                soa[6..10].copy_from_slice(&3600u32.to_be_bytes());
                soa
            };
            let (code, answers, authority) = match kind {
                15 if !std::mem::replace(&mut has_slipped, true) => (3, vec![], soa()),
                15 => (0, record(15, b"\x00\x0a\xc0\x0c"), vec![]),
                1 => (0, record(1, &[127, 0, 0, 1]), vec![]),
                _ => (0, vec![], soa()),
            };
            let counts = [u8::from(!answers.is_empty()), u8::from(!authority.is_empty())];
            let head = [query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, counts[0], 0, counts[1], 0, 0];
            let answer = [&head[..], &query[12..end], &answers, &authority].concat();
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resolver_asks_again_and_tells_for_how_long_an_answer_holds() {
    let settings = |address| Settings { nameservers: vec![address], ..Settings::default() };
    let dns = HickoryDns::new(&settings(slipping_name_server(77).await)).unwrap();
    let expected = DnsError::Denied(Denial::Name, Duration::from_secs(77));
    assert_eq!(dns.mx("busy.test").await, Err(expected.clone()));
    let remembered = dns.mx("busy.test").await.unwrap_err().denial().unwrap();
    assert!(remembered.0 == Denial::Name && remembered.1 <= Duration::from_secs(77), "{remembered:?}");
    dns.forget("busy.test");
    assert!(dns.mx("busy.test").await.is_ok());
    let dns = HickoryDns::new(&settings(slipping_name_server(77).await)).unwrap();
    let router = Router::new(Arc::new(dns), Arc::new(SystemClock::default()), true);
    assert!(router.route("busy.test").await.is_ok());
}

/// A domain with one address.
struct At(IpAddr);

impl Dns for At {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        found(vec![MxRecord { preference: 10, exchange: format!("mx.{domain}") }])
    }

    fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        if self.0.is_ipv4() { found(vec![self.0]) } else { Box::pin(async { Err(DnsError::NoRecords) }) }
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        if self.0.is_ipv6() { found(vec![self.0]) } else { Box::pin(async { Err(DnsError::NoRecords) }) }
    }
}

#[tokio::test]
async fn no_mail_goes_inward_by_another_form_of_an_address() {
    let route = async |text: &str| {
        let dns = Arc::new(At(text.parse().unwrap()));
        Router::new(dns, Arc::new(SystemClock::default()), false).route("inward.test").await
    };
    // Teredo (with the client's address upside down), SIIT, local NAT64, 6to4, and what stands for nobody.
    for text in [
        "2001:0:808:808:0:0:80ff:fffe",
        "::ffff:0:127.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "2002:a00:1::1",
        "100::1",
        "192.0.2.1",
        "192.88.99.1",
    ] {
        assert_eq!(route(text).await, Err(RouteError::Private), "{text}");
    }
    for text in ["2a01:4f8::25", "64:ff9b::808:808", "93.184.215.1"] {
        assert!(route(text).await.is_ok(), "{text}");
    }
}
