//! Entries that become ours, at a start or from other nodes, and that go to others or ended there: nothing is told or stored of
//! that here.

use std::sync::Arc;

use super::{Schedule, entries_of};
use crate::base::clock::Timestamp;
use crate::ledger::attempt::Held;
use crate::ledger::entry::{Message, Progress, State};
use crate::mail::id::EntryId;
use crate::queue::effects::Effects;
use crate::queue::ending::End;

impl Schedule {
    /// Some entries of a message are ours now. Others of it, which are not, stand as if they had ended.
    pub(in crate::queue) fn acquire(&mut self, held: Held, now: Timestamp, effects: &mut Effects) {
        let Held { message, entries, ended, outlived } = held;
        let id = message.id;
        let outlived = outlived.into_iter().map(|(index, by)| (EntryId { message: id, index }, End::superseded_by(by)));
        if self.held.contains_key(&message.id) {
            entries.into_iter().for_each(|(index, progress)| self.acquire_one(&message, index, progress, now, effects));
            self.doomed.extend(outlived);
            return;
        }
        let left_of = |index| ended.iter().find(|(of, _)| *of == index).map(|(_, left): &(u16, Progress)| left.clone());
        let others = entries_of(&message).map(|id| id.index);
        let others = others.filter(|index| !entries.iter().any(|(own, _)| own == index));
        let left = |index| Arc::new(Progress { ended: true, ..left_of(index).unwrap_or_default() });
        let mut stored: Vec<_> = others.map(|index| (index, left(index))).collect();
        stored.extend(entries);
        let user = message.user.clone();
        let live = self.take_up(message, stored, now, effects);
        self.shares.add(&user, live);
        self.doomed.extend(outlived);
    }

    fn acquire_one(
        &mut self,
        message: &Arc<Message>,
        index: u16,
        progress: Arc<Progress>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let id = EntryId { message: message.id, index };
        let Some(held) = self.held.get_mut(&message.id) else { return };
        let Some(entry) = held.entries.get_mut(usize::from(index)).filter(|entry| entry.state.is_none()) else {
            return;
        };
        entry.take_up(progress);
        entry.turn(Some(State::Deferred), &mut self.counts);
        held.live += 1;
        self.index.add_entry(&message.recipient(index).mailbox, id);
        self.shares.add(&message.user, 1);
        self.plan(message, id, now, effects);
    }

    /// An entry is about to go to another node: its content does not go without a gate any more.
    pub(in crate::queue) fn unfreshen(&mut self, id: EntryId) {
        if let Some((entry, _)) = self.entry_mut(id) {
            entry.fresh_until = Timestamp::default();
        }
    }

    /// An entry is not ours any more: it has ended, or lives on elsewhere.
    pub(in crate::queue) fn part_with(&mut self, id: EntryId) {
        let Some(held) = self.held.get_mut(&id.message) else { return };
        let Some(entry) = held.entries.get_mut(usize::from(id.index)).filter(|entry| entry.state.is_some()) else {
            return;
        };
        entry.turn(None, &mut self.counts);
        let progress =
            std::mem::replace(&mut entry.progress, Arc::new(Progress { ended: true, ..Progress::default() }));
        held.live -= 1;
        let (message, is_last) = (held.message.clone(), held.live == 0);
        self.shares.give_back(&message.user, 1);
        self.forget(id, &message, &progress);
        if is_last {
            self.let_go(id.message);
        }
    }
}
