//! Drives a [`ClientSession`] over a connection: the handshake up to the point before MAIL, and transactions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use zeroize::Zeroize as _;

use super::fallback::{MissingSession, describe};
use super::framing::framed;
use super::pace::{News, Pulse};
use super::places::HeldPlace;
use super::security::{Encryption, Handshake};
use super::steps::Steps;
use super::wire::{Input, Wire};
use crate::base::clock::Clock;
use crate::destination::demand::Demand;
use crate::ledger::entry::SignedContent;
use crate::net::BoxStream;
use crate::smtp::client_session::{
    ClientSession, ClientSettings, Derivation, Event, Failure, Fault, Framing, Outcome, Stage, StartTls, Step,
    Suspicion, Transaction, Trust, WRITE_TIMEOUT,
};
use crate::smtp::extension::Feature;
use crate::smtp::reply::Sloppiness;
use crate::tls::verify::Roots;

/// Refused transactions after which a session is not used again: servers slow down those who make many errors in one
/// session, and a refused transaction is two or three of them.
const REFUSED_MAX: u32 = 2;
/// Who may derive keys for a login now.
static DERIVING: Semaphore = Semaphore::const_new(1);

/// A connection with a session that can take transactions.
pub(super) struct Connection {
    pub(super) host: Arc<str>,
    pub(super) address: SocketAddr,
    /// The address it was made from, if that was chosen.
    pub(super) source: Option<IpAddr>,
    encryption: Option<Encryption>,
    /// Why it is in clear text, if that is because TLS failed.
    in_clear: Option<Arc<str>>,
    wire: Wire,
    session: ClientSession,
    /// Transactions that the server took, and that it refused.
    taken: u32,
    refused: u32,
    /// It was there before there was an entry for it.
    has_rested: bool,
    /// Its place, while it carries an entry.
    held: Option<HeldPlace>,
    /// How it came about, if that was ahead of its first entry, for whose trace it is.
    opening: Option<Steps>,
    /// The race that it is in, if it is in one.
    pulse: Option<Pulse>,
    /// Since when was waited for what its race was told to be slow.
    logged_slow: Option<Instant>,
    clock: Arc<dyn Clock>,
}

/// A TCP connection on which there is no session yet.
pub(super) struct Fresh {
    pub(super) stream: BoxStream,
    pub(super) host: Arc<str>,
    pub(super) address: SocketAddr,
    /// The address it was made from, if that was chosen.
    pub(super) source: Option<IpAddr>,
    pub(super) pulse: Pulse,
    pub(super) clock: Arc<dyn Clock>,
}

/// How far a transaction has come.
pub(super) enum Begun {
    /// The content may go, in this form; not a word of it has gone.
    Content(Framing),
    /// It is over without content.
    Over(Failure),
}

impl Connection {
    /// Takes a new TCP connection up to the point before MAIL.
    pub(super) async fn establish(
        fresh: Fresh,
        settings: ClientSettings,
        handshake: &Handshake<'_>,
        steps: &mut Steps,
    ) -> Result<Self, MissingSession> {
        let begins_encrypted = settings.starttls == StartTls::Implicit;
        let mut connection = Self::new(fresh, settings);
        let mut step = if begins_encrypted { Step::StartTls } else { Step::Read };
        loop {
            step = match step {
                Step::Read => connection.read(steps).await,
                Step::StartTls => {
                    let trust;
                    let encrypted = connection.encrypt(handshake, steps).await;
                    (connection, trust) =
                        encrypted.map_err(|failure| MissingSession { failure, is_encrypted: false })?;
                    let now = connection.clock.instant();
                    connection.session.handle(Event::TlsEstablished(trust), now)
                }
                Step::DeriveKeys(derivation) => connection.derive(derivation).await,
                Step::Ready => return Ok(connection),
                Step::Failed(failure) => {
                    return Err(MissingSession { failure, is_encrypted: connection.is_encrypted() });
                }
                Step::SendContent(_) | Step::Done(_) => {
                    let failure = Failure { stage: Stage::Ehlo, fault: Fault::Closed };
                    return Err(MissingSession { failure, is_encrypted: connection.is_encrypted() });
                }
            };
        }
    }

    fn new(Fresh { stream, host, address, source, pulse, clock }: Fresh, settings: ClientSettings) -> Self {
        Self {
            host,
            address,
            source,
            encryption: None,
            in_clear: None,
            wire: Wire::new(stream),
            session: ClientSession::new(settings, clock.instant()),
            taken: 0,
            refused: 0,
            has_rested: false,
            held: None,
            opening: None,
            pulse: Some(pulse),
            logged_slow: None,
            clock,
        }
    }

