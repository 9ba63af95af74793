//! From the body of `POST /v1/messages` to a mail.

use std::time::Duration;

use bytes::Bytes;

use super::compose::attachments::{self, Attachment, RawAttachment};
use super::compose::fields::Fields;
use super::compose::people::{NAME_LEN_MAX, Person};
use super::compose::{Letter, with_crlf};
use super::problem::Problem;
use super::template::{Mail, Templates};
use super::wire::{Life, NewMessage, OneOrMany, Otp};
use crate::base::clock::Timestamp;
use crate::intake::options::{self, Options};
use crate::mail::address::Mailbox;
use crate::mail::message::wiped;

/// Longest code, in characters.
const CODE_LEN_MAX: usize = 32;

/// Who sends and who receives.
#[derive(Debug, Clone)]
pub(super) struct Parties {
    pub(super) from: Person,
    pub(super) to: Vec<Person>,
    pub(super) cc: Vec<Person>,
    bcc: Vec<Person>,
    reply_to: Vec<Person>,
}

impl Parties {
    /// Those of a request.
    ///
    /// # Errors
    /// Where an address is malformed, or there are none or too many.
    pub(super) fn read(new: &NewMessage, recipients_max: usize) -> Result<Self, Problem> {
        let several = |list: &Option<OneOrMany>, what: &str| {
            let list = list.as_ref().map_or(&[][..], OneOrMany::as_slice);
            if list.len() > recipients_max {
                return Err(too_many(what, recipients_max));
            }
            list.iter().map(|text| Person::parse(text, what)).collect::<Result<Vec<_>, _>>()
        };
        let to = new.to.as_slice();
        if to.is_empty() || to.len() > recipients_max {
            return Err(too_many("to", recipients_max));
        }
        let to = to.iter().map(|text| Person::parse(text, "to")).collect::<Result<_, _>>()?;
        let parties = Self {
            from: Person::author(&new.from, "from")?,
            to,
            cc: several(&new.cc, "cc")?,
            bcc: several(&new.bcc, "bcc")?,
            reply_to: several(&new.reply_to, "reply_to")?,
        };
        if parties.recipients().len() > recipients_max {
            return Err(too_many("to, cc and bcc", recipients_max));
        }
        Ok(parties)
    }

    pub(super) fn recipients(&self) -> Vec<Mailbox> {
        let mut recipients: Vec<Mailbox> = Vec::with_capacity(self.to.len());
        for person in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            if !recipients.contains(&person.mailbox) {
                recipients.push(person.mailbox.clone());
            }
        }
        recipients
    }
}

fn too_many(what: &str, recipients_max: usize) -> Problem {
    let text = format!("{what}: 1 to {recipients_max} addresses (submission.recipients_max)");
    Problem::invalid(text).in_our_words().at_field(what)
}

/// Octets from which the content is made.
pub(super) fn len(new: &NewMessage) -> usize {
    let texts = [&new.raw, &new.text, &new.html].into_iter().flatten().map(String::len);
    texts.chain(new.attachments.iter().flatten().map(|attachment| attachment.content.len())).sum()
}

/// The header fields that the app gives, with the options among them.
pub(super) fn fields(new: &NewMessage) -> Result<Fields, Problem> {
    let given = new.headers.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
    Fields::read(given, "headers")
}

/// When it is, how long the message is valid, and the words of the relay's own mail.
#[derive(Debug, Clone)]
pub(super) struct Times {
    pub(super) templates: Templates,
    pub(super) now: Timestamp,
    pub(super) life: Duration,
}

/// The content, lines ending in CRLF.
pub(super) fn content(new: &NewMessage, parties: &Parties, fields: &Fields, times: &Times) -> Result<Bytes, Problem> {
    let has_parts = new.text.is_some() || new.html.is_some();
    let has_more =
        new.subject.is_some() || new.reply_to.is_some() || new.headers.is_some() || new.attachments.is_some();
    let given = new.attachments.iter().flatten().map(|attachment| RawAttachment {
        name: attachment.filename.as_deref(),
        base64: &attachment.content,
        content_type: attachment.content_type.as_deref(),
        content_id: attachment.content_id.as_deref(),
    });
    match (&new.raw, &new.otp, has_parts) {
        (Some(raw), None, false) if !has_more => Ok(wiped(with_crlf(raw, "raw")?.into_bytes())),
        (None, Some(otp), false) => {
            let attachments = attachments::read(given, "attachments")?;
            composed_otp(otp, new.subject.as_deref(), (parties, fields, &attachments), times)
        }
        (None, None, true) => {
            let subject = new.subject.as_deref().ok_or_else(|| Problem::missing("subject"))?;
            let attachments = attachments::read(given, "attachments")?;
            let (text, html) = (new.text.as_deref(), new.html.as_deref());
            letter(parties, fields, &attachments, times, LetterText { app: None, subject, text, html }).write()
        }
        _ => Err(Problem::invalid(
            "exactly one of these makes a message: raw alone; otp; or subject with text, html or both",
        )),
    }
}

struct LetterText<'a> {
    app: Option<&'a str>,
    subject: &'a str,
    text: Option<&'a str>,
    html: Option<&'a str>,
}

fn letter<'a>(
    parties: &'a Parties,
    fields: &'a Fields,
    attachments: &'a [Attachment],
    times: &Times,
    said: LetterText<'a>,
) -> Letter<'a> {
    Letter {
        from: &parties.from,
        app: said.app,
        to: &parties.to,
        cc: &parties.cc,
        reply_to: &parties.reply_to,
        subject: said.subject,
        text: said.text,
        html: said.html,
        fields,
        attachments,
        now: times.now,
    }
}

