//! The command line: one file a command.

mod backup;
mod check;
mod client;
mod completions;
mod config;
mod data;
mod destinations;
mod dkim;
mod exit;
mod explain;
mod healthz;
mod plan;
mod queue;
mod recipient;
mod restore;
mod rotate;
mod secret;
mod send;
mod serve;
mod service_manager;
mod suppression;
mod timeline;
mod trace;
mod user;
mod verify;
mod webhook;
mod zone;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::Exit;
use crate::base::files::faults::{Use, explain};
use crate::config::findings::Severity;
use crate::config::{Config, DEFAULT_FILES};
use crate::report::output::{complain, say};

/// What a configuration with errors comes to.
const HAS_ERRORS: &str = "the configuration has errors";

/// An SMTP relay for one-time codes, login links and password resets.
#[derive(Debug, Parser)]
#[command(name = "otp-relay", version, about, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    /// The configuration file [default: config/relay.toml, then /etc/otp-relay/relay.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    Serve(serve::Options),
    /// See it work: a code through the relay, past a greylisting server, in a few seconds and without network
    Demo(crate::demo::Options),
    /// Look for mistakes in the configuration
    Check(check::Options),
    /// Print the configuration file with every setting, explained
    Config(config::Options),
    /// Say what the relay makes of a mail host's reply, or what it has learned about a destination
    Explain(explain::Options),
    /// Show the attempts that would be made, and why
    Plan(plan::Options),
    /// Send a code through the running relay, and see it arrive
    Send(send::Options),
    /// Tell what happened to a message, or to the latest of a recipient
    Trace(trace::Options),
    /// Inspect and control the running relay's queue
    Queue(queue::Options),
    /// Show what was sent where: sent, waiting, failed, how long it took, the last refusal
    Destinations(destinations::Options),
    /// See and change which addresses are not sent to
    Suppression(suppression::Options),
    /// Forget a person
    Recipient(recipient::Options),
    /// Look into a data directory that no relay uses
    #[command(subcommand)]
    Data(data::Command),
    /// Write configuration, keys, certificates, tokens, suppressions and what was learned of destinations into a file
    Backup(backup::Options),
    /// Write a backup to where its configuration says
    Restore(restore::Options),
    /// Have the relay make and send a code, and check what somebody typed
    Verify(verify::Options),
    /// See the webhooks, post events again, try one
    Webhook(webhook::Options),
    /// Make DKIM keys, change them, print their DNS records
    #[command(subcommand)]
    Dkim(dkim::Command),
    /// Make password hashes for the configuration
    #[command(subcommand)]
    User(user::Command),
    /// Say whether the running relay takes mail
    Healthz(healthz::Options),
    /// Print completions for a shell
    Completions(completions::Options),
    /// Write man pages
    #[command(hide = true)]
    Manual(completions::Manual),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let file = cli.config.as_deref();
    let result = match cli.command {
        Command::Serve(options) => serve::run(file, &options),
        Command::Demo(options) => crate::demo::run(&options),
        Command::Check(options) => check::run(file, &options),
        Command::Config(options) => config::run(file, &options),
        Command::Explain(options) => explain::run(file, &options),
        Command::Plan(options) => plan::run(&options),
        Command::Send(options) => send::run(file, &options),
        Command::Trace(options) => trace::run(file, &options),
        Command::Queue(options) => queue::run(file, &options),
        Command::Destinations(options) => destinations::run(file, &options),
        Command::Suppression(options) => suppression::run(file, &options),
        Command::Recipient(options) => recipient::run(file, &options),
        Command::Data(command) => data::run(&command),
        Command::Backup(options) => backup::run(file, &options),
        Command::Restore(options) => restore::run(file, &options),
        Command::Verify(options) => verify::run(file, &options),
        Command::Webhook(options) => webhook::run(file, &options),
        Command::Dkim(command) => dkim::run(file, &command),
        Command::User(command) => user::run(&command),
        Command::Healthz(options) => healthz::run(file, &options),
        Command::Completions(options) => Ok(completions::run::<Cli>(&options)),
        Command::Manual(options) => completions::write::<Cli>(&options),
    };
    result.unwrap_or_else(|error| {
        complain(&format!("otp-relay: {error:#}"));
        Exit::of(&error).into()
    })
}

/// The file to read: the one named, or the first default that exists.
fn config_file(named: Option<&Path>) -> Option<PathBuf> {
    let first_default = || DEFAULT_FILES.iter().map(PathBuf::from).find(|path| path.exists());
    named.map(Path::to_owned).or_else(first_default)
}

/// Reads the configuration; its findings go to standard error.
fn load_config(named: Option<&Path>) -> anyhow::Result<Config> {
    let (config, findings) = read_config(named)?;
    let path = config_file(named);
    findings.lines(path.as_deref()).iter().for_each(|line| complain(line));
    config.ok_or_else(|| Exit::Configuration.saying(HAS_ERRORS))
}

fn read_config(named: Option<&Path>) -> anyhow::Result<(Option<Config>, crate::config::findings::Findings)> {
    match config_file(named) {
        Some(path) => Config::load(&path).map_err(|error| {
            let text = format!("the configuration cannot be read: {}", explain(&path, Use::Read, &error));
            let is_forbidden = error.kind() == io::ErrorKind::PermissionDenied;
            if is_forbidden { Exit::NotAllowed.saying(text) } else { Exit::Configuration.saying(text) }
        }),
        None => Ok(Config::without_file(Path::new(""))),
    }
}

/// Whether any finding is worth a word before serving.
fn is_worth_telling(severity: Severity) -> bool {
    severity >= Severity::Warning
}
