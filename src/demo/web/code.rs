//! `GET /sandbox/code`: the newest code, waiting for it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::super::inbox::is_seen;
use super::super::mail::{Mail, Mark};
use super::Web;
use super::answers::{Refused, asked, problem, problem_with, recipient, typed};
use super::messages::{After, sender, short};
use crate::base::clock::Clock as _;
use crate::base::units;

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
pub(super) struct CodeQuery {
    to: Option<String>,
    after: Option<String>,
    tag: Option<String>,
    wait: Option<String>,
}

/// Answers with the newest mail that holds a code or a link.
pub(super) async fn show(
    State(web): State<Arc<Web>>,
    headers: HeaderMap,
    query: Result<Query<CodeQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let which = asked(query)?;
    let to = recipient(which.to.as_deref())?;
    let after = After::read(&web, which.after.as_deref())?;
    let wait = span(which.wait.as_deref())?;
    let began = web.clock.instant();
    let fits = |mail: &Mail| {
        is_seen(mail)
            && after.is_none_or(|after| after.lets_through(mail))
            && which.tag.as_deref().is_none_or(|tag| mail.tag() == Some(tag))
            && (mail.code().is_some() || mail.link().is_some())
    };
    let newest = || web.inbox.of(&to).into_iter().rev().find(|mail| fits(mail));
    let mut watch = web.inbox.watch();
    let mut found = newest();
    if found.is_none() && !wait.is_zero() {
        let Ok(_seat) = web.waits.clone().try_acquire_owned() else {
            return Err(problem(429, "256 requests wait for codes already"));
        };
        let arrival = async {
            loop {
                watch.borrow_and_update();
                if let Some(mail) = newest() {
                    return Some(mail);
                }
                if watch.changed().await.is_err() {
                    return None;
                }
            }
        };
        found = tokio::select! {
            found = arrival => found,
            () = tokio::time::sleep(wait) => None,
            () = web.closing.cancelled() => return Err(problem(503, "the sandbox ends")),
        };
    }
    let waited = web.clock.instant().saturating_duration_since(began);
    match found {
        Some(mail) => Ok(answer(&mail, waited, &headers)),
        None => Err(nothing(&web, &to, after, wait)),
    }
}

fn span(text: Option<&str>) -> Result<Duration, Refused> {
    let Some(text) = text else { return Ok(Duration::ZERO) };
    let seconds = || text.trim().parse().ok().map(Duration::from_secs);
    let span = units::duration(text).or_else(seconds).ok_or_else(|| problem(422, "wait: a time like \"20s\""))?;
    if span > WAIT_MAX {
        return Err(problem(422, "wait: 60s at most"));
    }
    Ok(span)
}

fn answer(mail: &Mail, waited: Duration, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim_start().starts_with("text/plain") {
        let text = mail.code().or_else(|| mail.link()).unwrap_or_default();
        return typed("text/plain; charset=utf-8", text.to_owned());
    }
    let body = json!({
        "code": mail.code(),
        "link": mail.link(),
        "id": mail.id(),
        "message": mail.message.map(|id| id.to_string()),
        "subject": mail.read.subject,
        "from": sender(mail),
        "received_at": mail.how.received_at.rfc3339(),
        "waited_ms": u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        "signed": mail.is_signed(),
        "attempts": mail.how.attempts,
        "lost": mail.how.mark == Mark::Lost,
    });
    Json(body).into_response()
}

fn nothing(web: &Web, to: &str, after: Option<After>, wait: Duration) -> Refused {
    let mails = web.inbox.of(to);
    let arrived: Vec<_> = mails
        .iter()
        .rev()
        .take(20)
        .map(|mail| {
            let is_older = after.is_some_and(|after| !after.lets_through(mail));
            let mut json = json!(short(mail));
            json["before_after"] = is_older.into();
            json
        })
        .collect();
    let detail = match arrived.len() {
        0 => format!(
            "no mail to {to} came within {} s; `otp-relay trace`, or GET /v1/messages?recipient={to}, says why",
            wait.as_secs()
        ),
        count => format!("no code for {to} within {} s; {count} mails are there that do not count", wait.as_secs()),
    };
    problem_with(404, &detail, json!({ "arrived": arrived }))
}
