//! Lanes: which message goes first where several wait, everywhere in the relay by the same rule.
//!
//! The most urgent lane that has something waiting goes first. A lower lane that was passed over often enough goes
//! once, so that it keeps a share however much is urgent; a lane that has just gone has no claim, so that a code that
//! arrives among thousands of notices is the next to go.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

/// How urgent a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// One-time codes and login links: a person waits for it now.
    #[default]
    Otp,
    /// Password resets and the like: a person waits.
    Reset,
    /// Anything else.
    Notice,
}

/// All lanes, the most urgent first.
pub const LANES: [Lane; 3] = [Lane::Otp, Lane::Reset, Lane::Notice];

/// How often a waiting lane is passed over before it goes once.
const PATIENCE: [u32; 3] = [u32::MAX, 4, 16];

impl Lane {
    /// As in configuration, header fields and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Otp => "otp",
            Self::Reset => "reset",
            Self::Notice => "notice",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Otp => 0,
            Self::Reset => 1,
            Self::Notice => 2,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a lane is otp, reset or notice")]
pub struct LaneError;

impl FromStr for Lane {
    type Err = LaneError;

    fn from_str(text: &str) -> Result<Self, LaneError> {
        LANES.into_iter().find(|lane| lane.name().eq_ignore_ascii_case(text)).ok_or(LaneError)
    }
}

/// Decides which lane goes next, and remembers who was passed over.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    passed_over: [u32; 3],
}

impl Turn {
    /// The lane to take from, given which have something waiting; none if none has.
    pub fn next(&mut self, is_waiting: impl Fn(Lane) -> bool) -> Option<Lane> {
        let impatient = |lane: &Lane| self.passed_over[lane.index()] >= PATIENCE[lane.index()];
        let waiting = || LANES.into_iter().filter(|lane| is_waiting(*lane));
        let chosen = waiting().find(impatient).or_else(|| waiting().next())?;
        for lane in waiting() {
            self.passed_over[lane.index()] += 1;
        }
        self.passed_over[chosen.index()] = 0;
        Some(chosen)
    }
}

/// First in, first out within a lane; [`Turn`] between them.
#[derive(Debug)]
pub struct Lanes<T> {
    waiting: [VecDeque<T>; 3],
    turn: Turn,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { waiting: [VecDeque::new(), VecDeque::new(), VecDeque::new()], turn: Turn::default() }
    }
}

impl<T> Lanes<T> {
    /// Puts an item at the end of its lane.
    pub fn push(&mut self, lane: Lane, item: T) {
        self.waiting[lane.index()].push_back(item);
    }

    /// Takes the item whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let waiting = &self.waiting;
        let lane = self.turn.next(|lane| !waiting[lane.index()].is_empty())?;
        self.waiting[lane.index()].pop_front()
    }

    /// Items in all lanes.
    pub fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }
}

/// [`Lanes`] between threads. Pushing never waits: whoever pushes is bounded elsewhere.
#[derive(Debug)]
pub struct LaneQueue<T> {
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    lanes: Lanes<T>,
    closed: bool,
}

/// What waiting for work came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<T> {
    /// This is next.
    Item(T),
    /// Nothing came in time.
    Nothing,
    /// Nothing will come any more.
    Closed,
}

impl<T> Default for LaneQueue<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { lanes: Lanes::default(), closed: false }), arrived: Condvar::new() }
    }
}

impl<T> LaneQueue<T> {
    /// Adds an item; gives it back if the queue is closed.
    ///
    /// # Errors
    /// The item, after [`LaneQueue::close`].
    pub fn push(&self, lane: Lane, item: T) -> Result<(), T> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(item);
        }
        inner.lanes.push(lane, item);
        drop(inner);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for an item; for ever without a `timeout`. What was pushed before closing is still handed out.
    pub fn wait(&self, timeout: Option<Duration>) -> Waited<T> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(item) = inner.lanes.pop() {
                return Waited::Item(item);
            }
            if inner.closed {
                return Waited::Closed;
            }
            match timeout {
                None => self.arrived.wait(&mut inner),
                Some(timeout) => {
                    if self.arrived.wait_for(&mut inner, timeout).timed_out() && inner.lanes.is_empty() {
                        return if inner.closed { Waited::Closed } else { Waited::Nothing };
                    }
                }
            }
        }
    }

    /// Takes an item if one is there.
    pub fn try_pop(&self) -> Option<T> {
        self.inner.lock().lanes.pop()
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.inner.lock().lanes.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets nothing more in and wakes all who wait.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_overtakes_everything_that_waits() {
        let mut lanes = Lanes::default();
        for number in 0..50 {
            lanes.push(Lane::Notice, number);
        }
        for _ in 0..20 {
            lanes.pop();
        }
        lanes.push(Lane::Otp, 1000);
        assert_eq!(lanes.pop(), Some(1000));
    }

    #[test]
    fn no_lane_starves() {
        let mut lanes = Lanes::default();
        for _ in 0..1000 {
            for lane in LANES {
                lanes.push(lane, lane);
            }
        }
        let taken: Vec<Lane> = std::iter::from_fn(|| lanes.pop()).take(320).collect();
        let count = |lane| taken.iter().filter(|taken| **taken == lane).count();
        assert!(count(Lane::Reset) >= 320 / 6 && count(Lane::Notice) >= 320 / 20, "{:?}", LANES.map(count));
        assert!(count(Lane::Otp) > 320 / 2);
    }

    #[test]
    fn a_closed_queue_hands_out_what_it_holds() {
        let queue = LaneQueue::default();
        queue.push(Lane::Notice, 1).unwrap();
        queue.close();
        assert_eq!(queue.push(Lane::Otp, 2), Err(2));
        assert_eq!(queue.wait(None), Waited::Item(1));
        assert_eq!(queue.wait(None), Waited::Closed);
    }
}
