//! The DNS seam: what the relay asks of DNS, and hickory-resolver behind it.

use crate::base::clock::monotonic_us;
use crate::base::telemetry;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as HickoryDnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::sync::OnceCell;
use tokio_rustls::rustls;

use super::edns::{Edns, Unvalidated, lookup};
use super::records::is_secure;
pub(crate) use super::records::read_alias;
pub use super::records::{Denial, DnsError, MxRecord, Records, read_ipv4, read_ipv6, read_mx, read_tlsa, read_txt};
use super::tlsa::TlsaRecord;

/// How long one try waits for a name server; with the second try a look-up ends after twice this.
const TIMEOUT: Duration = Duration::from_millis(1200);
const ATTEMPTS: usize = 1;
/// After how long a resolver that did not carry DNSSEC is asked again.
const PROBE_PAUSE: Duration = Duration::from_secs(600);

/// What the relay needs to know of DNS.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Name servers to ask; empty: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Whether answers are validated.
    pub dnssec: Dnssec,
    /// A file with trust anchors (DNSKEY records as in a zone file); none: the root's.
    pub trust_anchor: Option<PathBuf>,
}

/// `resolver.dnssec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dnssec {
    /// Where the resolver carries signatures; elsewhere nothing counts as secure, and DANE is off.
    #[default]
    Auto,
    /// Always. With a resolver that does not carry signatures there is no answer to anything.
    On,
    /// Never.
    Off,
}

/// A look-up under way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Records<T>, DnsError>> + Send + 'a>>;

/// Where the relay asks. Names are given in lower case and A-labels; CNAMEs are followed.
pub trait Dns: Send + Sync {
    /// The MX records of a domain.
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord>;
    /// The IPv4 addresses of a host.
    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr>;

    /// The IPv6 addresses of a host. Without an answer of its own, there are none.
    fn ipv6<'a>(&'a self, _host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async { Err(DnsError::NoRecords) })
    }

    /// Texts, each of one record. Without an answer of its own, there are none.
    fn txt<'a>(&'a self, _name: &'a str) -> Answer<'a, String> {
        Box::pin(async { Err(DnsError::NoRecords) })
    }

    /// TLSA records. Without an answer of its own, there are none.
    fn tlsa<'a>(&'a self, _name: &'a str) -> Answer<'a, TlsaRecord> {
        Box::pin(async { Err(DnsError::NoRecords) })
    }

    /// The name that a host's CNAMEs lead to, one record at most. Without an answer of its own, it has none.
    fn alias<'a>(&'a self, _host: &'a str) -> Answer<'a, String> {
        Box::pin(async { Err(DnsError::NoRecords) })
    }

    /// Drops what is remembered of a domain or host, so that the next look-up asks.
    fn forget(&self, _name: &str) {}
}

/// DNS by hickory-resolver.
#[derive(Debug)]
pub struct HickoryDns {
    plain: Unvalidated,
    validating: TokioResolver,
    dnssec: Dnssec,
    probed: OnceCell<()>,
    /// Whether the resolver was seen to carry DNSSEC.
    is_carried: AtomicBool,
}

