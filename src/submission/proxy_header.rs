//! The header that a proxy puts in front of a connection to say whose it is: the PROXY protocol of HAProxy, versions 1
//! (a line of text) and 2 (binary). Knows no socket. Extensions (TLVs) are read over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is read. Version 1 has at most 107 octets; what proxies put behind the addresses of version 2
/// (names, checksums, what they know of TLS) is some hundred.
pub const HEADER_MAX: usize = 4096;
/// Longest line of version 1, CRLF included (section 2.1).
const LINE_MAX: usize = 107;
/// The shortest line of version 1 is `PROXY UNKNOWN`, so this much can be read of either without reading beyond it.
const START_LEN: usize = 15;
const WORD: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length of version 2.
const FIXED_LEN: usize = 16;

/// Whose the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client's, at this address.
    Client(SocketAddr),
    /// The proxy's own, to see whether anybody is there (`LOCAL`).
    Proxy,
    /// Somebody's whom the proxy cannot name: `UNKNOWN`, and what is no TCP.
    Unknown,
}

/// What the octets that arrived so far come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The header is complete, in so many octets; the client's own follow.
    Complete(Origin, usize),
    /// At least so many more octets belong to the header.
    Needs(usize),
}

/// Why this is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// It begins like neither version.
    #[error("no PROXY header")]
    Missing,
    /// A line of version 1 that is not written as it has to be.
    #[error("malformed PROXY header, version 1")]
    Text,
    /// A version, command, family or length that version 2 does not have.
    #[error("malformed PROXY header, version 2")]
    Binary,
    /// Longer than [`HEADER_MAX`].
    #[error("PROXY header of more than 4 KiB")]
    TooLong,
}

/// Reads a header at the start of `input`. Whoever reads no more octets than are asked for never reads beyond it.
///
/// # Errors
/// When no header can come of this, as soon as that is certain.
pub fn parse(input: &[u8]) -> Result<Progress, HeaderFault> {
    if input.starts_with(SIGNATURE) {
        return binary(input);
    }
    if input.starts_with(WORD) {
        return line(input);
    }
    let may_become_one = SIGNATURE.starts_with(input) || WORD.starts_with(input);
    if may_become_one { Ok(Progress::Needs(START_LEN - input.len())) } else { Err(HeaderFault::Missing) }
}

