//! Events as they happen, as server-sent events (WHATWG HTML, section 9.2).
//!
//! A follower is a place among the events that were committed, and nothing else: what it has not read is in memory or in
//! the store, also after a restart. One that is so slow that events are gone is told `missed` and let go; when it comes
//! back it goes on with the oldest event that is still there.

#![allow(unused_qualifications, reason = "descriptions of paths are written so by their macro")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Extension;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;

use super::Api;
use super::api::{Need, ParsedQuery, asked, id};
use super::auth::{Access, Principal};
use super::problem::Problem;
use super::refusals::Refusals;
use super::refused::Origin;
use super::seats::Seat;
use crate::event;
use crate::event::json::EventJson;
use crate::ledger::cursor::Cursor;
use crate::ledger::outbox::Read;
use crate::mail::id::MessageId;
use crate::report::reasons::Reason;

/// Events read at once.
const READ_MAX: usize = 64;
/// How often a quiet stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

const MISSED: &str = "events were lost that were not read in time";

/// What is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    message: Option<String>,
}

/// `GET /v1/events`: all events from now on, or behind `Last-Event-ID`. With `?message=ID`, those of one message, from
/// the first that is still there to its last end; then the stream ends.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "the id of the last event that was read")),
    responses((status = 200, description = "server-sent events, each with an event as `data`", body = String, content_type = "text/event-stream"), Refusals))]
pub(super) async fn follow(
    Access(api, who): Access,
    Extension(origin): Extension<Origin>,
    headers: HeaderMap,
    query: ParsedQuery<EventsQuery>,
) -> Result<impl IntoResponse, Problem> {
    let only = asked(query)?.message.as_deref().map(id).transpose()?;
    if let Some(message) = only {
        api.known(&who, message, Need::State).await?;
    }
    let seat = api.followers.take(&who, api.settings.load().sharing, "connections that follow events")?;
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let happened = api.parts.queue.happened();
    let (at, has_missed) = match (last_id, only) {
        (Some(last_id), _) => api.place_behind(last_id),
        (None, Some(_)) => (happened.before_latest(), false),
        (None, None) => (happened.newest(), false),
    };
    let (watch, users) = (happened.watch(), api.parts.credentials.watch());
    let follower = Follower { api, origin, who, only, at, has_missed, watch, users, is_over: false, _seat: seat };
    let events = stream::unfold(follower, Follower::next).flat_map(stream::iter).map(Ok::<_, Infallible>);
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    Ok(([(header::CACHE_CONTROL, "no-store")], events))
}

impl Api {
    /// The place behind the event with this id, and whether events between are gone.
    fn place_behind(&self, last_id: &str) -> (Cursor, bool) {
        let happened = self.parts.queue.happened();
        let oldest = happened.before_oldest();
        let number = last_id.parse::<u64>().ok().map(Cursor::behind);
        match number.filter(|at| *at <= happened.newest()) {
            Some(at) if at >= oldest => (at, false),
            Some(_) | None => (oldest, true),
        }
    }
}

struct Follower {
    api: Arc<Api>,
    origin: Origin,
    who: Principal,
    only: Option<MessageId>,
    at: Cursor,
    /// It has still to be told that events are gone.
    has_missed: bool,
    watch: watch::Receiver<Cursor>,
    users: watch::Receiver<()>,
    is_over: bool,
    _seat: Seat,
}

impl Follower {
    async fn next(mut self) -> Option<(Vec<Event>, Self)> {
        if self.is_over {
            return None;
        }
        if std::mem::take(&mut self.has_missed) {
            return Some((vec![last("missed", MISSED)], self));
        }
        loop {
            self.users.borrow_and_update();
            if self.who.renewed(&self.api).is_err() {
                return Some(self.bye(Reason::LoginEnded, "this token is not valid any more"));
            }
            self.watch.borrow_and_update();
            match self.api.parts.queue.events_after(self.at, READ_MAX).await {
                Ok(Read { has_missed: true, .. }) => {
                    self.is_over = true;
                    self.api.stream_ended(self.origin, &self.who.name(), Reason::TooSlow, MISSED);
                    return Some((vec![last("missed", MISSED)], self));
                }
                Ok(Read { at, events, .. }) if at > self.at => {
                    let asked: Vec<_> = events.iter().filter_map(|(at, event)| self.asked(*at, event)).collect();
                    self.at = at;
                    if !asked.is_empty() {
                        return Some((asked, self));
                    }
                }
                Ok(_) if self.has_seen_all().await => return None,
                // What cannot be read now is read later.
                Ok(_) | Err(_) => {
                    tokio::select! {
                        biased;
                        _ = self.watch.changed() => {}
                        _ = self.users.changed() => {}
                        () = self.api.closing.cancelled() => return Some(self.bye(Reason::ShuttingDown, "shutting down")),
                        () = tokio::time::sleep(HEARTBEAT) => {}
                    }
                }
            }
        }
    }

    /// The last event.
    fn bye(mut self, reason: Reason, text: &str) -> (Vec<Event>, Self) {
        self.is_over = true;
        self.api.stream_ended(self.origin, &self.who.name(), reason, text);
        (vec![last("bye", text)], self)
    }

    /// Whether the one message has ended and nothing of it is still to come.
    async fn has_seen_all(&self) -> bool {
        let Some(id) = self.only else { return false };
        if self.api.parts.queue.is_live(id) {
            return false;
        }
        self.api.parts.queue.flush().await.is_ok() && self.api.parts.queue.happened().newest() == self.at
    }

    /// An event, if it is asked for and may be seen.
    fn asked(&self, at: Cursor, event: &event::Event) -> Option<Event> {
        let is_asked = self.only.is_none_or(|id| id == event.head.id) && self.who.may_see(&event.head.user);
        let json = is_asked.then(|| serde_json::to_string(&EventJson::alone(event)).unwrap_or_default())?;
        Some(Event::default().id(at.number().to_string()).event(event.kind().name()).data(json))
    }
}

/// Why the stream ends, or that something is not in it.
fn last(name: &str, reason: &str) -> Event {
    Event::default().event(name).data(serde_json::json!({ "reason": reason }).to_string())
}
