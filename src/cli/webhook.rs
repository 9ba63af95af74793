//! `webhook`: who is told of events, and how they stand.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{ApiOptions, Client, wait_for};
use super::exit::Exit;
use super::say;

/// Options of `webhook`.
pub(super) type Options = ApiOptions<Command>;

/// Subcommands of `webhook`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show each endpoint: its state, what waits, its last answer
    List,
    /// Post events again
    Replay {
        /// Events from this time on, like 2026-11-21T10:00:00Z
        #[arg(long, required_unless_present = "id")]
        since: Option<String>,
        /// Events of this message
        #[arg(long)]
        id: Option<String>,
        /// To this URL only
        #[arg(long)]
        endpoint: Option<String>,
    },
    /// Post a test, and say what is answered
    Test {
        /// To this URL only
        endpoint: Option<String>,
    },
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::new(file, &options.access)?;
    let answer = wait_for(ask(&client, &options.command))?;
    if options.json {
        say(&answer.to_string());
    }
    match &options.command {
        _ if options.json => {}
        Command::List => answer["webhooks"].as_array().into_iter().flatten().for_each(|one| say(&line(one))),
        Command::Replay { .. } => say(&format!("{} posts", answer["replayed"])),
        Command::Test { .. } => {
            let text = |one: &Value, name: &str| one[name].as_str().unwrap_or("-").to_owned();
            let tested = answer["tested"].as_array().into_iter().flatten();
            tested.for_each(|one| say(&format!("{}  {}", text(one, "url"), text(one, "answer"))));
        }
    }
    let is_refused = |one: &Value| one["taken"] == json!(false);
    if answer["tested"].as_array().is_some_and(|tested| tested.iter().any(is_refused)) {
        return Err(Exit::Failed.saying("a webhook does not take posts"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Client, command: &Command) -> anyhow::Result<Value> {
    match command {
        Command::List => client.get("/v1/webhooks").await,
        Command::Replay { since, id, endpoint } => {
            let fields = [("since", since), ("id", id), ("endpoint", endpoint)];
            let given = fields.into_iter().filter_map(|(name, text)| Some((name, text.clone()?)));
            let body: Value = given.collect();
            client.ask(Method::POST, "/v1/webhooks/replay", Some(&body)).await
        }
        Command::Test { endpoint } => {
            let body = endpoint.as_ref().map_or_else(|| json!({}), |url| json!({"endpoint": url}));
            client.ask(Method::POST, "/v1/webhooks/test", Some(&body)).await
        }
    }
}

fn line(one: &Value) -> String {
    let text = |name: &str| one[name].as_str().unwrap_or("-").to_owned();
    let more = if one["more_waiting"] == json!(true) { "+" } else { "" };
    format!(
        "{}  {}  {}{more} waiting, oldest {}  last answer {} at {}",
        text("url"),
        text("state"),
        one["waiting"],
        text("oldest"),
        text("last_answer"),
        text("last_answer_at")
    )
}
