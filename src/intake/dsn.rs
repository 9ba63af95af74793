//! Delivery status notifications (RFC 3464): what the reverse-path receives about entries that failed, expired, are late or,
//! if asked for, arrived. One tells of a whole message.

mod fields;

use std::sync::Arc;

use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};

use super::notices::Digest;
use crate::base::clock::{Step, Timestamp};
use crate::event::Kind;
use crate::ledger::entry::{Message, Outcome};
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Notify, Recipient};
use crate::mail::id::MessageId;
use crate::mail::long_lines::quoted_printable;
use crate::mail::message::{Content, fields};
use crate::queue::{Ending, Reporting};
use fields::{decoded, folded};

/// Fields of the original that are returned; its subject is none of them.
const RETURNED: [&str; 4] = ["Date", "From", "To", "Message-ID"];
/// Longest field that is returned.
const FIELD_LEN_MAX: usize = 998;
/// Recipients that one notification tells of.
const STATUSES_MAX: usize = 100;

/// What becomes of an entry, in the words of RFC 3464 section 2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// One recipient of the message, and what became of it.
struct RecipientStatus<'a> {
    recipient: &'a Recipient,
    action: Action,
    kind: Kind,
    is_late: bool,
    /// What the host said, and which.
    reply: Option<&'a str>,
    destination: Option<&'a str>,
    at: Timestamp,
}

/// What the sender wants to know of a message now; empty where that is nothing.
pub(super) struct Report<'a> {
    ending: &'a Ending,
    sender: &'a Mailbox,
    /// In the order of the recipients.
    statuses: Vec<RecipientStatus<'a>>,
    /// Recipients beyond those.
    more: usize,
    /// By which its times are shown by the wall clock.
    step: Step,
}

impl<'a> Report<'a> {
    /// What an ending calls for, if anything.
    pub(super) fn of(ending: &'a Ending, step: Step) -> Option<Self> {
        let sender = ending.message.envelope.reverse_path.mailbox()?;
        let Reporting::Now(others) = &ending.reporting else { return None };
        let own = Outcome {
            kind: ending.event.kind(),
            at: ending.now(),
            reply: None,
            destination: None,
            is_passed_on: ending.is_passed_on,
        };
        let index = ending.entry().index;
        let said = (ending.event.reply(), ending.event.destination());
        let own = status(ending, index, &own, said);
        let other = |(index, outcome): &'a (u16, Outcome)| {
            let status = status(ending, *index, outcome, (outcome.reply.as_deref(), outcome.destination.as_deref()));
            Some((*index, status?))
        };
        let mut statuses: Vec<(u16, RecipientStatus<'a>)> =
            own.map(|own| (index, own)).into_iter().chain(others.iter().filter_map(other)).collect();
        statuses.sort_by_key(|(index, _)| *index);
        let more = statuses.len().saturating_sub(STATUSES_MAX);
        statuses.truncate(STATUSES_MAX);
        let statuses: Vec<RecipientStatus<'a>> = statuses.into_iter().map(|(_, status)| status).collect();
        (!statuses.is_empty()).then_some(Self { ending, sender, statuses, more, step })
    }

    /// The notification, as a message of its own.
    pub(super) fn notification(
        &self,
        hostname: &str,
        id: MessageId,
        signing_domain: Option<Arc<str>>,
    ) -> Option<(Arc<Message>, Content)> {
        let content = self.content(hostname, id)?;
        let user = self.ending.message.user.clone();
        Some(own_message(id, user, self.sender, content, self.ending.now(), signing_domain))
    }

    fn content(&self, hostname: &str, id: MessageId) -> Option<Content> {
        let is_utf8 = self.statuses.iter().any(|status| !status.recipient.mailbox.has_ascii_local_part());
        let part = |content_type: &'static str, text: String| {
            let (encoding, text) = if text.is_ascii() { ("7bit", text) } else { ("quoted-printable", encoded(&text)) };
            MimePart::raw("").header("Content-Type", Raw::new(content_type)).transfer_encoding(encoding).body_text(text)
        };
        let (status, headers) = if is_utf8 {
            ("message/global-delivery-status", "message/global-headers")
        } else {
            ("message/delivery-status", "text/rfc822-headers")
        };
        let returned = self.ending.message.returned_fields.as_deref().unwrap_or_default().to_owned();
        let fields = self.status_fields(hostname);
        let parts = vec![
            part("text/plain; charset=utf-8", self.explanation(hostname)),
            // The type for ASCII addresses may not be encoded (RFC 3464 section 2.1).
            part(status, if is_utf8 { fields } else { in_ascii(&fields) }),
            part(headers, returned),
        ];
        let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
        let message = from_daemon(hostname, self.sender, id, self.step.wall(self.ending.now())).subject(self.subject());
        let message = message.body(MimePart::new(report, BodyPart::Multipart(parts)));
        message.write_to_vec().ok().map(|octets| Content::split(Bytes::from(octets)))
    }

    /// Of what is worst.
    fn subject(&self) -> String {
        let worst = self.statuses.iter().map(|status| status.action).min().unwrap_or(Action::Failed);
        let mut of_worst = self.statuses.iter().filter(|status| status.action == worst);
        let recipient = of_worst.next().map_or_else(String::new, |status| status.recipient.mailbox.to_string());
        let others = match of_worst.count() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        match worst {
            Action::Failed => format!("Not delivered to {recipient}{others}"),
            Action::Delayed => format!("Delayed on the way to {recipient}{others}"),
            Action::Relayed => format!("Delivered to the mail host of {recipient}{others}"),
        }
    }

    fn explanation(&self, hostname: &str) -> String {
        let mut text = format!("This is {hostname}.\r\n");
        for status in &self.statuses {
            text.push_str(&format!("\r\nThe message for {} {}.\r\n", status.recipient.mailbox, status.what()));
            if let Some(reply) = status.reply() {
                let host = status.destination.unwrap_or("the mail host");
                text.push_str(&format!("\r\nWhat {host} said last:\r\n    {reply}\r\n"));
            }
        }
        if self.more > 0 {
            let (more, id) = (self.more, self.ending.message.id);
            text.push_str(&format!("\r\nThere are {more} more recipients, which `otp-relay trace {id}` shows.\r\n"));
        }
        text
    }

    /// RFC 3464 sections 2.2 and 2.3.
    fn status_fields(&self, hostname: &str) -> String {
        let message = &self.ending.message;
        let mut fields = vec![("Reporting-MTA", format!("dns; {hostname}"))];
        fields
            .extend(message.envelope.parameters.envid.as_deref().map(|envid| ("Original-Envelope-Id", decoded(envid))));
        fields.push(("Arrival-Date", self.step.wall(message.accepted_at).rfc5322()));
        for status in &self.statuses {
            fields.push(("", String::new()));
            fields.extend(status.status_fields(message, self.step));
        }
        let line = |(name, value): (&str, String)| if name.is_empty() { "\r\n".into() } else { folded(name, &value) };
        fields.into_iter().map(line).collect()
    }
}

