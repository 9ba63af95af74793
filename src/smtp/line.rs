//! Lines end in CRLF and in nothing else (RFC 5321 section 2.3.8). A CR or LF on its own is a fault, never a line
//! end: programs that disagree about this read two messages where another sees one.

use crate::base::named::named;
use memchr::memchr2;

/// Longest command line with its CRLF: 512 octets (RFC 5321 section 4.5.3.1.4) and room for every parameter offered.
pub(crate) const COMMAND_LINE_MAX: usize = 4096;
/// Longest line of a SASL exchange (RFC 4954 section 4).
pub(crate) const AUTH_LINE_MAX: usize = 12_288;

named! {
    /// How text breaks the rule that lines end in CRLF.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum LineFault: text {
        /// A CR that no LF follows.
        BareCr = "a CR without LF; lines end in CRLF",
        /// An LF that no CR precedes.
        BareLf = "an LF without CR; lines end in CRLF",
        /// A NUL, which content must not have (RFC 2045 section 2.8). Some programs drop it, and then see a line of a single dot
        /// where there was none.
        Nul = "a NUL; content is text",
        /// More octets than the limit without a line end.
        TooLong = "line too long",
    }
}

/// What the start of a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextLine {
    /// A line of this many octets, its CRLF not counted.
    Line(usize),
    Incomplete,
    /// No line will come of this.
    Fault(LineFault),
}

/// Looks for a line at the start of `buffer`; `limit` counts its CRLF.
pub(crate) fn next_line(buffer: &[u8], limit: usize) -> NextLine {
    let Some(end) = memchr2(b'\r', b'\n', buffer) else {
        return if buffer.len() >= limit { NextLine::Fault(LineFault::TooLong) } else { NextLine::Incomplete };
    };
    if end + 2 > limit {
        return NextLine::Fault(LineFault::TooLong);
    }
    match (buffer[end], buffer.get(end + 1)) {
        (b'\n', _) => NextLine::Fault(LineFault::BareLf),
        (_, Some(b'\n')) => NextLine::Line(end),
        (_, Some(_)) => NextLine::Fault(LineFault::BareCr),
        (_, None) => NextLine::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crlf_ends_a_line() {
        let check = |text: &str, expected| assert_eq!(next_line(text.as_bytes(), 10), expected, "{text:?}");
        check("NOOP\r\n", NextLine::Line(4));
        check("\r\n", NextLine::Line(0));
        check("NOOP\r\nQUIT\r\n", NextLine::Line(4));
        check("NOOP", NextLine::Incomplete);
        check("NOOP\r", NextLine::Incomplete);
        check("NOOP\n", NextLine::Fault(LineFault::BareLf));
        check("NO\rOP\r\n", NextLine::Fault(LineFault::BareCr));
        check("12345678\r\n", NextLine::Line(8));
        check("123456789\r\n", NextLine::Fault(LineFault::TooLong));
        check("1234567890", NextLine::Fault(LineFault::TooLong));
    }
}
