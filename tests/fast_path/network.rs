//! Mail hosts that differ in how they can be reached, and what they saw.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::testing::net::{BoxStream, Connecting, Network};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
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
    /// Nobody asks it: the machine of the relay fails with this error.
    Fails(i32),
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
    /// How much longer than the others some replies take.
    pub slow: &'static [(&'static str, Duration)],
    /// What it says to RCPT.
    pub rcpt: &'static str,
    /// What it does with a connection too many.
    pub turns_away: TurnsAway,
}

/// How a host turns a connection away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TurnsAway {
    AtBanner,
    AtEhlo,
    Silently,
}

impl Manner {
    /// How much longer a reply takes.
    fn more(&self, verb: &str) -> Duration {
        self.slow.iter().find(|(slow, _)| *slow == verb).map_or(Duration::ZERO, |(_, more)| *more)
    }
}

pub const GOOD: Manner = Manner {
    latency: Duration::from_millis(50),
    banner: "220 mx ESMTP",
    chunking: false,
    messages_max: usize::MAX,
    sessions_max: usize::MAX,
    rest_max: Duration::from_secs(300),
    greylists: Duration::ZERO,
    slow: &[],
    rcpt: "250 ok",
    turns_away: TurnsAway::AtBanner,
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
    /// Connections that the relay has, and the most that it had.
    open: Mutex<(usize, usize)>,
    seen: Mutex<Vec<Seen>>,
    /// When recipients were first named.
    first_contacts: Mutex<HashMap<String, Duration>>,
}

impl Hosts {
    #[expect(clippy::disallowed_methods, reason = "simulated time")]
    pub fn new(moods: &[(&str, Mood)]) -> Self {
        let moods = moods.iter().map(|(ip, mood)| (ip.parse().unwrap(), *mood)).collect();
        Self(Arc::new(Inner {
            origin: Instant::now(),
            moods: Mutex::new(moods),
            sessions: Mutex::default(),
            open: Mutex::default(),
            seen: Mutex::default(),
            first_contacts: Mutex::default(),
        }))
    }

    pub fn turn(&self, ip: &str, mood: Mood) {
        self.0.moods.lock().insert(ip.parse().unwrap(), mood);
    }

    /// What was seen of a kind.
    pub fn seen(&self, what: &str) -> Vec<Seen> {
        self.0.seen.lock().iter().filter(|seen| seen.what == what).cloned().collect()
    }

