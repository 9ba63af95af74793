//! The first stages of an attempt: gate, whether the entry may be tried now, and load, what is to be sent.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::environment::Environment;
use super::super::next_hops::NextHops;
use super::super::sessions::Assignment;
use super::super::settle::{self, EndedAttempt};
use super::super::site::Site;
use crate::base::clock::Timestamp;
use crate::destination::route::Route;
use crate::event::Attempted;
use crate::greylist::table::Triplet;
use crate::ledger::entry::SignedContent;
use crate::queue::claim::{Claim, Settlement};

/// An entry that is being tried.
pub(super) struct ClaimedEntry {
    pub(super) claim: Claim,
    pub(super) hops: NextHops,
    domain: String,
}

/// That an entry may be tried, and where.
pub(super) struct Target {
    pub(super) route: Arc<Route>,
    /// What greylisting at the destination knows the entry by; none on the way to a smart host.
    pub(super) triplet: Option<Triplet>,
}

/// Whether there is a session for the attempt already, or a race for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtHand {
    Session,
    Nothing,
}

/// Content cannot be had for now.
struct ContentUnavailable;

impl ClaimedEntry {
    /// Claims an entry; none where it is not to be tried any more.
    pub(super) fn new(env: &Environment, site: &Site, taken: Assignment) -> Option<Self> {
        let now = env.clock.now();
        let claim = env.queue.claim(taken.entry, now).ok()?;
        let domain = env.domain(&claim);
        let hops = env.next_hops(&domain, &site.hop, now);
        Some(Self { claim, hops, domain })
    }

    /// Finds the route, and whether the entry may be tried now; else how its attempt is over before it began.
    pub(super) async fn gate(
        &mut self,
        env: &Environment,
        site: &Site,
        at_hand: AtHand,
    ) -> ControlFlow<Settlement, Target> {
        let began = self.hops.since;
        let route = match env.route_at(site, &self.domain).await {
            Ok(Some(route)) => route,
            Ok(None) => return ControlFlow::Break(Settlement::Released(Attempted::default())),
            Err(error) => {
                self.claim.begins(None, began);
                return ControlFlow::Break(self.ended(env.clock.now()).without_route(&error));
            }
        };
        self.claim.begins(Some(route.name().clone()), began);
        let now = env.clock.now();
        if let Some(down) = site.outage(|outage| outage.down().cloned()).filter(|_| at_hand == AtHand::Nothing) {
            site.outage(|outage| outage.wait(self.claim.id()));
            let destination = down.last.map_or_else(|| route.name().clone(), |(host, _)| host);
            return ControlFlow::Break(self.ended(now).not_tried(destination));
        }
        if self.hops.via.enter(now).is_err() {
            return ControlFlow::Break(self.ended(now).resting());
        }
        // A smart host is not asked for what it does with unknown senders, nor is what it does put down to the destination.
        let is_direct = self.hops.via.smart_host().is_none();
        let triplet = is_direct.then(|| triplet(env, &self.claim, &route));
        match self.ended(now).held_back(triplet.as_ref()) {
            Some(settlement) => ControlFlow::Break(settlement),
            None => ControlFlow::Continue(Target { route, triplet }),
        }
    }

    /// Gets the content; else how the attempt ends without it.
    pub(super) async fn load(&self, env: &Environment) -> ControlFlow<Settlement, Arc<SignedContent>> {
        match content(env, &self.claim).await {
            Ok(Some(content)) => ControlFlow::Continue(content),
            Ok(None) => ControlFlow::Break(settle::without_content()),
            Err(ContentUnavailable) => ControlFlow::Break(settle::content_withheld(env.clock.now())),
        }
    }

    pub(super) fn ended(&mut self, now: Timestamp) -> EndedAttempt<'_> {
        EndedAttempt { claim: &mut self.claim, hops: &self.hops, now }
    }

    pub(super) fn settle(self, settlement: Settlement, now: Timestamp) {
        self.claim.settle(settlement, now);
    }
}

/// What unknown senders are told by at the destination.
fn triplet(env: &Environment, claim: &Claim, route: &Route) -> Triplet {
    let own = env.settings.own_reverse_path(&claim.message().envelope.reverse_path);
    let recipient = claim.message().recipient(claim.id().index).mailbox.plain_key();
    Triplet::new(own.as_str(), &recipient, &route.destination)
}

/// The content with its signatures, from memory or read back and signed again; none if it is gone for good.
async fn content(env: &Environment, claim: &Claim) -> Result<Option<Arc<SignedContent>>, ContentUnavailable> {
    if let Some(content) = claim.signed_content() {
        return Ok(Some(content.clone()));
    }
    let Some(content) = claim.stored_content().await.map_err(|_| ContentUnavailable)? else { return Ok(None) };
    let message = claim.message();
    let terms = message.signature_terms(env.clock.step());
    let keys_of = |domain: &str| env.keys.load().of_acceptance(domain, terms.signed_at);
    let keys = message.signing_domain.as_deref().and_then(keys_of);
    let signatures = match keys {
        None => bytes::Bytes::new(),
        Some(keys) => env.signing.sign(message.lane, &keys, &content, terms).await.ok_or(ContentUnavailable)?,
    };
    Ok(Some(Arc::new(SignedContent { signatures, content })))
}
