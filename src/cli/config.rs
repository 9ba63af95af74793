//! `config`: the commented configuration file, and what is in force.

use std::path::Path;
use std::process::ExitCode;

use super::{load_config, say};
use crate::config::commented;

/// Options of `config`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Print the settings in force, defaults included and secrets left out
    #[arg(long)]
    effective: bool,
}

/// Prints it; what is in force only of a configuration without errors.
pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let text = if options.effective { load_config(file)?.in_force() } else { commented() };
    say(text.trim_end());
    Ok(ExitCode::SUCCESS)
}
