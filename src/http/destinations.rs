//! What was sent to destinations and learned about them, for the operator.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::api::Segment;
use super::auth::Access;
use super::problem::{JsonResult, Problem};
use super::refusals::Refusals;
use crate::destination::demand::{Demand, Strictness, TlsOption};
use crate::destination::route::Route;
use crate::event::cause::Cause;
use crate::greylist::facts::{Facts, HintWorth};
use crate::mail::address::domain_key;
use crate::report::destinations::Row;

const ONLY: &str = "what was learned about destinations is the operator's business";
/// `GET /v1/destinations`: what was sent to each recipient domain since the start.
#[utoipa::path(get, path = "/v1/destinations", tag = "destinations",
    responses((status = 200, description = "what was sent to each recipient domain since the start", body = DestinationsJson), Refusals))]
pub(super) async fn list(Access(api, who): Access) -> JsonResult<DestinationsJson> {
    who.operator_only(ONLY)?;
    // What an answer told of is counted.
    let _ = api.parts.queue.flush().await;
    api.parts.reporter.caught_up().await;
    Ok(Json(DestinationsJson::new(api.parts.destinations.rows())))
}

/// `GET /v1/destinations/{domain}`: who serves the domain, and what is known of their greylisting.
#[utoipa::path(get, path = "/v1/destinations/{domain}", tag = "destinations",
    params(("domain" = String, Path, description = "a domain of recipients")),
    responses((status = 200, description = "who serves it, and how its hosts greylist", body = DestinationJson), Refusals))]
pub(super) async fn show(Access(api, who): Access, Segment(domain): Segment) -> JsonResult<DestinationJson> {
    who.operator_only(ONLY)?;
    let domain =
        domain_key(domain.trim()).ok_or_else(|| Problem::invalid("the domain of recipients, like example.com"))?;
    let (route, facts) = api.parts.door.learned(&domain).await.map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(Json(DestinationJson::new(&route, facts.as_ref())))
}

/// What was sent to each recipient domain.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DestinationsJson {
    destinations: Vec<DestinationRowJson>,
}

/// What was sent to a recipient domain, and how long it took; times in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
struct DestinationRowJson {
    /// The domain; `*` for those that have no row of their own.
    destination: Arc<str>,
    sent: u64,
    waiting: u64,
    failed: u64,
    expired: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_refusal: Option<LastRefusalJson>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LastRefusalJson {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    cause: Option<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Arc<str>>,
}

impl DestinationsJson {
    fn new(rows: Vec<(Arc<str>, Row)>) -> Self {
        let row = |(destination, row): (Arc<str>, Row)| {
            let ms = |share| row.quantile(share).map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            DestinationRowJson {
                p50_ms: ms(0.5),
                p99_ms: ms(0.99),
                destination,
                sent: row.sent,
                waiting: row.waiting,
                failed: row.failed,
                expired: row.expired,
                last_refusal: row.last_refusal.map(|last| LastRefusalJson {
                    at: last.at.rfc3339(),
                    host: last.host,
                    cause: last.cause,
                    reply: last.reply,
                }),
            }
        };
        Self { destinations: rows.into_iter().map(row).collect() }
    }
}

/// What was learned about a destination; spans in seconds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DestinationJson {
    destination: Arc<str>,
    hosts: Vec<Arc<str>>,
    /// What the domain asks of sessions, in the order of the hosts.
    tls: Vec<String>,
    /// None: nothing was greylisted there, as far as is remembered.
    greylisting: Option<GreylistingJson>,
}

/// How hosts greylist.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GreylistingJson {
    first_contacts: u16,
    first_contacts_refused: u16,
    /// The longest wait that was refused, the shortest that passed, and whether that was confirmed.
    refused_after_s: Option<f64>,
    passed_after_s: Option<f64>,
    confirmed: bool,
    /// What the waits are worth that replies ask for.
    hints: &'static str,
    /// Early attempts begin the wait anew; it takes this pause.
    restart_pause_s: Option<f64>,
    /// Whom a pass lets in besides.
    opens_for: &'static str,
    /// A first attempt is remembered at least so long, and less than so long.
    window_min_s: Option<f64>,
    window_max_s: Option<f64>,
    last_seen: String,
}

impl DestinationJson {
    fn new(route: &Route, facts: Option<&Facts>) -> Self {
        let hosts = route.hosts.iter().map(|host| host.name.clone()).collect();
        let demand = |host| match Demand::of(route, host, Strictness::default(), TlsOption::default()) {
            Ok(demand) => demand.to_string(),
            Err(refusal) => format!("not used: {refusal}"),
        };
        let tls = route.hosts.iter().map(demand).collect();
        Self { destination: route.name().clone(), hosts, tls, greylisting: facts.map(GreylistingJson::new) }
    }
}

impl GreylistingJson {
    fn new(facts: &Facts) -> Self {
        let seconds = |span: Option<Duration>| span.map(|span| span.as_secs_f64());
        let (first_contacts, first_contacts_refused) = facts.contacts();
        let (refused, passed) = facts.bounds();
        let (window_min, window_max) = facts.window();
        Self {
            first_contacts,
            first_contacts_refused,
            refused_after_s: seconds(refused),
            passed_after_s: seconds(passed),
            confirmed: facts.is_confirmed(),
            hints: match facts.hints() {
                HintWorth::Unknown => "unknown",
                HintWorth::Kept => "kept",
                HintWorth::TooShort => "too_short",
                HintWorth::TooLong => "too_long",
            },
            restart_pause_s: seconds(facts.restart_pause()),
            opens_for: match facts.opens() {
                (_, true) => "client",
                (true, false) => "sender",
                (false, false) => "triplet",
            },
            window_min_s: seconds(window_min),
            window_max_s: seconds(window_max),
            last_seen: facts.last_seen().rfc3339(),
        }
    }
}
