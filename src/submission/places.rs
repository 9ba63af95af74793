//! How many connections are open, in all and from one address, and who gives way when there is no room.
//!
//! Connections whose client has neither logged in nor a trusted address cost nobody anything to open. When all places are
//! taken, one of those gives way to whoever comes: of the address that has most of them, the one that waited longest. So
//! strangers cannot keep an app out by being many.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::net::network;

/// How much is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address (of IPv6: one network of 64 bits).
    pub connections_per_address_max: usize,
}

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    total: usize,
    next: u64,
    by_network: HashMap<IpAddr, usize>,
    /// By age.
    strangers: BTreeMap<u64, (IpAddr, CancellationToken)>,
    strangers_by_network: HashMap<IpAddr, usize>,
}

/// A connection that is counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// Whose connections it is one of, once that is known.
    network: Option<IpAddr>,
    given_up: CancellationToken,
}

impl Places {
    /// A place for a connection from `peer`, by somebody of whom no more is known; none: all are taken by known clients.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr, limits: Limits) -> Option<Place> {
        let mut open = self.0.lock();
        if open.total >= limits.connections_max && !open.make_room() {
            return None;
        }
        let (number, given_up) = (open.next, CancellationToken::new());
        open.next += 1;
        open.total += 1;
        open.add_stranger(number, network(peer), given_up.clone());
        drop(open);
        Some(Place { places: self.clone(), number, network: None, given_up })
    }
}

impl Open {
    /// Makes a stranger give way. Its place is free at once, although its connection takes a moment to close.
    fn make_room(&mut self) -> bool {
        let most = self.strangers_by_network.iter().max_by_key(|(_, count)| **count).map(|(network, _)| *network);
        let of_most = |(_, stranger): &(&u64, &(IpAddr, CancellationToken))| Some(stranger.0) == most;
        let Some(number) = self.strangers.iter().find(of_most).map(|(number, _)| *number) else { return false };
        if let Some(given_up) = self.remove_stranger(number) {
            given_up.cancel();
            self.total -= 1;
        }
        true
    }

    fn add_stranger(&mut self, number: u64, network: IpAddr, given_up: CancellationToken) {
        self.strangers.insert(number, (network, given_up));
        *self.strangers_by_network.entry(network).or_insert(0) += 1;
    }

    fn remove_stranger(&mut self, number: u64) -> Option<CancellationToken> {
        let (network, given_up) = self.strangers.remove(&number)?;
        decrement(&mut self.strangers_by_network, network);
        Some(given_up)
    }
}

fn decrement(counts: &mut HashMap<IpAddr, usize>, network: IpAddr) {
    if let Some(count) = counts.get_mut(&network) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&network);
        }
    }
}

impl Place {
    /// Counts the connection among those of its client; says whether that may have one more.
    pub(super) fn counts_for(&mut self, client: IpAddr, limits: Limits) -> bool {
        let client = network(client);
        let mut open = self.places.0.lock();
        let count = open.by_network.get(&client).copied().unwrap_or(0);
        if count >= limits.connections_per_address_max {
            return false;
        }
        open.by_network.insert(client, count + 1);
        if let Some(given_up) = open.remove_stranger(self.number) {
            open.add_stranger(self.number, client, given_up);
        }
        self.network = Some(client);
        true
    }

    /// The client is trusted, or has logged in: it keeps its place.
    pub(super) fn is_known(&self) {
        self.places.0.lock().remove_stranger(self.number);
    }

    /// Cancelled when the place is given to somebody else.
    pub(super) fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock();
        open.remove_stranger(self.number);
        if !self.given_up.is_cancelled() {
            open.total -= 1;
        }
        if let Some(network) = self.network {
            decrement(&mut open.by_network, network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { connections_max: 4, connections_per_address_max: 3 };

    fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
        let address = address.parse().unwrap();
        let mut place = places.take(address, LIMITS)?;
        place.counts_for(address, LIMITS).then_some(place)
    }

    fn is_gone(place: &Option<Place>) -> bool {
        place.as_ref().unwrap().given_up().is_cancelled()
    }

    #[test]
    fn one_address_has_its_share() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<_> = (0..3).map(|_| take(&places, "192.0.2.1").unwrap()).collect();
        assert!(take(&places, "192.0.2.1").is_none());
        taken.pop();
        taken.push(take(&places, "192.0.2.1").unwrap());
        let _other = take(&places, "192.0.2.2").unwrap();
        taken.clear();
        let open = places.0.lock();
        assert_eq!((open.total, open.by_network.len(), open.strangers_by_network.len()), (1, 1, 1));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let places = Arc::new(Places::default());
        let _taken: Vec<_> = (1..4).map(|host| take(&places, &format!("2001:db8::{host}")).unwrap()).collect();
        assert!(take(&places, "2001:db8::4").is_none());
        assert!(take(&places, "2001:db8:0:1::4").is_some());
    }

    #[test]
    fn the_oldest_stranger_of_the_address_with_most_gives_way() {
        let places = Arc::new(Places::default());
        let app = take(&places, "192.0.2.9");
        let flood: Vec<_> = (0..3).map(|_| take(&places, "192.0.2.1")).collect();
        let late = take(&places, "192.0.2.2");
        assert!(late.is_some());
        assert_eq!(
            [is_gone(&app), is_gone(&flood[0]), is_gone(&flood[1]), is_gone(&flood[2])],
            [false, true, false, false]
        );
        drop(flood);
        assert_eq!(places.0.lock().total, 2);
    }

    #[test]
    fn who_is_known_keeps_its_place() {
        let places = Arc::new(Places::default());
        let known: Vec<_> = (1..5).map(|host| take(&places, &format!("192.0.2.{host}")).unwrap()).collect();
        known.iter().for_each(Place::is_known);
        assert!(take(&places, "192.0.2.9").is_none());
        assert!(known.iter().all(|place| !place.given_up().is_cancelled()));
    }
}
