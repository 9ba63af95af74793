//! PROXY headers, from those who have to send one and from those who are not believed.

use std::net::SocketAddr;

use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::FakeMx;
use crate::support::{Events, start_relay};

/// Proxies stand at 127.0.0.2; clients at 127.0.0.3 and 203.0.113.7 are trusted, nobody else.
const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nauth = \"trusted\"\n\
    trusted_networks = [\"127.0.0.3\", \"203.0.113.7\"]\nproxy_protocol_from = [\"127.0.0.2\"]\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const AUTH_FIRST: &str = "530 5.7.0 authentication required";

struct Bench {
    relay: Relay,
    events: Events,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(&[]).await;
        let (relay, events) = start_relay(folder.path(), mx.address, &format!("{LISTENER}{more}"));
        let address = relay.addresses()[1];
        Self { relay, events, address, _folder: folder }
    }

    /// A connection from this address that begins with these octets.
    async fn client(&self, from: &str, header: &[u8]) -> Client {
        let mut client = Client::connect_only(from, self.address).await;
        client.send(header).await;
        client
    }

    /// The reply to MAIL of somebody who connects from there and begins with these octets.
    async fn mail_from(&self, from: &str, header: &[u8]) -> String {
        let mut client = self.client(from, header).await;
        client.greet().await;
        client.say("MAIL FROM:<otp@app.test>").await
    }
}

fn v2_ipv4(client: [u8; 4]) -> Vec<u8> {
    [V2, b"\x21\x11\x00\x0c", &client, &[127, 0, 0, 1, 0x80, 0, 2, 0x4b]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_looks_at_the_address_that_a_proxy_names() {
    let mut bench = Bench::new("").await;
    for header in [b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 25\r\n".to_vec(), v2_ipv4([203, 0, 113, 7])] {
        let mut client = bench.client("127.0.0.2", &header).await;
        client.greet().await;
        assert!(client.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
        bench.events.next(Kind::Delivered).await;
    }
    for header in [
        b"PROXY TCP4 203.0.113.8 127.0.0.1 5000 25\r\n".to_vec(),
        b"PROXY TCP4 127.0.0.2 127.0.0.1 5000 25\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2_ipv4([203, 0, 113, 8]),
        LOCAL.to_vec(),
    ] {
        assert_eq!(bench.mail_from("127.0.0.2", &header).await, AUTH_FIRST, "{}", header.escape_ascii());
    }
    bench.relay.shut_down().await;
}

/// Whoever is behind an `UNKNOWN` is not the proxy, though the proxy be trusted; behind a `LOCAL` it is.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_unknown_is_not_the_proxy() {
    let bench = Bench::new(&LISTENER.replace("[\"127.0.0.2\"]", "[\"127.0.0.3\"]")).await;
    let bench = Bench { address: bench.relay.addresses()[2], ..bench };
    assert!(bench.mail_from("127.0.0.3", LOCAL).await.starts_with("250"));
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN 203.0.113.7 127.0.0.1 1 2\r\n"] {
        assert_eq!(bench.mail_from("127.0.0.3", header).await, AUTH_FIRST);
        let mut client = bench.client("127.0.0.3", header).await;
        client.hear().await;
        client.send(b"EHLO client.test\r\nAUTH PLAIN AGEAYg==\r\n").await;
        client.hear().await;
        assert!(client.hear().await.starts_with("538 5.7.11"), "no password in clear text from who knows where");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_elsewhere_is_a_bad_command() {
    let bench = Bench::new("").await;
    let mut client = bench.client("127.0.0.4", b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 25\r\n").await;
    assert!(client.hear().await.starts_with("220 "));
    assert_eq!(client.hear().await, "500 5.5.2 command not recognized");
    assert!(client.say("EHLO client.test").await.starts_with("250"));
    assert_eq!(client.say("MAIL FROM:<otp@app.test>").await, AUTH_FIRST);
    let mut client = bench.client("127.0.0.4", &v2_ipv4([203, 0, 113, 7])).await;
    client.hear().await;
    for expected in ["500 5.5.2", "500 5.5.2", "501 5.5.4", "554 5.6.0"] {
        let reply = client.hear().await;
        assert!(reply.starts_with(expected), "{expected}: {reply}");
    }
    assert!(client.is_closed().await);
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_a_good_header_is_not_served() {
    let bench = Bench::new("").await;
    for header in [
        &b"EHLO client.test\r\n"[..],
        b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 25\n",
        b"PROXY TCP4 203.0.113.7\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\x16\x03\x01\x02\x00",
    ] {
        let mut client = bench.client("127.0.0.2", header).await;
        assert_eq!(client.hear().await, "", "not a word to {}", header.escape_ascii());
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_the_clients_behind_a_proxy() {
    let bench = Bench::new("[submission]\nconnections_per_address_max = 2\n").await;
    let header = |host: u8| v2_ipv4([192, 0, 2, host]);
    let mut open = Vec::new();
    for host in [1, 1, 2, 2, 3] {
        let mut client = bench.client("127.0.0.2", &header(host)).await;
        client.greet().await;
        open.push(client);
    }
    let mut third = bench.client("127.0.0.2", &header(1)).await;
    assert_eq!(third.hear().await, "421 4.7.0 too many connections");
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_clients_give_way_when_all_places_are_taken() {
    let bench = Bench::new("[submission]\nconnections_max = 8\n").await;
    let mut app = bench.client("127.0.0.3", b"").await;
    app.greet().await;
    let mut unknown = Vec::new();
    for _ in 0..9 {
        let mut client = bench.client("127.0.0.4", b"").await;
        client.greet().await;
        unknown.push(client);
    }
    let mut second = bench.client("127.0.0.3", b"").await;
    second.greet().await;
    assert!(unknown[0].is_closed().await && unknown[2].is_closed().await);
    for client in [&mut app, &mut second] {
        assert!(client.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
    }
    bench.relay.shut_down().await;
}
