//! placeholder
use std::process::ExitCode;
/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// End after the sample message; exit status 0 only if it was delivered and its signature verified
    #[arg(long)]
    once: bool,
}
/// Runs the demo.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not yet {options:?}")
}
