//! A mail that arrived, taken apart once.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mail_parser::{Address, Message, MessageParser, MimeHeaders as _};
use serde::Serialize;

use super::codes;
use crate::base::clock::Timestamp;
use crate::base::named::named;
use crate::dkim::verify::Verdict;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;
use crate::mail::message::{Content, fields};

/// Header fields that are shown of one mail.
const FIELDS_MAX: usize = 200;
/// Octets of a part in text or HTML that are shown.
const PART_MAX: usize = 1 << 20;

/// What the mail host did with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is in the mailbox.
    Kept,
    /// It is in a folder where nobody looks.
    Hidden,
    /// It was taken, and the relay was not told.
    Lost,
}

named! {
    /// How the session was protected that it came over.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Tls: name {
        Off = "off",
        On = "on",
        /// The host showed a certificate that nobody should trust.
        BadCertificate = "bad_certificate",
    }
}

/// A name and an address.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Person {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "Address")]
    pub(super) address: String,
}

/// A part that is no text to read.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Its number among the parts.
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) content_type: String,
    pub(super) content_id: String,
    pub(super) is_inline: bool,
    pub(super) content: Bytes,
}

/// The parts of a mail that people ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct ParsedMail {
    pub(super) subject: String,
    pub(super) from: Option<Person>,
    pub(super) to: Vec<Person>,
    pub(super) cc: Vec<Person>,
    pub(super) reply_to: Vec<Person>,
    pub(super) message_id: String,
    pub(super) date: Option<String>,
    pub(super) list_unsubscribe: String,
    pub(super) text: String,
    pub(super) html: String,
    /// Names as written, unfolded values, in order.
    pub(super) fields: Vec<(String, String)>,
    pub(super) parts: Vec<Part>,
    pub(super) codes: Vec<String>,
    pub(super) links: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) sender: String,
    pub(super) recipient: Mailbox,
    /// By the wall clock.
    pub(super) received_at: Timestamp,
    /// How often the relay had tried by then.
    pub(super) attempts: u32,
    pub(super) mark: Mark,
    pub(super) tls: Tls,
    pub(super) verdicts: Vec<Verdict>,
}

#[derive(Debug)]
pub(super) struct Mail {
    /// In the order of arrival.
    pub(super) number: u64,
    pub(super) how: Arrival,
    pub(super) content: Bytes,
    pub(super) read: ParsedMail,
    /// The relay's id of the message.
    pub(super) message: Option<MessageId>,
    /// Whether the relay knows that it has arrived.
    is_settled: AtomicBool,
    /// Somebody asked for it over the API of Mailpit.
    is_read: AtomicBool,
    tag: OnceLock<Box<str>>,
}

impl Mail {
    pub(super) fn new(number: u64, how: Arrival, content: Bytes) -> Self {
        let read = ParsedMail::of(&content);
        let message = message_id(&content);
        // What is lost, and what did not come from the relay, it will never hear of.
        let is_settled = AtomicBool::new(how.mark == Mark::Lost || message.is_none());
        let is_read = AtomicBool::new(false);
        Self { number, how, content, read, message, is_settled, is_read, tag: OnceLock::new() }
    }

    /// By which it is asked for; later ones sort behind earlier ones.
    pub(super) fn id(&self) -> String {
        format!("mail{:08}", self.number)
    }

    pub(super) fn number_of(id: &str) -> Option<u64> {
        let digits = id.strip_prefix("mail").filter(|digits| digits.len() >= 8)?;
        digits.parse().ok()
    }

    pub(super) fn code(&self) -> Option<&str> {
        self.read.codes.first().map(String::as_str)
    }

    pub(super) fn link(&self) -> Option<&str> {
        self.read.links.first().map(String::as_str)
    }

