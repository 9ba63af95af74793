//! What a session is told, and what it asks for.

use std::time::Duration;

use super::auth::{Derivation, DerivedKeys, Login};
use super::outcome::{Failure, Outcome};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{DeliverBy, MailParameters, Recipient};
use crate::smtp::extension::Features;

/// Whether STARTTLS is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// Even if it is offered, no: after a handshake failed, or because the configuration says so.
    Never,
    /// If it is offered; a refusal of STARTTLS or EHLO does not end the session.
    IfOffered,
    /// The server is known to have it: the session ends where it is not offered, or refused.
    Expected,
    /// Without it there is no session.
    Required,
    /// There is nothing to start: TLS begins before the first reply (RFC 8314).
    Implicit,
}

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// The name for EHLO.
    pub hostname: String,
    /// Whether STARTTLS is to be used.
    pub starttls: StartTls,
    /// Whom to log in; none: nobody.
    pub login: Option<Login>,
}

/// Who is at the other end of an encrypted session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Whoever answered.
    Unverified,
    /// The host that was meant, as its certificate says.
    Verified,
}

/// Whether content has octets above 127, and what that asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EightBit {
    /// It has none.
    No,
    /// It goes only where 8BITMIME is offered.
    Declared,
    /// It goes as it is; declared where 8BITMIME is offered.
    AsItIs,
}

/// One message for one recipient, as the session needs to know it.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// For MAIL.
    pub reverse_path: ReversePath,
    /// For MAIL, as far as the server offers what they need.
    pub parameters: MailParameters,
    /// For RCPT.
    pub recipient: Recipient,
    /// Octets of content.
    pub size: u64,
    /// Whether the content has octets above 127.
    pub eight_bit: EightBit,
    /// What is not used, whatever the server offers.
    pub avoid: Features,
    /// Whether header fields are in UTF-8, so that only SMTPUTF8 will do.
    pub utf8_fields: bool,
    /// What is left of `BY=`.
    pub deliver_by: Option<DeliverBy>,
    /// How long the reply to the content may take.
    pub final_timeout: Duration,
    /// When a chunk goes, where the server offers CHUNKING.
    pub bdat: Bdat,
}

/// When BDAT and its chunk are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bdat {
    /// With MAIL and RCPT, where the server offers PIPELINING: one round trip.
    AtOnce,
    /// When the replies to MAIL and RCPT are there: until then another host can be asked instead.
    AfterReplies,
}

/// What happened, told to the session.
#[derive(Debug)]
pub enum Event<'a> {
    /// Bytes arrived.
    Received(&'a [u8]),
    /// The handshake asked for by [`Step::StartTls`] succeeded, with this for its result.
    TlsEstablished(Trust),
    /// The keys asked for by [`Step::DeriveKeys`].
    KeysDerived(DerivedKeys),
    /// Begin a transaction; only after [`Step::Ready`] or [`Step::Done`] of a usable session.
    Transact(&'a Transaction),
    /// Ask whether the server is still there; only in an idle session. [`Step::Ready`] says that it is.
    Probe,
    /// The content asked for by [`Step::SendContent`] is written.
    ContentSent,
    /// The peer ended TLS with an alert that says why.
    TlsFailed(String),
    /// The peer closed, or the connection broke.
    Closed,
    /// [`ClientSession::deadline`](super::ClientSession::deadline) passed.
    Timeout,
}

/// What the connection has to do next, after it has sent [`ClientSession::take_output`](super::ClientSession::take_output).
#[derive(Debug)]
pub enum Step {
    /// Read, and feed what arrives.
    Read,
    /// Do the TLS handshake.
    StartTls,
    /// Run this on a thread on which no mail waits.
    DeriveKeys(Derivation),
    /// The session can take a transaction.
    Ready,
    /// Send the content in this form, in one write with the output where that is possible.
    SendContent(Framing),
    /// The transaction ended.
    Done(Outcome),
    /// No session came about, or an idle one ended.
    Failed(Failure),
}

/// The form in which content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Dot-stuffed and ended by the final dot (DATA).
    Dotted,
    /// As it is (BDAT).
    Chunk,
}
