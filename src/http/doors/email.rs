//! The door `email`: JSON in upper camel case, numbers for errors.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use super::super::auth::Access;
use super::super::body::Payload;
use super::super::compose::fields::Fields;
use super::super::compose::people::Person;
use super::super::problem::{JsonResult, Kind, Problem};
use super::super::refusals::{Responses, described};
use super::super::send::Together;
use super::{Attached, Mail, Present, Refused, Terms, WrittenMail, attached, deliver, filled, unsupported};
use crate::base::clock::Timestamp;
use crate::intake::door::Receipt;
use crate::mail::id::MessageId;

/// Mails of one request.
const BATCH_MAX: usize = 500;

/// A mail.
#[derive(Deserialize, ToSchema)]
#[schema(as = email::Email)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Email {
    from: Option<String>,
    to: Option<String>,
    cc: Option<String>,
    bcc: Option<String>,
    reply_to: Option<String>,
    subject: Option<String>,
    text_body: Option<String>,
    html_body: Option<String>,
    tag: Option<String>,
    headers: Option<Vec<HeaderField>>,
    attachments: Option<Vec<EmailAttachment>>,
    #[schema(ignore)]
    template_id: Option<Present>,
    #[schema(ignore)]
    template_alias: Option<Present>,
    #[schema(ignore)]
    template_model: Option<Present>,
}

/// A header field.
#[derive(Deserialize, ToSchema)]
#[schema(as = email::HeaderField)]
#[serde(rename_all = "PascalCase")]
struct HeaderField {
    name: String,
    value: Option<String>,
}

/// A file that goes with it.
#[derive(Deserialize, ToSchema)]
#[schema(as = email::EmailAttachment)]
#[serde(rename_all = "PascalCase")]
struct EmailAttachment {
    name: Option<String>,
    content: Option<String>,
    content_type: Option<String>,
    #[serde(rename = "ContentID")]
    content_id: Option<String>,
}

impl Email {
    fn write(self, terms: Terms) -> Result<WrittenMail, Problem> {
        unsupported(&[
            ("TemplateId", self.template_id.is_some()),
            ("TemplateAlias", self.template_alias.is_some()),
            ("TemplateModel", self.template_model.is_some()),
        ])?;
        let from = filled(self.from).ok_or_else(|| Problem::missing("From"))?;
        let list = |text: &Option<String>, what| Person::list(text.as_deref().unwrap_or_default(), what);
        let (text, html) = (filled(self.text_body), filled(self.html_body));
        if text.is_none() && html.is_none() {
            return Err(Problem::missing("HtmlBody or TextBody"));
        }
        let fields = self.headers.iter().flatten();
        let fields = fields.map(|field| (field.name.as_str(), field.value.as_deref().unwrap_or_default()));
        let mail = Mail {
            from: Person::author(&from, "From")?,
            to: list(&self.to, "To")?,
            cc: list(&self.cc, "Cc")?,
            bcc: list(&self.bcc, "Bcc")?,
            reply_to: list(&self.reply_to, "ReplyTo")?,
            subject: self.subject.unwrap_or_default(),
            text,
            html,
            fields: Fields::read(fields, "Headers")?,
            tag: self.tag,
            attachments: files(self.attachments.unwrap_or_default())?,
        };
        mail.write("To", terms)
    }
}

fn files(given: Vec<EmailAttachment>) -> Result<Vec<super::Attachment>, Problem> {
    let mut files = Vec::with_capacity(given.len());
    for file in given {
        let content = file.content.ok_or_else(|| Problem::missing("Attachments.Content"))?;
        let (name, content_type, content_id) = (file.name, file.content_type, file.content_id);
        files.push(Attached { name, content, content_type, content_id });
    }
    attached(&files, "Attachments")
}

/// A message that was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = email::Accepted)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Accepted {
    to: String,
    submitted_at: String,
    #[serde(rename = "MessageID")]
    message_id: String,
    error_code: u16,
    message: &'static str,
}

impl Accepted {
    fn new(to: String, id: MessageId, now: Timestamp) -> Self {
        Self { to, submitted_at: now.rfc3339(), message_id: id.uuid(), error_code: 0, message: "OK" }
    }
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = email::ErrorJson)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ErrorJson {
    error_code: u16,
    message: String,
}

impl ErrorJson {
    fn new(problem: &Problem) -> Self {
        Self { error_code: spelled(problem.kind()).1, message: text(problem) }
    }
}

