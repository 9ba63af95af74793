//! Certificates by ACME (RFC 8555): what the configuration says, when a certificate is to be renewed (pure), and the certificate
//! that answers tls-alpn-01 (RFC 8737).

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{TlsError, provider, server_config, unusable};
use crate::base::clock::Timestamp;
use crate::base::named::named;

/// The protocol that only a CA asks for.
pub(crate) const ALPN: &[u8] = b"acme-tls/1";
/// Where most people get theirs.
pub(crate) const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The first wait after a failure, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(120);
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// A life is divided into so many parts; renewal comes after so many of them, and in the one that follows.
const PARTS: u32 = 30;
const RENEWED_AFTER: u32 = 20;

/// `[acme]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Whom the CA may write to.
    pub email: Option<String>,
    /// The CA's directory.
    pub(crate) directory: String,
    /// Further authorities that its web server's certificate may lead to.
    pub ca_file: Option<PathBuf>,
    /// Where http-01 is answered while the CA asks.
    pub(crate) http_address: SocketAddr,
    /// How it is shown that the names are ours.
    pub(crate) challenge: Challenge,
    /// The names; none: no certificate is got.
    pub(crate) domains: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            email: None,
            directory: LETS_ENCRYPT.to_owned(),
            ca_file: None,
            http_address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)),
            challenge: Challenge::Http,
            domains: Vec::new(),
        }
    }
}

named! {
    /// `acme.challenge`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Challenge: name {
        /// A web server at port 80.
        Http = "http-01",
        /// A TLS listener that the CA reaches at port 443.
        TlsAlpn = "tls-alpn-01",
        /// A TXT record that stays.
        DnsPersist = "dns-persist-01",
    }
}

/// When a certificate is to be renewed: somewhere in the window that the CA suggests (RFC 9773), else behind two thirds of its
/// life. `jitter` is from 0 to 1, and the same for one certificate.
pub(crate) fn renewal_at(validity: &Range<Timestamp>, window: Option<&Range<Timestamp>>, jitter: f64) -> Timestamp {
    let part_of = |span: Duration| span.mul_f64(jitter.clamp(0.0, 1.0));
    match window {
        Some(window) => window.start.plus(part_of(window.end.since(window.start))).min(validity.end),
        None => {
            let part = validity.end.since(validity.start) / PARTS;
            validity.start.plus(part * RENEWED_AFTER).plus(part_of(part))
        }
    }
}

/// How long to wait after so many failures one after the other, from 1 on.
pub(crate) fn wait_after(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(WAIT_MAX);
    doubled.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// A number from 0 to 1 that a certificate always has.
pub(crate) fn jitter_of(certificate: &[u8]) -> f64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let first: [u8; 4] = digest.as_ref()[..4].try_into().unwrap_or_default();
    f64::from(u32::from_be_bytes(first)) / f64::from(u32::MAX)
}

/// What answers tls-alpn-01 for these names, with the digest for each.
pub(crate) fn answering(answers: &[(String, Vec<u8>)]) -> Result<Arc<ServerConfig>, TlsError> {
    let made = answers.iter().map(|(name, digest)| Ok((name.to_ascii_lowercase(), answer(name, digest)?)));
    let mut config = server_config(Arc::new(Answers(made.collect::<Result<_, TlsError>>()?)))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn answer(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(unusable)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(unusable)?;
    let made = params.self_signed(&key).map_err(unusable)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(unusable)?;
    // Whether they fit together is not asked: the extension is critical, and known to CAs only.
    let private = provider().key_provider.load_private_key(private).map_err(unusable)?;
    Ok(Arc::new(CertifiedKey::new(vec![made.der().clone()], private)))
}

#[derive(Debug)]
struct Answers(Vec<(String, Arc<CertifiedKey>)>);

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.0.iter().find(|(known, _)| *known == name).map(|(_, answer)| answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> Timestamp {
        Timestamp::from_millis(1_795_255_200_000).plus(HOUR * hours)
    }

    #[test]
    fn a_certificate_is_renewed_behind_two_thirds_of_its_life() {
        let check = |life_hours: u32, jitter, expected: Duration| {
            assert_eq!(renewal_at(&(at(0)..at(life_hours)), None, jitter), at(0).plus(expected), "{life_hours} h");
        };
        check(90 * 24, 0.0, HOUR * 60 * 24);
        check(90 * 24, 1.0, HOUR * 63 * 24);
        check(6 * 24, 0.0, HOUR * 4 * 24);
        check(1, 0.0, HOUR * 2 / 3);
        check(1, 1.0, HOUR * 7 / 10);
    }

    #[test]
    fn the_window_of_the_ca_counts_more() {
        let check = |window: Range<Timestamp>, jitter, expected| {
            assert_eq!(renewal_at(&(at(0)..at(90)), Some(&window), jitter), expected);
        };
        check(at(10)..at(20), 0.5, at(15));
        check(at(10)..at(20), 0.0, at(10));
        check(at(80)..at(200), 1.0, at(90));
    }

    /// The extension that only CAs know keeps nobody from showing the certificate.
    #[test]
    fn a_challenge_can_be_answered() {
        let config = answering(&[("relay.test".to_owned(), vec![7; 32])]).unwrap();
        assert_eq!(config.alpn_protocols, [ALPN]);
    }

    /// A CA allows five failed validations an hour.
    #[test]
    fn failures_are_repeated_ever_later() {
        let waits: Vec<u64> = (1..=7).map(|failures| wait_after(failures, 0.5).as_secs()).collect();
        assert_eq!(waits, [120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!((wait_after(1, 0.0).as_secs(), wait_after(u32::MAX, 1.0).as_secs()), (90, 4500));
        let in_an_hour = (1..=9).scan(0, |sum, failures| {
            *sum += wait_after(failures, 0.0).as_secs();
            Some(*sum)
        });
        assert!(in_an_hour.take_while(|at| *at < 3600).count() <= 5);
    }
}
