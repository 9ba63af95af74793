//! One attempt, stage by stage: gate, load, then connect and transact until the outcome is known, conclude.
//!
//! Several sessions can be in one attempt ([`super::race`]). What one of them says before content was sent counts so:
//!
//! - Silence, noise, a lost connection, or a refusal for which another host may do better: the next session or address.
//! - Any other refusal, greylisting too, ends the attempt as if there were no other session. Less preferred ones do not
//!   delay it. While a more preferred one is slow, the refusal is kept: the slow host may still accept. The attempt ends
//!   with the refusal when no such session is left, when the attempt that follows the refusal would be due, but not
//!   before [`KEPT_LEAST`], and after [`KEPT_MAX`] at the latest. The next attempt is then due as the plan had it.
//! - Where a smart host, or direct delivery instead of one, would be tried at once if the attempt ended, slow sessions are
//!   given up for it.

mod claimed_entry;
mod conclude;
mod loaded;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::candidates::Candidates;
use super::environment::Environment;
use super::judged_failure::JudgedFailure;
use super::lacking::{is_lacking, is_stale, next_host_may_do, tries_next_address};
use super::mask::Mask;
use super::peer::Peer;
use super::places::HeldPlace;
use super::planning::{fails_over, planned_after};
use super::race::{Advance, LOOK, Race, Runner};
use super::sessions::Assignment;
use super::site::Site;
use super::transact::Connection;
use crate::base::clock::Timestamp;
use crate::destination::route::Route;
use crate::ledger::entry::LostClaim;
use crate::queue::claim::{Claim, NotReleased};
use crate::smtp::client_session::{Bdat, EightBit, Failure, Fault, Framing, Requirement, Suspicion, Transaction};
use crate::smtp::extension::{Feature, Features};
use crate::smtp::reply::Reply;
use claimed_entry::{AtHand, ClaimedEntry};
use conclude::{Conclusion, End, waits_for_session};
use loaded::LoadedEntry;

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

/// Where an attempt is made.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) env: &'a Arc<Environment>,
    pub(super) site: &'a Arc<Site>,
    /// The place of its session.
    pub(super) held: &'a HeldPlace,
}

struct Attempt<'a> {
    at: At<'a>,
    loaded: LoadedEntry,
    candidates: Candidates,
    race: Race,
    kept: Option<KeptRefusal>,
    /// What is not used any more, because a host did not support it.
    left_out: Features,
    /// Hosts that do not offer 8BITMIME, and were passed over.
    passed_over: Vec<Arc<str>>,
}

/// A refusal that counts unless a more preferred host accepts.
struct KeptRefusal {
    judged: JudgedFailure,
    runner: Runner,
    from: Peer,
    at: Timestamp,
    /// Until when others are waited for.
    until: Timestamp,
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

/// Tries to deliver one entry, on the connection that is there, in a race that was begun before it came, or on a new
/// connection; leaves the connection for the next.
pub(super) async fn make(at: At<'_>, connection: &mut Option<Box<Connection>>, begun: Option<Race>, taken: Assignment) {
    let At { env, site, .. } = at;
    let Some(mut claimed) = ClaimedEntry::new(env, site, taken) else { return };
    let is_at_hand = connection.is_some() || begun.is_some();
    let at_hand = if is_at_hand { AtHand::Session } else { AtHand::Nothing };
    let gated = match claimed.gate(env, site, at_hand).await {
        ControlFlow::Continue(gated) => gated,
        ControlFlow::Break(settlement) => return claimed.settle(settlement, env.clock.now()),
    };
    let content = match claimed.load(env).await {
        ControlFlow::Continue(content) => content,
        ControlFlow::Break(settlement) => return claimed.settle(settlement, env.clock.now()),
    };
    let mut attempt = Attempt::new(at, LoadedEntry::new(env, claimed, gated.triplet, content), &gated.route, begun);
    attempt.connect(connection.take()).await;
    let end = attempt.transact(connection).await;
    attempt.conclude(end).await;
}

impl<'a> Attempt<'a> {
    /// The addresses to try, and nobody in the race but whoever is there already.
    fn new(at: At<'a>, loaded: LoadedEntry, route: &Route, begun: Option<Race>) -> Self {
        let At { env, site, .. } = at;
        let claim = &loaded.claimed.claim;
        let mut candidates = Candidates::new(route, &loaded.caller, site.hop.clone(), &env.dialer);
        candidates.begin_with(loaded.triplet.as_ref().and_then(|triplet| env.queue.greylists().greylister(triplet)));
        if candidates.turns().is_some() {
            site.rotation(|rotation| candidates.take_turn(rotation));
        }
        let mut race = begun.unwrap_or_else(|| Race::new(&env.dialer, &env.sites, site));
        race.steps.add_route(route, claim.message().accepted_at);
        race.field().addresses().into_iter().for_each(|address| candidates.skip(address));
        let (now, instant) = (env.clock.now(), env.clock.instant());
        race.look_at(instant + MOMENT + claim.message().expires_at.minus(END_MARGIN).since(now));
        Self { at, loaded, candidates, race, kept: None, left_out: Features::NONE, passed_over: Vec::new() }
    }

