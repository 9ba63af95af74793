//! Slows down who guesses passwords, by whatever mechanism. Only refusals wait, so a right password is never held up by what
//! others try. Of one address only so many refusals wait out their time at once; the others wait for their turn, in silence:
//! an answer that came sooner would tell as much as the refusal.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::bounded::Bounded;
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

/// Passwords of one address that are checked, and refusals that wait out their time, at once.
const TURNS_MAX: usize = 16;
/// How long a turn is waited for at most.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// Failures by client address and by account. Keys are hashes: a table of what unknown clients sent is kept by nobody.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    hasher: RandomState,
    failures: Mutex<Bounded<u64, Failures, ENTRIES_MAX>>,
    /// Who may ask for a check, so that no address keeps those of others from it.
    pub(crate) checks: Turns,
    /// Who waits out the time of a refusal.
    pub(crate) refusals: Turns,
}

/// So many at once of each address, the others in turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// By address; as many as there are connections at most.
    by_network: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The turn of one of an address.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// None once it is given back.
    permit: Option<OwnedSemaphorePermit>,
    _place: TurnHolder<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Before the place looks whether it was the last.
        self.permit = None;
    }
}

/// Whoever has, or waits for, a turn of an address.
#[derive(Debug)]
struct TurnHolder<'a> {
    turns: &'a Turns,
    network: IpAddr,
    own: Option<Arc<Semaphore>>,
}

impl Drop for TurnHolder<'_> {
    fn drop(&mut self) {
        let mut by_network = self.turns.by_network.lock();
        self.own = None;
        if by_network.get(&self.network).is_some_and(|of_table| Arc::strong_count(of_table) == 1) {
            by_network.remove(&self.network);
        }
    }
}

impl Turns {
    /// A turn among those of the address; none: it took too long.
    pub(crate) async fn take(&self, address: IpAddr) -> Option<Turn<'_>> {
        let network = network(address);
        let fresh = || Arc::new(Semaphore::new(TURNS_MAX));
        let own = self.by_network.lock().entry(network).or_insert_with(fresh).clone();
        let place = TurnHolder { turns: self, network, own: Some(own.clone()) };
        match tokio::time::timeout(TURN_WAIT, own.acquire_owned()).await {
            Ok(Ok(permit)) => Some(Turn { permit: Some(permit), _place: place }),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl Throttle {
    /// Notes a refusal; returns how long its reply has to wait.
    pub(crate) fn refused(&self, address: IpAddr, user: &str, now: Instant) -> Duration {
        let keys = [self.hasher.hash_one(network(address)), self.hasher.hash_one(("user", user))];
        let mut failures = self.failures.lock();
        let is_over = |entry: &Failures| now - entry.last >= MEMORY;
        let mut worst = 0;
        for key in keys {
            let Some(entry) = failures.entry(key, is_over, || Failures { count: 0, last: now }) else {
                // The table is full of fresh failures: an attack. Everyone who fails waits longest.
                return DELAY_MAX;
            };
            if is_over(entry) {
                entry.count = 0;
            }
            *entry = Failures { count: entry.count.saturating_add(1), last: now };
            worst = worst.max(entry.count);
        }
        DELAY_MIN.saturating_mul(1 << (worst - 1).min(16)).min(DELAY_MAX)
    }

    /// A right password clears the account and the address it came from.
    pub(crate) fn accepted(&self, address: IpAddr, user: &str) {
        let mut failures = self.failures.lock();
        failures.remove(&self.hasher.hash_one(network(address)));
        failures.remove(&self.hasher.hash_one(("user", user)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

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

    #[tokio::test(start_paused = true)]
    async fn one_address_has_so_many_turns() {
        let turns_of = Turns::default();
        let address = |host: u8| IpAddr::from([192, 0, 2, host]);
        let mut turns = Vec::new();
        for _ in 0..TURNS_MAX {
            turns.push(turns_of.take(address(1)).await.unwrap());
        }
        assert!(turns_of.take(address(1)).await.is_none(), "after a wait in vain");
        assert!(turns_of.take(address(2)).await.is_some());
        turns.pop();
        assert!(turns_of.take(address(1)).await.is_some());
        turns.clear();
        assert!(turns_of.by_network.lock().is_empty());
    }

    /// Refusals beyond wait in turn, and who gives up leaves nothing behind.
    #[tokio::test(start_paused = true)]
    async fn refusals_take_turns() {
        let turns_of = Turns::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let began = SystemClock::default().instant();
        let guess = || async {
            let _turn = turns_of.take(address).await.unwrap();
            tokio::time::sleep(DELAY_MAX).await;
            (SystemClock::default().instant() - began).as_secs()
        };
        let told = futures_util::future::join_all((0..50).map(|_| guess())).await;
        let by = |seconds: u64| told.iter().filter(|at| **at <= seconds).count();
        assert_eq!((by(8), by(16), by(24), by(32)), (16, 32, 48, 50));
        let impatient = tokio::time::timeout(DELAY_MIN, futures_util::future::join_all((0..20).map(|_| guess())));
        assert!(impatient.await.is_err());
        assert!(turns_of.by_network.lock().is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = SystemClock::default().instant();
        // Two keys each, so that it is full a little before the end.
        for number in 0..10_050_u32 {
            throttle.refused(IpAddr::from(number.to_be_bytes()), &number.to_string(), now);
        }
        assert!(throttle.failures.lock().len() <= ENTRIES_MAX);
    }
}
