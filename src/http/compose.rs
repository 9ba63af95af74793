//! From the fields of a request to a message as it is submitted.

use std::time::Duration;

use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;

use super::problem::Problem;
use super::template;
use super::wire::{Life, NewMessage, Otp};
use crate::base::clock::Timestamp;
use crate::intake::options::{self, Options};
use crate::mail::address::Mailbox;
use crate::mail::message::wiped;

/// Longest subject, in characters.
const SUBJECT_LEN_MAX: usize = 500;
/// Longest name of a person or an app, in characters.
const NAME_LEN_MAX: usize = 100;
/// Characters that programs take for an `@`.
const LIKE_AT: [char; 3] = ['@', '\u{ff20}', '\u{fe6b}'];
/// Longest code, in characters.
const CODE_LEN_MAX: usize = 32;

/// An address, with a name for people if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: Option<String>,
    pub(super) mailbox: Mailbox,
}

impl Person {
    /// Reads `alice@example.com` or `Alice <alice@example.com>`.
    pub(super) fn parse(text: &str, what: &str) -> Result<Self, Problem> {
        let malformed = |why: &str| Problem::invalid(format!("{what}: {why}")).in_our_words();
        let text = text.trim();
        let Some(rest) = text.strip_suffix('>') else {
            let mailbox = Mailbox::parse(text).map_err(|error| malformed(&error.to_string()))?;
            return Ok(Self { name: None, mailbox });
        };
        let (name, address) = rest.rsplit_once('<').ok_or_else(|| malformed("a > without <"))?;
        let mailbox = Mailbox::parse(address).map_err(|error| malformed(&error.to_string()))?;
        let name = name.trim().trim_matches('"');
        if name.chars().count() > NAME_LEN_MAX || name.chars().any(char::is_control) {
            return Err(malformed("a name is at most 100 characters, none of them control characters"));
        }
        Ok(Self { name: (!name.is_empty()).then(|| name.to_owned()), mailbox })
    }

    /// Reads the author, who may not look like two.
    pub(super) fn author(text: &str) -> Result<Self, Problem> {
        let author = Self::parse(text, "from")?;
        let name = text.trim().rsplit_once('<').map_or("", |(name, _)| name.trim());
        let is_quoted = name.len() > 1 && name.starts_with('"') && name.ends_with('"');
        if !is_quoted && name.contains(LIKE_AT) {
            return Err(Problem::invalid("from: an unquoted @ in the name; put the name in quotes"));
        }
        Ok(author)
    }

    /// For a header field: the domain in A-labels, without which nothing but a local part needs SMTPUTF8.
    fn address(&self, name: Option<&str>) -> Address<'static> {
        let text = self.mailbox.to_ascii().unwrap_or_else(|| self.mailbox.as_str().to_owned());
        Address::new_address(name.map(str::to_owned), text)
    }
}

/// Who sends, who receives, and when it is.
pub(super) struct Occasion<'a> {
    pub(super) from: &'a Person,
    pub(super) to: &'a [Person],
    pub(super) now: Timestamp,
    /// How long the message is valid.
    pub(super) life: Duration,
}

/// Octets from which the content is made.
pub(super) fn len(new: &NewMessage) -> usize {
    [&new.raw, &new.text, &new.html].into_iter().flatten().map(String::len).sum()
}

/// The content, lines ending in CRLF.
pub(super) fn content(new: &NewMessage, occasion: &Occasion<'_>) -> Result<Bytes, Problem> {
    let has_parts = new.text.is_some() || new.html.is_some();
    match (&new.raw, &new.otp, has_parts) {
        (Some(raw), None, false) if new.subject.is_none() => Ok(wiped(with_crlf(raw, "raw")?.into_bytes())),
        (None, Some(otp), false) => composed_otp(otp, new.subject.as_deref(), occasion),
        (None, None, true) => {
            let subject = new.subject.as_deref().ok_or_else(|| Problem::invalid("subject: is missing"))?;
            let text = new.text.as_deref().map(|text| with_crlf(text, "text")).transpose()?;
            let html = new.html.as_deref().map(|html| with_crlf(html, "html")).transpose()?;
            build(subject, None, text, html, occasion)
        }
        _ => Err(Problem::invalid(
            "exactly one of these makes a message: raw alone; otp; or subject with text, html or both",
        )),
    }
}

