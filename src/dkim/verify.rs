//! Checking signatures as a receiver would: for the demo, and for tests.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use hickory_resolver::TokioResolver;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

/// What came of one DKIM-Signature field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `d=`; empty where the field could not be read.
    pub domain: String,
    /// `s=`.
    pub(crate) selector: String,
    /// Whether it passed; else why not.
    pub result: Result<(), String>,
}

/// Checks every signature of a message with the keys that `resolver` finds.
pub async fn verify(resolver: TokioResolver, message: &[u8]) -> Vec<Verdict> {
    verify_knowing(resolver, message, |_| None).await
}

/// As [`verify`], with one published key for whatever name is asked for; asks no DNS. None if the record cannot be read.
pub async fn verify_against(resolver: TokioResolver, message: &[u8], record: &str) -> Option<Vec<Verdict>> {
    DomainKey::parse(record.as_bytes()).ok()?;
    Some(verify_knowing(resolver, message, |_| Some(record.to_owned())).await)
}

/// As [`verify`]; a record that `record` has for a selector, under whatever domain, is not looked up.
pub(crate) async fn verify_knowing(
    resolver: TokioResolver,
    message: &[u8],
    record: impl Fn(&str) -> Option<String>,
) -> Vec<Verdict> {
    let Some(parsed) = AuthenticatedMessage::parse(message) else { return Vec::new() };
    let signatures = parsed.dkim_headers.iter().map(|field| &field.header);
    let known = signatures.filter_map(|signature| {
        let key = DomainKey::parse(record(&signature.s)?.as_bytes()).ok()?;
        let name = format!("{}._domainkey.{}.", signature.s, signature.d).to_lowercase();
        Some((name.into_boxed_str(), Txt::from(key)))
    });
    let known = KnownKeys(known.collect());
    let authenticator = MessageAuthenticator(resolver);
    let output = authenticator.verify_dkim(Parameters::new(&parsed).with_txt_cache(&known)).await;
    output
        .iter()
        .map(|output| Verdict {
            domain: output.signature().map(|s| s.d.clone()).unwrap_or_default(),
            selector: output.signature().map(|s| s.s.clone()).unwrap_or_default(),
            result: match output.result() {
                DkimResult::Pass => Ok(()),
                DkimResult::Neutral(error)
                | DkimResult::Fail(error)
                | DkimResult::PermError(error)
                | DkimResult::TempError(error) => Err(error.to_string()),
                DkimResult::None => Err("no signature".to_owned()),
            },
        })
        .collect()
}

struct KnownKeys(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for KnownKeys {
    fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}
