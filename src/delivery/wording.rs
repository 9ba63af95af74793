//! What went wrong, in words.

use std::sync::Arc;

use crate::smtp::client_session::{Failure, Fault, Requirement};

/// A failure, for people. A reply about a message is to be masked first.
pub(super) fn describe(failure: &Failure) -> Arc<str> {
    let stage = failure.stage.name();
    let text = match &failure.fault {
        Fault::Reply(reply) if !reply.is_refusal() => format!("{reply}, which is no answer to {stage}"),
        Fault::Reply(reply) => reply.to_string(),
        Fault::Timeout => format!("no answer at {stage}"),
        Fault::Closed => format!("connection lost at {stage}"),
        Fault::Malformed(error) => format!("{error} at {stage}"),
        Fault::Tls(error) => format!("TLS: {error}"),
        Fault::Unsupported(requirement) => lacking(*requirement).to_owned(),
        Fault::Ours(what) => what.clone(),
    };
    text.into()
}

fn lacking(requirement: Requirement) -> &'static str {
    match requirement {
        Requirement::SmtpUtf8 => "the host does not offer SMTPUTF8, which the addresses need",
        Requirement::RequireTls => "the host does not offer REQUIRETLS",
        Requirement::Size => "the message is larger than the host accepts",
        Requirement::EightBitMime => "the host does not offer 8BITMIME",
        Requirement::StartTls => "the host does not offer STARTTLS",
        Requirement::VerifiedTls => "the password is only for a host with a verified certificate",
        Requirement::Login => "the host offers no AUTH mechanism that is known here",
        Requirement::ServerProof => "the host does not keep to its AUTH mechanism",
        Requirement::FewerRounds => "the host asks for more than 1,000,000 rounds of PBKDF2 at AUTH",
    }
}
