//! What travels beside the content: who sends, to whom, and how (RFC 5321 section 2.3.1, with the parameters of RFC
//! 1652, 3461, 2852, 6531, 6710 and 8689).

use serde::{Deserialize, Serialize};

use super::address::{Mailbox, ReversePath};

/// The envelope of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Where failures are told.
    pub reverse_path: ReversePath,
    /// The parameters of MAIL.
    #[serde(default, flatten)]
    pub parameters: MailParameters,
    /// One per RCPT, in order; never empty once the message is accepted.
    pub recipients: Vec<Recipient>,
}

/// The parameters of MAIL that travel with the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailParameters {
    /// `SMTPUTF8` (RFC 6531): addresses or header fields are not ASCII.
    #[serde(default, skip_serializing_if = "is_false")]
    pub smtputf8: bool,
    /// `BODY=8BITMIME` (RFC 6152).
    #[serde(default, skip_serializing_if = "is_false")]
    pub eight_bit: bool,
    /// `REQUIRETLS` (RFC 8689).
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_tls: bool,
    /// `RET=` (RFC 3461 section 4.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// `ENVID=` as sent, in xtext (RFC 3461 section 4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<Box<str>>,
    /// `BY=` (RFC 2852).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_by: Option<DeliverBy>,
    /// `MT-PRIORITY=`, -9 to 9 (RFC 6710).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// How much of the message a notification should return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    /// `FULL`: the content.
    Full,
    /// `HDRS`: the header section.
    Headers,
}

/// `BY=seconds;mode[T]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverBy {
    /// Seconds from acceptance; with mode `Notify` also zero or less.
    pub seconds: i32,
    /// What to do when they are over.
    pub mode: DeliverByMode,
    /// Whether each relay on the way should report (`T`).
    pub trace: bool,
}

/// What happens when the time of `BY=` is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliverByMode {
    /// `R`: give up and return the message.
    Return,
    /// `N`: tell the sender, and go on.
    Notify,
}

/// One RCPT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path without brackets.
    pub mailbox: Mailbox,
    /// `NOTIFY=` (RFC 3461 section 4.1); none: not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// `ORCPT=` as sent: address type, semicolon, xtext (RFC 3461 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    /// A recipient without parameters.
    pub fn new(mailbox: Mailbox) -> Self {
        Self { mailbox, notify: None, orcpt: None }
    }
}

/// When the reverse-path wants to be told. All false: `NEVER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notify {
    /// `SUCCESS`.
    pub success: bool,
    /// `FAILURE`.
    pub failure: bool,
    /// `DELAY`.
    pub delay: bool,
}

impl Notify {
    /// As written behind `NOTIFY=`.
    pub fn keyword(self) -> String {
        let named = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let words: Vec<&str> = named.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if words.is_empty() { "NEVER".to_owned() } else { words.join(",") }
    }
}
