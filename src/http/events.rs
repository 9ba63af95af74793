//! Events as they happen, as server-sent events (WHATWG HTML, section 9.2).
//!
//! A follower has a place in the feed and nothing else. One that is too slow is told `missed` and let go; when it
//! comes back it goes on with the oldest event that is still there.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::watch;

use super::Api;
use super::api::{Asked, Need, asked, id};
use super::auth::Who;
use super::problem::Problem;
use super::refused::Origin;
use super::seats::Seat;
use crate::event::Event;
use crate::event::json::EventJson;
use crate::mail::id::MessageId;
use crate::report::feed::Next;
use crate::report::reasons::Reason;

/// Events sent in one piece.
const PIECE_MAX: usize = 64;
/// How often a quiet stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

const MISSED: &str = "events were lost that were not read in time";

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    message: Option<String>,
}

/// `GET /v1/events`: all events from now on, or behind `Last-Event-ID`. With `?message=ID`, those of one message, from
/// the first that is still there to its last end; then the stream ends.
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    Extension(origin): Extension<Origin>,
    who: Who,
    headers: HeaderMap,
    query: Asked<Which>,
) -> Result<Response, Problem> {
    let only = asked(query)?.message.as_deref().map(id).transpose()?;
    if let Some(message) = only {
        api.known(&who, message, Need::State).await?;
    }
    let seat = api.followers.take(&who, api.settings.load().sharing, "connections that follow events")?;
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let feed = &api.parts.feed;
    let (at, has_missed) = match (last_id, only) {
        (Some(last_id), _) => api.place_behind(last_id),
        (None, Some(_)) => (feed.before_oldest(), false),
        (None, None) => (feed.newest(), false),
    };
    let (watch, users) = (feed.watch(), api.parts.credentials.watch());
    let follower = Follower { api, origin, who, only, at, has_missed, watch, users, is_over: false, _seat: seat };
    let pieces = futures_util::stream::unfold(follower, Follower::next);
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Api {
    /// The place behind the event with this id, and whether events between are gone. Ids of other lives of the relay
    /// are not known.
    fn place_behind(&self, last_id: &str) -> (u64, bool) {
        let oldest = self.parts.feed.before_oldest();
        let known = last_id.split_once('-').filter(|(life, _)| *life == self.life.to_string());
        let number = known.and_then(|(_, number)| number.parse::<u64>().ok());
        match number.filter(|number| *number <= self.parts.feed.newest()) {
            Some(number) if number >= oldest => (number, false),
            Some(_) | None => (oldest, true),
        }
    }
}

/// One stream.
struct Follower {
    api: Arc<Api>,
    origin: Origin,
    who: Who,
    only: Option<MessageId>,
    /// The number of the last event it was given.
    at: u64,
    /// It has still to be told that events are gone.
    has_missed: bool,
    watch: watch::Receiver<u64>,
    users: watch::Receiver<()>,
    is_over: bool,
    _seat: Seat,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.is_over {
            return None;
        }
        if std::mem::take(&mut self.has_missed) {
            return Some((Ok(missed()), self));
        }
        loop {
            self.users.borrow_and_update();
            if self.who.renewed(&self.api).is_err() {
                return Some(self.bye(Reason::LoginEnded, "this token is not valid any more"));
            }
            self.watch.borrow_and_update();
            match self.api.parts.feed.after(self.at, PIECE_MAX) {
                Next::Missed => {
                    self.is_over = true;
                    self.api.stream_ended(self.origin, &self.who.name(), Reason::TooSlow, MISSED);
                    return Some((Ok(missed()), self));
                }
                Next::Events(events, last) => {
                    let piece = self.piece(&events);
                    self.at = last;
                    if !piece.is_empty() {
                        return Some((Ok(piece.into()), self));
                    }
                }
                Next::Nothing if self.has_seen_all().await => return None,
                Next::Nothing => {
                    tokio::select! {
                        biased;
                        _ = self.watch.changed() => {}
                        _ = self.users.changed() => {}
                        () = self.api.closing.cancelled() => return Some(self.bye(Reason::ShuttingDown, "shutting down")),
                        () = tokio::time::sleep(HEARTBEAT) => return Some((Ok(Bytes::from_static(b":\n\n")), self)),
                    }
                }
            }
        }
    }

    /// The last event.
    fn bye(mut self, reason: Reason, text: &str) -> (Result<Bytes, Infallible>, Self) {
        self.is_over = true;
        self.api.stream_ended(self.origin, &self.who.name(), reason, text);
        (Ok(format!("event: bye\ndata: {{\"reason\":\"{text}\"}}\n\n").into()), self)
    }

    /// Whether the one message has ended and nothing of it is still to come.
    async fn has_seen_all(&self) -> bool {
        let Some(id) = self.only else { return false };
        if self.api.parts.queue.is_live(id) {
            return false;
        }
        self.api.parts.reporter.settled().await;
        matches!(self.api.parts.feed.after(self.at, 1), Next::Nothing)
    }

    fn piece(&self, events: &[Arc<Event>]) -> String {
        let mut piece = String::new();
        for (number, event) in (self.at + 1..).zip(events) {
            let is_asked = self.only.is_none_or(|id| id == event.head.id);
            if is_asked && self.who.may_see(&event.head.user) {
                let json = serde_json::to_string(&EventJson::alone(event)).unwrap_or_default();
                let (life, name) = (self.api.life, event.kind().name());
                // Writing to a String cannot fail.
                let _ = write!(piece, "id: {life}-{number}\nevent: {name}\ndata: {json}\n\n");
            }
        }
        piece
    }
}

fn missed() -> Bytes {
    format!("event: missed\ndata: {{\"reason\":\"{MISSED}\"}}\n\n").into()
}
