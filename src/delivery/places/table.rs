//! The sessions that have places, what each does, and which gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::applicant::{Applicant, Holder};
use super::known_hosts::{KNOWN_FOR, KnownHosts};
use crate::destination::shares::{Full, Shares, Standing};

/// An attempt that is older than this before its final dot may have to give way; the time to an answer is shorter.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The same behind the final dot, where giving way leaves the outcome unknown.
pub(super) const PATIENCE_SENT: Duration = Duration::from_secs(60);
/// From so many sessions on it is looked whether those of a known domain get on.
const LOOKED_AT: usize = 32;

/// What a session does, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// It waits for an entry.
    Rests(Instant),
    /// It is being opened, or carries an entry.
    Works(Instant),
    /// The content of its entry is out.
    Sent(Instant),
}

/// A session that has a place.
#[derive(Debug)]
struct Session {
    holders: Vec<Holder>,
    standing: Standing,
    work: Work,
    leaves: CancellationToken,
}

impl Session {
    /// From when on it may have to give way while it works; none: it rests, and may at once.
    fn patience_ends(&self) -> Option<Instant> {
        match self.work {
            Work::Rests(_) => None,
            Work::Works(since) => Some(since + PATIENCE),
            Work::Sent(since) => Some(since + PATIENCE_SENT),
        }
    }

    fn since(&self) -> Instant {
        match self.work {
            Work::Rests(since) | Work::Works(since) | Work::Sent(since) => since,
        }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) shares: Shares<Holder>,
    sessions: HashMap<u64, Session>,
    next_id: u64,
    known: KnownHosts,
    /// Nobody can give way before.
    nobody_before: Option<Instant>,
}

impl Table {
    pub(super) fn new(all: usize) -> Self {
        Self {
            shares: Shares::new(all),
            sessions: HashMap::new(),
            next_id: 0,
            known: KnownHosts::default(),
            nobody_before: None,
        }
    }

    /// A place for a session that is about to be opened; its number.
    pub(super) fn take(&mut self, applicant: &Applicant, leaves: CancellationToken, now: Instant) -> Result<u64, Full> {
        let standing = self.standing(applicant, Some(now));
        self.shares.take(&applicant.holders, standing)?;
        self.next_id += 1;
        let session = Session { holders: applicant.holders.clone(), standing, work: Work::Works(now), leaves };
        self.sessions.insert(self.next_id, session);
        Ok(self.next_id)
    }

    /// Known is a domain whose hosts took mail within the day, and whose sessions do not hang now, where that is looked at.
    pub(super) fn standing(&self, applicant: &Applicant, look_at: Option<Instant>) -> Standing {
        if applicant.is_chosen {
            return Standing::Known;
        }
        let Some(at) = self.known.took_mail_at(&applicant.hosts) else { return Standing::Unknown };
        let Some(now) = look_at else { return Standing::Known };
        if now.saturating_duration_since(at) >= KNOWN_FOR || self.hangs(applicant, now) {
            return Standing::Unknown;
        }
        Standing::Known
    }

    /// Whether one holder has many sessions, a quarter of which wait for an answer for long.
    fn hangs(&self, applicant: &Applicant, now: Instant) -> bool {
        let is_slow = |session: &Session| {
            !matches!(session.work, Work::Rests(_)) && now.saturating_duration_since(session.since()) >= PATIENCE
        };
        applicant.holders.iter().any(|holder| {
            let held = self.shares.held(holder);
            let of_holder = self.sessions.values().filter(|session| session.holders.contains(holder));
            held >= LOOKED_AT && of_holder.filter(|session| is_slow(session)).count() > held / 4
        })
    }

    /// A session is with a host in this network.
    pub(super) fn moved(&mut self, id: u64, network: IpAddr) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let new = Holder::Network(network);
        let Some(of_network) = session.holders.iter_mut().find(|holder| matches!(holder, Holder::Network(_))) else {
            return;
        };
        if *of_network != new {
            let old = std::mem::replace(of_network, new.clone());
            self.shares.moved(&old, &new);
        }
    }

    /// The host of a session took a message.
    pub(super) fn took_mail(&mut self, id: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // The domain of the hosts is the first; a smart host has none.
        let Some(Holder::Domain(hosts)) = session.holders.first() else { return };
        let hosts = hosts.clone();
        if session.standing != Standing::Known {
            session.standing = Standing::Known;
            self.shares.became_known();
        }
        self.known.took_mail(hosts, now);
    }

    /// A session does something else from now on.
    pub(super) fn does(&mut self, id: u64, work: Work) {
        self.nobody_before = self.nobody_before.filter(|_| !matches!(work, Work::Rests(_)));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.work = work;
        }
    }

    /// A session that was to go stays, until this says that it goes.
    pub(super) fn stays(&mut self, id: u64, leaves: &CancellationToken) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.leaves = leaves.clone();
        }
    }

    /// What a session counts for.
    pub(super) fn holders(&self, id: u64) -> Vec<Holder> {
        self.sessions.get(&id).map(|session| session.holders.clone()).unwrap_or_default()
    }

    pub(super) fn give_back(&mut self, id: u64) {
        if let Some(session) = self.sessions.remove(&id) {
            self.shares.give_back(&session.holders, session.standing);
        }
    }

    /// The session that gives way; it counts until it is gone, but is not chosen twice.
    pub(super) fn give_way(&mut self, applicant: &Applicant, why: Full, now: Instant) -> Option<CancellationToken> {
        if self.nobody_before.is_some_and(|at| now < at) {
            return None;
        }
        let standing = self.standing(applicant, Some(now));
        let only_unknown = self.shares.free(Standing::Known) > 0;
        let own = self.shares.held_most(&applicant.holders);
        let there = || self.sessions.values().filter(|session| !session.leaves.is_cancelled());
        let exceeds = there().filter(|session| session.standing == Standing::Known).count() > self.shares.kept();
        let helps = |session: &Session| match why {
            // A share is not made larger by what others hold, and its own work need not give way to more of it.
            Full::Share(index) => {
                matches!(session.work, Work::Rests(_)) && session.holders.contains(&applicant.holders[index])
            }
            Full::Places => standing == Standing::Known || !only_unknown || session.standing != Standing::Known,
        };
        let may_go = |session: &Session| {
            let Some(patience_ends) = session.patience_ends() else { return true };
            let is_kept = session.standing == Standing::Known && !exceeds;
            patience_ends <= now && !is_kept && self.shares.held_most(&session.holders) > own
        };
        // Those at rest first, then whoever holds most, then the oldest.
        let rank = |session: &&Session| {
            let rests = matches!(session.work, Work::Rests(_));
            (rests, self.shares.held_most(&session.holders), std::cmp::Reverse(session.since()))
        };
        let chosen = there().filter(|session| helps(session) && may_go(session)).max_by_key(rank);
        let chosen = chosen.map(|session| session.leaves.clone());
        // Unless there are some that are only not for this applicant.
        if chosen.is_none() && why == Full::Places && there().all(|session| session.patience_ends() > Some(now)) {
            self.nobody_before = there().filter_map(Session::patience_ends).min();
        }
        chosen
    }
}
