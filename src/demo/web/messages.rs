//! `/sandbox/messages`: what the mail hosts received.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::mail::{Mail, Mark};
use super::Web;
use super::answers::{Refused, asked, problem, recipient, time, typed, unknown_mail};
use crate::base::clock::Timestamp;

/// Mails in one answer.
const LIST_MAX: usize = 500;
/// What a mail in HTML may do in a browser: show itself.
const HTML_POLICY: &str = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:";

/// A mail in a list.
#[derive(Debug, Serialize)]
pub(super) struct Short {
    id: String,
    /// The relay's id of the message, for `/v1/messages/{id}`.
    message: Option<String>,
    from: String,
    to: String,
    subject: String,
    received_at: String,
    code: Option<String>,
    link: Option<String>,
    attempts: u32,
    signed: bool,
    hidden: bool,
    lost: bool,
    tls: &'static str,
    tag: Option<String>,
    size_bytes: usize,
}

pub(super) fn short(mail: &Mail) -> Short {
    Short {
        id: mail.id(),
        message: mail.message.map(|id| id.to_string()),
        from: sender(mail),
        to: mail.how.recipient.as_str().to_owned(),
        subject: mail.read.subject.clone(),
        received_at: mail.how.received_at.rfc3339(),
        code: mail.code().map(str::to_owned),
        link: mail.link().map(str::to_owned),
        attempts: mail.how.attempts,
        signed: mail.is_signed(),
        hidden: mail.how.mark == Mark::Hidden,
        lost: mail.how.mark == Mark::Lost,
        tls: mail.how.tls.name(),
        tag: mail.tag().map(str::to_owned),
        size_bytes: mail.content.len(),
    }
}

/// The author's address, or the reverse-path.
pub(super) fn sender(mail: &Mail) -> String {
    mail.read.from.as_ref().map_or_else(|| mail.how.sender.clone(), |from| from.address.clone())
}

/// Which mails.
#[derive(Debug, Deserialize)]
pub(super) struct MessagesQuery {
    to: Option<String>,
    after: Option<String>,
}

/// The place behind which mails are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    Number(u64),
    Time(Timestamp),
}

impl After {
    /// An id of a mail, the relay's id of a message, or a time.
    pub(super) fn read(web: &Web, text: Option<&str>) -> Result<Option<Self>, Refused> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        if let Some(number) = Mail::number_of(text) {
            return Ok(Some(Self::Number(number)));
        }
        if let Ok(id) = text.parse() {
            // Of a message that has not arrived nothing came before.
            return Ok(web.inbox.by_message(id).map(|mail| Self::Number(mail.number)));
        }
        let time = time(text).map(Self::Time);
        time.map(Some).ok_or_else(|| problem(422, "after: the id of a mail, or a time as in 2026-11-28T10:00:00Z"))
    }

    pub(super) fn lets_through(self, mail: &Mail) -> bool {
        match self {
            Self::Number(number) => mail.number > number,
            Self::Time(time) => mail.how.received_at > time,
        }
    }
}

/// `GET /sandbox/messages[?to=&after=]`: the newest first.
pub(super) async fn list(
    State(web): State<Arc<Web>>,
    query: Result<Query<MessagesQuery>, QueryRejection>,
) -> Result<Json<Value>, Refused> {
    let which = asked(query)?;
    let after = After::read(&web, which.after.as_deref())?;
    let mails = chosen(&web, which.to.as_deref())?;
    let fits = |mail: &&Arc<Mail>| after.is_none_or(|after| after.lets_through(mail));
    let messages: Vec<Short> = mails.iter().rev().filter(fits).take(LIST_MAX).map(|mail| short(mail)).collect();
    Ok(Json(json!({ "messages": messages })))
}

fn chosen(web: &Web, to: Option<&str>) -> Result<Vec<Arc<Mail>>, Refused> {
    match to {
        None => Ok(web.inbox.all()),
        Some(to) => Ok(web.inbox.of(&recipient(Some(to))?)),
    }
}

/// `DELETE /sandbox/messages[?to=]`.
pub(super) async fn remove(
    State(web): State<Arc<Web>>,
    query: Result<Query<MessagesQuery>, QueryRejection>,
) -> Result<Json<Value>, Refused> {
    let which = asked(query)?;
    let removed = web.inbox.remove(&chosen(&web, which.to.as_deref())?);
    Ok(Json(json!({ "removed": removed })))
}

/// The mail of an id in a path.
pub(super) fn known(web: &Web, id: &str) -> Result<Arc<Mail>, Refused> {
    let by_number = Mail::number_of(id).and_then(|number| web.inbox.by_number(number));
    let found = by_number.or_else(|| web.inbox.by_message(id.parse().ok()?));
    found.ok_or_else(unknown_mail)
}

/// `GET /sandbox/messages/{id}`.
pub(super) async fn show(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    let mail = known(&web, &id)?;
    Ok(Json(whole(&mail)))
}

fn whole(mail: &Mail) -> Value {
    let Value::Object(mut json) = json!(short(mail)) else { return Value::Null };
    let read = &mail.read;
    let header = |(name, value): &(String, String)| json!({"name": name, "value": value});
    let part = |part: &super::super::mail::Part| {
        json!({"filename": part.name, "content_type": part.content_type, "size_bytes": part.content.len(),
               "content_id": part.content_id})
    };
    let verdict = |verdict: &crate::dkim::verify::Verdict| {
        json!({"domain": verdict.domain, "selector": verdict.selector, "passed": verdict.result.is_ok(),
               "error": verdict.result.as_ref().err()})
    };
    let more = json!({
        "reverse_path": mail.how.sender,
        "headers": read.fields.iter().map(header).collect::<Vec<_>>(),
        "text": read.text,
        "html": read.html,
        "codes": read.codes,
        "links": read.links,
        "attachments": read.parts.iter().map(part).collect::<Vec<_>>(),
        "signatures": mail.how.verdicts.iter().map(verdict).collect::<Vec<_>>(),
    });
    if let Value::Object(more) = more {
        json.extend(more);
    }
    Value::Object(json)
}

/// `DELETE /sandbox/messages/{id}`.
pub(super) async fn remove_one(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<StatusCode, Refused> {
    let mail = known(&web, &id)?;
    web.inbox.remove(&[mail]);
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /sandbox/messages/{id}/raw`: octet for octet as it arrived.
pub(super) async fn raw(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<Response, Refused> {
    Ok(typed("text/plain; charset=utf-8", known(&web, &id)?.content.clone()))
}

/// `GET /sandbox/messages/{id}/html`: for a frame. No script runs, nothing is loaded.
pub(super) async fn html(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<Response, Refused> {
    let mail = known(&web, &id)?;
    Ok(framed(mail.read.html.clone()))
}

/// HTML of a mail, held apart from everything.
pub(super) fn framed(html: String) -> Response {
    let mut response = typed("text/html; charset=utf-8", html).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(HTML_POLICY));
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
