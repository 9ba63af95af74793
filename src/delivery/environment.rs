//! What delivery works with, and what an outcome says of a site.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::address_rotation::Follows;
use super::backoff::Change;
use super::caller::Caller;
use super::candidates::Candidates;
use super::dialer::Dialer;
use super::judged_failure::JudgedFailure;
use super::limits::LearnedLimits;
use super::next_hop::NextHop;
use super::next_hops::NextHops;
use super::settings::Settings;
use super::site::{OtherSessions, Site};
use super::sites::Sites;
use super::smart_host::SmartHosts;
use super::tasks::Tasks;
use super::transact::Connection;
use super::window::is_overload;
use super::wording::describe;
use crate::base::clock::{Clock, Timestamp};
use crate::destination::mx::Router;
use crate::destination::route::{Part, Route, RouteError};
use crate::dkim::Keys;
use crate::dkim::pool::SigningPool;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::id::EntryId;
use crate::policy::cause::concerns_message;
use crate::queue::Queue;
use crate::queue::claim::Claim;
use crate::smtp::client_session::{Fault, Stage};

/// How long the number of sessions that a destination took stands, before one more is tried.
const CAP_SPAN: Duration = Duration::from_secs(600);

pub(super) struct Environment {
    pub(super) queue: Arc<Queue>,
    pub(super) router: Arc<Router>,
    pub(super) smart_hosts: SmartHosts,
    /// For content read back from the store, which has no signatures.
    pub(super) keys: Arc<ArcSwap<Keys>>,
    pub(super) signing: Arc<SigningPool>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Arc<Settings>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) sites: Arc<Sites>,
    pub(super) tasks: Tasks,
}

impl Environment {
    /// Somebody who sends with this reverse-path to this recipient.
    pub(super) fn caller(&self, reverse_path: &ReversePath, recipient: &Mailbox) -> Caller {
        Caller::new(reverse_path, recipient, self.router.name(recipient))
    }

    /// The domain by which the mail of a claimed entry finds its way.
    pub(super) fn domain(&self, claim: &Claim) -> String {
        self.router.name(&claim.message().recipient(claim.id().index).mailbox)
    }

    /// The next hops that mail for a domain can take, of which it takes one since then.
    pub(super) fn next_hops(&self, domain: &str, via: &NextHop, since: Timestamp) -> NextHops {
        NextHops::new(self.smart_hosts.for_domain(domain), via.clone(), since)
    }

    /// The route to a domain that this site serves; none if it has moved. Domains that share their hosts need not share
    /// their policies. A smart host serves all of them.
    pub(super) async fn route_at(&self, site: &Site, domain: &str) -> Result<Option<Arc<Route>>, RouteError> {
        let of_site = site.route();
        if site.hop.smart_host().is_some() || of_site.domain.as_ref() == domain {
            return Ok(Some(of_site));
        }
        let route = self.router.route(domain).await?;
        Ok((site.hop.key(&route) == site.key).then_some(route))
    }

    /// The destination answers; whoever waited for that is tried now.
    pub(super) fn answered(&self, site: &Site) {
        let waited = site.outage(|outage| outage.answered());
        if !waited.is_empty() {
            tracing::info!(destination = %site.key, entries = waited.len(), "answers again");
            self.queue.retry_unreachable(&waited, self.clock.now());
        }
    }

    /// Some addresses of a destination were asked in vain. When all of its route were, the next part of the hosts and addresses
    /// that DNS names has its turn.
    pub(super) fn asked_in_vain(&self, site: &Site, candidates: &Candidates) {
        let Some(turns) = candidates.turns() else { return };
        let follows = site.rotation(|rotation| rotation.in_vain(&turns.asked, &turns.all, turns.part));
        if follows == Follows::NextPart {
            let route = site.route();
            self.router.pass_on(site.hop.sought(&route.domain), &route);
        }
    }

    /// The route to look at: where there are several parts of it, the one whose turn it is.
    pub(super) async fn next_part(&self, site: &Site) -> Arc<Route> {
        let route = site.route();
        if route.part == Part::WHOLE {
            return route;
        }
        match self.router.route_to(site.hop.sought(&route.domain)).await {
            Ok(next) if site.hop.key(&next) == site.key => {
                site.set_route(next.clone());
                next
            }
            Ok(_) | Err(_) => route,
        }
    }

    /// Whether a destination has connections enough, and takes those that are there.
    pub(super) fn turned_away(&self, site: &Arc<Site>, candidates: &Candidates) -> bool {
        if !candidates.was_turned_away() {
            return false;
        }
        match site.turned_away() {
            OtherSessions::None => return false,
            OtherSessions::NewlyCapped => {
                let until = self.clock.instant() + CAP_SPAN;
                self.sites.allow_at(site, until, LearnedLimits::forget_cap);
            }
            OtherSessions::Capped => {}
        }
        true
    }

