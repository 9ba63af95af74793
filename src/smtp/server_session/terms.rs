//! What a session and whoever drives it say to each other.

use std::time::Duration;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::base::named::named;
use crate::mail::address::Mailbox;
use crate::mail::envelope::{Envelope, Recipient};
use crate::smtp::command::Mail;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::ScramVerifier;

/// What a session needs to know of its listener; shared by all sessions.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The name in the banner and the answer to EHLO.
    pub hostname: String,
    /// Octets of content accepted.
    pub message_size_max: u64,
    /// RCPTs accepted in one transaction.
    pub recipients_max: usize,
    /// Whether STARTTLS is offered on a clear-text connection.
    pub starttls: bool,
    /// Least and most of `BY=`; what lies outside is refused with 501.
    pub deliver_by: (Duration, Duration),
    /// Before authentication, for a whole command line.
    pub command_timeout: Duration,
    /// After authentication, between commands and between pieces of content.
    pub idle_timeout: Duration,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            message_size_max: 1 << 20,
            recipients_max: 100,
            starttls: false,
            deliver_by: (Duration::ZERO, Duration::MAX),
            command_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// Who the client is when the connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody yet; MAIL needs AUTH first.
    AuthenticationRequired,
    /// May send without AUTH.
    Trusted,
    /// As that, and whatever name and password it shows are taken, also in clear text: in the sandbox.
    Anybody,
}

/// What the connection knows of itself at its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Whether it may send without AUTH.
    pub access: Access,
    /// Whether TLS is on already (implicit TLS).
    pub encrypted: bool,
    /// Whether the client is on this machine, where AUTH needs no TLS.
    pub loopback: bool,
}

/// What happened, told to the session.
#[derive(Debug)]
pub enum Event<'a> {
    /// Bytes arrived.
    Received(&'a [u8]),
    /// The answer to [`Step::StartTls`].
    TlsEstablished,
    /// The answer to [`Step::CheckPassword`] and [`Step::Proved`].
    Authenticated(Result<(), Reply>),
    /// The answer to [`Step::NeedVerifier`], with a fresh nonce.
    Verifier(ScramVerifier, &'a str),
    /// The answer to [`Step::CheckSender`] and [`Step::CheckRecipient`]; 421 ends the session.
    Checked(Result<(), Reply>),
    /// The answer to [`Step::HandOver`]: what to tell the client.
    HandedOver(Reply),
    /// [`deadline`](super::ServerSession::deadline) passed.
    Timeout,
    /// The relay is shutting down; a message whose content is on its way is still taken.
    Draining,
}

/// What the connection has to do next, after it has sent [`take_output`](super::ServerSession::take_output).
#[derive(Debug)]
pub enum Step {
    /// Read, and feed what arrives.
    Read,
    /// Do the TLS handshake. Nothing that was received before it counts.
    StartTls,
    /// Check a password; `Refused` counts against the client's address.
    CheckPassword {
        /// Who.
        user: String,
        /// With what.
        password: Zeroizing<String>,
    },
    /// Look up what SCRAM needs of this user.
    NeedVerifier {
        /// Who.
        user: String,
    },
    /// A SCRAM exchange ended; `accepted` says how.
    Proved {
        /// Who.
        user: String,
        /// Whether the proof was good.
        accepted: bool,
    },
    /// May this reverse-path be used?
    CheckSender(Box<Mail>),
    /// May mail go to this recipient?
    CheckRecipient(Recipient),
    /// A message is complete.
    HandOver(Box<Submission>),
    /// Send what is left and close.
    Close,
    /// Send what is left, shut the sending side, read a little more without looking at it, and close, so that the
    /// client sees the reply rather than a reset.
    Drain,
}

named! {
    /// What a client is doing, for those who are told of refusals.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Phase: name {
        /// Any command that has no phase of its own, or nothing.
        Command = "command",
        /// EHLO or HELO.
        Ehlo = "ehlo",
        /// STARTTLS, before the handshake.
        StartTls = "starttls",
        /// AUTH, and the exchange behind it.
        Auth = "auth",
        /// MAIL.
        Mail = "mail",
        /// RCPT.
        Rcpt = "rcpt",
        /// DATA.
        Data = "data",
        /// BDAT, and its octets.
        Bdat = "bdat",
        /// The content, and what becomes of it.
        Content = "content",
    }
}

impl Phase {
    /// Of a command line, by its first word.
    pub(super) fn of(line: &[u8]) -> Self {
        let end = line.iter().position(|octet| !octet.is_ascii_alphabetic()).unwrap_or(line.len());
        match line[..end].to_ascii_uppercase().as_slice() {
            b"EHLO" | b"HELO" => Self::Ehlo,
            b"STARTTLS" => Self::StartTls,
            b"AUTH" => Self::Auth,
            b"MAIL" => Self::Mail,
            b"RCPT" => Self::Rcpt,
            b"DATA" => Self::Data,
            b"BDAT" => Self::Bdat,
            _ => Self::Command,
        }
    }
}

/// A reply that says no.
#[derive(Debug)]
pub struct Refused {
    /// To what.
    pub phase: Phase,
    /// What the client hears.
    pub reply: Reply,
    /// To whom mail was meant to go: the one recipient that is refused, or the first of the message that is.
    pub recipient: Option<Mailbox>,
    /// How many more the message has.
    pub more_recipients: usize,
}

/// Whom a refusal is about.
#[derive(Debug)]
pub(super) enum About {
    /// Nobody who could be named.
    Nobody,
    One(Mailbox),
    Message,
}

/// A complete message as it came in.
#[derive(Debug)]
pub struct Submission {
    /// The envelope.
    pub envelope: Envelope,
    /// The content without dot-stuffing.
    pub content: Bytes,
    /// The client's name for itself.
    pub client_name: String,
    /// How it came.
    pub protocol: Protocol,
}

/// How a message came in, for the Received field (RFC 3848, RFC 6531 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// EHLO rather than HELO.
    pub extended: bool,
    /// SMTPUTF8 was asked for.
    pub utf8: bool,
    /// Under TLS.
    pub encrypted: bool,
    /// After AUTH.
    pub authenticated: bool,
    /// Not over SMTP at all, but by an HTTP request.
    pub http: bool,
}

impl Protocol {
    /// The keyword behind `with`.
    pub fn keyword(self) -> &'static str {
        if self.http {
            return "HTTP";
        }
        match (self.utf8, self.extended, self.encrypted, self.authenticated) {
            (true, _, false, false) => "UTF8SMTP",
            (true, _, true, false) => "UTF8SMTPS",
            (true, _, false, true) => "UTF8SMTPA",
            (true, _, true, true) => "UTF8SMTPSA",
            (false, false, ..) => "SMTP",
            (false, true, false, false) => "ESMTP",
            (false, true, true, false) => "ESMTPS",
            (false, true, false, true) => "ESMTPA",
            (false, true, true, true) => "ESMTPSA",
        }
    }
}
