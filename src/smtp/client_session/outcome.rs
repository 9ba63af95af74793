//! How a transaction or a session ends, and where.

use crate::base::named::named;
use crate::smtp::reply::{Reply, ReplyError};

named! {
    /// Where in the session something happened.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Stage: name {
        /// Before the first byte: DNS, addresses, TCP.
        Connect = "connect",
        /// The server's first reply.
        Banner = "banner",
        /// EHLO or HELO.
        Ehlo = "EHLO",
        /// The handshake, where it comes before the first reply (RFC 8314).
        Tls = "TLS",
        /// STARTTLS and the handshake.
        StartTls = "STARTTLS",
        /// AUTH.
        Auth = "AUTH",
        /// RSET before a transaction.
        Reset = "RSET",
        /// MAIL.
        Mail = "MAIL",
        /// RCPT.
        Rcpt = "RCPT",
        /// DATA.
        Data = "DATA",
        /// The content, from its last byte on: what is sent may have been taken.
        Content = "content",
    }
}

/// How a transaction ended.
pub type Outcome = Result<Reply, Failure>;

/// Why there was no session, or no delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// What.
    pub fault: Fault,
}

impl Failure {
    /// What the server said, if that is what went wrong.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.fault {
            Fault::Reply(reply) => Some(reply),
            Fault::Timeout
            | Fault::Closed
            | Fault::Malformed(_)
            | Fault::Unsupported(_)
            | Fault::Tls(_)
            | Fault::Ours(_) => None,
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server said no; or, where neither was to come, yes or go on.
    Reply(Reply),
    /// No answer in time.
    Timeout,
    /// The connection ended.
    Closed,
    /// What came was no reply.
    Malformed(ReplyError),
    /// The message needs what the server does not offer.
    Unsupported(Requirement),
    /// TLS could not be had.
    Tls(String),
    /// What this machine lacks or forbids: it says nothing of the host.
    Ours(String),
}

/// What a message can need of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// SMTPUTF8 (RFC 6531).
    SmtpUtf8,
    /// REQUIRETLS (RFC 8689), under TLS.
    RequireTls,
    /// A larger SIZE limit (RFC 1870).
    Size,
    /// 8BITMIME (RFC 6152).
    EightBitMime,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// A certificate that was verified, without which no password is sent.
    VerifiedTls,
    /// AUTH with a mechanism that is known here (RFC 4954).
    Login,
    /// That it keeps to the mechanism and proves that it knows the password (RFC 5802).
    ServerProof,
    /// That it asks for fewer rounds of PBKDF2.
    FewerRounds,
}
