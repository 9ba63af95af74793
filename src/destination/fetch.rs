//! Fetching an MTA-STS policy: one GET over HTTPS (RFC 8461 section 3.3), bounded in time and size, that follows no
//! redirect and goes to no private address.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::mta_sts::POLICY_LEN_MAX;
use super::public::is_public;
use super::resolver::Dns;
use crate::net::{BoxStream, Network};
use crate::tls::wording;

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of a web server that are tried.
const ADDRESSES_MAX: usize = 4;
/// Octets of the answer's head.
const HEAD_LEN_MAX: usize = 16 << 10;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It took too long.
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

/// A policy being fetched.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send + 'a>>;

/// What fetches policies.
pub trait Fetch: Send + Sync {
    /// The text at `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`.
    fn fetch<'a>(&'a self, domain: &'a str) -> Fetching<'a>;
}

/// Fetches from web servers.
pub struct HttpsFetch {
    /// Who knows their addresses.
    pub dns: Arc<dyn Dns>,
    /// How they are connected to.
    pub network: Arc<dyn Network>,
    /// Whose certificates are good.
    pub tls: TlsConnector,
    /// 443.
    pub port: u16,
    /// Whether they may be at private and loopback addresses.
    pub allow_private: bool,
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
        let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::NoAddress(host.clone()))?;
        let stream = self.connect(&host).await?;
        let stream =
            self.tls.connect(name, stream).await.map_err(|error| FetchError::Connection(wording::of_stream(&error)))?;
        let answer = |error: hyper::Error| FetchError::Answer(error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(answer)?;
        let request = Request::get("/.well-known/mta-sts.txt")
            .header(HOST, HeaderValue::from_str(&host).map_err(|error| FetchError::Answer(error.to_string()))?)
            .header(USER_AGENT, concat!("otp-relay/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| FetchError::Answer(error.to_string()))?;
        let mut asking = pin!(async { text(sender.send_request(request).await.map_err(answer)?).await });
        tokio::select! {
            biased;
            found = &mut asking => found,
            // Polled beside, never spawned. What came before it ended, or why it ended, is with the request.
            _ = connection => asking.await,
        }
    }

    async fn connect(&self, host: &str) -> Result<BoxStream, FetchError> {
        let (ipv4, ipv6) = tokio::join!(self.dns.ipv4(host), self.dns.ipv6(host));
        let mut addresses = Vec::new();
        for found in [ipv4, ipv6].into_iter().flatten() {
            addresses.extend(found.records);
        }
        if addresses.is_empty() {
            return Err(FetchError::NoAddress(host.to_owned()));
        }
        addresses.retain(|address| self.allow_private || is_public(*address));
        let mut last = FetchError::Private(host.to_owned());
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match self.network.connect(SocketAddr::new(address, self.port), None).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = FetchError::Connection(error.to_string()),
            }
        }
        Err(last)
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
    let body = Limited::new(response.into_body(), POLICY_LEN_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| FetchError::Answer(error.to_string()))
}
