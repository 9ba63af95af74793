//! What each cause asks for, and which cause a failed attempt has.

use std::time::Duration;

use super::action::{Action, Finality, Retry, action};
use super::parties::{Parties, speaks_of_sender};
use super::rules::Evidence;
use super::{hint, rules};
use crate::destination::route::RouteError;
use crate::event::Suppress;
use crate::event::cause::Cause;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage};
use crate::smtp::reply::{EnhancedCode, Reply, Severity};

/// Whether there is to be another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
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
    /// How long to wait, if the reply says so and there is to be another attempt. Not bounded: the text is the remote host's.
    pub hint: Option<Duration>,
}

impl Verdict {
    /// The verdict of a cause without a reply.
    pub fn of(cause: Cause, finality: Finality) -> Self {
        Self { cause, action: action(cause, finality), hint: None }
    }

    /// The same where it is our sender that is refused.
    fn of_sender(self, stage: Stage) -> Self {
        let finality = if self.outlook() == Outlook::Never { Finality::Final } else { Finality::Temporary };
        let (cause, action) = match self.cause {
            cause if is_of_recipient(cause) => (Cause::PolicyRejected, action(Cause::PolicyRejected, finality)),
            cause => (cause, self.action),
        };
        let next_mx = action.next_mx && stage != Stage::Content;
        Self { cause, action: Action { suppress: Suppress::No, next_mx, ..action }, ..self }
    }

    /// Whether there is to be another attempt.
    pub(crate) fn outlook(&self) -> Outlook {
        if self.action.retry == Retry::Never { Outlook::Never } else { Outlook::Again }
    }
}

/// Makes what naming a cause takes, so that no attempt has to wait for it.
pub(crate) fn prepare() {
    rules::prepare();
}

/// The cause of a failed session or transaction.
pub(crate) fn of_failure(failure: &Failure) -> Verdict {
    let again = |cause| Verdict::of(cause, Finality::Temporary);
    let never = |cause| Verdict::of(cause, Finality::Final);
    match &failure.fault {
        Fault::Reply(reply) => of_reply(failure.stage, reply).unwrap_or_else(|| out_of_place(failure.stage)),
        Fault::Timeout | Fault::Closed if failure.stage == Stage::Connect => again(Cause::Unreachable),
        Fault::Ours(_) => again(Cause::Unreachable),
        Fault::Timeout | Fault::Closed | Fault::Malformed(_) if failure.stage == Stage::Content => {
            again(Cause::OutcomeUnknown)
        }
        Fault::Timeout | Fault::Closed => again(Cause::ConnectionLost),
        Fault::Malformed(_) => again(Cause::ProtocolError),
        // The host wants TLS, which failed there; another sender may have what it takes.
        Fault::Tls(_) if concerns_message(failure.stage) => {
            let verdict = again(Cause::TlsRequired);
            Verdict { action: Action { next_route: true, ..verdict.action }, ..verdict }
        }
        // Somebody on the way may have made it fail.
        Fault::Tls(_) | Fault::Unsupported(Requirement::StartTls) => again(Cause::TlsRequired),
        Fault::Unsupported(Requirement::RequireTls) => never(Cause::TlsRequired),
        // Configuration, here or there: it says nothing of the message.
        Fault::Unsupported(Requirement::VerifiedTls) => again(Cause::TlsRequired),
        Fault::Unsupported(Requirement::Login | Requirement::ServerProof | Requirement::FewerRounds) => {
            again(Cause::PolicyRejected)
        }
        Fault::Unsupported(Requirement::SmtpUtf8) => never(Cause::ProtocolError),
        // Another host may have it; where none has, the content goes as it is.
        Fault::Unsupported(Requirement::EightBitMime) => again(Cause::ProtocolError),
        Fault::Unsupported(Requirement::Size) => never(Cause::MessageTooLarge),
    }
}