/// The status of one recipient, if it is to be sent.
fn status<'a>(
    ending: &'a Ending,
    index: u16,
    outcome: &Outcome,
    (reply, destination): (Option<&'a str>, Option<&'a str>),
) -> Option<RecipientStatus<'a>> {
    let recipient = ending.message.recipient(index);
    let action = action(outcome.kind, ending.is_late, recipient.notify)?;
    // Whoever takes a message and offers DSN takes on the duty to report its arrival.
    if action == Action::Relayed && outcome.is_passed_on {
        return None;
    }
    let (kind, at) = (outcome.kind, outcome.at);
    Some(RecipientStatus { recipient, action, kind, is_late: ending.is_late, reply, destination, at })
}

/// A mail of the relay's own.
fn own_message(
    id: MessageId,
    user: Arc<str>,
    to: &Mailbox,
    content: Content,
    now: Timestamp,
    signing_domain: Option<Arc<str>>,
) -> (Arc<Message>, Content) {
    let envelope = Envelope {
        reverse_path: ReversePath::NULL,
        parameters: MailParameters { smtputf8: !to.has_ascii_local_part(), ..MailParameters::default() },
        recipients: vec![Recipient::new(to.clone())],
    };
    let life = now..now.plus(super::options::LIFE.1);
    let message = Message {
        lane: crate::base::lane::Lane::Notice,
        size: content.len() as u64,
        eight_bit: !content.is_ascii(),
        utf8_fields: envelope.parameters.smtputf8 && !content.head.is_ascii(),
        signing_domain,
        ..Message::new(id, user, envelope, life)
    };
    (Arc::new(message), content)
}

fn from_daemon(hostname: &str, to: &Mailbox, id: MessageId, now: Timestamp) -> MessageBuilder<'static> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(0);
    MessageBuilder::new()
        .from(("Mail Delivery".to_owned(), format!("MAILER-DAEMON@{hostname}")))
        .to(to.to_ascii().unwrap_or_else(|| to.as_str().to_owned()))
        .date(Date::new(seconds))
        .message_id(format!("{id}@{hostname}"))
        .header("Auto-Submitted", Raw::new("auto-replied"))
}

/// One mail in the place of many notifications.
pub(super) fn digest(
    digest: &Digest,
    hostname: &str,
    id: MessageId,
    signing_domain: Option<Arc<str>>,
    (now, step): (Timestamp, Step),
) -> Option<(Arc<Message>, Content)> {
    let count = digest.listed.len() as u64 + digest.more;
    let since = step.wall(digest.since).rfc5322();
    let mut text = format!(
        "This is {hostname}.\r\n\r\nThere is something to tell of {count} messages from this address since {since},\r\n\
         more than it is notified of one by one. `otp-relay trace ID` shows what became of each:\r\n\r\n"
    );
    digest.listed.iter().for_each(|id| text.push_str(&format!("    {id}\r\n")));
    if digest.more > 0 {
        text.push_str(&format!("\r\nand {} more, which are not listed.\r\n", digest.more));
    }
    let message = from_daemon(hostname, &digest.to, id, step.wall(now));
    let message = message.subject(format!("Not delivered, or late: {count} messages")).text_body(text);
    let content = Content::split(Bytes::from(message.write_to_vec().ok()?));
    Some(own_message(id, digest.user.clone(), &digest.to, content, now, signing_domain))
}

/// Without NOTIFY, failures only (RFC 3461 section 5.2.5), and delays where `BY=;N` asks for them (RFC 2852 section 4).
/// What a newer message or the app itself ended is no failure.
fn action(kind: Kind, is_late: bool, notify: Option<Notify>) -> Option<Action> {
    let notify = notify.unwrap_or(Notify { failure: true, delay: is_late, success: false });
    let is_failure = matches!(kind, Kind::Failed | Kind::Expired);
    let actions = [
        (is_failure && notify.failure, Action::Failed),
        (kind == Kind::AtRisk && notify.delay, Action::Delayed),
        (kind == Kind::Delivered && notify.success, Action::Relayed),
    ];
    actions.into_iter().find(|(applies, _)| *applies).map(|(_, action)| action)
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

#[cfg(test)]
mod tests;
