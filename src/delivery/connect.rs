//! One session with one address, up to the point before MAIL.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::dialer::Dialer;
use super::fallback::{After, Fallback, MissingSession, Turn, describe};
use super::next_hop::NextHop;
use super::pace::{News, Pulse};
use super::security::Handshake;
use super::steps::Steps;
use super::transact::{Connection, Fresh};
use crate::base::telemetry;
use crate::destination::demand::Demand;
use crate::net::BoxStream;
use crate::net::own_faults::own_fault;
use crate::smtp::client_session::{ClientSettings, Failure, Fault, Stage, StartTls};

/// How long an address has to take the connection before the next one is asked as well (RFC 8305 section 5).
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// An address to come to a session with.
pub(super) struct Dial {
    pub(super) dialer: Arc<Dialer>,
    pub(super) host: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) demand: Arc<Demand>,
    pub(super) hop: NextHop,
    pub(super) turn: Turn,
    /// Why it has to be in clear text, when no other is left.
    pub(super) later: Option<Arc<str>>,
    pub(super) pulse: Pulse,
    pub(super) steps: Steps,
}

/// A connection being made. Whoever is overtaken by another is not heard of again: it counts as silent.
struct PendingConnection<'a> {
    dialer: &'a Dialer,
    ip: IpAddr,
    since: std::time::Instant,
    is_over: bool,
}

impl Drop for PendingConnection<'_> {
    fn drop(&mut self) {
        let now = self.dialer.instant();
        if !self.is_over && now.saturating_duration_since(self.since) >= PATIENCE {
            self.dialer.address_health.failed(self.ip, now);
        }
    }
}

impl Dial {
    /// A session. Where TLS fails and nothing forbids clear text, another connection goes without it.
    pub(super) async fn open(&mut self) -> Result<Box<Connection>, Failure> {
        let now = self.dialer.instant();
        let history = self.dialer.quirks.tls(&self.host, self.address, now);
        let mut fallback = Fallback::new(&self.demand, history, &self.turn);
        loop {
            let unopened = match self.open_with(fallback.starttls()).await {
                Ok(connection) => return Ok(Box::new(self.opened(connection, &fallback))),
                Err(unopened) => unopened,
            };
            let failure = unopened.failure.clone();
            tracing::debug!(host = %self.host, stage = failure.stage.name(), "no session");
            self.steps.add_failure(&failure, &self.host, self.dialer.instant());
            match fallback.failed(&unopened) {
                After::Again => {}
                After::Over => return Err(failure),
                After::Later(why) => {
                    self.later = Some(why);
                    return Err(failure);
                }
            }
        }
    }

    /// Remembers how it went with TLS, and tells of clear text.
    fn opened(&mut self, mut connection: Connection, fallback: &Fallback) -> Connection {
        let (host, address, now) = (&self.host, self.address, self.dialer.instant());
        if connection.is_encrypted() {
            self.dialer.quirks.tls_worked(host, address, now);
        } else if let Some(why) = fallback.why().cloned().or_else(|| connection.starttls_refused()) {
            tracing::info!(%host, %address, %why, "in clear text: TLS failed");
            self.dialer.quirks.tls_failed(host, address, &why, now);
            self.steps.add(Stage::StartTls, host, describe(&why).to_string(), now);
            connection.goes_in_clear(why);
        }
        connection
    }

    async fn open_with(&mut self, starttls: StartTls) -> Result<Connection, MissingSession> {
        let starttls = self.hop.starttls(starttls);
        let in_clear = |failure| MissingSession { failure, is_encrypted: false };
        let dialed = self.dial().await;
        let stream = dialed.map_err(|fault| in_clear(Failure { stage: Stage::Connect, fault }))?;
        let login = self.hop.login().map_err(in_clear)?;
        let settings = ClientSettings { hostname: self.dialer.settings.hostname.clone(), starttls, login };
        let Dialer { tls: connector, roots, clock, .. } = self.dialer.as_ref();
        let stage = if starttls == StartTls::Implicit { Stage::Tls } else { Stage::StartTls };
        let handshake = Handshake { connector, roots, demand: &self.demand, clock: clock.as_ref(), stage };
        let fresh = Fresh {
            stream,
            host: self.host.clone(),
            address: self.address,
            source: self.source,
            pulse: self.pulse.clone(),
            clock: clock.clone(),
        };
        Connection::establish(fresh, settings, &handshake, &mut self.steps).await
    }

    /// The connection alone. What became of it is remembered of the address, unless it failed for want of something here.
    async fn dial(&mut self) -> Result<BoxStream, Fault> {
        let dialer = self.dialer.clone();
        let (address, ip) = (self.address, self.address.ip());
        let mut dialing = PendingConnection { dialer: &dialer, ip, since: dialer.instant(), is_over: false };
        let connecting = dialer.network.connect(address, self.source);
        let connecting = tokio::time::timeout(dialer.settings.connect_timeout, connecting).await;
        telemetry::CONNECT.add(dialer.instant().saturating_duration_since(dialing.since));
        let (result, connected) = match connecting {
            Err(_) => ("no answer", Err(Fault::Timeout)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => ("no route", Err(Fault::Closed)),
            Ok(Err(error)) => match own_fault(&error, self.source) {
                Some(what) => ("not tried", Err(Fault::Ours(what))),
                None => ("refused", Err(Fault::Closed)),
            },
            Ok(Ok(stream)) => ("connected", Ok(stream)),
        };
        dialing.is_over = true;
        let now = dialer.instant();
        match (result, &connected) {
            ("no route", _) => dialer.address_health.no_route(ip, now),
            (_, Err(Fault::Ours(_))) => {}
            (_, Err(_)) => dialer.address_health.failed(ip, now),
            (_, Ok(_)) => dialer.address_health.answered(ip),
        }
        if connected.is_ok() {
            self.pulse.announce(News::Connected);
        }
        let result = match &connected {
            Err(Fault::Ours(what)) => format!("{address} {result}: {what}"),
            _ => format!("{address} {result}"),
        };
        self.steps.add(Stage::Connect, &self.host, result, now);
        connected
    }
}
