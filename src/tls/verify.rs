//! Judging a chain of certificates, first the host's own: against the certificate authorities that everybody trusts (or
//! that the configuration adds), or against one certificate that DNS vouches for. Pure: `now` is an argument.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{TlsError, provider, read_certificates, unusable};
use crate::clock::Timestamp;

/// The certificate authorities.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Roots {
    /// Those of the system, or the built-in ones where it has none, and those of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        // What cannot be read is left out; a system may hold certificates that no standard knows.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        if let Some(path) = ca_file {
            for certificate in read_certificates(path)? {
                store.add(certificate).map_err(|e| TlsError::Unusable(format!("{}: {e}", path.display())))?;
            }
        }
        Self::of(store)
    }

    fn of(store: RootCertStore) -> Result<Self, TlsError> {
        let store = Arc::new(store);
        let verifier = WebPkiServerVerifier::builder_with_provider(store.clone(), provider()).build();
        Ok(Self { store, verifier: verifier.map_err(unusable)? })
    }

    /// Whether the chain leads to one of them and the first certificate is for `name`, as a web browser sees it.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    pub fn verify(&self, chain: &[CertificateDer<'_>], name: &str, now: Timestamp) -> Result<(), String> {
        let (first, rest) = chain.split_first().ok_or("the host shows no certificate")?;
        let name = ServerName::try_from(name).map_err(|_| "the host has no name that a certificate could be for")?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs()));
        match self.verifier.verify_server_cert(first, rest, &name, &[], now) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// For connections that are worth nothing without a good certificate, as to a web server.
    ///
    /// # Errors
    /// When the provider lacks a protocol version.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        Ok(config.map_err(unusable)?.with_root_certificates(self.store.clone()).with_no_client_auth())
    }
}

/// Whether the chain leads to `anchor`, and the first certificate is for one of the names.
///
/// # Errors
/// What is wrong, in a few words.
pub fn leads_to(
    anchor: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    names: &[&str],
    now: Timestamp,
) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    store.add(anchor.clone().into_owned()).map_err(|error| error.to_string())?;
    let roots = Roots::of(store).map_err(|error| error.to_string())?;
    let mut result = Err("there is no name to look for".to_owned());
    for name in names {
        result = roots.verify(chain, name, now);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The public key of a certificate with its algorithm (SubjectPublicKeyInfo, DER); none if it cannot be read.
pub fn public_key_info(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(parsed.subject_public_key_info().as_ref().to_vec())
}