/// What became of one mail of several.
#[derive(Serialize, ToSchema)]
#[schema(as = email::Outcome)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// It was taken.
    Accepted(Accepted),
    /// It was not.
    Refused(ErrorJson),
}

/// `POST /email`.
#[utoipa::path(post, path = "/email", tag = "doors", request_body = Email, security(("server_token" = [])),
    responses((status = 200, description = "accepted", body = Accepted), Refusals))]
pub(super) async fn send(Access(api, who): Access, Payload(headers, body): Payload) -> JsonResult<Accepted> {
    api.takes_mail()?;
    let mail = super::written(&api, &headers, body, Email::write).await?;
    let to = addresses(&mail);
    let receipt = super::deliver_one(&api, &who, &headers, mail).await?;
    Ok(Json(Accepted::new(to, receipt.id, api.parts.clock.wall())))
}

/// `POST /email/batch`.
#[utoipa::path(post, path = "/email/batch", tag = "doors", request_body(content = Vec<serde_json::Value>, description = "mails as of `POST /email`; each is read by itself"), security(("server_token" = [])),
    responses((status = 200, description = "what became of each", body = Vec<Outcome>), Refusals))]
pub(super) async fn send_batch(Access(api, who): Access, Payload(headers, body): Payload) -> JsonResult<Vec<Outcome>> {
    api.takes_mail()?;
    let _seat = api.batch_seat(&who)?;
    let mails = super::written_each(&api, &headers, body, BATCH_MAX, Email::write).await?;
    let to: Vec<String> = mails.iter().map(|mail| mail.as_ref().map(addresses).unwrap_or_default()).collect();
    let outcomes = deliver(&api, &who, &headers, mails, Together::EachByItself).await.map_err(Refused::into_problem)?;
    let now = api.parts.clock.wall();
    let outcome = |(outcome, to): (Result<Receipt, Problem>, String)| match outcome {
        Ok(receipt) => Outcome::Accepted(Accepted::new(to, receipt.id, now)),
        Err(problem) => Outcome::Refused(ErrorJson::new(&problem)),
    };
    Ok(Json(outcomes.into_iter().zip(to).map(outcome).collect()))
}

fn addresses(mail: &WrittenMail) -> String {
    let addresses: Vec<&str> = mail.recipients.iter().map(|mailbox| mailbox.as_str()).collect();
    addresses.join(", ")
}

/// Refusals, as they are documented.
struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        described::<ErrorJson>("application/json", |status| !matches!(status, 403 | 409))
    }
}

/// The status and the number of an error.
fn spelled(kind: Kind) -> (StatusCode, u16) {
    const INVALID: u16 = 300;
    match kind {
        Kind::NoToken | Kind::WrongToken => (StatusCode::UNAUTHORIZED, 10),
        Kind::Forbidden => (StatusCode::UNPROCESSABLE_ENTITY, 400),
        Kind::Suppressed | Kind::Recipient => (StatusCode::UNPROCESSABLE_ENTITY, 406),
        Kind::Invalid | Kind::Missing | Kind::Conflict | Kind::InWork => (StatusCode::UNPROCESSABLE_ENTITY, INVALID),
        Kind::TooMany | Kind::Share | Kind::Budget | Kind::Rate => (StatusCode::TOO_MANY_REQUESTS, 429),
        Kind::Full | Kind::ShuttingDown | Kind::Internal => (StatusCode::SERVICE_UNAVAILABLE, 100),
        Kind::BadRequest
        | Kind::NotFound
        | Kind::Method
        | Kind::Slow
        | Kind::TooLarge
        | Kind::Coding
        | Kind::UnknownHost => (kind.status(), INVALID),
    }
}

/// Libraries read the addresses out of the text.
fn text(problem: &Problem) -> String {
    let is_inactive = matches!(problem.kind(), Kind::Suppressed | Kind::Recipient);
    match problem.why().recipient.as_ref().filter(|_| is_inactive) {
        Some(address) => format!(
            "Found inactive addresses: {address}. Inactive recipients are suppressed, or their domain takes no mail ({})",
            problem.detail()
        ),
        None => problem.detail().to_owned(),
    }
}

pub(super) fn refused(problem: Problem) -> Response {
    let (status, _) = spelled(problem.kind());
    let mut response = (status, Json(ErrorJson::new(&problem))).into_response();
    problem.add_fields(response.headers_mut());
    response.extensions_mut().insert(problem);
    response
}
