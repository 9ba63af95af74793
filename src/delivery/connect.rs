//! One session with one address, up to the point before MAIL.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Delivery;
use super::pace::{News, Pulse};
use super::security::{Handshake, starttls};
use super::smart_host::Carrier;
use super::steps::Steps;
use super::transact::Connection;
use crate::destination::demand::Demand;
use crate::net::BoxStream;
use crate::smtp::client_session::{ClientSettings, Failure, Fault, Stage, StartTls};

/// How long an address has to take the connection before the next one is asked as well (RFC 8305 section 5).
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// An address to come to a session with.
pub(super) struct Dial {
    pub(super) delivery: Arc<Delivery>,
    pub(super) host: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) demand: Arc<Demand>,
    /// The smart host that it belongs to.
    pub(super) carrier: Option<Arc<Carrier>>,
    pub(super) pulse: Pulse,
    pub(super) steps: Steps,
}

/// A connection being made. Whoever is overtaken by another is not heard of again: it counts as silent.
struct Dialing<'a> {
    delivery: &'a Delivery,
    ip: IpAddr,
    since: std::time::Instant,
    is_over: bool,
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        let now = self.delivery.parts.clock.instant();
        if !self.is_over && now.saturating_duration_since(self.since) >= PATIENCE {
            self.delivery.reach.failed(self.ip, now);
        }
    }
}

impl Dial {
    /// A session. Where the handshake fails and nothing forbids clear text, a second connection goes without TLS
    /// (RFC 3207 section 4.1 leaves it to the client; RFC 7435 section 3).
    pub(super) async fn open(&mut self) -> Result<Box<Connection>, Failure> {
        let result = match self.open_with(starttls(&self.demand)).await {
            Err(Failure { stage: Stage::StartTls, fault: Fault::Tls(error) }) if self.demand.allows_clear_text() => {
                tracing::info!(host = %self.host, address = %self.address, error, "TLS failed; going on in clear text");
                self.open_with(StartTls::Never).await
            }
            result => result,
        };
        if let Err(failure) = &result {
            tracing::debug!(host = %self.host, stage = failure.stage.name(), "no session");
            self.steps.add_failure(failure, &self.host, self.delivery.parts.clock.instant());
        }
        result.map(Box::new)
    }

    async fn open_with(&mut self, starttls: StartTls) -> Result<Connection, Failure> {
        let stream = self.dial().await.map_err(|fault| Failure { stage: Stage::Connect, fault })?;
        let login = self.carrier.as_ref().map_or(Ok(None), |carrier| carrier.login())?;
        let settings = ClientSettings { hostname: self.delivery.settings.hostname.clone(), starttls, login };
        let host = (self.host.clone(), self.address, self.source);
        let parts = &self.delivery.parts;
        let (connector, roots, clock) = (&parts.tls, &parts.roots, &parts.clock);
        let handshake = Handshake { connector, roots, demand: &self.demand, clock: clock.as_ref() };
        let pulse = self.pulse.clone();
        Connection::establish(stream, host, settings, &handshake, pulse, clock.clone(), &mut self.steps).await
    }

    /// The connection alone. What became of it is remembered of the address.
    async fn dial(&mut self) -> Result<BoxStream, Fault> {
        let delivery = self.delivery.clone();
        let (address, ip) = (self.address, self.address.ip());
        let mut dialing = Dialing { delivery: &delivery, ip, since: delivery.parts.clock.instant(), is_over: false };
        let connecting = delivery.parts.network.connect(address, self.source);
        let (result, connected) = match tokio::time::timeout(delivery.settings.connect_timeout, connecting).await {
            Err(_) => ("no answer", Err(Fault::Timeout)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => ("no route", Err(Fault::Closed)),
            Ok(Err(_)) => ("refused", Err(Fault::Closed)),
            Ok(Ok(stream)) => ("connected", Ok(stream)),
        };
        dialing.is_over = true;
        let now = delivery.parts.clock.instant();
        match (result, &connected) {
            ("no route", _) => delivery.reach.no_route(ip, now),
            (_, Err(_)) => delivery.reach.failed(ip, now),
            (_, Ok(_)) => delivery.reach.answered(ip),
        }
        if connected.is_ok() {
            self.pulse.tell(News::Connected);
        }
        self.steps.add(Stage::Connect, &self.host, format!("{address} {result}"), now);
        connected
    }
}
