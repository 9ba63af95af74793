//! For those who watch over the relay: is it alive, can it take mail, what has it done.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;

use super::Api;
use super::problem::Problem;
use super::refusals::Refusals;
use super::seats::ANYBODY;
use crate::base::lane::Lane;
use crate::report::exposition::{Exposition, Format, Type};
use crate::report::metrics::by_lane;
use crate::report::webhooks::{Standing, Status};

/// `GET /healthz`: the process works.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "the process works", body = String, content_type = "text/plain"), Refusals))]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: new mail is taken.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "new mail is taken", body = String, content_type = "text/plain"), Refusals))]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    api.takes_mail()?;
    if let Some(fault) = api.parts.queue.storage_fault() {
        return Err(Problem::cannot_store(&fault));
    }
    Ok("ready\n")
}

/// `GET /metrics`.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, description = "metrics of Prometheus", body = String, content_type = "text/plain"), Refusals))]
pub(super) async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> impl IntoResponse {
    // What an answer told of is counted.
    api.parts.reporter.caught_up().await;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::wanted(accept);
    let mut out = Exposition::new(format);
    api.parts.metrics.write(&mut out);
    api.parts.providers.write(&mut out);
    queue(&api, &mut out).await;
    sessions(&api, &mut out);
    webhooks(&api, &mut out);
    api.parts.refusals.write_metrics(&mut out);
    api.parts.upkeep.write(&mut out, api.parts.clock.wall());
    let (dropped, lost) = (api.parts.log.dropped(), api.parts.reporter.lost());
    out.family("log_lines_dropped_total", Type::Counter, "Log lines that nobody read in time.").sample(&[], dropped);
    let help = "Events that came faster than they could be passed on.";
    out.family("events_lost_total", Type::Counter, help).sample(&[], lost);
    process(&mut out);
    ([(header::CONTENT_TYPE, format.content_type())], out.finish())
}

async fn queue(api: &Api, out: &mut Exposition) {
    let now = api.parts.clock.now();
    // It looks at every entry, and anybody may ask.
    let (depth, standing) = api.scan_as(ANYBODY.into(), move |queue| (queue.depth(), queue.standing(now))).await;
    out.family("queue_entries", Type::Gauge, "Live entries by state.");
    for (state, entries) in [("queued", depth.queued), ("sending", depth.sending), ("deferred", depth.deferred)] {
        out.sample(&[("state", state)], entries);
    }
    out.family("queue_messages", Type::Gauge, "Live messages.").sample(&[], depth.messages);
    let help = "Live entries at most; further mail is refused for the time being.";
    out.family("queue_entries_max", Type::Gauge, help).sample(&[], api.parts.queue.entries_max());
    let of = |lane: Lane| standing.get(&lane).copied();
    let entries = |lane| of(lane).map_or(0, |standing| standing.entries as u64);
    by_lane(out, ("lane_entries", Type::Gauge, "Live entries by lane."), entries);
    let oldest = |lane| of(lane).map_or(0, |standing| standing.oldest.as_secs());
    by_lane(out, ("oldest_entry_seconds", Type::Gauge, "Since when the oldest live entry was accepted."), oldest);
    out.family("least_life_left_seconds", Type::Gauge, "How long the first live entry to end still lives.");
    for (lane, standing) in &standing {
        out.sample(&[("lane", lane.name())], standing.least_left.as_secs());
    }
    let able = u64::from(api.parts.queue.is_able_to_store());
    out.family("able_to_store", Type::Gauge, "Whether new mail can be stored.").sample(&[], able);
}

fn sessions(api: &Api, out: &mut Exposition) {
    let delivery = &api.parts.delivery;
    let help = "Whether a smart host is used: 0 closed (yes), 1 half-open (tried), 2 open (left alone).";
    out.family("smart_host_breaker", Type::Gauge, help);
    for (name, level) in delivery.smart_hosts().levels() {
        out.sample(&[("smart_host", &name)], level);
    }
    let help = "Sessions with mail hosts, idle ones included.";
    out.family("sessions", Type::Gauge, help).sample(&[], delivery.connections());
    let help = "Destinations where nobody answers.";
    out.family("destinations_down", Type::Gauge, help).sample(&[], delivery.destinations_down());
}

/// The process, as every exporter tells it, and which version it is.
fn process(out: &mut Exposition) {
    out.family("build_info", Type::Gauge, "Which version this is; always 1.");
    out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
    let stat = read("self/stat");
    // Behind the name in parentheses, which may hold anything; proc(5) counts from 1, and these begin with 3.
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let ticks = 100.0;
    let cpu = (field(14) + field(15)) as f64 / ticks;
    out.family("process_cpu_seconds_total", Type::Counter, "Time on processors.").sample(&[], cpu);
    let booted = read("stat").lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok()).unwrap_or(0.0);
    let help = "When the process started, in seconds since 1970.";
    out.family("process_start_time_seconds", Type::Gauge, help).sample(&[], booted + field(22) as f64 / ticks);
    let memory = field(24).saturating_mul(4096);
    out.family("process_resident_memory_bytes", Type::Gauge, "Memory in use.").sample(&[], memory);
    out.family("process_virtual_memory_bytes", Type::Gauge, "Address space in use.").sample(&[], field(23));
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    out.family("process_open_fds", Type::Gauge, "Open file descriptors.").sample(&[], open);
    let limits = read("self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let max: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    out.family("process_max_fds", Type::Gauge, "File descriptors at most.").sample(&[], max);
}

fn webhooks(api: &Api, out: &mut Exposition) {
    let statuses = api.parts.webhooks.statuses();
    let now = api.parts.clock.wall();
    let mut family = |name: &str, of_type: Type, help: &str, value: &dyn Fn(&Status) -> u64| {
        out.family(name, of_type, help);
        for (endpoint, status) in &statuses {
            out.sample(&[("endpoint", &endpoint.shown())], value(status));
        }
    };
    family("webhook_waiting", Type::Gauge, "Posts that wait, by endpoint.", &|status| status.waiting as u64);
    family("webhook_oldest_seconds", Type::Gauge, "How long the oldest of them has waited.", &|status| {
        status.oldest.map_or(0, |oldest| now.since(oldest).as_secs())
    });
    family("webhook_failing", Type::Gauge, "Whether the last try failed, or the endpoint is gone.", &|status| {
        u64::from(status.standing != Standing::Well)
    });
    family("webhook_taken_total", Type::Counter, "Posts that were taken.", &|status| status.taken);
    family("webhook_failed_total", Type::Counter, "Tries that failed.", &|status| status.failed);
    family("webhook_given_up_total", Type::Counter, "Events that were not taken for 24 h.", &|status| status.given_up);
}
