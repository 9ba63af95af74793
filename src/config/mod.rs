//! The configuration: read and checked as a whole before anything starts. `keys` is the table of every key; each module
//! owns the settings that it needs, and they are filled in here.

mod advice;
mod drafts;
mod file;
pub mod findings;
mod keys;
mod kinds;
mod modes;
mod names;
mod print;
mod reload;
mod sections;
mod smart_hosts;
mod table;
mod webhooks;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accounts::credentials::Account;
use crate::accounts::user::{Senders, TRUSTED};
use crate::base::shares::Sharing;
use crate::delivery::smart_host::SmartHost;
use crate::dkim::Keys;
use crate::dkim::folder::Folder;
use crate::ledger::embedded::key_ring::Sealing;
use crate::mail::address::{domain_key, is_domain_or_literal};
use crate::report::log;
use crate::report::webhooks::endpoint::Endpoint;
use crate::submission::listener::{ListenerSettings, LiveSettings};
use crate::tls::{Pair, acme};
use crate::{delivery, destination, http, intake, queue};
use file::{Section, Source};
use findings::{Findings, Severity};
use sections::InForce;

pub use print::commented;
pub(crate) use print::manual;

/// Where a file is looked for when none is named.
pub(crate) const DEFAULT_FILES: [&str; 2] = ["config/relay.toml", "/etc/otp-relay/relay.toml"];
/// Where a configuration below this folder keeps its data.
const SYSTEM_CONFIGURATION: &str = "/etc";
/// What systemd gives the service by `LoadCredential=`.
const SERVICE_CREDENTIALS: &str = "/run/credentials/otp-relay.service";
/// Namely here.
const SYSTEM_DATA: &str = "/var/lib/otp-relay";

/// Everything that can be said.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it comes from.
    pub file: Option<PathBuf>,
    /// The relay's name.
    pub hostname: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where clients come in.
    pub listeners: Vec<ListenerSettings>,
    /// What is shown to clients.
    pub certificate: Certificate,
    /// What is shown to clients that ask for another name.
    pub(crate) certificates: Vec<Pair>,
    /// How a certificate is got from a CA.
    pub(crate) acme: acme::Settings,
    /// Users by name.
    pub accounts: HashMap<String, Account>,
    /// How clients are served.
    pub submission: LiveSettings,
    /// What is taken in.
    pub intake: intake::door::Settings,
    /// The DKIM keys of the file, read.
    pub(crate) configured_keys: Keys,
    /// The DKIM keys that sign: those, and over them those of changes in the data directory.
    pub keys: Keys,
    /// How entries are kept.
    pub queue: queue::Settings,
    /// Whether new content is sealed.
    pub(crate) seal: Sealing,
    /// How long traces are kept.
    pub trace_retention: Duration,
    /// How DNS is asked.
    pub resolver: destination::resolver::Settings,
    /// How mail goes out.
    pub delivery: delivery::Settings,
    /// Who else carries it, in order.
    pub smart_hosts: Vec<SmartHost>,
    /// Who is told of events.
    pub webhooks: Vec<Endpoint>,
    /// The HTTP API.
    pub http: http::Settings,
    /// How the log looks.
    pub log: log::Settings,
    /// All files and folders that it names.
    pub paths: Vec<PathBuf>,
    in_force: InForce,
}

/// The files of `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    pub chain: Option<PathBuf>,
    pub(crate) private_key: Option<PathBuf>,
}

impl Certificate {
    /// Both files; none: a certificate is generated.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.chain.as_deref().zip(self.private_key.as_deref())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            hostname: "localhost".to_owned(),
            data_dir: PathBuf::from("data"),
            listeners: vec![ListenerSettings::default()],
            certificate: Certificate::default(),
            certificates: Vec::new(),
            acme: acme::Settings::default(),
            accounts: HashMap::new(),
            submission: LiveSettings::default(),
            intake: intake::door::Settings::default(),
            configured_keys: Keys::default(),
            keys: Keys::default(),
            queue: queue::Settings::default(),
            seal: Sealing::On,
            trace_retention: Duration::from_secs(7 * 86_400),
            resolver: destination::resolver::Settings::default(),
            delivery: delivery::Settings::default(),
            smart_hosts: Vec::new(),
            webhooks: Vec::new(),
            http: http::Settings::default(),
            log: log::Settings::default(),
            paths: Vec::new(),
            in_force: InForce::new(),
        }
    }
}