/// Version 1 (section 2.1): `PROXY TCP4 source destination port port`.
fn line(input: &[u8]) -> Result<Progress, HeaderFault> {
    let window = &input[..input.len().min(LINE_MAX)];
    let Some(end) = window.iter().position(|octet| *octet == b'\n') else {
        let missing = if input.ends_with(b"\r") { 1 } else { 2 };
        let needed = missing.max(START_LEN.saturating_sub(input.len()));
        return if input.len() + missing <= LINE_MAX { Ok(Progress::Needs(needed)) } else { Err(HeaderFault::Text) };
    };
    let text = window[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let text = text.filter(|text| !text.contains('\r')).ok_or(HeaderFault::Text)?;
    let origin = origin_in(&text[WORD.len()..]).ok_or(HeaderFault::Text)?;
    Ok(Progress::Complete(origin, end + 1))
}

fn origin_in(text: &str) -> Option<Origin> {
    let mut words = text.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Origin::Unknown);
    }
    let [source, destination] = [words.next()?, words.next()?].map(|word| match family {
        "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    });
    let (source_port, destination_port) = (port(words.next()?), port(words.next()?));
    // What follows of the client goes nowhere; that it is there and well-formed tells that this is a header.
    let is_whole = destination.is_some() && destination_port.is_some() && words.next().is_none();
    is_whole.then_some(Origin::Client(SocketAddr::new(source?, source_port?)))
}

fn port(word: &str) -> Option<u16> {
    let is_canonical = word.bytes().all(|octet| octet.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if is_canonical { word.parse().ok() } else { None }
}

/// Version 2 (section 2.2); `input` begins with the signature.
fn binary(input: &[u8]) -> Result<Progress, HeaderFault> {
    let Some((fixed, block)) = input.split_first_chunk::<FIXED_LEN>() else {
        return Ok(Progress::Needs(FIXED_LEN - input.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let is_known = matches!(command, 0x20 | 0x21) && family >> 4 <= 3 && family & 0x0f <= 2;
    if !is_known {
        return Err(HeaderFault::Binary);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED_LEN + length > HEADER_MAX {
        return Err(HeaderFault::TooLong);
    }
    let Some(block) = block.get(..length) else {
        return Ok(Progress::Needs(length - block.len()));
    };
    let origin = if command == 0x20 { Origin::Proxy } else { origin_of(family, block)? };
    Ok(Progress::Complete(origin, FIXED_LEN + length))
}

fn origin_of(family: u8, block: &[u8]) -> Result<Origin, HeaderFault> {
    let octets = |from: usize, len: usize| block.get(from..from + len).ok_or(HeaderFault::Binary);
    let port = |at: usize| octets(at, 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    // Both addresses come before both ports.
    let client = match family {
        0x11 => {
            let source: [u8; 4] = octets(0, 4)?.try_into().map_err(|_| HeaderFault::Binary)?;
            port(10)?;
            SocketAddr::new(IpAddr::from(source), port(8)?)
        }
        0x21 => {
            let source: [u8; 16] = octets(0, 16)?.try_into().map_err(|_| HeaderFault::Binary)?;
            port(34)?;
            SocketAddr::new(IpAddr::from(source), port(32)?)
        }
        _ => return Ok(Origin::Unknown),
    };
    Ok(Origin::Client(client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(text: &str) -> Origin {
        Origin::Client(text.parse().unwrap())
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    /// A header, with the client's first words behind it.
    fn check(header: &[u8], expected: Origin) {
        let expected = Ok(Progress::Complete(expected, header.len()));
        let with_more = [header, b"\x16\x03\x01EHLO"].concat();
        assert_eq!(parse(&with_more), expected, "{}", header.escape_ascii());
        for end in 0..header.len() {
            match parse(&header[..end]) {
                Ok(Progress::Needs(more)) => assert!((1..=header.len() - end).contains(&more), "at {end}: {more}"),
                other => panic!("at {end} of {}: {other:?}", header.escape_ascii()),
            }
        }
    }

    fn refused(header: impl AsRef<[u8]>, expected: HeaderFault) {
        assert_eq!(parse(header.as_ref()), Err(expected), "{}", header.as_ref().escape_ascii());
    }

    #[test]
    fn lines_of_version_1() {
        check(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 587\r\n", client("192.0.2.7:56324"));
        check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", client("255.255.255.255:65535"));
        check(b"PROXY TCP4 1.1.1.1 2.2.2.2 0 0\r\n", client("1.1.1.1:0"));
        check(b"PROXY TCP6 2001:db8::7 ::1 56324 587\r\n", client("[2001:db8::7]:56324"));
        check(b"PROXY UNKNOWN\r\n", Origin::Unknown);
        let longest = format!("PROXY UNKNOWN {0} {0} 65535 65535\r\n", "ffff:".repeat(7) + "ffff");
        assert_eq!(longest.len(), LINE_MAX);
        check(longest.as_bytes(), Origin::Unknown);
    }

    #[test]
    fn lines_that_are_no_headers() {
        for other in
            ["EHLO client.example\r\n", "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "PROXYTCP4", "\r\n\r\nQUIT", "\x16\x03"]
        {
            refused(other, HeaderFault::Missing);
        }
        for malformed in [
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
            "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
            "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.256 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP6 ::1%lo ::1 1 2\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            refused(malformed, HeaderFault::Text);
        }
        refused(format!("PROXY UNKNOWN {}", "x".repeat(LINE_MAX - 14)), HeaderFault::Text);
    }

    #[test]
    fn headers_of_version_2() {
        let ipv4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x02, 0x4b];
        check(&v2(0x21, 0x11, &ipv4), client("192.0.2.7:56324"));
        check(&v2(0x21, 0x11, &[&ipv4[..], b"\x04\x00\x01x"].concat()), client("192.0.2.7:56324"));
        let mut ipv6 = [0; 36];
        (ipv6[15], ipv6[33]) = (1, 9);
        check(&v2(0x21, 0x21, &ipv6), client("[::1]:9"));
        check(&v2(0x20, 0x00, &[]), Origin::Proxy);
        check(&v2(0x20, 0x11, &ipv4), Origin::Proxy);
        for (family, len) in [(0x00, 0), (0x00, 9), (0x10, 12), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
            check(&v2(0x21, family, &vec![0; len]), Origin::Unknown);
        }
        check(&v2(0x20, 0x00, &vec![0; HEADER_MAX - FIXED_LEN]), Origin::Proxy);
    }

    #[test]
    fn version_2_malformed() {
        for (command, family) in [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x21, 0x41), (0x21, 0x13), (0x20, 0xf0)] {
            refused(v2(command, family, &[0; 36]), HeaderFault::Binary);
        }
        refused(v2(0x21, 0x11, &[0; 11]), HeaderFault::Binary);
        refused(v2(0x21, 0x21, &[0; 35]), HeaderFault::Binary);
        refused([SIGNATURE, b"\x20\x00\xff\xff"].concat(), HeaderFault::TooLong);
    }

    proptest! {
        #[test]
        fn reading_what_is_asked_for_never_reads_beyond(start in "(PROXY )?[A-Z0-9. :\r\n]{0,40}", ends in any::<bool>()) {
            let input = format!("{start}{}", if ends { "\r\n" } else { "" });
            let mut read = 0;
            loop {
                match parse(&input.as_bytes()[..read]) {
                    Ok(Progress::Complete(_, used)) => {
                        prop_assert_eq!(used, read);
                        break;
                    }
                    Ok(Progress::Needs(more)) if read + more <= input.len() => read += more,
                    Ok(Progress::Needs(more)) => {
                        prop_assert!(more > 0 && read + more <= HEADER_MAX);
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
