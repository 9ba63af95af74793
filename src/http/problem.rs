//! What went wrong, as problem details (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::text::one_line;
use crate::intake::refusal::Refusal;
use crate::mail::address::Mailbox;
use crate::report::reasons::Reason;

/// When to come back to a queue that is full, or a relay that restarts.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// What kind of error it is. Each shape of answers spells it in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not what HTTP asks of a request.
    BadRequest,
    NoToken,
    /// A token, or something in its place, that is not valid.
    WrongToken,
    /// Not for this user.
    Forbidden,
    /// No such thing, or somebody else's.
    NotFound,
    /// A method that the path does not have.
    Method,
    /// A body that did not come in time.
    Slow,
    TooLarge,
    /// A body packed in another way than gzip.
    Coding,
    /// Asked by a name that is not the relay's.
    UnknownHost,
    /// Not usable as it is.
    Invalid,
    /// Something that has to be there is missing.
    Missing,
    /// The recipient is suppressed.
    Suppressed,
    /// The recipient's domain takes no mail.
    Recipient,
    /// The idempotency key was used for other content.
    Conflict,
    /// A message with the same idempotency key is being accepted.
    InWork,
    /// A bound of the API.
    TooMany,
    /// A user's share of something.
    Share,
    /// The recipient has had its messages.
    Budget,
    Rate,
    /// No place for new mail.
    Full,
    /// The relay stops.
    ShuttingDown,
    /// Something failed here.
    Internal,
}

impl Kind {
    /// The HTTP status, the last part of `type`, which is stable, and the title.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "No proper request"),
            Self::NoToken | Self::WrongToken => (StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "request-timeout", "Too slow"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            Self::Coding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding", "Unknown content coding"),
            Self::UnknownHost => (StatusCode::MISDIRECTED_REQUEST, "unknown-host", "Not for this host"),
            Self::Invalid | Self::Missing => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request cannot be used as it is")
            }
            Self::Suppressed => (StatusCode::UNPROCESSABLE_ENTITY, "suppressed", "This recipient is suppressed"),
            Self::Recipient => (StatusCode::UNPROCESSABLE_ENTITY, "recipient", "Mail cannot go to this recipient"),
            Self::Conflict => (StatusCode::CONFLICT, "idempotency-conflict", "The key was used for another message"),
            Self::InWork => (StatusCode::CONFLICT, "idempotency-in-work", "A message with this key is being accepted"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many at once"),
            Self::Share => (StatusCode::TOO_MANY_REQUESTS, "share", "This user's share is in use"),
            Self::Budget => (StatusCode::TOO_MANY_REQUESTS, "budget", "Enough for this recipient for now"),
            Self::Rate => (StatusCode::TOO_MANY_REQUESTS, "rate", "Faster than allowed"),
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, "full", "Not now"),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "Not now"),
            Self::Internal => (StatusCode::SERVICE_UNAVAILABLE, "internal", "Not now"),
        }
    }

    /// As problem details have it.
    pub(super) fn status(self) -> StatusCode {
        self.parts().0
    }
}

/// What is told of a limit that was reached: how much there is, and in how many seconds there is some again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LimitUse {
    limit: u32,
    reset: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    retry_after: Option<Duration>,
    /// In a box, since problems travel as errors.
    why: Box<Why>,
}

/// What the log says of an error answer, which carries it: nothing of the request.
#[derive(Debug, Clone)]
pub(super) struct Why {
    pub(super) reason: Reason,
    /// Our own words.
    pub(super) text: Cow<'static, str>,
    /// Which recipient it is about.
    pub(super) recipient: Option<Mailbox>,
    /// How many more the message has.
    pub(super) more_recipients: usize,
    /// The field of the request that it is about.
    field: Option<String>,
    used: Option<LimitUse>,
}

/// What most paths answer.
pub(super) type JsonResult<T> = Result<Json<T>, Problem>;

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemJson {
    /// `urn:otp-relay:` and a name that is stable.
    r#type: String,
    /// What kind of error it is, for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What to do.
    detail: String,
}

