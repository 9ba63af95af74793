//! The sections whose settings have an effect.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tracing::Level;

use super::file::{Located, Section};
use super::{Delivery, Http, Otp, Submission, default_http, default_listener, units};
use crate::delivery::Exception;
use crate::destination::demand::Strictness;
use crate::destination::resolver::{self, Dnssec};
use crate::dkim::{Key, Keys};
use crate::intake::budget;
use crate::intake::rate::Rate;
use crate::intake::stamp::LongLines;
use crate::intake::user::{DEFAULT_LIFE, Senders, TRUSTED, User};
use crate::intake::wishes::LIFE;
use crate::lane::Lane;
use crate::mail::address::{Mailbox, domain_key, is_domain_or_literal};
use crate::net::places::Limits;
use crate::queue::Supersede;
use crate::queue::key_ring::Sealing;
use crate::report::log;
use crate::report::recipients::{Disclosure, Recipients};
use crate::smtp::extension::Feature;
use crate::submission::credentials::{Account, PasswordHash, TokenHash};
use crate::submission::listener::{ListenerSettings, ListenerTls};
use crate::tls;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const DEFAULT_BUDGET: Rate = Rate { count: 5, span: Duration::from_secs(600) };
const DEFAULT_BUDGET_TOTAL: Rate = Rate { count: 20, span: Duration::from_secs(600) };

pub(super) fn hostname(top: &Section<'_>) -> Option<String> {
    let is_name = |text: &str| is_domain_or_literal(text).then(|| text.to_ascii_lowercase());
    if top.has("hostname") {
        return top.parsed("hostname", "a host name like \"relay.example.com\"", is_name).map(|name| name.value);
    }
    let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    Some(own.as_deref().and_then(is_name).unwrap_or_else(|| "localhost".to_owned()))
}

pub(super) fn listeners(top: &Section<'_>) -> Vec<ListenerSettings> {
    let sections = top.sections("listener");
    if sections.is_empty() {
        let tls = ListenerTls::StartTls;
        let (trusted_networks, proxy_protocol_from) = (Vec::new(), Vec::new());
        return vec![ListenerSettings { address: default_listener(), tls, trusted_networks, proxy_protocol_from }];
    }
    sections.into_iter().filter_map(listener).collect()
}

fn listener(section: Section<'_>) -> Option<ListenerSettings> {
    if !section.has("address") {
        section.error(section.line(), "address", "is missing; write address = \"0.0.0.0:587\", say");
    }
    let address = section
        .parsed("address", "an address with a port, like \"127.0.0.1:2525\",", |text| text.parse::<SocketAddr>().ok());
    let tls = section.choice(
        "tls",
        ListenerTls::StartTls,
        &[("starttls", ListenerTls::StartTls), ("implicit", ListenerTls::Implicit), ("none", ListenerTls::None)],
    );
    let is_trusted = section.choice("auth", false, &[("required", false), ("trusted", true)]);
    let trusted_networks = networks(&section, "trusted_networks");
    let proxy_protocol_from = networks(&section, "proxy_protocol_from");
    if !is_trusted && !trusted_networks.is_empty() {
        section.warn(section.line(), "trusted_networks", "has no effect without auth = \"trusted\"");
    }
    if is_trusted && trusted_networks.is_empty() {
        section.warn(section.line(), "auth", "is \"trusted\", but trusted_networks is empty");
    }
    section.finish();
    let trusted_networks = if is_trusted { trusted_networks } else { Vec::new() };
    Some(ListenerSettings { address: address?.value, tls, trusted_networks, proxy_protocol_from })
}

/// Networks, none of which may be the whole internet.
fn networks(section: &Section<'_>, key: &'static str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in section.texts(key) {
        let network = text.value.parse::<IpNet>().or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) if network.prefix_len() == 0 => {
                section.error(text.line, key, "a whole address family is not a network to trust");
            }
            Ok(network) => networks.push(network.trunc()),
            Err(_) => section.error(text.line, key, "a network like \"192.0.2.0/24\" is needed"),
        }
    }
    networks
}

pub(super) fn certificate(section: &Section<'_>) -> Option<(PathBuf, PathBuf)> {
    let certificate = section.path("certificate");
    let private_key = section.secret_path("private_key");
    let files = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => {
            if let Err(error) = tls::acceptor(&certificate.value, &private_key.value) {
                section.error(certificate.line, "certificate", &error.to_string());
            }
            Some((certificate.value, private_key.value))
        }
        (Some(one), None) => {
            section.error(one.line, "private_key", "is missing; certificate and private_key go together");
            None
        }
        (None, Some(one)) => {
            section.error(one.line, "certificate", "is missing; certificate and private_key go together");
            None
        }
        (None, None) => None,
    };
    section.finish_ref();
    files
}

