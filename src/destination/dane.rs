//! DANE for SMTP (RFC 6698, 7671, 7672): which TLSA records of a host count, and whether a chain of certificates is what
//! they say. Only records that DNSSEC vouches for come here.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::resolver::{DnsError, Records};
use super::tlsa::TlsaRecord;
use crate::base::clock::Timestamp;
use crate::tls::verify::{leads_to, public_key_info};

/// Authorities that a chain may lead to, of those in DNS: each costs checks of signatures.
const ANCHORS_MAX: usize = 4;
/// Records of one host that are looked at.
const RECORDS_MAX: usize = 32;

/// What records are compared with: of a certificate or its key, each made once however many records there are.
struct ShownCertificate<'a> {
    certificate: &'a CertificateDer<'a>,
    made: Vec<AssociationData>,
}

/// By selector and matching type; nothing where the key cannot be read.
struct AssociationData {
    of: (u8, u8),
    octets: Option<Vec<u8>>,
}

impl<'a> ShownCertificate<'a> {
    fn new(certificate: &'a CertificateDer<'a>) -> Self {
        Self { certificate, made: Vec::new() }
    }

    fn is_one_of<'r>(&mut self, mut records: impl Iterator<Item = &'r TlsaRecord>) -> bool {
        records.any(|record| self.as_in(record.selector, record.matching).is_some_and(|shown| shown == record.data))
    }

    fn as_in(&mut self, selector: u8, matching: u8) -> Option<&[u8]> {
        let wanted = (selector, matching);
        if !self.made.iter().any(|made| made.of == wanted) {
            self.made.push(AssociationData { of: wanted, octets: self.make(selector, matching) });
        }
        self.made.iter().find(|made| made.of == wanted)?.octets.as_deref()
    }

    fn make(&self, selector: u8, matching: u8) -> Option<Vec<u8>> {
        let key;
        let selected = match selector {
            0 => self.certificate.as_ref(),
            _ => {
                key = public_key_info(self.certificate)?;
                &key
            }
        };
        Some(match matching {
            0 => selected.to_vec(),
            1 => digest(&SHA256, selected).as_ref().to_vec(),
            _ => digest(&SHA512, selected).as_ref().to_vec(),
        })
    }
}

/// What DNS says of a host's certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tlsa {
    /// Nothing, or nothing that DNSSEC vouches for: DANE does not apply.
    #[default]
    None,
    /// Records of which none can be used: there must be TLS, with whatever certificate (RFC 7672 section 2.2).
    Unusable,
    /// These, of which one has to match.
    Usable(Arc<[TlsaRecord]>),
    /// The look-up failed, perhaps because somebody made it fail: the host must not be used (section 2.1.2).
    Failed(DnsError),
}

impl Tlsa {
    /// From the answer for `_25._tcp.HOST`.
    pub fn of(answer: Result<Records<TlsaRecord>, DnsError>) -> Self {
        match answer {
            Ok(found) if !found.secure => Self::None,
            Ok(found) => {
                let usable = usable(found.records);
                if usable.is_empty() { Self::Unusable } else { Self::Usable(usable.into()) }
            }
            Err(error) if error.is_answer() => Self::None,
            Err(error) => Self::Failed(error),
        }
    }
}

/// The records that can be used. Of the digests for one usage and selector only the strongest count (RFC 7671 section 9).
pub fn usable(mut records: Vec<TlsaRecord>) -> Vec<TlsaRecord> {
    records.retain(TlsaRecord::is_usable);
    records.sort_unstable();
    records.dedup();
    let has_sha512 = |usage, selector| {
        records.iter().any(|record| (record.usage, record.selector, record.matching) == (usage, selector, 2))
    };
    let is_outdone: Vec<bool> =
        records.iter().map(|record| record.matching == 1 && has_sha512(record.usage, record.selector)).collect();
    let mut is_outdone = is_outdone.into_iter();
    records.retain(|_| !is_outdone.next().unwrap_or(false));
    records.truncate(RECORDS_MAX);
    records
}

