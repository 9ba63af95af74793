//! Verifications: the relay makes a code, sends it, and checks what somebody typed.

pub(super) mod start;
mod wire;

use std::sync::Arc;

use axum::Json;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::api::{Segment, idempotency_key};
use super::auth::{Access, Principal};
use super::body::{self, Payload};
use super::compose::people::Person;
use super::problem::Problem;
use crate::intake::refusal::Refusal;
use crate::intake::verification::{CheckError, Key, Refused, Selector, View};
use crate::mail::address::Mailbox;
use wire::{AnswerJson, ByAddress, Code, VerificationJson, WithdrawnJson};

/// What a code is for where the app does not say.
const PURPOSE: &str = "login";
/// Longest session of an app, in characters.
const SESSION_LEN_MAX: usize = 64;

impl Api {
    /// Does all of it, also where nobody waits for the answer any more: what is begun here is not left half done.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        // A panic is a bug of its own.
        self.tasks.spawn(work).await.unwrap_or_else(|_| Err(Problem::from(Refusal::Internal)))
    }

    /// How a verification stands, for somebody who may see it.
    fn view(&self, who: &Principal, id: &str) -> Result<View, Problem> {
        let (door, now) = (&self.parts.door, self.parts.clock.now());
        let user = self.user_of(who, id)?;
        let view = door.verifications().view(&user, id, &door.verification_limits(), now);
        view.ok_or_else(Problem::unknown_verification)
    }

    /// Whose a verification is, if this one may see it.
    fn user_of(&self, who: &Principal, id: &str) -> Result<Arc<str>, Problem> {
        let key = self.parts.door.verifications().key_of(id).filter(|key| who.may_see(&key.user));
        key.map(|key| key.user).ok_or_else(Problem::unknown_verification)
    }
}

/// `GET /v1/verifications/{id}`.
#[utoipa::path(get, path = "/v1/verifications/{id}", tag = "verifications", params(("id" = String, Path, description = "a verification's id")),
    responses((status = 200, description = "how it stands", body = VerificationJson), super::refusals::Refusals))]
pub(super) async fn show(Access(api, who): Access, Segment(id): Segment) -> Result<Response, Problem> {
    let view = api.view(&who, &id)?;
    Ok(Json(VerificationJson::new(&api, &view).await).into_response())
}

/// `DELETE /v1/verifications/{id}`.
#[utoipa::path(delete, path = "/v1/verifications/{id}", tag = "verifications", params(("id" = String, Path, description = "a verification's id")),
    responses((status = 200, description = "how it stands", body = WithdrawnJson), super::refusals::Refusals))]
pub(super) async fn cancel(Access(api, who): Access, Segment(id): Segment) -> Result<Response, Problem> {
    let user = api.user_of(&who, &id)?;
    let (this, of) = (api.clone(), id.clone());
    let may_still_arrive = api.whole(async move {
        let parts = &this.parts;
        let cancelled = parts.door.verifications().cancel(&user, &of, &parts.queue, &*parts.clock).await?;
        cancelled.ok_or_else(Problem::unknown_verification)
    });
    let may_still_arrive = may_still_arrive.await?;
    let view = api.view(&who, &id)?;
    let verification = VerificationJson::new(&api, &view).await;
    Ok(Json(WithdrawnJson { verification, may_still_arrive }).into_response())
}

/// `POST /v1/verifications/{id}/check`.
#[utoipa::path(post, path = "/v1/verifications/{id}/check", tag = "verifications", request_body = Code,
    params(("id" = String, Path, description = "a verification's id"), ("Idempotency-Key" = Option<String>, Header, description = "a repeat with it gets the same answer")),
    responses((status = 200, description = "whether the code is right", body = AnswerJson), super::refusals::Refusals))]
pub(super) async fn check(
    Access(api, who): Access,
    Segment(id): Segment,
    Payload(headers, body): Payload,
) -> Result<Response, Problem> {
    let Code { code } = body::small_json(&headers, body).await?;
    let user = api.user_of(&who.renewed(&api)?, &id)?;
    checked(&api, user, OwnedSelector::Id(id), code, &headers).await
}

