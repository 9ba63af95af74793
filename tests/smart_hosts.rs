//! Smart hosts over real sockets: when they take over, in which order, and that no password goes astray.

#![allow(clippy::wildcard_enum_match_arm, reason = "a check names the events it is about")]

use std::fs;
use std::path::Path;

use crate::support::client::Client;
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::http::Http;
use crate::support::{Events, copy_folder, start_relay, start_relay_with, start_with_host};
use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::ledger::entry::State;
use otp_relay::testing::queue::inspect::Filter;
use otp_relay::testing::relay::Relay;
use otp_relay::testing::tls;
use tokio_rustls::TlsAcceptor;

const PIPELINING: &[&str] = &["PIPELINING"];
const AUTH: &[&str] = &["PIPELINING", "AUTH PLAIN"];
/// Far beyond the life of every message here.
const TEN_MINUTES: Trick = Trick::Say("451 4.7.1 Greylisted, try again in 600 seconds");
const BLOCKED: Trick = Trick::Say("550 5.7.1 your IP address is blocked due to poor reputation");

/// A smart host in the configuration, without TLS.
fn plain(host: &FakeMx, when: &str) -> String {
    format!("[[smart_host]]\naddress = \"{}\"\ntls = \"none\"\nwhen = \"{when}\"\n", host.address)
}

fn mail(life_s: u32) -> String {
    format!("From: otp@app.test\r\nX-OTP-Life: {life_s}\r\nSubject: one\r\n\r\ncode")
}

async fn submit(relay: &Relay, recipient: &str, life_s: u32) {
    let reply = Client::connect(relay.addresses()[0]).await.submit(&[recipient], &mail(life_s)).await;
    assert!(reply.starts_with("250"), "{reply}");
}

/// The events of one entry up to its end.
async fn story(events: &mut Events) -> Vec<Event> {
    let mut story = Vec::new();
    loop {
        let event = events.any().await;
        let is_end = event.kind().is_end();
        story.push(event);
        if is_end {
            return story;
        }
    }
}

/// Attempts one after the other: whatever begins ends before the next begins.
fn assert_one_at_a_time(story: &[Event]) {
    let mut is_running = false;
    for event in story {
        match event.kind() {
            Kind::Attempted => assert!(!std::mem::replace(&mut is_running, true), "two at once: {story:#?}"),
            Kind::Deferred | Kind::Greylisted | Kind::Delivered | Kind::Failed => is_running = false,
            _ => {}
        }
    }
}

fn note(event: &Event) -> &str {
    event.note().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smart_host_takes_over_while_there_is_time_and_then_mail_goes_straight_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    mx.trick("RCPT", TEN_MINUTES, 1);
    let (relay, mut events) = start_relay(folder.path(), mx.address, &plain(&smart, "deadline"));
    submit(&relay, "alice@example.test", 60).await;
    let story_of_one = story(&mut events).await;
    assert_one_at_a_time(&story_of_one);
    let greylisted = story_of_one.iter().find(|event| event.kind() == Kind::Greylisted).unwrap();
    let expected = format!("next via the smart host {}: direct delivery cannot make it in time", smart.address);
    assert_eq!(note(greylisted), expected);
    assert!(story_of_one.iter().any(|event| event.kind() == Kind::AtRisk));
    let delivered = story_of_one.last().unwrap();
    assert_eq!((delivered.kind(), delivered.head.attempt), (Kind::Delivered, 2));
    assert!(delivered.head.time < delivered.head.expires_at);
    assert_eq!(delivered.destination(), Some("127.0.0.1"));
    let expected = format!("in clear text; smart host {}: direct delivery cannot make it in time", smart.address);
    assert_eq!(note(delivered), expected);
    assert_eq!((mx.received().len(), smart.received().len()), (0, 1));
    // What the smart host did was not learned about the destination.
    let facts = relay.queue().greylists().facts("example.test", "mx.test", delivered.head.time).unwrap();
    assert_eq!((facts.bounds().1, facts.contacts()), (None, (1, 1)));
    submit(&relay, "bob@example.test", 60).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (1, Some("mx.test")));
    assert_eq!((mx.received().len(), smart.received().len()), (1, 1));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_names_no_time_is_tried_until_it_gets_tight() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    mx.trick("RCPT", Trick::Say("450 4.2.0 Greylisted"), 9);
    let (relay, mut events) = start_relay(folder.path(), mx.address, &plain(&smart, "deadline"));
    submit(&relay, "alice@example.test", 5).await;
    let story = story(&mut events).await;
    assert_one_at_a_time(&story);
    let delivered = story.last().unwrap();
    assert_eq!((delivered.kind(), delivered.head.attempt), (Kind::Delivered, 3));
    assert_eq!((mx.received().len(), smart.received().len()), (0, 1));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_for_all_mail_is_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    let some = format!("{}domains = [\"*.example.test\"]\n", plain(&smart, "always"));
    let (relay, mut events) = start_relay(folder.path(), mx.address, &some);
    submit(&relay, "alice@sub.example.test", 60).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!(delivered.head.attempt, 1);
    assert_eq!(
        note(&delivered),
        format!("in clear text; smart host {}: it takes all mail for this domain", smart.address)
    );
    assert_eq!((mx.connections(), smart.received().len()), (0, 1));
    submit(&relay, "alice@example.test", 60).await;
    assert_eq!(events.next(Kind::Delivered).await.destination(), Some("mx.test"));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_us_goes_by_another_sender_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    mx.trick("RCPT", BLOCKED, 1);
    mx.trick("RCPT", Trick::Say("550 5.1.1 no such user"), 1);
    let (relay, mut events) = start_relay(folder.path(), mx.address, &plain(&smart, "direct-failed"));
    submit(&relay, "alice@example.test", 600).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!(note(&delivered), format!("in clear text; smart host {}: another sender may do better", smart.address));
    // What is about the recipient does not.
    submit(&relay, "bob@example.test", 600).await;
    let failed = events.next_end().await;
    assert_eq!((failed.kind(), failed.cause(), failed.head.attempt), (Kind::Failed, Some(Cause::BadMailbox), 1));

    relay.shut_down().await;
}

