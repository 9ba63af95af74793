//! `GET /v1/messages`: messages in pages, the newest first. A page's cursor is the id of its last message, so that any process
//! with the same messages can go on from there.

#![allow(unused_qualifications, reason = "descriptions of paths are written so by their macro")]

use std::time::Duration;

use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::api::{ParsedQuery, asked, plain};
use super::auth::{Access, Principal};
use super::problem::{JsonResult, Problem};
use super::refusals::Refusals;
use super::wire::{MessageJson, MessagesJson, StateName};
use crate::base::clock::Timestamp;
use crate::mail::id::MessageId;
use crate::queue::inspect::Filter;
use crate::report::trace::TraceFilter;

/// Messages of a page.
const LIMIT_MAX: usize = 100;
const LIMIT_DEFAULT: usize = 20;
/// Ids looked for at a time.
const CHUNK: usize = 200;
/// Messages looked at for one page, whatever is found.
const LOOKS_MAX: usize = 1000;
/// Chunks looked through for one page: most of what a chunk covers may be of other users.
const CHUNKS_MAX: usize = 20;
/// By how much an id's time and the wall clock differ at most.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// Which messages are asked for; what is not there does not matter.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MessagesQuery {
    /// An address of a recipient.
    recipient: Option<String>,
    /// A state of an entry.
    state: Option<StateName>,
    /// The message's tag.
    tag: Option<String>,
    /// Accepted since then (RFC 3339).
    since: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Messages of the page, 20 if not said.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
}

/// The same, understood.
struct Search {
    recipient: Option<String>,
    state: Option<StateName>,
    tag: Option<String>,
    since: Option<Timestamp>,
    limit: usize,
}

impl Search {
    fn covers(&self, message: &MessageJson) -> bool {
        let state = self.state.map(StateName::name);
        state.is_none_or(|state| message.entries.iter().any(|entry| entry.state == state))
            && self.tag.as_deref().is_none_or(|tag| message.tag.as_deref() == Some(tag))
            && self.since.is_none_or(|since| {
                Timestamp::from_rfc3339(&message.accepted_at).is_none_or(|accepted_at| accepted_at >= since)
            })
    }

    /// Whether nothing with this id or an earlier one can be covered.
    fn is_before(&self, id: MessageId) -> bool {
        self.since.is_some_and(|since| id.time().plus(CLOCK_SLACK) < since)
    }
}

fn time(text: &str) -> Option<Timestamp> {
    // In a query a plus means a blank; people who write one mean a plus.
    let text = text.trim().replace(' ', "+");
    let in_seconds = || {
        let date = mail_parser::DateTime::parse_rfc3339(&text).filter(mail_parser::DateTime::is_valid)?;
        Some(Timestamp::from_millis(u64::try_from(date.to_timestamp()).ok()?.checked_mul(1000)?))
    };
    Timestamp::from_rfc3339(&text).or_else(in_seconds)
}

fn understood(which: MessagesQuery) -> Result<(Search, Option<MessageId>), Problem> {
    let MessagesQuery { recipient, state, tag, since, after, limit } = which;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::invalid("limit: 1 to 100"));
    }
    let since = since
        .as_deref()
        .map(|text| time(text).ok_or_else(|| Problem::invalid("since: a time like 2026-11-21T10:00:00Z")));
    let cursor = |text: &str| text.parse().map_err(|_| Problem::invalid("after: the next of the page before"));
    let after = after.as_deref().map(cursor).transpose()?;
    let recipient = recipient.as_deref().map(plain).transpose()?;
    Ok((Search { recipient, state, tag, since: since.transpose()?, limit }, after))
}

/// Ids below a place, the newest first, and how far down they are all there are; none: to the end.
struct Chunk {
    ids: Vec<MessageId>,
    floor: Option<MessageId>,
}

/// Messages in pages, the newest first.
#[utoipa::path(get, path = "/v1/messages", tag = "messages", params(MessagesQuery),
    responses((status = 200, description = "a page", body = MessagesJson), Refusals))]
pub(super) async fn list(Access(api, who): Access, query: ParsedQuery<MessagesQuery>) -> JsonResult<MessagesJson> {
    let (search, after) = understood(asked(query)?)?;
    // What cannot be written down is told where it is asked for by its id.
    let _ = api.caught_up(&None).await;
    let (mut messages, mut next, mut looks, mut place) = (Vec::new(), None, 0, after);
    for _ in 0..CHUNKS_MAX {
        let Chunk { ids, floor } = api.chunk(&who, &search, place).await;
        for id in ids {
            if search.is_before(id) {
                return Ok(Json(MessagesJson { messages, next: None }));
            }
            let covered = api.json(&who, id).await.ok().filter(|message| search.covers(message));
            if covered.is_some() && messages.len() == search.limit {
                return Ok(Json(MessagesJson { messages, next }));
            }
            messages.extend(covered);
            next = Some(id.to_string());
            looks += 1;
            if looks == LOOKS_MAX {
                return Ok(Json(MessagesJson { messages, next }));
            }
        }
        if floor.is_none() {
            return Ok(Json(MessagesJson { messages, next: None }));
        }
        place = floor;
        next = floor.map(|id| id.to_string());
    }
    Ok(Json(MessagesJson { messages, next }))
}

impl Api {
    async fn chunk(&self, who: &Principal, search: &Search, below: Option<MessageId>) -> Chunk {
        let filter = Filter { recipient: search.recipient.clone(), user: who.only_user(), ..Filter::default() };
        let (traces, recipient, user) = (self.parts.traces.clone(), search.recipient.clone(), who.only_user());
        let work = move |queue: &crate::queue::Queue| {
            let live = queue.newest(&filter, below, CHUNK);
            let wanted = TraceFilter { recipient: recipient.as_deref(), user: user.as_deref(), below };
            (live, traces.newest(wanted, CHUNK))
        };
        let (live, (stored, floor)) = self.scan(who, work).await;
        let live_floor = (live.len() == CHUNK).then(|| live.last().copied()).flatten();
        let floor = floor.max(live_floor);
        let mut ids: Vec<MessageId> = live.into_iter().chain(stored).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        ids.retain(|id| floor.is_none_or(|floor| *id >= floor));
        Chunk { ids, floor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let at = |text: &str| time(text).map(Timestamp::as_millis);
        assert_eq!(at("2026-11-21T10:00:00.004Z"), Some(1_795_255_200_004));
        assert_eq!(at("2026-11-21T10:00:00Z"), Some(1_795_255_200_000));
        assert_eq!(at("2026-11-21T11:00:00 01:00"), Some(1_795_255_200_000));
        for text in ["", "yesterday", "2026-13-21T10:00:00Z", "1795255200"] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
