//! Everything that takes part in the sandbox.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::certificates::Acceptors;
use super::dns;
use super::faults::Faults;
use super::inbox::Inbox;
use super::mail_host::MailHosts;
use super::network::SandboxNetwork;
use super::verdicts::Verifier;
use super::web::{self, Web};
use super::zone::Zone;
use crate::accounts::credentials::{Account, Admits};
use crate::accounts::user::{Senders, TRUSTED, User};
use crate::base::clock::{Clock, FastClock};
use crate::config::Config;
use crate::destination::resolver;
use crate::dkim::{Key, Keys, record};
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Kind, Sink};
use crate::http::{Hook, HookKind, HookSecrets};
use crate::intake::door::Learning;
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::mail::id::EntryId;
use crate::mail::trial::{Asks, RouteBy, Trial};
use crate::relay::first_run::SELECTOR;
use crate::relay::{Environment, Relay};
use crate::report::log::Output;

/// What the ready line says of a login; any other is as good.
pub(super) const USER: &str = "app";
pub(super) const PASSWORD: &str = "sandbox";
pub(super) const TOKEN: &str = "sandbox";
const HOSTNAME: &str = "relay.sandbox.test";
/// Names under which containers and their hosts reach a sandbox; those without a dot need not be known.
const HOSTS: [&str; 2] = ["host.docker.internal", "host.containers.internal"];
/// SMTP connections of one address at once: all tests come from the same.
const CONNECTIONS_MAX: usize = 1000;
/// How long after its delivery a bounce comes where the address does not say.
const BOUNCE: Duration = Duration::from_secs(2);

/// How long the codes of identity servers are valid.
const HOOK_LIFE: Duration = Duration::from_secs(600);

/// How the sandbox is set up.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) smtp: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) greylist: Duration,
    pub(super) clock_rate: u32,
}

pub(super) struct Stage {
    pub(super) relay: Arc<Relay>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) folder: PathBuf,
    pub(super) dns: SocketAddr,
    pub(super) greylist: Duration,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    /// Whether both keys sign.
    pub(super) keys: tokio::task::JoinHandle<anyhow::Result<()>>,
    closing: CancellationToken,
}

struct Channel(mpsc::UnboundedSender<Event>);

impl Sink for Channel {
    fn emit(&self, event: Event) {
        // At the end nobody listens any more.
        let _ = self.0.send(event);
    }
}

impl Stage {
    pub(super) async fn set(settings: &Settings) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("otp-relay-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let set = Self::set_in(folder.clone(), settings).await;
        if set.is_err() {
            remove(&folder);
        }
        set
    }

    async fn set_in(folder: PathBuf, settings: &Settings) -> anyhow::Result<Self> {
        let clock = Arc::new(FastClock::new(settings.clock_rate));
        let (zone, faults, inbox) =
            (Arc::new(Zone::default()), Arc::new(Faults::default()), Arc::new(Inbox::default()));
        let mut config = config(&folder.join("data"), settings)?;
        let ed25519 = first_key(&zone)?;
        config.keys = Keys::everywhere(vec![ed25519.clone()])?;
        let names = zone.clone();
        let lookup = move |name: &str| names.answers(name);
        let dns = dns::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Arc::new(lookup)).await?;
        let root = folder.join("mail-hosts.pem");
        let hosts = Arc::new(MailHosts {
            clock: clock.clone(),
            greylist: settings.greylist,
            faults: faults.clone(),
            inbox: inbox.clone(),
            acceptors: Acceptors::new(&root, clock.wall())?,
            verifier: Verifier { zone: zone.clone(), resolver: own_resolver(dns)? },
            tries: parking_lot::Mutex::default(),
        });
        config.delivery.ca_file = Some(root);
        let closing = CancellationToken::new();
        let web = Web::new(inbox.clone(), faults, clock.clone(), closing.clone());
        let (sender, emitted) = mpsc::unbounded_channel();
        let environment = Environment {
            clock: clock.clone(),
            network: Arc::new(SandboxNetwork { zone: zone.clone(), hosts }),
            dns: Some(zone.clone()),
            store: Some(MemoryStore::default()),
            events: Some(Arc::new(Channel(sender))),
            output: Output::new(std::io::sink()),
            admits: Admits::Anybody,
            beside: Some(web::router(web.clone())),
            ..Environment::default()
        };
        let relay = Arc::new(Relay::start(config, environment).map_err(say_other_port)?);
        let (passed_on, events) = mpsc::unbounded_channel();
        tokio::spawn(pass_on(emitted, passed_on, inbox.clone(), relay.clone(), clock.clone()));
        tokio::spawn(keep_timers(web.clone(), relay.clone()));
        let keys = tokio::spawn(complete_keys(relay.clone(), zone, ed25519));
        Ok(Self { relay, inbox, folder, dns, greylist: settings.greylist, events, keys, closing })
    }

    pub(super) fn smtp(&self) -> SocketAddr {
        self.relay.addresses()[0]
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.relay.http_address().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Stops the relay and removes what it kept.
    pub(super) async fn clear(self) {
        self.closing.cancel();
        self.keys.abort();
        self.relay.shut_down_shared().await;
        remove(&self.folder.join("data"));
        remove(&self.folder.join("mail-hosts.pem"));
        // A sample message stays.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!(%error, path = %path.display(), "what the sandbox kept could not be removed");
    }
}

