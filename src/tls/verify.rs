//! Judging a chain of certificates, first the host's own: against the certificate authorities that everybody trusts (or
//! that the configuration adds), or against one certificate that DNS vouches for. Pure: `now` is an argument.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, crypto};

use super::{TlsError, provider, read_certificates, unusable, wording};
use crate::base::clock::Timestamp;

/// Certificates that a web server may show behind its own; two are common.
const ISSUERS_MAX: usize = 4;

/// The certificate authorities.
#[derive(Debug, Clone)]
pub struct Roots {
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
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
        Ok(Self { verifier: verifier.map_err(unusable)? })
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
            Err(error) => Err(wording::of_host(&error)),
        }
    }

    /// For connections that are worth nothing without a good certificate, as to a web server.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, TlsError> {
        client_config(Some(self.verifier.clone()))
    }
}

pub(super) fn client_config(roots: Option<Arc<WebPkiServerVerifier>>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Verifier { roots, algorithms: provider.signature_verification_algorithms });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(unusable)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// What is asked in the middle of a handshake. Short chains only are judged there: what a long chain of authorities of one
/// name costs grows with its factorial.
#[derive(Debug)]
struct Verifier {
    /// Who has to vouch for a certificate; without, any is believed, but not that the peer has a key which it has not.
    roots: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        if issuers.len() > ISSUERS_MAX {
            return Err(rustls::Error::General(format!("more than {} certificates", ISSUERS_MAX + 1)));
        }
        roots.verify_server_cert(own, issuers, name, ocsp, now)
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

/// Whether the chain leads to `anchor`, and the first certificate is for one of the names.
pub(crate) fn leads_to(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_server_shows_a_short_chain() {
        let made = rcgen::generate_simple_self_signed(vec!["mta-sts.example".to_owned()]).unwrap();
        let (own, name) = (made.cert.der(), ServerName::try_from("mta-sts.example").unwrap());
        let roots = Some(Roots::load(None).unwrap().verifier);
        let verifier = Verifier { roots, algorithms: provider().signature_verification_algorithms };
        let error = |issuers: usize| {
            let issuers = vec![own.clone(); issuers];
            verifier
                .verify_server_cert(own, &issuers, &name, &[], UnixTime::since_unix_epoch(Default::default()))
                .unwrap_err()
        };
        assert!(matches!(error(ISSUERS_MAX), rustls::Error::InvalidCertificate(_)));
        assert!(error(ISSUERS_MAX + 1).to_string().ends_with("more than 5 certificates"));
    }
}
