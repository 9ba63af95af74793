//! `serve`: the relay as a service.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Exit;
use super::service_manager::Manager;
use super::{HAS_ERRORS, complain, config_file, is_worth_telling, read_config, say};
use crate::base::files::faults::{Use, explain};
use crate::config::{Config, DEFAULT_FILES};
use crate::relay::data_dir::{keep_files_private, keep_memory_private, raise_file_limit};
use crate::relay::first_run::{self, Generated};
use crate::relay::preflight;
use crate::relay::{Environment, LOG_PATIENCE, Relay};
use crate::report::journald::Journal;
use crate::report::log::{self, Output};

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Start without a configuration also where nobody watches: make up a certificate, a user and DKIM keys, and print them once
    #[arg(long)]
    first_run: bool,
}

/// Runs until a signal says stop.
pub(super) fn run(file: Option<&Path>, options: &Options) -> anyhow::Result<ExitCode> {
    keep_files_private();
    let path = config_file(file);
    if path.is_none() && !options.first_run && !is_watched() {
        return Err(Exit::Configuration.saying(nothing_found()));
    }
    let (config, mut findings) = read_config(file)?;
    findings.0.retain(|finding| is_worth_telling(finding.severity));
    findings.lines(path.as_deref()).iter().for_each(|line| complain(line));
    let mut config = config.ok_or_else(|| Exit::Configuration.saying(format!("{HAS_ERRORS}; nothing was started")))?;
    let files = raise_file_limit();
    let output = output(&config.log)?;
    log::init(&config.log, output.clone());
    keep_memory_private();
    if path.is_none()
        && let Some(generated) = first_run::complete(&mut config)?
    {
        introduce(&config, &generated);
    }
    if let Some(text) = files.and_then(|limit| preflight::too_few_files(limit, &config)) {
        tracing::warn!("{text}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("io").build()?;
    let ended = runtime.block_on(serve(config, path.as_deref(), output.clone()));
    // Where it does not start, the log says more than the error.
    output.settle(LOG_PATIENCE);
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Where lines go: the journal itself, or standard output.
fn output(settings: &log::Settings) -> anyhow::Result<Output> {
    if settings.format != log::Format::Journald {
        return Ok(Output::stdout());
    }
    let writer = Journal::connect().map_err(|error| {
        Exit::Configuration.saying(format!("log.format is \"journald\", and the journal cannot be reached: {error}"))
    })?;
    Ok(Output::new(writer))
}

/// Whether somebody is there to read a password that is shown once, and nothing keeps it: it goes to standard output.
fn is_watched() -> bool {
    std::io::stdout().is_terminal() && (std::io::stdin().is_terminal() || std::io::stderr().is_terminal())
}

/// Where a configuration was looked for, and how to come by one.
fn nothing_found() -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    let places: Vec<String> = DEFAULT_FILES.iter().map(|file| folder.join(file).display().to_string()).collect();
    format!(
        "there is no configuration: neither {} is there. Write one with `otp-relay config > FILE` and name it with \
         `-c FILE`, or try the relay with `otp-relay serve --first-run`, which makes up a certificate, a user and DKIM keys",
        places.join(" nor ")
    )
}

async fn serve(config: Config, path: Option<&Path>, output: Output) -> anyhow::Result<()> {
    // Before anything can go wrong that a signal would have to end.
    let mut signals = Signals::new()?;
    let listeners = config.listeners.clone();
    let (hostname, tls) = (config.hostname.clone(), config.http.tls);
    let relay = Relay::start(config, Environment { output, ..Environment::default() })?;
    for (address, settings) in relay.addresses().iter().zip(&listeners) {
        tracing::info!(%address, tls = settings.tls.name(), hostname, "listening");
    }
    if let Some(address) = relay.http_address() {
        tracing::info!(%address, tls, "listening for HTTP");
    }
    let mut manager = Manager::of_environment();
    manager.ready(relay.queue().depth(), None);
    loop {
        match tokio::time::timeout(manager.pause(), signals.next()).await {
            Ok(SignalRequest::Reload) => {
                manager.reloading();
                let note = reload(&relay, path);
                manager.ready(relay.queue().depth(), Some(note));
            }
            Ok(SignalRequest::Stop) => break,
            Err(_) => manager.notify(relay.queue().depth(), relay.queue().storage_activity()),
        }
    }
    manager.stopping();
    tracing::info!("stopping; a second signal ends at once");
    tokio::select! {
        () = relay.shut_down() => Ok(()),
        () = signals.stop() => anyhow::bail!("ended at once by a second signal; the queue is taken up at the next start"),
    }
}

/// A file with faults changes nothing, and the log says which. Returns what came of it in a few words.
fn reload(relay: &Relay, path: Option<&Path>) -> String {
    match reloaded(relay, path) {
        Ok(waiting) if waiting.is_empty() => {
            tracing::info!("reloaded: users, keys, certificates, limits and smart hosts");
            "reloaded".to_owned()
        }
        Ok(waiting) => {
            let keys = waiting.join(", ");
            tracing::info!("reloaded: users, keys, certificates, limits and smart hosts");
            tracing::warn!("changed, and taken on by a restart only: {keys}");
            format!("reloaded; {keys} {} a restart", if waiting.len() == 1 { "needs" } else { "need" })
        }
        Err(error) => {
            tracing::error!("not reloaded: {error:#}; all stays as it was");
            format!("not reloaded: {error:#}")
        }
    }
}

/// The changed keys that need a restart.
fn reloaded(relay: &Relay, path: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let path = path.context("the relay was started without a configuration file")?;
    let (config, findings) = Config::load(path).map_err(|error| anyhow::anyhow!(explain(path, Use::Read, &error)))?;
    for line in findings.lines(Some(path)) {
        tracing::warn!("{line}");
    }
    relay.reload(config.context("the configuration has errors")?)
}

enum SignalRequest {
    Reload,
    Stop,
}

/// Signals of this kind that come so soon after the first are one: service managers and process groups repeat them.
const TOGETHER: Duration = Duration::from_secs(1);

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Those that would end a process that has no use for them.
    unused: [(&'static str, Signal); 3],
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            unused: [
                ("SIGUSR1", signal(SignalKind::user_defined1())?),
                ("SIGUSR2", signal(SignalKind::user_defined2())?),
                ("SIGQUIT", signal(SignalKind::quit())?),
            ],
        })
    }

    async fn next(&mut self) -> SignalRequest {
        loop {
            let [first, second, third] = &mut self.unused;
            let unused = tokio::select! {
                _ = self.hangup.recv() => return SignalRequest::Reload,
                _ = self.terminate.recv() => return SignalRequest::Stop,
                _ = self.interrupt.recv() => return SignalRequest::Stop,
                _ = first.1.recv() => first.0,
                _ = second.1.recv() => second.0,
                _ = third.1.recv() => third.0,
            };
            tracing::info!("{unused} means nothing here: SIGHUP reloads, SIGTERM stops");
        }
    }

    /// A stop that is asked for again, later than with the first.
    async fn stop(&mut self) {
        // Those of the first second belong to the one that was heard.
        let repeated = async {
            loop {
                self.next().await;
            }
        };
        let _: Result<(), _> = tokio::time::timeout(TOGETHER, repeated).await;
        while let SignalRequest::Reload = self.next().await {}
    }
}

/// What a relay without a configuration file has generated, said once.
fn introduce(config: &Config, generated: &Generated) {
    let address = config.listeners.first().map(|listener| listener.address.to_string()).unwrap_or_default();
    say("No configuration file was found, so this relay starts with safe defaults. Made up, and shown only now:\n");
    if let Some(password) = &generated.password {
        say(&format!(
            "  submission  {address} (STARTTLS with a self-signed certificate; from this machine also without)"
        ));
        say(&format!("  user        {}", first_run::USER));
        say(&format!("  password    {password}"));
        say(&format!("  senders     *@{}", config.hostname));
        if let Some(address) = config.http.address {
            let scheme = if config.http.tls { "https" } else { "http" };
            say(&format!("  HTTP API    {scheme}://{address} (token in {})", config.token_file().display()));
        }
    }
    say("\nPublish these records, or receivers will not believe the signatures:\n");
    generated.records.iter().for_each(|record| say(record));
    say(&format!(
        "\nEverything is kept in {}. `mkdir -p config && otp-relay config > config/relay.toml` writes a commented configuration; to go \
         on with these keys, set data_dir there and write the [[user]] and [[dkim]] sections.\n",
        config.data_dir.display()
    ));
}
