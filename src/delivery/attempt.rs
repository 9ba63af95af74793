//! One attempt, stage by stage: gate, load, then connect and transact until the outcome is known, conclude.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::candidates::{Caller, Candidates};
use super::connect::Connected;
use super::mask::Mask;
use super::places::Held;
use super::pool::{Site, Taken};
use super::settle::Lesson;
use super::smart_host::Ways;
use super::steps::Steps;
use super::transact::{Connection, Transacted};
use super::window::is_overload;
use super::{Delivery, settle};
use crate::clock::Timestamp;
use crate::destination::demand::Wish;
use crate::destination::route::{Route, RouteError};
use crate::event::Kind;
use crate::mail::address::ReversePath;
use crate::mail::envelope::DeliverBy;
use crate::mail::id::EntryId;
use crate::plan::cause::of_failure;
use crate::plan::greylist::Greylister;
use crate::queue::claim::{Claim, Gone, Report, Settlement};
use crate::queue::entry::{Message, SignedContent};
use crate::queue::greylists::Triplet;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage, Transaction};
use crate::smtp::reply::Reply;

/// The answer to the content is awaited to the end of life, within these bounds.
const FINAL_TIMEOUT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// What is told of an attempt that ended for want of places.
const GAVE_WAY: &str = "gave way: all places for sessions were taken, and this one was waiting longest";
/// What is told of a session without TLS.
const CLEAR_TEXT: &str = "in clear text";

/// Content cannot be had for now.
struct Withheld;

/// An entry that may be tried now.
struct Gated {
    claim: Claim,
    ways: Ways,
    route: Arc<Route>,
    /// What greylisting at the destination knows the entry by; none on the way to a smart host.
    triplet: Option<Triplet>,
    steps: Steps,
}

/// An attempt under way.
struct Attempt<'a> {
    delivery: &'a Arc<Delivery>,
    site: &'a Arc<Site>,
    /// The place of its session.
    held: &'a Held,
    claim: Claim,
    ways: Ways,
    triplet: Option<Triplet>,
    content: Arc<SignedContent>,
    caller: Caller,
    candidates: Candidates,
    steps: Steps,
}

/// How an attempt ended.
enum End {
    /// The receiver took the message.
    Delivered { reply: Reply, from: Peer, began: Instant },
    /// The receiver did not take it, or nobody knows.
    NotDelivered { failure: Failure, from: Peer },
    /// No session came about.
    Nobody,
    /// The session gave way to another before it came about.
    GaveWay,
    /// The entry is not to be sent any more.
    Gone(Gone, Option<Peer>),
    /// The note that the content goes could not be written.
    NotNoted(Peer),
}

impl End {
    /// The reply with which it ended.
    fn reply<'a>(&'a self, candidates: &'a Candidates) -> Option<&'a Reply> {
        match self {
            Self::Delivered { reply, .. } => Some(reply),
            Self::NotDelivered { failure, .. } => failure.reply(),
            Self::Nobody => candidates.last_failure.as_ref().and_then(|(_, failure)| failure.reply()),
            Self::GaveWay | Self::Gone(..) | Self::NotNoted(_) => None,
        }
    }
}

/// What is told and learned of the session in which an attempt ended.
struct Peer {
    report: Report,
    lesson: Option<Lesson>,
}

/// What follows a failed transaction.
enum Then {
    /// The idle session had ended: a new one with the same addresses.
    Reconnect,
    /// Another address, in the same attempt.
    NextAddress,
    /// Another host, in the same attempt.
    NextHost,
    /// The attempt ends with it.
    Conclude,
}

