//! What was learned about destinations, for the operator.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Api;
use super::api::Segment;
use super::auth::Principal;
use super::problem::Problem;
use super::refusals::Refusals;
use super::wire::{DestinationJson, DestinationsJson};
use crate::mail::address::domain_key;

fn only_operator(who: &Principal) -> Result<(), Problem> {
    match who.only_user() {
        None => Ok(()),
        Some(_) => Err(Problem::forbidden("what was learned about destinations is the operator's business")),
    }
}

/// `GET /v1/destinations`: what was sent to each recipient domain since the start.
#[utoipa::path(get, path = "/v1/destinations", tag = "destinations",
    responses((status = 200, description = "what was sent to each recipient domain since the start", body = DestinationsJson), Refusals))]
pub(super) async fn list(State(api): State<Arc<Api>>, who: Principal) -> Result<Json<DestinationsJson>, Problem> {
    only_operator(&who)?;
    // What an answer told of is counted.
    let _ = api.parts.queue.flush().await;
    api.parts.reporter.caught_up().await;
    Ok(Json(DestinationsJson::new(api.parts.destinations.rows())))
}

/// `GET /v1/destinations/{domain}`: who serves the domain, and what is known of their greylisting.
#[utoipa::path(get, path = "/v1/destinations/{domain}", tag = "destinations",
    params(("domain" = String, Path, description = "a domain of recipients")),
    responses((status = 200, description = "who serves it, and how its hosts greylist", body = DestinationJson), Refusals))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    who: Principal,
    Segment(domain): Segment,
) -> Result<Json<DestinationJson>, Problem> {
    only_operator(&who)?;
    let domain =
        domain_key(domain.trim()).ok_or_else(|| Problem::invalid("the domain of recipients, like example.com"))?;
    let (route, facts) = api.parts.door.learned(&domain).await.map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(Json(DestinationJson::new(&route, facts.as_ref())))
}
