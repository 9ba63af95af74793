//! Hooks of identity servers, which post the bare code: the relay writes the mail. `POST /v1/hooks/{name}`.
//!
//! A call that proves where it comes from counts as its user's. What each kind of server sends, and what it hears, is in a file
//! of its own; what is the same for all is here.

mod hook_mail;
mod logto;
pub(crate) mod proof;
mod supabase;
mod zitadel;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;

use super::Api;
use super::api::Segment;
use super::body;
use super::compose::Letter;
use super::compose::fields::Fields;
use super::compose::people::Person;
use super::gate::Claim;
use super::problem::Problem;
use super::send::{Draft, Together};
use super::template::{Mail, Purpose, Texts};
use crate::accounts::credentials::Admits;
use crate::accounts::supersede::Supersede;
use crate::accounts::user::{Defaults, User};
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::base::named::named;
use crate::intake::options::Options;
use crate::intake::refusal::Refusal;
use crate::mail::address::{Mailbox, ReversePath};
use crate::queue::inspect::Filter;
pub(crate) use hook_mail::HookMail;
pub use proof::Secrets;

/// How long an answer takes at most; all tries of a caller together have five seconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(900);
/// For how long the same is the same message: callers ask again where an answer was lost.
const REPEAT: Duration = Duration::from_secs(600);

named! {
    /// Whose hook it is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Kind: name, ALL {
        /// Supabase Auth, "Send Email".
        Supabase = "supabase",
        /// Logto, "HTTP email".
        Logto = "logto",
        /// ZITADEL, "HTTP provider".
        Zitadel = "zitadel",
    }
}

/// `[[hook]]`.
#[derive(Debug, Clone)]
pub struct Hook {
    /// The last part of the path.
    pub name: String,
    pub kind: Kind,
    /// The user whose senders, budget and defaults count.
    pub user: String,
    pub from: String,
    /// The app's name in the mail.
    pub app: Option<String>,
    pub secrets: Secrets,
    /// The language where a call names none.
    pub(crate) locale: String,
    /// How long the server's codes are valid.
    pub life: Duration,
}

/// What a server calls with, by the hook's kind; for the description.
#[derive(utoipa::ToSchema)]
#[schema(as = HookCall)]
#[serde(untagged)]
#[expect(dead_code, reason = "a description: which of them is read follows from the hook")]
enum CallJson {
    Supabase(supabase::Call),
    Logto(logto::Call),
    Zitadel(zitadel::Call),
}

/// `POST /v1/hooks/{name}`.
#[utoipa::path(post, path = "/v1/hooks/{name}", tag = "hooks", request_body = CallJson,
    params(("name" = String, Path, description = "the hook's name in the configuration")),
    responses(
        (status = 200, description = "stored, or for `supabase` why not", body = supabase::Answer),
        (status = 204, description = "stored"),
        (status = 401, description = "the proof does not hold", body = String, content_type = "text/plain"),
        (status = "4XX", description = "why it is not taken", body = String, content_type = "text/plain"),
        (status = "5XX", description = "not now", body = String, content_type = "text/plain"),
        (status = 404, description = "there is no such hook", body = super::problem::ProblemJson, content_type = "application/problem+json"),
        (status = 405, description = "the path does not have this method", body = super::problem::ProblemJson, content_type = "application/problem+json"),
        (status = 413, description = "too large", body = super::problem::ProblemJson, content_type = "application/problem+json"),
    ), security(()))]
pub(super) async fn call(State(api): State<Arc<Api>>, Segment(name): Segment, request: Request) -> Response {
    let settings = api.settings.load_full();
    let Some(hook) = settings.hooks.iter().find(|hook| hook.name == name).cloned() else {
        return Problem::unknown_path().into_response();
    };
    let (parts, body) = request.into_parts();
    let answer = match api.proved(&hook, &parts.headers, body).await {
        Ok(body) => {
            if let Some(claim) = parts.extensions.get::<Claim>() {
                claim.belongs_to(&hook.user, settings.sharing);
            }
            api.handled(hook.clone(), body).await
        }
        Err(problem) if problem.kind().status() == StatusCode::UNAUTHORIZED => return unproved(&problem),
        // Too large, too slow: said before anybody knows who called.
        Err(problem) => return problem.into_response(),
    };
    hook.kind.answer(answer)
}

