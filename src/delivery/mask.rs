//! Some servers quote the message in their replies. What could be its code must not get into a log.

use mail_parser::PartType;

use crate::mail::message::body_parser;
use crate::queue::entry::SignedContent;

/// A word shorter than this is no code.
const CODE_LEN_MIN: usize = 4;
const MASK: &str = "***";

/// The text of a reply with the subject masked where it is quoted whole, and every word that looks like a code and occurs
/// in the subject or the body.
pub(super) fn mask_reply(reply: &str, content: &SignedContent) -> String {
    match content.content.subject().filter(|subject| subject.chars().count() >= CODE_LEN_MIN && reply.contains(subject))
    {
        Some(subject) => mask_codes(&reply.replace(&subject, MASK), content),
        None => mask_codes(reply, content),
    }
}

fn mask_codes(reply: &str, content: &SignedContent) -> String {
    if !words(reply).any(looks_like_code) {
        return reply.to_owned();
    }
    let own = own_text(content);
    let mut masked = String::with_capacity(reply.len());
    let mut rest = reply;
    while let Some(word) = words(rest).next() {
        // A word is a slice of `rest`; its place follows from the addresses.
        let at = word.as_ptr() as usize - rest.as_ptr() as usize;
        masked.push_str(&rest[..at]);
        let is_own = looks_like_code(word) && own.iter().any(|text| words(text).any(|own_word| own_word == word));
        masked.push_str(if is_own { MASK } else { word });
        rest = &rest[at + word.len()..];
    }
    masked.push_str(rest);
    masked
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Digits, or capitals beyond the first letter.
fn looks_like_code(word: &str) -> bool {
    word.len() >= CODE_LEN_MIN
        && (word.bytes().any(|b| b.is_ascii_digit()) || word.chars().skip(1).any(char::is_uppercase))
}

/// Subject and text parts, decoded.
fn own_text(content: &SignedContent) -> Vec<String> {
    let whole = [content.content.head.as_ref(), content.content.body.as_ref()].concat();
    let mut own: Vec<String> = content.content.subject().into_iter().collect();
    let Some(message) = body_parser().parse(&whole) else { return own };
    for part in &message.parts {
        if let PartType::Text(text) | PartType::Html(text) = &part.body {
            own.push(text.to_string());
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::message::Content;

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
}
