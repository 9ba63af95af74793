//! DKIM signing (RFC 6376, 8463) over mail-auth: keys, and the signature of one message.
//!
//! Signatures are a function of key, content and [`Terms`], which are stored with the message, so one recovered after a
//! restart gets the same bytes again and need not be stored with them.

pub(crate) mod folder;
pub(crate) mod pool;
pub mod record;
pub(crate) mod rotation;
pub mod verify;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail_auth::common::crypto::{Ed25519Key, HashOutput, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::{HeaderStream, HeaderWriter, Writable, Writer};
use mail_auth::dkim::canonicalize::{CanonicalBody, CanonicalHeaders};
use mail_auth::dkim::{Canonicalization, DkimSigner, Signature};
use parking_lot::Mutex;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::base::clock::Timestamp;
use crate::base::files::faults::is_encrypted_key;
use crate::mail::message::{Content, Field, fields};

/// Signed, and named once more than they occur, so that adding one breaks the signature (RFC 6376 section 8.15).
const OVERSIGNED: [&str; 11] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Reply-To",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Auto-Submitted",
];
/// Signed where it occurs, and once more where nobody on the way has a reason to add it: see [`SenderField`].
const SENDER: &str = "Sender";
/// Signed where they occur.
const SIGNED: [&str; 5] = ["In-Reply-To", "References", "List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID"];

/// How long after the end of a message's life its signatures hold: what arrives on the last second is verified later.
const HOLDS_AFTER_LIFE: Duration = Duration::from_secs(86_400);

/// Whether a Sender field may be added on the way. A smart host may, for the account it was given the message by; a mail
/// host of the recipient's does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderField {
    /// Adding one breaks the signature.
    Closed,
    /// Adding one where there is none leaves the signature good.
    Open,
}

/// What a signature says beside what key and content make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// `t=`: when the message was accepted.
    pub signed_at: Timestamp,
    /// The end of the message's life; `x=` is a day later.
    pub life_ends_at: Timestamp,
    /// Whether `h=` names Sender once more than it occurs.
    pub sender: SenderField,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No private key in PEM form.
    #[error("no private key in PEM form (PKCS#1 or PKCS#8)")]
    NotPem,
    /// A key that only a passphrase opens.
    #[error("the private key is encrypted; the relay cannot ask for its passphrase")]
    Encrypted,
    /// A key, but not one that can sign.
    #[error("not an RSA key of at least 2048 bits, nor an Ed25519 key: {0}")]
    Unusable(String),
}

enum Signer {
    Rsa(DkimSigner<RsaKey<Sha256>, mail_auth::dkim::Done>),
    Ed25519(DkimSigner<Ed25519Key, mail_auth::dkim::Done>),
}

/// One signing key, ready for use.
pub struct Key {
    domain: String,
    selector: String,
    signer: Signer,
    /// The text of the TXT record.
    record: String,
    /// When its file was written, as far as it is known.
    made_at: Option<Timestamp>,
}

impl Key {
    /// Reads a private key.
    ///
    /// # Errors
    /// When there is none, or it is of a kind that DKIM or good sense forbids.
    pub fn from_pem(domain: &str, selector: &str, pem: &str) -> Result<Self, KeyError> {
        if is_encrypted_key(pem.as_bytes()) {
            return Err(KeyError::Encrypted);
        }
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NotPem)?;
        let ed25519 = if let PrivateKeyDer::Pkcs8(pkcs8) = &der {
            Ed25519Key::from_pkcs8_der(pkcs8.secret_pkcs8_der()).ok()
        } else {
            None
        };
        let signer = match ed25519 {
            Some(key) => Signer::Ed25519(template(key, domain, selector)),
            None => {
                let key = RsaKey::<Sha256>::from_key_der(der).map_err(|e| KeyError::Unusable(e.to_string()))?;
                Signer::Rsa(template(key, domain, selector))
            }
        };
        let record = record::txt_record(pem)?;
        Ok(Self { domain: domain.to_owned(), selector: selector.to_owned(), signer, record, made_at: None })
    }

    /// The same, with the age of its file.
    pub(crate) fn of_file(self, path: &std::path::Path) -> Self {
        Self { made_at: crate::base::files::written_at(path), ..self }
    }

    /// When its file was written; none where it is not known.
    pub(crate) fn made_at(&self) -> Option<Timestamp> {
        self.made_at
    }

    /// The domain it signs for.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The selector under which its public half is published.
    pub(crate) fn selector(&self) -> &str {
        &self.selector
    }

    /// The text of the TXT record that publishes its public half.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// `rsa` or `ed25519`.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.signer {
            Signer::Rsa(_) => "rsa",
            Signer::Ed25519(_) => "ed25519",
        }
    }

    /// The DKIM-Signature field with its CRLF; none if the message has no field to sign, or signing failed.
    pub fn sign(&self, content: &Content, terms: Terms) -> Option<String> {
        match &self.signer {
            Signer::Rsa(signer) => sign(&signer.key, &signer.template, content, terms),
            Signer::Ed25519(signer) => sign(&signer.key, &signer.template, content, terms),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} {}._domainkey.{})", self.algorithm(), self.selector, self.domain)
    }
}

