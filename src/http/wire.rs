//! What goes over the wire in JSON, made from the relay's own types here and nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::named::named;
use crate::event::cause::Cause;
use crate::event::json::EventJson;
use crate::event::{Event, Kind};
use crate::intake::door::Door;
use crate::ledger::entry::Message;
use crate::mail::id::EntryId;
use crate::queue::inspect::{Cancelled, EntrySnapshot, Snapshot};
use crate::report::trace::Trace;

/// The body of `POST /v1/messages`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"from": "Shop <otp@app.test>", "to": "alice@example.test", "otp": {"code": "481516", "app": "Shop"}})))]
pub(super) struct NewMessage {
    pub(super) from: String,
    pub(super) to: OneOrMany,
    pub(super) cc: Option<OneOrMany>,
    pub(super) bcc: Option<OneOrMany>,
    pub(super) reply_to: Option<OneOrMany>,
    pub(super) subject: Option<String>,
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
    pub(super) raw: Option<String>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) attachments: Option<Vec<NewAttachment>>,
    pub(super) otp: Option<Otp>,
    pub(super) life: Option<Life>,
    pub(super) lane: Option<String>,
    pub(super) key: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) wait: Option<Wait>,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "an address or a list of addresses")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A file that goes with a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAttachment {
    pub(super) filename: Option<String>,
    pub(super) content: String,
    pub(super) content_type: Option<String>,
    pub(super) content_id: Option<String>,
}

/// A code for the built-in template.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Otp {
    pub(super) code: String,
    pub(super) app: Option<String>,
    pub(super) locale: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number of seconds, or a text like \"10m\"")]
pub(super) enum Life {
    Seconds(u64),
    Text(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wait {
    Delivered,
}

/// The body of `POST /v1/queue/retry`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) id: Option<String>,
    pub(super) destination: Option<String>,
}

/// A message.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageJson {
    pub(super) id: String,
    pub(super) accepted_at: String,
    expires_at: String,
    user: Arc<str>,
    lane: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Arc<str>>,
    /// The reverse-path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    /// What the app's own tracing knows it by (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<Arc<str>>,
    pub(super) entries: Vec<EntryJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) events: Option<Vec<EventJson>>,
}

/// An entry.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(super) struct EntryJson {
    pub(super) entry: String,
    pub(super) recipient: String,
    /// `unknown` where the relay ended at the wrong moment.
    #[schema(value_type = StateName)]
    pub(super) state: &'static str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reply: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    cause: Option<Cause>,
    may_have_arrived: bool,
    /// Whether it was told that it may come too late.
    at_risk: bool,
    /// When it is expected to pass a host that makes it wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

/// What `DELETE` did.
#[derive(Serialize, ToSchema)]
pub(super) struct CancelledJson {
    /// Whether any of it may arrive all the same.
    pub(super) may_still_arrive: bool,
    pub(super) entries: Vec<CancelledEntryJson>,
}

/// One entry of it.
#[derive(Serialize, ToSchema)]
pub(super) struct CancelledEntryJson {
    entry: String,
    recipient: String,
    #[schema(value_type = StateName)]
    state: &'static str,
    may_still_arrive: bool,
}

named! {
    /// Where an entry stands.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub(super) enum StateName: name {
        Queued = "queued",
        Sending = "sending",
        Deferred = "deferred",
        Delivered = "delivered",
        Failed = "failed",
        Expired = "expired",
        Superseded = "superseded",
        Cancelled = "cancelled",
        Unknown = "unknown",
    }
}

/// A page of a list of messages.
#[derive(Serialize, ToSchema)]
pub(super) struct MessagesJson {
    /// The newest first.
    pub(super) messages: Vec<MessageJson>,
    /// What `after` is for the next page; null: there is none.
    pub(super) next: Option<String>,
}

/// What is in the queue.
#[derive(Serialize, ToSchema)]
pub(super) struct QueueJson {
    /// Entries that were asked for, in all.
    pub(super) entries: usize,
    /// The oldest messages of them.
    pub(super) messages: Vec<MessageJson>,
}

/// Entries that were made due.
#[derive(Serialize, ToSchema)]
pub(super) struct RetriedJson {
    pub(super) retried: Vec<String>,
    /// Seconds until the first of those may be that were left out, because the user had them tried again a moment ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) others_in: Option<u128>,
}

impl MessageJson {
    /// A live message; of entries that have ended the trace tells.
    pub(super) fn live(snapshot: &Snapshot, trace: Option<&Trace>, door: &Door) -> Self {
        let message: &Message = &snapshot.message;
        let ended = trace.map(ended_entries).unwrap_or_default();
        let entry = |entry: &EntrySnapshot| {
            let told = ended.iter().find(|told| told.entry == entry.id.to_string() && entry.state.is_none());
            told.cloned().unwrap_or_else(|| EntryJson::live(message, entry, door))
        };
        Self {
            id: message.id.to_string(),
            accepted_at: door.wall(message.accepted_at).rfc3339(),
            expires_at: door.wall(message.expires_at).rfc3339(),
            user: message.user.clone(),
            lane: message.lane.name(),
            tag: message.tag.clone(),
            key: message.key.clone(),
            from: message.envelope.reverse_path.mailbox().map(ToString::to_string),
            traceparent: message.traceparent.clone(),
            entries: snapshot.entries.iter().map(entry).collect(),
            events: None,
        }
    }

