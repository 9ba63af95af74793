//! Events in JSON, the same in the log, the API and webhooks.

use std::sync::Arc;

use serde::Serialize;

use crate::event::Event;
use crate::mail::id::EntryId;

/// What may hold the recipient's address, as it may be told to whoever reads the event.
#[derive(Debug, Default)]
pub struct Told {
    /// To whom.
    pub recipient: Option<String>,
    /// What the mail host said.
    pub reply: Option<String>,
    /// More for people.
    pub note: Option<String>,
}

impl Told {
    /// Everything, for those whose message it is.
    pub fn all(event: &Event) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            recipient: event.recipient.as_ref().map(ToString::to_string),
            reply: text(&event.reply),
            note: text(&event.note),
        }
    }
}

/// An event as it is written.
#[derive(Debug, Serialize)]
pub struct EventJson<'a> {
    event: &'static str,
    time: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
    user: &'a str,
    lane: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'static str>,
    expires_at: String,
    ms: u128,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    may_have_arrived: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl<'a> EventJson<'a> {
    /// The event, with what may be told of it.
    pub fn new(event: &'a Event, told: Told) -> Self {
        Self {
            event: event.kind.name(),
            time: event.time.rfc3339(),
            id: event.id.to_string(),
            entry: event.entry.map(|index| EntryId { message: event.id, index }.to_string()),
            user: &event.user,
            lane: event.lane.name(),
            tag: event.tag.as_deref(),
            recipient: told.recipient,
            destination: event.destination.as_deref(),
            cause: event.cause,
            reply: told.reply,
            attempt: event.attempt,
            next_attempt_at: event.next_attempt_at.map(|at| at.rfc3339()),
            plan: event.plan,
            expires_at: event.expires_at.rfc3339(),
            ms: event.since_accepted.as_millis(),
            may_have_arrived: event.may_have_arrived,
            note: told.note,
        }
    }
}
