//! Looks after what has to be kept up, and tells it: certificates and keys at the start, at a reload and every hour; what DNS
//! says of the relay once a day.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::base::clock::Clock;
use crate::check::world::RealNames;
use crate::check::{self, Look};
use crate::config::Config;
use crate::dkim::Keys;
use crate::net::TcpNetwork;
use crate::report::upkeep::{State, Upkeep, UpkeepFinding};

/// How long after the start DNS is looked at: mail comes first.
const PAUSE: Duration = Duration::from_secs(5);
/// How often certificates and keys are looked at.
const HOUR: Duration = Duration::from_secs(3600);
/// In how many of these looks DNS is looked at once.
const LOOKS: u32 = 24;

pub(super) struct UpkeepTask {
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Arc<ArcSwap<Config>>,
    /// The keys that sign, which may be others than it names.
    pub(super) keys: Arc<ArcSwap<Keys>>,
    pub(super) changed: Arc<Notify>,
}

impl UpkeepTask {
    /// Until the relay stops.
    pub(super) async fn run(self) {
        let mut look = 0;
        tokio::time::sleep(PAUSE).await;
        loop {
            let mut now = Config::clone(&self.config.load());
            now.keys = Keys::clone(&self.keys.load());
            let dns = if look % LOOKS == 0 { self.dns(&now).await } else { None };
            self.log(&now, dns);
            look += 1;
            if tokio::time::timeout(HOUR, self.changed.notified()).await.is_ok() {
                look = 0;
            }
        }
    }

    async fn dns(&self, config: &Config) -> Option<Vec<UpkeepFinding>> {
        let names = RealNames::new(&config.resolver, self.clock.clone()).ok()?;
        let look = Look::new(config, &names, &TcpNetwork, self.clock.clone());
        let found = check::dns(&look).await.into_iter().map(|finding| UpkeepFinding {
            check: finding.check.name(),
            severity: finding.severity.name(),
            subject: finding.subject,
            text: finding.text,
            mend: finding.mend,
            records: finding.records,
        });
        Some(found.collect())
    }

    fn log(&self, config: &Config, dns: Option<Vec<UpkeepFinding>>) {
        let before = self.upkeep.state();
        let keys = config
            .keys
            .all()
            .filter_map(|key| Some((key.domain().to_owned(), key.selector().to_owned(), key.made_at()?)));
        let looked_at = if dns.is_some() { Some(self.clock.wall()) } else { before.looked_at };
        self.upkeep.set(State {
            certificates: Vec::new(),
            keys: keys.collect(),
            findings: dns.or_else(|| before.findings.clone()),
            looked_at,
        });
    }
}
