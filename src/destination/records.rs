//! What an answer of DNS holds, and why there is none.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::tlsa::TlsaRecord;

/// Records found, and how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records<T> {
    /// In the order of the answer.
    pub records: Vec<T>,
    /// The least of their times to live.
    pub ttl: Duration,
    /// Whether DNSSEC vouches for all of them.
    pub secure: bool,
}

/// One MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is preferred.
    pub preference: u16,
    /// The host in lower case without final dot; empty for the null MX (RFC 7505).
    pub exchange: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name exists, without records of this type (NODATA).
    #[error("no records of this type")]
    NoRecords,
    /// The name servers fail or refuse (SERVFAIL, REFUSED and the like), or DNSSEC says that the answer is forged.
    #[error("name servers fail: {0}")]
    Failed(String),
    /// No answer in time.
    #[error("name servers do not answer")]
    Timeout,
    /// Not a domain name.
    #[error("not a domain name")]
    BadName,
    /// One of the first two, for as long as the answer says.
    #[error("{0}")]
    Denied(Denial, Duration),
}

/// What there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The name (NXDOMAIN).
    #[error("no such name")]
    Name,
    /// Records of this type (NODATA).
    #[error("no records of this type")]
    Records,
}

impl DnsError {
    /// Whether the answer is that there is none, rather than that something is broken.
    pub(crate) fn is_answer(&self) -> bool {
        self.denial().is_some()
    }

    /// What there is not, and for how long that holds; no time at all if the answer does not say (RFC 2308 section 5).
    pub fn denial(&self) -> Option<(Denial, Duration)> {
        match self {
            Self::NoSuchName | Self::BadName => Some((Denial::Name, Duration::ZERO)),
            Self::NoRecords => Some((Denial::Records, Duration::ZERO)),
            Self::Denied(denial, ttl) => Some((*denial, *ttl)),
            Self::Failed(_) | Self::Timeout => None,
        }
    }
}

/// The MX records of an answer.
///
/// # Errors
/// That there are none, or that the answer is forged.
pub fn read_mx(answers: &[Record]) -> Result<Records<MxRecord>, DnsError> {
    picked(answers, RecordType::MX, |data| {
        let RData::MX(mx) = data else { return None };
        let exchange = mx.exchange.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        Some(MxRecord { preference: mx.preference, exchange })
    })
}

/// The IPv4 addresses of an answer.
///
/// # Errors
/// As [`read_mx`].
pub fn read_ipv4(answers: &[Record]) -> Result<Records<IpAddr>, DnsError> {
    picked(answers, RecordType::A, |data| data.ip_addr().filter(IpAddr::is_ipv4))
}

/// The IPv6 addresses of an answer.
///
/// # Errors
/// As [`read_mx`].
pub fn read_ipv6(answers: &[Record]) -> Result<Records<IpAddr>, DnsError> {
    picked(answers, RecordType::AAAA, |data| data.ip_addr().filter(IpAddr::is_ipv6))
}

/// The texts of an answer, each of one record.
///
/// # Errors
/// As [`read_mx`].
pub fn read_txt(answers: &[Record]) -> Result<Records<String>, DnsError> {
    picked(answers, RecordType::TXT, |data| {
        let RData::TXT(txt) = data else { return None };
        Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned())
    })
}

/// The name at which the addresses of an answer are, where aliases led there from `host`.
///
/// # Errors
/// That there are no addresses, or no aliases, or that the answer is forged.
pub(crate) fn read_alias(answers: &[Record], kind: RecordType, host: &Name) -> Result<Records<String>, DnsError> {
    let found = picked(answers, kind, RData::ip_addr)?;
    let end = answers.iter().rfind(|record| record.record_type() == kind).map(|record| &record.name);
    let end = end.filter(|end| *end != host).ok_or(DnsError::NoRecords)?;
    let name = end.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    Ok(Records { records: vec![name], ttl: found.ttl, secure: found.secure })
}

/// The TLSA records of an answer.
///
/// # Errors
/// As [`read_mx`].
pub fn read_tlsa(answers: &[Record]) -> Result<Records<TlsaRecord>, DnsError> {
    picked(answers, RecordType::TLSA, |data| {
        let RData::TLSA(tlsa) = data else { return None };
        let (usage, selector, matching) = (tlsa.cert_usage.into(), tlsa.selector.into(), tlsa.matching.into());
        Some(TlsaRecord { usage, selector, matching, data: tlsa.cert_data.clone() })
    })
}

fn picked<T>(answers: &[Record], kind: RecordType, pick: impl Fn(&RData) -> Option<T>) -> Result<Records<T>, DnsError> {
    // A CNAME on the way with a shorter TTL ends the validity of the whole.
    let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or(0);
    let records: Vec<T> = answers.iter().filter_map(|record| pick(&record.data)).collect();
    if records.is_empty() {
        return Err(DnsError::NoRecords);
    }
    if answers.iter().any(|record| record.proof == Proof::Bogus) {
        return Err(DnsError::Failed("the answer is forged, or wrongly signed".to_owned()));
    }
    Ok(Records { records, ttl: Duration::from_secs(u64::from(ttl)), secure: is_secure(answers, kind) })
}

/// Whether DNSSEC vouches for the records and for the aliases that led to them.
pub(super) fn is_secure(answers: &[Record], kind: RecordType) -> bool {
    let mut of_kind =
        answers.iter().filter(|record| [kind, RecordType::CNAME].contains(&record.record_type())).peekable();
    of_kind.peek().is_some() && of_kind.all(|record| record.proof == Proof::Secure)
}
