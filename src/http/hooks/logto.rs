//! Logto: the connector "HTTP email".

use serde::Deserialize;
use utoipa::ToSchema;

use super::hook_mail::{self, HookMail};
use super::{Lane, Problem, Purpose, recipient};

/// The body of a call; what is not named here is passed over.
#[derive(Deserialize, ToSchema)]
#[schema(as = LogtoCall)]
pub(super) struct Call {
    to: Option<String>,
    r#type: Option<String>,
    payload: Payload,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = LogtoPayload)]
struct Payload {
    code: Option<String>,
    link: Option<String>,
    locale: Option<String>,
}

/// Lane and words of each kind of mail.
fn kind(name: &str) -> (Lane, Purpose) {
    match name {
        "SignIn" => (Lane::Otp, Purpose::Login),
        "Register" | "BindNewIdentifier" => (Lane::Otp, Purpose::Signup),
        "ForgotPassword" => (Lane::Reset, Purpose::Reset),
        "OrganizationInvitation" => (Lane::Reset, Purpose::Invite),
        _ => (Lane::Otp, Purpose::Confirm),
    }
}

impl Call {
    pub(super) fn wanted(self) -> Result<Vec<HookMail>, Problem> {
        let name = self.r#type.unwrap_or_default();
        let (lane, purpose) = kind(&name);
        let (code, link) = (hook_mail::code(self.payload.code)?, hook_mail::link(self.payload.link)?);
        if code.is_none() && link.is_none() {
            return Err(Problem::invalid("payload: neither a code nor a link"));
        }
        let to = recipient(self.to.as_deref(), "to")?;
        let locale = hook_mail::locale(self.payload.locale.as_deref());
        Ok(vec![HookMail { to, code, link, tag: hook_mail::tag(&name), lane, purpose, locale, texts: None }])
    }
}
