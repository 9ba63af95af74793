//! How the engine (sled 0.34) writes the messages of its log (checksum, kind, length, number of the segment, page; then
//! the body), and the bodies of pages that hold rows. Whatever stands there, reading does no harm.

use std::collections::BTreeMap;
use std::ops::Range;

pub(super) const SEGMENT_HEADER_LEN: usize = 20;
/// Less than this at the end of a segment is not used.
pub(super) const MESSAGE_HEADER_MAX: usize = 32;

const CANCELED: u8 = 1;
pub(super) const CAP: u8 = 2;
pub(super) const BATCH: u8 = 3;
pub(super) const FREE: u8 = 4;
pub(super) const NODE: u8 = 8;
pub(super) const LINK: u8 = 10;
const KIND_MAX: u8 = 11;

/// What can be read at one place of a segment.
pub(super) enum Reading {
    Message {
        kind: u8,
        page: u64,
        body: Range<usize>,
    },
    /// A message of this segment, with other octets than were written.
    Changed,
    Nothing,
}

/// The number that the first message of a segment says the segment has.
pub(super) fn number_of_first(octets: &[u8]) -> Option<u64> {
    match read(octets, SEGMENT_HEADER_LEN, None) {
        Reading::Message { .. } => Header::read(&octets[SEGMENT_HEADER_LEN..]).map(|header| header.segment),
        Reading::Changed | Reading::Nothing => None,
    }
}

/// Where the next message of this segment stands.
pub(super) fn next_message(octets: &[u8], from: usize, number: u64) -> Option<usize> {
    (from..octets.len().saturating_sub(MESSAGE_HEADER_MAX))
        .find(|at| matches!(read(octets, *at, Some(number)), Reading::Message { .. }))
}

/// What stands at a place of a segment, whose number may be known.
pub(super) fn read(octets: &[u8], at: usize, number: Option<u64>) -> Reading {
    let Some(header) = octets.get(at..).and_then(Header::read) else { return Reading::Nothing };
    let start = at + header.len;
    let is_own = number.is_none_or(|number| number == header.segment);
    let end = usize::try_from(header.body_len).ok().and_then(|len| start.checked_add(len));
    let Some(body) = end.filter(|_| is_own).and_then(|end| octets.get(start..end)) else { return Reading::Nothing };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(body);
    checksum.update(&octets[at + 4..start]);
    if checksum.finalize() ^ u32::MAX != header.checksum {
        return Reading::Changed;
    }
    Reading::Message { kind: header.kind, page: header.page, body: start..start + body.len() }
}

/// What stands before a message's body.
struct Header {
    checksum: u32,
    kind: u8,
    body_len: u64,
    segment: u64,
    page: u64,
    /// Its own length.
    len: usize,
}

impl Header {
    /// None if there is no message.
    fn read(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader(octets);
        let checksum = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
        let kind = reader.octet().filter(|kind| (CANCELED..=KIND_MAX).contains(kind))?;
        let (body_len, segment, page) = (reader.number()?, reader.number()?, reader.number()?);
        Some(Self { checksum, kind, body_len, segment, page, len: octets.len() - reader.0.len() })
    }
}

/// A leaf of the tree: the rows from `low` on and before `high`; an empty `high` is behind all keys.
pub(super) struct Leaf {
    pub(super) low: Vec<u8>,
    pub(super) high: Vec<u8>,
    /// What all keys begin with and the changes leave out.
    prefix: Vec<u8>,
    pub(super) rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Leaf {
    /// None if it is no leaf.
    pub(super) fn read(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader(octets);
        let (_next, _merging_child, _is_merging) = (reader.number()?, reader.number()?, reader.octet()?);
        let prefix_len = usize::from(reader.octet()?);
        let (low, high) = (reader.string()?.to_vec(), reader.string()?.to_vec());
        let prefix = low.get(..prefix_len)?.to_vec();
        if reader.octet()? != 0 {
            return None;
        }
        let count = usize::try_from(reader.number()?).ok()?;
        let keys: Vec<Vec<u8>> = (0..count).map_while(|_| reader.string()).map(|key| [&prefix, key].concat()).collect();
        let values = std::iter::from_fn(|| reader.string().map(<[u8]>::to_vec));
        let rows = keys.into_iter().zip(values).collect();
        Some(Self { low, high, prefix, rows })
    }

    /// Applies a change, if its key belongs here.
    pub(super) fn change(&mut self, octets: &[u8], is_key: impl Fn(&[u8]) -> bool) {
        let mut reader = Reader(octets);
        let (Some(what @ 0..=1), Some(key)) = (reader.octet(), reader.string()) else { return };
        let key = [&self.prefix, key].concat();
        let is_within = key >= self.low && (self.high.is_empty() || key < self.high);
        if !is_within || !is_key(&key) {
            return;
        }
        match reader.string().filter(|_| what == 0) {
            Some(value) => drop(self.rows.insert(key, value.to_vec())),
            None => drop(self.rows.remove(&key)),
        }
    }
}

/// Takes the engine's numbers and strings off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take(1).map(|octet| octet[0])
    }

    /// One octet up to 240, two up to 2,287, three up to 67,823; beyond, the length and so many octets, the lowest first.
    fn number(&mut self) -> Option<u64> {
        let first = self.octet()?;
        match first {
            0..=240 => Some(u64::from(first)),
            241..=248 => Some(240 + 256 * (u64::from(first) - 241) + u64::from(self.octet()?)),
            249 => Some(2288 + 256 * u64::from(self.octet()?) + u64::from(self.octet()?)),
            250.. => {
                let octets = self.take(usize::from(first) - 247)?;
                Some(octets.iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet)))
            }
        }
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        let read = |octets: &[u8]| Reader(octets).number();
        assert_eq!(read(&[240]), Some(240));
        assert_eq!((read(&[241, 1]), read(&[248, 255])), (Some(241), Some(2287)));
        assert_eq!((read(&[249, 0, 0]), read(&[249, 255, 255])), (Some(2288), Some(67823)));
        assert_eq!(read(&[250, 1, 2, 3]), Some(0x03_0201));
        assert_eq!(read(&[255, 1, 0, 0, 0, 0, 0, 0, 128]), Some(1 << 63 | 1));
        assert_eq!((read(&[]), read(&[241]), read(&[255, 1])), (None, None, None));
    }

    #[test]
    fn what_is_no_message_is_none() {
        let octets = vec![0; 100];
        assert!(matches!(read(&octets, 20, Some(0)), Reading::Nothing));
        let octets: Vec<u8> = (0..=255).cycle().take(600).collect();
        for at in 0..octets.len() {
            assert!(!matches!(read(&octets, at, None), Reading::Message { .. }));
            let _ = Leaf::read(&octets[at..]);
        }
    }
}
