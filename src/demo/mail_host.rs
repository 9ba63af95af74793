//! The mail host of the demo: takes mail for every domain, greylists, and keeps what it gets as files. Some
//! local parts behave badly on purpose, so that an app's tests can see what happens then.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::base::clock::Clock;
use crate::mail::address::Mailbox;
use crate::smtp::reply::{self, EnhancedCode, Reply};
use crate::smtp::server_session::{Access, Event, Peer, ServerSession, SessionSettings, Step, Submission};

/// Messages kept at most; behind them the oldest goes.
const KEPT_MAX: u64 = 1000;

/// A message that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// To whom.
    pub recipient: String,
    /// The file with its bytes.
    pub path: PathBuf,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The mail host.
pub struct MailHost {
    settings: Arc<SessionSettings>,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    greylist: Duration,
    /// When a sender was first seen with a recipient.
    first_seen: Mutex<HashMap<(String, String), Instant>>,
    arrived: mpsc::UnboundedSender<Arrived>,
    count: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for MailHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MailHost")
    }
}

impl MailHost {
    /// A host that keeps what arrives in `folder` and tells it to `arrived`.
    pub fn new(
        hostname: &str,
        greylist: Duration,
        folder: PathBuf,
        clock: Arc<dyn Clock>,
        arrived: mpsc::UnboundedSender<Arrived>,
    ) -> Arc<Self> {
        let settings = Arc::new(SessionSettings {
            hostname: hostname.to_owned(),
            message_size_max: 64 << 20,
            recipients_max: 100,
            starttls: false,
            deliver_by: (Duration::from_secs(1), Duration::from_secs(86_400)),
            command_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(300),
        });
        Arc::new(Self {
            settings,
            clock,
            folder,
            greylist,
            first_seen: Mutex::default(),
            arrived,
            count: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Binds and serves.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(self: Arc<Self>, bind: SocketAddr) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let host = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = host.serve(stream).await {
                        tracing::debug!(%error, "a connection to the sandbox broke");
                    }
                });
            }
        });
        Ok(address)
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let peer = Peer { access: Access::Trusted, encrypted: false, loopback: false };
        let mut session = ServerSession::new(self.settings.clone(), peer, self.clock.instant());
        let mut sender = String::new();
        let mut buffer = vec![0; 16 << 10];
        let mut step = Step::Read;
        loop {
            let event = match step {
                Step::Read => {
                    stream.write_all(&session.take_output()).await?;
                    let deadline = session.deadline().0;
                    match tokio::time::timeout_at(deadline.into(), stream.read(&mut buffer)).await {
                        Ok(read) => match read? {
                            0 => return Ok(()),
                            len => Event::Received(&buffer[..len]),
                        },
                        Err(_) => Event::Timeout,
                    }
                }
                Step::CheckSender(mail) => {
                    sender = mail.reverse_path.as_str().to_ascii_lowercase();
                    Event::Checked(Ok(()))
                }
                Step::CheckRecipient(recipient) => Event::Checked(self.check(&sender, &recipient.mailbox)),
                Step::HandOver(submission) => Event::HandedOver(self.keep(&submission)),
                Step::Close | Step::Drain => {
                    stream.write_all(&session.take_output()).await?;
                    return stream.shutdown().await;
                }
                Step::StartTls | Step::CheckPassword { .. } | Step::NeedVerifier { .. } | Step::Proved { .. } => {
                    return Ok(());
                }
            };
            step = session.handle(event, self.clock.instant());
        }
    }

    fn check(&self, sender: &str, recipient: &Mailbox) -> Result<(), Reply> {
        match behaviour(recipient.local_part()) {
            Behaviour::Takes => Ok(()),
            Behaviour::Greylists => self.greylist(sender, recipient),
            Behaviour::Unknown => Err(Reply::new(550, EnhancedCode(5, 1, 1), "no such user here")),
            Behaviour::Full => Err(Reply::new(452, EnhancedCode(4, 2, 2), "mailbox full")),
            Behaviour::Busy => Err(Reply::new(451, EnhancedCode(4, 3, 2), "too busy now, try again later")),
            Behaviour::Spam => Err(Reply::new(550, EnhancedCode(5, 7, 1), "this looks like spam")),
        }
    }

    fn greylist(&self, sender: &str, recipient: &Mailbox) -> Result<(), Reply> {
        let now = self.clock.instant();
        let mut first_seen = self.first_seen.lock();
        let since = *first_seen.entry((sender.to_owned(), recipient.plain_key())).or_insert(now);
        let left = self.greylist.saturating_sub(now - since);
        if left.is_zero() {
            return Ok(());
        }
        let text = format!("Greylisted, please try again in {} seconds", left.as_secs_f64().ceil());
        Err(Reply::new(451, EnhancedCode(4, 7, 1), text))
    }

    fn keep(&self, submission: &Submission) -> Reply {
        use std::sync::atomic::Ordering;
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.folder.join(format!("{number:06}.eml"));
        if let Err(error) = std::fs::write(&path, &submission.content) {
            tracing::error!(%error, "the sandbox cannot keep a message");
            return reply::STORAGE_FULL;
        }
        if number > KEPT_MAX {
            // It may have been removed by hand.
            let _ = std::fs::remove_file(self.folder.join(format!("{:06}.eml", number - KEPT_MAX)));
        }
        for recipient in &submission.envelope.recipients {
            let recipient = recipient.mailbox.as_str().to_owned();
            let arrived = Arrived { recipient, path: path.clone(), content: submission.content.to_vec() };
            // At the end nobody listens any more.
            let _ = self.arrived.send(arrived);
        }
        Reply::new(250, EnhancedCode(2, 0, 0), format!("kept as {number:06}.eml"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Takes,
    Greylists,
    Unknown,
    Full,
    Busy,
    Spam,
}

/// The first word of the local part decides.
fn behaviour(local_part: &str) -> Behaviour {
    match local_part.split(['+', '.', '-']).next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "greylisted" => Behaviour::Greylists,
        "unknown" => Behaviour::Unknown,
        "full" => Behaviour::Full,
        "busy" => Behaviour::Busy,
        "spam" => Behaviour::Spam,
        _ => Behaviour::Takes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_parts_choose_the_behaviour() {
        assert_eq!(behaviour("alice"), Behaviour::Takes);
        assert_eq!(behaviour("unknown+42"), Behaviour::Unknown);
        assert_eq!(behaviour("Greylisted.alice"), Behaviour::Greylists);
        assert_eq!(behaviour("unknownish"), Behaviour::Takes);
    }
}
