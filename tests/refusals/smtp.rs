//! At submission: sessions, and connections that do not come to one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use otp_relay::testing::relay::Environment;
use otp_relay::testing::smtp::server_session::{Access, Event, Peer, Phase, ServerSession, SessionSettings, Step};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use crate::support::client::{Client, mail};
use crate::support::configured;
use crate::{Bench, FROM, IMPLICIT, LISTENERS, LOGIN, PROXIED, SECRET, TRUSTING, expect, plain};

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_an_smtp_session_leaves_a_line() {
    let bench = Bench::new("[otp]\nrecipient_budget = \"1/10m\"\n[submission]\nrecipients_max = 2\n").await;
    let put = bench.operator.ask("PUT", "/v1/suppressions/carol@example.test", "", "{\"source\":\"manual\"}").await;
    assert!(put.status < 300, "{put:?}");
    say_before_a_login(&bench).await;
    // What intake refuses.
    bench.says("127.0.0.20", TRUSTING, &["MAIL FROM:<ceo@bank.test>"]).await;
    bench.says("127.0.0.21", TRUSTING, &[FROM, "RCPT TO:<alice@gone.test>"]).await;
    bench.says("127.0.0.22", TRUSTING, &[FROM, "RCPT TO:<carol@example.test>"]).await;
    let once: &[&str] = &[FROM, "RCPT TO:<erin@example.test>", "DATA", &format!("{}\r\n.", mail("1"))];
    bench.says("127.0.0.23", TRUSTING, once).await;
    bench.says("127.0.0.23", TRUSTING, once).await;
    bench.says("127.0.0.24", TRUSTING, &[&format!("{FROM} SIZE=999999999")]).await;
    let rcpts = ["RCPT TO:<a1@example.test>", "RCPT TO:<a2@example.test>", "RCPT TO:<third@example.test>"];
    bench.says("127.0.0.25", TRUSTING, &[&[FROM], &rcpts[..]].concat()).await;
    let life = "From: otp@app.test\r\nX-OTP-Life: S3CRET\r\n\r\nx\r\n.";
    bench.says("127.0.0.26", TRUSTING, &[FROM, "RCPT TO:<frank@example.test>", "DATA", life]).await;
    let no_author = "Subject: S3CRET\r\n\r\nx\r\n.";
    bench.says("127.0.0.27", TRUSTING, &[FROM, rcpts[0], rcpts[1], "DATA", no_author]).await;
    bench.says("127.0.0.28", TRUSTING, &["DATA", "RCPT TO:<gr\u{f6}\u{df}e@example.test>"]).await;
    bench.says("127.0.0.29", TRUSTING, &[FROM, "RCPT TO:<S3CRET>", "RCPT TO:<gr\u{f6}\u{df}e@example.test>"]).await;
    bench.says("127.0.0.31", TRUSTING, &[FROM, "RCPT TO:<a%S3CRET@example.test>"]).await;
    let long = format!(
        "From: otp@app.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n{}\r\n--x--\r\n.",
        SECRET.repeat(200)
    );
    bench.says("127.0.0.32", TRUSTING, &[FROM, rcpts[0], "DATA", &long]).await;
    // Who goes away, and who is one too many.
    let mut client = bench.client("127.0.0.30", TRUSTING).await;
    for line in [FROM, "RCPT TO:<dave@example.test>", "DATA"] {
        client.say(line).await;
    }
    client.send(b"From: otp@app.test\r\nSubject: S3CRET").await;
    drop(client);
    let metrics = bench.operator.get("/metrics").await.body;
    assert!(
        metrics.contains("otp_relay_refused_total{door=\"smtp\",stage=\"rcpt\",reason=\"suppressed\"} 1\n"),
        "{metrics}"
    );
    let lines = bench.end().await;
    expected_lines().iter().for_each(|expected| expect(&lines, expected));
    let whole = serde_json::to_string(&lines).unwrap();
    for address in ["alice@", "carol@", "erin@", "frank@", "third@"] {
        assert!(!whole.contains(address), "{address} in {whole}");
    }
    let of_budget = |line: &&Value| line["reason"] == "syntax" && line["peer"] == "127.0.0.16";
    assert_eq!(lines.iter().filter(of_budget).count(), 1, "one line for one peer and reason");
}

