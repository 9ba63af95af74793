//! The side of the commands that talks to a running relay: its HTTP API, address and token from the configuration or
//! from the command line.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::exit::{Exit, OrExit as _};
use super::{read_config, secret};
use crate::base::files::faults::{Use, explain};
use crate::config::Config;
use crate::net::http::{self, Session};
use crate::net::{BoxStream, TcpNetwork};
use crate::relay::data_dir::self_signed_files;
use crate::tls;
use crate::tls::verify::Roots;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take; those that wait for an end take up to 30 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a stream of events may say nothing, not even that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest line of a stream.
const LINE_LEN_MAX: usize = 1 << 20;

/// How a command reaches the relay.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Access {
    /// The relay's HTTP API [default: http.address of the configuration]
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// A user's token or the operator's, seen by whoever lists processes [default: the operator's, from `http.token_file`]
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// A file with the token in its first line, or - for standard input
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl Access {
    /// Refuses two secrets from one standard input.
    pub(super) fn leaves_stdin_to(&self, code_file: Option<&Path>) -> anyhow::Result<()> {
        let is_stdin = |file: Option<&Path>| file == Some(Path::new("-"));
        if is_stdin(code_file) && is_stdin(self.token_file.as_deref()) {
            let text = "standard input holds one secret: --code-file - or --token-file -, not both";
            return Err(Exit::Usage.saying(text));
        }
        Ok(())
    }

    /// The token that the options name.
    fn token(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(Zeroizing::new(token.clone()))),
            (None, Some(file)) => secret::read(file, "token").map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Over what the relay is asked.
#[derive(Debug, Clone)]
enum Transport {
    Clear,
    /// TLS with the certificate in this file, which is the relay's own.
    Own(PathBuf),
    /// TLS with a certificate that the system's authorities vouch for.
    Verified,
}

/// Options of a command that asks the running relay.
#[derive(Debug, clap::Args)]
pub(super) struct ApiOptions<C: clap::Subcommand> {
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) access: Access,
    #[command(subcommand)]
    pub(super) command: C,
}

/// A relay that can be asked.
#[derive(Debug)]
pub(super) struct Client {
    authority: String,
    transport: Transport,
    token: Zeroizing<String>,
}

impl Client {
    /// From the options and, for what they do not say, the configuration.
    pub(super) fn new(file: Option<&Path>, access: &Access) -> anyhow::Result<Self> {
        let token = access.token()?;
        if let (Some(url), Some(token)) = (&access.url, &token) {
            let (authority, transport) = authority(url)?;
            return Ok(Self { authority, transport, token: token.clone() });
        }
        let config = configuration(file)?;
        let (authority, transport) = match &access.url {
            Some(url) => authority(url)?,
            None => own(&config)?,
        };
        let token = match token {
            Some(token) => token,
            None => read_token(&config.token_file())?,
        };
        Ok(Self { authority, transport, token })
    }

    /// For what nobody has to show a token.
    pub(super) fn without_token(file: Option<&Path>, url: Option<&str>) -> anyhow::Result<Self> {
        let (authority, transport) = url.map_or_else(|| own(&configuration(file)?), authority)?;
        Ok(Self { authority, transport, token: Zeroizing::default() })
    }

    /// With the operator's token, at the address of a configuration.
    pub(super) fn of_operator(config: &Config) -> anyhow::Result<Self> {
        let (authority, transport) = own(config)?;
        Ok(Self { authority, transport, token: read_token(&config.token_file())? })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let unreachable = || format!("no relay answers at {}; is `otp-relay serve` running?", self.authority);
        let connecting = async { http::connect(&TcpNetwork, tokio::net::lookup_host(&self.authority).await?).await };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let stream = stream.with_context(unreachable).or_exit(Exit::Unreachable)?;
        let stream = stream.with_context(unreachable).or_exit(Exit::Unreachable)?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.encrypted(stream)).await;
        let stream = stream.with_context(unreachable).or_exit(Exit::Unreachable)??;
        let mut session = Session::new(stream).await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header("Host", &self.authority);
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("Bearer {}", *self.token));
        }
        let request = request
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .context("the token or the address has characters that no request can carry")?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, session.ask(request)).await;
        let answer = answer.context("the relay does not answer").or_exit(Exit::Unreachable)?;
        let response = answer.context("the relay does not answer").or_exit(Exit::Unreachable)?;
        let answer = Answer { response, session };
        if answer.response.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    /// The stream as the relay speaks on it; no token leaves over one whose certificate is another's.
    async fn encrypted(&self, stream: BoxStream) -> anyhow::Result<BoxStream> {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let fails = "the TLS handshake with the relay fails; does it have tls = true in [http]?";
        match &self.transport {
            Transport::Clear => Ok(stream),
            Transport::Own(file) => {
                let stream = http::encrypt(&tls::opportunistic_connector()?, host, stream).await;
                let stream = stream.context(fails).or_exit(Exit::Unreachable)?;
                let own = tls::read_certificates(file)?;
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                ensure!(
                    shown.is_some() && shown == own.first(),
                    "what answers at {} shows another certificate than the one in {}",
                    self.authority,
                    file.display()
                );
                Ok(Box::new(stream))
            }
            Transport::Verified => {
                let connector = TlsConnector::from(Arc::new(Roots::load(None)?.client_config()?));
                let stream = http::encrypt(&connector, host, stream).await;
                Ok(Box::new(stream.context("the relay's certificate is not trusted").or_exit(Exit::Unreachable)?))
            }
        }
    }

    /// Asks, and returns the answer's JSON.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = self.send(method, path, body).await?.body().await?;
        serde_json::from_slice(&body).context("what answers is no relay")
    }

    pub(super) async fn text(&self, path: &str) -> anyhow::Result<Bytes> {
        self.send(Method::GET, path, None).await?.body().await
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    pub(super) async fn follow(&self, path: &str) -> anyhow::Result<Stream> {
        let Answer { response, session } = self.send(Method::GET, path, None).await?;
        Ok(Stream { body: response.into_body(), received: Vec::new(), _session: session })
    }
}

