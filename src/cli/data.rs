//! `data`: the data directory, looked at without a relay.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::exit::Exit;
use super::say;
use crate::relay::verify;

/// Subcommands of `data`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a data directory that no relay uses, or a copy of one, but for statistics and webhooks; change nothing, and say what was found
    Verify {
        /// The folder
        dir: PathBuf,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Verify { dir } = command;
    verify_folder(dir)
}

fn verify_folder(dir: &Path) -> anyhow::Result<ExitCode> {
    let report = verify::look(dir)?;
    report.found.iter().for_each(|line| say(line));
    report.faults.iter().for_each(|line| say(&format!("error: {line}")));
    say(&match report.faults.len() {
        0 => "everything can be read".to_owned(),
        1 => "1 fault".to_owned(),
        faults => format!("{faults} faults"),
    });
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { Exit::Failed.into() })
}
