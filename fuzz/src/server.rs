//! A listener without sockets: answers what a session asks, by names alone, and checks what it does.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::smtp::client_name::{NAME_LEN_MAX, received_from};
use otp_relay::testing::smtp::data::line_fault;
use otp_relay::testing::smtp::reply::{self, EnhancedCode, Reply, parse_reply};
use otp_relay::testing::smtp::server_session::{Access, Event, Peer, ServerSession, SessionSettings, Step, Submission};

use crate::{Mark, parts, pieces, scram};

const MESSAGE_SIZE_MAX: usize = 100;
const RECIPIENTS_MAX: usize = 3;

/// What a session did.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    /// All it said until something else happened.
    Said(String),
    /// What it handed over, as text.
    HandedOver(String),
    /// It wants no more.
    Over,
}

/// How a connection begins; one bit each.
#[derive(Clone, Copy)]
pub struct Beginning(pub u8);

impl Beginning {
    fn has(self, bit: u8) -> bool {
        self.0 & (1 << bit) != 0
    }

    fn peer(self) -> Peer {
        let access = if self.has(0) { Access::Trusted } else { Access::AuthenticationRequired };
        Peer { access, encrypted: self.has(1), loopback: self.has(2) }
    }

    /// Whether STARTTLS is offered. What happens then depends on what arrives in one piece with it, and has to.
    pub fn offers_starttls(self) -> bool {
        self.has(3)
    }
}

/// Plays a script, in which marks stand for what happens between its parts; see [`parts`].
pub fn play(beginning: Beginning, script: &[u8], seed: u8) -> Vec<Deed> {
    let mut listener = Listener::new(beginning);
    for (text, mark) in parts(script) {
        for piece in pieces(text, seed) {
            listener.feed(Event::Received(piece));
        }
        match mark {
            None | Some(Mark::Go) => {}
            // Only while the session waits for the client, and only once.
            Some(_) if listener.is_over => {}
            Some(Mark::Timeout) => listener.feed(Event::Timeout),
            Some(Mark::End) => listener.feed(Event::Draining),
        }
    }
    listener.deeds
}

struct Listener {
    session: ServerSession,
    now: Instant,
    beginning: Beginning,
    is_encrypted: bool,
    user: Option<String>,
    /// The sender that was accepted, and the recipients since.
    transaction: Option<(ReversePath, Vec<Mailbox>)>,
    is_over: bool,
    deeds: Vec<Deed>,
}

impl Listener {
    fn new(beginning: Beginning) -> Self {
        let settings = SessionSettings {
            hostname: "relay.example.com".to_owned(),
            message_size_max: MESSAGE_SIZE_MAX as u64,
            recipients_max: RECIPIENTS_MAX,
            starttls: beginning.offers_starttls(),
            deliver_by: (Duration::from_secs(5), Duration::from_secs(86_400)),
            command_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
        };
        let now = SystemClock::default().instant();
        let peer = beginning.peer();
        let session = ServerSession::new(Arc::new(settings), peer, now);
        let is_encrypted = peer.encrypted;
        Self { session, now, beginning, is_encrypted, user: None, transaction: None, is_over: false, deeds: Vec::new() }
    }

    fn feed(&mut self, event: Event<'_>) {
        let mut step = self.session.handle(event, self.now);
        loop {
            self.say();
            if self.is_over {
                assert!(matches!(step, Step::Close), "{step:?} behind the end");
                return;
            }
            assert!(self.session.deadline().0 > self.now);
            let Some(answer) = self.answer(step) else { return };
            step = self.session.handle(answer, self.now);
        }
    }

    fn say(&mut self) {
        let output = self.session.take_output();
        if output.is_empty() {
            return;
        }
        assert!(!self.is_over, "something was said behind the end");
        check_replies(&output);
        let output = String::from_utf8_lossy(&output);
        match self.deeds.last_mut() {
            Some(Deed::Said(said)) => said.push_str(&output),
            _ => self.deeds.push(Deed::Said(output.into_owned())),
        }
    }

