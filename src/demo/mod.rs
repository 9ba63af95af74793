//! `demo`: the relay with a name server and a mail host of its own on loopback ports. Sends a code past a greylist, tells
//! what happens as it happens, checks the signatures of what arrived, and then stays as a sandbox for an app's tests.

pub mod dns;
pub mod mail_host;
mod sample;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::base::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::destination::resolver;
use crate::dkim::verify;
use crate::event::{Event, Kind, Sink};
use crate::relay::data_dir::keep_files_private;
use crate::relay::first_run::{self, Generated};
use crate::relay::{Environment, Relay};
use crate::report::log::{self, EventLog, Output};
use crate::report::output::say;
use dns::Answer;
use mail_host::{Arrived, MailHost};

/// The sender's domain.
const DOMAIN: &str = "shop.test";
/// The mail host of every domain.
const MAIL_HOST: &str = "mx.sandbox.test";
const RECIPIENT: &str = "greylisted.alice@example.test";
/// How long the mail host greylists: a little less than the first step of the retry plan.
const GREYLIST: Duration = Duration::from_secs(4);
/// After this long the demo has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// End after the sample message; exit status 0 only if it was delivered and its signatures verified
    #[arg(long)]
    once: bool,
}

/// Runs the demo.
///
/// # Errors
/// When it cannot be set up.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    keep_files_private();
    // Lines of the log would disturb the story; those from warn on go to standard error.
    log::init(&log::Settings { level: tracing::Level::WARN, ..Default::default() }, Output::new(std::io::stderr()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stage = Stage::set().await?;
        let delivered = stage.tell_the_story().await;
        if options.once || delivered.is_err() {
            stage.clear().await;
            delivered?;
            return Ok(ExitCode::SUCCESS);
        }
        stage.sandbox().await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Everything that takes part.
struct Stage {
    relay: Relay,
    dns: SocketAddr,
    mail_host: SocketAddr,
    folder: PathBuf,
    generated: Generated,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    arrived: tokio::sync::Mutex<mpsc::UnboundedReceiver<Arrived>>,
}

/// Events as they happen.
struct Channel(mpsc::UnboundedSender<Event>);

impl Sink for Channel {
    fn emit(&self, event: Event) {
        // At the end nobody listens any more.
        let _ = self.0.send(event);
    }
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("otp-relay-demo-{}", std::process::id()));
        let mails = folder.join("mail");
        std::fs::create_dir_all(&mails).with_context(|| format!("{} cannot be made", mails.display()))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (arrived_sender, arrived) = mpsc::unbounded_channel();
        let host = MailHost::new(MAIL_HOST, GREYLIST, mails, clock, arrived_sender);
        let mail_host = host.start(loopback(0)).await?;
        let mut config = config(&folder.join("data"))?;
        config.delivery.port = mail_host.port();
        let generated = first_run::complete(&mut config)?.context("the demo's folder was used before")?;
        let published: Vec<(String, String)> = config
            .keys
            .all()
            .map(|key| (format!("{}._domainkey.{}", key.selector(), key.domain()), key.record().to_owned()))
            .collect();
        let dns = dns::start(loopback(0), Arc::new(move |name: &str| Some(answers(name, &published)))).await?;
        config.resolver.nameservers = vec![dns];
        config.resolver.dnssec = resolver::Dnssec::Off;
        let (events_sender, events) = mpsc::unbounded_channel();
        let environment = Environment {
            events: Some(Arc::new(Channel(events_sender))),
            output: Output::new(std::io::sink()),
            ..Environment::default()
        };
        let relay = Relay::start(config, environment)?;
        let (events, arrived) = (tokio::sync::Mutex::new(events), tokio::sync::Mutex::new(arrived));
        Ok(Self { relay, dns, mail_host, folder, generated, events, arrived })
    }

    fn relay_address(&self) -> SocketAddr {
        self.relay.addresses()[0]
    }

    fn password(&self) -> &str {
        self.generated.password.as_deref().unwrap_or_default()
    }

    async fn tell_the_story(&self) -> anyhow::Result<()> {
        say("otp-relay demo. Everything happens on this machine; nothing leaves it.\n");
        say(&format!("  the relay      {}   where an app would send its codes", self.relay_address()));
        say(&format!(
            "  a mail host    {}   takes mail for every domain, greylists for {} s",
            self.mail_host,
            GREYLIST.as_secs()
        ));
        say(&format!("  a name server  {}   knows both, and the relay's DKIM keys\n", self.dns));
        say("1. An app submits a code, by plain SMTP\n");
        let code = sample::code()?;
        let from = format!("otp@{DOMAIN}");
        let message = sample::message(&from, RECIPIENT, &code)?;
        let login = (first_run::USER, self.password());
        let show = |line: &str| say(&format!("     {line}"));
        sample::submit(self.relay_address(), login, (&from, RECIPIENT), &message, show).await?;
        say("\n2. What the relay does with it, in milliseconds since it was accepted\n");
        let delivered = tokio::time::timeout(PATIENCE, self.follow()).await.context("not delivered in time")??;
        say("\n3. What arrived\n");
        let arrived = self.arrived.lock().await.recv().await.context("nothing arrived")?;
        self.verify(&arrived).await?;
        say(&format!("     {}  ({} bytes)\n", arrived.path.display(), arrived.content.len()));
        let waited = delivered.head.since_accepted.saturating_sub(GREYLIST);
        say(&format!(
            "The code arrived {:.1} s after the app sent it, {:.1} s after the mail host opened its door.",
            delivered.head.since_accepted.as_secs_f64(),
            waited.as_secs_f64()
        ));
        say("A mail server with usual settings comes back after 5 to 20 minutes, when the code is dead.");
        Ok(())
    }

    /// Tells each step until the message has ended.
    async fn follow(&self) -> anyhow::Result<Event> {
        let mut events = self.events.lock().await;
        loop {
            let event = events.recv().await.context("the relay stopped")?;
            say(&format!(
                "     {:>6} ms  {:<10}  {}",
                event.head.since_accepted.as_millis(),
                event.kind().name(),
                explain(&event)
            ));
            if event.kind() == Kind::Delivered {
                return Ok(event);
            }
            anyhow::ensure!(!event.kind().is_end(), "the sample message was not delivered");
        }
    }

    async fn verify(&self, arrived: &Arrived) -> anyhow::Result<()> {
        let resolver = resolver::resolver(&resolver::Settings { nameservers: vec![self.dns], ..Default::default() })?;
        let verdicts = verify::verify(resolver, &arrived.content).await;
        for verdict in &verdicts {
            let result = match &verdict.result {
                Ok(()) => "verified against the published key".to_owned(),
                Err(error) => format!("FAILED: {error}"),
            };
            say(&format!("     DKIM signature d={} s={:<14} {result}", verdict.domain, verdict.selector));
        }
        let all_pass = !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.result.is_ok());
        anyhow::ensure!(all_pass, "not every signature of the received message verified");
        Ok(())
    }

    /// Stays until Ctrl-C, and tells what happens.
    async fn sandbox(self) -> anyhow::Result<()> {
        say("\nThis stays up as a sandbox until Ctrl-C. Point an app or a test at it:\n");
        say(&format!(
            "     SMTP      {}   user {}   password {}",
            self.relay_address(),
            first_run::USER,
            self.password()
        ));
        say(&format!("     from      anything@{DOMAIN}"));
        say("     to        any address; it ends up as a file in the folder below. Recipients that start with");
        say("               greylisted, unknown, full, busy or spam are treated so: try unknown+1@example.test");
        say(&format!("     mail      {}\n", self.folder.join("mail").display()));
        let lines = EventLog::new(&log::Settings::default());
        {
            let mut events = self.events.lock().await;
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Some(event) => say(&lines.line(&event)),
                        None => break,
                    },
                    stopped = tokio::signal::ctrl_c() => break stopped?,
                }
            }
        }
        self.clear().await;
        Ok(())
    }

    /// Stops the relay and removes its folder; mail that arrived stays.
    async fn clear(self) {
        let data = self.folder.join("data");
        self.relay.shut_down().await;
        if let Err(error) = std::fs::remove_dir_all(&data) {
            tracing::warn!(%error, folder = %data.display(), "the demo's data folder could not be removed");
        }
    }
}