/// 401, in one line, whoever asks.
fn unproved(problem: &Problem) -> Response {
    let mut response = (StatusCode::UNAUTHORIZED, format!("{}\n", problem.detail())).into_response();
    response.extensions_mut().insert(problem.why().clone());
    response
}

impl Kind {
    /// What the caller hears.
    fn answer(self, answer: Result<(), Problem>) -> Response {
        let (mut response, why) = match (self, answer) {
            (Self::Supabase, Ok(())) => (supabase::Answer::default().response(), None),
            (Self::Logto | Self::Zitadel, Ok(())) => (StatusCode::NO_CONTENT.into_response(), None),
            (Self::Supabase, Err(problem)) => (supabase::refusal(&problem), Some(problem)),
            (Self::Logto | Self::Zitadel, Err(problem)) => {
                let mut response = (problem.kind().status(), format!("{}\n", problem.detail())).into_response();
                problem.add_fields(response.headers_mut());
                (response, Some(problem))
            }
        };
        if let Some(problem) = why {
            response.extensions_mut().insert(problem.why().clone());
        }
        response
    }

    /// The mails that a body asks for.
    ///
    /// # Errors
    /// Where it is not what this server sends, or names nobody, or has nothing to say.
    pub(super) fn read(self, body: &[u8]) -> Result<Vec<HookMail>, Problem> {
        let unreadable = |error: serde_json::Error| Problem::unreadable(&error);
        match self {
            Self::Supabase => supabase::Call::deserialize(&mut json_of(body)).map_err(unreadable)?.wanted(),
            Self::Logto => logto::Call::deserialize(&mut json_of(body)).map_err(unreadable)?.wanted(),
            Self::Zitadel => zitadel::Call::deserialize(&mut json_of(body)).map_err(unreadable)?.wanted(),
        }
    }
}

fn json_of(body: &[u8]) -> serde_json::Deserializer<serde_json::de::SliceRead<'_>> {
    serde_json::Deserializer::from_slice(body)
}

impl Api {
    /// The body of a call that proves where it comes from.
    async fn proved(&self, hook: &Hook, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        let body = body::small(headers, body).await?;
        let now = self.parts.clock.wall();
        let is_proved = match self.parts.credentials.admits() {
            // As any token is good there.
            Admits::Anybody => true,
            Admits::Known => proof::holds(hook.kind, &hook.secrets, headers, &body, now),
        };
        if is_proved { Ok(body) } else { Err(Problem::no_proof()) }
    }

    /// Stores the mails of a call, all or none, within the time that its caller has.
    async fn handled(self: &Arc<Self>, hook: Hook, body: Bytes) -> Result<(), Problem> {
        self.takes_mail()?;
        let drafts = self.hook_drafts(&hook, &body)?;
        let this = self.clone();
        // It goes on where the caller has gone.
        let mut work = self.tasks.spawn(async move { this.send_together(&drafts).await });
        match tokio::time::timeout(ANSWER_WITHIN, &mut work).await {
            Ok(Ok(sent)) => sent.map(|_| ()),
            Ok(Err(_)) => Err(Problem::from(Refusal::Internal)),
            Err(_) => {
                let this = self.clone();
                // The caller takes its code back: nothing of it may arrive.
                self.tasks.spawn(async move {
                    if let Ok(Ok(ids)) = work.await {
                        this.cancel_all(&ids);
                    }
                });
                Err(Problem::too_long())
            }
        }
    }