    /// The session that is there takes part, if it is of use.
    async fn connect(&mut self, connection: Option<Box<Connection>>) {
        let Some(connection) = connection else { return };
        if let Some(at_hand) = self.suitable(connection).await {
            self.race.join(at_hand);
        }
    }

    /// Goes on until it is known how the attempt ended; `kept` is where a session goes that may serve the next entry.
    async fn transact(&mut self, kept: &mut Option<Box<Connection>>) -> End {
        loop {
            let Some(advance) = self.advance().await else {
                self.race.close();
                return End::GaveWay;
            };
            let next = match advance {
                Advance::Session(runner) => self.begin(runner).await,
                Advance::Content(runner, framing) => self.send(runner, framing, kept).await,
                Advance::Refused(runner, failure) => self.refused(runner, failure, kept).await,
                Advance::Look => self.look(kept),
                Advance::Nobody => ControlFlow::Break(self.kept_or_nobody(kept)),
                Advance::LostClaim(gone) => ControlFlow::Break(End::LostClaim(gone, None)),
            };
            if let ControlFlow::Break(end) = next {
                return end;
            }
        }
    }

    /// The next thing to do in the race, while the claim is good; none if it has to give way to others.
    async fn advance(&mut self) -> Option<Advance> {
        let (env, claim) = (self.at.env, &mut self.loaded.claimed.claim);
        let permit = || {
            let now = env.clock.now();
            claim.check(now).map(|()| claim.renew(now, env.settings.connect_timeout))
        };
        tokio::select! {
            biased;
            advance = self.race.advance(&mut self.candidates, permit) => Some(advance),
            () = self.at.held.gives_way() => None,
        }
    }

    /// A session is of use only if it is with the host that the triplet waits for, from the address that it knows, and is
    /// as secure as this message has to have it.
    async fn suitable(&mut self, mut current: Box<Connection>) -> Option<Box<Connection>> {
        let demand = self.candidates.demand(&current.host);
        let is_secure_enough = match demand {
            Some(demand) => current.fulfils(demand, &self.at.env.dialer.roots).await,
            None => false,
        };
        if is_secure_enough && self.candidates.suit(&current.host, current.address, current.source) {
            return Some(current);
        }
        current.quit().await;
        None
    }

