//! Which hosts and addresses a route holds where DNS names more: the most preferred hosts always, of the others each route
//! a part; when all parts of the hosts were held, the next part of their addresses. So each has its turn, however many
//! there are, and a route stays small.

use std::net::IpAddr;

use super::super::resolver::MxRecord;
/// Hosts of one destination that a route holds at most. Of more, each route holds another part.
const HOSTS_MAX: usize = 32;
/// Of these so many are the most preferred ones in each part.
const ALWAYS: usize = HOSTS_MAX / 2;
/// Hosts that are in one part only.
const IN_TURN: usize = HOSTS_MAX - ALWAYS;

/// In how many parts all of so many hosts come.
pub(super) fn parts(hosts: usize) -> u32 {
    if hosts <= HOSTS_MAX { 1 } else { count(hosts - ALWAYS, IN_TURN) }
}

/// The hosts of a part, of all by preference; beyond the last part they begin anew.
pub(super) fn hosts_of_part(records: &[MxRecord], part: u32) -> Vec<MxRecord> {
    if records.len() <= HOSTS_MAX {
        return records.to_vec();
    }
    let (always, others) = records.split_at(ALWAYS);
    let mut others: Vec<(usize, &MxRecord)> = window(others.iter().enumerate().collect(), part, IN_TURN);
    others.sort_unstable_by_key(|(place, _)| *place);
    always.iter().chain(others.into_iter().map(|(_, record)| record)).cloned().collect()
}

/// A part of a host's addresses of one family, and in how many parts all of them come. DNS gives them in another order each
/// time.
pub(super) fn addresses_of_part(mut addresses: Vec<IpAddr>, part: u32, most: usize) -> (Vec<IpAddr>, u32) {
    if addresses.len() <= most {
        return (addresses, 1);
    }
    addresses.sort_unstable();
    let parts = count(addresses.len(), most);
    (window(addresses, part, most), parts)
}

fn count(of: usize, in_one: usize) -> u32 {
    u32::try_from(of.div_ceil(in_one)).unwrap_or(u32::MAX)
}

/// So many of these, each part another; the last one is filled up from the beginning.
fn window<T>(mut all: Vec<T>, part: u32, size: usize) -> Vec<T> {
    let begin = (part % count(all.len(), size)) as usize * size;
    all.rotate_left(begin);
    all.truncate(size);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn records(len: u16) -> Vec<MxRecord> {
        (0..len).map(|number| MxRecord { preference: number, exchange: number.to_string() }).collect()
    }

    #[test]
    fn each_host_has_its_turn_and_the_most_preferred_always() {
        for (hosts, expected) in [(0_u16, 1_u32), (1, 1), (32, 1), (33, 2), (40, 2), (48, 2), (49, 3), (3600, 224)] {
            let all = records(hosts);
            assert_eq!(parts(all.len()), expected, "{hosts}");
            let mut seen = HashSet::new();
            for part in 0..expected {
                let preferences: Vec<u16> = hosts_of_part(&all, part).iter().map(|record| record.preference).collect();
                assert_eq!(preferences.len(), all.len().min(HOSTS_MAX));
                assert!(preferences.is_sorted() && preferences.starts_with(&[0][..preferences.len().min(1)]));
                assert!(preferences.iter().take(16).copied().eq((0..hosts).take(16)), "{preferences:?}");
                seen.extend(preferences);
            }
            assert_eq!(seen.len(), all.len(), "{hosts}");
            assert_eq!(hosts_of_part(&all, expected), hosts_of_part(&all, 0), "they begin anew");
        }
        assert_eq!(hosts_of_part(&records(40), u32::MAX).len(), HOSTS_MAX);
    }

    #[test]
    fn each_address_has_its_turn_in_whatever_order_they_come() {
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for (len, most, expected) in [(0, 4, 1), (4, 4, 1), (5, 4, 2), (60, 32, 2), (300, 32, 10), (4000, 4, 1000)] {
            let mut seen = HashSet::new();
            for part in 0..expected {
                let mut all: Vec<IpAddr> = (0..len).map(address).collect();
                let begin = part as usize % all.len().max(1);
                all.rotate_left(begin);
                let (of_part, parts) = addresses_of_part(all, part, most);
                assert_eq!((of_part.len(), parts), (most.min(len as usize), expected));
                seen.extend(of_part);
            }
            assert_eq!(seen.len(), len as usize);
        }
    }
}
