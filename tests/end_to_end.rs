//! The whole relay over real sockets and a real database: few cases, each a story.

use std::time::Duration;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::{copy_folder, manual_clock, pass, start_relay, start_relay_by, start_with_host};
use otp_relay::testing::event::Kind;
use otp_relay::testing::event::cause::Cause;

const PIPELINING: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000"];
const CHUNKING: &[&str] = &["PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8"];

fn text(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_as_it_was_sent() {
    for extensions in [&[][..], PIPELINING, CHUNKING] {
        let (_folder, mx, relay, mut events) = start_with_host(extensions, "").await;
        let mut app = Client::connect(relay.addresses()[0]).await;
        let reply = app.submit(&["alice@example.test"], &mail("one")).await;
        assert!(reply.starts_with("250 2.0.0 accepted id="), "{reply}");
        let accepted = events.next(Kind::Accepted).await;
        assert!(reply.ends_with(&accepted.head.id.to_string()));
        let delivered = events.next(Kind::Delivered).await;
        assert_eq!(delivered.reply(), Some("250 2.0.0 taken"));
        let received = mx.received();
        assert_eq!(received.len(), 1);
        assert!(received[0].mail.starts_with("MAIL FROM:<otp@app.test>"));
        assert!(received[0].rcpt.starts_with("RCPT TO:<alice@example.test>"));
        let content = text(&received[0].content);
        assert!(content.starts_with("Received: by relay.test (otp-relay) with ESMTP id "), "{content}");
        assert!(
            content.ends_with("From: App <otp@app.test>\r\nTo: user\r\nSubject: one\r\n\r\nhello\r\n"),
            "{content}"
        );
        relay.shut_down().await;
    }
}

/// A host that cannot take it is no reason to wait; one that greylists is.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_is_tried_where_that_can_help() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    let clock = manual_clock();
    let (relay, mut events) = start_relay_by(clock.clone(), folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    mx.trick("RCPT TO:<alice", Trick::Say("452 4.3.1 Insufficient system storage"), 1);
    app.submit(&["alice@twins.test"], &mail("one")).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (1, Some("mx2.test")));
    mx.trick("RCPT TO:<bob", Trick::Say("451 4.7.1 Greylisted"), 1);
    app.submit(&["bob@twins.test"], &mail("two")).await;
    events.next(Kind::Greylisted).await;
    pass(&relay, &clock, MINUTE);
    assert_eq!(events.next(Kind::Delivered).await.head.attempt, 2);
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_is_an_entry_of_its_own() {
    let (_folder, mx, relay, mut events) = start_with_host(PIPELINING, "").await;
    mx.trick("RCPT TO:<bob", Trick::Say("550 5.1.1 no such user"), 1);
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@a.test", "bob@a.test", "carol@b.test"], &mail("three")).await;
    let mut ends = Vec::new();
    // Three recipients, and the notification about one of them.
    for _ in 0..4 {
        let end = events.next_end().await;
        ends.push((end.head.recipient.as_ref().unwrap().to_string(), end.kind().name(), end.cause()));
    }
    ends.sort();
    assert_eq!(
        ends,
        [
            ("alice@a.test".to_owned(), "delivered", None),
            ("bob@a.test".to_owned(), "failed", Some(Cause::BadMailbox)),
            ("carol@b.test".to_owned(), "delivered", None),
            ("otp@app.test".to_owned(), "delivered", None),
        ]
    );
    assert_eq!(mx.received().len(), 3);
    assert_eq!(relay.queue().depth().messages, 0);
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_carries_several_messages() {
    let (_folder, mx, relay, mut events) = start_with_host(CHUNKING, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    for subject in ["one", "two", "three"] {
        app.submit(&["alice@example.test"], &mail(subject)).await;
        events.next(Kind::Delivered).await;
    }
    assert_eq!((mx.received().len(), mx.connections()), (3, 1));
    relay.shut_down().await;
    assert_eq!(mx.log().last().map(String::as_str), Some("QUIT"));
}

/// RFC 9422.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_carries_as_many_messages_as_its_host_allows() {
    let (_folder, mx, relay, mut events) = start_with_host(&["PIPELINING", "LIMITS RCPTMAX=1 MAILMAX=2"], "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    for number in 0..4 {
        app.submit(&["alice@example.test"], &mail(&number.to_string())).await;
        events.next(Kind::Delivered).await;
    }
    let log = mx.log();
    let mails_of_sessions: Vec<usize> = log
        .split(|line| line.starts_with("EHLO"))
        .map(|session| session.iter().filter(|line| line.starts_with("MAIL")).count())
        .filter(|mails| *mails > 0)
        .collect();
    assert_eq!(mails_of_sessions, [2, 2], "{log:?}");
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_can_have_a_limit_of_its_own() {
    let exception = "[[destination]]\ndomains = [\"example.test\"]\nconnections_max = 1\n";
    let (_folder, mx, relay, mut events) = start_with_host(PIPELINING, exception).await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    let recipients = ["a@example.test", "b@example.test", "c@example.test", "d@example.test"];
    app.submit(&recipients, &mail("one")).await;
    for _ in recipients {
        events.next(Kind::Delivered).await;
    }
    assert_eq!((mx.received().len(), mx.connections()), (4, 1));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_says_is_not_used_at_a_destination() {
    let exception = "[[destination]]\ndomains = [\"example.test\"]\navoid = [\"chunking\", \"pipelining\"]\n";
    let (_folder, mx, relay, mut events) = start_with_host(&["PIPELINING", "CHUNKING"], exception).await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("one")).await;
    events.next(Kind::Delivered).await;
    let log = mx.log();
    assert!(log.iter().any(|line| line == "DATA") && !log.iter().any(|line| line.starts_with("BDAT")), "{log:?}");
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_while_idle_costs_nothing() {
    for trick in [Trick::Close, Trick::Say("421 4.3.2 bye")] {
        let (_folder, mx, relay, mut events) = start_with_host(PIPELINING, "").await;
        let mut app = Client::connect(relay.addresses()[0]).await;
        app.submit(&["alice@example.test"], &mail("one")).await;
        events.next(Kind::Delivered).await;
        mx.trick("MAIL", trick, 1);
        app.submit(&["alice@example.test"], &mail("two")).await;
        let delivered = events.next(Kind::Delivered).await;
        assert_eq!(delivered.head.attempt, 1);
        assert_eq!((mx.received().len(), mx.connections()), (2, 2));
        relay.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_now_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    mx.trick("RCPT", Trick::Say("451 4.7.1 Greylisted"), 1);
    let clock = manual_clock();
    let (relay, mut events) = start_relay_by(clock.clone(), folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    let reply = app.say("MAIL FROM:<otp@app.test> BY=60;R").await;
    assert!(reply.starts_with("250"), "{reply}");
    assert!(app.say("RCPT TO:<alice@example.test>").await.starts_with("250"));
    assert!(app.say("DATA").await.starts_with("354"));
    assert!(app.say(&format!("{}\r\n.", mail("one"))).await.starts_with("250"));
    let deferred = events.next(Kind::Greylisted).await;
    let pause = deferred.next_attempt_at().unwrap().since(deferred.head.time);
    assert!((Duration::from_secs(1)..Duration::from_millis(1610)).contains(&pause), "the first step: {pause:?}");
    pass(&relay, &clock, pause);
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!(delivered.head.attempt, 2);
    let content = text(&mx.received()[0].content);
    assert!(content.contains("Subject: one"), "read back from the store: {content}");
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_message_survives_a_crash() {
    let (folder, mx, relay, _events) = start_with_host(PIPELINING, "").await;
    mx.trick("RCPT", Trick::Hang, 2);
    let mut app = Client::connect(relay.addresses()[0]).await;
    let large = format!("{}\r\n{}", mail("large"), "0123456789abcdef\r\n".repeat(20_000));
    for content in [&mail("small"), &large] {
        assert!(app.submit(&["alice@example.test"], content).await.starts_with("250"));
    }
    let image = tempfile::tempdir().unwrap();
    copy_folder(&folder.path().join("data"), &image.path().join("data"));
    let after = FakeMx::start(PIPELINING).await;
    let (second, mut events) = start_relay(image.path(), after.address, "");
    for _ in 0..2 {
        assert_eq!(events.next_end().await.kind(), Kind::Delivered);
    }
    let mut sizes: Vec<usize> = after.received().iter().map(|received| received.content.len()).collect();
    sizes.sort_unstable();
    assert!(sizes[0] < 500 && sizes[1] > 360_000, "{sizes:?}");
    second.shut_down().await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_the_same_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let pem = otp_relay::testing::dkim::record::generate_rsa().unwrap();
    let key = "[[dkim]]\ndomain = \"app.test\"\nselector = \"otp\"\nprivate_key = \"../key.pem\"\n";
    std::fs::create_dir(folder.path().join("first")).unwrap();
    std::fs::write(folder.path().join("key.pem"), pem).unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    mx.trick("content", Trick::Say("451 4.3.0 try again"), 1);
    let clock = manual_clock();
    let (relay, mut events) = start_relay_by(clock.clone(), &folder.path().join("first"), mx.address, key);
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("one")).await;
    events.next(Kind::Deferred).await;
    relay.queue().flush().await.unwrap();
    copy_folder(&folder.path().join("first"), &folder.path().join("second"));
    pass(&relay, &clock, MINUTE);
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
    let (second, mut events) = start_relay_by(clock.clone(), &folder.path().join("second"), mx.address, key);
    pass(&second, &clock, MINUTE);
    events.next(Kind::Delivered).await;
    second.shut_down().await;
    let received = mx.received();
    assert!(received[0].content.starts_with(b"DKIM-Signature: "));
    assert_eq!(received[0].content, received[1].content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_final_reply_is_told_as_it_is() {
    for (at_most_once, expected) in [("true", 1), ("false", 2)] {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(PIPELINING).await;
        mx.trick("content", Trick::Close, 1);
        let more = format!("[otp]\ndeliver_at_most_once = {at_most_once}\n");
        let clock = manual_clock();
        let (relay, mut events) = start_relay_by(clock.clone(), folder.path(), mx.address, &more);
        let mut app = Client::connect(relay.addresses()[0]).await;
        app.submit(&["alice@example.test"], &mail("one")).await;
        if at_most_once == "true" {
            let end = events.next_end().await;
            assert_eq!(
                (end.kind(), end.cause(), end.may_have_arrived()),
                (Kind::Failed, Some(Cause::OutcomeUnknown), true)
            );
        } else {
            let deferred = events.next(Kind::Deferred).await;
            assert_eq!((deferred.cause(), deferred.may_have_arrived()), (Some(Cause::OutcomeUnknown), true));
            pass(&relay, &clock, MINUTE);
            events.next(Kind::Delivered).await;
        }
        assert_eq!(mx.received().len(), expected);
        relay.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_that_cannot_receive_are_refused_at_once() {
    let (_folder, _mx, relay, _events) = start_with_host(PIPELINING, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.say("MAIL FROM:<otp@app.test>").await;
    for (recipient, reply) in [
        ("a@gone.test", "550 5.1.2 no such domain"),
        ("a@null.test", "556 5.1.10 the recipient's domain takes no mail (null MX)"),
        ("a@[192.0.2.1]", "550 5.1.2 addresses in brackets are not served"),
        ("a@ill.test", "250 2.1.5 recipient ok"),
        ("a@plain.test", "250 2.1.5 recipient ok"),
    ] {
        assert_eq!(app.say(&format!("RCPT TO:<{recipient}>")).await, reply, "{recipient}");
    }
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_are_held_to_their_patterns() {
    let (_folder, mx, relay, _events) = start_with_host(PIPELINING, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    let reply = app.say("MAIL FROM:<ceo@bank.test>").await;
    assert_eq!(reply, "550 5.7.1 reverse-path not allowed for this user; allowed are *@app.test");
    let forged = mail("one").replace("otp@app.test", "ceo@bank.test");
    let reply = app.submit(&["alice@example.test"], &forged).await;
    assert_eq!(reply, "550 5.7.1 From not allowed for this user; allowed are *@app.test");
    let reply = app.submit(&["alice@example.test"], "Subject: no author\r\n\r\nx").await;
    assert!(reply.starts_with("554 5.6.0 no From field"), "{reply}");
    assert!(mx.received().is_empty());
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_line_feed_ends_the_connection_after_its_reply() {
    let (_folder, mx, relay, _events) = start_with_host(PIPELINING, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.say("MAIL FROM:<otp@app.test>").await;
    app.say("RCPT TO:<alice@example.test>").await;
    app.say("DATA").await;
    let smuggled =
        "From: otp@app.test\r\n\r\nhi\n.\r\nMAIL FROM:<otp@app.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";
    app.send(smuggled.as_bytes()).await;
    assert_eq!(app.hear().await, "554 5.6.0 an LF without CR; lines end in CRLF");
    assert!(app.is_closed().await);
    relay.shut_down().await;
    assert!(mx.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_gives_way_to_the_next() {
    let (_folder, _mx, relay, mut events) = start_with_host(PIPELINING, "").await;
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@two.test"], &mail("one")).await;
    let delivered = events.next(Kind::Delivered).await;
    assert_eq!((delivered.head.attempt, delivered.destination()), (1, Some("mx.test")));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_everybody_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(PIPELINING).await;
    // Twice: the session that is opened while the app still sends, and the attempt.
    mx.trick("banner", Trick::Say("554 5.3.2 not today"), 2);
    let clock = manual_clock();
    let (relay, mut events) = start_relay_by(clock.clone(), folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    app.submit(&["alice@example.test"], &mail("one")).await;
    let deferred = events.next(Kind::Deferred).await;
    assert_eq!(deferred.reply(), Some("554 5.3.2 not today"));
    pass(&relay, &clock, MINUTE);
    events.next(Kind::Delivered).await;
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_relay_takes_no_new_mail_and_keeps_the_old() {
    let (folder, mx, relay, mut events) = start_with_host(PIPELINING, "").await;
    mx.trick("banner", Trick::Say("421 4.3.2 later"), 9);
    let address = relay.addresses()[0];
    let mut app = Client::connect(address).await;
    app.submit(&["alice@example.test"], &mail("one")).await;
    events.next(Kind::Deferred).await;
    let stopping = tokio::spawn(relay.shut_down());
    assert_eq!(app.hear().await, "421 4.3.2 shutting down, try again in a moment");
    stopping.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let after = FakeMx::start(PIPELINING).await;
    let clock = manual_clock();
    let (second, mut events) = start_relay_by(clock.clone(), folder.path(), after.address, "");
    pass(&second, &clock, MINUTE);
    assert_eq!(events.next_end().await.kind(), Kind::Delivered);
    second.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_from_an_address_that_the_machine_does_not_have_waits_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(&["PIPELINING"]).await;
    let source = "source_addresses = [\"192.0.2.77\"]";
    let (relay, mut events) = crate::support::start_relay_with(folder.path(), mx.address, "", source);
    let mail = "From: otp@app.test\r\nSubject: one\r\n\r\ncode";
    let reply = Client::connect(relay.addresses()[0]).await.submit(&["alice@example.test"], mail).await;
    assert!(reply.starts_with("250"), "{reply}");
    let deferred = events.next(Kind::Deferred).await;
    let expected = "this machine does not have the address 192.0.2.77 of delivery.source_addresses (EADDRNOTAVAIL)";
    assert_eq!(deferred.reply(), Some(expected));
    relay.shut_down().await;
}
