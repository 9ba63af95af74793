//! What every request passes first: is it one, for whom is it, who asks, and may that one ask for more at the moment.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, Request, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as _, Incoming};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;

use super::auth::{self, Nonsense, Principal, ShownToken};
use super::doors;
use super::guard::Phase;
use super::host::RequestedHost;
use super::problem::{Problem, Why};
use super::refused::Origin;
use super::shape::{Shape, without_repeated_slashes};
use super::{ANYBODYS_CONNECTIONS, Api, CONNECTIONS};
use crate::base::shares::Sharing;
use crate::net::places::ConnectionPlace;
use crate::report::reasons::Endpoint;

/// Paths for which nobody has to show anything.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Paths whose requests prove by other means where they come from.
const HOOKS: &str = "/v1/hooks/";

/// The place of a connection, for whoever proves late where a request comes from.
#[derive(Clone)]
pub(super) struct Claim(Arc<Mutex<ConnectionPlace>>);

impl Claim {
    /// The connection is this user's from here on, where it may have another one.
    pub(super) fn belongs_to(&self, user: &str, sharing: Sharing) {
        let _ = self.0.lock().belongs_to(&user.into(), CONNECTIONS.of_user(sharing));
    }
}

/// Who is at the other end of a connection.
pub(super) struct Caller {
    api: Arc<Api>,
    place: Arc<Mutex<ConnectionPlace>>,
    origin: Origin,
    phase: Arc<Mutex<Phase>>,
    router: TowerToHyperService<Router>,
}

impl Caller {
    pub(super) fn new(api: Arc<Api>, (place, origin): (ConnectionPlace, Origin), router: Router) -> Self {
        let phase = Arc::new(Mutex::new(Phase::Head));
        Self { api, place: Arc::new(Mutex::new(place)), origin, phase, router: TowerToHyperService::new(router) }
    }

    pub(super) fn phase(&self) -> Arc<Mutex<Phase>> {
        self.phase.clone()
    }

    /// Answers one request, and tells where it is refused.
    pub(super) async fn answer(&self, mut request: Request<Incoming>) -> Result<Response, Infallible> {
        *self.phase.lock() = Phase::Answer;
        let has_body = !request.body().is_end_stream();
        tidy(&mut request);
        let (endpoint, shape) = (Endpoint::of(request.uri().path()), Shape::of(request.uri().path()));
        request.extensions_mut().insert(self.origin);
        let is_closed = shape.is_some_and(|shape| !self.api.settings.load().doors.contains(&shape));
        let shape = shape.filter(|_| !is_closed);
        let let_in = if is_closed { Err(Problem::unknown_path()) } else { self.let_in(&mut request, shape) };
        let asker = request.extensions().get::<Principal>().map(Principal::name);
        let response = match let_in {
            Ok(()) => self.router.call(request).await?,
            Err(problem) => refusal(problem),
        };
        let response = match shape {
            Some(shape) => in_shape(shape, response),
            None => response,
        };
        // A probe that hears no is answered, not refused.
        let is_refused = response.status().as_u16() >= 400 || response.extensions().get::<Why>().is_some();
        if is_refused && endpoint != Endpoint::Health {
            self.api.refused(self.origin, endpoint, asker.as_deref(), &response);
        }
        *self.phase.lock() = if is_refused && has_body { Phase::Refused } else { Phase::Rest };
        Ok(response)
    }

    /// Notes who asks, and gives the connection the place that this one may have.
    fn let_in(&self, request: &mut Request<Incoming>, shape: Option<Shape>) -> Result<(), Problem> {
        let named = RequestedHost::of(request)?;
        let settings = self.api.settings.load();
        if request.uri().path().starts_with(HOOKS) {
            request.extensions_mut().insert(Claim(self.place.clone()));
            return Ok(());
        }
        match auth::shown(&self.api, request.method(), request.headers(), shape) {
            ShownToken::Token(who) => {
                request.extensions_mut().insert(who.clone());
                return self.take_place(&who);
            }
            ShownToken::Nonsense => {
                request.extensions_mut().insert(Nonsense);
                self.place.lock().is_nobodys();
            }
            // A proxy brings requests of many clients over one connection, some of them without a token.
            ShownToken::Nothing => {}
        }
        if OPEN_PATHS.contains(&request.uri().path()) || settings.is_known(&named) {
            return Ok(());
        }
        Err(Problem::unknown_host())
    }

    fn take_place(&self, who: &Principal) -> Result<(), Problem> {
        let bounds = CONNECTIONS.where_admitted(self.api.parts.credentials.admits(), ANYBODYS_CONNECTIONS);
        let (user, portion) = bounds.of(who, self.api.settings.load().sharing);
        self.place.lock().belongs_to(&user, portion).map_err(|_| {
            Problem::share(format!("this token has as many connections to the API as it may, up to {}", portion.share))
                .in_our_words()
        })
    }
}

/// A repeated slash in a path counts as one: bases of addresses end in one, and paths begin with one.
fn tidy<B>(request: &mut Request<B>) {
    let Some(path) = without_repeated_slashes(request.uri().path()) else { return };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// A refusal, whoever made it, as the door's libraries understand it.
fn in_shape(shape: Shape, mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let mut shaped = doors::refused(shape, problem);
    for name in [header::CONNECTION, header::ALLOW] {
        if let Some(value) = response.headers_mut().remove(&name) {
            shaped.headers_mut().insert(name, value);
        }
    }
    shaped
}

/// A refusal, behind which the connection closes: it makes room rather than asking again.
fn refusal(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
