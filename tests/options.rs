//! What an app can ask for, and what it is told: one story for each option and each documented reply.

use std::sync::Arc;
use std::time::Duration;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Received, Trick};
use crate::support::{Events, manual_clock, pass, start_relay, start_relay_by, start_with_host};
use otp_relay::testing::base::clock::ManualClock;
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::relay::Relay;

const EXTENSIONS: &[&str] = &["PIPELINING", "8BITMIME"];

/// A relay, a mail host and an app.
struct Scene {
    _folder: tempfile::TempDir,
    mx: FakeMx,
    relay: Relay,
    clock: Arc<ManualClock>,
    events: Events,
    app: Client,
}

impl Scene {
    async fn with(user: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mx = FakeMx::start(EXTENSIONS).await;
        // What stands first belongs to the user `trusted`.
        let clock = manual_clock();
        let (relay, events) = start_relay_by(clock.clone(), folder.path(), mx.address, &format!("{user}\n{more}"));
        let app = Client::connect(relay.addresses()[0]).await;
        Self { _folder: folder, mx, relay, clock, events, app }
    }

    async fn new() -> Self {
        Self::with("", "").await
    }

    async fn submit(&mut self, recipient: &str, fields: &str) -> String {
        self.app.submit(&[recipient], &format!("{fields}{}", mail("one"))).await
    }

    async fn accepted(&mut self, recipient: &str, fields: &str) -> Event {
        let reply = self.submit(recipient, fields).await;
        assert!(reply.starts_with("250 "), "{reply}");
        self.events.next(Kind::Accepted).await
    }

    fn received(&self, recipient: &str) -> Vec<Received> {
        self.mx.received().into_iter().filter(|mail| mail.rcpt.contains(recipient)).collect()
    }
}

