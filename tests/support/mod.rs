//! What the tests of the whole relay share: a mail host that does as it is told, an app's side of SMTP, DNS from a
//! table, and a relay between them.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod bench;
pub mod client;
pub mod fake_mx;
pub mod http;
pub mod in_memory;
pub mod lines;
pub mod process;
pub mod random;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock, SystemClock};
use otp_relay::testing::config::Config;
use otp_relay::testing::destination::resolver::{Answer, Dns, DnsError, MxRecord, Records};
use otp_relay::testing::event::{Event, Kind, Sink};
use otp_relay::testing::relay::{Environment, Relay};
use otp_relay::testing::report::log::Output;
use tokio::sync::mpsc;

use fake_mx::FakeMx;

/// Longer than anything here takes; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Every domain has one mail host at loopback, except a few that have none.
#[derive(Debug, Default)]
pub struct TableDns;

impl Dns for TableDns {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        let answer: Result<&[&str], DnsError> = match domain {
            "gone.test" => Err(DnsError::NoSuchName),
            "null.test" => Ok(&[""]),
            "ill.test" => Err(DnsError::Failed("SERVFAIL".into())),
            "plain.test" => Err(DnsError::NoRecords),
            "twins.test" => Ok(&["mx.test", "mx2.test"]),
            "two.test" => Ok(&["dead.test", "mx.test"]),
            _ => Ok(&["mx.test"]),
        };
        let record = |(preference, host): (u16, &&str)| MxRecord { preference, exchange: (*host).to_owned() };
        let found = answer.map(|hosts| Records {
            records: (10..).step_by(10).zip(hosts).map(record).collect(),
            ttl: Duration::from_secs(60),
            secure: false,
        });
        Box::pin(async move { found })
    }

    /// Nobody listens at 127.0.0.2.
    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        let address = if host == "dead.test" { Ipv4Addr::new(127, 0, 0, 2) } else { Ipv4Addr::LOCALHOST };
        let records = vec![IpAddr::from(address)];
        Box::pin(async move { Ok(Records { records, ttl: Duration::from_secs(60), secure: false }) })
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async move { Err(DnsError::NoRecords) })
    }
}

/// Events as they happen.
pub struct Events(mpsc::UnboundedReceiver<Event>);

struct Channel(mpsc::UnboundedSender<Event>);

impl Sink for Channel {
    fn emit(&self, event: Event) {
        let _ = self.0.send(event);
    }
}

impl Events {
    /// The next event.
    pub async fn any(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.0.recv()).await.expect("something happens").expect("the relay runs")
    }

    /// The next event of which this holds; others are passed over.
    async fn next_where(&mut self, holds: impl Fn(&Event) -> bool) -> Option<Event> {
        let next = async {
            loop {
                let event = self.0.recv().await.expect("the relay runs");
                if holds(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.ok()
    }

    pub async fn next(&mut self, kind: Kind) -> Event {
        self.next_of(&[kind]).await
    }

    pub async fn next_of(&mut self, kinds: &[Kind]) -> Event {
        let next = self.next_where(|event| kinds.contains(&event.kind())).await;
        next.unwrap_or_else(|| panic!("no event of {kinds:?}"))
    }

    /// The next event that ends an entry.
    pub async fn next_end(&mut self) -> Event {
        self.next_where(|event| event.kind().is_end()).await.expect("an entry ends")
    }
}

/// A relay whose mail hosts are all at `mx`, with one trusted listener. `more` is added to its configuration.
pub fn start_relay(folder: &Path, mx: SocketAddr, more: &str) -> (Relay, Events) {
    start_relay_with(folder, mx, more, "")
}

/// The same, with a mail host that offers these extensions, in a folder of its own.
pub async fn start_with_host(extensions: &[&'static str], more: &str) -> (tempfile::TempDir, FakeMx, Relay, Events) {
    let folder = tempfile::tempdir().unwrap();
    let mx = FakeMx::start(extensions).await;
    let (relay, events) = start_relay(folder.path(), mx.address, more);
    (folder, mx, relay, events)
}

/// The same, with lines of events going to `output`.
pub fn start_relay_logging(folder: &Path, mx: SocketAddr, more: &str, output: Output) -> (Relay, Events) {
    let environment = Environment { dns: Some(Arc::new(TableDns)), ..Environment::default() };
    start_on(Environment { output, ..environment }, folder, mx, more, "")
}

/// The same, with more under `[delivery]`.
pub fn start_relay_with(folder: &Path, mx: SocketAddr, more: &str, delivery: &str) -> (Relay, Events) {
    let environment = Environment { dns: Some(Arc::new(TableDns)), ..Environment::default() };
    start_relay_delivering(environment, folder, mx, more, delivery)
}

/// As `start_relay`, by another clock.
pub fn start_relay_by(clock: Arc<dyn Clock>, folder: &Path, mx: SocketAddr, more: &str) -> (Relay, Events) {
    let environment = Environment { dns: Some(Arc::new(TableDns)), clock, ..Environment::default() };
    start_relay_delivering(environment, folder, mx, more, "")
}

/// A clock that goes on from now, and further where a test lets time [`pass`].
pub fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(SystemClock::default().now()))
}

/// Lets time pass for a relay that goes by this clock: retries and ends come that are due by then.
pub fn pass(relay: &Relay, clock: &ManualClock, span: Duration) {
    clock.advance(span);
    relay.queue().look_at_timers();
}

/// As `start_relay_with`, in another environment, whose events and log are replaced; `delivery` is added to the section of that name.
pub fn start_relay_delivering(
    environment: Environment,
    folder: &Path,
    mx: SocketAddr,
    more: &str,
    delivery: &str,
) -> (Relay, Events) {
    start_on(Environment { output: Output::new(std::io::sink()), ..environment }, folder, mx, more, delivery)
}

fn start_on(environment: Environment, folder: &Path, mx: SocketAddr, more: &str, delivery: &str) -> (Relay, Events) {
    start_with(environment, configured(folder, mx, more, delivery))
}

/// The configuration of such a relay, to reload it with.
pub fn configured(folder: &Path, mx: SocketAddr, more: &str, delivery: &str) -> Config {
    let text = format!(
        "hostname = \"relay.test\"\n\
         data_dir = \"data\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nauth = \"trusted\"\ntrusted_networks = [\"127.0.0.0/8\"]\n\
         [[user]]\nname = \"trusted\"\nsenders = [\"*@app.test\"]\n\
         {more}\n\
         [http]\naddress = \"127.0.0.1:0\"\n\
         [delivery]\nport = {}\nallow_private_destinations = true\n{delivery}",
        mx.port()
    );
    configured_from(folder, &text)
}

/// A relay with this configuration and nothing else in it.
pub fn start_relay_from(folder: &Path, text: &str) -> (Relay, Events) {
    let output = Output::new(std::io::sink());
    let environment = Environment { dns: Some(Arc::new(TableDns)), output, ..Environment::default() };
    start_with(environment, configured_from(folder, text))
}

fn configured_from(folder: &Path, text: &str) -> Config {
    let (config, findings) = Config::from_text(text, folder, None);
    config.unwrap_or_else(|| panic!("{findings}"))
}

fn start_with(environment: Environment, config: Config) -> (Relay, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let environment = Environment { events: Some(Arc::new(Channel(sender))), ..environment };
    let relay = Relay::start(config, environment).expect("the relay starts");
    (relay, Events(receiver))
}

/// The files as a crash at this moment would leave them.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
