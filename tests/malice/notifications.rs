//! Failures that somebody brings about so that the app's mailbox drowns in our own notifications.

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::accounts::user::{Senders, User};
use otp_relay::testing::base::clock::{Clock as _, ManualClock, Timestamp};
use otp_relay::testing::base::lane::Lane;
use otp_relay::testing::event::{Kind, NoSink};
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::relay::Relay;
use otp_relay::testing::smtp::server_session::{Protocol, Submission};

use crate::fast_path::network::{GOOD, Hosts, Manner, Mood};
use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::in_memory::Life;
use crate::support::{Events, start_relay};

const OFF: &str = "[otp]\nrecipient_budget = \"off\"\n";

/// What came to an address, decoded as far as it takes to look for words.
fn mails_to(mx: &FakeMx, address: &str) -> Vec<String> {
    let is_to = |rcpt: &str| rcpt.starts_with(&format!("RCPT TO:<{address}>"));
    let received = mx.received().into_iter().filter(|mail| is_to(&mail.rcpt));
    received.map(|mail| String::from_utf8(mail.content).unwrap()).collect()
}

async fn deliveries(events: &mut Events, count: usize) {
    for _ in 0..count {
        events.next(Kind::Delivered).await;
    }
}

async fn start(folder: &std::path::Path) -> (FakeMx, Relay, Events) {
    let mx = FakeMx::start(&["PIPELINING", "8BITMIME"]).await;
    let (relay, events) = start_relay(folder, mx.address, OFF);
    (mx, relay, events)
}

/// Forty refused recipients in one transaction were forty mails.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, relay, mut events) = start(folder.path()).await;
    mx.trick("RCPT TO:<nobody", Trick::Say("550 5.1.1 no such user"), 40);
    let mut app = Client::connect(relay.addresses()[0]).await;
    let nobodies: Vec<String> = (0..40).map(|number| format!("nobody{number}@victim.test")).collect();
    let mut recipients: Vec<&str> = nobodies.iter().map(String::as_str).collect();
    recipients.push("kate@victim.test");
    assert!(app.submit(&recipients, &mail("one")).await.starts_with("250"));
    deliveries(&mut events, 2).await;
    // Another message, whose failure is told by itself.
    mx.trick("RCPT TO:<nobody", Trick::Say("550 5.1.1 no such user"), 1);
    assert!(app.submit(&["nobody@elsewhere.test"], &mail("two")).await.starts_with("250"));
    deliveries(&mut events, 1).await;
    let told = mails_to(&mx, "otp@app.test");
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].matches("Action: failed\r\n").count(), 40);
    for nobody in &nobodies {
        assert!(told[0].contains(&format!("Final-Recipient: rfc822; {nobody}\r\n")), "{nobody}");
    }
    assert!(!told[0].contains("kate@victim.test"), "she has it");
    assert!(told[1].contains("Final-Recipient: rfc822; nobody@elsewhere.test\r\n"));
    relay.shut_down().await;
}

/// Also where the relay stops between the ends of a message's entries.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_told_of_once_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, relay, mut events) = start(folder.path()).await;
    mx.trick("RCPT TO:<nobody", Trick::Say("550 5.1.1 no such user"), 1);
    mx.trick("RCPT TO:<late", Trick::Say("451 4.3.0 try again later"), 1);
    let mut app = Client::connect(relay.addresses()[0]).await;
    assert!(app.submit(&["nobody@victim.test", "late@victim.test"], &mail("one")).await.starts_with("250"));
    for _ in 0..2 {
        events.next_of(&[Kind::Failed, Kind::Deferred, Kind::Greylisted]).await;
    }
    relay.shut_down().await;
    assert_eq!(mails_to(&mx, "otp@app.test").len(), 0);
    let (relay, mut events) = start_relay(folder.path(), mx.address, OFF);
    deliveries(&mut events, 2).await;
    let told = mails_to(&mx, "otp@app.test");
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("Final-Recipient: rfc822; nobody@victim.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"));
    relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_notified_five_times_then_in_one_mail() {
    let folder = tempfile::tempdir().unwrap();
    let (mx, relay, mut events) = start(folder.path()).await;
    mx.trick("RCPT TO:<nobody", Trick::Say("550 5.1.1 no such user"), 120);
    let mut app = Client::connect(relay.addresses()[0]).await;
    let mut ids = Vec::new();
    for number in 0..120 {
        let reply = app.submit(&[&format!("nobody{number}@victim.test")], &mail("one")).await;
        ids.push(reply.rsplit_once("id=").unwrap_or_else(|| panic!("{reply}")).1.to_owned());
    }
    for _ in 0..120 {
        events.next(Kind::Failed).await;
    }
    // What is gathered is not lost at a stop.
    relay.shut_down().await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, OFF);
    events.next(Kind::Delivered).await;
    let told = mails_to(&mx, "otp@app.test");
    assert_eq!(told.len(), 6);
    let digest = &told[5];
    assert!(digest.contains("Auto-Submitted: auto-replied\r\n") && !digest.contains("481516"), "{digest}");
    assert_eq!(ids.iter().filter(|id| digest.contains(*id)).count(), 100);
    assert!(digest.contains("115 messages") && digest.contains("and 15 more"), "{digest}");
    relay.shut_down().await;
}

/// A code that lives five seconds, from one of the app's addresses.
async fn submit(life: &Life, sender: &str, recipient: &str) {
    let user = User {
        name: "app".into(),
        senders: Senders::Patterns(vec!["*@app.test".into()]),
        lane: Lane::Otp,
        life: Duration::from_secs(5),
        ..User::unlimited("app")
    };
    let submission = Submission {
        envelope: Envelope {
            reverse_path: ReversePath::parse(&format!("<{sender}>")).unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(recipient).unwrap())],
        },
        content: format!("From: {sender}\r\n\r\nhello\r\n").into(),
        client_name: "app.test".into(),
        protocol: Protocol { extended: true, utf8: false, encrypted: false, authenticated: true, http: false },
    };
    life.door.submit(&user, submission, Options::default(), None).await.unwrap();
}

/// 500 failures in eight seconds, in simulated time: a host that makes each recipient wait for longer than a code lives.
/// They were 500 mails.
#[tokio::test(start_paused = true)]
async fn a_flood_of_failures_is_six_mails() {
    let start = Timestamp::from_millis(1_795_255_200_000);
    let clock = Arc::new(ManualClock::new(start));
    let manner = Manner { greylists: Duration::from_secs(10), ..GOOD };
    let hosts = Hosts::new(&[("192.0.2.2", Mood::Serves(manner))]);
    let life = Life::begin(&MemoryStore::default(), &hosts, &clock, Arc::new(NoSink), 20);
    for number in 0..500 {
        submit(&life, "otp@app.test", &format!("victim{number}@one.test")).await;
        tokio::time::sleep(Duration::from_millis(16)).await;
    }
    submit(&life, "alerts@app.test", "other@one.test").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let told = hosts.seen("otp@app.test");
    assert_eq!(told.len(), 6, "{told:?}");
    // Five when the first failed, the digest a minute after the sixth; the host let each wait.
    assert!(told[4].at < Duration::from_secs(50) && told[5].at > Duration::from_secs(60), "{told:?}");
    assert!(told[5].at < Duration::from_secs(120), "{told:?}");
    // Who sends from another address is notified as ever.
    assert_eq!(hosts.seen("alerts@app.test").len(), 1);
    assert_eq!(clock.now().since(start), Duration::from_secs(3608));
    life.end().await;
}
