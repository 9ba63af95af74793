//! What the page shows, in one piece.

use std::sync::Arc;

use serde::Serialize;

use super::super::Api;
use super::super::auth::Principal;
use super::figures::{self, Hour, Provider, Refusals};
use crate::base::lane::LANES;
use crate::event::cause::Cause;
use crate::policy::action::{Blame, Finality, action};
use crate::report::upkeep::UpkeepFinding;
use crate::report::webhooks::Status;
use crate::report::webhooks::endpoint::Endpoint;

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
    findings: Option<Vec<UpkeepFinding>>,
    looked_at: Option<String>,
    smart_hosts: Vec<(Arc<str>, &'static str)>,
    webhooks: Vec<Webhook>,
}

/// An endpoint, and what it has not taken yet.
#[derive(Serialize)]
struct Webhook {
    url: Arc<str>,
    /// `well`, `failing` or `gone`.
    state: &'static str,
    waiting: usize,
    more_waiting: bool,
    oldest: Option<String>,
    /// The last one, or why there was none.
    answer: Option<String>,
}

#[derive(Serialize)]
struct LaneNow {
    lane: &'static str,
    entries: usize,
    at_risk: usize,
    oldest_s: Option<u64>,
}

pub(super) async fn of(api: &Api, who: &Principal) -> Data {
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
        Blame::Relay if cause == Cause::RateLimited => {
            "Send less at once there: spread mail that is no code, let a new address or domain grow slowly, or use a smart host."
        }
        Blame::Relay if cause == Cause::ReputationBlocked => {
            "Look the address up where the reply says, mend why it is there and ask to be taken off; use a smart host meanwhile."
        }
        Blame::Relay if cause == Cause::AuthFailed => {
            "SPF, DKIM or DMARC does not hold there: publish what otp-relay check finds missing."
        }
        Blame::Nobody => "Nothing: the relay tries again in time.",
        Blame::Recipient => "Only the recipient can mend it: check the address, or offer another way.",
        Blame::Message => "Whoever wrote the message can mend it: look at its sender, size and content.",
        Blame::Relay => "Whoever runs the relay can mend it: see the findings above, or run otp-relay check --probe.",
        Blame::Receiver => "Only the receiving system can mend it; the relay tries again while there is time.",
    };
    Meaning { name: cause.name(), meaning: cause.meaning(), mend }
}

async fn all(api: &Api, who: &Principal) -> All {
    let now = api.parts.clock.now();
    let standing = api.scan(who, move |queue| queue.standing(now)).await;
    let lanes = LANES.into_iter().map(|lane| {
        let of = standing.get(&lane);
        let (entries, oldest_s) = (of.map_or(0, |of| of.entries), of.map(|of| of.oldest.as_secs()));
        LaneNow { lane: lane.name(), entries, at_risk: api.parts.metrics.at_risk(lane), oldest_s }
    });
    let upkeep = api.parts.upkeep.state();
    let level =
        |level| ["used when needed", "being tried", "left alone"].get(level as usize).copied().unwrap_or("unknown");
    let levels = api.parts.delivery.smart_hosts().levels().into_iter();
    let figures = figures::read(api, who).await;
    All {
        hour: figures.hour,
        yesterday: figures.yesterday,
        chart: figures.picture.chart,
        chart_rows: figures.picture.rows,
        lanes: lanes.collect(),
        able_to_store: api.parts.queue.is_able_to_store(),
        sessions: api.parts.delivery.connections(),
        providers: figures.providers,
        refusals: figures.refusals,
        findings: upkeep.findings.clone(),
        looked_at: upkeep.looked_at.map(|at| at.rfc3339()),
        smart_hosts: levels.map(|(name, state)| (name, level(state))).collect(),
        webhooks: api.parts.webhooks.statuses().iter().map(webhook).collect(),
    }
}

fn webhook((endpoint, status): &(Endpoint, Status)) -> Webhook {
    Webhook {
        url: endpoint.shown(),
        state: status.standing.name(),
        waiting: status.waiting,
        more_waiting: status.is_behind,
        oldest: status.oldest.map(|at| at.rfc3339()),
        answer: status.last.as_ref().map(|(_, answer)| answer.clone()),
    }
}
