//! Compatible doors: requests in the shapes of mail APIs that apps already speak to, on the paths that their libraries use.
//! Each file is one shape; what they have in common is here. Behind a door are the same users, budgets and events as
//! behind `/v1/messages`.

mod email;
mod emails;
mod mail_send;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::ComponentsBuilder;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Principal;
use super::body;
use super::compose::Letter;
use super::compose::attachments::{self, Attachment, RawAttachment};
use super::compose::fields::Fields;
use super::compose::people::Person;
use super::problem::Problem;
use super::seats::Seat;
use super::send::{Draft, Together};
use super::{Api, shape::Shape};
use crate::base::clock::Timestamp;
use crate::intake::door::Receipt;
use crate::intake::options::{self, Options};
use crate::mail::address::{Mailbox, ReversePath};

/// How long taking a request's mails may take once its body is there.
const ANSWER_MAX: Duration = Duration::from_millis(2300);
/// What JSON may take beyond twice the message.
const BODY_SLACK: usize = 64 << 10;
/// Decoded octets of a request that holds several mails, in messages of `submission.message_size_max`.
const BATCH_MESSAGES: usize = 16;

/// The paths of all doors.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(emails::send))
        .routes(routes!(emails::send_batch))
        .routes(routes!(emails::show))
        .routes(routes!(emails::cancel))
        .routes(routes!(email::send))
        .routes(routes!(email::send_batch))
        .routes(routes!(mail_send::send))
}

/// With the errors of all doors, for their description.
pub(super) fn errors(components: ComponentsBuilder) -> ComponentsBuilder {
    let components = components.schema_from::<emails::ErrorJson>().schema_from::<email::ErrorJson>();
    components.schema_from::<mail_send::ErrorsJson>().schema_from::<mail_send::ErrorJson>()
}

/// A refusal as a door's libraries understand it.
pub(super) fn refused(shape: Shape, problem: Problem) -> Response {
    match shape {
        Shape::Emails => emails::refused(problem),
        Shape::Email => email::refused(problem),
        Shape::MailSend => mail_send::refused(problem),
    }
}

/// Whether a field is there, whatever it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Present;

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Refuses what would change where or when mail goes, and is not supported.
fn unsupported(fields: &[(&str, bool)]) -> Result<(), Problem> {
    match fields.iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => Err(Problem::invalid(format!("{name}: is not supported")).in_our_words().at_field(*name)),
        None => Ok(()),
    }
}

/// A mail as a door has read it.
struct Mail {
    from: Person,
    to: Vec<Person>,
    cc: Vec<Person>,
    bcc: Vec<Person>,
    reply_to: Vec<Person>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    fields: Fields,
    tag: Option<String>,
    attachments: Vec<Attachment>,
}

/// A mail that is written, before it is known whose it is.
struct WrittenMail {
    from: Mailbox,
    recipients: Vec<Mailbox>,
    options: Options,
    content: Bytes,
}

/// What mails are held to.
#[derive(Clone, Copy)]
struct Terms {
    recipients_max: usize,
    message_size_max: usize,
    now: Timestamp,
}

impl Terms {
    fn of(api: &Api) -> Self {
        let settings = api.settings.load();
        Self {
            recipients_max: settings.recipients_max,
            message_size_max: settings.message_size_max,
            now: api.parts.clock.wall(),
        }
    }

    /// Octets of a request with one mail.
    fn body_max(self) -> usize {
        2 * self.message_size_max + BODY_SLACK
    }

    /// Octets of a request with several.
    fn batch_max(self) -> usize {
        BATCH_MESSAGES * self.message_size_max
    }
}

