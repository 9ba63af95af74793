//! Ledger time as a node follows it: its own monotonic time and an offset that comes with each heartbeat. It never goes back,
//! and is moved by at most a hundredth of the time that passes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::base::clock::Timestamp;

/// How long a sample counts; of those that count, the one with the shortest way there and back is believed.
const SAMPLES_COUNT_FOR: Duration = Duration::from_secs(10);
/// It is led towards the ledger's by one part in so many.
const SLEW: u32 = 100;
/// A difference above which there is more to it than drift.
const STEP_MIN_MS: u64 = 1000;

#[derive(Clone, Copy, Debug)]
struct Sample {
    answered: Instant,
    way: Duration,
    /// What the ledger showed in the middle of the way.
    middle: Instant,
    shown: Timestamp,
}

/// Ledger time.
#[derive(Clone, Debug)]
pub(crate) struct LedgerTime {
    samples: VecDeque<Sample>,
    /// It showed `shown` at `at`.
    at: Instant,
    shown: Timestamp,
}

/// How far ledger time was from where it was believed to be, if by more than a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jump {
    /// Milliseconds; negative: back.
    pub by_ms: i64,
}

impl LedgerTime {
    /// From the answer of the joining on.
    pub(crate) fn begin(sent: Instant, answered: Instant, shown: Timestamp) -> Self {
        let way = answered.saturating_duration_since(sent);
        let mut this = Self { samples: VecDeque::new(), at: sent + way / 2, shown };
        this.samples.push_back(Sample { answered, way, middle: this.at, shown });
        this
    }

    /// Another answer. Says so where the ledger's clock was set.
    pub(crate) fn sample(&mut self, sent: Instant, answered: Instant, shown: Timestamp) -> Option<Jump> {
        let way = answered.saturating_duration_since(sent);
        let middle = sent + way / 2;
        let believed = self.now(middle);
        let by_ms = i64::try_from(shown.as_millis()).ok()? - i64::try_from(believed.as_millis()).ok()?;
        self.samples.push_back(Sample { answered, way, middle, shown });
        while self
            .samples
            .front()
            .is_some_and(|old| answered.saturating_duration_since(old.answered) > SAMPLES_COUNT_FOR)
        {
            self.samples.pop_front();
        }
        let now = self.now(answered);
        (self.at, self.shown) = (answered, now);
        if by_ms.unsigned_abs() <= STEP_MIN_MS {
            return None;
        }
        // What was seen before the clock was set says nothing any more.
        self.samples.retain(|sample| sample.answered == answered);
        if by_ms > 0 {
            self.shown = shown.plus(way / 2);
        }
        Some(Jump { by_ms })
    }

    /// What the ledger shows at `now`.
    pub(crate) fn now(&self, now: Instant) -> Timestamp {
        let passed = now.saturating_duration_since(self.at);
        let straight = self.shown.plus(passed);
        let best = self.samples.iter().min_by_key(|sample| sample.way);
        let Some(best) = best else { return straight };
        let wanted = best.shown.plus(now.saturating_duration_since(best.middle));
        let most = passed / SLEW;
        wanted.clamp(straight.minus(most), straight.plus(most)).max(self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

    const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    #[test]
    fn it_is_led_and_never_goes_back() {
        let origin = SystemClock::default().instant();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let mut time = LedgerTime::begin(at(0), at(0), START);
        // The ledger is 200 ms behind what was believed.
        assert_eq!(time.sample(at(1000), at(1000), START.plus(Duration::from_millis(800))), None);
        let mut last = time.now(at(1000));
        for ms in (1000..60_000).step_by(50) {
            let now = time.now(at(ms));
            assert!(now >= last, "at {ms}");
            last = now;
            if ms % 250 == 0 {
                time.sample(at(ms), at(ms), START.plus(Duration::from_millis(ms - 200)));
            }
        }
        assert_eq!(last, START.plus(Duration::from_millis(59_950 - 200)));
    }

    #[test]
    fn a_step_is_told_and_taken_forward_at_once() {
        let origin = SystemClock::default().instant();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let mut time = LedgerTime::begin(at(0), at(0), START);
        let hour = START.plus(Duration::from_secs(3600));
        assert_eq!(time.sample(at(100), at(100), hour), Some(Jump { by_ms: 3_599_900 }));
        assert_eq!(time.now(at(100)), hour);
        let jump = time.sample(at(200), at(200), START).unwrap();
        assert!(jump.by_ms < -3_599_000);
        assert!(time.now(at(200)) >= hour, "it waits until the ledger has come up, or a restart");
    }

    #[test]
    fn of_two_answers_the_quicker_is_believed() {
        let origin = SystemClock::default().instant();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        // The slow answer is all way back: by half of the way it would be 100 ms off.
        let mut time = LedgerTime::begin(at(0), at(200), START);
        time.sample(at(1000), at(1002), START.plus(Duration::from_millis(1001)));
        let late = time.now(at(30_000));
        assert_eq!(late, START.plus(Duration::from_millis(30_000)));
    }
}
