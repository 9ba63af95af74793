//! Some servers quote the message in their replies. What could be its code must not get into a log.
//!
//! A host chooses what it replies, and an app how long its message is; so the message is gone through once for all replies of an
//! attempt, and only for the words that they hold.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use mail_parser::PartType;

use crate::ledger::entry::SignedContent;
use crate::mail::message::body_parser;

/// A word shorter than this is no code.
const CODE_LEN_MIN: usize = 4;
const MASK: &str = "***";
/// Less of a subject than this, where a reply was cut, tells nothing.
const CUT_LEN_MIN: usize = 8;
/// Longer content is gone through where no other mail waits for the thread.
const SHORT_LEN: usize = 32 << 10;

/// What of a message is not to be seen in the replies of one attempt.
#[derive(Default)]
pub(super) struct Mask {
    subject: Option<String>,
    /// Words of these replies that look like codes and occur in the message.
    own: HashSet<String>,
}

impl Mask {
    /// For replies with these words that look like codes, to an attempt with this content.
    pub(super) async fn of(wanted: HashSet<String>, content: &Arc<SignedContent>) -> Self {
        if content.len() <= SHORT_LEN {
            return Self::with(wanted, content).0;
        }
        let long = content.clone();
        match tokio::task::spawn_blocking(move || Self::with(wanted, &long).0).await {
            Ok(mask) => mask,
            // Nobody knows what was in it.
            Err(_) => Self { subject: Some(String::new()), own: HashSet::new() },
        }
    }

    /// With the words of the message that are among those wanted; and how many octets were gone through for them.
    fn with(mut wanted: HashSet<String>, content: &SignedContent) -> (Self, usize) {
        let mut octets = 0;
        let mut own = HashSet::new();
        let subject = content.content.subject();
        if !wanted.is_empty() {
            let mut look = |text: &str| {
                octets += text.len();
                own.extend(words(text).filter_map(|word| wanted.take(word)));
            };
            subject.iter().for_each(|subject| look(subject));
            let whole = [content.content.head.as_ref(), content.content.body.as_ref()].concat();
            let parsed = body_parser().parse(&whole);
            for part in parsed.iter().flat_map(|message| &message.parts) {
                if let PartType::Text(text) | PartType::Html(text) = &part.body {
                    look(text);
                }
            }
        }
        let subject = subject.filter(|subject| subject.chars().count() >= CODE_LEN_MIN);
        (Self { subject, own }, octets)
    }

    /// A reply with the subject masked where it is quoted whole, or as far as the reply goes, and every word that looks like a
    /// code and occurs in the subject or the body.
    pub(super) fn apply<'a>(&self, reply: &'a str) -> Cow<'a, str> {
        let Some(subject) = &self.subject else { return self.without_codes(reply) };
        if subject.is_empty() {
            return MASK.into();
        }
        if !reply.contains(subject.as_str()) {
            return self.without_end(subject, reply);
        }
        let reply = reply.replace(subject, MASK);
        self.without_end(subject, &reply).into_owned().into()
    }

    /// A reply that ends within the subject.
    fn without_end<'a>(&self, subject: &str, reply: &'a str) -> Cow<'a, str> {
        let ends = (CUT_LEN_MIN..subject.len().min(reply.len() + 1)).rev();
        let cut = ends.into_iter().find(|len| subject.is_char_boundary(*len) && reply.ends_with(&subject[..*len]));
        match cut {
            Some(len) => self.without_codes(&reply[..reply.len() - len]) + MASK,
            None => self.without_codes(reply),
        }
    }

    fn without_codes<'a>(&self, reply: &'a str) -> Cow<'a, str> {
        if self.own.is_empty() {
            return reply.into();
        }
        let mut masked = String::with_capacity(reply.len());
        let mut rest = reply;
        while let Some(word) = words(rest).next() {
            // A word is a slice of `rest`; its place follows from the addresses.
            let at = word.as_ptr() as usize - rest.as_ptr() as usize;
            masked.push_str(&rest[..at]);
            masked.push_str(if self.own.contains(word) { MASK } else { word });
            rest = &rest[at + word.len()..];
        }
        masked.push_str(rest);
        masked.into()
    }
}

