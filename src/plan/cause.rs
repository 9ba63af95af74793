//! Why an attempt ended as it did: a closed set, and what each member asks for.

use std::time::Duration;

use super::action::{Action, Finality, Retry, Suppress, action};
use super::{hint, rules};
use crate::destination::route::RouteError;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage};
use crate::smtp::reply::{EnhancedCode, Reply, Severity};

macro_rules! causes {
    ($(#[doc = $meaning:literal] $name:ident $text:literal),* $(,)?) => {
        /// The causes. The first nineteen are those of remote replies, the rest arise here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause {
            $(#[doc = $meaning] $name),*
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

            /// For people, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning.trim_ascii()),*
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
    pub action: Action,
    /// How long to wait, if the reply says so and there is to be another attempt. Not bounded: the text is a stranger's.
    pub hint: Option<Duration>,
}

impl Verdict {
    /// The verdict of a cause without a reply.
    pub fn of(cause: Cause, finality: Finality) -> Self {
        Self { cause, action: action(cause, finality), hint: None }
    }

    /// Whether there is to be another attempt.
    pub fn outlook(&self) -> Outlook {
        if self.action.retry == Retry::Never { Outlook::Never } else { Outlook::Again }
    }
}

/// Makes what naming a cause takes, so that no attempt has to wait for it.
pub fn prepare() {
    rules::prepare();
}

/// The cause of a failed session or transaction.
pub fn of_failure(failure: &Failure) -> Verdict {
    let again = |cause| Verdict::of(cause, Finality::Temporary);
    let never = |cause| Verdict::of(cause, Finality::Final);
    match &failure.fault {
        Fault::Reply(reply) => of_reply(failure.stage, reply),
        Fault::Timeout | Fault::Closed if failure.stage == Stage::Connect => again(Cause::Unreachable),
        Fault::Timeout | Fault::Closed | Fault::Malformed(_) if failure.stage == Stage::Content => {
            again(Cause::OutcomeUnknown)
        }
        Fault::Timeout | Fault::Closed => again(Cause::ConnectionLost),
        Fault::Malformed(_) => again(Cause::ProtocolError),
        // Somebody on the way may have made it fail.
        Fault::Tls(_) | Fault::Unsupported(Requirement::StartTls) => again(Cause::TlsRequired),
        Fault::Unsupported(Requirement::RequireTls) => never(Cause::TlsRequired),
        // Configuration, here or there: it says nothing of the message.
        Fault::Unsupported(Requirement::VerifiedTls) => again(Cause::TlsRequired),
        Fault::Unsupported(Requirement::Login | Requirement::ServerProof) => again(Cause::PolicyRejected),
        Fault::Unsupported(Requirement::SmtpUtf8) => never(Cause::ProtocolError),
        Fault::Unsupported(Requirement::Size) => never(Cause::MessageTooLarge),
    }
}

/// The cause of having no route.
pub fn of_route(error: &RouteError) -> Verdict {
    match error {
        RouteError::Trouble(_) => Verdict::of(Cause::DnsFailure, Finality::Temporary),
        RouteError::NoSuchDomain | RouteError::NullMx | RouteError::NoHost | RouteError::Private => {
            Verdict::of(Cause::BadDomain, Finality::Final)
        }
    }
}

/// What a reply says, by where in the session it was said.
pub fn of_reply(stage: Stage, reply: &Reply) -> Verdict {
    match reply.severity() {
        Severity::Success | Severity::Intermediate => return Verdict::of(Cause::Accepted, Finality::Final),
        Severity::Transient | Severity::Permanent => {}
    }
    let cause = said_of_whom(stage, reply.severity(), rules::cause_of_refusal(stage, reply));
    // A host that greets with 5xx, or refuses EHLO, speaks for itself and not for the recipient.
    let is_final = reply.severity() == Severity::Permanent && concerns_message(stage);
    let mut action = action(cause, if is_final { Finality::Final } else { Finality::Temporary });
    if !concerns_message(stage) {
        action = Action { next_mx: true, suppress: Suppress::No, ..action };
    } else if may_be_greylisting(stage, reply, cause) {
        action = Action { retry: Retry::Ladder, next_mx: false, ..action };
    }
    action.next_mx &= stage != Stage::Content;
    let hint = if action.retry == Retry::Never { None } else { hint::wait(&reply.text) };
    Verdict { cause, action, hint }
}

/// Whether a reply there is about a message; otherwise the host speaks for itself.
pub fn concerns_message(stage: Stage) -> bool {
    matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content)
}

/// Before RCPT nothing is said of a recipient: an unknown user at MAIL is our sender, at the banner a figure of speech.
fn said_of_whom(stage: Stage, severity: Severity, cause: Cause) -> Cause {
    let of_recipient = matches!(
        cause,
        Cause::BadMailbox
            | Cause::BadDomain
            | Cause::InactiveMailbox
            | Cause::MailboxFull
            | Cause::MailboxUnavailableTemp
    );
    match stage {
        Stage::Rcpt | Stage::Data | Stage::Content => cause,
        Stage::Auth if severity == Severity::Permanent => Cause::PolicyRejected,
        _ if !of_recipient => cause,
        Stage::Mail => Cause::PolicyRejected,
        Stage::Connect | Stage::Banner | Stage::Ehlo | Stage::StartTls | Stage::Auth | Stage::Reset => {
            if severity == Severity::Permanent { Cause::OtherPerm } else { Cause::OtherTemp }
        }
    }
}

/// A temporary refusal of a recipient or message that names no reason, with a code that greylisting software uses.
fn may_be_greylisting(stage: Stage, reply: &Reply, cause: Cause) -> bool {
    matches!(stage, Stage::Rcpt | Stage::Data | Stage::Content)
        && matches!(cause, Cause::OtherTemp | Cause::ServerBusy)
        && matches!(reply.code, 450 | 451)
        && matches!(
            reply.enhanced,
            None | Some(EnhancedCode(4, 7, 1) | EnhancedCode(4, 2, 0) | EnhancedCode(4, 3, 0 | 2))
        )
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
    ) -> Action {
        let failure = Failure { stage, fault: Fault::Reply(Reply { code, enhanced, text: text.into() }) };
        let verdict = of_failure(&failure);
        assert_eq!((verdict.cause, verdict.outlook()), (cause, outlook), "{code} {text}");
        verdict.action
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
        check(S::Rcpt, 457, None, "odd", C::OtherTemp, O::Again);
        check(S::Rcpt, 550, None, "Sender frequency limited", C::RateLimited, O::Again);
    }

    #[test]
    fn before_rcpt_nobody_speaks_of_the_recipient() {
        use {Cause as C, EnhancedCode as E, Outlook as O, Stage as S};
        let banner = check(S::Banner, 554, None, "no service", C::OtherPerm, O::Again);
        assert!(banner.next_mx && banner.suppress == Suppress::No);
        let banner = check(S::Banner, 550, Some(E(5, 1, 1)), "user unknown", C::OtherPerm, O::Again);
        assert!(banner.next_mx && banner.suppress == Suppress::No);
        let mail = check(S::Mail, 550, Some(E(5, 1, 1)), "user unknown", C::PolicyRejected, O::Never);
        assert_eq!(mail.suppress, Suppress::No);
        check(S::Content, 550, None, "no", C::OtherPerm, O::Never);
    }

    #[test]
    fn another_host_is_tried_where_it_can_help() {
        use {Cause as C, EnhancedCode as E, Outlook as O, Stage as S};
        assert!(check(S::Mail, 421, None, "too busy", C::ServerBusy, O::Again).next_mx);
        assert!(check(S::Rcpt, 452, Some(E(4, 3, 1)), "out of memory", C::ServerBusy, O::Again).next_mx);
        assert!(!check(S::Content, 421, None, "too busy", C::ServerBusy, O::Again).next_mx, "never after the dot");
        assert!(!check(S::Rcpt, 450, None, "greylisted", C::Greylisted, O::Again).next_mx);
        let unnamed = check(S::Rcpt, 451, Some(E(4, 3, 0)), "temporary failure", C::ServerBusy, O::Again);
        assert!(!unnamed.next_mx && unnamed.retry == Retry::Ladder, "it may be greylisting");
    }

    #[test]
    fn broken_connections() {
        let verdict = |stage, fault| of_failure(&Failure { stage, fault }).cause;
        assert_eq!(verdict(Stage::Connect, Fault::Timeout), Cause::Unreachable);
        assert_eq!(verdict(Stage::Rcpt, Fault::Closed), Cause::ConnectionLost);
        assert_eq!(verdict(Stage::Content, Fault::Closed), Cause::OutcomeUnknown);
        assert_eq!(verdict(Stage::Content, Fault::Timeout), Cause::OutcomeUnknown);
    }

    #[test]
    fn a_wait_is_read_only_where_there_is_another_attempt() {
        let hint = |code, text: &'static str| {
            of_reply(Stage::Rcpt, &Reply { code, enhanced: None, text: text.into() }).hint.map(|wait| wait.as_secs())
        };
        assert_eq!(hint(451, "greylisted, try again in 5 minutes"), Some(300));
        assert_eq!(hint(550, "no such user, do not try again in 5 minutes"), None);
    }
}
