//! Wiring: builds the relay from its parts and owns the order in which they start, change and stop.

pub(crate) mod acme;
pub(crate) mod archive;
pub mod builder;
mod certificate;
pub(crate) mod data_dir;
mod doors;
pub(crate) mod first_run;
mod given;
pub(crate) mod preflight;
pub(crate) mod random;
mod rotating_secret;
mod rotation;
mod sinks;
mod upkeep;
pub(crate) mod verify;
mod wall_clock;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::accounts::credentials::{Admits, Credentials};
use crate::base::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::delivery::Delivery;
use crate::destination::policies::Policies;
use crate::destination::resolver::{Dns, HickoryDns};
use crate::dkim::Keys;
use crate::dkim::pool::SigningPool;
use crate::event::{Attempted, Event, Happened, Head, Sink};
use crate::http::{self, Api};
use crate::intake::door::Door;
use crate::ledger::embedded::code_keys::CodeKeys;
use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::store::Store;
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::ledger::embedded::store::sled::SledStore;
use crate::mail::address::Mailbox;
use crate::mail::id::EntryId;
use crate::net::{Network, TcpNetwork, own_faults};
use crate::queue::Queue;
use crate::report::Reporter;
use crate::report::destinations::Destinations;
use crate::report::log::{EventLog, Output};
use crate::report::refusals::Refusals;
use crate::report::stats::Statistics;
use crate::report::trace::Traces;
use crate::report::upkeep::Upkeep;
use crate::report::webhooks::Webhooks;
use crate::submission::listener::Submission;
use acme::Acme;
use builder::{Builder, Core};
use certificate::Certificate;
use data_dir::DataDir;
use doors::Doors;
use rotation::Rotations;
use sinks::Sinks;
use wall_clock::watch_clock;

/// How long running attempts get when the relay stops.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long running HTTP requests get after that.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end waits for lines that are still to be written.
pub(crate) const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// HTTPS.
const POLICY_PORT: u16 = 443;

/// What the relay stands on, exchangeable for tests and the demo.
pub struct Environment {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How mail hosts are connected to.
    pub network: Arc<dyn Network>,
    /// DNS, if not as configured.
    pub dns: Option<Arc<dyn Dns>>,
    /// Where web servers have their MTA-STS policies.
    pub policy_port: u16,
    /// What keeps the queue, if not the database in the data folder.
    pub store: Option<MemoryStore>,
    /// Somebody else who wants to hear of events, after log and counters.
    pub events: Option<Arc<dyn Sink>>,
    /// Where the log goes.
    pub output: Output,
    /// Who is let in.
    pub admits: Admits,
    /// What the HTTP API answers beside its own paths, and before them.
    pub beside: Option<axum::Router>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            network: Arc::new(TcpNetwork),
            dns: None,
            policy_port: POLICY_PORT,
            store: None,
            events: None,
            output: Output::stdout(),
            admits: Admits::default(),
            beside: None,
        }
    }
}

impl Environment {
    /// The way of mail, with what it keeps in the data folder.
    fn core(&self, config: &Config, folder: &DataDir, draining: &CancellationToken) -> anyhow::Result<Core> {
        let now = self.clock.now();
        let dns = match &self.dns {
            Some(dns) => dns.clone(),
            None => {
                let dns = Arc::new(HickoryDns::new(&config.resolver)?);
                let probed = dns.clone();
                tokio::spawn(while_running(draining.clone(), async move { probed.keep_probing().await }));
                dns
            }
        };
        let ring = KeyRing::open(&folder.keys(), config.seal, now)
            .with_context(|| format!("the keys in {} cannot be used", folder.keys().display()))?;
        let code_keys = CodeKeys::open(&folder.code_keys(), now)
            .with_context(|| format!("the keys in {} cannot be used", folder.code_keys().display()))?;
        let store: Box<dyn Store> = match &self.store {
            Some(store) => Box::new(store.clone()),
            None => Box::new(SledStore::open(&folder.queue(), ring)?),
        };
        let builder = Builder::new(config).clock(self.clock.clone()).network(self.network.clone()).dns(dns);
        let builder = builder.store(store, random::random_number()?).policies(folder.policies(), self.policy_port);
        let builder = builder.signing(SigningPool::start()?).secrets(Arc::new(folder.rotating_secrets(now)));
        let builder = builder.code_keys(code_keys);
        builder.build()
    }
}

