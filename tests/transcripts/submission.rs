//! Drives a [`ServerSession`] as a listener would, with answers that depend on names alone.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::mail::envelope::{DeliverByMode, Recipient, Ret};
use otp_relay::testing::smtp::command::Mail;
use otp_relay::testing::smtp::reply::{self, EnhancedCode, Reply};
use otp_relay::testing::smtp::sasl::ScramVerifier;
use otp_relay::testing::smtp::server_session::{
    Access, Event, Peer, ServerSession, SessionSettings, Step, Submission as Message,
};

use super::Player;
use super::script::{Act, Script};

/// The server's part of the nonce in the example of RFC 7677 section 3.
const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
/// The salt of that example, `W22ZaJ0SNY7soEsUEjb6gQ==`.
const SALT: [u8; 16] = *b"\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81";

pub(crate) struct Submission {
    session: ServerSession,
    now: Instant,
    users: Vec<(String, String)>,
    handshake_fails: bool,
    is_over: bool,
    done: Vec<String>,
}

impl Submission {
    pub(crate) fn new(script: &Script) -> Result<Self, String> {
        let mut settings = SessionSettings {
            hostname: "relay.example.com".to_owned(),
            message_size_max: 1000,
            recipients_max: 3,
            starttls: true,
            deliver_by: (Duration::from_secs(5), Duration::from_secs(86_400)),
            command_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
        };
        let mut peer = Peer { access: Access::AuthenticationRequired, encrypted: false, loopback: false };
        let (mut users, mut handshake_fails, mut is_greeted) = (Vec::new(), false, false);
        for setting in &script.settings {
            match setting.split(' ').collect::<Vec<_>>().as_slice() {
                ["encrypted"] => peer.encrypted = true,
                ["loopback"] => peer.loopback = true,
                ["trusted"] => peer.access = Access::Trusted,
                ["without", "STARTTLS"] => settings.starttls = false,
                ["recipients", "at", "most", count] => settings.recipients_max = count.parse().map_err(|_| setting)?,
                ["user", name, password] => users.push(((*name).to_owned(), (*password).to_owned())),
                ["handshake", "fails"] => handshake_fails = true,
                ["greeted"] => is_greeted = true,
                ["whole", "pieces", "only"] => {}
                _ => return Err(format!("unknown setting: {setting}")),
            }
        }
        let now = SystemClock::default().instant();
        let session = ServerSession::new(Arc::new(settings), peer, now);
        let mut player = Self { session, now, users, handshake_fails, is_over: false, done: Vec::new() };
        player.say();
        if is_greeted {
            player.feed(Event::Received(b"EHLO client.example\r\n"));
            player.done.clear();
        }
        Ok(player)
    }

    fn say(&mut self) {
        let output = self.session.take_output();
        self.done.extend(lines("S", &output));
    }

    /// Feeds an event and answers every step until the session wants to read.
    fn feed(&mut self, event: Event<'_>) {
        let mut step = self.session.handle(event, self.now);
        loop {
            self.say();
            let Some(answer) = self.answer(step) else { return };
            step = self.session.handle(answer, self.now);
        }
    }

    fn answer(&mut self, step: Step) -> Option<Event<'static>> {
        match step {
            Step::Read => None,
            Step::StartTls => {
                self.done.push("= handshake".to_owned());
                self.is_over = self.handshake_fails;
                (!self.is_over).then_some(Event::TlsEstablished)
            }
            Step::CheckPassword { user, password } => {
                let is_right = self.users.iter().any(|known| *known == (user.clone(), password.to_string()));
                Some(Event::Authenticated(if is_right { Ok(()) } else { Err(reply::BAD_CREDENTIALS) }))
            }
            Step::NeedVerifier { user } => {
                let password = self.users.iter().find(|known| known.0 == user).map_or("", |known| &known.1);
                let iterations = NonZeroU32::new(4096).unwrap();
                Some(Event::Verifier(ScramVerifier::derive(password, &SALT, iterations), NONCE))
            }
            Step::Proved { user, accepted } => {
                let is_right = accepted && self.users.iter().any(|known| known.0 == user);
                Some(Event::Authenticated(if is_right { Ok(()) } else { Err(reply::BAD_CREDENTIALS) }))
            }
            Step::CheckSender(mail) => Some(Event::Checked(check_sender(&mail))),
            Step::CheckRecipient(recipient) => Some(Event::Checked(check_recipient(&recipient))),
            Step::HandOver(message) => {
                self.done.push(describe(&message));
                Some(Event::HandedOver(Reply::new(250, EnhancedCode(2, 0, 0), "queued id=TEST")))
            }
            Step::Close => self.over("= closed"),
            Step::Drain => self.over("= drained"),
        }
    }

    fn over(&mut self, how: &str) -> Option<Event<'static>> {
        self.done.push(how.to_owned());
        self.is_over = true;
        None
    }
}

