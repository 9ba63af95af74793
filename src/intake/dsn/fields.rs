//! What is said of one recipient, and how the fields of a status part are written.

use super::{Action, RecipientStatus};
use crate::base::clock::Step;
use crate::base::text::one_line;
use crate::event::Kind;
use crate::ledger::entry::Message;
use crate::smtp::reply::EnhancedCode;

/// What is told of a reply, in octets, for no line may be longer than 998 (RFC 5322 section 2.1.1).
const REPLY_LEN_MAX: usize = 500;

impl RecipientStatus<'_> {
    pub(super) fn what(&self) -> &'static str {
        match (self.action, self.kind) {
            (Action::Failed, Kind::Expired) => "expired before it could be delivered, and will not be sent any more",
            (Action::Failed, _) => "was not delivered, and will not be tried again",
            (Action::Delayed, _) if self.is_late => {
                "was not delivered within the time that was asked for; delivery is still being tried"
            }
            (Action::Delayed, _) => "may not arrive in time; delivery is still being tried",
            (Action::Relayed, _) => "was taken by the recipient's mail host",
        }
    }

    pub(super) fn reply(&self) -> Option<&str> {
        self.reply.map(|reply| &reply[..reply.floor_char_boundary(REPLY_LEN_MAX)])
    }

    /// RFC 3464 section 2.3.
    pub(super) fn status_fields(&self, message: &Message, step: Step) -> Vec<(&'static str, String)> {
        let recipient = self.recipient;
        let mut fields: Vec<_> =
            recipient.orcpt.as_deref().map(|orcpt| ("Original-Recipient", orcpt.to_owned())).into_iter().collect();
        let address = match recipient.mailbox.to_ascii() {
            Some(address) => format!("rfc822; {address}"),
            None => format!("utf-8; {}", recipient.mailbox),
        };
        fields.push(("Final-Recipient", address));
        fields.push(("Action", self.action.name().to_owned()));
        let EnhancedCode(class, subject, detail) = self.status();
        fields.push(("Status", format!("{class}.{subject}.{detail}")));
        if let Some(reply) = self.reply() {
            fields.extend(self.destination.map(|host| ("Remote-MTA", format!("dns; {host}"))));
            let is_reply = reply.bytes().take(3).filter(u8::is_ascii_digit).count() == 3;
            let kind = if is_reply { "smtp" } else { "x-otp-relay" };
            fields.push(("Diagnostic-Code", format!("{kind}; {reply}")));
        }
        fields.push(("Last-Attempt-Date", step.wall(self.at).rfc5322()));
        if self.action == Action::Delayed {
            fields.push(("Will-Retry-Until", step.wall(message.expires_at).rfc5322()));
        }
        fields
    }

    /// The code that the host gave, if it speaks of the same outcome; else our own (RFC 3463).
    fn status(&self) -> EnhancedCode {
        let class = match self.action {
            Action::Failed => 5,
            Action::Delayed => 4,
            Action::Relayed => 2,
        };
        let text = self.reply.and_then(|reply| reply.split_once(' ')).map(|(_, text)| text);
        match text.and_then(EnhancedCode::split_from).map(|(code, _)| code) {
            // RFC 2852 section 4: the delivery time has passed.
            _ if self.is_late => EnhancedCode(4, 4, 7),
            Some(EnhancedCode(given, subject, detail)) if given == class => EnhancedCode(class, subject, detail),
            _ if self.kind == Kind::Expired => EnhancedCode(5, 4, 7),
            _ if self.action == Action::Delayed => EnhancedCode(4, 4, 7),
            _ => EnhancedCode(class, 0, 0),
        }
    }
}

/// xtext (RFC 3461 section 4) as it was meant.
pub(super) fn decoded(xtext: &str) -> String {
    let mut octets = Vec::with_capacity(xtext.len());
    let mut rest = xtext.as_bytes();
    while let Some((&octet, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| octet == b'+').and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                octets.push(value);
                rest = &tail[2..];
            }
            None => {
                octets.push(octet);
                rest = tail;
            }
        }
    }
    one_line(&String::from_utf8_lossy(&octets)).into_owned()
}

/// A field in lines that are not too long.
pub(super) fn folded(name: &str, value: &str) -> String {
    let mut field = format!("{name}:");
    let mut line_len = field.len();
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        if line_len + word.len() > 76 && line_len > name.len() + 1 {
            field.push_str("\r\n ");
            line_len = 1;
        } else {
            field.push(' ');
            line_len += 1;
        }
        field.push_str(word);
        line_len += word.len();
    }
    field.push_str("\r\n");
    field
}
