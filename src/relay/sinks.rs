//! Those who read what happened.

use std::sync::Arc;

use tokio_rustls::TlsConnector;

use super::data_dir::DataDir;
use crate::base::clock::Clock;
use crate::config::Config;
use crate::event::Sink;
use crate::queue::Queue;
use crate::report::completion::Completions;
use crate::report::destinations::Destinations;
use crate::report::metrics::Metrics;
use crate::report::providers::Providers;
use crate::report::stats::Statistics;
use crate::report::trace::{Limits, Traces};
use crate::report::webhooks::Webhooks;
use crate::report::{Listener, PassedOn};
use crate::tls::verify::Roots;

/// Those who hear of every event.
#[derive(Clone)]
pub(super) struct Sinks {
    pub(super) traces: Arc<Traces>,
    pub(super) stats: Arc<Statistics>,
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ends: Arc<Completions>,
    pub(super) destinations: Arc<Destinations>,
    pub(super) providers: Arc<Providers>,
}

impl Sinks {
    pub(super) fn new(
        folder: &DataDir,
        config: &Config,
        clock: Arc<dyn Clock>,
        queue: &Arc<Queue>,
    ) -> anyhow::Result<Self> {
        let traces = Traces::start(&folder.traces(), Limits::of(config.trace_retention), clock.clone())?;
        traces.follow(queue);
        let stats = Statistics::start(&folder.stats(), clock.clone(), queue)?;
        let tls = TlsConnector::from(Arc::new(Roots::load(config.delivery.ca_file.as_deref())?.client_config()?));
        let webhooks = Webhooks::start(&folder.webhooks(), config.webhooks.clone(), queue, clock, tls)?;
        Ok(Self {
            traces,
            stats,
            webhooks,
            metrics: Arc::default(),
            ends: Arc::default(),
            destinations: Arc::default(),
            providers: Arc::default(),
        })
    }

    /// Those who only take note, in the order in which they hear.
    pub(super) fn listeners(&self, also: Option<&Arc<dyn Sink>>) -> Vec<Arc<dyn Listener>> {
        let also = also.map(|sink| Arc::new(PassedOn(sink.clone())) as Arc<dyn Listener>);
        let counting: [Arc<dyn Listener>; 3] =
            [self.metrics.clone(), self.destinations.clone(), self.providers.clone()];
        counting.into_iter().chain([self.ends.clone() as _]).chain(also).collect()
    }
}