    fn answer(&mut self, step: Step) -> Option<Event<'static>> {
        match step {
            Step::Read => None,
            Step::StartTls => {
                assert!(self.beginning.offers_starttls() && !self.is_encrypted);
                (self.is_encrypted, self.user, self.transaction) = (true, None, None);
                Some(Event::TlsEstablished)
            }
            Step::CheckPassword { user, password } => {
                let is_right = password.as_str() == scram::PASSWORD;
                Some(self.authenticated(user, is_right))
            }
            Step::NeedVerifier { .. } => Some(Event::Verifier(scram::verifier(), scram::NONCE)),
            Step::Proved { user, accepted } => Some(self.authenticated(user, accepted)),
            Step::CheckSender(mail) => {
                self.transaction = None;
                let is_good = !mail.reverse_path.as_str().contains("refused");
                if is_good {
                    self.transaction = Some((mail.reverse_path, Vec::new()));
                }
                Some(checked(is_good))
            }
            Step::CheckRecipient(recipient) => {
                let is_good = !recipient.mailbox.as_str().contains("refused");
                let transaction = self.transaction.as_mut().expect("a recipient without a sender");
                if is_good {
                    transaction.1.push(recipient.mailbox);
                }
                Some(checked(is_good))
            }
            Step::HandOver(message) => {
                self.check_message(&message);
                self.deeds.push(Deed::HandedOver(format!("{message:?} {:?}", message.content)));
                Some(Event::HandedOver(Reply::new(250, EnhancedCode(2, 0, 0), "id=TEST")))
            }
            Step::Close | Step::Drain => {
                self.is_over = true;
                self.deeds.push(Deed::Over);
                None
            }
        }
    }

    fn authenticated(&mut self, user: String, is_right: bool) -> Event<'static> {
        assert!(self.user.is_none() && !user.is_empty());
        assert!(self.is_encrypted || self.beginning.peer().loopback, "a password in clear text");
        self.user = is_right.then_some(user);
        Event::Authenticated(if is_right { Ok(()) } else { Err(reply::BAD_CREDENTIALS) })
    }

    fn check_message(&mut self, message: &Submission) {
        let envelope = &message.envelope;
        assert!(self.user.is_some() || self.beginning.peer().access == Access::Trusted, "relaying for a stranger");
        assert_eq!(self.session.user(), self.user.as_deref());
        assert_eq!(message.protocol.authenticated, self.user.is_some());
        assert_eq!(message.protocol.encrypted, self.is_encrypted);
        assert!(self.is_encrypted || !envelope.parameters.require_tls);
        let (sender, recipients) = self.transaction.take().expect("a message without a transaction");
        assert_eq!(envelope.reverse_path, sender);
        assert_eq!(envelope.recipients.iter().map(|to| to.mailbox.clone()).collect::<Vec<_>>(), recipients);
        assert!((1..=RECIPIENTS_MAX).contains(&recipients.len()));
        assert!(message.content.len() <= MESSAGE_SIZE_MAX);
        assert_eq!(line_fault(&message.content), None);
        let name = &message.client_name;
        assert!((1..=NAME_LEN_MAX).contains(&name.len()) && !name.contains(|c: char| c.is_ascii_control()));
        let shown = received_from(name, Ipv4Addr::LOCALHOST.into());
        assert!(
            shown.bytes().all(|octet| (b' '..=b'~').contains(&octet)) && shown.matches([' ', '(', ')']).count() == 3
        );
        let all = recipients.iter().map(Mailbox::as_str).chain([sender.as_str()]);
        assert!(envelope.parameters.smtputf8 || all.into_iter().all(str::is_ascii));
    }
}

fn checked(is_good: bool) -> Event<'static> {
    Event::Checked(if is_good { Ok(()) } else { Err(Reply::new(550, EnhancedCode(5, 7, 1), "no")) })
}

/// Output is whole replies, of whole lines, of one code each.
fn check_replies(output: &[u8]) {
    assert_eq!(line_fault(output), None);
    for line in output.split_inclusive(|octet| *octet == b'\n') {
        assert!(line.len() <= 512 && line.ends_with(b"\r\n"));
        assert!(line[..3].iter().all(u8::is_ascii_digit) && matches!(line[3], b' ' | b'-'));
        assert!(!line[..line.len() - 2].iter().any(u8::is_ascii_control));
    }
    let mut rest = output;
    while !rest.is_empty() {
        let (reply, used) = parse_reply(rest).expect("a reply").expect("a whole reply");
        assert!((200..600).contains(&reply.code));
        rest = &rest[used..];
    }
}
