//! The one place where error answers are told and counted.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;

use axum::response::Response;

use super::Api;
use super::guard::Phase;
use super::problem::Problem;
use crate::report::reasons::{Door, Endpoint, Reason, Stage};
use crate::report::refusals::Refused;

/// Where a connection comes from, and where it goes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) peer: SocketAddr,
    pub(super) listener: SocketAddr,
}

impl Api {
    /// Tells of a request that was refused; `asker`: by which name the log knows whoever asked.
    pub(super) fn refused(&self, origin: Origin, endpoint: Endpoint, asker: Option<&str>, response: &Response) {
        let status = response.status();
        let why = response.extensions().get::<Problem>().map(Problem::why);
        self.parts.refusals.report(&Refused {
            door: Door::Http,
            peer: origin.peer.ip(),
            listener: origin.listener,
            user: asker,
            stage: Stage::Http(endpoint),
            code: Some(status.as_u16()),
            enhanced: None,
            reason: why.map_or_else(|| Reason::of_status(status.as_u16()), |why| why.reason),
            text: why.map_or_else(|| status.canonical_reason().unwrap_or_default(), |why| why.text.as_ref()),
            recipient: why.and_then(|why| why.recipient.as_ref()),
            more_recipients: why.map_or(0, |why| why.more_recipients),
        });
    }

    /// Tells of a connection that ended early for what the peer did: what could not be read was answered before it got here,
    /// whoever is too slow gets no answer.
    pub(super) fn ended_early(&self, origin: Origin, phase: Phase, error: &hyper::Error) {
        let is_late = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let is_late = is_late.is_some_and(|source| source.kind() == io::ErrorKind::TimedOut);
        let (code, reason, text) = match phase {
            _ if error.is_parse_too_large() => (Some(431), Reason::Head, "the head of the request is too long"),
            _ if error.is_parse() => (Some(400), Reason::Syntax, "what came is no HTTP/1.1"),
            Phase::Head if is_late => (None, Reason::TooSlow, "no whole head of a request in time"),
            Phase::Answer | Phase::Rest | Phase::Refused if is_late => {
                (None, Reason::TooSlow, "the client does not read the answer")
            }
            Phase::Head | Phase::Answer | Phase::Rest | Phase::Refused => return,
        };
        self.broken_off(origin, Stage::Http(Endpoint::Head), (code, reason), text);
    }

    /// Tells of a stream that ends before its time.
    pub(super) fn stream_ended(&self, origin: Origin, asker: &str, reason: Reason, text: &str) {
        self.parts.refusals.report(&Refused {
            user: Some(asker),
            ..without_answer(origin, Stage::Http(Endpoint::Events), reason, text)
        });
    }

    /// Tells of a connection that did not come to a request; no code: it was closed without an answer.
    pub(super) fn broken_off(&self, origin: Origin, stage: Stage, (code, reason): (Option<u16>, Reason), text: &str) {
        self.parts.refusals.report(&Refused { code, ..without_answer(origin, stage, reason, text) });
    }
}

/// Of nobody who is known.
fn without_answer(origin: Origin, stage: Stage, reason: Reason, text: &str) -> Refused<'_> {
    Refused {
        door: Door::Http,
        peer: origin.peer.ip(),
        listener: origin.listener,
        user: None,
        stage,
        code: None,
        enhanced: None,
        reason,
        text,
        recipient: None,
        more_recipients: 0,
    }
}
