//! One client's connection: drives a [`ServerSession`] over TCP or TLS and gets it the answers it asks for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::accounts::credentials::{Admits, Credentials, Login, PasswordCheck};
use crate::accounts::throttle::Throttle;
use crate::accounts::user::User;
use crate::base::clock::Clock;
use crate::base::shares::Portion;
use crate::delivery::Delivery;
use crate::intake::door::{Door, Receipt};
use crate::intake::options::Options;
use crate::intake::recipient::{DNS_WAIT, RecipientCheck};
use crate::intake::refusal::Refusal;
use crate::mail::address::ReversePath;
use crate::mail::envelope::Recipient;
use crate::net::BoxStream;
use crate::net::places::ConnectionPlace;
use crate::report::reasons::{Door as DoorName, Reason, Stage};
use crate::report::refusals::{Refusals, Refused};
use crate::smtp::command::Mail;
use crate::smtp::reply::{self, EnhancedCode, Reply};
use crate::smtp::sasl::ScramVerifier;
use crate::smtp::server_session::{self, Access, Event, Peer, Phase, ServerSession, SessionSettings, Step, Submission};
use crate::tls::handshake::{self, Fault};

/// Octets read at once.
const READ_LEN: usize = 16 << 10;
/// How long a TLS handshake may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one reply may take to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// After a fault, how much more is read, and for how long, before the connection is closed.
const DRAIN_LEN: usize = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub(super) door: Arc<Door>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) throttle: Throttle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) draining: CancellationToken,
}

impl Shared {
    /// What a client may do before it has logged in.
    pub(super) fn access(&self, is_trusted: bool) -> Access {
        match self.credentials.admits() {
            Admits::Anybody => Access::Anybody,
            Admits::Known if is_trusted => Access::Trusted,
            Admits::Known => Access::AuthenticationRequired,
        }
    }
}

/// A client with its place: who connected, where to, and what it may take.
pub(super) struct IdentifiedClient {
    pub(super) address: SocketAddr,
    pub(super) listener: SocketAddr,
    /// What the session is told of it.
    pub(super) peer: Peer,
    /// Its place among all connections.
    pub(super) place: ConnectionPlace,
    /// How many of those one user may have.
    pub(super) portion: Portion,
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    stream: BoxStream,
    session: ServerSession,
    peer: SocketAddr,
    listener: SocketAddr,
    place: ConnectionPlace,
    portion: Portion,
    acceptor: Option<TlsAcceptor>,
    /// Whether nothing was heard since STARTTLS was done.
    is_silent: bool,
    /// As whom the client acts without logging in.
    trusted: Option<Login>,
    login: Option<Login>,
    /// What the SCRAM exchange under way is held to.
    verifier: Option<ScramVerifier>,
    /// Of the message that is being sent.
    reverse_path: Option<ReversePath>,
    /// How long its recipients may still wait for DNS.
    patience: Duration,
    /// What the next refusal is about.
    about: About,
}

/// What is known of a refusal beside the reply that it becomes.
#[derive(Default)]
struct About {
    reason: Option<Reason>,
    /// The account whose password was wrong.
    account: Option<Arc<User>>,
}

/// The connection is over, by whatever reason.
struct Closed;

impl Connection {
    /// Serves a client until it is done.
    pub(super) async fn serve(
        shared: Arc<Shared>,
        stream: BoxStream,
        client: IdentifiedClient,
        settings: Arc<SessionSettings>,
        acceptor: Option<TlsAcceptor>,
    ) {
        let IdentifiedClient { address, listener, peer, place, portion } = client;
        let session = ServerSession::new(settings, peer, shared.clock.instant());
        let needs_login = peer.access == Access::AuthenticationRequired;
        let trusted = if needs_login { None } else { shared.credentials.trusted() };
        let mut connection = Self {
            shared,
            stream,
            session,
            peer: address,
            listener,
            place,
            portion,
            acceptor,
            is_silent: false,
            login: trusted.clone(),
            trusted,
            verifier: None,
            reverse_path: None,
            patience: DNS_WAIT,
            about: About::default(),
        };
        // An end is no failure: it says that there is nothing more to do.
        let _ = connection.converse().await;
    }

