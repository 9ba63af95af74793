//! The sessions of one attempt beside each other.
//!
//! - The addresses of a destination race for a session (RFC 8305 section 5): the next one is asked when the one before has
//!   refused, has not taken the connection within a moment, or has taken it and is slow. The first session takes the
//!   transaction; whoever has not taken the connection by then is out.
//! - A host is slow at a stage when it has not answered within the short limit, or within what it was seen to need. It
//!   stays in the race while others are asked beside it, as long as the life allows (RFC 5321 section 4.5.3.2).
//! - While a session is within its time with MAIL, RCPT and DATA, all others wait before MAIL, and no other is opened.
//! - Content is sent by one session only. Who is about to send it comes out of the race as [`Advance::Content`]; the
//!   caller closes the race before the first octet goes. So nobody is asked beside it, and whoever was at the same point
//!   is dropped without the final dot.
//! - A session beside another takes a place of its own within all limits. Where there is none, the slow one gives way to
//!   the next address, and then also the last one does not wait beyond the short limit.
//! - Where a host answers MAIL and is slow with the rest of what went in one write, the same address is asked beside it,
//!   one command at a time, when no other is left: some hosts lose the rest.
//! - When all are slow and no address is left, the addresses are asked once more after [`ROUND`]: a connection can have
//!   been lost without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::Delivery;
use super::candidates::{Candidate, Candidates};
use super::connect::{Dial, PATIENCE};
use super::pace::{News, Pulse};
use super::places::{Beside, Tenure};
use super::site::Site;
use super::steps::Steps;
use super::transact::{Begun, Connection};
use crate::clock::Timestamp;
use crate::queue::claim::Gone;
use crate::smtp::client_session::{Failure, Fault, Framing, Stage, Transaction};

/// How often the caller looks whether the entry is still wanted.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// How long after the last address was asked the addresses are asked again, while all sessions are slow.
const ROUND: Duration = Duration::from_secs(45);
/// Sessions beside each other at most for which that is done.
const ROUND_SESSIONS_MAX: usize = 2;

/// A race.
pub(super) struct Race {
    delivery: Arc<Delivery>,
    site: Arc<Site>,
    legs: FuturesUnordered<BoxFuture<'static, (u32, Leg)>>,
    field: Vec<Contender>,
    /// Sessions that wait before MAIL, the most preferred first.
    waiting: Vec<Runner>,
    /// What the sessions tell, by number.
    teller: UnboundedSender<(u32, News)>,
    news: UnboundedReceiver<(u32, News)>,
    /// Numbers given so far: who has a lower one is preferred.
    count: u32,
    is_next_due: bool,
    /// How long the one that began last is left alone.
    patience_ends: Option<Instant>,
    began_last_at: Instant,
    looked_at: Instant,
    /// A time at which the caller has to look.
    until: Option<Instant>,
    met_slow_hosts: bool,
    /// Somebody gave way for want of a place.
    gave_way: bool,
    rounds: u32,
    /// Nobody else is to be asked.
    is_closed: bool,
    pub(super) steps: Steps,
}

/// Somebody in the race.
struct Contender {
    number: u32,
    host: Arc<str>,
    address: SocketAddr,
    since: Instant,
    phase: Phase,
    /// Where it is slow now, and whether it ever was.
    slow: Option<Stage>,
    was_slow: bool,
    /// Its commands went in one write.
    pipelines: bool,
    /// It does not answer all of them, and the same address is asked beside it, one command at a time.
    is_doubled: bool,
    seat: Option<Seat>,
    /// Room for a connection that is being made, if it is not the only one.
    beside: Option<Beside>,
    gives_way: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dialing,
    Opening,
    Waiting,
    Transacting,
}

/// A session in the race.
pub(super) struct Runner {
    /// Who has a lower one is preferred.
    pub(super) number: u32,
    pub(super) connection: Box<Connection>,
    pub(super) steps: Steps,
    /// When its transaction began.
    pub(super) began: Timestamp,
    pub(super) began_at: Instant,
    /// Whether its session was there before this attempt, so that the host may have ended it meanwhile.
    pub(super) is_reused: bool,
    seat: Option<Seat>,
}

/// What became of a part of the way.
enum Leg {
    Session(Runner),
    /// And why the address is to be tried in clear text when no other is left.
    NoSession(Failure, Option<Arc<str>>),
    Content(Runner, Framing),
    Refused(Runner, Failure),
    GaveWay,
}

