//! The door `emails`: JSON in lower case, names for errors.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use super::super::api::{MessageStatus, Need, Segment, id};
use super::super::auth::Access;
use super::super::body::Payload;
use super::super::compose::fields::Fields;
use super::super::compose::people::Person;
use super::super::problem::{JsonResult, Kind, Problem};
use super::super::refusals::{Responses, described};
use super::super::send::Together;
use super::{
    Addresses, Attached, Mail, Present, Refused, Terms, WrittenMail, attached, deliver, filled, people, unsupported,
};
use crate::base::named::named;
use crate::event::cause::Cause;
use crate::event::{Kind as Happening, Suppress};
use crate::ledger::entry::State as Standing;
use crate::mail::id::MessageId;
use crate::policy::action::{Finality, action};

/// Mails of one request.
const BATCH_MAX: usize = 100;
/// Characters of an idempotency key.
const KEY_LEN_MAX: usize = 256;

/// A mail.
#[derive(Deserialize, ToSchema)]
#[schema(as = emails::Email)]
pub(super) struct Email {
    from: Option<String>,
    to: Option<Addresses>,
    cc: Option<Addresses>,
    bcc: Option<Addresses>,
    reply_to: Option<Addresses>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    tags: Option<Vec<BTreeMap<String, String>>>,
    attachments: Option<Vec<EmailAttachment>>,
    #[schema(ignore)]
    template: Option<Present>,
    #[schema(ignore)]
    scheduled_at: Option<Present>,
}

/// A file that goes with it.
#[derive(Deserialize, ToSchema)]
#[schema(as = emails::EmailAttachment)]
struct EmailAttachment {
    filename: Option<String>,
    content: Option<Content>,
    content_type: Option<String>,
    content_id: Option<String>,
    #[schema(ignore)]
    path: Option<Present>,
}

/// Base64, or the octets one by one, as some programs write them.
#[derive(Deserialize, ToSchema)]
#[schema(as = emails::Content)]
#[serde(untagged, expecting = "base64")]
enum Content {
    Base64(String),
    Octets(Vec<u8>),
}

impl Content {
    fn base64(self) -> String {
        use base64::Engine as _;
        match self {
            Self::Base64(text) => text,
            Self::Octets(octets) => base64::engine::general_purpose::STANDARD.encode(octets),
        }
    }
}

impl Email {
    fn write(self, terms: Terms) -> Result<WrittenMail, Problem> {
        unsupported(&[("template", self.template.is_some()), ("scheduled_at", self.scheduled_at.is_some())])?;
        let from = filled(self.from).ok_or_else(|| Problem::missing("from"))?;
        let to = people(self.to.as_ref(), "to")?;
        if to.is_empty() {
            return Err(Problem::missing("to"));
        }
        let (text, html) = (filled(self.text), filled(self.html));
        if text.is_none() && html.is_none() {
            return Err(Problem::missing("html or text"));
        }
        let given = self.headers.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
        let mail = Mail {
            from: Person::author(&from, "from")?,
            to,
            cc: people(self.cc.as_ref(), "cc")?,
            bcc: people(self.bcc.as_ref(), "bcc")?,
            reply_to: people(self.reply_to.as_ref(), "reply_to")?,
            subject: self.subject.ok_or_else(|| Problem::missing("subject"))?,
            text,
            html,
            fields: Fields::read(given, "headers")?,
            tag: self.tags.and_then(first_tag),
            attachments: files(self.attachments.unwrap_or_default())?,
        };
        mail.write("to", terms)
    }
}

/// `{name, value}`, or one name with its value.
fn first_tag(tags: Vec<BTreeMap<String, String>>) -> Option<String> {
    let mut first = tags.into_iter().next()?;
    first.remove("value").or_else(|| first.into_values().next())
}

