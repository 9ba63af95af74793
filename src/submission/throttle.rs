//! Slows down who guesses passwords. Only refusals wait, so a right password is never held up by what others try; but one
//! address has only so many guesses under way, each until its refusal was told.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::network;

/// The first refusal waits this long; each further one twice as long as the one before.
const DELAY_MIN: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(8);
/// After this long without a refusal all is forgotten.
const MEMORY: Duration = Duration::from_secs(900);
/// Addresses and accounts remembered at most.
const ENTRIES_MAX: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// Passwords of one address that are being checked, or wait to be refused.
const TRIALS_MAX: usize = 16;

/// Failures by client address and by account. Keys are hashes: a table of what strangers sent is kept by nobody.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    hasher: RandomState,
    failures: Mutex<HashMap<u64, Failures>>,
    /// By address; as many as there are connections at most.
    trials: Mutex<HashMap<IpAddr, usize>>,
}

/// A password that is being checked, or waits to be refused.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    throttle: &'a Throttle,
    network: IpAddr,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let mut trials = self.throttle.trials.lock();
        if let Some(count) = trials.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                trials.remove(&self.network);
            }
        }
    }
}

impl Throttle {
    /// Begins to check a password; none: there are too many from this address already. Hold it until the client has its
    /// answer.
    pub(super) fn begin(&self, address: IpAddr) -> Option<Trial<'_>> {
        let network = network(address);
        let mut trials = self.trials.lock();
        let count = trials.entry(network).or_insert(0);
        if *count >= TRIALS_MAX {
            return None;
        }
        *count += 1;
        Some(Trial { throttle: self, network })
    }

    /// Notes a refusal; returns how long its reply has to wait.
    pub(super) fn refused(&self, address: IpAddr, user: &str, now: Instant) -> Duration {
        let keys = [self.hasher.hash_one(network(address)), self.hasher.hash_one(("user", user))];
        let mut failures = self.failures.lock();
        if failures.len() + keys.len() > ENTRIES_MAX {
            failures.retain(|_, entry| now - entry.last < MEMORY);
        }
        let mut worst = 0;
        for key in keys {
            if failures.len() >= ENTRIES_MAX && !failures.contains_key(&key) {
                // The table is full of fresh failures: an attack. Everyone who fails waits longest.
                return DELAY_MAX;
            }
            let entry = failures.entry(key).or_insert(Failures { count: 0, last: now });
            if now - entry.last >= MEMORY {
                entry.count = 0;
            }
            *entry = Failures { count: entry.count.saturating_add(1), last: now };
            worst = worst.max(entry.count);
        }
        DELAY_MIN.saturating_mul(1 << (worst - 1).min(16)).min(DELAY_MAX)
    }

    /// A right password clears the account and the address it came from.
    pub(super) fn accepted(&self, address: IpAddr, user: &str) {
        let mut failures = self.failures.lock();
        failures.remove(&self.hasher.hash_one(network(address)));
        failures.remove(&self.hasher.hash_one(("user", user)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    #[test]
    fn each_failure_waits_longer_until_forgotten() {
        let throttle = Throttle::default();
        let now = SystemClock::default().instant();
        let address = IpAddr::from([192, 0, 2, 1]);
        let delays: Vec<u128> = (0..8).map(|_| throttle.refused(address, "shop", now).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        let other = IpAddr::from([192, 0, 2, 2]);
        assert_eq!(throttle.refused(other, "else", now), DELAY_MIN);
        assert_eq!(throttle.refused(other, "shop", now), DELAY_MAX);
        throttle.accepted(address, "shop");
        assert_eq!(throttle.refused(address, "shop", now), DELAY_MIN);
        assert_eq!(throttle.refused(address, "shop", now + MEMORY), DELAY_MIN);
    }

    #[test]
    fn one_address_has_so_many_trials() {
        let throttle = Throttle::default();
        let address = |host: u8| IpAddr::from([192, 0, 2, host]);
        let mut trials: Vec<_> = (0..TRIALS_MAX).map(|_| throttle.begin(address(1)).unwrap()).collect();
        assert!(throttle.begin(address(1)).is_none());
        assert!(throttle.begin(address(2)).is_some());
        trials.pop();
        assert!(throttle.begin(address(1)).is_some());
        trials.clear();
        assert!(throttle.trials.lock().is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = SystemClock::default().instant();
        for number in 0..30_000_u32 {
            throttle.refused(IpAddr::from(number.to_be_bytes()), &number.to_string(), now);
        }
        assert!(throttle.failures.lock().len() <= ENTRIES_MAX);
    }
}
