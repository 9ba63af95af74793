//! Who is alive, and whose entries are taken over.

use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;

use super::parting::Parting;
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Kind};
use crate::ledger::attempt::{Epoch, NodeName, Target};
use crate::ledger::read::Peer;
use crate::ledger::rules::Standing;
use crate::ledger::tables::accept::Accepting;
use crate::ledger::tables::state::{EntryRow, Fenced, HeldCopy, MessageRow, NodeRow, Signal, SlotRow, State, Taken};
use crate::mail::id::{EntryId, MessageId};

/// Another live node has the name, or a later epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameTaken;

/// Who joins.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    pub(super) epoch: Epoch,
    pub(super) id: u64,
    pub(super) name: NodeName,
    pub(super) egress: Arc<str>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug)]
pub(super) struct Beat {
    pub(super) now: Timestamp,
    /// All that are alive, and what they have counted to.
    pub(super) peers: Vec<(Peer, u64)>,
    pub(super) signals: Vec<Signal>,
    /// Entries that were handed over to whoever asks.
    pub(super) given: Vec<Taken>,
    /// There are entries of nobody, or of a revoked epoch.
    pub(super) has_orphans: bool,
}

/// What a node holds, and what it left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    pub(super) held: Vec<EntryId>,
    /// Acceptances under way, and messages of entries that are being settled.
    pub(super) under_way: Vec<MessageId>,
    /// Refused, and nobody knew whether they were stored.
    pub(super) refused: Vec<MessageId>,
    /// Ended lately by this node.
    pub(super) settled: Vec<EntryId>,
    /// What it held until lately, and how it went.
    pub(super) parted: Vec<(EntryId, Parting)>,
}

/// Where a node's memory and the table differ.
#[derive(Clone, Debug, Default)]
pub(super) struct Differences {
    pub(super) unknown_to_node: Vec<Taken>,
    /// The entry has ended, or lives on with somebody else.
    pub(super) gone: Vec<(EntryId, Parting)>,
    /// The database knows nothing of them.
    pub(super) unknown_to_database: Vec<EntryId>,
    /// The database does not know that they ended.
    pub(super) unsettled: Vec<EntryId>,
    /// Nor how these went.
    pub(super) unparted: Vec<EntryId>,
}

impl State {
    /// Under a number that is new. A former epoch of the same node is dead: it cannot run twice. Where it has joined under a
    /// later number, it gave this one up, and it is the statement that comes late.
    ///
    /// # Errors
    /// Where another live node has its name, or it has a later epoch.
    pub(super) fn join(&mut self, joining: Joining, now: Timestamp) -> Result<Epoch, NameTaken> {
        let Joining { epoch, id, name, egress } = joining;
        let is_alive = |node: &&mut NodeRow| node.revoked_at.is_none();
        if self.nodes.range(epoch..).any(|(_, node)| node.id == id) {
            return Err(NameTaken);
        }
        if self.nodes.values_mut().filter(is_alive).any(|node| node.name == name && node.id != id) {
            return Err(NameTaken);
        }
        self.nodes.values_mut().filter(is_alive).filter(|node| node.id == id).for_each(|node| {
            node.revoked_at = Some(now);
        });
        self.nodes.insert(epoch, NodeRow { id, name, egress, beat: 1, revoked_at: None });
        Ok(epoch)
    }

    /// # Errors
    /// Where the epoch was revoked.
    pub(super) fn heartbeat(&mut self, me: Epoch, now: Timestamp) -> Result<Beat, Fenced> {
        self.living(me)?;
        if let Some(node) = self.nodes.get_mut(&me) {
            node.beat += 1;
        }
        let signals = self.signals.remove(&me).unwrap_or_default();
        let given = signals.iter().filter_map(|signal| match signal {
            Signal::Yours(id) => self.taken_of(me, *id),
            Signal::Ended(..) | Signal::Due(_) => None,
        });
        let given = given.collect();
        let living = self.nodes.iter().filter(|(_, node)| node.revoked_at.is_none());
        let peer = |(epoch, node): (&Epoch, &NodeRow)| {
            (Peer { epoch: *epoch, name: node.name.clone(), egress: node.egress.clone() }, node.beat)
        };
        let peers = living.map(peer).collect();
        let has_orphans = self.entries().any(|(_, _, row)| self.is_orphan(row));
        Ok(Beat { now, peers, signals, given, has_orphans })
    }

    fn taken_of(&self, me: Epoch, id: EntryId) -> Option<Taken> {
        let held = self.messages.get(&id.message)?;
        let is_mine = held.entries.get(&id.index)?.standing.owner == me;
        is_mine.then(|| held.taken(&[id.index]))
    }

    fn entries(&self) -> impl Iterator<Item = (&MessageRow, EntryId, &EntryRow)> {
        self.messages.values().flat_map(|held| {
            let id = |index: &u16| EntryId { message: held.message.id, index: *index };
            held.entries.iter().map(move |(index, row)| (held, id(index), row))
        })
    }