impl HickoryDns {
    /// A resolver as configured.
    ///
    /// # Errors
    /// When the system's configuration or the trust anchors cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, NetError> {
        let config = config(settings)?;
        let anchors = match &settings.trust_anchor {
            None => TrustAnchors::default(),
            Some(path) => trust_anchors(path).map_err(NetError::Msg)?,
        };
        Ok(Self {
            plain: Unvalidated::new(build(config.clone())?, build_with(config.clone(), Edns::Off, None)?),
            validating: build_with(config, Edns::On, Some(Arc::new(anchors)))?,
            dnssec: settings.dnssec,
            probed: OnceCell::new(),
            is_carried: AtomicBool::new(false),
        })
    }

    /// Whether answers are validated; with [`Dnssec::Auto`] by asking for the root's signature.
    ///
    /// # Errors
    /// When the resolver does not answer at all, so that nothing can be said.
    pub(crate) async fn validates(&self) -> Result<bool, DnsError> {
        match self.dnssec {
            Dnssec::Off => Ok(false),
            Dnssec::On => Ok(true),
            Dnssec::Auto => {
                self.probed.get_or_try_init(|| self.probe()).await?;
                Ok(self.is_carried.load(Ordering::Relaxed))
            }
        }
    }

    /// Says at start if the resolver does not carry DNSSEC, and asks again from time to time. Once it does, it is held to it.
    pub(crate) async fn keep_probing(&self) {
        if self.dnssec != Dnssec::Auto {
            return;
        }
        // Trouble with DNS is told where it matters; nothing is concluded from it.
        if self.validates().await == Ok(false) {
            tracing::info!("the resolver does not carry DNSSEC: DANE is off");
        }
        while !self.is_carried.load(Ordering::Relaxed) {
            tokio::time::sleep(PROBE_PAUSE).await;
            let _ = self.probe().await;
        }
    }

    async fn probe(&self) -> Result<(), DnsError> {
        let is_secure = match lookup(&self.validating, Name::root(), RecordType::SOA).await {
            Ok(lookup) => is_secure(lookup.answers(), RecordType::SOA),
            Err(_) => match self.plain.lookup(Name::root(), RecordType::SOA).await {
                Err(NetError::Timeout) => return Err(DnsError::Timeout),
                Ok(_) | Err(_) => false,
            },
        };
        self.is_carried.fetch_or(is_secure, Ordering::Relaxed);
        Ok(())
    }

    async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&[Record]) -> Result<Records<T>, DnsError>,
    ) -> Result<Records<T>, DnsError> {
        let name = complete(name)?;
        let validates = self.validates().await?;
        let since = monotonic_us();
        let found =
            if validates { lookup(&self.validating, name, kind).await } else { self.plain.lookup(name, kind).await };
        telemetry::DNS.add(Duration::from_micros(u64::try_from(monotonic_us() - since).unwrap_or_default()));
        match found {
            Ok(lookup) => read(lookup.answers()),
            // That there is no more to it than this answer is not proved, nor has it to be: the zone allows it.
            Err(NetError::Dns(HickoryDnsError::Nsec { response, proof: Proof::Insecure, .. })) => {
                let ttl = Duration::from_secs(response.negative_ttl().unwrap_or(0).into());
                match read(&response.answers) {
                    Err(_) if response.metadata.response_code == ResponseCode::NXDomain => {
                        Err(DnsError::Denied(Denial::Name, ttl))
                    }
                    Err(DnsError::NoRecords) => Err(DnsError::Denied(Denial::Records, ttl)),
                    found => Ok(Records { secure: false, ..found? }),
                }
            }
            Err(error) => {
                let error = dns_error(error);
                telemetry::DNS_FAILURES.fetch_add(u64::from(!error.is_answer()), Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

fn complete(name: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(name).map_err(|_| DnsError::BadName)?;
    name.set_fqdn(true);
    Ok(name)
}

/// The trust anchors in a file.
pub(crate) fn trust_anchors(path: &Path) -> Result<TrustAnchors, String> {
    let anchors = TrustAnchors::from_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if anchors.is_empty() { Err(format!("{}: no DNSKEY record", path.display())) } else { Ok(anchors) }
}

impl Dns for HickoryDns {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(self.records(domain, RecordType::MX, read_mx))
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(self.records(host, RecordType::A, read_ipv4))
    }

    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(self.records(host, RecordType::AAAA, read_ipv6))
    }

    fn txt<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
        Box::pin(self.records(name, RecordType::TXT, read_txt))
    }

    fn tlsa<'a>(&'a self, name: &'a str) -> Answer<'a, TlsaRecord> {
        Box::pin(self.records(name, RecordType::TLSA, read_tlsa))
    }

    fn alias<'a>(&'a self, host: &'a str) -> Answer<'a, String> {
        Box::pin(async move {
            let name = complete(host)?;
            let end = |kind| {
                let name = name.clone();
                self.records(host, kind, move |answers| read_alias(answers, kind, &name))
            };
            // The addresses have just been looked up, so that the resolver remembers them.
            match end(RecordType::A).await {
                Err(error) if error.is_answer() => end(RecordType::AAAA).await,
                found => found,
            }
        })
    }

    fn forget(&self, name: &str) {
        let Ok(name) = complete(name) else { return };
        for resolver in self.plain.resolvers().into_iter().chain([&self.validating]) {
            for kind in [RecordType::MX, RecordType::A, RecordType::AAAA, RecordType::CNAME] {
                resolver.clear_lookup_cache(name.clone(), kind);
            }
        }
    }
}

/// A hickory resolver as configured.
///
/// # Errors
/// When the system's configuration cannot be read.
pub fn resolver(settings: &Settings) -> Result<TokioResolver, NetError> {
    build(config(settings)?)
}

/// What an answer to one question holds, aliases included.
///
/// # Errors
/// That there is nothing, or that nobody answers.
pub(crate) async fn data(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Vec<RData>, DnsError> {
    let found = lookup(resolver, complete(name)?, kind).await.map_err(dns_error)?;
    Ok(found.answers().iter().map(|record| record.data.clone()).collect())
}

fn config(settings: &Settings) -> Result<ResolverConfig, NetError> {
    if settings.nameservers.is_empty() {
        return system_servers();
    }
    let servers = settings.nameservers.iter().map(|address| {
        let connection = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        let connections = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
        NameServerConfig::new(address.ip(), true, connections)
    });
    Ok(ResolverConfig::from_parts(None, Vec::new(), servers.collect()))
}

/// Where the system's name servers stand.
const SYSTEM_SERVERS: &str = "/etc/resolv.conf";
const NAME_SERVERS: &str = "set resolver.nameservers = [\"127.0.0.1:53\"], say";

/// The name servers of the system, of which there has to be one: without any, every look-up fails.
fn system_servers() -> Result<ResolverConfig, NetError> {
    of_system(std::fs::read(SYSTEM_SERVERS))
}

fn of_system(read: std::io::Result<Vec<u8>>) -> Result<ResolverConfig, NetError> {
    let fault =
        |what: String| NetError::Msg(format!("the system's name servers: {SYSTEM_SERVERS}{what}; {NAME_SERVERS}"));
    let text = read.map_err(|error| fault(format!(": {error}")))?;
    if !text.split(|octet| *octet == b'\n').any(|line| line.trim_ascii().starts_with(b"nameserver")) {
        return Err(fault(" names none".to_owned()));
    }
    let (config, _) = system_conf::parse_resolv_conf(text).map_err(|error| fault(format!(": {error}")))?;
    Ok(config)
}

/// A hickory resolver with the waits that suit mail which cannot wait. Search lists and the hosts file do not apply:
/// names of mail domains are complete.
///
/// # Errors
/// When hickory refuses the configuration.
pub fn build(config: ResolverConfig) -> Result<TokioResolver, NetError> {
    build_with(config, Edns::On, None)
}

/// A resolver that asks one authoritative name server, and that one to ask nobody else.
pub(super) fn direct(server: IpAddr) -> Result<TokioResolver, NetError> {
    let connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let servers = vec![NameServerConfig::new(server, true, connections)];
    let mut options = options(Edns::On, &None);
    options.recursion_desired = false;
    built(ResolverConfig::from_parts(None, Vec::new(), servers), options, None)
}

fn build_with(
    config: ResolverConfig,
    edns: Edns,
    anchors: Option<Arc<TrustAnchors>>,
) -> Result<TokioResolver, NetError> {
    let options = options(edns, &anchors);
    built(config, options, anchors)
}

fn options(edns: Edns, anchors: &Option<Arc<TrustAnchors>>) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.edns0 = edns == Edns::On;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    // The route cache above keeps what holds; this one bridges the look-ups of one route.
    options.positive_max_ttl = Some(Duration::from_secs(60));
    options.negative_max_ttl = Some(Duration::from_secs(30));
    // Denials that were validated say of themselves that they hold for no time at all.
    options.negative_min_ttl = anchors.is_some().then_some(Duration::from_secs(5));
    options.validate = anchors.is_some();
    options
}

fn built(
    config: ResolverConfig,
    options: ResolverOpts,
    anchors: Option<Arc<TrustAnchors>>,
) -> Result<TokioResolver, NetError> {
    // hickory builds a TLS client even where no name server speaks TLS, and fails without roots unless given some.
    let roots = rustls::RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| NetError::Msg(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .with_tls_config(tls);
    match anchors {
        None => builder.build(),
        Some(anchors) => builder.with_trust_anchor(anchors).build(),
    }
}

pub(super) fn dns_error(error: NetError) -> DnsError {
    if let NetError::Dns(HickoryDnsError::NoRecordsFound(missing)) = &error {
        let code = missing.response_code;
        // Denials that were validated carry the SOA record, and say of themselves that they hold for no time.
        let of_zone = missing.soa.as_ref().map_or(0, |soa| soa.ttl.min(soa.data.minimum));
        let ttl = Duration::from_secs(missing.negative_ttl.unwrap_or(0).max(of_zone).into());
        return if code == ResponseCode::NXDomain {
            DnsError::Denied(Denial::Name, ttl)
        } else if code == ResponseCode::NoError {
            DnsError::Denied(Denial::Records, ttl)
        } else {
            DnsError::Failed(code.to_string())
        };
    }
    if matches!(error, NetError::Timeout) {
        return DnsError::Timeout;
    }
    DnsError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_name_servers_the_setting_is_named() {
        let told = |read: std::io::Result<&str>| of_system(read.map(|text| text.as_bytes().to_vec())).map(drop);
        assert!(told(Ok("nameserver 192.0.2.53\n")).is_ok());
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        for (read, expected) in [
            (Ok(""), "/etc/resolv.conf names none; set resolver.nameservers = "),
            (Ok("# none\nsearch example.com\n"), "/etc/resolv.conf names none; set resolver.nameservers = "),
            (Err(missing), "/etc/resolv.conf: entity not found; set resolver.nameservers = "),
        ] {
            let error = told(read).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
