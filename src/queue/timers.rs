//! Runs the timers of the schedule.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Queue;
use super::outbox::Patience;

/// Timers handled before others get a turn.
const TURN_MAX: usize = 256;

impl Queue {
    /// Runs the timers until [`Queue::stop`]. Sleeps until the first is due; nothing is polled.
    pub async fn run_timers(self: Arc<Self>) {
        self.end_doomed();
        while !self.stopped.load(Ordering::Relaxed) {
            let now = self.clock.now();
            let next = self.apply(Patience::PassBy, |schedule, effects| schedule.fire(TURN_MAX, now, effects));
            match next {
                Some(at) if at <= now => tokio::task::yield_now().await,
                Some(at) => {
                    let until =
                        tokio::time::Instant::from_std(self.clock.instant() + self.clock.until_passed(at.since(now)));
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(until) => {}
                        () = self.timers_changed.notified() => {}
                    }
                }
                None => self.timers_changed.notified().await,
            }
        }
    }

    /// Ends entries found at start to be expired, superseded or of unknown outcome.
    pub(super) fn end_doomed(&self) {
        let now = self.clock.now();
        while self.apply(Patience::Wait, |schedule, effects| schedule.end_doomed(TURN_MAX, now, effects)) {}
    }
}