    pub(super) fn ended(trace: &Trace) -> Self {
        Self {
            id: trace.id.to_string(),
            accepted_at: trace.accepted_at.rfc3339(),
            expires_at: trace.expires_at.rfc3339(),
            user: trace.user.clone(),
            lane: trace.lane.name(),
            tag: trace.tag.clone(),
            key: None,
            from: trace.from.as_ref().map(ToString::to_string),
            traceparent: trace.traceparent.clone(),
            entries: ended_entries(trace),
            events: None,
        }
    }

    /// With the story.
    pub(super) fn with_events(mut self, trace: Option<&Trace>) -> Self {
        self.events = trace.map(|trace| trace.events.iter().map(|event| EventJson::of_message(event)).collect());
        self
    }
}

impl EntryJson {
    fn live(message: &Message, entry: &EntrySnapshot, door: &Door) -> Self {
        use crate::ledger::entry::State;
        let predicted_at = entry.state.and_then(|_| door.predicted_at(message, entry.id.index));
        let is_waiting = entry.state == Some(State::Deferred);
        Self {
            entry: entry.id.to_string(),
            recipient: message.recipient(entry.id.index).mailbox.to_string(),
            state: entry.state.map_or("unknown", State::name),
            attempts: entry.progress.attempts,
            next_attempt_at: is_waiting.then(|| door.wall(entry.progress.next_attempt_at).rfc3339()),
            destination: None,
            last_reply: entry.progress.last_reply.clone(),
            cause: entry.progress.cause,
            may_have_arrived: entry.may_have_arrived,
            at_risk: entry.progress.at_risk,
            predicted_at: predicted_at.map(|at| door.wall(at).rfc3339()),
            ended_at: None,
        }
    }

    fn on_event(&mut self, event: &Event) {
        let kind = event.kind();
        if self.ended_at.is_none() {
            self.state = state_after(kind).unwrap_or(self.state);
        }
        self.attempts = self.attempts.max(event.head.attempt);
        self.at_risk |= kind == Kind::AtRisk;
        if let Some(destination) = event.what.destination() {
            self.destination = Some(destination.clone());
        }
        if kind.is_end() {
            self.state = kind.name();
            self.ended_at = Some(event.head.time.rfc3339());
            self.may_have_arrived |= event.may_have_arrived();
            self.cause = event.cause();
        }
        if let Some(reply) = event.reply() {
            self.last_reply = Some(reply.into());
        }
    }
}

/// How an entry stands after an event that does not end it.
fn state_after(kind: Kind) -> Option<&'static str> {
    use crate::ledger::entry::State;
    let state = match kind {
        Kind::Accepted | Kind::Queued => State::Queued,
        Kind::Attempted => State::Sending,
        Kind::Deferred | Kind::Greylisted => State::Deferred,
        Kind::AtRisk | Kind::Bounced | Kind::Complained | Kind::Verified => return None,
        Kind::Delivered | Kind::Failed | Kind::Expired | Kind::Superseded | Kind::Cancelled => return None,
    };
    Some(state.name())
}

/// The entries as their events tell.
fn ended_entries(trace: &Trace) -> Vec<EntryJson> {
    let mut entries: BTreeMap<u16, EntryJson> = BTreeMap::new();
    for event in &trace.events {
        // Of an acceptance the first recipient is named.
        let first = (event.kind() == Kind::Accepted).then_some(EntryId { message: trace.id, index: 0 });
        let (Some(entry), Some(recipient)) = (event.entry().or(first), &event.head.recipient) else { continue };
        let new = || EntryJson {
            entry: entry.to_string(),
            recipient: recipient.to_string(),
            state: "unknown",
            ..EntryJson::default()
        };
        entries.entry(entry.index).or_insert_with(new).on_event(event);
    }
    entries.into_values().collect()
}

impl CancelledJson {
    /// Whether any of it arrived, or may yet.
    pub(super) fn may_have_arrived(&self) -> bool {
        self.entries.iter().any(|entry| entry.may_still_arrive || entry.state == Kind::Delivered.name())
    }

    /// What was cancelled now, and what had ended before.
    pub(super) fn new(cancelled: &[Cancelled], others: Vec<EntryJson>) -> Self {
        let now = cancelled.iter().map(|cancelled| CancelledEntryJson {
            entry: cancelled.id.to_string(),
            recipient: cancelled.recipient.to_string(),
            state: Kind::Cancelled.name(),
            may_still_arrive: cancelled.may_still_arrive,
        });
        let mut entries: Vec<CancelledEntryJson> = now.collect();
        for other in others {
            if entries.iter().all(|entry| entry.entry != other.entry) {
                entries.push(CancelledEntryJson {
                    entry: other.entry,
                    recipient: other.recipient,
                    state: other.state,
                    may_still_arrive: other.may_have_arrived,
                });
            }
        }
        Self { may_still_arrive: entries.iter().any(|entry| entry.may_still_arrive), entries }
    }
}