    async fn converse(&mut self) -> Result<(), Closed> {
        let mut buffer = vec![0; READ_LEN];
        let mut step = Step::Read;
        loop {
            step = match step {
                Step::Read => self.read(&mut buffer).await?,
                Step::StartTls => {
                    self.flush().await?;
                    self.encrypt().await?;
                    // Who logged in before the handshake has not logged in.
                    self.login = self.trusted.clone();
                    self.handle(Event::TlsEstablished)
                }
                Step::CheckPassword { user, password } => self.check_password(&user, &password).await?,
                Step::NeedVerifier { user } => match self.shared.credentials.nonce() {
                    Ok(nonce) => {
                        let verifier = self.shared.credentials.scram_verifier(&user);
                        self.verifier = Some(verifier.clone());
                        self.handle(Event::Verifier(verifier, &nonce))
                    }
                    Err(_) => self.handle(Event::Authenticated(Err(reply::AUTHENTICATION_BUSY))),
                },
                Step::Proved { user, accepted } => {
                    let verifier = self.verifier.take().filter(|_| accepted);
                    let known = verifier.and_then(|verifier| self.shared.credentials.proved(&user, verifier));
                    let checked = known.map_or(PasswordCheck::Refused, PasswordCheck::Accepted);
                    self.authenticated(&user, checked).await?
                }
                Step::CheckSender(mail) => {
                    let checked = self.check_sender(&mail);
                    self.handle(Event::Checked(checked))
                }
                Step::CheckRecipient(recipient) => self.check_recipient(&recipient).await?,
                Step::HandOver(submission) => {
                    self.flush().await?;
                    let reply = self.hand_over(*submission).await;
                    self.handle(Event::HandedOver(reply))
                }
                Step::Close => return self.close().await,
                Step::Drain => return self.drain(&mut buffer).await,
            };
        }
    }

    /// A password that was right lately is right at once; any other is checked.
    async fn check_password(&mut self, user: &str, password: &str) -> Result<Step, Closed> {
        let shared = self.shared.clone();
        let now = shared.clock.instant();
        if let Some(known) = shared.credentials.remembered(user, password, now) {
            return self.authenticated(user, PasswordCheck::Accepted(known)).await;
        }
        let turn = shared.throttle.checks.take(self.peer.ip()).await;
        let checked = match &turn {
            Some(_) => shared.credentials.check(user, password, now).await,
            None => PasswordCheck::Busy,
        };
        drop(turn);
        self.authenticated(user, checked).await
    }

    /// Tells the session, and tells of what it refuses.
    fn handle(&mut self, event: Event<'_>) -> Step {
        let step = self.session.handle(event, self.shared.clock.instant());
        for refused in self.session.take_refused() {
            self.refused(&refused);
        }
        self.about = About::default();
        step
    }

    fn refused(&mut self, refused: &server_session::Refused) {
        let About { reason, account } = std::mem::take(&mut self.about);
        let reply = &refused.reply;
        let user = account.or_else(|| self.login.as_ref().map(|login| login.user.clone()));
        let mut reason = reason.unwrap_or_else(|| Reason::of_reply(refused.phase, reply));
        if reason == Reason::Timeout && user.is_none() {
            reason = Reason::LoginTimeout;
        }
        self.shared.refusals.report(&Refused {
            door: DoorName::Smtp,
            peer: self.peer.ip(),
            listener: self.listener,
            user: user.as_ref().map(|user| &*user.name),
            stage: Stage::Smtp(refused.phase),
            code: Some(reply.code),
            enhanced: reply.enhanced,
            reason,
            text: &reply.text,
            recipient: refused.recipient.as_ref(),
            more_recipients: refused.more_recipients,
        });
    }

    /// Tells of an end without a reply.
    fn report_end(&self, stage: Stage, reason: Reason, text: &str) {
        let (recipient, more_recipients) =
            if self.session.left_undone().is_some() { self.session.meant_for() } else { (None, 0) };
        self.shared.refusals.report(&Refused {
            door: DoorName::Smtp,
            peer: self.peer.ip(),
            listener: self.listener,
            user: self.login.as_ref().map(|login| &*login.user.name),
            stage,
            code: None,
            enhanced: None,
            reason,
            text,
            recipient,
            more_recipients,
        });
    }

