//! When two submissions are the same, as digests under a secret.
//!
//! Under a key of the app's own, what a retry leaves as it is: reverse-path, recipients, subject and decoded parts.
//!
//! Without one, within a user's window, the app has not said that it repeats itself, so more has to be equal: every octet of
//! the body, and of the header section what its reader sees or goes by. Programs that send a mail again build these anew:
//! Date, Message-ID, Received, and the boundaries of multiparts. They count for nothing. Nor do fields of an app's own,
//! some of which hold a number for each mail.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use mail_parser::{MimeHeaders as _, PartType};

use crate::mail::envelope::Envelope;
use crate::mail::message::{Content, body_parser, fields};

/// Octets of a digest.
pub(super) const DIGEST_LEN: usize = 32;
/// Longest content that is hashed where it came in.
const SHORT_LEN: usize = 32 << 10;
/// Boundaries that count for nothing; more than that is no mail that a program renders anew.
const BOUNDARIES_MAX: usize = 32;
/// In the place of a boundary. Content has no NUL.
const BOUNDARY: &[u8] = b"\0";
/// What a reader sees or goes by.
const FIELDS: [&str; 10] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "In-Reply-To",
    "References",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// HMAC-SHA-256.
type Digest = [u8; DIGEST_LEN];

/// How much has to be equal.
#[derive(Debug, Clone)]
pub(super) enum Sameness {
    /// The app says that it is a repeat.
    UnderKey,
    /// It is a repeat of this user's only where nothing tells them apart.
    OfContent(Box<str>),
}

/// Long content is taken apart and hashed where no mail waits for the thread.
pub(super) async fn digest_of(
    sameness: &Sameness,
    secret: [u8; DIGEST_LEN],
    envelope: &Envelope,
    content: &Content,
) -> Digest {
    if content.len() <= SHORT_LEN {
        return digest(sameness, &secret, envelope, content);
    }
    let (how, of_envelope, of_content) = (sameness.clone(), envelope.clone(), content.clone());
    match tokio::task::spawn_blocking(move || digest(&how, &secret, &of_envelope, &of_content)).await {
        Ok(digest) => digest,
        Err(_) => digest(sameness, &secret, envelope, content),
    }
}

fn digest(sameness: &Sameness, secret: &[u8], envelope: &Envelope, content: &Content) -> Digest {
    let mut hash = Hash(hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret)));
    if let Sameness::OfContent(user) = sameness {
        hash.add(user.as_bytes());
    }
    hash.add(envelope.reverse_path.as_str().as_bytes());
    let mut recipients: Vec<String> = envelope.recipients.iter().map(|r| r.mailbox.plain_key()).collect();
    recipients.sort_unstable();
    hash.add(&(recipients.len() as u64).to_be_bytes());
    recipients.iter().for_each(|recipient| hash.add(recipient.as_bytes()));
    match sameness {
        Sameness::UnderKey => decoded(&mut hash, content),
        Sameness::OfContent(_) => octets(&mut hash, content),
    }
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(hash.0.sign().as_ref());
    digest
}

struct Hash(hmac::Context);

impl Hash {
    fn add(&mut self, octets: &[u8]) {
        self.0.update(&(octets.len() as u64).to_be_bytes());
        self.0.update(octets);
    }
}

fn whole(content: &Content) -> Vec<u8> {
    [content.head.as_ref(), content.body.as_ref()].concat()
}

/// Subject and decoded parts.
fn decoded(hash: &mut Hash, content: &Content) {
    let whole = whole(content);
    let Some(message) = body_parser().parse(&whole) else { return hash.add(&whole) };
    hash.add(content.subject().unwrap_or_default().as_bytes());
    for part in &message.parts {
        match &part.body {
            PartType::Text(text) | PartType::Html(text) => hash.add(text.as_bytes()),
            PartType::Binary(octets) | PartType::InlineBinary(octets) => hash.add(octets),
            PartType::Message(inner) => hash.add(inner.raw_message()),
            // Its parts come by themselves.
            PartType::Multipart(_) => {}
        }
    }
}