/// By which usage a chain was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The host's certificate is the one in DNS; its names and its dates do not count (RFC 7672 section 3.1.1).
    EndEntity,
    /// It was issued by the authority in DNS, for one of the names, and is valid (section 3.1.2).
    TrustAnchor,
}

/// Whether one of these records, which are usable, says that the chain is right.
///
/// # Errors
/// What is wrong, in a few words.
pub fn verify(
    records: &[TlsaRecord],
    chain: &[CertificateDer<'_>],
    names: &[&str],
    now: Timestamp,
) -> Result<Usage, String> {
    let (own, issuers) = chain.split_first().ok_or("the host shows no certificate")?;
    let of_usage = |usage| records.iter().filter(move |record| record.usage == usage);
    if ShownCertificate::new(own).is_one_of(of_usage(3)) {
        return Ok(Usage::EndEntity);
    }
    let shown = issuers.iter().filter(|issuer| ShownCertificate::new(issuer).is_one_of(of_usage(2))).cloned();
    // An authority whose certificate stands in DNS itself need not be shown.
    let published = of_usage(2).filter(|record| (record.selector, record.matching) == (0, 0));
    let published = published.map(|record| CertificateDer::from(record.data.clone()));
    let mut result = Err("the certificate is not one of those in DNS (TLSA)".to_owned());
    for anchor in shown.chain(published).take(ANCHORS_MAX) {
        match leads_to(&anchor, chain, names, now) {
            Ok(()) => return Ok(Usage::TrustAnchor),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// The name at which a host's records are: for port 25, whatever port is used in tests (RFC 7672 section 3).
pub fn name_of(host: &str) -> String {
    format!("_25._tcp.{host}")
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    fn record(text: &str) -> TlsaRecord {
        text.parse().unwrap()
    }

    /// A record of this usage, selector and matching type for a certificate.
    fn record_for(kind: (u8, u8, u8), certificate: &CertificateDer<'_>) -> TlsaRecord {
        let selected = if kind.1 == 0 { certificate.to_vec() } else { public_key_info(certificate).unwrap() };
        let data = match kind.2 {
            0 => selected,
            1 => digest(&SHA256, &selected).as_ref().to_vec(),
            _ => digest(&SHA512, &selected).as_ref().to_vec(),
        };
        TlsaRecord { usage: kind.0, selector: kind.1, matching: kind.2, data }
    }

    /// A host's certificate for this name and that of the authority which issued it.
    fn chain(name: &str) -> Vec<CertificateDer<'static>> {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&authority_key).unwrap();
        let mut host = CertificateParams::new(vec![name.to_owned()]).unwrap();
        host.not_before = rcgen::date_time_ymd(2026, 1, 1);
        host.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().unwrap();
        let own = host.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        vec![own.der().clone(), root.der().clone()]
    }

    #[test]
    fn a_certificate_is_hashed_once_for_all_records() {
        let certificate = CertificateDer::from(vec![0; 60_000]);
        let record = |n: u8| TlsaRecord { usage: 3, selector: n % 2, matching: n % 3, data: vec![n; 32] };
        let records: Vec<TlsaRecord> = (0..32).map(record).collect();
        let mut shown = ShownCertificate::new(&certificate);
        assert!(!shown.is_one_of(records.iter()));
        assert_eq!(shown.made.len(), 6);
    }

    #[test]
    fn records_that_can_be_used() {
        let (sha256, sha512) = (HEXLOWER.encode(&[1; 32]), HEXLOWER.encode(&[2; 64]));
        let check = |texts: &[String], expected: &[&String]| {
            let found: Vec<String> =
                usable(texts.iter().map(|text| record(text)).collect()).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected.iter().map(ToString::to_string).collect::<Vec<_>>());
        };
        let (ee, ta, ee_512) = (format!("3 1 1 {sha256}"), format!("2 0 1 {sha256}"), format!("3 1 2 {sha512}"));
        check(&[ee.clone(), ta.clone()], &[&ta, &ee]);
        check(&[format!("0 0 1 {sha256}"), format!("1 1 1 {sha256}"), format!("255 1 1 {sha256}")], &[]);
        check(&[format!("3 2 1 {sha256}"), format!("3 1 3 {sha256}"), format!("3 1 1 {sha512}")], &[]);
        check(&[ee.clone(), ee.clone()], &[&ee]);
        check(&[ee, ee_512.clone(), ta.clone()], &[&ta, &ee_512]);
    }

    #[test]
    fn the_host_itself() {
        let (own, other) = (chain("mx.example"), chain("mx.example"));
        for kind in [(3, 0, 0), (3, 0, 1), (3, 0, 2), (3, 1, 0), (3, 1, 1), (3, 1, 2)] {
            let records = [record_for(kind, &own[0])];
            // Neither the name nor the date counts.
            let late = NOW.plus(Duration::from_secs(400 * 86_400));
            assert_eq!(verify(&records, &own, &["elsewhere.example"], late), Ok(Usage::EndEntity), "{kind:?}");
            assert!(verify(&records, &other, &["mx.example"], NOW).is_err(), "{kind:?}");
            assert!(verify(&records, &[], &["mx.example"], NOW).is_err());
        }
        let of_authority = [record_for((3, 1, 1), &own[1])];
        assert!(verify(&of_authority, &own, &["mx.example"], NOW).is_err());
    }

    #[test]
    fn an_authority() {
        let (own, other) = (chain("mx.example"), chain("mx.example"));
        for kind in [(2, 0, 0), (2, 0, 1), (2, 0, 2), (2, 1, 0), (2, 1, 1), (2, 1, 2)] {
            let records = [record_for(kind, &own[1])];
            assert_eq!(verify(&records, &own, &["mx.example"], NOW), Ok(Usage::TrustAnchor), "{kind:?}");
            assert_eq!(verify(&records, &own, &["a.example", "mx.example"], NOW), Ok(Usage::TrustAnchor));
            assert!(verify(&records, &own, &["a.example"], NOW).is_err(), "another name");
            assert!(verify(&records, &own, &["mx.example"], NOW.plus(Duration::from_secs(400 * 86_400))).is_err());
            assert!(verify(&records, &other, &["mx.example"], NOW).is_err(), "another authority");
            // Shown, but not its issuer.
            let pretended = [other[0].clone(), own[1].clone()];
            assert!(verify(&records, &pretended, &["mx.example"], NOW).is_err());
            let is_published = kind == (2, 0, 0);
            assert_eq!(verify(&records, &own[..1], &["mx.example"], NOW).is_ok(), is_published, "{kind:?}, not shown");
        }
    }

    #[test]
    fn answers() {
        let ttl = Duration::from_secs(60);
        let found = |text: &str, secure| Ok(Records { records: vec![record(text)], ttl, secure });
        let good = format!("3 1 1 {}", HEXLOWER.encode(&[1; 32]));
        assert_eq!(Tlsa::of(found(&good, true)), Tlsa::Usable(vec![record(&good)].into()));
        assert_eq!(Tlsa::of(found(&good, false)), Tlsa::None, "nobody vouches for it");
        assert_eq!(Tlsa::of(found("0 0 1 00", true)), Tlsa::Unusable);
        assert_eq!(Tlsa::of(Err(DnsError::NoSuchName)), Tlsa::None);
        assert_eq!(Tlsa::of(Err(DnsError::NoRecords)), Tlsa::None);
        assert_eq!(Tlsa::of(Err(DnsError::Timeout)), Tlsa::Failed(DnsError::Timeout));
        let forged = DnsError::Failed("forged".into());
        assert_eq!(Tlsa::of(Err(forged.clone())), Tlsa::Failed(forged));
    }
}
