//! Lanes: which message goes first where several wait, everywhere in the relay by the same rule.
//!
//! The most urgent lane that has something waiting goes first. A lower lane that was passed over often enough goes
//! once, so that it keeps a share however much is urgent; a lane that has just gone has no claim, so that a code that
//! arrives among thousands of notices is the next to go.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Index, IndexMut};
use std::str::FromStr;

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

/// What distinguishes one lane from another, all of it.
#[derive(Debug)]
pub struct LaneRules {
    lane: Lane,
    /// As in configuration, header fields and events.
    pub name: &'static str,
    /// How often it is passed over while it waits before it goes once.
    passed_over_max: u32,
    /// The least MT-PRIORITY that asks for it (RFC 6710).
    pub(crate) priority_min: i8,
    /// Whether some of a destination's sessions are kept for it.
    pub(crate) has_reserved_sessions: bool,
    /// Whether `otp.supersede = "same-recipient"` concerns it.
    pub(crate) is_superseded_by_recipient: bool,
    /// Messages a recipient may get beyond the budget of the others.
    pub(crate) budget_bonus: u32,
}

/// All lanes, the most urgent first. A new lane is a variant of [`Lane`], a row here and a line in [`Lane::rules`].
const TABLE: [LaneRules; 3] = [
    LaneRules {
        lane: Lane::Otp,
        name: "otp",
        passed_over_max: u32::MAX,
        priority_min: 4,
        has_reserved_sessions: true,
        is_superseded_by_recipient: true,
        budget_bonus: 0,
    },
    LaneRules {
        lane: Lane::Reset,
        name: "reset",
        passed_over_max: 4,
        priority_min: 1,
        has_reserved_sessions: false,
        is_superseded_by_recipient: false,
        // Who has asked for codes until nothing went any more resets the password.
        budget_bonus: 1,
    },
    LaneRules {
        lane: Lane::Notice,
        name: "notice",
        passed_over_max: 16,
        priority_min: i8::MIN,
        has_reserved_sessions: false,
        is_superseded_by_recipient: false,
        budget_bonus: 0,
    },
];

const COUNT: usize = TABLE.len();

/// All lanes, the most urgent first.
pub const LANES: [Lane; COUNT] = {
    let (mut lanes, mut next) = ([Lane::Otp; COUNT], 0);
    while next < COUNT {
        lanes[next] = TABLE[next].lane;
        next += 1;
    }
    lanes
};

/// The lanes by their names.
pub(crate) const NAMED: [(&str, Lane); COUNT] = {
    let (mut named, mut next) = ([("", Lane::Otp); COUNT], 0);
    while next < COUNT {
        named[next] = (TABLE[next].name, TABLE[next].lane);
        next += 1;
    }
    named
};

impl Lane {
    /// What distinguishes it.
    pub fn rules(self) -> &'static LaneRules {
        &TABLE[self.index()]
    }

    /// As in configuration, header fields and events.
    pub fn name(self) -> &'static str {
        self.rules().name
    }

    /// The most urgent lane that a priority is enough for (RFC 6710).
    pub(crate) fn of_priority(priority: i8) -> Self {
        LANES.into_iter().find(|lane| lane.rules().priority_min <= priority).unwrap_or(Self::Notice)
    }

    /// Of those that are not more urgent than this one, the one with the largest budget.
    pub(crate) fn with_most_budget(self) -> Self {
        LANES.into_iter().filter(|lane| *lane >= self).max_by_key(|lane| lane.rules().budget_bonus).unwrap_or(self)
    }

    const fn index(self) -> usize {
        match self {
            Self::Otp => 0,
            Self::Reset => 1,
            Self::Notice => 2,
        }
    }
}

/// One of something for each lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct PerLane<T>([T; COUNT]);

impl<T> PerLane<T> {
    /// From the most urgent lane on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T> Index<Lane> for PerLane<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        &self.0[lane.index()]
    }
}

impl<T> IndexMut<Lane> for PerLane<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        &mut self.0[lane.index()]
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
pub(crate) struct Turn {
    passed_over: PerLane<u32>,
}

impl Turn {
    /// The lane to take from, given which have something waiting; none if none has.
    pub(crate) fn next(&mut self, is_waiting: impl Fn(Lane) -> bool) -> Option<Lane> {
        let impatient = |lane: &Lane| self.passed_over[*lane] >= lane.rules().passed_over_max;
        let waiting = || LANES.into_iter().filter(|lane| is_waiting(*lane));
        let chosen = waiting().find(impatient).or_else(|| waiting().next())?;
        for lane in waiting() {
            self.passed_over[lane] += 1;
        }
        self.passed_over[chosen] = 0;
        Some(chosen)
    }
}

/// First in, first out within a lane; [`Turn`] between them.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    waiting: PerLane<VecDeque<T>>,
    turn: Turn,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { waiting: PerLane::default(), turn: Turn::default() }
    }
}

impl<T> Lanes<T> {
    /// Puts an item at the end of its lane.
    pub(crate) fn push(&mut self, lane: Lane, item: T) {
        self.waiting[lane].push_back(item);
    }

    /// Takes the item whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let waiting = &self.waiting;
        let lane = self.turn.next(|lane| !waiting[lane].is_empty())?;
        self.waiting[lane].pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }
}

/// [`Lanes`] between threads. Pushing never waits: whoever pushes is bounded elsewhere.
#[derive(Debug)]
pub(crate) struct LaneQueue<T> {
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    lanes: Lanes<T>,
    closed: bool,
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
    pub(crate) fn push(&self, lane: Lane, item: T) -> Result<(), T> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(item);
        }
        inner.lanes.push(lane, item);
        drop(inner);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for an item; none when the queue is closed. What was pushed before closing is still handed out.
    pub(crate) fn wait(&self) -> Option<T> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(item) = inner.lanes.pop() {
                return Some(item);
            }
            if inner.closed {
                return None;
            }
            self.arrived.wait(&mut inner);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().lanes.len()
    }

    /// Lets nothing more in and wakes all who wait.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_urgency() {
        for (index, lane) in LANES.into_iter().enumerate() {
            assert_eq!((lane.index(), lane.rules().lane), (index, lane));
        }
        assert!(LANES.is_sorted() && LANES.is_sorted_by_key(|lane| std::cmp::Reverse(lane.rules().priority_min)));
        let of = |priorities: [i8; 6]| priorities.map(Lane::of_priority);
        let expected = [Lane::Otp, Lane::Otp, Lane::Reset, Lane::Reset, Lane::Notice, Lane::Notice];
        assert_eq!(of([9, 4, 3, 1, 0, -9]), expected);
    }

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
        assert_eq!(queue.wait(), Some(1));
        assert_eq!(queue.wait(), None);
    }
}