/// What a reader goes by of the header section, and the body, without boundaries.
fn octets(hash: &mut Hash, content: &Content) {
    let boundaries = boundaries(content);
    for (field, number) in fields(&content.head).filter_map(|field| Some((field, number_of(field.name)?))) {
        hash.add(&[number]);
        hash.add(&without_boundaries(field.value, &boundaries));
    }
    // Lines are hashed one by one; the count of what came before tells fields and body apart.
    hash.add(b"");
    for line in content.body.split_inclusive(|octet| *octet == b'\n') {
        hash.add(&without_boundaries(line, &boundaries));
    }
}

fn number_of(name: &[u8]) -> Option<u8> {
    let index = FIELDS.iter().position(|field| name.eq_ignore_ascii_case(field.as_bytes()))?;
    u8::try_from(index).ok()
}

/// The boundaries of all multiparts.
fn boundaries(content: &Content) -> Vec<Box<[u8]>> {
    let whole = whole(content);
    let Some(message) = body_parser().parse(&whole) else { return Vec::new() };
    let multiparts = message.parts.iter().filter(|part| matches!(part.body, PartType::Multipart(_)));
    let boundary = |part: &mail_parser::MessagePart<'_>| Some(part.content_type()?.attribute("boundary")?.into());
    let found: Vec<Box<str>> = multiparts.filter_map(boundary).take(BOUNDARIES_MAX).collect();
    found.into_iter().map(|boundary| boundary.into_boxed_bytes()).filter(|boundary| !boundary.is_empty()).collect()
}

/// A line without the boundary that it is made of (RFC 2046 section 5.1.1), or declares; any other as it is.
fn without_boundaries<'a>(line: &'a [u8], boundaries: &[Box<[u8]>]) -> Cow<'a, [u8]> {
    if boundaries.is_empty() {
        return line.into();
    }
    let found = match line.strip_prefix(b"--") {
        Some(rest) => boundaries.iter().find(|boundary| is_delimiter(rest, boundary)).map(|boundary| (2, boundary)),
        None => declared(line)
            .and_then(|at| Some((at, boundaries.iter().find(|boundary| is_value(&line[at..], boundary))?))),
    };
    match found {
        Some((at, boundary)) => [&line[..at], BOUNDARY, &line[at + boundary.len()..]].concat().into(),
        None => line.into(),
    }
}

/// Whether the rest of a line behind `--` is this boundary, of a part's beginning or of the end.
fn is_delimiter(rest: &[u8], boundary: &[u8]) -> bool {
    let tail = rest.strip_prefix(boundary).map(|tail| tail.strip_prefix(b"--").unwrap_or(tail));
    tail.is_some_and(|tail| tail.trim_ascii().is_empty())
}

/// Where the value of a boundary parameter begins, behind its quote.
fn declared(text: &[u8]) -> Option<usize> {
    const KEYWORD: &[u8] = b"boundary=";
    let at = text.windows(KEYWORD.len()).position(|word| word.eq_ignore_ascii_case(KEYWORD))? + KEYWORD.len();
    Some(at + usize::from(text.get(at) == Some(&b'"')))
}