fn composed_otp(otp: &Otp, subject: Option<&str>, occasion: &Occasion<'_>) -> Result<Bytes, Problem> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ' ';
    let code = otp.code.trim();
    if code.is_empty() || code.len() > CODE_LEN_MAX || !code.chars().all(is_allowed) {
        return Err(Problem::invalid("otp.code: 1 to 32 letters, digits, dashes and blanks"));
    }
    let app = otp.app.as_deref().map(str::trim).filter(|app| !app.is_empty());
    if app.is_some_and(|app| app.chars().count() > NAME_LEN_MAX || app.chars().any(char::is_control)) {
        return Err(Problem::invalid("otp.app: at most 100 characters, none of them control characters"));
    }
    let filled = template::fill(code, app, otp.locale.as_deref().unwrap_or("en"), occasion.life);
    let subject = subject.unwrap_or(&filled.subject);
    build(subject, app, Some(with_crlf(&filled.text, "text")?), Some(with_crlf(&filled.html, "html")?), occasion)
}

fn build(
    subject: &str,
    app: Option<&str>,
    text: Option<String>,
    html: Option<String>,
    occasion: &Occasion<'_>,
) -> Result<Bytes, Problem> {
    if subject.chars().count() > SUBJECT_LEN_MAX || subject.chars().any(char::is_control) {
        return Err(Problem::invalid("subject: at most 500 characters, none of them control characters"));
    }
    let author = occasion.from;
    let to = occasion.to.iter().map(|to| to.address(to.name.as_deref())).collect();
    let mut message = MessageBuilder::new()
        .from(author.address(author.name.as_deref().or(app)))
        .to(Address::new_list(to))
        .subject(subject)
        .message_id(format!("{}@{}", ulid::Ulid::generate(), author.mailbox.domain_key()))
        .date(i64::try_from(occasion.now.as_secs()).unwrap_or(0))
        .header("Auto-Submitted", mail_builder::headers::raw::Raw::new("auto-generated"));
    if let Some(text) = text {
        message = message.text_body(text);
    }
    if let Some(html) = html {
        message = message.html_body(html);
    }
    message.write_to_vec().map(wiped).map_err(|_| Problem::invalid("the message cannot be written down"))
}

/// LF becomes CRLF; a CR by itself and a NUL are nothing that could be meant.
fn with_crlf(text: &str, what: &str) -> Result<String, Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(format!("{what}: a NUL")).in_our_words());
    }
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive('\n') {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line.strip_suffix('\r').unwrap_or(line), "\r\n"),
            None => (line, ""),
        };
        if line.contains('\r') {
            return Err(Problem::invalid(format!("{what}: a CR without LF")).in_our_words());
        }
        lines.push_str(line);
        lines.push_str(end);
    }
    Ok(lines)
}

/// The options of a request.
pub(super) fn options(new: &NewMessage, idempotency_key: Option<&str>) -> Result<Options, Problem> {
    let life = match &new.life {
        None => None,
        Some(Life::Seconds(seconds)) => Some(*seconds),
        Some(Life::Text(text)) => Some(
            life_seconds(text).ok_or_else(|| Problem::invalid("life: seconds, or a text like \"90s\" or \"10m\""))?,
        ),
    };
    let lane = new.lane.as_deref().map(str::parse).transpose();
    Ok(Options {
        life: life.map(options::life).transpose()?,
        lane: lane.map_err(|error| Problem::invalid(format!("lane: {error}")))?,
        key: new.key.as_deref().map(options::key).transpose()?,
        idempotency_key: idempotency_key.map(options::key).transpose()?,
        tag: new.tag.as_deref().map(options::tag).transpose()?,
    })
}

