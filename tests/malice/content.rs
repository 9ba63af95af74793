//! Content that other programs, or hosts on the way, do not read as we do: first lines that are none, fields that are nobody's
//! business, lines that are too long, bodies that are packed.

use std::io::Write as _;
use std::time::Duration;

use mail_parser::MessageParser;
use otp_relay::testing::accounts::user::token_hash;
use otp_relay::testing::event::Kind;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use crate::support::{manual_clock, pass, start_relay, start_relay_by, start_with_host};

/// A host of the last century.
const HOST: &[&str] = &["PIPELINING"];

fn text_of(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_line_that_is_no_field_is_refused() {
    let (_folder, mx, relay, mut events) = start_with_host(HOST, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    let good = mail("one");
    for (first, expected) in [
        ("\u{feff}", "554 5.6.0 the first line is no header field: a byte-order mark"),
        ("From otp Sat Nov 21 10:00:00 2026\r\n", "554 5.6.0 the first line is no header field but the line that"),
        (">From otp Sat Nov 21 10:00:00 2026\r\n", "554 5.6.0 the first line is no header field but the line that"),
        (" folded: x\r\n", "554 5.6.0 the first line is no header field"),
        ("hello\r\n", "554 5.6.0 the first line is no header field"),
    ] {
        let reply = app.submit(&["alice@example.test"], &format!("{first}{good}")).await;
        assert!(reply.starts_with(expected), "{}: {reply}", first.escape_debug());
    }
    assert!(app.submit(&["alice@example.test"], &good).await.starts_with("250"));
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
    assert_eq!(mx.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn blind_copies_stay_blind() {
    let (_folder, mx, relay, mut events) = start_with_host(HOST, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    let fields = "Return-Path: <otp@app.test>\r\nBcc: boss@bank.test,\r\n spy@bank.test\r\nbCC : spy@bank.test\r\n\
                  Resent-Bcc: spy@bank.test\r\n";
    let reply = app.submit(&["alice@example.test"], &format!("{fields}{}", mail("one"))).await;
    assert!(reply.starts_with("250"), "{reply}");
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
    let text = text_of(&mx.received()[0].content);
    assert!(!text.contains("bank.test") && !text.contains("Return-Path"), "{text}");
    assert!(text.ends_with(&format!("{}\r\n", mail("one"))), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_are_encoded_or_refused() {
    let (_folder, mx, relay, mut events) = start_with_host(HOST, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    let long = format!("code 481516 {}", "\u{fc}ber = alles ".repeat(200));
    let fields =
        format!("From: otp@app.test\r\nSubject: {}\r\nContent-Type: text/plain; charset=utf-8\r\n", "w ".repeat(700));
    assert!(app.submit(&["alice@example.test"], &format!("{fields}\r\n{long}")).await.starts_with("250"));
    let accepted = events.next(Kind::Accepted).await;
    assert_eq!(accepted.note(), Some("lines of more than 998 bytes were encoded"));
    events.next(Kind::Delivered).await;
    let signed = "From: otp@app.test\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n";
    let reply = app.submit(&["alice@example.test"], &format!("{signed}{}\r\n--b--", "x".repeat(999))).await;
    assert_eq!(reply, "554 5.6.0 line 6 has more than 998 bytes, in a part that is signed or encrypted");
    let short = format!("From: otp@app.test\r\n\r\n{}", "x".repeat(998));
    assert!(app.submit(&["alice@example.test"], &short).await.starts_with("250"));
    assert_eq!(events.next(Kind::Accepted).await.note(), None);
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
    let received = mx.received();
    let (encoded, untouched) = (text_of(&received[0].content), text_of(&received[1].content));
    assert!(encoded.is_ascii() && encoded.lines().all(|line| line.len() <= 998), "{encoded}");
    let parsed = MessageParser::default().parse(&encoded).unwrap();
    assert_eq!(parsed.body_text(0).unwrap().trim_end(), long.trim_end());
    assert_eq!(parsed.subject().unwrap().split_whitespace().count(), 700);
    assert!(untouched.ends_with(&format!("{short}\r\n")) && !untouched.contains("quoted-printable"));
    assert!(!received[0].mail.contains("8BITMIME"), "{}", received[0].mail);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_are_refused_where_that_is_configured() {
    let (_folder, _mx, relay, _events) = start_with_host(HOST, "[submission]\nlong_lines = \"refuse\"\n").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    let reply = app.submit(&["alice@example.test"], &format!("{}\r\n{}", mail("one"), "x".repeat(999))).await;
    assert_eq!(reply, "554 5.6.0 line 6 has more than 998 bytes, and submission.long_lines is \"refuse\"");
    assert!(app.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
    relay.shut_down().await;
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// The status of a request with this body; the connection goes with it.
async fn post(shop: &Http, coding: &str, body: &[u8]) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(shop.address).await.unwrap();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{coding}Content-Length: {}\r\n\r\n",
        shop.token,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_body_is_no_bomb() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(HOST).await;
    let hash = token_hash("token of shop");
    let user = format!("[[user]]\nname = \"shop\"\ntoken_hash = \"{hash}\"\nsenders = [\"*@app.test\"]\n");
    let (relay, mut events) =
        start_relay(folder.path(), mx.address, &format!("{user}[submission]\nmessage_size_max = \"64KiB\"\n"));
    let shop = Http { address: relay.http_address().unwrap(), token: "token of shop".to_owned() };
    let good = json!({"from": "otp@app.test", "to": "alice@example.test", "otp": {"code": "481516"}}).to_string();
    let bomb = packed(&[good.as_bytes(), &vec![b' '; 32 << 20]].concat());
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    let gzip = "Content-Encoding: gzip\r\n";
    for (coding, body, expected) in [
        (gzip, bomb, 413),
        (gzip, good.clone().into_bytes(), 422),
        (gzip, packed(good.as_bytes())[..20].to_vec(), 422),
        ("Content-Encoding: br\r\n", good.clone().into_bytes(), 415),
        ("Content-Encoding: deflate\r\n", good.clone().into_bytes(), 415),
        ("Content-Encoding: gzip, gzip\r\n", packed(&packed(good.as_bytes())), 415),
        ("Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n", packed(&packed(good.as_bytes())), 415),
    ] {
        let (status, answer) = post(&shop, coding, &body).await;
        assert_eq!(status, expected, "{coding}: {answer}");
        assert_eq!(answer.to_lowercase().contains("accept-encoding: gzip\r\n"), status == 415, "{answer}");
        assert!(!answer.contains("481516"));
    }
    let marked = [b"\xef\xbb\xbf", good.as_bytes()].concat();
    for (coding, body) in [
        ("", good.clone().into_bytes()),
        ("", marked.clone()),
        (gzip, packed(good.as_bytes())),
        (gzip, packed(&marked)),
        ("Content-Encoding: identity\r\n", good.clone().into_bytes()),
    ] {
        let (status, answer) = post(&shop, coding, &body).await;
        assert_eq!(status, 202, "{coding}: {answer}");
        events.next(Kind::Delivered).await;
    }
    relay.shut_down().await;
}

/// The second attempt, after a restart and under another configuration, carries the same octets, and says so long after the
/// end of the life that nobody can send it again.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(HOST).await;
    let pem = otp_relay::testing::dkim::record::generate_ed25519().unwrap();
    std::fs::write(folder.path().join("key"), &pem).unwrap();
    let key = "[[dkim]]\ndomain = \"app.test\"\nselector = \"s\"\nprivate_key = \"key\"\n";
    let (relay, mut events) = start_relay(folder.path(), mx.address, key);
    // The first is taken, the answer lost: it goes again.
    mx.trick("content", Trick::Close, 1);
    let mut app = Client::connect(relay.addresses()[0]).await;
    assert!(app.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
    let deferred = events.next(Kind::Deferred).await;
    let ends = deferred.head.expires_at.as_secs() + 86_400;
    relay.shut_down().await;
    let carried = format!("{key}[[smart_host]]\naddress = \"127.0.0.1:{}\"\ntls = \"none\"\n", mx.address.port());
    let clock = manual_clock();
    let (relay, mut events) = start_relay_by(clock.clone(), folder.path(), mx.address, &carried);
    pass(&relay, &clock, Duration::from_secs(60));
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
    let received = mx.received();
    assert_eq!(received.len(), 2);
    assert_eq!(text_of(&received[0].content), text_of(&received[1].content));
    let signature = text_of(&received[0].content).replace("\r\n\t", "");
    let signature = signature.lines().find(|line| line.starts_with("DKIM-Signature")).unwrap().replace(' ', "");
    assert!(signature.contains(&format!(";x={ends};")), "{signature}");
    assert!(signature.contains(":Auto-Submitted") && signature.contains(":Sender"), "{signature}");
}
