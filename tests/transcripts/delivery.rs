//! Drives a [`ClientSession`] as a worker would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use otp_relay::testing::base::clock::{Clock as _, SystemClock};
use otp_relay::testing::mail::envelope::Recipient;
use otp_relay::testing::smtp::client_session::{
    Account, Bdat, ClientSession, ClientSettings, EightBit, Event, Failure, Fault, Framing, Login, StartTls, Step,
    Transaction, Trust,
};
use otp_relay::testing::smtp::command::{Command, Mail};
use otp_relay::testing::smtp::extension::{Feature, Features};

use super::Player;
use super::script::{Act, Script};
use super::submission::lines;

/// What comes of a handshake.
enum Handshake {
    Succeeds(Trust),
    Fails,
    Stalls,
}

pub(crate) struct Delivery {
    session: ClientSession,
    now: Instant,
    mail: Option<Box<Mail>>,
    utf8_fields: bool,
    content_stalls: bool,
    bdat: Bdat,
    avoid: Features,
    /// What becomes of 8-bit content where 8BITMIME is not offered.
    eight_bit: EightBit,
    handshake: Handshake,
    is_over: bool,
    done: Vec<String>,
}

impl Delivery {
    pub(crate) fn new(script: &Script) -> Result<Self, String> {
        let (hostname, starttls) = ("relay.example.com".to_owned(), StartTls::IfOffered);
        let mut settings = ClientSettings { hostname, starttls, login: None };
        let mut handshake = Handshake::Succeeds(Trust::Unverified);
        let (mut utf8_fields, mut content_stalls) = (false, false);
        let (mut avoid, mut eight_bit) = (Features::NONE, EightBit::AsItIs);
        let (mut bdat, mut greeting) = (Bdat::AtOnce, None);
        for setting in &script.settings {
            match setting.split(' ').collect::<Vec<_>>().as_slice() {
                ["STARTTLS", "never"] => settings.starttls = StartTls::Never,
                ["STARTTLS", "expected"] => settings.starttls = StartTls::Expected,
                ["avoid", keyword] => {
                    let feature = Feature::ALL.into_iter().find(|feature| feature.keyword() == *keyword);
                    avoid = avoid.and(feature.ok_or("avoid what?")?);
                }
                ["8-bit", "only", "declared"] => eight_bit = EightBit::Declared,
                ["STARTTLS", "required"] => settings.starttls = StartTls::Required,
                ["login", user, password] => {
                    let account = Arc::new(Account::new((*user).to_owned(), (*password).to_owned().into()));
                    settings.login = Some(Login { account, nonce: "rOprNGfwEbeRWgbNEkqO".to_owned() });
                }
                ["certificate", "verified"] => handshake = Handshake::Succeeds(Trust::Verified),
                ["header", "in", "UTF-8"] => utf8_fields = true,
                ["content", "stalls"] => content_stalls = true,
                ["BDAT", "after", "the", "replies"] => bdat = Bdat::AfterReplies,
                ["handshake", "fails"] => handshake = Handshake::Fails,
                ["handshake", "stalls"] => handshake = Handshake::Stalls,
                ["greeted", keywords @ ..] => greeting = Some(keywords.join(" ").replace(", ", "\r\n250-")),
                ["whole", "pieces", "only"] => {}
                _ => return Err(format!("unknown setting: {setting}")),
            }
        }
        let now = SystemClock::default().instant();
        let session = ClientSession::new(settings, now);
        let (mail, done) = (None, Vec::new());
        let mut player = Self {
            session,
            now,
            mail,
            utf8_fields,
            content_stalls,
            bdat,
            avoid,
            eight_bit,
            handshake,
            is_over: false,
            done,
        };
        if let Some(keywords) = greeting {
            let greeting = format!("220 mx.example.net\r\n250-mx.example.net\r\n250-{keywords}\r\n250 X-LAST\r\n");
            player.feed(Event::Received(greeting.as_bytes()));
            player.done.clear();
        }
        Ok(player)
    }

    /// Feeds an event and answers every step until the session wants to read.
    fn feed(&mut self, event: Event<'_>) {
        let mut step = self.session.handle(event, self.now);
        loop {
            self.done.extend(lines("C", &self.session.take_output()));
            let Some(answer) = self.answer(step) else { return };
            step = self.session.handle(answer, self.now);
        }
    }

