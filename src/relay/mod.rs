//! Wiring: builds the relay from its parts and owns the order in which they start, change and stop.

pub(crate) mod acme;
pub(crate) mod archive;
pub mod builder;
mod certificate;
pub(crate) mod data_dir;
mod doors;
mod environment;
pub(crate) mod first_run;
mod inherited_sockets;
pub(crate) mod preflight;
pub(crate) mod random;
mod rotating_secret;
mod rotation;
mod services;
mod sinks;
mod upkeep;
pub(crate) mod verify;
mod wall_clock;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::Config;
use crate::dkim::Keys;
use crate::event::{Attempted, Event, Happened, Head};
use crate::http::Api;
use crate::mail::address::Mailbox;
use crate::mail::id::EntryId;
use crate::net::{Network, own_faults};
use crate::queue::Queue;
use crate::report::upkeep::Upkeep;
use crate::submission::listener::Submission;
use acme::Acme;
use certificate::Certificate;
use data_dir::DataDir;
use doors::Doors;
pub use environment::Environment;
use environment::while_running;
use rotation::Rotations;
use services::Services;
use wall_clock::watch_clock;

/// How long running attempts get when the relay stops.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long running HTTP requests get after that.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end waits for lines that are still to be written.
pub(crate) const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// A running relay.
pub struct Relay {
    addresses: Vec<SocketAddr>,
    http_address: Option<SocketAddr>,
    services: Services,
    api: Arc<Api>,
    submission: Arc<Submission>,
    certificate: Arc<Certificate>,
    rotations: Arc<Rotations>,
    /// For whoever looks after what has to be kept up: the configuration in force, and that it changed.
    kept: (Arc<ArcSwap<Config>>, Arc<Notify>),
    /// Ours until the end.
    _folder: DataDir,
    running: Mutex<Config>,
}

impl Relay {
    /// Starts everything, on the runtime that it is called on. When it returns, clients can connect, and what the queue
    /// held is on its way again.
    ///
    /// # Errors
    /// What could not be started, in a sentence for the operator; then nothing is left running.
    pub fn start(config: Config, environment: Environment) -> anyhow::Result<Self> {
        let folder = DataDir::open(&config.data_dir)?;
        warn_of_missing_addresses(&config);
        let doors = Doors::open(&config)?;
        let operator = doors.operator(&config)?;
        let upkeep: Arc<Upkeep> = Arc::default();
        let certificate = Certificate::new(folder.self_signed(), environment.clock.clone(), upkeep.clone());
        let acceptor = certificate.acceptor(&config)?;
        let services = Services::start(&config, &folder, &environment, upkeep)?;
        tokio::task::spawn_blocking(crate::policy::cause::prepare);
        let dns_is = if environment.dns.is_none() { DnsIs::Real } else { DnsIs::Played };
        let api = services.api(operator, environment.beside, config.http.clone());
        api.show(acceptor.clone());
        let relay = Self {
            addresses: doors.addresses()?,
            http_address: doors.http_address()?,
            submission: services.submission(config.submission.clone(), acceptor),
            rotations: Rotations::new(&config, services.core.keys.clone(), services.clock.clone()),
            services,
            api,
            certificate: Arc::new(certificate),
            kept: (Arc::new(ArcSwap::from_pointee(config.clone())), Arc::default()),
            _folder: folder,
            running: Mutex::new(config),
        };
        let acme = relay.acme(environment.network);
        Ok(relay.run(doors, dns_is, acme))
    }

    /// Who gets certificates from a CA, if somebody does.
    fn acme(&self, network: Arc<dyn Network>) -> Option<Acme> {
        let running = self.running.lock();
        let (dns, clock) = (self.services.core.dns.clone(), self.services.clock.clone());
        let parts = acme::Parts { dns, network, clock, submission: self.submission.clone() };
        let is_wanted = !running.acme.domains.is_empty();
        is_wanted.then(|| Acme::new(running.acme.clone(), &running.data_dir, parts))
    }

    /// Begins all that goes on until the relay stops.
    fn run(self, doors: Doors, dns_is: DnsIs, acme: Option<Acme>) -> Self {
        let Services { core, sinks, refusals, upkeep, clock, .. } = &self.services;
        let depth = core.queue.depth();
        if depth.messages > 0 {
            let waiting = core.queue.live_domains();
            waiting.iter().for_each(|(entry, domain)| sinks.destinations.waits(*entry, domain));
            tracing::info!(messages = depth.messages, entries = depth.deferred, "taken up from the queue");
        }
        tokio::spawn(core.queue.clone().run());
        self.spawn(watch_clock(clock.clone(), core.queue.clone()));
        let (verifying, digesting, refusals) = (core.door.clone(), core.door.clone(), refusals.clone());
        self.spawn(async move { verifying.run_verifications().await });
        self.spawn(async move { digesting.run_digests().await });
        self.spawn(async move { refusals.report_left_out().await });
        if let Some(policies) = core.policies.clone() {
            self.spawn(async move { policies.keep_fresh().await });
        }
        let rotations = self.rotations.clone();
        self.spawn(async move { rotations.run().await });
        let (shown, by, api) = (self.certificate.clone(), self.submission.clone(), self.api.clone());
        self.spawn(async move { shown.keep_valid(&by, &api).await });
        // Where DNS is played, what it says is not about this relay.
        if dns_is == DnsIs::Real {
            let (upkeep, clock, keys) = (upkeep.clone(), clock.clone(), self.rotations.in_force());
            let (config, changed) = self.kept.clone();
            self.spawn(upkeep::UpkeepTask { upkeep, clock, config, keys, changed }.run());
        }
        if let Some(acme) = acme {
            let (shown, by) = (self.certificate.clone(), self.submission.clone());
            let changed = move || shown.renewed().into_iter().for_each(|acceptor| by.show(acceptor));
            self.spawn(acme.run(changed));
        }
        for (socket, settings) in doors.listeners {
            tokio::spawn(self.submission.clone().serve(socket, settings));
        }
        if let Some(socket) = doors.http {
            tokio::spawn(self.api.clone().serve(socket));
        }
        self
    }

