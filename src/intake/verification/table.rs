//! All verifications that are remembered, and how they are found: by id, by whose they are, by recipient, by the time at which
//! something is due.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::guesses::{GuessKey, Guesses};
use super::rows::{self, RestoredState};
use super::state::{Fate, Key, Send, State, Verification};
use super::{LIVE_OF_RECIPIENT_MAX, Limits, Refused};
use crate::base::clock::Timestamp;
use crate::ledger::side::SideChange;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// Verifications remembered at most.
const REMEMBERED_MAX: usize = 100_000;
/// How long one can be asked for once it is final.
const FINAL: Duration = Duration::from_secs(86_400);
/// Between two looks at all counters.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Table {
    all: HashMap<Arc<str>, Verification>,
    latest: HashMap<Key, Arc<str>>,
    by_recipient: HashMap<GuessKey, Vec<Arc<str>>>,
    by_request: HashMap<(Arc<str>, Arc<str>), Arc<str>>,
    /// When each has something to do: its end, then its going.
    due: BTreeSet<(Timestamp, Arc<str>)>,
    due_of: HashMap<Arc<str>, Timestamp>,
    pub(super) guesses: Guesses,
    /// The rows of wrong checks by themselves, to be removed when they count no more.
    guess_rows: VecDeque<(Timestamp, Box<[u8]>)>,
    /// Those whose end by time has been seen.
    expired: BTreeSet<Arc<str>>,
    remembered_max: usize,
    /// When counters that are over were last let go.
    swept_at: Timestamp,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            latest: HashMap::new(),
            by_recipient: HashMap::new(),
            by_request: HashMap::new(),
            due: BTreeSet::new(),
            due_of: HashMap::new(),
            guesses: Guesses::default(),
            guess_rows: VecDeque::new(),
            expired: BTreeSet::new(),
            remembered_max: REMEMBERED_MAX,
            swept_at: Timestamp::default(),
        }
    }
}

impl Table {
    /// Takes up what was found at start; under which keys codes are live.
    pub(super) fn take_up(&mut self, found: RestoredState, limits: &Limits, now: Timestamp) -> Vec<u32> {
        for (at, whose) in found.wrong {
            self.guesses.wrong(&whose, limits.recipient_checks, at);
        }
        let mut all = found.verifications;
        // So that the latest of a key is the latest.
        all.sort_by_key(|one| one.created_at);
        for one in all {
            let (id, is_over) = (one.id.clone(), one.end.is_none() && one.expires_at() <= now);
            self.insert(one);
            if is_over {
                // Its codes never counted as live in this run.
                self.expired.insert(id.clone());
                self.is_due(&id);
            }
        }
        self.guess_rows = found.guesses.into();
        self.guess_rows.make_contiguous().sort();
        let ids: Vec<Arc<str>> = self.all.keys().cloned().collect();
        ids.iter().flat_map(|id| self.held(id)).collect()
    }

