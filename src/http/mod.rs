//! The HTTP API: apps submit and ask, people inspect and control. HTTP/1.1, in clear text at loopback or behind a proxy, or over TLS.
//!
//! It knows mail only through the door, the queue's inspection and the traces; everything it takes or gives is a type
//! of `wire`. Nothing of a request is written to the log.

mod api;
mod auth;
mod body;
mod compose;
mod destinations;
mod doors;
mod events;
mod gate;
mod guard;
mod health;
pub(crate) mod hooks;
mod host;
mod list;
mod new_message;
mod openapi;
mod page;
mod problem;
mod queue;
mod refusals;
mod refused;
mod seats;
mod send;
mod shape;
mod stats;
mod suppressions;
pub(crate) mod template;
mod upkeep;
mod verifications;
mod webhooks;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accounts::credentials::{Admits, Credentials, TokenHash};
use crate::base::clock::Clock;
use crate::base::shares::Sharing;
use crate::delivery::Delivery;
use crate::intake::door::Door;
use crate::net::places::{ConnectionPlace, Limits, Places};
use crate::queue::Queue;
use crate::report::Reporter;
use crate::report::completion::Completions;
use crate::report::destinations::Destinations;
use crate::report::metrics::Metrics;
use crate::report::output::Output;
use crate::report::providers::Providers;
use crate::report::reasons::{Reason, Stage};
use crate::report::refusals::Refusals;
use crate::report::stats::Statistics;
use crate::report::trace::Traces;
use crate::report::upkeep::Upkeep;
use crate::report::webhooks::Webhooks;
use crate::tls::handshake;
use gate::Caller;
use guard::Guarded;
pub(crate) use hooks::Hook;
pub use hooks::{Kind as HookKind, Secrets as HookSecrets, asked_of, is_proved};
use problem::Problem;
use refused::Origin;
use seats::{Bounds, Seats, Turns};
pub(crate) use shape::Shape;
pub(crate) use template::Templates;

/// Connections that showed a valid token last. Each carries one request at a time.
const CONNECTIONS: Bounds = Bounds { users: 256, user: 256, operator: 48 };
/// Connections that nobody with a token can take: what checks health comes in by these.
const CONNECTIONS_KEPT: usize = 16;
pub(crate) const CONNECTIONS_MAX: usize = CONNECTIONS.users + CONNECTIONS.operator + CONNECTIONS_KEPT;
/// The same as limits; of those without a token one gives way to whoever comes.
const PLACES: Limits = Limits { connections_max: CONNECTIONS_MAX, connections_per_address_max: usize::MAX };
/// Connections where anybody is let in, and what of them may follow events, or wait for an end.
const ANYBODYS_CONNECTIONS: usize = 1024;
const ANYBODYS_WAITS: usize = 256;
/// Connections that follow events at once.
const FOLLOWERS: Bounds = Bounds { users: 64, user: 8, operator: 16 };
/// Answers that wait for the end of a message at once.
const WAITS: Bounds = Bounds { users: 128, user: 32, operator: 32 };
/// Requests with several mails at once: each is held as a whole.
const BATCHES: Bounds = Bounds { users: 16, user: 8, operator: 8 };
/// How long a connection may idle between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Header fields of a request.
const FIELDS_MAX: usize = 64;
/// Octets of a request's head.
const HEAD_LEN_MAX: usize = 16 << 10;
/// How long to rest when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For connections that came over no network.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const CROWDED: &str = "too many connections to the HTTP API";
const GAVE_WAY: &str = "too many connections to the HTTP API; one without a token gives way";

/// What the API needs to know; can change while it works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; none: it does not.
    pub address: Option<SocketAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Where the operator's token is, in the data directory.
    pub token_file: PathBuf,
    /// The relay's own name, in lower case.
    pub hostname: String,
    /// Octets of one message.
    pub message_size_max: usize,
    /// Recipients of one message.
    pub recipients_max: usize,
    /// More names by which the relay is asked, in lower case.
    pub hosts: Vec<String>,
    /// The compatible doors that are open.
    pub doors: Vec<Shape>,
    /// Whether several users share what the API has.
    pub sharing: Sharing,
    /// The words of the relay's own mail.
    pub templates: Templates,
    /// Hooks of identity servers.
    pub hooks: Vec<Hook>,
}

