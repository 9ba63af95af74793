//! How much of their rates users have left: a bucket of tokens each, one token a recipient.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::base::clock::Timestamp;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// The buckets, by user.
#[derive(Debug, Default)]
pub(super) struct Buckets(Mutex<HashMap<Arc<str>, Bucket>>);

impl Buckets {
    /// Whether one more recipient would be taken now.
    pub(super) fn check(&self, user: &User, now: Timestamp) -> Result<(), Refusal> {
        self.spend(user, 1, now, false)
    }

    /// Takes a token for each recipient, all or none. More recipients than the bucket holds pass when it is full.
    pub(super) fn take(&self, user: &User, recipients: usize, now: Timestamp) -> Result<(), Refusal> {
        self.spend(user, recipients, now, true)
    }

    /// Gives back what was taken for a message that was not accepted.
    pub(super) fn give_back(&self, user: &str, recipients: usize) {
        if let Some(bucket) = self.0.lock().get_mut(user) {
            // More than the bucket holds is cut when it is looked at next.
            bucket.tokens += f64::from(u32::try_from(recipients).unwrap_or(u32::MAX));
        }
    }

    /// Of the users that are configured, so few that none need be forgotten.
    fn spend(&self, user: &User, recipients: usize, now: Timestamp, take: bool) -> Result<(), Refusal> {
        let Some(rate) = user.rate else { return Ok(()) };
        let full = f64::from(rate.count);
        let mut buckets = self.0.lock();
        let bucket = buckets.entry(user.name.clone()).or_insert(Bucket { tokens: full, at: now });
        bucket.tokens = (bucket.tokens + now.since(bucket.at).as_secs_f64() * rate.per_second()).min(full);
        bucket.at = now.max(bucket.at);
        let wanted = f64::from(u32::try_from(recipients).unwrap_or(u32::MAX));
        let lacking = wanted.min(full) - bucket.tokens;
        if lacking > 0.0 {
            let wait = Duration::from_secs_f64(lacking / rate.per_second());
            return Err(Refusal::Rate { count: rate.count, wait });
        }
        if take {
            bucket.tokens -= wanted;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rate::Rate;

    #[test]
    fn a_user_sends_as_fast_as_it_may_and_no_faster() {
        let user = User { rate: Some(Rate { count: 10, span: Duration::from_secs(5) }), ..User::unlimited("shop") };
        let buckets = Buckets::default();
        let at = |ms: u64| Timestamp::from_millis(1_000_000 + ms);
        let refused = |wait_ms| Err(Refusal::Rate { count: 10, wait: Duration::from_millis(wait_ms) });
        assert_eq!(buckets.take(&user, 8, at(0)), Ok(()));
        assert_eq!(buckets.take(&user, 3, at(0)), refused(500));
        assert_eq!(buckets.take(&user, 3, at(500)), Ok(()));
        assert_eq!(buckets.check(&user, at(500)), refused(500));
        // More than the bucket holds: once it is full, on credit.
        assert_eq!(buckets.take(&user, 20, at(4000)), refused(1500));
        assert_eq!(buckets.take(&user, 20, at(6000)), Ok(()));
        assert_eq!(buckets.check(&user, at(6000)), refused(5500));
        assert_eq!(buckets.take(&User::unlimited("other"), 1000, at(0)), Ok(()));
        buckets.give_back("shop", 20);
        assert_eq!(buckets.take(&user, 10, at(6000)), Ok(()), "it is full again");
        assert_eq!(buckets.check(&user, at(6000)), refused(500), "and no fuller than that");
        buckets.give_back("nobody", 1);
    }
}
