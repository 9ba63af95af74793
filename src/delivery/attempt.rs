//! One attempt, stage by stage: gate, load, then connect and transact until the outcome is known, conclude.
//!
//! Several sessions can be in one attempt ([`super::race`]). What one of them says before content was sent counts so:
//!
//! - Silence, noise, a lost connection, or a refusal for which another host may do better: the next session or address.
//! - Any other refusal, greylisting too, ends the attempt as if there were no other session. Less preferred ones do not
//!   delay it. While a more preferred one is slow, the refusal is kept: the slow host may still accept. The attempt ends
//!   with the refusal when no such session is left, when the attempt that follows the refusal would be due, but not
//!   before [`KEPT_LEAST`], and after [`KEPT_MAX`] at the latest. The next attempt is then due as the plan had it.
//! - Where a smart host, or the direct way instead of one, would be tried at once if the attempt ended, slow sessions are
//!   given up for it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caller::Caller;
use super::candidates::Candidates;
use super::crowd::Waits;
use super::environment::Environment;
use super::judged::Judged;
use super::lacking::{is_lacking, is_stale, next_host_may_do, tries_next_address};
use super::limits::LearnedLimits;
use super::mask::Mask;
use super::places::Held;
use super::race::{Advance, LOOK, Race, Runner};
use super::sessions::Taken;
use super::settle::{self, Lesson, Peer};
use super::site::Site;
use super::smart_host::Ways;
use super::transact::Connection;
use crate::clock::Timestamp;
use crate::destination::demand::Wish;
use crate::destination::route::Route;
use crate::event::Attempted;
use crate::mail::envelope::DeliverBy;
use crate::plan::greylist::Greylister;
use crate::queue::claim::{Claim, Gone, NotReleased, Settlement};
use crate::queue::entry::{Message, SignedContent};
use crate::queue::greylists::Triplet;
use crate::smtp::client_session::{
    Bdat, EightBit, Failure, Fault, Framing, Requirement, Stage, Suspicion, Transaction,
};
use crate::smtp::extension::{Feature, Features};
use crate::smtp::reply::Reply;

/// The answer to the content is awaited to the end of life, within these bounds.
const FINAL_TIMEOUT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// A race ends so long before the life does, so that the attempt can say what it came to.
const END_MARGIN: Duration = Duration::from_millis(50);
/// The wall clock counts in these.
const MOMENT: Duration = Duration::from_millis(1);
/// How long a refusal is kept at most while a more preferred host is slow.
const KEPT_MAX: Duration = Duration::from_secs(60);
/// How long one is kept at least: most slow hosts speak by then. A third of what is left of the life, if that is less.
const KEPT_LEAST: Duration = Duration::from_secs(25);
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
}

/// An attempt under way.
struct Attempt<'a> {
    env: &'a Arc<Environment>,
    site: &'a Arc<Site>,
    /// The place of its session.
    held: &'a Held,
    claim: Claim,
    ways: Ways,
    triplet: Option<Triplet>,
    content: Arc<SignedContent>,
    caller: Caller,
    candidates: Candidates,
    race: Race,
    kept: Option<Kept>,
    /// What is not used any more, because a host did not support it.
    left_out: Features,
    /// Hosts that do not offer 8BITMIME, and were passed over.
    passed_over: Vec<Arc<str>>,
}

/// A refusal that counts unless a more preferred host accepts.
struct Kept {
    judged: Judged,
    runner: Runner,
    from: Peer,
    at: Timestamp,
    /// Until when others are waited for.
    until: Timestamp,
}

/// How an attempt ended.
enum End {
    /// The receiver took the message.
    Delivered { reply: Reply, from: Peer, began: Instant },
    /// The receiver did not take it, or nobody knows.
    NotDelivered { judged: Judged, from: Peer, at: Timestamp },
    /// A host is slow, and there is another way at once.
    Slow { host: Arc<str>, judged: Judged },
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
            Self::NotDelivered { judged, .. } => judged.failure.reply(),
            Self::Nobody => candidates.last_failure.as_ref().and_then(|(_, last)| last.failure.reply()),
            Self::Slow { .. } | Self::GaveWay | Self::Gone(..) | Self::NotNoted(_) => None,
        }
    }
}

