//! Certificates of the sandbox's mail hosts: each shows a good one for its own name, from an authority that only this relay
//! trusts; a bad one is shown by hosts that are asked to.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, sign::any_supported_type};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};

use crate::base::clock::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);
/// Names for which one is kept ready.
const KEPT_MAX: usize = 4096;

/// Who vouches for the mail hosts.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The hosts' key: one for all.
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    from: OffsetDateTime,
    until: OffsetDateTime,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// Which certificates a host shows.
#[derive(Clone)]
pub(super) struct Acceptors {
    /// For its own name.
    pub(super) good: TlsAcceptor,
    /// For another name, and out of date.
    pub(super) bad: TlsAcceptor,
}

impl Acceptors {
    /// Makes an authority, writes its certificate to `root`, and has hosts vouched for by it.
    pub(super) fn new(root: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let authority = Arc::new(Authority::new(root, now)?);
        let bad = authority.made("wrong.sandbox", (date(now.minus(60 * DAY))?, date(now.minus(30 * DAY))?))?;
        let good = acceptor(authority)?;
        Ok(Self { good, bad: acceptor(Arc::new(Always(bad)))? })
    }
}

fn acceptor(resolver: Arc<dyn ResolvesServerCert>) -> anyhow::Result<TlsAcceptor> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Authority {
    fn new(root: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, "otp-relay sandbox");
        params.distinguished_name = subject;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = (date(now.minus(DAY))?, date(now.plus(365 * DAY))?);
        let (from, until) = (params.not_before, params.not_after);
        let own_key = KeyPair::generate()?;
        let pem = params.self_signed(&own_key)?.pem();
        std::fs::write(root, pem).with_context(|| format!("{} cannot be written", root.display()))?;
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = any_supported_type(&der)?;
        Ok(Self { issuer: Issuer::new(params, own_key), key, signer, from, until, made: Mutex::default() })
    }

    fn made(&self, name: &str, (from, until): (OffsetDateTime, OffsetDateTime)) -> anyhow::Result<Arc<CertifiedKey>> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        (params.not_before, params.not_after) = (from, until);
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&self.key, &self.issuer)?;
        Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], self.signer.clone())))
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        if let Some(made) = self.made.lock().get(name) {
            return Some(made.clone());
        }
        let made = self.made(name, (self.from, self.until)).ok()?;
        let mut kept = self.made.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(name.to_owned(), made.clone());
        Some(made)
    }
}

/// The same for everybody.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn date(at: Timestamp) -> anyhow::Result<OffsetDateTime> {
    Ok(OffsetDateTime::from_unix_timestamp(i64::try_from(at.as_secs())?)?)
}
