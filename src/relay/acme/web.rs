//! HTTPS to the CA, with the relay's own look-ups and roots.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, header};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio_rustls::TlsConnector;

use crate::destination::resolver::Dns;
use crate::net::{Network, http};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Octets of an answer's body.
const ANSWER_LEN_MAX: usize = 1 << 20;
const HTTPS: u16 = 443;

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

    async fn ask(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Error> {
        let (mut head, body) = request.into_parts();
        let uri = std::mem::take(&mut head.uri);
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or(Error::Str("no https address"))?;
        let authority = uri.authority().ok_or(Error::Str("no host in an address"))?.as_str();
        head.headers.insert(header::HOST, authority.parse().map_err(other)?);
        // To a server itself only the path is named.
        head.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        let body = body.collect().await.map_err(other)?.to_bytes();
        let port = uri.port_u16().unwrap_or(HTTPS);
        let addresses = self.addresses(host).await.into_iter().map(|address| SocketAddr::new(address, port));
        let stream = http::connect(&*self.network, addresses).await;
        let stream = stream.map_err(|error| Error::Other(format!("{host}: {error}").into()))?;
        let stream = http::encrypt(&self.tls, host, stream).await.map_err(other)?;
        let mut session = http::Session::new(stream).await.map_err(other)?;
        let answer = session.ask(Request::from_parts(head, Full::new(body))).await.map_err(other)?;
        let (head, body) = answer.into_parts();
        let body = http::body(body, ANSWER_LEN_MAX).await.map_err(Error::Other)?;
        Ok(Response::from_parts(head, Full::new(body)))
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