impl Delivery {
    /// Tries to deliver one entry, on the connection that is there or on a new one; leaves the connection for the next.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        site: &Arc<Site>,
        connection: &mut Option<Box<Connection>>,
        taken: Taken,
        held: &Held,
    ) {
        let Some(gated) = self.gate(site, connection.is_some(), taken).await else { return };
        let Some(mut attempt) = self.load(site, gated, held).await else { return };
        self.keep_if_constant(connection, &attempt.candidates).await;
        let end = loop {
            let current = match attempt.connect(connection.take()).await {
                Ok(current) => current,
                Err(end) => break end,
            };
            if let ControlFlow::Break(end) = attempt.transact(current, connection).await {
                break end;
            }
        };
        attempt.conclude(end).await;
    }

    /// Claims an entry and finds its route; none where the attempt is over before it began.
    async fn gate(self: &Arc<Self>, site: &Arc<Site>, has_session: bool, taken: Taken) -> Option<Gated> {
        let now = self.parts.clock.now();
        let claim = self.parts.queue.claim(taken.entry, now).ok()?;
        let domain = claim.domain();
        let ways = self.ways(&domain, site.carrier.clone(), now);
        let route = match self.route_at(site, &domain).await {
            Ok(Some(route)) => route,
            Ok(None) => {
                claim.settle(&Settlement::Released, Report::default(), now);
                return None;
            }
            Err(error) => {
                claim.tell(Kind::Attempted, None, now);
                settle::without_route(claim, &error, &ways, self.parts.clock.now());
                return None;
            }
        };
        let mut steps = Steps::new(self.parts.clock.instant());
        steps.add_route(&route, claim.message().accepted_at);
        claim.tell(Kind::Attempted, Some(route.name().clone()), now);
        if let Some(down) = site.down().filter(|_| !has_session) {
            let destination = down.last.as_ref().map_or_else(|| route.name().clone(), |(host, _)| host.clone());
            settle::not_tried(claim, destination, &ways, now);
            site.wait(taken.entry);
            return None;
        }
        let claim = settle::unless_resting(claim, &ways, now)?;
        // A smart host is not asked for what it does with strangers, nor is what it does put down to the destination.
        let triplet = ways.by.is_none().then(|| self.triplet(&claim, &route));
        let claim = settle::unless_held_back(claim, triplet.as_ref(), now)?;
        Some(Gated { claim, ways, route, triplet, steps })
    }

    /// Gets the content, and the addresses to try; none where the content cannot be had.
    async fn load<'a>(self: &'a Arc<Self>, site: &'a Arc<Site>, gated: Gated, held: &'a Held) -> Option<Attempt<'a>> {
        let Gated { claim, ways, route, triplet, steps } = gated;
        let content = match self.content(&claim).await {
            Ok(Some(content)) => content,
            Ok(None) => {
                settle::without_content(claim, self.parts.clock.now());
                return None;
            }
            Err(Withheld) => {
                settle::content_withheld(claim, self.parts.clock.now());
                return None;
            }
        };
        let require_tls = claim.message().envelope.parameters.require_tls;
        let caller = self.caller(&claim).wishing(Wish::of(require_tls, &content.content.head));
        let mut candidates = Candidates::new(&route, &caller, ways.by.clone(), self);
        candidates.begin_with(triplet.as_ref().and_then(|triplet| self.parts.queue.greylists().greylister(triplet)));
        Some(Attempt { delivery: self, site, held, claim, ways, triplet, content, caller, candidates, steps })
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
            if is_overload(failure) {
                let now = self.parts.clock.instant();
                site.overloaded(caller, now, now);
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
            tracing::info!(destination = %site.destination, "nobody answers; looking again every 10 s while mail waits");
            self.look_after(site);
        }
    }

    /// Learns from a failed transaction what the host bears.
    fn bore(&self, site: &Site, connection: &Connection, failure: &Failure, caller: &Caller, began: Instant) {
        let is_closing = matches!(&failure.fault, Fault::Reply(reply) if reply.code == 421);
        if is_closing && connection.taken() > 0 && matches!(failure.stage, Stage::Reset | Stage::Mail) {
            // It has taken some in this session: not too much at once, but enough.
            site.ended_after(connection.taken());
        } else if is_overload(failure) {
            site.overloaded(caller, began, self.parts.clock.instant());
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
                let terms = message.signature_terms(self.parts.clock.step());
                self.parts.signing.sign(message.lane, &keys, &content, terms).await.ok_or(Withheld)?
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

impl Attempt<'_> {
    /// A session for the next transaction: the one at hand, or a new one while the claim is good.
    async fn connect(&mut self, at_hand: Option<Box<Connection>>) -> Result<Box<Connection>, End> {
        if let Some(mut current) = at_hand {
            current.take_opening().into_iter().for_each(|opening| self.steps.absorb(opening));
            return Ok(current);
        }
        let (delivery, claim) = (self.delivery, &mut self.claim);
        let permit = || {
            let now = delivery.parts.clock.now();
            claim.check(now).map(|()| claim.renew(now, delivery.settings.connect_timeout))
        };
        let connected = tokio::select! {
            biased;
            connected = delivery.connect(&mut self.candidates, permit, &mut self.steps) => connected,
            () = self.held.gives_way() => return Err(End::GaveWay),
        };
        match connected {
            Connected::Session(current) => {
                self.held.is_at(current.address.ip());
                delivery.answered(self.site);
                Ok(current)
            }
            Connected::Nobody => Err(End::Nobody),
            Connected::Gone(gone) => Err(End::Gone(gone, None)),
        }
    }

    /// One transaction. `kept` is where a session goes that may serve the next entry.
    async fn transact(&mut self, mut current: Box<Connection>, kept: &mut Option<Box<Connection>>) -> ControlFlow<End> {
        let clock = &self.delivery.parts.clock;
        let is_reused = current.transactions() > 0 || current.has_rested();
        let (began, began_at) = (clock.now(), clock.instant());
        let transaction = self.delivery.transaction(&self.claim, &self.content, began);
        let transacted =
            current.transact(&mut self.claim, &transaction, &self.content, &mut self.steps, self.held).await;
        let failure = match transacted {
            Transacted::Outcome(Err(failure)) => failure,
            Transacted::Outcome(Ok(reply)) => {
                let from = self.peer(&current, began);
                *kept = Some(current);
                return ControlFlow::Break(End::Delivered { reply, from, began: began_at });
            }
            Transacted::Gone(gone) => return ControlFlow::Break(End::Gone(gone, Some(self.peer(&current, began)))),
            Transacted::NotNoted => return ControlFlow::Break(End::NotNoted(self.peer(&current, began))),
        };
        self.steps.add_failure(&failure, &current.host, clock.instant());
        if self.held.has_to_go() {
            let mut from = self.peer(&current, began);
            from.report.note = Some(GAVE_WAY.into());
            return ControlFlow::Break(End::NotDelivered { failure, from });
        }
        self.delivery.bore(self.site, &current, &failure, &self.caller, began_at);
        match self.then(&failure, &current, is_reused) {
            Then::Reconnect => tracing::debug!(host = %current.host, "an idle session had ended; connecting anew"),
            Then::NextAddress => {
                self.candidates.skip(current.address);
                self.candidates.failed(current.host.clone(), failure);
            }
            Then::NextHost => {
                self.candidates.failed(current.host.clone(), failure);
                current.quit().await;
            }
            Then::Conclude => {
                let from = self.peer(&current, began);
                *kept = Some(current);
                return ControlFlow::Break(End::NotDelivered { failure, from });
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether a failed transaction ends the attempt, or what is tried before that.
    fn then(&mut self, failure: &Failure, current: &Connection, is_reused: bool) -> Then {
        if is_reused && is_stale(failure) {
            Then::Reconnect
        } else if tries_next_address(failure) {
            Then::NextAddress
        } else if next_host_may_do(failure) && self.candidates.skip_host(&current.host) {
            Then::NextHost
        } else {
            Then::Conclude
        }
    }

    /// Settles the claim.
    async fn conclude(self, end: End) {
        let Self { delivery, site, held, claim, ways, content, caller, candidates, steps, .. } = self;
        let entry = claim.id();
        let now = delivery.parts.clock.now();
        let last = end.reply(&candidates).map(Reply::to_string);
        let mask = Mask::of(steps.results().chain(last.as_deref()), &content).await;
        let steps = steps.finish(&mask);
        match end {
            End::Delivered { reply, from: Peer { report, lesson }, began } => {
                let instant = delivery.parts.clock.instant();
                held.took_mail(instant);
                if site.succeeded(caller, began, instant) {
                    delivery.clone().start_waiting(site);
                }
                settle::delivered(claim, &reply, &mask, Report { steps, ..report }, lesson.as_ref(), &ways, now);
            }
            End::NotDelivered { failure, from: Peer { report, lesson } } => {
                settle::not_delivered(claim, &failure, &mask, Report { steps, ..report }, lesson, &ways, now);
            }
            End::Nobody => {
                let nobody = Failure { stage: Stage::Connect, fault: Fault::Closed };
                let last = candidates.last_failure;
                let (destination, failure) = last.clone().map_or((None, nobody), |(host, why)| (Some(host), why));
                let report = Report { destination, steps, ..Report::default() };
                settle::not_delivered(claim, &failure, &mask, report, None, &ways, now);
                delivery.nobody_answered(site, last, &caller, Some(entry));
            }
            End::GaveWay => {
                let silent = Failure { stage: Stage::Connect, fault: Fault::Timeout };
                let destination = candidates.last_failure.map(|(host, _)| host);
                let report = Report { destination, steps, note: Some(GAVE_WAY.into()), ..Report::default() };
                settle::not_delivered(claim, &silent, &mask, report, None, &ways, now);
            }
            End::Gone(gone, from) => {
                let report = from.map_or_else(Report::default, |from| from.report);
                settle::gone(claim, gone, Report { steps, ..report }, now);
            }
            End::NotNoted(from) => settle::not_noted(claim, Report { steps, ..from.report }, now),
        }
    }

    fn peer(&self, connection: &Connection, began: Timestamp) -> Peer {
        let report = Report {
            destination: Some(connection.host.clone()),
            note: Some(connection.security().unwrap_or_else(|| CLEAR_TEXT.into())),
            notifies: connection.offers_dsn(),
            ..Report::default()
        };
        let by = Greylister { host: connection.host.clone(), address: connection.address.ip() };
        let sender = self.delivery.own_reverse_path(&self.claim.message().envelope.reverse_path);
        let lesson = self.triplet.clone().map(|triplet| Lesson { triplet, sender, by, began });
        Peer { report, lesson }
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
