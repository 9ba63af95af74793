//! A network of a few mail hosts with moods.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use otp_relay::testing::base::clock::{Clock, ManualClock};
use otp_relay::testing::delivery::smart_host::{SmartHost, Tls};
use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::testing::net::{BoxStream, Connecting, Network};
use otp_relay::testing::policy::failover::When;
use parking_lot::Mutex;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, ReadBuf, duplex,
};
use tokio_util::sync::CancellationToken;

use crate::simulation::laws::Laws;
use crate::support::random::Random;

const HOSTS: u8 = 3;
/// Behind them, those that carry mail for others.
const SMART_HOSTS: u8 = 2;

/// What a host does not do as it should.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quirk {
    None,
    /// Its replies break their form: other codes, lines without one.
    Malformed,
    /// It offers CHUNKING and hears a chunk as commands.
    ChunkUnknown,
    /// Now and then it says yes for go ahead, and go ahead for yes.
    Misplaced,
    /// It offers PIPELINING and loses all but the first command of a write.
    RestLost,
}

/// What a host tends to do.
#[derive(Clone, Copy)]
struct Mood {
    /// Delay of its greylist; zero: none.
    greylist: Duration,
    /// Early attempts begin its wait anew.
    restarts: bool,
    /// In 100 commands, how many are refused for now, for good, cut off, and met with silence.
    refuse_percent: u64,
    deny_percent: u64,
    drop_percent: u64,
    stall_percent: u64,
    /// In 100 connections, how many come about.
    reachable_percent: u64,
    pipelining: bool,
    chunking: bool,
    /// How long each reply takes.
    latency: Duration,
    /// How long the banner and the replies to EHLO, MAIL, RCPT and DATA take.
    slow: [Duration; 5],
    /// Connections it takes at once; others are turned away, with a word or without.
    connections_max: usize,
    is_polite: bool,
    quirk: Quirk,
}

/// The network; clones are the same one.
#[derive(Clone)]
pub struct SimulatedNetwork(Arc<Inner>);

/// Hosts, names and moods.
struct Inner {
    random: Mutex<Random>,
    moods: Vec<Mood>,
    smart_hosts: Vec<SmartHost>,
    first_seen: Mutex<HashMap<String, Instant>>,
    clock: Arc<ManualClock>,
    laws: Arc<Laws>,
    cut: Mutex<CancellationToken>,
    /// Connections that each host has.
    open: Mutex<HashMap<u8, usize>>,
    /// Connections so far.
    count: AtomicU64,
}

impl SimulatedNetwork {
    pub fn new(mut random: Random, clock: Arc<ManualClock>, laws: Arc<Laws>) -> Self {
        let mut moods: Vec<Mood> = (0..HOSTS + SMART_HOSTS).map(|_| mood(&mut random)).collect();
        moods[usize::from(HOSTS)..].iter_mut().for_each(|mood| mood.greylist = Duration::ZERO);
        let smart_hosts = (0..random.below(u64::from(SMART_HOSTS) + 1)).map(|number| {
            let when = [When::Always, When::DirectFailed, When::Deadline][random.index(3)];
            let domains = vec![["*", "d1.test"][random.index(2)].to_owned()];
            let host = format!("mx{}.test", u64::from(HOSTS) + number);
            SmartHost { tls: Tls::Never, when, domains, ..SmartHost::at(&host, 587) }
        });
        let smart_hosts = smart_hosts.collect();
        Self(Arc::new(Inner {
            random: Mutex::new(random),
            moods,
            smart_hosts,
            first_seen: Mutex::default(),
            clock,
            laws,
            cut: Mutex::default(),
            open: Mutex::default(),
            count: AtomicU64::new(0),
        }))
    }

    /// Those that the relay is told of.
    pub fn smart_hosts(&self) -> Vec<SmartHost> {
        self.0.smart_hosts.clone()
    }

    /// All connections end.
    pub fn cut_all(&self) {
        let mut cut = self.0.cut.lock();
        cut.cancel();
        *cut = CancellationToken::new();
    }
}

