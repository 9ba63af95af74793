//! `suppression`: the addresses that are not sent to.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{ApiOptions, Client, encoded, wait_for};
use super::say;

/// Options of `suppression`.
pub(super) type Options = ApiOptions<Command>;

/// Subcommands of `suppression`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the list, the latest first
    List,
    /// Put an address on it
    Add {
        /// alice@example.com, or @example.com for all of it
        address: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take an address off it
    Remove {
        /// As it stands on the list
        address: String,
    },
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::new(file, &options.access)?;
    let answer = wait_for(ask(&client, &options.command))?;
    if options.json {
        say(&answer.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    match &options.command {
        Command::List => {
            answer["suppressions"].as_array().into_iter().flatten().for_each(|entry| say(&line(entry)));
            say(&format!("{} suppressed", answer["count"]));
        }
        Command::Add { .. } => say(&line(&answer)),
        Command::Remove { address } => say(&format!("{address} is sent to again")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Client, command: &Command) -> anyhow::Result<Value> {
    let path = |address: &str| format!("/v1/suppressions/{}", encoded(address));
    match command {
        Command::List => client.get("/v1/suppressions").await,
        Command::Add { address, reason } => {
            client.ask(Method::PUT, &path(address), Some(&json!({"reason": reason}))).await
        }
        Command::Remove { address } => client.ask(Method::DELETE, &path(address), None).await,
    }
}

fn line(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
    let until = entry["until"].as_str().unwrap_or("until it is removed");
    format!("{:<32} {:<9} since {}  {until}  {}", text("address"), text("source"), text("since"), text("reason"))
}
