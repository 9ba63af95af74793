//! The certificate that the relay makes up where none is configured: for its own name and those by which apps on the same
//! machine reach it, valid for a year, made anew before that is over and when the names change.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::ParsedCertificate;

use super::{TlsError, acceptor, read_certificates, unusable, verify};
use crate::base::clock::Timestamp;
use crate::base::files;
use crate::mail::address::domain_key;

const DAY: Duration = Duration::from_secs(86_400);
/// How long one is good for.
const LIFE: Duration = Duration::from_secs(365 * 86_400);
/// How long before its end it is replaced.
const EARLY: Duration = Duration::from_secs(30 * 86_400);
/// By which names apps on the same machine, or in a container on it, connect.
const LOCAL_NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "host.docker.internal"];

/// Whether there is a new one, which clients have still to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The one that is there is good.
    Kept,
    /// There was none.
    Made,
    /// The one that was there ends soon, is for other names, or cannot be used.
    Replaced,
}

/// Sees to it that these files hold a certificate for `hostname` and its key.
///
/// # Errors
/// When they cannot be written.
pub fn ensure(certificate: &Path, private_key: &Path, hostname: &str, now: Timestamp) -> Result<Outcome, TlsError> {
    let was_there = certificate.exists();
    if was_there && is_kept(certificate, private_key, hostname, now) {
        return Ok(Outcome::Kept);
    }
    let (chain, key) = make(&names(hostname), now)?;
    let write = |path: &Path, text: &str| {
        files::replace(path, text.as_bytes()).map_err(|error| TlsError::file(path, files::faults::Use::Write, &error))
    };
    write(private_key, &key)?;
    write(certificate, &chain)?;
    Ok(if was_there { Outcome::Replaced } else { Outcome::Made })
}

/// What it is for: the names on this machine, and the relay's own.
pub fn names(hostname: &str) -> Vec<String> {
    let mut names: Vec<String> = LOCAL_NAMES.map(str::to_owned).into();
    names.extend(as_in_certificates(hostname).filter(|own| !LOCAL_NAMES.contains(&own.as_str())));
    names
}

/// An address, also one in brackets, or a domain in A-labels.
fn as_in_certificates(name: &str) -> Option<String> {
    let literal = name.trim_matches(['[', ']']);
    let literal = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")).map_or(literal, |_| &literal[5..]);
    literal.parse::<IpAddr>().map(|address| address.to_string()).ok().or_else(|| domain_key(name))
}

/// Whether clients that trust it take it for each of the names for some time to come, and the key is its own.
pub(crate) fn is_kept(certificate: &Path, private_key: &Path, hostname: &str, now: Timestamp) -> bool {
    let Ok(chain) = read_certificates(certificate) else { return false };
    let Some(own) = chain.first() else { return false };
    let is_good_for = |name: &String| verify::leads_to(own, &chain, &[name], now.plus(EARLY)).is_ok();
    names(hostname).iter().all(is_good_for) && acceptor(certificate, private_key).is_ok()
}

/// Certificate and key, in PEM.
fn make(names: &[String], now: Timestamp) -> Result<(String, String), TlsError> {
    let mut params = CertificateParams::new(names.to_vec()).map_err(unusable)?;
    let mut subject = DistinguishedName::new();
    // Others of the same subject, as of another relay, stay apart by it.
    subject.push(DnType::CommonName, format!("otp-relay at {}", names.last().map_or("localhost", String::as_str)));
    params.distinguished_name = subject;
    params.not_before = date(now.minus(DAY))?;
    params.not_after = date(now.plus(LIFE))?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(unusable)?;
    let made = params.self_signed(&key).map_err(unusable)?;
    Ok((made.pem(), key.serialize_pem()))
}

fn date(at: Timestamp) -> Result<OffsetDateTime, TlsError> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(at.as_secs()).unwrap_or(i64::MAX)).map_err(unusable)
}

pub(crate) fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Some(name) = as_in_certificates(name).and_then(|name| name.try_into().ok()) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` writes it.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    #[test]
    fn it_is_made_anew_for_other_names_and_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        let ensure = |hostname: &str, now: Timestamp| ensure(&certificate, &key, hostname, now).unwrap();
        let of = || fingerprint(&read_certificates(&certificate).unwrap()[0]);
        assert_eq!(ensure("relay.example.com", NOW), Outcome::Made);
        let first = of();
        assert_eq!(ensure("relay.example.com", NOW), Outcome::Kept);
        assert_eq!(ensure("localhost", NOW), Outcome::Kept, "it is for this name too");
        assert_eq!(ensure("relay.example.com", NOW.plus(LIFE - EARLY - DAY)), Outcome::Kept);
        assert_eq!(of(), first);
        assert_eq!(ensure("relay.example.com", NOW.plus(LIFE - EARLY + DAY)), Outcome::Replaced);
        let second = of();
        assert_ne!(second, first);
        assert_eq!(ensure("other.example.com", NOW.plus(LIFE)), Outcome::Replaced);
        std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(ensure("other.example.com", NOW.plus(LIFE)), Outcome::Replaced, "the key is another's");
    }

    #[test]
    fn it_is_for_the_names_by_which_apps_connect_and_for_a_year() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        ensure(&certificate, &key, "relay.example.com", NOW).unwrap();
        let own = read_certificates(&certificate).unwrap().remove(0);
        for name in ["localhost", "127.0.0.1", "::1", "host.docker.internal", "relay.example.com"] {
            assert!(is_for(&own, name), "{name}");
            let at = |now: Timestamp| verify::leads_to(&own, std::slice::from_ref(&own), &[name], now).is_ok();
            assert!(at(NOW) && at(NOW.plus(LIFE)), "{name}");
            assert!(!at(NOW.plus(LIFE + DAY)) && !at(NOW.minus(2 * DAY)), "{name}");
        }
        assert!(!is_for(&own, "example.com"));
    }

    #[test]
    fn a_name_may_be_an_address() {
        let last = |hostname: &str| names(hostname).pop().unwrap();
        assert_eq!(last("[192.0.2.1]"), "192.0.2.1");
        assert_eq!(last("[IPv6:2001:db8::1]"), "2001:db8::1");
        assert_eq!(last("Relay.Example.com"), "relay.example.com");
        assert_eq!(names("localhost").len(), 4);
    }
}
