//! Who asks: a user by its token, or the operator.

use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;

use super::Api;
use super::problem::Problem;
use crate::intake::user::{Senders, User};
use crate::mail::address::ReversePath;
use crate::submission::credentials::TokenHash;

/// Longest token that is looked at.
const TOKEN_LEN_MAX: usize = 256;

/// The name of whoever a request turns out to be from, for the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker(Arc<OnceLock<Arc<str>>>);

impl Asker {
    pub(super) fn name(&self) -> Option<&str> {
        self.0.get().map(AsRef::as_ref)
    }

    fn is(&self, who: &Who) {
        // A request has one.
        let _ = self.0.set(match who {
            Who::Operator => "operator".into(),
            Who::User(user) => user.name.clone(),
        });
    }
}

/// Whose token came with a request.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// The operator: sees and does everything.
    Operator,
    /// A user: sees and does what is its own.
    User(Arc<User>),
}

impl Who {
    /// Whether a user's messages are this one's business.
    pub(super) fn may_see(&self, user: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::User(own) => &*own.name == user,
        }
    }

    /// The only user whose messages it may see; none: all may be seen.
    pub(super) fn only_user(&self) -> Option<Arc<str>> {
        match self {
            Self::Operator => None,
            Self::User(user) => Some(user.name.clone()),
        }
    }

    /// As whom it sends with this reverse-path. The operator sends as the user whose senders cover it.
    pub(super) fn sender(&self, api: &Api, reverse_path: &ReversePath) -> Result<Arc<User>, Problem> {
        let may = |user: &User| api.parts.door.check_sender(user, reverse_path);
        match self {
            Self::User(user) => {
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

impl FromRequestParts<Arc<Api>> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, token) = header.and_then(|text| text.split_once(' ')).ok_or_else(Problem::unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.len() > TOKEN_LEN_MAX {
            return Err(Problem::unauthorized());
        }
        let hash = TokenHash::of(token.trim());
        // Both are compared, whichever it is.
        let (is_operator, user) = (api.parts.operator.is(&hash), api.parts.credentials.user_of_token(&hash));
        let who = match user {
            _ if is_operator => Self::Operator,
            Some(user) => Self::User(user),
            None => return Err(Problem::unauthorized()),
        };
        if let Some(asker) = parts.extensions.get::<Asker>() {
            asker.is(&who);
        }
        Ok(who)
    }
}
