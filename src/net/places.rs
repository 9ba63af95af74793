//! How many connections are open, in all and from one address, and who gives way when there is no room.
//!
//! Connections whose client has neither logged in, nor shown a valid token, nor a trusted address cost nobody anything to
//! open. When all places are taken, one of those gives way to whoever comes: of the address that has most of them, the one
//! that waited longest. So unknown clients cannot keep an app out by being many. Of the others each belongs to a user, who
//! has only so many.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::network;
use crate::base::shares::{Beyond, Portion, Shares};

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
pub(crate) struct Places(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    total: usize,
    next: u64,
    /// Of those that are known.
    by_user: Shares,
    by_network: HashMap<IpAddr, usize>,
    /// Clients that have not logged in, by age.
    unknown: BTreeMap<u64, (IpAddr, CancellationToken)>,
    unknown_by_network: HashMap<IpAddr, usize>,
}

/// A connection that is counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    places: Arc<Places>,
    number: u64,
    network: IpAddr,
    /// It counts among the connections of its network.
    is_counted: bool,
    /// Whose it is, once that is known.
    user: Option<Arc<str>>,
    given_up: CancellationToken,
}

impl Places {
    /// A place for a connection from `peer`, by somebody of whom no more is known; none: all are taken by known clients.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr, limits: Limits) -> Option<ConnectionPlace> {
        let mut open = self.0.lock();
        if open.total >= limits.connections_max && !open.make_room() {
            return None;
        }
        let (number, given_up) = (open.next, CancellationToken::new());
        open.next += 1;
        open.total += 1;
        let network = network(peer);
        open.add_unknown(number, network, given_up.clone());
        drop(open);
        Some(ConnectionPlace { places: self.clone(), number, network, is_counted: false, user: None, given_up })
    }
}

impl Open {
    /// Has a client that has not logged in give way. Its place is free at once; its connection takes a moment to close.
    fn make_room(&mut self) -> bool {
        let most = self.unknown_by_network.iter().max_by_key(|(_, count)| **count).map(|(network, _)| *network);
        let of_most = |(_, client): &(&u64, &(IpAddr, CancellationToken))| Some(client.0) == most;
        let Some(number) = self.unknown.iter().find(of_most).map(|(number, _)| *number) else { return false };
        if let Some(given_up) = self.remove_unknown(number) {
            given_up.cancel();
            self.total -= 1;
        }
        true
    }

    fn add_unknown(&mut self, number: u64, network: IpAddr, given_up: CancellationToken) {
        self.unknown.insert(number, (network, given_up));
        *self.unknown_by_network.entry(network).or_insert(0) += 1;
    }

