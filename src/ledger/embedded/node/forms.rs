//! The forms of the rows that most messages write: binary, where all else is JSON. Times in them are of the wall clock.

use std::time::Duration;

use crate::base::clock::{Step, Timestamp};
use crate::ledger::accept::{Digest, KeyHash};
use crate::ledger::tables::budgets::Place;
use crate::ledger::tables::keys::KeyRow;
use crate::mail::id::{EntryId, MessageId};

/// Version of these rows.
const VERSION: u8 = 2;
const PLACE_LEN: usize = 16 + 8 + 16 + 2 + 1;

fn time(octets: &[u8; 8]) -> Timestamp {
    Timestamp::from_millis(u64::from_be_bytes(*octets))
}

/// How long the places in a mailbox count, and the places.
pub(super) fn encode_places(span: Duration, places: &[Place], step: Step) -> Box<[u8]> {
    let mut value = Vec::with_capacity(1 + 8 + places.len() * PLACE_LEN);
    value.push(VERSION);
    let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    value.extend_from_slice(&span_ms.to_be_bytes());
    for place in places {
        value.extend_from_slice(&place.whose.0);
        value.extend_from_slice(&step.wall(place.at).as_millis().to_be_bytes());
        value.extend_from_slice(&place.entry.message.to_bytes());
        value.extend_from_slice(&place.entry.index.to_be_bytes());
        value.push(u8::from(place.is_repeatable));
    }
    value.into()
}

pub(super) fn decode_places(value: &[u8]) -> Option<(Duration, Vec<Place>)> {
    let (&version, rest) = value.split_first()?;
    let (span_ms, places) = rest.split_first_chunk::<8>()?;
    if version != VERSION || !places.len().is_multiple_of(PLACE_LEN) {
        return None;
    }
    let place = |raw: &[u8]| {
        let (whose, raw) = raw.split_first_chunk::<16>()?;
        let (at, raw) = raw.split_first_chunk::<8>()?;
        let (message, raw) = raw.split_first_chunk::<16>()?;
        let (index, raw) = raw.split_first_chunk::<2>()?;
        let entry = EntryId { message: MessageId::from_bytes(*message), index: u16::from_be_bytes(*index) };
        let (at, is_repeatable) = (time(at), *raw.first()? != 0);
        Some(Place { at, whose: KeyHash(*whose), entry, is_repeatable })
    };
    let places: Option<Vec<Place>> = places.chunks(PLACE_LEN).map(place).collect();
    Some((Duration::from_millis(u64::from_be_bytes(*span_ms)), places?))
}

/// What was accepted under a name; behind it the digest and its day, where there is one.
pub(super) fn encode_key(row: &KeyRow, step: Step) -> Box<[u8]> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&row.message.to_bytes());
    value.extend_from_slice(&step.wall(row.at).as_millis().to_be_bytes());
    value.extend_from_slice(&step.wall(row.until).as_millis().to_be_bytes());
    if let Some(Digest { day, octets }) = &row.digest {
        value.extend_from_slice(&day.to_be_bytes());
        value.extend_from_slice(octets);
    }
    value.into()
}

pub(super) fn decode_key(value: &[u8]) -> Option<KeyRow> {
    let (&version, rest) = value.split_first()?;
    let (message, rest) = rest.split_first_chunk::<16>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (until, rest) = rest.split_first_chunk::<8>()?;
    let digest = match rest.split_first_chunk::<8>() {
        Some((day, octets)) => Some(Digest { day: u64::from_be_bytes(*day), octets: octets.try_into().ok()? }),
        None if rest.is_empty() => None,
        None => return None,
    };
    let row = KeyRow { message: MessageId::from_bytes(*message), at: time(at), until: time(until), digest };
    (version == VERSION).then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::embedded::node::reads;
    use crate::ledger::side::SideTable;

    const AT: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    #[test]
    fn a_row_is_read_as_it_was_written_or_not_at_all() {
        let digest = Some(Digest { day: 20_778, octets: [7; 32] });
        for digest in [digest, None] {
            let row = KeyRow { message: MessageId::from_bytes([1; 16]), at: AT, until: AT.plus(SPAN), digest };
            let value = encode_key(&row, Step::NONE);
            assert_eq!(decode_key(&value), Some(row));
            check_damaged(b'k', &value, if digest.is_some() { 33 } else { 0 });
        }
        let entry = |index| EntryId { message: MessageId::from_bytes([1; 16]), index };
        let place = |index| Place { at: AT, whose: KeyHash([2; 16]), entry: entry(index), is_repeatable: index > 0 };
        let value = encode_places(SPAN, &[place(0), place(1)], Step::NONE);
        assert_eq!(decode_places(&value), Some((SPAN, vec![place(0), place(1)])));
        check_damaged(b'b', &value, 9 + PLACE_LEN);
    }

    const SPAN: Duration = Duration::from_secs(600);

    /// Cut off anywhere but behind `whole` octets, or of another version, `data verify` says that it cannot be read.
    fn check_damaged(letter: u8, value: &[u8], whole: usize) {
        let reads = |value: &[u8]| reads(SideTable::Ledger, &([&[letter], &[3; 16][..]].concat().into(), value.into()));
        assert_eq!(reads(value), Some(true));
        for len in (0..value.len()).filter(|len| *len != whole && (letter != b'b' || *len != 9)) {
            assert_eq!(reads(&value[..len]), Some(false), "{len} octets of {}", char::from(letter));
        }
        assert_eq!(reads(&[&[1], &value[1..]].concat()), Some(false));
    }
}
