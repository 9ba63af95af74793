//! What a notification says.

use mail_parser::{MessageParser, MimeHeaders as _};

use super::*;
use crate::event::{Attempted, Event, Happened};
use crate::mail::id::IdSource;

fn original(notify: Option<Notify>) -> Arc<Message> {
    let head = b"Received: x\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\nFrom: otp@example.com\r\n\
                 Subject: Zebrafish\r\nTo: a@example.org\r\nMessage-ID: <1@example.com>\r\n";
    let recipient = Recipient {
        mailbox: Mailbox::parse("a@example.org").unwrap(),
        notify,
        orcpt: Some("rfc822;a+2B1@example.org".into()),
    };
    let envelope = Envelope {
        reverse_path: ReversePath::parse("<bounces@example.com>").unwrap(),
        parameters: MailParameters { envid: Some("login+2042".into()), ..MailParameters::default() },
        recipients: vec![recipient],
    };
    let accepted_at = Timestamp::from_millis(1_795_255_200_000);
    let id = IdSource::with_random(|| 1).next(accepted_at);
    let life = accepted_at..accepted_at.plus(std::time::Duration::from_secs(600));
    Arc::new(Message {
        returned_fields: returned_fields(head, &envelope),
        ..Message::new(id, "shop".into(), envelope, life)
    })
}

fn ending_of(message: &Arc<Message>, kind: Kind, reply: Option<&str>) -> Ending {
    let now = message.accepted_at.plus(std::time::Duration::from_secs(600));
    let (destination, reply) = (Some("mx.example.org".into()), reply.map(Arc::from));
    let attempted = Attempted { destination, reply, ..Attempted::default() };
    Ending {
        event: Event { head: message.entry_head(0, 1, now), what: Happened::of(kind, attempted, None) },
        message: message.clone(),
        suppress: Default::default(),
        was_sent: false,
        is_passed_on: false,
        is_late: false,
        reporting: Reporting::Now(Vec::new()),
    }
}

fn reported(kind: Kind, notify: Option<Notify>, reply: Option<&str>) -> Option<String> {
    reported_of(kind, notify, reply, false)
}

fn reported_of(kind: Kind, notify: Option<Notify>, reply: Option<&str>, is_late: bool) -> Option<String> {
    reported_with(original(notify), kind, reply, is_late, Vec::new())
}

fn reported_with(
    message: Arc<Message>,
    kind: Kind,
    reply: Option<&str>,
    is_late: bool,
    others: Vec<(u16, Outcome)>,
) -> Option<String> {
    let reporting = Reporting::Now(others);
    let ending = Ending { is_late, reporting, ..ending_of(&message, kind, reply) };
    let id = IdSource::with_random(|| 2).next(ending.now());
    let (notification, content) = Report::of(&ending, Step::NONE)?.notification("relay.example.com", id, None)?;
    assert_eq!(notification.envelope.reverse_path, ReversePath::NULL);
    assert_eq!(notification.envelope.recipients[0].mailbox.as_str(), "bounces@example.com");
    Some(String::from_utf8([content.head, content.body].concat()).unwrap())
}

