//! Reading the engine's file without the engine. sled 0.34 does not open a file in which one octet has changed, or leaves out
//! without a word what stands behind it; here each message of its log is checked, and what can be read of a damaged one is
//! put together again.
//!
//! The log is a row of segments; each begins with a header (checksum, position of the segment in the log, how far the log
//! was on disk then) and holds messages about pages. A page is its last whole state, a node of the tree with the keys from `lo` to `hi`, and the changes that came after it. Where the last
//! whole state is lost, an older one is often still in the file, with the changes up to the newer one.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::engine::{Tail, io_error};
use super::engine_log::{
    BATCH, CAP, FREE, LINK, Leaf, MESSAGE_HEADER_MAX, NODE, Reading, SEGMENT_HEADER_LEN, next_message, number_of_first,
    read,
};
use crate::ledger::embedded::store::StoreError;

/// The engine's mask over positions in a segment's header.
const POSITION_MASK: u64 = i64::MAX as u64;
/// More than this is never written between two syncs. What the engine calls stable may be in the operating system's memory
/// only.
const UNSYNCED_MAX: u64 = 16 << 20;

/// What a look through a log found.
#[derive(Debug)]
pub(super) struct Look {
    tail: Tail,
    /// How many places hold something else than was written there, for certain.
    pub(super) damaged: usize,
    /// Where nothing could be read, by the position in the log.
    holes: Vec<u64>,
    /// Behind the last message that can be read.
    end: u64,
}

impl Look {
    fn new(tail: Tail) -> Self {
        Self { tail, damaged: 0, holes: Vec::new(), end: 0 }
    }

    fn has_hole_between(&self, from: u64, to: u64) -> bool {
        let next = self.holes.partition_point(|at| *at < from);
        self.holes.get(next).is_some_and(|at| *at < to)
    }
}

/// A message of the log.
struct Message<'a> {
    kind: u8,
    page: u64,
    body: &'a [u8],
    /// Its position in the log.
    position: u64,
    /// Where its body is in the file.
    at: u64,
}

/// A file of the engine with segments of a given length.
pub(super) struct Log<'a> {
    file: &'a File,
    segment_len: usize,
    /// Where the segments are in the file, by their position in the log.
    segments: BTreeMap<u64, u64>,
    /// Positions before this one were on disk when a later segment was begun.
    stable: u64,
    /// Segments whose header cannot be read, by their position as far as it is known.
    headless: Vec<Option<u64>>,
}

impl<'a> Log<'a> {
    pub(super) fn new(file: &'a File, segment_len: usize) -> io::Result<Self> {
        let mut log = Self { file, segment_len, segments: BTreeMap::new(), stable: 0, headless: Vec::new() };
        let len = file.metadata()?.len();
        let mut at = 0;
        while at + SEGMENT_HEADER_LEN as u64 <= len {
            log.add_segment(at)?;
            at += segment_len as u64;
        }
        Ok(log)
    }

    fn add_segment(&mut self, at: u64) -> io::Result<()> {
        let mut header = [0; SEGMENT_HEADER_LEN];
        self.file.read_exact_at(&mut header, at)?;
        let number = |range: Range<usize>| header[range].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let checksum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let base = number(4..12) ^ POSITION_MASK;
        if base <= POSITION_MASK && crc32fast::hash(&header[4..]) ^ u32::MAX == checksum {
            self.segments.insert(base, at);
            // The engine begins with -1: nothing was on disk.
            let stable = number(12..20) ^ POSITION_MASK;
            self.stable = self.stable.max(if stable > POSITION_MASK { 0 } else { stable });
        } else if header != [0; SEGMENT_HEADER_LEN] {
            // Its messages know where they belong.
            let number = number_of_first(&self.octets(at)?);
            let base = number.and_then(|number| number.checked_mul(self.segment_len as u64));
            let base = base.filter(|base| *base <= POSITION_MASK);
            self.headless.push(base);
            if let Some(base) = base {
                self.segments.entry(base).or_insert(at);
            }
        }
        Ok(())
    }

