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
//! - When all are slow and no address is left, the addresses are asked once more after [`timing::ROUND`]: a connection can have
//!   been lost without a word.

mod field;
mod legs;
mod seat;
mod timing;

use std::sync::Arc;
use std::time::Instant;

use super::candidates::{Candidate, Candidates};
use super::connect::{Dial, PATIENCE};
use super::dialer::Dialer;
use super::pace::{News, Pulse};
use super::places::Beside;
use super::site::Site;
use super::sites::Sites;
use super::steps::Steps;
use super::transact::{Begun, Connection};
use crate::ledger::entry::LostClaim;
use crate::smtp::client_session::{Failure, Fault, Framing, Stage, Transaction};
pub(super) use field::Runner;
use field::{Contender, Field, Phase};
use legs::{Leg, Legs, RaceEvent};
use seat::Seat;
pub(super) use timing::LOOK;
use timing::Timing;

/// Sessions beside each other at most for which the addresses are asked again.
const ROUND_SESSIONS_MAX: usize = 2;

pub(super) struct Race {
    dialer: Arc<Dialer>,
    sites: Arc<Sites>,
    site: Arc<Site>,
    legs: Legs,
    field: Field,
    timing: Timing,
    met_slow_hosts: bool,
    /// Somebody gave way for want of a place.
    gave_way: bool,
    /// Nobody else is to be asked.
    is_closed: bool,
    pub(super) steps: Steps,
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
    Nobody,
    /// The entry is not to be sent any more.
    LostClaim(LostClaim),
}

/// What the next connection has of the limits.
struct Room {
    seat: Option<Seat>,
    beside: Option<Beside>,
}

impl Race {
    /// A race in which nobody is yet.
    pub(super) fn new(dialer: &Arc<Dialer>, sites: &Arc<Sites>, site: &Arc<Site>) -> Self {
        let now = dialer.instant();
        Self {
            dialer: dialer.clone(),
            sites: sites.clone(),
            site: site.clone(),
            legs: Legs::new(),
            field: Field::default(),
            timing: Timing::new(now),
            met_slow_hosts: false,
            gave_way: false,
            is_closed: false,
            steps: Steps::new(now),
        }
    }

    /// A session that is there already is the first in the race.
    pub(super) fn join(&mut self, mut connection: Box<Connection>) {
        let now = self.now();
        connection.take_opening().into_iter().for_each(|opening| self.steps.absorb(opening));
        let number = self.field.add(connection.host.clone(), connection.address, Phase::Waiting, now);
        connection.enter(self.pulse(number));
        self.timing.next_is_not_due();
        let (steps, began) = (self.steps.beside(now), self.dialer.now());
        let is_reused = connection.transactions() > 0 || connection.has_rested();
        self.field.wait(Runner { number, connection, steps, began, began_at: now, is_reused, seat: None });
    }

    /// Goes on until the caller has to do something. `permit` is asked before each connection.
    pub(super) async fn advance(
        &mut self,
        candidates: &mut Candidates,
        mut permit: impl FnMut() -> Result<(), LostClaim>,
    ) -> Advance {
        loop {
            self.free_seats(candidates);
            if let Some(runner) = self.field.whose_turn() {
                return Advance::Session(runner);
            }
            if let Err(gone) = self.open_next(candidates, &mut permit) {
                return Advance::LostClaim(gone);
            }
            if self.field.is_empty() {
                return Advance::Nobody;
            }
            let wake_at = self.wake_at(candidates);
            let looks = match self.legs.next(wake_at).await {
                RaceEvent::Ended(number, leg) => match self.finished(number, leg, candidates) {
                    Some(advance) => return advance,
                    None => false,
                },
                RaceEvent::News(number, News::Connected) => {
                    self.connected(number, candidates);
                    false
                }
                RaceEvent::News(number, News::Slow(stage)) => self.is_slow(number, stage, candidates),
                RaceEvent::Time => self.time_passed(candidates),
            };
            if looks {
                return Advance::Look;
            }
        }
    }

    /// Begins a transaction in a session. Whoever has not even taken the connection is out.
    pub(super) fn begin(&mut self, mut runner: Runner, transaction: Transaction) {
        self.field.remove(|contender| contender.phase == Phase::Dialing);
        let number = runner.number;
        let Some(contender) = self.field.get(number) else { return };
        (contender.phase, contender.slow) = (Phase::Transacting, None);
        contender.pipelines = runner.connection.pipelines(&transaction);
        self.run(number, async move {
            match runner.connection.begin(&transaction, &mut runner.steps).await {
                Begun::Content(framing) => Leg::Content(runner, framing),
                Begun::Over(failure) => Leg::Refused(runner, failure),
            }
        });
    }

