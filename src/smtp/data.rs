//! Content on the wire: dot-stuffing and the final dot (RFC 5321 section 4.5.2).

use bytes::{BufMut, BytesMut};
use memchr::{memchr3, memmem};

use super::line::LineFault;

/// What came of feeding a [`DataDecoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// All input was used; more content is to come.
    More,
    /// The final dot was read; this many octets of the input belong to the content.
    Complete(usize),
    /// The content breaks a rule. Nothing that follows can be trusted to be commands.
    Fault(LineFault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    /// A dot at the start of a line.
    Dot,
    /// A dot and a CR at the start of a line.
    DotCr,
    Text,
    Cr,
}

/// Takes off dot-stuffing and finds the final dot, fed piece by piece; every split of the input gives the same result.
#[derive(Debug)]
pub struct DataDecoder {
    state: State,
    content: BytesMut,
    size_max: usize,
    size: usize,
}

impl DataDecoder {
    /// Content beyond `size_max` octets is read over and counted, not kept.
    pub fn new(size_max: usize) -> Self {
        Self { state: State::LineStart, content: BytesMut::with_capacity(4096.min(size_max)), size_max, size: 0 }
    }

    /// Octets of content so far, also those that were not kept.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there was more than could be kept.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.size > self.size_max
    }

    /// The content, to be taken after [`Decoded::Complete`].
    pub fn into_content(self) -> BytesMut {
        self.content
    }

    /// Reads on.
    pub fn feed(&mut self, input: &[u8]) -> Decoded {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::LineStart if input[at] == b'.' => {
                    self.state = State::Dot;
                    at += 1;
                }
                State::LineStart | State::Text => match self.text(&input[at..]) {
                    Ok(used) => at += used,
                    Err(fault) => return Decoded::Fault(fault),
                },
                State::Cr | State::DotCr if input[at] != b'\n' => return Decoded::Fault(LineFault::BareCr),
                State::Cr => {
                    self.push(b"\r\n");
                    self.state = State::LineStart;
                    at += 1;
                }
                State::DotCr => return Decoded::Complete(at + 1),
                State::Dot if input[at] == b'\r' => {
                    self.state = State::DotCr;
                    at += 1;
                }
                State::Dot => self.state = State::Text,
            }
        }
        Decoded::More
    }

    /// Takes text up to the next place where a decision is due; returns the octets used.
    fn text(&mut self, input: &[u8]) -> Result<usize, LineFault> {
        let mut end = 0;
        loop {
            let Some(offset) = memchr3(b'\r', b'\n', 0, &input[end..]) else {
                self.push(input);
                self.state = State::Text;
                return Ok(input.len());
            };
            end += offset;
            match input[end] {
                b'\n' => return Err(LineFault::BareLf),
                0 => return Err(LineFault::Nul),
                _ => {}
            }
            match (input.get(end + 1), input.get(end + 2)) {
                // A whole line and the start of one that needs no decision: go on without leaving the loop.
                (Some(b'\n'), Some(next)) if *next != b'.' => end += 2,
                (Some(b'\n'), _) => {
                    self.push(&input[..end + 2]);
                    self.state = State::LineStart;
                    return Ok(end + 2);
                }
                (Some(_), _) => return Err(LineFault::BareCr),
                (None, _) => {
                    self.push(&input[..end]);
                    self.state = State::Cr;
                    return Ok(end + 1);
                }
            }
        }
    }

    fn push(&mut self, octets: &[u8]) {
        self.size += octets.len();
        if self.size <= self.size_max {
            self.content.put_slice(octets);
        }
    }
}

/// The first CR or LF that is not part of a CRLF, or NUL, for content that comes without dot-stuffing (BDAT).
pub fn line_fault(content: &[u8]) -> Option<LineFault> {
    let mut at = 0;
    while let Some(offset) = memchr3(b'\r', b'\n', 0, &content[at..]) {
        at += offset;
        match (content[at], content.get(at + 1)) {
            (b'\n', _) => return Some(LineFault::BareLf),
            (0, _) => return Some(LineFault::Nul),
            (_, Some(b'\n')) => at += 2,
            _ => return Some(LineFault::BareCr),
        }
    }
    None
}

/// Whether a part of content has a line that starts with a dot; `at_line_start`: whether the part begins a line.
pub fn needs_stuffing(part: &[u8], at_line_start: bool) -> bool {
    (at_line_start && part.first() == Some(&b'.')) || memmem::find(part, b"\r\n.").is_some()
}

