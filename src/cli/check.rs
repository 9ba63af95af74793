//! `check`: what is wrong with the configuration.

use std::path::Path;
use std::process::ExitCode;

use super::{config_file, read_config, say};
use crate::config::findings::Severity;

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
        let text = "DNS and the network were not looked at: this version checks the configuration only \
                    (say --offline to leave this line out)";
        findings.add(Severity::Note, None, text);
    }
    for line in findings.lines(path.as_deref()) {
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
    Ok(ExitCode::FAILURE)
}