    /// Everybody else's connection ends now.
    pub(super) fn close(&mut self) {
        let now = self.now();
        for contender in self.field.all() {
            if let Some(stage) = contender.slow {
                let text = "no answer yet; closed, as the attempt goes on without it".to_owned();
                self.steps.beside(contender.since).add(stage, &contender.host, text, now);
            }
        }
        self.legs.clear();
        self.field.clear();
        self.timing.next_is_due();
    }

    /// Ends the sessions that are less preferred than this one.
    pub(super) fn close_behind(&mut self, number: u32) {
        self.field.remove(|contender| contender.number > number);
    }

    /// A session that cannot be used is out.
    pub(super) fn leave(&mut self, number: u32) {
        self.field.remove(|contender| contender.number == number);
        self.timing.next_is_due();
    }

    /// The caller is to look at this time, if not before.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.timing.look_at(at);
    }

    /// Nobody else is asked: a refusal stands unless one of those who are in the race accepts.
    pub(super) fn hold(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn field(&self) -> &Field {
        &self.field
    }

    /// Whether another host may have to be asked beside this session: then content must not go before the replies to MAIL
    /// and RCPT are there.
    pub(super) fn is_contested(&self, runner: &Runner) -> bool {
        self.field.has_other_than(runner.number)
            || self.field.was_slow(runner.number)
            || self.dialer.paces.is_slow(&runner.connection.host, self.now())
    }

    /// Whether nothing is left but to wait for slow hosts.
    pub(super) fn only_waits(&self, candidates: &Candidates) -> bool {
        !candidates.may_race() && self.field.is_slow()
    }

    /// Whether a host took the connection and was slow: then somebody is there.
    pub(super) fn met_slow_hosts(&self) -> bool {
        self.met_slow_hosts
    }

    /// Sessions whose places others need more are out.
    fn free_seats(&mut self, candidates: &mut Candidates) {
        let goes = |contender: &Contender| contender.seat.as_ref().is_some_and(Seat::has_to_go);
        for contender in self.field.all().iter().filter(|contender| goes(contender)) {
            let stage = contender.slow.unwrap_or(Stage::Connect);
            candidates.failed(contender.host.clone(), Failure { stage, fault: Fault::Timeout });
        }
        self.field.remove(goes);
    }

    fn open_next(
        &mut self,
        candidates: &mut Candidates,
        permit: &mut impl FnMut() -> Result<(), LostClaim>,
    ) -> Result<(), LostClaim> {
        if !self.timing.is_next_due() || self.field.is_held() || self.is_closed {
            return Ok(());
        }
        if !self.field.is_empty() && !candidates.may_race() {
            if self.gave_way {
                self.make_way(candidates);
            }
            return Ok(());
        }
        if self.timing.has_gone_round() && self.field.len() > ROUND_SESSIONS_MAX {
            self.timing.next_is_not_due();
            return Ok(());
        }
        let Some(room) = self.room_for_next(candidates) else { return Ok(()) };
        let Some(candidate) = candidates.next() else { return Ok(()) };
        permit()?;
        self.open(candidate, candidates, room);
        Ok(())
    }

    /// Room for one more connection, if there is any. A slow one makes way where there is no place beside it.
    fn room_for_next(&mut self, candidates: &mut Candidates) -> Option<Room> {
        // Those beside the first one have a bound of their own, since each takes a descriptor.
        let next = if self.field.is_empty() { None } else { candidates.applicant() };
        let beside = next.as_ref().and_then(|next| self.sites.beside(next));
        if next.is_some() && beside.is_none() {
            self.timing.next_is_due_at(self.now() + PATIENCE);
            return None;
        }
        if !self.field.has_session() {
            return Some(Room { seat: None, beside });
        }
        if let Some(seat) = Seat::take(&self.sites, &self.site) {
            return Some(Room { seat: Some(seat), beside });
        }
        let left = if self.timing.has_gone_round() { None } else { self.make_way(candidates) };
        let Some(seat) = left else {
            self.timing.next_is_not_due();
            return None;
        };
        Some(Room { seat, beside })
    }

    fn open(&mut self, candidate: Candidate, candidates: &Candidates, room: Room) {
        let Candidate { host, address, source, demand, turn } = candidate;
        let (dialer, hop, now) = (self.dialer.clone(), candidates.hop.clone(), self.now());
        let number = self.field.add(host.clone(), address, Phase::Dialing, now);
        if let Some(contender) = self.field.get(number) {
            (contender.seat, contender.beside) = (room.seat, room.beside);
        }
        let (pulse, steps) = (self.pulse(number), self.steps.beside(now));
        self.timing.next_is_due_at(now + PATIENCE);
        self.timing.began(now);
        let began = self.dialer.now();
        let mut dial = Dial { dialer, host, address, source, demand, hop, turn, later: None, pulse, steps };
        self.run(number, async move {
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
        let (mut left, stage) = self.field.take_slow()?;
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
        if let Leg::Session(runner) = leg {
            let contender = self.field.get(number)?;
            (contender.phase, contender.slow) = (Phase::Waiting, None);
            self.field.wait(runner);
            return None;
        }
        let contender = self.field.take(number)?;
        match leg {
            Leg::NoSession(failure, later) => {
                if let Some(why) = later {
                    candidates.later_in_clear(contender.host.clone(), contender.address, why);
                }
                candidates.failed(contender.host, failure);
                self.timing.next_is_due();
                None
            }
            Leg::Content(mut runner, framing) => {
                runner.seat = contender.seat;
                Some(Advance::Content(runner, framing))
            }
            Leg::Refused(mut runner, failure) => {
                runner.seat = contender.seat;
                self.timing.next_is_due();
                Some(Advance::Refused(runner, failure))
            }
            Leg::Session(_) | Leg::GaveWay => None,
        }
    }

    /// A session has not said what is due at a stage; says whether the caller has to look.
    fn is_slow(&mut self, number: u32, stage: Stage, candidates: &mut Candidates) -> bool {
        let Some(contender) = self.field.get(number) else { return false };
        (contender.slow, contender.was_slow) = (Some(stage), true);
        // Perhaps the rest of the write was lost.
        let is_rest_due = matches!(stage, Stage::Rcpt | Stage::Data);
        if contender.pipelines && is_rest_due && !std::mem::replace(&mut contender.is_doubled, true) {
            candidates.once_more(contender.host.clone(), contender.address);
        }
        self.met_slow_hosts = true;
        self.timing.next_is_due();
        if candidates.is_at_end() && self.field.is_slow() {
            candidates.take_more();
        }
        true
    }

    /// An address took the connection. If another did before it, it needs a place, or has to wait for its turn.
    fn connected(&mut self, number: u32, candidates: &mut Candidates) {
        let (is_first, is_last) = (!self.field.has_session(), self.field.is_last(number));
        let Some(contender) = self.field.get(number) else { return };
        if contender.phase == Phase::Dialing {
            contender.phase = Phase::Opening;
        }
        if let Some(seat) = &contender.seat {
            seat.is_at(contender.address);
        }
        if !is_first && contender.seat.is_none() {
            contender.seat = Seat::take(&self.sites, &self.site);
            if contender.seat.is_none() {
                let (host, address) = (contender.host.clone(), contender.address);
                self.field.remove(|contender| contender.number == number);
                candidates.put_back(host, address);
                return;
            }
        }
        if is_last {
            let now = self.dialer.instant();
            self.timing.be_patient_until(now + self.dialer.paces.opening(&contender.host, now));
        }
    }

    fn wake_at(&self, candidates: &Candidates) -> Instant {
        self.timing.wake_at(candidates.may_race(), self.may_go_round(candidates))
    }

    /// Takes up that it is later now; says whether the caller has to look.
    fn time_passed(&mut self, candidates: &mut Candidates) -> bool {
        let now = self.now();
        self.timing.patience_may_end(now);
        if self.may_go_round(candidates) && self.timing.goes_round(now) {
            candidates.begin_anew();
        }
        self.timing.looks(now)
    }

    fn may_go_round(&self, candidates: &Candidates) -> bool {
        self.field.is_slow() && candidates.is_at_end() && self.field.len() <= ROUND_SESSIONS_MAX
    }

    fn run(&mut self, number: u32, leg: impl Future<Output = Leg> + Send + 'static) {
        if let Some(contender) = self.field.get(number) {
            self.legs.run(number, contender.gives_way.clone(), leg);
        }
    }

    fn pulse(&self, number: u32) -> Pulse {
        self.legs.pulse(number, &self.dialer.paces)
    }

    fn now(&self) -> Instant {
        self.dialer.instant()
    }
}