/// The port of the API where nothing else is configured.
pub(crate) const PORT: u16 = 8587;

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))),
            tls: false,
            token_file: PathBuf::from("api.token"),
            hostname: "localhost".to_owned(),
            message_size_max: 1 << 20,
            recipients_max: 100,
            hosts: Vec::new(),
            doors: Shape::ALL.to_vec(),
            sharing: Sharing::default(),
            templates: Templates::default(),
            hooks: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether a request by this name is one for this relay.
    fn is_known(&self, named: &host::RequestedHost) -> bool {
        named.is_known(&self.hosts) || named.is_known(std::slice::from_ref(&self.hostname))
    }
}

/// What the API works with.
pub struct Parts {
    /// Where mail goes in.
    pub door: Arc<Door>,
    /// What became of it.
    pub queue: Arc<Queue>,
    /// Who may ask.
    pub credentials: Arc<Credentials>,
    /// The operator's token.
    pub operator: TokenHash,
    /// What became of what has ended.
    pub traces: Arc<Traces>,
    /// Who else is told.
    pub webhooks: Arc<Webhooks>,
    /// How many came in time.
    pub stats: Arc<Statistics>,
    /// What happened how often.
    pub metrics: Arc<Metrics>,
    /// Who wants to know when a message ends.
    pub ends: Arc<Completions>,
    /// Who delivers.
    pub delivery: Arc<Delivery>,
    /// What was sent where.
    pub destinations: Arc<Destinations>,
    /// The same by provider.
    pub providers: Arc<Providers>,
    /// What has to be kept up.
    pub upkeep: Arc<Upkeep>,
    /// Who tells log and metrics.
    pub reporter: Arc<Reporter>,
    /// Who tells of what is refused.
    pub refusals: Arc<Refusals>,
    /// Where log lines go; counts those that were dropped.
    pub log: Output,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The relay takes no new mail any more.
    pub draining: CancellationToken,
    /// What is answered beside the API's own paths, and before them.
    pub beside: Option<Router>,
}

/// The API.
pub struct Api {
    parts: Parts,
    settings: ArcSwap<Settings>,
    /// With the certificate that clients are shown.
    acceptor: ArcSwapOption<TlsAcceptor>,
    followers: Arc<Seats>,
    waits: Arc<Seats>,
    batches: Arc<Seats>,
    places: Arc<Places>,
    /// Of those who look through the whole queue.
    turns: Turns,
    /// The picture of the last day.
    day: page::Day,
    tasks: TaskTracker,
    /// No new requests; those under way end soon.
    closing: CancellationToken,
    aborting: CancellationToken,
}

impl Api {
    /// An API that waits for `serve`.
    pub fn new(parts: Parts, settings: Settings) -> Arc<Self> {
        let admits = parts.credentials.admits();
        Arc::new(Self {
            parts,
            settings: ArcSwap::from_pointee(settings),
            acceptor: ArcSwapOption::empty(),
            followers: Seats::new(FOLLOWERS.where_admitted(admits, ANYBODYS_WAITS)),
            waits: Seats::new(WAITS.where_admitted(admits, ANYBODYS_WAITS)),
            batches: Seats::new(BATCHES),
            places: Arc::default(),
            turns: Turns::default(),
            day: page::Day::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            aborting: CancellationToken::new(),
        })
    }

    pub(crate) fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Shows clients another certificate from now on.
    pub(crate) fn show(&self, acceptor: TlsAcceptor) {
        self.acceptor.store(Some(Arc::new(acceptor)));
    }

