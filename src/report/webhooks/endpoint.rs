//! Where events are posted to, and how: `[[webhook]]`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::event::{Event, KINDS, Kind};

/// Octets of a secret (Standard Webhooks asks for 24 to 64; longer ones do no harm).
const SECRET_LEN: std::ops::RangeInclusive<usize> = 16..=512;
/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";
/// Secrets that sign at once, while one is being changed.
pub(crate) const SECRETS_MAX: usize = 2;

/// What a post says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// The event as everywhere.
    #[default]
    Events,
    /// As `email.delivered` and the like.
    Emails,
}

/// A URL that is posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it was written.
    pub(crate) url: Arc<str>,
    /// Whether by TLS.
    pub(crate) is_tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    /// 443 or 80, unless it is named.
    pub port: u16,
    /// Host and port as the header field names them.
    pub(crate) authority: String,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Reads a URL with `http` or `https`, without a user and a fragment.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: hyper::Uri = text.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || text.contains('#') || authority.host().is_empty() {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { url: text.into(), is_tls, host, port, authority: authority.to_string(), path })
    }
}

/// What posts are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads `whsec_` and base64.
    pub fn parse(text: &str) -> Option<Self> {
        let octets = Zeroizing::new(BASE64_STANDARD.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?);
        SECRET_LEN.contains(&octets.len()).then_some(Self(octets))
    }

    /// The octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

/// Whom to tell of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub target: Target,
    /// The newest first.
    pub secrets: Vec<Secret>,
    /// Of these events; empty: of all.
    pub events: Vec<Kind>,
    /// Of the messages of these users; empty: of all.
    pub(crate) users: Vec<String>,
    /// How it is told.
    pub format: Format,
}

/// What tells one endpoint from the others in the store.
pub(crate) type Key = [u8; 8];

impl Endpoint {
    /// A name of a fixed length.
    pub fn key(&self) -> Key {
        let digest = digest::digest(&digest::SHA256, self.target.url.as_bytes());
        let mut key = Key::default();
        key.copy_from_slice(&digest.as_ref()[..8]);
        key
    }

    /// The URL for metrics and the page: without what may be a secret, its query.
    pub fn shown(&self) -> Arc<str> {
        let url = self.target.url.split('?').next().unwrap_or_default();
        url.replace(['"', '\\', '\n'], "_").into()
    }

    /// Whether it is told of an event.
    pub fn wants(&self, event: &Event) -> bool {
        let is_asked = self.events.is_empty() || self.events.contains(&event.kind());
        let is_theirs = self.users.is_empty() || self.users.iter().any(|user| **user == *event.head.user);
        is_asked && is_theirs && has_form(self.format, event.kind())
    }
}

/// Whether a format can tell of such an event.
pub(crate) fn has_form(format: Format, kind: Kind) -> bool {
    match format {
        Format::Events => true,
        Format::Emails => match kind {
            Kind::Accepted | Kind::Delivered | Kind::Deferred | Kind::Greylisted | Kind::AtRisk => true,
            Kind::Failed | Kind::Expired | Kind::Bounced | Kind::Complained => true,
            Kind::Queued | Kind::Attempted | Kind::Superseded | Kind::Cancelled | Kind::Verified => false,
        },
    }
}

/// The kind of this name, for the configuration.
pub(crate) fn kind(name: &str) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let target = Target::parse("https://App.example.com/otp-events?a=b").unwrap();
        assert_eq!((target.is_tls, &*target.host, target.port), (true, "app.example.com", 443));
        assert_eq!((&*target.path, &*target.authority), ("/otp-events?a=b", "App.example.com"));
        let target = Target::parse("http://[::1]:8080").unwrap();
        assert_eq!((target.is_tls, &*target.host, target.port, &*target.path), (false, "::1", 8080, "/"));
        for wrong in ["ftp://a.example/", "/events", "https://user:password@a.example/", "https://", "a.example"] {
            assert_eq!(Target::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn secrets_are_read_and_never_shown() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!((secret.octets().len(), format!("{secret:?}")), (24, "Secret".to_owned()));
        for wrong in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_not base64"] {
            assert_eq!(Secret::parse(wrong), None, "{wrong}");
        }
    }
}
