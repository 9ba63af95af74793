//! What a recipient's address asks for in the sandbox: the first word of its local part says what happens to mail for it, a
//! second one for how long or how often. A relay that serves real mail knows none of this.

use std::time::Duration;

use super::address::Mailbox;
use crate::base::units;

/// The longest time that an address can ask for.
const SPAN_MAX: Duration = Duration::from_secs(3600);
/// Under which name addresses have hosts of their own.
const OWN_HOSTS: &str = ".sandbox";

/// What a word asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Asks {
    /// 451 until so long after the first try.
    Greylisted,
    /// 421 so many times.
    Busy,
    /// Every reply so late.
    Slow,
    /// The content is taken and never answered.
    Lost,
    /// No STARTTLS.
    NoTls,
    /// A certificate that nobody should trust.
    BadTls,
    /// Taken, and put where nobody looks.
    Hidden,
    /// 550: no such mailbox.
    Unknown,
    /// 452: the mailbox is full.
    Full,
    /// 550 behind the content.
    Spam,
    /// A connection on which nothing is ever said.
    Silent,
    /// Taken; a bounce comes so much later.
    Bounced,
    /// The domain does not exist.
    NoDomain,
    /// The relay's own list has the address.
    Suppressed,
    /// The recipient has had all it may have for now.
    Budget,
}

const WORDS: [(&str, Asks); 15] = [
    ("greylisted", Asks::Greylisted),
    ("busy", Asks::Busy),
    ("slow", Asks::Slow),
    ("lost", Asks::Lost),
    ("notls", Asks::NoTls),
    ("badtls", Asks::BadTls),
    ("hidden", Asks::Hidden),
    ("unknown", Asks::Unknown),
    ("full", Asks::Full),
    ("spam", Asks::Spam),
    ("silent", Asks::Silent),
    ("bounced", Asks::Bounced),
    ("nodomain", Asks::NoDomain),
    ("suppressed", Asks::Suppressed),
    ("budget", Asks::Budget),
];

/// A word with what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trial {
    pub asks: Asks,
    /// For how long, as in `greylisted-30s`.
    pub span: Option<Duration>,
    /// How often, as in `busy-2`.
    pub count: Option<u32>,
}

impl Trial {
    /// What a local part asks for; none: nothing out of the ordinary.
    pub(crate) fn of(local_part: &str) -> Option<Self> {
        let mut words = local_part.split(['-', '.', '+']);
        let first = words.next()?;
        let (_, asks) = *WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(first))?;
        // Only what a hyphen ties to the first word belongs to it.
        let second = if local_part[first.len()..].starts_with('-') { words.next() } else { None };
        let second = second.map(str::to_ascii_lowercase).unwrap_or_default();
        let count = second.parse().ok();
        let span = if count.is_some() { None } else { units::duration(&second).map(|span| span.min(SPAN_MAX)) };
        Some(Self { asks, span, count })
    }

    /// What the host of this domain does, if the domain is one that an address has for itself.
    pub(crate) fn of_domain(domain: &str) -> Option<Self> {
        let label = domain.strip_suffix(OWN_HOSTS).filter(|label| !label.contains('.'))?;
        Self::of(label)
    }
}

/// By what the way of a recipient's mail is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteBy {
    #[default]
    Domain,
    /// By its domain, or by the address itself where that asks for a host of its own: what is learned there touches nobody
    /// else.
    Trial,
}

impl RouteBy {
    /// The name that is asked for in DNS, in lower case and A-labels.
    pub(crate) fn name(self, recipient: &Mailbox) -> String {
        match self {
            Self::Domain => recipient.domain_key(),
            Self::Trial => own_domain(recipient).unwrap_or_else(|| recipient.domain_key()),
        }
    }
}

/// `slow-5s-1f0c2b9d8e7a6543.sandbox`: the words, and a number that is the address's own.
fn own_domain(recipient: &Mailbox) -> Option<String> {
    let key = recipient.plain_key();
    let local = recipient.plain_local_part();
    let trial = Trial::of(&local)?;
    let words = if trial.span.is_some() || trial.count.is_some() { 2 } else { 1 };
    let words: Vec<&str> = local.split(['-', '.', '+']).take(words).collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let number: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{}-x{number}{OWN_HOSTS}", words.join("-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides_and_the_second_says_how_much() {
        let check = |local: &str, asks: Option<Asks>, span: Option<u64>, count: Option<u32>| {
            let expected = asks.map(|asks| Trial { asks, span: span.map(Duration::from_secs), count });
            assert_eq!(Trial::of(local), expected, "{local}");
        };
        check("alice", None, None, None);
        check("unknownish", None, None, None);
        check("", None, None, None);
        check("unknown+42", Some(Asks::Unknown), None, None);
        check("unknown-user.x", Some(Asks::Unknown), None, None);
        check("Greylisted.alice", Some(Asks::Greylisted), None, None);
        check("greylisted.30s", Some(Asks::Greylisted), None, None);
        check("greylisted-30s.x", Some(Asks::Greylisted), Some(30), None);
        check("GREYLISTED-2M+x", Some(Asks::Greylisted), Some(120), None);
        check("busy-2.x", Some(Asks::Busy), None, Some(2));
        check("slow-1d", Some(Asks::Slow), Some(3600), None);
    }

    #[test]
    fn an_address_that_asks_for_something_has_a_host_of_its_own() {
        let name = |address: &str| RouteBy::Trial.name(&Mailbox::parse(address).unwrap());
        assert_eq!(name("alice@Example.test"), "example.test");
        let slow = name("slow-5s.x@example.test");
        assert!(slow.starts_with("slow-5s-x") && slow.ends_with(OWN_HOSTS), "{slow}");
        assert_eq!(Trial::of_domain(&slow), Trial::of("slow-5s"));
        assert_eq!(slow, name("SLOW-5s.X@EXAMPLE.test"));
        assert_ne!(slow, name("slow-5s.y@example.test"));
        assert_ne!(slow, name("slow-5s.x@example.org"));
        assert_eq!(Trial::of_domain("slow-5s.example.test"), None);
        assert_eq!(RouteBy::Domain.name(&Mailbox::parse("slow-5s.x@example.test").unwrap()), "example.test");
    }
}
