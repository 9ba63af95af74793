//! What a node remembers of what it owns: enough to compare it with the database, and to give back what that has lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::membership::Compared;
use super::parting::Parting;
use crate::base::clock::Timestamp;
use crate::event::Kind;
use crate::ledger::accept::{Accepted, NewMessage};
use crate::ledger::attempt::{Attempt, Held, Settled};
use crate::ledger::entry::{Message, Progress};
use crate::ledger::tables::settle::Verdict;
use crate::ledger::tables::state::{HeldCopy, Taken};
use crate::mail::id::{EntryId, MessageId};

/// Settlements kept while the database is away, at most; beyond, the oldest go, and their entries are attempted again.
const KEPT_MAX: usize = 100_000;
/// How long ends and hand-overs are remembered, in case the database forgets them.
const RECENT: Duration = Duration::from_secs(60);

/// A settlement, with what it takes to insert its entry again.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) attempt: Attempt,
    pub(super) settled: Settled,
    pub(super) copy: Option<HeldCopy>,
}

/// An entry that was ours a moment ago.
#[derive(Clone, Debug)]
struct Parted {
    at: Instant,
    parting: Parting,
    copy: HeldCopy,
}

#[derive(Debug, Default)]
pub(super) struct Copies {
    held: BTreeMap<EntryId, HeldCopy>,
    under_way: BTreeSet<MessageId>,
    /// Refused while nobody knew whether they were stored, until their lives end.
    refused: BTreeMap<MessageId, Timestamp>,
    /// Entries of which a settlement is under way.
    busy: HashMap<EntryId, u32>,
    kept: VecDeque<Kept>,
    recent: VecDeque<(Instant, Kept)>,
    parted: BTreeMap<EntryId, Parted>,
    /// Hand-overs of entries that have not been answered.
    handing: BTreeSet<(EntryId, u64)>,
    hand_overs: u64,
}

impl Copies {
    pub(super) fn begin_acceptance(&mut self, id: MessageId) {
        self.under_way.insert(id);
        self.refused.remove(&id);
    }

    pub(super) fn accepted(&mut self, new: &NewMessage, accepted: &Accepted, now: Instant) {
        let message = &new.message;
        self.under_way.remove(&message.id);
        for (index, _) in (0..).zip(&message.envelope.recipients) {
            if accepted.overtaken.contains(&index) {
                continue;
            }
            let slots = new.slots.iter().filter(|(of, _)| *of == index).map(|(_, slot)| *slot).collect();
            let copy = HeldCopy {
                message: message.clone(),
                content: new.content.clone(),
                sequence: accepted.sequence,
                slots,
                progress: Progress::default(),
            };
            self.held.insert(EntryId { message: message.id, index }, copy);
        }
        for (id, _) in &accepted.superseded {
            self.part_with(*id, Parting::Ended(Kind::Superseded), now);
        }
    }

    pub(super) fn not_accepted(&mut self, id: MessageId) {
        self.under_way.remove(&id);
    }

    /// Nobody knows whether it is stored.
    pub(super) fn refused(&mut self, message: &Message) {
        self.under_way.remove(&message.id);
        self.refused.insert(message.id, message.expires_at);
    }

    pub(super) fn holds(&self, id: EntryId) -> bool {
        self.held.contains_key(&id)
    }

    pub(super) fn copy(&self, id: EntryId) -> Option<HeldCopy> {
        self.held.get(&id).cloned()
    }

    /// An entry is not ours any more. Whether that is news.
    pub(super) fn part_with(&mut self, id: EntryId, parting: Parting, now: Instant) -> bool {
        let copy = self.held.remove(&id);
        let was_held = copy.is_some();
        self.remember(id, copy, Some(parting), now);
        was_held
    }

    fn remember(&mut self, id: EntryId, copy: Option<HeldCopy>, parting: Option<Parting>, now: Instant) {
        self.parted.retain(|_, parted| now.saturating_duration_since(parted.at) <= RECENT);
        if let (Some(copy), Some(parting)) = (copy, parting) {
            self.parted.insert(id, Parted { at: now, parting, copy });
        }
    }

    /// A verb found an entry with somebody else.
    pub(super) fn not_ours(&mut self, id: EntryId, verdict: Verdict, now: Instant) {
        let copy = self.held.remove(&id);
        self.remember(id, copy, Parting::of(verdict), now);
    }

    /// An attempt may go on; hand-overs of its entry up to this number are void now.
    pub(super) fn gated(&mut self, attempt: Attempt, void: Option<u64>) {
        self.handing.retain(|(id, number)| *id != attempt.entry || Some(*number) > void);
        if let Some(copy) = self.held.get_mut(&attempt.entry) {
            copy.progress.attempts = attempt.number;
        }
    }

    /// A hand-over begins; says its number.
    pub(super) fn begin_hand_over(&mut self, entries: &[EntryId]) -> u64 {
        self.hand_overs += 1;
        self.handing.extend(entries.iter().map(|id| (*id, self.hand_overs)));
        self.hand_overs
    }

    /// It is answered.
    pub(super) fn end_hand_over(&mut self, entries: &[EntryId], number: u64) {
        entries.iter().for_each(|id| _ = self.handing.remove(&(*id, number)));
    }

