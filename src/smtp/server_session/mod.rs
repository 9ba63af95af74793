//! The server's side of an SMTP session (RFC 5321, 6409) without a socket: bytes and answers in, replies and steps
//! out. It knows the protocol and its own limits; who may send what to whom, it asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use zeroize::Zeroize as _;

use super::command::{Command, CommandError, Mail};
use super::data::DataDecoder;
use super::line::{AUTH_LINE_MAX, COMMAND_LINE_MAX, LineFault, NextLine, next_line};
use super::reply::{self, EnhancedCode, Reply, Severity};
use super::sasl::Exchange;
use crate::mail::address::Mailbox;
use crate::mail::envelope::{Envelope, Recipient};

mod commands;
mod login;
mod terms;
mod transaction;

use commands::command_error;
use terms::About;
pub use terms::{Access, Event, Peer, Phase, Protocol, Refused, SessionSettings, Step, Submission};

/// Errors after which a client is sent away.
const ERRORS_MAX: u32 = 20;
/// Commands before AUTH, or in a row without mail after it, after which a client is sent away; as many more as a
/// message may have recipients.
const IDLE_COMMANDS_MAX: usize = 200;
/// While the relay shuts down, how long content that is on its way may still take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug)]
struct Transaction {
    envelope: Envelope,
    /// What BDAT brought so far.
    content: BytesMut,
    /// None before the first BDAT.
    chunks: Option<Chunks>,
}

/// Content that comes by BDAT.
#[derive(Debug, Clone, Copy)]
struct Chunks {
    /// Octets announced so far.
    announced: u64,
    /// When the last of them is due.
    until: Instant,
}

#[derive(Debug)]
enum State {
    Ready,
    Sasl(Exchange),
    /// MAIL was accepted.
    Mail(Box<Transaction>),
    /// DATA was accepted.
    Content {
        transaction: Box<Transaction>,
        decoder: Box<DataDecoder>,
        until: Instant,
    },
    /// Inside a BDAT chunk: its octets still to come, and whether it is the last.
    Chunk {
        transaction: Box<Transaction>,
        left: u64,
        last: bool,
    },
    /// Reading over a chunk that is refused, then saying why.
    RefusedChunk {
        left: u64,
        transaction: Option<Box<Transaction>>,
        reply: Reply,
    },
    /// An answer is due from outside.
    AwaitTls,
    AwaitAuthentication(Option<Exchange>),
    AwaitSender(Box<Mail>),
    AwaitRecipient(Box<Transaction>, Recipient),
    AwaitHandOver,
    Closed,
}

/// One client's session.
#[derive(Debug)]
pub struct ServerSession {
    settings: Arc<SessionSettings>,
    peer: Peer,
    state: State,
    client_name: Option<String>,
    extended: bool,
    user: Option<String>,
    /// The relay is shutting down; what is on its way may take until then.
    draining: Option<Instant>,
    errors: u32,
    idle_commands: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What the client is doing, and about whom.
    phase: Phase,
    about: About,
    /// The first recipient of the message under way, also once it was refused or handed over, and how many more it has.
    meant_for: Option<(Mailbox, usize)>,
    /// Replies in `output` that say no.
    refused: Vec<Refused>,
    /// When the client began to keep us waiting.
    waiting_since: Instant,
}

impl ServerSession {
    /// A session whose banner is ready to be sent.
    pub fn new(settings: Arc<SessionSettings>, peer: Peer, now: Instant) -> Self {
        let mut session = Self {
            settings,
            peer,
            state: State::Ready,
            client_name: None,
            extended: false,
            user: None,
            draining: None,
            errors: 0,
            idle_commands: 0,
            input: Vec::new(),
            output: Vec::new(),
            phase: Phase::Command,
            about: About::Nobody,
            meant_for: None,
            refused: Vec::new(),
            waiting_since: now,
        };
        session.reply(&Reply::plain(220, format!("{} ESMTP otp-relay", session.settings.hostname)));
        session
    }

    /// The replies to send before the next step is taken.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What was refused since this was last asked.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// What a client that goes away leaves undone: a message that was begun.
    pub(crate) fn left_undone(&self) -> Option<Phase> {
        match &self.state {
            State::Mail(_)
            | State::Content { .. }
            | State::Chunk { .. }
            | State::RefusedChunk { .. }
            | State::AwaitRecipient(..)
            | State::AwaitHandOver => Some(self.phase),
            State::Ready
            | State::Sasl(_)
            | State::AwaitTls
            | State::AwaitAuthentication(_)
            | State::AwaitSender(_)
            | State::Closed => None,
        }
    }

    /// To whom such a message was meant to go: the first recipient, and how many more there are.
    pub(crate) fn meant_for(&self) -> (Option<&Mailbox>, usize) {
        self.meant_for.as_ref().map_or((None, 0), |(first, more)| (Some(first), *more))
    }

    /// When [`Event::Timeout`] is due, and what is then late.
    pub fn deadline(&self) -> (Instant, &'static str) {
        let (due, what) = self.own_deadline();
        (self.draining.map_or(due, |until| until.min(due)), what)
    }