/// The relay's configuration: as without a file, on a free port, for a made-up domain.
fn config(data_dir: &Path) -> anyhow::Result<Config> {
    let text = format!(
        "hostname = \"{DOMAIN}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[http]\naddress = \"off\"\n[delivery]\nallow_private_destinations = true\n"
    );
    let (config, findings) = Config::from_text(&text, Path::new(""), None);
    let mut config = config.with_context(|| findings.to_string())?;
    data_dir.clone_into(&mut config.data_dir);
    Ok(config)
}

/// Every domain's mail goes to the one mail host; some names have a DKIM key.
fn answers(name: &str, published: &[(String, String)]) -> Vec<Answer> {
    if let Some((_, record)) = published.iter().find(|(key, _)| key == name) {
        return vec![Answer::Txt(record.clone())];
    }
    if name == MAIL_HOST {
        return vec![Answer::A(Ipv4Addr::LOCALHOST)];
    }
    if name.contains("_domainkey") {
        return Vec::new();
    }
    vec![Answer::Mx(10, MAIL_HOST.to_owned())]
}

/// What an event means, for somebody who sees it for the first time.
fn explain(event: &Event) -> String {
    let host = event.destination().unwrap_or("the mail host");
    let reply = event.reply().unwrap_or_default();
    match event.kind() {
        Kind::Accepted => format!("on disk and acknowledged, id {}", event.head.id),
        Kind::Attempted if event.head.attempt > 1 => format!("attempt {} at {host}", event.head.attempt),
        Kind::Attempted => format!("straight to {host}"),
        Kind::Greylisted | Kind::Deferred => {
            let wait = event.next_attempt_at().map(|at| at.since(event.head.time).as_secs_f64()).unwrap_or_default();
            format!("\"{reply}\": again in {wait:.1} s")
        }
        Kind::Delivered => format!("\"{reply}\""),
        Kind::Queued
        | Kind::AtRisk
        | Kind::Failed
        | Kind::Expired
        | Kind::Superseded
        | Kind::Cancelled
        | Kind::Bounced
        | Kind::Complained
        | Kind::Verified => reply.to_owned(),
    }
}