/// An answer whose body is still to come.
struct Answer {
    response: Response<Incoming>,
    session: Session,
}

impl Answer {
    async fn body(self) -> anyhow::Result<Bytes> {
        // A backup has no bound here that it does not have at the relay.
        let body = tokio::time::timeout(ANSWER_TIMEOUT, http::body(self.response.into_body(), usize::MAX)).await;
        body.context("the relay's answer does not come")?.map_err(|error| anyhow!(error))
    }
}

/// What a relay says instead of yes.
async fn refusal(answer: Answer) -> anyhow::Error {
    let status = answer.response.status();
    let body = answer.body().await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NotAllowed,
        StatusCode::NOT_FOUND => Exit::NotFound,
        _ => Exit::Failed,
    };
    match problem["detail"].as_str() {
        Some(detail) => exit.saying(format!("the relay says {}: {detail}", status.as_u16())),
        None => exit.saying(format!("the relay says {status}")),
    }
}

pub(super) struct Stream {
    body: Incoming,
    received: Vec<u8>,
    _session: Session,
}

impl Stream {
    /// The data of the next event; none at the end.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        while let Some(line) = self.line().await? {
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(Some(serde_json::from_str(data).context("what answers is no relay")?));
            }
        }
        Ok(None)
    }

    async fn line(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.received.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            ensure!(self.received.len() < LINE_LEN_MAX, "what answers is no relay");
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            match frame.context("the relay has fallen silent")? {
                Some(frame) => self.received.extend(frame?.data_ref().into_iter().flatten()),
                None => return Ok(None),
            }
        }
    }
}

/// The configuration, whose findings are the business of other commands.
pub(super) fn configuration(file: Option<&Path>) -> anyhow::Result<Config> {
    let (config, _) = read_config(file)?;
    config
        .context("the configuration has errors, `otp-relay check --offline` tells which; or say --url and --token-file")
        .or_exit(Exit::Configuration)
}

/// Where and how the relay of a configuration answers.
fn own(config: &Config) -> anyhow::Result<(String, Transport)> {
    Ok((own_authority(config)?, own_transport(config)))
}

fn own_authority(config: &Config) -> anyhow::Result<String> {
    let is_off = "the HTTP API is off in the configuration (http.address)";
    let mut address = config.http.address.context(is_off).or_exit(Exit::Configuration)?;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    Ok(address.to_string())
}

fn own_transport(config: &Config) -> Transport {
    if !config.http.tls {
        return Transport::Clear;
    }
    let configured = config.certificate.files().map(|(certificate, _)| certificate.to_owned());
    Transport::Own(configured.unwrap_or_else(|| self_signed_files(&config.data_dir).0))
}

fn read_token(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let token = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        let told = explain(path, Use::Read, &error);
        if error.kind() == std::io::ErrorKind::NotFound {
            let mend = "the relay makes it at its start: is `otp-relay serve` running?";
            return Exit::Unreachable.saying(format!("the token file is missing: {told}; {mend}"));
        }
        Exit::NotAllowed.saying(format!("the token file cannot be read: {told}; or name another by --token-file"))
    })?;
    Ok(Zeroizing::new(token.trim().to_owned()))
}

/// Host and port of a URL.
fn authority(url: &str) -> anyhow::Result<(String, Transport)> {
    let (rest, transport) = match url.split_once("://") {
        Some(("http", rest)) => (rest, Transport::Clear),
        Some(("https", rest)) => (rest, Transport::Verified),
        Some((scheme, _)) => {
            return Err(Exit::Usage.saying(format!("{scheme}:// is not spoken here; the relay speaks http or https")));
        }
        None => (url, Transport::Clear),
    };
    let authority = rest.trim_end_matches('/');
    if authority.is_empty() || authority.contains('/') {
        return Err(Exit::Usage.saying("--url is like http://127.0.0.1:8587"));
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok((if has_port { authority.to_owned() } else { format!("{authority}:8587") }, transport))
}

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as a part of a path or query (RFC 3986 section 2.1); only unreserved characters stay.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Runs what a command has to wait for.
pub(super) fn wait_for<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_relays_are_read() {
        assert_eq!(authority("http://127.0.0.1:8587/").unwrap().0, "127.0.0.1:8587");
        assert_eq!(authority("relay").unwrap().0, "relay:8587");
        assert!(matches!(authority("https://relay").unwrap().1, Transport::Verified));
        for url in ["ftp://relay", "", "http://", "http://relay/api"] {
            assert!(authority(url).is_err(), "{url}");
        }
        assert_eq!(encoded("a+b@example.com"), "a%2Bb%40example.com");
    }
}