async fn say_before_a_login(bench: &Bench) {
    bench.says("127.0.0.10", LOGIN, &[FROM]).await;
    bench.says("127.0.0.11", LOGIN, &[&plain("shop", SECRET)]).await;
    bench.says("127.0.0.12", LOGIN, &[&plain(SECRET, SECRET)]).await;
    bench.says("127.0.0.13", LOGIN, &[&format!("{SECRET} {SECRET}")]).await;
    bench.says("127.0.0.14", LOGIN, &["AUTH CRAM-MD5", "AUTH PLAIN S3CRET!"]).await;
    bench.says("127.0.0.15", LOGIN, &[&format!("{FROM} SIZE=1 S3CRET=1"), "RCPT TO:<a@b.test>"]).await;
    bench.says("127.0.0.16", LOGIN, &[&"S3CRET\r\n".repeat(25)]).await;
    // A line that does not end in CRLF, as a command and in content.
    let mut client = bench.client("127.0.0.17", LOGIN).await;
    client.send(b"MAIL FROM:<S3CRET@app.test>\nRCPT TO:<x@example.test>\r\n").await;
    while !client.hear().await.is_empty() {}
    let mut client = bench.client("127.0.0.18", TRUSTING).await;
    for line in [FROM, "RCPT TO:<dave@example.test>", "DATA"] {
        client.say(line).await;
    }
    client.send(b"From: otp@app.test\r\n\r\nS3CRET\n.\r\n").await;
    while !client.hear().await.is_empty() {}
}

/// A line for each of them, by the peer.
fn expected_lines() -> Vec<Value> {
    let unknown = "unknown user";
    vec![
        json!({"peer": "127.0.0.10", "user": unknown, "stage": "mail", "code": 530, "enhanced": "5.7.0",
            "reason": "unauthenticated", "door": "smtp", "text": "authentication required"}),
        json!({"peer": "127.0.0.11", "user": "shop", "stage": "auth", "code": 535, "reason": "credentials"}),
        json!({"peer": "127.0.0.12", "user": unknown, "stage": "auth", "code": 535, "reason": "credentials"}),
        json!({"peer": "127.0.0.13", "stage": "command", "code": 500, "reason": "syntax",
            "text": "command not recognized"}),
        json!({"peer": "127.0.0.14", "stage": "auth", "code": 504, "reason": "auth"}),
        json!({"peer": "127.0.0.15", "stage": "mail", "code": 555, "reason": "syntax"}),
        json!({"peer": "127.0.0.15", "stage": "rcpt", "code": 503, "reason": "sequence"}),
        json!({"peer": "127.0.0.16", "stage": "command", "code": 421, "reason": "errors"}),
        json!({"peer": "127.0.0.17", "stage": "mail", "code": 554, "reason": "line_ends"}),
        json!({"peer": "127.0.0.18", "user": "trusted", "stage": "content", "code": 554, "reason": "line_ends",
            "recipient": "d***e@example.test", "more_recipients": null}),
        json!({"peer": "127.0.0.20", "stage": "mail", "code": 550, "reason": "sender", "limit": "user.senders"}),
        json!({"peer": "127.0.0.21", "stage": "rcpt", "code": 550, "enhanced": "5.1.2", "reason": "domain",
            "recipient": "a***e@gone.test", "text": "no such domain"}),
        json!({"peer": "127.0.0.22", "stage": "rcpt", "code": 550, "reason": "suppressed",
            "recipient": "c***l@example.test"}),
        json!({"peer": "127.0.0.23", "stage": "content", "code": 450, "reason": "budget",
            "limit": "otp.recipient_budget", "recipient": "e***n@example.test"}),
        json!({"peer": "127.0.0.24", "stage": "mail", "code": 552, "reason": "size",
            "limit": "submission.message_size_max"}),
        json!({"peer": "127.0.0.25", "stage": "rcpt", "code": 452, "reason": "recipients",
            "limit": "submission.recipients_max", "recipient": "t***d@example.test"}),
        json!({"peer": "127.0.0.26", "stage": "content", "code": 501, "reason": "option",
            "recipient": "f***k@example.test"}),
        json!({"peer": "127.0.0.27", "stage": "content", "code": 554, "reason": "message",
            "recipient": "***@example.test", "more_recipients": 1}),
        json!({"peer": "127.0.0.28", "stage": "data", "code": 503, "reason": "sequence"}),
        json!({"peer": "127.0.0.29", "stage": "rcpt", "code": 501, "reason": "syntax"}),
        json!({"peer": "127.0.0.29", "stage": "rcpt", "code": 553, "reason": "smtputf8",
            "recipient": "g***e@example.test"}),
        json!({"peer": "127.0.0.31", "stage": "rcpt", "code": 501, "enhanced": "5.1.3", "reason": "routed",
            "limit": "submission.routed_addresses"}),
        json!({"peer": "127.0.0.32", "stage": "content", "code": 554, "reason": "long_line",
            "limit": "submission.long_lines"}),
        json!({"peer": "127.0.0.30", "user": "trusted", "stage": "content", "code": null, "reason": "closed",
            "recipient": "d***e@example.test"}),
    ]
}

