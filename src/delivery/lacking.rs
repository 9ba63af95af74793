//! What a failed transaction says of the host, and who may be tried then.

use super::judged_failure::JudgedFailure;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage};

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
/// content has been sent, nor where hosts greylist, for whom the next host begins to count anew.
pub(super) fn next_host_may_do(JudgedFailure { failure, verdict }: &JudgedFailure) -> bool {
    match &failure.fault {
        Fault::Reply(_) | Fault::Tls(_) => failure.stage != Stage::Content && verdict.action.next_mx,
        Fault::Unsupported(_) => is_lacking(failure),
        Fault::Timeout | Fault::Closed | Fault::Malformed(_) | Fault::Ours(_) => false,
    }
}