/// A domain from which somebody may send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SenderDomain {
    /// In lower case, A-labels.
    pub domain: String,
    /// Whether it is every domain below it that is meant, not itself.
    pub(crate) is_below: bool,
}

impl std::fmt::Display for SenderDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.is_below { "*." } else { "" }, self.domain)
    }
}

impl Config {
    /// The domains that the users' patterns name, without repeats. A user that may send as anybody names none.
    pub(crate) fn sender_domains(&self) -> Vec<SenderDomain> {
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
    pub(crate) fn without_file(folder: &Path) -> (Option<Self>, Findings) {
        Self::from_text("", folder, None)
    }

    /// Reads a text as a file in this folder.
    pub fn from_text(text: &str, folder: &Path, path: Option<&Path>) -> (Option<Self>, Findings) {
        let mut findings = Findings::default();
        let table = file::parse(text, &mut findings);
        let source = Source::new(text, folder, variable);
        let config = read(&Section::top(&source, table.get_ref()), &source, path);
        findings.0.extend(source.into_findings().0);
        let config = (!findings.has_errors()).then_some(config);
        (config, findings)
    }

    /// Where a file says that data is kept, also where it names files that are not there.
    pub(crate) fn data_dir_of(text: &str, path: &Path) -> PathBuf {
        let source = Source::new(text, path.parent().unwrap_or(Path::new("")), variable);
        let table: toml::Table = text.parse().unwrap_or_default();
        let named = table.get("data_dir").and_then(toml::Value::as_str).map(|named| source.path(named));
        named.unwrap_or_else(|| data_dir(Some(path), &source))
    }

    /// Signs with these keys, and over them those of changes in the data directory. Returns sentences about what cannot be used.
    pub(crate) fn sign_with(&mut self, keys: Keys) -> Vec<String> {
        self.configured_keys = keys.clone();
        self.keys = keys;
        Folder::of(&self.data_dir).overlay(&mut self.keys)
    }

    /// Where it listens, for clients and for the API.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).chain(self.http.address).collect()
    }

    /// Where the operator's token is.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.data_dir.join(&self.http.token_file)
    }

    /// Whether several users have to leave room for each other: those who can log in or show a token, and whoever comes
    /// from trusted networks.
    pub(crate) fn sharing(&self) -> Sharing {
        let is_trusting = self.listeners.iter().any(|listener| !listener.trusted_networks.is_empty());
        let is_one = |(name, account): &(&String, &Account)| {
            account.password.is_some() || account.token.is_some() || *name == TRUSTED && is_trusting
        };
        Sharing::among(self.accounts.iter().filter(is_one).count())
    }

    /// Gives each module what several of them need.
    fn spread(&mut self) {
        let sharing = self.sharing();
        let session = &mut self.submission.session;
        session.hostname.clone_from(&self.hostname);
        self.http.message_size_max = usize::try_from(session.message_size_max).unwrap_or(usize::MAX / 4);
        self.http.recipients_max = session.recipients_max;
        self.http.hostname = self.hostname.to_ascii_lowercase();
        self.http.sharing = sharing;
        self.submission.sharing = sharing;
        self.intake.hostname.clone_from(&self.hostname);
        self.delivery.hostname.clone_from(&self.hostname);
    }
}

/// A variable of the environment. Where commands run outside of the service, its credentials are where systemd keeps them.
fn variable(name: &str) -> Option<String> {
    let of_service = || (name == "CREDENTIALS_DIRECTORY").then(|| SERVICE_CREDENTIALS.to_owned());
    std::env::var(name).ok().or_else(of_service)
}

/// The machine's name, where it is one that can be said.
fn own_name() -> Option<String> {
    let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok())?;
    is_domain_or_literal(&own).then(|| own.to_ascii_lowercase())
}

fn read(top: &Section<'_>, source: &Source<'_>, path: Option<&Path>) -> Config {
    let mut config = Config {
        file: path.map(Path::to_owned),
        hostname: own_name().unwrap_or_else(|| "localhost".to_owned()),
        data_dir: data_dir(path, source),
        ..Config::default()
    };
    config.read_sections(top);
    let mut in_force = std::mem::take(&mut config.in_force);
    config.listeners = sections::listeners(top, &mut in_force);
    config.certificates = sections::certificates(top, &mut in_force);
    config.accounts = sections::accounts(top, &mut in_force);
    for fault in config.sign_with(sections::dkim(top, &mut in_force)) {
        source.find(Severity::Error, top.line(), format!("a change of DKIM keys cannot be used: {fault}"));
    }
    config.delivery.exceptions = sections::destinations(top, &mut in_force);
    config.smart_hosts = smart_hosts::read(top, &mut in_force);
    config.http.hooks = sections::hooks(top, &mut in_force, &config.accounts);
    config.webhooks = webhooks::read(top, &mut in_force);
    config.in_force = in_force;
    config.paths = source.paths();
    top.finish(keys::home);
    config.spread();
    names::advise(&config, source);
    advice::advise(&config, source);
    advice::look_at_modes(&config, source);
    config
}