impl Inner {
    fn chance(&self, percent: u64) -> bool {
        self.random.lock().below(100) < percent
    }
}

fn mood(random: &mut Random) -> Mood {
    let sometimes = |random: &mut Random, most: u64| if random.below(2) == 0 { 0 } else { random.below(most) };
    Mood {
        greylist: Duration::from_secs(sometimes(random, 400)),
        restarts: random.below(4) == 0,
        refuse_percent: sometimes(random, 30),
        deny_percent: sometimes(random, 5),
        drop_percent: sometimes(random, 15),
        stall_percent: sometimes(random, 5),
        reachable_percent: 100 - sometimes(random, 60),
        pipelining: random.below(2) == 0,
        chunking: random.below(2) == 0,
        latency: Duration::from_millis(sometimes(random, 300)),
        slow: slow(random),
        connections_max: if random.below(4) == 0 { 1 } else { usize::MAX },
        is_polite: random.below(2) == 0,
        quirk: match random.below(10) {
            0 => Quirk::Malformed,
            1 => Quirk::ChunkUnknown,
            2 => Quirk::Misplaced,
            3 => Quirk::RestLost,
            _ => Quirk::None,
        },
    }
}

/// One host in four is slow: at one stage, or at all.
fn slow(random: &mut Random) -> [Duration; 5] {
    let mut slow = [Duration::ZERO; 5];
    let mut takes = || Duration::from_secs(12 + random.below(49));
    let (at_one, at_all) = (takes(), [takes(), takes(), takes(), takes(), takes()]);
    match random.below(8) {
        0 => slow[random.index(5)] = at_one,
        1 => slow = at_all,
        _ => {}
    }
    slow
}

