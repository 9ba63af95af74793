//! What a failed transaction says of the host: what it lacks, or offers and does not support, and who may be tried then.

use super::Delivery;
use super::transact::Connection;
use crate::plan::cause::{Cause, of_failure};
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage, Suspicion};
use crate::smtp::extension::{Feature, Features};

impl Delivery {
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
        let (host, address, now) = (&connection.host, connection.address, self.parts.clock.instant());
        let news = self.quirks.suspect(host, address, suspicion, now);
        if news != Features::NONE {
            tracing::info!(%host, %address, features = %news, "offered and not supported, it seems; left out for a while");
        }
    }

    /// Tells once a day of a host that breaks the form of replies. It is asked one thing at a time from then on.
    pub(super) fn note_sloppiness(&self, connection: &Connection) {
        let Some(sloppiness) = connection.sloppiness() else { return };
        let (host, address, now) = (&connection.host, connection.address, self.parts.clock.instant());
        let features = Features::from(Feature::Pipelining).and(Feature::Chunking);
        self.quirks.suspect(host, address, Suspicion { features, may_repeat: true }, now);
        if self.quirks.tells(host, address, now) {
            tracing::info!(%host, %address, how = sloppiness.text(), "the host breaks the form of replies; it is understood");
        }
    }

    /// What is not used in a transaction with a host: `left_out` in this attempt, what was learned, what was asked for.
    pub(super) fn avoided(&self, connection: &Connection, left_out: Features, asked: Features) -> Features {
        let learned = self.quirks.avoided(&connection.host, connection.address, self.parts.clock.instant());
        left_out.and(learned).and(asked)
    }

    /// A host that wants TLS, in a session in which that failed: it may have been somebody on the way, so TLS is tried again.
    pub(super) fn missing_tls(&self, failure: Failure, connection: &Connection) -> Failure {
        let (Some(why), Fault::Reply(reply)) = (connection.in_clear(), &failure.fault) else { return failure };
        if of_failure(&failure).cause != Cause::TlsRequired {
            return failure;
        }
        self.quirks.try_tls_again(&connection.host, connection.address);
        Failure { stage: failure.stage, fault: Fault::Tls(format!("{why}; {reply}")) }
    }
}

/// The host lacks what another host of the destination may have.
pub(super) fn is_lacking(failure: &Failure) -> bool {
    match failure.fault {
        Fault::Unsupported(requirement) => match requirement {
            // RFC 8689 section 4.2.1 asks for that.
            Requirement::RequireTls | Requirement::SmtpUtf8 | Requirement::Size | Requirement::EightBitMime => true,
            Requirement::StartTls
            | Requirement::VerifiedTls
            | Requirement::Login
            | Requirement::ServerProof
            | Requirement::FewerRounds => false,
        },
        Fault::Reply(_) | Fault::Timeout | Fault::Closed | Fault::Malformed(_) | Fault::Tls(_) | Fault::Ours(_) => {
            false
        }
    }
}

/// A reused session that ends before anything came of it is no outcome: the host had closed it.
pub(super) fn is_stale(failure: &Failure) -> bool {
    let before_rcpt = matches!(failure.stage, Stage::Reset | Stage::Mail);
    before_rcpt
        && match &failure.fault {
            // A yes where none was due is one to something that was said before.
            Fault::Reply(reply) => reply.code == 421 || !reply.is_refusal(),
            Fault::Timeout | Fault::Closed | Fault::Malformed(_) => true,
            Fault::Unsupported(_) | Fault::Tls(_) | Fault::Ours(_) => false,
        }
}

/// Silence, noise or a lost connection before the content was sent: another address may do better at once.
pub(super) fn tries_next_address(failure: &Failure) -> bool {
    let before_content = failure.stage != Stage::Content;
    before_content && matches!(failure.fault, Fault::Timeout | Fault::Closed | Fault::Malformed(_))
}

/// The host says that it cannot, not that nobody may: another of the destination can be asked at once. Never where the
/// content has been sent, nor where strangers are made to wait, for whom the next host begins to count anew.
pub(super) fn next_host_may_do(failure: &Failure) -> bool {
    match &failure.fault {
        Fault::Reply(_) | Fault::Tls(_) => failure.stage != Stage::Content && of_failure(failure).action.next_mx,
        Fault::Unsupported(_) => is_lacking(failure),
        Fault::Timeout | Fault::Closed | Fault::Malformed(_) | Fault::Ours(_) => false,
    }
}