    /// Begins something that goes on until the relay stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(while_running(self.services.draining.clone(), work));
    }

    /// Where clients can connect, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the HTTP API listens.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.services.core.queue
    }

    /// Signs with these keys from now on.
    pub(crate) fn sign_with(&self, keys: Keys) {
        self.rotations.in_force().store(Arc::new(keys));
    }

    /// Records that a message which its mail host took did not reach its recipient after all; says whether it is known.
    pub(crate) async fn record_bounce(&self, entry: EntryId, recipient: &Mailbox, attempted: Attempted) -> bool {
        let newest = self.services.core.queue.happened().newest();
        self.services.sinks.traces.caught_up(newest).await;
        let (traces, id, now) = (self.services.sinks.traces.clone(), entry.message, self.services.clock.now());
        let trace = tokio::task::spawn_blocking(move || traces.get(id)).await.unwrap_or_default();
        let Some(trace) = trace else { return false };
        let head = Head { entry: Some(entry.index), recipient: Some(recipient.clone()), ..trace.head(now) };
        self.services.core.queue.commit_event(Event { head, what: Happened::Bounced(attempted) }).await.is_ok()
    }

    /// Takes on what can change while the relay runs. Returns the keys that differ and need a restart: of them nothing
    /// is taken on anywhere.
    ///
    /// # Errors
    /// When a certificate cannot be used; then nothing changes.
    pub fn reload(&self, mut config: Config) -> anyhow::Result<Vec<String>> {
        let mut running = self.running.lock();
        let waiting = config.keep(&running);
        let acceptor = self.certificate.acceptor(&config)?;
        self.api.show(acceptor.clone());
        self.submission.reconfigure(config.submission.clone(), acceptor);
        self.services.core.door.reconfigure(config.intake.clone());
        self.services.core.queue.set_sharing(config.sharing());
        self.api.reconfigure(config.http.clone());
        self.services.core.delivery.smart_hosts().replace(config.smart_hosts.clone());
        self.rotations.reconfigure(config.configured_keys.clone());
        self.services.sinks.webhooks.reload(config.webhooks.clone());
        self.services.credentials.reconfigure(config.accounts.clone());
        self.kept.0.store(Arc::new(config.clone()));
        self.kept.1.notify_one();
        *running = config;
        Ok(waiting)
    }

    /// Takes no more mail and begins no more attempts; the first thing that [`Relay::shut_down`] does.
    pub fn begin_to_drain(&self) {
        self.services.draining.cancel();
        self.services.core.queue.stop();
    }

    /// Stops: clients are told to come back, running attempts get `PATIENCE`, then the queue is written down and
    /// closed. The HTTP API answers until then.
    pub async fn shut_down(self) {
        self.shut_down_shared().await;
    }

    /// The same, of a relay that others know.
    pub(crate) async fn shut_down_shared(&self) {
        self.begin_to_drain();
        let clients = tokio::time::timeout(PATIENCE, self.submission.drained());
        let (clients, ()) = tokio::join!(clients, self.services.core.delivery.drain(PATIENCE));
        if clients.is_err() {
            tracing::info!("some clients were still connected");
        }
        self.api.close(HTTP_PATIENCE).await;
        self.services.core.door.send_digests();
        self.services.refusals.close();
        let (queue, reporter) = (self.services.core.queue.clone(), self.services.reporter.clone());
        let (traces, stats, webhooks) = (
            self.services.sinks.traces.clone(),
            self.services.sinks.stats.clone(),
            self.services.sinks.webhooks.clone(),
        );
        // Waits for their threads.
        let closing = tokio::task::spawn_blocking(move || queue.close());
        if closing.await.is_err() {
            tracing::error!("the queue could not be closed");
        }
        let depth = self.services.core.queue.depth();
        let entries = depth.queued + depth.deferred + depth.sending;
        tracing::info!(entries, "stopped; what is left in the queue goes on at the next start");
        let closing = tokio::task::spawn_blocking(move || {
            reporter.close();
            traces.close();
            stats.close();
            webhooks.close();
        });
        let (closing, output) = (closing.await, self.services.output.clone());
        if closing.is_err() {
            tracing::error!("traces and statistics could not be closed");
        }
        // If nobody reads the log, what is left of it is lost.
        let _ = tokio::task::spawn_blocking(move || output.settle(LOG_PATIENCE)).await;
    }
}

fn warn_of_missing_addresses(config: &Config) {
    for address in own_faults::missing(&config.delivery.source_addresses) {
        tracing::warn!(%address, "this machine does not have this address of delivery.source_addresses");
    }
}

/// Whether names are looked up in the real DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DnsIs {
    Real,
    Played,
}
