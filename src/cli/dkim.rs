//! `dkim`: keys and the records that publish them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::exit::{Exit, OrExit as _};
use super::rotate;
use super::zone::{self, Sight};
use super::{complain, config_file, load_config, say};
use crate::base::files::faults::{absolute, user_name};
use crate::config::DEFAULT_FILES;
use crate::dkim::record;
use crate::mail::address::domain_key;
use crate::relay::first_run::{IfThere, generate_keys};

/// Subcommands of `dkim`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an RSA-2048 and an Ed25519 key for a domain, and print what to put into DNS and into the configuration
    Generate {
        /// The domain in From
        domain: String,
        /// A name for the RSA key, like otp1; the Ed25519 key gets it with -ed25519 behind
        selector: String,
        /// The folder for the key files [default: certs/dkim beside the configuration file]
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Make the next keys of a domain, and print what to put into DNS: the relay signs with them once all authoritative name
    /// servers have shown them for a day. Asked again, say how far that is
    Rotate {
        /// The domain in From
        domain: String,
    },
    /// Print the DNS records of the keys of a domain
    Record {
        /// The domain in From
        domain: String,
    },
}

pub(super) fn run(file: Option<&Path>, command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Generate { domain, selector, out } => generate(file, domain, selector, out.as_deref())?,
        Command::Rotate { domain } => rotate::run(file, &known_domain(domain)?)?,
        Command::Record { domain } => records(file, domain)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(file: Option<&Path>, domain: &str, selector: &str, out: Option<&Path>) -> anyhow::Result<()> {
    let domain = known_domain(domain)?;
    let unusable = || Exit::Usage.saying(format!("\"{selector}\" cannot be a selector"));
    let selector = domain_key(selector).ok_or_else(unusable)?;
    let config = config_file(file);
    let folder_of_config = config.as_deref().and_then(Path::parent);
    let folder = out.map_or_else(|| folder_of_config.unwrap_or(Path::new("")).join("certs/dkim"), Path::to_owned);
    let files = generate_keys(&folder, &domain, &selector, IfThere::Refuse)?;
    let mut records = Vec::new();
    for file in &files {
        let pem = zeroize::Zeroizing::new(std::fs::read_to_string(&file.path)?);
        records.push((file.selector.clone(), record::txt_record(&pem)?));
    }
    for line in zone::fragment(&BTreeMap::from([(domain.clone(), records)]), &Sight::of_file(config.as_deref())) {
        say(&line);
    }
    let into = config.as_deref().unwrap_or(Path::new(DEFAULT_FILES[0]));
    complain(&format!(
        "\n; The keys are made, for user {} alone. Now put this into {}; the relay signs from its next start or SIGHUP on:\n",
        user_name(nix::unistd::geteuid()),
        absolute(into).display()
    ));
    for file in &files {
        let path = as_configured(&file.path, folder_of_config);
        complain(&format!("[[dkim]]\ndomain = \"{domain}\"\nselector = \"{}\"\nprivate_key = {path}\n", file.selector));
    }
    Ok(())
}

/// The path as the configuration has to name it, in quotes: relative where it is below the configuration's folder, else from the
/// root on.
fn as_configured(path: &Path, folder: Option<&Path>) -> toml::Value {
    let path = absolute(path);
    let below = folder.and_then(|folder| path.strip_prefix(absolute(folder)).ok());
    toml::Value::String(below.unwrap_or(&path).to_string_lossy().into_owned())
}

fn known_domain(domain: &str) -> anyhow::Result<String> {
    domain_key(domain).ok_or_else(|| Exit::Usage.saying(format!("\"{domain}\" is not a domain")))
}

fn records(file: Option<&Path>, domain: &str) -> anyhow::Result<()> {
    let config = load_config(file)?;
    let domain = known_domain(domain)?;
    let unknown = || format!("no [[dkim]] key for {domain} in the configuration; it has to name the key's file");
    let keys = config.keys.of(&domain).with_context(unknown).or_exit(Exit::NotFound)?;
    for key in keys.iter() {
        say(&record::zone_line(&domain, key.selector(), key.record()));
    }
    rotate::show_others(&config, &domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the configuration looks is where the key is.
    #[test]
    fn a_path_is_written_as_the_configuration_reads_it() {
        let here = std::env::current_dir().unwrap();
        let check = |path: &str, folder: Option<&str>, expected: &str| {
            let written = as_configured(Path::new(path), folder.map(Path::new));
            assert_eq!(written.as_str(), Some(expected));
            assert_eq!(absolute(&folder.map(Path::new).unwrap_or(&here).join(expected)), absolute(Path::new(path)));
        };
        let below_here = |path: &str| here.join(path).display().to_string();
        check("config/certs/dkim/k.pem", Some("config"), "certs/dkim/k.pem");
        check("certs/k.pem", Some(""), "certs/k.pem");
        check("/etc/otp-relay/certs/dkim/k.pem", Some("/etc/otp-relay"), "certs/dkim/k.pem");
        check("keys/k.pem", Some("config"), &below_here("keys/k.pem"));
        check("/srv/k.pem", Some("config"), "/srv/k.pem");
        check("certs/dkim/k.pem", None, &below_here("certs/dkim/k.pem"));
    }
}