/// What the caller has to do.
pub(super) enum Advance {
    /// Begin a transaction.
    Session(Runner),
    /// Close the race, then send the content.
    Content(Runner, Framing),
    /// Decide what a transaction that ended without content means.
    Refused(Runner, Failure),
    /// Look whether the entry is still wanted.
    Look,
    /// Nobody is left.
    Nobody,
    /// The entry is not to be sent any more.
    Gone(Gone),
}

/// The place of a session beside the first one, within the limits of its destination and of the relay.
struct Seat {
    delivery: Arc<Delivery>,
    site: Arc<Site>,
    /// Among all sessions. It is given back before the site is asked whether it needs another.
    tenure: Option<Tenure>,
}

impl Seat {
    fn take(delivery: &Arc<Delivery>, site: &Arc<Site>) -> Option<Self> {
        let route = site.route();
        let mut taking = delivery.taking(site, &route);
        let is_free = site.join(|| taking.take());
        let tenure = taking.one().filter(|_| is_free)?;
        Some(Self { delivery: delivery.clone(), site: site.clone(), tenure: Some(tenure) })
    }

    /// Whether others need it more.
    fn has_to_go(&self) -> bool {
        self.tenure.as_ref().is_some_and(|tenure| tenure.held().has_to_go())
    }

    /// It is with a host at this address.
    fn is_at(&self, address: SocketAddr) {
        if let Some(tenure) = &self.tenure {
            tenure.held().is_at(address.ip());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.site.leave(None, false);
        drop(self.tenure.take());
        self.delivery.connection_ended(&self.site);
    }
}

impl Contender {
    fn has_answered(&self) -> bool {
        self.phase != Phase::Dialing
    }
}

impl Race {
    /// A race in which nobody is yet.
    pub(super) fn new(delivery: &Arc<Delivery>, site: &Arc<Site>) -> Self {
        let now = delivery.parts.clock.instant();
        let (teller, news) = unbounded_channel();
        Self {
            delivery: delivery.clone(),
            site: site.clone(),
            legs: FuturesUnordered::new(),
            field: Vec::new(),
            waiting: Vec::new(),
            teller,
            news,
            count: 0,
            is_next_due: true,
            patience_ends: None,
            began_last_at: now,
            looked_at: now,
            until: None,
            met_slow_hosts: false,
            gave_way: false,
            rounds: 0,
            is_closed: false,
            steps: Steps::new(now),
        }
    }

    /// A session that is there already is the first in the race.
    pub(super) fn join(&mut self, mut connection: Box<Connection>) {
        let now = self.now();
        connection.take_opening().into_iter().for_each(|opening| self.steps.absorb(opening));
        let number = self.add(connection.host.clone(), connection.address, Phase::Waiting, None);
        connection.enter(self.pulse(number));
        self.is_next_due = false;
        let (steps, began) = (self.steps.beside(now), self.delivery.parts.clock.now());
        let is_reused = connection.transactions() > 0 || connection.has_rested();
        self.waiting.push(Runner { number, connection, steps, began, began_at: now, is_reused, seat: None });
    }

    /// Goes on until the caller has to do something. `permit` is asked before each connection.
    pub(super) async fn advance(
        &mut self,
        candidates: &mut Candidates,
        mut permit: impl FnMut() -> Result<(), Gone>,
    ) -> Advance {
        loop {
            self.free_seats(candidates);
            if let Some(runner) = self.whose_turn() {
                return Advance::Session(runner);
            }
            if let Err(gone) = self.open_next(candidates, &mut permit) {
                return Advance::Gone(gone);
            }
            if self.field.is_empty() {
                return Advance::Nobody;
            }
            let wake_at = self.wake_at(candidates);
            tokio::select! {
                biased;
                Some((number, leg)) = self.legs.next() => {
                    if let Some(advance) = self.finished(number, leg, candidates) {
                        return advance;
                    }
                }
                Some((number, news)) = self.news.recv() => {
                    if self.heard(number, news, candidates) {
                        return Advance::Look;
                    }
                }
                () = tokio::time::sleep_until(wake_at.into()) => {
                    if self.time_passed(candidates) {
                        return Advance::Look;
                    }
                }
            }
        }
    }

    /// Begins a transaction in a session. Whoever has not even taken the connection is out.
    pub(super) fn begin(&mut self, mut runner: Runner, transaction: Transaction) {
        self.remove(|contender| contender.phase == Phase::Dialing);
        let number = runner.number;
        let Some(contender) = self.contender(number) else { return };
        (contender.phase, contender.slow) = (Phase::Transacting, None);
        contender.pipelines = runner.connection.pipelines(&transaction);
        self.push(number, async move {
            match runner.connection.begin(&transaction, &mut runner.steps).await {
                Begun::Content(framing) => Leg::Content(runner, framing),
                Begun::Over(failure) => Leg::Refused(runner, failure),
            }
        });
    }

