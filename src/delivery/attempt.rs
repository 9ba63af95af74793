//! One attempt, stage by stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::candidates::{Caller, Candidates};
use super::connect::Connected;
use super::pool::{Site, Taken};
use super::settle::Lesson;
use super::smart_host::Ways;
use super::steps::Steps;
use super::transact::{Connection, Transacted};
use super::{Delivery, settle};
use crate::clock::Timestamp;
use crate::destination::demand::Wish;
use crate::destination::route::{Route, RouteError};
use crate::event::Kind;
use crate::mail::address::ReversePath;
use crate::mail::envelope::DeliverBy;
use crate::mail::id::EntryId;
use crate::plan::cause::{Cause, of_failure};
use crate::plan::greylist::Greylister;
use crate::queue::claim::{Claim, Report, Settlement};
use crate::queue::entry::{Message, SignedContent};
use crate::queue::greylists::Triplet;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage, Transaction};

/// The answer to the content is awaited to the end of life, within these bounds.
const FINAL_TIMEOUT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// Content cannot be had for now.
struct Withheld;

impl Delivery {
    /// Tries to deliver one entry, on the connection that is there or on a new one; leaves the connection for the next.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        site: &Arc<Site>,
        connection: &mut Option<Box<Connection>>,
        taken: Taken,
    ) {
        let now = self.parts.clock.now();
        let Ok(claim) = self.parts.queue.claim(taken.entry, now) else { return };
        let domain = claim.domain();
        let ways = self.ways(&domain, site.carrier.clone(), now);
        let route = match self.route_at(site, &domain).await {
            Ok(Some(route)) => route,
            Ok(None) => return claim.settle(&Settlement::Released, Report::default(), now),
            Err(error) => {
                claim.tell(Kind::Attempted, None, now);
                return settle::without_route(claim, &error, &ways, self.parts.clock.now());
            }
        };
        let mut steps = Steps::new(self.parts.clock.instant());
        claim.tell(Kind::Attempted, Some(route.name().clone()), now);
        if connection.is_none()
            && let Some(down) = site.down()
        {
            let destination = down.last.as_ref().map_or_else(|| route.name().clone(), |(host, _)| host.clone());
            settle::not_tried(claim, destination, &ways, now);
            return site.wait(taken.entry);
        }
        let Some(claim) = settle::unless_resting(claim, &ways, now) else { return };
        // A smart host is not asked for what it does with strangers, nor is what it does put down to the destination.
        let triplet = ways.by.is_none().then(|| self.triplet(&claim, &route));
        let Some(mut claim) = settle::unless_held_back(claim, triplet.as_ref(), now) else { return };
        let content = match self.content(&claim).await {
            Ok(Some(content)) => content,
            Ok(None) => return settle::without_content(claim, self.parts.clock.now()),
            Err(Withheld) => return settle::content_withheld(claim, self.parts.clock.now()),
        };
        let require_tls = claim.message().envelope.parameters.require_tls;
        let caller = self.caller(&claim).wishing(Wish::of(require_tls, &content.content.head));
        let mut candidates = Candidates::new(&route, &caller, ways.by.clone(), self);
        candidates.begin_with(triplet.as_ref().and_then(|triplet| self.parts.queue.greylists().greylister(triplet)));
        self.keep_if_constant(connection, &candidates).await;
        loop {
            let mut current = match connection.take() {
                Some(mut current) => {
                    current.take_opening().into_iter().for_each(|opening| steps.absorb(opening));
                    current
                }
                None => match self.connect_for(&mut claim, &mut candidates, &mut steps).await {
                    Connected::Session(current) => {
                        self.answered(site);
                        current
                    }
                    Connected::Nobody => {
                        self.settle_unreachable(claim, &candidates, &content, steps, &ways);
                        return self.nobody_answered(site, candidates.last_failure, &caller, Some(taken.entry));
                    }
                    Connected::Gone(gone) => {
                        let report = Report { steps: steps.finish(&content), ..Report::default() };
                        return settle::gone(claim, gone, report, self.parts.clock.now());
                    }
                },
            };
            let is_reused = current.transactions() > 0 || current.has_rested();
            let (began, began_at) = (self.parts.clock.now(), self.parts.clock.instant());
            let transaction = self.transaction(&claim, &content, began);
            let by = Greylister { host: current.host.clone(), address: current.address.ip() };
            let lesson = triplet.clone().map(|triplet| Lesson { triplet, by, began });
            let transacted = current.transact(&mut claim, &transaction, &content, &mut steps).await;
            let now = self.parts.clock.now();
            if let Transacted::Outcome(Err(failure)) = &transacted {
                steps.add_failure(failure, &current.host, self.parts.clock.instant());
                self.bore(site, &current, failure, began_at);
            }
            match transacted {
                Transacted::Outcome(Ok(reply)) => {
                    if site.went_well(caller) {
                        self.clone().start_waiting(site);
                    }
                    let report = report(&current, steps, &content);
                    *connection = Some(current);
                    return settle::delivered(claim, &reply, &content, report, lesson.as_ref(), &ways, now);
                }
                Transacted::Outcome(Err(failure)) if is_reused && is_stale(&failure) => {
                    tracing::debug!(host = %current.host, "an idle session had ended; connecting anew");
                }
                Transacted::Outcome(Err(failure)) if tries_next_address(&failure) => {
                    candidates.skip(current.address);
                    candidates.failed(current.host.clone(), failure);
                }
                Transacted::Outcome(Err(failure))
                    if next_host_may_do(&failure) && candidates.skip_host(&current.host) =>
                {
                    candidates.failed(current.host.clone(), failure);
                    current.quit().await;
                }
                Transacted::Outcome(Err(failure)) => {
                    let report = report(&current, steps, &content);
                    *connection = Some(current);
                    return settle::not_delivered(claim, &failure, &content, report, lesson, &ways, now);
                }
                Transacted::Gone(gone) => {
                    return settle::gone(claim, gone, report(&current, steps, &content), now);
                }
                Transacted::NotNoted => return drop(claim),
            }
        }
    }

    /// The route to a domain that this site serves; none if it has moved. Domains that share their hosts need not share
    /// their policies. A smart host serves all of them.
    pub(super) async fn route_at(&self, site: &Site, domain: &str) -> Result<Option<Arc<Route>>, RouteError> {
        let of_site = site.route();
        if site.carrier.is_some() || of_site.domain.as_ref() == domain {
            return Ok(Some(of_site));
        }
        let route = self.parts.router.route(domain).await?;
        Ok((route.destination == site.destination).then_some(route))
    }

    fn caller(&self, claim: &Claim) -> Caller {
        let recipient = &claim.message().recipient(claim.id().index).mailbox;
        Caller::new(&self.own_reverse_path(&claim.message().envelope.reverse_path), recipient)
    }

    /// A connection for a claim that is still good.
    async fn connect_for(&self, claim: &mut Claim, candidates: &mut Candidates, steps: &mut Steps) -> Connected {
        let permit = || {
            let now = self.parts.clock.now();
            claim.check(now).map(|()| claim.renew(now, self.settings.connect_timeout))
        };
        self.connect(candidates, permit, steps).await
    }

    /// What strangers are told by at the destination.
    fn triplet(&self, claim: &Claim, route: &Route) -> Triplet {
        let own = self.own_reverse_path(&claim.message().envelope.reverse_path);
        let recipient = claim.message().recipient(claim.id().index).mailbox.plain_key();
        Triplet::new(own.as_str(), &recipient, &route.destination)
    }

    /// A session is of use only if it is with the host that the triplet waits for, from the address that it knows, and is
    /// as secure as this message has to have it.
    async fn keep_if_constant(&self, connection: &mut Option<Box<Connection>>, candidates: &Candidates) {
        let other = connection.take_if(|current| {
            let demand = candidates.demand(&current.host);
            let is_secure_enough = demand.is_some_and(|demand| current.fulfils(demand, &self.parts.roots));
            !is_secure_enough || !candidates.suit(&current.host, current.address, current.source)
        });
        if let Some(other) = other {
            other.quit().await;
        }
    }

    fn settle_unreachable(
        &self,
        claim: Claim,
        candidates: &Candidates,
        content: &SignedContent,
        steps: Steps,
        ways: &Ways,
    ) {
        let now = self.parts.clock.now();
        let nobody = Failure { stage: Stage::Connect, fault: Fault::Closed };
        let (host, failure) = match &candidates.last_failure {
            Some((host, failure)) => (Some(host.clone()), failure),
            None => (None, &nobody),
        };
        let report = Report { destination: host, steps: steps.finish(content), ..Report::default() };
        settle::not_delivered(claim, failure, content, report, None, ways, now);
    }

    /// There is no session. If it is so some times in a row, the destination counts as down; `entry` waits for its
    /// return. A host that says no is there. A smart host has a breaker of its own.
    pub(super) fn nobody_answered(
        self: &Arc<Self>,
        site: &Arc<Site>,
        last: Option<(Arc<str>, Failure)>,
        caller: &Caller,
        entry: Option<EntryId>,
    ) {
        if let Some(carrier) = &site.carrier {
            // What became of an entry's attempt is told when that is settled.
            if let (None, Some((_, failure))) = (entry, &last) {
                carrier.failed(failure, &settle::told(failure), self.parts.clock.now());
            }
            return;
        }
        if let Some((_, failure @ Failure { fault: Fault::Reply(_), .. })) = &last {
            if is_too_much(failure) {
                let now = self.parts.clock.instant();
                site.was_too_much(now, now);
            }
            return self.answered(site);
        }
        // A host that is not good enough for one domain may be so for another.
        if let Some((_, Failure { stage, fault: Fault::Tls(_) | Fault::Unsupported(_) })) = &last {
            if *stage != Stage::Connect {
                self.answered(site);
            }
            return;
        }
        let is_down = site.failed(last, caller);
        if let Some(entry) = entry {
            site.wait(entry);
        }
        if is_down {
            tracing::warn!(destination = %site.destination, "nobody answers; looking again every 10 s while mail waits");
            self.look_after(site);
        }
    }

    /// Learns from a failed transaction what the host bears.
    fn bore(&self, site: &Site, connection: &Connection, failure: &Failure, began: Instant) {
        let is_closing = matches!(&failure.fault, Fault::Reply(reply) if reply.code == 421);
        if is_closing && connection.taken() > 0 && matches!(failure.stage, Stage::Reset | Stage::Mail) {
            // It has taken some in this session: not too much at once, but enough.
            site.ended_after(connection.taken());
        } else if is_too_much(failure) {
            site.was_too_much(began, self.parts.clock.instant());
        }
    }

    /// The content with its signatures, from memory or read back and signed again; none if it is gone for good.
    async fn content(&self, claim: &Claim) -> Result<Option<Arc<SignedContent>>, Withheld> {
        if let Some(content) = claim.signed_content() {
            return Ok(Some(content.clone()));
        }
        let Some(content) = claim.stored_content().await.map_err(|_| Withheld)? else { return Ok(None) };
        let message = claim.message();
        let keys = message.signing_domain.as_deref().and_then(|domain| self.parts.keys.load().of(domain).cloned());
        let signatures = match keys {
            None => bytes::Bytes::new(),
            Some(keys) => {
                let time = self.parts.clock.step().wall(message.accepted_at).as_secs();
                self.parts.signing.sign(message.lane, &keys, &content, time).await.ok_or(Withheld)?
            }
        };
        Ok(Some(Arc::new(SignedContent { signatures, content })))
    }

    /// The reverse-path that hosts are given, for a client's.
    pub(super) fn own_reverse_path(&self, reverse_path: &ReversePath) -> ReversePath {
        reverse_path.sent_as(self.settings.reverse_path.as_ref())
    }

    fn transaction(&self, claim: &Claim, content: &SignedContent, now: Timestamp) -> Transaction {
        let message: &Message = claim.message();
        let envelope = &message.envelope;
        let elapsed = i32::try_from(now.since(message.accepted_at).as_secs()).unwrap_or(i32::MAX);
        let deliver_by = envelope.parameters.deliver_by;
        Transaction {
            reverse_path: self.own_reverse_path(&message.envelope.reverse_path),
            parameters: envelope.parameters.clone(),
            recipient: message.recipient(claim.id().index).clone(),
            size: content.len() as u64,
            eight_bit: message.eight_bit,
            utf8_fields: message.utf8_fields,
            deliver_by: deliver_by.map(|by| DeliverBy { seconds: by.seconds.saturating_sub(elapsed), ..by }),
            final_timeout: message.expires_at.since(now).clamp(FINAL_TIMEOUT.0, FINAL_TIMEOUT.1),
        }
    }
}