impl Mail {
    /// Writes it; `to` is how its door calls the recipients.
    fn write(self, to: &str, terms: Terms) -> Result<WrittenMail, Problem> {
        let mut recipients: Vec<Mailbox> = Vec::new();
        for person in self.to.iter().chain(&self.cc).chain(&self.bcc) {
            if !recipients.contains(&person.mailbox) {
                recipients.push(person.mailbox.clone());
            }
            if recipients.len() > terms.recipients_max {
                let text = format!("{to}: at most {} recipients (submission.recipients_max)", terms.recipients_max);
                return Err(Problem::invalid(text).in_our_words().at_field(to));
            }
        }
        if self.to.is_empty() {
            return Err(Problem::missing(to));
        }
        let letter = Letter {
            from: &self.from,
            app: None,
            to: &self.to,
            cc: &self.cc,
            reply_to: &self.reply_to,
            subject: &self.subject,
            text: self.text.as_deref(),
            html: self.html.as_deref(),
            fields: &self.fields,
            attachments: &self.attachments,
            now: terms.now,
        };
        let content = letter.write()?;
        if content.len() > terms.message_size_max {
            let max = terms.message_size_max;
            let text = format!("a message of more than {max} bytes (submission.message_size_max)");
            return Err(Problem::too_large(text).in_our_words().meant_for(recipients.into_iter()));
        }
        let tag = self.tag.as_deref().and_then(tag);
        let options = Options { tag, ..Options::default() };
        let options = self.fields.options.or(options);
        Ok(WrittenMail { from: self.from.mailbox, recipients, options, content })
    }
}

/// A label, with `_` for what a tag cannot hold: labels of other systems are sentences now and then.
fn tag(text: &str) -> Option<Arc<str>> {
    let allowed = |c: char| if options::tag(c.encode_utf8(&mut [0; 4])).is_ok() { c } else { '_' };
    let tag: String = text.trim().chars().take(options::TAG_LEN_MAX).map(allowed).collect();
    options::tag(&tag).ok()
}

/// Texts that are there and not empty: some libraries write every field.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// An attachment, by whatever names its door has for it.
struct Attached {
    name: Option<String>,
    content: String,
    content_type: Option<String>,
    content_id: Option<String>,
}

fn attached(given: &[Attached], what: &str) -> Result<Vec<Attachment>, Problem> {
    let given = given.iter().map(|given| RawAttachment {
        name: given.name.as_deref(),
        base64: &given.content,
        content_type: given.content_type.as_deref(),
        content_id: given.content_id.as_deref(),
    });
    attachments::read(given, what)
}

/// One text or several.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "an address or a list of addresses")]
enum Addresses {
    One(String),
    Several(Vec<String>),
}

/// The people of a field that need not be there.
fn people(addresses: Option<&Addresses>, what: &str) -> Result<Vec<Person>, Problem> {
    match addresses {
        None => Ok(Vec::new()),
        Some(Addresses::One(text)) => Person::list(text, what),
        Some(Addresses::Several(texts)) => {
            let texts = texts.iter().filter(|text| !text.trim().is_empty());
            texts.map(|text| Person::parse(text, what)).collect()
        }
    }
}

impl Api {
    /// A place for a request that holds several mails: it is read as a whole.
    fn batch_seat(&self, who: &Principal) -> Result<Seat, Problem> {
        self.batches.take(who, self.settings.load().sharing, "requests with several mails")
    }
}

/// One mail of a request, read and written where no mail waits for the thread.
async fn written<T>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    write: impl FnOnce(T, Terms) -> Result<WrittenMail, Problem> + Send + 'static,
) -> Result<WrittenMail, Problem>
where
    T: DeserializeOwned + Send + 'static,
{
    let terms = Terms::of(api);
    let (given, len) = body::json_with_len::<T>(headers, body, terms.body_max()).await?;
    body::apart(len, move || write(given, terms)).await
}

