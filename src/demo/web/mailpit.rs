//! The calls of Mailpit's API that test suites use, with its JSON names, so that they can be pointed here unchanged.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::inbox::is_seen;
use super::super::mail::{Mail, Part, Person, by_name};
use super::Web;
use super::answers::{Refused, asked, problem, typed};
use super::messages::{framed, known};
use super::search::Search;

/// Mails in one answer where nothing is asked for, and at most.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 1000;
/// Characters of a snippet.
const SNIPPET_LEN: usize = 200;
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn router() -> Router<Arc<Web>> {
    Router::new()
        .route("/livez", get(|| async { typed(TEXT, "ok") }))
        .route("/api/v1/info", get(info))
        .route("/api/v1/messages", get(list).delete(remove).put(set_read))
        .route("/api/v1/search", get(search).delete(remove_found))
        .route("/api/v1/message/{id}", get(show))
        .route("/api/v1/message/{id}/headers", get(headers))
        .route("/api/v1/message/{id}/raw", get(raw))
        .route("/api/v1/message/{id}/part/{part}", get(part))
        .route("/api/v1/tags", get(|| async { Json(json!([])) }))
        .route("/view/{file}", get(view))
}

#[derive(Debug, Deserialize)]
struct SearchQuery {
    query: Option<String>,
    start: Option<usize>,
    limit: Option<usize>,
}

type ParsedQuery = Result<Query<SearchQuery>, QueryRejection>;

/// From the newest on. A message to several recipients arrives once for each, and is shown once.
fn all(web: &Web) -> Vec<Arc<Mail>> {
    let mut mails = web.inbox.all();
    let mut known = HashSet::new();
    mails.retain(|mail| is_seen(mail) && mail.message.is_none_or(|id| known.insert(id)));
    mails.reverse();
    mails
}

/// All that arrived of the messages of these mails.
fn with_others(web: &Web, mails: &[Arc<Mail>]) -> Vec<Arc<Mail>> {
    let numbers: HashSet<u64> = mails.iter().map(|mail| mail.number).collect();
    let messages: HashSet<_> = mails.iter().filter_map(|mail| mail.message).collect();
    let mut all = web.inbox.all();
    all.retain(|mail| numbers.contains(&mail.number) || mail.message.is_some_and(|id| messages.contains(&id)));
    all
}

async fn info(State(web): State<Arc<Web>>) -> Json<Value> {
    let mails = all(&web);
    let unread = mails.iter().filter(|mail| !mail.was_read()).count();
    Json(json!({"Version": concat!("otp-relay ", env!("CARGO_PKG_VERSION")), "LatestVersion": "", "Database": "",
                "DatabaseSize": 0, "Messages": mails.len(), "Unread": unread, "Tags": {}}))
}

async fn list(State(web): State<Arc<Web>>, query: ParsedQuery) -> Result<Json<Value>, Refused> {
    let which = asked(query)?;
    let mails = all(&web);
    Ok(Json(summary(&mails, mails.len(), &mails, &which)))
}

async fn search(State(web): State<Arc<Web>>, query: ParsedQuery) -> Result<Json<Value>, Refused> {
    let which = asked(query)?;
    let mails = all(&web);
    let found = found(&mails, which.query.as_deref())?;
    Ok(Json(summary(&mails, found.len(), &found, &which)))
}

fn found(mails: &[Arc<Mail>], query: Option<&str>) -> Result<Vec<Arc<Mail>>, Refused> {
    let search = Search::read(query.unwrap_or_default());
    if search.is_empty() {
        return Err(problem(400, "query: nothing to look for"));
    }
    Ok(mails.iter().filter(|mail| search.finds(mail)).cloned().collect())
}

fn summary(all: &[Arc<Mail>], count: usize, shown: &[Arc<Mail>], which: &SearchQuery) -> Value {
    let (start, limit) = (which.start.unwrap_or(0), which.limit.unwrap_or(LIMIT).min(LIMIT_MAX));
    let unread = |mails: &[Arc<Mail>]| mails.iter().filter(|mail| !mail.was_read()).count();
    let messages: Vec<Value> = shown.iter().skip(start).take(limit).map(|mail| short(mail)).collect();
    let mut tags: Vec<&str> = all.iter().filter_map(|mail| mail.tag()).collect();
    tags.sort_unstable();
    tags.dedup();
    json!({
        "total": all.len(),
        "unread": unread(all),
        "count": messages.len(),
        "messages_count": count,
        "messages_unread": unread(shown),
        "start": start,
        "tags": tags,
        "messages": messages,
    })
}

fn from(mail: &Mail) -> Person {
    let reverse_path = || Person { name: String::new(), address: mail.how.sender.clone() };
    mail.read.from.clone().unwrap_or_else(reverse_path)
}

fn to(mail: &Mail) -> Vec<Person> {
    mail.read.to.clone()
}

/// Whom the header section does not name.
fn bcc(mail: &Mail) -> Vec<Person> {
    let recipient = mail.how.recipient.as_str();
    let is_named =
        mail.read.to.iter().chain(&mail.read.cc).any(|person| person.address.eq_ignore_ascii_case(recipient));
    if is_named { Vec::new() } else { vec![Person { name: String::new(), address: recipient.to_owned() }] }
}

fn snippet(mail: &Mail) -> String {
    let words: Vec<&str> = mail.read.text.split_whitespace().collect();
    words.join(" ").chars().take(SNIPPET_LEN).collect()
}