    /// Serves until [`Api::close`].
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let router = router(self.clone());
        let address = listener.local_addr().unwrap_or(NOBODY);
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.accept(stream, Origin { peer, listener: address }, router.clone()),
                Err(error) => {
                    tracing::warn!(%error, "the HTTP API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, origin: Origin, router: Router) {
        let crowded = (None, Reason::TooMany);
        // Tokens hold fewer places than there are, so that somebody gives way if need be.
        let Some(place) = self.places.take(origin.peer.ip().to_canonical(), self.limits()) else {
            return self.broken_off(origin, Stage::Connect, crowded, CROWDED);
        };
        let api = self.clone();
        self.tasks.spawn(async move {
            let given_up = place.given_up();
            tokio::select! {
                biased;
                () = api.aborting.cancelled() => {}
                () = given_up.cancelled() => api.broken_off(origin, Stage::Connect, crowded, GAVE_WAY),
                () = api.encrypt_and_answer(stream, place, origin, router) => {}
            }
        });
    }

    async fn encrypt_and_answer(
        self: &Arc<Self>,
        stream: TcpStream,
        place: ConnectionPlace,
        origin: Origin,
        router: Router,
    ) {
        if !self.settings.load().tls {
            return self.answer(stream, place, origin, router).await;
        }
        let Some(acceptor) = self.acceptor.load_full() else { return };
        match handshake::accept(&acceptor, stream, HANDSHAKE_TIMEOUT).await {
            Ok(stream) => self.answer(stream, place, origin, router).await,
            Err(fault) => {
                self.broken_off(origin, Stage::Tls, (None, Reason::of_handshake(fault)), &fault.text());
            }
        }
    }

    /// How many connections there may be.
    fn limits(&self) -> Limits {
        match self.parts.credentials.admits() {
            Admits::Known => PLACES,
            Admits::Anybody => Limits { connections_max: ANYBODYS_CONNECTIONS + CONNECTIONS_KEPT, ..PLACES },
        }
    }

    /// Answers the requests that come over one stream, until it ends or [`Api::close`].
    pub async fn converse(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Some(place) = self.places.take(IpAddr::from([127, 0, 0, 1]), PLACES) else { return };
        let origin = Origin { peer: NOBODY, listener: NOBODY };
        self.answer(stream, place, origin, router(self.clone())).await;
    }

    async fn answer(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        place: ConnectionPlace,
        origin: Origin,
        router: Router,
    ) {
        let caller = Caller::new(self.clone(), (place, origin), router);
        let io = TokioIo::new(Guarded::new(stream, caller.phase()));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_headers(FIELDS_MAX);
        http.max_buf_size(HEAD_LEN_MAX);
        let connection = http.serve_connection(io, service_fn(|request| caller.answer(request)));
        tokio::pin!(connection);
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "an HTTP connection ended early");
            let phase = *caller.phase().lock();
            self.ended_early(origin, phase, &error);
        }
    }

    /// Ends: no new requests; those under way get `patience`.
    pub async fn close(&self, patience: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            self.aborting.cancel();
            self.tasks.wait().await;
        }
    }
}

/// Whether a text can be the author of a mail.
pub(crate) fn check_author(text: &str) -> Result<(), String> {
    compose::people::Person::author(text, "from").map(|_| ()).map_err(|problem| problem.detail().to_owned())
}

/// The API's own paths are found behind those that somebody else answers.
fn router(api: Arc<Api>) -> Router {
    let beside = api.parts.beside.clone();
    let own = own_routes(api);
    beside.map_or_else(|| own.clone(), |beside| beside.fallback_service(own.clone()))
}

fn own_routes(api: Arc<Api>) -> Router {
    described()
        .split_for_parts()
        .0
        .route("/", get(page::html))
        .route("/page/page.css", get(page::style))
        .route("/page/page.js", get(page::script))
        .route("/page/icon.svg", get(page::icon))
        .route("/page/data", get(page::data))
        .route("/page/session", post(page::sign_in).delete(page::sign_out))
        .fallback(|| async { Problem::unknown_path() })
        .method_not_allowed_fallback(|| async { Problem::method() })
        .with_state(api)
}

/// All paths, each with what it takes and answers.
fn described() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(api::submit, list::list, api::cancel_many))
        .routes(routes!(api::show, api::cancel))
        .routes(routes!(api::verified))
        .routes(routes!(events::follow))
        .routes(routes!(destinations::list))
        .routes(routes!(destinations::show))
        .routes(routes!(queue::list))
        .routes(routes!(queue::retry))
        .routes(routes!(suppressions::list))
        .routes(routes!(suppressions::show, suppressions::put, suppressions::remove))
        .routes(routes!(upkeep::rows))
        .routes(routes!(upkeep::erase))
        .routes(routes!(stats::show))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::replay))
        .routes(routes!(webhooks::test))
        .routes(routes!(verifications::start::start))
        .routes(routes!(verifications::check_by_address))
        .routes(routes!(verifications::show, verifications::cancel))
        .routes(routes!(verifications::check))
        .routes(routes!(hooks::call))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::show))
        .merge(doors::routes())
}

/// The description of all paths, as `GET /openapi.json` answers it.
fn description() -> &'static str {
    static DESCRIPTION: LazyLock<String> =
        LazyLock::new(|| described().split_for_parts().1.to_json().unwrap_or_default());
    &DESCRIPTION
}