/// A running relay.
pub struct Relay {
    addresses: Vec<SocketAddr>,
    door: Arc<Door>,
    credentials: Arc<Credentials>,
    rotations: Arc<Rotations>,
    submission: Arc<Submission>,
    delivery: Arc<Delivery>,
    queue: Arc<Queue>,
    api: Arc<Api>,
    http_address: Option<SocketAddr>,
    traces: Arc<Traces>,
    stats: Arc<Statistics>,
    webhooks: Arc<Webhooks>,
    reporter: Arc<Reporter>,
    refusals: Arc<Refusals>,
    clock: Arc<dyn Clock>,
    output: Output,
    draining: CancellationToken,
    certificate: Arc<Certificate>,
    /// For whoever looks after what has to be kept up: the configuration in force, and that it changed.
    kept: (Arc<ArcSwap<Config>>, Arc<Notify>),
    upkeep: Arc<Upkeep>,
    /// Ours until the end.
    _folder: DataDir,
    /// The configuration in force.
    running: Mutex<Config>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("addresses", &self.addresses).finish_non_exhaustive()
    }
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
        let certificate = Arc::new(certificate);
        let acceptor = certificate.acceptor(&config)?;
        let draining = CancellationToken::new();
        let core = environment.core(&config, &folder, &draining)?;
        let sinks = Sinks::new(&folder, &config, environment.clock.clone(), &core.queue)?;
        let refusals = Refusals::new(environment.clock.clone(), config.log.recipients.clone());
        let happened = core.queue.happened().clone();
        let reporter =
            Reporter::start(happened, EventLog::new(&config.log), sinks.listeners(environment.events.as_ref()))?;
        core.queue.happened().begin_to_sweep();
        tokio::task::spawn_blocking(crate::policy::cause::prepare);
        let credentials = Credentials::new(config.accounts.clone(), &folder.secret()?).admitting(environment.admits);
        let credentials = Arc::new(credentials);
        let dns_is = if environment.dns.is_none() { DnsIs::Real } else { DnsIs::Played };
        let Environment { clock, output, network, beside, .. } = environment;
        let (traces, destinations) = (sinks.traces.clone(), sinks.destinations.clone());
        let parts = http::Parts {
            door: core.door.clone(),
            queue: core.queue.clone(),
            delivery: core.delivery.clone(),
            credentials: credentials.clone(),
            operator,
            traces: sinks.traces,
            stats: sinks.stats.clone(),
            webhooks: sinks.webhooks.clone(),
            metrics: sinks.metrics,
            ends: sinks.ends,
            reporter: reporter.clone(),
            refusals: refusals.clone(),
            log: output.clone(),
            destinations: sinks.destinations,
            providers: sinks.providers,
            upkeep: upkeep.clone(),
            clock: clock.clone(),
            draining: draining.clone(),
            beside,
        };
        let api = Api::new(parts, config.http.clone());
        api.show(acceptor.clone());
        let (way, live) = ((core.door.clone(), core.delivery.clone()), config.submission.clone());
        let by = (clock.clone(), refusals.clone());
        let submission = Submission::new(way, credentials.clone(), by, live, acceptor, draining.clone());
        let relay = Self {
            addresses: doors.addresses()?,
            door: core.door,
            credentials,
            rotations: Rotations::new(&config, core.keys, clock.clone()),
            submission,
            delivery: core.delivery,
            queue: core.queue,
            api,
            http_address: doors.http_address()?,
            traces,
            stats: sinks.stats,
            webhooks: sinks.webhooks,
            reporter,
            refusals,
            clock: clock.clone(),
            output,
            draining,
            certificate,
            kept: (Arc::new(ArcSwap::from_pointee(config.clone())), Arc::default()),
            upkeep,
            _folder: folder,
            running: Mutex::new(config),
        };
        let acme = relay.acme(network, core.dns, &clock);
        Ok(relay.run(doors, clock, core.policies, &destinations, (dns_is, acme)))
    }

    /// Who gets certificates from a CA, if somebody does.
    fn acme(&self, network: Arc<dyn Network>, dns: Arc<dyn Dns>, clock: &Arc<dyn Clock>) -> Option<Acme> {
        let running = self.running.lock();
        let parts = acme::Parts { dns, network, clock: clock.clone(), submission: self.submission.clone() };
        let is_wanted = !running.acme.domains.is_empty();
        is_wanted.then(|| Acme::new(running.acme.clone(), &running.data_dir, parts))
    }

    /// Begins all that goes on until the relay stops.
    fn run(
        self,
        doors: Doors,
        clock: Arc<dyn Clock>,
        policies: Option<Arc<Policies>>,
        destinations: &Destinations,
        (dns_is, acme): (DnsIs, Option<Acme>),
    ) -> Self {
        let depth = self.queue.depth();
        if depth.messages > 0 {
            self.queue.live_domains().iter().for_each(|(entry, domain)| destinations.waits(*entry, domain));
            tracing::info!(messages = depth.messages, entries = depth.deferred, "taken up from the queue");
        }
        tokio::spawn(self.queue.clone().run_timers());
        let (door, refusals) = (self.door.clone(), self.refusals.clone());
        let draining = || self.draining.clone();
        let upkeep_clock = clock.clone();
        tokio::spawn(while_running(draining(), watch_clock(clock, self.queue.clone())));
        let verifying = self.door.clone();
        tokio::spawn(while_running(draining(), async move { verifying.run_verifications().await }));
        tokio::spawn(while_running(draining(), async move { door.run_digests().await }));
        tokio::spawn(while_running(draining(), async move { refusals.tell_what_was_left_out().await }));
        if let Some(policies) = policies {
            tokio::spawn(while_running(draining(), async move { policies.keep_fresh().await }));
        }
        let rotations = self.rotations.clone();
        tokio::spawn(while_running(draining(), async move { rotations.run().await }));
        let (shown, by, api) = (self.certificate.clone(), self.submission.clone(), self.api.clone());
        tokio::spawn(while_running(draining(), async move { shown.keep_valid(&by, &api).await }));
        // Where DNS is played, what it says is not about this relay.
        if dns_is == DnsIs::Real {
            let (config, changed) = self.kept.clone();
            let (upkeep, keys) = (self.upkeep.clone(), self.rotations.in_force());
            let task = upkeep::UpkeepTask { upkeep, clock: upkeep_clock, config, keys, changed };
            tokio::spawn(while_running(draining(), task.run()));
        }
        if let Some(acme) = acme {
            let (shown, by) = (self.certificate.clone(), self.submission.clone());
            let changed = move || shown.renewed().into_iter().for_each(|acceptor| by.show(acceptor));
            tokio::spawn(while_running(draining(), async move { acme.run(changed).await }));
        }
        for (socket, settings) in doors.listeners {
            tokio::spawn(self.submission.clone().serve(socket, settings));
        }
        if let Some(socket) = doors.http {
            tokio::spawn(self.api.clone().serve(socket));
        }
        self
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
        &self.queue
    }

    /// Signs with these keys from now on.
    pub(crate) fn sign_with(&self, keys: Keys) {
        self.rotations.in_force().store(Arc::new(keys));
    }

    /// Records that a message which its mail host took did not reach its recipient after all; says whether it is known.
    pub(crate) async fn record_bounce(&self, entry: EntryId, recipient: &Mailbox, attempted: Attempted) -> bool {
        let newest = self.queue.happened().newest();
        self.traces.caught_up(newest).await;
        let (traces, id, now) = (self.traces.clone(), entry.message, self.clock.now());
        let trace = tokio::task::spawn_blocking(move || traces.get(id)).await.unwrap_or_default();
        let Some(trace) = trace else { return false };
        let head = Head { entry: Some(entry.index), recipient: Some(recipient.clone()), ..trace.head(now) };
        self.queue.commit_event(Event { head, what: Happened::Bounced(attempted) }).await.is_ok()
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
        self.door.reconfigure(config.intake.clone());
        self.queue.set_sharing(config.sharing());
        self.api.reconfigure(config.http.clone());
        self.delivery.smart_hosts().replace(config.smart_hosts.clone());
        self.rotations.reconfigure(config.configured_keys.clone());
        self.webhooks.reload(config.webhooks.clone());
        self.credentials.reconfigure(config.accounts.clone());
        self.kept.0.store(Arc::new(config.clone()));
        self.kept.1.notify_one();
        *running = config;
        Ok(waiting)
    }

    /// Takes no more mail and begins no more attempts; the first thing that [`Relay::shut_down`] does.
    pub fn begin_to_drain(&self) {
        self.draining.cancel();
        self.queue.stop();
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
        let (clients, ()) = tokio::join!(clients, self.delivery.drain(PATIENCE));
        if clients.is_err() {
            tracing::info!("some clients were still connected");
        }
        self.api.close(HTTP_PATIENCE).await;
        self.door.send_digests();
        self.refusals.close();
        let (queue, reporter) = (self.queue.clone(), self.reporter.clone());
        let (traces, stats, webhooks) = (self.traces.clone(), self.stats.clone(), self.webhooks.clone());
        // Waits for their threads.
        let closing = tokio::task::spawn_blocking(move || queue.close());
        if closing.await.is_err() {
            tracing::error!("the queue could not be closed");
        }
        let depth = self.queue.depth();
        let entries = depth.queued + depth.deferred + depth.sending;
        tracing::info!(entries, "stopped; what is left in the queue goes on at the next start");
        let closing = tokio::task::spawn_blocking(move || {
            reporter.close();
            traces.close();
            stats.close();
            webhooks.close();
        });
        let (closing, output) = (closing.await, self.output.clone());
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

/// Something that goes on until the relay stops.
async fn while_running(draining: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = draining.cancelled() => {}
        () = work => {}
    }
}
