//! A relay on simulated time among mail hosts of which some are somebody's who means harm.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock as _, ManualClock, Timestamp};
use otp_relay::testing::destination::resolver::{Answer, Dns, MxRecord};
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::net::{BoxStream, Connecting, Network};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

use crate::support::in_memory::{Addresses, Life, RecordedEvents, code_to, found};

/// How long each reply takes.
pub const LATENCY: Duration = Duration::from_millis(50);

/// What a host does.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    /// It takes everything.
    Takes,
    /// It takes everything and says nothing behind the final dot.
    SilentBehindDot,
    /// It takes everything but mail for addresses that begin so, which it refuses with this reply to RCPT.
    Refuses(&'static str, &'static str),
}

/// From a domain to its host's name, and how that one behaves.
type Places = fn(&str) -> (String, Manner);

/// The network; clones are the same one.
#[derive(Clone)]
pub struct Hosts(Arc<Inner>);

struct Inner {
    clock: Arc<ManualClock>,
    serves: Places,
    /// By name, each in a network of its own.
    addresses: Addresses,
    manners: Mutex<HashMap<String, Manner>>,
    arrived: Mutex<HashMap<String, Timestamp>>,
}

impl Dns for Hosts {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let (host, manner) = (self.0.serves)(domain);
        self.0.manners.lock().insert(host.clone(), manner);
        found(vec![MxRecord { preference: 10, exchange: host }])
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        found(vec![self.0.addresses.of(host)])
    }
}

impl Network for Hosts {
    fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        let inner = self.0.clone();
        Box::pin(async move {
            let (_, host) = inner.addresses.host(to.ip());
            let manner = inner.manners.lock()[&host];
            let (ours, theirs) = duplex(64 << 10);
            // A connection that ends is the relay's business.
            tokio::spawn(async move { drop(inner.serve(theirs, manner).await) });
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

impl Inner {
    async fn serve(&self, stream: DuplexStream, manner: Manner) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 mx ESMTP\r\n").await?;
        let mut recipient = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            tokio::time::sleep(LATENCY).await;
            let reply = match (line.split(' ').next().unwrap_or_default().trim(), manner) {
                ("EHLO", _) => "250 mx",
                ("RCPT", manner) => {
                    recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    match manner {
                        Manner::Refuses(start, reply) if recipient.starts_with(start) => reply,
                        Manner::Takes | Manner::SilentBehindDot | Manner::Refuses(..) => "250 ok",
                    }
                }
                ("DATA", manner) => {
                    stream.write_all(b"354 go\r\n").await?;
                    while line != ".\r\n" {
                        line.clear();
                        if stream.read_line(&mut line).await? == 0 {
                            return Ok(());
                        }
                    }
                    if manner == Manner::SilentBehindDot {
                        return std::future::pending().await;
                    }
                    tokio::time::sleep(LATENCY).await;
                    self.arrived.lock().insert(std::mem::take(&mut recipient), self.clock.now());
                    "250 taken"
                }
                _ => "250 ok",
            };
            stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        }
    }
}

/// A relay among hosts.
pub struct World {
    pub life: Life,
    pub told: Arc<RecordedEvents>,
    hosts: Hosts,
    clock: Arc<ManualClock>,
}

impl World {
    pub fn new(serves: Places) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_255_200_000)));
        let hosts = Hosts(Arc::new(Inner {
            clock: clock.clone(),
            serves,
            addresses: Addresses::default(),
            manners: Mutex::default(),
            arrived: Mutex::default(),
        }));
        let told = Arc::new(RecordedEvents::default());
        let life = Life::begin(&MemoryStore::default(), &hosts, &clock, told.clone(), 20);
        Self { life, told, hosts, clock }
    }

    pub async fn submit(&self, recipient: &str) {
        let (user, submission) = code_to(recipient, Duration::from_secs(600));
        self.life.door.submit(&user, submission, Options::default(), None).await.unwrap();
    }

    /// From the submission of a message to its arrival; none: it did not arrive within ten minutes.
    pub async fn cost(&self, recipient: &str) -> Option<Duration> {
        let before = self.clock.now();
        self.submit(recipient).await;
        self.arrival(recipient, before).await
    }

    /// How long after `before` a message arrives.
    pub async fn arrival(&self, recipient: &str, before: Timestamp) -> Option<Duration> {
        loop {
            if let Some(at) = self.hosts.0.arrived.lock().get(recipient) {
                return Some(at.since(before));
            }
            if self.now().since(before) > Duration::from_secs(600) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
