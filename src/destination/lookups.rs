//! How many look-ups there are at once, and whose: in front of DNS and of the web servers of MTA-STS policies stands one
//! bound each. Whoever makes up names in a zone whose name servers do not answer makes the look-ups of that zone wait,
//! and nobody else's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fetch::{Fetch, FetchError, Fetching};
use super::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use super::tlsa::TlsaRecord;
use super::turns::{TurnOutcome, Turns};
use crate::base::clock::Clock;

/// Look-ups at once.
const LOOKUPS_MAX: usize = 200;
/// Sockets that they have open: each asks two name servers at once.
pub(crate) const SOCKETS_MAX: usize = 2 * LOOKUPS_MAX;
/// Policies fetched at once.
pub(crate) const FETCHES_MAX: usize = 64;
/// How long a fetch waits for its turn.
const FETCH_WAIT: Duration = Duration::from_secs(3);
/// An error that took longer than this is somebody's silence, of which the resolver tells.
const SLOW: Duration = Duration::from_secs(1);

/// DNS with so many look-ups at once.
pub(crate) struct BoundedDns {
    dns: Arc<dyn Dns>,
    clock: Arc<dyn Clock>,
    turns: Turns,
}

impl BoundedDns {
    pub(crate) fn new(dns: Arc<dyn Dns>, clock: Arc<dyn Clock>) -> Self {
        Self { turns: Turns::new(LOOKUPS_MAX, clock.clone()), dns, clock }
    }

    async fn bounded<T>(&self, name: &str, asked: Answer<'_, T>) -> Result<Records<T>, DnsError> {
        let Ok(turn) = self.turns.take(name).await else {
            return Err(DnsError::Failed("too many look-ups wait".to_owned()));
        };
        let began = self.clock.instant();
        let answer = asked.await;
        turn.end(self.ended(&answer, began));
        answer
    }

    fn ended<T>(&self, answer: &Result<Records<T>, DnsError>, began: Instant) -> TurnOutcome {
        match answer {
            Ok(_) => TurnOutcome::Found,
            Err(DnsError::Timeout) => TurnOutcome::Silent,
            Err(DnsError::Failed(_)) if self.clock.instant().saturating_duration_since(began) >= SLOW => {
                TurnOutcome::Silent
            }
            Err(
                DnsError::NoSuchName
                | DnsError::NoRecords
                | DnsError::Denied(..)
                | DnsError::BadName
                | DnsError::Failed(_),
            ) => TurnOutcome::Nothing,
        }
    }
}

impl Dns for BoundedDns {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(self.bounded(domain, self.dns.mx(domain)))
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(self.bounded(host, self.dns.ipv4(host)))
    }

    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(self.bounded(host, self.dns.ipv6(host)))
    }

    fn txt<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
        Box::pin(self.bounded(name, self.dns.txt(name)))
    }

    fn tlsa<'a>(&'a self, name: &'a str) -> Answer<'a, TlsaRecord> {
        Box::pin(self.bounded(name, self.dns.tlsa(name)))
    }

    fn alias<'a>(&'a self, host: &'a str) -> Answer<'a, String> {
        Box::pin(self.bounded(host, self.dns.alias(host)))
    }

    fn forget(&self, name: &str) {
        self.dns.forget(name);
    }
}

/// Fetches with so many at once.
pub(crate) struct BoundedFetch {
    fetch: Arc<dyn Fetch>,
    turns: Turns,
}

impl BoundedFetch {
    pub(crate) fn new(fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self { fetch, turns: Turns::new(FETCHES_MAX, clock) }
    }
}

