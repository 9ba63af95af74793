//! One session with one destination, from its first entry to its end; and one attempt, stage by stage.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::candidates::{Caller, Candidates};
use super::connect::Connected;
use super::pool::{Site, Taken};
use super::settle::Lesson;
use super::steps::Steps;
use super::transact::{Connection, Transacted};
use super::{Delivery, settle};
use crate::clock::Timestamp;
use crate::destination::mx::Route;
use crate::event::Kind;
use crate::lane::Lane;
use crate::mail::address::ReversePath;
use crate::mail::envelope::DeliverBy;
use crate::plan::cause::of_failure;
use crate::plan::greylist::Greylister;
use crate::queue::claim::{Claim, Report};
use crate::queue::entry::{Message, SignedContent};
use crate::queue::greylists::Triplet;
use crate::smtp::client_session::{Failure, Fault, Stage, Transaction};

/// The answer to the content is awaited to the end of life, within these bounds.
const FINAL_TIMEOUT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

impl Delivery {
    /// Works for a site until there is nothing to do for a while.
    pub(super) async fn run(self: Arc<Self>, site: Arc<Site>, first: Taken) {
        let mut place = Place { delivery: self.clone(), site, busy: Some(first.lane), has_left: false };
        let mut connection = None;
        let mut taken = first;
        loop {
            self.attempt(&place.site, &mut connection, taken).await;
            let usable = connection.take_if(|connection: &mut Box<Connection>| connection.is_usable());
            if let Some(used_up) = connection.take() {
                used_up.quit().await;
            }
            let next = match usable {
                None => place.next_or_leave(),
                Some(idle) => match place.next_or_idle() {
                    Ok(next) => {
                        connection = Some(idle);
                        Some(next)
                    }
                    Err(promise) => {
                        let next;
                        (connection, next) = self.wait_idle(idle, promise).await;
                        match next {
                            Some(next) => Some(place.handed(next)),
                            None => place.next_or_leave(),
                        }
                    }
                },
            };
            match next {
                Some(next) => taken = next,
                None => return,
            }
        }
    }

    /// Waits for an entry, the end of the peer's patience or of our own.
    async fn wait_idle(
        &self,
        mut idle: Box<Connection>,
        mut promise: oneshot::Receiver<Taken>,
    ) -> (Option<Box<Connection>>, Option<Taken>) {
        let connection = tokio::select! {
            biased;
            taken = &mut promise => return (Some(idle), taken.ok()),
            _ = idle.until_peer_speaks() => None,
            () = tokio::time::sleep(self.settings.idle_timeout) => Some(idle),
            () = self.draining.cancelled() => Some(idle),
        };
        // An entry may have been handed over at the same moment.
        promise.close();
        match (promise.try_recv().ok(), connection) {
            (Some(taken), connection) => (connection, Some(taken)),
            (None, Some(connection)) => {
                connection.quit().await;
                (None, None)
            }
            (None, None) => (None, None),
        }
    }

    async fn attempt(&self, site: &Site, connection: &mut Option<Box<Connection>>, taken: Taken) {
        let now = self.parts.clock.now();
        let Ok(claim) = self.parts.queue.claim(taken.entry, now) else { return };
        let route = site.route();
        let mut steps = Steps::new(self.parts.clock.instant());
        claim.tell(Kind::Attempted, Some(route.name().clone()), now);
        let triplet = self.triplet(&claim, &route);
        let Some(mut claim) = settle::unless_held_back(claim, &triplet, now) else { return };
        let Some(content) = self.content(&claim).await else {
            settle::without_content(claim, self.parts.clock.now());
            return;
        };
        let caller = self.caller(&claim);
        let mut candidates = Candidates::new(&route, &caller, self, self.parts.clock.instant());
        candidates.begin_with(self.parts.queue.greylists().greylister(&triplet));
        self.keep_if_constant(connection, &candidates).await;
        loop {
            let mut current = match connection.take() {
                Some(current) => current,
                None => match self.connect_for(&mut claim, &mut candidates, &mut steps).await {
                    Connected::Session(current) => current,
                    Connected::Nobody => return self.settle_unreachable(claim, candidates, &content, steps),
                    Connected::Gone(gone) => {
                        let report = Report { steps: steps.finish(&content), ..Report::default() };
                        return settle::gone(claim, gone, report, self.parts.clock.now());
                    }
                },
            };
            let is_reused = current.transactions() > 0;
            let began = self.parts.clock.now();
            let transaction = self.transaction(&claim, &content, began);
            let by = Greylister { host: current.host.clone(), address: current.address.ip() };
            let lesson = Lesson { triplet: triplet.clone(), by, began };
            let transacted = current.transact(&mut claim, &transaction, &content, &mut steps).await;
            let now = self.parts.clock.now();
            if let Transacted::Outcome(Err(failure)) = &transacted {
                steps.add_failure(failure, &current.host, self.parts.clock.instant());
            }
            match transacted {
                Transacted::Outcome(Ok(reply)) => {
                    let report = report(&current, steps, &content);
                    *connection = Some(current);
                    return settle::delivered(claim, &reply, &content, report, &lesson, now);
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
                    return settle::not_delivered(claim, &failure, &content, report, Some(lesson), now);
                }
                Transacted::Gone(gone) => {
                    return settle::gone(claim, gone, report(&current, steps, &content), now);
                }
                Transacted::NotNoted => return drop(claim),
            }
        }
    }

