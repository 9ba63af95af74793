//! Mail hosts that are sloppy or old, or offer what they do not support, and the messages that they took.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::destination::resolver::{Answer, Dns, MxRecord, Records};
use otp_relay::testing::net::{BoxStream, Connecting, Network};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What a host does with several commands in one write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    Heard,
    /// All but the first are lost.
    Lost,
    /// 554, and the connection ends.
    Synchronization,
    /// 503 for all but the first.
    Order,
}

/// What a host does with BDAT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    Taken,
    /// 500; the chunk is heard as commands.
    Unknown,
    /// The connection ends.
    Dropped,
    /// The chunk is taken, then the connection ends.
    TakenAndDropped,
}

/// What a host does with STARTTLS, where it is offered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Absent,
    Works,
    /// It wants a certificate of the client, which is found out behind the handshake.
    ClientCertificate,
    /// At the second EHLO.
    HangsUp,
    HangsUpOnce,
    Refuses,
    /// At STARTTLS.
    Unanswered,
    Closes,
    Refused,
    /// There is no handshake.
    Broken,
}

/// How a host behaves.
#[derive(Clone)]
pub struct Manner {
    pub offers: &'static str,
    /// What it says to a verb, `banner` or `dot` in place of what it would say.
    pub says: Vec<(&'static str, &'static str)>,
    pub pipelining: Pipelining,
    pub chunking: Chunking,
    pub tls: Tls,
    /// MAIL in clear text is 530.
    pub requires_tls: bool,
    /// How long it takes for the reply to RCPT.
    pub rcpt_takes: Duration,
    /// How long it takes for the reply to the final dot.
    pub dot_takes: Duration,
    /// Nobody is there.
    pub is_down: bool,
}

pub const GOOD: Manner = Manner {
    offers: "PIPELINING 8BITMIME",
    says: Vec::new(),
    pipelining: Pipelining::Heard,
    chunking: Chunking::Taken,
    tls: Tls::Absent,
    requires_tls: false,
    rcpt_takes: Duration::ZERO,
    dot_takes: Duration::ZERO,
    is_down: false,
};

pub fn says(says: &[(&'static str, &'static str)]) -> Manner {
    Manner { says: says.to_vec(), ..GOOD }
}

pub fn tls(tls: Tls) -> Manner {
    Manner { tls, ..GOOD }
}

/// A message that a host took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub at: Duration,
    /// `mx1.test` is 1.
    pub host: u8,
    pub recipient: String,
    pub verb: &'static str,
    pub mail: String,
    pub is_encrypted: bool,
}

/// The network; clones are the same one.
#[derive(Clone)]
pub struct Hosts(Arc<Inner>);

struct Inner {
    origin: Instant,
    manners: Mutex<HashMap<u8, Manner>>,
    taken: Mutex<Vec<Taken>>,
    /// Commands over all connections, and connections.
    heard: Mutex<Vec<String>>,
    connections: Mutex<usize>,
    acceptors: [TlsAcceptor; 2],
}

impl Hosts {
    #[expect(clippy::disallowed_methods, reason = "simulated time")]
    pub fn new(manners: &[Manner]) -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            manners: Mutex::new((1..).zip(manners.iter().cloned()).collect()),
            taken: Mutex::default(),
            heard: Mutex::default(),
            connections: Mutex::default(),
            acceptors: acceptors(),
        }))
    }

    /// From now on the host behaves like that.
    pub fn turn(&self, host: u8, manner: Manner) {
        self.0.manners.lock().insert(host, manner);
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.0.taken.lock().clone()
    }

    pub fn heard(&self, verb: &str) -> usize {
        self.0.heard.lock().iter().filter(|line| line.split(' ').next() == Some(verb)).count()
    }

    pub fn connections(&self) -> usize {
        *self.0.connections.lock()
    }
}

impl Inner {
    fn handshakes(&self) -> usize {
        self.heard.lock().iter().filter(|line| *line == "STARTTLS").count()
    }
}

