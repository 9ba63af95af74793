//! Addresses that did not answer lately: they are asked last, until they have had time to recover.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backoff::{Backoff, Terms};
use crate::base::bounded::Bounded;

/// How long an address is asked last after it failed. Then anybody may ask it first again.
static TERMS: Terms = Terms {
    failures_max: 1,
    pauses: &[
        Duration::from_secs(30),
        Duration::from_secs(60),
        Duration::from_secs(120),
        Duration::from_secs(240),
        Duration::from_secs(480),
        Duration::from_secs(600),
    ],
    trial: Duration::ZERO,
    behind_trial: Duration::ZERO,
};
/// How long IPv6 is asked last after it turned out that there is no route to it.
const NO_ROUTE_REST: Duration = Duration::from_secs(300);
/// Addresses remembered at most.
const ADDRESSES_MAX: usize = 10_000;

/// What is known of addresses.
#[derive(Debug, Default)]
pub(super) struct AddressHealth {
    known: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    failing: Bounded<IpAddr, Backoff<Instant>, ADDRESSES_MAX>,
    no_ipv6_until: Option<Instant>,
}

impl AddressHealth {
    /// The address did not answer, or not in time.
    pub(super) fn failed(&self, address: IpAddr, now: Instant) {
        let failing = &mut self.known.lock().failing;
        let backoff = failing.entry(address, |backoff| !is_resting(backoff, now), || Backoff::new(&TERMS));
        // Several attempts that failed together are one failure.
        if let Some(backoff) = backoff
            && backoff.enter(now).is_ok()
        {
            backoff.failed(now);
        }
    }

    /// There is no route to addresses of this family.
    pub(super) fn no_route(&self, address: IpAddr, now: Instant) {
        if address.is_ipv6() {
            self.known.lock().no_ipv6_until = Some(now + NO_ROUTE_REST);
        }
    }

    pub(super) fn answered(&self, address: IpAddr) {
        let mut known = self.known.lock();
        if !known.failing.is_empty() {
            known.failing.remove(&address);
        }
        if address.is_ipv6() {
            known.no_ipv6_until = None;
        }
    }

    /// Puts the addresses that are known not to answer behind the others; else the order stays.
    pub(super) fn sort<H>(&self, addresses: &mut [(H, SocketAddr)], now: Instant) {
        let known = self.known.lock();
        if known.failing.is_empty() && known.no_ipv6_until.is_none() {
            return;
        }
        let no_ipv6 = known.no_ipv6_until.is_some_and(|until| until > now);
        addresses.sort_by_key(|(_, address)| {
            known.failing.get(&address.ip()).is_some_and(|backoff| is_resting(backoff, now))
                || (no_ipv6 && address.is_ipv6())
        });
    }
}

fn is_resting(backoff: &Backoff<Instant>, now: Instant) -> bool {
    backoff.until().is_some_and(|until| until > now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

    const ADDRESSES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];

    fn order(health: &AddressHealth, now: Instant) -> Vec<usize> {
        let mut addresses: Vec<_> =
            ADDRESSES.iter().enumerate().map(|(i, ip)| (i, SocketAddr::new(ip.parse().unwrap(), 25))).collect();
        health.sort(&mut addresses, now);
        addresses.into_iter().map(|(i, _)| i).collect()
    }

    #[test]
    fn who_did_not_answer_is_asked_last_for_a_while() {
        let (health, start) = (AddressHealth::default(), SystemClock::default().instant());
        let first: IpAddr = ADDRESSES[0].parse().unwrap();
        health.failed(first, start);
        health.failed(first, start + Duration::from_secs(1));
        assert_eq!(order(&health, start + Duration::from_secs(29)), [1, 2, 0]);
        assert_eq!(order(&health, start + Duration::from_secs(31)), [0, 1, 2]);
        // The second time it rests longer.
        let again = start + Duration::from_secs(40);
        health.failed(first, again);
        assert_eq!(order(&health, again + Duration::from_secs(59)), [1, 2, 0]);
        health.answered(first);
        assert_eq!(order(&health, again), [0, 1, 2]);
        // Each time twice as long, ten minutes at most.
        let mut now = again;
        let rests: Vec<u64> = (0..7)
            .map(|_| {
                health.failed(first, now);
                let rest = (1..).find(|rest| order(&health, now + Duration::from_secs(*rest)) == [0, 1, 2]).unwrap();
                now += Duration::from_secs(rest);
                rest
            })
            .collect();
        assert_eq!(rests, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_family_without_route_is_asked_last() {
        let (health, start) = (AddressHealth::default(), SystemClock::default().instant());
        health.no_route(ADDRESSES[0].parse().unwrap(), start);
        assert_eq!(order(&health, start), [0, 1, 2]);
        let mut addresses = [(0, "[2001:db8::1]:25".parse().unwrap()), (1, "192.0.2.1:25".parse().unwrap())];
        health.no_route(ADDRESSES[2].parse().unwrap(), start);
        health.sort(&mut addresses, start);
        assert_eq!(addresses.map(|(i, _)| i), [1, 0]);
    }
}