    fn caller(&self, claim: &Claim) -> Caller {
        let recipient = &claim.message().recipient(claim.id().index).mailbox;
        Caller::new(&self.reverse_path(claim.message()), recipient)
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
        let own = self.reverse_path(claim.message());
        let recipient = claim.message().recipient(claim.id().index).mailbox.plain_key();
        Triplet::new(own.as_str(), &recipient, &route.destination)
    }

    /// A session is of use only if it is with the host that the triplet waits for, from the address that it knows.
    async fn keep_if_constant(&self, connection: &mut Option<Box<Connection>>, candidates: &Candidates) {
        let other = connection.take_if(|current| !candidates.suit(&current.host, current.address, current.source));
        if let Some(other) = other {
            other.quit().await;
        }
    }

    fn settle_unreachable(&self, claim: Claim, candidates: Candidates, content: &SignedContent, steps: Steps) {
        let now = self.parts.clock.now();
        let nobody = Failure { stage: Stage::Connect, fault: Fault::Closed };
        let (host, failure) = match candidates.last_failure {
            Some((host, failure)) => (Some(host), failure),
            None => (None, nobody),
        };
        let report = Report { destination: host, steps: steps.finish(content), ..Report::default() };
        settle::not_delivered(claim, &failure, content, report, None, now);
    }

    /// The content with its signatures, from memory or read back and signed again.
    async fn content(&self, claim: &Claim) -> Option<Arc<SignedContent>> {
        if let Some(content) = claim.signed_content() {
            return Some(content.clone());
        }
        let content = claim.stored_content().await?;
        let message = claim.message();
        let keys = message.signing_domain.as_deref().and_then(|domain| self.parts.keys.load().of(domain).cloned());
        let signatures = match keys {
            None => bytes::Bytes::new(),
            Some(keys) => {
                let time = message.accepted_at.as_secs();
                self.parts.signing.sign(message.lane, &keys, &content, time).await?
            }
        };
        Some(Arc::new(SignedContent { signatures, content }))
    }

    fn reverse_path(&self, message: &Message) -> ReversePath {
        let reverse_path = &message.envelope.reverse_path;
        match (&self.settings.reverse_path, reverse_path.mailbox()) {
            (Some(own), Some(_)) => ReversePath(Some(own.clone())),
            _ => reverse_path.clone(),
        }
    }

    fn transaction(&self, claim: &Claim, content: &SignedContent, now: Timestamp) -> Transaction {
        let message: &Message = claim.message();
        let envelope = &message.envelope;
        let elapsed = i32::try_from(now.since(message.accepted_at).as_secs()).unwrap_or(i32::MAX);
        let deliver_by = envelope.parameters.deliver_by;
        Transaction {
            reverse_path: self.reverse_path(message),
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
        note: connection.tls.clone(),
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

/// Silence, noise or a lost connection before the content was sent: another address may do better at once.
fn tries_next_address(failure: &Failure) -> bool {
    let before_content = failure.stage != Stage::Content;
    before_content && matches!(failure.fault, Fault::Timeout | Fault::Closed | Fault::Malformed(_))
}

/// The host says that it cannot, not that nobody may: another of the destination can be asked at once. Never where the
/// content has been sent, nor where strangers are made to wait, for whom the next host begins to count anew.
fn next_host_may_do(failure: &Failure) -> bool {
    failure.stage != Stage::Content && matches!(failure.fault, Fault::Reply(_)) && of_failure(failure).action.next_mx
}

/// A session's place at its site. Given back when it leaves, also when its task is aborted or panics.
struct Place {
    delivery: Arc<Delivery>,
    site: Arc<Site>,
    /// The lane of the entry in work.
    busy: Option<Lane>,
    has_left: bool,
}

impl Place {
    fn next_or_idle(&mut self) -> Result<Taken, oneshot::Receiver<Taken>> {
        let next = self.site.next_or_idle(self.busy.take());
        self.busy = next.as_ref().ok().map(|next| next.lane);
        next
    }

    fn next_or_leave(&mut self) -> Option<Taken> {
        let next = self.site.next_or_leave(self.busy.take());
        self.busy = next.map(|next| next.lane);
        self.has_left = next.is_none();
        next
    }

    /// An entry came while the session was idle.
    fn handed(&mut self, taken: Taken) -> Taken {
        self.busy = Some(taken.lane);
        taken
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.has_left {
            self.site.leave(self.busy);
        }
        self.delivery.clone().connection_ended(&self.site);
    }
}
