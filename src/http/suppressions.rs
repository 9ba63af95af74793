//! The addresses that are not sent to.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::api::Segment;
use super::auth::Access;
use super::body::{Payload, small_json};
use super::problem::{JsonResult, Problem};
use super::refusals::Refusals;
use crate::base::clock::Timestamp;
use crate::intake::door::Door;
use crate::intake::suppression::{Source, Standing, Suppression, suppression_key};
use crate::mail::address::Mailbox;

/// Entries in one answer.
const LIST_MAX: usize = 10_000;
const CHANGES: &str = "only the operator changes what is suppressed, for it concerns all users";

/// One entry.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct SuppressionJson {
    address: String,
    source: Source,
    reason: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// What a user hears of an address.
#[derive(Serialize, utoipa::ToSchema)]
struct AnswerJson {
    address: String,
    suppressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// What `GET` tells of an address: the entry to the operator, yes or no to a user.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "a description")]
enum StandingJson {
    Entry(SuppressionJson),
    Answer(AnswerJson),
}

/// The list, the latest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct ListJson {
    /// In all.
    count: usize,
    suppressions: Vec<SuppressionJson>,
}

/// What PUT takes.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Put {
    #[serde(default)]
    reason: String,
    source: Option<Source>,
}

impl SuppressionJson {
    fn new(entry: Suppression, door: &Door) -> Self {
        let Suppression { address, source, reason, since, until, .. } = entry;
        let told = |at: Timestamp| door.wall(at).rfc3339();
        Self { address, source, reason, since: told(since), until: until.map(told) }
    }
}

fn address(text: &str) -> Result<String, Problem> {
    suppression_key(text)
        .ok_or_else(|| Problem::invalid("address: like alice@example.com, or @example.com for all of it"))
}

/// `GET /v1/suppressions`; the operator only: what hosts said of all users' recipients stands in it.
#[utoipa::path(get, path = "/v1/suppressions", tag = "suppressions",
    responses((status = 200, description = "addresses that are not sent to", body = ListJson), Refusals))]
pub(super) async fn list(Access(api, who): Access) -> JsonResult<ListJson> {
    who.operator_only("only the operator sees the list; ask for one address")?;
    let door = &api.parts.door;
    let (entries, count) = door.suppressions(LIST_MAX).await?;
    let suppressions = entries.into_iter().map(|entry| SuppressionJson::new(entry, door)).collect();
    Ok(Json(ListJson { count, suppressions }))
}

/// `GET /v1/suppressions/{address}`: to the operator the entry, to a user whether this address is sent to, and from when
/// on again.
#[utoipa::path(get, path = "/v1/suppressions/{address}", tag = "suppressions", params(("address" = String, Path, description = "an address, or `@domain`")),
    responses((status = 200, description = "whether it is sent to; for the operator, why not", body = StandingJson), Refusals))]
pub(super) async fn show(Access(api, who): Access, Segment(text): Segment) -> Result<Response, Problem> {
    let door = &api.parts.door;
    if who.only_user().is_none() {
        let entry = door.suppression(&address(&text)?).await?.map(|entry| SuppressionJson::new(entry, door));
        return entry.map(|entry| Json(entry).into_response()).ok_or_else(Problem::not_suppressed);
    }
    let mailbox = Mailbox::parse(text.trim()).map_err(|error| Problem::invalid(format!("address: {error}")))?;
    let (suppressed, until) = match door.standing(&mailbox).await? {
        Standing::Open => (false, None),
        Standing::Suppressed { until } => (true, until.map(|until| door.wall(until).rfc3339())),
    };
    Ok(Json(AnswerJson { address: mailbox.plain_key(), suppressed, until }).into_response())
}

/// `PUT /v1/suppressions/{address}` with `reason` and `source` ("manual" or "complaint"); the operator only.
#[utoipa::path(put, path = "/v1/suppressions/{address}", tag = "suppressions", params(("address" = String, Path, description = "an address, or `@domain`")), request_body = Put,
    responses((status = 200, description = "it is not sent to any more", body = SuppressionJson), Refusals))]
pub(super) async fn put(
    Access(api, who): Access,
    Segment(text): Segment,
    Payload(headers, body): Payload,
) -> JsonResult<SuppressionJson> {
    who.operator_only(CHANGES)?;
    let Put { reason, source } = small_json(&headers, body).await?;
    let source = source.unwrap_or(Source::Manual);
    if source == Source::Learned {
        return Err(Problem::invalid("source: manual or complaint"));
    }
    let entry = api.parts.door.suppress(&address(&text)?, source, &reason).await?;
    Ok(Json(SuppressionJson::new(entry, &api.parts.door)))
}

/// `DELETE /v1/suppressions/{address}`; the operator only.
#[utoipa::path(delete, path = "/v1/suppressions/{address}", tag = "suppressions", params(("address" = String, Path, description = "an address, or `@domain`")),
    responses((status = 204, description = "it is sent to again"), Refusals))]
pub(super) async fn remove(Access(api, who): Access, Segment(text): Segment) -> Result<StatusCode, Problem> {
    who.operator_only(CHANGES)?;
    if api.parts.door.unsuppress(&address(&text)?).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_suppressed())
    }
}