/// What follows a failed transaction.
enum Then {
    /// The idle session had ended: a new one with the same addresses.
    Reconnect,
    /// Another address, in the same attempt.
    NextAddress,
    /// The same address, without what the host does not support.
    Without(Features),
    /// Another host, in the same attempt.
    NextHost,
    /// The others first, which may offer 8BITMIME; then this one again.
    OthersFirst,
    /// The same session: 8-bit content goes undeclared.
    AsItIs,
    /// The attempt ends with it.
    Conclude,
}

/// Tries to deliver one entry, on the connection that is there, in a race that was begun ahead of it, or on a new
/// connection; leaves the connection for the next.
pub(super) async fn make(
    env: &Arc<Environment>,
    site: &Arc<Site>,
    connection: &mut Option<Box<Connection>>,
    begun: Option<Race>,
    taken: Taken,
    held: &Held,
) {
    let Some(gated) = gate(env, site, connection.is_some() || begun.is_some(), taken).await else { return };
    let Some(mut attempt) = load(env, site, gated, begun, held).await else { return };
    if let Some(at_hand) = attempt.suitable(connection.take()).await {
        attempt.race.join(at_hand);
    }
    let end = loop {
        let Some(advance) = attempt.advance().await else {
            attempt.race.close();
            break End::GaveWay;
        };
        let next = match advance {
            Advance::Session(runner) => attempt.begin(runner).await,
            Advance::Content(runner, framing) => attempt.send(runner, framing, connection).await,
            Advance::Refused(runner, failure) => attempt.refused(runner, failure, connection).await,
            Advance::Look => attempt.look(connection),
            Advance::Nobody => ControlFlow::Break(attempt.kept_or_nobody(connection)),
            Advance::Gone(gone) => ControlFlow::Break(End::Gone(gone, None)),
        };
        if let ControlFlow::Break(end) = next {
            break end;
        }
    };
    attempt.conclude(end).await;
}

/// Claims an entry and finds its route; none where the attempt is over before it began.
async fn gate(env: &Environment, site: &Arc<Site>, has_session: bool, taken: Taken) -> Option<Gated> {
    let now = env.clock.now();
    let claim = env.queue.claim(taken.entry, now).ok()?;
    let domain = claim.domain();
    let ways = env.ways(&domain, &site.hop, now);
    let route = match env.route_at(site, &domain).await {
        Ok(Some(route)) => route,
        Ok(None) => {
            claim.settle(Settlement::Released(Attempted::default()), now);
            return None;
        }
        Err(error) => {
            claim.begins(None, now);
            settle::without_route(claim, &error, &ways, env.clock.now());
            return None;
        }
    };
    claim.begins(Some(route.name().clone()), now);
    if let Some(down) = site.outage(|outage| outage.down().cloned()).filter(|_| !has_session) {
        let destination = down.last.as_ref().map_or_else(|| route.name().clone(), |(host, _)| host.clone());
        settle::not_tried(claim, destination, &ways, now);
        site.outage(|outage| outage.wait(taken.entry));
        return None;
    }
    let claim = settle::unless_resting(claim, &ways, now)?;
    // A smart host is not asked for what it does with strangers, nor is what it does put down to the destination.
    let triplet = ways.by.is_none().then(|| triplet(env, &claim, &route));
    let claim = settle::unless_held_back(claim, triplet.as_ref(), now)?;
    Some(Gated { claim, ways, route, triplet })
}

/// Gets the content, and the addresses to try; none where the content cannot be had.
async fn load<'a>(
    env: &'a Arc<Environment>,
    site: &'a Arc<Site>,
    gated: Gated,
    begun: Option<Race>,
    held: &'a Held,
) -> Option<Attempt<'a>> {
    let Gated { claim, ways, route, triplet } = gated;
    let content = match content(env, &claim).await {
        Ok(Some(content)) => content,
        Ok(None) => {
            settle::without_content(claim, env.clock.now());
            return None;
        }
        Err(Withheld) => {
            settle::content_withheld(claim, env.clock.now());
            return None;
        }
    };
    let require_tls = claim.message().envelope.parameters.require_tls;
    let caller = caller(env, &claim).wishing(Wish::of(require_tls, &content.content.head));
    let mut candidates = Candidates::new(&route, &caller, site.hop.clone(), &env.dialer);
    candidates.begin_with(triplet.as_ref().and_then(|triplet| env.queue.greylists().greylister(triplet)));
    candidates.take_turn(claim.progress().attempts);
    let mut race = begun.unwrap_or_else(|| Race::new(&env.dialer, &env.sites, site));
    race.steps.add_route(&route, claim.message().accepted_at);
    race.field().addresses().into_iter().for_each(|address| candidates.skip(address));
    let (now, instant) = (env.clock.now(), env.clock.instant());
    race.look_at(instant + MOMENT + claim.message().expires_at.minus(END_MARGIN).since(now));
    let (kept, left_out, passed_over) = (None, Features::NONE, Vec::new());
    Some(Attempt {
        env,
        site,
        held,
        claim,
        ways,
        triplet,
        content,
        caller,
        candidates,
        race,
        kept,
        left_out,
        passed_over,
    })
}

