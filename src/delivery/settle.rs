//! From how an attempt ended to what becomes of the entry.

use std::sync::Arc;
use std::time::Duration;

use super::judged::Judged;
use super::mask::Mask;
use super::smart_host::{Tls, Ways};
use crate::clock::Timestamp;
use crate::destination::route::RouteError;
use crate::event::cause::Cause;
use crate::event::{Attempted, Step, Suppress};
use crate::mail::address::ReversePath;
use crate::plan::action::{Action, Finality, Retry, action};
use crate::plan::cause::{self, Verdict, concerns_message};
use crate::plan::greylist::{Facts, Greylister, Refusal};
use crate::plan::next::{Next, believable, decide, held_back};
use crate::plan::parties::Parties;
use crate::plan::step::{History, Reason};
use crate::plan::way::{self, Choice, Detour, Life};
use crate::queue::claim::{Claim, Gone, Settlement};
use crate::queue::greylists::Triplet;
use crate::smtp::client_session::{Failure, Fault, Requirement, Stage};
use crate::smtp::reply::Reply;

/// How long to leave a store alone that did not hand out content, or did not take a note.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// What is to be learned from an attempt that came to a reply about the recipient or the message.
pub(super) struct Lesson {
    pub(super) triplet: Triplet,
    /// What MAIL said.
    pub(super) sender: ReversePath,
    /// Who replied.
    pub(super) by: Greylister,
    /// When the transaction began.
    pub(super) began: Timestamp,
}

/// What is told and learned of the session in which an attempt ended.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) attempted: Attempted,
    /// Whether the host notifies the sender of a success itself.
    pub(super) notifies: bool,
    pub(super) lesson: Option<Lesson>,
}

impl Peer {
    /// A host of which nothing is known but its name, or none at all.
    pub(super) fn at(destination: Option<Arc<str>>) -> Self {
        Self { attempted: Attempted { destination, ..Attempted::default() }, ..Self::default() }
    }

    /// A host that said nothing to the end.
    pub(super) fn silent(host: Arc<str>, judged: &Judged) -> Self {
        let (cause, reply) = (Some(judged.verdict.cause), Some(told(&judged.failure)));
        Self {
            attempted: Attempted { destination: Some(host), cause, reply, ..Attempted::default() },
            ..Self::default()
        }
    }

    pub(super) fn with_steps(mut self, steps: Option<Arc<[Step]>>) -> Self {
        self.attempted.steps = steps;
        self
    }

    pub(super) fn with_note(mut self, note: &str) -> Self {
        self.attempted.note = Some(note.into());
        self
    }
}

/// The receiver took it.
pub(super) fn delivered(claim: Claim, reply: &Reply, mask: &Mask, from: Peer, ways: &Ways, now: Timestamp) {
    let Peer { mut attempted, notifies, lesson } = from;
    attempted.reply = Some(kept(reply, mask));
    if let Some(lesson) = lesson {
        claim.note(claim.greylists().accepted(&lesson.triplet, lesson.began));
    }
    if let Some(by) = &ways.by {
        by.answered(Some(now.since(ways.since)));
        let why = ways.detour(&claim, now).called_by.text();
        let tls = attempted.note.map(|tls| format!("{tls}; ")).unwrap_or_default();
        attempted.note = Some(format!("{tls}smart host {}: {why}", by.host.name).into());
    }
    claim.settle(Settlement::Delivered { attempted, notifies }, now);
}

/// The receiver did not take it, or nobody knows.
pub(super) fn not_delivered(claim: Claim, judged: &Judged, mask: &Mask, mut from: Peer, ways: &Ways, now: Timestamp) {
    let failure = &judged.failure;
    let reply = match &failure.fault {
        Fault::Reply(_) => mask.apply(&told(failure)).into(),
        Fault::Timeout
        | Fault::Closed
        | Fault::Malformed(_)
        | Fault::Tls(_)
        | Fault::Unsupported(_)
        | Fault::Ours(_) => told(failure),
    };
    let verdict = verdict_on(judged, &claim, from.lesson.as_ref());
    from.attempted.may_have_arrived = verdict.cause == Cause::OutcomeUnknown;
    if let Some(by) = &ways.by {
        if is_of_host(failure, by.host.tls) {
            by.failed(failure, &reply, now);
        } else if failure.stage != Stage::Connect {
            by.answered(None);
        }
    }
    from.attempted.reply = Some(reply);
    let about = if is_about_message(failure) { About::Message } else { About::Host };
    put_off(claim, (verdict, about), from, ways, now);
}

