//! Open relay in every spelling, other people's addresses, and other people's passwords.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use otp_relay::testing::event::Kind;
use otp_relay::testing::relay::Relay;
use otp_relay::testing::smtp::sasl::ScramVerifier;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::FakeMx;
use crate::support::{Events, start_relay};

const HOST: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8"];

struct Bench {
    relay: Relay,
    events: Events,
    mx: FakeMx,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// With a listener where everybody has to log in; the password is `secret`.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(HOST).await;
        let hash = ScramVerifier::derive("secret", b"saltsaltsaltsalt", NonZeroU32::new(1000).unwrap()).to_text();
        let more = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[user]]\nname = \"shop\"\npassword_hash = \"{hash}\"\nsenders = [\"*@app.test\"]\n\
             [otp]\nrecipient_budget = \"off\"\n[submission]\nrouted_addresses = true\n"
        );
        let (relay, events) = start_relay(folder.path(), mx.address, &more);
        let address = relay.addresses()[1];
        Self { relay, events, mx, address, _folder: folder }
    }
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", BASE64.encode(format!("\0{user}\0{password}")))
}

/// Recipients that some server or other once passed on for anybody.
const RELAY_SPELLINGS: &[&str] = &[
    "<victim@example.test>",
    "<victim@[127.0.0.1]>",
    "<victim%example.test@relay.test>",
    "<victim%example.test@[127.0.0.1]>",
    "<victim%example.test>",
    "<example.test!victim>",
    "<example.test!victim@relay.test>",
    "<relay.test!example.test!victim>",
    "<@relay.test:victim@example.test>",
    "<@relay.test,@example.test:victim@example.test>",
    "<@[127.0.0.1]:victim@example.test>",
    "<\"victim@example.test\">",
    "<\"victim@example.test\"@relay.test>",
    "<\"victim%example.test\"@relay.test>",
    "<victim@example.test@relay.test>",
    "<victim@relay.test>",
    "<postmaster>",
    "<>",
    "victim@example.test",
    "<victim>",
    " <victim@example.test>",
    "<victim@example.test> NOTIFY=NEVER",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_relayed_for_unknown_clients() {
    let bench = Bench::new().await;
    for greeting in ["EHLO relay.test", "EHLO localhost", "EHLO [127.0.0.1]", "HELO app.test", "NOOP"] {
        for sender in
            ["<otp@app.test>", "<>", "<postmaster@relay.test>", "<@relay.test:otp@app.test>", "<otp@app.test> AUTH=<>"]
        {
            let mut client = Client::connect_only("127.0.0.1", bench.address).await;
            client.hear().await;
            client.say(greeting).await;
            let reply = client.say(&format!("MAIL FROM:{sender}")).await;
            assert!(reply.starts_with("530 5.7.0") || greeting == "NOOP" && reply.starts_with("503 5.5.1"), "{reply}");
        }
    }
    for recipients in RELAY_SPELLINGS.chunks(10) {
        let mut client = Client::connect(bench.address).await;
        for recipient in recipients {
            let reply = client.say(&format!("RCPT TO:{recipient}")).await;
            assert!(reply.starts_with('5'), "{recipient}: {reply}");
        }
        assert!(client.say("DATA").await.starts_with("503"));
    }
    // All at once, as if everything would be answered with yes.
    let mut client = Client::connect(bench.address).await;
    let all =
        format!("MAIL FROM:<otp@app.test>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n{}\r\n.\r\nQUIT\r\n", mail("one"));
    client.send(all.as_bytes()).await;
    loop {
        let reply = client.hear().await;
        if reply.is_empty() {
            break;
        }
        assert!(reply.starts_with(['5', '2']) && !reply.starts_with("250") || reply.starts_with("421"), "{reply}");
    }
    bench.relay.shut_down().await;
    assert!(bench.mx.received().is_empty());
}

/// Users may send anywhere, also, where that is configured, to local parts that route; where it goes is what stands
/// behind the last `@`, and no other host reads the rest.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_leads_elsewhere() {
    let mut bench = Bench::new().await;
    let mut app = Client::connect(bench.address).await;
    assert!(app.say(&plain("shop", "secret")).await.starts_with("235"));
    for (path, at_host) in [
        ("<@gone.test,@null.test:a@example.test>", "<a@example.test>"),
        ("<a%gone.test@example.test>", "<a%gone.test@example.test>"),
        ("<gone.test!a@example.test>", "<gone.test!a@example.test>"),
        ("<\"a@gone.test\"@example.test>", "<\"a@gone.test\"@example.test>"),
    ] {
        let before = bench.mx.received().len();
        assert!(app.say("MAIL FROM:<otp@app.test>").await.starts_with("250"));
        assert!(app.say(&format!("RCPT TO:{path}")).await.starts_with("250"), "{path}");
        app.say("DATA").await;
        assert!(app.say(&format!("{}\r\n.", mail("one"))).await.starts_with("250"));
        bench.events.next(Kind::Delivered).await;
        let rcpt = bench.mx.received()[before].rcpt.clone();
        assert!(rcpt.starts_with(&format!("RCPT TO:{at_host}")), "{path}: {rcpt}");
    }
    app.say("MAIL FROM:<otp@app.test>").await;
    for path in [
        "<a@[127.0.0.1]>",
        "<a@[IPv6:::1]>",
        "<a@b@example.test>",
        "<a@example.test\\>",
        "<a@127.0.0.1>",
        "<a>",
        "<@gone.test:a>",
    ] {
        let reply = app.say(&format!("RCPT TO:{path}")).await;
        assert!(reply.starts_with('5'), "{path}: {reply}");
    }
    bench.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_makes_another_author() {
    let bench = Bench::new().await;
    let mut app = Client::connect(bench.address).await;
    assert!(app.say(&plain("shop", "secret")).await.starts_with("235"));
    for path in [
        "<ceo@bank.test>",
        "<\"otp@app.test\"@bank.test>",
        "<@app.test:ceo@bank.test>",
        "<ceo@app.test.bank.test>",
        "<ceo@bank.test#@app.test.bank.test>",
        "<ceo@xapp.test>",
        "<ceo@sub.app.test>",
    ] {
        let reply = app.say(&format!("MAIL FROM:{path}")).await;
        assert!(reply.starts_with("550 5.7.1") || reply.starts_with("501 5.1.7"), "{path}: {reply}");
    }
    for from in [
        "From: ceo@bank.test",
        "From: otp@app.test, ceo@bank.test",
        "From: otp@app.test\r\nFrom: ceo@bank.test",
        "From: otp@app.test\r\nfrom : ceo@bank.test",
        "From: <@app.test:ceo@bank.test>",
        "From: ceo@bank.test (otp@app.test)",
        "From: \"otp@app.test\" <ceo@bank.test>",
        "From: \"<otp@app.test>\" <ceo@bank.test>",
        "From:\r\n ceo@bank.test",
        "From: Group: otp@app.test, ceo@bank.test;",
        "From: otp@app.test <ceo@bank.test>",
        "From: =?utf-8?q?otp=40app=2Etest?= <ceo@bank.test>",
        "From: <otp@app.test><ceo@bank.test>",
        "From: <ceo@bank.test><otp@app.test>",
        "From: ceo@bank.test otp@app.test",
        "From: otp@app.test;ceo@bank.test",
        "From: ,",
    ] {
        let mut app = Client::connect(bench.relay.addresses()[0]).await;
        let reply = app.submit(&["alice@example.test"], &format!("{from}\r\nSubject: x\r\n\r\nx")).await;
        assert!(reply.starts_with('5'), "{}: {reply}", from.escape_debug());
    }
    bench.relay.shut_down().await;
    assert!(bench.mx.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_who_exists() {
    let bench = Bench::new().await;
    let mut replies = Vec::new();
    // From different addresses, so that none has to wait for the other's failures.
    for (from, user, password) in [
        ("127.0.0.11", "shop", "wrong"),
        ("127.0.0.12", "nobody", "secret"),
        ("127.0.0.13", "trusted", ""),
        ("127.0.0.14", "shop\n", "secret"),
    ] {
        let mut client = Client::connect_only(from, bench.address).await;
        client.greet().await;
        replies.push(client.say(&plain(user, password)).await);
        let first = BASE64.encode(format!("n,,n={user},r=rOprNGfwEbeRWgbNEkqO"));
        let challenge = client.say(&format!("AUTH SCRAM-SHA-256 {first}")).await;
        if !user.contains('\n') {
            let challenge =
                BASE64.decode(challenge.trim_start_matches("334 ")).unwrap_or_else(|_| panic!("{challenge}"));
            let challenge = String::from_utf8(challenge).unwrap();
            let shape = challenge.split(',').map(|part| (part[..2].to_owned(), part.len())).collect::<Vec<_>>();
            replies.push(format!("{shape:?} {}", challenge.rsplit(',').next().unwrap()));
        }
        client.say("*").await;
    }
    let shapes: Vec<&String> = replies.iter().filter(|reply| reply.starts_with('[')).collect();
    assert!(shapes.len() == 3 && shapes.iter().all(|shape| *shape == shapes[0]), "{shapes:?}");
    let words: Vec<&String> = replies.iter().filter(|reply| !reply.starts_with('[')).collect();
    assert!(words[..3].iter().all(|reply| *reply == "535 5.7.8 authentication credentials invalid"), "{words:?}");
    for line in ["VRFY shop", "VRFY nobody", "EXPN shop", "VRFY <alice@example.test>"] {
        let mut client = Client::connect(bench.address).await;
        assert_eq!(client.say(line).await, "252 2.5.0 send some mail, I will try my best");
    }
    bench.relay.shut_down().await;
}

/// A guess by SCRAM; the reply is not waited for.
async fn guess_by_scram(client: &mut Client, user: &str) {
    let first = BASE64.encode(format!("n,,n={user},r=rOprNGfwEbeRWgbNEkqO"));
    let challenge = client.say(&format!("AUTH SCRAM-SHA-256 {first}")).await;
    let challenge = String::from_utf8(BASE64.decode(challenge.trim_start_matches("334 ")).unwrap()).unwrap();
    let nonce = challenge.split(',').next().unwrap();
    let proof = BASE64.encode([7; 32]);
    client.send(format!("{}\r\n", BASE64.encode(format!("c=biws,{nonce},p={proof}"))).as_bytes()).await;
}

/// Each wrong proof waits longer than the one before; whoever knows the password, from the same address and by any
/// mechanism, waits for none of them. Before, a wrong proof was answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_by_scram_wait_and_the_owner_does_not() {
    let bench = Bench::new().await;
    let mut guesser = Client::connect(bench.address).await;
    for _ in 0..3 {
        guess_by_scram(&mut guesser, "shop").await;
        assert_eq!(guesser.hear().await, "535 5.7.8 authentication credentials invalid");
    }
    guess_by_scram(&mut guesser, "shop").await;
    let mut owner = Client::connect(bench.address).await;
    assert!(owner.say(&plain("shop", "secret")).await.starts_with("235"));
    assert!(owner.submit(&["alice@example.test"], &mail("one")).await.starts_with("250"));
    assert_eq!(guesser.hear().now_or_never(), None, "the guesser was answered before the owner was served");
    bench.relay.shut_down().await;
}