fn caller(env: &Environment, claim: &Claim) -> Caller {
    let recipient = &claim.message().recipient(claim.id().index).mailbox;
    Caller::new(&env.settings.own_reverse_path(&claim.message().envelope.reverse_path), recipient)
}

/// What strangers are told by at the destination.
fn triplet(env: &Environment, claim: &Claim, route: &Route) -> Triplet {
    let own = env.settings.own_reverse_path(&claim.message().envelope.reverse_path);
    let recipient = claim.message().recipient(claim.id().index).mailbox.plain_key();
    Triplet::new(own.as_str(), &recipient, &route.destination)
}

/// The content with its signatures, from memory or read back and signed again; none if it is gone for good.
async fn content(env: &Environment, claim: &Claim) -> Result<Option<Arc<SignedContent>>, Withheld> {
    if let Some(content) = claim.signed_content() {
        return Ok(Some(content.clone()));
    }
    let Some(content) = claim.stored_content().await.map_err(|_| Withheld)? else { return Ok(None) };
    let message = claim.message();
    let keys = message.signing_domain.as_deref().and_then(|domain| env.keys.load().of(domain).cloned());
    let signatures = match keys {
        None => bytes::Bytes::new(),
        Some(keys) => {
            let terms = message.signature_terms(env.clock.step());
            env.signing.sign(message.lane, &keys, &content, terms).await.ok_or(Withheld)?
        }
    };
    Ok(Some(Arc::new(SignedContent { signatures, content })))
}

fn transaction(env: &Environment, claim: &Claim, content: &SignedContent, now: Timestamp) -> Transaction {
    let message: &Message = claim.message();
    let envelope = &message.envelope;
    let elapsed = i32::try_from(now.since(message.accepted_at).as_secs()).unwrap_or(i32::MAX);
    let deliver_by = envelope.parameters.deliver_by;
    Transaction {
        reverse_path: env.settings.own_reverse_path(&message.envelope.reverse_path),
        parameters: envelope.parameters.clone(),
        recipient: message.recipient(claim.id().index).clone(),
        size: content.len() as u64,
        eight_bit: if message.eight_bit { EightBit::Declared } else { EightBit::No },
        avoid: Features::NONE,
        utf8_fields: message.utf8_fields,
        deliver_by: deliver_by.map(|by| DeliverBy { seconds: by.seconds.saturating_sub(elapsed), ..by }),
        final_timeout: final_timeout(claim, now),
        bdat: Bdat::AtOnce,
    }
}

fn final_timeout(claim: &Claim, now: Timestamp) -> Duration {
    claim.message().expires_at.since(now).clamp(FINAL_TIMEOUT.0, FINAL_TIMEOUT.1)
}