    /// Learns from a failed transaction what the host allows.
    pub(super) fn refused(&self, site: &Site, connection: &Connection, judged: &JudgedFailure, by: (&Caller, Instant)) {
        let ((caller, began), failure) = (by, &judged.failure);
        let is_closing = matches!(&failure.fault, Fault::Reply(reply) if reply.code == 421);
        if is_closing && connection.taken() > 0 && matches!(failure.stage, Stage::Reset | Stage::Mail) {
            // It has taken some in this session: not too much at once, but enough.
            site.limits(|limits| limits.ended_after(connection.taken()));
        } else if is_overload(judged) {
            site.overloaded(caller, began, self.clock.instant());
        }
    }

    /// There is no session. If it is so some times in a row, the destination counts as down; `entry` waits for its
    /// return. A host that says no is there. A smart host has a back-off of its own.
    pub(super) fn nobody_answered(
        &self,
        site: &Arc<Site>,
        last: Option<(Arc<str>, JudgedFailure)>,
        caller: &Caller,
        entry: Option<EntryId>,
    ) {
        if let Some(host) = site.hop.smart_host() {
            // What became of an entry's attempt is told when that is settled.
            if let (None, Some((_, JudgedFailure { failure, .. }))) =
                (entry, last.as_ref().filter(|(_, last)| !is_ours(last)))
            {
                host.failed(failure, &describe(failure), self.clock.now());
            }
            return;
        }
        match last.as_ref().map_or(Presence::Unknown, |(_, judged)| Presence::after(judged)) {
            Presence::Says(is_overload) => {
                if is_overload {
                    let now = self.clock.instant();
                    site.overloaded(caller, now, now);
                }
                self.answered(site);
            }
            Presence::Answers => self.answered(site),
            Presence::Undecided => {}
            Presence::Unknown => self.is_missing(site, last, caller, entry),
        }
    }

    fn is_missing(
        &self,
        site: &Arc<Site>,
        last: Option<(Arc<str>, JudgedFailure)>,
        caller: &Caller,
        entry: Option<EntryId>,
    ) {
        let now = self.clock.instant();
        let change = site.outage(|outage| {
            let last = last.map(|(host, judged)| (host, judged.failure));
            let change = outage.failed(last, caller, now);
            if let Some(entry) = entry {
                outage.wait(entry);
            }
            change
        });
        if change == Change::News {
            tracing::info!(destination = %site.key, "nobody answers; looking again every 10 s while mail waits");
            self.sites.look_after(site);
        }
    }
}

/// What a failure without a session says of whether somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Somebody who refuses; whether it is too much for the host.
    Says(bool),
    Answers,
    /// Nothing: neither is it there for sure, nor is it to be left alone.
    Undecided,
    /// Perhaps nobody.
    Unknown,
}

impl Presence {
    fn after(judged: &JudgedFailure) -> Self {
        let failure = &judged.failure;
        match &failure.fault {
            Fault::Ours(_) => Self::Undecided,
            Fault::Reply(_) => Self::Says(is_overload(judged)),
            // A host that is not good enough for one domain may be so for another.
            Fault::Tls(_) | Fault::Unsupported(_) if failure.stage == Stage::Connect => Self::Undecided,
            Fault::Tls(_) | Fault::Unsupported(_) => Self::Answers,
            // Whoever greets and goes is there. Called by the next greeting, two entries would try it in turn without a
            // pause.
            Fault::Timeout | Fault::Closed | Fault::Malformed(_) => {
                let has_greeted = failure.stage == Stage::Reset || concerns_message(failure.stage);
                if has_greeted { Self::Undecided } else { Self::Unknown }
            }
        }
    }
}

fn is_ours(judged: &JudgedFailure) -> bool {
    matches!(judged.failure.fault, Fault::Ours(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::client_session::{Failure, Requirement};
    use crate::smtp::reply::Reply;

    #[test]
    fn what_a_failure_says_of_whether_somebody_is_there() {
        let reply = |code, text: &'static str| Fault::Reply(Reply::plain(code, text));
        let cases = [
            (Stage::Connect, Fault::Timeout, Presence::Unknown),
            (Stage::Connect, Fault::Closed, Presence::Unknown),
            (Stage::Banner, Fault::Closed, Presence::Unknown),
            (Stage::Banner, reply(554, "5.7.1 go away"), Presence::Says(false)),
            (Stage::Banner, reply(421, "4.7.0 too many connections"), Presence::Says(true)),
            (Stage::StartTls, Fault::Tls("alert".to_owned()), Presence::Answers),
            (Stage::Ehlo, Fault::Unsupported(Requirement::RequireTls), Presence::Answers),
            (Stage::Connect, Fault::Unsupported(Requirement::RequireTls), Presence::Undecided),
            (Stage::Connect, Fault::Ours("no descriptors".to_owned()), Presence::Undecided),
            (Stage::Reset, Fault::Closed, Presence::Undecided),
            (Stage::Mail, Fault::Timeout, Presence::Undecided),
        ];
        for (stage, fault, expected) in cases {
            let failure = Failure { stage, fault };
            assert_eq!(Presence::after(&failure.clone().into()), expected, "{failure:?}");
        }
    }
}
