//! The configuration: read and checked as a whole before anything starts. Each module owns the settings it needs;
//! here they are made from the file.

mod file;
pub mod findings;
mod later;
mod modes;
mod sections;
mod smart_hosts;
pub mod units;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::delivery::Exception;
use crate::delivery::smart_host::SmartHost;
use crate::destination::demand::Strictness;
use crate::dkim::Keys;
use crate::intake::stamp::LongLines;
use crate::intake::user::{Senders, TRUSTED};
use crate::mail::address::domain_key;
use crate::mail::text::shell_argument;
use crate::net::places::Limits;
use crate::queue::Supersede;
use crate::queue::key_ring::Sealing;
use crate::report::log;
use crate::shares::Sharing;
use crate::submission::credentials::Account;
use crate::submission::listener::{ListenerSettings, ListenerTls};
use crate::{destination, intake, queue};
use file::{SecretFile, Section, Source};
use findings::{Findings, Severity};
use modes::{Keeps, Own};

/// Where a file is looked for when none is named.
pub const DEFAULT_FILES: [&str; 2] = ["config/relay.toml", "/etc/otp-relay/relay.toml"];
/// Where submission listens when nothing is said.
pub const DEFAULT_LISTENER: &str = "127.0.0.1:2525";
/// Where the HTTP API listens when nothing is said.
pub const DEFAULT_HTTP: &str = "127.0.0.1:8587";

/// Domains named in one finding.
const NAMED_MAX: usize = 5;

/// Everything that can be said.
#[derive(Debug)]
pub struct Config {
    /// The file it comes from.
    pub file: Option<PathBuf>,
    /// The relay's name.
    pub hostname: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where clients come in.
    pub listeners: Vec<ListenerSettings>,
    /// Certificate and key; none: made up.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Users by name.
    pub accounts: HashMap<String, Account>,
    /// Limits of submission.
    pub submission: Submission,
    /// What is special about codes.
    pub otp: Otp,
    /// DKIM keys, read.
    pub keys: Keys,
    /// `queue.entries_max`.
    pub entries_max: usize,
    /// `queue.seal`.
    pub seal: Sealing,
    /// `queue.trace_retention`.
    pub trace_retention: Duration,
    /// How DNS is asked.
    pub resolver: destination::resolver::Settings,
    /// How mail goes out.
    pub delivery: Delivery,
    /// What is different for some recipient domains; the first that fits and says something counts.
    pub destinations: Vec<Exception>,
    /// Who else carries it, in order.
    pub smart_hosts: Vec<SmartHost>,
    /// The HTTP API.
    pub http: Http,
    /// How the log looks.
    pub log: log::Settings,
}

/// `[otp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Otp {
    /// Which newer message takes the place of which older one.
    pub supersede: Supersede,
    /// What may go to one recipient, of a user and of all; none: no limit.
    pub budgets: intake::budget::Limits,
    /// Whether an attempt with an unknown outcome is the last.
    pub deliver_at_most_once: bool,
}

/// `[submission]`.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Octets of content.
    pub message_size_max: u64,
    /// RCPTs in a transaction.
    pub recipients_max: usize,
    /// How many connections.
    pub limits: Limits,
    /// Before AUTH.
    pub command_timeout: Duration,
    /// After AUTH.
    pub idle_timeout: Duration,
    /// Whether domains that cannot receive are refused.
    pub verify_domain: bool,
    /// Whether the client's address is told in Received.
    pub received_client: bool,
    /// What is done about lines of more than 998 octets.
    pub long_lines: LongLines,
    /// Whether local parts that route elsewhere are taken.
    pub routed_addresses: bool,
}

