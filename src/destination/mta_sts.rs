//! MTA-STS (RFC 8461), the pure part: the TXT record that announces a policy, the policy, and which hosts it allows.
//! `policies` fetches policies and keeps them.

use std::fmt;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::named::named;
use crate::mail::address::domain_key;

/// Longest policy that is read (RFC 8461 section 3.3).
pub const POLICY_LEN_MAX: usize = 64 << 10;
/// Longest time for which a policy can be in force: a year (section 3.2).
const AGE_MAX_S: u64 = 31_557_600;
/// Hosts and patterns that a policy can name; more are a fault.
const PATTERNS_MAX: usize = 256;
/// Longest id of a record (section 3.1).
const ID_LEN_MAX: usize = 32;

named! {
    /// What to do with hosts that do not comply.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Mode: name {
        /// They get no mail.
        Enforce = "enforce",
        /// They get mail, and it is told that they do not comply.
        Testing = "testing",
        /// The domain has no policy any more.
        None = "none",
    }
}

/// A domain's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How strict it is.
    pub mode: Mode,
    /// How long it is in force after it was fetched.
    pub(crate) max_age: Duration,
    /// Names of mail hosts in lower case and A-labels; `*.` in front stands for exactly one label.
    hosts: Vec<String>,
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than [`POLICY_LEN_MAX`].
    #[error("the policy is too long")]
    TooLong,
    /// Not UTF-8, or a line that is no field.
    #[error("the policy is malformed")]
    Malformed,
    /// Another version, or none.
    #[error("the policy is not of version STSv1")]
    Version,
    /// No mode, or an unknown one.
    #[error("the policy has no known mode")]
    Mode,
    /// No `max_age`, or not a number.
    #[error("the policy has no max_age")]
    MaxAge,
    /// No hosts where there have to be some, too many, or something that is no name.
    #[error("the policy names no usable hosts")]
    Hosts,
}

impl Policy {
    /// Reads a policy (RFC 8461 section 3.2). Of fields that occur twice the first counts, except `mx`; unknown fields
    /// are passed over. Lines end in LF or CRLF.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        if text.len() > POLICY_LEN_MAX {
            return Err(PolicyError::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| PolicyError::Malformed)?;
        let (mut version, mut mode, mut max_age, mut hosts) = (None, None, None, Vec::new());
        for line in text.split('\n').map(str::trim_ascii).filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once(':').ok_or(PolicyError::Malformed)?;
            let value = value.trim_ascii();
            match key.trim_ascii_end() {
                "version" => _ = version.get_or_insert(value),
                "mode" => _ = mode.get_or_insert(value),
                "max_age" => _ = max_age.get_or_insert(value),
                "mx" if hosts.len() == PATTERNS_MAX => return Err(PolicyError::Hosts),
                "mx" => hosts.push(pattern(value).ok_or(PolicyError::Hosts)?),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(PolicyError::Version);
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        if hosts.is_empty() && mode != Mode::None {
            return Err(PolicyError::Hosts);
        }
        let max_age = max_age.and_then(seconds).ok_or(PolicyError::MaxAge)?;
        Ok(Self { mode, max_age, hosts })
    }

    /// Whether the domain's mail may go to this host (section 4.1), given in lower case.
    pub fn allows(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
            None => pattern == host,
            Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        })
    }
}

/// As it would be published.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version: STSv1\nmode: {}\n", self.mode.name())?;
        for host in &self.hosts {
            writeln!(f, "mx: {host}")?;
        }
        writeln!(f, "max_age: {}", self.max_age.as_secs())
    }
}

/// A host, or a host with `*` for its first label.
fn pattern(text: &str) -> Option<String> {
    match text.strip_prefix("*.") {
        Some(parent) => domain_key(parent).map(|parent| format!("*.{parent}")),
        None => domain_key(text),
    }
}

/// Up to ten digits, of which no more than a year counts.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = is_number.then(|| text.parse().ok())??;
    Some(Duration::from_secs(seconds.min(AGE_MAX_S)))
}