/// Body canonicalization is simple: mail-auth 0.13.3 computes another relaxed body hash than RFC 6376 section 3.4.4
/// says when the body ends in a line of blanks.
fn template<K: SigningKey>(key: K, domain: &str, selector: &str) -> DkimSigner<K, mail_auth::dkim::Done> {
    DkimSigner::from_key(key)
        .domain(domain)
        .selector(selector)
        .headers(OVERSIGNED)
        .header_canonicalization(Canonicalization::Relaxed)
        .body_canonicalization(Canonicalization::Simple)
}

fn sign<K: SigningKey>(key: &K, template: &Signature, content: &Content, terms: Terms) -> Option<String> {
    let signature = Signature {
        h: names_to_sign(&content.head, terms.sender),
        t: terms.signed_at.as_secs(),
        x: terms.life_ends_at.plus(HOLDS_AFTER_LIFE).as_secs(),
        ..template.clone()
    };
    let (_, headers, names, body): (_, CanonicalHeaders<'_>, _, CanonicalBody<'_>) =
        signature.canonicalize(Parts { fields: fields(&content.head), body: body_of(content) });
    let hash: HashOutput = key.hash(body);
    let mut signature = Signature { h: names, bh: hash.as_ref().to_vec(), ..signature };
    signature.b = key
        .sign(ToSign { headers, signature: &signature })
        .inspect_err(|error| tracing::error!(%error, domain = signature.d, "DKIM signing failed"))
        .ok()?;
    Some(without_last_fold(signature.to_header()))
}

/// mail-auth folds also between the value of `b=` and the semicolon behind it. What a verifier takes out as the value
/// includes white space around it (RFC 6376 section 3.7), but some, dkimpy for one, leave the fold in and fail.
fn without_last_fold(mut field: String) -> String {
    if let Some(end) = field.strip_suffix("\r\n\t;\r\n").map(str::len) {
        field.replace_range(end..end + 3, "");
    }
    field
}

/// The names for `h=` as mail-auth takes them: one that occurs is signed as often as it does, and once more if it is
/// named twice; one that does not occur is signed as absent.
fn names_to_sign(head: &[u8], sender: SenderField) -> Vec<String> {
    let names: Vec<&[u8]> = fields(head).map(|field| field.name).collect();
    let occurs = |name: &str| names.iter().any(|found| found.eq_ignore_ascii_case(name.as_bytes()));
    let (closed, open) = match sender {
        SenderField::Closed => (Some(SENDER), None),
        SenderField::Open => (None, Some(SENDER).filter(|name| occurs(name))),
    };
    let oversigned = OVERSIGNED.into_iter().chain(closed);
    let oversigned = oversigned.flat_map(|name| std::iter::repeat_n(name, 1 + usize::from(occurs(name))));
    oversigned.chain(open).chain(SIGNED.into_iter().filter(|name| occurs(name))).map(str::to_owned).collect()
}

/// The body behind the empty line.
fn body_of(content: &Content) -> &[u8] {
    content.body.strip_prefix(b"\r\n").unwrap_or(&content.body)
}

/// Header section and body for mail-auth, without putting them into one buffer.
struct Parts<'a, F> {
    fields: F,
    body: &'a [u8],
}

impl<'a, F: Iterator<Item = Field<'a>>> HeaderStream<'a> for Parts<'a, F> {
    fn next_header(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let field = self.fields.next()?;
        let colon = memchr::memchr(b':', field.raw)?;
        Some((field.name, &field.raw[colon + 1..]))
    }

    fn body(&mut self) -> &'a [u8] {
        self.body
    }
}

/// What the signature covers (RFC 6376 section 3.7): the chosen fields, then itself without `b=`.
struct ToSign<'a> {
    headers: CanonicalHeaders<'a>,
    signature: &'a Signature,
}

impl Writable for ToSign<'_> {
    fn write(self, writer: &mut impl Writer) {
        self.headers.write(writer);
        self.signature.write(writer, false);
    }
}

/// Keys of a domain that sign what is accepted from a time on.
#[derive(Debug, Clone)]
struct Generation {
    since: Timestamp,
    keys: Arc<[Key]>,
}

/// All keys, by the domain they sign for; of a domain whose keys are being changed, those of before, too.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// The earliest first; none is empty.
    by_domain: HashMap<String, Vec<Generation>>,
    everywhere: Option<Arc<Everywhere>>,
}