    /// The most connections that the relay had at once.
    pub fn most_at_once(&self) -> usize {
        self.0.open.lock().1
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
        let is_full = self.sessions.lock().get(&host).is_some_and(|open| *open > manner.sessions_max);
        tokio::time::sleep(manner.latency).await;
        if is_full && manner.turns_away == TurnsAway::Silently {
            self.see(host, "closed");
            return Ok(());
        }
        if !is_full {
            tokio::time::sleep(manner.more("banner")).await;
        }
        let at_banner = is_full && manner.turns_away == TurnsAway::AtBanner;
        let banner = if at_banner { "421 4.7.0 too many connections" } else { manner.banner };
        stream.write_all(format!("{banner}\r\n").as_bytes()).await?;
        if !banner.starts_with("220") {
            self.see(host, "421");
            return Ok(());
        }
        let mut input = Vec::new();
        let (recipient, is_accepted, in_data) = (String::new(), false, false);
        let mut session = Session { manner, is_full, taken: 0, recipient, is_accepted, in_data };
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
                now >= *self.first_contacts.lock().entry(recipient.to_owned()).or_insert(now) + manner.greylists
            };
            while let Some((reply, taken, more)) = session.next(&mut input, passes) {
                tokio::time::sleep(more).await;
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

/// The relay's end of a connection; counted until the relay lets go of it.
struct Counted {
    stream: DuplexStream,
    inner: Arc<Inner>,
}

impl Counted {
    fn new(stream: DuplexStream, inner: Arc<Inner>) -> Self {
        let mut open = inner.open.lock();
        *open = (open.0 + 1, open.1.max(open.0 + 1));
        drop(open);
        Self { stream, inner }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.inner.open.lock().0 -= 1;
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Session {
    manner: Manner,
    is_full: bool,
    taken: usize,
    recipient: String,
    is_accepted: bool,
    in_data: bool,
}

impl Session {
    /// The reply to the next command that is there as a whole, the recipient if a message was taken, and how much longer
    /// that takes.
    fn next(
        &mut self,
        input: &mut Vec<u8>,
        passes: impl Fn(&str) -> bool,
    ) -> Option<(String, Option<String>, Duration)> {
        if self.in_data {
            let end = input.windows(5).position(|five| five == b"\r\n.\r\n")?;
            input.drain(..end + 5);
            self.in_data = false;
            return Some(self.take("dot"));
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
            return Some(self.take("dot"));
        }
        input.drain(..end + 2);
        let chunking = if self.manner.chunking { "250-CHUNKING\r\n" } else { "" };
        let reply = match verb {
            "EHLO" if self.is_full => "421 4.7.0 too many connections\r\n".into(),
            "EHLO" => format!("250-mx\r\n{chunking}250 PIPELINING\r\n"),
            "MAIL" if self.taken >= self.manner.messages_max => "421 4.7.0 enough for one session\r\n".into(),
            "RCPT" => {
                self.recipient = line.split(['<', '>']).nth(1).unwrap().to_owned();
                let reply = if passes(&self.recipient) { self.manner.rcpt } else { "451 4.7.1 Greylisted" };
                self.is_accepted = reply.starts_with("250");
                format!("{reply}\r\n")
            }
            "DATA" if !self.is_accepted => "503 5.5.1 no recipient\r\n".into(),
            "DATA" => {
                self.in_data = true;
                "354 go\r\n".into()
            }
            _ => "250 ok\r\n".into(),
        };
        Some((reply, None, self.manner.more(verb)))
    }

    fn take(&mut self, verb: &str) -> (String, Option<String>, Duration) {
        if !self.is_accepted {
            return ("503 5.5.1 no recipient\r\n".to_owned(), None, Duration::ZERO);
        }
        self.taken += 1;
        self.is_accepted = false;
        ("250 taken\r\n".to_owned(), Some(std::mem::take(&mut self.recipient)), self.manner.more(verb))
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
                Mood::Fails(code) => return Err(io::Error::from_raw_os_error(code)),
                Mood::NoRoute => return Err(io::ErrorKind::NetworkUnreachable.into()),
                Mood::Silent => std::future::pending().await,
                Mood::Serves(manner) => manner,
            };
            let (ours, theirs) = duplex(64 << 10);
            let ours = Counted::new(ours, inner.clone());
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

/// `one.test` has one host, `two.test` two by preference, `six.test` one with addresses of both families, `many.test`
/// seventeen by preference at 198.51.100.1 and following, `wide.test` one with nine addresses there; `hosts-N.test` has so many
/// of one preference there, `addresses-N.test` one host with so many addresses.
impl Dns for Hosts {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let hosts: Vec<String> = match domain {
            "two.test" => named(&["mx1.test", "mx2.test"]),
            "six.test" => named(&["mx6.test"]),
            "wide.test" => named(&["mx-wide.test"]),
            "many.test" => (1..=17).map(|n| format!("mx-{n}")).collect(),
            _ => match (number_in(domain, "hosts-"), number_in(domain, "addresses-")) {
                (Some(hosts), _) => (1..=hosts).map(|n| format!("mx-{n:03}")).collect(),
                (_, Some(addresses)) => vec![format!("all-{addresses}.test")],
                (None, None) => named(&["mx2.test"]),
            },
        };
        let is_equal = number_in(domain, "hosts-").is_some();
        let preferences = (10..).map(|preference| if is_equal { 10 } else { preference });
        let record = |(preference, exchange): (u16, String)| MxRecord { preference, exchange };
        let records = preferences.zip(hosts).map(record).collect();
        Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(3600), secure: false }) })
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let one = |number: u16| IpAddr::from([198, 51, 100 + number.to_be_bytes()[0], number.to_be_bytes()[1]]);
        let found = match host {
            "mx1.test" => Ok(vec![IpAddr::from([192, 0, 2, 1])]),
            "mx2.test" => Ok(vec![IpAddr::from([192, 0, 2, 2])]),
            "mx-wide.test" => Ok((1..=9).map(one).collect()),
            _ => match (host.strip_prefix("mx-").and_then(|n| n.parse().ok()), number_in(host, "all-")) {
                (Some(number), _) => Ok(vec![one(number)]),
                (_, Some(addresses)) => Ok((1..=addresses).map(one).collect()),
                (None, None) => Err(DnsError::NoRecords),
            },
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

/// The number in `prefix-N.test`.
fn number_in(name: &str, prefix: &str) -> Option<u16> {
    name.strip_prefix(prefix)?.strip_suffix(".test")?.parse().ok()
}

fn records(records: Vec<IpAddr>) -> Records<IpAddr> {
    Records { records, ttl: Duration::from_secs(3600), secure: false }
}
