//! From how an attempt ended to what becomes of the entry.

use std::sync::Arc;
use std::time::Duration;

use super::judged_failure::JudgedFailure;
use super::mask::Mask;
use super::next_hop::NextHop;
use super::next_hops::NextHops;
use super::peer::{Lesson, Peer};
use super::planning::{held_back_until, learn, life, plan_after};
use super::wording::describe;
use crate::base::clock::Timestamp;
use crate::destination::route::RouteError;
use crate::event::cause::Cause;
use crate::event::{Attempted, Suppress};
use crate::greylist::table::Triplet;
use crate::ledger::entry::LostClaim;
use crate::policy::action::{Action, Finality};
use crate::policy::cause::{self, Verdict, concerns_message};
use crate::policy::failover::{self, Choice, Relayed};
use crate::policy::next::Next;
use crate::policy::parties::Parties;
use crate::queue::claim::{Claim, Settlement};
use crate::smtp::client_session::{Failure, Fault, Stage};

/// How long to leave a store alone that did not hand out content, or did not take a note.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// An entry whose attempt is over, and when that was.
pub(super) struct EndedAttempt<'a> {
    pub(super) claim: &'a mut Claim,
    pub(super) hops: &'a NextHops,
    pub(super) now: Timestamp,
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

impl EndedAttempt<'_> {
    /// The receiver took it.
    pub(super) fn delivered(self, reply: &str, from: Peer) -> Settlement {
        let Peer { mut attempted, notifies, lesson } = from;
        attempted.reply = Some(reply.into());
        if let Some(lesson) = lesson {
            self.claim.store_greylisting(self.claim.greylists().accepted(&lesson.triplet, lesson.began));
        }
        if let NextHop::SmartHost(host) = &self.hops.via {
            host.answered(Some(self.now.since(self.hops.since)));
            let why = self.hops.failover(self.claim, self.now).called_by.text();
            let tls = attempted.note.map(|tls| format!("{tls}; ")).unwrap_or_default();
            attempted.note = Some(format!("{tls}smart host {}: {why}", host.settings.name).into());
        }
        Settlement::Delivered { attempted, notifies }
    }

    /// The receiver did not take it, or nobody knows.
    pub(super) fn not_delivered(self, judged: &JudgedFailure, mask: &Mask, mut from: Peer) -> Settlement {
        let failure = &judged.failure;
        let reply = match &failure.fault {
            Fault::Reply(_) => mask.apply(&describe(failure)).into(),
            Fault::Timeout
            | Fault::Closed
            | Fault::Malformed(_)
            | Fault::Tls(_)
            | Fault::Unsupported(_)
            | Fault::Ours(_) => describe(failure),
        };
        let verdict = self.verdict_on(judged, from.lesson.as_ref());
        from.attempted.may_have_arrived = verdict.cause == Cause::OutcomeUnknown;
        if let NextHop::SmartHost(host) = &self.hops.via {
            host.came_to(failure, &reply, self.now);
        }
        from.attempted.reply = Some(reply);
        let about = if is_about_message(failure) { About::Message } else { About::Host };
        self.put_off(verdict, about, from)
    }

    /// The smart host has failed lately and is left alone: the attempt is over before it began.
    pub(super) fn resting(self) -> Settlement {
        let mut from = Peer::at(self.hops.via.host().cloned());
        from.attempted.reply = Some("it failed lately and is left alone for a moment".into());
        self.put_off(Verdict::of(Cause::Unreachable, Finality::Temporary), About::Nothing, from)
    }

    /// Nobody answers at the destination for some time now, so the attempt ended before it began.
    pub(super) fn not_tried(self, destination: Arc<str>) -> Settlement {
        let note = "not tried: nobody answers there; it is asked every 10 s whether it is back";
        let from = Peer::at(Some(destination)).with_note(note);
        self.put_off(Verdict::of(Cause::Unreachable, Finality::Temporary), About::Nothing, from)
    }

    /// Where a triplet waits already, and an attempt now would begin its wait anew: the attempt is over before it began.
    pub(super) fn held_back(&self, triplet: Option<&Triplet>) -> Option<Settlement> {
        let (next_attempt_at, by) = held_back_until(self.claim, triplet, self.now)?;
        let attempted = Attempted {
            destination: by.map(|by| by.host),
            cause: Some(Cause::Greylisted),
            plan: Some("an earlier message waits here already; asking now would begin the wait anew".into()),
            ..Attempted::default()
        };
        Some(Settlement::put_off(attempted, next_attempt_at))
    }

    /// There is no route to the recipient's domain, or to the smart host.
    pub(super) fn without_route(self, error: &RouteError) -> Settlement {
        let (destination, verdict) = match &self.hops.via {
            NextHop::Direct => (self.claim.domain().into(), cause::of_route(error)),
            NextHop::SmartHost(host) => {
                (host.settings.host.clone(), Verdict::of(Cause::DnsFailure, Finality::Temporary))
            }
        };
        let mut from = Peer::at(Some(destination));
        from.attempted.reply = Some(error.to_string().into());
        self.put_off(verdict, About::Host, from)
    }

    /// The note that the content goes could not be written, so nothing was sent: the store is in trouble.
    pub(super) fn not_noted(self, from: Peer) -> Settlement {
        let from = from.with_note("the attempt cannot be stored just now");
        Settlement::put_off(from.attempted, self.now.plus(STORE_PAUSE))
    }

    /// What a failure comes to. Without a transaction at the recipient's own hosts nothing was said of the recipient.
    fn verdict_on(&self, judged: &JudgedFailure, lesson: Option<&Lesson>) -> Verdict {
        let verdict = judged.verdict;
        let Some(lesson) = lesson else {
            return Verdict { action: Action { suppress: Suppress::No, ..verdict.action }, ..verdict };
        };
        let recipient = &self.claim.message().recipient(self.claim.id().index).mailbox;
        cause::between(verdict, &judged.failure, &Parties { sender: &lesson.sender, recipient })
    }

    fn put_off(self, verdict: Verdict, about: About, from: Peer) -> Settlement {
        let Peer { mut attempted, lesson, .. } = from;
        attempted.cause = Some(verdict.cause);
        if attempted.may_have_arrived && self.claim.is_at_most_once() {
            return Settlement::Failed { attempted, suppress: Suppress::No };
        }
        match self.hops.via {
            NextHop::Direct => self.after_direct(verdict, attempted, lesson),
            NextHop::SmartHost(_) => self.after_smart_host(verdict, about, attempted),
        }
    }

    fn after_direct(self, verdict: Verdict, mut attempted: Attempted, lesson: Option<Lesson>) -> Settlement {
        let (now, suppress) = (self.now, verdict.action.suppress);
        let (verdict, waits_since, facts) = learn(self.claim, verdict, lesson, now);
        let plan = plan_after(self.claim, &verdict, waits_since, &facts, now);
        attempted.plan = Some(plan.1.text().into());
        let at_risk = plan.1.is_tight() || is_down(verdict.cause) && self.claim.progress().attempts > 1;
        let hosts = self.hops.candidates(&[], now);
        let choice = failover::after_direct(&verdict, plan, life(self.claim), &hosts, now);
        match self.follow(choice, Vec::new(), &mut attempted) {
            Some(next_attempt_at) => Settlement::Deferred { attempted, next_attempt_at, at_risk },
            None => Settlement::Failed { attempted, suppress },
        }
    }

    /// What a smart host says is never held against the recipient's address: it may be mistaken, or we in using it.
    fn after_smart_host(self, verdict: Verdict, about: About, mut attempted: Attempted) -> Settlement {
        let mut failover = self.hops.failover(self.claim, self.now);
        if about != About::Nothing {
            failover.tried.push(failover.host.clone());
        }
        let hosts = self.hops.candidates(&failover.tried, self.now);
        let said = (about == About::Message).then_some(&verdict);
        let choice = failover::after_smart_host(said, &failover, life(self.claim), &hosts, self.now);
        let at_risk = choice == Choice::Direct(Next::Expire);
        if let Choice::SmartHost { host, .. } = choice
            && hosts[host].is_tried
        {
            // A new round.
            failover.tried.clear();
        }
        match self.follow(choice, failover.tried, &mut attempted) {
            Some(next_attempt_at) => Settlement::Deferred { attempted, next_attempt_at, at_risk },
            None => Settlement::Failed { attempted, suppress: Suppress::No },
        }
    }

    /// Keeps with the entry where it goes next, and says so. When that is; none: never.
    fn follow(self, choice: Choice, tried: Vec<Arc<str>>, attempted: &mut Attempted) -> Option<Timestamp> {
        let (failover, at, next) = match choice {
            Choice::Direct(Next::GiveUp) => (None, None, None),
            Choice::Direct(next) => {
                let at = if let Next::At(at) = next { at } else { self.claim.message().expires_at };
                let said = self.hops.via.smart_host().map(|_| "next directly to the destination".to_owned());
                (None, Some(at), said.filter(|_| next != Next::Expire))
            }
            Choice::SmartHost { host, at, called_by, direct_at } => {
                attempted.plan = Some(called_by.text().into());
                let name = self.hops.name(host);
                let said = name.map(|host| format!("next via the smart host {host}: {}", called_by.text()));
                (name.map(|host| Relayed { host: host.clone(), called_by, direct_at, tried }), Some(at), said)
            }
        };
        self.claim.go_by(failover);
        if let Some(next) = next {
            attempted.note = Some(next.into());
        }
        at
    }
}

