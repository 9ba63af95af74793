//! From what an app says of a mail to the mail itself: what every way in over HTTP has in common.

pub(super) mod attachments;
pub(super) mod fields;
pub(super) mod people;

use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::MimePart;

use super::problem::Problem;
use crate::base::clock::Timestamp;
use crate::mail::message::wiped;
use attachments::Attachment;
use fields::Fields;
use people::Person;

/// Longest subject, in characters.
const SUBJECT_LEN_MAX: usize = 500;

/// A mail that is to be written.
#[derive(Clone, Copy)]
pub(super) struct Letter<'a> {
    pub(super) from: &'a Person,
    /// The author's name, where it has none of its own.
    pub(super) app: Option<&'a str>,
    pub(super) to: &'a [Person],
    pub(super) cc: &'a [Person],
    pub(super) reply_to: &'a [Person],
    pub(super) subject: &'a str,
    /// One of the two at least; lines may end in LF.
    pub(super) text: Option<&'a str>,
    pub(super) html: Option<&'a str>,
    pub(super) fields: &'a Fields,
    pub(super) attachments: &'a [Attachment],
    /// What the wall clock shows.
    pub(super) now: Timestamp,
}

impl Letter<'_> {
    /// The content, lines ending in CRLF.
    pub(super) fn write(&self) -> Result<Bytes, Problem> {
        let Self { subject, from, .. } = self;
        if subject.chars().count() > SUBJECT_LEN_MAX || subject.chars().any(char::is_control) {
            let detail = "subject: at most 500 characters, none of them control characters";
            return Err(Problem::invalid(detail).at_field("subject"));
        }
        let list =
            |people: &[Person]| Address::new_list(people.iter().map(|to| to.address(to.name.as_deref())).collect());
        let mut message = MessageBuilder::new()
            .from(from.address(from.name.as_deref().or(self.app)))
            .to(list(self.to))
            .subject(*subject)
            .date(i64::try_from(self.now.as_secs()).unwrap_or(0));
        if !self.cc.is_empty() {
            message = message.cc(list(self.cc));
        }
        if !self.reply_to.is_empty() {
            message = message.reply_to(list(self.reply_to));
        }
        for (name, value) in self.fields.written() {
            message = message.header(name, value);
        }
        if !self.fields.has("Message-ID") {
            message = message.message_id(format!("{}@{}", ulid::Ulid::generate(), from.mailbox.domain_key()));
        }
        if !self.fields.has("Auto-Submitted") {
            message = message.header("Auto-Submitted", Raw::new("auto-generated"));
        }
        let body = self.body()?;
        message.body(body).write_to_vec().map(wiped).map_err(|_| Problem::invalid("the message cannot be written down"))
    }

    /// `mixed [alternative [text, related [html, what it shows]], what is attached]`, without the levels that are not needed.
    fn body(&self) -> Result<MimePart<'static>, Problem> {
        let text = self.text.map(|text| with_crlf(text, "text")).transpose()?;
        let html = self.html.map(|html| with_crlf(html, "html")).transpose()?;
        let (shown, attached): (Vec<&Attachment>, Vec<&Attachment>) =
            self.attachments.iter().partition(|attachment| html.is_some() && attachment.is_inline());
        let html = html.map(|html| MimePart::new("text/html", html));
        let html = html.map(|html| gathered("multipart/related", html, &shown));
        let text = text.map(|text| MimePart::new("text/plain", text));
        let body = match (text, html) {
            (Some(text), Some(html)) => MimePart::new("multipart/alternative", vec![text, html]),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(Problem::missing("text")),
        };
        Ok(gathered("multipart/mixed", body, &attached))
    }
}

fn gathered(kind: &'static str, first: MimePart<'static>, others: &[&Attachment]) -> MimePart<'static> {
    if others.is_empty() {
        return first;
    }
    let others = others.iter().map(|attachment| attachment.part());
    MimePart::new(kind, std::iter::once(first).chain(others).collect::<Vec<_>>())
}

