//! What the page shows, in one piece.

use std::sync::Arc;

use serde::Serialize;

use super::super::Api;
use super::super::auth::Who;
use super::chart;
use crate::base::lane::LANES;
use crate::event::cause::Cause;
use crate::policy::action::{Blame, Finality, action};
use crate::report::providers::{Provider, Refusals};
use crate::report::recent::{Recent, step_of};
use crate::report::upkeep::Found;

/// Steps of ten minutes in a day.
const DAY: u64 = 144;

/// All of it; a user sees its own messages by the search, and nothing of others.
#[derive(Serialize)]
pub(super) struct Data {
    now: String,
    version: &'static str,
    who: Arc<str>,
    operator: bool,
    causes: Vec<Meaning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<All>,
}

/// A cause, what it means, and what to do.
#[derive(Serialize)]
struct Meaning {
    name: &'static str,
    meaning: &'static str,
    mend: &'static str,
}

/// For the operator.
#[derive(Serialize)]
struct All {
    hour: Hour,
    yesterday: Option<Hour>,
    chart: String,
    chart_rows: Vec<(String, Option<u64>, Option<u64>)>,
    lanes: Vec<LaneNow>,
    able_to_store: bool,
    sessions: usize,
    providers: Vec<Provider>,
    refusals: Vec<Refusals>,
    findings: Option<Vec<Found>>,
    looked_at: Option<String>,
    smart_hosts: Vec<(Arc<str>, &'static str)>,
}

#[derive(Serialize)]
struct Hour {
    in_time: u64,
    late: u64,
}

#[derive(Serialize)]
struct LaneNow {
    lane: &'static str,
    entries: usize,
    at_risk: usize,
    oldest_s: Option<u64>,
}

pub(super) async fn of(api: &Api, who: &Who) -> Data {
    // What an answer told of is counted.
    api.parts.reporter.caught_up().await;
    let operator = who.only_user().is_none();
    Data {
        now: api.parts.clock.wall().rfc3339(),
        version: env!("CARGO_PKG_VERSION"),
        who: who.name(),
        operator,
        causes: Cause::ALL.iter().map(|cause| meaning(*cause)).collect(),
        all: if operator { Some(all(api, who).await) } else { None },
    }
}

fn meaning(cause: Cause) -> Meaning {
    let mend = match action(cause, Finality::Final).blame {
        Blame::Nobody => "Nothing: the relay tries again in time.",
        Blame::Recipient => "Only the recipient can mend it: check the address, or offer another way.",
        Blame::Message => "Whoever wrote the message can mend it: look at its sender, size and content.",
        Blame::Relay => "Whoever runs the relay can mend it: see the findings above, or run otp-relay check --probe.",
        Blame::Receiver => "Only the receiving system can mend it; the relay tries again while there is time.",
    };
    Meaning { name: cause.name(), meaning: cause.meaning(), mend }
}

async fn all(api: &Api, who: &Who) -> All {
    let now = api.parts.clock.now();
    let standing = api.scan(who, move |queue| queue.standing(now)).await;
    let lanes = LANES.into_iter().map(|lane| {
        let of = standing.get(&lane);
        let (entries, oldest_s) = (of.map_or(0, |of| of.entries), of.map(|of| of.oldest.as_secs()));
        LaneNow { lane: lane.name(), entries, at_risk: api.parts.metrics.at_risk(lane), oldest_s }
    });
    let (recent, wall) = (&api.parts.recent, api.parts.clock.wall());
    let last = step_of(wall);
    let hour = |last| {
        let (in_time, late) = recent.hour_to(last);
        Hour { in_time, late }
    };
    let upkeep = api.parts.upkeep.state();
    let level =
        |level| ["used when needed", "being tried", "left alone"].get(level as usize).copied().unwrap_or("unknown");
    let levels = api.parts.delivery.smart_hosts().levels().into_iter();
    let (chart, chart_rows) = charted(recent, last);
    All {
        hour: hour(last),
        yesterday: Some(hour(last - DAY)).filter(|hour| hour.in_time + hour.late > 0),
        chart,
        chart_rows,
        lanes: lanes.collect(),
        able_to_store: api.parts.queue.is_able_to_store(),
        sessions: api.parts.delivery.connections(),
        providers: api.parts.providers.rows(),
        refusals: api.parts.providers.refusals(wall),
        findings: upkeep.findings.clone(),
        looked_at: upkeep.looked_at.map(|at| at.rfc3339()),
        smart_hosts: levels.map(|(name, state)| (name, level(state))).collect(),
    }
}

/// The picture of a day, and the same in numbers.
/// A time, and the median and the 99th percentile of what was delivered then.
type Charted = (String, Option<u64>, Option<u64>);

fn charted(recent: &Recent, last: u64) -> (String, Vec<Charted>) {
    let steps: Vec<_> =
        recent.steps().into_iter().filter(|step| step.number + DAY > last && step.number <= last).collect();
    let line = |share: f64| -> Vec<(f64, u64)> {
        let points = steps.iter().filter_map(|step| {
            let at = 1.0 - (last - step.number) as f64 / DAY as f64;
            Some((at, step.within(share)?))
        });
        points.collect()
    };
    let rows = steps
        .iter()
        .rev()
        .take(24)
        .map(|step| (format!("{} min ago", (last - step.number) * 10), step.within(0.5), step.within(0.99)));
    (chart::times(&[("p50", line(0.5)), ("p99", line(0.99))]), rows.collect())
}