impl Network for SimulatedNetwork {
    fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        let network = self.0.clone();
        Box::pin(async move {
            let IpAddr::V4(ip) = to.ip() else { return Err(io::ErrorKind::NetworkUnreachable.into()) };
            let host = ip.octets()[3] - 1;
            let mood = network.moods[usize::from(host)];
            if !network.chance(mood.reachable_percent) {
                if network.chance(50) {
                    std::future::pending::<()>().await;
                }
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(64 << 10);
            let cut = network.cut.lock().clone();
            network.laws.connected(host);
            let number = network.count.fetch_add(1, Ordering::Relaxed);
            let open = {
                let mut open = network.open.lock();
                let open = open.entry(host).or_default();
                *open += 1;
                *open
            };
            let is_full = open > mood.connections_max;
            let ours = Counted { stream: ours, network: network.clone(), host, number, recipient: String::new() };
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = cut.cancelled() => {}
                    // A connection that breaks is part of the game.
                    served = network.serve(theirs, mood, is_full, number) => drop(served),
                }
            });
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

/// The relay's end of a connection; counted until the relay lets go of it. Sees which content leaves, and for whom.
struct Counted {
    stream: DuplexStream,
    network: Arc<Inner>,
    host: u8,
    number: u64,
    recipient: String,
}

impl Counted {
    fn written(&mut self, octets: &[u8]) {
        let text = String::from_utf8_lossy(octets);
        if let Some(rest) = text.split("RCPT TO:<").nth(1) {
            self.recipient = rest.split('>').next().unwrap_or_default().to_owned();
        }
        if let Some(number) = number_in(&text) {
            self.network.laws.content_leaves(self.number, number, &self.recipient);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.network.laws.disconnected(self.host);
        self.network.laws.content_ended(self.number);
        *self.network.open.lock().entry(self.host).or_default() -= 1;
    }
}

fn number_in(text: &str) -> Option<u64> {
    let number = text.split("X-Number: ").nth(1)?.split("\r\n").next()?;
    Some(number.parse().unwrap())
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = written {
            self.written(&buf[..len]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Inner {
    async fn serve(&self, stream: DuplexStream, mood: Mood, is_full: bool, connection: u64) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        if !self.greet(&mut stream, mood, is_full).await? {
            return Ok(());
        }
        let (mut recipient, mut has_mail, mut accepted) = (String::new(), false, false);
        loop {
            let line = read_command(&mut stream, mood).await?;
            if line.is_empty() {
                return Ok(());
            }
            let verb = line.split_whitespace().next().unwrap_or_default().to_owned();
            if !self.dawdle(mood, &verb).await {
                return Ok(());
            }
            let reply = match verb.as_str() {
                "EHLO" => self.ehlo(mood),
                "MAIL" => {
                    let reply = self.say(mood, "250 2.1.0 ok");
                    (has_mail, accepted) = (reply.starts_with("250"), false);
                    reply
                }
                "RCPT" if has_mail => {
                    recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    let reply = self.greylist(&recipient, mood).unwrap_or_else(|| self.say(mood, "250 2.1.5 ok"));
                    let is_misplaced = self.is_misplaced(mood);
                    accepted = !is_misplaced && reply.starts_with("250");
                    if is_misplaced { "354 go\r\n".into() } else { reply }
                }
                "DATA" if accepted && self.is_misplaced(mood) => "250 ok\r\n".into(),
                "DATA" if accepted => {
                    stream.write_all(b"354 go\r\n").await?;
                    let content = read_dotted(&mut stream).await?;
                    self.take(&content, &recipient, mood, connection).await
                }
                "BDAT" if mood.quirk == Quirk::ChunkUnknown => {
                    self.laws.content_ended(connection);
                    "500 5.5.2 what?\r\n".into()
                }
                "BDAT" => {
                    let content = read_chunk(&mut stream, &line).await?;
                    if accepted {
                        self.take(&content, &recipient, mood, connection).await
                    } else {
                        self.laws.content_ended(connection);
                        "554 5.5.1 no recipients\r\n".into()
                    }
                }
                "RCPT" | "DATA" => "503 5.5.1 not now\r\n".into(),
                "QUIT" => return stream.write_all(b"221 bye\r\n").await,
                "RSET" | "NOOP" => "250 ok\r\n".into(),
                _ => "500 5.5.2 what?\r\n".into(),
            };
            let reply = if mood.quirk == Quirk::Malformed { self.malformed(&reply) } else { reply };
            if reply.is_empty() {
                return Ok(());
            }
            stream.write_all(reply.as_bytes()).await?;
        }
    }

    /// The banner; says whether there is to be a dialog.
    async fn greet(&self, stream: &mut BufReader<DuplexStream>, mood: Mood, is_full: bool) -> io::Result<bool> {
        if is_full && !mood.is_polite {
            return Ok(false);
        }
        if is_full {
            return stream.write_all(b"421 4.7.0 too many connections\r\n").await.map(|()| false);
        }
        tokio::time::sleep(mood.slow[0]).await;
        if self.chance(mood.refuse_percent / 3) {
            return stream.write_all(b"421 4.3.2 later\r\n").await.map(|()| false);
        }
        stream.write_all(b"220 mx ESMTP\r\n").await.map(|()| true)
    }

    /// What is slow about a host before it answers a command; false: it hangs up.
    async fn dawdle(&self, mood: Mood, verb: &str) -> bool {
        tokio::time::sleep(mood.latency).await;
        if self.chance(mood.drop_percent / 5) {
            return false;
        }
        if self.chance(mood.stall_percent / 5) {
            std::future::pending::<()>().await;
        }
        let stage = ["EHLO", "MAIL", "RCPT", "DATA"].into_iter().position(|slow| slow == verb);
        tokio::time::sleep(stage.map_or(Duration::ZERO, |stage| mood.slow[stage + 1])).await;
        true
    }

    fn ehlo(&self, mood: Mood) -> String {
        let pipelining = if mood.pipelining { "250-PIPELINING\r\n" } else { "" };
        let chunking = if mood.chunking { "250-CHUNKING\r\n" } else { "" };
        format!("250-mx\r\n{pipelining}{chunking}250 8BITMIME\r\n")
    }

    fn is_misplaced(&self, mood: Mood) -> bool {
        mood.quirk == Quirk::Misplaced && self.chance(20)
    }

    /// The same in another form.
    fn malformed(&self, reply: &str) -> String {
        let digit = reply.get(..1).unwrap_or_default();
        match self.random.lock().below(5) {
            _ if reply.is_empty() => String::new(),
            0 => format!("\r\n{reply}"),
            1 => format!("a note\r\n{reply}"),
            2 => format!("{digit}59-other\r\n{reply}"),
            3 => format!("{digit}50-one\r\ntwo\r\n{reply}"),
            _ => reply.to_owned(),
        }
    }

    fn say(&self, mood: Mood, reply: &str) -> String {
        if self.chance(mood.refuse_percent) {
            return "451 4.3.0 not now\r\n".into();
        }
        if self.chance(mood.deny_percent) {
            return "550 5.7.1 no\r\n".into();
        }
        format!("{reply}\r\n")
    }

    fn greylist(&self, recipient: &str, mood: Mood) -> Option<String> {
        let now = self.clock.instant();
        let mut first_seen = self.first_seen.lock();
        let first = first_seen.entry(recipient.to_owned()).or_insert(now);
        let is_early = now - *first < mood.greylist;
        if is_early && mood.restarts {
            *first = now;
        }
        is_early.then(|| "450 4.2.0 Greylisted\r\n".to_owned())
    }

    /// Takes the content, or not; empty: takes it and hangs up.
    async fn take(&self, content: &[u8], recipient: &str, mood: Mood, connection: u64) -> String {
        tokio::time::sleep(mood.latency).await;
        let number = number_in(&String::from_utf8_lossy(content));
        let reply = self.say(mood, "250 2.0.0 taken");
        let is_misplaced = self.is_misplaced(mood);
        let is_lost = is_misplaced || self.chance(mood.drop_percent);
        // A notification has none; the laws are about what apps send.
        if let Some(number) = number
            && reply.starts_with("250")
        {
            self.laws.arrived(number, recipient, connection);
            self.laws.reply_lost(number, recipient, is_lost);
        }
        self.laws.content_ended(connection);
        match () {
            () if is_misplaced => "354 go\r\n".into(),
            () if is_lost => String::new(),
            () => reply,
        }
    }
}

/// A line; nothing: the peer has hung up.
async fn read_command(stream: &mut BufReader<DuplexStream>, mood: Mood) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if mood.quirk == Quirk::RestLost {
        let rest = stream.buffer().len();
        stream.consume(rest);
    }
    Ok(line)
}

async fn read_chunk(stream: &mut BufReader<DuplexStream>, line: &str) -> io::Result<Vec<u8>> {
    let size = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap();
    let mut content = vec![0; size];
    stream.read_exact(&mut content).await?;
    Ok(content)
}

async fn read_dotted(stream: &mut BufReader<DuplexStream>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(content);
        }
        content.extend_from_slice(&line);
    }
}

/// Domain `dN.test` is served by host N, and by host 0 as the second choice; `d3.test` by nobody.
impl Dns for SimulatedNetwork {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let number: Option<u8> =
            domain.strip_prefix('d').and_then(|rest| rest.strip_suffix(".test")).and_then(|n| n.parse().ok());
        let is_ill = self.0.chance(5);
        Box::pin(async move {
            if is_ill {
                return Err(DnsError::Timeout);
            }
            let number = number.filter(|number| *number < HOSTS).ok_or(DnsError::NoSuchName)?;
            let mut records = vec![MxRecord { preference: 10, exchange: format!("mx{number}.test") }];
            if number > 0 {
                records.push(MxRecord { preference: 20, exchange: "mx0.test".into() });
            }
            Ok(Records { records, ttl: Duration::from_secs(300), secure: false })
        })
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let number: u8 =
            host.strip_prefix("mx").and_then(|rest| rest.strip_suffix(".test")).and_then(|n| n.parse().ok()).unwrap();
        let records = vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, number + 1))];
        Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(300), secure: false }) })
    }
}