pub(super) fn accounts(top: &Section<'_>) -> HashMap<String, Account> {
    let mut accounts = HashMap::new();
    for section in top.sections("user") {
        let line = section.line();
        let Some((name, account)) = account(&section) else { continue };
        if accounts.insert(name.clone(), account).is_some() {
            section.error(line, "name", &format!("there is another user \"{name}\""));
        }
        section.finish_ref();
    }
    accounts.entry(TRUSTED.to_owned()).or_insert_with(|| Account {
        user: Arc::new(User {
            name: TRUSTED.into(),
            senders: Senders::SigningDomains,
            lane: Lane::Otp,
            life: DEFAULT_LIFE,
            rate: None,
        }),
        password: None,
        token: None,
    });
    accounts
}

fn account(section: &Section<'_>) -> Option<(String, Account)> {
    let name = section.required_text("name");
    let password = section.parsed(
        "password_hash",
        "a hash from `otp-relay user hash` (SCRAM-SHA-256$... or $argon2id$...)",
        PasswordHash::from_text,
    );
    let token = section.parsed("token_hash", "a hash from `otp-relay user hash --token`", TokenHash::from_text);
    let senders = section.texts("senders");
    for pattern in &senders {
        if !is_address_pattern(&pattern.value) {
            let text = "a pattern like \"*@example.com\" or an address is needed";
            section.error(pattern.line, "senders", text);
        }
    }
    let lane = section.parsed("lane", "one of \"otp\", \"reset\", \"notice\"", |text| text.parse().ok());
    let life = section.duration("life", DEFAULT_LIFE, LIFE);
    let name = name?;
    let is_fine = !name.value.is_empty() && name.value.len() <= 64 && !name.value.contains(char::is_control);
    if !is_fine {
        section.error(name.line, "name", "has to be 1 to 64 characters, none of them control characters");
    }
    if senders.is_empty() {
        section.warn(section.line(), "senders", "is missing: this user may send as nobody");
    }
    let user = User {
        name: name.value.as_str().into(),
        senders: Senders::Patterns(senders.into_iter().map(|pattern| pattern.value).collect()),
        lane: lane.map_or(Lane::Otp, |lane| lane.value),
        life,
        rate: section.parsed("rate", "a rate like \"50/s\" or \"5/10m\"", units::rate).map(|rate| rate.value),
    };
    Some((
        name.value,
        Account {
            user: Arc::new(user),
            password: password.map(|password| password.value),
            token: token.map(|token| token.value),
        },
    ))
}

/// `*`, `*@domain`, `*@*.domain`, `domain` or an address.
pub(super) fn is_address_pattern(pattern: &str) -> bool {
    let domain = match pattern.rsplit_once('@') {
        Some(("*", domain)) => domain,
        Some(_) => return Mailbox::parse(pattern).is_ok(),
        None => pattern,
    };
    is_domain_pattern(domain)
}

/// `*`, `domain` or `*.domain`.
pub(super) fn is_domain_pattern(pattern: &str) -> bool {
    pattern == "*" || domain_key(pattern.strip_prefix("*.").unwrap_or(pattern)).is_some()
}

pub(super) fn submission(section: Section<'_>) -> Submission {
    let count = |key, default, most| usize::try_from(section.number(key, default, (1, most))).unwrap_or(usize::MAX);
    let submission = Submission {
        message_size_max: section.size("message_size_max", 1 << 20, (16 << 10, 64 << 20)),
        recipients_max: count("recipients_max", 100, 1000),
        limits: Limits {
            connections_max: count("connections_max", 2000, 100_000),
            connections_per_address_max: count("connections_per_address_max", 100, 100_000),
        },
        command_timeout: section.duration("command_timeout", 60 * SECOND, (SECOND, HOUR)),
        idle_timeout: section.duration("idle_timeout", 300 * SECOND, (SECOND, 24 * HOUR)),
        verify_domain: section.flag("verify_domain", true),
        received_client: section.flag("received_client", false),
        long_lines: section.choice(
            "long_lines",
            LongLines::Encode,
            &[("encode", LongLines::Encode), ("refuse", LongLines::Refuse)],
        ),
        routed_addresses: section.flag("routed_addresses", false),
    };
    section.finish();
    submission
}

