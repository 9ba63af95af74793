//! The JSON of verifications.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::auth::Principal;
use crate::http::wire::{Life, MessageJson, Wait};
use crate::intake::verification::code::Alphabet;
use crate::intake::verification::{Secrecy, State, View};

/// The body of `POST /v1/verifications`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"from": "otp@app.test", "to": "alice@example.test", "app": "Shop", "purpose": "login"})))]
pub(super) struct NewVerification {
    pub(super) to: String,
    pub(super) from: Option<String>,
    pub(super) app: Option<String>,
    pub(super) locale: Option<String>,
    pub(super) purpose: Option<String>,
    pub(super) life: Option<Life>,
    pub(super) length: Option<usize>,
    #[serde(default)]
    pub(super) alphabet: AlphabetWord,
    pub(super) subject: Option<String>,
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
    pub(super) session: Option<String>,
    #[serde(default)]
    pub(super) quiet: bool,
    pub(super) wait: Option<Wait>,
}

#[derive(Deserialize, Clone, Copy, Default, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Alphabet)]
pub(super) enum AlphabetWord {
    #[default]
    Digits,
    Letters,
}

impl From<AlphabetWord> for Alphabet {
    fn from(word: AlphabetWord) -> Self {
        match word {
            AlphabetWord::Digits => Self::Digits,
            AlphabetWord::Letters => Self::Letters,
        }
    }
}

/// The body of a check.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Check, examples(json!({"code": "481516"})))]
pub(super) struct Code {
    pub(super) code: String,
}

/// The body of a check by address.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CheckByAddress, examples(json!({"to": "alice@example.test", "purpose": "login", "code": "481516"})))]
pub(super) struct ByAddress {
    pub(super) to: String,
    pub(super) purpose: Option<String>,
    pub(super) session: Option<String>,
    pub(super) code: String,
}

/// The answer to a check.
#[derive(Serialize, ToSchema)]
#[schema(as = Checked)]
pub(super) struct AnswerJson {
    pub(super) valid: bool,
    pub(super) state: &'static str,
    pub(super) checks_left: u32,
}

/// A verification; of a quiet one only the first four.
#[derive(Serialize, ToSchema)]
pub(super) struct VerificationJson {
    id: String,
    state: &'static str,
    expires_at: String,
    resend_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sends: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageJson>,
}

/// A verification that was withdrawn.
#[derive(Serialize, ToSchema)]
pub(super) struct WithdrawnJson {
    #[serde(flatten)]
    pub(super) verification: VerificationJson,
    pub(super) may_still_arrive: bool,
}

impl VerificationJson {
    pub(super) async fn new(api: &Api, view: &View) -> Self {
        let wall = |at| api.parts.door.wall(at).rfc3339();
        let is_quiet = view.secrecy == Secrecy::Quiet;
        let message = match view.message.filter(|_| !is_quiet) {
            Some(id) => api.json(&Principal::Operator, id).await.ok(),
            None => None,
        };
        let state = if is_quiet && view.state == State::Undeliverable { State::Pending } else { view.state };
        Self {
            id: view.id.to_string(),
            state: state.name(),
            expires_at: wall(view.expires_at),
            resend_at: wall(view.resend_at),
            purpose: (!is_quiet).then(|| view.purpose.to_string()),
            checks_left: (!is_quiet).then_some(view.checks_left),
            sends: (!is_quiet).then_some(view.sends),
            message,
        }
    }
}
