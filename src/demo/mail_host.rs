//! The mail hosts of the sandbox: one for each domain, and one for each address that asks for something. They take mail for
//! everybody, and fail where the recipient's address or a rule says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::certificates::Acceptors;
use super::faults::{At, Effect, Faults};
use super::inbox::Inbox;
use super::mail::{Arrival, Mark, Tls};
use super::verdicts::Verifier;
use super::zone::{domain_of_host, trial_of_host};
use crate::base::clock::{Clock, Timestamp};
use crate::mail::address::Mailbox;
use crate::mail::trial::{Asks, Trial};
use crate::net::BoxStream;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::server_session::{Access, Event, Peer, ServerSession, SessionSettings, Step, Submission};

/// Senders and recipients whose tries are counted; beyond that counting begins anew.
const TRIES_MAX: usize = 20_000;
/// How late a slow host answers that is not told.
const SLOW: Duration = Duration::from_secs(5);
/// How long a silent host holds a connection.
const SILENT_MAX: Duration = Duration::from_secs(600);
/// How long the relay has to say that it knows of a delivery, once it could hear of it, before nobody waits for that.
const SETTLING_MAX: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(300);
const SIZE_MAX: u64 = 64 << 20;

pub(super) struct MailHosts {
    pub(super) clock: Arc<dyn Clock>,
    /// How long `greylisted` makes wait where the address does not say.
    pub(super) greylist: Duration,
    pub(super) faults: Arc<Faults>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) acceptors: Acceptors,
    pub(super) verifier: Verifier,
    /// By sender and recipient.
    pub(super) tries: Mutex<HashMap<(String, String), Tries>>,
}

/// What somebody tried so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    first: Timestamp,
    /// Since the last mail that was taken.
    pending: u32,
    count: u32,
}

/// One session with a host.
struct Session {
    hosts: Arc<MailHosts>,
    host: Arc<str>,
    trial: Option<Trial>,
    sender: String,
    tls: Tls,
}

/// What is done with a message.
enum Disposition {
    Reply(Reply),
    /// The connection is closed without a word.
    Gone,
}

impl MailHosts {
    /// Serves one connection to a host.
    pub(super) async fn serve(self: Arc<Self>, host: Arc<str>, stream: BoxStream) -> anyhow::Result<()> {
        let trial = trial_of_host(&host);
        let session = Session { hosts: self, host, trial, sender: String::new(), tls: Tls::Off };
        session.converse(stream).await
    }

    /// Counts a try; returns it with those before.
    fn tried(&self, sender: &str, recipient: &Mailbox) -> Tries {
        let now = self.clock.now();
        let mut tries = self.tries.lock();
        if tries.len() >= TRIES_MAX {
            tries.clear();
        }
        let own = tries.entry((sender.to_owned(), recipient.plain_key()));
        let own = own.or_insert(Tries { first: now, pending: 0, count: 0 });
        own.pending = own.pending.saturating_add(1);
        own.count = own.count.saturating_add(1);
        *own
    }

    /// Tries since the last mail that was taken; with this one it is.
    fn taken(&self, sender: &str, recipient: &Mailbox) -> Tries {
        let mut tries = self.tries.lock();
        let now = self.clock.now();
        let own = tries.entry((sender.to_owned(), recipient.plain_key()));
        let own = own.or_insert(Tries { first: now, pending: 1, count: 1 });
        let before = *own;
        own.pending = 0;
        before
    }
}

impl Session {
    fn asks(&self) -> Option<Asks> {
        self.trial.map(|trial| trial.asks)
    }

    /// How late it answers.
    fn lateness(&self) -> Duration {
        match self.trial {
            Some(Trial { asks: Asks::Slow, span, .. }) => span.unwrap_or(SLOW),
            _ => Duration::ZERO,
        }
    }

    /// What the rules make it do at a place where no recipient is known yet.
    async fn faulty(&self, at: At) -> Option<Reply> {
        let effect = self.hosts.faults.of_domain(at, domain_of_host(&self.host), self.hosts.clock.now());
        suffer(effect).await
    }

