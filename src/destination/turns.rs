//! Turns for what is done over the network on behalf of a zone, so many at once: zones that have answered before come
//! first, each zone has its share, and one that was silent lately waits for the others. Among zones of which nothing is
//! known the latest goes first: a flood of them is served last where it came first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shares::{Shares, Standing};
use crate::base::clock::Clock;
use crate::mail::registrable::registrable_domain;

/// How long a zone is known that gave an answer.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long a zone that was silent comes last, unless it answers.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Zones remembered at most.
const ZONES_MAX: usize = 10_000;
/// Those that wait for a turn at most.
const WAITING_MAX: usize = 20_000;

/// Who waits, by the order in which they are asked.
const ORDER: [Standing; 3] = [Standing::Known, Standing::Unknown, Standing::Suspect];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnOutcome {
    /// The zone gave what it was asked for.
    Found,
    /// It said that there is nothing.
    Nothing,
    Silent,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

/// The turns; clones are the same ones.
#[derive(Clone)]
pub(super) struct Turns(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    shares: Shares<Arc<str>>,
    room: Shares<Arc<str>>,
    lines: [Line; ORDER.len()],
    zones: HashMap<Arc<str>, Zone>,
}

/// Within a zone, who came first goes first.
#[derive(Default)]
struct Line {
    /// The next one at the back.
    ring: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<Turn>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Zone {
    answered_at: Option<Instant>,
    silent_at: Option<Instant>,
}

/// A turn under way. It ends when it is dropped.
pub(super) struct Turn {
    turns: Turns,
    zone: Arc<str>,
    standing: Standing,
    is_given_back: bool,
}

impl Turns {
    pub(super) fn new(at_once: usize, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            shares: Shares::new(at_once),
            room: Shares::without_kept(WAITING_MAX),
            lines: Default::default(),
            zones: HashMap::new(),
        };
        Self(Arc::new(Inner { clock, state: Mutex::new(state) }))
    }

    /// A turn for what is asked about a name.
    ///
    /// # Errors
    /// When too many wait for one.
    pub(super) async fn take(&self, name: &str) -> Result<Turn, TooMany> {
        let promise = {
            let now = self.0.clock.instant();
            let mut state = self.0.state.lock();
            let zone = Arc::<str>::from(registrable_domain(name));
            let standing = state.standing(&zone, now);
            let is_first = !state.lines[line(standing)].waiting.contains_key(&zone);
            if is_first && state.shares.take(std::slice::from_ref(&zone), standing).is_ok() {
                return Ok(Turn { turns: self.clone(), zone, standing, is_given_back: false });
            }
            state.wait(zone, standing)?
        };
        // Whoever ends a turn gives it to the next; the sender is never dropped before that.
        promise.await.map_err(|_| TooMany)
    }

    /// What becomes of a zone's standing, and whose turn it is.
    fn ended(&self, turn: &Turn, how: TurnOutcome) {
        let now = self.0.clock.instant();
        self.0.state.lock().learn(&turn.zone, how, now);
    }

    /// Gives a place that came free to whoever is next, for as long as there are both.
    fn pass_on(&self) {
        loop {
            let Some((zone, standing, sender)) = self.0.state.lock().next() else { return };
            let turn = Turn { turns: self.clone(), zone, standing, is_given_back: false };
            if let Err(mut turn) = sender.send(turn) {
                // Nobody waits for it any more. Its drop would lead back to this place.
                turn.give_back();
            }
        }
    }
}

impl Turn {
    /// The turn is over, and so it went.
    pub(super) fn end(self, how: TurnOutcome) {
        self.turns.ended(&self, how);
    }

    fn give_back(&mut self) {
        self.is_given_back = true;
        self.turns.0.state.lock().shares.give_back(std::slice::from_ref(&self.zone), self.standing);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.give_back();
            self.turns.pass_on();
        }
    }
}

impl State {
    fn standing(&self, zone: &str, now: Instant) -> Standing {
        let lately = |at: Option<Instant>, span| at.is_some_and(|at| now.saturating_duration_since(at) < span);
        match self.zones.get(zone) {
            Some(zone) if lately(zone.silent_at, SILENT_FOR) => Standing::Suspect,
            Some(zone) if lately(zone.answered_at, KNOWN_FOR) => Standing::Known,
            Some(_) | None => Standing::Unknown,
        }
    }

    fn learn(&mut self, zone: &Arc<str>, how: TurnOutcome, now: Instant) {
        if self.zones.len() >= ZONES_MAX && !self.zones.contains_key(zone) {
            self.zones.retain(|_, zone| {
                let latest = zone.answered_at.max(zone.silent_at);
                latest.is_some_and(|at| now.saturating_duration_since(at) < KNOWN_FOR)
            });
            if self.zones.len() >= ZONES_MAX {
                return;
            }
        }
        let known = self.zones.entry(zone.clone()).or_default();
        match how {
            TurnOutcome::Found => *known = Zone { answered_at: Some(now), silent_at: None },
            TurnOutcome::Nothing => known.silent_at = None,
            TurnOutcome::Silent => known.silent_at = Some(now),
        }
    }