/// One that asks nothing of the client, and one that wants a certificate.
fn acceptors() -> [TlsAcceptor; 2] {
    let made = rcgen::generate_simple_self_signed(vec!["mx1.test".to_owned()]).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
    let key = || PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let plain = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.clone(), key()).unwrap();
    let strict = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key()).unwrap();
    [plain, strict].map(|config| TlsAcceptor::from(Arc::new(config)))
}

/// One session of a host.
struct Session {
    inner: Arc<Inner>,
    host: u8,
    manner: Manner,
    stream: BoxStream,
    input: Vec<u8>,
    is_encrypted: bool,
    mail: Option<String>,
    recipient: Option<String>,
}

impl Session {
    async fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let len = self.stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.input.extend_from_slice(&buffer[..len]);
        Ok(())
    }

    async fn say(&mut self, verb: &str, reply: &str) -> io::Result<()> {
        let own = self.manner.says.iter().find(|(said_to, _)| *said_to == verb).map_or(reply, |(_, own)| own);
        self.stream.write_all(format!("{own}\r\n").as_bytes()).await?;
        self.stream.flush().await
    }

    async fn run(mut self) -> io::Result<()> {
        self.say("banner", "220 mx ESMTP").await?;
        loop {
            let is_first = !self.input.windows(2).any(|two| two == b"\r\n");
            let end = loop {
                match self.input.windows(2).position(|two| two == b"\r\n") {
                    Some(end) => break end,
                    None => self.more().await?,
                }
            };
            let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
            self.input.drain(..end + 2);
            self.inner.heard.lock().push(line.clone());
            match self.manner.pipelining {
                Pipelining::Lost => self.input.clear(),
                Pipelining::Synchronization if !self.input.is_empty() => {
                    return self.say("", "554 SMTP synchronization error").await;
                }
                Pipelining::Order if !is_first => {
                    self.say("", "503 5.5.1 out of order").await?;
                    continue;
                }
                Pipelining::Heard | Pipelining::Synchronization | Pipelining::Order => {}
            }
            self.command(&line).await?;
        }
    }

    /// An error ends the connection.
    async fn command(&mut self, line: &str) -> io::Result<()> {
        let verb = line.split(' ').next().unwrap_or_default();
        match verb {
            "EHLO" => self.ehlo().await,
            "STARTTLS" if self.manner.tls != Tls::Absent && !self.is_encrypted => self.starttls().await,
            "HELO" | "NOOP" | "RSET" => self.say(verb, "250 mx").await,
            "MAIL" if self.manner.requires_tls && !self.is_encrypted => {
                self.say(verb, "530 5.7.0 Must issue a STARTTLS command first").await
            }
            "MAIL" => {
                (self.mail, self.recipient) = (Some(line.to_owned()), None);
                self.say(verb, "250 ok").await
            }
            "RCPT" if self.mail.is_some() => {
                tokio::time::sleep(self.manner.rcpt_takes).await;
                self.recipient = line.split(['<', '>']).nth(1).map(str::to_owned);
                self.say(verb, "250 ok").await
            }
            "DATA" if self.recipient.is_some() => {
                self.say(verb, "354 go").await?;
                let mut end = None;
                while end.is_none() {
                    self.more().await?;
                    end = self.input.windows(5).position(|five| five == b"\r\n.\r\n");
                }
                self.input.drain(..end.unwrap_or_default() + 5);
                self.take("DATA").await
            }
            "BDAT" if self.recipient.is_some() && self.manner.chunking != Chunking::Unknown => {
                if self.manner.chunking == Chunking::Dropped {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                let size: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
                while self.input.len() < size {
                    self.more().await?;
                }
                self.input.drain(..size);
                self.take("BDAT").await
            }
            "RCPT" | "DATA" => self.say("", "503 5.5.1 out of order").await,
            "QUIT" => {
                self.say(verb, "221 bye").await?;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            _ => self.say("", "500 5.5.2 what?").await,
        }
    }

    async fn ehlo(&mut self) -> io::Result<()> {
        match self.manner.tls {
            Tls::HangsUp if self.is_encrypted => return Err(io::ErrorKind::UnexpectedEof.into()),
            Tls::HangsUpOnce if self.is_encrypted && self.inner.handshakes() == 1 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Tls::Refuses if self.is_encrypted => return self.say("", "500 5.5.2 what?").await,
            _ => {}
        }
        let starttls = (self.manner.tls != Tls::Absent && !self.is_encrypted).then_some("STARTTLS");
        let offers = self.manner.offers.split(' ').chain(starttls).filter(|offer| !offer.is_empty());
        let lines: String = offers.map(|offer| format!("250-{}\r\n", offer.replace('=', " "))).collect();
        self.say("EHLO", &format!("250-mx\r\n{lines}250 HELP")).await
    }

    async fn starttls(&mut self) -> io::Result<()> {
        match self.manner.tls {
            Tls::Unanswered => std::future::pending().await,
            Tls::Closes => return Err(io::ErrorKind::UnexpectedEof.into()),
            Tls::Refused => return self.say("STARTTLS", "454 4.7.0 TLS not available").await,
            Tls::Absent | Tls::Works | Tls::ClientCertificate => {}
            Tls::HangsUp | Tls::HangsUpOnce | Tls::Refuses | Tls::Broken => {}
        }
        self.say("STARTTLS", "220 go").await?;
        if self.manner.tls == Tls::Broken {
            self.stream.write_all(b"this is no handshake\r\n").await?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let acceptor = &self.inner.acceptors[usize::from(self.manner.tls == Tls::ClientCertificate)];
        let (nobody, _) = duplex(1);
        let stream = std::mem::replace(&mut self.stream, Box::new(nobody));
        self.stream = Box::new(acceptor.accept(stream).await?);
        self.is_encrypted = true;
        Ok(())
    }

    async fn take(&mut self, verb: &'static str) -> io::Result<()> {
        self.inner.taken.lock().push(Taken {
            at: self.inner.origin.elapsed(),
            host: self.host,
            recipient: self.recipient.take().unwrap_or_default(),
            verb,
            mail: self.mail.take().unwrap_or_default(),
            is_encrypted: self.is_encrypted,
        });
        if verb == "BDAT" && self.manner.chunking == Chunking::TakenAndDropped {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        tokio::time::sleep(self.manner.dot_takes).await;
        self.say("dot", "250 2.0.0 taken").await
    }
}

impl Network for Hosts {
    fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        let inner = self.0.clone();
        Box::pin(async move {
            let IpAddr::V4(ip) = to.ip() else { return Err(io::ErrorKind::NetworkUnreachable.into()) };
            let host = ip.octets()[3];
            *inner.connections.lock() += 1;
            let manner = inner.manners.lock().get(&host).cloned().filter(|manner| !manner.is_down);
            let manner = manner.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = duplex(64 << 10);
            let (input, stream) = (Vec::new(), Box::new(theirs));
            let session =
                Session { inner, host, manner, stream, input, is_encrypted: false, mail: None, recipient: None };
            // How it ends is of no interest.
            tokio::spawn(async move { drop(session.run().await) });
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

fn named(hosts: u16) -> Vec<String> {
    (1..=hosts).map(|number| format!("mx{number}.test")).collect()
}

/// `one.test` has one host, `two.test` two by preference, `twenty.test` twenty. The first host of `pair.test` has the
/// addresses of the first two, the second that of the third.
impl Dns for Hosts {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let names: Vec<String> = match domain {
            "pair.test" => vec!["mx1-2.test".to_owned(), "mx3.test".to_owned()],
            "two.test" => named(2),
            "twenty.test" => named(20),
            _ => named(1),
        };
        let record = |(preference, exchange)| MxRecord { preference, exchange };
        let records = (1..).zip(names).map(record).collect();
        Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(1_000_000), secure: false }) })
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let numbers = host.trim_start_matches("mx").trim_end_matches(".test").split('-');
        let records = numbers.map(|number| IpAddr::from([192, 0, 2, number.parse().unwrap()])).collect();
        Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(1_000_000), secure: false }) })
    }
}
