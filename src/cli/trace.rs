//! `trace`: what happened to a message, or to the latest of a recipient.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use super::client::{Access, Client, encoded, wait_for};
use super::exit::Exit;
use super::say;
use super::timeline::Message;

/// Stories told of one recipient unless asked otherwise.
const STORIES: usize = 5;

/// Options of `trace`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The id of a message or an entry, or a recipient's address
    #[arg(value_name = "ID or RECIPIENT")]
    what: String,
    /// At most so many messages of a recipient, the newest first
    #[arg(long, default_value_t = STORIES)]
    limit: usize,
    /// Print JSON: a message, or a list of them
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    let client = Client::new(file, &options.access)?;
    let stories = wait_for(async {
        if !options.what.contains('@') {
            return Ok(vec![story(&client, &options.what).await?]);
        }
        let list = client.get(&format!("/v1/messages?recipient={}", encoded(&options.what))).await?;
        let messages = list["messages"].as_array().cloned().unwrap_or_default();
        let mut stories = Vec::new();
        for id in messages.iter().filter_map(|message| message["id"].as_str()).take(options.limit) {
            stories.push(story(&client, id).await?);
        }
        Ok(stories)
    })?;
    if stories.is_empty() {
        let text = format!("no message to {} is known; traces are kept for queue.trace_retention", options.what);
        return Err(Exit::NotFound.saying(text));
    }
    if options.json {
        let is_one = !options.what.contains('@');
        say(&if is_one { stories[0].to_string() } else { Value::Array(stories).to_string() });
        return Ok(ExitCode::SUCCESS);
    }
    for (index, story) in stories.into_iter().enumerate() {
        if index > 0 {
            say("");
        }
        show(story)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A message with its events, by its id or an entry's.
pub(super) async fn story(client: &Client, id: &str) -> anyhow::Result<Value> {
    let message = id.split('-').next().unwrap_or_default();
    client.get(&format!("/v1/messages/{}", encoded(message))).await
}

/// Prints the timeline of a message.
pub(super) fn show(story: Value) -> anyhow::Result<()> {
    let message: Message = serde_json::from_value(story).context("what answers is no relay")?;
    message.lines().iter().for_each(|line| say(line));
    Ok(())
}