    /// Everybody else's connection ends now.
    pub(super) fn close(&mut self) {
        let now = self.now();
        for contender in &self.field {
            if let Some(stage) = contender.slow {
                let text = "no answer yet; closed, as the attempt goes on without it".to_owned();
                self.steps.beside(contender.since).add(stage, &contender.host, text, now);
            }
        }
        self.legs = FuturesUnordered::new();
        self.waiting.clear();
        self.field.clear();
        self.is_next_due = true;
    }

    /// Ends the sessions that are less preferred than this one.
    pub(super) fn close_behind(&mut self, number: u32) {
        self.remove(|contender| contender.number > number);
    }

    /// A session that cannot be used is out.
    pub(super) fn leave(&mut self, number: u32) {
        self.remove(|contender| contender.number == number);
        self.is_next_due = true;
    }

    /// The caller is to look at this time, if not before.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
    }

    /// Nobody else is asked: a refusal stands unless one of those who are in the race accepts.
    pub(super) fn hold(&mut self) {
        self.is_closed = true;
    }

    /// Whether a session that is preferred over this one is still in the race.
    pub(super) fn has_before(&self, runner: &Runner) -> bool {
        self.field.iter().any(|contender| contender.number < runner.number && contender.has_answered())
    }

    /// Whether a session with another host is still in the race.
    pub(super) fn has_other_host(&self, host: &str) -> bool {
        self.field.iter().any(|contender| contender.host.as_ref() != host && contender.has_answered())
    }

    /// Whether another host may have to be asked beside this session: then content must not go before the replies to MAIL
    /// and RCPT are there.
    pub(super) fn is_contested(&self, runner: &Runner) -> bool {
        let is_other = |contender: &Contender| contender.number != runner.number && contender.has_answered();
        let was_slow = |contender: &Contender| contender.number == runner.number && contender.was_slow;
        let now = self.now();
        self.field.iter().any(|contender| is_other(contender) || was_slow(contender))
            || self.delivery.paces.is_slow(&runner.connection.host, now)
    }

    /// Where the most preferred of the slow sessions is slow.
    pub(super) fn slow(&self) -> Option<(Arc<str>, Failure)> {
        self.field.iter().find_map(|contender| {
            let failure = Failure { stage: contender.slow?, fault: Fault::Timeout };
            Some((contender.host.clone(), failure))
        })
    }

    /// Whether nothing is left but to wait for slow hosts.
    pub(super) fn only_waits(&self, candidates: &Candidates) -> bool {
        !candidates.may_race() && self.field.iter().all(|contender| contender.slow.is_some())
    }

    /// Whether a host took the connection and was slow: then somebody is there.
    pub(super) fn met_slow_hosts(&self) -> bool {
        self.met_slow_hosts
    }

    /// Whether a session with this address does not answer all of what went in one write.
    pub(super) fn is_doubled(&self, address: SocketAddr) -> bool {
        self.field.iter().any(|contender| contender.is_doubled && contender.address == address)
    }