    fn is_orphan(&self, row: &EntryRow) -> bool {
        !self.is_alive(row.standing.owner)
    }

    /// Declares an epoch dead, for ever, if it has not been heard of since it counted to `number`.
    pub(super) fn revoke(&mut self, epoch: Epoch, number: u64, now: Timestamp) -> bool {
        let node = self.nodes.get_mut(&epoch).filter(|node| node.revoked_at.is_none() && node.beat == number);
        node.is_some_and(|node| node.revoked_at.replace(now).is_none())
    }

    /// A node leaves; what it still owned is nobody's.
    pub(super) fn leave(&mut self, me: Epoch, now: Timestamp) {
        if let Some(node) = self.nodes.get_mut(&me) {
            node.revoked_at.get_or_insert(now);
        }
    }

    /// Takes over some of what has no owner: the urgent lanes first, every second node from
    /// the other end of each. Entries whose triplet
    /// waits are left to nodes of the same egress for `patience`. Says whether some may be left.
    pub(super) fn take(
        &mut self,
        by: Accepting,
        most: usize,
        patience: Duration,
        now: Timestamp,
    ) -> Result<(Vec<Taken>, bool), Fenced> {
        self.living(by.me)?;
        let egress = self.nodes.get(&by.me).map(|node| node.egress.clone());
        let is_for_others = |held: &MessageRow, id: EntryId, row: &EntryRow| {
            let wait = self.waits.get(&Self::waiting(&held.message, id.index));
            let since = self.nodes.get(&row.standing.owner).and_then(|node| node.revoked_at);
            let is_left = since.is_some_and(|since| now.since(since) < patience);
            is_left && wait.is_some_and(|wait| egress.as_ref() != Some(&wait.egress))
        };
        let orphans = self.entries().filter(|(held, id, row)| self.is_orphan(row) && !is_for_others(held, *id, row));
        let mut orphans: Vec<_> =
            orphans.map(|(held, id, _)| (held.message.lane, held.message.expires_at, id)).collect();
        orphans.sort_unstable();
        if by.me.0 % 2 == 1 {
            orphans.reverse();
            // From the other end of each lane.
            orphans.sort_by_key(|(lane, ..)| *lane);
        }
        let is_more = orphans.len() > most;
        let mut taken: Vec<(MessageId, Vec<u16>)> = Vec::new();
        for (_, _, id) in orphans.into_iter().take(most) {
            if self.take_one(by.me, by.delivery, id, now) {
                match taken.iter_mut().find(|(message, _)| *message == id.message) {
                    Some((_, indices)) => indices.push(id.index),
                    None => taken.push((id.message, vec![id.index])),
                }
            }
        }
        let rows = taken.iter().filter_map(|(id, indices)| Some(self.messages.get(id)?.taken(indices)));
        Ok((rows.collect(), is_more))
    }

    /// Rows that the database lost in a fail-over, from the memory of their owner. What a newer message has the slot of
    /// ends.
    pub(super) fn insert_again(&mut self, me: Epoch, id: EntryId, copy: &HeldCopy, now: Timestamp) {
        self.insert_for(me, me, (id, copy), now);
    }

    /// That an entry went to somebody, or that somebody ended it, where a fail-over lost it: from the memory of its former
    /// owner. Whose it was has it again, or others take it over.
    pub(super) fn part_again(&mut self, me: Epoch, (id, copy): (EntryId, &HeldCopy), parting: Parting, now: Timestamp) {
        match parting {
            Parting::To(owner) => self.insert_for(me, owner, (id, copy), now),
            Parting::Ended(kind) => {
                self.insert_for(me, me, (id, copy), now);
                if self.is_alive(me) && self.entry(id).is_some_and(|row| row.standing.owner == me) {
                    let note = Some("the database had lost this end".into());
                    self.end_by(me, id, kind, Attempted { note, ..Attempted::default() }, now);
                }
            }
        }
    }

    /// Entries to another node or to nobody, unless whoever asks for it gave it up meanwhile. Says which went, and whose they
    /// are.
    pub(super) fn hand_over_numbered(
        &mut self,
        (me, number): (Epoch, u64),
        entries: &[EntryId],
        to: &Target,
    ) -> Vec<(EntryId, Epoch)> {
        if self.void.get(&me).is_some_and(|up_to| number <= *up_to) {
            return Vec::new();
        }
        let went = self.hand_over(me, entries, to).into_iter();
        let owner = |id| self.entry(id).map_or(Epoch::UNOWNED, |row| row.standing.owner);
        // What goes to whoever has it stays.
        went.map(|id| (id, owner(id))).filter(|(_, owner)| *owner != me).collect()
    }