/// What a failure comes to. Without a transaction at the recipient's own hosts nothing was said of the recipient.
fn verdict_on(judged: &Judged, claim: &Claim, lesson: Option<&Lesson>) -> Verdict {
    let verdict = judged.verdict;
    let Some(lesson) = lesson else {
        return Verdict { action: Action { suppress: Suppress::No, ..verdict.action }, ..verdict };
    };
    let recipient = &claim.message().recipient(claim.id().index).mailbox;
    cause::between(verdict, &judged.failure, &Parties { sender: &lesson.sender, recipient })
}

/// What went wrong, for people. A reply about a message is to be masked first.
pub(super) fn told(failure: &Failure) -> Arc<str> {
    let stage = failure.stage.name();
    let text = match &failure.fault {
        Fault::Reply(reply) if !reply.is_refusal() => format!("{reply}, which is no answer to {stage}"),
        Fault::Reply(reply) => reply.to_string(),
        Fault::Timeout => format!("no answer at {stage}"),
        Fault::Closed => format!("connection lost at {stage}"),
        Fault::Malformed(error) => format!("{error} at {stage}"),
        Fault::Tls(error) => format!("TLS: {error}"),
        Fault::Unsupported(requirement) => lacking(*requirement).to_owned(),
        Fault::Ours(what) => what.clone(),
    };
    text.into()
}

/// The smart host has failed lately and is left alone: the attempt is over before it began. Otherwise the claim comes
/// back.
pub(super) fn unless_resting(claim: Claim, ways: &Ways, now: Timestamp) -> Option<Claim> {
    let Some(by) = ways.by.as_ref().filter(|by| by.enter(now).is_err()) else { return Some(claim) };
    let mut from = Peer::at(Some(by.host.host.clone()));
    from.attempted.reply = Some("it failed lately and is left alone for a moment".into());
    let verdict = Verdict::of(Cause::Unreachable, Finality::Temporary);
    put_off(claim, (verdict, About::Nothing), from, ways, now);
    None
}

/// Nobody answers at the destination for some time now, so the attempt ended before it began.
pub(super) fn not_tried(claim: Claim, destination: Arc<str>, ways: &Ways, now: Timestamp) {
    let note = "not tried: nobody answers there; it is asked every 10 s whether it is back";
    let verdict = Verdict::of(Cause::Unreachable, Finality::Temporary);
    put_off(claim, (verdict, About::Nothing), Peer::at(Some(destination)).with_note(note), ways, now);
}

/// Where a triplet waits already, and an attempt now would begin its wait anew: the attempt is over before it began.
/// Otherwise the claim comes back.
pub(super) fn unless_held_back(claim: Claim, triplet: Option<&Triplet>, now: Timestamp) -> Option<Claim> {
    let triplet = triplet.filter(|_| claim.progress().attempts == 1);
    let standing = triplet.and_then(|triplet| claim.greylists().standing(triplet, now));
    let Some((facts, wait)) = standing else { return Some(claim) };
    let Some(next_attempt_at) = held_back(&history(&claim, wait.first_refused_at), &facts, &wait, now) else {
        return Some(claim);
    };
    let attempted = Attempted {
        destination: wait.by.map(|by| by.host),
        cause: Some(Cause::Greylisted),
        plan: Some("an earlier message waits here already; asking now would begin the wait anew".into()),
        ..Attempted::default()
    };
    claim.settle(Settlement::put_off(attempted, next_attempt_at), now);
    None
}

/// There is no way to the recipient's domain, or to the smart host.
pub(super) fn without_route(claim: Claim, error: &RouteError, ways: &Ways, now: Timestamp) {
    let destination = ways.by.as_ref().map_or_else(|| claim.domain().into(), |by| by.host.host.clone());
    let mut from = Peer::at(Some(destination));
    from.attempted.reply = Some(error.to_string().into());
    let verdict = match ways.by {
        None => cause::of_route(error),
        Some(_) => Verdict::of(Cause::DnsFailure, Finality::Temporary),
    };
    put_off(claim, (verdict, About::Host), from, ways, now);
}

/// The content cannot be read back from the store.
pub(super) fn without_content(claim: Claim, now: Timestamp) {
    let reply = Some("the stored content cannot be read".into());
    let attempted = Attempted { cause: Some(Cause::OtherPerm), reply, ..Attempted::default() };
    claim.settle(Settlement::Failed { attempted, suppress: Suppress::No }, now);
}

/// The content cannot be had for now: the store is in trouble, or the relay is about to end.
pub(super) fn content_withheld(claim: Claim, now: Timestamp) {
    let attempted =
        Attempted { note: Some("the stored content cannot be read just now".into()), ..Attempted::default() };
    claim.settle(Settlement::put_off(attempted, now.plus(STORE_PAUSE)), now);
}

