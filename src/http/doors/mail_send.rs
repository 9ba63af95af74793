//! The door `mail_send`: one content, several personalizations of it, each a message of its own.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use super::super::auth::Access;
use super::super::body::{self, Payload};
use super::super::compose::fields::Fields;
use super::super::compose::people::Person;
use super::super::problem::{Kind, Problem};
use super::super::refusals::{Responses, described};
use super::super::send::Together;
use super::{Attached, Attachment, Mail, Present, Terms, WrittenMail, attached, deliver, filled, unsupported, within};

/// Messages of one request.
const PERSONALIZATIONS_MAX: usize = 1000;
/// Ids in an answer.
const IDS_MAX: usize = 100;

/// A mail and whom it is for.
#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::Send)]
pub(super) struct Send {
    personalizations: Option<Vec<Personalization>>,
    from: Option<Party>,
    reply_to: Option<Party>,
    reply_to_list: Option<Vec<Party>>,
    subject: Option<String>,
    content: Option<Vec<Part>>,
    headers: Option<BTreeMap<String, String>>,
    categories: Option<Categories>,
    attachments: Option<Vec<SendAttachment>>,
    mail_settings: Option<MailSettings>,
    #[schema(ignore)]
    template_id: Option<Present>,
    #[schema(ignore)]
    send_at: Option<Present>,
    #[schema(ignore)]
    batch_id: Option<Present>,
}

/// Whom it is for.
#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::Personalization)]
struct Personalization {
    from: Option<Party>,
    to: Option<Vec<Party>>,
    cc: Option<Vec<Party>>,
    bcc: Option<Vec<Party>>,
    subject: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    substitutions: Option<BTreeMap<String, serde_json::Value>>,
    #[schema(ignore)]
    send_at: Option<Present>,
}

/// An address with a name.
#[derive(Clone, Deserialize, ToSchema)]
#[schema(as = mail_send::Party)]
struct Party {
    email: Option<String>,
    name: Option<String>,
}

impl Party {
    fn person(&self, what: &str) -> Result<Person, Problem> {
        let email = self.email.as_deref().ok_or_else(|| Problem::missing(&format!("{what}.email")))?;
        Person::named(email, self.name.as_deref(), &format!("{what}.email"))
    }
}

/// A part by its type.
#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::Part)]
struct Part {
    r#type: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::Categories)]
#[serde(untagged, expecting = "a list of categories")]
enum Categories {
    One(String),
    Several(Vec<String>),
}

impl Categories {
    fn first(self) -> Option<String> {
        match self {
            Self::One(one) => Some(one),
            Self::Several(several) => several.into_iter().next(),
        }
    }
}

/// A file that goes with it.
#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::SendAttachment)]
struct SendAttachment {
    filename: Option<String>,
    content: Option<String>,
    r#type: Option<String>,
    content_id: Option<String>,
}

/// Of these, what would change where mail goes.
#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::MailSettings)]
struct MailSettings {
    sandbox_mode: Option<Switch>,
    bcc: Option<Switch>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = mail_send::Switch)]
struct Switch {
    enable: Option<bool>,
}

fn is_on(switch: &Option<Switch>) -> bool {
    switch.as_ref().is_some_and(|switch| switch.enable == Some(true))
}

struct Shared {
    from: Option<Party>,
    reply_to: Vec<Person>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    headers: BTreeMap<String, String>,
    tag: Option<String>,
    attachments: Vec<Attachment>,
}

impl Send {
    fn write(self, terms: Terms) -> Result<Vec<WrittenMail>, Problem> {
        let settings = self.mail_settings.as_ref();
        unsupported(&[
            ("template_id", self.template_id.is_some()),
            ("send_at", self.send_at.is_some()),
            ("batch_id", self.batch_id.is_some()),
            ("mail_settings.sandbox_mode", settings.is_some_and(|settings| is_on(&settings.sandbox_mode))),
            ("mail_settings.bcc", settings.is_some_and(|settings| is_on(&settings.bcc))),
        ])?;
        let personalizations = self.personalizations.unwrap_or_default();
        if personalizations.is_empty() {
            return Err(Problem::missing("personalizations"));
        }
        if personalizations.len() > PERSONALIZATIONS_MAX {
            let text = format!("personalizations: at most {PERSONALIZATIONS_MAX}");
            return Err(Problem::invalid(text).in_our_words().at_field("personalizations"));
        }
        let mut reply_to = self.reply_to_list.unwrap_or_default();
        reply_to.extend(self.reply_to.filter(|_| reply_to.is_empty()));
        let reply_to = reply_to.iter().map(|party| party.person("reply_to")).collect::<Result<_, _>>()?;
        let (text, html) = parts(self.content.unwrap_or_default())?;
        let shared = Shared {
            from: self.from,
            reply_to,
            subject: self.subject,
            text,
            html,
            headers: self.headers.unwrap_or_default(),
            tag: self.categories.and_then(Categories::first),
            attachments: files(self.attachments.unwrap_or_default())?,
        };
        let is_one = personalizations.len() == 1;
        let write = |(index, one): (usize, Personalization)| {
            let mut written = one.write(&shared, index, terms)?;
            if let Some(key) = written.options.idempotency_key.as_deref().filter(|_| !is_one) {
                // No key of an app's own has a line feed.
                written.options.idempotency_key = Some(format!("{key}\n{index}").into());
            }
            Ok(written)
        };
        within(terms, personalizations.into_iter().enumerate().map(write))?.into_iter().collect()
    }
}