impl Player for Submission {
    fn act(&mut self, act: Act<'_>) -> Result<(), String> {
        match act {
            Act::Arrive(octets) => self.feed(Event::Received(octets)),
            Act::Wait(span) => {
                self.now += span;
                if self.session.deadline().0 <= self.now {
                    self.feed(Event::Timeout);
                }
            }
            Act::Outside("drain") => self.feed(Event::Draining),
            Act::Outside(what) | Act::Message(what) => return Err(format!("cannot happen here: {what}")),
        }
        Ok(())
    }

    fn take_done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

fn check_sender(mail: &Mail) -> Result<(), Reply> {
    match mail.reverse_path.mailbox() {
        Some(sender) if sender.local_part() == "not-allowed" => {
            Err(Reply::new(550, EnhancedCode(5, 7, 1), "allowed senders: *@shop.example"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_recipient(recipient: &Recipient) -> Result<(), Reply> {
    let is_refused = recipient.mailbox.domain() == "refused.example";
    if is_refused { Err(Reply::new(550, EnhancedCode(5, 1, 2), "no such domain")) } else { Ok(()) }
}

/// `M: <reverse-path> parameters to <recipient> parameters, protocol from client, octets: content`.
fn describe(message: &Message) -> String {
    let envelope = &message.envelope;
    let parameters = &envelope.parameters;
    let mut text = format!("M: <{}>", envelope.reverse_path.as_str());
    for (is_set, keyword) in [
        (parameters.eight_bit, " BODY=8BITMIME"),
        (parameters.smtputf8, " SMTPUTF8"),
        (parameters.require_tls, " REQUIRETLS"),
        (parameters.ret == Some(Ret::Full), " RET=FULL"),
        (parameters.ret == Some(Ret::Headers), " RET=HDRS"),
    ] {
        text.push_str(if is_set { keyword } else { "" });
    }
    text.extend(parameters.envid.iter().map(|envid| format!(" ENVID={envid}")));
    text.extend(parameters.deliver_by.iter().map(|by| {
        let mode = if by.mode == DeliverByMode::Return { "R" } else { "N" };
        format!(" BY={};{mode}{}", by.seconds, if by.trace { "T" } else { "" })
    }));
    text.extend(parameters.priority.iter().map(|priority| format!(" MT-PRIORITY={priority}")));
    text.push_str(" to");
    for recipient in &envelope.recipients {
        text.push_str(&format!(" <{}>", recipient.mailbox));
        text.extend(recipient.notify.iter().map(|notify| format!(" NOTIFY={}", notify.keyword())));
        text.extend(recipient.orcpt.iter().map(|orcpt| format!(" ORCPT={orcpt}")));
    }
    let content = message.content.escape_ascii();
    let protocol = message.protocol.keyword();
    format!("{text}, {protocol} from {}, {} octets: {content}", message.client_name, message.content.len())
}

/// What goes over the wire, line by line; what is no line says so.
pub(crate) fn lines(tag: &str, octets: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(octets);
    let whole = |line: &str| match line.strip_suffix("\r\n") {
        Some(line) => format!("{tag}: {line}"),
        None => format!("{tag}: {line:?} without CRLF"),
    };
    text.split_inclusive('\n').map(whole).collect()
}