fn life(event: &Event) -> u64 {
    event.head.expires_at.since(event.head.time.minus(event.head.since_accepted)).as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_is_followed_and_does_not_leave_the_relay() {
    let mut scene = Scene::with("life = \"7m\"", "").await;
    let plain = scene.accepted("alice@example.test", "").await;
    assert_eq!((life(&plain), plain.head.lane.name()), (420, "otp"));
    scene.events.next(Kind::Delivered).await;
    let fields = "X-OTP-Life: 300\r\nX-OTP-Lane: reset\r\nX-OTP-Key: login:42\r\nX-OTP-Tag: signup\r\n";
    let with_options = scene.accepted("bob@example.test", fields).await;
    assert_eq!(
        (life(&with_options), with_options.head.lane.name(), with_options.head.tag.as_deref()),
        (300, "reset", Some("signup"))
    );
    scene.events.next(Kind::Delivered).await;
    let content = String::from_utf8(scene.received("bob")[0].content.clone()).unwrap();
    assert!(!content.to_ascii_lowercase().contains("x-otp"), "{content}");
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn esmtp_parameters_are_options_too() {
    let mut scene = Scene::new().await;
    for (parameters, expected) in [
        ("BY=120;R", (120, "otp")),
        ("BY=120;N", (600, "otp")),
        ("MT-PRIORITY=2", (600, "reset")),
        ("MT-PRIORITY=-3", (600, "notice")),
    ] {
        assert!(scene.app.say(&format!("MAIL FROM:<otp@app.test> {parameters}")).await.starts_with("250"));
        assert!(scene.app.say("RCPT TO:<alice@example.test>").await.starts_with("250"));
        assert!(scene.app.say("DATA").await.starts_with("354"));
        let reply = scene.app.say(&format!("{}\r\n.", mail("one"))).await;
        assert!(reply.starts_with("250 2.0.0"), "{reply}");
        let event = scene.events.next(Kind::Accepted).await;
        assert_eq!((life(&event), event.head.lane.name()), expected, "{parameters}");
    }
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_above_the_users_is_lowered_and_said_so() {
    let mut scene = Scene::with("lane = \"reset\"", "").await;
    let reply = scene.submit("alice@example.test", "X-OTP-Lane: otp\r\n").await;
    assert!(reply.starts_with("250 2.3.6 "), "{reply}");
    assert_eq!(scene.events.next(Kind::Accepted).await.head.lane.name(), "reset");
    assert_eq!(scene.accepted("alice@example.test", "X-OTP-Lane: notice\r\n").await.head.lane.name(), "notice");
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_that_cannot_be_followed_is_refused() {
    let mut scene = Scene::new().await;
    for fields in [
        "X-OTP-Life: 4\r\n",
        "X-OTP-Life: 90000\r\n",
        "X-OTP-Lane: express\r\n",
        "X-OTP-Key: \r\n",
        "X-OTP-TlsOption: 1\r\n",
        "Expires: Sat, 21 Nov 2020 10:00:00 +0000\r\n",
    ] {
        let reply = scene.submit("alice@example.test", fields).await;
        assert!(reply.starts_with("501 5.5.4 "), "{fields}: {reply}");
    }
    scene.accepted("alice@example.test", "").await;
    scene.events.next(Kind::Delivered).await;
    assert_eq!(scene.mx.received().len(), 1);
    scene.relay.shut_down().await;
}

/// A host that says nothing more is still being waited for when the life ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_ends_at_its_second_also_while_it_is_being_sent() {
    let mut scene = Scene::new().await;
    scene.mx.trick("RCPT", Trick::Hang, 1);
    let accepted = scene.accepted("alice@example.test", "X-OTP-Life: 5\r\n").await;
    let expired = scene.events.next(Kind::Expired).await;
    assert_eq!(expired.head.id, accepted.head.id);
    // An attempt under way ends a moment before the life, so that it can say what it came to.
    assert!(expired.head.expires_at.since(expired.head.time) <= Duration::from_millis(50), "{expired:?}");
    assert!(expired.head.time.as_secs() <= expired.head.expires_at.as_secs(), "{expired:?}");
    assert!(!expired.may_have_arrived());
    // Its sender is told.
    let notification = scene.events.next(Kind::Delivered).await;
    assert_eq!(notification.head.recipient.unwrap().as_str(), "otp@app.test");
    let told = scene.received("otp@app.test");
    assert!(told[0].mail.starts_with("MAIL FROM:<>"));
    let text = String::from_utf8(told[0].content.clone()).unwrap();
    for line in ["Status: 5.4.7\r\n", "Action: failed\r\n", "Final-Recipient: rfc822; alice@example.test\r\n"] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert!(!text.contains("Subject: one") && !text.contains("hello"), "{text}");
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_code_takes_the_place_of_an_older_one() {
    let mut scene = Scene::new().await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted"), 1);
    scene.mx.trick("RCPT TO:<carol", Trick::Say("451 4.7.1 Greylisted"), 1);
    let key = "X-OTP-Key: login:42\r\n";
    let first = scene.accepted("alice@example.test", key).await;
    scene.events.next(Kind::Greylisted).await;
    let other = scene.accepted("carol@example.test", key).await;
    scene.events.next(Kind::Greylisted).await;
    let second = scene.accepted("ALICE@Example.test", key).await;
    let superseded = scene.events.next(Kind::Superseded).await;
    assert_eq!((superseded.head.id, superseded.may_have_arrived()), (first.head.id, false));
    assert!(superseded.note().unwrap().contains(&second.head.id.to_string()));
    pass(&scene.relay, &scene.clock, Duration::from_secs(60));
    let delivered =
        [scene.events.next(Kind::Delivered).await.head.id, scene.events.next(Kind::Delivered).await.head.id];
    assert!(delivered.contains(&second.head.id) && delivered.contains(&other.head.id));
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_may_be_arriving_is_superseded_honestly() {
    let mut scene = Scene::new().await;
    scene.mx.trick("content", Trick::Hang, 1);
    scene.mx.trick("EHLO", Trick::Say("250 mx.test"), 1);
    let key = "X-OTP-Key: login:42\r\n";
    let first = scene.accepted("alice@example.test", key).await;
    while !scene.mx.log().iter().any(|line| line.starts_with("content")) {
        tokio::task::yield_now().await;
    }
    scene.accepted("alice@example.test", key).await;
    let superseded = scene.events.next(Kind::Superseded).await;
    assert_eq!((superseded.head.id, superseded.may_have_arrived()), (first.head.id, true));
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_a_code_replaces_another_if_so_configured() {
    let mut scene = Scene::with("", "[otp]\nsupersede = \"same-recipient\"").await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted"), 1);
    let first = scene.accepted("alice@example.test", "").await;
    scene.events.next(Kind::Greylisted).await;
    scene.accepted("alice@example.test", "").await;
    assert_eq!(scene.events.next(Kind::Superseded).await.head.id, first.head.id);
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_answer_of_the_first_and_is_not_sent_again() {
    let mut scene = Scene::new().await;
    let key = "X-OTP-Idempotency-Key: 7f3a\r\n";
    let first = scene.accepted("alice@example.test", key).await;
    scene.events.next(Kind::Delivered).await;
    let fields = format!("Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n{key}");
    let repeat = scene.submit("alice@example.test", &fields).await;
    let expected = format!("250 2.0.0 accepted before, state=ended id={}", first.head.id);
    assert_eq!(repeat.trim_end(), expected);
    let other = scene.app.submit(&["alice@example.test"], &format!("{key}{}", mail("two"))).await;
    assert!(other.starts_with("554 5.6.0 "), "{other}");
    let elsewhere = scene.submit("bob@example.test", key).await;
    assert!(elsewhere.starts_with("554 5.6.0 "), "{elsewhere}");
    scene.accepted("alice@example.test", "X-OTP-Idempotency-Key: other\r\n").await;
    scene.events.next(Kind::Delivered).await;
    assert_eq!(scene.mx.received().len(), 2);
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_gets_only_so_many() {
    let mut scene = Scene::with("", "[otp]\nrecipient_budget = \"2/10m\"").await;
    scene.accepted("alice@example.test", "").await;
    scene.accepted("alice+x@example.test", "").await;
    let refused = scene.submit("Alice@example.test", "").await;
    assert!(
        refused.starts_with("450 4.7.28 2 codes in 10m for this recipient (otp.recipient_budget); next in "),
        "{refused}"
    );
    scene.accepted("alice@example.test", "X-OTP-Lane: reset\r\n").await;
    // No lane could pass any more.
    scene.app.say("MAIL FROM:<otp@app.test>").await;
    let refused = scene.app.say("RCPT TO:<alice@example.test>").await;
    assert!(refused.starts_with("450 4.7.28 "), "{refused}");
    assert!(scene.app.say("RCPT TO:<bob@example.test>").await.starts_with("250"));
    scene.relay.shut_down().await;
}

/// A place is given back when nothing was sent, and a repeat needs none.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_does_not_count() {
    let mut scene = Scene::with("", "[otp]\nrecipient_budget = \"1/10m\"").await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("554 5.7.1 rejected by policy"), 1);
    scene.accepted("alice@example.test", "").await;
    scene.events.next(Kind::Failed).await;
    let key = "X-OTP-Idempotency-Key: 7f3a\r\n";
    let second = scene.accepted("alice@example.test", key).await;
    assert_eq!(second.head.recipient.unwrap().as_str(), "alice@example.test");
    let repeat = scene.submit("alice@example.test", key).await;
    assert!(repeat.contains(&second.head.id.to_string()), "{repeat}");
    let refused = scene.submit("alice@example.test", "").await;
    assert!(refused.starts_with("450 4.7.28 "), "{refused}");
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_sends_only_so_fast() {
    let mut scene = Scene::with("rate = \"2/1h\"", "").await;
    scene.accepted("alice@example.test", "").await;
    scene.accepted("bob@example.test", "").await;
    scene.app.say("MAIL FROM:<otp@app.test>").await;
    let refused = scene.app.say("RCPT TO:<carol@example.test>").await;
    assert!(refused.starts_with("452 4.7.0 ") && refused.contains("next in "), "{refused}");
    scene.relay.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arrival_is_told_if_asked_for_by_whoever_is_last_to_know() {
    for (extensions, expected) in [(EXTENSIONS, 2), (&["PIPELINING", "DSN"][..], 1)] {
        let (_folder, mx, relay, mut events) = start_with_host(extensions, "").await;
        let mut app = Client::connect(relay.addresses()[0]).await;
        app.say("MAIL FROM:<otp@app.test> ENVID=login-42").await;
        app.say("RCPT TO:<alice@example.test> NOTIFY=SUCCESS,FAILURE").await;
        app.say("DATA").await;
        app.say(&format!("{}\r\n.", mail("one"))).await;
        for _ in 0..expected {
            events.next(Kind::Delivered).await;
        }
        assert_eq!(relay.queue().depth().messages, 0);
        let received = mx.received();
        assert_eq!(received.len(), expected, "{extensions:?}");
        if let Some(notification) = received.get(1) {
            let text = String::from_utf8(notification.content.clone()).unwrap();
            assert!(
                text.contains("Action: relayed\r\n") && text.contains("Original-Envelope-Id: login-42\r\n"),
                "{text}"
            );
        } else {
            assert!(received[0].rcpt.contains("NOTIFY=SUCCESS,FAILURE"), "{}", received[0].rcpt);
        }
        relay.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_bounced_is_not_sent_to_for_a_while() {
    let mut scene = Scene::new().await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("550 5.1.1 no such user"), 1);
    scene.accepted("alice@example.test", "").await;
    let failed = scene.events.next(Kind::Failed).await;
    scene.app.say("MAIL FROM:<otp@app.test>").await;
    let refused = scene.app.say("RCPT TO:<Alice@example.test>").await;
    let expected = format!("550 5.1.1 suppressed: hard bounce on {}", failed.head.time.date());
    assert!(refused.starts_with(&expected) && refused.contains("to override"), "{refused}");
    assert!(scene.app.say("RCPT TO:<bob@example.test>").await.starts_with("250"));
    scene.relay.shut_down().await;
}

/// `BY=;N`: the entry goes on when its time is over, and the sender is told, once, also over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn who_asked_for_a_time_is_told_once_when_it_is_over() {
    let mut scene = Scene::new().await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted, try again in 60 seconds"), 9);
    scene.app.say("MAIL FROM:<otp@app.test> BY=5;N").await;
    scene.app.say("RCPT TO:<alice@example.test>").await;
    scene.app.say("DATA").await;
    let reply = scene.app.say(&format!("{}\r\n.", mail("one"))).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    let accepted = scene.events.next(Kind::Accepted).await;
    scene.events.next(Kind::Greylisted).await;
    pass(&scene.relay, &scene.clock, Duration::from_secs(5));
    let late = scene.events.next(Kind::AtRisk).await;
    assert_eq!(
        (late.head.id, late.head.since_accepted.as_secs(), late.cause()),
        (accepted.head.id, 5, Some(Cause::Greylisted))
    );
    let notification = scene.events.next(Kind::Delivered).await;
    assert_eq!(notification.head.recipient.unwrap().as_str(), "otp@app.test");
    let text = String::from_utf8(scene.received("otp@app.test")[0].content.clone()).unwrap();
    for line in ["Action: delayed\r\n", "Status: 4.4.7\r\n", "Will-Retry-Until: "] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let Scene { _folder: folder, mx, relay, .. } = scene;
    relay.shut_down().await;
    let (relay, mut events) = start_relay(folder.path(), mx.address, "");
    assert!(relay.queue().is_live(accepted.head.id), "it goes on");
    // What would tell it again would be over by the time at which another message has come and gone.
    let mut app = Client::connect(relay.addresses()[0]).await;
    assert!(app.submit(&["bob@example.test"], &mail("two")).await.starts_with("250"));
    events.next(Kind::Delivered).await;
    assert_eq!(mx.received().iter().filter(|mail| mail.rcpt.contains("otp@app.test")).count(), 1);
    relay.shut_down().await;
}

/// A destination that does not answer: the app is told before the life is over, once.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_at_risk_is_told_once() {
    let mut scene = Scene::new().await;
    scene.mx.trick("RCPT TO:<alice", Trick::Say("451 4.7.1 Greylisted"), 9);
    let accepted = scene.accepted("alice@example.test", "X-OTP-Life: 6\r\n").await;
    let at_risk = scene.events.next(Kind::AtRisk).await;
    assert_eq!(at_risk.head.id, accepted.head.id);
    pass(&scene.relay, &scene.clock, Duration::from_secs(6));
    let end = scene.events.next_end().await;
    assert_eq!(end.kind(), Kind::Expired);
    scene.relay.shut_down().await;
}
