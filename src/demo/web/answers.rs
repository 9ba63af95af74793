//! Answers that say no, and reading what is asked.

use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::base::clock::Timestamp;
use crate::mail::address::Mailbox;

/// An answer that says no; in a box, since it travels as an error.
#[derive(Debug)]
pub(super) struct Refused(Box<Response>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// A problem (RFC 9457).
pub(super) fn problem(status: u16, detail: &str) -> Refused {
    problem_with(status, detail, Value::Null)
}

/// A problem with more fields.
pub(super) fn problem_with(status: u16, detail: &str, more: Value) -> Refused {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = status.canonical_reason().unwrap_or_default();
    let mut body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Refused(Box::new(response))
}

/// There is no such mail.
pub(super) fn unknown_mail() -> Refused {
    problem(404, "no mail with this id; the newest 5000 are kept")
}

/// A response that carries text of some kind, which a browser must not take for another.
pub(super) fn typed(content_type: &'static str, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a query string says, or the answer that names its fault.
pub(super) fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refused> {
    query.map(|Query(asked)| asked).map_err(|error| problem(422, &error.body_text()))
}

pub(super) fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| problem(422, &format!("the body: {error}")))
}

/// The address in a query, as mails are sorted by.
pub(super) fn recipient(text: Option<&str>) -> Result<String, Refused> {
    let text = text.ok_or_else(|| problem(422, "to: whose mail? for example ?to=alice@example.test"))?;
    // In a query a plus means a blank; people who write one mean a plus.
    let mailbox = Mailbox::parse(&text.trim().replace(' ', "+"));
    mailbox.map(|mailbox| mailbox.plain_key()).map_err(|error| problem(422, &format!("to: {error}")))
}

/// RFC 3339 with any offset and any number of digits behind the second, or seconds or milliseconds since 1970.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        // So many seconds would be the year 5138, so many milliseconds 1973.
        let millis = if number < 1e11 { number * 1000.0 } else { number };
        return (0.0..1e15).contains(&millis).then(|| Timestamp::from_millis(millis as u64));
    }
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let digits = rest.strip_prefix('.').map_or("", |rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        &rest[..end]
    });
    let zone = &rest[digits.len() + usize::from(rest.starts_with('.'))..];
    let millis: String = digits.chars().chain("000".chars()).take(3).collect();
    let at = Timestamp::from_rfc3339(&format!("{date}T{clock}.{millis}Z"))?;
    if matches!(zone, "Z" | "z") {
        return Some(at);
    }
    // A plus in a query may have become a blank.
    let is_east = zone.starts_with(['+', ' ']);
    let (hours, minutes) = zone.strip_prefix(['+', ' ', '-'])?.split_once(':')?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset = std::time::Duration::from_secs(hours.min(24) * 3600 + minutes.min(59) * 60);
    Some(if is_east { at.minus(offset) } else { at.plus(offset) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_forms_that_languages_write() {
        let expected = Timestamp::from_millis(1_795_255_200_042);
        for text in [
            "2026-11-21T10:00:00.042Z",
            "2026-11-21T10:00:00.042123+00:00",
            "2026-11-21T10:00:00.042 00:00",
            "2026-11-21T12:30:00.0429+02:30",
            "2026-11-21 05:00:00.042-05:00",
            "1795255200.042",
            "1795255200042",
        ] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
        assert_eq!(time("2026-11-21T10:00:00Z"), Some(Timestamp::from_millis(1_795_255_200_000)));
        for text in ["", "yesterday", "2026-11-21", "2026-11-21T10:00:00", "-5", "2026-13-21T10:00:00Z", "mail00000001"]
        {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
