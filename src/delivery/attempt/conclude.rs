//! The last stage of an attempt: from how it ended to the settlement of its entry, and what the site learns.

use std::sync::Arc;
use std::time::Instant;

use super::super::candidates::Candidates;
use super::super::crowd::Waits;
use super::super::judged_failure::JudgedFailure;
use super::super::lacking::{is_lacking, next_host_may_do, tries_next_address};
use super::super::limits::LearnedLimits;
use super::super::mask::Mask;
use super::super::peer::Peer;
use super::super::planning::planned_after;
use super::super::settle;
use super::loaded::LoadedEntry;
use super::{At, GAVE_WAY};
use crate::base::clock::Timestamp;
use crate::event::Step;
use crate::ledger::entry::LostClaim;
use crate::queue::claim::Claim;
use crate::smtp::client_session::{Failure, Fault, Stage};
use crate::smtp::reply::Reply;

pub(super) enum End {
    /// The receiver took the message.
    Delivered {
        reply: Reply,
        from: Peer,
        began: Instant,
    },
    /// The receiver did not take it, or nobody knows.
    NotDelivered {
        judged: JudgedFailure,
        from: Peer,
        at: Timestamp,
    },
    /// A host is slow, and there is another next hop at once.
    Slow {
        host: Arc<str>,
        judged: JudgedFailure,
    },
    Nobody,
    /// The session gave way to another before it came about.
    GaveWay,
    /// The entry is not to be sent any more.
    LostClaim(LostClaim, Option<Peer>),
    /// The note that the content goes could not be written.
    NotNoted(Peer),
}

impl End {
    /// Whether others may do better than those that were asked.
    pub(super) fn asks_others(&self) -> bool {
        match self {
            Self::Nobody => true,
            Self::NotDelivered { judged, .. } => next_host_may_do(judged) || tries_next_address(&judged.failure),
            Self::Delivered { .. } | Self::Slow { .. } | Self::GaveWay | Self::LostClaim(..) | Self::NotNoted(_) => {
                false
            }
        }
    }

    pub(super) fn reply<'a>(&'a self, candidates: &'a Candidates) -> Option<&'a Reply> {
        match self {
            Self::Delivered { reply, .. } => Some(reply),
            Self::NotDelivered { judged, .. } => judged.failure.reply(),
            Self::Nobody => candidates.last_failure.as_ref().and_then(|(_, last)| last.failure.reply()),
            Self::Slow { .. } | Self::GaveWay | Self::LostClaim(..) | Self::NotNoted(_) => None,
        }
    }
}

/// What is left of an attempt when it has ended.
pub(super) struct Conclusion<'a> {
    pub(super) at: At<'a>,
    pub(super) loaded: LoadedEntry,
    pub(super) candidates: Candidates,
    /// Whether a host took the connection and was slow.
    pub(super) met_slow_hosts: bool,
    /// What of the message is not to be seen in replies.
    pub(super) mask: Mask,
    pub(super) steps: Option<Arc<[Step]>>,
    /// Whether the entry waits for a session that is there.
    pub(super) waits: bool,
}