    async fn send_together(&self, drafts: &[Draft]) -> Result<Vec<crate::mail::id::MessageId>, Problem> {
        let outcomes = self.send_all(drafts, Together::AllOrNone).await.map_err(|(_, problem)| problem)?;
        let taken: Vec<_> =
            outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().map(|receipt| receipt.id)).collect();
        match outcomes.into_iter().find_map(Result::err) {
            None => Ok(taken),
            Some(problem) => {
                self.cancel_all(&taken);
                Err(problem)
            }
        }
    }

    fn cancel_all(&self, ids: &[crate::mail::id::MessageId]) {
        let now = self.parts.clock.now();
        for id in ids {
            self.parts.queue.cancel(&Filter::of_message(*id), now);
        }
    }

    fn hook_drafts(&self, hook: &Hook, body: &[u8]) -> Result<Vec<Draft>, Problem> {
        let wanted = hook.kind.read(body)?;
        let user = self.parts.credentials.users().into_iter().find(|user| *user.name == *hook.user);
        let user = user.ok_or_else(|| Problem::forbidden("the hook's user is not there any more"))?;
        let from = Person::author(&hook.from, "from")?;
        self.parts.door.check_sender(&user, &ReversePath(Some(from.mailbox.clone())))?;
        // A repeat within the time is the same message, and a newer code takes the place of one that has not left.
        let defaults =
            Defaults { supersede: Some(Supersede::ByKey), idempotency_window: REPEAT, ..user.defaults.clone() };
        let user = Arc::new(User { defaults, ..(*user).clone() });
        wanted.iter().map(|wanted| self.hook_draft(hook, &user, &from, wanted)).collect()
    }

    fn hook_draft(&self, hook: &Hook, user: &Arc<User>, from: &Person, wanted: &HookMail) -> Result<Draft, Problem> {
        let domain = from.mailbox.domain_key();
        let mail = Mail {
            purpose: wanted.purpose,
            code: wanted.code.as_ref().map(|code| code.as_str()),
            link: wanted.link.as_deref(),
            app: hook.app.as_deref(),
            locale: wanted.locale.as_deref().unwrap_or(&hook.locale),
            life: hook.life,
            domain: &domain,
            texts: wanted.texts.as_ref(),
        };
        let filled = self.settings.load().templates.fill(&mail);
        let (fields, to) = (Fields::default(), Person { name: None, mailbox: wanted.to.clone() });
        let letter = Letter {
            from,
            app: hook.app.as_deref(),
            to: &[to],
            cc: &[],
            reply_to: &[],
            subject: &filled.subject,
            text: Some(&filled.text),
            html: Some(&filled.html),
            fields: &fields,
            attachments: &[],
            now: self.parts.clock.wall(),
        };
        let options = Options {
            life: Some(hook.life),
            lane: Some(wanted.lane.max(user.lane)),
            key: Some(wanted.tag.clone()),
            tag: Some(wanted.tag.clone()),
            ..Options::default()
        };
        let content = letter.write()?;
        let recipients = vec![wanted.to.clone()];
        Ok(Draft { user: user.clone(), from: from.mailbox.clone(), recipients, options, content })
    }
}

/// A mail that a call asks for, for whoever tries calls out: recipient, code, link and tag.
#[doc(hidden)]
pub(crate) type RequestedMail = (Mailbox, Option<String>, Option<String>, Arc<str>);

/// What a call asks for; none where it is refused.
#[doc(hidden)]
pub fn asked_of(kind: Kind, body: &[u8]) -> Option<Vec<RequestedMail>> {
    let short = |one: HookMail| (one.to, one.code.map(|code| code.to_string()), one.link, one.tag);
    Some(kind.read(body).ok()?.into_iter().map(short).collect())
}

/// Whether header fields prove a call, for whoever tries them out.
#[doc(hidden)]
pub fn is_proved(kind: Kind, secrets: &Secrets, headers: &HeaderMap, body: &[u8], now: Timestamp) -> bool {
    proof::holds(kind, secrets, headers, body, now)
}

/// Whom a call names, as an address.
fn recipient(text: Option<&str>, what: &str) -> Result<Mailbox, Problem> {
    let text = text.map(str::trim).filter(|text| !text.is_empty()).ok_or_else(|| Problem::missing(what))?;
    Ok(Person::parse(text, what)?.mailbox)
}

#[cfg(test)]
mod tests;
