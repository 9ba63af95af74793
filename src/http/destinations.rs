//! What was learned about destinations, for the operator.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Api;
use super::api::Segment;
use super::auth::Who;
use super::problem::Problem;
use super::wire::{DestinationJson, DestinationsJson};
use crate::mail::address::domain_key;

fn only_operator(who: &Who) -> Result<(), Problem> {
    match who.only_user() {
        None => Ok(()),
        Some(_) => Err(Problem::forbidden("what was learned about destinations is the operator's business")),
    }
}

/// `GET /v1/destinations`: what was sent to each recipient domain since the start.
pub(super) async fn list(State(api): State<Arc<Api>>, who: Who) -> Result<Json<DestinationsJson>, Problem> {
    only_operator(&who)?;
    // What an answer told of is counted.
    let _ = api.parts.queue.flush().await;
    api.parts.reporter.caught_up().await;
    Ok(Json(DestinationsJson::new(api.parts.destinations.rows())))
}

/// `GET /v1/destinations/{domain}`: who serves the domain, and what is known of their greylisting.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    who: Who,
    Segment(domain): Segment,
) -> Result<Json<DestinationJson>, Problem> {
    only_operator(&who)?;
    let domain =
        domain_key(domain.trim()).ok_or_else(|| Problem::invalid("the domain of recipients, like example.com"))?;
    let (route, facts) = api.parts.door.learned(&domain).await.map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(Json(DestinationJson::new(&route, facts.as_ref())))
}
