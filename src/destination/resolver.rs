//! The DNS seam: what the relay asks of DNS, and hickory-resolver behind it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as HickoryDnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio_rustls::rustls;

/// How long one try waits for a name server; with the second try a look-up ends after twice this.
const TIMEOUT: Duration = Duration::from_millis(1200);
const ATTEMPTS: usize = 1;

/// What the relay needs to know of DNS.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Name servers to ask; empty: the system's.
    pub nameservers: Vec<SocketAddr>,
}

/// Records found, and how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records<T> {
    /// In the order of the answer.
    pub records: Vec<T>,
    /// The least of their times to live.
    pub ttl: Duration,
}

/// One MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is preferred.
    pub preference: u16,
    /// The host in lower case without final dot; empty for the null MX (RFC 7505).
    pub exchange: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN).
    #[error("no such name")]
    NoSuchName,
    /// The name exists, without records of this type (NODATA).
    #[error("no records of this type")]
    NoRecords,
    /// The name servers fail or refuse (SERVFAIL, REFUSED and the like), or DNSSEC says that the answer is forged.
    #[error("name servers fail: {0}")]
    Failed(String),
    /// No answer in time.
    #[error("name servers do not answer")]
    Timeout,
    /// Not a domain name.
    #[error("not a domain name")]
    BadName,
}

impl DnsError {
    /// Whether the answer is that there is none, rather than that something is broken.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoRecords | Self::BadName)
    }
}

/// A look-up under way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Records<T>, DnsError>> + Send + 'a>>;

/// Where the relay asks. Names are given in lower case and A-labels; CNAMEs are followed.
pub trait Dns: Send + Sync {
    /// The MX records of a domain.
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord>;
    /// The IPv4 addresses of a host.
    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr>;
    /// The IPv6 addresses of a host.
    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr>;
}

/// DNS by hickory-resolver.
#[derive(Debug)]
pub struct HickoryDns {
    resolver: TokioResolver,
}

impl HickoryDns {
    /// A resolver as configured.
    ///
    /// # Errors
    /// When the system's configuration cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, NetError> {
        Ok(Self { resolver: resolver(settings)? })
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, DnsError> {
        let mut name = Name::from_ascii(name).map_err(|_| DnsError::BadName)?;
        name.set_fqdn(true);
        self.resolver.lookup(name, kind).await.map_err(dns_error)
    }

    async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Result<Records<T>, DnsError> {
        let lookup = self.lookup(name, kind).await?;
        let found = || lookup.answers().iter().filter_map(|record| Some((record.ttl, pick(&record.data)?)));
        // A CNAME on the way that holds for less ends the validity of the whole.
        let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
        let records: Vec<T> = found().map(|(_, record)| record).collect();
        if records.is_empty() {
            return Err(DnsError::NoRecords);
        }
        Ok(Records { records, ttl: Duration::from_secs(u64::from(ttl)) })
    }
}

impl Dns for HickoryDns {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(self.records(domain, RecordType::MX, |data| {
            let RData::MX(mx) = data else { return None };
            let exchange = mx.exchange.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            Some(MxRecord { preference: mx.preference, exchange })
        }))
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(self.records(host, RecordType::A, |data| data.ip_addr().filter(IpAddr::is_ipv4)))
    }

    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(self.records(host, RecordType::AAAA, |data| data.ip_addr().filter(IpAddr::is_ipv6)))
    }
}

/// A hickory resolver as configured.
///
/// # Errors
/// When the system's configuration cannot be read.
pub fn resolver(settings: &Settings) -> Result<TokioResolver, NetError> {
    if settings.nameservers.is_empty() {
        let (config, _) = system_conf::read_system_conf()?;
        return build(config);
    }
    let servers = settings.nameservers.iter().map(|address| {
        let connection = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        let connections = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
        NameServerConfig::new(address.ip(), true, connections)
    });
    build(ResolverConfig::from_parts(None, Vec::new(), servers.collect()))
}

/// A hickory resolver with the waits that suit mail which cannot wait. Search lists and the hosts file do not apply:
/// names of mail domains are complete.
///
/// # Errors
/// When hickory refuses the configuration.
pub fn build(config: ResolverConfig) -> Result<TokioResolver, NetError> {
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.edns0 = true;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    // The route cache above keeps what holds; this one bridges the look-ups of one route.
    options.positive_max_ttl = Some(Duration::from_secs(60));
    options.negative_max_ttl = Some(Duration::from_secs(30));
    // hickory builds a TLS client even where no name server speaks TLS, and fails without roots unless given some.
    let roots = rustls::RootCertStore::empty();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| NetError::Msg(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .with_tls_config(tls)
        .build()
}

fn dns_error(error: NetError) -> DnsError {
    if let NetError::Dns(HickoryDnsError::NoRecordsFound(missing)) = &error {
        let code = missing.response_code;
        return if code == ResponseCode::NXDomain {
            DnsError::NoSuchName
        } else if code == ResponseCode::NoError {
            DnsError::NoRecords
        } else {
            DnsError::Failed(code.to_string())
        };
    }
    if matches!(error, NetError::Timeout) {
        return DnsError::Timeout;
    }
    DnsError::Failed(error.to_string())
}