fn short(mail: &Mail) -> Value {
    json!({
        "ID": mail.id(),
        "MessageID": mail.read.message_id,
        "Read": mail.was_read(),
        "From": from(mail),
        "To": to(mail),
        "Cc": mail.read.cc,
        "Bcc": bcc(mail),
        "ReplyTo": mail.read.reply_to,
        "Subject": mail.read.subject,
        "Created": mail.how.received_at.rfc3339(),
        "Username": "",
        "Tags": mail.tag().into_iter().collect::<Vec<_>>(),
        "Size": mail.content.len(),
        "Attachments": mail.read.parts.iter().filter(|part| !part.is_inline).count(),
        "Snippet": snippet(mail),
    })
}

fn attachment(part: &Part) -> Value {
    let digest = |algorithm: &'static aws_lc_rs::digest::Algorithm| {
        let digest = aws_lc_rs::digest::digest(algorithm, &part.content);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    json!({
        "PartID": part.number.to_string(),
        "FileName": part.name,
        "ContentType": part.content_type,
        "ContentID": part.content_id,
        "Size": part.content.len(),
        "Checksums": {
            "MD5": "",
            "SHA1": digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY),
            "SHA256": digest(&aws_lc_rs::digest::SHA256),
        },
    })
}

/// The mail of an id; `latest` is the newest.
fn named(web: &Web, id: &str, query: Option<&str>) -> Result<Arc<Mail>, Refused> {
    if id != "latest" {
        return known(web, id).map_err(|_| missing());
    }
    let mails = all(web);
    let mails = if query.is_some() { found(&mails, query)? } else { mails };
    mails.first().cloned().ok_or_else(missing)
}

fn missing() -> Refused {
    problem(404, "no such message")
}

/// `GET /api/v1/message/{id}`: whoever looks has read it.
async fn show(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    let mail = named(&web, &id, None)?;
    mail.set_read(true);
    let read = &mail.read;
    let parts = |is_inline: bool| {
        read.parts.iter().filter(|part| part.is_inline == is_inline).map(attachment).collect::<Vec<_>>()
    };
    Ok(Json(json!({
        "ID": mail.id(),
        "MessageID": read.message_id,
        "From": from(&mail),
        "To": to(&mail),
        "Cc": read.cc,
        "Bcc": bcc(&mail),
        "ReplyTo": read.reply_to,
        "ReturnPath": mail.how.sender,
        "Subject": read.subject,
        "ListUnsubscribe": {"Header": read.list_unsubscribe, "Links": [], "Errors": "", "HeaderPost": ""},
        "Date": read.date.clone().unwrap_or_else(|| mail.how.received_at.rfc3339()),
        "Tags": mail.tag().into_iter().collect::<Vec<_>>(),
        "Username": "",
        "Text": read.text,
        "HTML": read.html,
        "Size": mail.content.len(),
        "Inline": parts(true),
        "Attachments": parts(false),
    })))
}

async fn headers(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    let mail = named(&web, &id, None)?;
    Ok(Json(json!(by_name(&mail.read.fields))))
}

async fn raw(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Result<Response, Refused> {
    Ok(typed(TEXT, named(&web, &id, None)?.content.clone()))
}

async fn part(State(web): State<Arc<Web>>, Path((id, part)): Path<(String, String)>) -> Result<Response, Refused> {
    let mail = named(&web, &id, None)?;
    let found = mail.read.parts.iter().find(|known| known.number.to_string() == part).ok_or_else(missing)?;
    Ok(typed("application/octet-stream", found.content.clone()))
}

/// `/view/{id}.txt` and `.html`; `latest` for an id, also of what a query finds.
async fn view(State(web): State<Arc<Web>>, Path(file): Path<String>, query: ParsedQuery) -> Result<Response, Refused> {
    let query = asked(query)?.query;
    let Some((id, kind)) = file.rsplit_once('.') else { return Err(missing()) };
    let mail = named(&web, id, query.as_deref())?;
    match kind {
        "txt" => Ok(typed(TEXT, mail.read.text.clone())),
        "html" if mail.read.html.is_empty() => Err(problem(404, "this message has no HTML part")),
        "html" => Ok(framed(mail.read.html.clone())),
        _ => Err(missing()),
    }
}

#[derive(Debug, Default, Deserialize)]
struct Ids {
    #[serde(default, rename = "IDs", alias = "ids")]
    ids: Vec<String>,
    #[serde(default, rename = "Read", alias = "read")]
    read: bool,
    #[serde(default, rename = "Search", alias = "search")]
    search: String,
}

fn ids(body: &Bytes) -> Result<Ids, Refused> {
    if body.trim_ascii().is_empty() {
        return Ok(Ids::default());
    }
    super::answers::json(body)
}

/// Those that are named, or all.
fn meant(web: &Web, ids: &Ids) -> Result<Vec<Arc<Mail>>, Refused> {
    if !ids.search.is_empty() {
        return found(&all(web), Some(&ids.search));
    }
    if ids.ids.is_empty() {
        return Ok(web.inbox.all());
    }
    Ok(ids.ids.iter().filter_map(|id| known(web, id).ok()).collect())
}

async fn remove(State(web): State<Arc<Web>>, body: Bytes) -> Result<Response, Refused> {
    let mails = meant(&web, &ids(&body)?)?;
    web.inbox.remove(&with_others(&web, &mails));
    Ok(typed(TEXT, "ok").into_response())
}

async fn remove_found(State(web): State<Arc<Web>>, query: ParsedQuery) -> Result<Response, Refused> {
    let mails = found(&all(&web), asked(query)?.query.as_deref())?;
    web.inbox.remove(&with_others(&web, &mails));
    Ok(typed(TEXT, "ok").into_response())
}

async fn set_read(State(web): State<Arc<Web>>, body: Bytes) -> Result<Response, Refused> {
    let ids = ids(&body)?;
    for mail in meant(&web, &ids)? {
        mail.set_read(ids.read);
    }
    Ok(typed(TEXT, "ok").into_response())
}
