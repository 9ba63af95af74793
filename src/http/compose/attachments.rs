//! Attachments: base64 in a request, a part of the message on the way out. Nothing is ever fetched.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};

use super::super::problem::Problem;
use crate::mail::message::wiped;

/// Attachments of one message.
const ATTACHMENTS_MAX: usize = 50;
/// Octets of a file's name and of a content id.
const NAME_LEN_MAX: usize = 255;
/// Octets of a line (RFC 2045 section 6.8).
const LINE_LEN: usize = 76;
/// What is neither known nor allowed.
const OCTETS: &str = "application/octet-stream";
/// Apps pad, or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An attachment as a request has it.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::http) struct RawAttachment<'a> {
    pub(in crate::http) name: Option<&'a str>,
    pub(in crate::http) base64: &'a str,
    pub(in crate::http) content_type: Option<&'a str>,
    pub(in crate::http) content_id: Option<&'a str>,
}

#[derive(Clone)]
pub(in crate::http) struct Attachment {
    name: String,
    content: bytes::Bytes,
    content_type: String,
    content_id: Option<String>,
}

/// Reads the attachments of a request; `what` names the list.
pub(in crate::http) fn read<'a>(
    given: impl IntoIterator<Item = RawAttachment<'a>>,
    what: &str,
) -> Result<Vec<Attachment>, Problem> {
    let mut attachments = Vec::new();
    for (index, given) in given.into_iter().enumerate() {
        let what = format!("{what}[{index}]");
        if index >= ATTACHMENTS_MAX {
            return Err(Problem::invalid(format!("{what}: at most 50 attachments")).in_our_words().at_field(what));
        }
        let read = Attachment::read(given, index);
        attachments.push(read.map_err(|why| Problem::invalid(format!("{what}{why}")).in_our_words().at_field(&what))?);
    }
    Ok(attachments)
}

impl Attachment {
    fn read(given: RawAttachment<'_>, index: usize) -> Result<Self, &'static str> {
        let is_text = |text: &str| text.len() <= NAME_LEN_MAX && !text.chars().any(char::is_control);
        let name = given.name.map(str::trim).filter(|name| !name.is_empty());
        let name = name.map_or_else(|| format!("attachment-{}", index + 1), str::to_owned);
        if !is_text(&name) {
            return Err(": a file's name is at most 255 bytes, none of them control characters");
        }
        let content_id = given.content_id.map(plain_id).filter(|id| !id.is_empty());
        let is_id = |id: &str| id.len() <= NAME_LEN_MAX && id.bytes().all(|b| (b'!'..=b'~').contains(&b));
        if content_id.is_some_and(|id| !is_id(id) || id.contains(['<', '>'])) {
            return Err(": a content id is at most 255 printable ASCII characters without blanks");
        }
        let packed: Vec<u8> = given.base64.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect();
        let content = BASE64.decode(packed).map_err(|_| ".content: base64 is needed; nothing is fetched from a URL")?;
        let content_type = given.content_type.and_then(media_type).unwrap_or_else(|| OCTETS.to_owned());
        Ok(Self { name, content: wiped(content), content_type, content_id: content_id.map(str::to_owned) })
    }

    /// Whether the text refers to it.
    pub(super) fn is_inline(&self) -> bool {
        self.content_id.is_some()
    }

    /// As a part of a message. It is encoded here, whatever its type: text with other line ends than CRLF has to arrive as it is.
    pub(super) fn part(&self) -> MimePart<'static> {
        let encoded = STANDARD.encode(&self.content);
        let mut lines = Vec::with_capacity(encoded.len() + encoded.len() / LINE_LEN * 2 + 2);
        for line in encoded.as_bytes().chunks(LINE_LEN) {
            lines.extend_from_slice(line);
            lines.extend_from_slice(b"\r\n");
        }
        let content_type = ContentType::new(self.content_type.clone()).attribute("name", self.name.clone());
        let placed = if self.is_inline() { "inline" } else { "attachment" };
        let disposition = ContentType::new(placed).attribute("filename", self.name.clone());
        let part = MimePart::new(content_type, BodyPart::Binary(lines.into()))
            .header("Content-Disposition", disposition)
            .transfer_encoding("base64");
        match &self.content_id {
            Some(id) => part.header("Content-ID", Raw::new(format!("<{id}>"))),
            None => part,
        }
    }
}

/// Without `cid:` and angle brackets.
fn plain_id(id: &str) -> &str {
    let id = id.trim();
    let id = id.strip_prefix("cid:").unwrap_or(id);
    id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id)
}

/// `type/subtype` in lower case, without parameters; none where it is malformed, or where parts are not to be encoded
/// (RFC 2046 sections 5.1 and 5.2).
fn media_type(text: &str) -> Option<String> {
    let text = text.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, subtype) = text.split_once('/')?;
    let is_token = |part: &str| {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
        (1..=64).contains(&part.len()) && part.bytes().all(is_allowed)
    };
    (is_token(kind) && is_token(subtype) && !matches!(kind, "multipart" | "message")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_read() {
        let read = |given: RawAttachment<'_>| Attachment::read(given, 0);
        let whole = read(RawAttachment {
            name: Some(" logo.png "),
            base64: "iVBO\r\nRw0K",
            content_type: Some("Image/PNG; name=\"x\""),
            content_id: Some("cid:logo"),
        });
        let whole = whole.unwrap();
        assert_eq!((whole.name.as_str(), whole.content_type.as_str()), ("logo.png", "image/png"));
        assert_eq!((whole.content.as_ref(), whole.content_id.as_deref()), (&b"\x89PNG\r\n"[..], Some("logo")));
        for id in ["<logo>", "logo", "cid:<logo>"] {
            let given = RawAttachment { base64: "", content_id: Some(id), ..RawAttachment::default() };
            assert_eq!(read(given).unwrap().content_id.as_deref(), Some("logo"), "{id}");
        }
        let plain = read(RawAttachment { base64: "YQ", ..RawAttachment::default() }).unwrap();
        assert_eq!((plain.name.as_str(), plain.content_type.as_str()), ("attachment-1", OCTETS));
        for content_type in ["multipart/mixed", "message/rfc822", "x", "a/b\r\nBcc: x", "text/\u{e4}"] {
            let given = RawAttachment { base64: "YQ==", content_type: Some(content_type), ..RawAttachment::default() };
            assert_eq!(read(given).unwrap().content_type, OCTETS, "{content_type}");
        }
        for given in [
            RawAttachment { base64: "https://shop.test/a.pdf", ..RawAttachment::default() },
            RawAttachment { base64: "Y", ..RawAttachment::default() },
            RawAttachment { base64: "YQ==", name: Some("a\r\nb"), ..RawAttachment::default() },
            RawAttachment { base64: "YQ==", content_id: Some("a b"), ..RawAttachment::default() },
            RawAttachment { base64: "YQ==", content_id: Some("a>\r\nBcc: x"), ..RawAttachment::default() },
        ] {
            assert!(read(given).is_err(), "{given:?}");
        }
    }
}