/// The mails of a request that is a list, each read by itself.
async fn written_each<T>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    mails_max: usize,
    write: fn(T, Terms) -> Result<WrittenMail, Problem>,
) -> Result<Vec<Result<WrittenMail, Problem>>, Problem>
where
    T: DeserializeOwned + Send + 'static,
{
    let terms = Terms::of(api);
    let (given, len) = body::json_with_len::<Vec<Value>>(headers, body, terms.batch_max()).await?;
    if given.is_empty() || given.len() > mails_max {
        return Err(Problem::invalid(format!("a batch holds 1 to {mails_max} mails")).in_our_words());
    }
    let read = move |value: Value| {
        let given = serde_json::from_value::<T>(value).map_err(|error| Problem::unreadable(&error))?;
        write(given, terms)
    };
    body::apart(len, move || within(terms, given.into_iter().map(read))).await
}

/// Mails that do not hold more in all than a request may.
fn within(
    terms: Terms,
    mails: impl Iterator<Item = Result<WrittenMail, Problem>>,
) -> Result<Vec<Result<WrittenMail, Problem>>, Problem> {
    let mut len = 0;
    let mut all = Vec::new();
    for mail in mails {
        len += mail.as_ref().map_or(0, |mail| mail.content.len());
        if len > 2 * terms.batch_max() {
            return Err(
                Problem::too_large(format!("mails of more than {} bytes", 2 * terms.batch_max())).in_our_words()
            );
        }
        all.push(mail);
    }
    Ok(all)
}

/// Why a request is refused, and which of its mails is at fault.
struct Refused {
    index: Option<usize>,
    problem: Problem,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { index: None, problem }
    }
}

impl Refused {
    /// Naming the mail by its place.
    fn into_problem(self) -> Problem {
        match self.index {
            Some(index) => self.problem.about(&format!("[{index}]")),
            None => self.problem,
        }
    }
}

/// Takes the mails of a request, as whoever may send them.
async fn deliver(
    api: &Api,
    who: &Principal,
    headers: &HeaderMap,
    mails: Vec<Result<WrittenMail, Problem>>,
    together: Together,
) -> Result<Vec<Result<Receipt, Problem>>, Refused> {
    // While the body came, the user may have been removed.
    let who = who.renewed(api)?;
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let traceparent = traceparent.and_then(options::traceparent);
    let mut drafts = Vec::with_capacity(mails.len());
    let mut outcomes: Vec<Option<Problem>> = Vec::with_capacity(mails.len());
    for (index, mail) in mails.into_iter().enumerate() {
        let draft = mail.and_then(|mail| {
            let user = who.sender(api, &ReversePath(Some(mail.from.clone())))?;
            let WrittenMail { from, recipients, mut options, content } = mail;
            options.traceparent = traceparent.clone().or(options.traceparent);
            Ok(Draft { user, from, recipients, options, content })
        });
        match draft {
            Ok(draft) => {
                drafts.push(draft);
                outcomes.push(None);
            }
            Err(problem) if together == Together::AllOrNone => return Err(Refused { index: Some(index), problem }),
            Err(problem) => outcomes.push(Some(problem)),
        }
    }
    let sending = tokio::time::timeout(ANSWER_MAX, api.send_all(&drafts, together));
    let sent = sending.await.map_err(|_| Problem::too_long())?;
    let sent = sent.map_err(|(index, problem)| Refused { index: Some(index), problem })?;
    let mut sent = sent.into_iter();
    let outcome = |refused: Option<Problem>| match refused {
        Some(problem) => Err(problem),
        None => sent.next().unwrap_or_else(|| Err(Problem::too_long())),
    };
    Ok(outcomes.into_iter().map(outcome).collect())
}

async fn deliver_one(api: &Api, who: &Principal, headers: &HeaderMap, mail: WrittenMail) -> Result<Receipt, Problem> {
    let outcomes =
        deliver(api, who, headers, vec![Ok(mail)], Together::EachByItself).await.map_err(Refused::into_problem)?;
    outcomes.into_iter().next().unwrap_or_else(|| Err(Problem::too_long()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_become_tags() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(tag(text).as_deref(), expected, "{text:?}");
        check("signup", Some("signup"));
        check(" Password reset ", Some("Password_reset"));
        check("\u{fc}", Some("_"));
        check("", None);
        check(&"x".repeat(80), Some(&"x".repeat(64)));
    }
}
