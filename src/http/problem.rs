//! What went wrong, as problem details (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::base::text::one_line;
use crate::intake::refusal::Refusal;
use crate::mail::address::Mailbox;
use crate::report::reasons::Reason;

/// When to come back to a queue that is full, or a relay that restarts.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// An error answer.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    /// The last part of `type`; stable.
    name: &'static str,
    title: &'static str,
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
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// A detail that is written in the source holds nothing of a request; of any other the log has the title, unless
    /// [`Problem::in_our_words`] says so.
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        let text = if let Cow::Borrowed(_) = detail { detail.clone() } else { Cow::Borrowed(title) };
        let why = Why { reason: Reason::of_status(status.as_u16()), text, recipient: None, more_recipients: 0 };
        Self { status, name, title, detail: one_line(&detail), retry_after: None, why: Box::new(why) }
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

    /// 400: not what HTTP asks of a request.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "No proper request", detail)
    }

    /// 401.
    pub(super) fn unauthorized() -> Self {
        let detail = "send the header \"Authorization: Bearer TOKEN\" with a user's token or the operator's";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail)
    }

    /// 403.
    pub(super) fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// 404, also for what belongs to somebody else.
    pub(super) fn unknown_message() -> Self {
        let detail = "no message with this id; traces are kept for queue.trace_retention";
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 404.
    pub(super) fn not_suppressed() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", "this address is not suppressed")
    }

    /// 404 for a path.
    pub(super) fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", "there is nothing at this path")
    }

    /// 405.
    pub(super) fn method() -> Self {
        let detail = "this path exists, and does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// 408.
    pub(super) fn too_slow() -> Self {
        let detail = "the request's body did not come in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Too slow", detail)
    }

    /// 413.
    pub(super) fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }

    /// 415 for a body that is packed in another way than gzip.
    pub(super) fn unsupported_coding() -> Self {
        let detail = "Content-Encoding: gzip or none; the body is packed in another way";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding", "Unknown content coding", detail)
    }

    /// 421.
    pub(super) fn unknown_host() -> Self {
        let detail = "the relay does not know itself by the name in Host; add it to hosts in [http], or send a token";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", "Not for this host", detail)
    }

    /// 422.
    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request cannot be used as it is", detail)
    }

    /// 422 for a body that is not what it should be. What the error quotes of it is left out: it may be a code, and such
    /// answers get into the apps' logs.
    pub(super) fn unreadable(error: &serde_json::Error) -> Self {
        Self::invalid(format!("the body: {}", without_values(&error.to_string())))
    }

    /// 429, where not the mail but the API has a bound.
    pub(super) fn too_many(detail: impl Into<Cow<'static, str>>) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many at once", detail);
        problem.retry_after(BUSY_PAUSE)
    }

    /// 429, where a user has as much of something as it may have beside others.
    pub(super) fn share(detail: impl Into<Cow<'static, str>>) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "share", "This user's share is in use", detail);
        problem.because(Reason::Share).retry_after(BUSY_PAUSE)
    }

    /// 429 for entries that a user had tried again a moment ago.
    pub(super) fn retried_lately(wait: Duration) -> Self {
        let detail = "a user has an entry tried again once a minute at most";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate", "Faster than allowed", detail);
        problem.retry_after(wait)
    }

    /// 503 for a reason that passes.
    fn unavailable(name: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, name, "Not now", detail);
        problem.retry_after(BUSY_PAUSE)
    }

    /// 503 while the relay stops.
    pub(super) fn draining() -> Self {
        Self::unavailable("shutting-down", "the relay shuts down; try again in a moment").because(Reason::ShuttingDown)
    }

    /// 503 while nothing can be stored.
    pub(super) fn cannot_store(fault: &str) -> Self {
        Self::unavailable("full", format!("new mail cannot be stored, nothing accepted is lost: {fault}"))
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
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.reply().text.into_owned();
        let problem = match &refusal {
            Refusal::Sender { .. } => Self::forbidden(detail),
            Refusal::IdempotencyConflict => {
                Self::new(StatusCode::CONFLICT, "idempotency-conflict", "The key was used for another message", detail)
            }
            Refusal::Budget { .. } | Refusal::TotalBudget => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "budget", "Enough for this recipient for now", detail)
            }
            Refusal::Share(_) => Self::share(detail),
            Refusal::Rate { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, "rate", "Faster than allowed", detail),
            Refusal::Suppressed { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "suppressed", "This recipient is suppressed", detail)
            }
            Refusal::NoSuchDomain
            | Refusal::NullMx
            | Refusal::NoMailHost
            | Refusal::PrivateHosts
            | Refusal::AddressLiteral
            | Refusal::Routed
            | Refusal::NotInOnlyTo => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "recipient", "Mail cannot go to this recipient", detail)
            }
            Refusal::Message(_) | Refusal::LongLine { .. } | Refusal::Option(_) | Refusal::Loop => {
                Self::invalid(detail)
            }
            Refusal::QueueFull { .. } | Refusal::DiskFull => {
                Self::unavailable("full", format!("{detail}; nothing accepted is lost"))
            }
            Refusal::Internal => Self::unavailable("internal", "the message could not be stored or signed"),
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
        let json = ProblemJson {
            r#type: format!("urn:otp-relay:{}", self.name),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_string(&json).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(*self.why);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // RFC 9110 section 15.5.16.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
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
