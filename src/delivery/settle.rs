//! From how an attempt ended to what becomes of the entry.

use std::sync::Arc;

use super::mask::mask_reply;
use crate::clock::Timestamp;
use crate::destination::mx::RouteError;
use crate::plan::action::{Action, Finality, Retry, action};
use crate::plan::cause::{self, Cause, Verdict};
use crate::plan::greylist::{Facts, Greylister, Refusal};
use crate::plan::next::{History, Next, believable, decide, held_back};
use crate::queue::claim::{Claim, Gone, Report, Settlement};
use crate::queue::entry::SignedContent;
use crate::queue::greylists::Triplet;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage};
use crate::smtp::reply::Reply;

/// What is to be learned from an attempt that came to a reply about the recipient or the message.
pub(super) struct Lesson {
    pub(super) triplet: Triplet,
    /// Who replied.
    pub(super) by: Greylister,
    /// When the transaction began.
    pub(super) began: Timestamp,
}

/// The receiver took it.
pub(super) fn delivered(
    claim: Claim,
    reply: &Reply,
    content: &SignedContent,
    mut report: Report,
    lesson: &Lesson,
    now: Timestamp,
) {
    report.reply = Some(kept(reply, content));
    claim.note(claim.greylists().accepted(&lesson.triplet, lesson.began));
    claim.settle(&Settlement::Delivered, report, now);
}

/// The receiver did not take it, or nobody knows.
pub(super) fn not_delivered(
    claim: Claim,
    failure: &Failure,
    content: &SignedContent,
    mut report: Report,
    lesson: Option<Lesson>,
    now: Timestamp,
) {
    report.reply = match &failure.fault {
        Fault::Reply(reply) => Some(kept(reply, content)),
        Fault::Timeout => Some(format!("no answer at {}", failure.stage.name()).into()),
        Fault::Closed => Some(format!("connection lost at {}", failure.stage.name()).into()),
        Fault::Malformed(error) => Some(format!("{error} at {}", failure.stage.name()).into()),
        Fault::Tls(error) => Some(format!("TLS: {error}").into()),
        Fault::Unsupported(requirement) => Some(lacking(*requirement).into()),
    };
    let verdict = cause::of_failure(failure);
    report.may_have_arrived = verdict.cause == Cause::OutcomeUnknown;
    put_off(claim, verdict, report, lesson, now);
}

/// Nobody answers at the destination for some time now, so the attempt ended before it began.
pub(super) fn not_tried(claim: Claim, destination: Arc<str>, now: Timestamp) {
    let report = Report {
        destination: Some(destination),
        note: Some("not tried: nobody answers there; it is asked every 10 s whether it is back".into()),
        ..Report::default()
    };
    let nobody = Failure { stage: Stage::Connect, fault: Fault::Closed };
    put_off(claim, cause::of_failure(&nobody), report, None, now);
}

/// Where a triplet waits already, and an attempt now would begin its wait anew: the attempt is over before it began.
/// Otherwise the claim comes back.
pub(super) fn unless_held_back(claim: Claim, triplet: &Triplet, now: Timestamp) -> Option<Claim> {
    let standing = claim.greylists().standing(triplet).filter(|_| claim.progress().attempts == 1);
    let Some((facts, wait)) = standing else { return Some(claim) };
    let Some(next_attempt_at) = held_back(&history(&claim, wait.first_refused_at), &facts, &wait, now) else {
        return Some(claim);
    };
    let report = Report {
        destination: wait.by.map(|by| by.host),
        cause: Some(Cause::Greylisted.name()),
        plan: Some("an earlier message waits here already; asking now would begin the wait anew"),
        ..Report::default()
    };
    claim.settle(&Settlement::Deferred { next_attempt_at }, report, now);
    None
}

/// There is no way to the recipient's domain.
pub(super) fn without_route(claim: Claim, error: &RouteError, now: Timestamp) {
    let domain = claim.message().recipient(claim.id().index).mailbox.domain_key();
    let report =
        Report { destination: Some(domain.into()), reply: Some(error.to_string().into()), ..Report::default() };
    put_off(claim, cause::of_route(error), report, None, now);
}

