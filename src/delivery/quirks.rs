//! What mail hosts offer and do not support, as they showed it: it is left out for a while, then tried again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::bounded::Bounded;
use crate::smtp::client_session::Suspicion;
use crate::smtp::extension::{Feature, Features};

/// How long an extension is left out that was refused.
const REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long one is left out that was used when an answer failed to come: it may have been something else.
const SUSPECTED_FOR: Duration = Duration::from_secs(3600);
/// How long TLS is left out after it failed.
const TLS_FAILED_FOR: Duration = Duration::from_secs(3600);
/// How long a host counts as one with TLS after its last session with it.
const TLS_WORKED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often the log tells of a host that breaks the form of replies.
const TOLD_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Hosts remembered at most; of more, those that were used longest ago are forgotten.
const HOSTS_MAX: usize = 10_000;

/// What is known of the hosts at their addresses, and of their names.
#[derive(Debug, Default)]
pub(super) struct Quirks {
    hosts: Mutex<Bounded<(Arc<str>, SocketAddr), HostQuirks, HOSTS_MAX>>,
    /// By name and port: when a session with TLS last came about, at any address.
    tls_worked: Mutex<Bounded<(Arc<str>, u16), Instant, HOSTS_MAX>>,
}

#[derive(Debug)]
struct HostQuirks {
    /// Until when each is left out.
    avoided: Vec<(Feature, Instant)>,
    tls_failed: Option<(Instant, Arc<str>)>,
    logged_at: Option<Instant>,
    used_at: Instant,
}

/// What is known of TLS with a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TlsHistory {
    Unknown,
    /// It worked within a week, at any of the host's addresses.
    Worked,
    /// It failed within an hour at this address, for this reason.
    Failed(Arc<str>),
}

impl HostQuirks {
    fn new(now: Instant) -> Self {
        Self { avoided: Vec::new(), tls_failed: None, logged_at: None, used_at: now }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.avoided.iter().all(|(_, until)| *until <= now)
            && self.tls_failed.as_ref().is_none_or(|(until, _)| *until <= now)
            && self.logged_at.is_none_or(|at| at + TOLD_EVERY <= now)
    }
}

impl Quirks {
    /// What is not used with a host for now.
    pub(super) fn avoided(&self, host: &Arc<str>, address: SocketAddr, now: Instant) -> Features {
        let mut hosts = self.hosts.lock();
        let Some(known) = hosts.get_mut(&(host.clone(), address)) else { return Features::NONE };
        known.used_at = now;
        known.avoided.iter().filter(|(_, until)| now < *until).map(|(feature, _)| *feature).collect()
    }

    /// A transaction failed so that this is to be left out. Says what of it is news.
    pub(super) fn suspect(&self, host: &Arc<str>, address: SocketAddr, what: Suspicion, now: Instant) -> Features {
        let until = now + if what.may_repeat { REFUSED_FOR } else { SUSPECTED_FOR };
        self.with(host, address, now, |known| {
            known.avoided.retain(|(_, until)| now < *until);
            let is_known = |feature: &Feature| known.avoided.iter().any(|(avoided, _)| avoided == feature);
            let news: Features = what.features.iter().filter(|feature| !is_known(feature)).collect();
            known.avoided.extend(news.iter().map(|feature| (feature, until)));
            news
        })
    }

    /// What is known of TLS with a host.
    pub(super) fn tls(&self, host: &Arc<str>, address: SocketAddr, now: Instant) -> TlsHistory {
        if let Some(why) = self.tls_failure(host, address, now) {
            return TlsHistory::Failed(why);
        }
        match self.tls_worked.lock().get(&(host.clone(), address.port())) {
            Some(at) if now < *at + TLS_WORKED_FOR => TlsHistory::Worked,
            Some(_) | None => TlsHistory::Unknown,
        }
    }

    fn tls_failure(&self, host: &Arc<str>, address: SocketAddr, now: Instant) -> Option<Arc<str>> {
        let hosts = self.hosts.lock();
        let (until, why) = hosts.get(&(host.clone(), address))?.tls_failed.as_ref()?;
        (now < *until).then(|| why.clone())
    }

    /// A session went in clear text because TLS failed.
    pub(super) fn tls_failed(&self, host: &Arc<str>, address: SocketAddr, why: &Arc<str>, now: Instant) {
        self.with(host, address, now, |known| {
            // Within the hour nobody tries TLS; whoever was under way does not make it longer.
            if known.tls_failed.as_ref().is_none_or(|(until, _)| *until <= now) {
                known.tls_failed = Some((now + TLS_FAILED_FOR, why.clone()));
            }
        });
    }

