//! Changes DKIM keys while the relay runs: looks at the authoritative name servers every few minutes, and does what
//! `dkim::rotation` says.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::clock::Clock;
use crate::base::files;
use crate::config::Config;
use crate::destination::authoritative;
use crate::destination::resolver::Settings;
use crate::dkim::Keys;
use crate::dkim::folder::Folder;
use crate::dkim::rotation::{Effect, Rotation, Sight};

/// How often is looked; a reload looks at once.
const LOOK: Duration = Duration::from_secs(600);

/// The keys in force and those of the configuration, over which changes are laid.
pub(super) struct Rotations {
    folder: Folder,
    configured: Mutex<Keys>,
    in_force: Arc<ArcSwap<Keys>>,
    resolver: Settings,
    clock: Arc<dyn Clock>,
    wanted: Notify,
}

impl Rotations {
    pub(super) fn new(config: &Config, in_force: Arc<ArcSwap<Keys>>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            folder: Folder::of(&config.data_dir),
            configured: Mutex::new(config.configured_keys.clone()),
            in_force,
            resolver: config.resolver.clone(),
            clock,
            wanted: Notify::new(),
        })
    }

    /// The keys that sign.
    pub(super) fn in_force(&self) -> Arc<ArcSwap<Keys>> {
        self.in_force.clone()
    }

    /// Takes on other keys of the configuration.
    pub(super) fn reconfigure(&self, configured: Keys) {
        *self.configured.lock() = configured;
        self.lay_over();
        self.wanted.notify_one();
    }

    /// Looks until the relay stops.
    pub(super) async fn run(&self) {
        loop {
            self.look().await;
            // Either may come first.
            let _ = tokio::time::timeout(LOOK, self.wanted.notified()).await;
        }
    }

    /// One look at every domain whose keys are being changed.
    async fn look(&self) {
        let (rotations, faults) = self.folder.rotations();
        faults.iter().for_each(|fault| tracing::error!("a change of DKIM keys cannot go on: {fault}"));
        for rotation in rotations {
            let sight = self.sight(&rotation).await;
            self.step(rotation, sight);
        }
    }

    async fn sight(&self, rotation: &Rotation) -> Sight {
        let Some(next) = &rotation.next else { return Sight::Unknown };
        match self.folder.records(&rotation.domain, &next.selectors) {
            Ok(records) => {
                let named = |(selector, text): (String, String)| (format!("{selector}._domainkey"), text);
                let records: Vec<_> = records.into_iter().map(named).collect();
                authoritative::sight(&self.resolver, &rotation.domain, &records).await
            }
            Err(error) => {
                tracing::error!(domain = rotation.domain, error, "the next DKIM keys cannot be read");
                Sight::Unknown
            }
        }
    }

    fn step(&self, mut rotation: Rotation, sight: Sight) {
        let of_configuration = self.configured.lock().of(&rotation.domain);
        let configured: Vec<String> =
            of_configuration.iter().flat_map(|keys| keys.iter()).map(|key| key.selector().to_owned()).collect();
        let effects = rotation.step(sight, &configured, self.clock.wall());
        if effects.is_empty() {
            return;
        }
        // What is not on disk has not happened: the next look comes to the same.
        if let Err(error) = self.folder.store(&rotation) {
            return tracing::error!(domain = rotation.domain, %error, "how far a change of DKIM keys is cannot be written down");
        }
        effects.iter().for_each(|effect| self.act(&rotation.domain, effect, &configured));
        self.lay_over();
    }

    fn act(&self, domain: &str, effect: &Effect, configured: &[String]) {
        match effect {
            Effect::Seen { signs_at } => {
                tracing::info!(domain, signs_at = signs_at.rfc3339(), "all name servers show the next DKIM keys")
            }
            Effect::Lost => {
                tracing::warn!(domain, "a name server no longer shows the next DKIM keys; the wait begins anew")
            }
            Effect::Changed { since } => tracing::info!(
                domain,
                since = since.rfc3339(),
                "the next DKIM keys sign what is accepted from now on; the records of the old ones have to stay for 7 days"
            ),
            Effect::Destroy(selectors) => {
                selectors.iter().for_each(|selector| self.destroy(domain, selector, configured))
            }
            Effect::Removable(selectors) => {
                let names: Vec<String> = selectors.iter().map(|name| format!("{name}._domainkey.{domain}")).collect();
                tracing::info!(records = names.join(" "), "these DKIM records may now be taken out of DNS");
            }
        }
    }

    /// What the configuration names is the operator's to remove: without its file it could not be read.
    fn destroy(&self, domain: &str, selector: &str, configured: &[String]) {
        if configured.iter().any(|name| name == selector) {
            return tracing::info!(
                domain,
                selector,
                "this DKIM key signs nothing any more; its [[dkim]] section and file may go"
            );
        }
        let path = self.folder.key_file(domain, selector);
        match files::destroy(&path) {
            Ok(()) => tracing::info!(domain, selector, "the private DKIM key of before was destroyed"),
            Err(error) => tracing::error!(file = %path.display(), %error, "a DKIM key of before cannot be destroyed"),
        }
    }

    fn lay_over(&self) {
        let mut keys = self.configured.lock().clone();
        for fault in self.folder.overlay(&mut keys) {
            tracing::error!("a change of DKIM keys cannot be used: {fault}");
        }
        self.in_force.store(Arc::new(keys));
    }
}
