//! What an app may ask for with a message, as header fields that are taken out before signing, or by other means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::refusal::Refusal;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::mail::message::fields;

/// The shortest and the longest life a message can have.
pub const LIFE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));
/// Longest key and idempotency key, in octets.
pub(crate) const KEY_LEN_MAX: usize = 200;
/// Longest tag, in octets.
pub(crate) const TAG_LEN_MAX: usize = 64;

const PREFIX: &[u8] = b"X-OTP-";

/// The options of one message; what is not said is up to the user's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// How long it is worth delivering.
    pub life: Option<Duration>,
    /// Its lane.
    pub lane: Option<Lane>,
    /// What a newer message of the same user and recipient replaces it by.
    pub key: Option<Arc<str>>,
    /// What tells a repeat of this submission from another message.
    pub idempotency_key: Option<Arc<str>>,
    /// A label for events.
    pub tag: Option<Arc<str>>,
    /// What the app's own tracing knows it by (W3C Trace Context), shown in events.
    pub traceparent: Option<Arc<str>>,
}

impl Options {
    /// These options, with `others` where there is none.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            life: self.life.or(others.life),
            lane: self.lane.or(others.lane),
            key: self.key.or(others.key),
            idempotency_key: self.idempotency_key.or(others.idempotency_key),
            tag: self.tag.or(others.tag),
            traceparent: self.traceparent.or(others.traceparent),
        }
    }
}

/// A life as a number of seconds.
///
/// # Errors
/// Where it is not within [`LIFE`].
pub fn life(seconds: u64) -> Result<Duration, Refusal> {
    let life = Duration::from_secs(seconds);
    if (LIFE.0..=LIFE.1).contains(&life) { Ok(life) } else { Err(Refusal::Option("a life is 5 to 86400 seconds")) }
}

/// A key of either kind.
///
/// # Errors
/// Where it is empty, too long or not printable ASCII.
pub fn key(text: &str) -> Result<Arc<str>, Refusal> {
    if text.len() <= KEY_LEN_MAX && is_printable(text) {
        Ok(text.into())
    } else {
        Err(Refusal::Option("a key is 1 to 200 printable ASCII characters"))
    }
}

/// A tag.
///
/// # Errors
/// Where it is not what can stand in a metric's label.
pub fn tag(text: &str) -> Result<Arc<str>, Refusal> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/');
    if (1..=TAG_LEN_MAX).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(text.into())
    } else {
        Err(Refusal::Option("a tag is 1 to 64 letters, digits and - _ . : /"))
    }
}

fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// Takes the options out of a header section.
///
/// # Errors
/// Where an option cannot be understood, or is made twice.
pub(super) fn take(head: Bytes) -> Result<(Options, Bytes), Refusal> {
    let mut options = Options::default();
    if !fields(&head).any(|field| is_option(field.name)) {
        return Ok((options, head));
    }
    let mut rest = Vec::with_capacity(head.len());
    for field in fields(&head) {
        if is_option(field.name) {
            let text = field.text().ok_or(Refusal::Option("an option is ASCII text"))?;
            options.read(field.name, &text)?;
        } else {
            rest.extend_from_slice(field.raw);
        }
    }
    Ok((options, rest.into()))
}

/// Whether a header field of this name is an option.
pub(crate) fn is_option(name: &[u8]) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// A trace's context, version 00 of its form; none where it is malformed, as such are to be ignored (W3C Trace Context,
/// section 3.2).
pub(crate) fn traceparent(text: &str) -> Option<Arc<str>> {
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return None };
    let lengths = [version, trace, parent, flags].map(str::len);
    let is_null = |part: &str| part.bytes().all(|b| b == b'0');
    let is_valid = version == "00" && lengths == [2, 32, 16, 2] && !is_null(trace) && !is_null(parent);
    (is_valid && [trace, parent, flags].into_iter().all(is_hex)).then(|| text.into())
}

impl Options {
    /// Takes up one that came as a header field.
    ///
    /// # Errors
    /// Where it cannot be understood, or was there already.
    pub fn read(&mut self, name: &[u8], text: &str) -> Result<(), Refusal> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("X-OTP-Life") {
            let seconds = text.parse().map_err(|_| Refusal::Option("X-OTP-Life is a number of seconds"))?;
            set(&mut self.life, life(seconds)?)
        } else if is("X-OTP-Lane") {
            set(&mut self.lane, text.parse().map_err(|_| Refusal::Option("X-OTP-Lane is otp, reset or notice"))?)
        } else if is("X-OTP-Key") {
            set(&mut self.key, key(text)?)
        } else if is("X-OTP-Idempotency-Key") {
            set(&mut self.idempotency_key, key(text)?)
        } else if is("X-OTP-Tag") {
            set(&mut self.tag, tag(text)?)
        } else if is("X-OTP-Traceparent") {
            self.traceparent = traceparent(text);
            Ok(())
        } else {
            Err(Refusal::Option("known options are X-OTP-Life, -Lane, -Key, -Idempotency-Key, -Tag and -Traceparent"))
        }
    }
}

