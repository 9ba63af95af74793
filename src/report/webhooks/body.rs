//! What a post says. Never a subject, a body, a code or a password: events hold none.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::endpoint::Format;
use crate::event::cause::Cause;
use crate::event::json::EventJson;
use crate::event::{Event, Kind, Suppress};
use crate::policy::action::{Finality, action};

#[derive(Serialize)]
struct Plain {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    #[serde(flatten)]
    event: EventJson,
}

/// The body of a post.
pub(crate) fn body(format: Format, event: &Event) -> Vec<u8> {
    let written = match format {
        Format::Events => serde_json::to_vec(&Plain {
            kind: format!("message.{}", event.kind().name()),
            timestamp: event.head.time.rfc3339(),
            event: EventJson::alone(event),
        }),
        Format::Emails => serde_json::to_vec(&email(event)),
    };
    // Neither has a map with keys that are not text, nor anything else that could fail.
    written.unwrap_or_default()
}

fn email(event: &Event) -> Value {
    let head = &event.head;
    let mut tags = Map::new();
    tags.extend(head.tag.as_ref().map(|tag| ("tag".to_owned(), json!(tag))));
    json!({
        "type": email_kind(event),
        "created_at": head.time.rfc3339(),
        "data": {
            "email_id": head.id.uuid(),
            "message_id": head.message_id(),
            "from": head.from.as_ref().map(ToString::to_string),
            "to": head.recipient.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "subject": "",
            "tags": tags,
        },
    })
}

fn email_kind(event: &Event) -> &'static str {
    match event.kind() {
        Kind::Accepted => "email.sent",
        Kind::Delivered => "email.delivered",
        Kind::Deferred | Kind::Greylisted | Kind::AtRisk => "email.delivery_delayed",
        Kind::Failed if event.cause().is_some_and(suppresses) => "email.bounced",
        Kind::Bounced => "email.bounced",
        Kind::Complained => "email.complained",
        Kind::Failed | Kind::Expired => "email.failed",
        Kind::Queued | Kind::Attempted | Kind::Superseded | Kind::Cancelled | Kind::Verified => "email.other",
    }
}

fn suppresses(cause: Cause) -> bool {
    action(cause, Finality::Final).suppress == Suppress::Address
}

/// A post that tells of nothing, to try an endpoint.
pub(crate) fn test(format: Format, now: String) -> Vec<u8> {
    let kind = match format {
        Format::Events => "webhook.test",
        Format::Emails => "email.test",
    };
    serde_json::to_vec(&json!({"type": kind, "timestamp": now, "created_at": now, "data": {}})).unwrap_or_default()
}
