//! Addresses that somebody unknown types into an app's form so that somebody else's are refused.

use otp_relay::testing::event::Kind;
use otp_relay::testing::event::cause::Cause;

use crate::malice::doors::{Doors, letter};
use crate::support::fake_mx::Trick;

const OFF: &str = "[otp]\nrecipient_budget = \"off\"\n";
const ROUTED: [&str; 4] = ["a%x@victim.test", "x!a@victim.test", "\"a@x\"@victim.test", "\"a\\@x\"@victim.test"];

/// What Postfix says to them, word for word.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_in_a_local_part_locks_no_domain_out() {
    let mut doors = Doors::open(&format!("{OFF}[submission]\nrouted_addresses = true\n")).await;
    for routed in ROUTED {
        doors.refuse(routed, "554 5.7.1 <a@x>: Relay access denied", 2);
        let failed = doors.ends(routed, Kind::Failed).await;
        assert_eq!(failed.cause(), Some(Cause::BadDomain), "{routed}");
        assert_eq!(doors.http_code(routed).await.status, 202, "{routed}");
        doors.end(routed, Kind::Failed).await;
        doors.pass(&["kate@victim.test"]).await;
    }
    // Also where the host names the mailbox: it may mean whom it would pass mail on to.
    doors.refuse("a%x@victim.test", "550 5.1.1 <a@x>: Recipient address rejected: User unknown", 1);
    doors.ends("a%x@victim.test", Kind::Failed).await;
    assert!(doors.rcpt("a%x@victim.test").await.starts_with("250"));
    doors.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_in_a_local_part_is_refused_at_both_doors() {
    let mut doors = Doors::open(OFF).await;
    for routed in ROUTED {
        let reply = doors.rcpt(routed).await;
        assert!(reply.starts_with("501 5.1.3 "), "{routed}: {reply}");
        let answer = doors.http_code(routed).await;
        assert_eq!((answer.status, &answer.json()["type"]), (422, &"urn:otp-relay:recipient".into()), "{routed}");
    }
    let reply = doors.rcpt("@hop.test:a%x@victim.test").await;
    assert!(reply.starts_with("501 5.1.3 "), "{reply}");
    assert!(doors.mx.received().is_empty());
    // A source route is read and dropped; other quoted local parts pass.
    doors.smtp.say("RSET").await;
    doors.smtp.say("MAIL FROM:<otp@app.test>").await;
    assert!(doors.smtp.say("RCPT TO:<@hop.test:kate@victim.test>").await.starts_with("250"));
    doors.smtp.say("DATA").await;
    assert!(doors.smtp.say("From: otp@app.test\r\n\r\nx\r\n.").await.starts_with("250"));
    doors.end("kate@victim.test", Kind::Delivered).await;
    doors.pass(&["\"kate smith\"@victim.test", "\"kate..smith\"@victim.test", "kate+x=y@victim.test"]).await;
    doors.relay.shut_down().await;
}

/// Neither the domain of the recipient nor, by the notification of the failure, that of the sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_dns_does_not_know_is_not_suppressed() {
    let mut doors = Doors::open(&format!("{OFF}[submission]\nverify_domain = false\n")).await;
    let failed = doors.ends("kate@gone.test", Kind::Failed).await;
    assert_eq!(failed.cause(), Some(Cause::BadDomain));
    doors.refuse("kate@victim.test", "554 5.7.1 rejected by policy", 1);
    assert_eq!(doors.shop.post("/v1/messages", letter("gone", "kate@victim.test")).await.status, 202);
    doors.end("kate@victim.test", Kind::Failed).await;
    doors.end("otp@gone.test", Kind::Failed).await;
    for honest in ["kate@gone.test", "otp@gone.test", "alice@gone.test"] {
        let reply = doors.rcpt(honest).await;
        assert!(reply.starts_with("250"), "{honest}: {reply}");
        assert_eq!(doors.http_code(honest).await.status, 202, "{honest}");
    }
    doors.pass(&["kate@victim.test"]).await;
    doors.relay.shut_down().await;
}

