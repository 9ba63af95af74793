//! Mail hosts and name servers that mean harm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use otp_relay::testing::base::clock::SystemClock;
use otp_relay::testing::destination::mx::Router;
use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, HickoryDns, MxRecord, Records, Settings};
use otp_relay::testing::destination::route::RouteError;
use otp_relay::testing::event::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::client::{Client, mail};
use crate::support::{PATIENCE, start_relay};

/// A host that says `first` once, then `rest` until nobody listens any more; reads nothing.
async fn chatterer(first: &'static [u8], rest: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, said) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = said.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(chatter(stream, first, rest, count.clone()));
        }
    });
    (address, said)
}

async fn chatter(mut stream: TcpStream, first: &'static [u8], rest: &'static [u8], said: Arc<AtomicUsize>) {
    let _ = stream.write_all(first).await;
    if rest.is_empty() {
        // Until the relay has had enough.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    while !rest.is_empty() && stream.write_all(rest).await.is_ok() {
        said.fetch_add(rest.len(), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_without_end_are_not_read_to_their_end() {
    const LINES: &[u8] = &[b'x'; 4096];
    for (first, rest, expected) in [
        (&b""[..], &b"220-and so on and so on\r\n"[..], "the reply is too long at banner"),
        (b"220-", LINES, "the reply is too long at banner"),
        (b"220 mx.test ESMTP\r\n", b"250-SIZE\r\n", "the reply is too long at EHLO"),
        (b"220 mx.test ESMTP\r\n250 ok\r\n250 ok\r\n", b"250 ok\r\n", "connection lost"),
        (b"220 mx.test ESMTP\r\n", b"\xff\xfe\x00\r\n", "the reply is too long at EHLO"),
        (b"\x00\x1b[2J", b"", "no answer at banner"),
    ] {
        if rest.is_empty() {
            // Ten seconds of real time are not waited for here; the transcripts show what comes of them.
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let (address, said) = chatterer(first, rest).await;
        let (relay, mut events) = start_relay(folder.path(), address, "");
        let mut app = Client::connect(relay.addresses()[0]).await;
        assert!(app.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
        let deferred = events.next(Kind::Deferred).await;
        let reply = deferred.reply().unwrap_or_default();
        assert!(reply.contains(expected) || expected == "connection lost", "{expected}: {reply}");
        // What was said beyond the bound waits in buffers of the system, and no more of it is read.
        assert!(said.load(Ordering::SeqCst) < 64 << 20, "{}", said.load(Ordering::SeqCst));
        relay.shut_down().await;
    }
}

/// DNS that gives as much as it is asked for, and counts.
#[derive(Default)]
struct Plenty {
    lookups: AtomicUsize,
}

fn found<T: Send + 'static>(records: Vec<T>) -> Answer<'static, T> {
    Box::pin(async move { Ok(Records { records, secure: false, ttl: Duration::from_secs(u64::from(u32::MAX)) }) })
}

impl Dns for Plenty {
    fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
        let host = |number: u16| MxRecord { preference: number % 7, exchange: format!("{number}.{}", "x".repeat(240)) };
        found((0..5000).map(host).collect())
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let last = u8::try_from(host.len() % 256).unwrap_or(0);
        found((0..2000).map(|_| IpAddr::V4(Ipv4Addr::new(93, 184, 215, last))).collect())
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(DnsError::NoRecords) })
    }
}

#[tokio::test]
async fn huge_answers_are_cut() {
    let dns = Arc::new(Plenty::default());
    let router = Router::new(dns.clone(), Arc::new(SystemClock::default()), false);
    let route = router.route("example.com").await.unwrap();
    assert_eq!(route.hosts.len(), 32);
    assert!(route.hosts.iter().map(|host| host.addresses.len()).sum::<usize>() <= 128);
    assert_eq!(dns.lookups.load(Ordering::SeqCst), 64);
    assert!(route.destination.len() < 16 * 256);
}

/// Names that lead back here, one way or another.
struct Inward;

impl Dns for Inward {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        found(vec![MxRecord { preference: 10, exchange: format!("mx.{domain}") }])
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let mut addresses: Vec<IpAddr> =
            ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"].iter().map(|text| text.parse().unwrap()).collect();
        addresses.extend(host.contains("mixed").then(|| "93.184.215.1".parse::<IpAddr>().unwrap()));
        found(addresses)
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        found(
            ["::1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "fe80::1", "fd00::1"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
        )
    }
}

#[tokio::test]
async fn no_mail_goes_inward() {
    let router = Router::new(Arc::new(Inward), Arc::new(SystemClock::default()), false);
    assert_eq!(router.route("inward.test").await, Err(RouteError::Private));
    let route = router.route("mixed.test").await.unwrap();
    assert_eq!(route.hosts[0].addresses, ["93.184.215.1".parse::<IpAddr>().unwrap()]);
}

/// A name server over UDP that answers every question with these octets behind the question: each `RECORD` once.
async fn name_server(records: &'static [&'static [u8]]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((len, peer)) = socket.recv_from(&mut query).await {
            // The question ends behind its name, type and class.
            let end = 12 + query[12..len].iter().position(|octet| *octet == 0).unwrap_or(0) + 5;
            let count = u16::try_from(records.len()).unwrap().to_be_bytes();
            let head = [query[0], query[1], 0x81, 0x80, 0, 1, count[0], count[1], 0, 0, 0, 0];
            let answer = [&head[..], &query[12..end], &records.concat()].concat();
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn name_servers_that_lead_in_circles() {
    // The name of the question (a pointer to octet 12), CNAME, IN, a minute; then what it stands for.
    const TO_ITSELF: &[u8] = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c";
    const TO_A: &[u8] = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x03\x01a\x00";
    const A_TO_B: &[u8] = b"\x01a\x00\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x03\x01b\x00";
    const B_TO_A: &[u8] = b"\x01b\x00\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x03\x01a\x00";
    // A name that points to itself, for parsers that follow it for ever.
    const ENDLESS_NAME: &[u8] = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x2a";
    // MX 10 with a terminal's escape sequence for a host.
    const ESCAPES: &[u8] = b"\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x0d\x00\x0a\x04\x1b[2J\x04test\x00";
    for records in [&[TO_ITSELF][..], &[TO_A, A_TO_B, B_TO_A], &[TO_A, A_TO_B], &[ENDLESS_NAME], &[b"\xff\xff"]] {
        let nameservers = vec![name_server(Box::leak(records.to_vec().into_boxed_slice())).await];
        let dns = HickoryDns::new(&Settings { nameservers, ..Settings::default() }).unwrap();
        let answer = tokio::time::timeout(PATIENCE, dns.mx("circle.test")).await.expect("an end");
        assert!(answer.is_err(), "{answer:?}");
        let answer = tokio::time::timeout(PATIENCE, dns.ipv4("circle.test")).await.expect("an end");
        assert!(answer.is_err(), "{answer:?}");
    }
    let dns =
        HickoryDns::new(&Settings { nameservers: vec![name_server(&[ESCAPES]).await], ..Settings::default() }).unwrap();
    let answer = dns.mx("escapes.test").await;
    let clean = |records: &Records<MxRecord>| !records.records[0].exchange.contains(|c: char| c.is_control());
    assert!(answer.as_ref().map_or(true, clean), "{answer:?}");
}
