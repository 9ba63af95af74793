//! Why an attempt ended as it did: a closed set, and what each member asks for.

use crate::destination::mx::RouteError;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage};
use crate::smtp::reply::{EnhancedCode, Reply, Severity};

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident $text:literal),* $(,)?) => {
        /// The causes. The first nineteen are those of remote replies, the rest arise here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause {
            $($(#[$doc])* $name),*
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
        }
    };
}

causes! {
    /// It was taken.
    Accepted "accepted",
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

/// Whether there is to be another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Another attempt may succeed.
    Again,
    /// None will.
    Never,
}

/// What an attempt came to, classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub cause: Cause,
    /// And then.
    pub outlook: Outlook,
}

/// The cause of a failed session or transaction.
pub fn of_failure(failure: &Failure) -> Verdict {
    let again = |cause| Verdict { cause, outlook: Outlook::Again };
    let never = |cause| Verdict { cause, outlook: Outlook::Never };
    match &failure.fault {
        Fault::Reply(reply) => of_reply(failure.stage, reply),
        Fault::Timeout | Fault::Closed if failure.stage == Stage::Connect => again(Cause::Unreachable),
        Fault::Timeout | Fault::Closed | Fault::Malformed(_) if failure.stage == Stage::Content => {
            again(Cause::OutcomeUnknown)
        }
        Fault::Timeout | Fault::Closed => again(Cause::ConnectionLost),
        Fault::Malformed(_) => again(Cause::ProtocolError),
        Fault::Tls(_) => again(Cause::TlsRequired),
        Fault::Unsupported(Requirement::RequireTls | Requirement::StartTls) => never(Cause::TlsRequired),
        Fault::Unsupported(Requirement::SmtpUtf8) => never(Cause::ProtocolError),
        Fault::Unsupported(Requirement::Size) => never(Cause::MessageTooLarge),
    }
}

/// The cause of having no route.
pub fn of_route(error: &RouteError) -> Verdict {
    match error {
        RouteError::Trouble(_) => Verdict { cause: Cause::DnsFailure, outlook: Outlook::Again },
        RouteError::NoSuchDomain | RouteError::NullMx | RouteError::NoHost | RouteError::Private => {
            Verdict { cause: Cause::BadDomain, outlook: Outlook::Never }
        }
    }
}

fn of_reply(stage: Stage, reply: &Reply) -> Verdict {
    let is_permanent = reply.severity() == Severity::Permanent;
    // A host that greets with 5xx, or refuses EHLO, speaks for itself and not for the recipient.
    let concerns_message = matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content);
    let outlook = if is_permanent && concerns_message { Outlook::Never } else { Outlook::Again };
    let cause = match reply.enhanced {
        Some(EnhancedCode(5, 1, 1)) => Cause::BadMailbox,
        Some(EnhancedCode(5, 1, 2)) => Cause::BadDomain,
        Some(EnhancedCode(_, 2, 2)) => Cause::MailboxFull,
        Some(EnhancedCode(5, 2, 1)) => Cause::InactiveMailbox,
        Some(EnhancedCode(_, 3, 4)) => Cause::MessageTooLarge,
        _ if !is_permanent && says_greylisted(&reply.text) => Cause::Greylisted,
        Some(EnhancedCode(4, 3, _)) => Cause::ServerBusy,
        _ if reply.code == 421 => Cause::ServerBusy,
        _ if is_permanent => Cause::OtherPerm,
        _ => Cause::OtherTemp,
    };
    Verdict { cause, outlook }
}

fn says_greylisted(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["greylist", "graylist", "grey-list", "gray-list"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        stage: Stage,
        code: u16,
        enhanced: Option<EnhancedCode>,
        text: &'static str,
        cause: Cause,
        outlook: Outlook,
    ) {
        let failure = Failure { stage, fault: Fault::Reply(Reply { code, enhanced, text: text.into() }) };
        assert_eq!(of_failure(&failure), Verdict { cause, outlook }, "{code} {text}");
    }

    #[test]
    fn replies() {
        use {Cause as C, EnhancedCode as E, Outlook as O, Stage as S};
        check(S::Rcpt, 550, Some(E(5, 1, 1)), "no such user", C::BadMailbox, O::Never);
        check(S::Rcpt, 450, Some(E(4, 2, 0)), "Greylisted, please wait", C::Greylisted, O::Again);
        check(S::Content, 451, None, "Graylisting in action", C::Greylisted, O::Again);
        check(S::Rcpt, 452, Some(E(4, 2, 2)), "over quota", C::MailboxFull, O::Again);
        check(S::Mail, 421, None, "closing", C::ServerBusy, O::Again);
        check(S::Content, 554, None, "no", C::OtherPerm, O::Never);
        check(S::Banner, 554, None, "no service", C::OtherPerm, O::Again);
        check(S::Rcpt, 457, None, "odd", C::OtherTemp, O::Again);
    }

    #[test]
    fn broken_connections() {
        let verdict = |stage, fault| of_failure(&Failure { stage, fault }).cause;
        assert_eq!(verdict(Stage::Connect, Fault::Timeout), Cause::Unreachable);
        assert_eq!(verdict(Stage::Rcpt, Fault::Closed), Cause::ConnectionLost);
        assert_eq!(verdict(Stage::Content, Fault::Closed), Cause::OutcomeUnknown);
        assert_eq!(verdict(Stage::Content, Fault::Timeout), Cause::OutcomeUnknown);
    }
}