    /// A session with TLS came about.
    pub(super) fn tls_worked(&self, host: &Arc<str>, address: SocketAddr, now: Instant) {
        self.try_tls_again(host, address);
        let key = (host.clone(), address.port());
        let mut worked = self.tls_worked.lock();
        *worked.entry_before_oldest(key, |at| *at + TLS_WORKED_FOR <= now, |at| *at, || now) = now;
    }

    /// The next session begins with TLS, whatever became of it.
    pub(super) fn try_tls_again(&self, host: &Arc<str>, address: SocketAddr) {
        if let Some(known) = self.hosts.lock().get_mut(&(host.clone(), address)) {
            known.tls_failed = None;
        }
    }

    /// Whether the log is to tell that a host breaks the form of replies.
    pub(super) fn tells(&self, host: &Arc<str>, address: SocketAddr, now: Instant) -> bool {
        self.with(host, address, now, |known| {
            let is_due = known.logged_at.is_none_or(|at| at + TOLD_EVERY <= now);
            if is_due {
                known.logged_at = Some(now);
            }
            is_due
        })
    }

    fn with<T>(
        &self,
        host: &Arc<str>,
        address: SocketAddr,
        now: Instant,
        change: impl FnOnce(&mut HostQuirks) -> T,
    ) -> T {
        let key = (host.clone(), address);
        let mut hosts = self.hosts.lock();
        let is_over = |known: &HostQuirks| known.is_over(now);
        let known = hosts.entry_before_oldest(key, is_over, |known| known.used_at, || HostQuirks::new(now));
        known.used_at = now;
        change(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

    const REFUSED: Suspicion = Suspicion { features: Features::NONE, may_repeat: true };

    fn host(number: u32) -> (Arc<str>, SocketAddr) {
        (format!("mx{number}.test").into(), SocketAddr::from(([192, 0, 2, 1], 25)))
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    fn refused(feature: Feature) -> Suspicion {
        Suspicion { features: feature.into(), ..REFUSED }
    }

    #[test]
    fn what_was_refused_is_left_out_for_a_day_and_what_is_suspected_for_an_hour() {
        let (quirks, start) = (Quirks::default(), SystemClock::default().instant());
        let ((one, at), (other, _)) = (host(1), host(2));
        assert_eq!(quirks.avoided(&one, at, start), Features::NONE);
        assert_eq!(quirks.suspect(&one, at, refused(Feature::Chunking), start), Feature::Chunking.into());
        let lost = Suspicion { features: Feature::Pipelining.into(), may_repeat: false };
        assert_eq!(quirks.suspect(&one, at, lost, start), Feature::Pipelining.into());
        let both = Features::from(Feature::Chunking).and(Feature::Pipelining);
        assert_eq!(quirks.suspect(&one, at, Suspicion { features: both, ..lost }, start), Features::NONE, "no news");
        assert_eq!(quirks.avoided(&one, at, start + Duration::from_secs(3599)), both);
        assert_eq!(quirks.avoided(&one, at, start + hours(1)), Feature::Chunking.into());
        assert_eq!(quirks.avoided(&one, at, start + hours(24)), Features::NONE);
        assert_eq!(quirks.avoided(&other, at, start), Features::NONE, "another host at the same address");
        let elsewhere = SocketAddr::from(([192, 0, 2, 2], 25));
        assert_eq!(quirks.avoided(&one, elsewhere, start), Features::NONE, "the same host at another address");
    }

    #[test]
    fn tls_is_tried_again_after_an_hour_and_remembered_for_a_week() {
        let (quirks, start, (one, at)) = (Quirks::default(), SystemClock::default().instant(), host(1));
        let why: Arc<str> = "no common suite".into();
        assert_eq!(quirks.tls(&one, at, start), TlsHistory::Unknown);
        quirks.tls_worked(&one, at, start);
        assert_eq!(quirks.tls(&one, at, start + hours(7 * 24) - hours(1)), TlsHistory::Worked);
        assert_eq!(quirks.tls(&one, at, start + hours(7 * 24)), TlsHistory::Unknown);
        quirks.tls_failed(&one, at, &why, start + hours(2));
        // Those that were under way at the same time add nothing.
        quirks.tls_failed(&one, at, &why, start + hours(2) + Duration::from_secs(10));
        assert_eq!(quirks.tls(&one, at, start + hours(3) - Duration::from_secs(1)), TlsHistory::Failed(why.clone()));
        assert_eq!(quirks.tls(&one, at, start + hours(3)), TlsHistory::Worked, "and is tried first again");
        quirks.tls_failed(&one, at, &why, start + hours(3));
        quirks.try_tls_again(&one, at);
        assert_eq!(quirks.tls(&one, at, start + hours(3)), TlsHistory::Worked, "the host asks for it");
        quirks.tls_failed(&one, at, &why, start + hours(3));
        quirks.tls_worked(&one, at, start + hours(3));
        assert_eq!(quirks.tls(&one, at, start + hours(3)), TlsHistory::Worked);
    }

    #[test]
    fn tls_that_worked_at_one_address_is_expected_at_the_others() {
        let (quirks, start, (one, at)) = (Quirks::default(), SystemClock::default().instant(), host(1));
        let elsewhere = SocketAddr::from(([192, 0, 2, 2], 25));
        quirks.tls_worked(&one, at, start);
        assert_eq!(quirks.tls(&one, elsewhere, start), TlsHistory::Worked);
        assert_eq!(quirks.tls(&one, elsewhere, start + hours(7 * 24)), TlsHistory::Unknown);
        // A failure is one of an address.
        let why: Arc<str> = "no common suite".into();
        quirks.tls_failed(&one, elsewhere, &why, start);
        assert_eq!(quirks.tls(&one, elsewhere, start), TlsHistory::Failed(why.clone()));
        assert_eq!(quirks.tls(&one, at, start), TlsHistory::Worked);
        quirks.tls_worked(&one, at, start);
        assert_eq!(quirks.tls(&one, elsewhere, start), TlsHistory::Failed(why));
        // Another host, and another port of the same one.
        assert_eq!(quirks.tls(&host(2).0, at, start), TlsHistory::Unknown);
        assert_eq!(quirks.tls(&one, SocketAddr::new(at.ip(), 587), start), TlsHistory::Unknown);
    }

    #[test]
    fn names_with_tls_have_a_bound_and_the_longest_unused_go_first() {
        let (quirks, start) = (Quirks::default(), SystemClock::default().instant());
        let most = u32::try_from(HOSTS_MAX).unwrap();
        let now = |number: u32| start + Duration::from_millis(number.into());
        for number in 0..=most {
            let (host, at) = host(number);
            quirks.tls_worked(&host, at, now(number));
        }
        assert!(quirks.tls_worked.lock().len() <= HOSTS_MAX);
        let history = |number| quirks.tls(&host(number).0, host(number).1, now(most));
        assert_eq!((history(0), history(most - 1)), (TlsHistory::Unknown, TlsHistory::Worked));
        assert_eq!(history(most), TlsHistory::Worked);
    }

    #[test]
    fn the_log_tells_once_a_day() {
        let (quirks, start, (one, at)) = (Quirks::default(), SystemClock::default().instant(), host(1));
        assert!(quirks.tells(&one, at, start));
        assert!(!quirks.tells(&one, at, start + hours(23)));
        assert!(quirks.tells(&one, at, start + hours(24)));
        assert!(quirks.tells(&host(2).0, at, start));
    }

    #[test]
    fn there_is_a_bound_and_the_longest_unused_go_first() {
        let (quirks, start) = (Quirks::default(), SystemClock::default().instant());
        let most = u32::try_from(HOSTS_MAX).unwrap();
        for number in 0..most {
            let (host, at) = host(number);
            quirks.suspect(&host, at, refused(Feature::Chunking), start + Duration::from_millis(number.into()));
        }
        let now = start + hours(1);
        let (first, at) = host(0);
        assert_eq!(quirks.avoided(&first, at, now), Feature::Chunking.into(), "it is used");
        for number in most..most + 10 {
            let (host, at) = host(number);
            quirks.suspect(&host, at, refused(Feature::Chunking), now);
        }
        assert!(quirks.hosts.lock().len() <= HOSTS_MAX);
        assert_eq!(quirks.avoided(&first, at, now), Feature::Chunking.into());
        assert_eq!(quirks.avoided(&host(1).0, at, now), Features::NONE);
        assert_eq!(quirks.avoided(&host(most - 1).0, at, now), Feature::Chunking.into());
        // What is over goes before what is not.
        quirks.tells(&host(most + 20).0, at, now + hours(30));
        assert!(quirks.hosts.lock().len() <= HOSTS_MAX);
    }
}