    /// The addresses that are in the race.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.field.iter().map(|contender| contender.address).collect()
    }

    /// Sessions whose places others need more are out.
    fn free_seats(&mut self, candidates: &mut Candidates) {
        let goes = |contender: &Contender| contender.seat.as_ref().is_some_and(Seat::has_to_go);
        for contender in self.field.iter().filter(|contender| goes(contender)) {
            let stage = contender.slow.unwrap_or(Stage::Connect);
            candidates.failed(contender.host.clone(), Failure { stage, fault: Fault::Timeout });
        }
        self.remove(goes);
    }

    fn whose_turn(&mut self) -> Option<Runner> {
        if self.waiting.is_empty() || self.is_held() {
            return None;
        }
        self.waiting.sort_by_key(|runner| runner.number);
        Some(self.waiting.remove(0))
    }

    /// Whether a session is within its time with its transaction.
    fn is_held(&self) -> bool {
        self.field.iter().any(|contender| contender.phase == Phase::Transacting && contender.slow.is_none())
    }

    fn open_next(
        &mut self,
        candidates: &mut Candidates,
        permit: &mut impl FnMut() -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        if !self.is_next_due || self.is_held() || self.is_closed {
            return Ok(());
        }
        if !self.field.is_empty() && !candidates.may_race() {
            if self.gave_way {
                self.make_way(candidates);
            }
            return Ok(());
        }
        if self.rounds > 0 && self.field.len() > ROUND_SESSIONS_MAX {
            self.is_next_due = false;
            return Ok(());
        }
        // Those beside the first one have a bound of their own, since each takes a descriptor.
        let next = if self.field.is_empty() { None } else { candidates.applicant() };
        let beside = next.as_ref().and_then(|next| self.delivery.places.beside(next));
        if next.is_some() && beside.is_none() {
            (self.is_next_due, self.patience_ends) = (false, Some(self.now() + PATIENCE));
            return Ok(());
        }
        let has_session = self.field.iter().any(Contender::has_answered);
        let mut seat = has_session.then(|| Seat::take(&self.delivery, &self.site)).flatten();
        if has_session && seat.is_none() {
            let Some(left) = (self.rounds == 0).then(|| self.make_way(candidates)).flatten() else {
                self.is_next_due = false;
                return Ok(());
            };
            seat = left;
        }
        let Some(candidate) = candidates.next() else { return Ok(()) };
        permit()?;
        self.open(candidate, candidates, seat);
        if let Some(contender) = self.field.last_mut() {
            contender.beside = beside;
        }
        Ok(())
    }

    fn open(&mut self, candidate: Candidate, candidates: &Candidates, seat: Option<Seat>) {
        let Candidate { host, address, source, demand, turn } = candidate;
        let (delivery, carrier) = (self.delivery.clone(), candidates.carrier.clone());
        let number = self.add(host.clone(), address, Phase::Dialing, seat);
        let (pulse, steps, now) = (self.pulse(number), self.steps.beside(self.now()), self.now());
        (self.is_next_due, self.patience_ends, self.began_last_at) = (false, Some(now + PATIENCE), now);
        let began = self.delivery.parts.clock.now();
        let later = None;
        let mut dial = Dial { delivery, host, address, source, demand, carrier, turn, later, pulse, steps };
        self.push(number, async move {
            match dial.open().await {
                Ok(connection) => {
                    let (steps, is_reused) = (dial.steps, false);
                    Leg::Session(Runner { number, connection, steps, began, began_at: now, is_reused, seat: None })
                }
                Err(failure) => Leg::NoSession(failure, dial.later),
            }
        });
    }

    /// A slow session ends for want of a place for another; its own place, unless it had that of the attempt.
    fn make_way(&mut self, candidates: &mut Candidates) -> Option<Option<Seat>> {
        let at = self.field.iter().position(|contender| contender.slow.is_some())?;
        let mut left = self.field.remove(at);
        let stage = left.slow?;
        left.gives_way.cancel();
        self.waiting.retain(|runner| runner.number != left.number);
        let now = self.now();
        let text = "no answer; given up, as there is no room for another session beside it".to_owned();
        self.steps.beside(left.since).add(stage, &left.host, text, now);
        candidates.skip(left.address);
        candidates.failed(left.host.clone(), Failure { stage, fault: Fault::Timeout });
        self.gave_way = true;
        Some(left.seat.take())
    }

    /// What the end of a leg means for the caller.
    fn finished(&mut self, number: u32, leg: Leg, candidates: &mut Candidates) -> Option<Advance> {
        let at = self.field.iter().position(|contender| contender.number == number)?;
        match leg {
            Leg::Session(runner) => {
                let contender = &mut self.field[at];
                (contender.phase, contender.slow) = (Phase::Waiting, None);
                self.waiting.push(runner);
                None
            }
            Leg::NoSession(failure, later) => {
                let contender = self.field.remove(at);
                if let Some(why) = later {
                    candidates.later_in_clear(contender.host.clone(), contender.address, why);
                }
                candidates.failed(contender.host, failure);
                self.is_next_due = true;
                None
            }
            Leg::Content(mut runner, framing) => {
                runner.seat = self.field.remove(at).seat;
                Some(Advance::Content(runner, framing))
            }
            Leg::Refused(mut runner, failure) => {
                runner.seat = self.field.remove(at).seat;
                self.is_next_due = true;
                Some(Advance::Refused(runner, failure))
            }
            Leg::GaveWay => {
                self.field.remove(at);
                None
            }
        }
    }

    /// Takes up news; says whether the caller has to look.
    fn heard(&mut self, number: u32, news: News, candidates: &mut Candidates) -> bool {
        let now = self.now();
        let is_last = number + 1 == self.count;
        match news {
            News::Connected => self.connected(number, is_last, candidates, now),
            News::Slow(stage) => {
                let Some(contender) = self.contender(number) else { return false };
                (contender.slow, contender.was_slow) = (Some(stage), true);
                // Perhaps the rest of the write was lost.
                let is_rest_due = matches!(stage, Stage::Rcpt | Stage::Data);
                if contender.pipelines && is_rest_due && !std::mem::replace(&mut contender.is_doubled, true) {
                    candidates.once_more(contender.host.clone(), contender.address);
                }
                self.met_slow_hosts = true;
                self.is_next_due = true;
                if candidates.is_at_end() && self.field.iter().all(|contender| contender.slow.is_some()) {
                    candidates.take_more();
                }
            }
        }
        matches!(news, News::Slow(_))
    }

    /// An address took the connection. If another did before it, it needs a place, or has to wait for its turn.
    fn connected(&mut self, number: u32, is_last: bool, candidates: &mut Candidates, now: Instant) {
        let is_first = !self.field.iter().any(Contender::has_answered);
        let (delivery, site) = (self.delivery.clone(), self.site.clone());
        let Some(contender) = self.contender(number) else { return };
        if contender.phase == Phase::Dialing {
            contender.phase = Phase::Opening;
        }
        if let Some(seat) = &contender.seat {
            seat.is_at(contender.address);
        }
        if !is_first && contender.seat.is_none() {
            contender.seat = Seat::take(&delivery, &site);
            if contender.seat.is_none() {
                let (host, address) = (contender.host.clone(), contender.address);
                self.remove(|contender| contender.number == number);
                candidates.put_back(host, address);
                return;
            }
        }
        if is_last {
            let opening = delivery.paces.opening(&contender.host, now);
            self.patience_ends = Some(now + opening);
        }
    }

    fn wake_at(&self, candidates: &Candidates) -> Instant {
        let patience_ends = self.patience_ends.filter(|_| !self.is_next_due && candidates.may_race());
        let round = self.may_go_round(candidates).then(|| self.began_last_at + ROUND);
        let others = [patience_ends, round, self.until];
        others.into_iter().flatten().fold(self.looked_at + LOOK, Instant::min)
    }

    /// Takes up that it is later now; says whether the caller has to look.
    fn time_passed(&mut self, candidates: &mut Candidates) -> bool {
        let now = self.now();
        if self.patience_ends.is_some_and(|at| at <= now) {
            self.patience_ends = None;
            self.is_next_due = true;
        }
        if self.may_go_round(candidates) && self.began_last_at + ROUND <= now {
            self.rounds += 1;
            self.began_last_at = now;
            candidates.begin_anew();
            self.is_next_due = true;
        }
        let is_over = self.until.is_some_and(|until| until <= now);
        if is_over {
            self.until = None;
        }
        let looks = is_over || self.looked_at + LOOK <= now;
        if looks {
            self.looked_at = now;
        }
        looks
    }

    fn may_go_round(&self, candidates: &Candidates) -> bool {
        let all_slow = self.field.iter().all(|contender| contender.slow.is_some());
        all_slow && candidates.is_at_end() && self.field.len() <= ROUND_SESSIONS_MAX
    }

    fn add(&mut self, host: Arc<str>, address: SocketAddr, phase: Phase, seat: Option<Seat>) -> u32 {
        let (number, since) = (self.count, self.now());
        self.count += 1;
        self.field.push(Contender {
            number,
            host,
            address,
            since,
            phase,
            slow: None,
            was_slow: false,
            pipelines: false,
            is_doubled: false,
            seat,
            beside: None,
            gives_way: CancellationToken::new(),
        });
        number
    }

    fn push(&mut self, number: u32, leg: impl Future<Output = Leg> + Send + 'static) {
        let Some(contender) = self.contender(number) else { return };
        let gives_way = contender.gives_way.clone();
        let leg = async move {
            tokio::select! {
                biased;
                () = gives_way.cancelled() => (number, Leg::GaveWay),
                leg = leg => (number, leg),
            }
        };
        self.legs.push(leg.boxed());
    }

    fn remove(&mut self, is_out: impl Fn(&Contender) -> bool) {
        let waiting = &mut self.waiting;
        self.field.retain(|contender| {
            if is_out(contender) {
                contender.gives_way.cancel();
                waiting.retain(|runner| runner.number != contender.number);
            }
            !is_out(contender)
        });
    }

    fn contender(&mut self, number: u32) -> Option<&mut Contender> {
        self.field.iter_mut().find(|contender| contender.number == number)
    }

    fn pulse(&self, number: u32) -> Pulse {
        Pulse { number, news: self.teller.clone(), paces: self.delivery.paces.clone() }
    }

    fn now(&self) -> Instant {
        self.delivery.parts.clock.instant()
    }
}
