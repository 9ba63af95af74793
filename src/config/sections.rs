//! What becomes of the sections that are there once for each of something, and what a section has to fulfil as a whole.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::drafts::{Auth, DkimKey, HookSettings, Listener, UserSettings};
use super::file::Section;
use super::keys;
use super::table::{Row, Table};
use super::{Certificate, Config};
use crate::accounts::credentials::Account;
use crate::accounts::supersede::Supersede;
use crate::accounts::user::{Senders, TRUSTED, User};
use crate::base::files::faults::{Use, absolute, decrypting, explain, quoted};
use crate::delivery::Exception;
use crate::dkim::{Key, KeyError, Keys};
use crate::http::{Hook, HookSecrets as Secrets};
use crate::intake::budget;
use crate::intake::door::BUDGET_TOTAL;
use crate::mail::address::domain_key;
use crate::submission::listener::ListenerSettings;
use crate::tls::{self, Pair};

/// Certificates beside that of `[tls]`, at most: each handshake with a name looks through them.
const CERTIFICATES_MAX: usize = 100;

/// The headings with what is in force below each.
pub(super) type InForce = Vec<(String, Vec<Row>)>;

/// Reads the sections of a table that can be there many times, and what is in force there.
pub(super) fn read_many<S: Default>(
    top: &Section<'_>,
    table: &Table<S>,
    in_force: &mut InForce,
    mut each: impl FnMut(&Section<'_>, S),
) {
    for section in top.sections(table.name) {
        let mut settings = S::default();
        table.read(&section, &mut settings);
        in_force.push((table.heading(), table.rows(&section, &settings)));
        each(&section, settings);
        section.finish(keys::home);
    }
}

pub(super) fn listeners(top: &Section<'_>, in_force: &mut InForce) -> Vec<ListenerSettings> {
    let mut listeners = Vec::new();
    read_many(top, &keys::listener(), in_force, |section, Listener { mut settings, auth }| {
        match auth {
            Auth::Required if !settings.trusted_networks.is_empty() => {
                section.warn(section.line(), "trusted_networks", "has no effect without auth = \"trusted\"");
                settings.trusted_networks.clear();
            }
            Auth::Trusted if settings.trusted_networks.is_empty() => {
                section.warn(section.line(), "auth", "is \"trusted\", but trusted_networks is empty");
            }
            Auth::Required | Auth::Trusted => {}
        }
        listeners.push(settings);
    });
    if listeners.is_empty() {
        listeners.push(ListenerSettings::default());
    }
    listeners
}

/// `[tls]`: both files, or none.
pub(super) fn check_certificate(section: &Section<'_>, certificate: &Certificate) {
    match (&certificate.chain, &certificate.private_key) {
        (Some(chain), Some(private_key)) => {
            if let Err(error) = tls::acceptor(chain, private_key) {
                section.error(section.line_of("certificate"), "certificate", &error.to_string());
            }
        }
        (Some(_), None) => {
            let text = "is missing; certificate and private_key go together";
            section.error(section.line_of("certificate"), "private_key", text);
        }
        (None, Some(_)) => {
            let text = "is missing; certificate and private_key go together";
            section.error(section.line_of("private_key"), "certificate", text);
        }
        (None, None) => {}
    }
}

/// `[[certificate]]`: more certificates, chosen by name.
pub(super) fn certificates(top: &Section<'_>, in_force: &mut InForce) -> Vec<Pair> {
    let mut pairs = Vec::new();
    read_many(top, &keys::certificates(), in_force, |section, certificate: Certificate| {
        check_certificate(section, &certificate);
        let (Some(certificate), Some(private_key)) = (certificate.chain, certificate.private_key) else { return };
        if pairs.len() == CERTIFICATES_MAX {
            section.error(
                section.line(),
                "certificate",
                &format!("there are more than {CERTIFICATES_MAX} certificates"),
            );
        }
        pairs.push(Pair { certificate, private_key });
    });
    pairs
}

/// `[acme]`: in the place of the files of `[tls]`.
pub(super) fn check_acme(section: &Section<'_>, config: &Config) {
    let settings = &config.acme;
    if settings.domains.is_empty() {
        return;
    }
    if config.certificate.files().is_some() {
        let text = "names the certificate of [tls], which has files already; remove either";
        section.error(section.line_of("domains"), "domains", text);
    }
    if !settings.directory.starts_with("https://") {
        section.error(
            section.line_of("directory"),
            "directory",
            "an address like \"https://ca.example/directory\" is needed",
        );
    }
}

pub(super) fn accounts(top: &Section<'_>, in_force: &mut InForce) -> HashMap<String, Account> {
    let mut accounts = HashMap::new();
    read_many(top, &keys::user(), in_force, |section, UserSettings { user, password, token }| {
        let name = user.name.to_string();
        if matches!(&user.senders, Senders::Patterns(patterns) if patterns.is_empty()) {
            section.warn(section.line(), "senders", "is missing: this user may send as nobody");
        }
        if user.defaults.key.is_some() && user.defaults.supersede == Some(Supersede::Off) {
            section.warn(section.line_of("key"), "key", "has no effect with supersede = \"off\"");
        }
        let account = Account { user: Arc::new(user), password, token };
        if !name.is_empty() && accounts.insert(name.clone(), account).is_some() {
            section.error(section.line(), "name", &format!("there is another user \"{name}\""));
        }
    });
    accounts.entry(TRUSTED.to_owned()).or_insert_with(|| Account {
        user: Arc::new(User { senders: Senders::SigningDomains, ..User::unlimited(TRUSTED) }),
        password: None,
        token: None,
    });
    accounts
}

/// `[otp]`: what all users may send to a mailbox together is never less than what one of them may.
pub(super) fn check_budgets(section: &Section<'_>, budgets: &mut budget::Limits) {
    let Some(own) = budgets.own else {
        if !section.has("recipient_budget_total") {
            budgets.total = None;
        }
        return;
    };
    if !section.has("recipient_budget_total") {
        budgets.total = Some(BUDGET_TOTAL.allowing(own));
    } else if budgets.total.is_some_and(|total| total.allowing(own) != total) {
        let text = "has to allow at least what otp.recipient_budget allows one user";
        section.error(section.line_of("recipient_budget_total"), "recipient_budget_total", text);
    }
}

pub(super) fn dkim(top: &Section<'_>, in_force: &mut InForce) -> Keys {
    let mut keys: Vec<Key> = Vec::new();
    read_many(top, &keys::dkim(), in_force, |section, settings| {
        let is_whole = ["domain", "selector", "private_key"].into_iter().all(|key| section.has(key));
        keys.extend(is_whole.then(|| dkim_key(section, &settings)).flatten());
    });
    Keys::new(keys)
}

fn dkim_key(section: &Section<'_>, DkimKey { domain, selector, private_key }: &DkimKey) -> Option<Key> {
    let Some(name) = domain_key(domain) else {
        section.error(section.line_of("domain"), "domain", "a domain like \"example.com\" is needed");
        return None;
    };
    if domain_key(selector).is_none() {
        section.error(section.line_of("selector"), "selector", "a name like \"otp1\" is needed");
        return None;
    }
    let (file, line) = (private_key.display(), section.line_of("private_key"));
    let pem = match std::fs::read_to_string(private_key) {
        Ok(pem) => zeroize::Zeroizing::new(pem),
        Err(error) => {
            section.error(line, "private_key", &missing_key(private_key, &error));
            return None;
        }
    };
    let unusable = |error| match error {
        KeyError::Encrypted => decrypting(private_key),
        KeyError::NotPem | KeyError::Unusable(_) => format!("{file}: {error}"),
    };
    let key = Key::from_pem(&name, selector, &pem).map(|key| key.of_file(private_key));
    key.map_err(|error| section.error(line, "private_key", &unusable(error))).ok()
}

/// Never how to make one: DNS may have the record of the one that is missed.
fn missing_key(path: &Path, error: &std::io::Error) -> String {
    let told = explain(path, Use::Read, error);
    if error.kind() != std::io::ErrorKind::NotFound {
        return told;
    }
    let there = absolute(path);
    let (folder, there) = (quoted(there.parent().unwrap_or(Path::new("/"))), quoted(&there));
    format!(
        "{told} (a relative path starts at the folder of this file); put the key of this selector there: \
         `mkdir -p {folder} && cp KEY.pem {there} && chmod 600 {there}`"
    )
}

/// `[[destination]]`: exceptions for recipient domains.
pub(super) fn destinations(top: &Section<'_>, in_force: &mut InForce) -> Vec<Exception> {
    let mut destinations = Vec::new();
    read_many(top, &keys::destination(), in_force, |section, exception: Exception| {
        if exception.domains.is_empty() {
            section.error(section.line(), "domains", "is missing; write domains = [\"example.net\"], say");
        }
        destinations.push(exception);
    });
    destinations
}

/// Hooks at most.
const HOOKS_MAX: usize = 32;

/// `[[hook]]`.
pub(super) fn hooks(top: &Section<'_>, in_force: &mut InForce, accounts: &HashMap<String, Account>) -> Vec<Hook> {
    let mut hooks: Vec<Hook> = Vec::new();
    read_many(top, &keys::hook(), in_force, |section, settings: HookSettings| {
        if hooks.len() == HOOKS_MAX {
            section.error(section.line(), "name", &format!("there can be {HOOKS_MAX} hooks at most"));
        }
        if hooks.iter().any(|hook| hook.name == settings.name) {
            section.error(section.line(), "name", &format!("there is another hook \"{}\"", settings.name));
        }
        if section.has("user") && !accounts.contains_key(&settings.user) {
            section.error(section.line_of("user"), "user", "there is no [[user]] of this name");
        }
        hooks.extend(hook(section, settings));
    });
    hooks
}

fn hook(section: &Section<'_>, settings: HookSettings) -> Option<Hook> {
    let HookSettings { name, kind, user, from, app, secret_file, locale, life } = settings;
    let (kind, file) = (kind?, secret_file?);
    if section.has("from")
        && let Err(text) = crate::http::check_author(&from)
    {
        section.error(section.line_of("from"), "from", &text);
    }
    let line = section.line_of("secret_file");
    let text = section.secret("secret_file", &file)?;
    let secrets = Secrets::read(kind, &text);
    let secrets =
        secrets.map_err(|text| section.error(line, "secret_file", &format!("{}: {text}", file.display()))).ok()?;
    Some(Hook { name, kind, user, from, app, secrets, locale, life })
}

impl Config {
    /// The sections that are there once, with what each has to fulfil as a whole.
    pub(super) fn read_sections(&mut self, top: &Section<'_>) {
        for table in keys::once() {
            let below;
            let section = if table.name.is_empty() {
                top
            } else {
                below = top.section(table.name);
                &below
            };
            table.read(section, self);
            match table.name {
                "tls" => check_certificate(section, &self.certificate),
                "acme" => check_acme(section, self),
                "otp" => check_budgets(section, &mut self.intake.budgets),
                _ => {}
            }
            self.in_force.push((table.heading(), table.rows(section, self)));
            if !table.name.is_empty() {
                section.finish(keys::home);
            }
        }
    }
}
