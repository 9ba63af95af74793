//! Who asks: a user by its token, or the operator.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};

use super::Api;
use super::page;
use super::problem::Problem;
use super::shape::Shape;
use crate::accounts::credentials::{Admits, Login, TokenHash};
use crate::accounts::user::{Senders, User};
use crate::mail::address::ReversePath;

/// Longest token that is looked at.
const TOKEN_LEN_MAX: usize = 256;

/// Whose token came with a request.
#[derive(Debug, Clone)]
pub(super) enum Principal {
    /// The operator: sees and does everything.
    Operator,
    /// A user: sees and does what is its own.
    User(Login),
}

/// What a request shows of who asks.
#[derive(Debug)]
pub(super) enum ShownToken {
    Token(Principal),
    Nothing,
    /// A token, or something in its place, that is worth nothing.
    Nonsense,
}

/// Stands in a request whose token is worth nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nonsense;

impl Principal {
    /// Whether a user's messages are this one's business.
    pub(super) fn may_see(&self, user: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::User(own) => &*own.user.name == user,
        }
    }

    /// By which name the log knows it.
    pub(super) fn name(&self) -> Arc<str> {
        self.only_user().unwrap_or_else(|| "operator".into())
    }

    /// The only user whose messages it may see; none: all may be seen.
    pub(super) fn only_user(&self) -> Option<Arc<str>> {
        match self {
            Self::Operator => None,
            Self::User(own) => Some(own.user.name.clone()),
        }
    }

    /// Refuses a user, with this detail.
    pub(super) fn operator_only(&self, detail: &'static str) -> Result<(), Problem> {
        match self {
            Self::Operator => Ok(()),
            Self::User(_) => Err(Problem::forbidden(detail)),
        }
    }

    /// The same one as it is now.
    ///
    /// # Errors
    /// When the user was removed, or has another token by now.
    pub(super) fn renewed(&self, api: &Api) -> Result<Self, Problem> {
        match self {
            Self::Operator => Ok(Self::Operator),
            Self::User(login) => {
                let user = api.parts.credentials.renewed(login).ok_or_else(Problem::wrong_token)?;
                let mut login = login.clone();
                login.user = user;
                Ok(Self::User(login))
            }
        }
    }

    /// Returns when it is nobody any more.
    pub(super) async fn revoked(&self, api: &Api) {
        let mut changes = api.parts.credentials.watch();
        while self.renewed(api).is_ok() {
            if changes.changed().await.is_err() {
                // The users outlive the API.
                std::future::pending().await
            }
        }
    }

    /// As whom it sends with this reverse-path. The operator sends as the user whose senders cover it.
    pub(super) fn sender(&self, api: &Api, reverse_path: &ReversePath) -> Result<Arc<User>, Problem> {
        let may = |user: &User| api.parts.door.check_sender(user, reverse_path);
        match self {
            Self::User(Login { user, .. }) => {
                may(user)?;
                Ok(user.clone())
            }
            Self::Operator => {
                let mut users = api.parts.credentials.users();
                // Whoever has patterns of its own comes before whoever may use any domain that has a key.
                users.sort_by_key(|user| matches!(user.senders, Senders::SigningDomains));
                users.into_iter().find(|user| may(user).is_ok()).ok_or_else(|| {
                    Problem::forbidden("no user's senders cover the from address, so there is nobody to send it as")
                })
            }
        }
    }
}

/// Whose token is in a request's head: in the field Authorization, else in the page's cookie. A browser sends a cookie by
/// itself, so it changes nothing without a field that only the page's own script can set. The door `email` has a field of its
/// own; no cookie opens a compatible door.
pub(super) fn shown(api: &Api, method: &Method, headers: &HeaderMap, shape: Option<Shape>) -> ShownToken {
    let field = match shape {
        Some(Shape::Email) => headers.get("x-postmark-server-token").map(|value| value.to_str().ok()),
        Some(Shape::Emails | Shape::MailSend) | None => headers.get(header::AUTHORIZATION).map(bearer),
    };
    match field {
        Some(Some(token)) => by_token(api, token),
        Some(None) => ShownToken::Nonsense,
        None => {
            let may = shape.is_none() && (method.is_safe() || headers.contains_key(page::CHANGES));
            cookie(headers).filter(|_| may).map_or(ShownToken::Nothing, |token| by_token(api, token))
        }
    }
}

/// The token in the page's cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == page::COOKIE).map(|(_, token)| token)
}

pub(super) fn by_token(api: &Api, token: &str) -> ShownToken {
    if token.len() > TOKEN_LEN_MAX {
        return ShownToken::Nonsense;
    }
    let hash = TokenHash::of(token.trim());
    // Both are compared, whichever it is.
    let (is_operator, login) = (api.parts.operator.is(&hash), api.parts.credentials.login_by_token(&hash));
    let is_operator = is_operator || api.parts.credentials.admits() == Admits::Anybody;
    match login {
        _ if is_operator => ShownToken::Token(Principal::Operator),
        Some(login) => ShownToken::Token(Principal::User(login)),
        None => ShownToken::Nonsense,
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The API, and who asks, as it was found when the request was let in.
pub(super) struct Access(pub(super) Arc<Api>, pub(super) Principal);

impl FromRequestParts<Arc<Api>> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let none = || match parts.extensions.get::<Nonsense>() {
            Some(Nonsense) => Problem::wrong_token(),
            None => Problem::no_token(),
        };
        let who = parts.extensions.get::<Principal>().cloned().ok_or_else(none)?;
        Ok(Self(api.clone(), who))
    }
}
