//! For those who watch over the relay: is it alive, can it take mail, what has it done.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Api;
use super::problem::Problem;
use super::seats::ANYBODY;
use crate::queue::Queue;
use crate::report::metrics::{Gauge, write_counter};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /healthz`: the process works.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: new mail is taken.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    if api.parts.draining.is_cancelled() {
        return Err(Problem::draining());
    }
    if let Some(fault) = api.parts.queue.storage_fault() {
        return Err(Problem::cannot_store(&fault));
    }
    Ok("ready\n")
}

/// `GET /metrics`.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let queue = &api.parts.queue;
    // It looks at every entry, and anybody may ask.
    let depth = api.scan_as(ANYBODY.into(), Queue::depth).await;
    let count = |number: usize| number as u64;
    let states = [("queued", depth.queued), ("sending", depth.sending), ("deferred", depth.deferred)];
    let entries = states.map(|(state, entries)| (Some(("state", state.into())), count(entries)));
    let levels = api.parts.delivery.smart_hosts().levels().into_iter();
    let one = |name, help, value| Gauge { name, help, values: vec![(None, value)] };
    let gauges = [
        Gauge { name: "queue_entries", help: "Live entries by state.", values: entries.to_vec() },
        one("queue_messages", "Live messages.", count(depth.messages)),
        Gauge {
            name: "smart_host_breaker",
            help: "Whether a smart host is used: 0 closed (yes), 1 half-open (tried), 2 open (left alone).",
            values: levels.map(|(name, level)| (Some(("smart_host", name)), level)).collect(),
        },
        one("sessions", "Sessions with mail hosts, idle ones included.", count(api.parts.delivery.connections())),
        one("destinations_down", "Destinations where nobody answers.", count(api.parts.delivery.destinations_down())),
        one("able_to_store", "Whether new mail can be stored.", u64::from(queue.is_able_to_store())),
    ];
    let mut text = api.parts.metrics.text(&gauges);
    api.parts.refusals.write_metrics(&mut text);
    let (dropped, lost) = (api.parts.log.dropped(), api.parts.reporter.lost());
    write_counter(&mut text, "log_lines_dropped_total", "Log lines that nobody read in time.", dropped);
    write_counter(&mut text, "events_lost_total", "Events that came faster than they could be passed on.", lost);
    ([(header::CONTENT_TYPE, PROMETHEUS)], text)
}