impl Problem {
    /// A detail that is written in the source holds nothing of a request; of any other the log has the title, unless
    /// [`Problem::in_our_words`] says so.
    fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        let (status, _, title) = kind.parts();
        let text = if let Cow::Borrowed(_) = detail { detail.clone() } else { Cow::Borrowed(title) };
        let reason = Reason::of_status(status.as_u16());
        let why = Why { reason, text, recipient: None, more_recipients: 0, field: None, used: None };
        Self { kind, detail: one_line(&detail).into_owned(), retry_after: None, why: Box::new(why) }
    }

    /// What kind of error it is.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn why(&self) -> &Why {
        &self.why
    }

    /// The field of the request that it is about.
    pub(super) fn field(&self) -> Option<&str> {
        self.why.field.as_deref()
    }

    /// The detail is made of our own words and of the configuration, so that the log may have it.
    pub(super) fn in_our_words(mut self) -> Self {
        self.why.text = self.detail.clone().into();
        self
    }

    fn because(mut self, reason: Reason) -> Self {
        self.why.reason = reason;
        self
    }

    /// About this field of the request.
    pub(super) fn at_field(mut self, field: impl Into<String>) -> Self {
        self.why.field = Some(field.into());
        self
    }

    /// 400: not what HTTP asks of a request.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadRequest, detail)
    }

    pub(super) fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Forbidden, detail)
    }

    pub(super) fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::TooLarge, detail)
    }

    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    /// 422 for a field that has to be there.
    pub(super) fn missing(field: &str) -> Self {
        Self::new(Kind::Missing, format!("{field}: is missing")).in_our_words().at_field(field)
    }

    /// 422 for a body that is not what it should be. What the error quotes of it is left out: it may be a code, and such
    /// answers get into the apps' logs.
    pub(super) fn unreadable(error: &serde_json::Error) -> Self {
        Self::invalid(format!("the body: {}", without_values(&error.to_string())))
    }

    /// 429, where not the mail but the API has a bound.
    pub(super) fn too_many(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::TooMany, detail).retry_after(BUSY_PAUSE)
    }

    /// 429, where a user has as much of something as it may have beside others.
    pub(super) fn share(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Share, detail).because(Reason::Share).retry_after(BUSY_PAUSE)
    }

    /// 429 for entries that a user had tried again a moment ago.
    pub(super) fn retried_lately(wait: Duration) -> Self {
        Self::new(Kind::Rate, "a user has an entry tried again once a minute at most").retry_after(wait)
    }

    /// 429, where a recipient has had enough for so long.
    pub(super) fn enough(detail: &'static str, wait: Duration) -> Self {
        Self::new(Kind::Budget, detail).retry_after(wait)
    }

    /// 503 for a reason that passes.
    fn unavailable(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(kind, detail).retry_after(BUSY_PAUSE)
    }

    /// 503 while the relay stops.
    pub(super) fn draining() -> Self {
        let detail = "the relay shuts down; try again in a moment";
        Self::unavailable(Kind::ShuttingDown, detail).because(Reason::ShuttingDown)
    }

    /// 503 where storing takes longer than the answer may.
    pub(super) fn too_long() -> Self {
        let detail = "the message could not be stored in time; nothing of it is sent";
        Self::unavailable(Kind::Full, detail).because(Reason::Unavailable)
    }

    /// 503 while nothing can be stored.
    pub(super) fn cannot_store(fault: &str) -> Self {
        Self::unavailable(Kind::Full, format!("new mail cannot be stored, nothing accepted is lost: {fault}"))
            .in_our_words()
            .because(Reason::DiskFull)
    }

    /// The same, about one of several things.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }

    /// The same, about one of several recipients.
    pub(super) fn about_recipient(self, recipient: &Mailbox) -> Self {
        let mut problem = self.about(recipient.as_str());
        problem.why.recipient = Some(recipient.clone());
        problem
    }

    /// For the log: about a message to these, if it is about nobody else.
    pub(super) fn meant_for(mut self, mut recipients: impl ExactSizeIterator<Item = Mailbox>) -> Self {
        if self.why.recipient.is_none() {
            self.why.recipient = recipients.next();
            self.why.more_recipients = recipients.len();
        }
        self
    }

    fn retry_after(self, pause: Duration) -> Self {
        Self { retry_after: Some(pause), ..self }
    }

    fn used(mut self, limit: u32, reset: Duration) -> Self {
        self.why.used = Some(LimitUse { limit, reset });
        self
    }

    /// The header fields that go with it in every shape of answers.
    pub(super) fn add_fields(&self, headers: &mut HeaderMap) {
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(LimitUse { limit, reset }) = self.why.used {
            headers.insert("ratelimit-limit", HeaderValue::from(limit));
            headers.insert("ratelimit-remaining", HeaderValue::from(0));
            headers.insert("ratelimit-reset", HeaderValue::from(whole_seconds(reset)));
        }
        match self.kind.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // RFC 9110 section 15.5.16.
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            }
            _ => {}
        }
    }
}