fn say_other_port(error: anyhow::Error) -> anyhow::Error {
    let is_taken = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    });
    if !is_taken {
        return error;
    }
    error.context("another sandbox may be running; --smtp 127.0.0.1:0 and --http 127.0.0.1:0 take free ports")
}

/// The relay's configuration: as without a file, for made-up names, without what protects recipients from an app.
fn config(data_dir: &Path, settings: &Settings) -> anyhow::Result<Config> {
    let text = format!(
        "hostname = \"{HOSTNAME}\"\n[[listener]]\naddress = \"{}\"\ntls = \"none\"\n[http]\naddress = \"{}\"\n[queue]\nseal = false\n\
         [delivery]\nallow_private_destinations = true\n[otp]\nrecipient_budget = \"off\"\nrecipient_budget_total = \"off\"\n\
         [submission]\nconnections_per_address_max = {CONNECTIONS_MAX}\n",
        settings.smtp, settings.http
    );
    let (config, findings) = Config::from_text(&text, Path::new(""), None);
    let mut config = config.with_context(|| findings.to_string())?;
    data_dir.clone_into(&mut config.data_dir);
    config.http.token_file = data_dir.join("api.token");
    config.http.hosts.extend(HOSTS.map(str::to_owned));
    config.http.hooks = HookKind::ALL.map(hook).to_vec();
    config.intake.learning = Learning::Off;
    config.intake.route_by = RouteBy::Trial;
    let senders = Senders::Patterns(vec!["*".to_owned()]);
    let user = Arc::new(User { senders, ..User::unlimited(USER) });
    for name in [USER, TRUSTED] {
        config.accounts.insert(name.to_owned(), Account { user: user.clone(), password: None, token: None });
    }
    Ok(config)
}

/// The hook of a kind, under the kind's name. Where anybody is let in, no proof is asked for.
fn hook(kind: HookKind) -> Hook {
    Hook {
        name: kind.name().to_owned(),
        kind,
        user: USER.to_owned(),
        from: format!("Sandbox <otp@{}.sandbox.test>", kind.name()),
        app: None,
        secrets: HookSecrets::default(),
        locale: "en".to_owned(),
        life: HOOK_LIFE,
    }
}

/// Of the sandbox's own names; asks nobody else.
pub(super) fn own_resolver(dns: SocketAddr) -> anyhow::Result<hickory_resolver::TokioResolver> {
    Ok(resolver::resolver(&resolver::Settings { nameservers: vec![dns], ..Default::default() })?)
}

type PrivateKey = (String, Zeroizing<String>);

fn published(zone: &Zone, selector: &str, pem: String) -> anyhow::Result<PrivateKey> {
    let pem = Zeroizing::new(pem);
    zone.publish(selector, Key::from_pem(HOSTNAME, selector, &pem)?.record());
    Ok((selector.to_owned(), pem))
}

fn first_key(zone: &Zone) -> anyhow::Result<PrivateKey> {
    published(zone, &format!("{SELECTOR}-ed25519"), record::generate_ed25519()?)
}

/// An RSA key takes a moment to be found: nobody waits for it.
async fn complete_keys(relay: Arc<Relay>, zone: Arc<Zone>, ed25519: PrivateKey) -> anyhow::Result<()> {
    let pem = tokio::task::spawn_blocking(record::generate_rsa).await??;
    let rsa = published(&zone, SELECTOR, pem)?;
    relay.sign_with(Keys::everywhere(vec![rsa, ed25519])?);
    Ok(())
}

/// Wakes the relay's timers when its time was moved.
async fn keep_timers(web: Arc<Web>, relay: Arc<Relay>) {
    loop {
        tokio::select! {
            () = web.moved.notified() => relay.queue().look_at_timers(),
            () = web.closing.cancelled() => return,
        }
    }
}

/// Tells the inbox what happens, makes bounces come, and passes everything on.
async fn pass_on(
    mut emitted: mpsc::UnboundedReceiver<Event>,
    passed_on: mpsc::UnboundedSender<Event>,
    inbox: Arc<Inbox>,
    relay: Arc<Relay>,
    clock: Arc<FastClock>,
) {
    let relay = Arc::downgrade(&relay);
    while let Some(event) = emitted.recv().await {
        inbox.on_event(&event);
        if let Some((entry, after)) = bounce(&event) {
            let (relay, wait, event) = (relay.clone(), clock.until_passed(after), event.clone());
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                if let (Some(relay), Some(recipient)) = (relay.upgrade(), &event.head.recipient) {
                    relay.record_bounce(entry, recipient, bounced(&event)).await;
                }
            });
        }
        // At the end nobody listens any more.
        let _ = passed_on.send(event);
    }
}

/// Whether a delivery is one of which a bounce comes, and when.
fn bounce(event: &Event) -> Option<(EntryId, Duration)> {
    let recipient = event.head.recipient.as_ref().filter(|_| event.kind() == Kind::Delivered)?;
    let trial = Trial::of(&recipient.plain_local_part()).filter(|trial| trial.asks == Asks::Bounced)?;
    let entry = EntryId { message: event.head.id, index: event.head.entry? };
    Some((entry, trial.span.unwrap_or(BOUNCE)))
}

fn bounced(event: &Event) -> Attempted {
    Attempted {
        destination: event.destination().map(Into::into),
        cause: Some(Cause::BadMailbox),
        reply: Some("550 5.1.1 no such user here".into()),
        ..Attempted::default()
    }
}