    async fn begin(&mut self, mut runner: Runner) -> ControlFlow<End> {
        let Some(connection) = self.suitable(runner.connection).await else {
            self.race.leave(runner.number);
            return ControlFlow::Continue(());
        };
        runner.connection = connection;
        self.at.held.is_at(runner.connection.address.ip());
        if !runner.is_reused {
            self.at.env.answered(self.at.site);
        }
        let (began, began_at) = (self.at.env.clock.now(), self.at.env.clock.instant());
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
        let mut transaction = self.loaded.transaction(self.at.env, now);
        let asked = self.at.site.hop.avoids(self.loaded.caller.domain(), &self.at.env.settings);
        transaction.avoid = self.at.env.dialer.avoided(connection, self.left_out, asked);
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
            self.at.env.dialer.suspect(&runner.connection, suspicion);
        }
        self.race.close();
        self.kept = None;
        let clock = &self.at.env.clock;
        match self.loaded.claimed.claim.release_content(clock.now()).await {
            Ok(()) => {}
            Err(NotReleased::LostClaim(gone)) => {
                return ControlFlow::Break(End::LostClaim(gone, Some(self.loaded.peer(self.at.env, &runner))));
            }
            Err(NotReleased::NotNoted) => {
                return ControlFlow::Break(End::NotNoted(self.loaded.peer(self.at.env, &runner)));
            }
        }
        self.loaded.claimed.claim.renew(clock.now(), self.loaded.final_timeout(clock.now()));
        match runner.connection.finish(framing, &self.loaded.content, &mut runner.steps, self.at.held).await {
            Ok(reply) => {
                self.at.env.dialer.record_sloppiness(&runner.connection);
                if self.candidates.turns().is_some() {
                    self.at.site.rotation(|rotation| rotation.took(runner.connection.address));
                }
                let from = self.loaded.peer(self.at.env, &runner);
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
        let now = self.at.env.clock.instant();
        let (host, address) = (runner.connection.host.clone(), runner.connection.address);
        runner.steps.add_failure(&failure, &host, now);
        self.at.env.dialer.record_sloppiness(&runner.connection);
        let judged = JudgedFailure::from(failure);
        if self.at.held.has_to_go() {
            let (from, at) = (self.loaded.peer(self.at.env, &runner).with_note(GAVE_WAY), self.at.env.clock.now());
            return ControlFlow::Break(End::NotDelivered { judged, from, at });
        }
        let judged = self.at.env.dialer.missing_tls(judged, &runner.connection);
        if runner.connection.suspicion().is_none() {
            self.at.env.refused(self.at.site, &runner.connection, &judged, (&self.loaded.caller, runner.began_at));
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
                let (from, at) = (self.loaded.peer(self.at.env, &runner), self.at.env.clock.now());
                self.race.close();
                *kept = Some(runner.connection);
                return ControlFlow::Break(End::NotDelivered { judged, from, at });
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether a failed transaction ends the attempt, or what is tried before that.
    fn then(&mut self, judged: &JudgedFailure, runner: &Runner) -> Then {
        let failure = &judged.failure;
        let host = &runner.connection.host;
        if let Some(features) = self.at.env.dialer.without(&runner.connection, self.left_out) {
            Then::Without(features)
        } else if runner.is_reused && is_stale(failure) {
            Then::Reconnect
        } else if failure.fault == Fault::Unsupported(Requirement::EightBitMime) {
            let address = runner.connection.address;
            let has_others = self.candidates.put_last(host, address) || self.race.field().has_other_host(host);
            if has_others { Then::OthersFirst } else { Then::AsItIs }
        } else if tries_next_address(failure) {
            Then::NextAddress
        } else if next_host_may_do(judged) && self.has_next_host(host, judged) {
            Then::NextHost
        } else {
            Then::Conclude
        }
    }

    /// Whether another host is left, now that this one is done. What the hosts of this attempt lack, others may have.
    fn has_next_host(&mut self, host: &Arc<str>, judged: &JudgedFailure) -> bool {
        self.candidates.skip_host(host)
            || self.race.field().has_other_host(host)
            || (is_lacking(&judged.failure) && self.candidates.take_more())
    }

    /// Keeps a refusal while a more preferred host is slow. Of several, that of the most preferred host counts.
    fn keep(&mut self, runner: Runner, judged: JudgedFailure) {
        self.race.close_behind(runner.number);
        let now = self.at.env.clock.now();
        let planned = planned_after(self.claim(), &judged, self.loaded.triplet.as_ref(), now);
        let left = self.claim().message().expires_at.since(now);
        let least = runner.began.plus(KEPT_LEAST.min(left / 3));
        let until = planned.map_or(now.plus(KEPT_MAX), |planned| planned.max(least).min(now.plus(KEPT_MAX)));
        let from = self.loaded.peer(self.at.env, &runner);
        self.kept = Some(KeptRefusal { judged, runner, from, at: now, until });
        let clock = &self.at.env.clock;
        self.race.look_at(clock.instant() + MOMENT + clock.until_passed(until.since(now)));
        self.race.hold();
    }

    fn kept_or_nobody(&mut self, connection: &mut Option<Box<Connection>>) -> End {
        self.race.close();
        let Some(KeptRefusal { judged, runner, from, at, .. }) = self.kept.take() else { return End::Nobody };
        *connection = Some(runner.connection);
        End::NotDelivered { judged, from, at }
    }

    /// Looks whether the entry is still wanted, and by this way.
    fn look(&mut self, connection: &mut Option<Box<Connection>>) -> ControlFlow<End> {
        let now = self.at.env.clock.now();
        let is_over = self.claim().message().expires_at.minus(END_MARGIN) <= now;
        if let Err(gone) = if is_over { Err(LostClaim::Expired) } else { self.claim().check(now) } {
            let slow = self.slow();
            self.race.close();
            return ControlFlow::Break(End::LostClaim(gone, slow.map(|(host, judged)| Peer::silent(host, &judged))));
        }
        self.loaded.claimed.claim.renew(now, LOOK);
        if self.kept.as_ref().is_some_and(|kept| kept.until <= now) {
            return ControlFlow::Break(self.kept_or_nobody(connection));
        }
        let only_waits = self.kept.is_none() && self.race.only_waits(&self.candidates);
        let slow = self.slow().filter(|_| only_waits);
        match slow.filter(|(_, judged)| fails_over(self.claim(), judged, &self.loaded.claimed.hops, now)) {
            Some((host, judged)) => {
                self.race.close();
                ControlFlow::Break(End::Slow { host, judged })
            }
            None => ControlFlow::Continue(()),
        }
    }

    /// A host that is slow, and what it would come to if it stayed silent.
    fn slow(&self) -> Option<(Arc<str>, JudgedFailure)> {
        self.race.field().slow().map(|(host, failure)| (host, failure.into()))
    }

    /// Settles the entry. What the replies hold of the message is masked.
    async fn conclude(self, end: End) {
        let Self { at, loaded, candidates, race, .. } = self;
        let met_slow_hosts = race.met_slow_hosts();
        let claim = &loaded.claimed.claim;
        let waits = matches!(end, End::Nobody) && waits_for_session(at, claim, &candidates);
        if !waits {
            at.site.crowd(|crowd| crowd.left(&claim.id()));
        }
        if end.asks_others() {
            at.env.asked_in_vain(at.site, &candidates);
        }
        let last = end.reply(&candidates).map(Reply::line);
        let mask = Mask::of(race.steps.like_codes(last.as_deref()), &loaded.content).await;
        let steps = race.steps.finish(&mask);
        Conclusion { at, loaded, candidates, met_slow_hosts, mask, steps, waits }.settle(end);
    }

    fn claim(&self) -> &Claim {
        &self.loaded.claimed.claim
    }
}
