//! What the ways in (submission, the API) work with, and who stands behind them: the way of mail, the readers of its events,
//! users, refusals.

use std::sync::Arc;

use axum::Router;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::builder::Core;
use super::data_dir::DataDir;
use super::environment::Environment;
use super::sinks::Sinks;
use crate::accounts::credentials::{Credentials, TokenHash};
use crate::base::clock::Clock;
use crate::config::Config;
use crate::http::{self, Api};
use crate::report::Reporter;
use crate::report::log::{EventLog, Output};
use crate::report::refusals::Refusals;
use crate::report::upkeep::Upkeep;
use crate::submission::listener::{LiveSettings, Submission};

/// Everything that runs behind the listeners.
pub(super) struct Services {
    pub(super) core: Core,
    pub(super) sinks: Sinks,
    pub(super) reporter: Arc<Reporter>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) output: Output,
    /// The relay takes no new mail any more.
    pub(super) draining: CancellationToken,
}

impl Services {
    /// Opens what is in the data directory and starts the readers of events; from then on events may go that all have read.
    pub(super) fn start(
        config: &Config,
        folder: &DataDir,
        environment: &Environment,
        upkeep: Arc<Upkeep>,
    ) -> anyhow::Result<Self> {
        let (clock, draining) = (environment.clock.clone(), CancellationToken::new());
        let core = environment.core(config, folder, &draining)?;
        let sinks = Sinks::new(folder, config, clock.clone(), &core.queue)?;
        let refusals = Refusals::new(clock.clone(), config.log.recipients.clone());
        let happened = core.queue.happened().clone();
        let listeners = sinks.listeners(environment.events.as_ref());
        let reporter = Reporter::start(happened, EventLog::new(&config.log), listeners)?;
        core.queue.happened().begin_to_sweep();
        let credentials = Credentials::new(config.accounts.clone(), &folder.secret()?).admitting(environment.admits);
        let (credentials, output) = (Arc::new(credentials), environment.output.clone());
        Ok(Self { core, sinks, reporter, refusals, credentials, upkeep, clock, output, draining })
    }

    /// The API over these services; `beside` answers before its own paths.
    pub(super) fn api(&self, operator: TokenHash, beside: Option<Router>, settings: http::Settings) -> Arc<Api> {
        let Core { door, queue, delivery, .. } = self.core.clone();
        let Sinks { traces, stats, webhooks, metrics, ends, destinations, providers, .. } = self.sinks.clone();
        let parts = http::Parts {
            door,
            queue,
            credentials: self.credentials.clone(),
            operator,
            traces,
            webhooks,
            stats,
            metrics,
            ends,
            delivery,
            destinations,
            providers,
            upkeep: self.upkeep.clone(),
            reporter: self.reporter.clone(),
            refusals: self.refusals.clone(),
            log: self.output.clone(),
            clock: self.clock.clone(),
            draining: self.draining.clone(),
            beside,
        };
        Api::new(parts, settings)
    }

    /// The SMTP side over these services.
    pub(super) fn submission(&self, settings: LiveSettings, acceptor: TlsAcceptor) -> Arc<Submission> {
        Submission::new(
            (self.core.door.clone(), self.core.delivery.clone()),
            self.credentials.clone(),
            (self.clock.clone(), self.refusals.clone()),
            settings,
            acceptor,
            self.draining.clone(),
        )
    }
}
