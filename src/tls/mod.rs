//! TLS on both sides, over rustls with one crypto provider: the acceptor for clients, the connector for mail hosts,
//! certificates made where none are configured, and judging those of others.

pub mod handshake;
pub mod verify;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, crypto, server};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::files;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A file without what is looked for.
    #[error("{path}: no {what} in PEM form")]
    NotPem {
        /// Which.
        path: String,
        /// What it lacks.
        what: &'static str,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("{0}")]
    Unusable(String),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

/// An acceptor with the certificate chain and key of two PEM files.
///
/// # Errors
/// Which file is at fault, and how.
pub fn acceptor(certificate: &Path, private_key: &Path) -> Result<TlsAcceptor, TlsError> {
    let chain = read_certificates(certificate)?;
    let pem = read(private_key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| not_pem(private_key, "private key"))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Unusable(format!("certificate and private key: {e}")))?;
    config.session_storage = server::ServerSessionMemoryCache::new(4096);
    if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
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
    fs::read(path).map_err(|error| TlsError::File { path: path.display().to_string(), error })
}

fn not_pem(path: &Path, what: &'static str) -> TlsError {
    TlsError::NotPem { path: path.display().to_string(), what }
}

/// Makes a self-signed certificate for `hostname` in these files, unless both exist.
///
/// # Errors
/// When they cannot be written.
pub fn ensure_self_signed(certificate: &Path, private_key: &Path, hostname: &str) -> Result<(), TlsError> {
    if certificate.exists() && private_key.exists() {
        return Ok(());
    }
    let names = vec![hostname.to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(unusable)?;
    let write = |path: &Path, text: String| {
        let error = files::replace(path, text.as_bytes()).err();
        error.map_or(Ok(()), |error| Err(TlsError::File { path: path.display().to_string(), error }))
    };
    write(private_key, made.signing_key.serialize_pem())?;
    write(certificate, made.cert.pem())
}

/// A connector that encrypts with whoever answers: the certificate is not judged, as RFC 7435 (opportunistic security)
/// has it. Sessions are resumed.
///
/// # Errors
/// When the provider lacks a protocol version.
pub fn opportunistic_connector() -> Result<TlsConnector, TlsError> {
    let provider = provider();
    let verifier = Arc::new(AcceptAny { algorithms: provider.signature_verification_algorithms });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::in_memory_sessions(4096);
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Believes any certificate, but not that the peer has a key which it has not.
#[derive(Debug)]
struct AcceptAny {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
