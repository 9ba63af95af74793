//! `GET /sandbox/inboxes/{address}/stream`: server-sent events, one a mail; with `*` in the place of an address, all mails.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse::{Event, KeepAlive, Sse};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::super::mail::Mail;
use super::Web;
use super::answers::{Refused, problem, recipient, typed};
use super::messages::short;

/// How often a quiet stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

struct Follower {
    web: Arc<Web>,
    /// None: of everybody.
    to: Option<String>,
    /// The number of the last mail that was sent.
    at: u64,
    ready: VecDeque<Arc<Mail>>,
    watch: watch::Receiver<u64>,
    has_begun: bool,
    _seat: OwnedSemaphorePermit,
}

/// Mails from now on, or behind `Last-Event-ID`.
pub(super) async fn follow(
    State(web): State<Arc<Web>>,
    Path(address): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let to = if address == "*" { None } else { Some(recipient(Some(&address))?) };
    let Ok(seat) = web.streams.clone().try_acquire_owned() else {
        return Err(problem(429, "64 streams are open already"));
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(Mail::number_of);
    let newest = web.inbox.all().last().map_or(0, |mail| mail.number);
    let watch = web.inbox.watch();
    let at = last.unwrap_or(newest);
    let follower = Follower { web, to, at, ready: VecDeque::new(), watch, has_begun: false, _seat: seat };
    let events = futures_util::stream::unfold(follower, Follower::next);
    Ok(typed("text/event-stream", Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT))))
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if !self.has_begun {
            // The head goes at once, so that whoever sends mail next knows that it is heard.
            self.has_begun = true;
            return Some((Ok(Event::default().comment("begun")), self));
        }
        loop {
            if let Some(mail) = self.ready.pop_front() {
                self.at = mail.number;
                let json = serde_json::to_string(&short(&mail)).unwrap_or_default();
                return Some((Ok(Event::default().id(mail.id()).event("mail").data(json)), self));
            }
            self.watch.borrow_and_update();
            let mails = match &self.to {
                Some(to) => self.web.inbox.of(to),
                None => self.web.inbox.all(),
            };
            self.ready = mails.into_iter().filter(|mail| mail.number > self.at).collect();
            if !self.ready.is_empty() {
                continue;
            }
            let closing = self.web.closing.clone();
            tokio::select! {
                changed = self.watch.changed() => if changed.is_err() { return None },
                () = closing.cancelled() => return None,
            }
        }
    }
}