fn set<T>(option: &mut Option<T>, value: T) -> Result<(), Refusal> {
    if option.replace(value).is_some() { Err(Refusal::Option("the same option twice")) } else { Ok(()) }
}

/// When the `Expires` field (RFC 4021 section 2.1.50) says that the message loses its worth; none if there is none, or
/// it cannot be read.
pub(super) fn expires(head: &[u8]) -> Option<Timestamp> {
    let field = fields(head).find(|field| field.is("Expires"))?;
    let date = mail_parser::DateTime::parse_rfc822(&field.text()?)?;
    let seconds = date.is_valid().then(|| date.to_timestamp())?;
    // Before 1970 is long ago as well.
    Some(Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).checked_mul(1000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(head: &'static str) -> Result<(Options, String), Refusal> {
        take(Bytes::from_static(head.as_bytes()))
            .map(|(options, rest)| (options, String::from_utf8(rest.to_vec()).unwrap()))
    }

    #[test]
    fn options_are_read_and_removed() {
        let (options, rest) = taken(
            "From: a@b.example\r\nX-OTP-Life: 300\r\nx-otp-lane : Reset\r\nX-OTP-Key:\r\n login:42\r\nSubject: x\r\n\
             X-OTP-Idempotency-Key: 7f3a\r\nX-OTP-Tag: signup\r\n",
        )
        .unwrap();
        assert_eq!(rest, "From: a@b.example\r\nSubject: x\r\n");
        let expected = Options {
            life: Some(Duration::from_secs(300)),
            lane: Some(Lane::Reset),
            key: Some("login:42".into()),
            idempotency_key: Some("7f3a".into()),
            tag: Some("signup".into()),
            traceparent: None,
        };
        assert_eq!(options, expected);
        assert_eq!(taken("From: a@b.example\r\n").unwrap().0, Options::default());
    }

    #[test]
    fn options_that_cannot_be_granted_are_refused() {
        for head in [
            "X-OTP-Life: 4\r\n",
            "X-OTP-Life: 86401\r\n",
            "X-OTP-Life: 5m\r\n",
            "X-OTP-Life: -5\r\n",
            "X-OTP-Lane: fast\r\n",
            "X-OTP-Key: \r\n",
            "X-OTP-Key: \u{fc}\r\n",
            "X-OTP-Tag: a b\r\n",
            "X-OTP-Livf: 300\r\n",
            "X-OTP-: 300\r\n",
            "X-OTP-Life: 300\r\nX-OTP-Life: 300\r\n",
        ] {
            assert!(matches!(taken(head), Err(Refusal::Option(_))), "{head}");
        }
    }

    #[test]
    fn a_trace_context_is_taken_and_a_malformed_one_ignored() {
        let whole = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let head = "X-OTP-Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nA: b\r\n";
        let (options, rest) = taken(head).unwrap();
        assert_eq!((options.traceparent.as_deref(), rest.as_str()), (Some(whole), "A: b\r\n"));
        assert_eq!(taken("X-OTP-Traceparent: x\r\n").unwrap(), (Options::default(), String::new()));
        let zero = "0".repeat(32);
        for text in [
            "".to_owned(),
            whole[..54].to_owned(),
            format!("{whole}-x"),
            whole.to_uppercase(),
            whole.replacen("00-", "01-", 1),
            whole.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zero),
            whole.replace("00f067aa0ba902b7", &zero[..16]),
        ] {
            assert_eq!(traceparent(&text), None, "{text}");
        }
    }

    #[test]
    fn expires_is_a_date() {
        let at = |text: &str| expires(format!("Expires: {text}\r\n").as_bytes()).map(Timestamp::as_secs);
        assert_eq!(at("Sat, 21 Nov 2026 10:00:00 +0000"), Some(1_795_255_200));
        assert_eq!(at("Sat, 21 Nov 2026 11:00:00 +0100"), Some(1_795_255_200));
        assert_eq!(at("1 May 1961 00:20:20 +0000"), Some(0));
        assert_eq!(at("0"), None);
        assert_eq!(at("soon"), None);
    }
}
