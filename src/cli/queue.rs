//! `queue`: inspects it, and cancels and retries what is in it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{ApiOptions, Client, encoded, wait_for};
use super::say;
use super::timeline::{Entry, Message, clock_time};
use super::trace::{show, story};

/// Options of `queue`.
pub(super) type Options = ApiOptions<Command>;

/// Subcommands of `queue`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what is live, the oldest first
    List {
        /// Only in this state: queued, sending or deferred
        #[arg(long)]
        state: Option<String>,
        /// Only to recipients of this domain
        #[arg(long, value_name = "DOMAIN")]
        destination: Option<String>,
        /// At most so many messages
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one message and what happened to it
    Show {
        /// Its id, or an entry's
        id: String,
    },
    /// Cancel a message
    Cancel {
        /// Its id, or an entry's
        id: String,
    },
    /// Try again now what waits for its next attempt
    Retry {
        /// The id of a message or an entry
        #[arg(required_unless_present = "destination", conflicts_with = "destination")]
        id: Option<String>,
        /// Everything to recipients of this domain
        #[arg(long, value_name = "DOMAIN")]
        destination: Option<String>,
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
        Command::List { .. } => list(answer)?,
        Command::Show { .. } => show(answer)?,
        Command::Cancel { .. } => cancelled(&answer),
        Command::Retry { .. } => {
            let retried = answer["retried"].as_array().map_or(0, Vec::len);
            let tried = match retried {
                0 => "nothing was waiting for its next attempt".to_owned(),
                1 => "1 entry is tried now".to_owned(),
                count => format!("{count} entries are tried now"),
            };
            let others = answer["others_in"].as_u64();
            let others = others.map(|wait| format!("; others were tried within the last minute, again in {wait} s"));
            say(&(tried + &others.unwrap_or_default()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Client, command: &Command) -> anyhow::Result<Value> {
    match command {
        Command::List { state, destination, limit } => {
            let mut path = format!("/v1/queue?limit={limit}");
            for (name, value) in [("state", state), ("destination", destination)] {
                path.extend(value.as_ref().map(|value| format!("&{name}={}", encoded(value))));
            }
            client.get(&path).await
        }
        Command::Show { id } => story(client, id).await,
        Command::Cancel { id } => {
            let message = id.split('-').next().unwrap_or_default();
            client.ask(Method::DELETE, &format!("/v1/messages/{}", encoded(message)), None).await
        }
        Command::Retry { id, destination } => {
            let body = match (id, destination) {
                (Some(id), _) => json!({"id": id}),
                (None, destination) => json!({"destination": destination}),
            };
            client.ask(Method::POST, "/v1/queue/retry", Some(&body)).await
        }
    }
}

fn list(answer: Value) -> anyhow::Result<()> {
    let total = answer["entries"].as_u64().unwrap_or(0);
    let messages: Vec<Message> =
        serde_json::from_value(answer["messages"].clone()).context("what answers is no relay")?;
    let lines: Vec<String> =
        messages.iter().flat_map(|message| message.entries.iter().map(|entry| row(message, entry))).collect();
    let shown = lines.len() as u64;
    if shown > 0 {
        let heading = ["entry", "state", "tries", "next", "expires", "at risk", "recipient", "cause"];
        say(&columns(heading, "last reply"));
    }
    lines.iter().for_each(|line| say(line));
    let entries = if total == 1 { "entry" } else { "entries" };
    say(&if shown == total { format!("{total} {entries}") } else { format!("{total} {entries}; {shown} shown") });
    Ok(())
}

fn row(message: &Message, entry: &Entry) -> String {
    let next = entry.next_attempt_at.as_deref().map_or("-", clock_time);
    let cause = entry.cause.as_deref().unwrap_or("-");
    let (attempts, risk) = (entry.attempts.to_string(), if entry.at_risk { "at risk" } else { "-" });
    let (id, state, recipient, expires) = (&entry.entry, &entry.state, &entry.recipient, &message.expires_at);
    let fields = [id, state, &attempts, next, clock_time(expires), risk, recipient, cause];
    columns(fields, entry.last_reply.as_deref().unwrap_or_default())
}

fn columns(fields: [&str; 8], reply: &str) -> String {
    let [entry, state, tries, next, expires, risk, recipient, cause] = fields;
    let line = format!(
        "{entry:<29} {state:<8} {tries:>5}  {next:<12} {expires:<12} {risk:<7} {recipient:<32} {cause:<16} {reply}"
    );
    line.trim_end().to_owned()
}

fn cancelled(answer: &Value) {
    for entry in answer["entries"].as_array().into_iter().flatten() {
        let text = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        let outlook = match (text("state").as_str(), entry["may_still_arrive"].as_bool()) {
            ("cancelled", Some(true)) => ", but its content was on its way and may still arrive",
            ("cancelled", _) => ", and will not arrive",
            _ => " before; nothing to cancel",
        };
        say(&format!("{}  {}: {}{outlook}", text("entry"), text("recipient"), text("state")));
    }
}