/// A host that insists on TLS which does not work with us may take it from another sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_wants_tls_which_failed_is_reached_by_another_sender_at_once() {
    // No handshake behind the 220, and STARTTLS refused.
    for starttls in ["220 go ahead", "454 4.7.0 TLS not available"] {
        let folder = tempfile::tempdir().unwrap();
        let (mx, smart) = (FakeMx::start(&["STARTTLS"]).await, FakeMx::start(PIPELINING).await);
        mx.trick("STARTTLS", Trick::Say(starttls), 9);
        mx.trick("MAIL", Trick::Say("530 5.7.0 Must issue a STARTTLS command first"), 9);
        let more = plain(&smart, "direct-failed");
        let (relay, mut events) = start_relay(folder.path(), mx.address, &more);
        submit(&relay, "alice@example.test", 600).await;
        let deferred = events.next(Kind::Deferred).await;
        assert_eq!((deferred.cause(), deferred.destination()), (Some(Cause::TlsRequired), Some("mx.test")));
        assert!(deferred.reply().unwrap().contains("530"), "{deferred:?}");
        let expected = format!("next via the smart host {}: another sender may do better", smart.address);
        assert!(note(&deferred).ends_with(&expected), "{starttls}: {deferred:?}");
        let delivered = events.next_end().await;
        assert_eq!((delivered.kind(), delivered.head.attempt), (Kind::Delivered, 2));
        let expected = format!("in clear text; smart host {}: another sender may do better", smart.address);
        assert_eq!(note(&delivered), expected);
        assert_eq!((mx.received().len(), smart.received().len()), (0, 1));
        relay.shut_down().await;
    }
    // Where TLS is demanded there is no session in clear text that the host could refuse.
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(&["STARTTLS"]).await, FakeMx::start(PIPELINING).await);
    mx.trick("STARTTLS", Trick::Say("220 go ahead"), 9);
    let more = plain(&smart, "direct-failed");
    let (relay, mut events) = start_relay_with(folder.path(), mx.address, &more, "tls = \"verify\"");
    submit(&relay, "alice@example.test", 600).await;
    let deferred = events.next(Kind::Deferred).await;
    assert_eq!((deferred.cause(), note(&deferred)), (Some(Cause::TlsRequired), ""), "{deferred:?}");
    assert_eq!(smart.connections(), 0);
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_tried_in_order_and_then_the_direct_way() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let (first, second) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    first.trick("MAIL", Trick::Say("451 4.3.0 not now"), 2);
    second.trick("banner", Trick::Say("421 4.3.2 too busy"), 1);
    let both = plain(&first, "always") + &plain(&second, "always");
    let (relay, mut events) = start_relay(folder.path(), mx.address, &both);
    submit(&relay, "alice@example.test", 60).await;
    let story_of_one = story(&mut events).await;
    assert_one_at_a_time(&story_of_one);
    let notes: Vec<&str> = story_of_one.iter().filter(|event| event.kind() == Kind::Deferred).map(note).collect();
    let by_second = format!("next via the smart host {}: it takes all mail for this domain", second.address);
    assert_eq!(notes, [by_second.as_str(), "next directly to the destination"]);
    let delivered = story_of_one.last().unwrap();
    assert_eq!((delivered.head.attempt, delivered.destination()), (3, Some("mx.test")));
    assert_eq!((first.connections(), second.connections()), (1, 1));
    // The second is left alone for a moment; the first only refused one message.
    submit(&relay, "bob@example.test", 60).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (2, Some("mx.test")));
    assert_eq!(second.connections(), 1);
    let api = Http { address: relay.http_address().unwrap(), token: String::new() };
    let metrics = api.ask("GET", "/metrics", "", "").await.body;
    for (host, level) in [(&first, 0), (&second, 2)] {
        let line = format!("otp_relay_smart_host_breaker{{smart_host=\"{}\"}} {level}\n", host.address);
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    relay.shut_down().await;
}

