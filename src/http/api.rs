//! Messages: submit, look, cancel, and say that a code was used.

#![allow(unused_qualifications, reason = "descriptions of paths are written so by their macro")]

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::{HeaderMap, StatusCode, request};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::auth::{Access, Principal};
use super::body::{self, Payload};
use super::new_message::{self, Parties, Times};
use super::problem::{JsonResult, Problem};
use super::refusals::Refusals;
use super::seats::OPERATOR;
use super::send::{Draft, check_recipients};
use super::wire::{CancelledJson, EntryJson, MessageJson, NewMessage, Wait};
use crate::event::Kind;
use crate::intake::door::Door;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::id::MessageId;
use crate::queue::Queue;
use crate::queue::inspect::{Cancelled, Filter, Snapshot};
use crate::report::trace::Trace;

/// How long `wait` holds an answer.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// What JSON and the envelope may take beyond twice the message.
const BODY_SLACK: usize = 64 << 10;
/// A message as far as it is known: in the queue, in the traces, or in both.
pub(super) struct MessageStatus {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) trace: Option<Arc<Trace>>,
}

impl MessageStatus {
    fn user(&self) -> Option<&str> {
        let live = self.snapshot.as_ref().map(|snapshot| &*snapshot.message.user);
        live.or_else(|| self.trace.as_ref().map(|trace| &*trace.user))
    }

    pub(super) fn json(&self, door: &Door) -> Option<MessageJson> {
        match (&self.snapshot, &self.trace) {
            (Some(snapshot), trace) => Some(MessageJson::live(snapshot, trace.as_deref(), door)),
            (None, Some(trace)) => Some(MessageJson::ended(trace)),
            (None, None) => None,
        }
    }
}

/// How much of a message is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// How it stands. While all of it lives, the queue knows.
    State,
    /// What happened to it as well.
    Story,
}

impl Api {
    /// Refuses new mail while the relay stops.
    pub(super) fn takes_mail(&self) -> Result<(), Problem> {
        if self.parts.draining.is_cancelled() { Err(Problem::draining()) } else { Ok(()) }
    }

    /// What is known of a message, by somebody who may see it.
    pub(super) async fn known(&self, who: &Principal, id: MessageId, need: Need) -> Result<MessageStatus, Problem> {
        let snapshot = self.parts.queue.message(id);
        let lives = |live: &Snapshot| live.entries.iter().all(|entry| entry.state.is_some());
        let known = if need == Need::State && snapshot.as_ref().is_some_and(lives) {
            MessageStatus { snapshot, trace: None }
        } else {
            // Whoever has left the queue has its end among the events.
            self.caught_up(&snapshot).await?;
            let traces = self.parts.traces.clone();
            let trace = tokio::task::spawn_blocking(move || traces.get(id)).await.unwrap_or_default();
            MessageStatus { snapshot, trace }
        };
        if known.user().is_some_and(|user| who.may_see(user)) { Ok(known) } else { Err(Problem::unknown_message()) }
    }

    /// Returns when the traces know all that has happened so far.
    pub(super) async fn caught_up(&self, snapshot: &Option<Snapshot>) -> Result<(), Problem> {
        let written = self.parts.queue.flush().await;
        let newest = self.parts.queue.happened().newest();
        let is_caught_up = self.parts.traces.caught_up(newest).await;
        match (written, snapshot) {
            (Ok(()), _) if is_caught_up => Ok(()),
            // It lives, and how is known.
            (_, Some(_)) => Ok(()),
            (Err(error), None) => Err(self.not_stored(&error)),
            (Ok(()), None) => Err(Problem::cannot_store("what has happened is still being written down")),
        }
    }

    pub(super) fn not_stored(&self, error: &impl ToString) -> Problem {
        let fault = self.parts.queue.storage_fault().unwrap_or_else(|| error.to_string().into());
        Problem::cannot_store(&fault)
    }

    pub(super) async fn json(&self, who: &Principal, id: MessageId) -> Result<MessageJson, Problem> {
        self.known(who, id, Need::State).await?.json(&self.parts.door).ok_or_else(Problem::unknown_message)
    }
}

/// A path segment; 404 unless it is UTF-8.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|_| Problem::unknown_path())
    }
}

/// The id in a path. What is no id is the id of nothing.
pub(super) fn id(text: &str) -> Result<MessageId, Problem> {
    text.parse().map_err(|_| Problem::unknown_message())
}

/// `POST /v1/messages`.
#[utoipa::path(post, path = "/v1/messages", tag = "messages", request_body = NewMessage,
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "a repeat with it is not sent again", min_length = 1, max_length = 200, pattern = "^[ -~]+$"),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context, shown in events"),
    ),
    responses(
        (status = 202, description = "accepted", body = MessageJson),
        (status = 200, description = "with `wait`: accepted, and all recipients have ended", body = MessageJson),
        Refusals,
    ))]