    /// Whether it has signatures and all of them are good.
    pub(super) fn is_signed(&self) -> bool {
        !self.how.verdicts.is_empty() && self.how.verdicts.iter().all(|verdict| verdict.result.is_ok())
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    pub(super) fn settle(&self) -> bool {
        !self.is_settled.swap(true, Ordering::AcqRel)
    }

    pub(super) fn was_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    pub(super) fn set_read(&self, is_read: bool) {
        self.is_read.store(is_read, Ordering::Relaxed);
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.get().map(AsRef::as_ref)
    }

    pub(super) fn set_tag(&self, tag: &str) {
        // It has one at most.
        let _ = self.tag.set(tag.into());
    }
}

impl ParsedMail {
    fn of(content: &Bytes) -> Self {
        let fields = shown_fields(content);
        let Some(message) = MessageParser::default().parse(content.as_ref()) else {
            return Self { fields, ..Self::default() };
        };
        let text = message.text_bodies().next().and_then(|_| message.body_text(0)).unwrap_or_default();
        let has_html = message.html_bodies().any(|part| part.is_text_html());
        let html = if has_html { message.body_html(0).unwrap_or_default() } else { "".into() };
        let (text, html) = (cut(&text), cut(&html));
        let subject = message.subject().unwrap_or_default().to_owned();
        Self {
            codes: codes::codes(&subject, &text),
            links: codes::links(&text, &html),
            from: people(message.from()).into_iter().next(),
            to: people(message.to()),
            cc: people(message.cc()),
            reply_to: people(message.reply_to()),
            message_id: message.message_id().unwrap_or_default().to_owned(),
            date: message.date().map(mail_parser::DateTime::to_rfc3339),
            list_unsubscribe: raw_field(&fields, "List-Unsubscribe"),
            parts: parts(&message),
            subject,
            text,
            html,
            fields,
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(PART_MAX)].to_owned()
}

fn raw_field(fields: &[(String, String)], name: &str) -> String {
    let found = fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map_or_else(String::new, |(_, value)| value.clone())
}

fn shown_fields(content: &Bytes) -> Vec<(String, String)> {
    let head = Content::split(content.clone()).head;
    let shown = |field: crate::mail::message::Field<'_>| {
        let name = String::from_utf8_lossy(field.name).into_owned();
        let value = String::from_utf8_lossy(field.value).replace(['\r', '\n'], "");
        (name, value.trim().to_owned())
    };
    fields(&head).take(FIELDS_MAX).map(shown).collect()
}

fn people(address: Option<&Address<'_>>) -> Vec<Person> {
    let Some(address) = address else { return Vec::new() };
    let person = |address: &mail_parser::Addr<'_>| Person {
        name: address.name().unwrap_or_default().to_owned(),
        address: address.address().unwrap_or_default().to_owned(),
    };
    address.iter().map(person).collect()
}

fn parts(message: &Message<'_>) -> Vec<Part> {
    let part = |(number, part): (u32, &mail_parser::MessagePart<'_>)| {
        let content_type = part.content_type().map_or_else(
            || "application/octet-stream".to_owned(),
            |kind| kind.subtype().map_or_else(|| kind.ctype().to_owned(), |sub| format!("{}/{sub}", kind.ctype())),
        );
        let is_inline = part.content_disposition().is_some_and(mail_parser::ContentType::is_inline);
        Part {
            number,
            name: part.attachment_name().unwrap_or_default().to_owned(),
            content_type,
            content_id: part.content_id().unwrap_or_default().to_owned(),
            is_inline: is_inline || part.content_id().is_some(),
            content: Bytes::copy_from_slice(part.contents()),
        }
    };
    let ids = message.attachments.iter().take(FIELDS_MAX);
    ids.filter_map(|id| Some((*id, message.parts.get(usize::try_from(*id).ok()?)?))).map(part).collect()
}

/// The id that the relay gave the message, from the Received field that it put first.
fn message_id(content: &Bytes) -> Option<MessageId> {
    let head = Content::split(content.clone()).head;
    let received = fields(&head).find(|field| field.is("Received"))?;
    let text = String::from_utf8_lossy(received.value).into_owned();
    let (_, rest) = text.split_once(" id ")?;
    rest.split([';', ' ', '\r', '\n']).next()?.parse().ok()
}

/// Header fields by name, as Mailpit shows them.
pub(super) fn by_name(fields: &[(String, String)]) -> HashMap<&str, Vec<&str>> {
    let mut by_name: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, value) in fields {
        by_name.entry(name).or_default().push(value);
    }
    by_name
}
