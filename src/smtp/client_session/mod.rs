//! The client's side of an SMTP session (RFC 5321, 2920, 3030, 3207, 4954) without a socket: replies in, commands and steps
//! out. One recipient a transaction; several transactions one after the other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::extension::Extensions;
use super::reply::{Reply, ReplyReader, Severity, Sloppiness};

mod auth;
mod commands;
mod outcome;
mod suspicion;
mod talk;
mod transaction;

pub(crate) use auth::Derivation;
use auth::Exchange;
pub use auth::{Account, Login};
pub(crate) use outcome::Requirement;
pub use outcome::{Failure, Fault, Outcome, Stage};
pub(crate) use suspicion::Suspicion;
pub use talk::{Bdat, ClientSettings, EightBit, Event, Framing, StartTls, Step, Transaction, Trust};

/// After how long without the banner, or a reply to EHLO or STARTTLS, a host counts as slow; likewise the handshake.
pub(crate) const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// The same for the replies to MAIL, RCPT, DATA and AUTH.
pub(crate) const COMMAND_PATIENCE: Duration = Duration::from_secs(20);
/// How long each of them may take at most (RFC 5321 section 4.5.3.2).
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
/// Replies remembered for [`ClientSession::take_heard`].
const HEARD_MAX: usize = 16;
/// How long the reply to NOOP may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long each write may take, and a reply on which nothing depends any more.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Auth,
    Ready,
    /// The reply to NOOP is due.
    Probe,
    /// Replies to the commands of a transaction are due.
    Transaction,
    /// The content is being written.
    Sending,
    /// The reply to QUIT is due, which shows that the one before it was the verdict on the content.
    Confirming,
    Over,
}

/// What is to be sent. May hold a password, so nothing of it is shown.
#[derive(Default)]
struct Output(Vec<u8>);

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets", self.0.len())
    }
}

/// One session with one server.
#[derive(Debug)]
pub struct ClientSession {
    settings: ClientSettings,
    state: State,
    extensions: Extensions,
    /// Once TLS is on.
    trust: Option<Trust>,
    server_name: String,
    /// How long the last reply to EHLO took.
    ehlo_took: Duration,
    reader: ReplyReader,
    output: Output,
    exchange: Option<Exchange>,
    /// The commands whose replies are due.
    due: VecDeque<Stage>,
    /// Commands to send one by one, where the server does not offer PIPELINING.
    unsent: VecDeque<(Stage, Vec<u8>)>,
    outcome: Option<Outcome>,
    framing: Framing,
    bdat: Bdat,
    /// The commands of the transaction go in one write.
    pipelines: bool,
    /// Content of the transaction went out, or began to.
    has_sent_content: bool,
    /// The server said yes to content.
    has_taken_content: bool,
    /// A refusal of the content that came before it was sent.
    early: Option<Reply>,
    /// A reply came that is none to what was asked; no later one can be told from it.
    is_out_of_step: bool,
    /// STARTTLS was refused, and the session goes on in clear text.
    starttls_refused: Option<Reply>,
    suspicion: Option<Suspicion>,
    /// Replies beyond those that were due, while the verdict is confirmed.
    unasked: u32,
    final_timeout: Duration,
    needs_reset: bool,
    transactions: u32,
    /// Since when what is due now is waited for, and until when.
    since: Instant,
    timer: Instant,
    /// The replies since they were last asked for, each with what it answers; of long ones the first line.
    heard: Vec<(Stage, Reply)>,
}

