//! Delivery status notifications (RFC 3464): what the reverse-path is told of an entry that failed, expired, is late or,
//! if asked for, arrived.

use std::sync::Arc;

use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};

use crate::event::Kind;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Notify, Recipient};
use crate::mail::id::MessageId;
use crate::mail::long_lines::quoted_printable;
use crate::mail::message::{Content, fields};
use crate::mail::text::one_line;
use crate::queue::Ending;
use crate::queue::entry::Message;
use crate::smtp::reply::EnhancedCode;

/// Fields of the original that are returned; its subject is none of them.
const RETURNED: [&str; 4] = ["Date", "From", "To", "Message-ID"];
/// Longest field that is returned.
const FIELD_LEN_MAX: usize = 998;
/// What is told of a reply, in octets, for no line may be longer than 998 (RFC 5322 section 2.1.1).
const REPLY_LEN_MAX: usize = 500;

/// What becomes of an entry, in the words of RFC 3464 section 2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Failed,
    Delayed,
    Relayed,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// What of the header section is kept for a notification; nothing where none can be asked for.
pub(super) fn returned_fields(head: &[u8], envelope: &Envelope) -> Option<Arc<str>> {
    let nothing = Notify::default();
    let is_wanted = envelope.recipients.iter().any(|recipient| recipient.notify != Some(nothing));
    if envelope.reverse_path.mailbox().is_none() || !is_wanted {
        return None;
    }
    let mut kept = String::new();
    for field in fields(head) {
        let is_returned = field.raw.len() <= FIELD_LEN_MAX && RETURNED.iter().any(|name| field.is(name));
        if is_returned && let Ok(text) = std::str::from_utf8(field.raw) {
            kept.push_str(text);
        }
    }
    Some(kept.into())
}

/// The notification that an ending calls for, if any, as a message of its own.
pub(super) fn notification(
    ending: &Ending<'_>,
    hostname: &str,
    id: MessageId,
    signing_domain: Option<Arc<str>>,
) -> Option<(Arc<Message>, Content)> {
    let original = ending.message;
    let sender = original.envelope.reverse_path.mailbox()?;
    let recipient = original.recipient(ending.index);
    let action = action(ending, recipient.notify).filter(|action| {
        // Whoever takes a message and offers DSN takes on the duty to report its arrival.
        !(*action == Action::Relayed && ending.is_passed_on)
    })?;
    let content = content(ending, action, hostname, id, sender)?;
    let envelope = Envelope {
        reverse_path: ReversePath::NULL,
        parameters: MailParameters { smtputf8: !sender.has_ascii_local_part(), ..MailParameters::default() },
        recipients: vec![Recipient::new(sender.clone())],
    };
    let life = ending.now..ending.now.plus(super::wishes::LIFE.1);
    let message = Message {
        lane: crate::lane::Lane::Notice,
        size: content.len() as u64,
        eight_bit: !content.is_ascii(),
        utf8_fields: envelope.parameters.smtputf8 && !content.head.is_ascii(),
        signing_domain,
        ..Message::new(id, original.user.clone(), envelope, life)
    };
    Some((Arc::new(message), content))
}

/// Without NOTIFY, failures only (RFC 3461 section 5.2.5), and delays where `BY=;N` asks for them (RFC 2852 section 4).
/// What a newer message or the app itself ended is no failure.
fn action(ending: &Ending<'_>, notify: Option<Notify>) -> Option<Action> {
    let (kind, delay) = (ending.kind, ending.is_late);
    let notify = notify.unwrap_or(Notify { failure: true, delay, success: false });
    let is_failure = matches!(kind, Kind::Failed | Kind::Expired);
    let actions = [
        (is_failure && notify.failure, Action::Failed),
        (kind == Kind::AtRisk && notify.delay, Action::Delayed),
        (kind == Kind::Delivered && notify.success, Action::Relayed),
    ];
    actions.into_iter().find(|(applies, _)| *applies).map(|(_, action)| action)
}

fn content(ending: &Ending<'_>, action: Action, hostname: &str, id: MessageId, sender: &Mailbox) -> Option<Content> {
    let recipient = ending.message.recipient(ending.index);
    let is_utf8 = !recipient.mailbox.has_ascii_local_part();
    let part = |content_type: &'static str, text: String| {
        let (encoding, text) = if text.is_ascii() { ("7bit", text) } else { ("quoted-printable", encoded(&text)) };
        MimePart::raw("").header("Content-Type", Raw::new(content_type)).transfer_encoding(encoding).body_text(text)
    };
    let (status, headers) = if is_utf8 {
        ("message/global-delivery-status", "message/global-headers")
    } else {
        ("message/delivery-status", "text/rfc822-headers")
    };
    let fields = status_fields(ending, action, hostname);
    let parts = vec![
        part("text/plain; charset=utf-8", explanation(ending, action, hostname)),
        // The type for ASCII addresses may not be encoded (RFC 3464 section 2.1).
        part(status, if is_utf8 { fields } else { in_ascii(&fields) }),
        part(headers, ending.message.returned_fields.as_deref().unwrap_or_default().to_owned()),
    ];
    let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
    let seconds = i64::try_from(ending.now.as_secs()).unwrap_or(0);
    let message = MessageBuilder::new()
        .from(("Mail Delivery".to_owned(), format!("MAILER-DAEMON@{hostname}")))
        .to(sender.to_ascii().unwrap_or_else(|| sender.as_str().to_owned()))
        .subject(subject(action, &recipient.mailbox))
        .date(Date::new(seconds))
        .message_id(format!("{id}@{hostname}"))
        .header("Auto-Submitted", Raw::new("auto-replied"))
        .body(MimePart::new(report, BodyPart::Multipart(parts)));
    message.write_to_vec().ok().map(|octets| Content::split(Bytes::from(octets)))
}

