//! Making keys, and the DNS records that publish them (RFC 6376 section 3.6, RFC 8463 section 4).

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::KeyError;

/// Longest string in a TXT record; longer text is several strings (RFC 6376 section 3.6.2.2).
const TXT_STRING_MAX: usize = 255;

/// Makes an RSA key of 2048 bits, in PEM.
///
/// # Errors
/// When the library fails.
pub fn generate_rsa() -> Result<String, KeyError> {
    generated(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048))
}

/// Makes an Ed25519 key, in PEM.
///
/// # Errors
/// When the library fails.
pub fn generate_ed25519() -> Result<String, KeyError> {
    generated(KeyPair::generate_for(&PKCS_ED25519))
}

fn generated(key: Result<KeyPair, rcgen::Error>) -> Result<String, KeyError> {
    key.map(|key| key.serialize_pem()).map_err(|e| KeyError::Unusable(e.to_string()))
}

/// The text of the TXT record for the public half of a private key.
///
/// # Errors
/// When the key cannot be read.
pub fn txt_record(pem: &str) -> Result<String, KeyError> {
    let (kind, public) = public_key(pem)?;
    Ok(format!("v=DKIM1; k={kind}; p={}", BASE64.encode(public)))
}

/// RSA keys are published in their X.509 form, Ed25519 keys as the bare 32 octets.
fn public_key(pem: &str) -> Result<(&'static str, Vec<u8>), KeyError> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NotPem)?;
    let unusable = |e: aws_lc_rs::error::KeyRejected| KeyError::Unusable(e.to_string());
    let rsa = if let PrivateKeyDer::Pkcs1(key) = &der {
        RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(unusable)?
    } else if let PrivateKeyDer::Pkcs8(key) = &der {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der()) {
            return Ok(("ed25519", pair.public_key().as_ref().to_vec()));
        }
        RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(unusable)?
    } else {
        return Err(KeyError::NotPem);
    };
    let spki: PublicKeyX509Der<'_> =
        rsa.public_key().as_der().map_err(|_| KeyError::Unusable("its public half cannot be written".into()))?;
    Ok(("rsa", spki.as_ref().to_vec()))
}

/// The record as a line for a zone file.
pub(crate) fn zone_line(domain: &str, selector: &str, record: &str) -> String {
    format!("{selector}._domainkey.{domain}. 3600 IN TXT{}", strings(record))
}

/// A text, which is ASCII, as the strings of a TXT record, each behind a space.
pub(crate) fn strings(text: &str) -> String {
    let mut strings = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (string, tail) = rest.split_at(rest.len().min(TXT_STRING_MAX));
        strings.push_str(&format!(" \"{string}\""));
        rest = tail;
    }
    strings
}
