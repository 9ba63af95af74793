//! Sessions that are opened before there is an entry for them: while a client still sends its message, as many as were
//! needed of late, in place of one that a busy destination has closed, and to look whether a destination is back.

use std::sync::Arc;
use std::time::Duration;

use super::caller::Caller;
use super::candidates::Candidates;
use super::environment::Environment;
use super::places::HeldPlace;
use super::race::{Advance, Race};
use super::site::Site;
use super::transact::Connection;
use crate::greylist::table::Triplet;

/// How long a slow host is waited for while there is no entry for the session.
const SLOW_MAX: Duration = Duration::from_secs(30);

pub(super) enum PrewarmResult {
    Session(Box<Connection>),
    /// The hosts are slow, and an entry waits.
    Slow(Box<Race>),
    Nobody,
}

/// A session up to the point before MAIL, for nobody yet. While the hosts are slow and an entry waits, the race goes on
/// as that entry's.
pub(super) async fn open(env: &Arc<Environment>, site: &Arc<Site>, caller: &Caller, held: &HeldPlace) -> PrewarmResult {
    let Ok(Some(route)) = env.route_at(site, caller.domain()).await else { return PrewarmResult::Nobody };
    let mut candidates = Candidates::new(&route, caller, site.hop.clone(), &env.dialer);
    if site.hop.smart_host().is_none() {
        let triplet = Triplet::new(caller.sender(), caller.recipient(), &route.destination);
        candidates.begin_with(env.queue.greylists().greylister(&triplet));
    }
    if candidates.turns().is_some() {
        site.rotation(|rotation| candidates.take_turn(rotation));
    }
    let mut race = Race::new(&env.dialer, &env.sites, site);
    let began = env.clock.instant();
    loop {
        let advance = tokio::select! {
            advance = race.advance(&mut candidates, || Ok(())) => advance,
            () = held.gives_way() => return PrewarmResult::Nobody,
            () = env.tasks.draining() => return PrewarmResult::Nobody,
        };
        match advance {
            Advance::Session(mut runner) => {
                race.close();
                held.is_at(runner.connection.address.ip());
                runner.connection.opened_by(race.steps);
                env.answered(site);
                return PrewarmResult::Session(runner.connection);
            }
            Advance::Look if race.met_slow_hosts() && site.sessions(|sessions| sessions.is_awaited()) => {
                return PrewarmResult::Slow(Box::new(race));
            }
            Advance::Look => {
                let took = env.clock.instant().saturating_duration_since(began);
                if race.met_slow_hosts() && took >= SLOW_MAX {
                    return PrewarmResult::Nobody;
                }
            }
            Advance::Nobody if race.met_slow_hosts() => {
                env.asked_in_vain(site, &candidates);
                return PrewarmResult::Nobody;
            }
            Advance::Nobody if env.turned_away(site, &candidates) => return PrewarmResult::Nobody,
            Advance::Nobody | Advance::Content(..) | Advance::Refused(..) | Advance::LostClaim(_) => {
                env.asked_in_vain(site, &candidates);
                env.nobody_answered(site, candidates.last_failure, caller, None);
                return PrewarmResult::Nobody;
            }
        }
    }
}
