//! How much of a recipient's address is told in logs, where we write it and where a mail host quotes it.

use std::borrow::Cow;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use parking_lot::Mutex;

use super::addresses::AddressesIn;
use crate::base::clock::Timestamp;
use crate::mail::address::Mailbox;
use data_encoding::HEXLOWER;

/// `log.recipients`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disclosure {
    /// `a***e@example.com`.
    #[default]
    Masked,
    /// All of it.
    Full,
    /// Twelve hexadecimal digits that are the same for an address all day.
    Hashed,
}

/// In the place of what is not told.
const MASK: &str = "***";

/// Writes recipients as configured. Copies share the key, so that an address has one hash in all lines of a day.
#[derive(Debug, Clone, Default)]
pub struct Recipients {
    disclosure: Disclosure,
    /// The key for hashes, and the day it is for.
    key: Arc<Mutex<Option<(u64, hmac::Key)>>>,
}

const DAY_S: u64 = 86_400;

impl Recipients {
    /// Addresses in this form.
    pub fn new(disclosure: Disclosure) -> Self {
        Self { disclosure, key: Arc::default() }
    }

    /// How much is told.
    pub(crate) fn disclosure(&self) -> Disclosure {
        self.disclosure
    }

    /// The address as it may be told.
    pub(crate) fn render(&self, mailbox: &Mailbox, now: Timestamp) -> String {
        match self.disclosure {
            Disclosure::Masked => mailbox.masked(),
            Disclosure::Full => mailbox.as_str().to_owned(),
            Disclosure::Hashed => self.hashed(mailbox, now),
        }
    }

