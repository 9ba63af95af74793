//! Why an attempt ended as it did: a closed set, from top to bottom. It becomes a word where it is written down or told.

use serde::{Deserialize, Serialize};

macro_rules! causes {
    ($(#[doc = $meaning:literal] $name:ident $text:literal),* $(,)?) => {
        /// The causes, each of something that was not delivered. The first eighteen are those of remote replies, the rest
        /// arise here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Cause {
            $(#[doc = $meaning] #[serde(rename = $text)] $name),*
        }

        impl Cause {
            /// All causes.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As in events and the API.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text),*
                }
            }

            /// The cause of this name; none for a name that another version gave.
            pub(crate) fn by_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|cause| cause.name() == name)
            }

            /// For people, in a sentence.
            pub(crate) fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning.trim_ascii()),*
                }
            }
        }
    };
}

causes! {
    /// Not known yet; passes after a delay.
    Greylisted "greylisted",
    /// Too much in too short a time.
    RateLimited "rate_limited",
    /// Quota of the recipient.
    MailboxFull "mailbox_full",
    /// The recipient cannot be served now.
    MailboxUnavailableTemp "mailbox_unavailable_temp",
    /// No such recipient.
    BadMailbox "bad_mailbox",
    /// No such domain, or not served there.
    BadDomain "bad_domain",
    /// The recipient is disabled or has moved.
    InactiveMailbox "inactive_mailbox",
    /// A verdict on the message.
    ContentRejected "content_rejected",
    /// A verdict on the client or sender.
    ReputationBlocked "reputation_blocked",
    /// SPF, DKIM or DMARC.
    AuthFailed "auth_failed",
    /// Local policy.
    PolicyRejected "policy_rejected",
    /// TLS wanted or not achieved.
    TlsRequired "tls_required",
    /// Syntax, order of commands, an extension that is missing.
    ProtocolError "protocol_error",
    /// Size.
    MessageTooLarge "message_too_large",
    /// The receiving system itself.
    ServerBusy "server_busy",
    /// A name does not resolve.
    DnsFailure "dns_failure",
    /// Some 4xx.
    OtherTemp "other_temp",
    /// Some 5xx.
    OtherPerm "other_perm",
    /// No host of the destination could be connected to.
    Unreachable "unreachable",
    /// The connection broke or fell silent before the content was sent.
    ConnectionLost "connection_lost",
    /// The connection broke or fell silent after the content was sent.
    OutcomeUnknown "outcome_unknown",
}
