//! What the sandbox answers over HTTP beside the relay's own API, which stands behind these paths: all of it without a token.

mod answers;
mod clock;
mod code;
mod faults;
mod mailpit;
mod messages;
mod page;
mod search;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::inbox::Inbox;
use crate::base::clock::FastClock;

/// Answers that wait for a mail at once.
const WAITS_MAX: usize = 256;
/// Streams of mails at once.
const STREAMS_MAX: usize = 64;

/// What the answers are made of.
pub(super) struct Web {
    pub(super) inbox: Arc<Inbox>,
    pub(super) faults: Arc<Faults>,
    pub(super) clock: Arc<FastClock>,
    /// The relay's time was moved.
    pub(super) moved: Arc<Notify>,
    pub(super) closing: CancellationToken,
    waits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Web {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        faults: Arc<Faults>,
        clock: Arc<FastClock>,
        closing: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            inbox,
            faults,
            clock,
            moved: Arc::new(Notify::new()),
            closing,
            waits: Arc::new(Semaphore::new(WAITS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        })
    }
}

/// The paths. The relay puts its own behind them.
pub(super) fn router(web: Arc<Web>) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/sandbox/page.js", get(page::script))
        .route("/sandbox/page.css", get(page::style))
        .route("/sandbox/code", get(code::show))
        .route("/sandbox/messages", get(messages::list).delete(messages::remove))
        .route("/sandbox/messages/{id}", get(messages::show).delete(messages::remove_one))
        .route("/sandbox/messages/{id}/raw", get(messages::raw))
        .route("/sandbox/messages/{id}/html", get(messages::html))
        .route("/sandbox/inboxes/{address}/stream", get(stream::follow))
        .route("/sandbox/faults", get(faults::list).put(faults::put).delete(faults::remove_all))
        .route("/sandbox/faults/{id}", axum::routing::delete(faults::remove))
        .route("/sandbox/clock", post(clock::advance).get(clock::show))
        .merge(mailpit::router())
        .method_not_allowed_fallback(|| async { answers::problem(405, "this path does not take this method") })
        .with_state(web)
}
