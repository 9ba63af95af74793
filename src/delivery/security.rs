//! What sessions with the hosts of a route have to fulfil, the handshake, and what came of it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::error::Elapsed;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use super::pace::Pulse;
use super::steps::Steps;
use crate::base::clock::{Clock, Timestamp};
use crate::base::telemetry;
use crate::destination::demand::{Demand, Refusal};
use crate::destination::route::{Host, Route};
use crate::net::BoxStream;
use crate::smtp::client_session::{Failure, Fault, REPLY_TIMEOUT, Requirement, Stage, StartTls, Trust};
use crate::tls::verify::Roots;
use crate::tls::wording;

/// For each host of a route that may be used, what a session with it has to fulfil.
#[derive(Debug, Default)]
pub(super) struct Demands {
    of: Vec<(Arc<str>, Arc<Demand>)>,
    /// The first host that may not be used, and why.
    pub(super) refused: Option<(Arc<str>, Failure)>,
}

impl Demands {
    /// What is demanded of each host, or why it is not used.
    pub(super) fn new(route: &Route, demand: impl Fn(&Host) -> Result<Demand, Refusal>) -> Self {
        let mut demands = Self::default();
        for host in &route.hosts {
            match demand(host) {
                Ok(demand) => demands.of.push((host.name.clone(), Arc::new(demand))),
                Err(refusal) => {
                    tracing::info!(domain = %route.domain, host = %host.name, %refusal, "the host is not used");
                    let fault = if refusal.is_final() {
                        Fault::Unsupported(Requirement::RequireTls)
                    } else {
                        Fault::Tls(refusal.to_string())
                    };
                    let failure = Failure { stage: Stage::Connect, fault };
                    demands.refused.get_or_insert((host.name.clone(), failure));
                }
            }
        }
        demands
    }

    /// Of a host; none if it may not be used.
    pub(super) fn of(&self, host: &str) -> Option<&Arc<Demand>> {
        self.of.iter().find(|(name, _)| name.as_ref() == host).map(|(_, demand)| demand)
    }
}

pub(super) fn starttls(demand: &Demand) -> StartTls {
    match demand {
        Demand::Clear => StartTls::Never,
        Demand::Opportunistic | Demand::Tested { .. } => StartTls::IfOffered,
        Demand::Encrypted | Demand::Named(_) | Demand::Dane { .. } => StartTls::Required,
    }
}

pub(super) struct Handshake<'a> {
    pub(super) connector: &'a TlsConnector,
    pub(super) roots: &'a Roots,
    pub(super) demand: &'a Arc<Demand>,
    pub(super) clock: &'a dyn Clock,
    /// [`Stage::StartTls`], or [`Stage::Tls`] where it comes before the first reply.
    pub(super) stage: Stage,
}

/// The encryption of a session, and who is at the other end.
#[derive(Debug)]
pub(super) struct Encryption {
    suite: String,
    chain: Vec<CertificateDer<'static>>,
    /// What was judged last, and who verified the host and how.
    demand: Arc<Demand>,
    verified: Cow<'static, str>,
}