pub(super) async fn submit(Access(api, who): Access, Payload(headers, body): Payload) -> Result<Response, Problem> {
    api.takes_mail()?;
    let settings = api.settings.load_full();
    let new: NewMessage = body::json(&headers, body, 2 * settings.message_size_max + BODY_SLACK).await?;
    // While the body came, the user may have been removed.
    let who = who.renewed(&api)?;
    let wait = new.wait;
    let draft = draft(&api, &who, &headers, new, settings.recipients_max).await?;
    check_size(&draft, settings.message_size_max)?;
    let checked = check_recipients(&api.parts.door, &[&draft]).await;
    checked.into_iter().collect::<Result<(), _>>()?;
    let seat = wait.map(|Wait::Delivered| api.waits.take(&who, settings.sharing, "answers that wait")).transpose()?;
    draft.recipients.iter().for_each(|mailbox| api.parts.delivery.prewarm(&draft.reverse_path(), mailbox));
    let submitted = api.parts.door.submit(&draft.user, draft.submission(), draft.options.clone(), None).await;
    let receipt = submitted.map_err(|refusal| draft.refused(refusal))?;
    api.parts.delivery.take_up(receipt.offered);
    let is_over = match seat {
        Some(_seat) => wait_for_end(&api, &who, receipt.id).await?,
        None => false,
    };
    let status = if is_over { StatusCode::OK } else { StatusCode::ACCEPTED };
    match api.json(&Principal::Operator, receipt.id).await {
        Ok(json) => Ok((status, Json(json)).into_response()),
        // It was taken all the same: a repeat of something whose trace is gone.
        Err(_) => Ok((status, Json(serde_json::json!({"id": receipt.id.to_string(), "entries": []}))).into_response()),
    }
}

async fn draft(
    api: &Api,
    who: &Principal,
    headers: &HeaderMap,
    new: NewMessage,
    recipients_max: usize,
) -> Result<Draft, Problem> {
    let parties = Parties::read(&new, recipients_max)?;
    let from = parties.from.mailbox.clone();
    let user = who.sender(api, &ReversePath(Some(from.clone())))?;
    let fields = new_message::fields(&new)?;
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let options = new_message::options(&new, &fields, idempotency_key(headers)?, traceparent)?;
    let (templates, now) = (api.settings.load().templates.clone(), api.parts.clock.wall());
    let times = Times { templates, now, life: options.life.unwrap_or(user.life) };
    let recipients = parties.recipients();
    let content = body::apart(new_message::len(&new), move || new_message::content(&new, &parties, &fields, &times));
    let content = content.await?;
    Ok(Draft { user, from, recipients, options, content })
}

/// Refuses a mail that is too large.
pub(super) fn check_size(draft: &Draft, message_size_max: usize) -> Result<(), Problem> {
    if draft.content.len() <= message_size_max {
        return Ok(());
    }
    let text = format!("a message of more than {message_size_max} bytes (submission.message_size_max)");
    Err(Problem::too_large(text).in_our_words().meant_for(draft.recipients.iter().cloned()))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let text = headers.get("idempotency-key").map(|value| value.to_str()).transpose();
    text.map_err(|_| Problem::invalid("Idempotency-Key: printable ASCII is needed"))
}

/// Whether all entries ended in time, while somebody may hear it.
pub(super) async fn wait_for_end(api: &Api, who: &Principal, id: MessageId) -> Result<bool, Problem> {
    let mut waiter = api.parts.ends.wait_for(id);
    let ended = async {
        while api.parts.queue.is_live(id) {
            waiter.next().await;
        }
    };
    tokio::select! {
        biased;
        () = who.revoked(api) => Err(Problem::wrong_token()),
        () = ended => Ok(true),
        () = api.parts.draining.cancelled() => Ok(false),
        () = tokio::time::sleep(WAIT_MAX) => Ok(false),
    }
}

/// `GET /v1/messages/{id}`: with what happened so far.
#[utoipa::path(get, path = "/v1/messages/{id}", tag = "messages", params(("id" = String, Path, description = "a message's id, as a ULID or a UUID")),
    responses((status = 200, description = "the message and what happened to it", body = MessageJson), Refusals))]
pub(super) async fn show(Access(api, who): Access, Segment(text): Segment) -> JsonResult<MessageJson> {
    let known = api.known(&who, id(&text)?, Need::Story).await?;
    let json = known.json(&api.parts.door).ok_or_else(Problem::unknown_message)?;
    Ok(Json(json.with_events(known.trace.as_deref())))
}

/// Whom or what a request about several messages is about.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CancelQuery {
    recipient: Option<String>,
    key: Option<String>,
}

/// A query string, or a problem that names its fault.
pub(super) type ParsedQuery<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

pub(super) fn asked<T>(query: ParsedQuery<T>) -> Result<T, Problem> {
    query.map(|Query(asked)| asked).map_err(|error| Problem::invalid(error.body_text()))
}

pub(super) fn plain(recipient: &str) -> Result<String, Problem> {
    // In a query a plus means a blank; people who write one mean a plus.
    Mailbox::parse(&recipient.trim().replace(' ', "+"))
        .map(|mailbox| mailbox.plain_key())
        .map_err(|error| Problem::invalid(format!("recipient: {error}")).in_our_words())
}

