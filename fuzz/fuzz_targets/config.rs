//! Whatever the file says, each finding is one line about a line of the file, and no secret is in it; a configuration
//! that is accepted keeps the bounds that the limits of the relay follow from.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::config::Config;
use otp_relay::testing::config::findings::Severity;
use otp_relay::testing::mail::address::{Mailbox, domain_key};
use tempfile::TempDir;

const PASSWORD: &str = "Tr0ub4dor&3";

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("password"), PASSWORD).expect("a file");
    fs::write(folder.path().join("many"), [PASSWORD, PASSWORD].join("\n")).expect("a file");
    folder
});

fn check(config: &Config) {
    let span = |low: u64, high: u64| Duration::from_secs(low)..=Duration::from_secs(high);
    assert!(domain_key(&config.hostname).is_some());
    assert!((16 << 10..=64 << 20).contains(&config.submission.session.message_size_max));
    assert!((1..=1000).contains(&config.submission.session.recipients_max));
    assert!((1..=100_000).contains(&config.submission.limits.connections_max));
    assert!((1..=100_000).contains(&config.submission.limits.connections_per_address_max));
    assert!(span(1, 3600).contains(&config.submission.session.command_timeout));
    assert!(span(1, 86_400).contains(&config.submission.session.idle_timeout));
    assert!((1..=10_000_000).contains(&config.queue.entries_max));
    assert!(span(60, 365 * 86_400).contains(&config.trace_retention));
    assert!((1..=1000).contains(&config.delivery.connections_per_destination_max) && config.delivery.port > 0);
    assert!(span(0, 60).contains(&config.delivery.connect_timeout) && !config.delivery.connect_timeout.is_zero());
    let budgets = config.intake.budgets;
    for budget in [budgets.own, budgets.total] {
        assert!(budget.is_none_or(|rate| rate.count > 0 && !rate.span.is_zero()));
    }
    for listener in &config.listeners {
        let mut trusted = listener.trusted_networks.iter().chain(&listener.proxy_protocol_from);
        assert!(trusted.all(|network| network.prefix_len() > 0));
    }
    for (name, account) in &config.accounts {
        let (user, account) = (&account.user, account);
        assert!(*name == *user.name && (1..=64).contains(&name.len()) && !name.contains(char::is_control));
        assert!(span(5, 86_400).contains(&user.life));
        assert!(user.rate.is_none_or(|rate| rate.count > 0 && !rate.span.is_zero()));
        let stranger = Mailbox::parse("stranger@nobody-names-this.invalid").expect("an address");
        assert!(!user.may_send_as(&stranger, |_| false) || user.allowed().contains('*') || account.token.is_none());
    }
    assert!(config.smart_hosts.len() <= 16);
    assert!(!format!("{config:?}").contains(PASSWORD) && !config.in_force().contains(PASSWORD));
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Files that never end are for the operator to leave alone.
    if ["dev", "proc", "sys", "\\u", "\\U", "\\x", "$"].iter().any(|part| text.contains(part)) {
        return;
    }
    // What stands in the file itself is no secret: the fuzzer learns the word from the assertions.
    if text.contains(PASSWORD) {
        return;
    }
    let path = Path::new("relay.toml");
    let (config, findings) = Config::from_text(text, FOLDER.path(), Some(path));
    let lines = text.split('\n').count();
    for finding in &findings.0 {
        assert!(finding.line.is_none_or(|line| (1..=lines).contains(&line)), "{finding:?}");
        // Where tables are nested too deeply, toml does not say.
        let has_place = finding.line.is_some() || finding.text == "recursion limit";
        assert!(has_place || finding.severity < Severity::Error, "{finding:?}");
    }
    for line in findings.lines(Some(path)) {
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!line.contains(PASSWORD));
    }
    assert_eq!(config.is_none(), findings.has_errors(), "{findings}");
    config.iter().for_each(check);
});
