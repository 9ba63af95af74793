//! The sections that are there once for each of something, as the file has them: `keys` fills these in, and `sections` makes of
//! them what the modules need.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::kinds::{Own, Text, is_address_pattern, quoted};
use crate::accounts::credentials::{PasswordHash, TokenHash};
use crate::accounts::user::{DEFAULT_LIFE, Senders, User};
use crate::delivery::smart_host::Tls;
use crate::event::Kind;
use crate::http::HookKind;
use crate::mail::address::domain_key;
use crate::policy::failover::When;
use crate::report::webhooks::endpoint::{self, Format, Target};
use crate::smtp::sasl::USER_MAX;
use crate::submission::listener::ListenerSettings;

/// `auth` of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Auth {
    /// Clients log in.
    #[default]
    Required,
    /// Those in trusted networks need not.
    Trusted,
}

/// One `[[listener]]`.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// What it comes to.
    pub(super) settings: ListenerSettings,
    /// Whether there may be trusted networks.
    pub(super) auth: Auth,
}

/// One `[[user]]`.
#[derive(Debug)]
pub(super) struct UserSettings {
    pub(super) user: User,
    pub(super) password: Option<PasswordHash>,
    pub(super) token: Option<TokenHash>,
}

impl Default for UserSettings {
    fn default() -> Self {
        Self { user: User::unlimited(""), password: None, token: None }
    }
}

/// `senders` of a user.
pub(super) const SENDERS: Own<Senders> = Own {
    read: |section, key| {
        let patterns = section.texts(key);
        for pattern in patterns.iter().filter(|pattern| !is_address_pattern(&pattern.value)) {
            section.error(pattern.line, key, "a pattern like \"*@example.com\" or an address is needed");
        }
        Some(Senders::Patterns(patterns.into_iter().map(|pattern| pattern.value).collect()))
    },
    write: |senders| match senders {
        Senders::Patterns(patterns) => {
            let patterns: Vec<String> = patterns.iter().map(|pattern| quoted(pattern)).collect();
            Some(format!("[{}]", patterns.join(", ")))
        }
        Senders::SigningDomains => None,
    },
};

/// How the file writes the URL of a webhook.
pub(super) const TARGET: Text<Target> = Text {
    form: "a URL like \"https://app.example.com/otp-events\", without a user in it,",
    parse: Target::parse,
    write: |target| target.url.to_string(),
};

/// How the file writes an event.
pub(super) const EVENT: Text<Kind> =
    Text { form: "an event like \"delivered\"", parse: endpoint::kind, write: |kind| kind.name().to_owned() };

/// One `[[hook]]`.
#[derive(Debug)]
pub(super) struct HookSettings {
    /// The last part of the path.
    pub(super) name: String,
    pub(super) kind: Option<HookKind>,
    /// The user whose senders count.
    pub(super) user: String,
    pub(super) from: String,
    /// The app's name.
    pub(super) app: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) locale: String,
    /// How long codes are valid.
    pub(super) life: Duration,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: None,
            user: String::new(),
            from: String::new(),
            app: None,
            secret_file: None,
            locale: "en".to_owned(),
            life: DEFAULT_LIFE,
        }
    }
}

/// One `[[dkim]]`.
#[derive(Debug, Default)]
pub(super) struct DkimKey {
    pub(super) domain: String,
    pub(super) selector: String,
    pub(super) private_key: PathBuf,
}

/// One `[[webhook]]`.
#[derive(Debug, Default)]
pub(super) struct Webhook {
    /// Where to; none where it has a fault.
    pub(super) url: Option<Target>,
    /// What it is signed with.
    pub(super) secret_file: Option<PathBuf>,
    pub(super) events: Vec<Kind>,
    /// Of whose messages.
    pub(super) users: Vec<String>,
    /// How they are told.
    pub(super) format: Format,
}

/// One `[[smart_host]]` as the file has it.
#[derive(Debug)]
pub(super) struct SmartHostSettings {
    /// Host and port; none where they have a fault.
    pub(super) address: Address,
    /// How sessions are encrypted.
    pub(super) tls: Tls,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) when: When,
    /// For which recipient domains.
    pub(super) domains: Vec<String>,
}

impl Default for SmartHostSettings {
    fn default() -> Self {
        Self {
            address: Address::default(),
            tls: Tls::Verify,
            username: None,
            password_file: None,
            when: When::Deadline,
            domains: vec!["*".to_owned()],
        }
    }
}

/// Host and port of a smart host.
#[derive(Debug, Clone, Default)]
pub(super) struct Address {
    /// A name in A-labels, or an IP address.
    pub(super) host: String,
    /// Zero where there is none.
    pub(super) port: u16,
}

/// How the file writes it.
pub(super) const ADDRESS: Text<Address> = Text {
    form: "a host and a port, like \"smtp.example.com:587\",",
    parse: |text| host_and_port(text).map(|(host, port)| Address { host, port }),
    write: |Address { host, port }| {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    },
};

/// How the file writes the user.
pub(super) const USERNAME: Text<String> = Text {
    form: "a name of 1 to 256 characters",
    parse: |text| {
        let fits = !text.is_empty() && text.len() <= USER_MAX && !text.contains(char::is_control);
        fits.then(|| text.to_owned())
    },
    write: String::clone,
};

/// `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(ip) => ip.strip_suffix(']')?.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?.to_string(),
        None => host.parse::<IpAddr>().map(|ip| ip.to_string()).ok().or_else(|| domain_key(host))?,
    };
    // IPv6 without brackets: it cannot be told which colon is meant.
    let is_clear = text.starts_with('[') || !host.contains(':');
    is_clear.then_some((host, port))
}
