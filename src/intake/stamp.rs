//! What is added to a message: Received, and Date and Message-ID where they are missing (RFC 5321 section 4.4, RFC 6409
//! section 8). And what a message must have to be sent at all.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::refusal::Refusal;
use crate::base::clock::Timestamp;
use crate::mail::address::Mailbox;
use crate::mail::authors::{Authors, AuthorsError};
use crate::mail::id::MessageId;
use crate::mail::long_lines::{self, LongLine};
use crate::mail::message::{Content, Field, fields, wiped, without_space_before_colons};
use crate::smtp::server_session::Protocol;

/// Received fields from which on a message counts as going round in circles (RFC 5321 section 6.3 asks for at least
/// 100 where nothing else is known; nothing passes this many hosts on its way to a person).
const HOPS_MAX: usize = 50;
/// Octets of a header section, and fields in it. Every field is looked at several times before a message is taken; one to a
/// person has some dozen.
const HEAD_LEN_MAX: usize = 128 << 10;
const FIELDS_MAX: usize = 1000;
/// Octets of a Message-ID field that is told of.
const MESSAGE_ID_LEN_MAX: usize = 512;
/// Fields that do not leave.
const DROPPED: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];
/// In front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the header section says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) from: Authors,
    has_date: bool,
    /// The Message-ID field; empty where it is no text, or a long one.
    message_id: Option<Arc<str>>,
}

/// Reads what matters of the header section.
pub(super) fn read(head: &[u8]) -> Result<Header, Refusal> {
    let mut header = Header { from: Authors::default(), has_date: false, message_id: None };
    let mut hops = 0;
    let mut has_from = false;
    for (number, field) in fields(head).enumerate() {
        if number >= FIELDS_MAX {
            return Err(Refusal::Message("more than 1000 header fields"));
        }
        if field.is("From") {
            if has_from {
                return Err(Refusal::Message("more than one From field"));
            }
            has_from = true;
            header.from = Authors::read(field.value)?;
        } else if field.is("Date") {
            header.has_date = true;
        } else if field.is("Message-ID") {
            let text = field.text().filter(|text| text.len() <= MESSAGE_ID_LEN_MAX);
            header.message_id.get_or_insert_with(|| text.unwrap_or_default().into());
        } else if field.is("Received") {
            hops += 1;
        }
    }
    if hops > HOPS_MAX {
        return Err(Refusal::Loop);
    }
    if !has_from {
        return Err(Refusal::Message("no From field; receivers refuse mail without one"));
    }
    Ok(header)
}

impl From<AuthorsError> for Refusal {
    fn from(error: AuthorsError) -> Self {
        Self::Message(match error {
            AuthorsError::Malformed => "the From field holds no valid address",
            AuthorsError::UnquotedAt => {
                "an unquoted @ in a display or group name of the From field; put the name in quotes"
            }
            AuthorsError::EncodedAddress => "an encoded word in an address of the From field",
        })
    }
}

/// Whether content begins with a header field. What else begins a message is a sign that it is no message, and programs
/// disagree about the fields behind it.
pub(super) fn check_first_line(content: &[u8]) -> Result<(), Refusal> {
    if content.is_empty() || content.starts_with(b"\r\n") || fields(content).next().is_some() {
        return Ok(());
    }
    Err(Refusal::Message(if content.starts_with(BYTE_ORDER_MARK) {
        "the first line is no header field: a byte-order mark stands before it"
    } else if content.starts_with(b"From ") || content.starts_with(b">From ") {
        "the first line is no header field but the line that separates messages in a mailbox file"
    } else {
        "the first line is no header field"
    }))
}

/// The header section without the fields that are nobody's business but the sender's (Bcc), or that only the last host
/// writes (Return-Path).
pub(super) fn without_private_fields(head: Bytes) -> Bytes {
    let is_dropped = |field: &Field<'_>| DROPPED.iter().any(|name| field.is(name));
    if !fields(&head).any(|field| is_dropped(&field)) {
        return head;
    }
    let mut rest = BytesMut::with_capacity(head.len());
    for field in fields(&head).filter(|field| !is_dropped(field)) {
        rest.put_slice(field.raw);
    }
    rest.freeze()
}