/// Hosts check the sender where RCPT is answered, and say so in words for unknown users and domains.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_our_sender_touches_no_recipient() {
    let mut doors = Doors::open(OFF).await;
    for reply in [
        "550-Verification failed for <otp@app.test>\r\n550-No Such User Here\r\n550 Sender verify failed",
        "550 5.1.0 <otp@app.test>: Sender address rejected: User unknown in virtual mailbox table",
        "550 5.1.1 <otp@app.test>: user unknown",
        "550 5.1.1 unknown user in callout",
        "553 5.1.8 <otp@app.test>... Domain of sender address otp@app.test does not exist",
        "550 5.1.2 app.test: no such domain",
        "550 5.1.1 user unknown: reverse-path",
        "550 no",
        "554 5.0.0 no",
    ] {
        doors.refuse("kate@victim.test", reply, 1);
        doors.ends("kate@victim.test", Kind::Failed).await;
        let next = doors.rcpt("kate@victim.test").await;
        assert!(next.starts_with("250"), "{reply}: {next}");
    }
    doors.pass(&["kate@victim.test", "alice@victim.test", "otp@app.test"]).await;
    // Beside it, what speaks of the recipient.
    doors.refuse("kate@victim.test", "550 5.1.1 <kate@victim.test>: user unknown", 1);
    doors.ends("kate@victim.test", Kind::Failed).await;
    assert!(doors.rcpt("kate@victim.test").await.starts_with("550 5.1.1 suppressed"));
    assert_eq!(doors.http_code("kate@victim.test").await.json()["type"], "urn:otp-relay:suppressed");
    doors.pass(&["alice@victim.test"]).await;
    doors.relay.shut_down().await;
}

/// A host may fold a spelling into somebody's mailbox or not; either way its answer is not about that mailbox.
#[tokio::test(flavor = "multi_thread")]
async fn look_alikes_suppress_nobody() {
    let mut doors = Doors::open(OFF).await;
    for look_alike in ["\"kate\"@victim.test", "\"k\\ate\"@victim.test", "KATE@victim.test", "kate@Victim.test"] {
        doors.refuse(look_alike, "550 5.1.1 user unknown", 2);
        doors.ends(look_alike, Kind::Failed).await;
        let answer = doors.http_code(look_alike).await;
        assert_eq!(answer.status, 202, "{look_alike}: {}", answer.body);
        doors.end(look_alike, Kind::Failed).await;
        doors.pass(&["kate@victim.test"]).await;
    }
    // One with KELVIN SIGN is an address of its own.
    doors.refuse("\u{212a}ate@victim.test", "550 5.1.1 user unknown", 1);
    doors.ends("\u{212a}ate@victim.test", Kind::Failed).await;
    doors.pass(&["kate@victim.test"]).await;
    // Its own bounce counts, and for what every host takes for the same address.
    doors.refuse("kate@victim.test", "550 5.1.1 user unknown", 1);
    doors.ends("kate@victim.test", Kind::Failed).await;
    for same in ["kate@victim.test", "KATE@VICTIM.test", "\"kate\"@victim.test"] {
        let reply = doors.rcpt(same).await;
        assert!(reply.starts_with("550 5.1.1 suppressed"), "{same}: {reply}");
    }
    doors.relay.shut_down().await;
}

/// A newer code to a look-alike ends nobody's older one.
#[tokio::test(flavor = "multi_thread")]
async fn look_alikes_supersede_nobody() {
    let mut doors = Doors::open("[otp]\nrecipient_budget = \"off\"\nsupersede = \"same-recipient\"\n").await;
    doors.mx.trick("RCPT TO:<kate", Trick::Say("451 4.7.1 Greylisted"), 1);
    assert!(doors.code("kate@victim.test").await.starts_with("250"));
    doors.events.next(Kind::Greylisted).await;
    doors.ends("\u{212a}ate@victim.test", Kind::Delivered).await;
    doors.ends("kate+1@victim.test", Kind::Delivered).await;
    doors.end("kate@victim.test", Kind::Delivered).await;
    doors.relay.shut_down().await;
}