impl Attempt<'_> {
    /// The next thing to do in the race, while the claim is good; none if it has to give way to others.
    async fn advance(&mut self) -> Option<Advance> {
        let (env, claim) = (self.env, &mut self.claim);
        let permit = || {
            let now = env.clock.now();
            claim.check(now).map(|()| claim.renew(now, env.settings.connect_timeout))
        };
        tokio::select! {
            biased;
            advance = self.race.advance(&mut self.candidates, permit) => Some(advance),
            () = self.held.gives_way() => None,
        }
    }

    /// A session is of use only if it is with the host that the triplet waits for, from the address that it knows, and is
    /// as secure as this message has to have it.
    async fn suitable(&mut self, connection: Option<Box<Connection>>) -> Option<Box<Connection>> {
        let mut current = connection?;
        let demand = self.candidates.demand(&current.host);
        let is_secure_enough = match demand {
            Some(demand) => current.fulfils(demand, &self.env.dialer.roots).await,
            None => false,
        };
        if is_secure_enough && self.candidates.suit(&current.host, current.address, current.source) {
            return Some(current);
        }
        current.quit().await;
        None
    }

    /// Begins a transaction.
    async fn begin(&mut self, mut runner: Runner) -> ControlFlow<End> {
        let Some(connection) = self.suitable(Some(runner.connection)).await else {
            self.race.leave(runner.number);
            return ControlFlow::Continue(());
        };
        runner.connection = connection;
        self.held.is_at(runner.connection.address.ip());
        if !runner.is_reused {
            self.env.answered(self.site);
        }
        let (began, began_at) = (self.env.clock.now(), self.env.clock.instant());
        (runner.began, runner.began_at) = (began, began_at);
        let transaction = Transaction {
            bdat: if self.race.is_contested(&runner) { Bdat::AfterReplies } else { Bdat::AtOnce },
            ..self.transaction_on(&runner.connection, began)
        };
        self.race.begin(runner, transaction);
        ControlFlow::Continue(())
    }

    /// The transaction as this host is to see it.
    fn transaction_on(&self, connection: &Connection, now: Timestamp) -> Transaction {
        let mut transaction = transaction(self.env, &self.claim, &self.content, now);
        let asked = self.site.hop.avoids(self.caller.domain(), &self.env.settings);
        transaction.avoid = self.env.dialer.avoided(connection, self.left_out, asked);
        if self.race.field().is_doubled(connection.address) {
            transaction.avoid = transaction.avoid.and(Feature::Pipelining);
        }
        let goes_as_it_is = transaction.avoid.has(Feature::EightBitMime) || self.passed_over.contains(&connection.host);
        if goes_as_it_is && transaction.eight_bit == EightBit::Declared {
            transaction.eight_bit = EightBit::AsItIs;
        }
        transaction
    }

    /// Takes the one permission to send content, and sends it: nobody else is in the race from here on.
    async fn send(
        &mut self,
        mut runner: Runner,
        framing: Framing,
        kept: &mut Option<Box<Connection>>,
    ) -> ControlFlow<End> {
        if self.race.field().is_doubled(runner.connection.address) {
            // One command at a time it went on, where several in one write are still not answered.
            let suspicion = Suspicion { features: Feature::Pipelining.into(), may_repeat: true };
            self.env.dialer.suspect(&runner.connection, suspicion);
        }
        self.race.close();
        self.kept = None;
        let clock = &self.env.clock;
        match self.claim.release_content(clock.now()).await {
            Ok(()) => {}
            Err(NotReleased::Gone(gone)) => {
                return ControlFlow::Break(End::Gone(gone, Some(self.peer(&runner))));
            }
            Err(NotReleased::NotNoted) => return ControlFlow::Break(End::NotNoted(self.peer(&runner))),
        }
        self.claim.renew(clock.now(), final_timeout(&self.claim, clock.now()));
        match runner.connection.finish(framing, &self.content, &mut runner.steps, self.held).await {
            Ok(reply) => {
                self.env.dialer.note_sloppiness(&runner.connection);
                let from = self.peer(&runner);
                *kept = Some(runner.connection);
                ControlFlow::Break(End::Delivered { reply, from, began: runner.began_at })
            }
            Err(failure) => self.refused(runner, failure, kept).await,
        }
    }

    /// What a transaction that failed leads to. `kept` is where a session goes that may serve the next entry.
    async fn refused(
        &mut self,
        mut runner: Runner,
        failure: Failure,
        kept: &mut Option<Box<Connection>>,
    ) -> ControlFlow<End> {
        let now = self.env.clock.instant();
        let (host, address) = (runner.connection.host.clone(), runner.connection.address);
        runner.steps.add_failure(&failure, &host, now);
        self.env.dialer.note_sloppiness(&runner.connection);
        let judged = Judged::from(failure);
        if self.held.has_to_go() {
            let (from, at) = (self.peer(&runner).with_note(GAVE_WAY), self.env.clock.now());
            return ControlFlow::Break(End::NotDelivered { judged, from, at });
        }
        let judged = self.env.dialer.missing_tls(judged, &runner.connection);
        if runner.connection.suspicion().is_none() {
            self.env.refused(self.site, &runner.connection, &judged, (&self.caller, runner.began_at));
        }
        match self.then(&judged, &runner) {
            Then::Reconnect => tracing::debug!(%host, "an idle session had ended; connecting anew"),
            Then::NextAddress => {
                self.candidates.skip(address);
                self.candidates.failed(host, judged);
            }
            Then::Without(features) => {
                // No farewell: content may have been heard as commands there.
                self.left_out = self.left_out.and(features);
                self.candidates.again(&host, address);
                runner.steps.add(judged.failure.stage, &host, format!("again without {features}"), now);
            }
            Then::OthersFirst => {
                self.passed_over.push(host);
                runner.connection.quit().await;
            }
            Then::AsItIs => {
                self.passed_over.push(host);
                self.race.join(runner.connection);
            }
            Then::NextHost => {
                self.candidates.failed(host, judged);
                runner.connection.quit().await;
            }
            Then::Conclude if self.race.field().has_before(&runner) => self.keep(runner, judged),
            Then::Conclude => {
                let (from, at) = (self.peer(&runner), self.env.clock.now());
                self.race.close();
                *kept = Some(runner.connection);
                return ControlFlow::Break(End::NotDelivered { judged, from, at });
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether a failed transaction ends the attempt, or what is tried before that.
    fn then(&mut self, judged: &Judged, runner: &Runner) -> Then {
        let failure = &judged.failure;
        let host = &runner.connection.host;
        if let Some(features) = self.env.dialer.without(&runner.connection, self.left_out) {
            Then::Without(features)
        } else if runner.is_reused && is_stale(failure) {
            Then::Reconnect
        } else if failure.fault == Fault::Unsupported(Requirement::EightBitMime) {
            let address = runner.connection.address;
            let has_others = self.candidates.put_last(host, address) || self.race.field().has_other_host(host);
            if has_others { Then::OthersFirst } else { Then::AsItIs }
        } else if tries_next_address(failure) {
            Then::NextAddress
        } else if next_host_may_do(judged)
            && (self.candidates.skip_host(host) || self.race.field().has_other_host(host))
        {
            Then::NextHost
        } else {
            Then::Conclude
        }
    }

    /// Keeps a refusal while a more preferred host is slow. Of several, that of the most preferred host counts.
    fn keep(&mut self, runner: Runner, judged: Judged) {
        self.race.close_behind(runner.number);
        let now = self.env.clock.now();
        let planned = settle::planned_after(&self.claim, &judged, self.triplet.as_ref(), now);
        let left = self.claim.message().expires_at.since(now);
        let least = runner.began.plus(KEPT_LEAST.min(left / 3));
        let until = planned.map_or(now.plus(KEPT_MAX), |planned| planned.max(least).min(now.plus(KEPT_MAX)));
        let from = self.peer(&runner);
        self.kept = Some(Kept { judged, runner, from, at: now, until });
        self.race.look_at(self.env.clock.instant() + MOMENT + until.since(now));
        self.race.hold();
    }

    fn kept_or_nobody(&mut self, connection: &mut Option<Box<Connection>>) -> End {
        self.race.close();
        let Some(Kept { judged, runner, from, at, .. }) = self.kept.take() else { return End::Nobody };
        *connection = Some(runner.connection);
        End::NotDelivered { judged, from, at }
    }

    /// Looks whether the entry is still wanted, and by this way.
    fn look(&mut self, connection: &mut Option<Box<Connection>>) -> ControlFlow<End> {
        let now = self.env.clock.now();
        let is_over = self.claim.message().expires_at.minus(END_MARGIN) <= now;
        if let Err(gone) = if is_over { Err(Gone::Expired) } else { self.claim.check(now) } {
            let slow = self.slow();
            self.race.close();
            return ControlFlow::Break(End::Gone(gone, slow.map(|(host, judged)| Peer::silent(host, &judged))));
        }
        self.claim.renew(now, LOOK);
        if self.kept.as_ref().is_some_and(|kept| kept.until <= now) {
            return ControlFlow::Break(self.kept_or_nobody(connection));
        }
        let only_waits = self.kept.is_none() && self.race.only_waits(&self.candidates);
        let slow = self.slow().filter(|_| only_waits);
        match slow.filter(|(_, judged)| settle::has_another_way(&self.claim, judged, &self.ways, now)) {
            Some((host, judged)) => {
                self.race.close();
                ControlFlow::Break(End::Slow { host, judged })
            }
            None => ControlFlow::Continue(()),
        }
    }

    /// A host that is slow, and what it would come to if it stayed silent.
    fn slow(&self) -> Option<(Arc<str>, Judged)> {
        self.race.field().slow().map(|(host, failure)| (host, failure.into()))
    }

    /// Settles the claim.
    async fn conclude(self, end: End) {
        let Self { env, site, held, claim, ways, content, caller, candidates, race, .. } = self;
        let entry = claim.id();
        let now = env.clock.now();
        let met_slow_hosts = race.met_slow_hosts();
        let waits = matches!(end, End::Nobody) && waits_for_session(env, site, &claim, &candidates);
        if !waits {
            site.crowd(|crowd| crowd.left(&entry));
        }
        let last = end.reply(&candidates).map(Reply::to_string);
        let results = race.steps.results();
        let mask = Mask::of(results.iter().map(String::as_str).chain(last.as_deref()), &content).await;
        let steps = race.steps.finish(&mask);
        match end {
            End::Delivered { reply, from, began } => {
                let instant = env.clock.instant();
                held.took_mail(instant);
                if site.succeeded(caller, began, instant) {
                    env.sites.start_waiting(site);
                }
                settle::delivered(claim, &reply, &mask, from.with_steps(steps), &ways, now);
            }
            // A host that was not heard may have what the others lack.
            End::NotDelivered { judged, at, .. } if is_lacking(&judged.failure) && candidates.has_unheard() => {
                let (destination, judged) = candidates.last_failure.map_or((None, judged), |(h, j)| (Some(h), j));
                settle::not_delivered(claim, &judged, &mask, Peer::at(destination).with_steps(steps), &ways, at);
            }
            End::NotDelivered { judged, from, at } => {
                settle::not_delivered(claim, &judged, &mask, from.with_steps(steps), &ways, at);
            }
            End::Slow { host, judged } => {
                settle::not_delivered(claim, &judged, &mask, Peer::at(Some(host)).with_steps(steps), &ways, now);
            }
            End::Nobody => {
                let nobody = || Failure { stage: Stage::Connect, fault: Fault::Closed }.into();
                let last = candidates.last_failure;
                let (destination, judged) = last.clone().map_or_else(|| (None, nobody()), |(h, j)| (Some(h), j));
                let from = Peer::at(destination).with_steps(steps);
                if waits {
                    return settle::waits_for_session(claim, &judged.failure, &mask, from, now);
                }
                settle::not_delivered(claim, &judged, &mask, from, &ways, now);
                if !met_slow_hosts {
                    env.nobody_answered(site, last, &caller, Some(entry));
                }
            }
            End::GaveWay => {
                let silent = Failure { stage: Stage::Connect, fault: Fault::Timeout }.into();
                let destination = candidates.last_failure.map(|(host, _)| host);
                let from = Peer::at(destination).with_steps(steps).with_note(GAVE_WAY);
                settle::not_delivered(claim, &silent, &mask, from, &ways, now);
            }
            End::Gone(gone, from) => {
                settle::gone(claim, gone, from.unwrap_or_default().with_steps(steps), now);
            }
            End::NotNoted(from) => settle::not_noted(claim, from.with_steps(steps), now),
        }
    }

    /// How the session was secured, and how 8-bit content went.
    fn note(&self, connection: &Connection) -> Option<Arc<str>> {
        let is_undeclared = self.claim.message().eight_bit && !connection.offers_eight_bit();
        let undeclared = is_undeclared.then_some("8-bit content as it is: the host does not offer 8BITMIME");
        let security = connection.security().unwrap_or_else(|| CLEAR_TEXT.into());
        Some(undeclared.map_or(security.clone(), |undeclared| format!("{security}; {undeclared}").into()))
    }

    fn peer(&self, runner: &Runner) -> Peer {
        let connection = &runner.connection;
        let (destination, note) = (Some(connection.host.clone()), self.note(connection));
        let attempted = Attempted { destination, note, ..Attempted::default() };
        let by = Greylister { host: connection.host.clone(), address: connection.address.ip() };
        let sender = self.env.settings.own_reverse_path(&self.claim.message().envelope.reverse_path);
        let lesson = self.triplet.clone().map(|triplet| Lesson { triplet, sender, by, began: runner.began });
        Peer { attempted, notifies: connection.offers_dsn(), lesson }
    }
}

/// Whether an entry that came to no session waits for one that is there.
fn waits_for_session(env: &Environment, site: &Arc<Site>, claim: &Claim, candidates: &Candidates) -> bool {
    let Some((_, judged)) = &candidates.last_failure else { return false };
    if !env.turned_away(site, candidates) {
        return false;
    }
    let (now, instant) = (env.clock.now(), env.clock.instant());
    let planned = settle::planned_after(claim, judged, None, now).unwrap_or(claim.message().expires_at);
    let waits = site.crowd(|crowd| crowd.turned_away(claim.id(), instant + planned.since(now), instant));
    if let Waits::Until(until) = waits {
        env.sites.allow_at(site, until, LearnedLimits::let_one_more);
    }
    waits != Waits::No
}