/// The text and the page.
fn parts(parts: Vec<Part>) -> Result<(Option<String>, Option<String>), Problem> {
    let (mut text, mut html) = (None, None);
    for (index, part) in parts.into_iter().enumerate() {
        let kind = part.r#type.as_deref().unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/plain" => text = filled(part.value),
            "text/html" => html = filled(part.value),
            // Another form of the page, for one mail program.
            "text/x-amp-html" => {}
            _ => {
                let field = format!("content[{index}].type");
                let text = format!("{field}: text/plain or text/html; anything else is an attachment");
                return Err(Problem::invalid(text).in_our_words().at_field(field));
            }
        }
    }
    if text.is_none() && html.is_none() { Err(Problem::missing("content")) } else { Ok((text, html)) }
}

fn files(given: Vec<SendAttachment>) -> Result<Vec<Attachment>, Problem> {
    let mut files = Vec::with_capacity(given.len());
    for file in given {
        let content = file.content.ok_or_else(|| Problem::missing("attachments.content"))?;
        let (name, content_type, content_id) = (file.filename, file.r#type, file.content_id);
        files.push(Attached { name, content, content_type, content_id });
    }
    attached(&files, "attachments")
}

impl Personalization {
    fn write(self, shared: &Shared, index: usize, terms: Terms) -> Result<WrittenMail, Problem> {
        let field = |name: &str| format!("personalizations[{index}].{name}");
        let has_substitutions = self.substitutions.is_some_and(|substitutions| !substitutions.is_empty());
        unsupported(&[(&field("send_at"), self.send_at.is_some()), (&field("substitutions"), has_substitutions)])?;
        let people = |parties: Option<Vec<Party>>, name: &str| {
            parties.iter().flatten().map(|party| party.person(&field(name))).collect::<Result<Vec<_>, _>>()
        };
        let from = self.from.or_else(|| shared.from.clone()).ok_or_else(|| Problem::missing("from"))?;
        let mut headers = shared.headers.clone();
        for (name, value) in self.headers.unwrap_or_default() {
            headers.retain(|other, _| !other.eq_ignore_ascii_case(&name));
            headers.insert(name, value);
        }
        let given = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mail = Mail {
            from: from.person("from")?,
            to: people(self.to, "to")?,
            cc: people(self.cc, "cc")?,
            bcc: people(self.bcc, "bcc")?,
            reply_to: shared.reply_to.clone(),
            subject: filled(self.subject)
                .or_else(|| shared.subject.clone())
                .ok_or_else(|| Problem::missing("subject"))?,
            text: shared.text.clone(),
            html: shared.html.clone(),
            fields: Fields::read(given, "headers")?,
            tag: shared.tag.clone(),
            attachments: shared.attachments.clone(),
        };
        mail.write(&field("to"), terms)
    }
}

/// `POST /v3/mail/send`.
#[utoipa::path(post, path = "/v3/mail/send", tag = "doors", request_body = Send,
    responses((status = 202, description = "accepted", headers(("X-Message-Id" = String, description = "the ids of the messages"))), Refusals))]
pub(super) async fn send(Access(api, who): Access, Payload(headers, body): Payload) -> Result<Response, Problem> {
    api.takes_mail()?;
    let terms = Terms::of(&api);
    let (given, len) = body::json_with_len::<Send>(&headers, body, terms.body_max()).await?;
    // Each personalization is written with the whole content.
    let copies = given.personalizations.as_ref().map_or(1, Vec::len);
    let _seat = if copies > 1 { Some(api.batch_seat(&who)?) } else { None };
    let mails = body::apart(len.saturating_mul(copies), move || given.write(terms)).await?;
    let mails = mails.into_iter().map(Ok).collect();
    let outcomes =
        deliver(&api, &who, &headers, mails, Together::AllOrNone).await.map_err(|refused| refused.problem)?;
    let receipts = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<String> = receipts.iter().take(IDS_MAX).map(|receipt| receipt.id.uuid()).collect();
    let mut response = StatusCode::ACCEPTED.into_response();
    if let Ok(ids) = HeaderValue::from_str(&ids.join(",")) {
        response.headers_mut().insert("x-message-id", ids);
    }
    Ok(response)
}

/// Errors.
#[derive(Serialize, ToSchema)]
#[schema(as = mail_send::ErrorsJson)]
pub(super) struct ErrorsJson {
    errors: [ErrorJson; 1],
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = mail_send::ErrorJson)]
pub(super) struct ErrorJson {
    message: String,
    field: Option<String>,
}

/// Refusals, as they are documented.
struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        described::<ErrorsJson>("application/json", |status| !matches!(status, 409 | 422))
    }
}

fn spelled(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid | Kind::Missing | Kind::Suppressed | Kind::Recipient | Kind::Conflict | Kind::InWork => {
            StatusCode::BAD_REQUEST
        }
        Kind::BadRequest
        | Kind::NoToken
        | Kind::WrongToken
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::Method
        | Kind::Slow
        | Kind::TooLarge
        | Kind::Coding
        | Kind::UnknownHost
        | Kind::TooMany
        | Kind::Share
        | Kind::Budget
        | Kind::Rate
        | Kind::Full
        | Kind::ShuttingDown
        | Kind::Internal => kind.status(),
    }
}

pub(super) fn refused(problem: Problem) -> Response {
    let errors = ErrorsJson {
        errors: [ErrorJson { message: problem.detail().to_owned(), field: problem.field().map(str::to_owned) }],
    };
    let mut response = (spelled(problem.kind()), Json(errors)).into_response();
    problem.add_fields(response.headers_mut());
    response.extensions_mut().insert(problem);
    response
}
