//! How much of a recipient's address is told in logs.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::mail::address::Mailbox;

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

/// Writes recipients as configured.
#[derive(Debug)]
pub struct Recipients {
    disclosure: Disclosure,
    /// The key for hashes, and the day it is for.
    key: Mutex<Option<(u64, hmac::Key)>>,
}

const DAY_S: u64 = 86_400;

impl Recipients {
    /// Addresses in this form.
    pub fn new(disclosure: Disclosure) -> Self {
        Self { disclosure, key: Mutex::new(None) }
    }

    /// The address as it may be told.
    pub fn tell(&self, mailbox: &Mailbox, now: Timestamp) -> String {
        match self.disclosure {
            Disclosure::Masked => mailbox.masked(),
            Disclosure::Full => mailbox.as_str().to_owned(),
            Disclosure::Hashed => self.hashed(mailbox, now),
        }
    }

    fn hashed(&self, mailbox: &Mailbox, now: Timestamp) -> String {
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
        tag.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_as_configured() {
        let mailbox = Mailbox::parse("alice@example.com").unwrap();
        let now = Timestamp::from_millis(1_795_255_200_000);
        assert_eq!(Recipients::new(Disclosure::Masked).tell(&mailbox, now), "a***e@example.com");
        assert_eq!(Recipients::new(Disclosure::Full).tell(&mailbox, now), "alice@example.com");
        let hashed = Recipients::new(Disclosure::Hashed);
        let first = hashed.tell(&mailbox, now);
        assert_eq!(first.len(), 12);
        assert_eq!(hashed.tell(&Mailbox::parse("ALICE@example.com").unwrap(), now), first);
        let tomorrow = now.plus(std::time::Duration::from_secs(DAY_S));
        assert_ne!(hashed.tell(&mailbox, tomorrow), first);
    }
}