    fn wait(&mut self, zone: Arc<str>, standing: Standing) -> Result<oneshot::Receiver<Turn>, TooMany> {
        self.room.take(std::slice::from_ref(&zone), standing).map_err(|_| TooMany)?;
        let (sender, receiver) = oneshot::channel();
        let Line { ring, waiting } = &mut self.lines[line(standing)];
        let of_zone = waiting.entry(zone.clone()).or_default();
        if of_zone.is_empty() {
            match standing {
                Standing::Known => ring.push_front(zone),
                Standing::Unknown | Standing::Suspect => ring.push_back(zone),
            }
        }
        of_zone.push_back(sender);
        Ok(receiver)
    }

    /// The next one that may have a place, which it has then.
    fn next(&mut self) -> Option<(Arc<str>, Standing, oneshot::Sender<Turn>)> {
        for standing in ORDER {
            let Line { ring, waiting } = &mut self.lines[line(standing)];
            // Only zones that hold some already are passed over, and those are fewer than there are places.
            for _ in 0..ring.len() {
                if self.shares.free(standing) == 0 {
                    break;
                }
                let Some(zone) = ring.pop_back() else { break };
                if self.shares.take(std::slice::from_ref(&zone), standing).is_err() {
                    ring.push_front(zone);
                    continue;
                }
                let of_zone = waiting.get_mut(&zone);
                let (sender, is_last) = of_zone.map_or((None, true), |line| (line.pop_front(), line.is_empty()));
                if is_last {
                    waiting.remove(&zone);
                } else {
                    ring.push_front(zone.clone());
                }
                self.room.give_back(std::slice::from_ref(&zone), standing);
                // A zone is in the ring only while somebody waits there.
                return sender.map(|sender| (zone, standing, sender));
            }
        }
        None
    }
}

fn line(standing: Standing) -> usize {
    match standing {
        Standing::Known => 0,
        Standing::Unknown => 1,
        Standing::Suspect => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{ManualClock, Timestamp};

    fn turns(at_once: usize) -> Turns {
        Turns::new(at_once, Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000))))
    }

    /// Begins to wait for a turn.
    fn begin(turns: &Turns, name: &str) -> tokio::task::JoinHandle<Result<Turn, TooMany>> {
        let (turns, name) = (turns.clone(), name.to_owned());
        tokio::spawn(async move { turns.take(&name).await })
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    fn used(turns: &Turns) -> usize {
        turns.0.state.lock().shares.used()
    }

    #[tokio::test(start_paused = true)]
    async fn zones_that_have_answered_come_first_and_silent_ones_last() {
        let turns = turns(3);
        turns.take("www.good.test").await.ok().unwrap().end(TurnOutcome::Found);
        turns.take("bad.test").await.ok().unwrap().end(TurnOutcome::Silent);
        let first = turns.take("one.test").await.ok().unwrap();
        let second = turns.take("two.test").await.ok().unwrap();
        let mut suspect = begin(&turns, "mx.bad.test");
        settle().await;
        let mut unknown = begin(&turns, "new.test");
        settle().await;
        let known = turns.take("mx.good.test").await.ok().unwrap();
        drop(first);
        assert!((&mut unknown).await.unwrap().is_ok(), "before one that came earlier");
        assert!(!suspect.is_finished());
        drop((second, known));
        assert!((&mut suspect).await.unwrap().is_ok());
        assert_eq!(used(&turns), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_has_its_share_and_what_nobody_waits_for_goes_to_the_next() {
        let turns = turns(30);
        let many: Vec<_> = (0..1000).map(|number| begin(&turns, &format!("{number}.zone.test"))).collect();
        settle().await;
        assert_eq!(used(&turns), 2, "of the 20 that are not kept");
        let mut other = turns.take("other.test").await.ok();
        assert!(other.take().is_some(), "another zone need not wait");
        // All but the last one give up, some of them with a turn that has not reached them.
        let mut many = many;
        let last = many.pop().unwrap();
        for one in many {
            one.abort();
        }
        assert!(last.await.unwrap().is_ok());
        settle().await;
        assert_eq!(used(&turns), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_bounded() {
        let turns = turns(3);
        let held = turns.take("zone.test").await.ok().unwrap();
        let many: Vec<_> = (0..WAITING_MAX).map(|number| begin(&turns, &format!("{number}.zone.test"))).collect();
        while many.iter().filter(|one| one.is_finished()).count() < WAITING_MAX * 3 / 4 {
            settle().await;
        }
        let refused = turns.take("more.zone.test").await;
        assert_eq!(refused.err(), Some(TooMany));
        drop(held);
        for one in many {
            one.abort();
        }
    }
}
