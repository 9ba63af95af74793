//! Finding a host that answers: the addresses of a destination race for the session (RFC 8305 section 5). The next one
//! is asked when the one before has refused or has been silent for a moment; the first session up to the point before
//! MAIL wins, and the other connections are closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Delivery;
use super::candidates::{Candidate, Candidates};
use super::places::Beside;
use super::security::{Handshake, starttls};
use super::smart_host::Carrier;
use super::steps::Steps;
use super::transact::Connection;
use crate::destination::demand::Demand;
use crate::net::BoxStream;
use crate::queue::claim::Gone;
use crate::smtp::client_session::{ClientSettings, Failure, Fault, Stage, StartTls};

/// How long an address has to take the connection before the next one is asked as well.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long one that took the connection has to come to a session before the next one is asked as well. Some hosts make
/// every client wait a few seconds for the banner.
const PATIENCE_CONNECTED: Duration = Duration::from_secs(2);

/// How connecting ended.
pub(super) enum Connected {
    /// With a session.
    Session(Box<Connection>),
    /// No address is left; [`Candidates::last_failure`] says what the last one did.
    Nobody,
    /// The entry is not to be sent any more.
    Gone(Gone),
}

/// One address in the race.
struct Racer<'a> {
    host: Arc<str>,
    address: SocketAddr,
    source: Option<IpAddr>,
    demand: Arc<Demand>,
    /// The smart host that it belongs to.
    carrier: Option<Arc<Carrier>>,
    /// Set when it has taken the connection.
    has_answered: &'a AtomicBool,
    steps: Steps,
    /// Room for it, if it is not the only one.
    _beside: Option<Beside>,
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

impl Delivery {
    /// Connects to the first candidate that will talk. `permit` is asked before each connection.
    pub(super) async fn connect(
        &self,
        candidates: &mut Candidates,
        mut permit: impl FnMut() -> Result<(), Gone>,
        steps: &mut Steps,
    ) -> Connected {
        // Speaks for the one that started last.
        let has_answered = AtomicBool::new(false);
        let mut racers = FuturesUnordered::new();
        let mut patience_ends = self.parts.clock.instant();
        let mut is_next_due = true;
        loop {
            // Those beside the first one have a bound of their own, since each takes a descriptor.
            let may_race = is_next_due && !racers.is_empty() && candidates.may_race();
            let next = if may_race { candidates.applicant() } else { None };
            let beside = next.and_then(|next| self.places.beside(&next));
            if may_race && beside.is_none() {
                (is_next_due, patience_ends) = (false, self.parts.clock.instant() + PATIENCE);
            }
            if is_next_due && (racers.is_empty() || may_race) {
                let Some(Candidate { host, address, source, demand }) = candidates.next() else {
                    return Connected::Nobody;
                };
                if let Err(gone) = permit() {
                    return Connected::Gone(gone);
                }
                has_answered.store(false, Ordering::Relaxed);
                let steps = Steps::new(self.parts.clock.instant());
                let (carrier, has_answered) = (candidates.carrier.clone(), &has_answered);
                racers.push(self.race(Racer {
                    host,
                    address,
                    source,
                    demand,
                    carrier,
                    has_answered,
                    steps,
                    _beside: beside,
                }));
                (is_next_due, patience_ends) = (false, self.parts.clock.instant() + PATIENCE);
            }
            tokio::select! {
                biased;
                Some((racer, result)) = racers.next() => {
                    steps.absorb(racer.steps);
                    match result {
                        Ok(connection) => return Connected::Session(Box::new(connection)),
                        Err(failure) => {
                            tracing::debug!(host = %racer.host, stage = failure.stage.name(), "no session");
                            candidates.failed(racer.host, failure);
                        }
                    }
                    is_next_due = true;
                }
                () = tokio::time::sleep_until(patience_ends.into()), if !is_next_due && candidates.may_race() => {
                    if has_answered.swap(false, Ordering::Relaxed) {
                        patience_ends += PATIENCE_CONNECTED;
                    } else {
                        is_next_due = true;
                    }
                }
            }
        }
    }

    async fn race<'a>(&self, mut racer: Racer<'a>) -> (Racer<'a>, Result<Connection, Failure>) {
        let result = self.open(&mut racer).await;
        if let Err(failure) = &result {
            racer.steps.add_failure(failure, &racer.host, self.parts.clock.instant());
        }
        (racer, result)
    }

    /// A session with one address. Where the handshake fails and nothing forbids clear text, a second connection goes
    /// without TLS (RFC 3207 section 4.1 leaves it to the client; RFC 7435 section 3).
    async fn open(&self, racer: &mut Racer<'_>) -> Result<Connection, Failure> {
        match self.open_with(racer, starttls(&racer.demand)).await {
            Err(Failure { stage: Stage::StartTls, fault: Fault::Tls(error) }) if racer.demand.allows_clear_text() => {
                tracing::info!(host = %racer.host, address = %racer.address, error, "TLS failed; going on in clear text");
                self.open_with(racer, StartTls::Never).await
            }
            result => result,
        }
    }

    async fn open_with(&self, racer: &mut Racer<'_>, starttls: StartTls) -> Result<Connection, Failure> {
        let stream = self.dial(racer).await.map_err(|fault| Failure { stage: Stage::Connect, fault })?;
        let login = racer.carrier.as_ref().map_or(Ok(None), |carrier| carrier.login())?;
        let settings = ClientSettings { hostname: self.settings.hostname.clone(), starttls, login };
        let host = (racer.host.clone(), racer.address, racer.source);
        let (connector, roots, clock) = (&self.parts.tls, &self.parts.roots, &self.parts.clock);
        let handshake = Handshake { connector, roots, demand: &racer.demand, clock: clock.as_ref() };
        Connection::establish(stream, host, settings, &handshake, clock.clone(), &mut racer.steps).await
    }

    /// The connection alone. What became of it is remembered of the address.
    async fn dial(&self, racer: &mut Racer<'_>) -> Result<BoxStream, Fault> {
        let (address, ip) = (racer.address, racer.address.ip());
        let mut dialing = Dialing { delivery: self, ip, since: self.parts.clock.instant(), is_over: false };
        let connecting = self.parts.network.connect(address, racer.source);
        let (result, connected) = match tokio::time::timeout(self.settings.connect_timeout, connecting).await {
            Err(_) => ("no answer", Err(Fault::Timeout)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => ("no route", Err(Fault::Closed)),
            Ok(Err(_)) => ("refused", Err(Fault::Closed)),
            Ok(Ok(stream)) => ("connected", Ok(stream)),
        };
        dialing.is_over = true;
        let now = self.parts.clock.instant();
        match (result, &connected) {
            ("no route", _) => self.reach.no_route(ip, now),
            (_, Err(_)) => self.reach.failed(ip, now),
            (_, Ok(_)) => self.reach.answered(ip),
        }
        racer.has_answered.fetch_or(connected.is_ok(), Ordering::Relaxed);
        racer.steps.add(Stage::Connect, &racer.host, format!("{address} {result}"), now);
        connected
    }
}
