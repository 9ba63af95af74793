//! One small HTTP/1.1 client for all that the relay asks over the web: policies, webhooks, the CA, and a command its relay.
//! It bounds what it reads; the caller bounds the time. It follows no redirect.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

use super::{BoxStream, Network, Stream};

/// How the relay names itself to web servers.
pub(crate) const USER_AGENT: &str = concat!("otp-relay/", env!("CARGO_PKG_VERSION"));
/// Addresses of a host that are tried, one after the other.
const ADDRESSES_MAX: usize = 4;
/// Octets of an answer's head.
const HEAD_LEN_MAX: usize = 16 << 10;

/// Connects to the first address that answers.
///
/// # Errors
/// The failure at the last address that was tried; `NotFound` where there is none.
pub(crate) async fn connect(
    network: &dyn Network,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> io::Result<BoxStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        match network.connect(address, None).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

/// TLS over a connection, with a certificate that `tls` accepts for a name or an address, in brackets or without.
pub(crate) async fn encrypt<S: Stream>(tls: &TlsConnector, host: &str, stream: S) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    tls.connect(name, stream).await
}

/// A connection that takes one request after the other. It is closed when this is dropped, whatever is under way.
pub(crate) struct Session {
    requests: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

impl Session {
    /// Begins.
    ///
    /// # Errors
    /// None with HTTP/1.1, which begins with a request.
    pub(crate) async fn new(stream: impl Stream + 'static) -> hyper::Result<Self> {
        let (requests, connection) = Builder::new().max_buf_size(HEAD_LEN_MAX).handshake(TokioIo::new(stream)).await?;
        Ok(Self { requests, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// Sends a request and waits for the head of its answer, whose body comes while the session lasts.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.requests.send_request(request).await
    }

    /// Whether it takes another request, once the body of the last answer was read.
    pub(crate) async fn is_ready(&mut self) -> bool {
        self.requests.ready().await.is_ok()
    }

    /// Whether the other side has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// All of an answer's body.
///
/// # Errors
/// It is longer than this, in octets, or breaks off.
pub(crate) async fn body(body: Incoming, len_max: usize) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    Limited::new(body, len_max).collect().await.map(Collected::to_bytes)
}
