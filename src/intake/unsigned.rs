//! Domains whose mail goes unsigned: the log tells of each now and then, and of how many messages.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::clock::Timestamp;

/// How often the log tells of a domain.
const TOLD_EVERY: Duration = Duration::from_secs(3600);
/// Domains with a line of their own; the others share one.
const DOMAINS_MAX: usize = 256;
/// How those are told of.
const OTHERS: &str = "others";

/// What is known of domains.
#[derive(Debug, Default)]
pub(super) struct Unsigned(Mutex<HashMap<Box<str>, UntoldCount>>);

#[derive(Debug)]
struct UntoldCount {
    logged_at: Timestamp,
    messages: u64,
}

impl Unsigned {
    /// A message of this domain goes unsigned; if the log is to tell of it, of which domain, and how many did since it last told.
    pub(super) fn count<'a>(&self, domain: &'a str, now: Timestamp) -> Option<(&'a str, u64)> {
        let mut known = self.0.lock();
        let is_known = known.contains_key(domain);
        if !is_known && known.len() >= DOMAINS_MAX {
            known.retain(|_, untold| untold.logged_at.plus(TOLD_EVERY) > now);
        }
        let domain = if is_known || known.len() < DOMAINS_MAX { domain } else { OTHERS };
        let Some(untold) = known.get_mut(domain) else {
            known.insert(domain.into(), UntoldCount { logged_at: now, messages: 0 });
            return Some((domain, 1));
        };
        untold.messages += 1;
        let is_due = untold.logged_at.plus(TOLD_EVERY) <= now;
        is_due.then(|| {
            untold.logged_at = now;
            (domain, std::mem::take(&mut untold.messages))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    #[test]
    fn a_domain_is_told_of_once_an_hour_with_a_count() {
        let unsigned = Unsigned::default();
        assert_eq!(unsigned.count("app.test", at(0)), Some(("app.test", 1)));
        assert!((1..3600).all(|second| unsigned.count("app.test", at(second)).is_none()));
        assert_eq!(unsigned.count("other.test", at(10)), Some(("other.test", 1)));
        assert_eq!(unsigned.count("app.test", at(3600)), Some(("app.test", 3600)));
        assert_eq!(unsigned.count("app.test", at(3601)), None);
    }

    #[test]
    fn many_domains_share_a_line() {
        let unsigned = Unsigned::default();
        let lines = (0..10_000).filter(|number| unsigned.count(&format!("{number}.test"), at(0)).is_some()).count();
        assert_eq!(lines, DOMAINS_MAX + 1);
        assert!(unsigned.0.lock().len() <= DOMAINS_MAX + 1);
        assert_eq!(unsigned.count("new.test", at(4000)), Some(("new.test", 1)), "room is made");
    }
}