#[test]
fn a_failure_is_told_in_full() {
    let text = reported(Kind::Failed, None, Some("550 5.1.1 no such user")).unwrap();
    let message = MessageParser::default().parse(&text).unwrap();
    let report = message.content_type().unwrap();
    assert_eq!((report.ctype(), report.subtype()), ("multipart", Some("report")));
    assert_eq!(report.attribute("report-type"), Some("delivery-status"));
    for line in [
        "Reporting-MTA: dns; relay.example.com\r\n",
        "Original-Envelope-Id: login 42\r\n",
        "Arrival-Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n",
        "\r\n\r\nOriginal-Recipient: rfc822;a+2B1@example.org\r\n",
        "Final-Recipient: rfc822; a@example.org\r\n",
        "Action: failed\r\n",
        "Status: 5.1.1\r\n",
        "Remote-MTA: dns; mx.example.org\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n",
        "Content-Type: message/delivery-status\r\n",
        "From: otp@example.com\r\nTo: a@example.org\r\nMessage-ID: <1@example.com>\r\n",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
    assert!(!text.contains("Zebrafish") && !text.contains("Received"), "{text}");
}

#[test]
fn notify_decides() {
    let notify = |success, failure, delay| Some(Notify { success, failure, delay });
    let status = |kind, notify, reply| {
        reported(kind, notify, reply).map(|text| {
            let at = text.find("Status: ").unwrap() + 8;
            text[at..at + 5].to_owned()
        })
    };
    let greylisted = Some("450 4.2.0 Greylisted");
    assert_eq!(status(Kind::Expired, None, greylisted).as_deref(), Some("5.4.7"));
    assert_eq!(status(Kind::Failed, None, None).as_deref(), Some("5.0.0"));
    assert_eq!(status(Kind::AtRisk, notify(false, false, true), greylisted).as_deref(), Some("4.2.0"));
    assert_eq!(status(Kind::Delivered, notify(true, false, false), Some("250 2.0.0 ok")).as_deref(), Some("2.0.0"));
    for (kind, notify) in [
        (Kind::Failed, notify(false, false, false)),
        (Kind::Expired, notify(true, false, true)),
        (Kind::AtRisk, None),
        (Kind::Delivered, None),
        (Kind::Superseded, None),
        (Kind::Cancelled, None),
    ] {
        assert_eq!(status(kind, notify, None), None, "{kind:?}");
    }
}

#[test]
fn who_asked_for_a_time_is_told_when_it_is_over() {
    let notify = |failure, delay| Some(Notify { success: false, failure, delay });
    let late = |notify| reported_of(Kind::AtRisk, notify, Some("450 4.2.0 Greylisted"), true);
    for reported in [late(None), late(notify(true, true))] {
        let text = reported.unwrap();
        for line in ["Action: delayed\r\n", "Status: 4.4.7\r\n", "Will-Retry-Until: ", "the time that was asked for"] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
    assert_eq!((late(notify(true, false)), late(notify(false, false))), (None, None));
}

/// A message to four, the first three of which have ended before.
#[test]
fn one_notification_tells_of_a_whole_message() {
    let mut message = Arc::unwrap_or_clone(original(None));
    for name in ["b", "c", "d"] {
        message.envelope.recipients.push(Recipient::new(Mailbox::parse(&format!("{name}@example.org")).unwrap()));
    }
    let outcome = |kind, reply: &str| Outcome {
        kind,
        at: message.accepted_at,
        reply: Some(reply.into()),
        destination: Some("mx.example.org".into()),
        is_passed_on: false,
    };
    let others = vec![
        (3, outcome(Kind::Failed, "550 5.1.1 no such user")),
        (1, outcome(Kind::Delivered, "250 2.0.0 ok")),
        (2, outcome(Kind::Expired, "450 4.2.0 Greylisted")),
    ];
    let message = Arc::new(message);
    let text = reported_with(message.clone(), Kind::Failed, Some("552 5.2.2 full"), false, others.clone()).unwrap();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing in {text}"));
    assert!(at("Final-Recipient: rfc822; a@example.org\r\n") < at("Status: 5.2.2\r\n"));
    assert!(at("Status: 5.2.2\r\n") < at("\r\n\r\nFinal-Recipient: rfc822; c@example.org\r\n"));
    assert!(at("Final-Recipient: rfc822; c@example.org\r\n") < at("Status: 5.4.7\r\n"));
    assert!(at("Status: 5.4.7\r\n") < at("\r\n\r\nFinal-Recipient: rfc822; d@example.org\r\n"));
    assert!(text.contains("Subject: Not delivered to a@example.org and 2 more\r\n"), "{text}");
    assert!(!text.contains("b@example.org"), "its arrival was not asked for: {text}");
    // The last of them may arrive.
    let text = reported_with(message, Kind::Delivered, Some("250 2.0.0 ok"), false, others).unwrap();
    assert!(text.contains("Subject: Not delivered to c@example.org and 1 more\r\n"), "{text}");
    assert_eq!(text.matches("Action: failed\r\n").count(), 2);
}

#[test]
fn a_notification_has_a_bound() {
    let mut message = Arc::unwrap_or_clone(original(None));
    for number in 0..999 {
        let mailbox = Mailbox::parse(&format!("a{number}@example.org")).unwrap();
        message.envelope.recipients.push(Recipient::new(mailbox));
    }
    let outcome = Outcome {
        kind: Kind::Failed,
        at: message.accepted_at,
        reply: Some("x".repeat(512).into()),
        destination: None,
        is_passed_on: false,
    };
    let others = (1..1000).map(|index| (index, outcome.clone())).collect();
    let text = reported_with(Arc::new(message), Kind::Failed, None, false, others).unwrap();
    assert_eq!(text.matches("Action: failed\r\n").count(), 100);
    assert!(text.contains("There are 900 more recipients") && text.len() < 200_000, "{}", text.len());
}

#[test]
fn a_digest_lists_what_was_gathered() {
    let ids = IdSource::with_random(|| 4);
    let since = Timestamp::from_millis(1_795_255_200_000);
    let gathered = Digest {
        to: Mailbox::parse("otp@app.test").unwrap(),
        user: "shop".into(),
        listed: (0..100).map(|_| ids.next(since)).collect(),
        more: 395,
        since,
    };
    let (message, content) =
        digest(&gathered, "relay.example.com", ids.next(since), None, (since, Step::NONE)).unwrap();
    assert_eq!(message.envelope.reverse_path, ReversePath::NULL);
    let text = MessageParser::default()
        .parse(&[content.head, content.body].concat())
        .unwrap()
        .body_text(0)
        .unwrap()
        .into_owned();
    assert_eq!(text.lines().filter(|line| line.starts_with("    ")).count(), 100);
    assert!(text.contains("of 495 messages") && text.contains("and 395 more"), "{text}");
    assert!(gathered.listed.iter().all(|id| text.contains(&id.to_string())));
}

#[test]
fn no_line_is_too_long_whatever_the_host_said() {
    let reply = format!("550 5.1.1 {}\u{fc}{}", "x".repeat(489), "y".repeat(8000));
    let text = reported(Kind::Failed, None, Some(&reply)).unwrap();
    assert!(
        text.lines().all(|line| line.len() <= 998)
            && text.contains("xxxx")
            && !text.contains('y'.to_string().repeat(9).as_str())
    );
}

/// A host without 8BITMIME takes it, and one without SMTPUTF8 unless the sender's local part needs that.
#[test]
fn a_notification_is_clean() {
    let head = "From: Gr\u{fc}\u{df}e <otp@example.com>\r\nTo: \u{e4}@example.org\r\n".as_bytes();
    for (sender, recipient, is_ascii) in [
        ("bounces@example.com", "a@example.org", true),
        ("bounces@b\u{fc}cher.example", "a@b\u{fc}cher.example", true),
        ("bounces@example.com", "\u{e4}@example.org", true),
        ("\u{e4}@example.com", "a@example.org", false),
    ] {
        let envelope = Envelope {
            reverse_path: ReversePath::parse(&format!("<{sender}>")).unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(recipient).unwrap())],
        };
        let base = original(None);
        let returned_fields = returned_fields(head, &envelope);
        let message = Arc::new(Message { envelope, returned_fields, ..Message::clone(&base) });
        let ending = ending_of(&message, Kind::Failed, Some("550 5.1.1 unbekannter Empf\u{e4}nger"));
        let id = IdSource::with_random(|| 2).next(ending.now());
        let report = Report::of(&ending, Step::NONE).unwrap();
        let (notification, content) = report.notification("relay.example.com", id, None).unwrap();
        let text = String::from_utf8([content.head.as_ref(), content.body.as_ref()].concat()).unwrap();
        assert_eq!((notification.eight_bit, notification.utf8_fields), (!is_ascii, !is_ascii), "{text}");
        assert_eq!(notification.envelope.parameters.smtputf8, !is_ascii, "{text}");
        assert_eq!(text.is_ascii(), is_ascii, "{text}");
        let parsed = MessageParser::default().parse(&text).unwrap();
        assert!(parsed.body_text(0).unwrap().contains("Empf\u{e4}nger"), "{text}");
        assert_eq!(text.contains("unbekannter Empf?nger"), recipient.starts_with('a'));
    }
}