/// `[delivery]`.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Port of mail hosts.
    pub port: u16,
    /// Addresses to send from.
    pub source_addresses: Vec<std::net::IpAddr>,
    /// Sessions with one destination.
    pub connections_per_destination_max: usize,
    /// Whether private addresses are delivered to.
    pub allow_private_destinations: bool,
    /// Recipients outside these patterns are refused.
    pub only_to: Vec<String>,
    /// For TCP.
    pub connect_timeout: Duration,
    /// One reverse-path for all.
    pub reverse_path: Option<crate::mail::address::Mailbox>,
    /// How strict sessions are.
    pub tls: Strictness,
    /// More certificate authorities.
    pub ca_file: Option<PathBuf>,
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where it listens; none: it does not.
    pub address: Option<SocketAddr>,
    /// Where the operator's token is kept.
    pub token_file: PathBuf,
    /// Names by which it is asked, in lower case.
    pub hosts: Vec<String>,
}

/// A domain from which somebody may send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SenderDomain {
    /// In lower case, A-labels.
    pub domain: String,
    /// Whether it is every domain below it that is meant, not itself.
    pub is_below: bool,
}

impl std::fmt::Display for SenderDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.is_below { "*." } else { "" }, self.domain)
    }
}

impl Config {
    /// The domains that the users' patterns name, without repeats. A user that may send as anybody names none.
    pub fn sender_domains(&self) -> Vec<SenderDomain> {
        let patterns = self.accounts.values().filter_map(|account| match &account.user.senders {
            Senders::Patterns(patterns) => Some(patterns),
            Senders::SigningDomains => None,
        });
        let domains = patterns.flatten().filter_map(|pattern| {
            let domain = pattern.rsplit_once('@').map_or(pattern.as_str(), |(_, domain)| domain);
            let below = domain.strip_prefix("*.");
            let domain = domain_key(below.unwrap_or(domain))?;
            Some(SenderDomain { domain, is_below: below.is_some() })
        });
        domains.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Reads a file. There is a configuration only if there is no error among the findings.
    ///
    /// # Errors
    /// When the file cannot be read at all.
    pub fn load(path: &Path) -> std::io::Result<(Option<Self>, Findings)> {
        let text = std::fs::read_to_string(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Self::from_text(&text, folder, Some(path)))
    }

    /// The defaults, for a relay that is started without a file in this folder.
    pub fn without_file(folder: &Path) -> (Option<Self>, Findings) {
        Self::from_text("", folder, None)
    }

    /// Reads a text as a file in this folder.
    pub fn from_text(text: &str, folder: &Path, path: Option<&Path>) -> (Option<Self>, Findings) {
        let mut findings = Findings::default();
        let table = file::parse(text, &mut findings);
        let source = Source::new(text, folder, |name| std::env::var(name).ok());
        let config = read(&Section::top(&source, table.get_ref()), &source, path);
        findings.0.extend(source.into_findings().0);
        let config = if findings.has_errors() { None } else { config };
        (config, findings)
    }

    /// What the intake needs.
    pub fn intake(&self) -> intake::door::Settings {
        intake::door::Settings {
            hostname: self.hostname.clone(),
            verify_domain: self.submission.verify_domain,
            received_client: self.submission.received_client,
            long_lines: self.submission.long_lines,
            routed_addresses: self.submission.routed_addresses,
            only_to: self.delivery.only_to.clone(),
            budgets: self.otp.budgets,
        }
    }

    /// Whether several users have to leave room for each other: those who can log in or show a token, and whoever comes
    /// from trusted networks.
    pub fn sharing(&self) -> Sharing {
        let is_trusting = self.listeners.iter().any(|listener| !listener.trusted_networks.is_empty());
        let is_one = |(name, account): &(&String, &Account)| {
            account.password.is_some() || account.token.is_some() || *name == TRUSTED && is_trusting
        };
        Sharing::among(self.accounts.iter().filter(is_one).count())
    }

    /// What the queue needs.
    pub fn queue(&self) -> queue::Settings {
        queue::Settings {
            entries_max: self.entries_max,
            deliver_at_most_once: self.otp.deliver_at_most_once,
            supersede: self.otp.supersede,
        }
    }
}

fn read(top: &Section<'_>, source: &Source<'_>, path: Option<&Path>) -> Option<Config> {
    let hostname = sections::hostname(top);
    let data_dir = top.path("data_dir").map_or_else(|| source.path("data"), |path| path.value);
    let listeners = sections::listeners(top);
    let certificate = sections::certificate(&top.section("tls"));
    let accounts = sections::accounts(top);
    let submission = sections::submission(top.section("submission"));
    let otp = sections::otp(top.section("otp"));
    let keys = sections::dkim(top);
    let (entries_max, seal, trace_retention) = sections::queue(top.section("queue"));
    let resolver = sections::resolver(top.section("resolver"));
    let delivery = sections::delivery(top.section("delivery"));
    let destinations = sections::destinations(top);
    let smart_hosts = smart_hosts::read(top);
    let http = sections::http(top.section("http"), &data_dir);
    later::check(top);
    let log = sections::log(top.section("log"));
    top.finish_ref();
    let config = Config {
        file: path.map(Path::to_owned),
        hostname: hostname?,
        data_dir,
        listeners,
        certificate,
        accounts,
        submission,
        otp,
        keys,
        entries_max,
        seal,
        trace_retention,
        resolver,
        delivery,
        destinations,
        smart_hosts,
        http,
        log,
    };
    advise(&config, source);
    look_at_modes(&config, source);
    Some(config)
}

/// Whether anybody else can get at what the relay keeps.
fn look_at_modes(config: &Config, source: &Source<'_>) {
    let own = Own::new(&config.data_dir, source.variable());
    for SecretFile { path, line, key } in source.secret_files() {
        if let Some(text) = own.finding(&path, Keeps::Secret) {
            source.find(Severity::Warning, line, format!("{key}: {}: {text}", path.display()));
        }
    }
    let holds_hashes = config.accounts.values().any(|account| account.password.is_some() || account.token.is_some());
    let keeps = if holds_hashes { Keeps::Secret } else { Keeps::Shape };
    let others = config.file.iter().map(|file| (file, keeps)).chain([(&config.http.token_file, Keeps::Secret)]);
    for (path, keeps) in others {
        if let Some(text) = own.finding(path, keeps) {
            source.advise(format!("{}: {text}", path.display()));
        }
    }
}

/// What is allowed and yet probably not meant.
fn advise(config: &Config, source: &Source<'_>) {
    if config.file.is_none() {
        return;
    }
    let somebody_can_log_in =
        config.accounts.values().any(|account| account.password.is_some() || account.token.is_some());
    let somebody_is_trusted = config.listeners.iter().any(|listener| !listener.trusted_networks.is_empty());
    if !somebody_can_log_in && !somebody_is_trusted {
        let text = "nobody can submit mail: there is neither a [[user]] with a password_hash nor a listener with \
                    auth = \"trusted\" and trusted_networks";
        source.advise(text);
    }
    advise_of_keys(config, source);
    for listener in &config.listeners {
        let is_public = !listener.address.ip().is_loopback();
        if is_public && listener.tls == ListenerTls::None && listener.trusted_networks.is_empty() {
            let text = format!(
                "the listener {} offers no TLS, so nobody from outside this machine can authenticate there",
                listener.address
            );
            source.advise(text);
        }
    }
    if let Some(address) = config.http.address.filter(|address| !address.ip().is_loopback()) {
        let text = format!(
            "the HTTP API at {address} can be reached from outside this machine, in clear text: whoever listens on the \
             way learns tokens and codes; put a proxy with TLS in front, or let it listen at {DEFAULT_HTTP}"
        );
        source.advise(text);
    }
    if !config.accounts.contains_key(TRUSTED) && somebody_is_trusted {
        tracing::debug!("trusted networks act as the user `trusted`, which is not declared");
    }
}

/// Whose mail goes out unsigned.
fn advise_of_keys(config: &Config, source: &Source<'_>) {
    let is_unsigned = |sender: &SenderDomain| {
        let below = format!(".{}", sender.domain);
        let has_keys_below = || sender.is_below && config.keys.domains().any(|domain| domain.ends_with(&below));
        config.keys.signing_domain(&sender.domain).is_none() && !has_keys_below()
    };
    let unsigned: Vec<SenderDomain> = config.sender_domains().into_iter().filter(is_unsigned).collect();
    let Some(first) = unsigned.first() else {
        if config.keys.domains().next().is_none() {
            let text = "no [[dkim]] key: mail goes out unsigned, and many receivers will refuse it; \
                        `otp-relay dkim generate DOMAIN SELECTOR` makes keys";
            source.advise(text);
        }
        return;
    };
    let names: Vec<String> = unsigned.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = unsigned.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    source.advise(format!(
        "no [[dkim]] key signs for senders of {}{more}: their mail goes out unsigned, and many receivers will refuse it; \
         `otp-relay dkim generate {} otp1` makes keys",
        names.join(", "),
        shell_argument(&first.domain)
    ));
}

/// The default listening address.
pub fn default_listener() -> SocketAddr {
    DEFAULT_LISTENER.parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 2525)))
}