/// LF becomes CRLF; a CR by itself and a NUL are nothing that could be meant.
pub(super) fn with_crlf(text: &str, what: &str) -> Result<String, Problem> {
    let refused = |why: &str| Err(Problem::invalid(format!("{what}: {why}")).in_our_words().at_field(what));
    if text.contains('\0') {
        return refused("a NUL");
    }
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive('\n') {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line.strip_suffix('\r').unwrap_or(line), "\r\n"),
            None => (line, ""),
        };
        if line.contains('\r') {
            return refused("a CR without LF");
        }
        lines.push_str(line);
        lines.push_str(end);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders as _, PartType};

    use super::*;

    #[test]
    fn lines_end_in_crlf() {
        assert_eq!(with_crlf("a\nb\r\n\nc", "text").unwrap(), "a\r\nb\r\n\r\nc");
        assert!(with_crlf("a\rb", "text").is_err());
        assert!(with_crlf("a\r", "text").is_err());
        assert!(with_crlf("a\r\r\n", "text").is_err());
        assert!(with_crlf("a\0", "text").is_err());
    }

    fn written(html: Option<&str>, given: &[attachments::RawAttachment<'_>], fields: &Fields) -> Bytes {
        let person = |text: &str| Person::parse(text, "x").unwrap();
        let attachments = attachments::read(given.iter().copied(), "attachments").unwrap();
        let letter = Letter {
            from: &person("Shop, Inc. <otp@shop.test>"),
            app: None,
            to: &[person("alice@example.test")],
            cc: &[person("\u{5e97} <cc@example.test>")],
            reply_to: &[person("help@shop.test")],
            subject: "481516",
            text: Some("481516\n"),
            html,
            fields,
            attachments: &attachments,
            now: Timestamp::from_millis(1_795_255_200_000),
        };
        letter.write().unwrap()
    }

    #[test]
    fn attachments_arrive_as_they_are() {
        let unix = base64_of(b"a,b\n1,2\n\x00\xff");
        let given = [
            attachments::RawAttachment {
                name: Some("z\u{fc}rich.csv"),
                base64: &unix,
                content_type: Some("text/csv"),
                content_id: None,
            },
            attachments::RawAttachment {
                name: Some("l.png"),
                base64: "iVBO",
                content_type: Some("image/png"),
                content_id: Some("l"),
            },
        ];
        let octets = written(Some("<img src=\"cid:l\">"), &given, &Fields::default());
        assert!(octets.is_ascii());
        let message = MessageParser::default().parse(&octets).unwrap();
        let kinds: Vec<String> = message
            .parts
            .iter()
            .map(|part| {
                part.content_type().map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap())).unwrap()
            })
            .collect();
        let expected = [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png",
            "text/csv",
        ];
        assert_eq!(kinds, expected);
        let csv = message.parts.iter().find(|part| part.attachment_name() == Some("z\u{fc}rich.csv")).unwrap();
        let content = match &csv.body {
            PartType::Text(text) => text.as_bytes().to_vec(),
            PartType::Binary(octets) | PartType::InlineBinary(octets) => octets.to_vec(),
            other => panic!("{other:?}"),
        };
        assert!(content.starts_with(b"a,b\n1,2\n"), "{content:?}");
        let image = message.parts.iter().find(|part| part.content_id() == Some("l")).unwrap();
        assert_eq!(image.content_disposition().unwrap().ctype(), "inline");
        // Nothing shows a picture where there is no page.
        let octets = written(None, &given[1..], &Fields::default());
        assert_eq!(MessageParser::default().parse(&octets).unwrap().attachment_count(), 1);
    }

    fn base64_of(octets: &[u8]) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(octets)
    }

    #[test]
    fn fields_are_written_once() {
        let given =
            [("X-Ref", "\u{fc}"), ("List-Unsubscribe", "<https://shop.test/u>"), ("Message-ID", "<1@shop.test>")];
        let octets = written(None, &[], &Fields::read(given, "headers").unwrap());
        let text = std::str::from_utf8(&octets).unwrap();
        for field in [
            "From: \"Shop, Inc.\" <otp@shop.test>\r\n",
            "Cc: =?utf-8?",
            "Reply-To: <help@shop.test>\r\n",
            "Message-ID: <1@shop.test>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "List-Unsubscribe: <https://shop.test/u>\r\n",
            "X-Ref: =?utf-8?",
        ] {
            assert_eq!(text.to_lowercase().matches(&field.to_lowercase()).count(), 1, "{field}: {text}");
        }
        assert_eq!(text.to_lowercase().matches("message-id:").count(), 1, "{text}");
        let own = Fields::read([("auto-submitted", "no")], "headers").unwrap();
        assert!(!String::from_utf8(written(None, &[], &own).to_vec()).unwrap().contains("auto-generated"));
    }
}