impl Conclusion<'_> {
    pub(super) fn settle(mut self, end: End) {
        let now = self.at.env.clock.now();
        let steps = self.steps.take();
        match end {
            End::Delivered { reply, from, began } => self.delivered(&reply, from.with_steps(steps), began, now),
            // A host that was not heard may have what the others lack.
            End::NotDelivered { judged, at, .. } if is_lacking(&judged.failure) && self.candidates.has_unheard() => {
                let last = self.candidates.last_failure.take();
                let (destination, judged) = last.map_or((None, judged), |(host, judged)| (Some(host), judged));
                self.not_delivered(&judged, Peer::at(destination).with_steps(steps), at);
            }
            End::NotDelivered { judged, from, at } => self.not_delivered(&judged, from.with_steps(steps), at),
            End::Slow { host, judged } => self.not_delivered(&judged, Peer::at(Some(host)).with_steps(steps), now),
            End::Nobody => self.nobody(steps, now),
            End::GaveWay => {
                let silent = Failure { stage: Stage::Connect, fault: Fault::Timeout }.into();
                let destination = self.candidates.last_failure.take().map(|(host, _)| host);
                self.not_delivered(&silent, Peer::at(destination).with_steps(steps).with_note(GAVE_WAY), now);
            }
            End::LostClaim(gone, from) => {
                let settlement = settle::lost_claim(gone, from.unwrap_or_default().with_steps(steps));
                self.loaded.claimed.settle(settlement, now);
            }
            End::NotNoted(from) => {
                let settlement = self.loaded.claimed.ended(now).not_noted(from.with_steps(steps));
                self.loaded.claimed.settle(settlement, now);
            }
        }
    }

    fn delivered(self, reply: &Reply, from: Peer, began: Instant, now: Timestamp) {
        let Self { at: At { env, site, held }, loaded: LoadedEntry { mut claimed, caller, .. }, mask, .. } = self;
        let instant = env.clock.instant();
        held.took_mail(instant);
        if site.succeeded(caller, began, instant) {
            env.sites.start_waiting(site);
        }
        let settlement = claimed.ended(now).delivered(&mask.apply(&reply.line()), from);
        claimed.settle(settlement, now);
    }

    fn not_delivered(mut self, judged: &JudgedFailure, from: Peer, at: Timestamp) {
        let settlement = self.loaded.claimed.ended(at).not_delivered(judged, &self.mask, from);
        self.loaded.claimed.settle(settlement, at);
    }

    fn nobody(self, steps: Option<Arc<[Step]>>, now: Timestamp) {
        let Self { at, loaded: LoadedEntry { mut claimed, caller, .. }, candidates, mask, .. } = self;
        let nobody = || Failure { stage: Stage::Connect, fault: Fault::Closed }.into();
        let last = candidates.last_failure;
        let (destination, judged) =
            last.clone().map_or_else(|| (None, nobody()), |(host, judged)| (Some(host), judged));
        let from = Peer::at(destination).with_steps(steps);
        if self.waits {
            return claimed.settle(settle::waits_for_session(&judged.failure, &mask, from), now);
        }
        let entry = claimed.claim.id();
        let settlement = claimed.ended(now).not_delivered(&judged, &mask, from);
        claimed.settle(settlement, now);
        if !self.met_slow_hosts {
            at.env.nobody_answered(at.site, last, &caller, Some(entry));
        }
    }
}

/// Whether an entry that came to no session waits for one that is there.
pub(super) fn waits_for_session(at: At<'_>, claim: &Claim, candidates: &Candidates) -> bool {
    let At { env, site, .. } = at;
    let Some((_, judged)) = &candidates.last_failure else { return false };
    if !env.turned_away(site, candidates) {
        return false;
    }
    let (now, instant) = (env.clock.now(), env.clock.instant());
    let planned = planned_after(claim, judged, None, now).unwrap_or(claim.message().expires_at);
    let waits = site.crowd(|crowd| crowd.turned_away(claim.id(), instant + planned.since(now), instant));
    if let Waits::Until(until) = waits {
        env.sites.allow_at(site, until, LearnedLimits::let_one_more);
    }
    waits != Waits::No
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_delivered(stage: Stage, fault: Fault) -> End {
        End::NotDelivered { judged: Failure { stage, fault }.into(), from: Peer::default(), at: Timestamp::default() }
    }

    #[test]
    fn others_are_asked_where_they_may_do_better_and_never_once_the_content_was_sent() {
        let reply = |code, text: &'static str| Fault::Reply(Reply::plain(code, text));
        let check = |stage, fault: Fault, expected| {
            assert_eq!(not_delivered(stage, fault.clone()).asks_others(), expected, "{stage:?} {fault:?}");
        };
        check(Stage::Ehlo, Fault::Timeout, true);
        check(Stage::Rcpt, Fault::Closed, true);
        check(Stage::Banner, reply(421, "too busy"), true);
        check(Stage::Rcpt, reply(450, "Greylisted"), false);
        check(Stage::Rcpt, reply(550, "no such user"), false);
        check(Stage::Content, Fault::Closed, false);
        check(Stage::Content, reply(451, "try again"), false);
        assert!(End::Nobody.asks_others());
        assert!(!End::GaveWay.asks_others() && !End::NotNoted(Peer::default()).asks_others());
    }
}
