//! ZITADEL: the HTTP provider, which brings texts in the user's language.

use serde::Deserialize;
use utoipa::ToSchema;

use super::hook_mail::{self, HookMail};
use super::{Lane, Problem, Purpose, Texts, recipient};

/// The body of a call; what is not named here is passed over.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ZitadelCall)]
pub(super) struct Call {
    context_info: ContextInfo,
    #[serde(default)]
    template_data: TemplateData,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ZitadelContextInfo)]
struct ContextInfo {
    event_type: Option<String>,
    recipient_email_address: Option<String>,
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ZitadelTemplateData)]
struct TemplateData {
    title: Option<String>,
    subject: Option<String>,
    greeting: Option<String>,
    text: Option<String>,
    url: Option<String>,
    button_text: Option<String>,
    footer_text: Option<String>,
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = ZitadelArgs)]
struct Args {
    code: Option<String>,
    otp: Option<String>,
}

/// Lane and words of each kind of mail, by what happened to the user.
fn kind(event: &str, has_code: bool) -> (Lane, Purpose) {
    let says = |word: &str| event.split(['.', '_']).any(|part| part == word);
    match () {
        () if says("password") && !says("change") && !says("changed") => (Lane::Reset, Purpose::Reset),
        () if says("invite") || says("invitation") || says("initialization") && !says("passwordless") => {
            (Lane::Reset, Purpose::Invite)
        }
        () if has_code && says("email") && !says("otp") => (Lane::Otp, Purpose::Signup),
        () if has_code => (Lane::Otp, Purpose::Login),
        () if says("password") => (Lane::Notice, Purpose::PasswordChanged),
        () => (Lane::Notice, Purpose::AccountChanged),
    }
}

impl Call {
    pub(super) fn wanted(self) -> Result<Vec<HookMail>, Problem> {
        let Self { context_info, template_data: own, args } = self;
        let event = context_info.event_type.unwrap_or_default();
        let code = hook_mail::code(hook_mail::filled(args.code).or(args.otp))?;
        let link = hook_mail::link(own.url)?;
        let (lane, purpose) = kind(&event, code.is_some());
        if code.is_none() && link.is_none() && lane != Lane::Notice {
            return Err(Problem::invalid("args, templateData: neither a code nor a url"));
        }
        let to = recipient(context_info.recipient_email_address.as_deref(), "contextInfo.recipientEmailAddress")?;
        let texts = Texts {
            subject: hook_mail::one_line(own.subject),
            title: hook_mail::one_line(own.title),
            greeting: hook_mail::plain(own.greeting),
            body: hook_mail::plain(own.text),
            button: hook_mail::one_line(own.button_text),
            footer: hook_mail::plain(own.footer_text),
        };
        Ok(vec![HookMail {
            to,
            code,
            link,
            tag: hook_mail::tag(&event),
            lane,
            purpose,
            locale: None,
            texts: Some(texts),
        }])
    }
}
