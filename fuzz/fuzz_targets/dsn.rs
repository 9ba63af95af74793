//! A notification says what the relay means whatever mail host and app said: mail-parser reads three parts, with no field
//! in them that is not one of ours, and nothing goes to anybody but the sender.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use otp_relay::testing::event::{Attempted, Event, Happened, Kind, Suppress};
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::mail::envelope::Envelope;
use otp_relay::testing::mail::message::fields;
use otp_relay::testing::queue::{Ending, Reporting};
use otp_relay::testing::smtp::command::Command;
use otp_relay::testing::smtp::data::line_fault;
use otp_relay::testing::smtp::reply::parse_reply;
use otp_relay::testing::smtp::server_session::{Protocol, Submission};
use otp_relay_fuzz::choice;
use otp_relay_fuzz::relay::{NOW, Relay, runtime, user};
use tokio::runtime::Runtime;

static BENCH: LazyLock<(Runtime, Relay)> = LazyLock::new(|| (runtime(), Relay::new()));

const KINDS: [Kind; 4] = [Kind::Failed, Kind::Expired, Kind::AtRisk, Kind::Delivered];
const FIELDS: [&str; 11] = [
    "Reporting-MTA",
    "Original-Envelope-Id",
    "Arrival-Date",
    "Original-Recipient",
    "Final-Recipient",
    "Action",
    "Status",
    "Remote-MTA",
    "Diagnostic-Code",
    "Last-Attempt-Date",
    "Will-Retry-Until",
];

/// MAIL and RCPT, each on a line; then content.
fn submission(input: &[u8]) -> Option<(Submission, &[u8])> {
    let mut lines = input.splitn(4, |octet| *octet == b'\n');
    let (mail, rcpt) = (lines.next()?, lines.next()?);
    let (reply, content) = (lines.next()?, lines.next()?);
    let (Ok(Command::Mail(mail)), Ok(Command::Rcpt(recipient))) = (Command::parse(mail), Command::parse(rcpt)) else {
        return None;
    };
    let envelope =
        Envelope { reverse_path: mail.reverse_path, parameters: mail.parameters, recipients: vec![recipient] };
    let protocol = Protocol { extended: true, utf8: true, encrypted: true, authenticated: true, http: false };
    let content = Bytes::copy_from_slice(content);
    Some((Submission { envelope, content, client_name: "app".to_owned(), protocol }, reply))
}

fn check(original: &Message, notification: &Message, content: &[u8]) {
    assert_eq!(line_fault(content), None);
    assert_eq!(notification.envelope.reverse_path.mailbox(), None);
    let to: Vec<_> = notification.envelope.recipients.iter().map(|to| &to.mailbox).collect();
    assert_eq!(to, original.envelope.reverse_path.mailbox().into_iter().collect::<Vec<_>>());
    assert!(content.split(|octet| *octet == b'\n').all(|line| line.len() <= 999), "a line is too long");

    let message = MessageParser::default().parse(content).expect("it can be read");
    let names: Vec<&str> = message.headers().iter().map(|header| header.name.as_str()).collect();
    for name in &names {
        let known = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"];
        assert!(known.contains(name) && names.iter().filter(|other| *other == name).count() == 1, "{name}");
    }
    let content_type = message.content_type().expect("it has a type");
    assert_eq!((content_type.ctype(), content_type.subtype()), ("multipart", Some("report")));
    assert_eq!(message.parts.len(), 4);
    let text = |number: usize| match &message.parts[number].body {
        PartType::Text(text) => text.to_string(),
        PartType::Binary(octets) => String::from_utf8_lossy(octets).into_owned(),
        other => panic!("part {number} is {other:?}"),
    };
    let status = text(2);
    let groups: Vec<&str> = status.trim_end().split("\r\n\r\n").collect();
    assert_eq!(groups.len(), 2, "{status}");
    for group in groups {
        let lines = format!("{group}\r\n");
        let mut read = 0;
        for field in fields(lines.as_bytes()) {
            let name = String::from_utf8_lossy(field.name).into_owned();
            assert!(FIELDS.contains(&&*name), "{name}");
            assert_eq!(fields(lines.as_bytes()).filter(|other| other.is(&name)).count(), 1, "{name}");
            read += field.raw.len();
        }
        assert_eq!(read, lines.len(), "{status}");
    }
    for field in fields(text(3).as_bytes()) {
        assert!(["Date", "From", "To", "Message-ID"].iter().any(|name| field.is(name)));
    }
}

fuzz_target!(|input: &[u8]| {
    let (choice, input) = choice(input);
    let Some((submission, reply)) = submission(input) else { return };
    if line_fault(&submission.content).is_some() || submission.content.contains(&0) {
        return;
    }
    let (runtime, relay) = &*BENCH;
    let user = user();
    let submitted = relay.door.submit(&user, submission, Options::default(), None);
    let Ok(receipt) = runtime.block_on(submitted) else { return };
    let (message, _) = relay.taken(receipt.id);
    let reply = parse_reply(&[reply, b"\r\n"].concat()).ok().flatten().map(|(reply, _)| reply.to_string());
    let (destination, reply) = (Some("mx.example".into()), reply.map(Arc::from));
    let attempted = Attempted { destination, reply, ..Attempted::default() };
    let what = Happened::of(KINDS[usize::from(choice) % KINDS.len()], attempted, None);
    let ending = Ending {
        message: message.clone(),
        event: Event { head: message.entry_head(0, 1, NOW), what },
        suppress: Suppress::No,
        was_sent: true,
        is_passed_on: choice & 4 != 0,
        is_late: choice & 8 != 0,
        reporting: Reporting::Now(Vec::new()),
    };
    let notification = relay.door.aftermath().entailed(&ending).notification;
    relay.forget(receipt.id);
    if let Some((notification, content)) = notification {
        check(&message, &notification, &[content.head, content.body].concat());
    }
});