/// The words of replies that look like codes.
pub(super) fn like_codes<'a>(replies: impl Iterator<Item = &'a str>) -> HashSet<String> {
    replies.flat_map(words).filter(|word| looks_like_code(word)).map(str::to_owned).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Digits, or capitals beyond the first letter.
fn looks_like_code(word: &str) -> bool {
    word.len() >= CODE_LEN_MIN
        && (word.bytes().any(|b| b.is_ascii_digit()) || word.chars().skip(1).any(char::is_uppercase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::message::Content;

    fn mask_reply(reply: &str, content: &SignedContent) -> String {
        Mask::with(like_codes([reply].into_iter()), content).0.apply(reply).into_owned()
    }

    fn check(reply: &str, body: &str, expected: &str) {
        let text = format!("Subject: 481516 is your code\r\n{body}");
        let content = SignedContent { signatures: Default::default(), content: Content::split(text.into()) };
        assert_eq!(mask_reply(reply, &content), expected);
    }

    #[test]
    fn codes_and_a_whole_subject_are_masked_and_nothing_else() {
        let plain = "\r\nYour code is XKCDQ or ab12-99zz\r\n";
        check("message '481516 is your code' looks like spam", plain, "message '***' looks like spam");
        check("'481516 is YOUR code'", plain, "'*** is YOUR code'");
        check("rejected: XKCDQ", plain, "rejected: ***");
        check("rejected: ab12-99zz", plain, "rejected: ***-***");
        check("queued as 4ZkQ1r2", plain, "queued as 4ZkQ1r2");
        check("your message was rejected", plain, "your message was rejected");
        let encoded = "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nY29kZSA3NzQ0MTE=\r\n";
        check("found 774411", encoded, "found ***");
    }

    #[test]
    fn a_malformed_field_hides_nothing() {
        let head = "Date: Sat, N1 2ov 2026&10:00:00 +000p\r\nSubject: 481516\r\nFrom: a@b.example, \"\r\n";
        let content = Content::split(format!("{head}Content-Transfer-Encoding: base64\r\n\r\nNzc0NDEx\r\n").into());
        let content = SignedContent { signatures: Default::default(), content };
        assert_eq!(mask_reply("554 no 774411, no 481516 1", &content), "554 no ***, no *** 1");
    }

    #[test]
    fn a_subject_without_a_code_is_masked() {
        let mask = |subject: &str, reply: &str| {
            let content = Content::split(format!("From: a@b.example\r\nSubject: {subject}\r\n\r\nx\r\n").into());
            mask_reply(reply, &SignedContent { signatures: Default::default(), content })
        };
        assert_eq!(mask("Zebrafish sign-in", "554 spam: Zebrafish sign-in"), "554 spam: ***");
        assert_eq!(mask("=?utf-8?q?Gr=C3=B6=C3=9Fe?=", "554 spam: Größe!"), "554 spam: ***!");
        assert_eq!(mask("no", "554 no"), "554 no");
        assert_eq!(mask("", "554 no"), "554 no");
    }

    #[test]
    fn the_message_is_gone_through_once_for_all_replies() {
        let body = "Your code is 774411\r\n".repeat(1000);
        let content = Content::split(format!("Subject: 774411 for you\r\n\r\n{body}").into());
        let content = SignedContent { signatures: Default::default(), content };
        let replies: Vec<String> = (0..64).map(|n| format!("550 {n}: 774411 and AB{n}CD no")).collect();
        let (mask, octets) = Mask::with(like_codes(replies.iter().map(String::as_str)), &content);
        assert_eq!(octets, "774411 for you".len() + body.len());
        assert_eq!((mask.own.len(), &*mask.apply(&replies[7])), (1, "550 7: *** and AB7CD no"));
        let harmless = like_codes(["550 no such user here", "421 busy"].into_iter());
        assert_eq!(Mask::with(harmless, &content).1, 0, "nothing looks like a code");
    }

    #[test]
    fn a_subject_is_masked_as_far_as_the_reply_goes() {
        let content = Content::split("Subject: Zebrafish sign-in for Alice\r\n\r\nx\r\n".to_owned().into());
        let content = SignedContent { signatures: Default::default(), content };
        assert_eq!(mask_reply("554 spam: Zebrafish sign", &content), "554 spam: ***");
        assert_eq!(mask_reply("554 spam: Zebra", &content), "554 spam: Zebra", "too little of it");
        let content = Content::split("Subject: xxxxxxxxxxxx\r\n\r\nx\r\n".to_owned().into());
        let content = SignedContent { signatures: Default::default(), content };
        assert_eq!(mask_reply("554 xxxxxxxxxxxx", &content), "554 ***");
    }

    #[tokio::test]
    async fn long_content_is_masked_too() {
        let body = format!("{}\r\nYour code is 774411\r\n", "filler line\r\n".repeat(10_000));
        let content = Content::split(format!("Subject: x\r\n\r\n{body}").into());
        let content = Arc::new(SignedContent { signatures: Default::default(), content });
        let mask = Mask::of(like_codes(["550 spam 774411"].into_iter()), &content).await;
        assert_eq!(mask.apply("550 spam 774411"), "550 spam ***");
    }
}
