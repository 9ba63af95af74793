//! A world of tables: a relay whose records are all as they should be, for tests to break one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, duplex};

use super::finding::{Check, Finding};
use super::look::Look;
use super::world::{Kind, Names, RecordsFuture, Spf, SpfFuture};
use crate::base::clock::{ManualClock, Timestamp};
use crate::config::Config;
use crate::config::findings::Severity;
use crate::destination::resolver::DnsError;
use crate::dkim::record::{generate_ed25519, txt_record};
use crate::net::{BoxStream, Connecting, Network};

/// Where the key of `app.test` is published.
pub(super) const KEY: &str = "otp1._domainkey.app.test";
/// 2026-11-28.
const NOW_MS: u64 = 1_795_860_000_000;

fn pem() -> &'static str {
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| generate_ed25519().unwrap())
}

pub(super) struct World {
    pub(super) records: BTreeMap<(String, Kind), Vec<String>>,
    /// What single servers say otherwise.
    pub(super) servers: BTreeMap<(IpAddr, String), Vec<String>>,
    pub(super) silent: BTreeSet<IpAddr>,
    pub(super) broken: BTreeSet<String>,
    /// What hosts say, each line when the one before is answered.
    pub(super) hosts: BTreeMap<IpAddr, Vec<String>>,
    /// What they were told.
    pub(super) heard: Arc<Mutex<Vec<String>>>,
    pub(super) validates: Option<bool>,
    pub(super) rewrites: bool,
    pub(super) took: Vec<Duration>,
    pub(super) senders: &'static str,
    pub(super) source: &'static str,
    pub(super) delivery: &'static str,
    pub(super) listener: &'static str,
    pub(super) webhook: Option<&'static str>,
    pub(super) tls: String,
    pub(super) ca_file: Option<String>,
}

impl World {
    pub(super) fn sound() -> Self {
        let mut world = Self {
            records: BTreeMap::new(),
            servers: BTreeMap::new(),
            silent: BTreeSet::new(),
            broken: BTreeSet::new(),
            hosts: BTreeMap::new(),
            heard: Arc::default(),
            validates: Some(true),
            rewrites: false,
            took: vec![Duration::from_millis(5); 20],
            senders: "\"*@app.test\"",
            source: "198.17.100.7",
            delivery: "",
            listener: "",
            webhook: None,
            tls: String::new(),
            ca_file: None,
        };
        let record = world.record();
        world.extend(&[
            ("relay.app.test", Kind::A, "198.17.100.7"),
            ("7.100.17.198.in-addr.arpa", Kind::Ptr, "relay.app.test"),
            ("relay.app.test", Kind::Txt, "v=spf1 ip4:198.17.100.7 -all"),
            ("app.test", Kind::Txt, "v=spf1 ip4:198.17.100.7 ~all"),
            ("app.test", Kind::Mx, "10 mx.app.test"),
            ("mx.app.test", Kind::A, "203.1.113.9"),
            ("app.test", Kind::Soa, "ns1.app.test. admin.app.test. 1 1 1 1 1"),
            ("app.test", Kind::Ns, "ns1.app.test"),
            ("app.test", Kind::Ns, "ns2.app.test"),
            ("ns1.app.test", Kind::A, "203.1.113.1"),
            ("ns2.app.test", Kind::A, "203.1.113.2"),
            ("app.test", Kind::Ds, "1 13 2 00"),
            ("_25._tcp.mx.app.test", Kind::Tlsa, "3 1 1 00"),
            ("_dmarc.app.test", Kind::Txt, "v=DMARC1; p=none; rua=mailto:postmaster@app.test"),
            ("_smtp._tls.app.test", Kind::Txt, "v=TLSRPTv1; rua=mailto:postmaster@app.test"),
            ("_mta-sts.app.test", Kind::Txt, "v=STSv1; id=1"),
            (KEY, Kind::Txt, &record),
            ("gmail.com", Kind::Mx, "5 gmail-smtp-in.l.google.com"),
            ("gmail-smtp-in.l.google.com", Kind::A, "203.1.113.25"),
        ]);
        let gmail = "220 mx.google.com ESMTP\r\n250-mx.google.com at your service, [198.17.100.7]\r\n250-STARTTLS\r\n250 SIZE\r\n";
        world.says("203.1.113.25", gmail);
        // The tables' hosts have addresses of documentation, to which nobody connects otherwise.
        world.delivery = "";
        world
    }

    /// The text that publishes the key.
    pub(super) fn record(&self) -> String {
        txt_record(pem()).unwrap()
    }

    pub(super) fn extend(&mut self, records: &[(&str, Kind, &str)]) {
        for (name, kind, text) in records {
            self.records.entry(((*name).to_owned(), *kind)).or_default().push((*text).to_owned());
        }
    }

    pub(super) fn without(&mut self, name: &str, kind: Kind) {
        self.records.remove(&(name.to_owned(), kind));
    }

    pub(super) fn at(&mut self, server: &str, name: &str, texts: &[&str]) {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        self.servers.insert((server.parse().unwrap(), name.to_owned()), texts);
    }

    pub(super) fn silent(&mut self, server: &str) {
        self.silent.insert(server.parse().unwrap());
    }

    /// Nobody answers for a domain and what is below it.
    pub(super) fn broken(&mut self, domain: &str) {
        self.broken.insert(domain.to_owned());
    }