pub(super) fn otp(section: Section<'_>) -> Otp {
    let supersede =
        [("by-key", Supersede::ByKey), ("same-recipient", Supersede::SameRecipient), ("off", Supersede::Off)];
    let budgets = budgets(&section);
    let otp = Otp {
        supersede: section.choice("supersede", Supersede::ByKey, &supersede),
        budgets,
        deliver_at_most_once: section.flag("deliver_at_most_once", false),
    };
    section.finish();
    otp
}

/// `recipient_budget` and `recipient_budget_total`.
fn budgets(section: &Section<'_>) -> budget::Limits {
    let read = |key| {
        section.parsed(key, "a rate like \"5/10m\", or \"off\",", |text| {
            if text == "off" { Some(None) } else { units::rate(text).map(Some) }
        })
    };
    let own = read("recipient_budget").map_or(Some(DEFAULT_BUDGET), |budget| budget.value);
    let Some(total) = read("recipient_budget_total") else {
        // Never less than what one user may, whatever that is.
        let least = own.map(|own| DEFAULT_BUDGET_TOTAL.allowing(own));
        return budget::Limits { own, total: least };
    };
    if let (Some(own), Some(rate)) = (own, total.value)
        && rate.allowing(own) != rate
    {
        let text = "has to allow at least what otp.recipient_budget allows one user";
        section.error(total.line, "recipient_budget_total", text);
    }
    budget::Limits { own, total: total.value }
}

pub(super) fn dkim(top: &Section<'_>) -> Keys {
    let mut keys: Vec<Key> = Vec::new();
    for section in top.sections("dkim") {
        let domain = section.required_text("domain");
        let selector = section.required_text("selector");
        if !section.has("private_key") {
            section.error(section.line(), "private_key", "is missing");
        }
        let path = section.secret_path("private_key");
        if let (Some(domain), Some(selector), Some(path)) = (domain, selector, path) {
            keys.extend(dkim_key(&section, &domain, &selector, &path));
        }
        section.finish();
    }
    Keys::new(keys)
}

fn dkim_key(
    section: &Section<'_>,
    domain: &Located<String>,
    selector: &Located<String>,
    path: &Located<PathBuf>,
) -> Option<Key> {
    let Some(name) = domain_key(&domain.value) else {
        section.error(domain.line, "domain", "a domain like \"example.com\" is needed");
        return None;
    };
    if domain_key(&selector.value).is_none() {
        section.error(selector.line, "selector", "a name like \"otp1\" is needed");
        return None;
    }
    let file = path.value.display();
    let pem = match std::fs::read_to_string(&path.value) {
        Ok(pem) => zeroize::Zeroizing::new(pem),
        Err(error) => {
            let text = format!("{file}: {error}; `otp-relay dkim generate {name} {}` makes keys", selector.value);
            section.error(path.line, "private_key", &text);
            return None;
        }
    };
    Key::from_pem(&name, &selector.value, &pem)
        .map_err(|error| section.error(path.line, "private_key", &format!("{file}: {error}")))
        .ok()
}

/// `entries_max`, `seal` and `trace_retention`.
pub(super) fn queue(section: Section<'_>) -> (usize, Sealing, Duration) {
    let entries_max = section.number("entries_max", 200_000, (1, 10_000_000));
    let trace_retention = section.duration("trace_retention", 7 * DAY, (60 * SECOND, 365 * DAY));
    let seal = if section.flag("seal", true) { Sealing::On } else { Sealing::Off };
    section.finish();
    (usize::try_from(entries_max).unwrap_or(usize::MAX), seal, trace_retention)
}

pub(super) fn http(section: Section<'_>, data_dir: &Path) -> Http {
    let address = section.parsed("address", "an address with a port, or \"off\",", |text| {
        if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
    });
    let token_file = section.text("token_file").map_or_else(|| "api.token".to_owned(), |file| file.value);
    let hosts = section.parsed_list("hosts", "a host name like \"relay.example.com\"", |text| {
        domain_key(text).filter(|name| !name.starts_with('['))
    });
    section.finish();
    Http {
        hosts,
        address: address.map_or_else(|| Some(default_http()), |address| address.value),
        token_file: data_dir.join(token_file),
    }
}

pub(super) fn resolver(section: Section<'_>) -> resolver::Settings {
    let nameservers = section.parsed_list("nameservers", "an address like \"127.0.0.1:53\"", |text| {
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)))
    });
    let dnssec = match section.flag_or_word("dnssec", "auto") {
        None => Dnssec::Auto,
        Some(true) => Dnssec::On,
        Some(false) => Dnssec::Off,
    };
    let trust_anchor = usable_file(&section, "trust_anchor", |path| resolver::trust_anchors(path).map(drop));
    section.finish();
    resolver::Settings { nameservers, dnssec, trust_anchor }
}

