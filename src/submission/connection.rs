//! One client's connection: drives a [`ServerSession`] over TCP or TLS and gets it the answers it asks for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::credentials::{Checked, Credentials, Login};
use super::throttle::Throttle;
use crate::clock::Clock;
use crate::intake::door::{Door, Receipt, RecipientCheck};
use crate::intake::wishes::Wishes;
use crate::mail::address::ReversePath;
use crate::mail::envelope::Recipient;
use crate::net::BoxStream;
use crate::net::places::Place;
use crate::shares::Portion;
use crate::smtp::command::Mail;
use crate::smtp::reply::{self, EnhancedCode, Reply};
use crate::smtp::sasl::ScramVerifier;
use crate::smtp::server_session::{Access, Event, Peer, ServerSession, SessionSettings, Step, Submission};

/// Octets read at once.
const READ_LEN: usize = 16 << 10;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one reply may take to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// After a fault, how much more is read, and for how long, before the connection is closed.
const DRAIN_LEN: usize = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What all connections share.
pub(super) struct Shared {
    pub(super) door: Arc<Door>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) throttle: Throttle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) draining: CancellationToken,
}

/// Whose a connection is.
pub(super) struct Whose {
    /// The client's address.
    pub(super) address: SocketAddr,
    /// What the session is told of it.
    pub(super) peer: Peer,
    /// Its place among all connections.
    pub(super) place: Place,
    /// How many of those one user may have.
    pub(super) portion: Portion,
}

/// One connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    stream: BoxStream,
    session: ServerSession,
    peer: SocketAddr,
    place: Place,
    portion: Portion,
    acceptor: Option<TlsAcceptor>,
    /// As whom the client acts without logging in.
    trusted: Option<Login>,
    login: Option<Login>,
    /// What the SCRAM exchange under way is held to.
    verifier: Option<ScramVerifier>,
    /// Of the message that is being sent.
    reverse_path: Option<ReversePath>,
}

/// The connection is over, by whatever reason.
struct Over;

impl Connection {
    /// Serves a client until it is done.
    pub(super) async fn serve(
        shared: Arc<Shared>,
        stream: BoxStream,
        whose: Whose,
        settings: Arc<SessionSettings>,
        acceptor: Option<TlsAcceptor>,
    ) {
        let Whose { address, peer, place, portion } = whose;
        let session = ServerSession::new(settings, peer, shared.clock.instant());
        let trusted = if peer.access == Access::Trusted { shared.credentials.trusted() } else { None };
        let mut connection = Self {
            shared,
            stream,
            session,
            peer: address,
            place,
            portion,
            acceptor,
            login: trusted.clone(),
            trusted,
            verifier: None,
            reverse_path: None,
        };
        // Over is not a failure: it says that there is nothing more to do.
        let _ = connection.converse().await;
    }