/// The verdict of `of_failure` on the same failure, where it is known who sends to whom: a refusal that names our sender
/// or its domain says nothing of the recipient.
pub fn between(verdict: Verdict, failure: &Failure, parties: &Parties<'_>) -> Verdict {
    match &failure.fault {
        Fault::Reply(reply) if concerns_message(failure.stage) && parties.names_sender(&reply.text) => {
            verdict.of_sender(failure.stage)
        }
        Fault::Reply(_)
        | Fault::Timeout
        | Fault::Closed
        | Fault::Malformed(_)
        | Fault::Tls(_)
        | Fault::Unsupported(_)
        | Fault::Ours(_) => verdict,
    }
}

/// The cause of having no route.
pub(crate) fn of_route(error: &RouteError) -> Verdict {
    match error {
        RouteError::Trouble(_) => Verdict::of(Cause::DnsFailure, Finality::Temporary),
        RouteError::NoSuchDomain | RouteError::NullMx | RouteError::NoHost | RouteError::Private => {
            Verdict::of(Cause::BadDomain, Finality::Final)
        }
    }
}

/// What a refusal says, by where in the session it was said; none for a reply that is no refusal.
pub fn of_reply(stage: Stage, reply: &Reply) -> Option<Verdict> {
    if !reply.is_refusal() {
        return None;
    }
    let (named, evidence) = rules::cause_of_refusal(stage, reply);
    let cause = said_of_whom(stage, reply, named);
    // A host that greets with 5xx, or refuses EHLO, speaks for itself and not for the recipient.
    let is_final = reply.severity() == Severity::Permanent && concerns_message(stage);
    let mut action = action(cause, if is_final { Finality::Final } else { Finality::Temporary });
    if !concerns_message(stage) {
        action = Action { next_mx: true, suppress: Suppress::No, ..action };
    } else if may_be_greylisting(stage, reply, cause) {
        action = Action { retry: Retry::Ladder, next_mx: false, ..action };
    }
    // A code by itself names nobody, and not every word that names a mailbox blames it.
    let is_of_mailbox = evidence == Evidence::Recipient || (cause == Cause::MailboxFull && evidence == Evidence::Said);
    if !is_of_mailbox || speaks_of_sender(&reply.text) {
        action.suppress = Suppress::No;
    }
    action.next_mx &= stage != Stage::Content;
    let hint = if action.retry == Retry::Never { None } else { hint::wait(&reply.text) };
    Some(Verdict { cause, action, hint })
}

/// A yes, or a go-ahead, where neither was to come: what the host made of the command is not known.
fn out_of_place(stage: Stage) -> Verdict {
    let cause = if stage == Stage::Content { Cause::OutcomeUnknown } else { Cause::ProtocolError };
    Verdict::of(cause, Finality::Temporary)
}

/// Whose fault a refusal is, and by which evidence, in words; none for a reply that is no refusal.
pub(crate) fn fault_of_reply(stage: Stage, reply: &Reply) -> Option<(&'static str, &'static str)> {
    if !reply.is_refusal() {
        return None;
    }
    let (named, evidence) = rules::cause_of_refusal(stage, reply);
    let cause = said_of_whom(stage, reply, named);
    let who = if speaks_of_sender(&reply.text) && cause == Cause::PolicyRejected { "sender" } else { at_fault(cause) };
    Some((who, evidence.name()))
}

/// Who is at fault where a remote reply has this cause.
fn at_fault(cause: Cause) -> &'static str {
    match cause {
        Cause::BadMailbox | Cause::InactiveMailbox | Cause::MailboxFull | Cause::MailboxUnavailableTemp => "recipient",
        Cause::BadDomain => "recipient's domain",
        Cause::ContentRejected | Cause::MessageTooLarge => "message",
        Cause::AuthFailed | Cause::DnsFailure => "sender's domain",
        Cause::ReputationBlocked | Cause::RateLimited | Cause::PolicyRejected => "client",
        Cause::ProtocolError | Cause::TlsRequired => "protocol",
        Cause::ServerBusy => "receiving system",
        Cause::Greylisted => "nobody",
        Cause::OtherTemp | Cause::OtherPerm | Cause::Unreachable | Cause::ConnectionLost | Cause::OutcomeUnknown => {
            "not said"
        }
    }
}

