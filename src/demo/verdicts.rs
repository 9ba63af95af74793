//! What a receiver finds when it checks the signatures of a mail, with the keys that the sandbox publishes.

use std::sync::Arc;

use hickory_resolver::TokioResolver;

use super::zone::Zone;
use crate::dkim::verify::{self, Verdict};

/// Checks signatures; asks nobody but the zone.
pub(super) struct Verifier {
    pub(super) zone: Arc<Zone>,
    /// Of the sandbox's own name server, for keys that are not ours.
    pub(super) resolver: TokioResolver,
}

impl Verifier {
    /// Of each signature.
    pub(super) async fn verdicts(&self, content: &[u8]) -> Vec<Verdict> {
        verify::verify_knowing(self.resolver.clone(), content, |selector| self.zone.record(selector)).await
    }
}
