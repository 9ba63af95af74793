//! `check`: what is wrong with the configuration, and with what the world sees of the relay.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::client::{Client, wait_for};
use super::exit::Exit;
use super::zone::{self, Sight};
use super::{complain, config_file, read_config, say};
use crate::base::clock::{Clock, SystemClock};
use crate::check::world::RealNames;
use crate::check::{self, Blocklists, Check, Extent, Finding, Look, Probe};
use crate::config::Config;
use crate::config::findings::{self, Findings, Severity};
use crate::destination::resolver::{Dns as _, Dnssec, HickoryDns, Settings};
use crate::net::{TcpNetwork, own_faults};
use crate::relay::{acme, preflight};

/// How long the running relay may take to tell.
const RELAY_MAX: Duration = Duration::from_secs(2);
/// How long the addresses of the relay's own name may take: the rest of five seconds.
const LOOK_UP_MAX: Duration = Duration::from_millis(400);

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Look at the configuration only, not at DNS, the network and this machine
    #[arg(long)]
    offline: bool,
    /// One JSON object: the findings, each with what to publish, and how many there are
    #[arg(long)]
    json: bool,
    /// Print only what has to be in DNS, as lines to paste into zone files
    #[arg(long, conflicts_with_all = ["json", "probe", "blocklists"])]
    zone: bool,
    /// Ask eight big providers what they say to MAIL FROM; no recipient is named
    #[arg(long, conflicts_with = "offline")]
    probe: bool,
    /// Ask five block lists for the own addresses, and one for the own domains
    #[arg(long, conflicts_with = "offline")]
    blocklists: bool,
}