/// Writes a part of content with a second dot in front of every dot that starts a line.
pub fn stuff(part: &[u8], at_line_start: bool, out: &mut Vec<u8>) {
    out.reserve(part.len() + 16);
    if at_line_start && part.first() == Some(&b'.') {
        out.push(b'.');
    }
    let mut written = 0;
    for at in memmem::find_iter(part, b"\r\n.") {
        out.extend_from_slice(&part[written..at + 3]);
        out.push(b'.');
        written = at + 3;
    }
    out.extend_from_slice(&part[written..]);
}

/// What ends content: a CRLF if its last line lacks one, and the final dot.
pub fn final_dot(last_part: &[u8]) -> &'static [u8] {
    if last_part.is_empty() || last_part.ends_with(b"\r\n") { b".\r\n" } else { b"\r\n.\r\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> (Decoded, Vec<u8>) {
        let mut decoder = DataDecoder::new(1 << 20);
        for (index, piece) in pieces.iter().enumerate() {
            match decoder.feed(piece) {
                Decoded::More => {}
                Decoded::Complete(used) => {
                    let before: usize = pieces[..index].iter().map(|p| p.len()).sum();
                    return (Decoded::Complete(before + used), decoder.into_content().to_vec());
                }
                Decoded::Fault(fault) => return (Decoded::Fault(fault), Vec::new()),
            }
        }
        (Decoded::More, decoder.into_content().to_vec())
    }

    fn check(input: &str, expected: Decoded, content: &str) {
        let (got, octets) = decode(&[input.as_bytes()]);
        assert_eq!((got, String::from_utf8(octets).unwrap().as_str()), (expected, content), "{input:?}");
    }

    #[test]
    fn the_final_dot_and_nothing_else_ends_content() {
        check(".\r\n", Decoded::Complete(3), "");
        check("a\r\n.\r\nQUIT\r\n", Decoded::Complete(6), "a\r\n");
        check("..\r\n.\r\n", Decoded::Complete(7), ".\r\n");
        check(".a\r\n.\r\n", Decoded::Complete(7), "a\r\n");
        check("a\r\n...b\r\n.\r\n", Decoded::Complete(12), "a\r\n..b\r\n");
        check("a\r\n. \r\n", Decoded::More, "a\r\n \r\n");
        check("a\n.\n", Decoded::Fault(LineFault::BareLf), "");
        check("a\r\n.\n", Decoded::Fault(LineFault::BareLf), "");
        check("a\n.\r\n", Decoded::Fault(LineFault::BareLf), "");
        check("a\r.\r\n", Decoded::Fault(LineFault::BareCr), "");
        check("a\r\n.\r\r\n", Decoded::Fault(LineFault::BareCr), "");
        check("a\r\n.\rb", Decoded::Fault(LineFault::BareCr), "");
        check("a\r\r\n", Decoded::Fault(LineFault::BareCr), "");
        check("a\r\n\0.\r\n", Decoded::Fault(LineFault::Nul), "");
        check("a\r\n.\0\r\n", Decoded::Fault(LineFault::Nul), "");
    }

    #[test]
    fn what_is_too_long_is_counted_not_kept() {
        let mut decoder = DataDecoder::new(4);
        assert_eq!(decoder.feed(b"12\r\n34\r\n.\r\n"), Decoded::Complete(11));
        assert!(decoder.is_over_limit());
        assert_eq!(decoder.size(), 8);
        assert!(decoder.into_content().len() <= 4);
    }

    proptest! {
        #[test]
        fn stuffing_is_undone(lines in prop::collection::vec("[.a]{0,4}", 0..10), cuts in prop::collection::vec(0usize..60, 0..6)) {
            let content = lines.iter().map(|line| format!("{line}\r\n")).collect::<String>().into_bytes();
            let mut wire = Vec::new();
            stuff(&content, true, &mut wire);
            prop_assert_eq!(wire != content, needs_stuffing(&content, true));
            wire.extend_from_slice(final_dot(&content));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &wire[w[0]..w[1]]).collect();
            let (got, octets) = decode(&pieces);
            prop_assert_eq!(got, Decoded::Complete(wire.len()));
            prop_assert_eq!(octets, content);
        }

        #[test]
        fn splits_do_not_matter(input in "[.a\r\n\0]{0,24}", cut in 0usize..24) {
            let input = input.as_bytes();
            let cut = cut.min(input.len());
            prop_assert_eq!(decode(&[input]), decode(&[&input[..cut], &input[cut..]]));
        }
    }
}
