//! Which addresses of a destination were asked in vain, where there are more than one attempt asks: each gets its turn, whichever
//! attempts ask them.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::destination::route::Part;

/// Addresses asked in one attempt at most.
pub(super) const CANDIDATES_MAX: usize = 12;
/// Of these so many are the most preferred ones in each attempt; where there are more addresses than one attempt asks, the
/// others take turns.
pub(super) const ALWAYS: usize = 3;
/// Addresses remembered at most; a route has no more than half of that.
const REMEMBERED_MAX: usize = 512;

/// Hosts, in order, each with an address.
type Addresses<H> = Vec<(H, SocketAddr)>;

#[derive(Debug, Default)]
pub(super) struct AddressRotation {
    /// In vain, since all of all parts had their turn last.
    in_vain: HashSet<SocketAddr>,
    works: Option<SocketAddr>,
    /// Parts of the route that were gone through.
    parts: u32,
    is_under_way: bool,
}

/// What follows when addresses were asked in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// The others of the route have their turn.
    Others,
    /// All of the route had their turn.
    NextPart,
}

impl AddressRotation {
    /// Of more addresses than one attempt asks: the most preferred and a turn of the others, of which the one that took mail
    /// last comes first, and those that were asked come last; and then the rest.
    pub(super) fn take_turn<H>(&self, mut addresses: Addresses<H>) -> (Addresses<H>, Addresses<H>) {
        if addresses.len() <= CANDIDATES_MAX {
            return (addresses, Vec::new());
        }
        addresses[ALWAYS..].sort_by_key(|(_, address)| (self.works != Some(*address), self.in_vain.contains(address)));
        let later = addresses.split_off(CANDIDATES_MAX);
        (addresses, later)
    }

    /// Some of all addresses of a route were asked in vain.
    pub(super) fn in_vain(&mut self, asked: &[SocketAddr], all: &[SocketAddr], part: Part) -> Follows {
        if self.in_vain.len() + asked.len() > REMEMBERED_MAX {
            self.in_vain.clear();
        }
        self.in_vain.extend(asked);
        self.is_under_way = true;
        if !all.iter().all(|address| self.in_vain.contains(address)) {
            return Follows::Others;
        }
        self.parts += 1;
        if self.parts >= part.of {
            self.in_vain.clear();
            (self.parts, self.is_under_way) = (0, false);
        }
        Follows::NextPart
    }

    pub(super) fn took(&mut self, address: SocketAddr) {
        *self = Self { works: Some(address), ..Self::default() };
    }

    /// Whether addresses are left that have not had their turn since mail was taken last, or since all had theirs.
    pub(super) fn has_unasked(&self) -> bool {
        self.is_under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(len: u8) -> Vec<((), SocketAddr)> {
        (0..len).map(|number| ((), SocketAddr::from(([192, 0, 2, number], 25)))).collect()
    }

    fn numbers(addresses: &[((), SocketAddr)]) -> Vec<u16> {
        addresses
            .iter()
            .map(|(_, address)| address.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap())
            .collect()
    }

    fn turn(asked: &AddressRotation, len: u8) -> Vec<u16> {
        numbers(&asked.take_turn(addresses(len)).0)
    }

    #[test]
    fn addresses_beyond_those_of_one_attempt_take_turns() {
        let mut asked = AddressRotation::default();
        assert_eq!(turn(&asked, 12), (0..12).collect::<Vec<_>>(), "one attempt asks all");
        assert_eq!(turn(&asked, 17), (0..12).collect::<Vec<_>>(), "the most preferred ones first");
        for len in [13_u8, 17, 64, 250] {
            let all: Vec<SocketAddr> = addresses(len).into_iter().map(|(_, address)| address).collect();
            let mut seen = HashSet::new();
            for attempt in 1.. {
                let (now, _) = asked.take_turn(addresses(len));
                assert!(numbers(&now).starts_with(&[0, 1, 2]));
                seen.extend(numbers(&now));
                let now: Vec<SocketAddr> = now.into_iter().map(|(_, address)| address).collect();
                if asked.in_vain(&now, &all, Part::WHOLE) == Follows::NextPart {
                    assert!(!asked.has_unasked());
                    assert_eq!(attempt, usize::from(len - 3).div_ceil(9), "{len}");
                    break;
                }
                assert!(asked.has_unasked());
            }
            assert_eq!(seen.len(), usize::from(len), "none is never asked");
        }
        // Whichever attempts ask them.
        let some: Vec<SocketAddr> = addresses(17)[..12].iter().map(|(_, address)| *address).collect();
        asked.in_vain(&some, &[some[0], SocketAddr::from(([192, 0, 2, 99], 25))], Part::WHOLE);
        assert_eq!(turn(&asked, 17), [0, 1, 2, 12, 13, 14, 15, 16, 3, 4, 5, 6]);
        asked.took(SocketAddr::from(([192, 0, 2, 14], 25)));
        assert_eq!(turn(&asked, 17), [0, 1, 2, 14, 3, 4, 5, 6, 7, 8, 9, 10], "what works is asked in each attempt");
    }

    #[test]
    fn all_parts_of_a_route_have_their_turn() {
        let mut asked = AddressRotation::default();
        let of_part = |number: u8| [SocketAddr::from(([192, 0, 2, number], 25))];
        for number in 0..3 {
            let follows = asked.in_vain(&of_part(number), &of_part(number), Part { number: number.into(), of: 3 });
            assert_eq!((follows, asked.has_unasked()), (Follows::NextPart, number < 2));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut asked = AddressRotation::default();
        for number in 0..2000_u16 {
            let [high, low] = number.to_be_bytes();
            let address = SocketAddr::from(([10, 0, high, low], 25));
            asked.in_vain(&[address], &[SocketAddr::from(([192, 0, 2, 1], 25))], Part::WHOLE);
        }
        assert!(asked.in_vain.len() <= REMEMBERED_MAX);
    }
}
