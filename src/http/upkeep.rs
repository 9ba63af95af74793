//! What only the operator asks for: rows for a backup, and that a person is forgotten.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::api::Segment;
use super::auth::Access;
use super::problem::{JsonResult, Problem};
use super::refusals::Refusals;
use crate::intake::refusal::Refusal;
use crate::ledger::side::SideRow;
use crate::mail::address::Mailbox;

const LINES: &str = "application/x-ndjson";

/// A stored row; key and value in base64.
#[derive(Serialize)]
struct RowJson {
    table: &'static str,
    key: String,
    value: String,
}

/// What was erased.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct ErasedJson {
    address: String,
    /// Messages whose traces named it.
    traces: usize,
    /// Events that named it.
    events: usize,
    /// Whether it was suppressed, or something was counted towards that.
    suppression: bool,
}

/// `GET /v1/backup`: suppressions and what was learned of destinations, a JSON object a line. Both tables are bounded.
#[utoipa::path(get, path = "/v1/backup", tag = "upkeep",
    responses((status = 200, description = "stored rows, a JSON object a line", body = String, content_type = "application/x-ndjson"), Refusals))]
pub(super) async fn rows(Access(api, who): Access) -> Result<Response, Problem> {
    who.operator_only("only the operator makes backups")?;
    let parts = &api.parts;
    let mut text = String::new();
    let suppressions = parts.door.suppression_rows().await.map_err(Refusal::from)?;
    let tables = [("suppression", suppressions), ("greylist", parts.queue.greylists().rows())];
    for (table, rows) in tables {
        rows.iter().for_each(|row| text.push_str(&line(table, row)));
    }
    Ok(([(header::CONTENT_TYPE, LINES)], text).into_response())
}

fn line(table: &'static str, (key, value): &SideRow) -> String {
    let row = RowJson { table, key: BASE64.encode(key), value: BASE64.encode(value) };
    // It is three texts.
    serde_json::to_string(&row).unwrap_or_default() + "\n"
}

/// `DELETE /v1/recipients/{address}`: takes a person out of traces, events, statistics, suppression and greylisting waits.
#[utoipa::path(delete, path = "/v1/recipients/{address}", tag = "upkeep",
    params(("address" = String, Path, description = "an address")),
    responses((status = 200, description = "what was erased", body = ErasedJson), Refusals))]
pub(super) async fn erase(Access(api, who): Access, Segment(text): Segment) -> JsonResult<ErasedJson> {
    who.operator_only("only the operator erases a recipient, for it concerns all users")?;
    let mailbox = Mailbox::parse(text.trim()).map_err(|error| Problem::invalid(format!("address: {error}")))?;
    let plain = mailbox.plain_key();
    let parts = &api.parts;
    // What has been said of the recipient reaches the traces first.
    let _ = api.caught_up(&None).await;
    parts.reporter.caught_up().await;
    let suppression = parts.door.unsuppress(&plain).await?;
    parts.door.erase_verifications(&plain).await?;
    parts.queue.forget_waits(&plain).await.map_err(|_| Problem::cannot_store("greylisting waits are left of it"))?;
    parts.destinations.forget_reply(&mailbox.domain_key());
    let events = parts.queue.erase(&plain).await.map_err(|_| Problem::cannot_store("events are left of it"))?;
    parts.webhooks.erase(&plain);
    let (traces, erased) = (parts.traces.clone(), plain.clone());
    let traces = tokio::task::spawn_blocking(move || traces.erase(&erased)).await.unwrap_or_default();
    tracing::info!(traces, events, suppression, "a recipient was erased");
    Ok(Json(ErasedJson { address: plain, traces, events, suppression }))
}
