//! Mail hosts that differ in how they can be reached, and what they saw.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use otp_relay::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::net::{BoxStream, Connecting, Network};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

/// How a host can be reached.
#[derive(Clone, Copy)]
pub enum Mood {
    /// It is not there, and somebody says so.
    Refuses,
    /// Packets to it vanish.
    Silent,
    /// There is no route to it.
    NoRoute,
    /// It takes connections and replies so.
    Serves(Manner),
}

/// How a host behaves.
#[derive(Clone, Copy)]
pub struct Manner {
    /// How long each reply takes, the banner too.
    pub latency: Duration,
    pub banner: &'static str,
    pub chunking: bool,
    /// Messages it takes in one session.
    pub messages_max: usize,
    /// Sessions it has at once.
    pub sessions_max: usize,
    /// How long it lets a session rest.
    pub rest_max: Duration,
    /// How long it makes each recipient wait who is new to it.
    pub greylists: Duration,
}

pub const GOOD: Manner = Manner {
    latency: Duration::from_millis(50),
    banner: "220 mx ESMTP",
    chunking: false,
    messages_max: usize::MAX,
    sessions_max: usize::MAX,
    rest_max: Duration::from_secs(300),
    greylists: Duration::ZERO,
};

/// One thing that a host saw.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Duration,
    pub host: IpAddr,
    /// What is of interest: `connect`, `421`, or the recipient of a message that was taken.
    pub what: String,
}

/// The network; clones are the same one.
#[derive(Clone)]
pub struct Hosts(Arc<Inner>);

struct Inner {
    origin: Instant,
    moods: Mutex<HashMap<IpAddr, Mood>>,
    sessions: Mutex<HashMap<IpAddr, usize>>,
    seen: Mutex<Vec<Seen>>,
    /// When recipients were first named.
    strangers: Mutex<HashMap<String, Duration>>,
}

impl Hosts {
    #[expect(clippy::disallowed_methods, reason = "simulated time")]
    pub fn new(moods: &[(&str, Mood)]) -> Self {
        let moods = moods.iter().map(|(ip, mood)| (ip.parse().unwrap(), *mood)).collect();
        Self(Arc::new(Inner {
            origin: Instant::now(),
            moods: Mutex::new(moods),
            sessions: Mutex::default(),
            seen: Mutex::default(),
            strangers: Mutex::default(),
        }))
    }

    pub fn turn(&self, ip: &str, mood: Mood) {
        self.0.moods.lock().insert(ip.parse().unwrap(), mood);
    }

    /// What was seen of a kind.
    pub fn seen(&self, what: &str) -> Vec<Seen> {
        self.0.seen.lock().iter().filter(|seen| seen.what == what).cloned().collect()
    }