fn files(given: Vec<EmailAttachment>) -> Result<Vec<super::Attachment>, Problem> {
    let mut files = Vec::with_capacity(given.len());
    for file in given {
        unsupported(&[("attachments.path", file.path.is_some())])?;
        let content = file.content.ok_or_else(|| Problem::missing("attachments.content"))?.base64();
        let (name, content_type, content_id) = (file.filename, file.content_type, file.content_id);
        files.push(Attached { name, content, content_type, content_id });
    }
    attached(&files, "attachments")
}

/// A message that was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = emails::Accepted)]
pub(super) struct Accepted {
    id: String,
}

impl Accepted {
    fn new(id: MessageId) -> Self {
        Self { id: id.uuid() }
    }
}

/// `POST /emails`.
#[utoipa::path(post, path = "/emails", tag = "doors", request_body = Email, params(("Idempotency-Key" = Option<String>, Header, description = "a repeat with it is not sent again", min_length = 1, max_length = 256, pattern = "^[ -~]+$")),
    responses((status = 200, description = "accepted", body = Accepted), Refusals))]
pub(super) async fn send(Access(api, who): Access, Payload(headers, body): Payload) -> JsonResult<Accepted> {
    api.takes_mail()?;
    let key = idempotency_key(&headers)?;
    let mut mail = super::written(&api, &headers, body, Email::write).await?;
    mail.options.idempotency_key = key.map(Arc::from).or(mail.options.idempotency_key);
    let receipt = super::deliver_one(&api, &who, &headers, mail).await?;
    Ok(Json(Accepted::new(receipt.id)))
}

/// What a batch came to.
#[derive(Serialize, ToSchema)]
#[schema(as = emails::Batch)]
pub(super) struct Batch {
    data: Vec<Accepted>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<BatchError>,
}

/// A mail of a batch that was not taken.
#[derive(Serialize, ToSchema)]
#[schema(as = emails::BatchError)]
struct BatchError {
    index: usize,
    message: String,
}

/// `POST /emails/batch`.
#[utoipa::path(post, path = "/emails/batch", tag = "doors", request_body(content = Vec<serde_json::Value>, description = "mails as of `POST /emails`; with `permissive` each is read by itself"),
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeat with it is not sent again", min_length = 1, max_length = 256, pattern = "^[ -~]+$"), ("x-batch-validation" = Option<String>, Header, description = "strict or permissive", pattern = "^(strict|permissive)$")),
    responses((status = 200, description = "accepted", body = Batch), Refusals))]
pub(super) async fn send_batch(Access(api, who): Access, Payload(headers, body): Payload) -> JsonResult<Batch> {
    api.takes_mail()?;
    let together = validation(&headers)?;
    let key = idempotency_key(&headers)?.map(str::to_owned);
    let _seat = api.batch_seat(&who)?;
    let mut mails = super::written_each(&api, &headers, body, BATCH_MAX, Email::write).await?;
    for (index, mail) in mails.iter_mut().enumerate() {
        // No key of an app's own has a line feed.
        if let (Ok(mail), Some(key)) = (mail, &key) {
            mail.options.idempotency_key = Some(format!("{key}\n{index}").into());
        }
    }
    let outcomes = deliver(&api, &who, &headers, mails, together).await.map_err(Refused::into_problem)?;
    let mut batch = Batch { data: Vec::new(), errors: Vec::new() };
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(receipt) => batch.data.push(Accepted::new(receipt.id)),
            // What was stored before stays: a repeat with the same key is harmless.
            Err(problem) if together == Together::AllOrNone => return Err(problem.about(&format!("[{index}]"))),
            Err(problem) => batch.errors.push(BatchError { index, message: problem.detail().to_owned() }),
        }
    }
    Ok(Json(batch))
}

fn validation(headers: &HeaderMap) -> Result<Together, Problem> {
    match headers.get("x-batch-validation").map(HeaderValue::as_bytes) {
        None | Some(b"strict") => Ok(Together::AllOrNone),
        Some(b"permissive") => Ok(Together::EachByItself),
        Some(_) => Err(Problem::invalid("x-batch-validation: strict or permissive")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=KEY_LEN_MAX).contains(&text.len()));
    let text = text.filter(|text| text.bytes().all(|octet| (b' '..=b'~').contains(&octet)));
    text.map(Some).ok_or_else(|| Problem::invalid("Idempotency-Key: 1 to 256 printable ASCII characters"))
}