/// Whether a reply there is about a message; otherwise the host speaks for itself.
pub(crate) fn concerns_message(stage: Stage) -> bool {
    matches!(stage, Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content)
}

/// Whether a cause says something of the recipient.
fn is_of_recipient(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::BadMailbox
            | Cause::BadDomain
            | Cause::InactiveMailbox
            | Cause::MailboxFull
            | Cause::MailboxUnavailableTemp
    )
}

/// Before RCPT nothing is said of a recipient: an unknown user at MAIL is our sender, at the banner a figure of speech.
/// Behind it, too, hosts speak of our sender: they check it late, so that they can log whom it wrote to.
fn said_of_whom(stage: Stage, reply: &Reply, cause: Cause) -> Cause {
    let is_permanent = reply.severity() == Severity::Permanent;
    match stage {
        Stage::Auth if is_permanent => Cause::PolicyRejected,
        _ if !is_of_recipient(cause) => cause,
        Stage::Rcpt | Stage::Data | Stage::Content if speaks_of_sender(&reply.text) => Cause::PolicyRejected,
        Stage::Rcpt | Stage::Data | Stage::Content => cause,
        Stage::Mail => Cause::PolicyRejected,
        Stage::Connect | Stage::Tls | Stage::Banner | Stage::Ehlo | Stage::StartTls | Stage::Auth | Stage::Reset => {
            if is_permanent {
                Cause::OtherPerm
            } else {
                Cause::OtherTemp
            }
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
    fn what_is_said_of_our_sender_touches_no_recipient() {
        use {Cause as C, EnhancedCode as E, Outlook as O, Stage as S};
        for stage in [S::Rcpt, S::Data, S::Content] {
            for (enhanced, text) in [
                (Some(E(5, 1, 0)), "<otp@app.test>: Sender address rejected: User unknown in virtual mailbox table"),
                (None, "Verification failed for <otp@app.test>\nNo Such User Here\nSender verify failed"),
                (Some(E(5, 1, 1)), "Callback: user unknown"),
                (Some(E(5, 1, 2)), "reverse-path: no such domain"),
            ] {
                let action = check(stage, 550, enhanced, text, C::PolicyRejected, O::Never);
                assert_eq!(action.suppress, Suppress::No, "{text}");
            }
        }
        check(S::Rcpt, 550, Some(E(5, 1, 8)), "Domain of sender address does not exist", C::DnsFailure, O::Never);
    }

    #[test]
    fn who_is_named_is_meant() {
        let sender = crate::mail::address::ReversePath::parse("<otp@app.test>").unwrap();
        let recipient = crate::mail::address::Mailbox::parse("kate@victim.test").unwrap();
        let verdict = |text: &'static str| {
            let reply = Reply { code: 550, enhanced: Some(EnhancedCode(5, 1, 1)), text: text.into() };
            let failure = Failure { stage: Stage::Rcpt, fault: Fault::Reply(reply) };
            let verdict = between(of_failure(&failure), &failure, &Parties { sender: &sender, recipient: &recipient });
            (verdict.cause, verdict.action.suppress)
        };
        assert_eq!(verdict("<kate@victim.test> user unknown"), (Cause::BadMailbox, Suppress::Address));
        assert_eq!(verdict("user unknown"), (Cause::BadMailbox, Suppress::Address));
        assert_eq!(verdict("<otp@app.test> user unknown"), (Cause::PolicyRejected, Suppress::No));
        assert_eq!(verdict("app.test: domain unknown"), (Cause::PolicyRejected, Suppress::No));
        assert_eq!(
            verdict("<otp@app.test> to <kate@victim.test>: user unknown"),
            (Cause::PolicyRejected, Suppress::No)
        );
    }

    #[test]
    fn no_reply_suppresses_a_domain_and_a_bare_code_nobody() {
        use {Cause as C, EnhancedCode as E, Outlook as O, Stage as S};
        let suppress = |code, enhanced, text, cause| check(S::Rcpt, code, enhanced, text, cause, O::Never).suppress;
        assert_eq!(
            suppress(554, Some(E(5, 7, 1)), "<a%x@victim.test>: Relay access denied", C::BadDomain),
            Suppress::No
        );
        assert_eq!(suppress(550, Some(E(5, 1, 2)), "no such domain here", C::BadDomain), Suppress::No);
        assert_eq!(suppress(556, None, "gone", C::BadDomain), Suppress::No);
        assert_eq!(suppress(550, None, "no", C::OtherPerm), Suppress::No);
        assert_eq!(suppress(551, None, "no", C::BadMailbox), Suppress::No);
        assert_eq!(suppress(550, Some(E(5, 1, 3)), "no", C::BadMailbox), Suppress::No);
        assert_eq!(suppress(550, None, "No such user: your IP is not trusted", C::BadMailbox), Suppress::No);
        assert_eq!(suppress(550, Some(E(5, 2, 1)), "no", C::InactiveMailbox), Suppress::Address);
        assert_eq!(suppress(554, None, "no", C::OtherPerm), Suppress::No);
        assert_eq!(suppress(550, None, "user unknown", C::BadMailbox), Suppress::Address);
        assert_eq!(suppress(550, Some(E(5, 1, 1)), "no", C::BadMailbox), Suppress::Address);
    }

    #[test]
    fn a_refusal_tells_whose_fault_it_is() {
        let who = |code, text: &'static str| {
            fault_of_reply(Stage::Rcpt, &Reply { code, enhanced: None, text: text.into() }).map(|(who, _)| who)
        };
        assert_eq!(who(250, "ok"), None);
        assert_eq!(who(550, "user unknown"), Some("recipient"));
        assert_eq!(who(550, "sender verify failed"), Some("sender"));
        assert_eq!(who(550, "your IP is blacklisted"), Some("client"));
        assert_eq!(who(451, "the virus scanner is down"), Some("receiving system"));
        assert_eq!(who(550, "no"), Some("not said"));
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
    fn a_yes_where_none_was_to_come_is_no_end() {
        use {Cause as C, EnhancedCode as E, Outlook as O, Stage as S};
        for (stage, code) in [
            (S::Banner, 354),
            (S::Ehlo, 354),
            (S::StartTls, 354),
            (S::Auth, 250),
            (S::Reset, 354),
            (S::Mail, 354),
            (S::Mail, 334),
            (S::Rcpt, 354),
            (S::Data, 250),
            (S::Data, 200),
        ] {
            assert!(check(stage, code, None, "go ahead", C::ProtocolError, O::Again).next_mx, "{stage:?} {code}");
        }
        for code in [200, 250, 354] {
            let action = check(S::Content, code, Some(E(2, 0, 0)), "go ahead", C::OutcomeUnknown, O::Again);
            assert!(!action.next_mx, "it may have arrived");
        }
    }

    #[test]
    fn what_is_no_refusal_has_no_cause() {
        for code in [200, 250, 354] {
            assert_eq!(of_reply(Stage::Rcpt, &Reply::plain(code, "fine")), None);
        }
    }

    #[test]
    fn a_wait_is_read_only_where_there_is_another_attempt() {
        let hint = |code, text: &'static str| {
            let reply = Reply { code, enhanced: None, text: text.into() };
            of_reply(Stage::Rcpt, &reply).and_then(|verdict| verdict.hint).map(|wait| wait.as_secs())
        };
        assert_eq!(hint(451, "greylisted, try again in 5 minutes"), Some(300));
        assert_eq!(hint(550, "no such user, do not try again in 5 minutes"), None);
    }
}