/// Each of them is about a whole message: by DATA and by BDAT, with a reply and without.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_of_a_message_names_its_recipients() {
    let bench = Bench::new("[submission]\nmessage_size_max = \"64KiB\"\n").await;
    let message: &[&str] = &[FROM, "RCPT TO:<dave@example.test>", "RCPT TO:<erin@example.test>"];
    let after = async |peer: &str, lines: &[&str], octets: &[u8]| {
        let mut client = bench.client(peer, TRUSTING).await;
        for line in lines {
            client.say(line).await;
        }
        client.send(octets).await;
        client
    };
    let by_data = [message, &["DATA"]].concat();
    let large = [b"From: otp@app.test\r\n\r\n".as_slice(), &b"S3CRET\r\n".repeat(9000), b".\r\nQUIT\r\n"].concat();
    let told: &[(&str, &[&str], &[u8], Value)] = &[
        ("127.0.0.90", &by_data, b"a\0S3CRET", json!({"stage": "content", "reason": "line_ends", "code": 554})),
        (
            "127.0.0.91",
            message,
            b"BDAT 7 LAST\r\nS3CRET\n",
            json!({"stage": "bdat", "reason": "line_ends", "code": 554}),
        ),
        ("127.0.0.92", &by_data, &large, json!({"stage": "content", "reason": "size", "code": 552})),
        ("127.0.0.93", message, b"BDAT 999999999 LAST\r\n", json!({"stage": "bdat", "reason": "size", "code": 552})),
        ("127.0.0.94", message, b"S3CRET\r\nQUIT\r\n", json!({"stage": "command", "reason": "syntax", "code": 500})),
    ];
    for (peer, lines, octets, _) in told {
        let mut client = after(peer, lines, octets).await;
        while !client.hear().await.is_empty() {}
    }
    for (peer, lines) in [("127.0.0.95", &by_data[..]), ("127.0.0.96", message)] {
        drop(after(peer, lines, b"").await);
    }
    // A recipient that is refused is told by itself, and what has no name is not called by another's.
    bench.says("127.0.0.97", TRUSTING, &[message, &["RCPT TO:<alice@gone.test>"]].concat()).await;
    bench.says("127.0.0.98", TRUSTING, &[message, &["RCPT TO:<S3CRET>"]].concat()).await;
    bench.says("127.0.0.99", TRUSTING, &[message, &["RSET", "DATA"]].concat()).await;
    let lines = bench.end().await;
    let is = |peer: &str, recipient: Value, more: Value, mut rest: Value| {
        rest["peer"] = peer.into();
        (rest["recipient"], rest["more_recipients"]) = (recipient, more);
        expect(&lines, &rest);
    };
    let dave = || json!("d***e@example.test");
    for (peer, _, _, rest) in told {
        is(peer, dave(), json!(1), rest.clone());
    }
    is("127.0.0.95", dave(), json!(1), json!({"stage": "content", "reason": "closed", "code": null}));
    is("127.0.0.96", dave(), json!(1), json!({"stage": "rcpt", "reason": "closed", "code": null}));
    is("127.0.0.97", json!("a***e@gone.test"), Value::Null, json!({"stage": "rcpt", "reason": "domain"}));
    is("127.0.0.98", Value::Null, Value::Null, json!({"stage": "rcpt", "reason": "syntax"}));
    is("127.0.0.99", Value::Null, Value::Null, json!({"stage": "data", "reason": "sequence"}));
}