/// Prints one line a finding; fails if one of them is an error.
pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let (config, of_file) = read_config(file)?;
    let path = config_file(file);
    let mut found = of_configuration(&of_file, path.as_deref());
    if options.zone {
        return Ok(zone_only(config.as_ref(), &found, options));
    }
    if let Some(config) = config.as_ref().filter(|_| !options.offline) {
        found.extend(online(config, options)?);
    }
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    let is_good = errors == 0 && config.is_some();
    if options.json {
        say(&json!({"findings": found, "errors": errors, "warnings": warnings, "notes": notes}).to_string());
    } else {
        found.iter().for_each(|finding| say(&format!("; {}", finding.line())));
        let records = config.as_ref().map(|config| records(config, options)).unwrap_or_default();
        if !records.is_empty() {
            say("");
            records.iter().for_each(|line| say(line));
            say("");
        }
        let shown = path.as_deref().map_or_else(|| "the defaults".to_owned(), |path| path.display().to_string());
        say(&if is_good {
            format!("; ok: {shown}: no errors, {warnings} warnings")
        } else {
            format!("; {shown}: {errors} errors, {warnings} warnings")
        });
    }
    Ok(if is_good { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// Only the lines of the zone; a configuration with errors is told on standard error, for its zone would lack something.
fn zone_only(config: Option<&Config>, found: &[Finding], options: &Options) -> ExitCode {
    let errors = found.iter().filter(|finding| finding.severity == Severity::Error);
    let errors: Vec<String> = errors.map(Finding::line).collect();
    match config.filter(|_| errors.is_empty()) {
        Some(config) => {
            let records = records(config, options);
            records.iter().for_each(|line| say(line));
            if records.is_empty() {
                complain("the configuration names no domain, so there is nothing to publish");
            }
            ExitCode::SUCCESS
        }
        None => {
            errors.iter().for_each(|line| complain(line));
            Exit::Failed.into()
        }
    }
}

/// What the file says, in its order, those without a line last.
fn of_configuration(findings: &Findings, path: Option<&Path>) -> Vec<Finding> {
    let mut sorted: Vec<&findings::Finding> = findings.0.iter().collect();
    sorted.sort_by_key(|finding| (finding.line.unwrap_or(usize::MAX), std::cmp::Reverse(finding.severity)));
    let file = path.map(|path| path.display().to_string());
    let shown = sorted.into_iter().map(|finding| {
        let subject = match (&file, finding.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ => String::new(),
        };
        let place = if subject.is_empty() { String::new() } else { format!("{subject}: ") };
        Finding::new(finding.severity, Check::Configuration, subject, format!("{place}{}", finding.text))
    });
    shown.collect()
}

/// What can be seen of the relay from outside and on this machine.
fn online(config: &Config, options: &Options) -> anyhow::Result<Vec<Finding>> {
    wait_for(async {
        let mut found = preflight::look(config);
        for address in own_faults::missing(&config.delivery.source_addresses) {
            let text = format!("[delivery] source_addresses: this machine does not have the address {address}");
            found.push(Finding::new(Severity::Error, Check::SeenAddress, "", text));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        // Without a name server there is a finding already.
        let Ok(names) = RealNames::new(&config.resolver, clock.clone()) else { return Ok(found) };
        let look = Look::new(config, &names, &TcpNetwork, clock);
        let probe = if options.probe { Probe::Sender } else { Probe::Greeting };
        let blocklists = if options.blocklists { Blocklists::Ask } else { Blocklists::Leave };
        let (refused, online) = tokio::join!(refusals(config), check::online(&look, Extent { probe, blocklists }));
        found.extend(online.into_iter().chain(refused));
        found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Ok(found)
    })
}

/// What providers refused in the last 24 hours, as the running relay tells; a note where none runs.
async fn refusals(config: &Config) -> Vec<Finding> {
    let asked = async { Client::of_operator(config)?.get("/page/data").await };
    let data = match tokio::time::timeout(RELAY_MAX, asked).await {
        Ok(Ok(data)) => data,
        Ok(Err(_)) | Err(_) => {
            let text = "no running relay answers here, so what providers refused in the last 24 h was not looked at";
            let mend = "run the check where the relay runs, with its configuration";
            return vec![Finding::new(Severity::Note, Check::Refusals, "", text).mend(mend)];
        }
    };
    let all = data["all"]["refusals"].as_array().cloned().unwrap_or_default();
    let causes = data["causes"].as_array().cloned().unwrap_or_default();
    let finding = |refusal: &serde_json::Value| {
        let told = |name: &str| refusal[name].as_str().unwrap_or_default().to_owned();
        let (count, meaning, reply) = (&refusal["count"], told("meaning"), told("reply"));
        // What was said before a restart is not known any more.
        let reply = if reply.is_empty() { reply } else { format!(" (the last reply: {reply})") };
        let meaning = meaning.trim_end_matches('.');
        let text = format!("it refused the relay {count} times in the last 24 h: {meaning}{reply}");
        let mend =
            causes.iter().find(|cause| cause["name"] == refusal["cause"]).and_then(|cause| cause["mend"].as_str());
        let mend = mend.unwrap_or("mend what is found above").trim_end_matches('.').to_owned();
        Finding::new(Severity::Warning, Check::Refusals, told("provider"), text).mend(mend)
    };
    all.iter().map(finding).collect()
}

/// What has to be in DNS; nothing where the configuration names no domain.
fn records(config: &Config, options: &Options) -> Vec<String> {
    let mut sight = Sight::new(&config.hostname, &config.delivery.source_addresses);
    if let (false, Some(name)) = (options.offline, sight.to_resolve().map(str::to_owned)) {
        let published = wait_for(async {
            let dns = HickoryDns::new(&Settings { dnssec: Dnssec::Off, ..config.resolver.clone() })?;
            let both = async { tokio::join!(dns.ipv4(&name), dns.ipv6(&name)) };
            let Ok((ipv4, ipv6)) = tokio::time::timeout(LOOK_UP_MAX, both).await else { return Ok(Vec::new()) };
            Ok([ipv4, ipv6].into_iter().filter_map(Result::ok).flat_map(|found| found.records).collect())
        });
        sight = sight.with(published.unwrap_or_default());
    }
    let mut lines = zone::of_config(config, &sight);
    lines.extend(acme::Folder::of(&config.data_dir).records());
    lines
}