/// The hosts take no more sessions at once, and one is there: the entry goes next on that. Nothing has come of it.
pub(super) fn waits_for_session(claim: Claim, failure: &Failure, mask: &Mask, from: Peer, now: Timestamp) {
    let mut attempted = from.attempted;
    attempted.reply = match &failure.fault {
        Fault::Reply(reply) => Some(kept(reply, mask)),
        Fault::Timeout
        | Fault::Closed
        | Fault::Malformed(_)
        | Fault::Tls(_)
        | Fault::Unsupported(_)
        | Fault::Ours(_) => Some(told(failure)),
    };
    attempted.note = Some("waits for a session that is there: the host takes no more at once".into());
    claim.settle(Settlement::Released(attempted), now);
}

/// The note that the content goes could not be written, so nothing was sent: the store is in trouble.
pub(super) fn not_noted(claim: Claim, from: Peer, now: Timestamp) {
    let from = from.with_note("the attempt cannot be stored just now");
    claim.settle(Settlement::put_off(from.attempted, now.plus(STORE_PAUSE)), now);
}

/// The entry's life ended during the attempt, or it was taken away.
pub(super) fn gone(claim: Claim, gone: Gone, from: Peer, now: Timestamp) {
    match gone {
        Gone::Expired => claim.settle(Settlement::Expired(from.attempted), now),
        // Whoever took it away has said so; what is released here is no longer ours, and stays as it is.
        Gone::Ended => claim.settle(Settlement::Released(from.attempted), now),
    }
}

/// What the end of an attempt says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The message or its recipient.
    Message,
    /// The host, or the session with it.
    Host,
    /// Nothing: there was no attempt.
    Nothing,
}

fn put_off(mut claim: Claim, (verdict, about): (Verdict, About), from: Peer, ways: &Ways, now: Timestamp) {
    let Peer { mut attempted, lesson, .. } = from;
    attempted.cause = Some(verdict.cause);
    if attempted.may_have_arrived && claim.is_at_most_once() {
        claim.settle(Settlement::Failed { attempted, suppress: Suppress::No }, now);
        return;
    }
    let settlement = if ways.by.is_some() {
        after_smart_host(&mut claim, (verdict, about), attempted, ways, now)
    } else {
        after_direct(&mut claim, verdict, attempted, lesson, ways, now)
    };
    claim.settle(settlement, now);
}

fn after_direct(
    claim: &mut Claim,
    verdict: Verdict,
    mut attempted: Attempted,
    lesson: Option<Lesson>,
    ways: &Ways,
    now: Timestamp,
) -> Settlement {
    let suppress = verdict.action.suppress;
    let (verdict, waits_since, facts) = learn(claim, verdict, lesson, now);
    let plan = plan_after(claim, &verdict, waits_since, &facts, now);
    attempted.plan = Some(plan.1.text().into());
    let at_risk = plan.1.is_tight() || is_down(verdict.cause) && claim.progress().attempts > 1;
    let hosts = ways.candidates(&[], now);
    let choice = way::after_direct(&verdict, plan, life(claim), &hosts, now);
    match follow(claim, choice, Vec::new(), &mut attempted, ways) {
        Some(next_attempt_at) => Settlement::Deferred { attempted, next_attempt_at, at_risk },
        None => Settlement::Failed { attempted, suppress },
    }
}

/// What a smart host says is never held against the recipient's address: it may be mistaken, or we in using it.
fn after_smart_host(
    claim: &mut Claim,
    (verdict, about): (Verdict, About),
    mut attempted: Attempted,
    ways: &Ways,
    now: Timestamp,
) -> Settlement {
    let mut detour = ways.detour(claim, now);
    if about != About::Nothing {
        detour.tried.push(detour.host.clone());
    }
    let hosts = ways.candidates(&detour.tried, now);
    let said = (about == About::Message).then_some(&verdict);
    let choice = way::after_smart_host(said, &detour, life(claim), &hosts, now);
    let at_risk = choice == Choice::Direct(Next::Expire);
    if let Choice::SmartHost { host, .. } = choice
        && hosts[host].is_tried
    {
        // A new round.
        detour.tried.clear();
    }
    match follow(claim, choice, detour.tried, &mut attempted, ways) {
        Some(next_attempt_at) => Settlement::Deferred { attempted, next_attempt_at, at_risk },
        None => Settlement::Failed { attempted, suppress: Suppress::No },
    }
}

/// Keeps with the entry which way it goes next, and says so. When that is; none: never.
fn follow(
    claim: &mut Claim,
    choice: Choice,
    tried: Vec<Arc<str>>,
    attempted: &mut Attempted,
    ways: &Ways,
) -> Option<Timestamp> {
    let (detour, at, next) = match choice {
        Choice::Direct(Next::GiveUp) => (None, None, None),
        Choice::Direct(next) => {
            let at = if let Next::At(at) = next { at } else { claim.message().expires_at };
            let said = ways.by.as_ref().map(|_| "next straight to the destination".to_owned());
            (None, Some(at), said.filter(|_| next != Next::Expire))
        }
        Choice::SmartHost { host, at, called_by, direct_at } => {
            attempted.plan = Some(called_by.text().into());
            let detour = ways.name(host).map(|host| Detour { host: host.clone(), called_by, direct_at, tried });
            let said = ways.name(host).map(|host| format!("next by the smart host {host}: {}", called_by.text()));
            (detour, Some(at), said)
        }
    };
    claim.go_by(detour);
    if let Some(next) = next {
        attempted.note = Some(next.into());
    }
    at
}