    fn own_deadline(&self) -> (Instant, &'static str) {
        let settings = &self.settings;
        let idle = self.waiting_since + settings.idle_timeout;
        let chunks = match &self.state {
            State::Content { until, .. } => return (idle.min(*until), "content"),
            State::Chunk { transaction, .. } | State::Mail(transaction) => transaction.chunks,
            State::Ready
            | State::Sasl(_)
            | State::RefusedChunk { .. }
            | State::AwaitTls
            | State::AwaitAuthentication(_)
            | State::AwaitSender(_)
            | State::AwaitRecipient(..)
            | State::AwaitHandOver
            | State::Closed => None,
        };
        match chunks {
            Some(chunks) => (idle.min(chunks.until), "content"),
            None if self.may_send() => (idle, "command"),
            None => (self.waiting_since + settings.command_timeout, "command before authentication"),
        }
    }

    /// The user, once authenticated.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether [`Event::Draining`] was told.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Feeds one event and says what comes next.
    pub fn handle(&mut self, event: Event<'_>, now: Instant) -> Step {
        match event {
            Event::Received(bytes) => {
                if matches!(self.state, State::Content { .. } | State::Chunk { .. }) {
                    self.waiting_since = now;
                }
                if self.input.is_empty() && !self.is_awaiting() {
                    return self.consume_directly(bytes, now);
                }
                self.input.extend_from_slice(bytes);
            }
            Event::TlsEstablished => self.tls_established(now),
            Event::Authenticated(result) => {
                if let Some(step) = self.authenticated(result, now) {
                    return step;
                }
            }
            Event::Verifier(verifier, nonce) => {
                if let Some(step) = self.verifier(verifier, nonce) {
                    return step;
                }
            }
            Event::Checked(Err(last)) if last.code == 421 => return self.drain(&last),
            Event::Checked(result) => self.checked(result),
            Event::HandedOver(reply) => {
                self.state = State::Ready;
                self.idle_commands = 0;
                self.reply(&reply);
                self.waiting_since = now;
            }
            Event::Timeout => {
                let is_draining = self.draining.is_some();
                return self.end(if is_draining { &reply::SHUTTING_DOWN } else { &reply::IDLE_TIMEOUT });
            }
            Event::Draining => self.draining = Some(now + DRAIN_TIMEOUT),
        }
        self.consume(now)
    }

    /// Whether content is on its way, or an answer to what the client did, while the relay shuts down.
    fn is_worth_waiting_for(&self) -> bool {
        match &self.state {
            State::Ready | State::Sasl(_) | State::Closed => false,
            State::Mail(transaction) => transaction.chunks.is_some(),
            State::Content { .. } | State::Chunk { .. } | State::RefusedChunk { .. } => true,
            State::AwaitTls
            | State::AwaitAuthentication(_)
            | State::AwaitSender(_)
            | State::AwaitRecipient(..)
            | State::AwaitHandOver => true,
        }
    }

    /// Whether the answer to a step is due.
    fn is_awaiting(&self) -> bool {
        match &self.state {
            State::AwaitTls
            | State::AwaitAuthentication(_)
            | State::AwaitSender(_)
            | State::AwaitRecipient(..)
            | State::AwaitHandOver => true,
            State::Ready
            | State::Sasl(_)
            | State::Mail(_)
            | State::Content { .. }
            | State::Chunk { .. }
            | State::RefusedChunk { .. }
            | State::Closed => false,
        }
    }

    fn may_send(&self) -> bool {
        self.user.is_some() || self.peer.access != Access::AuthenticationRequired
    }

    /// Input that need not be kept is not copied into the session first.
    fn consume_directly(&mut self, bytes: &[u8], now: Instant) -> Step {
        let (used, step) = self.run(bytes, now);
        self.input.extend_from_slice(&bytes[used..]);
        step
    }

    fn consume(&mut self, now: Instant) -> Step {
        let mut input = std::mem::take(&mut self.input);
        let (used, step) = self.run(&input, now);
        input.drain(..used);
        if self.input.is_empty() {
            self.input = input;
        }
        step
    }

