//! Who is in a race, and how far each has come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::super::places::Beside;
use super::super::steps::Steps;
use super::super::transact::Connection;
use super::seat::Seat;
use crate::base::clock::Timestamp;
use crate::smtp::client_session::{Failure, Fault, Stage};

#[derive(Default)]
pub(in super::super) struct Field {
    contenders: Vec<Contender>,
    /// Sessions that wait before MAIL.
    waiting: Vec<Runner>,
    /// Numbers given so far: who has a lower one is preferred.
    count: u32,
}

/// Somebody in the race.
pub(super) struct Contender {
    pub(super) number: u32,
    pub(super) host: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) since: Instant,
    pub(super) phase: Phase,
    /// Where it is slow now, and whether it ever was.
    pub(super) slow: Option<Stage>,
    pub(super) was_slow: bool,
    /// Its commands went in one write.
    pub(super) pipelines: bool,
    /// It does not answer all of them, and the same address is asked beside it, one command at a time.
    pub(super) is_doubled: bool,
    pub(super) seat: Option<Seat>,
    /// Room for a connection that is being made, if it is not the only one.
    pub(super) beside: Option<Beside>,
    pub(super) gives_way: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Dialing,
    Opening,
    Waiting,
    Transacting,
}

/// A session in the race.
pub(in super::super) struct Runner {
    /// Who has a lower one is preferred.
    pub(in super::super) number: u32,
    pub(in super::super) connection: Box<Connection>,
    pub(in super::super) steps: Steps,
    pub(in super::super) began: Timestamp,
    pub(in super::super) began_at: Instant,
    /// Whether its session was there before this attempt, so that the host may have ended it meanwhile.
    pub(in super::super) is_reused: bool,
    pub(super) seat: Option<Seat>,
}

impl Contender {
    pub(super) fn has_answered(&self) -> bool {
        self.phase != Phase::Dialing
    }
}

impl Field {
    /// One more; its number.
    pub(super) fn add(&mut self, host: Arc<str>, address: SocketAddr, phase: Phase, since: Instant) -> u32 {
        let number = self.count;
        self.count += 1;
        self.contenders.push(Contender {
            number,
            host,
            address,
            since,
            phase,
            slow: None,
            was_slow: false,
            pipelines: false,
            is_doubled: false,
            seat: None,
            beside: None,
            gives_way: CancellationToken::new(),
        });
        number
    }

    pub(super) fn all(&self) -> &[Contender] {
        &self.contenders
    }

    pub(super) fn get(&mut self, number: u32) -> Option<&mut Contender> {
        self.contenders.iter_mut().find(|contender| contender.number == number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.contenders.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.contenders.len()
    }

    /// Whether this is the one that began last.
    pub(super) fn is_last(&self, number: u32) -> bool {
        number + 1 == self.count
    }

    /// Takes one out whose leg has ended.
    pub(super) fn take(&mut self, number: u32) -> Option<Contender> {
        let at = self.contenders.iter().position(|contender| contender.number == number)?;
        Some(self.contenders.remove(at))
    }

    /// Takes out the most preferred one that is slow, and where. Its leg ends.
    pub(super) fn take_slow(&mut self) -> Option<(Contender, Stage)> {
        let (number, stage) = self.contenders.iter().find_map(|one| Some((one.number, one.slow?)))?;
        let left = self.take(number)?;
        left.gives_way.cancel();
        self.waiting.retain(|runner| runner.number != number);
        Some((left, stage))
    }

    /// Ends those for whom this holds.
    pub(super) fn remove(&mut self, is_out: impl Fn(&Contender) -> bool) {
        let waiting = &mut self.waiting;
        self.contenders.retain(|contender| {
            if is_out(contender) {
                contender.gives_way.cancel();
                waiting.retain(|runner| runner.number != contender.number);
            }
            !is_out(contender)
        });
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.contenders.clear();
    }

    /// A session waits for its turn.
    pub(super) fn wait(&mut self, runner: Runner) {
        self.waiting.push(runner);
    }

    /// The most preferred session that waits, unless another is within its time with its transaction.
    pub(super) fn whose_turn(&mut self) -> Option<Runner> {
        if self.waiting.is_empty() || self.is_held() {
            return None;
        }
        self.waiting.sort_by_key(|runner| runner.number);
        Some(self.waiting.remove(0))
    }

    /// Whether a session is within its time with its transaction.
    pub(super) fn is_held(&self) -> bool {
        self.contenders.iter().any(|contender| contender.phase == Phase::Transacting && contender.slow.is_none())
    }

    pub(super) fn is_slow(&self) -> bool {
        self.contenders.iter().all(|contender| contender.slow.is_some())
    }

    /// Whether somebody has taken the connection.
    pub(super) fn has_session(&self) -> bool {
        self.contenders.iter().any(Contender::has_answered)
    }

    /// Whether somebody else than this one has.
    pub(super) fn has_other_than(&self, number: u32) -> bool {
        self.contenders.iter().any(|contender| contender.number != number && contender.has_answered())
    }

    /// Whether a session that is preferred over this one is still there.
    pub(in super::super) fn has_before(&self, runner: &Runner) -> bool {
        self.contenders.iter().any(|contender| contender.number < runner.number && contender.has_answered())
    }

    /// Whether a session with another host is still there.
    pub(in super::super) fn has_other_host(&self, host: &str) -> bool {
        self.contenders.iter().any(|contender| contender.host.as_ref() != host && contender.has_answered())
    }

    pub(super) fn was_slow(&self, number: u32) -> bool {
        self.contenders.iter().any(|contender| contender.number == number && contender.was_slow)
    }

    /// Where the most preferred of the slow ones is slow.
    pub(in super::super) fn slow(&self) -> Option<(Arc<str>, Failure)> {
        self.contenders.iter().find_map(|contender| {
            let failure = Failure { stage: contender.slow?, fault: Fault::Timeout };
            Some((contender.host.clone(), failure))
        })
    }

    /// Whether a session with this address does not answer all of what went in one write.
    pub(in super::super) fn is_doubled(&self, address: SocketAddr) -> bool {
        self.contenders.iter().any(|contender| contender.is_doubled && contender.address == address)
    }

    /// The addresses that are asked.
    pub(in super::super) fn addresses(&self) -> Vec<SocketAddr> {
        self.contenders.iter().map(|contender| contender.address).collect()
    }
}
