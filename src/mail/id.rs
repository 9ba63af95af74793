//! Ids of messages and entries.

use std::fmt;
use std::str::FromStr;

use parking_lot::Mutex;
use ulid::Ulid;

use crate::base::clock::Timestamp;

/// The id of a message: a ULID, 26 characters, ordered by the time of acceptance.
///
/// Kept as bytes, which need no alignment: there are several ids to each entry of a long queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(from = "Ulid", into = "Ulid")]
pub struct MessageId([u8; 16]);

impl From<Ulid> for MessageId {
    fn from(ulid: Ulid) -> Self {
        Self(ulid.0.to_be_bytes())
    }
}

impl From<MessageId> for Ulid {
    fn from(id: MessageId) -> Self {
        Self(u128::from_be_bytes(id.0))
    }
}

impl MessageId {
    /// The 16 bytes by which it sorts.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// When it was made.
    pub fn time(self) -> Timestamp {
        Timestamp::from_millis(Ulid::from(self).timestamp_ms())
    }

    /// As the Message-ID field of a mail of this domain.
    pub(crate) fn header_field(self, domain: &str) -> String {
        format!("<{self}@{domain}>")
    }

    /// The same 128 bits as a UUID is written (RFC 9562 section 4).
    pub fn uuid(self) -> String {
        let hex = format!("{:032x}", u128::from_be_bytes(self.0));
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        parts.join("-")
    }

    fn from_uuid(text: &str) -> Option<Self> {
        let is_dash = |(at, octet): (usize, u8)| [8, 13, 18, 23].contains(&at) == (octet == b'-');
        if text.len() != 36 || !text.bytes().enumerate().all(is_dash) {
            return None;
        }
        let hex = text.replace('-', "");
        let is_hex = hex.bytes().all(|octet| octet.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(&hex, 16).ok()).flatten().map(|bits| Self(bits.to_be_bytes()))
    }

    /// The reverse of `MessageId::to_bytes`.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ulid::from(*self), f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not the text of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 26 letters and digits, or is a UUID; an entry's id has a dash and a number behind it")]
pub struct IdError;

impl FromStr for MessageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some(id) = Self::from_uuid(text) {
            return Ok(id);
        }
        if text.len() != 26 {
            return Err(IdError);
        }
        text.to_ascii_uppercase().parse::<Ulid>().map(Self::from).map_err(|_| IdError)
    }
}

/// The id of an entry: the message's, and which of its recipients, from 1 (`01J...-1`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId {
    /// The message.
    pub message: MessageId,
    /// Which recipient, from 0.
    pub index: u16,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.message, u32::from(self.index) + 1)
    }
}

impl FromStr for EntryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (message, number) = text.rsplit_once('-').ok_or(IdError)?;
        let number: u16 = number.parse().map_err(|_| IdError)?;
        Ok(Self { message: message.parse()?, index: number.checked_sub(1).ok_or(IdError)? })
    }
}

/// Makes ids that rise, also within one millisecond, so that newer messages sort behind older ones.
#[derive(Debug)]
pub struct IdSource {
    last: Mutex<u128>,
    random: fn() -> u128,
}

impl IdSource {
    /// Ids with 80 random bits from the operating system.
    pub fn new() -> Self {
        Self { last: Mutex::new(0), random: || Ulid::generate().0 }
    }

    /// Ids whose random part comes from `random`.
    pub fn with_random(random: fn() -> u128) -> Self {
        Self { last: Mutex::new(0), random }
    }

    /// The next id for a message accepted at `now`.
    pub fn next(&self, now: Timestamp) -> MessageId {
        const RANDOM_BITS: u32 = 80;
        let fresh = (u128::from(now.as_millis()) << RANDOM_BITS) | ((self.random)() & ((1 << RANDOM_BITS) - 1));
        let mut last = self.last.lock();
        *last = if fresh > *last { fresh } else { *last + 1 };
        MessageId(last.to_be_bytes())
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_read_back() {
        let source = IdSource::with_random(|| 7);
        let now = Timestamp::from_millis(1_795_255_200_000);
        let first = source.next(now);
        let second = source.next(now);
        let earlier_clock = source.next(now.minus(std::time::Duration::from_secs(5)));
        assert!(first < second && second < earlier_clock);
        assert_eq!(first.to_string().parse(), Ok(first));
        assert_eq!(first.to_string().to_lowercase().parse(), Ok(first));
        assert_eq!(MessageId::from_bytes(first.to_bytes()), first);
        assert_eq!(first.uuid(), "01a1fd8c-6900-0000-0000-000000000007");
        assert_eq!((first.uuid().parse(), first.uuid().to_uppercase().parse()), (Ok(first), Ok(first)));
        for bad in ["01a1fd8c690000000000-0000-00000000-0007", "+1a1fd8c-6900-0000-0000-000000000007"] {
            assert_eq!(bad.parse::<MessageId>(), Err(IdError), "{bad}");
        }
        let entry = EntryId { message: first, index: 0 };
        assert_eq!(entry.to_string(), format!("{first}-1"));
        assert_eq!(entry.to_string().parse(), Ok(entry));
        for bad in ["", "01J", "01J-1", "81ARZ3NDEKTSV4RRFFQ69G5FAVX", "../../../../../../../../etc"] {
            assert_eq!(bad.parse::<MessageId>(), Err(IdError), "{bad}");
        }
        assert_eq!(format!("{first}-0").parse::<EntryId>(), Err(IdError));
    }
}