    fn octets(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; self.segment_len];
        let mut len = 0;
        while len < octets.len() {
            match self.file.read_at(&mut octets[len..], at + len as u64)? {
                0 => break,
                read => len += read,
            }
        }
        octets.truncate(len);
        Ok(octets)
    }

    /// Checks every message.
    pub(super) fn look(&self, tail: Tail) -> io::Result<Look> {
        let mut look = Look::new(tail);
        look.damaged = self.headless.len();
        look.holes.extend(self.headless.iter().flatten());
        self.walk(&mut look, &mut |_| ())?;
        look.holes.sort_unstable();
        Ok(look)
    }

    /// Goes through all messages in their order, up to where the engine would stop in the tail.
    fn walk(&self, look: &mut Look, visit: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        for (&base, &offset) in &self.segments {
            let octets = self.octets(offset)?;
            let number = base / self.segment_len as u64;
            let end = base + self.segment_len as u64;
            let is_stable = match look.tail {
                Tail::Whole | Tail::Written => end <= self.stable,
                Tail::Unknown => end.saturating_add(UNSYNCED_MAX) <= self.stable,
            };
            let tail = if is_stable { Tail::Whole } else { look.tail };
            let mut at = SEGMENT_HEADER_LEN;
            while at + MESSAGE_HEADER_MAX <= octets.len() {
                match read(&octets, at, Some(number)) {
                    Reading::Message { kind: CAP, .. } => break,
                    Reading::Message { kind, page, body } => {
                        at = body.end;
                        look.end = look.end.max(base + at as u64);
                        let (position, offset) = (base + body.start as u64, offset + body.start as u64);
                        visit(&Message { kind, page, body: &octets[body], position, at: offset });
                    }
                    other @ (Reading::Changed | Reading::Nothing) => {
                        let next = next_message(&octets, at + 1, number);
                        if tail.is_damage(matches!(other, Reading::Changed), next.is_some()) {
                            look.damaged += 1;
                        } else if end > self.stable {
                            return Ok(());
                        }
                        look.holes.push(base + at as u64);
                        at = next.unwrap_or(octets.len());
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows of what can be read; `is_key` says whether octets can be a key. Rows whose last change was in a damaged
    /// place are as they were before it, or not there.
    pub(super) fn rows(
        &self,
        look: &Look,
        is_key: impl Fn(&[u8]) -> bool,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut pages: Vec<Page> = self.pages(look).map_err(|e| io_error(&e))?.into_values().collect();
        pages.sort_unstable_by_key(|page| std::cmp::Reverse(page.whole.position));
        let has_gap = self.headless.contains(&None);
        let mut known = Known::default();
        for page in &pages {
            let octets = self.piece(&page.whole).map_err(|e| io_error(&e))?;
            let Some(mut leaf) = Leaf::read(&octets) else { continue };
            for link in &page.links {
                let is_doubtful = has_gap || look.has_hole_between(page.whole.position, link.position);
                leaf.change(&self.piece(link).map_err(|e| io_error(&e))?, |key| !is_doubtful || is_key(key));
            }
            for (key, value) in leaf.rows.iter().filter(|(key, _)| !known.holds(key)) {
                take(key, value)?;
            }
            known.add(leaf.low, leaf.high);
        }
        Ok(())
    }

    /// The pages as they were at the end of the log, but for a batch that is not in it as a whole.
    fn pages(&self, look: &Look) -> io::Result<HashMap<u64, Page>> {
        let mut pages: HashMap<u64, Page> = HashMap::new();
        let mut is_cut = false;
        self.walk(&mut Look::new(look.tail), &mut |message| {
            let piece = Piece { position: message.position, at: message.at, len: message.body.len() };
            match message.kind {
                _ if is_cut => (),
                BATCH => {
                    let last = message.body.try_into().map(u64::from_le_bytes).unwrap_or_default();
                    is_cut = look.tail != Tail::Whole && last >= look.end;
                }
                NODE => drop(pages.insert(message.page, Page { whole: piece, links: Vec::new() })),
                LINK => {
                    if let Some(page) = pages.get_mut(&message.page) {
                        page.links.push(piece);
                    }
                }
                FREE => drop(pages.remove(&message.page)),
                _ => (),
            }
        })?;
        Ok(pages)
    }

    fn piece(&self, piece: &Piece) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; piece.len];
        self.file.read_exact_at(&mut octets, piece.at)?;
        Ok(octets)
    }
}

/// A message's body.
struct Piece {
    position: u64,
    at: u64,
    len: usize,
}

/// A page's last whole state and its changes since.
struct Page {
    whole: Piece,
    links: Vec<Piece>,
}

/// The keys of which newer pages tell. Ranges that do not touch: where they begin, and where they end; an empty end is
/// behind all keys.
#[derive(Default)]
struct Known(BTreeMap<Vec<u8>, Vec<u8>>);

impl Known {
    fn holds(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)));
        before.last().is_some_and(|(_, end)| end.is_empty() || key < &end[..])
    }

    fn add(&mut self, mut low: Vec<u8>, mut high: Vec<u8>) {
        let touches = |begin: &[u8], end: &[u8], low: &[u8], high: &[u8]| {
            (high.is_empty() || begin <= high) && (end.is_empty() || low <= end)
        };
        let last = if high.is_empty() { std::ops::Bound::Unbounded } else { std::ops::Bound::Included(&high[..]) };
        let touched: Vec<Vec<u8>> = self
            .0
            .range::<[u8], _>((std::ops::Bound::Unbounded, last))
            .rev()
            .take_while(|(begin, end)| touches(begin, end, &low, &high))
            .map(|(begin, _)| begin.clone())
            .collect();
        for begin in touched {
            let end = self.0.remove(&begin).unwrap_or_default();
            if end.is_empty() || (!high.is_empty() && end > high) {
                high = end;
            }
            low = low.min(begin);
        }
        self.0.insert(low, high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together() {
        let key = |text: &str| text.as_bytes().to_vec();
        let mut known = Known::default();
        known.add(key("f"), key("h"));
        known.add(key("m"), key("p"));
        let of = |known: &Known| {
            "aefghklmnopqz".chars().filter(|c| known.holds(c.to_string().as_bytes())).collect::<String>()
        };
        assert_eq!(of(&known), "fgmno");
        known.add(key("g"), key("n"));
        assert_eq!(of(&known), "fghklmno");
        known.add(key("q"), key(""));
        known.add(key(""), key("b"));
        assert_eq!(of(&known), "afghklmnoqz");
        known.add(key("a"), key(""));
        assert_eq!(of(&known), "aefghklmnopqz");
    }

    /// A segment header as the engine writes it.
    fn segment_header(position: u64, stable: u64) -> Vec<u8> {
        let rest = [(position ^ POSITION_MASK).to_le_bytes(), (stable ^ POSITION_MASK).to_le_bytes()].concat();
        [(crc32fast::hash(&rest) ^ u32::MAX).to_le_bytes().to_vec(), rest].concat()
    }

    /// A message as the engine writes it; numbers up to 240 only.
    fn message(kind: u8, segment: u8, page: u8, body: &[u8]) -> Vec<u8> {
        let header = [kind, body.len().min(240) as u8, segment, page];
        let checksum = crc32fast::hash(&[body, &header].concat()) ^ u32::MAX;
        [&checksum.to_le_bytes()[..], &header, body].concat()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        #[test]
        fn whatever_stands_there_is_read_without_harm(
            position in proptest::prelude::any::<u64>(),
            stable in proptest::prelude::any::<u64>(),
            bodies in proptest::collection::vec((1..12u8, 0..4u8, proptest::collection::vec(0..=255u8, 0..40)), 0..12),
            noise in proptest::collection::vec(0..=255u8, 0..200),
        ) {
            let mut octets = segment_header(position / 512 * 512, stable);
            let segment = (position / 512 % 200) as u8;
            bodies.iter().for_each(|(kind, page, body)| octets.extend(message(*kind, segment, *page, body)));
            octets.extend(&noise);
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, &octets).unwrap();
            let log = Log::new(&file, 512).unwrap();
            for tail in [Tail::Whole, Tail::Written, Tail::Unknown] {
                let look = log.look(tail).unwrap();
                log.rows(&look, |_| true, |_, _| Ok(())).unwrap();
            }
        }
    }
}
