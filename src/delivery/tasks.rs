//! The tasks of delivery, and how they come to an end.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[derive(Debug, Clone, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    /// No new attempts; sessions without work end.
    draining: CancellationToken,
    /// Attempts under way end now.
    aborting: CancellationToken,
    /// None is left.
    over: CancellationToken,
}

/// No new attempts are to begin.
pub(super) struct Draining;

impl Tasks {
    /// Does some work beside all others, until it is to end at once.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let aborting = self.aborting.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = work => {}
                () = aborting.cancelled() => {}
            }
        });
    }

    /// Counts as a task: work that is on its way to becoming one.
    pub(super) fn hold(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Whether no new attempts are to begin.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Returns when no new attempts are to begin.
    pub(super) async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Returns at this time.
    pub(super) async fn sleep_until(&self, at: Instant) -> Result<(), Draining> {
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => Ok(()),
            () = self.draining() => Err(Draining),
        }
    }

    /// Returns when all are over.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Ends: no new attempts; those under way get `patience`, then they end.
    pub(super) async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            self.aborting.cancel();
            self.tracker.wait().await;
        }
        self.over.cancel();
    }
}
