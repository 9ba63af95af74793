//! From when to when a certificate is valid.

use std::ops::Range;
use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{TlsError, read_certificates};
use crate::base::clock::Timestamp;

/// The validity of a certificate; none if it cannot be read.
pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Range<Timestamp>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        Timestamp::from_millis(seconds.saturating_mul(1000)).min(Timestamp::MAX)
    };
    let validity = parsed.validity();
    Some(at(validity.not_before)..at(validity.not_after))
}

/// When the first of a chain that ends in a file ends.
pub(crate) fn end_of(chain: &Path) -> Result<Option<Timestamp>, TlsError> {
    Ok(read_certificates(chain)?.iter().filter_map(of).map(|validity| validity.end).min())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validity_is_read() {
        let mut params = rcgen::CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 11, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 30);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let validity = of(made.der()).unwrap();
        assert_eq!(validity.start.rfc3339(), "2026-11-01T00:00:00.000Z");
        assert_eq!(validity.end.rfc3339(), "2027-01-30T00:00:00.000Z");
        assert_eq!(of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
