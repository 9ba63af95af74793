//! The live queue, for those who control it.

#![allow(unused_qualifications, reason = "descriptions of paths are written so by their macro")]

use std::time::Duration;

use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;

use super::api::{Need, ParsedQuery, asked};
use super::auth::Access;
use super::body::{Payload, small_json};
use super::problem::{JsonResult, Problem};
use super::refusals::Refusals;
use super::wire::{MessageJson, QueueJson, RetriedJson, Retry};
use crate::ledger::entry::State as EntryState;
use crate::mail::address::domain_key;
use crate::mail::id::{EntryId, MessageId};
use crate::queue::inspect::{Filter, RetriedEntries};

/// Messages in one answer.
const LIST_MAX: usize = 1000;
const LIST_DEFAULT: usize = 100;
/// How often a user may have an entry tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QueueQuery {
    state: Option<String>,
    destination: Option<String>,
    limit: Option<usize>,
}

fn domain(text: &str) -> Result<String, Problem> {
    domain_key(text.trim()).ok_or_else(|| Problem::invalid("destination: the domain of recipients, like example.com"))
}

/// `GET /v1/queue?state=&destination=&limit=`: the oldest first.
#[utoipa::path(get, path = "/v1/queue", tag = "queue", params(QueueQuery),
    responses((status = 200, description = "what is live, the oldest first", body = QueueJson), Refusals))]
pub(super) async fn list(Access(api, who): Access, query: ParsedQuery<QueueQuery>) -> JsonResult<QueueJson> {
    let QueueQuery { state, destination, limit } = asked(query)?;
    let state = state.as_deref().map(|name| match name {
        "queued" => Ok(EntryState::Queued),
        "sending" => Ok(EntryState::Sending),
        "deferred" => Ok(EntryState::Deferred),
        _ => Err(Problem::invalid("state: queued, sending or deferred")),
    });
    let filter = Filter {
        state: state.transpose()?,
        domain: destination.as_deref().map(domain).transpose()?,
        user: who.only_user(),
        ..Filter::default()
    };
    let limit = limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
    let of_ours = filter.clone();
    let ours = api.scan(&who, move |queue| queue.list(&of_ours, limit)).await;
    let all = api.parts.queue.list_everywhere(filter, limit, ours).await;
    let listing = all.map_err(|error| api.not_stored(&error))?;
    let messages = listing.messages.iter().map(|snapshot| MessageJson::live(snapshot, None, &api.parts.door)).collect();
    Ok(Json(QueueJson { entries: listing.entries, messages }))
}

/// `POST /v1/queue/retry` with `id` (of a message or an entry) or `destination`: what waits for its next attempt gets
/// it now, for a user if it has not had that for a while.
#[utoipa::path(post, path = "/v1/queue/retry", tag = "queue", request_body = Retry,
    responses((status = 200, description = "what is tried now", body = RetriedJson), Refusals))]
pub(super) async fn retry(Access(api, who): Access, Payload(headers, body): Payload) -> JsonResult<RetriedJson> {
    let filter = match small_json(&headers, body).await? {
        Retry { id: Some(id), destination: None } => {
            let id = message_id(&id)?;
            api.known(&who, id, Need::State).await?;
            Filter::of_message(id)
        }
        Retry { id: None, destination: Some(name) } => Filter { domain: Some(domain(&name)?), ..Filter::default() },
        Retry { .. } => return Err(Problem::invalid("either id or destination")),
    };
    let (user, now) = (who.only_user(), api.parts.clock.now());
    let pause = if user.is_some() { RETRY_PAUSE } else { Duration::ZERO };
    let filter = Filter { user, ..filter };
    let of_ours = filter.clone();
    let ours = api.scan(&who, move |queue| queue.retry_after(&of_ours, pause, now)).await;
    let all = api.parts.queue.retry_everywhere(filter, pause, ours).await;
    let RetriedEntries { entries, kept_back } = all.map_err(|error| api.not_stored(&error))?;
    match kept_back {
        Some(wait) if entries.is_empty() => Err(Problem::retried_lately(wait)),
        Some(_) | None => Ok(Json(RetriedJson {
            retried: entries.iter().map(ToString::to_string).collect(),
            others_in: kept_back.map(|wait| wait.as_millis().div_ceil(1000)),
        })),
    }
}

fn message_id(text: &str) -> Result<MessageId, Problem> {
    let of_entry = || text.parse::<EntryId>().map(|entry| entry.message);
    text.parse().or_else(|_| of_entry()).map_err(|_| Problem::unknown_message())
}
