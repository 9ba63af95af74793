//! Searches in the words of Mailpit: `to:`, `from:`, `subject:` and the like, each the start or the middle of what it is
//! looked for in; everything that is named has to be there.

use super::super::mail::{Mail, Person};
use super::messages::sender;

/// Terms of one search.
const TERMS_MAX: usize = 32;

#[derive(Debug, PartialEq, Eq)]
struct Term {
    is_not: bool,
    field: Field,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Anywhere,
    To,
    From,
    Cc,
    Addressed,
    ReplyTo,
    Subject,
    MessageId,
    Tag,
    Is,
    Has,
    /// Nothing that is known: it is nowhere.
    Unknown,
}

impl Field {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "to" => Self::To,
            "from" => Self::From,
            "cc" => Self::Cc,
            "addressed" => Self::Addressed,
            "reply-to" => Self::ReplyTo,
            "subject" => Self::Subject,
            "message-id" => Self::MessageId,
            "tag" => Self::Tag,
            "is" => Self::Is,
            "has" => Self::Has,
            "bcc" | "before" | "after" | "larger" | "smaller" => Self::Unknown,
            _ => return None,
        })
    }
}

#[derive(Debug)]
pub(super) struct Search(Vec<Term>);

impl Search {
    pub(super) fn read(query: &str) -> Self {
        Self(words(query).into_iter().take(TERMS_MAX).filter_map(|word| term(&word)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn finds(&self, mail: &Mail) -> bool {
        self.0.iter().all(|term| term.finds(mail))
    }
}

/// Words, of which quotes hold several together.
fn words(query: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in query.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            c if c.is_whitespace() && !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn term(word: &str) -> Option<Term> {
    let (is_not, word) = match word.strip_prefix(['-', '!']) {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, word),
    };
    let lower = word.to_lowercase();
    let named = lower.split_once(':').and_then(|(name, text)| Some((Field::of(name)?, text.to_owned())));
    let (field, text) = named.unwrap_or((Field::Anywhere, lower));
    let text = text.trim().to_owned();
    (!text.is_empty()).then_some(Term { is_not, field, text })
}

impl Term {
    fn finds(&self, mail: &Mail) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        let names = |people: &[Person]| people.iter().any(|person| has(&person.address) || has(&person.name));
        let read = &mail.read;
        let to = || names(&read.to) || has(mail.how.recipient.as_str());
        let from = || has(&sender(mail)) || read.from.as_ref().is_some_and(|from| has(&from.name));
        let found = match self.field {
            Field::Anywhere => to() || from() || has(&read.subject) || has(&read.text) || has(&read.html),
            Field::To => to(),
            Field::From => from(),
            Field::Cc => names(&read.cc),
            Field::Addressed => to() || from() || names(&read.cc) || names(&read.reply_to),
            Field::ReplyTo => names(&read.reply_to),
            Field::Subject => has(&read.subject),
            Field::MessageId => has(&read.message_id),
            Field::Tag => mail.tag().is_some_and(|tag| tag.to_lowercase() == self.text),
            Field::Is => match self.text.as_str() {
                "read" => mail.was_read(),
                "unread" => !mail.was_read(),
                "tagged" => mail.tag().is_some(),
                _ => false,
            },
            Field::Has => match self.text.as_str() {
                "attachment" | "attachments" => read.parts.iter().any(|part| !part.is_inline),
                "inline" => read.parts.iter().any(|part| part.is_inline),
                _ => false,
            },
            Field::Unknown => false,
        };
        found != self.is_not
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::mail::{Arrival, Mark, Tls};
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::mail::address::Mailbox;

    #[test]
    fn what_is_named_has_to_be_there() {
        let content = "From: \"Example Shop\" <otp@shop.test>\r\nTo: Alice <alice@example.test>\r\n\
                       Subject: 481516 is your code\r\n\r\nfor the shop in Main Street\r\n";
        let how = Arrival {
            sender: "bounce@shop.test".to_owned(),
            recipient: Mailbox::parse("alice@example.test").unwrap(),
            received_at: Timestamp::from_millis(0),
            attempts: 1,
            mark: Mark::Kept,
            tls: Tls::On,
            verdicts: Vec::new(),
        };
        let mail = Mail::new(1, how, Bytes::from(content));
        let check = |query: &str, expected: bool| assert_eq!(Search::read(query).finds(&mail), expected, "{query}");
        check("to:alice@example.test", true);
        check("to:\"alice@example.test\" subject:code", true);
        check("to:bob@example.test", false);
        check("TO:ALICE from:shop", true);
        check("from:\"example shop\"", true);
        check("\"main street\"", true);
        check("main avenue", false);
        check("-to:bob subject:\"is your\"", true);
        check("!to:alice", false);
        check("is:unread", true);
        check("is:read", false);
        check("has:attachment", false);
        check("tag:x", false);
        check("before:2026-01-01", false);
        assert!(Search::read("  ").is_empty());
    }
}