fn composed_otp(
    otp: &Otp,
    subject: Option<&str>,
    (parties, fields, attachments): (&Parties, &Fields, &[Attachment]),
    times: &Times,
) -> Result<Bytes, Problem> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ' ';
    let code = otp.code.trim();
    if code.is_empty() || code.len() > CODE_LEN_MAX || !code.chars().all(is_allowed) {
        return Err(Problem::invalid("otp.code: 1 to 32 letters, digits, dashes and blanks"));
    }
    let app = otp.app.as_deref().map(str::trim).filter(|app| !app.is_empty());
    if app.is_some_and(|app| app.chars().count() > NAME_LEN_MAX || app.chars().any(char::is_control)) {
        return Err(Problem::invalid("otp.app: at most 100 characters, none of them control characters"));
    }
    let domain = parties.from.mailbox.domain_key();
    let locale = otp.locale.as_deref().unwrap_or_default();
    let mail = Mail { code: Some(code), app, locale, life: times.life, domain: &domain, ..Mail::default() };
    let filled = times.templates.fill(&mail);
    let subject = subject.unwrap_or(&filled.subject);
    let said = LetterText { app, subject, text: Some(&filled.text), html: Some(&filled.html) };
    letter(parties, fields, attachments, times, said).write()
}

/// The options of a request; those in its fields count more than those among the header fields of the message.
pub(super) fn options(
    new: &NewMessage,
    fields: &Fields,
    idempotency_key: Option<&str>,
    traceparent: Option<&str>,
) -> Result<Options, Problem> {
    let life = new.life.as_ref().map(life).transpose()?;
    let lane = new.lane.as_deref().map(str::parse).transpose();
    let own = Options {
        life: life.map(|life| options::life(life.as_secs())).transpose()?,
        lane: lane.map_err(|error| Problem::invalid(format!("lane: {error}")))?,
        key: new.key.as_deref().map(options::key).transpose()?,
        idempotency_key: idempotency_key.map(options::key).transpose()?,
        tag: new.tag.as_deref().map(options::tag).transpose()?,
        traceparent: traceparent.and_then(options::traceparent),
    };
    Ok(own.or(fields.options.clone()))
}

/// A life as it is written, whether it is one or not.
pub(super) fn life(written: &Life) -> Result<Duration, Problem> {
    let seconds = match written {
        Life::Seconds(seconds) => Some(*seconds),
        Life::Text(text) => life_seconds(text),
    };
    let detail = "life: seconds, or a text like \"90s\" or \"10m\"";
    seconds.map(Duration::from_secs).ok_or_else(|| Problem::invalid(detail))
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
    fn lives_are_read() {
        for (text, expected) in [("90", Some(90)), ("10m", Some(600)), ("5 s", Some(5)), ("1d", Some(86_400))] {
            assert_eq!(life_seconds(text), expected, "{text}");
        }
        for text in ["", "m", "10w", "-5s", "1.5m", "99999999999999999999m", "\u{e4}"] {
            assert_eq!(life_seconds(text), None, "{text}");
        }
    }

    fn new(from: &str, to: &str, more: serde_json::Value) -> NewMessage {
        let mut json = serde_json::json!({"from": from, "to": to});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json).unwrap()
    }

    fn composed(from: &str, to: &str, more: serde_json::Value) -> Bytes {
        let new = new(from, to, more);
        let parties = Parties::read(&new, 100).unwrap();
        let (now, life) = (Timestamp::from_millis(1_795_255_200_000), Duration::from_secs(600));
        let times = Times { templates: Templates::default(), now, life };
        content(&new, &parties, &fields(&new).unwrap(), &times).unwrap_or_else(|problem| panic!("{problem:?}"))
    }

    /// Octets above 127 are for an address whose local part has them, and for nothing else.
    #[test]
    fn what_is_composed_is_clean() {
        let long = "\u{fc}x ".repeat(2000);
        let bodies = [
            serde_json::json!({"subject": "\u{dc}bung", "text": "Gr\u{fc}\u{df}e"}),
            serde_json::json!({"subject": "x", "text": "a".repeat(5000), "html": format!("<p>{long}</p>")}),
            serde_json::json!({"subject": "\u{65e5}\u{672c} ".repeat(100), "html": "x ".repeat(4000)}),
            serde_json::json!({"otp": {"code": "481516", "app": "Caf\u{e9} \"x\" @ home", "locale": "fr"}}),
            serde_json::json!({"otp": {"code": "481516", "app": "Caf\u{e9}", "locale": "ja"}}),
            serde_json::json!({"otp": {"code": "481516", "app": "Caf\u{e9}", "locale": "ar"}}),
            serde_json::json!({"subject": "x", "text": "x", "headers": {"X-A": "\u{fc} ".repeat(500)},
                "attachments": [{"content": "iVBO", "filename": "\u{fc}.png"}]}),
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
    fn each_recipient_counts_once() {
        let more = serde_json::json!({"cc": "b@x.test", "bcc": ["a@x.test", "c@x.test"], "reply_to": "r@x.test"});
        let parties = Parties::read(&new("o@x.test", "a@x.test", more), 3).unwrap();
        let recipients: Vec<String> = parties.recipients().iter().map(ToString::to_string).collect();
        assert_eq!(recipients, ["a@x.test", "b@x.test", "c@x.test"]);
        let four = serde_json::json!({"cc": ["b@x.test", "c@x.test"], "bcc": "d@x.test"});
        assert!(Parties::read(&new("o@x.test", "a@x.test", four), 3).is_err());
    }
}