    /// Works through `input` until it is used up or something outside is needed; returns the octets used.
    fn run(&mut self, input: &[u8], now: Instant) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let needs_input = !self.can_go_on_without_input();
            let (used, step) = match &self.state {
                State::Closed => return (input.len(), Step::Close),
                // Before the next line is read: how much of it came along with what was waited for makes no difference.
                _ if self.draining.is_some() && !self.is_worth_waiting_for() => {
                    return (input.len(), self.end(&reply::SHUTTING_DOWN));
                }
                _ if rest.is_empty() && needs_input => return (at, Step::Read),
                State::Ready | State::Sasl(_) | State::Mail(_) => self.line(rest, now),
                State::Content { .. } => self.content(rest),
                State::Chunk { .. } | State::RefusedChunk { .. } => self.chunk(rest),
                State::AwaitTls
                | State::AwaitAuthentication(_)
                | State::AwaitSender(_)
                | State::AwaitRecipient(..)
                | State::AwaitHandOver => return (at, Step::Read),
            };
            at += used;
            if let Some(step) = step {
                return (at, step);
            }
            if used == 0 && needs_input {
                return (at, Step::Read);
            }
        }
    }

    /// A chunk of no octets is complete as soon as it is announced.
    fn can_go_on_without_input(&self) -> bool {
        matches!(self.state, State::Chunk { left: 0, .. } | State::RefusedChunk { left: 0, .. })
    }

    fn line(&mut self, input: &[u8], now: Instant) -> (usize, Option<Step>) {
        let limit = if matches!(self.state, State::Sasl(_)) { AUTH_LINE_MAX } else { COMMAND_LINE_MAX };
        match next_line(input, limit) {
            NextLine::Incomplete => (0, None),
            NextLine::Fault(fault) => {
                if !matches!(self.state, State::Sasl(_)) {
                    self.begin(Phase::of(input));
                }
                (input.len(), Some(self.line_fault(fault)))
            }
            NextLine::Line(end) => {
                self.waiting_since = now;
                let step = if matches!(self.state, State::Sasl(_)) {
                    self.sasl_line(&input[..end])
                } else {
                    let injected = &input[end + 2..];
                    self.command_line(&input[..end], !injected.is_empty(), now)
                };
                (end + 2, step)
            }
        }
    }

    /// Nothing behind a fault in the line ends can be trusted to be what the client meant.
    fn line_fault(&mut self, fault: LineFault) -> Step {
        let reply = match fault {
            LineFault::TooLong if matches!(self.state, State::Sasl(_)) => {
                Reply::new(500, EnhancedCode(5, 5, 6), fault.text())
            }
            LineFault::TooLong => Reply::new(500, EnhancedCode(5, 5, 2), fault.text()),
            LineFault::BareCr | LineFault::BareLf | LineFault::Nul => {
                Reply::new(554, EnhancedCode(5, 6, 0), fault.text())
            }
        };
        self.drain(&reply)
    }

    fn command_line(&mut self, line: &[u8], more_follows: bool, now: Instant) -> Option<Step> {
        self.begin(Phase::of(line));
        let parsed = Command::parse(line);
        // Between chunks: nothing else is waited for.
        let may_pass = matches!(parsed, Ok(Command::Quit | Command::Bdat { .. }));
        if self.draining.is_some() && !may_pass {
            return Some(self.refuse_all(&reply::SHUTTING_DOWN));
        }
        self.idle_commands += 1;
        if self.idle_commands > IDLE_COMMANDS_MAX + self.settings.recipients_max {
            return Some(self.refuse_all(&reply::TOO_MANY_ERRORS));
        }
        match parsed {
            Ok(command) => self.command(command, more_follows, now),
            Err(CommandError::ChunkSize) => {
                self.reply(&command_error(CommandError::ChunkSize));
                self.state = State::Closed;
                Some(Step::Drain)
            }
            Err(error) => self.refuse(&command_error(error)),
        }
    }

    /// A command comes; a message that is not under way any more is forgotten.
    fn begin(&mut self, phase: Phase) {
        if !self.in_transaction() {
            self.meant_for = None;
        }
        self.phase = phase;
        // The earlier recipients are not refused with the next.
        self.about = if phase == Phase::Rcpt { About::Nobody } else { About::Message };
    }

    fn in_transaction(&self) -> bool {
        matches!(self.state, State::Mail(_))
    }

    /// The one place where replies are made.
    fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.output);
        if matches!(reply.severity(), Severity::Transient | Severity::Permanent) {
            let (recipient, more_recipients) = match &self.about {
                About::Nobody => (None, 0),
                About::One(mailbox) => (Some(mailbox.clone()), 0),
                About::Message => {
                    let (first, more) = self.meant_for();
                    (first.cloned(), more)
                }
            };
            self.refused.push(Refused { phase: self.phase, reply: reply.clone(), recipient, more_recipients });
        }
    }

    fn say(&mut self, reply: &Reply) -> Option<Step> {
        self.reply(reply);
        None
    }

    /// Says no, and sends away who hears it too often.
    fn refuse(&mut self, reply: &Reply) -> Option<Step> {
        self.reply(reply);
        self.errors += 1;
        if self.errors < ERRORS_MAX {
            return None;
        }
        Some(self.refuse_all(&reply::TOO_MANY_ERRORS))
    }

    /// Ends the session, and not for a command that came.
    fn end(&mut self, reply: &Reply) -> Step {
        if matches!(self.state, State::Ready) {
            // The last command was answered.
            (self.phase, self.about) = (Phase::Command, About::Nobody);
        } else {
            self.about = About::Message;
        }
        self.refuse_all(reply)
    }

    /// Says a last word.
    fn refuse_all(&mut self, reply: &Reply) -> Step {
        self.reply(reply);
        self.state = State::Closed;
        Step::Close
    }

    /// Says a last word to a client that is still sending.
    fn drain(&mut self, reply: &Reply) -> Step {
        self.reply(reply);
        self.state = State::Closed;
        Step::Drain
    }
}

impl Drop for ServerSession {
    /// Input may hold passwords.
    fn drop(&mut self) {
        self.input.zeroize();
    }
}