/// Whether the header section of content is small enough to be looked at.
pub(super) fn check_size(content: &[u8]) -> Result<(), Refusal> {
    let head_len: usize = fields(content).map(|field| field.raw.len()).sum();
    if head_len <= HEAD_LEN_MAX { Ok(()) } else { Err(Refusal::Message("a header section of more than 128 KiB")) }
}

/// What is done about lines of more than 998 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongLines {
    /// They are encoded, or folded, so that the message says the same.
    #[default]
    Encode,
    /// They are refused.
    Refuse,
}

/// Content without long lines, and whether that took encoding.
pub(super) fn without_long_lines(content: Bytes, policy: LongLines) -> Result<(Bytes, bool), Refusal> {
    let Some(number) = long_lines::first(&content) else { return Ok((content, false)) };
    if policy == LongLines::Refuse {
        return Err(Refusal::LongLine { number, why: "and submission.long_lines is \"refuse\"" });
    }
    let refused = |LongLine { number, why }| Refusal::LongLine { number, why };
    long_lines::shortened(&content).map(|content| (content, true)).map_err(refused)
}

/// What goes into the Received field.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    pub(super) hostname: &'a str,
    /// The client's name and address, where they may be told.
    pub(super) client: Option<String>,
    pub(super) protocol: Protocol,
    pub(super) id: MessageId,
    pub(super) now: Timestamp,
}

/// The Message-ID field: the app's, or the one that [`stamp`] adds.
pub(super) fn message_id(header: &Header, trace: &Trace<'_>) -> Arc<str> {
    let made = || {
        let domain = header.from.mailboxes.first().map_or_else(|| trace.hostname.to_owned(), Mailbox::domain_key);
        trace.id.header_field(&domain).into()
    };
    header.message_id.clone().unwrap_or_else(made)
}

/// Puts the added fields in front.
pub(super) fn stamp(content: Content, header: &Header, trace: &Trace<'_>) -> Content {
    let mut head = BytesMut::with_capacity(content.head.len() + 320);
    let from = trace.client.as_deref().map(|client| format!("from {client}\r\n\t")).unwrap_or_default();
    let received = format!(
        "Received: {from}by {} (otp-relay) with {} id {};\r\n\t{}\r\n",
        trace.hostname,
        trace.protocol.keyword(),
        trace.id,
        trace.now.rfc5322()
    );
    head.put_slice(received.as_bytes());
    if !header.has_date {
        head.put_slice(format!("Date: {}\r\n", trace.now.rfc5322()).as_bytes());
    }
    if header.message_id.is_none() {
        head.put_slice(format!("Message-ID: {}\r\n", message_id(header, trace)).as_bytes());
    }
    head.put_slice(&without_space_before_colons(content.head));
    Content { head: wiped(head), body: with_separator(content.body) }
}