    /// Derives keys on a thread on which no mail waits, one at a time: a smart host may ask for other ones in each session.
    async fn derive(&mut self, derivation: Derivation) -> Step {
        let deriving = async {
            let _turn = DERIVING.acquire().await.ok()?;
            tokio::task::spawn_blocking(|| derivation.run()).await.ok()
        };
        let deadline = self.session.deadline().unwrap_or_else(|| self.clock.instant() + WRITE_TIMEOUT);
        let event = match tokio::time::timeout_at(deadline.into(), deriving).await {
            Ok(Some(keys)) => Event::KeysDerived(keys),
            // A panic is a bug of its own.
            Ok(None) => Event::Closed,
            Err(_) => Event::Timeout,
        };
        self.session.handle(event, self.clock.instant())
    }

    async fn encrypt(self, handshake: &Handshake<'_>, steps: &mut Steps) -> Result<(Self, Trust), Failure> {
        let (stream, buffer) = self.wire.into_parts();
        let pulse = self.pulse.as_ref();
        let (stream, encryption) = handshake.run(stream, &self.host, self.address, pulse, steps).await?;
        let trust = encryption.trust();
        Ok((Self { encryption: Some(encryption), wire: Wire::with(stream, buffer), ..self }, trust))
    }

    /// Protocol version, cipher, who verified the host and how; in clear text why, if TLS failed.
    pub(super) fn security(&self) -> Option<Arc<str>> {
        let encryption = self.encryption.as_ref().map(|encryption| encryption.to_string().into());
        encryption.or_else(|| self.in_clear.as_deref().map(describe))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// Why it refused STARTTLS, if it did and the session went on.
    pub(super) fn starttls_refused(&self) -> Option<Arc<str>> {
        self.session.starttls_refused().map(|reply| format!("{reply} to STARTTLS").into())
    }

    /// It is in clear text because TLS failed, for this reason.
    pub(super) fn goes_in_clear(&mut self, why: Arc<str>) {
        self.in_clear = Some(why);
    }

    /// Why it is in clear text, if that is because TLS failed.
    pub(super) fn in_clear(&self) -> Option<&Arc<str>> {
        self.in_clear.as_ref()
    }

    /// What the transaction that failed last lets suspect.
    pub(super) fn suspicion(&self) -> Option<Suspicion> {
        self.session.suspicion()
    }

    /// How the host breaks the form of replies, if it does.
    pub(super) fn sloppiness(&self) -> Option<Sloppiness> {
        self.session.sloppiness()
    }

    /// Whether MAIL, RCPT and DATA of a transaction go in one write.
    pub(super) fn pipelines(&self, transaction: &Transaction) -> bool {
        self.session.may_use(transaction, Feature::Pipelining)
    }

    /// Whether 8-bit content can be declared.
    pub(super) fn offers_eight_bit(&self) -> bool {
        self.session.extensions().eight_bit_mime
    }

    /// Whether it is good enough for a message that demands this.
    pub(super) async fn fulfils(&mut self, demand: &Arc<Demand>, roots: &Roots) -> bool {
        let now = self.clock.wall();
        match &mut self.encryption {
            None => demand.allows_clear_text(),
            Some(encryption) => encryption.fulfils(&self.host, demand, roots, now).await,
        }
    }

    /// Whether another transaction can be tried on it.
    pub(super) fn is_usable(&self) -> bool {
        self.session.is_usable() && self.refused < REFUSED_MAX
    }

    /// Transactions begun on it.
    pub(super) fn transactions(&self) -> u32 {
        self.session.transactions()
    }

    /// Transactions that the server took on it.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether it was there before there was an entry for it: the peer may have closed it meanwhile.
    pub(super) fn has_rested(&self) -> bool {
        self.has_rested
    }

    /// Keeps the steps of its opening for the first entry.
    pub(super) fn opened_by(&mut self, steps: Steps) {
        self.opening = Some(steps);
    }

    /// The steps of its opening, once.
    pub(super) fn take_opening(&mut self) -> Option<Steps> {
        self.opening.take()
    }

    /// It is kept, for an entry that may come.
    pub(super) fn rests(&mut self) {
        self.has_rested = true;
    }

    /// Asks an idle peer whether it is still there (NOOP).
    pub(super) async fn probe(&mut self) -> bool {
        let now = self.clock.instant();
        let asked = self.session.handle(Event::Probe, now);
        let mut unheard = Steps::new(now);
        matches!(asked, Step::Read) && matches!(self.read(&mut unheard).await, Step::Ready)
    }

    /// Whether the server was told how the sender wants to be notified.
    pub(super) fn offers_dsn(&self) -> bool {
        self.session.extensions().dsn
    }

    /// It is in this race now.
    pub(super) fn enter(&mut self, pulse: Pulse) {
        self.pulse = Some(pulse);
    }

    /// Begins a transaction and takes it to the point where the content may go.
    pub(super) async fn begin(&mut self, transaction: &Transaction, steps: &mut Steps) -> Begun {
        let now = self.clock.instant();
        let mut step = self.session.handle(Event::Transact(transaction), now);
        loop {
            step = match step {
                Step::Read => self.read(steps).await,
                Step::SendContent(framing) => return Begun::Content(framing),
                Step::Done(Err(failure)) => {
                    self.refused += 1;
                    return Begun::Over(failure);
                }
                Step::Failed(failure) => return Begun::Over(failure),
                // Neither can be before the content went.
                Step::Done(Ok(_)) | Step::StartTls | Step::DeriveKeys(_) | Step::Ready => {
                    return Begun::Over(Failure { stage: Stage::Mail, fault: Fault::Closed });
                }
            };
        }
    }

    /// Sends the content and waits for what becomes of it.
    /// Where its place is wanted for others, it goes as if the host had been silent for too long.
    pub(super) async fn finish(
        &mut self,
        framing: Framing,
        content: &SignedContent,
        steps: &mut Steps,
        held: &HeldPlace,
    ) -> Outcome {
        self.held = Some(held.clone());
        let outcome = self.finish_held(framing, content, steps).await;
        self.held = None;
        outcome
    }

    async fn finish_held(&mut self, framing: Framing, content: &SignedContent, steps: &mut Steps) -> Outcome {
        let mut step = self.send_content(framing, content).await;
        loop {
            step = match step {
                Step::Read => self.read(steps).await,
                Step::Done(outcome) => {
                    self.taken += u32::from(outcome.is_ok());
                    self.refused += u32::from(outcome.is_err());
                    return outcome;
                }
                Step::Failed(failure) => return Err(failure),
                Step::SendContent(_) | Step::StartTls | Step::DeriveKeys(_) | Step::Ready => {
                    return Err(Failure { stage: Stage::Content, fault: Fault::Closed });
                }
            };
        }
    }

    async fn send_content(&mut self, framing: Framing, content: &SignedContent) -> Step {
        let wire = self.session.take_output();
        let Some(wire) = framed(framing, content, wire).await else {
            return Step::Failed(Failure { stage: Stage::Content, fault: Fault::Closed });
        };
        let written = self.wire.write(&wire).await;
        let now = self.clock.instant();
        if let Some(held) = &self.held {
            held.sent(now);
        }
        match written {
            Ok(()) => self.session.handle(Event::ContentSent, now),
            Err(event) => self.session.handle(event, now),
        }
    }

    /// Sends what the session has to say, then reads until it wants something.
    async fn read(&mut self, steps: &mut Steps) -> Step {
        loop {
            let mut output = self.session.take_output();
            if !output.is_empty() {
                let written = self.wire.write(&output).await;
                if self.session.is_logging_in() {
                    output.zeroize();
                }
                if let Err(event) = written {
                    return self.session.handle(event, self.clock.instant());
                }
            }
            let awaited = self.session.awaited();
            let event = match self.receive(awaited).await {
                Input::Octets(len) => Event::Received(self.wire.octets(len)),
                Input::Alert(text) => Event::TlsFailed(text),
                Input::Closed => Event::Closed,
                Input::Timeout => Event::Timeout,
            };
            let has_spoken = matches!(event, Event::Received(_));
            let now = self.clock.instant();
            let step = self.session.handle(event, now);
            steps.add_replies(&mut self.session, &self.host, now);
            if let (Some((stage, since)), Some(pulse), true) = (awaited, &self.pulse, has_spoken)
                && self.session.awaited() != awaited
            {
                pulse.paces.took(&self.host, stage, now.saturating_duration_since(since), now);
            }
            if !matches!(step, Step::Read) {
                return step;
            }
        }
    }

    /// Listens until the server speaks or its time is over. Tells the race, once for each thing, that it takes long.
    async fn receive(&mut self, awaited: Option<(Stage, Instant)>) -> Input {
        let deadline = self.session.deadline().unwrap_or_else(|| self.clock.instant() + WRITE_TIMEOUT);
        loop {
            let untold = awaited.filter(|(_, since)| self.logged_slow != Some(*since));
            let slow = untold.zip(self.pulse.as_ref()).map(|((stage, since), pulse)| {
                (since + pulse.paces.patience(&self.host, stage, since), stage, since, pulse.clone())
            });
            let until = slow.as_ref().map_or(deadline, |(at, ..)| deadline.min(*at));
            let read = tokio::time::timeout_at(until.into(), self.wire.read());
            let read = tokio::select! {
                biased;
                read = read => read,
                () = has_to_go(self.held.as_ref()) => return Input::Timeout,
            };
            match (read, slow) {
                (Err(_), Some((_, stage, since, pulse))) if until < deadline => {
                    self.logged_slow = Some(since);
                    pulse.announce(News::Slow(stage));
                }
                (Err(_), _) => return Input::Timeout,
                (Ok(heard), _) => return heard,
            }
        }
    }

    /// Returns when an idle peer says something or closes: the session is over then.
    pub(super) async fn until_peer_speaks(&mut self) {
        self.wire.read().await;
    }

    /// Says QUIT, without waiting for the answer.
    pub(super) async fn quit(mut self) {
        self.session.quit();
        let output = self.session.take_output();
        if !output.is_empty() {
            self.wire.close_with(&output).await;
        }
    }
}

async fn has_to_go(held: Option<&HeldPlace>) {
    match held {
        Some(held) => held.gives_way().await,
        None => std::future::pending().await,
    }
}