    async fn converse(mut self, mut stream: BoxStream) -> anyhow::Result<()> {
        if self.asks() == Some(Asks::Silent) {
            return keep_silent(stream).await;
        }
        if let Some(reply) = self.faulty(At::Connect).await {
            return say_bye(stream, &reply).await;
        }
        let peer = Peer { access: Access::Trusted, encrypted: false, loopback: false };
        let mut session = ServerSession::new(self.settings(), peer, self.hosts.clock.instant());
        let mut buffer = vec![0; 16 << 10];
        let mut step = Step::Read;
        loop {
            let event = match step {
                Step::Read => {
                    self.say(&mut stream, &session.take_output()).await?;
                    let deadline = session.deadline().0;
                    match tokio::time::timeout_at(deadline.into(), stream.read(&mut buffer)).await {
                        Ok(read) => match read? {
                            0 => return Ok(()),
                            len => {
                                if let Some(reply) = self.faulty_command(&buffer[..len]).await {
                                    if reply.code == 421 {
                                        return say_bye(stream, &reply).await;
                                    }
                                    self.say(&mut stream, &written(&reply)).await?;
                                    step = Step::Read;
                                    continue;
                                }
                                Event::Received(&buffer[..len])
                            }
                        },
                        Err(_) => Event::Timeout,
                    }
                }
                Step::StartTls => {
                    self.say(&mut stream, &session.take_output()).await?;
                    stream = self.encrypt(stream).await?;
                    Event::TlsEstablished
                }
                Step::CheckSender(mail) => {
                    self.sender = mail.reverse_path.as_str().to_ascii_lowercase();
                    Event::Checked(self.faulty(At::Mail).await.map_or(Ok(()), Err))
                }
                Step::CheckRecipient(recipient) => Event::Checked(self.check(&recipient.mailbox).await),
                Step::HandOver(submission) => match self.take(&submission).await {
                    Disposition::Reply(reply) => Event::HandedOver(reply),
                    Disposition::Gone => return Ok(()),
                },
                Step::Close | Step::Drain => {
                    self.say(&mut stream, &session.take_output()).await?;
                    return Ok(stream.shutdown().await?);
                }
                Step::CheckPassword { .. } | Step::NeedVerifier { .. } | Step::Proved { .. } => return Ok(()),
            };
            step = session.handle(event, self.hosts.clock.instant());
        }
    }

    async fn encrypt(&mut self, stream: BoxStream) -> anyhow::Result<BoxStream> {
        let acceptors = &self.hosts.acceptors;
        let is_bad = self.asks() == Some(Asks::BadTls);
        let acceptor = if is_bad { &acceptors.bad } else { &acceptors.good };
        let accepted = tokio::time::timeout(TIMEOUT, acceptor.accept(stream)).await;
        self.tls = if is_bad { Tls::BadCertificate } else { Tls::On };
        Ok(Box::new(accepted.context("the handshake took too long")??))
    }

    fn settings(&self) -> Arc<SessionSettings> {
        Arc::new(SessionSettings {
            hostname: self.host.to_string(),
            message_size_max: SIZE_MAX,
            recipients_max: 100,
            starttls: self.asks() != Some(Asks::NoTls),
            deliver_by: (Duration::from_secs(1), Duration::from_secs(86_400)),
            command_timeout: TIMEOUT,
            idle_timeout: TIMEOUT,
        })
    }

