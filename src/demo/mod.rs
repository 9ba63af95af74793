//! `demo`: a sandbox for an app's tests. A whole relay, with names and mail hosts of its own: whatever is sent is taken, any
//! login is good, nothing leaves the machine, and what arrived can be asked for over HTTP. On a terminal it first tells the
//! story of one code.

mod certificates;
mod codes;
pub mod dns;
mod faults;
mod inbox;
mod mail;
mod mail_host;
mod network;
mod sample;
mod stage;
mod story;
mod verdicts;
mod web;
mod zone;

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::base::clock::FastClock;
use crate::base::units;
use crate::relay::data_dir::{keep_files_private, raise_file_limit};
use crate::report::log::{self, EventLog, Output};
use crate::report::output::say;
use stage::{PASSWORD, Stage, TOKEN, USER};

/// Where apps look for a sandbox.
const SMTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1025);
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8025);
/// A port that the system chooses.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The fastest that the relay's time may run.
const RATE_MAX: u32 = 3600;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where SMTP is taken [default: 127.0.0.1:1025; with --once a free port]
    #[arg(long, value_name = "ADDR")]
    smtp: Option<SocketAddr>,
    /// Where HTTP is answered [default: 127.0.0.1:8025; with --once a free port]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// How long `greylisted.x@...` waits where the address does not say
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = time)]
    greylist: Duration,
    /// Seconds that pass in one second for lives, retries and greylists
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    clock_rate: u32,
    /// Send no sample message, also on a terminal
    #[arg(long, conflicts_with = "once")]
    no_sample: bool,
    /// End after the sample message; exit status 0 only if it was delivered and its signatures verified
    #[arg(long)]
    once: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "a time like 4s or 1m".to_owned())
}

impl Options {
    fn address(&self, asked: Option<SocketAddr>, usual: SocketAddr) -> SocketAddr {
        asked.unwrap_or(if self.once { ANY_PORT } else { usual })
    }

    fn tells_story(&self) -> bool {
        self.once || (!self.no_sample && std::io::stdout().is_terminal())
    }
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    keep_files_private();
    raise_file_limit();
    // Lines of the log would disturb the story; those from warn on go to standard error.
    log::init(&log::Settings { level: tracing::Level::WARN, ..Default::default() }, Output::new(std::io::stderr()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything can go wrong that a signal would have to end.
        let mut ended = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let settings = stage::Settings {
            smtp: options.address(options.smtp, SMTP),
            http: options.address(options.http, HTTP),
            greylist: options.greylist,
            clock_rate: options.clock_rate,
        };
        let mut stage = Stage::set(&settings).await?;
        if !options.once {
            let (smtp, http) = (stage.smtp(), stage.http());
            say(&format!("ready smtp={smtp} http={http} user={USER} password={PASSWORD} token={TOKEN}"));
        }
        let played = async {
            if options.tells_story() {
                story::play(&mut stage).await?;
            }
            if options.once {
                return Ok(());
            }
            if options.tells_story() {
                story::introduce(&stage);
            }
            show_events(&mut stage).await;
            Ok(())
        };
        let result = tokio::select! {
            result = played => result,
            _ = ended.0.recv() => Ok(()),
            _ = ended.1.recv() => Ok(()),
        };
        stage.clear().await;
        result.map(|()| ExitCode::SUCCESS)
    })
}

/// The sandbox's own paths without a relay behind them, for whoever tries out what can be asked there.
#[doc(hidden)]
pub fn paths_alone() -> axum::Router {
    let clock = Arc::new(FastClock::new(1));
    web::router(web::Web::new(Arc::default(), Arc::default(), clock, CancellationToken::new()))
}

/// Tells what happens, where somebody looks: a program that reads the first line only would soon hold everything up.
async fn show_events(stage: &mut Stage) {
    let lines = EventLog::new(&log::Settings::default());
    let is_watched = std::io::stdout().is_terminal();
    while let Some(event) = stage.events.recv().await {
        if is_watched {
            say(&lines.line(&event));
        }
    }
}