fn encoded(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len() * 2);
    quoted_printable(text.as_bytes(), &mut octets);
    // Quoted-printable is ASCII.
    String::from_utf8(octets).unwrap_or_default()
}

/// Text for a field that takes nothing but ASCII.
fn in_ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// A part whose body is set after its header fields, so that no type is made up for it.
trait WithText {
    fn body_text(self, text: String) -> Self;
}

impl WithText for MimePart<'_> {
    fn body_text(mut self, text: String) -> Self {
        self.contents = BodyPart::Text(text.into());
        self
    }
}

fn subject(action: Action, recipient: &Mailbox) -> String {
    match action {
        Action::Failed => format!("Not delivered to {recipient}"),
        Action::Delayed => format!("Delayed on the way to {recipient}"),
        Action::Relayed => format!("Delivered to the mail host of {recipient}"),
    }
}

fn explanation(ending: &Ending<'_>, action: Action, hostname: &str) -> String {
    let recipient = &ending.message.recipient(ending.index).mailbox;
    let what = match (action, ending.kind) {
        (Action::Failed, Kind::Expired) => "expired before it could be delivered, and will not be sent any more",
        (Action::Failed, _) => "was not delivered, and will not be tried again",
        (Action::Delayed, _) if ending.is_late => {
            "was not delivered within the time that was asked for; delivery is still being tried"
        }
        (Action::Delayed, _) => "may not arrive in time; delivery is still being tried",
        (Action::Relayed, _) => "was taken by the recipient's mail host",
    };
    let mut text = format!("This is {hostname}.\r\n\r\nThe message for {recipient} {what}.\r\n");
    if let Some(reply) = shortened(ending) {
        let host = ending.destination.as_deref().unwrap_or("the mail host");
        text.push_str(&format!("\r\nWhat {host} said last:\r\n    {reply}\r\n"));
    }
    text
}

fn shortened<'a>(ending: &'a Ending<'_>) -> Option<&'a str> {
    ending.reply.as_deref().map(|reply| &reply[..reply.floor_char_boundary(REPLY_LEN_MAX)])
}

/// RFC 3464 sections 2.2 and 2.3.
fn status_fields(ending: &Ending<'_>, action: Action, hostname: &str) -> String {
    let message = ending.message;
    let recipient = message.recipient(ending.index);
    let mut fields = vec![("Reporting-MTA", format!("dns; {hostname}"))];
    fields.extend(message.envelope.parameters.envid.clone().map(|envid| ("Original-Envelope-Id", decoded(&envid))));
    fields.push(("Arrival-Date", message.accepted_at.rfc5322()));
    fields.push(("", String::new()));
    fields.extend(recipient.orcpt.clone().map(|orcpt| ("Original-Recipient", orcpt)));
    let address = match recipient.mailbox.to_ascii() {
        Some(address) => format!("rfc822; {address}"),
        None => format!("utf-8; {}", recipient.mailbox),
    };
    fields.push(("Final-Recipient", address));
    fields.push(("Action", action.name().to_owned()));
    let EnhancedCode(class, subject, detail) = status(ending, action);
    fields.push(("Status", format!("{class}.{subject}.{detail}")));
    if let Some(reply) = shortened(ending) {
        fields.extend(ending.destination.as_deref().map(|host| ("Remote-MTA", format!("dns; {host}"))));
        let is_reply = reply.bytes().take(3).filter(u8::is_ascii_digit).count() == 3;
        let kind = if is_reply { "smtp" } else { "x-otp-relay" };
        fields.push(("Diagnostic-Code", format!("{kind}; {reply}")));
    }
    fields.push(("Last-Attempt-Date", ending.now.rfc5322()));
    if action == Action::Delayed {
        fields.push(("Will-Retry-Until", message.expires_at.rfc5322()));
    }
    let line = |(name, value): (&str, String)| if name.is_empty() { "\r\n".into() } else { folded(name, &value) };
    fields.into_iter().map(line).collect()
}

