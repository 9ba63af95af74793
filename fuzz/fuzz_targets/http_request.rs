//! Whatever comes over a connection to the API is answered. What is accepted keeps the limits that hold by SMTP too, goes
//! to whom `to` names and to nobody else, comes from whom the token may send as, and says what was asked for, in fields
//! that the relay chose; every refusal is a problem that quotes nothing secret.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mail_parser::MessageParser;
use otp_relay::testing::intake::options::LIFE;
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::mail::address::Mailbox;
use otp_relay::testing::mail::id::MessageId;
use otp_relay::testing::smtp::data::line_fault;
use otp_relay_fuzz::api::{BENCH, Bench, RECIPIENTS_MAX, SECRET, SIZE_MAX, STAMP_MAX, converse, taken_apart};
use otp_relay_fuzz::choice;
use otp_relay_fuzz::relay::user;
use serde_json::Value;

const COMPOSED: [&str; 12] = [
    "Received",
    "From",
    "To",
    "Cc",
    "Reply-To",
    "Subject",
    "Message-ID",
    "Date",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// All texts that JSON has under this name, one or many.
fn texts<'a>(body: &'a Value, name: &str) -> Vec<&'a str> {
    match body.get(name) {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn check_problem(status: u16, problem: &[u8], request: &[u8], may_quote: bool) {
    let problem: Value = serde_json::from_slice(problem).expect("a problem is JSON");
    assert_eq!(problem["status"], status);
    assert!(problem["type"].as_str().is_some_and(|name| name.starts_with("urn:otp-relay:")));
    let detail = problem["detail"].as_str().expect("a problem has a detail");
    assert!(!detail.is_empty() && !detail.contains(char::is_control), "{detail:?}");
    let body: Value = serde_json::from_slice(request).unwrap_or_default();
    let in_addresses = ["to", "cc", "bcc", "reply_to", "from"]
        .iter()
        .flat_map(|name| texts(&body, name))
        .any(|text| text.contains(SECRET));
    assert!(may_quote || in_addresses || !detail.contains(SECRET), "{detail}");
}

fn addresses(address: Option<&mail_parser::Address<'_>>) -> Vec<String> {
    address.into_iter().flat_map(|list| list.iter()).filter_map(|one| one.address()).map(str::to_owned).collect()
}

/// Without what folding may change.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn check_accepted(message: &Message, content: &[u8], body: &Value) {
    assert_eq!(line_fault(content), None);
    assert!(!content.contains(&0) && content.len() <= SIZE_MAX + STAMP_MAX);
    let life = message.expires_at.since(message.accepted_at);
    assert!(life <= LIFE.1 && !life.is_zero());
    let is_printable =
        |text: &Option<Arc<str>>| text.as_ref().is_none_or(|text| text.bytes().all(|b| (b' '..=b'~').contains(&b)));
    assert!(is_printable(&message.tag) && is_printable(&message.key));
    let sender = message.envelope.reverse_path.mailbox().expect("there is a sender");
    assert!(
        user().may_send_as(sender, |_| false) && texts(body, "from").iter().any(|from| from.contains(sender.as_str()))
    );
    let recipients: Vec<&Mailbox> = message.envelope.recipients.iter().map(|recipient| &recipient.mailbox).collect();
    assert!((1..=RECIPIENTS_MAX).contains(&recipients.len()));
    for recipient in &recipients {
        let named =
            ["to", "cc", "bcc"].iter().flat_map(|name| texts(body, name)).any(|to| to.contains(recipient.as_str()));
        assert!(named, "{recipient}");
    }

    let read = MessageParser::default().parse(content).expect("it can be read");
    let names: Vec<&str> = read.headers().iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| name.eq_ignore_ascii_case("from")).count(), 1);
    for author in addresses(read.from()) {
        let author = Mailbox::parse(&author).expect("authors have been read");
        assert!(user().may_send_as(&author, |_| false));
    }
    if body.get("raw").is_some_and(Value::is_string) {
        return;
    }
    let has_own = ["headers", "attachments"].iter().any(|name| body.get(name).is_some_and(|value| !value.is_null()));
    for name in names.iter().filter(|_| !has_own) {
        assert!(COMPOSED.contains(name) && names.iter().filter(|other| *other == name).count() == 1, "{name}");
    }
    // Domains are written in A-labels, so that no host needs SMTPUTF8 for them.
    let written = |mailbox: &Mailbox| mailbox.to_ascii().unwrap_or_else(|| mailbox.as_str().to_owned());
    assert_eq!(addresses(read.from()), [written(sender)]);
    assert!(addresses(read.to()).iter().all(|to| recipients.iter().any(|recipient| written(recipient) == *to)));
    assert!(!names.iter().any(|name| name.eq_ignore_ascii_case("bcc")));
    if let Some(subject) = body.get("subject").and_then(Value::as_str) {
        assert_eq!(squeezed(read.subject().unwrap_or_default()), squeezed(subject));
    }
    if let Some(text) = body.get("text").and_then(Value::as_str) {
        let read = read.body_text(0).expect("there is a text");
        assert_eq!(squeezed(&read), squeezed(text));
    }
}

fuzz_target!(|input: &[u8]| {
    let (bits, input) = choice(input);
    let Bench { runtime, relay, api, .. } = &*BENCH;
    // By bits: a connection as it is; without a token; the operator's token.
    if bits & 1 != 0 {
        runtime.block_on(converse(api, input));
        return;
    }
    let end = input.iter().position(|octet| *octet == b'\n').unwrap_or(input.len());
    let (line, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let token = match bits & 6 {
        0 => "Authorization: Bearer shop-token\r\n",
        2 => "Authorization: Bearer operator-token\r\n",
        _ => "",
    };
    let length = body.len();
    let head = format!(" HTTP/1.1\r\nHost: relay\r\n{token}Connection: close\r\nContent-Length: {length}\r\n\r\n");
    let answer = runtime.block_on(converse(api, &[line, head.as_bytes(), body].concat()));
    let Some((status, content_type, answer)) = taken_apart(&answer) else {
        assert!(answer.is_empty());
        return;
    };
    if status >= 400 && !answer.is_empty() {
        assert_eq!(content_type, "application/problem+json");
        // Whoever writes a secret into the address has told it to every proxy's log.
        let is_in_line = line.windows(SECRET.len()).any(|octets| octets == SECRET.as_bytes());
        check_problem(status, &answer, body, is_in_line);
    }
    assert!(!token.is_empty() || status >= 400 || !line.windows(3).any(|octets| octets == b"/v1"));
    let id = serde_json::from_slice::<Value>(&answer).ok();
    let id = id.as_ref().filter(|_| line.starts_with(b"POST /v1/messages")).and_then(|answer| answer["id"].as_str());
    if let Some(id) = id.and_then(|id| id.parse::<MessageId>().ok()).filter(|_| matches!(status, 200 | 202)) {
        let (message, content) = relay.taken(id);
        relay.forget(id);
        check_accepted(&message, &content, &serde_json::from_slice(body).expect("what is accepted is JSON"));
    }
    // Codes of verifications are the relay's own; those of quiet ones come a little later.
    for live in relay.queue.list(&Filter::default(), 100).messages {
        if live.message.verification.is_some() {
            relay.forget(live.message.id);
        }
    }
    assert_eq!(relay.queue.depth().messages, 0, "nothing else is in the queue");
});
