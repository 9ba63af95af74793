//! What is asked of verifications, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::code::Alphabet;
use super::state::{Answer, State};
use crate::accounts::user::User;
use crate::base::clock::Timestamp;
use crate::base::rate::Rate;
use crate::event::Head;
use crate::intake::refusal::Refusal;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// `[verification]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Checks of one verification in all.
    pub checks: u32,
    /// Codes sent for one verification in all.
    pub sends: u32,
    /// How long after each code the next may be sent; the last counts for all behind it.
    pub(crate) resend_after: Vec<Duration>,
    /// Codes of one verification that can be typed at once.
    pub(crate) live_codes: usize,
    /// Wrong checks of a user and recipient.
    pub(crate) recipient_checks: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            checks: 5,
            sends: 5,
            resend_after: [30, 60, 120].map(Duration::from_secs).to_vec(),
            live_codes: 3,
            recipient_checks: Rate { count: 20, span: Duration::from_secs(3600) },
        }
    }
}

/// What somebody asks to be begun, or sent again.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Whose it is.
    pub user: &'a User,
    /// To whom.
    pub to: &'a Mailbox,
    /// What for, and in which session of the app.
    pub purpose: &'a str,
    /// As above.
    pub session: Option<&'a str>,
    /// How long its code can be typed.
    pub life: Duration,
    /// What the code is made of.
    pub(crate) alphabet: Alphabet,
    /// Of how many characters.
    pub length: usize,
    /// Whether nobody may tell what becomes of it.
    pub(crate) secrecy: Secrecy,
    /// What tells a repeat of this request.
    pub(crate) idempotency_key: Option<&'a str>,
}

/// How much an answer may tell of the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// All.
    Open,
    /// Nothing.
    Quiet,
}

/// How a verification stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Its id.
    pub id: Arc<str>,
    /// What for.
    pub purpose: Arc<str>,
    /// How it stands.
    pub state: State,
    /// When its last code is over.
    pub expires_at: Timestamp,
    /// How many more checks it has.
    pub checks_left: u32,
    /// How many codes were sent.
    pub sends: usize,
    /// When another may be.
    pub resend_at: Timestamp,
    /// The latest message.
    pub message: Option<MessageId>,
    /// Whether nobody may tell more than this.
    pub(crate) secrecy: Secrecy,
}

/// What a request comes to.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Nothing is to be sent.
    Repeat(View),
    /// This code is.
    Send(Slot),
}

/// A code that is to be sent.
pub struct Slot {
    /// Of which verification.
    pub id: Arc<str>,
    /// Whether it is the first of it.
    pub(crate) is_new: bool,
    /// The code.
    pub code: Zeroizing<String>,
    pub(super) index: usize,
    pub(super) asked: Option<Arc<str>>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", self.id)
    }
}

/// Why nothing begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The recipient's checks are used up.
    Guessed(Duration),
    /// As many codes were sent as may be.
    Sends(Duration),
    /// As many verifications of the recipient are under way as may be.
    Live(Duration),
    /// As many verifications are remembered as can be.
    Full,
    /// The idempotency key was used for another one.
    Conflict,
    /// No code could be made.
    Internal,
}

/// Which verification a code is for.
#[derive(Debug, Clone, Copy)]
pub enum Selector<'a> {
    /// Of this id.
    Id(&'a str),
    /// Of this recipient, purpose and session.
    Address(&'a Mailbox, &'a str, Option<&'a str>),
}

/// Why a check has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckError {
    /// No such verification of this user.
    Unknown,
    /// No code looks so; nothing was spent.
    Malformed,
    /// The recipient's checks are used up.
    Guessed(Duration),
    /// The idempotency key was used with another code.
    Conflict,
    /// It could not be stored.
    Store(Refusal),
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The answer.
    pub answer: Answer,
    /// Where it was right, just now: what the event says.
    pub(crate) approved: Option<Box<(Head, Option<Duration>)>>,
}
