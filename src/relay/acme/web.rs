//! HTTPS to the CA, with the relay's own look-ups and roots.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::destination::resolver::Dns;
use crate::net::{BoxStream, Network};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Octets of an answer, and of its head.
const ANSWER_LEN_MAX: usize = 1 << 20;
const HEAD_LEN_MAX: usize = 16 << 10;
/// Addresses of a CA that are tried.
const ADDRESSES_MAX: usize = 4;
const HTTPS: u16 = 443;

/// What makes requests.
#[derive(Clone)]
pub(super) struct Web {
    pub(super) dns: Arc<dyn Dns>,
    pub(super) network: Arc<dyn Network>,
    pub(super) tls: TlsConnector,
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let web = self.clone();
        Box::pin(async move {
            let answered = tokio::time::timeout(TIMEOUT, web.ask(request)).await;
            answered.unwrap_or_else(|_| Err(Error::Other("the CA does not answer".into()))).map(BytesResponse::from)
        })
    }
}

impl Web {
    /// The JSON at an address.
    pub(super) async fn get(&self, url: &str) -> Result<serde_json::Value, Error> {
        let request = Request::get(url).body(BodyWrapper::default())?;
        let answered = tokio::time::timeout(TIMEOUT, self.ask(request)).await;
        let response = answered.unwrap_or_else(|_| Err(Error::Other("the CA does not answer".into())))?;
        let body = response.into_body().collect().await.map_err(other)?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }

    async fn ask(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Error> {
        let uri = request.uri().clone();
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or(Error::Str("no https address"))?;
        let authority = uri.authority().ok_or(Error::Str("no host in an address"))?.as_str();
        request.headers_mut().insert(header::HOST, authority.parse().map_err(other)?);
        // To a server itself only the path is named.
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        *request.uri_mut() = path.parse()?;
        let stream = self.connect(host, uri.port_u16().unwrap_or(HTTPS)).await?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(other)?;
        let stream = self.tls.connect(name, stream).await.map_err(other)?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(other)?;
        let asking = async {
            let (parts, body) = sender.send_request(request).await.map_err(other)?.into_parts();
            let body = Limited::new(body, ANSWER_LEN_MAX).collect().await.map_err(Error::Other)?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
        };
        let mut asking = std::pin::pin!(asking);
        tokio::select! {
            biased;
            answer = &mut asking => answer,
            // What came before it ended, or why it ended, is with the request.
            _ = connection => asking.await,
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<BoxStream, Error> {
        let mut last = Error::Other(format!("DNS has no address for {host}").into());
        for address in self.addresses(host).await.into_iter().take(ADDRESSES_MAX) {
            match self.network.connect(SocketAddr::new(address, port), None).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Error::Other(format!("{host} [{address}]: {error}").into()),
            }
        }
        Err(last)
    }

    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return vec![address];
        }
        let (ipv4, ipv6) = tokio::join!(self.dns.ipv4(host), self.dns.ipv6(host));
        [ipv4, ipv6].into_iter().flatten().flat_map(|found| found.records).collect()
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}
