//! How it went in the last 25 hours, in steps of ten minutes: how many codes came in time, and how long they took.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Listener;
use super::metrics::is_in_time;
use crate::base::clock::Timestamp;
use crate::event::{Event, Kind};

/// Length of a step.
pub const STEP: Duration = Duration::from_secs(600);
/// Steps that are kept: a day and an hour.
const STEPS_MAX: usize = 150;
/// Four for each doubling of the milliseconds.
const BUCKETS: usize = 4 * 22;

/// One step, or several together.
#[derive(Debug, Clone)]
pub struct Step {
    /// Which: since 1970.
    pub number: u64,
    /// Delivered with enough life left.
    pub in_time: u64,
    /// Delivered later, expired, failed.
    pub late: u64,
    times: [u32; BUCKETS],
}

impl Step {
    fn new(number: u64) -> Self {
        Self { number, in_time: 0, late: 0, times: [0; BUCKETS] }
    }

    /// Milliseconds within which this share was delivered, at most a fifth too long.
    pub fn within(&self, share: f64) -> Option<u64> {
        let all: u64 = self.times.iter().map(|count| u64::from(*count)).sum();
        let mut wanted = (all as f64 * share).ceil() as u64;
        for (at, count) in self.times.iter().enumerate().filter(|_| all > 0) {
            wanted = wanted.saturating_sub((*count).into());
            if wanted == 0 {
                return Some(2f64.powf((at + 1) as f64 / 4.0) as u64);
            }
        }
        None
    }
}

/// The steps of which something is known, in their order.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Step>>);

/// Which step a moment is in.
pub fn step_of(at: Timestamp) -> u64 {
    at.as_secs() / STEP.as_secs()
}

impl Recent {
    /// All steps.
    pub fn steps(&self) -> Vec<Step> {
        self.0.lock().iter().cloned().collect()
    }

    /// In time and late in the hour that ends with a step.
    pub fn hour_to(&self, last: u64) -> (u64, u64) {
        let steps = self.0.lock();
        let hour = steps.iter().filter(|step| step.number + 6 > last && step.number <= last);
        hour.fold((0, 0), |(in_time, late), step| (in_time + step.in_time, late + step.late))
    }
}

impl Listener for Recent {
    fn on_event(&self, event: &Arc<Event>) {
        if ![Kind::Delivered, Kind::Failed, Kind::Expired].contains(&event.kind()) {
            return;
        }
        let number = step_of(event.head.time);
        let mut steps = self.0.lock();
        let newest = steps.back().map_or(0, |step| step.number);
        if steps.is_empty() || number > newest {
            steps.push_back(Step::new(number));
        }
        while steps.len() > STEPS_MAX {
            steps.pop_front();
        }
        // A clock that was set back counts into the last step.
        let Some(step) = steps.back_mut() else { return };
        if is_in_time(event) {
            step.in_time += 1;
        } else {
            step.late += 1;
        }
        if event.kind() == Kind::Delivered {
            let ms = u64::try_from(event.head.since_accepted.as_millis()).unwrap_or(u64::MAX).max(1);
            let at = ((ms as f64).log2() * 4.0) as usize;
            step.times[at.min(BUCKETS - 1)] += 1;
        }
    }
}