/// A message of nothing but fields still has an empty line behind them, or the first line of something added later
/// would be taken for a field.
fn with_separator(body: Bytes) -> Bytes {
    if body.is_empty() { Bytes::from_static(b"\r\n") } else { body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::IdSource;

    const ESMTPSA: Protocol =
        Protocol { extended: true, utf8: false, encrypted: true, authenticated: true, http: false };

    fn stamped(text: &'static str, client: Option<&str>) -> String {
        let content = Content::split(text.into());
        let header = read(&content.head).unwrap();
        let now = Timestamp::from_millis(1_795_255_200_000);
        let id = IdSource::with_random(|| 0).next(now);
        let client = client.map(str::to_owned);
        let trace = Trace { hostname: "relay.example.com", client, protocol: ESMTPSA, id, now };
        let content = stamp(content, &header, &trace);
        String::from_utf8([content.head, content.body].concat()).unwrap()
    }

    #[test]
    fn what_is_missing_is_added() {
        assert_eq!(
            stamped("From: App <otp@example.com>\r\n\r\nhi\r\n", None),
            "Received: by relay.example.com (otp-relay) with ESMTPSA id 01M7YRRT800000000000000000;\r\n\
             \tSat, 21 Nov 2026 10:00:00 +0000\r\n\
             Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n\
             Message-ID: <01M7YRRT800000000000000000@example.com>\r\n\
             From: App <otp@example.com>\r\n\r\nhi\r\n"
        );
        let complete = stamped("From: a@example.com\r\nDate: x\r\nMessage-Id: <1>\r\n\r\n", Some("app ([192.0.2.1])"));
        assert!(complete.starts_with("Received: from app ([192.0.2.1])\r\n\tby relay"));
        assert!(complete.ends_with("+0000\r\nFrom: a@example.com\r\nDate: x\r\nMessage-Id: <1>\r\n\r\n"));
        assert!(stamped("From: a@example.com\r\n", None).ends_with("From: a@example.com\r\n\r\n"));
    }

    fn refused(head: &str) -> Refusal {
        read(head.as_bytes()).unwrap_err()
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        assert_eq!(refused("Subject: x\r\n"), Refusal::Message("no From field; receivers refuse mail without one"));
        assert_eq!(refused("From: a@b.com\r\nFROM: c@d.com\r\n"), Refusal::Message("more than one From field"));
        assert!(matches!(refused("From: nobody\r\n"), Refusal::Message(_)));
        assert!(matches!(refused("From: \r\n"), Refusal::Message(_)));
        assert_eq!(refused(&"X: y\r\n".repeat(1001)), Refusal::Message("more than 1000 header fields"));
        let head = |len: usize| format!("X:{}", "x".repeat(len - 2));
        assert!(
            check_size(head(HEAD_LEN_MAX).as_bytes()).is_ok() && check_size(head(HEAD_LEN_MAX + 1).as_bytes()).is_err()
        );
        assert!(check_size(format!("X: y\r\n\r\n{}", head(HEAD_LEN_MAX)).as_bytes()).is_ok());
        assert_eq!(refused(&("Received: x\r\n".repeat(51) + "From: a@b.com\r\n")), Refusal::Loop);
    }

    #[test]
    fn a_message_begins_with_a_field() {
        let check = |content: &str, expected: Option<&str>| {
            let refusal = check_first_line(content.as_bytes()).err().map(|refusal| refusal.reply().text.into_owned());
            assert_eq!(refusal.as_deref(), expected, "{content:?}");
        };
        let none = "the first line is no header field";
        let mark = "the first line is no header field: a byte-order mark stands before it";
        let mailbox = "the first line is no header field but the line that separates messages in a mailbox file";
        check("From: a@b.example\r\n\r\n", None);
        check("From : a@b.example\r\n\r\n", None);
        check("\r\nbody", None);
        check("", None);
        check("\u{feff}From: a@b.example\r\n\r\n", Some(mark));
        check("From otp Sat Nov 21 10:00:00 2026\r\nFrom: a@b.example\r\n\r\n", Some(mailbox));
        check(">From otp Sat Nov 21 10:00:00 2026\r\nFrom: a@b.example\r\n\r\n", Some(mailbox));
        check(" folded\r\nFrom: a@b.example\r\n\r\n", Some(none));
        check("hello\r\n", Some(none));
    }

    #[test]
    fn what_is_private_does_not_leave() {
        let rest = |head: &'static str| without_private_fields(head.into());
        assert_eq!(
            rest("Return-Path: <x@y.example>\r\nFrom: a\r\nBCC: b,\r\n c\r\nbcc : d\r\nResent-Bcc: e\r\nTo: f\r\n"),
            "From: a\r\nTo: f\r\n"
        );
        assert_eq!(rest("From: a\r\nX-Bcc: b\r\n"), "From: a\r\nX-Bcc: b\r\n");
    }

    #[test]
    fn authors_are_read() {
        let from = |text: &str| {
            let header = read(text.as_bytes()).unwrap();
            header.from.mailboxes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(from("From: \"A, B\" <a@example.com>, c@example.org\r\n"), ["a@example.com", "c@example.org"]);
        assert_eq!(from("From :\r\n =?utf-8?q?=C3=BC?= <a@example.com>\r\n"), ["a@example.com"]);
    }
}