/// A message, without its content, which is not kept.
#[derive(Serialize, ToSchema)]
#[schema(as = emails::EmailJson)]
pub(super) struct EmailJson {
    object: &'static str,
    id: String,
    from: String,
    to: Vec<String>,
    cc: Vec<String>,
    bcc: Vec<String>,
    reply_to: Vec<String>,
    created_at: String,
    subject: &'static str,
    html: Option<String>,
    text: Option<String>,
    last_event: &'static str,
}

/// `GET /emails/{id}`.
#[utoipa::path(get, path = "/emails/{id}", tag = "doors", params(("id" = String, Path, description = "a message's id, as a ULID or a UUID")),
    responses((status = 200, description = "how it stands", body = EmailJson), Refusals))]
pub(super) async fn show(Access(api, who): Access, Segment(text): Segment) -> JsonResult<EmailJson> {
    let id = id(&text)?;
    let known = api.known(&who, id, Need::Story).await?;
    let last_event = last_event(&known);
    let json = known.json(&api.parts.door).ok_or_else(Problem::unknown_message)?;
    Ok(Json(EmailJson {
        object: "email",
        id: id.uuid(),
        to: json.entries.iter().map(|entry| entry.recipient.clone()).collect(),
        from: json.from.unwrap_or_default(),
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: Vec::new(),
        created_at: json.accepted_at,
        subject: "",
        html: None,
        text: None,
        last_event,
    }))
}

named! {
    /// How an entry stands; the first is the worst.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Stand: name {
        Bounced = "bounced",
        Failed = "failed",
        Complained = "complained",
        Canceled = "canceled",
        Delayed = "delivery_delayed",
        Queued = "queued",
        Sent = "sent",
        Delivered = "delivered",
    }
}

impl Stand {
    fn after(kind: Happening, cause: Option<Cause>) -> Option<Self> {
        let suppresses = |cause| action(cause, Finality::Final).suppress != Suppress::No;
        match kind {
            Happening::Failed if cause.is_some_and(suppresses) => Some(Self::Bounced),
            Happening::Failed | Happening::Expired => Some(Self::Failed),
            Happening::Bounced => Some(Self::Bounced),
            Happening::Complained => Some(Self::Complained),
            Happening::Cancelled | Happening::Superseded => Some(Self::Canceled),
            Happening::Deferred | Happening::Greylisted | Happening::AtRisk => Some(Self::Delayed),
            Happening::Delivered => Some(Self::Delivered),
            Happening::Queued => Some(Self::Queued),
            Happening::Accepted | Happening::Attempted | Happening::Verified => None,
        }
    }
}

/// Of the entry that stands worst.
fn last_event(known: &MessageStatus) -> &'static str {
    let mut stands: BTreeMap<u16, Stand> = BTreeMap::new();
    for event in known.trace.iter().flat_map(|trace| &trace.events) {
        if let (Some(index), Some(stand)) = (event.head.entry, Stand::after(event.kind(), event.cause())) {
            stands.insert(index, stand);
        }
    }
    for entry in known.snapshot.iter().flat_map(|snapshot| &snapshot.entries) {
        let stand = match entry.state {
            Some(Standing::Deferred) => Stand::Delayed,
            Some(Standing::Queued | Standing::Sending) if entry.progress.at_risk => Stand::Delayed,
            Some(Standing::Queued) => Stand::Queued,
            Some(Standing::Sending) => Stand::Sent,
            None => continue,
        };
        stands.insert(entry.id.index, stand);
    }
    stands.into_values().min().unwrap_or(Stand::Queued).name()
}