    /// Somebody's words with the addresses in them as they may be told: every one, also those that are not the
    /// recipient's, and the recipient's local part where it stands alone.
    pub(crate) fn render_in<'a>(&self, text: &'a str, recipient: Option<&Mailbox>, now: Timestamp) -> Cow<'a, str> {
        if self.disclosure == Disclosure::Full {
            return Cow::Borrowed(text);
        }
        let parts = AddressesIn::new(text, recipient);
        let told = |mailbox: Option<Mailbox>, domain: &str| match (mailbox, self.disclosure) {
            (Some(mailbox), _) if mailbox.local_part().contains(MASK) => mailbox.to_string(),
            (Some(mailbox), _) => self.render(&mailbox, now),
            (None, Disclosure::Hashed) => MASK.to_owned(),
            (None, Disclosure::Masked | Disclosure::Full) => format!("{MASK}@{domain}"),
        };
        let alone = match (self.disclosure, recipient) {
            (Disclosure::Masked, Some(recipient)) => recipient.masked_local_part(),
            (Disclosure::Masked | Disclosure::Hashed | Disclosure::Full, _) => MASK.to_owned(),
        };
        parts.replaced(told, &alone)
    }

    pub(super) fn hashed(&self, mailbox: &Mailbox, now: Timestamp) -> String {
        let day = now.as_secs() / DAY_S;
        let mut key = self.key.lock();
        if key.as_ref().is_none_or(|(of, _)| *of != day) {
            let mut bytes = [0; 32];
            if SystemRandom::new().fill(&mut bytes).is_err() {
                return "************".to_owned();
            }
            *key = Some((day, hmac::Key::new(hmac::HMAC_SHA256, &bytes)));
        }
        let Some((_, key)) = key.as_ref() else { return String::new() };
        let tag = hmac::sign(key, mailbox.plain_key().as_bytes());
        HEXLOWER.encode(&tag.as_ref()[..6])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_as_configured() {
        let mailbox = Mailbox::parse("alice@example.com").unwrap();
        let now = Timestamp::from_millis(1_795_255_200_000);
        assert_eq!(Recipients::new(Disclosure::Masked).render(&mailbox, now), "a***e@example.com");
        assert_eq!(Recipients::new(Disclosure::Full).render(&mailbox, now), "alice@example.com");
        let hashed = Recipients::new(Disclosure::Hashed);
        let first = hashed.render(&mailbox, now);
        assert_eq!(first.len(), 12);
        assert_eq!(hashed.render(&Mailbox::parse("ALICE@example.com").unwrap(), now), first);
        let tomorrow = now.plus(std::time::Duration::from_secs(DAY_S));
        assert_ne!(hashed.render(&mailbox, tomorrow), first);
    }

    #[test]
    fn addresses_in_replies_are_told_as_configured() {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let check = |recipient: &str, reply: &str, expected: &str| {
            let recipient = Mailbox::parse(recipient).unwrap();
            let told = Recipients::new(Disclosure::Masked).render_in(reply, Some(&recipient), now).into_owned();
            assert_eq!(told, expected, "{reply}");
            let again = Recipients::new(Disclosure::Masked).render_in(&told, Some(&recipient), now).into_owned();
            assert_eq!(again, expected, "a second time");
            let local = recipient.local_part().trim_matches('"').to_lowercase();
            let hashed = Recipients::new(Disclosure::Hashed).render_in(reply, Some(&recipient), now).to_lowercase();
            assert!(!hashed[3..].contains(&local), "{hashed}");
            assert_eq!(Recipients::new(Disclosure::Full).render_in(reply, Some(&recipient), now), reply);
        };
        let alice = "alice@example.net";
        check(alice, "550 5.1.1 <alice@example.net>: unknown", "550 5.1.1 <a***e@example.net>: unknown");
        check(alice, "450 <ALICE@Example.NET> greylisted", "450 <A***E@Example.NET> greylisted");
        check(alice, "no mailbox 'alice@example.net'.", "no mailbox 'a***e@example.net'.");
        check(alice, "\"alice\"@example.net is full", "a***e@example.net is full");
        check(alice, "rejected alice=example.net@srs.test", "rejected a***t@srs.test");
        check(alice, "SRS0=x1=AB=example.net=alice@srs.test", "S***e@srs.test");
        check(alice, "b+alice=example.net=c@list.test", "b***c@list.test");
        check(alice, "user alice at example.net unknown", "user a***e at example.net unknown");
        check(alice, "Alice (example.net), alice=example.net", "a***e (example.net), a***e=example.net");
        check(alice, "see http://h.test/?m=alice%40example.net.", "see http://h.test/?m=a***e@example.net.");
        check(alice, "of bob.smith@other.test, alice", "of b***h@other.test, a***e");
        check("alice+shop@example.net", "<alice@example.net> alice?", "<a***e@example.net> a***p?");
        check(
            "alice@b\u{fc}cher.test",
            "alice@xn--bcher-kva.test alice@B\u{dc}CHER.test",
            "a***e@xn--bcher-kva.test a***e@B\u{dc}CHER.test",
        );
        check(
            "\"al ice\"@example.net",
            "<\"al ice\"@example.net> al ice@example.net",
            "<a***e@example.net> a***e@example.net",
        );
        check("550@example.net", "550 5.1.1 550 unknown", "550 5.1.1 5***0 unknown");
        check("gr\u{f6}\u{df}e@example.net", "GR\u{d6}\u{df}E unknown", "g***e unknown");
        check("alice@[192.0.2.1]", "<alice@[192.0.2.1]>", "<a***e@[192.0.2.1]>");
    }

    #[test]
    fn short_local_parts_are_looked_for_beside_their_domain_only() {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let a = Mailbox::parse("a@example.net").unwrap();
        let render = |reply: &str| Recipients::default().render_in(reply, Some(&a), now).into_owned();
        assert_eq!(render("not a mailbox"), "not a mailbox");
        let bob = Mailbox::parse("bob@example.net").unwrap();
        assert_eq!(Recipients::default().render_in("bobby, kebob", Some(&bob), now), "bobby, kebob", "other words");
        assert_eq!(render("mailbox a at EXAMPLE.net"), "mailbox *** at EXAMPLE.net");
        assert_eq!(render("a@example.net, @, b@, x @ y"), "***@example.net, @, ***@, x @ y");
    }

    #[test]
    fn an_address_has_one_hash_wherever_it_stands() {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let alice = Mailbox::parse("alice@b\u{fc}cher.test").unwrap();
        let hashed = Recipients::new(Disclosure::Hashed);
        let hash = hashed.render(&alice, now);
        let told = hashed
            .clone()
            .render_in("<Alice@xn--bcher-kva.test> and \"alice\"@B\u{dc}CHER.test", Some(&alice), now)
            .into_owned();
        assert_eq!(told, format!("<{hash}> and {hash}"));
    }
}