    async fn say(&self, stream: &mut BoxStream, output: &[u8]) -> std::io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        if !self.lateness().is_zero() {
            tokio::time::sleep(self.lateness()).await;
        }
        stream.write_all(output).await?;
        stream.flush().await
    }

    /// A command that the session answers by itself, and a rule otherwise.
    async fn faulty_command(&self, received: &[u8]) -> Option<Reply> {
        let starts = |verb: &[u8]| received.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb));
        match () {
            () if starts(b"EHLO") || starts(b"HELO") => self.faulty(At::Ehlo).await,
            () if starts(b"STARTTLS") => self.faulty(At::Starttls).await,
            () => None,
        }
    }

    async fn check(&self, recipient: &Mailbox) -> Result<(), Reply> {
        let now = self.hosts.clock.now();
        let tries = self.hosts.tried(&self.sender, recipient);
        if let Some(reply) = suffer(self.hosts.faults.of(At::Rcpt, recipient, now)).await {
            return Err(reply);
        }
        let Some(trial) = Trial::of(&recipient.plain_local_part()) else { return Ok(()) };
        match trial.asks {
            Asks::Greylisted => {
                let left = trial.span.unwrap_or(self.hosts.greylist).saturating_sub(now.since(tries.first));
                if left.is_zero() {
                    return Ok(());
                }
                let text = format!("Greylisted, please try again in {} seconds", left.as_secs_f64().ceil());
                Err(Reply::new(451, EnhancedCode(4, 7, 1), text))
            }
            Asks::Busy if tries.count <= trial.count.unwrap_or(1) => {
                Err(Reply::new(421, EnhancedCode(4, 3, 2), "too busy now, try again later"))
            }
            Asks::Unknown => Err(Reply::new(550, EnhancedCode(5, 1, 1), "no such user here")),
            Asks::Full => Err(Reply::new(452, EnhancedCode(4, 2, 2), "mailbox full")),
            Asks::Busy
            | Asks::Slow
            | Asks::Lost
            | Asks::NoTls
            | Asks::BadTls
            | Asks::Hidden
            | Asks::Spam
            | Asks::Silent
            | Asks::Bounced
            | Asks::NoDomain
            | Asks::Suppressed
            | Asks::Budget => Ok(()),
        }
    }

    async fn take(&self, submission: &Submission) -> Disposition {
        let now = self.hosts.clock.now();
        let recipients: Vec<&Mailbox> =
            submission.envelope.recipients.iter().map(|recipient| &recipient.mailbox).collect();
        for recipient in &recipients {
            if let Some(reply) = suffer(self.hosts.faults.of(At::Data, recipient, now)).await {
                return Disposition::Reply(reply);
            }
        }
        let trials = recipients.iter().map(|recipient| Trial::of(&recipient.plain_local_part()));
        let asks: Vec<Option<Trial>> = trials.collect();
        if asks.iter().flatten().any(|trial| trial.asks == Asks::Spam) {
            return Disposition::Reply(Reply::new(550, EnhancedCode(5, 7, 1), "this looks like spam"));
        }
        let verdicts = self.hosts.verifier.verdicts(&submission.content).await;
        let mut is_lost = false;
        for (recipient, trial) in recipients.into_iter().zip(asks) {
            let tries = self.hosts.taken(&self.sender, recipient);
            let mark = match trial {
                Some(Trial { asks: Asks::Hidden, .. }) => Mark::Hidden,
                Some(Trial { asks: Asks::Lost, count, .. }) if count.is_none_or(|count| tries.count <= count) => {
                    is_lost = true;
                    Mark::Lost
                }
                _ => Mark::Kept,
            };
            let how = Arrival {
                sender: self.sender.clone(),
                recipient: recipient.clone(),
                received_at: self.hosts.clock.wall(),
                attempts: tries.pending.max(1),
                mark,
                tls: self.tls,
                verdicts: verdicts.clone(),
            };
            self.keep(how, &submission.content);
        }
        if is_lost { Disposition::Gone } else { Disposition::Reply(Reply::new(250, EnhancedCode(2, 0, 0), "kept")) }
    }

    fn keep(&self, how: Arrival, content: &Bytes) {
        let mail = self.hosts.inbox.keep(how, content.clone());
        if !mail.is_settled() {
            let (inbox, patience) = (self.hosts.inbox.clone(), SETTLING_MAX + self.lateness());
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                inbox.settle_now(&mail);
            });
        }
    }
}

async fn suffer(effect: Effect) -> Option<Reply> {
    if !effect.delay.is_zero() {
        tokio::time::sleep(effect.delay).await;
    }
    effect.reply
}

fn written(reply: &Reply) -> Vec<u8> {
    let mut output = Vec::new();
    reply.write_to(&mut output);
    output
}

async fn say_bye(mut stream: BoxStream, reply: &Reply) -> anyhow::Result<()> {
    stream.write_all(&written(reply)).await?;
    stream.flush().await?;
    Ok(stream.shutdown().await?)
}

/// Hears, and says nothing.
async fn keep_silent(mut stream: BoxStream) -> anyhow::Result<()> {
    let mut buffer = [0; 1024];
    let hear = async { while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {} };
    // Held for as long as it takes anybody to give up.
    let _ = tokio::time::timeout(SILENT_MAX, hear).await;
    Ok(())
}
