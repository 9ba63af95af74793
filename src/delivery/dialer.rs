//! How connections are made, and what is known of the hosts at their addresses.

use std::sync::Arc;
use std::time::Instant;

use tokio_rustls::TlsConnector;

use super::address_health::AddressHealth;
use super::judged_failure::JudgedFailure;
use super::pace::Paces;
use super::quirks::Quirks;
use super::settings::Settings;
use super::transact::Connection;
use crate::base::clock::{Clock, Timestamp};
use crate::event::cause::Cause;
use crate::net::Network;
use crate::smtp::client_session::{Failure, Fault, Suspicion};
use crate::smtp::extension::{Feature, Features};
use crate::tls::verify::Roots;

/// What it takes to come to a session.
pub(super) struct Dialer {
    pub(super) network: Arc<dyn Network>,
    /// For the handshake, which does not judge the certificate.
    pub(super) tls: TlsConnector,
    /// Who is believed about names.
    pub(super) roots: Roots,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Arc<Settings>,
    pub(super) address_health: AddressHealth,
    pub(super) paces: Arc<Paces>,
    pub(super) quirks: Quirks,
}

impl Dialer {
    /// Time that never jumps.
    pub(super) fn instant(&self) -> Instant {
        self.clock.instant()
    }

    /// The relay's time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Remembers what a host does not support, as its last transaction showed it; what to leave out in the same attempt, if
    /// nothing of the message was taken. `left_out`: what was left out already.
    pub(super) fn without(&self, connection: &Connection, left_out: Features) -> Option<Features> {
        let suspicion = connection.suspicion()?;
        self.suspect(connection, suspicion);
        let is_new = !left_out.cover(suspicion.features);
        (suspicion.may_repeat && is_new).then_some(suspicion.features)
    }

    /// Leaves something out at a host for a while.
    pub(super) fn suspect(&self, connection: &Connection, suspicion: Suspicion) {
        let (host, address, now) = (&connection.host, connection.address, self.instant());
        let news = self.quirks.suspect(host, address, suspicion, now);
        if news != Features::NONE {
            tracing::info!(%host, %address, features = %news, "offered and not supported, it seems; left out for a while");
        }
    }

    /// Tells once a day of a host that breaks the form of replies. It is asked one thing at a time from then on.
    pub(super) fn record_sloppiness(&self, connection: &Connection) {
        let Some(sloppiness) = connection.sloppiness() else { return };
        let (host, address, now) = (&connection.host, connection.address, self.instant());
        let features = Features::from(Feature::Pipelining).and(Feature::Chunking);
        self.quirks.suspect(host, address, Suspicion { features, may_repeat: true }, now);
        if self.quirks.tells(host, address, now) {
            tracing::info!(%host, %address, how = sloppiness.text(), "the host breaks the form of replies; it is understood");
        }
    }

    /// What is not used in a transaction with a host: `left_out` in this attempt, what was learned, what was asked for.
    pub(super) fn avoided(&self, connection: &Connection, left_out: Features, asked: Features) -> Features {
        let learned = self.quirks.avoided(&connection.host, connection.address, self.instant());
        left_out.and(learned).and(asked)
    }

    /// A host that wants TLS, in a session in which that failed: it may have been somebody on the way, so TLS is tried again.
    pub(super) fn missing_tls(&self, judged: JudgedFailure, connection: &Connection) -> JudgedFailure {
        let JudgedFailure { failure, verdict } = &judged;
        let (Some(why), Fault::Reply(reply)) = (connection.in_clear(), &failure.fault) else { return judged };
        if verdict.cause != Cause::TlsRequired {
            return judged;
        }
        self.quirks.try_tls_again(&connection.host, connection.address);
        Failure { stage: failure.stage, fault: Fault::Tls(format!("{why}; {reply}")) }.into()
    }
}
