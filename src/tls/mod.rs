//! TLS on both sides, over rustls with one crypto provider: the acceptor for clients, the connector for mail hosts,
//! certificates made where none are configured, and judging those of others.

pub(crate) mod acme;
pub(crate) mod handshake;
pub mod self_signed;
pub(crate) mod validity;
pub mod verify;
pub(crate) mod wording;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig, server};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::base::files::faults::{Use, decrypting, explain, is_encrypted_key};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or written.
    #[error("{text}")]
    File {
        /// Which, why, and how to mend it.
        text: String,
        kind: io::ErrorKind,
    },
    /// A private key that only a passphrase opens.
    #[error("{}", decrypting(.0))]
    Encrypted(PathBuf),
    /// A certificate for another key.
    #[error(
        "the private key in {} is not the one of the first certificate in {}: name the two that were made together, the chain \
         with the own certificate first", private_key.display(), certificate.display()
    )]
    NotItsKey { certificate: PathBuf, private_key: PathBuf },
    /// A file without what is looked for.
    #[error("{path}: no {what} in PEM form")]
    NotPem { path: String, what: &'static str },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("{0}")]
    Unusable(String),
}

impl TlsError {
    fn file(path: &Path, wanted: Use, error: &io::Error) -> Self {
        Self::File { text: explain(path, wanted, error), kind: error.kind() }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

/// A chain and the key of its first certificate, each in a PEM file, or both in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The chain, the own certificate first.
    pub certificate: PathBuf,
    pub(crate) private_key: PathBuf,
}

/// An acceptor with the certificate chain and key of two PEM files.
///
/// # Errors
/// Which file is at fault, and how.
pub fn acceptor(certificate: &Path, private_key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pair = Pair { certificate: certificate.to_owned(), private_key: private_key.to_owned() };
    acceptor_of(&pair, &[])
}

/// An acceptor that shows the first of `more` that is for the name which a client asks for (SNI), else the other one.
///
/// # Errors
/// Which file is at fault, and how.
pub(crate) fn acceptor_of(default: &Pair, more: &[Pair]) -> Result<TlsAcceptor, TlsError> {
    let more = more.iter().map(certified).collect::<Result<_, _>>()?;
    let resolver = BySni { default: certified(default)?, more };
    let mut config = server_config(Arc::new(resolver))?;
    config.session_storage = server::ServerSessionMemoryCache::new(4096);
    if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    Ok(config.map_err(unusable)?.with_no_client_auth().with_cert_resolver(resolver))
}

fn certified(Pair { certificate, private_key }: &Pair) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = read_certificates(certificate)?;
    let pem = zeroize::Zeroizing::new(read(private_key)?);
    if is_encrypted_key(&pem) {
        return Err(TlsError::Encrypted(private_key.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| not_pem(private_key, "private key"))?;
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            return TlsError::NotItsKey { certificate: certificate.to_owned(), private_key: private_key.to_owned() };
        }
        TlsError::Unusable(format!("{}: {error}", certificate.display()))
    })?;
    Ok(Arc::new(certified))
}

/// Which certificate is shown to whom.
#[derive(Debug)]
struct BySni {
    default: Arc<CertifiedKey>,
    more: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_for = |key: &&Arc<CertifiedKey>, name: &str| {
            key.cert.first().is_some_and(|certificate| self_signed::is_for(certificate, name))
        };
        let named = hello.server_name().filter(|_| !self.more.is_empty());
        let chosen = named.and_then(|name| self.more.iter().find(|key| is_for(key, name)));
        Some(chosen.unwrap_or(&self.default).clone())
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// When it cannot be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| not_pem(path, "certificate"))?;
    if chain.is_empty() {
        return Err(not_pem(path, "certificate"));
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::file(path, Use::Read, &error))
}

fn not_pem(path: &Path, what: &'static str) -> TlsError {
    TlsError::NotPem { path: path.display().to_string(), what }
}

/// A connector that encrypts with whoever answers: the certificate is not judged, as RFC 7435 (opportunistic security)
/// has it. Sessions are resumed.
///
/// # Errors
/// When the provider lacks a protocol version.
pub fn opportunistic_connector() -> Result<TlsConnector, TlsError> {
    let mut config = verify::client_config(None)?;
    config.resumption = rustls::client::Resumption::in_memory_sessions(4096);
    Ok(TlsConnector::from(Arc::new(config)))
}