/// What was cancelled.
#[derive(Serialize, ToSchema)]
#[schema(as = emails::Cancelled)]
pub(super) struct Cancelled {
    object: &'static str,
    id: String,
}

/// `POST /emails/{id}/cancel`.
#[utoipa::path(post, path = "/emails/{id}/cancel", tag = "doors", params(("id" = String, Path, description = "a message's id, as a ULID or a UUID")),
    responses((status = 200, description = "nothing can have arrived", body = Cancelled), Refusals))]
pub(super) async fn cancel(Access(api, who): Access, Segment(text): Segment) -> JsonResult<Cancelled> {
    let id = id(&text)?;
    let cancelled = api.cancel_message(&who, id).await?;
    if cancelled.may_have_arrived() {
        return Err(Problem::invalid("the email was sent already, or may have been, and cannot be canceled"));
    }
    Ok(Json(Cancelled { object: "email", id: id.uuid() }))
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = emails::ErrorJson)]
pub(super) struct ErrorJson {
    #[serde(rename = "statusCode")]
    status_code: u16,
    name: &'static str,
    message: String,
}

/// Refusals, as they are documented.
struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        described::<ErrorJson>("application/json", |_| true)
    }
}

/// The status and the name of an error.
fn spelled(kind: Kind) -> (StatusCode, &'static str) {
    const INVALID: &str = "validation_error";
    match kind {
        Kind::NoToken => (StatusCode::UNAUTHORIZED, "missing_api_key"),
        Kind::WrongToken => (StatusCode::FORBIDDEN, "invalid_api_key"),
        Kind::NotFound => (kind.status(), "not_found"),
        Kind::Method => (kind.status(), "method_not_allowed"),
        Kind::Missing => (kind.status(), "missing_required_field"),
        Kind::Conflict => (kind.status(), "invalid_idempotent_request"),
        Kind::InWork => (kind.status(), "concurrent_idempotent_requests"),
        Kind::TooMany | Kind::Share | Kind::Budget | Kind::Rate => (kind.status(), "rate_limit_exceeded"),
        Kind::Slow | Kind::Full | Kind::ShuttingDown | Kind::Internal => (kind.status(), "application_error"),
        Kind::BadRequest
        | Kind::Forbidden
        | Kind::TooLarge
        | Kind::Coding
        | Kind::UnknownHost
        | Kind::Invalid
        | Kind::Suppressed
        | Kind::Recipient => (kind.status(), INVALID),
    }
}

pub(super) fn refused(problem: Problem) -> Response {
    let (status, name) = spelled(problem.kind());
    let json = ErrorJson { status_code: status.as_u16(), name, message: problem.detail().to_owned() };
    let mut response = (status, Json(json)).into_response();
    problem.add_fields(response.headers_mut());
    if status == StatusCode::FORBIDDEN {
        response.headers_mut().remove(header::WWW_AUTHENTICATE);
    }
    response.extensions_mut().insert(problem);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_in_two_forms() {
        let first = |json: &str| first_tag(serde_json::from_str(json).unwrap());
        assert_eq!(
            first(r#"[{"name": "category", "value": "signup"}, {"name": "a", "value": "b"}]"#).unwrap(),
            "signup"
        );
        assert_eq!(first(r#"[{"X-Tag": "signup"}]"#).unwrap(), "signup");
        assert_eq!(first("[]"), None);
    }

    #[test]
    fn what_suppresses_is_a_bounce() {
        let after = |kind, cause| Stand::after(kind, cause).map(Stand::name);
        assert_eq!(after(Happening::Failed, Some(Cause::BadMailbox)), Some("bounced"));
        assert_eq!(after(Happening::Failed, Some(Cause::OutcomeUnknown)), Some("failed"));
        assert_eq!(after(Happening::Expired, Some(Cause::Greylisted)), Some("failed"));
        assert_eq!(after(Happening::Superseded, None), Some("canceled"));
        assert_eq!(after(Happening::AtRisk, None), Some("delivery_delayed"));
    }
}