/// The content cannot be read back from the store.
pub(super) fn without_content(claim: Claim, now: Timestamp) {
    let report = Report {
        cause: Some(Cause::OtherPerm.name()),
        reply: Some("the stored content cannot be read".into()),
        ..Report::default()
    };
    claim.settle(&Settlement::Failed, report, now);
}

/// The entry's life ended during the attempt, or it was taken away.
pub(super) fn gone(claim: Claim, gone: Gone, report: Report, now: Timestamp) {
    match gone {
        Gone::Expired => claim.settle(&Settlement::Expired, report, now),
        // Whoever took it away has said so.
        Gone::Ended => drop(claim),
    }
}

fn put_off(claim: Claim, verdict: Verdict, mut report: Report, lesson: Option<Lesson>, now: Timestamp) {
    report.cause = Some(verdict.cause.name());
    report.suppress = verdict.action.suppress;
    let message = claim.message();
    if report.may_have_arrived && claim.is_at_most_once() {
        claim.settle(&Settlement::Failed, report, now);
        return;
    }
    let (verdict, waits_since, facts) = learn(&claim, verdict, lesson, now);
    let history = history(&claim, waits_since.or(claim.progress().first_deferred_at).unwrap_or(now));
    let (next, reason) = decide(verdict, &history, &facts, now);
    report.plan = Some(reason.text());
    report.at_risk = reason.is_tight() || is_down(verdict.cause) && history.attempts > 1;
    let settlement = match next {
        Next::At(next_attempt_at) => Settlement::Deferred { next_attempt_at },
        Next::Expire => Settlement::Deferred { next_attempt_at: message.expires_at },
        Next::GiveUp => Settlement::Failed,
    };
    claim.settle(&settlement, report, now);
}

fn history(claim: &Claim, first_deferred_at: Timestamp) -> History {
    History {
        accepted_at: claim.message().accepted_at,
        expires_at: claim.message().expires_at,
        first_deferred_at,
        attempts: claim.progress().attempts,
        spread: spread(claim),
    }
}

/// Takes down that a stranger was refused: since when the triplet waits, for this message or an older one, and what is
/// known of the destination. Whoever has passed lately is no stranger; then the reply means only what it says.
fn learn(
    claim: &Claim,
    verdict: Verdict,
    lesson: Option<Lesson>,
    now: Timestamp,
) -> (Verdict, Option<Timestamp>, Facts) {
    let Some(lesson) = lesson.filter(|_| verdict.action.retry == Retry::Ladder) else {
        return (verdict, None, Facts::default());
    };
    let greylists = claim.greylists();
    if verdict.cause != Cause::Greylisted && greylists.has_passed(&lesson.triplet, now) {
        let action = Action { next_mx: false, ..action(verdict.cause, Finality::Temporary) };
        return (Verdict { action, ..verdict }, None, Facts::default());
    }
    let Lesson { triplet, by, began } = lesson;
    let refusal = Refusal { asked: believable(verdict.hint), by: Some(by), began, ended: now };
    let (wait, facts, rows) = greylists.refused(&triplet, refusal);
    claim.note(rows);
    (verdict, Some(wait.first_refused_at), facts)
}

/// From 0 to 1, another for each entry and attempt.
fn spread(claim: &Claim) -> f64 {
    let mixed = claim
        .id()
        .message
        .to_bytes()
        .iter()
        .fold(claim.progress().attempts, |mixed, byte| (mixed ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    f64::from(mixed) / f64::from(u32::MAX)
}

/// Nobody is there to say when it will be better.
fn is_down(cause: Cause) -> bool {
    matches!(cause, Cause::Unreachable | Cause::DnsFailure | Cause::ConnectionLost)
}

fn kept(reply: &Reply, content: &SignedContent) -> Arc<str> {
    mask_reply(&reply.to_string(), content).into()
}

fn lacking(requirement: Requirement) -> &'static str {
    match requirement {
        Requirement::SmtpUtf8 => "the host does not offer SMTPUTF8, which the addresses need",
        Requirement::RequireTls => "the host does not offer REQUIRETLS",
        Requirement::Size => "the message is larger than the host accepts",
        Requirement::StartTls => "the host does not offer STARTTLS",
        Requirement::VerifiedTls => "the password is only for a host with a verified certificate",
        Requirement::Login => "the host offers no AUTH mechanism that is known here",
        Requirement::ServerProof => "the host does not keep to its AUTH mechanism",
    }
}