/// Private keys that sign for every domain, as in the sandbox, where one record is served under each.
struct Everywhere {
    /// Selector and key in PEM.
    pems: Vec<(String, Zeroizing<String>)>,
    /// Made for the domains that were asked for.
    made: Mutex<HashMap<String, Arc<[Key]>>>,
}

/// Domains for which such keys are kept ready.
const EVERYWHERE_MAX: usize = 1000;

impl fmt::Debug for Everywhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Everywhere")
    }
}

impl Everywhere {
    fn of(&self, domain: &str) -> Option<Arc<[Key]>> {
        let mut made = self.made.lock();
        if let Some(keys) = made.get(domain) {
            return Some(keys.clone());
        }
        let keys = self.pems.iter().map(|(selector, pem)| Key::from_pem(domain, selector, pem));
        let keys: Arc<[Key]> = keys.collect::<Result<Vec<_>, _>>().ok()?.into();
        if made.len() >= EVERYWHERE_MAX {
            made.clear();
        }
        made.insert(domain.to_owned(), keys.clone());
        Some(keys)
    }
}

impl Keys {
    /// Sorts keys by domain, in the order given.
    pub fn new(keys: Vec<Key>) -> Self {
        let mut by_domain: HashMap<String, Vec<Key>> = HashMap::new();
        for key in keys {
            by_domain.entry(key.domain.to_ascii_lowercase()).or_default().push(key);
        }
        let only = |keys: Vec<Key>| vec![Generation { since: Timestamp::default(), keys: keys.into() }];
        let by_domain = by_domain.into_iter().map(|(domain, keys)| (domain, only(keys))).collect();
        Self { by_domain, everywhere: None }
    }

    /// Keys (selector and PEM) that sign for whatever domain comes.
    pub(crate) fn everywhere(pems: Vec<(String, Zeroizing<String>)>) -> Result<Self, KeyError> {
        for (selector, pem) in &pems {
            Key::from_pem("localhost", selector, pem)?;
        }
        let everywhere = Everywhere { pems, made: Mutex::default() };
        Ok(Self { by_domain: HashMap::new(), everywhere: Some(Arc::new(everywhere)) })
    }

    /// With these keys of a domain, in the place of those that it has: each sign what is accepted from their time on, the
    /// earliest also what was accepted before.
    pub fn replace(&mut self, domain: &str, generations: Vec<(Timestamp, Arc<[Key]>)>) {
        let mut generations: Vec<Generation> = generations
            .into_iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(since, keys)| Generation { since, keys })
            .collect();
        generations.sort_by_key(|generation| generation.since);
        if !generations.is_empty() {
            self.by_domain.insert(domain.to_owned(), generations);
        }
    }

    /// The keys that sign for a domain (in lower case, A-labels); while they are being changed, the latest.
    pub fn of(&self, domain: &str) -> Option<Arc<[Key]>> {
        let own = self.by_domain.get(domain).and_then(|generations| generations.last());
        own.map(|generation| generation.keys.clone()).or_else(|| self.everywhere.as_ref()?.of(domain))
    }

    /// The keys that sign what was accepted at this time of the wall clock: the same for a retry as at first.
    pub(crate) fn of_acceptance(&self, domain: &str, accepted_at: Timestamp) -> Option<Arc<[Key]>> {
        let Some(generations) = self.by_domain.get(domain) else { return self.of(domain) };
        let then = generations.iter().rfind(|generation| generation.since <= accepted_at);
        then.or(generations.first()).map(|generation| generation.keys.clone())
    }

    /// The domain whose keys sign for mail from this one (in lower case, A-labels): itself, or the nearest above it that
    /// has a key, with which receivers find it aligned unless its DMARC record says `adkim=s` (RFC 7489 section 3.1.1). A
    /// name of one label is above everybody's and signs for nobody else.
    pub(crate) fn signing_domain<'a>(&self, domain: &'a str) -> Option<&'a str> {
        let is_fit = |name: &&str| self.by_domain.contains_key(*name) && (*name == domain || name.contains('.'));
        let mut names = std::iter::successors(Some(domain), |name| name.split_once('.').map(|(_, parent)| parent));
        names.find(is_fit).or_else(|| self.everywhere.is_some().then_some(domain))
    }

    pub(crate) fn domains(&self) -> impl Iterator<Item = &str> {
        self.by_domain.keys().map(String::as_str)
    }

    /// All keys, of before and of now.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        self.by_domain.values().flatten().flat_map(|generation| generation.keys.iter())
    }
}

/// One DKIM-Signature field for each key.
pub(crate) fn signatures(keys: &[Key], content: &Content, terms: Terms) -> Bytes {
    let mut all = String::new();
    for key in keys {
        all.extend(key.sign(content, terms));
    }
    all.into()
}

#[cfg(test)]
mod tests;