    fn remove_unknown(&mut self, number: u64) -> Option<CancellationToken> {
        let (network, given_up) = self.unknown.remove(&number)?;
        decrement(&mut self.unknown_by_network, network);
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

impl ConnectionPlace {
    /// Counts the connection among those of its client; says whether that may have one more.
    pub(crate) fn counts_for(&mut self, client: IpAddr, limits: Limits) -> bool {
        let client = network(client);
        let mut open = self.places.0.lock();
        let count = open.by_network.get(&client).copied().unwrap_or(0);
        if count >= limits.connections_per_address_max {
            return false;
        }
        open.by_network.insert(client, count + 1);
        if let Some(given_up) = open.remove_unknown(self.number) {
            open.add_unknown(self.number, client, given_up);
        }
        (self.network, self.is_counted) = (client, true);
        true
    }

    /// The client has shown that it is this user, who may hold so much of all places: it keeps its place.
    ///
    /// # Errors
    /// Why the user gets no more places; then this one stays whose it was.
    pub(crate) fn belongs_to(&mut self, user: &Arc<str>, portion: Portion) -> Result<(), Beyond> {
        if self.user.as_ref() == Some(user) {
            return Ok(());
        }
        let mut open = self.places.0.lock();
        let former = self.user.as_deref();
        former.iter().for_each(|former| open.by_user.give_back(former, 1));
        if let Err(beyond) = open.by_user.take(user, 1, portion) {
            self.user.iter().for_each(|former| open.by_user.add(former, 1));
            return Err(beyond);
        }
        if self.user.replace(user.clone()).is_none() {
            open.remove_unknown(self.number);
        }
        Ok(())
    }

    /// What the client shows is worth nothing (any more): it gives way like others who are not known.
    pub(crate) fn is_nobodys(&mut self) {
        let Some(user) = self.user.take() else { return };
        let mut open = self.places.0.lock();
        open.by_user.give_back(&user, 1);
        if !self.given_up.is_cancelled() {
            open.add_unknown(self.number, self.network, self.given_up.clone());
        }
    }

    /// Cancelled when the place is given to somebody else.
    pub(crate) fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut open = self.places.0.lock();
        open.remove_unknown(self.number);
        if !self.given_up.is_cancelled() {
            open.total -= 1;
        }
        if let Some(user) = &self.user {
            open.by_user.give_back(user, 1);
        }
        if self.is_counted {
            decrement(&mut open.by_network, self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shares::Sharing;

    const LIMITS: Limits = Limits { connections_max: 4, connections_per_address_max: 3 };

    fn take(places: &Arc<Places>, address: &str) -> Option<ConnectionPlace> {
        let address = address.parse().unwrap();
        let mut place = places.take(address, LIMITS)?;
        place.counts_for(address, LIMITS).then_some(place)
    }

    fn is_gone(place: &Option<ConnectionPlace>) -> bool {
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
        assert_eq!((open.total, open.by_network.len(), open.unknown_by_network.len()), (1, 1, 1));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let places = Arc::new(Places::default());
        let _taken: Vec<_> = (1..4).map(|host| take(&places, &format!("2001:db8::{host}")).unwrap()).collect();
        assert!(take(&places, "2001:db8::4").is_none());
        assert!(take(&places, "2001:db8:0:1::4").is_some());
    }

    #[test]
    fn the_oldest_unknown_client_of_the_address_with_most_gives_way() {
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
        let mut known: Vec<_> = (1..5).map(|host| take(&places, &format!("192.0.2.{host}")).unwrap()).collect();
        let portion = Sharing::Alone.of(4);
        known.iter_mut().for_each(|place| place.belongs_to(&"shop".into(), portion).unwrap());
        assert!(take(&places, "192.0.2.9").is_none());
        assert!(known.iter().all(|place| !place.given_up().is_cancelled()));
        // Until what it shows is not valid any more.
        known[2].is_nobodys();
        assert!(take(&places, "192.0.2.9").is_some());
        assert!(known[2].given_up().is_cancelled() && !known[1].given_up().is_cancelled());
        known.clear();
        let open = places.0.lock();
        assert_eq!((open.total, open.by_user.of("shop"), open.unknown.len()), (0, 0, 0));
    }

    #[test]
    fn a_user_has_its_share_and_the_rest_are_for_others() {
        let places = Arc::new(Places::default());
        let (shop, bank) = ("shop".into(), "bank".into());
        let portion = Sharing::Several.of(4);
        let mut open: Vec<_> = (1..5).map(|host| take(&places, &format!("192.0.2.{host}")).unwrap()).collect();
        for place in &mut open[..3] {
            place.belongs_to(&shop, portion).unwrap();
            place.belongs_to(&shop, portion).unwrap();
        }
        assert_eq!(open[3].belongs_to(&shop, portion), Err(Beyond::Share));
        let mut of_bank = take(&places, "192.0.2.9").unwrap();
        assert!(open[3].given_up().is_cancelled(), "whom its share is refused stays unknown");
        of_bank.belongs_to(&bank, portion).unwrap();
        // Another login on the same connection.
        open[0].belongs_to(&bank, portion).unwrap();
        let held = |name: &str| places.0.lock().by_user.of(name);
        assert_eq!((held("shop"), held("bank")), (2, 2));
    }
}