    /// The last hand-over of an entry that has not been answered.
    pub(super) fn handing(&self, id: EntryId) -> Option<u64> {
        self.handing.range((id, 0)..=(id, u64::MAX)).next_back().map(|(_, number)| *number)
    }

    /// A settlement begins. Its entry is taken out of what is held where it ends.
    pub(super) fn begin_settlement(&mut self, attempt: Attempt, settled: &Settled) -> Kept {
        *self.busy.entry(attempt.entry).or_default() += 1;
        let copy = self.held.get(&attempt.entry).cloned();
        match settled {
            Settled::End { .. } => drop(self.held.remove(&attempt.entry)),
            Settled::Deferred { progress, .. } | Settled::Noted { progress, .. } => {
                if let Some(copy) = self.held.get_mut(&attempt.entry) {
                    copy.progress = (**progress).clone();
                }
            }
        }
        Kept { attempt, settled: settled.clone(), copy }
    }

    fn end_settlement(&mut self, entry: EntryId) {
        if let Some(count) = self.busy.get_mut(&entry) {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&entry);
            }
        }
    }

    /// It is in the database.
    pub(super) fn settled(&mut self, kept: Kept, now: Instant) {
        self.end_settlement(kept.attempt.entry);
        if let Settled::End { .. } = kept.settled {
            self.recent.push_back((now, kept));
        }
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > RECENT) {
            self.recent.pop_front();
        }
    }

    /// It came too late.
    pub(super) fn lost(&mut self, kept: Kept, verdict: Verdict, now: Instant) {
        let entry = kept.attempt.entry;
        self.end_settlement(entry);
        let copy = self.held.remove(&entry).or(kept.copy);
        self.remember(entry, copy, Parting::of(verdict), now);
    }

    /// It waits for the database.
    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept.push_back(kept);
        if self.kept.len() > KEPT_MAX
            && let Some(dropped) = self.kept.pop_front()
        {
            self.end_settlement(dropped.attempt.entry);
        }
    }

    pub(super) fn is_kept(&self, entry: EntryId) -> bool {
        self.kept.iter().any(|kept| kept.attempt.entry == entry)
    }

    pub(super) fn kept_len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn first_kept(&self) -> Option<Kept> {
        self.kept.front().cloned()
    }

    pub(super) fn drop_first_kept(&mut self, entry: EntryId) {
        if self.kept.front().is_some_and(|kept| kept.attempt.entry == entry) {
            self.kept.pop_front();
        }
    }

    /// An end that the database has forgotten.
    pub(super) fn recent(&self, entry: EntryId) -> Option<Kept> {
        self.recent.iter().find(|(_, kept)| kept.attempt.entry == entry).map(|(_, kept)| kept.clone())
    }

    /// What was ours, and how it went.
    pub(super) fn parted(&self, entry: EntryId) -> Option<(Parting, HeldCopy)> {
        self.parted.get(&entry).map(|parted| (parted.parting, parted.copy.clone()))
    }

    pub(super) fn is_busy(&self, entry: EntryId) -> bool {
        self.busy.contains_key(&entry)
    }

    /// What is to be compared with the database.
    pub(super) fn compared(&mut self, now: Timestamp) -> Compared {
        self.refused.retain(|_, expires_at| *expires_at > now);
        let is_free = |id: &&EntryId| !self.busy.contains_key(id);
        Compared {
            held: self.held.keys().filter(is_free).copied().collect(),
            under_way: self.under_way.iter().copied().chain(self.busy.keys().map(|id| id.message)).collect(),
            refused: self.refused.keys().copied().collect(),
            settled: self.recent.iter().map(|(_, kept)| kept.attempt.entry).collect(),
            parted: self.parted.iter().map(|(id, parted)| (*id, parted.parting)).collect(),
        }
    }

    /// Takes in what became ours; none where nothing of it is news.
    pub(super) fn acquire(&mut self, taken: Taken) -> Option<Held> {
        let Taken { mut held, content, sequence, slots } = taken;
        let id = held.message.id;
        if self.under_way.contains(&id) || self.refused.contains_key(&id) {
            return None;
        }
        held.entries.retain(|(index, _)| {
            let entry = EntryId { message: id, index: *index };
            let is_recent = self.recent.iter().any(|(_, kept)| kept.attempt.entry == entry);
            let has_ended = self.parted.get(&entry).is_some_and(|parted| parted.parting.is_end());
            !self.held.contains_key(&entry) && !self.busy.contains_key(&entry) && !is_recent && !has_ended
        });
        for (index, progress) in &held.entries {
            let slots = slots.iter().filter(|(of, _)| of == index).map(|(_, slot)| *slot).collect();
            let copy = HeldCopy {
                message: held.message.clone(),
                content: content.clone(),
                sequence,
                slots,
                progress: Progress::clone(progress),
            };
            let entry = EntryId { message: id, index: *index };
            self.parted.remove(&entry);
            self.held.insert(entry, copy);
        }
        (!held.entries.is_empty()).then_some(held)
    }

    /// An entry is not ours any more, as the database says. Whether that is news.
    pub(super) fn ended_elsewhere(&mut self, id: EntryId, parting: Parting, now: Instant) -> bool {
        !self.busy.contains_key(&id) && self.part_with(id, parting, now)
    }
}
