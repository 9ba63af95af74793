//! `healthz`: whether the running relay takes mail, for containers, whose image has no shell.

use std::path::Path;
use std::process::ExitCode;

use super::client::{Client, wait_for};
use super::say;

/// Options of `healthz`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The relay's HTTP API [default: http.address of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::without_token(file, options.url.as_deref())?;
    wait_for(client.text("/readyz"))?;
    say("ready");
    Ok(ExitCode::SUCCESS)
}
