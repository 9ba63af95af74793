//! The seam over which DNS is asked, in the words of a zone file, and hickory-resolver behind it.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::{Message, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{MessageAuthenticator, SpfResult};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use crate::base::clock::Clock;
use crate::destination::resolver::{self, DnsError, Dnssec, HickoryDns, Settings};

/// The port of authoritative servers.
const DNS_PORT: u16 = 53;

/// A type of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Preference and host, without the final dot.
    Mx,
    /// The strings of a record as one text.
    Txt,
    /// A name.
    Ptr,
    /// A name.
    Ns,
    /// The start of a zone; only whether there is one counts.
    Soa,
    /// Keys of mail hosts; only whether there are any counts.
    Tlsa,
    /// The parent's word for the zone's keys; only whether there is one counts.
    Ds,
}

/// What SPF says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spf {
    /// It may send.
    Pass,
    /// Another result, in the words of RFC 7208.
    Other(&'static str),
    /// DNS did not answer.
    Unknown,
}

/// The names of addresses for which the library answers itself, without asking (RFC 6761 section 6.3).
const LOOPBACK: &str = ".127.in-addr.arpa";
/// How long the answer to a plain question may take, and how long it may be.
const PLAIN_MAX: (Duration, usize) = (Duration::from_secs(2), 4096);

/// One question by UDP, as it is.
async fn ask_plainly(server: SocketAddr, name: &str, kind: Kind) -> Result<Vec<String>, DnsError> {
    let told = |error: &dyn std::fmt::Display| DnsError::Failed(error.to_string());
    let name = Name::from_ascii(format!("{name}.")).map_err(|_| DnsError::BadName)?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, record_type(kind)));
    let octets = question.to_vec().map_err(|error| told(&error))?;
    let asking = async {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(&octets).await?;
        let mut answer = vec![0; PLAIN_MAX.1];
        let len = socket.recv(&mut answer).await?;
        answer.truncate(len);
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PLAIN_MAX.0, asking).await.map_err(|_| DnsError::Timeout)?;
    let answer = Message::from_vec(&answer.map_err(|error| told(&error))?).map_err(|error| told(&error))?;
    let records: Vec<String> = answer.answers.iter().filter_map(|record| shown(kind, &record.data)).collect();
    if records.is_empty() { Err(DnsError::NoRecords) } else { Ok(records) }
}

pub(crate) type RecordsFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, DnsError>> + Send + 'a>>;
pub(crate) type SpfFuture<'a> = Pin<Box<dyn Future<Output = Spf> + Send + 'a>>;

/// Whom the checks ask.
pub(crate) trait Names: Send + Sync {
    /// The records of a name, as the configured resolver has them.
    fn ask<'a>(&'a self, name: &'a str, kind: Kind) -> RecordsFuture<'a>;
    /// The same of one authoritative server.
    fn ask_at<'a>(&'a self, server: IpAddr, name: &'a str, kind: Kind) -> RecordsFuture<'a>;
    /// What a receiver's SPF check says of mail from an address with this name in EHLO and this domain in MAIL FROM.
    fn spf<'a>(&'a self, address: IpAddr, ehlo: &'a str, domain: &'a str) -> SpfFuture<'a>;
    /// Whether the resolver carries DNSSEC.
    fn validates(&self) -> Pin<Box<dyn Future<Output = Result<bool, DnsError>> + Send + '_>>;
    /// How long answers took so far.
    fn took(&self) -> Vec<Duration>;
}

pub(crate) struct RealNames {
    resolver: TokioResolver,
    settings: Settings,
    clock: Arc<dyn Clock>,
    took: Mutex<Vec<Duration>>,
    servers: Mutex<HashMap<IpAddr, TokioResolver>>,
}

impl RealNames {
    /// By the configured resolver.
    ///
    /// # Errors
    /// When there is no name server to ask.
    pub(crate) fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, NetError> {
        let resolver = resolver::resolver(settings)?;
        let (took, servers) = (Mutex::default(), Mutex::default());
        Ok(Self { resolver, settings: settings.clone(), clock, took, servers })
    }

