//! `recipient`: what the relay keeps of a person.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;

use super::client::{ApiOptions, Client, encoded, wait_for};
use super::say;

/// Options of `recipient`.
pub(super) type Options = ApiOptions<Command>;

/// Subcommands of `recipient`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take an address out of traces, events, statistics, suppression and greylisting waits. What is still in the queue goes on
    /// and is traced: cancel it first
    Erase {
        /// alice@example.com
        address: String,
    },
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::new(file, &options.access)?;
    let Command::Erase { address } = &options.command;
    let path = format!("/v1/recipients/{}", encoded(address));
    let answer = wait_for(client.ask(Method::DELETE, &path, None))?;
    if options.json {
        say(&answer.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let suppression = if answer["suppression"] == true { "; it is no longer suppressed" } else { "" };
    say(&format!("{address} is erased from {} traces and {} events{suppression}", answer["traces"], answer["events"]));
    Ok(ExitCode::SUCCESS)
}