/// The machine's clock was ahead by a day when it started, and was set right since.
#[test]
fn its_times_are_the_wall_clocks() {
    let step = Step::ahead_by_millis(-86_400_000);
    let delay = Notify { delay: true, ..Notify::default() };
    let message = original(Some(delay));
    let ending = ending_of(&message, Kind::AtRisk, Some("450 4.2.0 Greylisted"));
    let ids = IdSource::with_random(|| 2);
    let (_, content) =
        Report::of(&ending, step).unwrap().notification("relay.example.com", ids.next(ending.now()), None).unwrap();
    let text = String::from_utf8([content.head, content.body].concat()).unwrap();
    for line in [
        "\r\nDate: Fri, 20 Nov 2026 10:10:00 +0000\r\n",
        "Arrival-Date: Fri, 20 Nov 2026 10:00:00 +0000\r\n",
        "Last-Attempt-Date: Fri, 20 Nov 2026 10:10:00 +0000\r\n",
        "Will-Retry-Until: Fri, 20 Nov 2026 10:10:00 +0000\r\n",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
    let (to, since) = (Mailbox::parse("otp@app.test").unwrap(), ending.now());
    let gathered = Digest { to, user: "shop".into(), listed: vec![message.id], more: 0, since };
    let (_, content) = digest(&gathered, "relay.example.com", ids.next(since), None, (since, step)).unwrap();
    let text = String::from_utf8([content.head, content.body].concat()).unwrap();
    assert!(
        text.contains("\r\nDate: Fri, 20 Nov 2026 10:10:00 +0000\r\n") && text.contains("Fri, 20 Nov 2026"),
        "{text}"
    );
}