    fn at(&self, server: IpAddr) -> Result<TokioResolver, DnsError> {
        let mut servers = self.servers.lock();
        if let Some(known) = servers.get(&server) {
            return Ok(known.clone());
        }
        let nameservers = vec![SocketAddr::new(server, DNS_PORT)];
        let settings = Settings { nameservers, dnssec: Dnssec::Off, trust_anchor: None };
        let made = resolver::resolver(&settings).map_err(|error| DnsError::Failed(error.to_string()))?;
        servers.insert(server, made.clone());
        Ok(made)
    }
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Mx => RecordType::MX,
        Kind::Txt => RecordType::TXT,
        Kind::Ptr => RecordType::PTR,
        Kind::Ns => RecordType::NS,
        Kind::Soa => RecordType::SOA,
        Kind::Tlsa => RecordType::TLSA,
        Kind::Ds => RecordType::DS,
    }
}

fn shown(kind: Kind, data: &RData) -> Option<String> {
    if data.record_type() != record_type(kind) {
        return None;
    }
    let plain = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
    if let RData::MX(mx) = data {
        return Some(format!("{} {}", mx.preference, plain(mx.exchange.to_ascii())));
    }
    if let RData::TXT(txt) = data {
        return Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned());
    }
    Some(match kind {
        Kind::Ptr | Kind::Ns => plain(data.to_string()),
        Kind::A | Kind::Aaaa | Kind::Mx | Kind::Txt | Kind::Soa | Kind::Tlsa | Kind::Ds => data.to_string(),
    })
}

async fn records(resolver: &TokioResolver, name: &str, kind: Kind) -> Result<Vec<String>, DnsError> {
    let data = resolver::data(resolver, name, record_type(kind)).await?;
    let records: Vec<String> = data.iter().filter_map(|data| shown(kind, data)).collect();
    if records.is_empty() { Err(DnsError::NoRecords) } else { Ok(records) }
}

impl Names for RealNames {
    fn ask<'a>(&'a self, name: &'a str, kind: Kind) -> RecordsFuture<'a> {
        Box::pin(async move {
            let since = self.clock.instant();
            let found = match self.settings.nameservers.first() {
                Some(server) if kind == Kind::Ptr && name.ends_with(LOOPBACK) => ask_plainly(*server, name, kind).await,
                _ => records(&self.resolver, name, kind).await,
            };
            self.took.lock().push(self.clock.instant().saturating_duration_since(since));
            found
        })
    }

    fn ask_at<'a>(&'a self, server: IpAddr, name: &'a str, kind: Kind) -> RecordsFuture<'a> {
        Box::pin(async move { records(&self.at(server)?, name, kind).await })
    }

    fn spf<'a>(&'a self, address: IpAddr, ehlo: &'a str, domain: &'a str) -> SpfFuture<'a> {
        Box::pin(async move {
            let authenticator = MessageAuthenticator(self.resolver.clone());
            let sender = format!("postmaster@{domain}");
            let output = authenticator.verify_spf(SpfParameters::verify_mail_from(address, ehlo, ehlo, &sender)).await;
            match output.result() {
                SpfResult::Pass => Spf::Pass,
                SpfResult::Fail => Spf::Other("fail"),
                SpfResult::SoftFail => Spf::Other("softfail"),
                SpfResult::Neutral => Spf::Other("neutral"),
                SpfResult::None => Spf::Other("none"),
                SpfResult::PermError => Spf::Other("permerror"),
                SpfResult::TempError => Spf::Unknown,
            }
        })
    }

    fn validates(&self) -> Pin<Box<dyn Future<Output = Result<bool, DnsError>> + Send + '_>> {
        Box::pin(async move {
            // Asked even where the configuration says that there is DNSSEC: without it nothing resolves.
            let settings = Settings { dnssec: Dnssec::Auto, ..self.settings.clone() };
            let dns = HickoryDns::new(&settings).map_err(|error| DnsError::Failed(error.to_string()))?;
            dns.validates().await
        })
    }

    fn took(&self) -> Vec<Duration> {
        self.took.lock().clone()
    }
}
