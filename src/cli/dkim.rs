//! `dkim`: keys and the records that publish them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::{config_file, load_config, say};
use crate::app::made_up::{IfThere, generate_keys};
use crate::dkim::record;
use crate::mail::address::domain_key;

/// Subcommands of `dkim`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an RSA-2048 and an Ed25519 key for a domain, and print what to put into DNS and into the configuration
    Generate {
        /// The domain in From
        domain: String,
        /// A name for the RSA key, like otp1; the Ed25519 key gets it with -ed25519 behind
        selector: String,
        /// The folder for the key files [default: certs/dkim beside the configuration's folder]
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Print the DNS records of the configured keys of a domain
    Record {
        /// The domain in From
        domain: String,
    },
}

/// Runs it.
pub(super) fn run(file: Option<&Path>, command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Generate { domain, selector, out } => generate(file, domain, selector, out.as_deref())?,
        Command::Record { domain } => records(file, domain)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(file: Option<&Path>, domain: &str, selector: &str, out: Option<&Path>) -> anyhow::Result<()> {
    let domain = domain_key(domain).with_context(|| format!("\"{domain}\" is not a domain"))?;
    let selector = domain_key(selector).with_context(|| format!("\"{selector}\" cannot be a selector"))?;
    let config = config_file(file);
    let folder_of_config = config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    let folder = out.map_or_else(|| folder_of_config.join("certs/dkim"), Path::to_owned);
    let files = generate_keys(&folder, &domain, &selector, IfThere::Refuse)?;
    say("Publish these TXT records:\n");
    for file in &files {
        let pem = zeroize::Zeroizing::new(std::fs::read_to_string(&file.path)?);
        say(&record::zone_line(&domain, &file.selector, &record::txt_record(&pem)?));
    }
    say("\nand put this into the configuration:\n");
    for file in &files {
        let path = file.path.strip_prefix(folder_of_config).unwrap_or(&file.path).display();
        say(&format!("[[dkim]]\ndomain = \"{domain}\"\nselector = \"{}\"\nprivate_key = \"{path}\"\n", file.selector));
    }
    Ok(())
}

fn records(file: Option<&Path>, domain: &str) -> anyhow::Result<()> {
    let config = load_config(file)?;
    let domain = domain_key(domain).with_context(|| format!("\"{domain}\" is not a domain"))?;
    let keys = config
        .keys
        .of(&domain)
        .with_context(|| format!("no [[dkim]] key for {domain}; `otp-relay dkim generate {domain} otp1` makes some"))?;
    for key in keys.iter() {
        say(&record::zone_line(&domain, key.selector(), key.record()));
    }
    Ok(())
}