/// When the next attempt would be made if the entry were put off for this now; none if there would be no other.
pub(super) fn planned_after(
    claim: &Claim,
    judged: &Judged,
    triplet: Option<&Triplet>,
    now: Timestamp,
) -> Option<Timestamp> {
    let standing = triplet.and_then(|triplet| claim.greylists().standing(triplet, now));
    let (facts, since) = standing.map_or_else(Default::default, |(facts, wait)| (facts, Some(wait.first_refused_at)));
    match plan_after(claim, &judged.verdict, since, &facts, now).0 {
        Next::At(at) => Some(at),
        Next::Expire | Next::GiveUp => None,
    }
}

/// Whether the entry would go by another way at once if the attempt ended with this now.
pub(super) fn has_another_way(claim: &Claim, judged: &Judged, ways: &Ways, now: Timestamp) -> bool {
    let verdict = &judged.verdict;
    let (choice, hosts) = if ways.by.is_some() {
        let mut detour = ways.detour(claim, now);
        detour.tried.push(detour.host.clone());
        let hosts = ways.candidates(&detour.tried, now);
        (way::after_smart_host(None, &detour, life(claim), &hosts, now), hosts)
    } else {
        let hosts = ways.candidates(&[], now);
        let plan = plan_after(claim, verdict, None, &Facts::default(), now);
        (way::after_direct(verdict, plan, life(claim), &hosts, now), hosts)
    };
    match choice {
        Choice::SmartHost { host, at, .. } => at <= now && !hosts[host].is_tried,
        Choice::Direct(Next::At(at)) => ways.by.is_some() && at <= now,
        Choice::Direct(Next::Expire | Next::GiveUp) => false,
    }
}

fn plan_after(
    claim: &Claim,
    verdict: &Verdict,
    waits_since: Option<Timestamp>,
    facts: &Facts,
    now: Timestamp,
) -> (Next, Reason) {
    let since = waits_since.or(claim.progress().first_deferred_at).unwrap_or(now);
    decide(*verdict, &history(claim, since), facts, now)
}

fn life(claim: &Claim) -> Life {
    Life { accepted_at: claim.message().accepted_at, expires_at: claim.message().expires_at }
}

/// Whether it speaks against a smart host: it did not answer, or wants no session with us. Where its certificate is judged
/// only because a message requires that, it is well enough for others.
fn is_of_host(failure: &Failure, tls: Tls) -> bool {
    match &failure.fault {
        Fault::Reply(reply) => !concerns_message(failure.stage) || reply.code == 421,
        Fault::Ours(_) => false,
        Fault::Unsupported(
            Requirement::SmtpUtf8 | Requirement::RequireTls | Requirement::Size | Requirement::EightBitMime,
        ) => false,
        Fault::Unsupported(Requirement::StartTls) | Fault::Tls(_) => tls.is_verified(),
        Fault::Unsupported(
            Requirement::VerifiedTls | Requirement::Login | Requirement::ServerProof | Requirement::FewerRounds,
        )
        | Fault::Timeout
        | Fault::Closed
        | Fault::Malformed(_) => true,
    }
}

/// Whether a smart host spoke of the recipient or the content. What it says to MAIL is about us.
fn is_about_message(failure: &Failure) -> bool {
    matches!(failure.fault, Fault::Reply(_)) && failure.stage != Stage::Mail && concerns_message(failure.stage)
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
    let Lesson { triplet, by, began, .. } = lesson;
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

fn kept(reply: &Reply, mask: &Mask) -> Arc<str> {
    mask.apply(&reply.to_string()).into()
}

fn lacking(requirement: Requirement) -> &'static str {
    match requirement {
        Requirement::SmtpUtf8 => "the host does not offer SMTPUTF8, which the addresses need",
        Requirement::RequireTls => "the host does not offer REQUIRETLS",
        Requirement::Size => "the message is larger than the host accepts",
        Requirement::EightBitMime => "the host does not offer 8BITMIME",
        Requirement::StartTls => "the host does not offer STARTTLS",
        Requirement::VerifiedTls => "the password is only for a host with a verified certificate",
        Requirement::Login => "the host offers no AUTH mechanism that is known here",
        Requirement::ServerProof => "the host does not keep to its AUTH mechanism",
        Requirement::FewerRounds => "the host asks for more than 1,000,000 rounds of PBKDF2 at AUTH",
    }
}