impl Fetch for BoundedFetch {
    fn fetch<'a>(&'a self, domain: &'a str) -> Fetching<'a> {
        Box::pin(async move {
            let turn = tokio::time::timeout(FETCH_WAIT, self.turns.take(domain)).await;
            let Ok(Ok(turn)) = turn else { return Err(FetchError::Timeout) };
            let fetched = self.fetch.fetch(domain).await;
            turn.end(match &fetched {
                Ok(_) => TurnOutcome::Found,
                Err(FetchError::Timeout) => TurnOutcome::Silent,
                Err(_) => TurnOutcome::Nothing,
            });
            fetched
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::clock::{ManualClock, Timestamp};
    use crate::destination::mx::Router;

    /// DNS that answers for `good.test` after a moment, is silent for all else, and counts.
    #[derive(Default)]
    struct Silent {
        at_once: AtomicUsize,
        most: AtomicUsize,
    }

    impl Silent {
        async fn ask<T>(&self, name: &str, found: Vec<T>) -> Result<Records<T>, DnsError> {
            let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(at_once, Ordering::SeqCst);
            let is_good = name.ends_with("good.test");
            tokio::time::sleep(Duration::from_millis(if is_good { 20 } else { 2400 })).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            if is_good {
                Ok(Records { records: found, ttl: Duration::from_secs(1), secure: false })
            } else {
                Err(DnsError::Timeout)
            }
        }
    }

    impl Dns for Silent {
        fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
            Box::pin(self.ask(domain, vec![MxRecord { preference: 0, exchange: "mx.good.test".to_owned() }]))
        }

        fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
            Box::pin(self.ask(host, vec![IpAddr::from([192, 0, 2, 1])]))
        }
    }

    /// Somebody has 20,000 domains looked up that nobody answers for; another's domain meanwhile.
    async fn flood(domain: impl Fn(usize) -> String) -> (usize, Duration) {
        let dns = Arc::new(Silent::default());
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
        let bounded = Arc::new(BoundedDns::new(dns.clone(), clock.clone()));
        let router = Arc::new(Router::new(bounded, clock.clone(), true));
        let flood: Vec<_> = (0..20_000)
            .map(|number| {
                let (router, domain) = (router.clone(), domain(number));
                tokio::spawn(async move { router.route(&domain).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = clock.now();
        router.route("good.test").await.unwrap();
        let took = clock.now().since(before);
        tokio::time::sleep(Duration::from_secs(60)).await;
        flood.iter().for_each(tokio::task::JoinHandle::abort);
        (dns.most.load(Ordering::SeqCst), took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_that_nobody_answers_for_delays_nobody() {
        let (most, took) = flood(|number| format!("{number}.zone.test")).await;
        assert!(most <= LOOKUPS_MAX, "{most} at once");
        assert!(took <= Duration::from_millis(42), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_zones_that_nobody_answers_for_have_a_bound() {
        let (most, took) = flood(|number| format!("zone{number}.test")).await;
        assert!(most <= LOOKUPS_MAX, "{most} at once");
        // Of a zone of which nothing is known as well: it waits for one of them, not for all.
        assert!(took <= Duration::from_millis(2500), "{took:?}");
    }

    /// What the trait answers by itself is not what the resolver would have answered.
    #[tokio::test(start_paused = true)]
    async fn every_question_is_passed_on() {
        #[derive(Default)]
        struct RecordedDns(parking_lot::Mutex<Vec<&'static str>>);
        impl RecordedDns {
            fn record<T: Send>(&self, what: &'static str) -> Answer<'_, T> {
                self.0.lock().push(what);
                Box::pin(async { Err(DnsError::Timeout) })
            }
        }
        impl Dns for RecordedDns {
            fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
                self.record("mx")
            }
            fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
                self.record("ipv4")
            }
            fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
                self.record("ipv6")
            }
            fn txt<'a>(&'a self, _: &'a str) -> Answer<'a, String> {
                self.record("txt")
            }
            fn tlsa<'a>(&'a self, _: &'a str) -> Answer<'a, TlsaRecord> {
                self.record("tlsa")
            }
            fn alias<'a>(&'a self, _: &'a str) -> Answer<'a, String> {
                self.record("alias")
            }
            fn forget(&self, _: &str) {
                self.0.lock().push("forget");
            }
        }
        let dns = Arc::new(RecordedDns::default());
        let bounded = BoundedDns::new(dns.clone(), Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000))));
        assert!(bounded.mx("a.test").await.is_err() && bounded.txt("b.test").await.is_err());
        assert!(bounded.ipv4("c.test").await.is_err() && bounded.ipv6("d.test").await.is_err());
        assert!(bounded.tlsa("e.test").await.is_err() && bounded.alias("f.test").await.is_err());
        bounded.forget("g.test");
        assert_eq!(*dns.0.lock(), ["mx", "txt", "ipv4", "ipv6", "tlsa", "alias", "forget"]);
    }
}
