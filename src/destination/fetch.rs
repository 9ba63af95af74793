//! Fetching an MTA-STS policy: one GET over HTTPS (RFC 8461 section 3.3), bounded in time and size, that follows no
//! redirect and goes to no private address.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use tokio_rustls::TlsConnector;

use super::mta_sts::POLICY_LEN_MAX;
use super::public::is_public;
use super::resolver::Dns;
use crate::net::{BoxStream, Network, http};
use crate::tls::wording;

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("no answer in time")]
    Timeout,
    /// The web server has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// Only such as are not asked.
    #[error("{0} has a private address")]
    Private(String),
    /// No connection, or its certificate is not good.
    #[error("{0}")]
    Connection(String),
    /// No 200.
    #[error("the web server answers {0}")]
    Status(StatusCode),
    /// Something else than `text/plain`.
    #[error("the web server sends something else than text/plain")]
    Type,
    /// What is no HTTP, or too long.
    #[error("{0}")]
    Answer(String),
}

pub(crate) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send + 'a>>;

pub(crate) trait Fetch: Send + Sync {
    /// The text at `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`.
    fn fetch<'a>(&'a self, domain: &'a str) -> Fetching<'a>;
}

/// Fetches from web servers.
pub(crate) struct HttpsFetch {
    pub dns: Arc<dyn Dns>,
    /// How they are connected to.
    pub network: Arc<dyn Network>,
    pub tls: TlsConnector,
    /// 443.
    pub port: u16,
    /// Whether they may be at private and loopback addresses.
    pub(crate) allow_private: bool,
}

impl Fetch for HttpsFetch {
    fn fetch<'a>(&'a self, domain: &'a str) -> Fetching<'a> {
        Box::pin(async move {
            let fetching = self.get(format!("mta-sts.{domain}"));
            tokio::time::timeout(TIMEOUT, fetching).await.unwrap_or(Err(FetchError::Timeout))
        })
    }
}

impl HttpsFetch {
    async fn get(&self, host: String) -> Result<Bytes, FetchError> {
        let failed = |error: &io::Error| FetchError::Connection(wording::of_stream(error));
        let stream = self.connect(&host).await?;
        let stream = http::encrypt(&self.tls, &host, stream).await.map_err(|error| failed(&error))?;
        let request = Request::get("/.well-known/mta-sts.txt").header(HOST, host).header(USER_AGENT, http::USER_AGENT);
        let request = request.body(Full::default()).map_err(|error| FetchError::Answer(error.to_string()))?;
        let answer = |error: hyper::Error| FetchError::Answer(error.to_string());
        let mut session = http::Session::new(stream).await.map_err(answer)?;
        text(session.ask(request).await.map_err(answer)?).await
    }

    async fn connect(&self, host: &str) -> Result<BoxStream, FetchError> {
        let (ipv4, ipv6) = tokio::join!(self.dns.ipv4(host), self.dns.ipv6(host));
        let mut addresses: Vec<IpAddr> = [ipv4, ipv6].into_iter().flatten().flat_map(|found| found.records).collect();
        if addresses.is_empty() {
            return Err(FetchError::NoAddress(host.to_owned()));
        }
        addresses.retain(|address| self.allow_private || is_public(*address));
        if addresses.is_empty() {
            return Err(FetchError::Private(host.to_owned()));
        }
        let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, self.port));
        let connected = http::connect(&*self.network, addresses).await;
        connected.map_err(|error| FetchError::Connection(error.to_string()))
    }
}

/// The body of a good answer. A redirect is none (section 3.3).
async fn text(response: Response<hyper::body::Incoming>) -> Result<Bytes, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain") {
        return Err(FetchError::Type);
    }
    let body = http::body(response.into_body(), POLICY_LEN_MAX).await;
    body.map_err(|error| FetchError::Answer(error.to_string()))
}
