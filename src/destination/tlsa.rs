//! TLSA records (RFC 6698 section 2), as they come over the wire and as they are written in a zone file.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;

/// Longest association data: a certificate.
const DATA_LEN_MAX: usize = 16 << 10;
const SHA256_LEN: usize = 32;
const SHA512_LEN: usize = 64;

/// A TLSA record, usable or not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsaRecord {
    /// 2: an authority (DANE-TA); 3: the host's own certificate (DANE-EE).
    pub usage: u8,
    /// 0: of the whole certificate; 1: of its key.
    pub selector: u8,
    /// 0: as it is; 1: SHA-256; 2: SHA-512.
    pub matching: u8,
    /// What is compared.
    pub data: Vec<u8>,
}

impl TlsaRecord {
    /// From the data of a record as it comes over the wire (RFC 6698 section 2.1); none if it is too short or long.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let [usage, selector, matching, data @ ..] = octets else { return None };
        let fits = (1..=DATA_LEN_MAX).contains(&data.len());
        fits.then(|| Self { usage: *usage, selector: *selector, matching: *matching, data: data.to_vec() })
    }

    /// Whether it can be used for SMTP (RFC 7672 section 3.1).
    pub(super) fn is_usable(&self) -> bool {
        let data_fits = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == SHA256_LEN,
            2 => self.data.len() == SHA512_LEN,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && matches!(self.selector, 0 | 1) && data_fits
    }
}

/// As in a zone file: `3 1 1 0a1b...`.
impl fmt::Display for TlsaRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for TlsaRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no TLSA record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a TLSA record")]
pub struct NotTlsa;

impl FromStr for TlsaRecord {
    type Err = NotTlsa;

    fn from_str(text: &str) -> Result<Self, NotTlsa> {
        let mut words = text.split_ascii_whitespace();
        let mut octets = Vec::new();
        for _ in 0..3 {
            octets.push(words.next().and_then(|word| word.parse().ok()).ok_or(NotTlsa)?);
        }
        let hex: Vec<u8> = words.flat_map(str::bytes).collect();
        octets.extend(HEXLOWER_PERMISSIVE.decode(&hex).map_err(|_| NotTlsa)?);
        Self::from_octets(&octets).ok_or(NotTlsa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> TlsaRecord {
        text.parse().unwrap()
    }

    #[test]
    fn records_are_read_and_written() {
        assert_eq!(read("3 1 1 0A1b ff").to_string(), "3 1 1 0a1bff");
        for text in ["", "3 1 1", "3 1 1 0", "3 1 1 0g", "3 1 256 00", "3 1 x 00", "3 1 1 +1"] {
            assert_eq!(text.parse::<TlsaRecord>(), Err(NotTlsa), "{text}");
        }
        assert_eq!(TlsaRecord::from_octets(&[3, 1, 1]), None);
        assert_eq!(TlsaRecord::from_octets(&[3, 1, 1, 7]), Some(read("3 1 1 07")));
    }
}