impl Api {
    /// Does what looks through the whole queue, on a thread that may take its time: of each user one after the other.
    pub(super) async fn scan<T: Default + Send + 'static>(
        &self,
        who: &Principal,
        work: impl FnOnce(&Queue) -> T + Send + 'static,
    ) -> T {
        self.scan_as(who.only_user().unwrap_or_else(|| OPERATOR.into()), work).await
    }

    pub(super) async fn scan_as<T: Default + Send + 'static>(
        &self,
        name: Arc<str>,
        work: impl FnOnce(&Queue) -> T + Send + 'static,
    ) -> T {
        let turn = self.turns.next(name).await;
        let queue = self.parts.queue.clone();
        let work = move || {
            // It ends with the work, also where nobody waits for the answer any more.
            let _turn = turn;
            work(&queue)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }

    /// Cancels what is live of a message; says how all of it stands.
    pub(super) async fn cancel_message(&self, who: &Principal, id: MessageId) -> Result<CancelledJson, Problem> {
        self.known(who, id, Need::State).await?;
        let filter = Filter { user: who.only_user(), ..Filter::of_message(id) };
        let cancelled = self.cancel_live(who, filter).await?;
        let after = self.json(who, id).await?;
        Ok(CancelledJson::new(&cancelled, after.entries))
    }

    /// Cancels what the filter covers. What was answered holds after a crash too.
    async fn cancel_live(&self, who: &Principal, filter: Filter) -> Result<Vec<Cancelled>, Problem> {
        let (now, queue, of_ours) = (self.parts.clock.now(), &self.parts.queue, filter.clone());
        let mut cancelled = self.scan(who, move |queue| queue.cancel(&of_ours, now)).await;
        if !cancelled.is_empty() {
            let undone = "cancelled, but not written down, so that a crash undoes it";
            queue.flush().await.map_err(|error| self.not_stored(&error).about(undone))?;
        }
        cancelled.extend(queue.cancel_everywhere(filter).await.map_err(|error| self.not_stored(&error))?);
        Ok(cancelled)
    }
}

/// `DELETE /v1/messages/{id}`.
#[utoipa::path(delete, path = "/v1/messages/{id}", tag = "messages", params(("id" = String, Path, description = "a message's id, as a ULID or a UUID")),
    responses((status = 200, description = "what was cancelled", body = CancelledJson), Refusals))]
pub(super) async fn cancel(Access(api, who): Access, Segment(text): Segment) -> JsonResult<CancelledJson> {
    api.cancel_message(&who, id(&text)?).await.map(Json)
}

/// `DELETE /v1/messages?key=` or `?recipient=`, or both: what is live of them.
#[utoipa::path(delete, path = "/v1/messages", tag = "messages", params(CancelQuery),
    responses((status = 200, description = "what was cancelled", body = CancelledJson), Refusals))]
pub(super) async fn cancel_many(
    Access(api, who): Access,
    query: ParsedQuery<CancelQuery>,
) -> JsonResult<CancelledJson> {
    let CancelQuery { recipient, key } = asked(query)?;
    if recipient.is_none() && key.is_none() {
        return Err(Problem::invalid("say which: /v1/messages?key=KEY or ?recipient=ADDRESS"));
    }
    let recipient = recipient.as_deref().map(plain).transpose()?;
    let key = key.map(Arc::from);
    let filter = Filter { recipient, key, user: who.only_user(), ..Filter::default() };
    let cancelled = api.cancel_live(&who, filter).await?;
    Ok(Json(CancelledJson::new(&cancelled, Vec::<EntryJson>::new())))
}

/// `POST /v1/messages/{id}/verified`: the app saw the code being used.
#[utoipa::path(post, path = "/v1/messages/{id}/verified", tag = "messages", params(("id" = String, Path, description = "a message's id, as a ULID or a UUID")),
    responses((status = 204, description = "noted"), Refusals))]
pub(super) async fn verified(Access(api, who): Access, Segment(text): Segment) -> Result<StatusCode, Problem> {
    let id = id(&text)?;
    let known = api.known(&who, id, Need::Story).await?;
    let now = api.parts.clock.now();
    let head = match (&known.snapshot, &known.trace) {
        (_, Some(trace)) if trace.events.iter().any(|event| event.kind() == Kind::Verified) => None,
        (Some(Snapshot { message, .. }), _) => Some(message.head(now)),
        (None, Some(trace)) => Some(trace.head(now)),
        (None, None) => None,
    };
    let delivered =
        known.trace.as_ref().and_then(|trace| trace.events.iter().find(|event| event.kind() == Kind::Delivered));
    let since_delivered = delivered.map(|event| api.parts.clock.wall().since(event.head.time));
    if let Some(head) = head {
        api.parts.queue.verified(head, since_delivered).await.map_err(|error| api.not_stored(&error))?;
    }
    Ok(StatusCode::NO_CONTENT)
}
