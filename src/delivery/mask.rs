//! Some servers quote the message in their replies. What could be its code must not get into a log.

use mail_parser::{MessageParser, PartType};

use crate::queue::entry::SignedContent;

/// A word shorter than this is no code.
const CODE_LEN_MIN: usize = 4;
const MASK: &str = "***";

/// The text of a reply with every word masked that looks like a code and occurs in the subject or the body.
pub(super) fn mask_reply(reply: &str, content: &SignedContent) -> String {
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
    let Some(message) = MessageParser::default().parse(&whole) else { return Vec::new() };
    let mut own: Vec<String> = message.subject().map(str::to_owned).into_iter().collect();
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
    fn codes_are_masked_and_nothing_else() {
        let plain = "\r\nYour code is XKCDQ or ab12-99zz\r\n";
        check("message '481516 is your code' looks like spam", plain, "message '*** is your code' looks like spam");
        check("rejected: XKCDQ", plain, "rejected: ***");
        check("rejected: ab12-99zz", plain, "rejected: ***-***");
        check("queued as 4ZkQ1r2", plain, "queued as 4ZkQ1r2");
        check("your message was rejected", plain, "your message was rejected");
        let encoded = "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nY29kZSA3NzQ0MTE=\r\n";
        check("found 774411", encoded, "found ***");
    }
}