    /// The client is gone, which is worth a line only where it leaves something undone.
    fn client_left(&self) -> Closed {
        // It asked for TLS, and it is its turn to speak. Some look at the certificate only now.
        if self.is_silent {
            let fault = Fault::ClosedAtCertificate;
            self.report_end(Stage::Tls, Reason::of_handshake(fault), &fault.text());
        }
        if let Some(phase) = self.session.left_undone() {
            let text = "the client closed the connection in the middle of a message";
            self.report_end(Stage::Smtp(phase), Reason::Closed, text);
        }
        Closed
    }

    /// The reply to what intake refuses.
    fn reply_to(&mut self, refusal: &Refusal) -> Reply {
        self.about.reason = Some(Reason::of_refusal(refusal));
        refusal.reply()
    }

    /// Sends what is to be said, then reads until the session wants something else.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<Step, Closed> {
        loop {
            self.flush().await?;
            let (deadline, what) = self.session.deadline();
            let draining = self.shared.draining.clone();
            let event = tokio::select! {
                biased;
                read = self.stream.read(buffer) => match read {
                    Ok(0) | Err(_) => return Err(self.client_left()),
                    Ok(len) => {
                        self.is_silent = false;
                        Event::Received(&buffer[..len])
                    }
                },
                () = tokio::time::sleep_until(deadline.into()) => {
                    tracing::debug!(peer = %self.peer, what, "client timed out");
                    Event::Timeout
                }
                () = draining.cancelled(), if !self.session.is_draining() => Event::Draining,
            };
            let step = self.handle(event);
            if !matches!(step, Step::Read) {
                return Ok(step);
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        let output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&output).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.client_left()),
            Err(_) => {
                let stage = Stage::Smtp(self.session.left_undone().unwrap_or(Phase::Command));
                self.report_end(stage, Reason::Timeout, "the client does not read what it is told");
                Err(Closed)
            }
        }
    }

    async fn encrypt(&mut self) -> Result<(), Closed> {
        let acceptor = self.acceptor.clone().ok_or(Closed)?;
        let (closed, _) = tokio::io::duplex(1);
        let stream = std::mem::replace(&mut self.stream, Box::new(closed));
        match handshake::accept(&acceptor, stream, HANDSHAKE_TIMEOUT).await {
            Ok(stream) => {
                self.stream = Box::new(stream);
                self.is_silent = true;
                Ok(())
            }
            Err(fault) => {
                self.report_end(Stage::Tls, Reason::of_handshake(fault), &fault.text());
                Err(Closed)
            }
        }
    }

    async fn authenticated(&mut self, name: &str, checked: PasswordCheck) -> Result<Step, Closed> {
        let address = self.peer.ip();
        let result = match checked {
            PasswordCheck::Accepted(login) => {
                self.shared.throttle.accepted(address, name);
                match self.place.belongs_to(&login.user.name, self.portion) {
                    Ok(()) => {
                        self.login = Some(login);
                        Ok(())
                    }
                    Err(_) => {
                        self.about = About { reason: Some(Reason::Share), account: Some(login.user) };
                        Err(share_in_use(self.portion))
                    }
                }
            }
            PasswordCheck::Refused => {
                self.flush().await?;
                let reply = self.wait_to_refuse(name).await;
                self.about.account = self.shared.credentials.user(name);
                Err(reply)
            }
            PasswordCheck::Busy => Err(reply::AUTHENTICATION_BUSY),
        };
        Ok(self.handle(Event::Authenticated(result)))
    }

    /// The answer to a wrong password, by whatever mechanism it came, once it has waited for its turn and for its time. The
    /// client's going away ends neither.
    async fn wait_to_refuse(&self, name: &str) -> Reply {
        let (shared, address) = (&self.shared, self.peer.ip());
        let delay = shared.throttle.refused(address, name, shared.clock.instant());
        let turn = tokio::select! {
            biased;
            turn = shared.throttle.refusals.take(address) => turn,
            () = shared.draining.cancelled() => None,
        };
        if turn.is_none() {
            return reply::AUTHENTICATION_BUSY;
        }
        tokio::time::sleep(delay).await;
        reply::BAD_CREDENTIALS
    }

    fn check_sender(&mut self, mail: &Mail) -> Result<(), Reply> {
        let login = self.login.as_mut().ok_or(reply::AUTHENTICATION_REQUIRED)?;
        // Since it logged in, or since its last message, it may have been removed or changed.
        let Some(user) = self.shared.credentials.renewed(login) else {
            self.about.reason = Some(Reason::LoginEnded);
            return Err(reply::LOGIN_ENDED);
        };
        login.user = user.clone();
        self.shared.door.check_sender(&user, &mail.reverse_path).map_err(|refusal| self.reply_to(&refusal))?;
        self.reverse_path = Some(mail.reverse_path.clone());
        self.patience = DNS_WAIT;
        Ok(())
    }

    async fn check_recipient(&mut self, recipient: &Recipient) -> Result<Step, Closed> {
        let Some(Login { user, .. }) = &self.login else {
            return Ok(self.handle(Event::Checked(Err(reply::AUTHENTICATION_REQUIRED))));
        };
        let checked = self.shared.door.check_recipient(user, &recipient.mailbox).await;
        if let (Some(reverse_path), RecipientCheck::Done(Ok(())) | RecipientCheck::NeedsDns) =
            (&self.reverse_path, &checked)
        {
            self.shared.delivery.prewarm(reverse_path, &recipient.mailbox);
        }
        let result = match checked {
            RecipientCheck::Done(result) => result,
            RecipientCheck::NeedsDns => {
                self.flush().await?;
                let since = self.shared.clock.instant();
                let result = self.shared.door.wait_for_domain(&recipient.mailbox, self.patience).await;
                let waited = self.shared.clock.instant().saturating_duration_since(since);
                self.patience = self.patience.saturating_sub(waited);
                result
            }
        };
        let result = result.map_err(|refusal| self.reply_to(&refusal));
        Ok(self.handle(Event::Checked(result)))
    }

    async fn hand_over(&mut self, submission: Submission) -> Reply {
        let Some(user) = self.login.as_ref().map(|login| login.user.clone()) else {
            return reply::AUTHENTICATION_REQUIRED;
        };
        let client: Option<IpAddr> = Some(self.peer.ip());
        match self.shared.door.submit(&user, submission, Options::default(), client).await {
            Ok(receipt) => {
                let reply = accepted(&receipt);
                self.shared.delivery.take_up(receipt.offered);
                reply
            }
            Err(refusal) => self.reply_to(&refusal),
        }
    }

    async fn close(&mut self) -> Result<(), Closed> {
        self.flush().await?;
        // The client may be gone already.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.stream.shutdown()).await;
        Err(Closed)
    }

    async fn drain(&mut self, buffer: &mut [u8]) -> Result<(), Closed> {
        self.flush().await?;
        let drain = async {
            self.stream.shutdown().await.map_err(|_| Closed)?;
            let mut left = DRAIN_LEN;
            while left > 0 {
                match self.stream.read(buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(len) => left = left.saturating_sub(len),
                }
            }
            Err(Closed)
        };
        tokio::time::timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(Err(Closed))
    }
}

/// What a client hears whose user has as many connections as it may have beside others.
pub(super) fn share_in_use(Portion { whole, share }: Portion) -> Reply {
    let text = format!("this user's share of connections is in use: {share} of {whole} (submission.connections_max)");
    Reply::new(421, EnhancedCode(4, 7, 0), text)
}

fn accepted(receipt: &Receipt) -> Reply {
    let id = receipt.id;
    let (code, text) = match (receipt.repeat_of, receipt.is_lowered) {
        (Some(state), _) => (EnhancedCode(2, 0, 0), format!("accepted before, state={state} id={id}")),
        (None, true) => (EnhancedCode(2, 3, 6), format!("accepted in a less urgent lane id={id}")),
        (None, false) => (EnhancedCode(2, 0, 0), format!("accepted id={id}")),
    };
    Reply::new(250, code, text)
}

#[cfg(test)]
mod tests;