/// Where data is kept unless the file says: beside the file, and for the system's own in the system's folder.
fn data_dir(path: Option<&Path>, source: &Source<'_>) -> PathBuf {
    let beside = source.path("data");
    let is_systems =
        path.is_some_and(|path| std::path::absolute(path).is_ok_and(|path| path.starts_with(SYSTEM_CONFIGURATION)));
    // Version 0.1 kept it beside every file.
    if is_systems && !beside.join("queue").exists() { PathBuf::from(SYSTEM_DATA) } else { beside }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::places::Limits;

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
            ":8: [listener] address: an IP address with a port, like \"127.0.0.1:2525\" or \"[::1]:587\",",
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
    fn keys_with_few_values_or_that_have_to_be_there_are_checked() {
        let all = lines("[otp]\nsupersede = \"of\"\n[[webhook]]\nurl = \"https://app.example\"\n");
        assert!(all.iter().any(|line| line.starts_with("error: relay.toml:2: [otp] supersede: one of \"by-key\"")));
        assert!(all.iter().any(|line| line.starts_with("error: relay.toml:3: [webhook] secret_file: is missing")));
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
            let limits = config.unwrap_or_else(|| panic!("{findings}")).intake.budgets;
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
        // The machine that runs the tests may have no full name.
        assert!(findings.0.iter().all(|finding| finding.text.starts_with("the machine's name is ")), "{findings}");
        assert_eq!(config.data_dir, Path::new("/srv/data"));
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].address, "127.0.0.1:2525".parse().unwrap());
        assert_eq!(config.submission.session.message_size_max, 1 << 20);
        assert_eq!(config.submission.limits, Limits { connections_max: 2000, connections_per_address_max: 100 });
        assert_eq!((config.queue.entries_max, config.seal), (200_000, Sealing::On));
        assert_eq!(config.delivery.connections_per_destination_max, 20);
        assert!(config.accounts.contains_key(TRUSTED));
        assert_eq!(config.http.address, Some("127.0.0.1:8587".parse().unwrap()));
        assert_eq!(config.token_file(), Path::new("/srv/data/api.token"));
    }

    #[test]
    fn the_systems_own_file_keeps_its_data_in_the_systems_folder() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &str, expected: &Path| {
            let (config, findings) = Config::from_text("", folder.path(), Some(Path::new(path)));
            assert_eq!(config.unwrap_or_else(|| panic!("{findings}")).data_dir, expected, "{path}");
        };
        check("/etc/otp-relay/relay.toml", Path::new("/var/lib/otp-relay"));
        check("/etcetera/relay.toml", &folder.path().join("data"));
        check("config/relay.toml", &folder.path().join("data"));
        std::fs::create_dir_all(folder.path().join("data/queue")).unwrap();
        check("/etc/otp-relay/relay.toml", &folder.path().join("data"));
    }

    #[test]
    fn a_key_below_another_heading_is_led_home() {
        let check = |text: &str, expected: &str| {
            let lines = lines(text);
            let unknown: Vec<&String> = lines.iter().filter(|line| line.contains("unknown key")).collect();
            assert!(matches!(unknown.as_slice(), [line] if line.ends_with(expected)), "{text}: {lines:#?}");
        };
        let commented = "is that heading still commented out?";
        check(
            "idle_timeout = \"5m\"\n",
            &format!("relay.toml:1: idle_timeout: unknown key here: it belongs below [submission]; {commented}"),
        );
        check(
            "[log]\nsenders = []\n",
            &format!("[log] senders: unknown key here: it belongs below [[user]]; {commented}"),
        );
        check(
            "[delivery]\nconnections_max = 5\n",
            &format!("it belongs below [submission] or [[destination]]; {commented}"),
        );
        check("[delivery]\nonly_tls = []\n", "only_tls: unknown key; did you mean `only_to`?");
        check("[log]\nhostname = \"a.example\"\n", "it belongs to the top of the file, above the first heading");
        check("[log]\nlevle = \"info\"\n", "[log] levle: unknown key; did you mean `level`?");
    }
}
