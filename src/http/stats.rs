//! `GET /v1/stats`: how many codes came in time.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api::{ParsedQuery as Query, asked};
use super::auth::Access;
use super::problem::{JsonResult, Problem};
use crate::base::clock::Timestamp;
use crate::report::stats::counts::{Counts, Times};
use crate::report::stats::table::{BYS, By};
use crate::report::stats::{Answer, Group, Selection};

/// How far back it goes where nobody says.
const SPAN_DEFAULT: Duration = Duration::from_secs(3600);
/// The longest time that there is something of.
const SPAN_MAX: Duration = Duration::from_secs(31 * 86_400);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsQuery {
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
}

/// `GET /v1/stats?from=&to=&by=`: a user's own, or for the operator everybody's.
#[utoipa::path(get, path = "/v1/stats", tag = "statistics", params(("from" = Option<String>, Query, description = "a time, or seconds since 1970"), ("to" = Option<String>, Query, description = "the same"), ("by" = Option<String>, Query, description = "lane, user, tag, provider or destination")),
    responses((status = 200, description = "how many entries came to what", body = StatsJson), super::refusals::Refusals))]
pub(super) async fn show(Access(api, who): Access, query: Query<StatsQuery>) -> JsonResult<StatsJson> {
    let StatsQuery { from, to, by } = asked(query)?;
    let to = to.as_deref().map_or(Ok(api.parts.clock.wall()), |text| time("to", text))?;
    let from = from.as_deref().map_or(Ok(to.minus(SPAN_DEFAULT)), |text| time("from", text))?;
    if from > to || to.since(from) > SPAN_MAX {
        return Err(Problem::invalid("from comes before to, by 31 days at most"));
    }
    let by = by.as_deref().map(|name| BYS.into_iter().find(|by| by.name() == name));
    if by == Some(None) {
        return Err(Problem::invalid("by: lane, user, tag, provider or destination"));
    }
    let asked = Selection { from, to, by: by.flatten(), user: who.only_user() };
    // What an answer told of is counted, unless it cannot be written down.
    let _ = api.parts.queue.flush().await;
    api.parts.stats.caught_up(api.parts.queue.happened().newest()).await;
    let (stats, question) = (api.parts.stats.clone(), asked.clone());
    let answer = api.scan(&who, move |_| stats.answer(&question)).await;
    let answer = answer.ok_or_else(|| Problem::cannot_store("the statistics cannot be read"))?;
    Ok(Json(StatsJson::new(answer, asked.by)))
}

/// RFC 3339 in UTC, or seconds since 1970.
pub(super) fn time(name: &str, text: &str) -> Result<Timestamp, Problem> {
    let seconds = text.parse::<u64>().ok().map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    let with_millis = || text.strip_suffix('Z').filter(|text| !text.contains('.')).map(|text| format!("{text}.000Z"));
    let found = seconds.or_else(|| Timestamp::from_rfc3339(text));
    let found = found.or_else(|| with_millis().and_then(|text| Timestamp::from_rfc3339(&text)));
    found.ok_or_else(|| {
        Problem::invalid(format!("{name}: a time like 2026-11-21T10:00:00Z, or seconds since 1970")).in_our_words()
    })
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatsJson {
    from: String,
    to: String,
    step_s: u64,
    total: CountsJson,
    groups: Vec<GroupJson>,
}

#[derive(Debug, Serialize, ToSchema)]
struct GroupJson {
    by: &'static str,
    name: String,
    total: CountsJson,
    series: Vec<StepJson>,
}

/// A step in which something happened.
#[derive(Debug, Serialize, ToSchema)]
struct StepJson {
    at: String,
    #[serde(flatten)]
    counts: CountsJson,
}

#[derive(Debug, Serialize, ToSchema)]
struct CountsJson {
    accepted: u64,
    delivered: u64,
    in_time: u64,
    late: u64,
    failed: BTreeMap<String, u64>,
    blames_sender: BTreeMap<String, u64>,
    expired: u64,
    superseded: u64,
    cancelled: u64,
    at_risk: u64,
    verified: u64,
    ms_to_delivered: TimesJson,
    ms_to_verified: TimesJson,
}

/// Milliseconds; null before the first.
#[derive(Debug, Serialize, ToSchema)]
struct TimesJson {
    p50: Option<u64>,
    p95: Option<u64>,
    p99: Option<u64>,
}

impl StatsJson {
    fn new(answer: Answer, by: Option<By>) -> Self {
        let group = |(name, group): (String, Group)| GroupJson {
            by: by.map_or("", By::name),
            name,
            total: group.total.into(),
            series: group.series.into_iter().map(step).collect(),
        };
        Self {
            from: answer.from.rfc3339(),
            to: answer.to.rfc3339(),
            step_s: answer.resolution.step_s(),
            total: answer.total.into(),
            groups: answer.groups.into_iter().map(group).collect(),
        }
    }
}

fn step((at, counts): (u64, Counts)) -> StepJson {
    StepJson { at: Timestamp::from_millis(at.saturating_mul(1000)).rfc3339(), counts: counts.into() }
}

impl From<Counts> for CountsJson {
    fn from(counts: Counts) -> Self {
        Self {
            accepted: counts.accepted,
            delivered: counts.delivered,
            in_time: counts.in_time,
            late: counts.late,
            failed: counts.failed,
            blames_sender: counts.blames_sender,
            expired: counts.expired,
            superseded: counts.superseded,
            cancelled: counts.cancelled,
            at_risk: counts.at_risk,
            verified: counts.verified,
            ms_to_delivered: TimesJson::of(&counts.to_delivered),
            ms_to_verified: TimesJson::of(&counts.to_verified),
        }
    }
}

impl TimesJson {
    fn of(times: &Times) -> Self {
        Self { p50: times.quantile(0.5), p95: times.quantile(0.95), p99: times.quantile(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(time("from", text).ok().map(Timestamp::as_millis), millis, "{text}");
        };
        check("2026-11-21T10:00:00Z", Some(1_795_255_200_000));
        check("2026-11-21T10:00:00.250Z", Some(1_795_255_200_250));
        check("1795255200", Some(1_795_255_200_000));
        check("yesterday", None);
        check("2026-11-21", None);
    }
}
