//! `check`: what is wrong with the configuration.

use std::path::Path;
use std::process::ExitCode;

use super::client::wait_for;
use super::exit::Exit;
use super::zone::{self, Sight};
use super::{alignment, config_file, read_config, say};
use crate::config::Config;
use crate::config::findings::{Findings, Severity};
use crate::destination::resolver::{Dns as _, Dnssec, HickoryDns, Settings};
use crate::net::own_faults;
use crate::relay::preflight;

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Look at the configuration only, not at DNS and the network
    #[arg(long)]
    offline: bool,
}

/// Prints one line a finding; fails if one of them is an error.
pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let (config, mut findings) = read_config(file)?;
    let path = config_file(file);
    if !options.offline {
        let text = "of DNS and the network, only DNSSEC and the alignment of signatures were looked at, and what a start needs: this version \
                    checks the configuration (say --offline to leave this line out)";
        findings.add(Severity::Note, None, text);
        let sources = config.as_ref().map(|config| config.delivery.source_addresses.as_slice()).unwrap_or_default();
        for address in own_faults::missing(sources) {
            let text = format!("[delivery] source_addresses: this machine does not have the address {address}");
            findings.add(Severity::Error, None, &text);
        }
        if let Some(config) = &config {
            findings.0.extend(wait_for(async { Ok(preflight::look(config)) })?.0);
            findings.0.extend(of_dns(config).0);
        }
    }
    for line in findings.lines(path.as_deref()) {
        say(&line);
    }
    for line in config.as_ref().map(|config| records(config, options)).unwrap_or_default() {
        say(&line);
    }
    let shown = path.as_deref().map_or_else(|| "the defaults".to_owned(), |path| path.display().to_string());
    let count = |severity| findings.0.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if errors == 0 && config.is_some() {
        say(&format!("ok: {shown}: no errors, {warnings} warnings"));
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("{shown}: {errors} errors, {warnings} warnings"));
    Ok(Exit::Failed.into())
}

/// What has to be in DNS, between empty lines; nothing where the configuration names no domain.
fn records(config: &Config, options: &Options) -> Vec<String> {
    let mut sight = Sight::new(&config.hostname, &config.delivery.source_addresses);
    if let (false, Some(name)) = (options.offline, sight.to_resolve().map(str::to_owned)) {
        let published = wait_for(async {
            let dns = HickoryDns::new(&Settings { dnssec: Dnssec::Off, ..config.resolver.clone() })?;
            let (ipv4, ipv6) = tokio::join!(dns.ipv4(&name), dns.ipv6(&name));
            Ok([ipv4, ipv6].into_iter().filter_map(Result::ok).flat_map(|found| found.records).collect())
        });
        sight = sight.with(published.unwrap_or_default());
    }
    let lines = zone::of_config(config, &sight);
    if lines.is_empty() { lines } else { [vec![String::new()], lines, vec![String::new()]].concat() }
}

/// What DNS has to say; nothing where there is no name server, which is a finding of its own.
fn of_dns(config: &Config) -> Findings {
    let mut findings = Findings::default();
    if HickoryDns::new(&config.resolver).is_ok() {
        for text in dnssec(&config.resolver).into_iter().chain(unaligned(config)) {
            findings.add(Severity::Warning, None, text);
        }
    }
    findings
}

/// Signatures that receivers find unaligned, as far as DNS tells.
fn unaligned(config: &Config) -> Vec<String> {
    let look = wait_for(async {
        // What is published for everybody to see need not be vouched for.
        let dns = HickoryDns::new(&Settings { dnssec: Dnssec::Off, ..config.resolver.clone() })?;
        Ok(alignment::findings(config, &dns).await)
    });
    look.unwrap_or_default()
}

/// What keeps DANE from working, and how to mend it.
fn dnssec(settings: &Settings) -> Option<String> {
    if settings.dnssec == Dnssec::Off {
        return None;
    }
    // Asked even where the configuration says that there is DNSSEC: without it nothing resolves.
    let settings = Settings { dnssec: Dnssec::Auto, ..settings.clone() };
    let validates = wait_for(async {
        let dns = HickoryDns::new(&settings)?;
        Ok(dns.validates().await?)
    });
    match validates {
        Ok(true) => None,
        Ok(false) => Some(
            "[resolver] dnssec: the resolver does not carry DNSSEC, so that DANE is off; use one that does, such as a \
             local unbound"
                .to_owned(),
        ),
        Err(error) => Some(format!("[resolver] the resolver does not answer: {error}")),
    }
}