fn life_seconds(text: &str) -> Option<u64> {
    let (number, factor) = match text.trim().split_at_checked(text.trim().len().checked_sub(1)?)? {
        (number, "s") => (number, 1),
        (number, "m") => (number, 60),
        (number, "h") => (number, 3600),
        (number, "d") => (number, 86_400),
        _ => return text.trim().parse().ok(),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_crlf() {
        assert_eq!(with_crlf("a\nb\r\n\nc", "text").unwrap(), "a\r\nb\r\n\r\nc");
        assert!(with_crlf("a\rb", "text").is_err());
        assert!(with_crlf("a\r", "text").is_err());
        assert!(with_crlf("a\r\r\n", "text").is_err());
        assert!(with_crlf("a\0", "text").is_err());
    }

    #[test]
    fn lives_are_read() {
        for (text, expected) in [("90", Some(90)), ("10m", Some(600)), ("5 s", Some(5)), ("1d", Some(86_400))] {
            assert_eq!(life_seconds(text), expected, "{text}");
        }
        for text in ["", "m", "10w", "-5s", "1.5m", "99999999999999999999m", "\u{e4}"] {
            assert_eq!(life_seconds(text), None, "{text}");
        }
    }

    /// Octets above 127 are for an address whose local part has them, and for nothing else.
    #[test]
    fn what_is_composed_is_clean() {
        let people = |to: &str| vec![Person::parse(to, "to").unwrap()];
        let composed = |from: &str, to: &str, more: serde_json::Value| {
            let mut json = serde_json::json!({"from": from, "to": to});
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let new: NewMessage = serde_json::from_value(json).unwrap();
            let (from, to) = (Person::author(from).unwrap(), people(to));
            let now = Timestamp::from_millis(1_795_255_200_000);
            let occasion = Occasion { from: &from, to: &to, now, life: Duration::from_secs(600) };
            content(&new, &occasion).unwrap_or_else(|problem| panic!("{problem:?}"))
        };
        let long = "\u{fc}x ".repeat(2000);
        let bodies = [
            serde_json::json!({"subject": "\u{dc}bung", "text": "Gr\u{fc}\u{df}e"}),
            serde_json::json!({"subject": "x", "text": "a".repeat(5000), "html": format!("<p>{long}</p>")}),
            serde_json::json!({"subject": "\u{65e5}\u{672c} ".repeat(100), "html": "x ".repeat(4000)}),
            serde_json::json!({"otp": {"code": "481516", "app": "Caf\u{e9} \"x\" @ home", "locale": "fr"}}),
        ];
        for body in bodies {
            for (from, to) in [
                ("otp@app.test", "alice@example.test"),
                ("Caf\u{e9} <otp@b\u{fc}cher.test>", "\u{c4}nne <alice@b\u{fc}cher.test>"),
            ] {
                let octets = composed(from, to, body.clone());
                assert!(octets.is_ascii(), "{}", String::from_utf8_lossy(&octets));
                assert!(octets.split(|octet| *octet == b'\n').all(|line| line.len() <= 999));
            }
        }
        let octets =
            composed("\u{fc}@b\u{fc}cher.test", "alice@example.test", serde_json::json!({"subject": "x", "text": "x"}));
        let text = std::str::from_utf8(&octets).unwrap();
        assert!(text.contains("From: <\u{fc}@b\u{fc}cher.test>\r\n"), "{text}");
    }

    #[test]
    fn an_author_is_one() {
        for text in ["Shop <otp@app.test>", "\"ceo@bank.test\" <otp@app.test>", "otp@app.test", " <otp@app.test>"] {
            assert_eq!(Person::author(text).unwrap().mailbox.as_str(), "otp@app.test", "{text}");
        }
        for text in
            ["ceo@bank.test <otp@app.test>", "\" ceo@bank.test <otp@app.test>", "ceo\u{ff20}bank.test <otp@app.test>"]
        {
            assert!(Person::author(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_are_read() {
        let person = Person::parse("Caf\u{e9} \"Shop\" <otp@example.com>", "from").unwrap();
        assert_eq!((person.name.as_deref(), person.mailbox.as_str()), (Some("Caf\u{e9} \"Shop"), "otp@example.com"));
        assert_eq!(Person::parse(" <otp@example.com>", "from").unwrap().name, None);
        for text in ["", "otp", "a b@example.com", "x\ny <otp@example.com>", "otp@example.com>", "<a@b.example> c"] {
            assert!(Person::parse(text, "from").is_err(), "{text}");
        }
    }
}