impl Handshake<'_> {
    /// Encrypts, and judges the host before a word is said to it. The handshake itself believes any certificate, as sessions
    /// that are resumed show none: one rule serves for new, resumed and idle sessions.
    pub(super) async fn run(
        &self,
        stream: BoxStream,
        host: &Arc<str>,
        address: SocketAddr,
        pulse: Option<&Pulse>,
        steps: &mut Steps,
    ) -> Result<(BoxStream, Encryption), Failure> {
        let name = ServerName::try_from(self.demand.server_name(host).to_owned())
            .unwrap_or_else(|_| ServerName::IpAddress(address.ip().into()));
        let handshake = self.timed(host, pulse, self.connector.connect(name, stream));
        let encrypted = match handshake.await {
            Err(_) => Err("the handshake took too long".to_owned()),
            Ok(Err(error)) => Err(wording::of_stream(&error)),
            Ok(Ok(stream)) => {
                let connection = stream.get_ref().1;
                let chain = connection.peer_certificates().unwrap_or_default().to_vec();
                let suite = suite(connection);
                self.judged(host, chain, suite).await.map(|encryption| (stream, encryption))
            }
        };
        let result = encrypted.as_ref().map_or_else(|error| format!("TLS: {error}"), |(_, tls)| tls.to_string());
        steps.add(self.stage, host, result, self.clock.instant());
        match encrypted {
            Ok((stream, encryption)) => Ok((Box::new(stream), encryption)),
            Err(text) => Err(Failure { stage: self.stage, fault: Fault::Tls(text) }),
        }
    }

    /// A handshake that takes long is given up where clear text will do, else another host is asked beside it.
    async fn timed<T>(
        &self,
        host: &Arc<str>,
        pulse: Option<&Pulse>,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let Some(pulse) = pulse else { return tokio::time::timeout(REPLY_TIMEOUT, work).await };
        let began = self.clock.instant();
        let done = if self.demand.allows_clear_text() {
            tokio::time::timeout(pulse.paces.patience(host, self.stage, began), work).await
        } else {
            tokio::time::timeout(REPLY_TIMEOUT, pulse.watch(host, self.stage, began, work)).await
        };
        let now = self.clock.instant();
        if done.is_ok() {
            pulse.paces.took(host, self.stage, now.saturating_duration_since(began), now);
        }
        done
    }

    async fn judged(
        &self,
        host: &Arc<str>,
        chain: Vec<CertificateDer<'static>>,
        suite: String,
    ) -> Result<Encryption, String> {
        let (verified, chain) = judged_apart(self.demand, host, chain, self.roots, self.clock.wall()).await;
        let verified = verified?;
        if let Demand::Tested { .. } = self.demand.as_ref() {
            tracing::info!(%host, verified = verified.as_ref(), "the domain tests its MTA-STS policy");
        }
        telemetry::add_tls_session(&suite, &verified);
        Ok(Encryption { suite, chain, demand: self.demand.clone(), verified })
    }
}

/// What `Demand::judge` says, and the chain again. The host chooses how many signatures there are to check and how costly each
/// is, so that is not done where mail is moved.
async fn judged_apart(
    demand: &Arc<Demand>,
    host: &Arc<str>,
    chain: Vec<CertificateDer<'static>>,
    roots: &Roots,
    now: Timestamp,
) -> (Result<Cow<'static, str>, String>, Vec<CertificateDer<'static>>) {
    let (own_demand, host, roots) = (demand.clone(), host.clone(), roots.clone());
    let judge = move || (own_demand.judge(&host, Some(&chain), &roots, now), chain);
    if !demand.checks_signatures() {
        return judge();
    }
    let judging = tokio::task::spawn_blocking(judge).await;
    judging.unwrap_or_else(|_| (Err("the certificates could not be judged".to_owned()), Vec::new()))
}

impl Encryption {
    /// What the session with the host is told: a host counts as verified only where its name was asked for and shown.
    pub(super) fn trust(&self) -> Trust {
        if matches!(self.demand.as_ref(), Demand::Named(_)) { Trust::Verified } else { Trust::Unverified }
    }

    /// Whether a session that is there already fulfils another demand.
    pub(super) async fn fulfils(
        &mut self,
        host: &Arc<str>,
        demand: &Arc<Demand>,
        roots: &Roots,
        now: Timestamp,
    ) -> bool {
        let asks_for_nothing = matches!(demand.as_ref(), Demand::Clear | Demand::Opportunistic);
        // What is known of the host stays known; how another domain's policy would have worked out is not ours to tell.
        if self.demand == *demand || asks_for_nothing && !matches!(self.demand.as_ref(), Demand::Tested { .. }) {
            return true;
        }
        let chain = std::mem::take(&mut self.chain);
        let (verified, chain) = judged_apart(demand, host, chain, roots, now).await;
        self.chain = chain;
        let Ok(verified) = verified else { return false };
        (self.demand, self.verified) = (demand.clone(), verified);
        true
    }
}

/// `TLSv1.3 TLS13_AES_128_GCM_SHA256, verified by DANE-EE`.
impl std::fmt::Display for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.suite, self.verified)
    }
}

fn suite(connection: &ClientConnection) -> String {
    let version = match connection.protocol_version().and_then(|version| version.as_str()) {
        Some("TLSv1_3") => "TLSv1.3",
        Some("TLSv1_2") => "TLSv1.2",
        Some(other) => other,
        None => "TLS",
    };
    let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    format!("{version} {suite}")
}