fn report(connection: &Connection, steps: Steps, content: &SignedContent) -> Report {
    Report {
        destination: Some(connection.host.clone()),
        note: connection.security(),
        steps: steps.finish(content),
        notifies: connection.offers_dsn(),
        ..Report::default()
    }
}

/// A reused session that ends before anything came of it is no outcome: the host had closed it.
fn is_stale(failure: &Failure) -> bool {
    let before_rcpt = matches!(failure.stage, Stage::Reset | Stage::Mail);
    before_rcpt
        && match &failure.fault {
            Fault::Reply(reply) => reply.code == 421,
            Fault::Timeout | Fault::Closed | Fault::Malformed(_) => true,
            Fault::Unsupported(_) | Fault::Tls(_) => false,
        }
}

/// The host has more work than it wants from us, or cannot keep up.
fn is_too_much(failure: &Failure) -> bool {
    match &failure.fault {
        Fault::Reply(reply) => {
            let cause = of_failure(failure).cause;
            reply.code == 421 || matches!(cause, Cause::RateLimited | Cause::ServerBusy)
        }
        Fault::Timeout => failure.stage != Stage::Connect,
        Fault::Closed | Fault::Malformed(_) | Fault::Unsupported(_) | Fault::Tls(_) => false,
    }
}

/// Silence, noise or a lost connection before the content was sent: another address may do better at once.
fn tries_next_address(failure: &Failure) -> bool {
    let before_content = failure.stage != Stage::Content;
    before_content && matches!(failure.fault, Fault::Timeout | Fault::Closed | Fault::Malformed(_))
}

/// The host says that it cannot, not that nobody may: another of the destination can be asked at once. Never where the
/// content has been sent, nor where strangers are made to wait, for whom the next host begins to count anew.
fn next_host_may_do(failure: &Failure) -> bool {
    match &failure.fault {
        Fault::Reply(_) => failure.stage != Stage::Content && of_failure(failure).action.next_mx,
        // RFC 8689 section 4.2.1.
        Fault::Unsupported(requirement) => *requirement == Requirement::RequireTls,
        Fault::Timeout | Fault::Closed | Fault::Malformed(_) | Fault::Tls(_) => false,
    }
}