/// The id in the records at `_mta-sts.DOMAIN` (section 3.1); none where they announce no policy: no record of this
/// version, more than one, or one without a proper id.
pub fn announced_id(records: &[String]) -> Option<&str> {
    let mut announcing = records.iter().filter_map(|record| {
        let rest = record.strip_prefix("v=STSv1")?;
        rest.trim_start_matches([' ', '\t']).strip_prefix(';')
    });
    let (fields, None) = (announcing.next()?, announcing.next()) else { return None };
    let id = fields.split(';').find_map(|field| field.trim_ascii().strip_prefix("id="))?;
    let is_id = (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    is_id.then_some(id)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchedPolicy {
    /// The id that was announced then.
    pub id: String,
    pub policy: Policy,
    pub at: Timestamp,
}

impl FetchedPolicy {
    /// Whether it is in force, whatever is announced now (section 3.3): DNS can be made to say that there is none.
    pub(crate) fn is_in_force(&self, now: Timestamp) -> bool {
        now < self.at.plus(self.policy.max_age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text.as_bytes())
    }

    #[test]
    fn policies_are_read() {
        let text =
            "version: STSv1\r\nmode: enforce\r\nmx: Mail.Example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";
        let read = policy(text).unwrap();
        assert_eq!((read.mode, read.max_age), (Mode::Enforce, Duration::from_secs(604_800)));
        assert_eq!(read.hosts, ["mail.example.com", "*.example.net"]);
        assert_eq!(policy(&read.to_string()), Ok(read));
        let minimal = policy("version:STSv1\nmode: none\nmax_age:0").unwrap();
        assert_eq!((minimal.mode, minimal.max_age), (Mode::None, Duration::ZERO));
        let odd = "max_age : 9999999999 \n\nnew: thing\nmx: a.b.example\nmode: testing\nmode: none\nversion: STSv1\n";
        let odd = policy(odd).unwrap();
        assert_eq!((odd.mode, odd.max_age), (Mode::Testing, Duration::from_secs(AGE_MAX_S)));
    }

    #[test]
    fn policies_that_are_none() {
        let check = |text: &str, error| assert_eq!(policy(text), Err(error), "{text:?}");
        check("", PolicyError::Version);
        check("version: STSv2\nmode: none\nmax_age: 1", PolicyError::Version);
        check("version: STSv1\nmode: strict\nmx: a.example\nmax_age: 1", PolicyError::Mode);
        check("version: STSv1\nmx: a.example\nmax_age: 1", PolicyError::Mode);
        check("version: STSv1\nmode: enforce\nmax_age: 1", PolicyError::Hosts);
        check("version: STSv1\nmode: enforce\nmx: a.*.example\nmax_age: 1", PolicyError::Hosts);
        check("version: STSv1\nmode: enforce\nmx: *\nmax_age: 1", PolicyError::Hosts);
        check("version: STSv1\nmode: enforce\nmx: [192.0.2.1]\nmax_age: 1", PolicyError::Hosts);
        check("version: STSv1\nmode: enforce\nmx: a.example", PolicyError::MaxAge);
        check("version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1", PolicyError::MaxAge);
        check("version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 10000000000", PolicyError::MaxAge);
        check("<html>", PolicyError::Malformed);
        check("version: STSv1\nhello\n", PolicyError::Malformed);
        assert_eq!(Policy::parse(b"version: \xff"), Err(PolicyError::Malformed));
        assert_eq!(Policy::parse(&vec![b'\n'; POLICY_LEN_MAX + 1]), Err(PolicyError::TooLong));
        let many = format!("version: STSv1\nmode: enforce\nmax_age: 1\n{}", "mx: a.example\n".repeat(PATTERNS_MAX + 1));
        check(&many, PolicyError::Hosts);
    }

    #[test]
    fn hosts_are_matched() {
        let text = "version: STSv1\nmode: enforce\nmx: mx.example.com\nmx: *.example.net\nmax_age: 1";
        let policy = policy(text).unwrap();
        let check = |host, expected| assert_eq!(policy.allows(host), expected, "{host}");
        check("mx.example.com", true);
        check("a.mx.example.com", false);
        check("example.com", false);
        check("mx1.example.net", true);
        check("example.net", false);
        check("a.b.example.net", false);
        check(".example.net", false);
        check("mx1.example.net.evil.example", false);
        check("", false);
    }

    #[test]
    fn ids_are_read() {
        let check = |records: &[&str], expected: Option<&str>| {
            let records: Vec<String> = records.iter().map(|record| (*record).to_owned()).collect();
            assert_eq!(announced_id(&records), expected, "{records:?}");
        };
        check(&["v=STSv1; id=20160831085700Z;"], Some("20160831085700Z"));
        check(&["v=STSv1;id=1"], Some("1"));
        check(&["v=STSv1 ;\text=x; id=a1 ; id=b"], Some("a1"));
        check(&["v=spf1 -all", "v=STSv1; id=1;"], Some("1"));
        check(&["v=STSv1; id=1;", "v=STSv1; id=2;"], None);
        check(&["v=STSv10; id=1;"], None);
        check(&["v=STSv1 id=1"], None);
        check(&[" v=STSv1; id=1"], None);
        check(&["v=STSv1;"], None);
        check(&["v=STSv1; id=;"], None);
        check(&["v=STSv1; id=a-b;"], None);
        check(&["v=STSv1; id=123456789012345678901234567890123"], None);
        check(&[], None);
    }

    #[test]
    fn a_policy_is_in_force_until_its_age() {
        let policy = policy("version: STSv1\nmode: none\nmax_age: 60").unwrap();
        let fetched = FetchedPolicy { id: "1".into(), policy, at: Timestamp::from_millis(1000) };
        assert!(fetched.is_in_force(Timestamp::from_millis(60_999)));
        assert!(!fetched.is_in_force(Timestamp::from_millis(61_000)));
    }
}
