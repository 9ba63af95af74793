//! The one place where error answers are told and counted.

use std::net::SocketAddr;

use axum::response::Response;

use super::Api;
use super::problem::Why;
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
        let why = response.extensions().get::<Why>();
        self.parts.refusals.tell(&Refused {
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
            more_recipients: 0,
        });
    }

    /// Tells of a request that could not be read, which was answered before it got here.
    pub(super) fn head_refused(&self, origin: Origin, error: &hyper::Error) {
        if error.is_parse_too_large() {
            let why = (Some(431), Reason::Size);
            self.broken_off(origin, Stage::Http(Endpoint::Head), why, "the head of the request is too long");
        } else if error.is_parse() {
            let why = (Some(400), Reason::Syntax);
            self.broken_off(origin, Stage::Http(Endpoint::Head), why, "what came is no HTTP/1.1");
        }
    }

    /// Tells of a connection that did not come to a request; no code: it was closed without an answer.
    pub(super) fn broken_off(&self, origin: Origin, stage: Stage, (code, reason): (Option<u16>, Reason), text: &str) {
        self.parts.refusals.tell(&Refused {
            door: Door::Http,
            peer: origin.peer.ip(),
            listener: origin.listener,
            user: None,
            stage,
            code,
            enhanced: None,
            reason,
            text,
            recipient: None,
            more_recipients: 0,
        });
    }
}