    fn answer(&mut self, step: Step) -> Option<Event<'static>> {
        let done = match step {
            Step::Read => return None,
            Step::Ready => "= ready".to_owned(),
            Step::StartTls => {
                self.done.push("= handshake".to_owned());
                return match self.handshake {
                    Handshake::Succeeds(encryption) => Some(Event::TlsEstablished(encryption)),
                    Handshake::Fails => Some(Event::Closed),
                    Handshake::Stalls => None,
                };
            }
            Step::DeriveKeys(derivation) => {
                self.done.push(format!("= derive {} rounds", derivation.rounds()));
                return Some(Event::KeysDerived(derivation.run()));
            }
            Step::SendContent(framing) => {
                self.done.push(match framing {
                    Framing::Dotted => "C: <content and final dot>".to_owned(),
                    Framing::Chunk => "C: <content>".to_owned(),
                });
                return (!self.content_stalls).then_some(Event::ContentSent);
            }
            Step::Done(Ok(reply)) => format!("= delivered {reply}"),
            Step::Done(Err(failure)) => format!("= failed {}", describe(&failure)),
            Step::Failed(failure) => format!("= no session: {}", describe(&failure)),
        };
        self.done.push(done);
        if let Some(suspicion) = self.session.suspicion() {
            let when = if suspicion.may_repeat { "at once" } else { "later" };
            self.done.push(format!("= without {} {when}", suspicion.features));
        }
        if !self.session.is_usable() {
            self.over();
        }
        None
    }

    fn over(&mut self) {
        self.done.push("= over".to_owned());
        self.is_over = true;
    }

    fn begin(&mut self, recipient: Recipient) -> Result<(), String> {
        let mail = self.mail.take().ok_or("M: RCPT before M: MAIL")?;
        let transaction = Transaction {
            reverse_path: mail.reverse_path,
            recipient,
            size: mail.size.unwrap_or(57),
            eight_bit: if mail.parameters.eight_bit { self.eight_bit } else { EightBit::No },
            avoid: self.avoid,
            utf8_fields: self.utf8_fields,
            deliver_by: mail.parameters.deliver_by,
            final_timeout: Duration::from_secs(120),
            bdat: self.bdat,
            parameters: mail.parameters,
        };
        self.feed(Event::Transact(&transaction));
        Ok(())
    }

    /// `MAIL` and then `RCPT` say what the message is; the latter begins its transaction.
    fn message(&mut self, line: &str) -> Result<(), String> {
        match Command::parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => self.mail = Some(mail),
            Ok(Command::Rcpt(recipient)) => self.begin(recipient)?,
            other => return Err(format!("neither MAIL nor RCPT: {other:?}")),
        }
        Ok(())
    }
}

impl Player for Delivery {
    fn act(&mut self, act: Act<'_>) -> Result<(), String> {
        match act {
            Act::Arrive(octets) => self.feed(Event::Received(octets)),
            Act::Wait(span) => {
                self.now += span;
                if self.session.deadline().is_some_and(|deadline| deadline <= self.now) {
                    self.feed(Event::Timeout);
                }
            }
            Act::Message(line) => self.message(line)?,
            Act::Outside("close") => self.feed(Event::Closed),
            Act::Outside("alert") => self.feed(Event::TlsFailed("alert".to_owned())),
            Act::Outside("quit") => {
                self.session.quit();
                self.done.extend(lines("C", &self.session.take_output()));
                self.over();
            }
            Act::Outside(what) => return Err(format!("cannot happen here: {what}")),
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

/// `stage reply 550 5.1.1 text`, `stage timeout`, `stage closed`, ...
fn describe(failure: &Failure) -> String {
    let fault = match &failure.fault {
        Fault::Reply(reply) => format!("reply {reply}"),
        Fault::Timeout => "timeout".to_owned(),
        Fault::Closed => "closed".to_owned(),
        Fault::Malformed(error) => format!("malformed: {error}"),
        Fault::Ours(what) => what.clone(),
        Fault::Unsupported(requirement) => format!("unsupported {requirement:?}"),
        Fault::Tls(text) => format!("TLS: {text}"),
    };
    format!("{} {fault}", failure.stage.name())
}
