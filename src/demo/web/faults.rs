//! `/sandbox/faults`: rules for all tests.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::faults::NewFault;
use super::Web;
use super::answers::{Refused, json as read, problem};
use crate::base::clock::Clock as _;

/// `PUT /sandbox/faults`: adds one rule.
pub(super) async fn put(State(web): State<Arc<Web>>, body: Bytes) -> Result<Json<Value>, Refused> {
    let new: NewFault = read(&body)?;
    let id = web.faults.put(new, web.clock.now()).map_err(|text| problem(422, &text))?;
    Ok(Json(json!({ "id": id })))
}

/// `GET /sandbox/faults`.
pub(super) async fn list(State(web): State<Arc<Web>>) -> Json<Value> {
    Json(json!({ "faults": web.faults.list(web.clock.now()) }))
}

/// `DELETE /sandbox/faults/{id}`.
pub(super) async fn remove(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<StatusCode, Refused> {
    if web.faults.remove(Some(&id)) { Ok(StatusCode::NO_CONTENT) } else { Err(problem(404, "no rule with this id")) }
}

/// `DELETE /sandbox/faults`.
pub(super) async fn remove_all(State(web): State<Arc<Web>>) -> StatusCode {
    web.faults.remove(None);
    StatusCode::NO_CONTENT
}
