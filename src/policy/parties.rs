//! Who sends to whom, and whom of them a refusal is about. Hosts judge our sender where they answer RCPT, too, and a
//! recipient must not pay for that.

use super::wording::folded;
use crate::mail::address::{Mailbox, ReversePath, domain_key};

/// Words for the sender and for what hosts do to check one, as [`folded`] writes them.
const SENDER_WORDS: [&str; 22] = [
    "sender",
    "originator",
    "reverse-path",
    "reverse path",
    "return-path",
    "return path",
    "mail from",
    "mailfrom",
    "envelope from",
    "callout",
    "call-out",
    "callback",
    "call-back",
    "absender",
    "expediteur",
    "remitente",
    "remetente",
    "mittente",
    "afzender",
    "отправител",
    "发件人",
    "差出人",
];

/// The two ends of a transaction, as they stood on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Parties<'a> {
    pub sender: &'a ReversePath,
    pub recipient: &'a Mailbox,
}

impl Parties<'_> {
    /// Whether a text names the sender, or the sender's domain where that could not mean the recipient.
    pub(super) fn names_sender(&self, text: &str) -> bool {
        let Some(sender) = self.sender.mailbox() else { return false };
        let (sender_key, recipient_key) = (sender.plain_key(), self.recipient.plain_key());
        if sender_key == recipient_key {
            return false;
        }
        let names = names_in(text);
        if names.contains(&sender_key) {
            return true;
        }
        let domain = sender.domain_key();
        let names_domain = names.iter().any(|name| name.rsplit('@').next() == Some(&*domain));
        let shares_domain = domain == self.recipient.domain_key();
        names_domain && !(shares_domain && names.contains(&recipient_key))
    }
}

/// Whether a text speaks of the sender in so many words.
pub(super) fn speaks_of_sender(text: &str) -> bool {
    let text = folded(text);
    SENDER_WORDS.iter().any(|word| text.contains(word))
}

/// The addresses and domains in a text, as keys.
fn names_in(text: &str) -> Vec<String> {
    let is_around = |c: char| c.is_whitespace() || c.is_control() || "<>()[]{}:;,='`\u{2018}\u{2019}".contains(c);
    let words = text.split(is_around).map(|word| word.trim_matches(['.', '"', '!', '?']));
    let key = |word: &str| match Mailbox::parse(word) {
        Ok(mailbox) => Some(mailbox.plain_key()),
        Err(_) => domain_key(word.rsplit('@').next().unwrap_or(word)),
    };
    words.filter(|word| word.contains('.')).filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(recipient: &str, text: &str, expected: bool) {
        let sender = ReversePath::parse("<otp@app.test>").unwrap();
        let recipient = Mailbox::parse(recipient).unwrap();
        let parties = Parties { sender: &sender, recipient: &recipient };
        assert_eq!(parties.names_sender(text), expected, "{recipient}: {text}");
    }

    #[test]
    fn the_sender_is_known_by_address_and_domain() {
        let victim = "kate@victim.test";
        for text in [
            "<otp@app.test>: user unknown",
            "Verification failed for <OTP@App.test> No such user here",
            "unknown user \"otp@app.test\".",
            "Domain app.test does not exist",
            "<bounces@app.test>... no such domain",
            "app.test: host unknown",
            "no such user (otp@app.test to kate@victim.test)",
        ] {
            check(victim, text, true);
        }
        for text in [
            "<kate@victim.test>: user unknown",
            "no such user at victim.test",
            "user unknown, asked by relay.app.test",
            "notapp.test does not exist",
            "xotp@victim.test: no such user",
            "no such user",
            "",
        ] {
            check(victim, text, false);
        }
    }

    #[test]
    fn within_one_domain_the_recipient_has_to_be_named() {
        check("kate@app.test", "<kate@app.test>: user unknown", false);
        check("kate@app.test", "no such user at app.test", true);
        check("kate@app.test", "<otp@app.test>: user unknown", true);
        check("otp@app.test", "<otp@app.test>: user unknown", false);
    }

    #[test]
    fn a_null_reverse_path_has_no_name() {
        let recipient = Mailbox::parse("otp@app.test").unwrap();
        let parties = Parties { sender: &ReversePath::NULL, recipient: &recipient };
        assert!(!parties.names_sender("<otp@app.test>: user unknown"));
    }

    #[test]
    fn words_for_the_sender() {
        for text in [
            "Sender verify failed",
            "Sender address rejected: User unknown in virtual mailbox table",
            "Callback setup failed while verifying",
            "could not complete sender verify callout",
            "Adresse d'expéditeur inconnue",
            "Unknown user in reverse-path",
        ] {
            assert!(speaks_of_sender(text), "{text}");
        }
        for text in ["User unknown in virtual mailbox table", "Recipient address rejected", "Relay access denied"] {
            assert!(!speaks_of_sender(text), "{text}");
        }
    }
}
