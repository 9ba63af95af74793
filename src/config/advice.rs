//! What is allowed and yet probably not meant.

use super::file::{SecretFile, Source};
use super::findings::Severity;
use super::modes::{Keeps, Own};
use super::{Config, SenderDomain};
use crate::accounts::user::TRUSTED;
use crate::base::text::shell_argument;
use crate::submission::listener::ListenerTls;

/// Domains named in one finding.
const NAMED_MAX: usize = 5;

/// Whether anybody else can get at what the relay keeps.
pub(super) fn look_at_modes(config: &Config, source: &Source<'_>) {
    let own = Own::new(&config.data_dir, source.variable());
    for SecretFile { path, line, key } in source.secret_files() {
        if let Some(text) = own.finding(&path, Keeps::Secret) {
            source.find(Severity::Warning, line, format!("{key}: {}: {text}", path.display()));
        }
    }
    let holds_hashes = config.accounts.values().any(|account| account.password.is_some() || account.token.is_some());
    let keeps = if holds_hashes { Keeps::Secret } else { Keeps::Shape };
    let token_file = config.token_file();
    let others = config.file.iter().map(|file| (file, keeps)).chain([(&token_file, Keeps::Secret)]);
    for (path, keeps) in others {
        if let Some(text) = own.finding(path, keeps) {
            source.advise(format!("{}: {text}", path.display()));
        }
    }
}

/// What is allowed and yet probably not meant.
pub(super) fn advise(config: &Config, source: &Source<'_>) {
    if config.file.is_none() {
        return;
    }
    let somebody_can_log_in =
        config.accounts.values().any(|account| account.password.is_some() || account.token.is_some());
    let somebody_is_trusted = config.listeners.iter().any(|listener| !listener.trusted_networks.is_empty());
    if !somebody_can_log_in && !somebody_is_trusted {
        let text = "nobody can submit mail: there is neither a [[user]] with a password_hash nor a listener with \
                    auth = \"trusted\" and trusted_networks; write [[user]], name, senders and the password_hash that \
                    `otp-relay user hash --generate` prints";
        source.advise(text);
    }
    // A key that cannot be read yet is no key that is missing: whoever makes another has one that DNS does not know.
    if !source.has_errors() {
        advise_of_keys(config, source);
    }
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
    if let Some(address) = config.http.address.filter(|address| !address.ip().is_loopback() && !config.http.tls) {
        let text = format!(
            "the HTTP API at {address} can be reached from outside this machine, in clear text: whoever listens on the \
             way learns tokens and codes; set tls = true in [http], put a proxy with TLS in front, or let it listen at \
             127.0.0.1:8587"
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