    /// Waits until a message to this recipient has arrived; when that was.
    pub async fn arrival(&self, recipient: &str) -> Duration {
        loop {
            if let Some(seen) = self.seen(recipient).first() {
                return seen.at;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Inner {
    fn see(&self, host: IpAddr, what: &str) {
        self.seen.lock().push(Seen { at: self.origin.elapsed(), host, what: what.to_owned() });
    }

    async fn serve(&self, mut stream: DuplexStream, host: IpAddr, manner: Manner) -> io::Result<()> {
        tokio::time::sleep(manner.latency).await;
        let is_full = self.sessions.lock().get(&host).is_some_and(|open| *open > manner.sessions_max);
        let banner = if is_full { "421 4.7.0 too many connections" } else { manner.banner };
        stream.write_all(format!("{banner}\r\n").as_bytes()).await?;
        if !banner.starts_with("220") {
            self.see(host, "421");
            return Ok(());
        }
        let (mut input, mut session) =
            (Vec::new(), Session { manner, taken: 0, recipient: String::new(), in_data: false });
        loop {
            let mut buffer = [0; 8192];
            let read = tokio::time::timeout(manner.rest_max, stream.read(&mut buffer)).await;
            let len = read.unwrap_or(Ok(0))?;
            if len == 0 {
                return Ok(());
            }
            input.extend_from_slice(&buffer[..len]);
            tokio::time::sleep(manner.latency).await;
            let passes = |recipient: &str| {
                let now = self.origin.elapsed();
                now >= *self.strangers.lock().entry(recipient.to_owned()).or_insert(now) + manner.greylists
            };
            while let Some((reply, taken)) = session.next(&mut input, passes) {
                if let Some(recipient) = taken {
                    self.see(host, &recipient);
                }
                stream.write_all(reply.as_bytes()).await?;
                if reply.starts_with("421") {
                    self.see(host, "421");
                    return Ok(());
                }
            }
        }
    }
}

struct Session {
    manner: Manner,
    taken: usize,
    recipient: String,
    in_data: bool,
}

impl Session {
    /// The reply to the next command that is there as a whole, and the recipient if a message was taken.
    fn next(&mut self, input: &mut Vec<u8>, passes: impl Fn(&str) -> bool) -> Option<(String, Option<String>)> {
        if self.in_data {
            let end = input.windows(5).position(|five| five == b"\r\n.\r\n")?;
            input.drain(..end + 5);
            self.in_data = false;
            return Some(self.take());
        }
        let end = input.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8(input[..end].to_vec()).unwrap();
        let verb = line.split(' ').next().unwrap_or_default();
        if verb == "BDAT" {
            let len: usize = line.split(' ').nth(1)?.parse().unwrap();
            if input.len() < end + 2 + len {
                return None;
            }
            input.drain(..end + 2 + len);
            return Some(self.take());
        }
        input.drain(..end + 2);
        let chunking = if self.manner.chunking { "250-CHUNKING\r\n" } else { "" };
        let reply = match verb {
            "EHLO" => format!("250-mx\r\n{chunking}250 PIPELINING\r\n"),
            "MAIL" if self.taken >= self.manner.messages_max => "421 4.7.0 enough for one session\r\n".into(),
            "RCPT" => {
                self.recipient = line.split(['<', '>']).nth(1).unwrap().to_owned();
                if passes(&self.recipient) { "250 ok\r\n".into() } else { "451 4.7.1 Greylisted\r\n".into() }
            }
            "DATA" => {
                self.in_data = true;
                "354 go\r\n".into()
            }
            _ => "250 ok\r\n".into(),
        };
        Some((reply, None))
    }

    fn take(&mut self) -> (String, Option<String>) {
        self.taken += 1;
        ("250 taken\r\n".to_owned(), Some(std::mem::take(&mut self.recipient)))
    }
}

impl Network for Hosts {
    fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        let (inner, host) = (self.0.clone(), to.ip());
        Box::pin(async move {
            inner.see(host, "connect");
            let mood = inner.moods.lock().get(&host).copied().unwrap_or(Mood::Refuses);
            let manner = match mood {
                Mood::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
                Mood::NoRoute => return Err(io::ErrorKind::NetworkUnreachable.into()),
                Mood::Silent => std::future::pending().await,
                Mood::Serves(manner) => manner,
            };
            let (ours, theirs) = duplex(64 << 10);
            *inner.sessions.lock().entry(host).or_default() += 1;
            tokio::spawn(async move {
                // A connection that the relay closes is no failure of the host.
                let _ = inner.serve(theirs, host, manner).await;
                *inner.sessions.lock().entry(host).or_default() -= 1;
            });
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

/// `one.test` has one host, `two.test` two by preference, `six.test` one with addresses of both families.
impl Dns for Hosts {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let hosts: &[&str] = if domain == "two.test" { &["mx1.test", "mx2.test"] } else { &["mx2.test"] };
        let hosts = if domain == "six.test" { &["mx6.test"] } else { hosts };
        let record = |(preference, host): (u16, &&str)| MxRecord { preference, exchange: (*host).to_owned() };
        let records = (10..).zip(hosts).map(record).collect();
        Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(3600), secure: false }) })
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let found = match host {
            "mx1.test" => Ok("192.0.2.1"),
            "mx2.test" => Ok("192.0.2.2"),
            _ => Err(DnsError::NoRecords),
        };
        Box::pin(async move { found.map(records) })
    }

    fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let addresses = ["2001:db8::1", "2001:db8::2"].map(|ip| ip.parse().unwrap());
        let records = Records { records: addresses.to_vec(), ttl: Duration::from_secs(3600), secure: false };
        let found = if host == "mx6.test" { Ok(records) } else { Err(DnsError::NoRecords) };
        Box::pin(async move { found })
    }
}

fn records(ip: &str) -> Records<IpAddr> {
    Records { records: vec![ip.parse().unwrap()], ttl: Duration::from_secs(3600), secure: false }
}