/// The code that the host gave, if it speaks of the same outcome; else our own (RFC 3463).
fn status(ending: &Ending<'_>, action: Action) -> EnhancedCode {
    let class = match action {
        Action::Failed => 5,
        Action::Delayed => 4,
        Action::Relayed => 2,
    };
    let of_host = ending
        .reply
        .as_deref()
        .and_then(|reply| reply.split_once(' '))
        .and_then(|(_, text)| EnhancedCode::split_from(text));
    match of_host.map(|(code, _)| code) {
        // RFC 2852 section 4: the delivery time has passed.
        _ if ending.is_late => EnhancedCode(4, 4, 7),
        Some(EnhancedCode(given, subject, detail)) if given == class => EnhancedCode(class, subject, detail),
        _ if ending.kind == Kind::Expired => EnhancedCode(5, 4, 7),
        _ if action == Action::Delayed => EnhancedCode(4, 4, 7),
        _ => EnhancedCode(class, 0, 0),
    }
}

/// xtext (RFC 3461 section 4) as it was meant.
fn decoded(xtext: &str) -> String {
    let mut octets = Vec::with_capacity(xtext.len());
    let mut rest = xtext.as_bytes();
    while let Some((&octet, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| octet == b'+').and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                octets.push(value);
                rest = &tail[2..];
            }
            None => {
                octets.push(octet);
                rest = tail;
            }
        }
    }
    one_line(&String::from_utf8_lossy(&octets))
}

/// A field in lines that are not too long.
fn folded(name: &str, value: &str) -> String {
    let mut field = format!("{name}:");
    let mut line_len = field.len();
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        if line_len + word.len() > 76 && line_len > name.len() + 1 {
            field.push_str("\r\n ");
            line_len = 1;
        } else {
            field.push(' ');
            line_len += 1;
        }
        field.push_str(word);
        line_len += word.len();
    }
    field.push_str("\r\n");
    field
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders as _};

    use super::*;
    use crate::clock::Timestamp;
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

    fn ending_of(message: &Arc<Message>, kind: Kind) -> Ending<'_> {
        Ending {
            message,
            index: 0,
            kind,
            cause: None,
            reply: None,
            destination: Some("mx.example.org".into()),
            suppress: Default::default(),
            was_sent: false,
            is_passed_on: false,
            is_late: false,
            now: message.accepted_at.plus(std::time::Duration::from_secs(600)),
        }
    }

    fn told(kind: Kind, notify: Option<Notify>, reply: Option<&str>) -> Option<String> {
        told_of(kind, notify, reply, false)
    }

    fn told_of(kind: Kind, notify: Option<Notify>, reply: Option<&str>, is_late: bool) -> Option<String> {
        let message = original(notify);
        let ending = Ending { reply: reply.map(Arc::from), is_late, ..ending_of(&message, kind) };
        let id = IdSource::with_random(|| 2).next(ending.now);
        let (notification, content) = notification(&ending, "relay.example.com", id, None)?;
        assert_eq!(notification.envelope.reverse_path, ReversePath::NULL);
        assert_eq!(notification.envelope.recipients[0].mailbox.as_str(), "bounces@example.com");
        Some(String::from_utf8([content.head, content.body].concat()).unwrap())
    }

    #[test]
    fn a_failure_is_told_in_full() {
        let text = told(Kind::Failed, None, Some("550 5.1.1 no such user")).unwrap();
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
            told(kind, notify, reply).map(|text| {
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
        let late = |notify| told_of(Kind::AtRisk, notify, Some("450 4.2.0 Greylisted"), true);
        for told in [late(None), late(notify(true, true))] {
            let text = told.unwrap();
            for line in
                ["Action: delayed\r\n", "Status: 4.4.7\r\n", "Will-Retry-Until: ", "the time that was asked for"]
            {
                assert!(text.contains(line), "{line} is missing in {text}");
            }
        }
        assert_eq!((late(notify(true, false)), late(notify(false, false))), (None, None));
    }

    #[test]
    fn no_line_is_too_long_whatever_the_host_said() {
        let reply = format!("550 5.1.1 {}\u{fc}{}", "x".repeat(489), "y".repeat(8000));
        let text = told(Kind::Failed, None, Some(&reply)).unwrap();
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
            let reply = Some("550 5.1.1 unbekannter Empf\u{e4}nger".into());
            let ending = Ending { reply, ..ending_of(&message, Kind::Failed) };
            let id = IdSource::with_random(|| 2).next(ending.now);
            let (notification, content) = notification(&ending, "relay.example.com", id, None).unwrap();
            let text = String::from_utf8([content.head.as_ref(), content.body.as_ref()].concat()).unwrap();
            assert_eq!((notification.eight_bit, notification.utf8_fields), (!is_ascii, !is_ascii), "{text}");
            assert_eq!(notification.envelope.parameters.smtputf8, !is_ascii, "{text}");
            assert_eq!(text.is_ascii(), is_ascii, "{text}");
            let parsed = MessageParser::default().parse(&text).unwrap();
            assert!(parsed.body_text(0).unwrap().contains("Empf\u{e4}nger"), "{text}");
            assert_eq!(text.contains("unbekannter Empf?nger"), recipient.starts_with('a'));
        }
    }
}