/// The default address of the HTTP API.
pub fn default_http() -> SocketAddr {
    DEFAULT_HTTP.parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 8587)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let (_, findings) = Config::from_text(text, Path::new(""), Some(Path::new("relay.toml")));
        findings.lines(Some(Path::new("relay.toml")))
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "hostnam = \"relay.example.com\"\n\
                    data_dir = 5\n\
                    [submission]\n\
                    message_size_max = \"1MB\"\n\
                    idle_timout = \"5m\"\n\
                    verify_domain = \"yes\"\n\
                    [[listener]]\n\
                    address = \"0.0.0.0\"\n\
                    auth = \"trusted\"\n\
                    trusted_networks = [\n\
                      \"10.0.0.0/8\",\n\
                      \"0.0.0.0/0\"]\n\
                    [[user]]\n\
                    name = \"shop\"\n\
                    password_hash = \"secret\"\n\
                    senders = [\"*@example.com\", \"@\"]\n\
                    [delivry]\n";
        let expected = [
            ":1: hostnam: unknown key; did you mean `hostname`?",
            ":2: data_dir: a text in quotes is needed, not a number",
            ":4: [submission] message_size_max: a size from",
            ":5: [submission] idle_timout: unknown key; did you mean `idle_timeout`?",
            ":6: [submission] verify_domain: true or false is needed, not a text",
            ":8: [listener] address: an address with a port",
            ":12: [listener] trusted_networks: a whole address family",
            ":15: [user] password_hash: a hash from `otp-relay user hash`",
            ":16: [user] senders: a pattern",
            ":17: delivry: unknown key; did you mean `delivery`?",
        ];
        let lines: Vec<String> = lines(text).into_iter().filter(|line| line.starts_with("error")).collect();
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("error: relay.toml{expected}")), "{line}");
        }
        assert!(!lines.iter().any(|line| line.contains("secret")));
    }

    #[test]
    fn broken_toml_is_told_with_its_line() {
        let lines = lines("hostname = \"a.example\"\n[submission\n");
        assert!(lines[0].starts_with("error: relay.toml:2:"), "{lines:?}");
    }

    #[test]
    fn a_finding_is_one_line() {
        let lines = lines("\"a\\u001b[2J\\nb\" = 1\n");
        assert!(lines[0].starts_with("error: relay.toml:1: a [2J b: unknown key"), "{lines:?}");
    }

    #[test]
    fn keys_to_come_are_checked_and_named() {
        let all = lines("[otp]\nsupersede = \"of\"\n[[webhook]]\nurl = \"https://app.example\"\n");
        assert!(all.iter().any(|line| line.starts_with("error: relay.toml:2: [otp] supersede: one of \"by-key\"")));
        assert!(all.iter().any(|line| line.starts_with("note: relay.toml:4: [webhook] url: has no effect")));
    }

    #[test]
    fn senders_without_a_key_are_named() {
        let told = |senders: &str, key: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("k"), crate::dkim::record::generate_ed25519().unwrap()).unwrap();
            let text = format!(
                "[[user]]\nname = \"shop\"\nsenders = [{senders}]\n[[dkim]]\ndomain = \"{key}\"\nselector = \"s\"\nprivate_key = \"k\"\n"
            );
            let (_, findings) = Config::from_text(&text, folder.path(), Some(Path::new("relay.toml")));
            let text = findings.0.into_iter().map(|finding| finding.text).find(|text| text.contains("[[dkim]]"));
            text.map(|text| text.split([':', ';']).next().unwrap().replace("no [[dkim]] key signs for senders of ", ""))
        };
        assert_eq!(told("\"*@example.com\", \"*\", \"a@mail.Example.com\"", "example.com"), None);
        assert_eq!(told("\"*@*.example.com\"", "example.com"), None);
        assert_eq!(told("\"*@*.example.com\"", "mail.example.com"), None);
        assert_eq!(told("\"*@example.com\"", "mail.example.com").as_deref(), Some("example.com"));
        assert_eq!(
            told("\"*@b.example\", \"*@*.a.example\", \"x@b.example\", \"a.example\"", "example.com").as_deref(),
            Some("a.example, *.a.example, b.example")
        );
        let many: Vec<String> = (0..7).map(|number| format!("\"*@d{number}.example\"")).collect();
        let told = told(&many.join(", "), "example.com").unwrap();
        assert!(told.ends_with("d4.example and 2 more"), "{told}");
    }

    #[test]
    fn all_users_together_may_send_at_least_what_one_may() {
        let total = |text: &str| {
            let (config, findings) = Config::from_text(text, Path::new(""), None);
            let limits = config.unwrap_or_else(|| panic!("{findings}")).otp.budgets;
            limits.total.map(|rate| (rate.count, rate.span.as_secs()))
        };
        assert_eq!(total(""), Some((20, 600)));
        assert_eq!(total("[otp]\nrecipient_budget = \"50/10m\"\n"), Some((50, 600)));
        assert_eq!(total("[otp]\nrecipient_budget = \"off\"\n"), None);
        assert_eq!(total("[otp]\nrecipient_budget_total = \"off\"\n"), None);
        assert_eq!(total("[otp]\nrecipient_budget = \"off\"\nrecipient_budget_total = \"9/1m\"\n"), Some((9, 60)));
        for too_few in ["4/10m", "29/1h", "4/1m"] {
            let lines = lines(&format!("[otp]\nrecipient_budget_total = \"{too_few}\"\n"));
            let expected =
                "error: relay.toml:2: [otp] recipient_budget_total: has to allow at least what otp.recipient_budget";
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{too_few}: {lines:?}");
        }
    }

    #[test]
    fn users_share_where_there_are_several() {
        let user = |name: &str| {
            format!("[[user]]\nname = \"{name}\"\nsenders = [\"*@a.test\"]\ntoken_hash = \"{}\"\n", "0".repeat(64))
        };
        let trusting =
            "[[listener]]\naddress = \"127.0.0.1:25\"\nauth = \"trusted\"\ntrusted_networks = [\"10.0.0.0/8\"]\n";
        let mute = "[[user]]\nname = \"mute\"\nsenders = [\"*@b.test\"]\n";
        for (text, expected) in [
            (user("shop") + mute, Sharing::Alone),
            (trusting.to_owned(), Sharing::Alone),
            (user("shop") + &user("bank"), Sharing::Several),
            (user("shop") + trusting, Sharing::Several),
        ] {
            let (config, findings) = Config::from_text(&text, Path::new(""), None);
            assert_eq!(config.unwrap_or_else(|| panic!("{findings}")).sharing(), expected, "{text}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let (config, findings) = Config::without_file(Path::new("/srv"));
        let config = config.unwrap();
        assert!(findings.0.is_empty(), "{findings}");
        assert_eq!(config.data_dir, Path::new("/srv/data"));
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].address, default_listener());
        assert_eq!(config.submission.message_size_max, 1 << 20);
        assert_eq!(config.submission.limits, Limits { connections_max: 2000, connections_per_address_max: 100 });
        assert_eq!((config.entries_max, config.seal), (200_000, Sealing::On));
        assert_eq!(config.delivery.connections_per_destination_max, 20);
        assert!(config.accounts.contains_key(TRUSTED));
        assert_eq!(config.http.address, Some(default_http()));
        assert_eq!(config.http.token_file, Path::new("/srv/data/api.token"));
    }
}
