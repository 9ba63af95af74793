//! Webhooks: how they stand, posting events again, and a test. The operator's business.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::api::id;
use super::auth::{Access, Principal};
use super::body::{Payload, small_json};
use super::problem::{JsonResult, Problem};
use super::stats::time;
use crate::base::clock::Timestamp;
use crate::event::Event;
use crate::report::webhooks::endpoint::{Endpoint, Format};
use crate::report::webhooks::{REPLAYED_MAX, Status, TestResult};

/// How long before an event its message can have been accepted: the longest life, and what a delivery may take beyond it.
const LIFE_MAX: Duration = Duration::from_secs(25 * 3600);

const ONLY: &str = "webhooks are the operator's business";
/// The endpoints.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhooksJson {
    webhooks: Vec<WebhookJson>,
}

/// How one stands.
#[derive(Debug, Serialize, ToSchema)]
struct WebhookJson {
    url: Arc<str>,
    format: &'static str,
    events: Vec<&'static str>,
    users: Vec<String>,
    /// `well`, `failing` or `gone`.
    state: &'static str,
    /// Posts that wait; more events may wait behind them.
    waiting: usize,
    more_waiting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<String>,
    /// The last answer, or why there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_answer_at: Option<String>,
    taken: u64,
    failed: u64,
    given_up: u64,
}

impl WebhookJson {
    fn new((endpoint, status): (Endpoint, Status)) -> Self {
        let (last_answer_at, last_answer) = status.last.unzip();
        Self {
            url: endpoint.target.url.clone(),
            format: match endpoint.format {
                Format::Events => "events",
                Format::Emails => "emails",
            },
            events: endpoint.events.iter().map(|kind| kind.name()).collect(),
            users: endpoint.users,
            state: status.standing.name(),
            waiting: status.waiting,
            more_waiting: status.is_behind,
            oldest: status.oldest.map(Timestamp::rfc3339),
            last_answer,
            last_answer_at: last_answer_at.map(Timestamp::rfc3339),
            taken: status.taken,
            failed: status.failed,
            given_up: status.given_up,
        }
    }
}

/// `GET /v1/webhooks`.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks",
    responses((status = 200, description = "each endpoint and how it stands", body = WebhooksJson), super::refusals::Refusals))]
pub(super) async fn list(Access(api, who): Access) -> JsonResult<WebhooksJson> {
    who.operator_only(ONLY)?;
    let webhooks = api.parts.webhooks.statuses().into_iter().map(WebhookJson::new).collect();
    Ok(Json(WebhooksJson { webhooks }))
}

/// What is to be posted again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookReplay, examples(json!({"since": "2026-11-21T10:00:00Z"})))]
pub(super) struct Replay {
    /// Events from this time on.
    since: Option<String>,
    /// Events of this message.
    id: Option<String>,
    /// To this URL; none: to all.
    endpoint: Option<String>,
}

/// How many posts that makes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayedJson {
    replayed: usize,
}

/// `POST /v1/webhooks/replay`.
#[utoipa::path(post, path = "/v1/webhooks/replay", tag = "webhooks", request_body = Replay,
    responses((status = 202, description = "how many are posted again", body = ReplayedJson), super::refusals::Refusals))]
pub(super) async fn replay(
    Access(api, who): Access,
    Payload(headers, body): Payload,
) -> Result<(StatusCode, Json<ReplayedJson>), Problem> {
    who.operator_only(ONLY)?;
    let Replay { since, id: message, endpoint } = small_json(&headers, body).await?;
    let url = known(&api, endpoint)?;
    let since = since.as_deref().map(|text| time("since", text)).transpose()?;
    let events = match (message, since) {
        (Some(message), since) => {
            let known = api.known(&who, id(&message)?, super::api::Need::Story).await?;
            let events = known.trace.map(|trace| trace.events.clone()).unwrap_or_default();
            events.into_iter().filter(|event| since.is_none_or(|since| event.head.time >= since)).collect()
        }
        (None, Some(since)) => events_since(&api, &who, since).await,
        (None, None) => return Err(Problem::invalid("say which: {\"since\": TIME} or {\"id\": MESSAGE}")),
    };
    let replayed = api.parts.webhooks.replay(events, url).await;
    Ok((StatusCode::ACCEPTED, Json(ReplayedJson { replayed })))
}

fn known(api: &Api, endpoint: Option<String>) -> Result<Option<Arc<str>>, Problem> {
    match endpoint {
        Some(url) if !api.parts.webhooks.knows(&url) => {
            Err(Problem::invalid("endpoint: the URL of a [[webhook]] of the configuration"))
        }
        endpoint => Ok(endpoint.map(Arc::from)),
    }
}

/// The events of stored traces from a time on, in their order.
async fn events_since(api: &Api, who: &Principal, since: Timestamp) -> Vec<Arc<Event>> {
    let _ = api.caught_up(&None).await;
    let traces = api.parts.traces.clone();
    let mut events = api
        .scan(who, move |_| {
            let mut events: Vec<Arc<Event>> = Vec::new();
            traces.each_since(since.minus(LIFE_MAX), |trace| {
                events.extend(trace.events.iter().filter(|event| event.head.time >= since).cloned());
                events.len() < REPLAYED_MAX
            });
            events
        })
        .await;
    // Events of one message are in their order; a stable sort keeps it.
    events.sort_by_key(|event| event.head.time);
    events.truncate(REPLAYED_MAX);
    events
}

/// Who is to be tested.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookTest)]
pub(super) struct Test {
    /// This URL; none: all.
    endpoint: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TestedJson {
    tested: Vec<TestedOneJson>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TestedOneJson {
    url: Arc<str>,
    taken: bool,
    answer: String,
}

/// `POST /v1/webhooks/test`: one post to each, which tells of nothing.
#[utoipa::path(post, path = "/v1/webhooks/test", tag = "webhooks", request_body = Test,
    responses((status = 200, description = "what each answered", body = TestedJson), super::refusals::Refusals))]
pub(super) async fn test(Access(api, who): Access, Payload(headers, body): Payload) -> JsonResult<TestedJson> {
    who.operator_only(ONLY)?;
    let Test { endpoint } = small_json(&headers, body).await?;
    let tested = api.parts.webhooks.test(known(&api, endpoint)?).await;
    let one = |TestResult { url, is_taken, answer }| TestedOneJson { url, taken: is_taken, answer };
    Ok(Json(TestedJson { tested: tested.into_iter().map(one).collect() }))
}
