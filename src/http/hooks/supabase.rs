//! Supabase Auth: the hook "Send Email".

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::hook_mail::{self, HookMail};
use super::{Lane, Mailbox, Problem, Purpose, recipient};

/// The body of a call; what is not named here is passed over.
#[derive(Deserialize, ToSchema)]
#[schema(as = SupabaseCall)]
pub(super) struct Call {
    user: User,
    email_data: EmailData,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = SupabaseUser)]
struct User {
    email: Option<String>,
    new_email: Option<String>,
    /// Whatever the app keeps of its user.
    user_metadata: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = SupabaseEmailData)]
struct EmailData {
    token: Option<String>,
    token_hash: Option<String>,
    redirect_to: Option<String>,
    email_action_type: Option<String>,
    site_url: Option<String>,
    token_new: Option<String>,
    token_hash_new: Option<String>,
}

/// The body of an answer; empty where the mails are stored.
#[derive(Serialize, ToSchema, Default)]
#[schema(as = SupabaseAnswer)]
pub(super) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RefusalJson>,
}

/// What a user is told.
#[derive(Serialize, ToSchema)]
#[schema(as = SupabaseRefusal)]
struct RefusalJson {
    http_code: u16,
    message: String,
}

impl Answer {
    /// With status 200 in any case: any other has the server ask again, or tell of an error of its own.
    pub(super) fn response(self) -> Response {
        Json(self).into_response()
    }
}

/// What a user is told of a refusal.
pub(super) fn refusal(problem: &Problem) -> Response {
    let status = match problem.kind().status() {
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => status,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let error = RefusalJson { http_code: status.as_u16(), message: problem.detail().to_owned() };
    Answer { error: Some(error) }.response()
}

/// Lane and words of each kind of mail.
fn kind(name: &str) -> (Lane, Purpose) {
    match name {
        "signup" => (Lane::Otp, Purpose::Signup),
        "magiclink" | "email" => (Lane::Otp, Purpose::Login),
        "reauthentication" => (Lane::Otp, Purpose::Confirm),
        "email_change" => (Lane::Otp, Purpose::EmailChange),
        "recovery" => (Lane::Reset, Purpose::Reset),
        "invite" => (Lane::Reset, Purpose::Invite),
        "password_changed_notification" => (Lane::Notice, Purpose::PasswordChanged),
        "email_changed_notification" => (Lane::Notice, Purpose::EmailChanged),
        name if name.ends_with("_notification") => (Lane::Notice, Purpose::AccountChanged),
        _ => (Lane::Otp, Purpose::Confirm),
    }
}

impl Call {
    /// One mail; two where a change of address is to be confirmed at both.
    pub(super) fn wanted(self) -> Result<Vec<HookMail>, Problem> {
        let Self { user, email_data: data } = self;
        let action = data.email_action_type.unwrap_or_default();
        let locale = user.user_metadata.as_ref().and_then(language);
        let (lane, purpose) = kind(&action);
        let verify = Verify {
            site_url: hook_mail::filled(data.site_url),
            redirect_to: hook_mail::filled(data.redirect_to),
            action: action.clone(),
        };
        let one = |to: Mailbox, code: Option<String>, hash: Option<String>| -> Result<HookMail, Problem> {
            let (code, link) = (hook_mail::code(code)?, hook_mail::link(verify.link(hash.as_deref()))?);
            if code.is_none() && link.is_none() && lane != Lane::Notice {
                return Err(Problem::invalid("email_data: neither a token nor a token_hash"));
            }
            let (tag, locale) = (hook_mail::tag(&action), locale.clone());
            Ok(HookMail { to, code, link, tag, lane, purpose, locale, texts: None })
        };
        let (token, token_new) = (hook_mail::filled(data.token), hook_mail::filled(data.token_new));
        let (hash, hash_new) = (hook_mail::filled(data.token_hash), hook_mail::filled(data.token_hash_new));
        if action != "email_change" {
            return Ok(vec![one(recipient(user.email.as_deref(), "user.email")?, token, hash)?]);
        }
        let new = || recipient(user.new_email.as_deref(), "user.new_email");
        match (token, token_new) {
            // The names of the hashes are the other way round.
            (Some(token), Some(token_new)) => {
                let current = recipient(user.email.as_deref(), "user.email")?;
                Ok(vec![one(current, Some(token), hash_new)?, one(new()?, Some(token_new), hash)?])
            }
            (token, token_new) => Ok(vec![one(new()?, token.or(token_new), hash.or(hash_new))?]),
        }
    }
}

/// What the link to follow is made of.
struct Verify {
    site_url: Option<String>,
    redirect_to: Option<String>,
    action: String,
}

impl Verify {
    fn link(&self, hash: Option<&str>) -> Option<String> {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (site, hash) = (self.site_url.as_deref()?.trim_end_matches('/'), encoded(hash?));
        let (action, target) = (encoded(&self.action), encoded(self.redirect_to.as_deref().unwrap_or_default()));
        Some(format!("{site}/verify?token={hash}&type={action}&redirect_to={target}"))
    }
}

fn language(metadata: &Value) -> Option<String> {
    let text = |name: &str| hook_mail::locale(metadata.get(name).and_then(Value::as_str));
    text("locale").or_else(|| text("lang"))
}