    pub(super) fn says(&mut self, host: &str, replies: &str) {
        let mut all: Vec<String> = vec![String::new()];
        for line in replies.split_inclusive("\r\n") {
            let ends = line.as_bytes().get(3) == Some(&b' ');
            all.last_mut().unwrap().push_str(line);
            if ends {
                all.push(String::new());
            }
        }
        all.pop();
        self.hosts.insert(host.parse().unwrap(), all);
    }

    fn config(&self) -> Config {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("k"), pem()).unwrap();
        let ca_file = self.ca_file.as_ref().map(|file| format!("ca_file = \"{file}\"\n")).unwrap_or_default();
        let secret = folder.path().join("w");
        std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let webhook = self.webhook.map(|url| format!("[[webhook]]\nurl = \"{url}\"\nsecret_file = \"w\"\n"));
        let webhook = webhook.unwrap_or_default();
        let text = format!(
            "hostname = \"relay.app.test\"\n[[user]]\nname = \"shop\"\nsenders = [{}]\n[[listener]]\naddress = \"127.0.0.1:2525\"\n{}\n[tls]\n{}\n\
             [delivery]\nsource_addresses = [\"{}\"]\n{}\n{ca_file}\n\
             [[dkim]]\ndomain = \"app.test\"\nselector = \"otp1\"\nprivate_key = \"k\"\n{webhook}",
            self.senders, self.listener, self.tls, self.source, self.delivery
        );
        let (config, findings) = Config::from_text(&text, folder.path(), None);
        config.unwrap_or_else(|| panic!("{findings}\n{text}"))
    }

    fn answer(&self, name: &str, kind: Kind) -> Result<Vec<String>, DnsError> {
        if self.broken.iter().any(|domain| name == domain || name.ends_with(&format!(".{domain}"))) {
            return Err(DnsError::Failed("SERVFAIL".into()));
        }
        if self.rewrites && name.starts_with("otp-relay-check-") {
            return Ok(vec!["203.1.113.80".into()]);
        }
        self.records.get(&(name.to_owned(), kind)).cloned().ok_or(DnsError::NoRecords)
    }
}

impl Names for World {
    fn ask<'a>(&'a self, name: &'a str, kind: Kind) -> RecordsFuture<'a> {
        Box::pin(async move { self.answer(name, kind) })
    }

    fn ask_at<'a>(&'a self, server: IpAddr, name: &'a str, kind: Kind) -> RecordsFuture<'a> {
        Box::pin(async move {
            match self.servers.get(&(server, name.to_owned())) {
                _ if self.silent.contains(&server) => Err(DnsError::Timeout),
                Some(texts) if texts.is_empty() => Err(DnsError::NoSuchName),
                Some(texts) => Ok(texts.clone()),
                None => self.answer(name, kind),
            }
        })
    }

    /// Of plain records only: addresses, and `all`.
    fn spf<'a>(&'a self, address: IpAddr, _: &'a str, domain: &'a str) -> SpfFuture<'a> {
        let texts = self.answer(domain, Kind::Txt).unwrap_or_default();
        let own = format!(":{address}");
        let verdict = match texts.iter().find(|text| super::spf::is_spf(text)) {
            Some(text) if text.split(' ').any(|term| term.ends_with(&own)) => Spf::Pass,
            Some(text) if text.ends_with("-all") => Spf::Other("fail"),
            Some(_) => Spf::Other("softfail"),
            None => Spf::Other("none"),
        };
        Box::pin(async move { verdict })
    }

    fn validates(&self) -> Pin<Box<dyn Future<Output = Result<bool, DnsError>> + Send + '_>> {
        Box::pin(async move { self.validates.ok_or(DnsError::Timeout) })
    }

    fn took(&self) -> Vec<Duration> {
        self.took.clone()
    }
}

impl Network for World {
    fn connect(&self, to: SocketAddr, _: Option<IpAddr>) -> Connecting<'_> {
        Box::pin(async move {
            let says = self.hosts.get(&to.ip()).cloned().ok_or(io::Error::from(io::ErrorKind::ConnectionRefused))?;
            let (ours, theirs) = duplex(4096);
            let heard = self.heard.clone();
            tokio::spawn(async move {
                let (read, mut write) = tokio::io::split(theirs);
                let mut lines = BufReader::new(read).lines();
                for reply in says {
                    if write.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                    let Ok(Some(line)) = lines.next_line().await else { return };
                    heard.lock().push(line);
                }
            });
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

/// What a check finds in a world, in short.
pub(super) async fn summary(
    world: &World,
    check: impl for<'a, 'b> FnOnce(&'a Look<'b>) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
) -> Vec<(Check, Severity, String)> {
    let findings = found(world, check).await;
    findings.into_iter().map(|finding| (finding.check, finding.severity, finding.text)).collect()
}

/// There is one finding, so bad, and its text has this in it.
#[track_caller]
pub(super) fn assert_one(told: &[(Check, Severity, String)], severity: Severity, text: &str) {
    assert!(told.len() == 1 && told[0].1 == severity && told[0].2.contains(text), "{text}: {told:?}");
}

/// What a check finds in a world.
pub(super) async fn found(
    world: &World,
    check: impl for<'a, 'b> FnOnce(&'a Look<'b>) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
) -> Vec<Finding> {
    let (config, clock) = (world.config(), ManualClock::new(Timestamp::from_millis(NOW_MS)));
    let look = Look::new(&config, world, world, Arc::new(clock));
    check(&look).await;
    look.findings()
}