/// The same connection, where the handshake begins.
async fn starttls(mut stream: TcpStream) -> TcpStream {
    stream.write_all(b"EHLO x\r\n").await.unwrap();
    let mut heard = Vec::new();
    for (end, next) in [(&b"RCPTMAX="[..], &b"STARTTLS\r\n"[..]), (b"ready", b"")] {
        while !heard.windows(end.len()).any(|window| window == end) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
        }
        stream.write_all(next).await.unwrap();
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_to_nothing_leave_a_line() {
    let bench = Bench::new("[submission]\nconnections_per_address_max = 3\n").await;
    // Handshakes, with STARTTLS and without.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let distrusting = TlsConnector::from(Arc::new(config));
    let name = || ServerName::try_from("relay.test").unwrap();
    let stream = bench.connect("127.0.0.40", IMPLICIT).await;
    assert!(distrusting.connect(name(), stream).await.is_err());
    let stream = starttls(bench.connect("127.0.0.41", LOGIN).await).await;
    assert!(distrusting.connect(name(), stream).await.is_err());
    // Some look at the certificate when the handshake is over, and leave.
    let stream = starttls(bench.connect("127.0.0.46", LOGIN).await).await;
    let mut stream = otp_relay::testing::tls::opportunistic_connector().unwrap().connect(name(), stream).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let hello = [&[1, 0, 0, 41, 3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
    let old = [&[22, 3, 1, 0, u8::try_from(hello.len()).unwrap()], &hello[..]].concat();
    for (from, octets) in [("127.0.0.42", &old[..]), ("127.0.0.43", b"EHLO S3CRET\r\n"), ("127.0.0.44", b"")] {
        let mut stream = bench.connect(from, IMPLICIT).await;
        stream.write_all(octets).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    // A proxy that says nothing of whom it speaks for, and one client too many.
    let mut stream = bench.connect("127.0.1.1", PROXIED).await;
    stream.write_all(b"EHLO S3CRET\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(bench.client("127.0.0.45", LOGIN).await);
    }
    let mut stream = bench.connect("127.0.0.45", LOGIN).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drop(clients);
    let lines = bench.end().await;
    let untrusted = "the client does not trust the certificate (unknown CA)";
    for expected in [
        json!({"peer": "127.0.0.40", "stage": "tls", "code": null, "reason": "tls_untrusted", "text": untrusted}),
        json!({"peer": "127.0.0.41", "stage": "tls", "reason": "tls_untrusted", "text": untrusted}),
        json!({"peer": "127.0.0.46", "stage": "tls", "reason": "tls_untrusted",
            "text": "the client closed when it saw the certificate, as clients do that do not trust it"}),
        json!({"peer": "127.0.0.42", "reason": "tls_version", "text": "the client speaks TLS 1.0 only"}),
        json!({"peer": "127.0.0.43", "reason": "tls_plain_text", "text": "plain text where TLS was expected"}),
        json!({"peer": "127.0.0.44", "reason": "tls_closed", "text": "closed during the handshake"}),
        json!({"peer": "127.0.1.1", "stage": "proxy_header", "reason": "proxy_header", "text": "no PROXY header"}),
        json!({"peer": "127.0.0.45", "stage": "connect", "code": 421, "reason": "connections_of_address",
            "limit": "submission.connections_per_address_max"}),
    ] {
        expect(&lines, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_and_ended_logins_have_reasons_of_their_own() {
    let bench = Bench::new("[submission]\nconnections_max = 4\n").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = bench.client("127.0.0.60", LOGIN).await;
        assert!(client.say(&plain("shop", "secret")).await.starts_with("235"));
        clients.push(client);
    }
    bench.says("127.0.0.61", LOGIN, &[&plain("shop", "secret")]).await;
    // The same configuration without the users.
    let text = format!("{LISTENERS}[log]\nformat = \"json\"\n");
    bench.relay.reload(configured(bench.folder.path(), bench.mx.address, &text, "")).unwrap();
    assert!(clients[0].say(FROM).await.starts_with("421 4.7.0"));
    drop(clients);
    let lines = bench.end().await;
    let peer = |last: u8| format!("127.0.0.{last}");
    expect(&lines, &json!({"peer": peer(61), "user": "shop", "stage": "auth", "code": 421, "reason": "share"}));
    expect(&lines, &json!({"peer": peer(60), "user": "shop", "stage": "mail", "code": 421, "reason": "login_ended"}));
}

/// Whoever comes from a trusted network has a name, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_trusted_networks_is_told_as_theirs() {
    let bench = Bench::new("[submission]\nconnections_max = 4\n").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(bench.client("127.0.0.62", TRUSTING).await);
    }
    let mut stream = bench.connect("127.0.0.63", TRUSTING).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drop(clients);
    let expected = json!({"peer": "127.0.0.63", "user": "trusted", "stage": "connect", "code": 421, "reason": "share"});
    expect(&bench.end().await, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_intake_refuses_leaves_a_line() {
    let more = "[otp]\nrecipient_budget = \"3/10m\"\nrecipient_budget_total = \"3/10m\"\n[submission]\nrouted_addresses = true\n";
    let bench = Bench::on(Environment::default(), more, "only_to = [\"*.test\"]\n").await;
    let rcpt = |address: &str| format!("RCPT TO:<{address}>");
    bench.says("127.0.0.70", TRUSTING, &[FROM, &rcpt("alice@elsewhere.example")]).await;
    bench.says("127.0.0.71", TRUSTING, &[FROM, &rcpt("alice@null.test")]).await;
    bench.says("127.0.0.72", TRUSTING, &[FROM, &rcpt("alice@[127.0.0.1]")]).await;
    bench.says("127.0.0.73", TRUSTING, &[FROM, &rcpt("postmaster")]).await;
    let once = |to: &str, content: &str| [FROM.to_owned(), rcpt(to), "DATA".to_owned(), format!("{content}\r\n.")];
    let says = async |from: &str, listener, lines: &[String]| {
        bench.says(from, listener, &lines.iter().map(String::as_str).collect::<Vec<_>>()).await;
    };
    let round = format!("{}{}", "Received: from S3CRET\r\n".repeat(200), mail("round"));
    says("127.0.0.74", TRUSTING, &once("bob@example.test", &round)).await;
    let login = [plain("slow", "secret")];
    says(
        "127.0.0.75",
        LOGIN,
        &[&login[..], &once("eve@example.test", &mail("1")), &once("eve@example.test", &mail("2"))].concat(),
    )
    .await;
    // One user sends what all may, of another the first two pass.
    let one = once("bob@example.test", &mail("x"));
    let thrice = [&one[..]; 3].concat();
    says("127.0.0.81", TRUSTING, &thrice).await;
    says("127.0.0.76", LOGIN, &[&[plain("bank", "secret")][..], &thrice].concat()).await;
    bench.says("127.0.0.77", TRUSTING, &[FROM, "DATA"]).await;
    let mut client = Client::connect_only("127.0.0.78", bench.addresses[TRUSTING]).await;
    client.hear().await;
    assert!(client.say(FROM).await.starts_with("503"));
    drop(client);
    bench.says("127.0.0.79", TRUSTING, &[FROM, &rcpt("a@example.test"), "BDAT 9999999999 LAST"]).await;
    bench.says("127.0.0.80", LOGIN, &["AUTH LOGIN", "*"]).await;
    let lines = bench.end().await;
    for expected in [
        json!({"peer": "127.0.0.70", "stage": "rcpt", "code": 550, "reason": "only_to", "limit": "delivery.only_to"}),
        json!({"peer": "127.0.0.71", "stage": "rcpt", "code": 556, "reason": "domain"}),
        json!({"peer": "127.0.0.72", "stage": "rcpt", "reason": "recipient"}),
        json!({"peer": "127.0.0.73", "stage": "rcpt", "code": 550, "reason": "recipient"}),
        json!({"peer": "127.0.0.74", "stage": "content", "code": 554, "reason": "loop"}),
        json!({"peer": "127.0.0.75", "user": "slow", "stage": "rcpt", "code": 452, "reason": "rate", "limit": "user.rate"}),
        json!({"peer": "127.0.0.76", "user": "bank", "code": 450, "reason": "total_budget", "limit": "otp.recipient_budget_total"}),
        json!({"peer": "127.0.0.77", "stage": "data", "code": 554, "reason": "sequence"}),
        json!({"peer": "127.0.0.78", "stage": "mail", "code": 503, "reason": "sequence"}),
        json!({"peer": "127.0.0.79", "stage": "bdat", "code": 552, "reason": "size"}),
        json!({"peer": "127.0.0.80", "stage": "auth", "code": 501, "reason": "auth"}),
    ] {
        expect(&lines, &expected);
    }
}

/// Simulated time: a client that falls silent is told so, and where it was.
#[test]
fn a_timeout_says_in_the_middle_of_what() {
    let settings = Arc::new(SessionSettings {
        hostname: "relay.test".to_owned(),
        message_size_max: 1000,
        recipients_max: 10,
        starttls: false,
        deliver_by: (Duration::from_secs(5), Duration::from_secs(60)),
        command_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(300),
    });
    let now = start();
    let whole = |lines: &str| {
        let peer = Peer { access: Access::Trusted, encrypted: false, loopback: true };
        let mut session = ServerSession::new(settings.clone(), peer, now);
        let mut step = session.handle(Event::Received(lines.as_bytes()), now);
        while let Step::CheckSender(_) | Step::CheckRecipient(_) = step {
            step = session.handle(Event::Checked(Ok(())), now);
        }
        let step = session.handle(Event::Timeout, session.deadline().0);
        assert!(matches!(step, Step::Close));
        let refused = session.take_refused();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].reply.code, 421);
        let recipient = refused[0].recipient.as_ref().map(ToString::to_string);
        (refused[0].phase, recipient, refused[0].more_recipients)
    };
    let phase = |lines: &str| {
        let (phase, recipient, more) = whole(lines);
        let is_named = lines.contains("RCPT");
        assert_eq!((recipient.as_deref(), more), (is_named.then_some("c@d.test"), 0), "{lines}");
        phase
    };
    assert_eq!(phase(""), Phase::Command);
    assert_eq!(phase("EHLO x\r\n"), Phase::Command);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\n"), Phase::Mail);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"), Phase::Rcpt);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nFrom"), Phase::Content);
    assert_eq!(phase("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 99\r\nFrom"), Phase::Bdat);
    let (_, recipient, more) = whole("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@f.test>\r\n");
    assert_eq!((recipient.as_deref(), more), (Some("c@d.test"), 1));
}

fn start() -> Instant {
    use otp_relay::testing::base::clock::{Clock as _, SystemClock};
    SystemClock::default().instant()
}
