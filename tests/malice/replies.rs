//! Mail hosts whose replies are to keep the relay busy.

use std::time::Duration;

use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::event::Kind;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{MailParameters, Recipient};
use otp_relay::testing::smtp::client_session::{
    Bdat, ClientSession, ClientSettings, EightBit, Event, StartTls, Step, Transaction,
};
use otp_relay::testing::smtp::extension::Features;
use otp_relay::testing::smtp::reply::REPLY_KEPT_MAX;

use crate::support::client::Client;
use crate::support::fake_mx::Trick;
use crate::support::start_with_host;

/// As long as a reply may be, each word another one that looks like a code.
fn longest_reply(first: &str) -> &'static str {
    let mut reply = format!("550-5.7.1 {first}\r\n");
    for line in 0..60 {
        let words: Vec<String> = (0..100).map(|word| format!("A{line:03}B{word:03}C")).collect();
        reply.push_str(&format!("550-{}\r\n", words.join(" ")));
    }
    reply.push_str("550 end");
    assert!(reply.len() > 50_000);
    Box::leak(reply.into_boxed_str())
}

/// Everything that is done with a reply (its cause, its hint, what of it is masked) costs by its length.
#[test]
fn what_a_reply_can_cost_does_not_grow_with_its_length() {
    let now = SystemClock::default().instant();
    let settings = ClientSettings { hostname: "relay.test".to_owned(), starttls: StartTls::Never, login: None };
    let mut session = ClientSession::new(settings, now);
    let long = |code: &str| longest_reply("no").replace("550", code) + "\r\n";
    session.handle(Event::Received(long("220").as_bytes()), now);
    session.handle(Event::Received(b"250-mx.test\r\n250 PIPELINING\r\n"), now);
    let transaction = Transaction {
        reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
        parameters: MailParameters::default(),
        recipient: Recipient::new(Mailbox::parse("mallory@example.test").unwrap()),
        size: 10,
        eight_bit: EightBit::No,
        avoid: Features::NONE,
        utf8_fields: false,
        deliver_by: None,
        final_timeout: Duration::from_secs(60),
        bdat: Bdat::AtOnce,
    };
    session.handle(Event::Transact(&transaction), now);
    session.handle(Event::Received(b"250 ok\r\n"), now);
    session.handle(Event::Received(long("550").as_bytes()), now);
    let Step::Done(Err(failure)) = session.handle(Event::Received(long("554").as_bytes()), now) else { panic!() };
    let heard = session.take_heard();
    let octets: usize = heard.iter().map(|(_, reply)| reply.text.len()).sum();
    let refused = failure.reply().unwrap().text.len();
    assert!(refused <= REPLY_KEPT_MAX, "{refused} octets are worked on for the outcome");
    assert!(octets <= heard.len() * REPLY_KEPT_MAX, "{octets} octets are masked for the trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_masked_in_a_long_reply_and_others_are_served() {
    let (_folder, mx, relay, mut events) = start_with_host(&["PIPELINING"], "").await;
    mx.trick("RCPT TO:<mallory", Trick::Say(longest_reply("no XK77QD here")), 1);
    let mut app = Client::connect(relay.addresses()[0]).await;
    let mail =
        |recipient: &str| format!("From: otp@app.test\r\nTo: {recipient}\r\nSubject: x\r\n\r\nXK77QD A000B001C\r\n");
    app.submit(&["mallory@example.test"], &mail("mallory@example.test")).await;
    let failed = events.next(Kind::Failed).await;
    let reply = failed.reply().unwrap();
    assert!(reply.starts_with("550 5.7.1 no *** here A000B000C *** A000B002C"), "{reply}");
    // Who has nothing to do with it is served by the same session.
    app.submit(&["alice@example.test"], &mail("alice@example.test")).await;
    // The notification of the failure arrives too.
    while events.next(Kind::Delivered).await.head.recipient.unwrap().as_str() != "alice@example.test" {}
    relay.shut_down().await;
}
