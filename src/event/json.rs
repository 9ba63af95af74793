//! Events in JSON: one form for the log, the API and whoever reads them.
//!
//! Here the closed sets become words. Whoever reads them may be another version, so all but the name has a default, and a
//! name that is not known is no error.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, Step};
use crate::base::clock::Timestamp;

/// An event as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub(crate) struct EventJson {
    /// [`Kind::name`](super::Kind::name).
    pub event: Cow<'static, str>,
    /// RFC 3339, by the wall clock, as all times here.
    pub time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// None where it is about the whole message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Arc<str>>,
    /// What the app's own tracing knows the message by.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<Arc<str>>,
    /// The verification whose code the message carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Arc<str>>,
    /// The address, or what may be told of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The destination's name, or the host of an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Arc<str>>,
    /// [`Cause::name`](super::cause::Cause::name).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cow<'static, str>>,
    /// What the remote server said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Arc<str>>,
    /// From 1; 0 before the first.
    pub attempt: u32,
    /// When the next one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_attempt_at: Option<String>,
    /// What that time follows from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Milliseconds since the message was accepted.
    pub(crate) ms: u64,
    /// Of `verified`: milliseconds since the delivery, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    ms_since_delivered: Option<u64>,
    /// Whether it may arrive all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) may_have_arrived: bool,
    /// More for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<Arc<str>>,
    /// What an attempt did; with the events of a message only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<Arc<[Step]>>,
}

impl EventJson {
    /// An event that stands by itself, as in the log and the feed: without steps.
    pub(crate) fn alone(event: &Event) -> Self {
        let head = &event.head;
        Self {
            id: Some(head.id.to_string()),
            user: Some(head.user.clone()),
            lane: Some(head.lane.name().into()),
            tag: head.tag.clone(),
            traceparent: head.traceparent.clone(),
            expires_at: Some(head.expires_at.rfc3339()),
            steps: None,
            ..Self::of_message(event)
        }
    }

    /// An event beside its message, which says what all of them have in common: with the steps.
    pub(crate) fn of_message(event: &Event) -> Self {
        let Event { head, what } = event;
        let attempted = what.attempted();
        Self {
            event: what.kind().name().into(),
            time: head.time.rfc3339(),
            entry: event.entry().map(|entry| entry.to_string()),
            verification: head.verification.clone(),
            recipient: head.recipient.as_ref().map(ToString::to_string),
            destination: what.destination().cloned(),
            cause: event.cause().map(|cause| cause.name().into()),
            reply: attempted.and_then(|attempted| attempted.reply.clone()),
            attempt: head.attempt,
            next_attempt_at: event.next_attempt_at().map(Timestamp::rfc3339),
            plan: attempted.and_then(|attempted| attempted.plan.clone()),
            ms: millis(head.since_accepted),
            ms_since_delivered: event.since_delivered().map(millis),
            may_have_arrived: event.may_have_arrived(),
            note: what.note().cloned(),
            steps: event.steps().cloned(),
            ..Self::default()
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
