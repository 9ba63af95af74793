//! How long hosts take for what they say: a host that needed long is waited for at once the next time, instead of asking
//! another beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use crate::base::bounded::Bounded;
use crate::smtp::client_session::{COMMAND_PATIENCE, GREETING_PATIENCE, REPLY_TIMEOUT, Stage};

/// What takes less is not worth remembering; also how long an address that took the connection has to come to a session
/// before the next one is asked as well, where nothing is known of its host.
const NOTABLE: Duration = Duration::from_secs(2);
/// How long what a host needed is remembered.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Hosts remembered at most.
const HOSTS_MAX: usize = 10_000;
/// So much more than it needed before a host is waited for, in percent.
const MARGIN: u32 = 150;
/// Stages that are told apart.
const STAGES: usize = 7;

/// What is known of hosts.
#[derive(Debug, Default)]
pub(super) struct Paces {
    known: Mutex<Bounded<Arc<str>, Pace, HOSTS_MAX>>,
}

#[derive(Debug)]
struct Pace {
    needs: [Duration; STAGES],
    until: Instant,
}

impl Paces {
    /// A host has said what was due at a stage. What it needs less now counts down by half each time.
    pub(super) fn took(&self, host: &Arc<str>, stage: Stage, took: Duration, now: Instant) {
        let Some(index) = index(stage) else { return };
        let mut known = self.known.lock();
        if let Some(pace) = known.get_mut(host) {
            let need = &mut pace.needs[index];
            if took < NOTABLE && need.is_zero() {
                return;
            }
            *need = took.max(*need / 2);
            if *need < NOTABLE {
                *need = Duration::ZERO;
            }
            pace.until = now + KEPT;
            if pace.needs.iter().all(Duration::is_zero) {
                known.remove(host);
            }
            return;
        }
        if took < NOTABLE {
            return;
        }
        let mut needs = [Duration::ZERO; STAGES];
        needs[index] = took;
        known.insert(host.clone(), Pace { needs, until: now + KEPT }, |pace| pace.until <= now);
    }

    /// How long a host is waited for at a stage before it counts as slow.
    pub(super) fn patience(&self, host: &str, stage: Stage, now: Instant) -> Duration {
        let least = match stage {
            Stage::Connect | Stage::Tls | Stage::Banner | Stage::Ehlo | Stage::StartTls => GREETING_PATIENCE,
            Stage::Auth | Stage::Reset | Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content => COMMAND_PATIENCE,
        };
        let need = index(stage).map_or(Duration::ZERO, |index| self.needs(host, now)[index]);
        with_margin(need).clamp(least, REPLY_TIMEOUT)
    }

    /// How long a host that took the connection has to come to a session before the next address is asked as well.
    /// Some hosts make every client wait a few seconds for the banner.
    pub(super) fn opening(&self, host: &str, now: Instant) -> Duration {
        let needs = self.needs(host, now);
        let opening = [Stage::Banner, Stage::Ehlo, Stage::StartTls, Stage::Auth].into_iter().filter_map(index);
        with_margin(opening.map(|index| needs[index]).sum()).clamp(NOTABLE, REPLY_TIMEOUT)
    }

    /// Whether a host was slow at any stage, so that another may have to be asked beside it.
    pub(super) fn is_slow(&self, host: &str, now: Instant) -> bool {
        self.needs(host, now).iter().any(|need| *need >= GREETING_PATIENCE / 2)
    }

    fn needs(&self, host: &str, now: Instant) -> [Duration; STAGES] {
        let known = self.known.lock();
        known.get(host).filter(|pace| pace.until > now).map_or([Duration::ZERO; STAGES], |pace| pace.needs)
    }
}

fn with_margin(need: Duration) -> Duration {
    need.saturating_mul(MARGIN) / 100
}

fn index(stage: Stage) -> Option<usize> {
    match stage {
        Stage::Banner => Some(0),
        Stage::Ehlo => Some(1),
        // A host has one of them.
        Stage::Tls | Stage::StartTls => Some(2),
        Stage::Auth => Some(3),
        Stage::Reset | Stage::Mail => Some(4),
        Stage::Rcpt => Some(5),
        Stage::Data => Some(6),
        Stage::Connect | Stage::Content => None,
    }
}

/// What a race hears of a session while that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The host took the connection.
    Connected,
    /// It has not said what is due at this stage, and nothing says that it will do so soon.
    Slow(Stage),
}

/// How a session tells its race of it.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    pub(super) number: u32,
    pub(super) news: UnboundedSender<(u32, News)>,
    pub(super) paces: Arc<Paces>,
}

impl Pulse {
    pub(super) fn announce(&self, news: News) {
        // Nobody hears it when the race is over.
        let _ = self.news.send((self.number, news));
    }

    /// Waits for work of a stage, and tells when it takes long.
    pub(super) async fn watch<T>(
        &self,
        host: &Arc<str>,
        stage: Stage,
        now: Instant,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(self.paces.patience(host, stage, now)) => self.announce(News::Slow(stage)),
        }
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_host_that_needed_long_is_waited_for() {
        let (paces, start) = (Paces::default(), SystemClock::default().instant());
        let (slow, quick): (Arc<str>, Arc<str>) = ("slow".into(), "quick".into());
        let patience = |stage, now| paces.patience("slow", stage, now).as_secs();
        paces.took(&quick, Stage::Banner, SECOND, start);
        paces.took(&slow, Stage::Banner, SECOND * 12, start);
        paces.took(&slow, Stage::Rcpt, SECOND * 28, start);
        assert_eq!(
            [Stage::Banner, Stage::Ehlo, Stage::Rcpt, Stage::Data].map(|stage| patience(stage, start)),
            [18, 10, 42, 20]
        );
        assert_eq!((paces.opening("slow", start), paces.opening("quick", start)), (SECOND * 18, NOTABLE));
        assert!(paces.is_slow("slow", start) && !paces.is_slow("quick", start));
        let tomorrow = start + KEPT;
        assert_eq!(patience(Stage::Banner, tomorrow), 10, "long ago");
        paces.took(&slow, Stage::Banner, SECOND * 500, start);
        assert_eq!(paces.patience("slow", Stage::Banner, start), REPLY_TIMEOUT);
    }

    #[test]
    fn a_host_that_is_quick_again_is_forgotten_step_by_step() {
        let (paces, start, host): (_, _, Arc<str>) =
            (Paces::default(), SystemClock::default().instant(), "mx.example".into());
        paces.took(&host, Stage::Banner, SECOND * 16, start);
        let patience: Vec<_> = (0..4)
            .map(|_| {
                paces.took(&host, Stage::Banner, SECOND, start);
                paces.patience(&host, Stage::Banner, start).as_secs()
            })
            .collect();
        assert_eq!(patience, [12, 10, 10, 10]);
        assert!(paces.known.lock().is_empty());
    }

    #[test]
    fn so_many_hosts_are_remembered_and_no_more() {
        let (paces, start) = (Paces::default(), SystemClock::default().instant());
        for number in 0..HOSTS_MAX + 5 {
            paces.took(&format!("mx{number}.example").into(), Stage::Banner, SECOND * 12, start);
        }
        assert_eq!(paces.known.lock().len(), HOSTS_MAX);
        paces.took(&"another.example".into(), Stage::Banner, SECOND * 12, start + KEPT);
        assert_eq!(paces.known.lock().len(), 1, "those of yesterday make room");
    }
}
