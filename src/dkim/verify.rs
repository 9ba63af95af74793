//! Checking signatures as a receiver would: for the demo, and for tests.

use hickory_resolver::TokioResolver;
use mail_auth::common::cache::NoCache;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

/// What came of one DKIM-Signature field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `d=`; empty where the field could not be read.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// Whether it passed; else why not.
    pub result: Result<(), String>,
}

/// Checks every signature of a message with the keys that `resolver` finds.
pub async fn verify(resolver: TokioResolver, message: &[u8]) -> Vec<Verdict> {
    verify_with(resolver, message, None::<&NoCache<Box<str>, Txt>>).await
}

/// As [`verify`]; keys that `known` has are not looked up.
async fn verify_with(
    resolver: TokioResolver,
    message: &[u8],
    known: Option<&impl ResolverCache<Box<str>, Txt>>,
) -> Vec<Verdict> {
    let Some(parsed) = AuthenticatedMessage::parse(message) else { return Vec::new() };
    let authenticator = MessageAuthenticator(resolver);
    let output = match known {
        Some(known) => authenticator.verify_dkim(Parameters::new(&parsed).with_txt_cache(known)).await,
        None => authenticator.verify_dkim(&parsed).await,
    };
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

#[cfg(test)]
pub(super) mod tests {
    use std::borrow::Borrow;
    use std::hash::Hash;

    use hickory_resolver::config::ResolverConfig;
    use mail_auth::common::parse::TxtRecordParser as _;
    use mail_auth::common::verify::DomainKey;

    use super::*;

    /// One published key, whatever name is asked for.
    struct OneKey(Txt);

    impl ResolverCache<Box<str>, Txt> for OneKey {
        fn get<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
        where
            Box<str>: Borrow<Q>,
        {
            Some(self.0.clone())
        }

        fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
        where
            Box<str>: Borrow<Q>,
        {
            None
        }

        fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
    }

    /// Whether all signatures of a message pass with the key published by `record`; asks no DNS.
    pub(crate) fn passes(message: &str, record: &str) -> bool {
        let key = OneKey(Txt::from(DomainKey::parse(record.as_bytes()).unwrap()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let verdicts = runtime.block_on(async {
            let resolver = crate::destination::resolver::build(ResolverConfig::default()).unwrap();
            verify_with(resolver, message.as_bytes(), Some(&key)).await
        });
        !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.result.is_ok())
    }
}