pub(super) fn delivery(section: Section<'_>) -> Delivery {
    let port = section.number("port", 25, (1, 65_535));
    let pattern = |text: &str| is_address_pattern(text).then(|| text.to_owned());
    let delivery = Delivery {
        port: u16::try_from(port).unwrap_or(25),
        source_addresses: section.parsed_list("source_addresses", "an IP address", |text| text.parse().ok()),
        connections_per_destination_max: sessions_max(&section, "connections_per_destination_max"),
        allow_private_destinations: section.flag("allow_private_destinations", false),
        only_to: section.parsed_list("only_to", "a pattern like \"*@example.com\"", pattern),
        connect_timeout: section.duration("connect_timeout", 5 * SECOND, (SECOND / 10, 60 * SECOND)),
        reverse_path: section
            .parsed("reverse_path", "an address, or \"\",", |text| match text {
                "" => Some(None),
                text => Mailbox::parse(text).ok().map(Some),
            })
            .and_then(|path| path.value),
        tls: section.choice("tls", Strictness::Opportunistic, &STRICTNESS),
        ca_file: usable_file(&section, "ca_file", |path| {
            tls::read_certificates(path).map(drop).map_err(|error| error.to_string())
        }),
    };
    section.finish();
    delivery
}

/// A file that is there and fit for its purpose, or nothing.
fn usable_file(
    section: &Section<'_>,
    key: &'static str,
    check: impl FnOnce(&Path) -> Result<(), String>,
) -> Option<PathBuf> {
    if section.text(key).is_none_or(|text| text.value.is_empty()) {
        return None;
    }
    let path = section.path(key)?;
    if let Err(error) = check(&path.value) {
        section.error(path.line, key, &error);
    }
    Some(path.value)
}

/// Sessions at once with a destination at most.
fn sessions_max(section: &Section<'_>, key: &'static str) -> usize {
    usize::try_from(section.number(key, 20, (1, 1000))).unwrap_or(20)
}

const STRICTNESS: [(&str, Strictness); 4] = [
    ("opportunistic", Strictness::Opportunistic),
    ("verify", Strictness::Verify),
    ("dane", Strictness::Dane),
    ("none", Strictness::None),
];

/// `[[destination]]`: exceptions for recipient domains.
pub(super) fn destinations(top: &Section<'_>) -> Vec<Exception> {
    let mut destinations = Vec::new();
    for section in top.sections("destination") {
        let pattern = |text: &str| is_domain_pattern(text).then(|| text.to_ascii_lowercase());
        let domains = section.parsed_list("domains", "a pattern like \"*.example.com\"", pattern);
        if domains.is_empty() {
            section.error(section.line(), "domains", "is missing; write domains = [\"example.net\"], say");
        }
        let tls = section.choice("tls", Strictness::Opportunistic, &STRICTNESS);
        let connections_max = sessions_max(&section, "connections_max");
        let feature = |text: &str| Feature::ALL.into_iter().find(|feature| feature.keyword() == text);
        let avoid = section.parsed_list(
            "avoid",
            "one of \"chunking\", \"pipelining\", \"starttls\", \"8bitmime\", \"smtputf8\"",
            feature,
        );
        destinations.push(Exception {
            domains,
            tls: section.has("tls").then_some(tls),
            connections_max: section.has("connections_max").then_some(connections_max),
            avoid: section.has("avoid").then(|| avoid.into_iter().collect()),
        });
        section.finish();
    }
    destinations
}

pub(super) fn log(section: Section<'_>) -> log::Settings {
    let settings = log::Settings {
        format: section.choice(
            "format",
            log::Format::Text,
            &[("text", log::Format::Text), ("json", log::Format::Json)],
        ),
        recipients: Recipients::new(section.choice(
            "recipients",
            Disclosure::Masked,
            &[("masked", Disclosure::Masked), ("full", Disclosure::Full), ("hashed", Disclosure::Hashed)],
        )),
        level: section.choice(
            "level",
            Level::INFO,
            &[
                ("error", Level::ERROR),
                ("warn", Level::WARN),
                ("info", Level::INFO),
                ("debug", Level::DEBUG),
                ("trace", Level::TRACE),
            ],
        ),
    };
    section.finish();
    settings
}
