//! Runs the timers of the schedule, and waits for what the ledger says.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Queue;
use super::outbox::Patience;
use super::verbs::Verb;
use crate::base::clock::Timestamp;

/// Timers handled before others get a turn.
const TURN_MAX: usize = 256;
/// How often entries that rest are looked at: those about which a verb was under way, and all while the lease is over.
const REST: Duration = Duration::from_millis(250);

impl Queue {
    /// Runs the timers, hears what others do, and waits for answers, until [`Queue::stop`] or the ledger is gone. Sleeps until
    /// the first is due; nothing is polled but entries that rest.
    pub async fn run(self: Arc<Self>) {
        let Some(mut verbs) = self.verbs.take() else { return };
        let mut under_way: FuturesUnordered<Verb> = FuturesUnordered::new();
        self.end_doomed();
        while !self.is_stopped() {
            let now = self.ledger.now();
            let next = self.apply(Patience::PassBy, |schedule, effects| {
                while schedule.end_doomed(TURN_MAX, now, effects) {}
                schedule.fire(TURN_MAX, now, effects)
            });
            if next.is_some_and(|at| at <= now) {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                is_open = std::future::poll_fn(|context| self.poll_notice(context)) => {
                    if !is_open {
                        return;
                    }
                }
                Some(verb) = verbs.recv() => under_way.push(verb),
                Some((entry, answer)) = under_way.next(), if !under_way.is_empty() => {
                    self.verbs.answered(entry);
                    self.settled(entry, answer);
                    self.offer_rested();
                }
                () = self.sleep_until(next, now) => {}
                () = self.timers_changed.notified() => {}
            }
        }
    }

    /// Until the first timer is due, or entries that rest are looked at again.
    async fn sleep_until(self: &Arc<Self>, next: Option<Timestamp>, now: Timestamp) {
        let rest = self.verbs.has_resting().then_some(REST);
        let due = next.map(|at| self.clock.until_passed(at.since(now)));
        match rest.into_iter().chain(due).min() {
            // A ledger's time and this node's do not pass alike.
            Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
            None => std::future::pending().await,
        }
        self.offer_rested();
    }

    /// Ends entries found at start to be expired, superseded or of unknown outcome.
    pub(super) fn end_doomed(&self) {
        let now = self.ledger.now();
        while self.apply(Patience::Wait, |schedule, effects| schedule.end_doomed(TURN_MAX, now, effects)) {}
    }
}