impl ClientSession {
    /// A session that waits for the banner.
    pub fn new(settings: ClientSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Banner,
            extensions: Extensions::default(),
            trust: None,
            server_name: String::new(),
            ehlo_took: Duration::ZERO,
            reader: ReplyReader::default(),
            output: Output::default(),
            exchange: None,
            due: VecDeque::new(),
            unsent: VecDeque::new(),
            outcome: None,
            framing: Framing::Dotted,
            bdat: Bdat::AtOnce,
            final_timeout: REPLY_TIMEOUT,
            pipelines: false,
            has_sent_content: false,
            has_taken_content: false,
            early: None,
            is_out_of_step: false,
            starttls_refused: None,
            suspicion: None,
            unasked: 0,
            needs_reset: false,
            transactions: 0,
            since: now,
            timer: now + REPLY_TIMEOUT,
            heard: Vec::new(),
        }
    }

    /// The replies since the last call, with what each answers; of those with several lines the first.
    pub fn take_heard(&mut self) -> Vec<(Stage, Reply)> {
        std::mem::take(&mut self.heard)
    }

    /// The commands to send before the next step is taken.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output.0)
    }

    /// When [`Event::Timeout`] is due. An idle session has none.
    pub fn deadline(&self) -> Option<Instant> {
        (!matches!(self.state, State::Ready | State::Over)).then_some(self.timer)
    }

    /// What the server is to say next, other than what becomes of the content, and since when that is waited for.
    pub(crate) fn awaited(&self) -> Option<(Stage, Instant)> {
        let stage = match self.state {
            State::Banner | State::Ehlo | State::Helo | State::StartTls | State::Auth | State::Transaction => {
                self.stage()
            }
            State::Handshake | State::Ready | State::Probe | State::Sending | State::Confirming | State::Over => {
                return None;
            }
        };
        (stage != Stage::Content).then_some((stage, self.since))
    }

    /// Whether another transaction can be tried; not beyond what LIMITS names (RFC 9422 section 4.1).
    pub fn is_usable(&self) -> bool {
        self.state == State::Ready && self.extensions.mail_max.is_none_or(|most| self.transactions < most)
    }

    /// Whether TLS is on.
    pub fn is_encrypted(&self) -> bool {
        self.trust.is_some()
    }

    /// What the server offers.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// How the server breaks the form of replies, if it does. Such a one is asked one thing at a time.
    pub(crate) fn sloppiness(&self) -> Option<Sloppiness> {
        self.reader.sloppiness()
    }

    /// What it said to STARTTLS, if it refused that and the session goes on in clear text.
    pub(crate) fn starttls_refused(&self) -> Option<&Reply> {
        self.starttls_refused.as_ref()
    }

    /// What the transaction that failed last lets suspect that the server offers and does not support.
    pub fn suspicion(&self) -> Option<Suspicion> {
        self.suspicion
    }

    /// Transactions begun.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// Says QUIT; the session is over.
    pub fn quit(&mut self) {
        if self.state == State::Ready {
            self.output.0.extend_from_slice(b"QUIT\r\n");
        }
        self.state = State::Over;
    }

    /// Feeds one event and says what comes next.
    pub fn handle(&mut self, event: Event<'_>, now: Instant) -> Step {
        match event {
            Event::Received(bytes) => {
                self.reader.feed(bytes);
                self.read_replies(now)
            }
            Event::TlsEstablished(trust) => {
                self.trust = Some(trust);
                // Before the banner it is the server's turn.
                if self.state == State::Banner {
                    self.wait(REPLY_TIMEOUT, now);
                } else {
                    self.ehlo(now);
                }
                Step::Read
            }
            Event::KeysDerived(keys) => self.keys_derived(&keys, now),
            Event::Transact(transaction) => self.begin(transaction, now),
            Event::Probe => {
                self.state = State::Probe;
                self.wait(PROBE_TIMEOUT, now);
                self.output.0.extend_from_slice(b"NOOP\r\n");
                Step::Read
            }
            Event::ContentSent => {
                self.state = State::Transaction;
                self.due.push_back(Stage::Content);
                self.wait_for_next(now);
                match self.early.take() {
                    Some(early) => self.reply(early, now),
                    None => self.read_replies(now),
                }
            }
            // Later on it is a connection that ended, like any other.
            Event::TlsFailed(error) if self.state == State::Ehlo => self.end(Fault::Tls(error)),
            Event::TlsFailed(_) => self.end(Fault::Closed),
            Event::Closed => self.end(Fault::Closed),
            Event::Timeout => self.end(Fault::Timeout),
        }
    }

    fn read_replies(&mut self, now: Instant) -> Step {
        loop {
            match self.reader.next_reply() {
                Ok(None) => return Step::Read,
                Err(error) => return self.end(Fault::Malformed(error)),
                Ok(Some(reply)) => {
                    let step = self.reply(reply, now);
                    if !matches!(step, Step::Read) {
                        return step;
                    }
                }
            }
        }
    }

    fn reply(&mut self, reply: Reply, now: Instant) -> Step {
        let reply = if self.state == State::Auth { self.without_password(reply) } else { reply };
        // What a server offers is read to its end, and challenges too.
        let reply = match (self.state, reply.severity()) {
            (State::Ehlo, Severity::Success) | (State::Auth, Severity::Intermediate) => reply,
            _ => reply.cut(),
        };
        // Challenges tell people nothing.
        let is_challenge = self.state == State::Auth && reply.severity() == Severity::Intermediate;
        if self.heard.len() < HEARD_MAX && !is_challenge {
            let text = reply.text.split('\n').next().unwrap_or_default().to_owned().into();
            self.heard.push((self.stage(), Reply { code: reply.code, enhanced: reply.enhanced, text }.cut()));
        }
        match self.state {
            State::Banner => match reply.severity() {
                Severity::Success => {
                    self.ehlo(now);
                    Step::Read
                }
                Severity::Intermediate | Severity::Transient | Severity::Permanent => self.end(Fault::Reply(reply)),
            },
            State::Ehlo => self.ehlo_reply(reply, now),
            State::Helo => match reply.severity() {
                Severity::Success => self.greeted(&reply, now),
                Severity::Intermediate | Severity::Transient | Severity::Permanent => self.end(Fault::Reply(reply)),
            },
            State::StartTls => self.starttls_reply(reply, now),
            State::Auth => self.auth_reply(reply, now),
            // Whatever it says of NOOP, it is there, unless it says that it goes.
            State::Probe if reply.code != 421 => {
                self.state = State::Ready;
                Step::Ready
            }
            State::Transaction => self.transaction_reply(reply, now),
            State::Confirming => self.confirming_reply(reply),
            // Nothing was asked: the server closes, or is confused.
            State::Ready | State::Probe | State::Handshake | State::Sending | State::Over => {
                self.end(Fault::Reply(reply))
            }
        }
    }

    fn ehlo(&mut self, now: Instant) {
        self.state = State::Ehlo;
        self.wait(if self.is_encrypted() { self.tls_limit() } else { REPLY_TIMEOUT }, now);
        self.extensions = Extensions::default();
        self.output.0.extend_from_slice(format!("EHLO {}\r\n", self.settings.hostname).as_bytes());
    }

    fn ehlo_reply(&mut self, reply: Reply, now: Instant) -> Step {
        match reply.severity() {
            Severity::Success => {
                self.ehlo_took = now.saturating_duration_since(self.since);
                self.extensions = Extensions::from_ehlo(&reply);
                self.greeted(&reply, now)
            }
            // Whatever it has against EHLO: HELO has no extensions, and so no TLS.
            Severity::Transient | Severity::Permanent
                if reply.code != 421 && !self.is_encrypted() && self.may_go_in_clear() =>
            {
                self.state = State::Helo;
                self.wait(REPLY_TIMEOUT, now);
                self.output.0.extend_from_slice(format!("HELO {}\r\n", self.settings.hostname).as_bytes());
                Step::Read
            }
            Severity::Intermediate | Severity::Transient | Severity::Permanent => self.end(Fault::Reply(reply)),
        }
    }

    /// How long the server may be silent about TLS. Where clear text will do in the end, that is not long, unless the server
    /// took long before.
    fn tls_limit(&self) -> Duration {
        match self.settings.starttls {
            StartTls::IfOffered | StartTls::Expected => GREETING_PATIENCE.max(self.ehlo_took * 2).min(REPLY_TIMEOUT),
            StartTls::Never | StartTls::Required | StartTls::Implicit => REPLY_TIMEOUT,
        }
    }

    /// Whether the session may go on without the TLS that it was begun for.
    fn may_go_in_clear(&self) -> bool {
        matches!(self.settings.starttls, StartTls::Never | StartTls::IfOffered)
    }

    fn greeted(&mut self, reply: &Reply, now: Instant) -> Step {
        reply.text.split(['\n', ' ']).next().unwrap_or_default().clone_into(&mut self.server_name);
        let wants_tls = !self.is_encrypted() && self.settings.starttls != StartTls::Never;
        if wants_tls && self.extensions.starttls {
            self.state = State::StartTls;
            self.wait(self.tls_limit(), now);
            self.output.0.extend_from_slice(b"STARTTLS\r\n");
            return Step::Read;
        }
        if wants_tls && !self.may_go_in_clear() {
            self.state = State::StartTls;
            return self.end(Fault::Unsupported(Requirement::StartTls));
        }
        self.log_in(now)
    }

    fn starttls_reply(&mut self, reply: Reply, now: Instant) -> Step {
        match reply.severity() {
            Severity::Success if self.reader.has_leftover() => {
                // Replies sent in clear text behind the 220 would count as if they had come encrypted.
                self.end(Fault::Tls("the server sent more before the handshake".to_owned()))
            }
            Severity::Success => {
                self.state = State::Handshake;
                self.wait(REPLY_TIMEOUT, now);
                Step::StartTls
            }
            Severity::Intermediate | Severity::Transient | Severity::Permanent
                if reply.code != 421 && self.may_go_in_clear() =>
            {
                self.starttls_refused = Some(reply);
                self.log_in(now)
            }
            Severity::Intermediate | Severity::Transient | Severity::Permanent => self.end(Fault::Reply(reply)),
        }
    }

    /// What the next reply answers.
    fn stage(&self) -> Stage {
        match self.state {
            State::Banner => Stage::Banner,
            State::Ehlo | State::Helo => Stage::Ehlo,
            State::StartTls | State::Handshake => Stage::StartTls,
            State::Auth => Stage::Auth,
            State::Ready | State::Probe | State::Over => Stage::Mail,
            State::Sending | State::Confirming => Stage::Content,
            State::Transaction => self.due.front().copied().unwrap_or(Stage::Mail),
        }
    }

    /// The session is over; if a transaction was under way, with this for its outcome unless it has one.
    fn end(&mut self, fault: Fault) -> Step {
        // The content went out in one write with the commands: whichever reply is missing, it may have been taken.
        let was_sent = self.state == State::Transaction && self.due.contains(&Stage::Content);
        let stage = if was_sent { Stage::Content } else { self.stage() };
        if was_sent && self.is_out_of_step {
            self.outcome = None;
        }
        self.end_at(stage, fault)
    }

    fn end_at(&mut self, stage: Stage, fault: Fault) -> Step {
        let in_transaction = matches!(self.state, State::Transaction | State::Sending | State::Confirming);
        self.state = State::Over;
        if !in_transaction {
            return Step::Failed(Failure { stage, fault });
        }
        let outcome = self.outcome.take().unwrap_or(Err(Failure { stage, fault }));
        self.conclude(outcome)
    }
}
