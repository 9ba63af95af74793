//! `verify`: has the relay make a code, and check what somebody typed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;
use serde_json::json;

use super::client::{ApiOptions, Client, encoded, wait_for};
use super::exit::Exit;
use super::send::sender;
use super::{say, secret};

/// Options of `verify`.
pub(super) type Options = ApiOptions<Command>;

/// Subcommands of `verify`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Begin a verification: a code is made and sent
    Start(Start),
    /// Check a code; succeeds only if it is right
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// The recipient
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The sender [default: one that the configuration allows]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The name of the app in the mail
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// What the code is for
    #[arg(long, default_value = "login")]
    purpose: String,
    /// How long the code can be typed, like 90s or 5m [default: the user's]
    #[arg(long, value_name = "SPAN")]
    life: Option<String>,
    /// The language of the mail, like de or pt-BR
    #[arg(long, default_value = "en")]
    locale: String,
    /// The app's own session: others cannot spend its checks
    #[arg(long)]
    session: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The verification
    #[arg(required_unless_present = "to", conflicts_with = "to")]
    id: Option<String>,
    /// Or else its recipient
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// With --to: what the code is for
    #[arg(long, default_value = "login", requires = "to")]
    purpose: String,
    /// With --to: the app's own session
    #[arg(long, requires = "to")]
    session: Option<String>,
    /// The code, seen by whoever lists processes
    #[arg(long, required_unless_present = "code_file")]
    code: Option<String>,
    /// A file with the code in its first line, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    code_file: Option<PathBuf>,
}

pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    match &options.command {
        Command::Start(start) => begin(file, options, start),
        Command::Check(check) => check_code(file, options, check),
    }
}

fn begin(file: Option<&Path>, options: &Options, start: &Start) -> anyhow::Result<ExitCode> {
    let client = Client::new(file, &options.access)?;
    let from = sender(file, start.from.as_ref())?;
    let mut body = json!({"to": start.to, "from": from, "purpose": start.purpose, "locale": start.locale});
    for (name, value) in [("app", &start.app), ("life", &start.life), ("session", &start.session)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    let begun = wait_for(client.ask(Method::POST, "/v1/verifications", Some(&body)))?;
    if options.json {
        say(&begun.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let text = |name: &str| begun[name].as_str().unwrap_or("-").to_owned();
    say(&format!("verification {}: {}, until {}", text("id"), text("state"), text("expires_at")));
    say(&format!(
        "  {} sent, {} checks left; another from {}",
        begun["sends"],
        begun["checks_left"],
        text("resend_at")
    ));
    if let Some(id) = begun["message"]["id"].as_str() {
        say(&format!("  message {id}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn check_code(file: Option<&Path>, options: &Options, check: &Check) -> anyhow::Result<ExitCode> {
    options.access.leaves_stdin_to(check.code_file.as_deref())?;
    let client = Client::new(file, &options.access)?;
    let code = match (&check.code, &check.code_file) {
        (Some(code), _) => zeroize::Zeroizing::new(code.clone()),
        (None, Some(file)) => secret::read(file, "code")?,
        (None, None) => return Err(Exit::Usage.saying("say --code CODE or --code-file FILE")),
    };
    let (path, mut body) = match (&check.id, &check.to) {
        (Some(id), _) => (format!("/v1/verifications/{}/check", encoded(id)), json!({})),
        (None, to) => ("/v1/verifications/check".to_owned(), json!({"to": to, "purpose": check.purpose})),
    };
    body["code"] = json!(*code);
    if let Some(session) = &check.session {
        body["session"] = json!(session);
    }
    let answer = wait_for(client.ask(Method::POST, &path, Some(&body)))?;
    if options.json {
        say(&answer.to_string());
    } else {
        let word = if answer["valid"] == true { "right" } else { "not right" };
        let state = answer["state"].as_str().unwrap_or("-");
        say(&format!("{word}: {state}, {} checks left", answer["checks_left"]));
    }
    Ok(if answer["valid"] == true { ExitCode::SUCCESS } else { Exit::Failed.into() })
}