    /// Hand-overs up to this number that have not come yet come to nothing.
    pub(super) fn give_up(&mut self, me: Epoch, number: u64) {
        let up_to = self.void.entry(me).or_default();
        *up_to = number.max(*up_to);
    }

    fn insert_for(&mut self, me: Epoch, owner: Epoch, (id, copy): (EntryId, &HeldCopy), now: Timestamp) {
        if !self.is_alive(me) || self.ended.contains_key(&id) || self.entry(id).is_some() {
            return;
        }
        let progress = copy.progress.clone();
        let number = progress.attempts;
        let standing = Standing { owner, attempt: number, settled: number.saturating_sub(1), is_out: true };
        let HeldCopy { message, content, sequence, slots, .. } = copy.clone();
        self.sequence = self.sequence.max(sequence);
        self.accepted.remove(&id.message);
        let new = || MessageRow {
            message: message.clone(),
            content: Some(Box::new(content)),
            sequence,
            entries: LiteMap::new(),
            ended: None,
        };
        let held = self.messages.entry(id.message).or_insert_with(new);
        held.entries
            .insert(id.index, EntryRow { standing, slots: slots.clone().into(), progress: Some(Arc::new(progress)) });
        self.live += 1;
        self.signal(owner, me, Signal::Yours(id));
        for slot in slots {
            let fresh = || SlotRow { sequence, newest: id.message, holders: Vec::new() };
            let row = self.slots.entry(slot).or_insert_with(fresh);
            if row.sequence > sequence {
                let note = Some(format!("by {}", row.newest).into());
                self.end_by(Epoch::UNOWNED, id, Kind::Superseded, Attempted { note, ..Attempted::default() }, now);
                return;
            }
            if row.sequence < sequence {
                *row = fresh();
            }
            row.holders.push(id);
        }
    }

    /// Compares what a node holds with what the table says.
    ///
    /// # Errors
    /// Where the epoch was revoked.
    pub(super) fn reconcile(&mut self, me: Epoch, compared: &Compared, now: Timestamp) -> Result<Differences, Fenced> {
        self.living(me)?;
        for id in &compared.refused {
            self.withdraw(me, *id, "refused while nobody knew whether it was stored", now);
        }
        let mut differences = Differences::default();
        for held in self.messages.values() {
            let id = held.message.id;
            if compared.under_way.contains(&id) {
                continue;
            }
            let is_new = |index: &u16| {
                let entry = EntryId { message: id, index: *index };
                let has_ended = |(id, parting): &(EntryId, Parting)| *id == entry && parting.is_end();
                !compared.held.contains(&entry)
                    && !compared.settled.contains(&entry)
                    && !compared.parted.iter().any(has_ended)
            };
            let mine = held.entries.iter().filter(|(_, row)| row.standing.owner == me).map(|(index, _)| *index);
            let new: Vec<u16> = mine.filter(is_new).collect();
            if !new.is_empty() {
                differences.unknown_to_node.push(held.taken(&new));
            }
        }
        for id in &compared.held {
            match (self.entry(*id), self.ended.get(id)) {
                (Some(row), _) if row.standing.owner == me => {}
                (Some(row), _) => differences.gone.push((*id, Parting::To(row.standing.owner))),
                (None, Some(end)) => differences.gone.push((*id, Parting::Ended(end.kind))),
                (None, None) => differences.unknown_to_database.push(*id),
            }
        }
        let has_ended = |id: &EntryId| self.ended.contains_key(id);
        let is_mine = |id: &EntryId| self.entry(*id).is_none_or(|row| row.standing.owner == me);
        let unsettled = compared.settled.iter().filter(|id| !has_ended(id) && is_mine(id));
        differences.unsettled = unsettled.copied().collect();
        let is_lost = |(id, parting): &&(EntryId, Parting)| match parting {
            Parting::Ended(_) => !has_ended(id) && is_mine(id),
            Parting::To(_) => !has_ended(id) && self.entry(*id).is_none(),
        };
        differences.unparted = compared.parted.iter().filter(is_lost).map(|(id, _)| *id).collect();
        Ok(differences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_that_comes_late_revokes_nothing() {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let joining = |epoch: u64, id: u64| Joining {
            epoch: Epoch(epoch),
            id,
            name: format!("node-{id}").into(),
            egress: "a".into(),
        };
        let mut state = State::default();
        assert_eq!(state.join(joining(1, 7), now), Ok(Epoch(1)));
        assert_eq!(state.join(joining(3, 7), now), Ok(Epoch(3)));
        assert_eq!(state.join(joining(2, 7), now), Err(NameTaken), "it was given up");
        let is_alive = [1, 2, 3].map(|epoch| state.is_alive(Epoch(epoch)));
        assert_eq!(is_alive, [false, false, true]);
        assert_eq!(state.join(joining(4, 8), now), Ok(Epoch(4)));
    }
}
