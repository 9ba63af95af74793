//! `completions` and `manual`: what packages carry beside the program, made of the commands and keys themselves.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::say;
use crate::base::clock::{Clock as _, SystemClock, Timestamp};
use crate::base::files::faults::{Use, explain};
use crate::config::manual;

const NAME: &str = "otp-relay";

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// For which shell
    shell: Shell,
}

/// Options of `manual`.
#[derive(Debug, clap::Args)]
pub(super) struct Manual {
    /// The folder to write the pages into
    folder: PathBuf,
}

/// Prints a shell's completions.
pub(super) fn run<C: CommandFactory>(options: &Options) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut C::command(), NAME, &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    ExitCode::SUCCESS
}

/// Writes a page for every command, and one for the configuration file.
pub(super) fn write<C: CommandFactory>(options: &Manual) -> anyhow::Result<ExitCode> {
    let told = |path: &Path, error: io::Error| anyhow::anyhow!(explain(path, Use::Write, &error));
    std::fs::create_dir_all(&options.folder).map_err(|error| told(&options.folder, error))?;
    let mut command = C::command().disable_help_subcommand(true);
    command.build();
    let date = date_of_pages();
    pages(&command, NAME, &date, &mut |name, page| {
        let path = options.folder.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|error| told(&path, error))
    })?;
    let path = options.folder.join("relay.toml.5");
    std::fs::write(&path, manual(&date)).map_err(|error| told(&path, error))?;
    Ok(ExitCode::SUCCESS)
}

/// Packages of the same commit are the same: those who make them say what time it is.
/// <https://reproducible-builds.org/specs/source-date-epoch/>
fn date_of_pages() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    let given = given.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    given.unwrap_or_else(|| SystemClock::default().wall()).date()
}

fn pages(
    command: &Command,
    name: &str,
    date: &str,
    write: &mut dyn FnMut(&str, Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let page = clap_mangen::Man::new(command.clone().name(name.to_owned()).version(version)).title(name).date(date);
    let mut octets = Vec::new();
    page.render(&mut octets)?;
    write(name, octets)?;
    let visible = command.get_subcommands().filter(|below| !below.is_hide_set());
    visible.into_iter().try_for_each(|below| pages(below, &format!("{name}-{}", below.get_name()), date, write))
}