/// The content cannot be read back from the store.
pub(super) fn without_content() -> Settlement {
    let reply = Some("the stored content cannot be read".into());
    let attempted = Attempted { cause: Some(Cause::OtherPerm), reply, ..Attempted::default() };
    Settlement::Failed { attempted, suppress: Suppress::No }
}

/// The content cannot be had for now: the store is in trouble, or the relay is about to end.
pub(super) fn content_withheld(now: Timestamp) -> Settlement {
    let note = Some("the stored content cannot be read just now".into());
    Settlement::put_off(Attempted { note, ..Attempted::default() }, now.plus(STORE_PAUSE))
}

/// The hosts take no more sessions at once, and one is there: the entry goes next on that. Nothing has come of it.
pub(super) fn waits_for_session(failure: &Failure, mask: &Mask, from: Peer) -> Settlement {
    let mut attempted = from.attempted;
    attempted.reply = match &failure.fault {
        Fault::Reply(reply) => Some(mask.apply(&reply.line()).into()),
        Fault::Timeout
        | Fault::Closed
        | Fault::Malformed(_)
        | Fault::Tls(_)
        | Fault::Unsupported(_)
        | Fault::Ours(_) => Some(describe(failure)),
    };
    attempted.note = Some("waits for a session that is there: the host takes no more at once".into());
    Settlement::Released(attempted)
}

/// The entry's life ended during the attempt, or it was taken away.
pub(super) fn lost_claim(gone: LostClaim, from: Peer) -> Settlement {
    match gone {
        LostClaim::Expired => Settlement::Expired(from.attempted),
        // Whoever took it away has said so; what is released here is no longer ours, and stays as it is.
        LostClaim::Ended | LostClaim::NotNow => Settlement::Released(from.attempted),
    }
}

/// Whether a smart host spoke of the recipient or the content. What it says to MAIL is about us.
fn is_about_message(failure: &Failure) -> bool {
    matches!(failure.fault, Fault::Reply(_)) && failure.stage != Stage::Mail && concerns_message(failure.stage)
}

/// Nobody is there to say when it will be better.
fn is_down(cause: Cause) -> bool {
    matches!(cause, Cause::Unreachable | Cause::DnsFailure | Cause::ConnectionLost)
}

#[cfg(test)]
mod tests;