macro_rules! with_fixed_details {
    ($($(#[$doc:meta])* $name:ident: $kind:ident $detail:literal;)+) => {
        impl Problem {
            $($(#[$doc])* pub(super) fn $name() -> Self {
                Self::new(Kind::$kind, $detail)
            })+
        }
    };
}

with_fixed_details! {
    no_token: NoToken "send the header \"Authorization: Bearer TOKEN\" with a user's token or the operator's";
    wrong_token: WrongToken
        "this token is not valid; send the header \"Authorization: Bearer TOKEN\" with a user's token or the operator's";
    /// For a call of a hook.
    no_proof: WrongToken "the signature or the value that proves this call is missing, wrong or too old";
    /// Also for what belongs to somebody else.
    unknown_message: NotFound "no message with this id; traces are kept for queue.trace_retention";
    /// Also for what belongs to somebody else.
    unknown_verification: NotFound "no verification with this id; one is kept for a day once it is final";
    not_suppressed: NotFound "this address is not suppressed";
    unknown_path: NotFound "there is nothing at this path";
    method: Method "this path exists, and does not take this method";
    too_slow: Slow "the request's body did not come in time";
    unsupported_coding: Coding "Content-Encoding: gzip or none; the body is packed in another way";
    unknown_host: UnknownHost
        "the relay does not know itself by the name in Host; add it to hosts in [http], or send a token";
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.reply().text.into_owned();
        let problem = match &refusal {
            Refusal::Sender { .. } => Self::forbidden(detail),
            Refusal::IdempotencyConflict => Self::new(Kind::Conflict, detail),
            Refusal::InWork => Self::new(Kind::InWork, detail),
            Refusal::Budget { count, wait, .. } => Self::new(Kind::Budget, detail).used(*count, *wait),
            // It tells no count.
            Refusal::TotalBudget => Self::new(Kind::Budget, detail).used(0, refusal.retry_after().unwrap_or_default()),
            Refusal::Share(_) => Self::share(detail),
            Refusal::Rate { count, wait } => Self::new(Kind::Rate, detail).used(*count, *wait),
            Refusal::Suppressed { .. } => Self::new(Kind::Suppressed, detail),
            Refusal::NoSuchDomain
            | Refusal::NullMx
            | Refusal::NoMailHost
            | Refusal::PrivateHosts
            | Refusal::AddressLiteral
            | Refusal::Routed
            | Refusal::NotInOnlyTo => Self::new(Kind::Recipient, detail),
            Refusal::Message(_) | Refusal::LongLine { .. } | Refusal::Option(_) | Refusal::Loop => {
                Self::invalid(detail)
            }
            Refusal::QueueFull { .. } | Refusal::DiskFull => {
                Self::unavailable(Kind::Full, format!("{detail}; nothing accepted is lost"))
            }
            Refusal::Internal => Self::unavailable(Kind::Internal, "the message could not be stored or signed"),
            Refusal::ShuttingDown => Self::draining(),
        };
        let problem = problem.in_our_words().because(Reason::of_refusal(&refusal));
        match refusal.retry_after() {
            Some(wait) => problem.retry_after(wait),
            None => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, name, title) = self.kind.parts();
        let json = ProblemJson {
            r#type: format!("urn:otp-relay:{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail.clone(),
        };
        let body = serde_json::to_string(&json).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.add_fields(headers);
        response.extensions_mut().insert(self);
        response
    }
}

/// What serde says of JSON without the value that it found, unless that is the name of a field.
fn without_values(error: &str) -> String {
    let (Some(start), Some(end)) = (error.find(['"', '`']), error.rfind(", expected ")) else {
        return error.to_owned();
    };
    if start >= end {
        return error.to_owned();
    }
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_field = error.starts_with("unknown field ") && error[start..end].trim_matches('`').chars().all(is_name);
    if is_field { error.to_owned() } else { format!("{}***{}", &error[..start], &error[end..]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::NewMessage;

    #[test]
    fn values_are_not_quoted() {
        let check = |field: &str, expected: &str| {
            let json = format!("{{\"from\":\"a@b.example\",\"to\":\"c@d.example\",{field}}}");
            let error = serde_json::from_str::<NewMessage>(&json).err().unwrap();
            let detail = Problem::unreadable(&error).detail;
            assert!(detail.starts_with(&format!("the body: {expected}")), "{detail}");
            assert!(!detail.contains("481516") && !detail.contains("XKCDQ"), "{detail}");
        };
        check("\"otp\":\"481516\"", "invalid type: string ***, expected struct Otp at line 1 column");
        check("\"otp\":\"\\\", expected `481516\"", "invalid type: string ***, expected struct Otp");
        check("\"subject\":481516", "invalid type: integer ***, expected a string");
        check("\"wait\":\"481516\"", "unknown variant ***, expected `delivered`");
        check("\"481516\":1", "unknown field ***, expected one of `from`");
        check("\"XKCDQ\":1", "unknown field ***, expected one of `from`");
        check("\"sbject\":1", "unknown field `sbject`, expected one of `from`");
        check("\"subject\":\"481516", "EOF while parsing a string");
    }
}