/// Whether a value that begins here is this boundary.
fn is_value(text: &[u8], boundary: &[u8]) -> bool {
    let rest = text.strip_prefix(boundary);
    let ends = |rest: &[u8]| rest.first().is_none_or(|octet| b"\"; \t\r\n".contains(octet));
    rest.is_some_and(ends)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{MailParameters, Recipient};

    fn digest_as(user: &str, to: &str, content: &str) -> Digest {
        let envelope = Envelope {
            reverse_path: ReversePath::parse("<otp@example.com>").unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(to).unwrap())],
        };
        let content = Content::split(Bytes::copy_from_slice(content.replace('\n', "\r\n").as_bytes()));
        digest(&Sameness::OfContent(user.into()), &[7; 32], &envelope, &content)
    }

    fn same(one: &str, other: &str) -> bool {
        digest_as("shop", "a@example.org", one) == digest_as("shop", "a@example.org", other)
    }

    /// As programs build it: the text, a page, and a picture in a part of its own.
    fn rendered(number: &str, code: &str) -> String {
        format!(
            "Date: Sat, 21 Nov 2026 10:00:{number} +0000\nMessage-ID: <{number}.mail@shop.example>\n\
             From: Shop <otp@example.com>\nTo: a@example.org\nSubject: {code} is your code\nX-Entity-Ref-ID: {number}\n\
             Content-Type: multipart/mixed; boundary=\"=_outer_{number}\"\n\n--=_outer_{number}\n\
             Content-Type: multipart/alternative;\n boundary=inner{number}\n\n--inner{number}\n\
             Content-Type: text/plain\n\nIt is {code}.\n--inner{number}\nContent-Type: text/html\n\n<b>{code}</b>\n\
             --inner{number}--\n--=_outer_{number}\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\n\
             iVBORw0K\n--=_outer_{number}--\n"
        )
    }

    #[test]
    fn a_mail_that_is_rendered_anew_is_the_same() {
        assert!(same(&rendered("01", "481516"), &rendered("02", "481516")));
        assert!(same(&rendered("01", "481516"), &format!("Received: from x by y\n{}", rendered("01", "481516"))));
        let plain = "From: a@b.example\nSubject: s\n\n481516\n";
        assert!(same(plain, &format!("DKIM-Signature: v=1\n{plain}")));
    }

    #[test]
    fn two_codes_are_two_however_they_are_written() {
        assert!(!same(&rendered("01", "481516"), &rendered("01", "481517")));
        let part = |kind: &str, text: &str| format!("From: a@b.example\nSubject: s\nContent-Type: {kind}\n\n{text}\n");
        // Where a decoder loses what it does not know, octets tell them apart.
        for (one, other) in [("481516", "481517"), ("=D9=A1", "=D9=A2"), ("NDgx", "NDgy")] {
            assert!(!same(&part("text/plain; charset=x-unknown", one), &part("text/plain; charset=x-unknown", other)));
        }
        // Before the first part, behind the last one, and where no part is.
        let multipart = |before: &str, behind: &str| {
            let head = "From: a@b.example\nContent-Type: multipart/mixed; boundary=xyz";
            format!("{head}\n\n{before}\n--xyz\n\ntext\n--xyz--\n{behind}\n")
        };
        assert!(same(&multipart("", ""), &multipart("", "")));
        assert!(!same(&multipart("481516", ""), &multipart("481517", "")));
        assert!(!same(&multipart("", "481516"), &multipart("", "481517")));
        // What looks like a boundary and is none.
        assert!(!same(&multipart("--481516", ""), &multipart("--481517", "")));
        assert!(!same(&multipart("boundary=481516", ""), &multipart("boundary=481517", "")));
        assert!(!same(&multipart("--xyz481516", ""), &multipart("--xyz481517", "")));
    }

    #[test]
    fn what_its_reader_sees_tells_mails_apart() {
        let mail = |field: &str| format!("From: a@b.example\nSubject: s\n{field}\n\n481516\n");
        for field in ["Reply-To: x@b.example", "To: x@b.example", "Cc: x@b.example", "In-Reply-To: <1@b.example>"] {
            assert!(!same(&mail(field), &mail("X-Other: 1")), "{field}");
        }
        assert!(same(&mail("X-Other: 1"), &mail("X-Other: 2")));
        assert!(!same("From: a@b.example\nSubject: 1\n\nx\n", "From: a@b.example\nSubject: 2\n\nx\n"));
        assert!(!same("From: a@b.example\nTo: c\n\nx\n", "From: a@b.example\nCc: c\n\nx\n"));
        assert!(!same("From: a@b.example\n\nx\ny\n", "From: a@b.example\n\nx\n\ny\n"));
    }

    #[test]
    fn users_and_recipients_are_apart() {
        let mail = "From: a@b.example\n\n481516\n";
        let first = digest_as("shop", "a@example.org", mail);
        assert_ne!(first, digest_as("bank", "a@example.org", mail));
        assert_ne!(first, digest_as("shop", "b@example.org", mail));
        assert_eq!(first, digest_as("shop", "A@EXAMPLE.org", mail));
    }
}
