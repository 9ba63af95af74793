//! `send`: a code by mail, followed to its end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use hyper::Method;
use serde_json::json;
use zeroize::Zeroizing;

use super::client::{Access, Client, configuration, wait_for};
use super::exit::{Exit, OrExit as _};
use super::timeline::{self, Message};
use super::{say, secret};
use crate::accounts::user::Senders;
use crate::config::Config;
use crate::event::json::EventJson;
use crate::relay::random::fill_random;

/// The local part where the configuration allows any.
const LOCAL_PART: &str = "otp";

/// Options of `send`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The recipient
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The sender [default: one that the configuration allows]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The code, seen by whoever lists processes [default: six random digits]
    #[arg(long)]
    code: Option<String>,
    /// A file with the code in its first line, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    code_file: Option<PathBuf>,
    /// The name of the app in the mail
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// How long it is valid, like 90s or 5m [default: the user's]
    #[arg(long, value_name = "SPAN")]
    ttl: Option<String>,
    /// The language of the mail, like de or pt-BR
    #[arg(long, default_value = "en")]
    locale: String,
    /// Print the message as JSON at its end, instead of what happens
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

/// Succeeds only if it was delivered.
pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    options.access.leaves_stdin_to(options.code_file.as_deref())?;
    let client = Client::new(file, &options.access)?;
    let from = sender(file, options.from.as_ref())?;
    let code = code(options)?;
    let mut otp = json!({"code": *code, "locale": options.locale});
    if let Some(app) = &options.app {
        otp["app"] = json!(app);
    }
    let mut body = json!({"from": from, "to": options.to, "otp": otp});
    if let Some(ttl) = &options.ttl {
        body["life"] = json!(ttl);
    }
    let message = wait_for(follow(&client, &body, options.json))?;
    Ok(if message.is_delivered() { ExitCode::SUCCESS } else { Exit::NotDelivered.into() })
}

async fn follow(client: &Client, body: &serde_json::Value, as_json: bool) -> anyhow::Result<Message> {
    let taken = client.ask(Method::POST, "/v1/messages", Some(body)).await?;
    let id = taken["id"].as_str().context("what answers is no relay")?.to_owned();
    let mut events = client.follow(&format!("/v1/events?message={id}")).await?;
    if !as_json {
        say(&format!("message {id}"));
    }
    while let Some(event) = events.next::<EventJson>().await? {
        if let Some(line) = timeline::line(&event, false).filter(|_| !as_json) {
            say(&format!("  {line}"));
        }
    }
    let json = client.get(&format!("/v1/messages/{id}")).await?;
    if as_json {
        say(&json.to_string());
    }
    let message: Message = serde_json::from_value(json).context("what answers is no relay")?;
    if !as_json {
        message.entries.iter().for_each(|entry| say(&entry.verdict()));
    }
    Ok(message)
}

fn code(options: &Options) -> anyhow::Result<Zeroizing<String>> {
    match (&options.code, &options.code_file) {
        (Some(code), _) => Ok(Zeroizing::new(code.clone())),
        (None, Some(file)) => secret::read(file, "code"),
        (None, None) => random_code(),
    }
}

fn random_code() -> anyhow::Result<Zeroizing<String>> {
    let mut bytes = [0; 4];
    fill_random(&mut bytes)?;
    Ok(Zeroizing::new(format!("{:06}", u32::from_be_bytes(bytes) % 1_000_000)))
}

/// The sender that is asked for, else one that the configuration allows.
pub(super) fn sender(file: Option<&Path>, from: Option<&String>) -> anyhow::Result<String> {
    let chosen = from.map_or_else(|| Ok(default_sender(&configuration(file)?)), |from| anyhow::Ok(Some(from.clone())));
    chosen?.context("say --from ADDRESS: the configuration names no sender to choose").or_exit(Exit::Usage)
}

/// An address that some user may send as; a relay without a file has a user for its own name.
fn default_sender(config: &Config) -> Option<String> {
    let mut users: Vec<_> = config.accounts.values().map(|account| &account.user).collect();
    users.sort_by(|a, b| a.name.cmp(&b.name));
    let patterns = users.iter().filter_map(|user| match &user.senders {
        Senders::Patterns(patterns) => Some(patterns),
        Senders::SigningDomains => None,
    });
    let named = patterns.flatten().find_map(|pattern| match pattern.rsplit_once('@') {
        Some((_, domain)) if domain.contains('*') => None,
        Some(("*", domain)) => Some(format!("{LOCAL_PART}@{domain}")),
        Some(_) => Some(pattern.clone()),
        None => None,
    });
    let signed = || config.keys.domains().next().map(|domain| format!("{LOCAL_PART}@{domain}"));
    let generated = || config.file.is_none().then(|| format!("{LOCAL_PART}@{}", config.hostname));
    named.or_else(signed).or_else(generated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_found_in_the_configuration() {
        let sender = |text: &str, path: Option<&Path>| {
            let (config, _) = Config::from_text(&format!("hostname = \"relay.test\"\n{text}"), Path::new(""), path);
            default_sender(&config.unwrap())
        };
        let file = Some(Path::new("relay.toml"));
        let user = |senders: &str| format!("[[user]]\nname = \"shop\"\nsenders = [{senders}]\n");
        assert_eq!(sender(&user("\"*\", \"*@*.x.test\", \"*@app.test\""), file).as_deref(), Some("otp@app.test"));
        assert_eq!(sender(&user("\"code@app.test\""), file).as_deref(), Some("code@app.test"));
        assert_eq!(sender(&user("\"*\""), file), None);
        assert_eq!(sender("", None).as_deref(), Some("otp@relay.test"));
    }
}
