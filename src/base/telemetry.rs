//! How long the steps of every message take in this process, and how its sessions were secured: counters without a lock on
//! the way of mail, read when somebody asks for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds.
pub(crate) const BOUNDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// One synced commit of the queue.
pub(crate) static COMMIT: Timer = Timer::new();
/// The signatures of one message.
pub(crate) static SIGN: Timer = Timer::new();
/// One question to the resolver.
pub(crate) static DNS: Timer = Timer::new();
/// One connection to a mail host.
pub(crate) static CONNECT: Timer = Timer::new();
/// Questions to the resolver that nobody answered.
pub(crate) static DNS_FAILURES: AtomicU64 = AtomicU64::new(0);

/// Versions of TLS, and who vouched for a host.
pub(crate) const TLS_VERSIONS: [&str; 3] = ["TLSv1.3", "TLSv1.2", "other"];
pub(crate) const VERIFIED_BY: [&str; 4] = ["nobody", "dane", "mta-sts", "authorities"];
static TLS_SESSIONS: [[AtomicU64; VERIFIED_BY.len()]; TLS_VERSIONS.len()] =
    [const { [const { AtomicU64::new(0) }; VERIFIED_BY.len()] }; TLS_VERSIONS.len()];

/// A distribution of times.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Each counts what its bound, and not the one before, holds.
    buckets: [AtomicU64; BOUNDS.len()],
    above: AtomicU64,
    sum_us: AtomicU64,
}

impl Timer {
    const fn new() -> Self {
        let buckets = [const { AtomicU64::new(0) }; BOUNDS.len()];
        Self { buckets, above: AtomicU64::new(0), sum_us: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, span: Duration) {
        let at = BOUNDS.iter().position(|bound| span.as_secs_f64() <= *bound);
        at.map_or(&self.above, |at| &self.buckets[at]).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many there are up to each bound, in all, and their sum in seconds.
    pub(crate) fn read(&self) -> ([u64; BOUNDS.len()], u64, f64) {
        let mut sum = 0;
        let up_to = std::array::from_fn(|at| {
            sum += self.buckets[at].load(Ordering::Relaxed);
            sum
        });
        let seconds = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        (up_to, sum + self.above.load(Ordering::Relaxed), seconds)
    }
}

/// Counts a session with a mail host; `suite` begins with the version, `verified` says in words who vouched for the host.
pub(crate) fn add_tls_session(suite: &str, verified: &str) {
    let version = TLS_VERSIONS.iter().position(|version| suite.starts_with(version)).unwrap_or(TLS_VERSIONS.len() - 1);
    let words = verified.to_ascii_lowercase();
    let by = if words.contains("dane") {
        1
    } else if words.contains("mta-sts") {
        2
    } else if words.starts_with("verified") {
        3
    } else {
        0
    };
    TLS_SESSIONS[version][by].fetch_add(1, Ordering::Relaxed);
}

/// All of them: version, who vouched, how many.
pub(crate) fn tls_sessions() -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    TLS_VERSIONS.into_iter().zip(&TLS_SESSIONS).flat_map(|(version, counts)| {
        VERIFIED_BY.into_iter().zip(counts).map(move |(by, count)| (version, by, count.load(Ordering::Relaxed)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_up_to_each_bound() {
        let timer = Timer::new();
        for ms in [1, 1, 30, 20_000] {
            timer.add(Duration::from_millis(ms));
        }
        let (up_to, count, sum) = timer.read();
        assert_eq!((up_to[0], up_to[1], up_to[6], up_to[12], count), (0, 2, 3, 3, 4));
        assert!((sum - 20.032).abs() < 1e-9, "{sum}");
    }
}