/// `POST /v1/verifications/check`.
#[utoipa::path(post, path = "/v1/verifications/check", tag = "verifications", request_body = ByAddress,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repeat with it gets the same answer")),
    responses((status = 200, description = "whether the code is right", body = AnswerJson), super::refusals::Refusals))]
pub(super) async fn check_by_address(
    Access(api, who): Access,
    Payload(headers, body): Payload,
) -> Result<Response, Problem> {
    let ByAddress { to, purpose, session, code } = body::small_json(&headers, body).await?;
    let who = who.renewed(&api)?;
    let to = Person::parse(&to, "to")?.mailbox;
    let purpose = purpose.unwrap_or_else(|| PURPOSE.to_owned());
    let asked = OwnedSelector::Address { to, purpose, session };
    let user = asked.user(&api, &who)?;
    checked(&api, user, asked, code, &headers).await
}

/// The verification that somebody asks about.
enum OwnedSelector {
    Id(String),
    Address { to: Mailbox, purpose: String, session: Option<String> },
}

impl OwnedSelector {
    fn which(&self) -> Selector<'_> {
        match self {
            Self::Id(id) => Selector::Id(id),
            Self::Address { to, purpose, session } => Selector::Address(to, purpose, session.as_deref()),
        }
    }

    /// Whose; the operator asks for whoever has one there.
    fn user(&self, api: &Api, who: &Principal) -> Result<Arc<str>, Problem> {
        if let Some(user) = who.only_user() {
            return Ok(user);
        }
        let Self::Address { to, purpose, session } = self else { return Err(Problem::unknown_verification()) };
        let mut users: Vec<Arc<str>> =
            api.parts.credentials.users().into_iter().map(|user| user.name.clone()).collect();
        users.sort();
        let has_one =
            |user: &Arc<str>| api.parts.door.verifications().is_known(&Key::new(user, to, purpose, session.as_deref()));
        let found = users.iter().find(|user| has_one(user)).or(users.first()).cloned();
        found.ok_or_else(|| Problem::forbidden("there is no user to ask for"))
    }
}

async fn checked(
    api: &Arc<Api>,
    user: Arc<str>,
    asked: OwnedSelector,
    code: String,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let key = idempotency_key(headers)?.map(crate::intake::options::key).transpose()?;
    let (this, code) = (api.clone(), zeroize::Zeroizing::new(code));
    let answer = api.whole(async move {
        let parts = &this.parts;
        let limits = parts.door.verification_limits();
        let question = (&*user, asked.which(), code.as_str(), key.as_deref());
        let checked = parts.door.verifications().check(question, &parts.queue, &*parts.clock, &limits).await;
        let checked = checked.map_err(problem)?;
        if let Some(approved) = checked.approved {
            let (head, since_delivered) = *approved;
            // The answer stands, whether or not its event could be stored.
            let _ = parts.queue.verified(head, since_delivered).await;
        }
        Ok(checked.answer)
    });
    let answer = answer.await?;
    Ok(Json(AnswerJson { valid: answer.valid, state: answer.state.name(), checks_left: answer.checks_left })
        .into_response())
}

fn problem(error: CheckError) -> Problem {
    match error {
        CheckError::Unknown => Problem::unknown_verification(),
        CheckError::Malformed => {
            Problem::invalid("code: 6 to 10 digits, or 8 to 10 consonants; blanks and hyphens do not count")
        }
        CheckError::Guessed(wait) => guessed(wait),
        CheckError::Conflict => Problem::from(Refusal::IdempotencyConflict),
        CheckError::Store(refusal) => Problem::from(refusal),
    }
}

fn guessed(wait: std::time::Duration) -> Problem {
    Problem::enough("too many wrong codes for this recipient (verification.recipient_checks)", wait)
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Guessed(wait) => guessed(wait),
            Refused::Sends(wait) => Self::enough(
                "as many codes were sent, or can be typed, as may be (verification.sends, verification.live_codes)",
                wait,
            ),
            Refused::Live(wait) => Self::enough("this recipient has four verifications under way already", wait),
            Refused::Full => Self::too_many("as many verifications are under way as can be remembered"),
            Refused::Conflict => Self::from(Refusal::IdempotencyConflict),
            Refused::Internal => Self::from(Refusal::Internal),
        }
    }
}