/// A smart host `smtp.test` that wants to know who we are, with its certificate in `folder`.
async fn secured(folder: &Path, certificate_of: &str, extensions: &[&'static str]) -> FakeMx {
    let (certificate, key) = (folder.join("smart.pem"), folder.join("smart.key"));
    tls::self_signed::ensure(&certificate, &key, certificate_of, SystemClock::default().now()).unwrap();
    let acceptor: TlsAcceptor = tls::acceptor(&certificate, &key).unwrap();
    FakeMx::start_with(extensions, Some(acceptor)).await
}

fn with_login(folder: &Path, smart: &FakeMx, password: &str) -> String {
    fs::write(folder.join("password"), password).unwrap();
    let address = format!("smtp.test:{}", smart.address.port());
    format!(
        "[[smart_host]]\naddress = \"{address}\"\nusername = \"relay\"\npassword_file = \"password\"\nwhen = \"always\"\n"
    )
}

fn auth_lines(host: &FakeMx) -> usize {
    host.log().iter().filter(|line| line.starts_with("AUTH")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_logs_in_over_a_verified_session_and_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let smart = secured(folder.path(), "smtp.test", AUTH).await;
    let login = with_login(folder.path(), &smart, "secret\n");
    let (relay, mut events) = start_relay_with(folder.path(), mx.address, &login, "ca_file = \"smart.pem\"");
    for _ in 0..2 {
        submit(&relay, "alice@example.test", 60).await;
        let delivered = events.next(Kind::Delivered).await;
        assert_eq!((delivered.head.attempt, delivered.destination()), (1, Some("smtp.test")));
        let note = note(&delivered);
        assert!(note.starts_with("TLSv1.3 ") && note.contains(", verified by name; smart host"), "{note}");
    }
    assert_eq!((smart.received().len(), smart.connections(), auth_lines(&smart)), (2, 1, 1));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_no_fault_of_the_recipient() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let smart = secured(folder.path(), "smtp.test", AUTH).await;
    let login = with_login(folder.path(), &smart, "wrong\n");
    let (relay, mut events) = start_relay_with(folder.path(), mx.address, &login, "ca_file = \"smart.pem\"");
    submit(&relay, "alice@example.test", 60).await;
    let deferred = events.next(Kind::Deferred).await;
    assert_eq!((deferred.cause(), deferred.reply()), (Some(Cause::PolicyRejected), Some("535 5.7.8 who are you?")));
    assert!(deferred.steps().unwrap().iter().all(|step| !step.result.contains("d3Jvbmc")));
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (2, Some("mx.test")));
    // The next code does not try it again at once.
    submit(&relay, "bob@example.test", 60).await;
    assert_eq!(events.next(Kind::Delivered).await.head.attempt, 1);
    assert_eq!((auth_lines(&smart), mx.received().len()), (1, 2));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_never_sent_to_a_host_that_is_not_verified() {
    const KNOWN: &str = "ca_file = \"smart.pem\"";
    for (tls, certificate_of, ca_file, why) in [
        ("verify", "smtp.test", "", "TLS: "),
        ("verify", "another.test", KNOWN, "TLS: "),
        ("verify", "", "", "the host does not offer STARTTLS"),
        ("implicit", "smtp.test", "", "TLS: "),
        ("implicit", "another.test", KNOWN, "TLS: "),
        // It begins in clear text.
        ("implicit", "", "", "TLS: "),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(PIPELINING).await;
        let smart = match (tls, certificate_of) {
            (_, "") => FakeMx::start(AUTH).await,
            ("implicit", name) => implicit(folder.path(), name, AUTH).await,
            (_, name) => secured(folder.path(), name, AUTH).await,
        };
        let login = with_login(folder.path(), &smart, "secret\n") + &format!("tls = \"{tls}\"\n");
        let (relay, mut events) = start_relay_with(folder.path(), mx.address, &login, ca_file);
        submit(&relay, "alice@example.test", 60).await;
        let deferred = events.next(Kind::Deferred).await;
        let reply = deferred.reply().unwrap();
        assert!(reply.starts_with(why), "{reply}");
        assert_eq!(deferred.cause(), Some(Cause::TlsRequired));
        let delivered = events.next(Kind::Delivered).await;
        assert_eq!(delivered.destination(), Some("mx.test"));
        assert_eq!((auth_lines(&smart), smart.received().len(), smart.connections()), (0, 0, 1));
        relay.shut_down().await;
    }
}

/// A smart host `smtp.test` where TLS begins with the connection, with its certificate in `folder`.
async fn implicit(folder: &Path, certificate_of: &str, extensions: &[&'static str]) -> FakeMx {
    let (certificate, key) = (folder.join("smart.pem"), folder.join("smart.key"));
    tls::self_signed::ensure(&certificate, &key, certificate_of, SystemClock::default().now()).unwrap();
    FakeMx::start_implicit(extensions, tls::acceptor(&certificate, &key).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tls_begins_with_the_connection_it_logs_in_and_keeps_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let smart = implicit(folder.path(), "smtp.test", &["PIPELINING", "AUTH PLAIN", "REQUIRETLS"]).await;
    let login = with_login(folder.path(), &smart, "secret\n") + "tls = \"implicit\"\n";
    let (relay, mut events) = start_relay_with(folder.path(), mx.address, &login, "ca_file = \"smart.pem\"");
    submit(&relay, "alice@example.test", 60).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (1, Some("smtp.test")));
    let told = note(&delivered);
    assert!(told.starts_with("TLSv1.3 ") && told.contains(", verified by name; smart host"), "{told}");
    let steps = delivered.steps().unwrap();
    let stages: Vec<&str> = steps.iter().map(|step| step.stage.as_ref()).filter(|stage| *stage != "DNS").collect();
    assert_eq!(stages[..4], ["connect", "TLS", "banner", "EHLO"], "{steps:?}");
    let handshake = steps.iter().find(|step| step.stage.as_ref() == "TLS").unwrap();
    assert!(handshake.result.starts_with("TLSv1.3 "), "{handshake:?}");
    assert!(smart.log().iter().all(|line| !line.starts_with("STARTTLS")), "{:?}", smart.log());
    // The idle session is used again, also for what requires TLS.
    submit_requiring_tls(&relay).await;
    let delivered = events.next(Kind::Delivered).await;
    assert!(note(&delivered).contains("verified by name (REQUIRETLS)"), "{}", note(&delivered));
    assert_eq!((smart.received().len(), smart.connections(), auth_lines(&smart)), (2, 1, 1));
    assert!(smart.received()[1].mail.contains(" REQUIRETLS"));
    relay.shut_down().await;
}

async fn submit_requiring_tls(relay: &Relay) {
    let mut app = Client::connect_encrypted(relay.addresses()[0]).await;
    for command in ["MAIL FROM:<otp@app.test> REQUIRETLS", "RCPT TO:<alice@example.test>"] {
        assert!(app.say(command).await.starts_with("250"));
    }
    assert!(app.say("DATA").await.starts_with("354"));
    assert!(app.say(&format!("{}\r\n.", mail(60))).await.starts_with("250"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_requires_tls_goes_by_a_smart_host_that_is_known_and_passes_it_on() {
    const PASSES_ON: &[&str] = &["PIPELINING", "REQUIRETLS"];
    const KNOWN: &str = "ca_file = \"smart.pem\"";
    for (tls, ca_file, extensions, refusal) in [
        ("opportunistic", KNOWN, PASSES_ON, None),
        ("verify", KNOWN, PASSES_ON, None),
        ("opportunistic", KNOWN, PIPELINING, Some("the host does not offer REQUIRETLS")),
        ("opportunistic", "", PASSES_ON, Some("TLS: ")),
        ("none", KNOWN, PASSES_ON, Some("the host does not offer REQUIRETLS")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(PIPELINING).await;
        let smart = secured(folder.path(), "smtp.test", extensions).await;
        let port = smart.address.port();
        let more = format!("[[smart_host]]\naddress = \"smtp.test:{port}\"\ntls = \"{tls}\"\nwhen = \"always\"\n");
        let (relay, mut events) = start_relay_with(folder.path(), mx.address, &more, ca_file);
        submit_requiring_tls(&relay).await;
        let story = story(&mut events).await;
        assert_one_at_a_time(&story);
        let end = story.last().unwrap();
        if let Some(refusal) = refusal {
            let deferred = story.iter().find(|event| event.kind() == Kind::Deferred).unwrap();
            assert_eq!((deferred.cause(), deferred.destination()), (Some(Cause::TlsRequired), Some("smtp.test")));
            assert!(deferred.reply().as_ref().unwrap().starts_with(refusal), "{deferred:?}");
            // Nobody vouches for the name of the domain's own host either.
            assert_eq!((end.kind(), end.cause(), end.head.attempt), (Kind::Failed, Some(Cause::TlsRequired), 2));
            // What tells the sender of it may have arrived.
            assert!(smart.received().iter().all(|received| received.mail.starts_with("MAIL FROM:<>")));
        } else {
            assert_eq!((end.kind(), end.head.attempt), (Kind::Delivered, 1));
            assert!(note(end).contains("verified by name (REQUIRETLS); smart host"), "{}", note(end));
            assert!(smart.received()[0].mail.contains(" REQUIRETLS"));
        }
        // A message that asks for too much is nothing against the smart host.
        submit(&relay, "bob@example.test", 60).await;
        let delivered = events.next(Kind::Delivered).await;
        assert_eq!((delivered.head.attempt, delivered.destination()), (1, Some("smtp.test")));
        assert_eq!(mx.connections(), 0);
        relay.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    mx.trick("RCPT", BLOCKED, 1);
    smart.trick("RCPT", Trick::Say("451 4.3.0 not now"), 1);
    let more = plain(&smart, "direct-failed");
    let (relay, mut events) = start_relay(folder.path(), mx.address, &more);
    submit(&relay, "alice@example.test", 600).await;
    let first = events.next(Kind::Deferred).await;
    assert_eq!(first.destination(), Some("mx.test"));
    // Refused for good by the one, put off by the other: only the smart host is left.
    let second = events.next(Kind::Deferred).await;
    assert!(note(&second).starts_with("next via the smart host"), "{}", note(&second));
    relay.queue().flush().await.unwrap();
    let after_crash = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), after_crash.path());
    relay.shut_down().await;
    let (revived, mut events) = start_relay(after_crash.path(), mx.address, &more);
    assert_eq!(revived.queue().retry_now(&Filter::default(), second.head.time).len(), 1);
    let delivered = events.next_end().await;
    assert_eq!((delivered.kind(), delivered.head.attempt), (Kind::Delivered, 3));
    assert_eq!(note(&delivered), format!("in clear text; smart host {}: another sender may do better", smart.address));
    assert_eq!((mx.received().len(), smart.received().len()), (0, 1));
    assert_eq!(revived.queue().list(&Filter { state: Some(State::Deferred), ..Filter::default() }, 1).entries, 0);
    revived.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smart_host_without_address_gives_way() {
    let dead = "[[smart_host]]\naddress = \"dead.test:2525\"\ntls = \"none\"\nwhen = \"always\"\n";
    let (_folder, _mx, relay, mut events) = start_with_host(PIPELINING, dead).await;
    submit(&relay, "alice@example.test", 60).await;
    let deferred = events.next(Kind::Deferred).await;
    assert_eq!((deferred.cause(), deferred.destination()), (Some(Cause::Unreachable), Some("dead.test")));
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (2, Some("mx.test")));
    relay.shut_down().await;
}

/// What hosts of the destination do with unknown senders is no concern of mail that a smart host takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_smart_host_takes_from_the_beginning_is_not_at_risk_of_greylisting() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, smart) = (FakeMx::start(PIPELINING).await, FakeMx::start(PIPELINING).await);
    mx.trick("RCPT", TEN_MINUTES, 9);
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    submit(&relay, "alice@example.test", 3600).await;
    events.next(Kind::Greylisted).await;
    submit(&relay, "alice@example.test", 300).await;
    assert_eq!(events.next(Kind::AtRisk).await.head.attempt, 0);
    relay.shut_down().await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, &plain(&smart, "always"));
    submit(&relay, "alice@example.test", 200).await;
    loop {
        let event = events.next_of(&[Kind::AtRisk, Kind::Delivered]).await;
        if event.head.expires_at.since(event.head.time) <= std::time::Duration::from_secs(200) {
            assert_eq!(event.kind(), Kind::Delivered, "{event:?}");
            break;
        }
    }
    assert_eq!(smart.received().len(), 1);
    relay.shut_down().await;
}
