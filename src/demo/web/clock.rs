//! `POST /sandbox/clock`: lets lives and waits pass.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Web;
use super::answers::{Refused, json as read, problem};
use crate::base::clock::{ADVANCE_MAX, Clock as _};
use crate::base::units;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance: String,
}

/// Moves the relay's time forward; what is due then happens at once.
pub(super) async fn advance(State(web): State<Arc<Web>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let Advance { advance } = read(&body)?;
    let span = units::duration(&advance).filter(|span| *span <= ADVANCE_MAX);
    let span = span.ok_or_else(|| problem(422, "advance: a time like \"5m\", 24h at most"))?;
    web.clock.advance(span);
    web.moved.notify_one();
    Ok(show(State(web)).await)
}

/// `GET /sandbox/clock`: how far the relay's time is ahead of the wall clock.
pub(super) async fn show(State(web): State<Arc<Web>>) -> Json<Value> {
    let (now, wall) = (web.clock.now(), web.clock.wall());
    Json(json!({"now": now.rfc3339(), "wall": wall.rfc3339(), "ahead_s": now.since(wall).as_secs()}))
}