    async fn converse(&mut self) -> Result<(), Over> {
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
                    let checked = known.map_or(Checked::Refused, Checked::Accepted);
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
    async fn check_password(&mut self, user: &str, password: &str) -> Result<Step, Over> {
        let shared = self.shared.clone();
        let now = shared.clock.instant();
        if let Some(known) = shared.credentials.remembered(user, password, now) {
            return self.authenticated(user, Checked::Accepted(known)).await;
        }
        let turn = shared.throttle.checks.take(self.peer.ip()).await;
        let checked = match &turn {
            Some(_) => shared.credentials.check(user, password, now).await,
            None => Checked::Busy,
        };
        drop(turn);
        self.authenticated(user, checked).await
    }

    fn handle(&mut self, event: Event<'_>) -> Step {
        self.session.handle(event, self.shared.clock.instant())
    }

    /// Sends what is to be said, then reads until the session wants something else.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<Step, Over> {
        loop {
            self.flush().await?;
            let (deadline, what) = self.session.deadline();
            let draining = self.shared.draining.clone();
            let event = tokio::select! {
                biased;
                read = self.stream.read(buffer) => match read {
                    Ok(0) | Err(_) => return Err(Over),
                    Ok(len) => Event::Received(&buffer[..len]),
                },
                () = tokio::time::sleep_until(deadline.into()) => {
                    tracing::debug!(peer = %self.peer, what, "client timed out");
                    Event::Timeout
                }
                () = draining.cancelled(), if !self.session.is_draining() => Event::Draining,
            };
            let step = self.session.handle(event, self.shared.clock.instant());
            if !matches!(step, Step::Read) {
                return Ok(step);
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
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
            Ok(Err(_)) | Err(_) => Err(Over),
        }
    }

    async fn encrypt(&mut self) -> Result<(), Over> {
        let acceptor = self.acceptor.clone().ok_or(Over)?;
        let (closed, _) = tokio::io::duplex(1);
        let stream = std::mem::replace(&mut self.stream, Box::new(closed));
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.stream = Box::new(stream);
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "TLS handshake failed");
                Err(Over)
            }
            Err(_) => Err(Over),
        }
    }

    async fn authenticated(&mut self, name: &str, checked: Checked) -> Result<Step, Over> {
        let address = self.peer.ip();
        let result = match checked {
            Checked::Accepted(login) => {
                self.shared.throttle.accepted(address, name);
                let place = self.place.belongs_to(&login.user.name, self.portion);
                place.map(|()| self.login = Some(login)).map_err(|_| share_in_use(self.portion))
            }
            Checked::Refused => {
                self.flush().await?;
                Err(self.wait_to_refuse(name).await)
            }
            Checked::Busy => Err(reply::AUTHENTICATION_BUSY),
        };
        Ok(self.handle(Event::Authenticated(result)))
    }

    /// The answer to a wrong password, by whatever mechanism it came, once it has waited for its turn and for its time. The
    /// client's going away ends neither.
    async fn wait_to_refuse(&self, name: &str) -> Reply {
        let (shared, address) = (&self.shared, self.peer.ip());
        let delay = shared.throttle.refused(address, name, shared.clock.instant());
        tracing::info!(peer = %address, delay_ms = delay.as_millis(), "authentication failed");
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
        login.user = self.shared.credentials.renewed(login).ok_or(reply::LOGIN_ENDED)?;
        self.shared.door.check_sender(&login.user, &mail.reverse_path).map_err(|refusal| refusal.reply())?;
        self.reverse_path = Some(mail.reverse_path.clone());
        Ok(())
    }

    async fn check_recipient(&mut self, recipient: &Recipient) -> Result<Step, Over> {
        let Some(Login { user, .. }) = &self.login else {
            return Ok(self.handle(Event::Checked(Err(reply::AUTHENTICATION_REQUIRED))));
        };
        let checked = self.shared.door.check_recipient(user, &recipient.mailbox);
        if let (Some(reverse_path), RecipientCheck::Done(Ok(())) | RecipientCheck::NeedsDns) =
            (&self.reverse_path, &checked)
        {
            self.shared.door.expect(reverse_path, &recipient.mailbox);
        }
        let result = match checked {
            RecipientCheck::Done(result) => result,
            RecipientCheck::NeedsDns => {
                self.flush().await?;
                self.shared.door.wait_for_domain(&recipient.mailbox).await
            }
        };
        Ok(self.handle(Event::Checked(result.map_err(|refusal| refusal.reply()))))
    }

    async fn hand_over(&self, submission: Submission) -> Reply {
        let Some(Login { user, .. }) = &self.login else { return reply::AUTHENTICATION_REQUIRED };
        let client: Option<IpAddr> = Some(self.peer.ip());
        match self.shared.door.submit(user, submission, Wishes::default(), client).await {
            Ok(receipt) => accepted(&receipt),
            Err(refusal) => {
                let reply = refusal.reply();
                tracing::info!(peer = %self.peer.ip(), user = %user.name, code = reply.code, "message refused");
                reply
            }
        }
    }

    async fn close(&mut self) -> Result<(), Over> {
        self.flush().await?;
        // The client may be gone already.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.stream.shutdown()).await;
        Err(Over)
    }

    async fn drain(&mut self, buffer: &mut [u8]) -> Result<(), Over> {
        self.flush().await?;
        let drain = async {
            self.stream.shutdown().await.map_err(|_| Over)?;
            let mut left = DRAIN_LEN;
            while left > 0 {
                match self.stream.read(buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(len) => left = left.saturating_sub(len),
                }
            }
            Err(Over)
        };
        tokio::time::timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(Err(Over))
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
