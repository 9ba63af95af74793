//! One post over HTTP/1.1: bounded in time and size, to the address that the configuration names and to no other. A redirect
//! is not followed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use parking_lot::Mutex;
use tokio_rustls::TlsConnector;

use super::endpoint::{Endpoint, Format, Target};
use super::signature;
use crate::base::clock::Timestamp;
use crate::net::TcpNetwork;
use crate::net::http::{self, Session};
use crate::tls::wording;

/// How long one try may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// Octets of the answer's body.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PostResult {
    /// The status of the answer, or why there is none.
    pub(super) answer: Result<u16, String>,
    /// The pause that the endpoint asks for.
    pub(super) retry_after: Option<Duration>,
}

impl PostResult {
    /// Whether the endpoint has it.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.answer, Ok(200..=299))
    }

    /// Whether the endpoint is gone for good.
    pub(super) fn is_gone(&self) -> bool {
        self.answer == Ok(StatusCode::GONE.as_u16())
    }

    /// In a few words.
    pub(super) fn text(&self) -> String {
        match &self.answer {
            Ok(300..=399) => format!("{}, a redirect, which is not followed", self.answer.as_ref().unwrap_or(&0)),
            Ok(status) => status.to_string(),
            Err(error) => error.clone(),
        }
    }
}

/// What is posted.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// `webhook-id`.
    pub(super) id: String,
    /// What it says.
    pub(super) body: Bytes,
}

/// Posts to one endpoint, over sessions that are kept.
pub(super) struct Sender {
    tls: TlsConnector,
    idle: Mutex<Vec<Session>>,
}

impl Sender {
    /// With no session yet.
    pub(super) fn new(tls: TlsConnector) -> Arc<Self> {
        Arc::new(Self { tls, idle: Mutex::default() })
    }

    /// Makes one try at this time of the wall clock.
    pub(super) async fn post(&self, endpoint: &Endpoint, post: &Post, now: Timestamp) -> PostResult {
        let trying = async {
            let idle = self.idle.lock().pop();
            // One that was idle may have been closed by the other side; nobody has taken the post then.
            if let Some(session) = idle.filter(|session| !session.is_closed())
                && let Ok(tried) = self.ask(session, endpoint, post, now).await
            {
                return Ok(tried);
            }
            let session = self.connect(&endpoint.target).await?;
            self.ask(session, endpoint, post, now).await
        };
        let failed = |text: String| PostResult { answer: Err(text), retry_after: None };
        match tokio::time::timeout(TIMEOUT, trying).await {
            Ok(tried) => tried.unwrap_or_else(failed),
            Err(_) => failed("no answer in 15 s".to_owned()),
        }
    }

    async fn ask(
        &self,
        mut session: Session,
        endpoint: &Endpoint,
        post: &Post,
        now: Timestamp,
    ) -> Result<PostResult, String> {
        let signature = signature::sign(&endpoint.secrets, &post.id, now.as_secs(), &post.body);
        let (seconds, target) = (now.as_secs().to_string(), &endpoint.target);
        let mut request = Request::post(&*target.path)
            .header(HOST, &target.authority)
            .header(USER_AGENT, http::USER_AGENT)
            .header(CONTENT_TYPE, "application/json");
        let names: &[&str] = match endpoint.format {
            Format::Events => &["webhook"],
            Format::Emails => &["webhook", "svix"],
        };
        for name in names {
            request = request
                .header(format!("{name}-id"), &post.id)
                .header(format!("{name}-timestamp"), &seconds)
                .header(format!("{name}-signature"), &signature);
        }
        let request = request.body(Full::new(post.body.clone())).map_err(|error| error.to_string())?;
        let response = session.ask(request).await.map_err(|error| error.to_string())?;
        let tried =
            PostResult { answer: Ok(response.status().as_u16()), retry_after: retry_after(response.headers(), now) };
        // What the answer says is of no use, but the session is, once it was read.
        if http::body(response.into_body(), ANSWER_LEN_MAX).await.is_ok() && session.is_ready().await {
            self.idle.lock().push(session);
        }
        Ok(tried)
    }

    async fn connect(&self, target: &Target) -> Result<Session, String> {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        let addresses = found.map_err(|error| format!("{} has no address: {error}", target.host))?;
        let stream = http::connect(&TcpNetwork, addresses).await.map_err(|error| error.to_string())?;
        let session = if target.is_tls {
            let stream = http::encrypt(&self.tls, &target.host, stream).await;
            Session::new(stream.map_err(|error| wording::of_stream(&error))?).await
        } else {
            Session::new(stream).await
        };
        session.map_err(|error| error.to_string())
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = mail_parser::DateTime::parse_rfc822(text)?;
    let seconds = u64::try_from(date.to_timestamp()).ok()?;
    Some(Timestamp::from_millis(seconds.saturating_mul(1000)).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_in_seconds_or_a_date() {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let check = |text: &str, expected: Option<u64>| {
            let headers = [(RETRY_AFTER, text.parse().unwrap())].into_iter().collect();
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check("Sat, 21 Nov 2026 10:05:00 GMT", Some(300));
        check("Sat, 21 Nov 2026 09:00:00 GMT", Some(0));
        check("soon", None);
    }
}