    /// Under which keys codes of one count as live, once for each.
    pub(super) fn held(&self, id: &str) -> Vec<u32> {
        let Some(one) = self.all.get(id).filter(|one| one.end.is_none() && !self.expired.contains(id)) else {
            return Vec::new();
        };
        one.sends.iter().filter(|send| !matches!(send.fate, Fate::Gone(_))).map(|send| send.bucket).collect()
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Verification> {
        self.all.get_mut(id)
    }

    pub(super) fn latest(&self, key: &Key) -> Option<&Verification> {
        self.all.get(self.latest.get(key)?)
    }

    /// The one that a request with this idempotency key began or sent again.
    pub(super) fn asked(&self, user: &Arc<str>, key: &str) -> Option<&Verification> {
        self.all.get(self.by_request.get(&(user.clone(), key.into()))?)
    }

    pub(super) fn index_of(&self, id: &str, message: MessageId) -> Option<usize> {
        self.all.get(id)?.sends.iter().position(|send| send.message == Some(message))
    }

    /// Whether another one of this recipient may begin.
    pub(super) fn admits(&mut self, whose: &GuessKey, now: Timestamp) -> Result<(), Refused> {
        if let Some(wait) = self.guesses.blocked(whose, now) {
            return Err(Refused::Guessed(wait));
        }
        let of_recipient = self.by_recipient.get(whose).map(Vec::as_slice).unwrap_or_default();
        let live = of_recipient.iter().filter_map(|id| self.all.get(id)).filter(|one| one.state(now) == State::Pending);
        let ends: Vec<Timestamp> = live.map(Verification::expires_at).collect();
        if ends.len() >= LIVE_OF_RECIPIENT_MAX {
            return Err(Refused::Live(ends.into_iter().min().unwrap_or(now).since(now)));
        }
        if self.all.len() >= self.remembered_max && !self.forget_one(now) {
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Forgets the final one that would go first.
    fn forget_one(&mut self, now: Timestamp) -> bool {
        let is_final = |id: &Arc<str>| self.all.get(id).is_some_and(|one| one.state(now) != State::Pending);
        let first = self.due.iter().map(|(_, id)| id).find(|id| is_final(id)).cloned();
        // Its rows go with the next start.
        first.is_some_and(|id| {
            self.remove(&id);
            true
        })
    }

    pub(super) fn insert(&mut self, one: Verification) {
        let id = one.id.clone();
        self.latest.insert(one.key.clone(), id.clone());
        self.by_recipient.entry((one.key.user.clone(), one.form.clone())).or_default().push(id.clone());
        for asked in &one.asked {
            self.by_request.insert((one.key.user.clone(), asked.clone()), id.clone());
        }
        self.all.insert(id.clone(), one);
        self.is_due(&id);
    }

    /// Adds a send; its index.
    pub(super) fn send_again(&mut self, id: &Arc<str>, send: Send, asked: Option<&Arc<str>>) -> usize {
        let Some(one) = self.all.get_mut(id) else { return 0 };
        one.sends.push(send);
        let index = one.sends.len() - 1;
        if let Some(asked) = asked {
            self.by_request.insert((one.key.user.clone(), asked.clone()), id.clone());
            one.asked.push(asked.clone());
        }
        self.is_due(id);
        index
    }

    /// Takes back the last send.
    pub(super) fn withdraw(&mut self, id: &Arc<str>, index: usize, asked: Option<&Arc<str>>) -> Option<Send> {
        let one = self.all.get_mut(id)?;
        let send = (index + 1 == one.sends.len()).then(|| one.sends.pop()).flatten()?;
        let user = one.key.user.clone();
        // The request may be made again.
        if let Some(asked) = asked {
            one.asked.retain(|other| other != asked);
            self.by_request.remove(&(user, asked.clone()));
        }
        self.is_due(id);
        Some(send)
    }

    /// What was approved and could not be stored is not; under which keys its codes are live again.
    pub(super) fn take_back_approval(&mut self, id: &str) -> Vec<u32> {
        if let Some(one) = self.all.get_mut(id) {
            one.end = None;
            one.answers.clear();
            self.is_due(id);
        }
        self.held(id)
    }

    pub(super) fn wrong(&mut self, whose: &GuessKey, limits: &Limits, now: Timestamp) {
        self.guesses.wrong(whose, limits.recipient_checks, now);
    }

    /// For how long no new verification of its recipient begins.
    pub(super) fn blocked(&self, id: &str, now: Timestamp) -> Option<Duration> {
        let one = self.all.get(id)?;
        self.guesses.blocked(&(one.key.user.clone(), one.form.clone()), now)
    }

    /// Whether one of this recipient began so lately.
    pub(super) fn began_lately(&self, whose: &GuessKey, span: Duration, now: Timestamp) -> bool {
        let ids = self.by_recipient.get(whose).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.all.get(id)).any(|one| one.created_at.plus(span) > now)
    }

    pub(super) fn remember_guess(&mut self, now: Timestamp, change: &SideChange) {
        let SideChange(_, key, _) = change;
        self.guess_rows.push_back((now, key.clone()));
    }

    /// Sets the time at which one has something to do.
    pub(super) fn is_due(&mut self, id: &str) {
        let Some(one) = self.all.get(id) else { return };
        let at = match one.end {
            Some((_, at)) => at.plus(FINAL),
            None if self.expired.contains(id) => one.expires_at().plus(FINAL),
            None => one.expires_at(),
        };
        let id = one.id.clone();
        if let Some(before) = self.due_of.insert(id.clone(), at) {
            self.due.remove(&(before, id.clone()));
        }
        self.due.insert((at, id));
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Ends what is past, and lets go what was final for long: the buckets whose codes are over, and the rows that go.
    pub(super) fn let_go(&mut self, span: Duration, now: Timestamp) -> (Vec<u32>, Vec<SideChange>) {
        let (mut buckets, mut changes) = (Vec::new(), Vec::new());
        while let Some((at, id)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            let Some(one) = self.all.get(&id) else {
                self.due.remove(&(at, id));
                continue;
            };
            if one.end.is_none() && !self.expired.contains(&id) {
                buckets.extend(self.held(&id));
                self.expired.insert(id.clone());
                self.is_due(&id);
            } else {
                changes.extend(rows::removed(one));
                self.remove(&id);
            }
        }
        if self.swept_at.plus(SWEEP_PAUSE) <= now {
            self.swept_at = now;
            self.guesses.housekeep(span, now);
        }
        while let Some((_, key)) = self.guess_rows.pop_front_if(|(at, _)| at.plus(span).plus(span) <= now) {
            changes.push(SideChange(crate::ledger::side::SideTable::Verification, key, None));
        }
        (buckets, changes)
    }

    /// Forgets the final ones of an address in its plain form; the rows that go.
    pub(super) fn erase(&mut self, plain: &str, now: Timestamp) -> Vec<SideChange> {
        let is_theirs = |one: &&Verification| {
            let of = Mailbox::parse(&one.key.to).is_ok_and(|mailbox| mailbox.plain_key() == plain);
            of && one.state(now) != State::Pending
        };
        let theirs: Vec<Arc<str>> = self.all.values().filter(is_theirs).map(|one| one.id.clone()).collect();
        let mut changes = Vec::new();
        for id in theirs {
            changes.extend(self.all.get(&id).map(rows::removed).unwrap_or_default());
            self.remove(&id);
        }
        changes
    }

    pub(super) fn remove(&mut self, id: &Arc<str>) {
        let Some(one) = self.all.remove(id) else { return };
        if let Some(at) = self.due_of.remove(id) {
            self.due.remove(&(at, id.clone()));
        }
        self.expired.remove(id);
        if self.latest.get(&one.key) == Some(id) {
            self.latest.remove(&one.key);
        }
        let whose = (one.key.user.clone(), one.form.clone());
        if let Some(ids) = self.by_recipient.get_mut(&whose) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.by_recipient.remove(&whose);
            }
        }
        for asked in one.asked {
            self.by_request.remove(&(one.key.user.clone(), asked));
        }
    }
}
