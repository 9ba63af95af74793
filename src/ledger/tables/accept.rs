//! A message comes in: one statement decides on all that could stand in its way.

use std::sync::Arc;

use litemap::LiteMap;

use super::state::{EntryRow, MessageRow, SlotRow, State, Touched};
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Kind};
use crate::ledger::accept::{
    Accepted, KeyHash, KnownWait, NewMessage, Obstacles, OverBudget, Precheck, Refused, Stored,
};
use crate::ledger::attempt::Epoch;
use crate::ledger::entry::{Message, Progress};
use crate::ledger::rules::{Delivery, Standing};
use crate::mail::id::{EntryId, MessageId};

/// Whose acceptance, and under which rules.
#[derive(Clone, Copy, Debug)]
pub(in crate::ledger) struct Accepting {
    pub(in crate::ledger) me: Epoch,
    pub(in crate::ledger) delivery: Delivery,
    pub(in crate::ledger) entries_max: usize,
    pub(in crate::ledger) supersession: Supersession,
}

/// Who ends an entry of the node that accepts a newer message for its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Supersession {
    /// The statement that accepts the newer message, which ends those of other nodes too.
    ByStatement,
    /// The node, which is told to.
    ByOwner,
}

/// What became of a message that asks to be let in.
#[derive(Clone, Debug)]
pub(in crate::ledger) enum Reserved {
    /// It was accepted before.
    Known(Accepted),
    /// It has all that it needs, and this place; [`State::admit`] brings it to life, [`State::release`] gives it back.
    New(u64),
}

impl State {
    /// # Errors
    /// What stands in its way; then nothing has changed.
    pub(in crate::ledger) fn accept(
        &mut self,
        by: Accepting,
        new: &NewMessage,
        now: Timestamp,
    ) -> Result<Accepted, Refused> {
        match self.reserve(by, new, now)? {
            Reserved::Known(accepted) => Ok(accepted),
            Reserved::New(sequence) => Ok(self.admit(by, new, sequence, now)),
        }
    }

    /// Takes what a message needs, so that nobody else gets it; its entries are not there yet.
    ///
    /// # Errors
    /// What stands in its way; then nothing has changed.
    pub(in crate::ledger) fn reserve(
        &mut self,
        by: Accepting,
        new: &NewMessage,
        now: Timestamp,
    ) -> Result<Reserved, Refused> {
        self.living(by.me).map_err(|_| Refused::Unavailable(Stored::No))?;
        let message = &new.message;
        if let Some(sequence) = self.sequence_of(message.id) {
            let accepted = Accepted { sequence, waits: self.known_waits(new), ..Accepted::default() };
            return Ok(Reserved::Known(accepted));
        }
        let repeated = new.idempotency.as_ref().and_then(|asked| self.keys.find(asked, now));
        if let Some(repeated) = repeated {
            return Err(Refused::Repeats(repeated));
        }
        let tries = self.suppressions.admit(message, now).map_err(Refused::Suppressed)?;
        let has_room = |ask| self.budgets.room(ask, &[], now).map_err(Refused::Budget);
        new.budgets.iter().try_for_each(has_room)?;
        if self.live + message.envelope.recipients.len() > by.entries_max {
            return Err(Refused::Full);
        }
        if tries {
            self.suppressions.try_with(message, now);
        }
        Ok(Reserved::New(self.take_in(new, now)))
    }

    /// A message of the relay's own, which is never refused.
    pub(in crate::ledger) fn adopt(&mut self, by: Accepting, new: &NewMessage, now: Timestamp) {
        if self.sequence_of(new.message.id).is_none() {
            let sequence = self.take_in(new, now);
            self.admit(by, new, sequence, now);
        }
    }

    /// Says its place.
    fn take_in(&mut self, new: &NewMessage, now: Timestamp) -> u64 {
        let message = &new.message;
        self.sequence += 1;
        let sequence = self.sequence;
        self.accepted.insert(message.id, sequence);
        self.under_way.insert(sequence);
        self.live += message.envelope.recipients.len();
        self.touched.push(Touched::Accepted(message.clone(), new.content.clone()));
        new.events(now).into_iter().for_each(|event| self.publish(event));
        if let Some(asked) = &new.idempotency {
            let changed = self.keys.take(asked, message.id, now);
            self.touched.extend(changed.into_iter().map(Touched::Key));
        }
        for ask in &new.budgets {
            let changed = self.budgets.take(ask, message.id, now);
            self.touched.extend(changed.into_iter().map(Touched::Budget));
        }
        self.touched.extend(new.rows.iter().cloned().map(Touched::Side));
        sequence
    }

    /// Brings to life what has its place, and ends what had its slots.
    pub(in crate::ledger) fn admit(
        &mut self,
        by: Accepting,
        new: &NewMessage,
        sequence: u64,
        now: Timestamp,
    ) -> Accepted {
        self.insert(by, new, sequence);
        let mut accepted = Accepted { sequence, waits: self.known_waits(new), ..Accepted::default() };
        self.take_slots(by, new.message.id, &new.slots, &mut accepted, now);
        self.came(sequence);
        accepted
    }

    /// A message is not under way any more: it is admitted, or given up.
    fn came(&mut self, sequence: u64) {
        self.under_way.remove(&sequence);
        self.forget_slots();
    }

    /// Gives back what [`State::reserve`] took for a message that was not stored.
    pub(in crate::ledger) fn release(&mut self, new: &NewMessage) {
        let message = &new.message;
        if let Some(sequence) = self.accepted.remove(&message.id) {
            self.came(sequence);
        }
        self.live -= message.envelope.recipients.len();
        self.forget_claims(
            message,
            new.idempotency.as_ref().map(|asked| asked.key),
            new.budgets.iter().map(|ask| ask.key),
        );
    }

    /// A message that nobody knows to be accepted: its entries end, and it counts for nothing.
    pub(in crate::ledger) fn withdraw(&mut self, me: Epoch, id: MessageId, why: &str, now: Timestamp) {
        let Some(held) = self.messages.get(&id) else { return };
        let message = held.message.clone();
        let mine = held.entries.iter().filter(|(_, row)| row.standing.owner == me);
        let mine: Vec<u16> = mine.map(|(index, _)| *index).collect();
        if mine.is_empty() {
            return;
        }
        for index in mine {
            let attempted = Attempted { note: Some(why.into()), ..Attempted::default() };
            self.end_by(me, EntryId { message: id, index }, Kind::Cancelled, attempted, now);
        }
        let keys = self.keys.of_message(id);
        let budgets = self.budgets.of_message(id);
        self.forget_claims(&message, keys, budgets.into_iter());
    }

    fn forget_claims(
        &mut self,
        message: &Message,
        keys: impl IntoIterator<Item = KeyHash>,
        budgets: impl Iterator<Item = KeyHash>,
    ) {
        for key in keys {
            if self.keys.give_back(key, message.id) {
                self.touched.push(Touched::Key(key));
            }
        }
        for key in budgets {
            if self.budgets.give_back_of(key, message.id) {
                self.touched.push(Touched::Budget(key));
            }
        }
        for recipient in &message.envelope.recipients {
            self.suppressions.end_try(&recipient.mailbox, message.id);
        }
    }

    /// Its rows.
    pub(in crate::ledger) fn insert(&mut self, by: Accepting, new: &NewMessage, sequence: u64) {
        let message = &new.message;
        let count = u16::try_from(message.envelope.recipients.len()).unwrap_or(u16::MAX);
        let row = |index: u16| {
            let at_risk = new.risks.iter().any(|risk| risk.index == index);
            let slots = new.slots.iter().filter(|(of, _)| *of == index).map(|(_, slot)| *slot).collect();
            let standing = Standing::accepted(by.me, by.delivery);
            let progress = at_risk.then(|| Arc::new(Progress { at_risk, ..Progress::default() }));
            EntryRow { standing, slots, progress }
        };
        // In as much memory as they need.
        let entries: Vec<(u16, EntryRow)> = (0..count).map(|index| (index, row(index))).collect();
        let entries = LiteMap::from_sorted_store_unchecked(entries);
        let content = Some(&new.content).filter(|content| !content.is_empty()).cloned().map(Box::new);
        let row = MessageRow { message: message.clone(), content, sequence, entries, ended: None };
        self.accepted.remove(&message.id);
        self.messages.insert(message.id, row);
    }

    /// A message takes its slots. Older entries in them end, or their owners are told to end them; so does its own entry where
    /// a newer message has the slot already.
    pub(in crate::ledger) fn take_slots(
        &mut self,
        by: Accepting,
        message: MessageId,
        slots: &[(u16, KeyHash)],
        accepted: &mut Accepted,
        now: Timestamp,
    ) {
        for (index, key) in slots {
            let id = EntryId { message, index: *index };
            let (newest, outlived) = self.take_slot(*key, id, accepted.sequence);
            for entry in outlived {
                let is_ours = self.entry(entry).is_some_and(|row| row.standing.owner == by.me);
                if is_ours && by.supersession == Supersession::ByOwner {
                    accepted.outlived.push((entry, newest));
                    continue;
                }
                let note = Some(format!("by {newest}").into());
                let end = self.end_by(by.me, entry, Kind::Superseded, Attempted { note, ..Attempted::default() }, now);
                match end {
                    Some(_) if entry == id => accepted.overtaken.push(*index),
                    Some(may_have_arrived) => accepted.superseded.push((entry, may_have_arrived)),
                    None => {}
                }
            }
        }
    }

    /// Says which message is the newest in the slot, and which entries in it are not of that one.
    fn take_slot(&mut self, key: KeyHash, id: EntryId, sequence: u64) -> (MessageId, Vec<EntryId>) {
        let fresh = || SlotRow { sequence, newest: id.message, holders: Vec::new() };
        let slot = self.slots.entry(key).or_insert_with(fresh);
        slot.holders.push(id);
        if slot.sequence > sequence {
            return (slot.newest, vec![id]);
        }
        (slot.sequence, slot.newest) = (sequence, id.message);
        // The same recipient twice in one message is no newer code.
        let older = slot.holders.iter().filter(|holder| holder.message != id.message);
        (id.message, older.copied().collect())
    }

    /// Forgets some of the places and names that count no more.
    pub(in crate::ledger) fn sweep(&mut self, now: Timestamp) {
        let (budgets, keys) = (self.budgets.sweep(now), self.keys.sweep(now));
        self.touched.extend(budgets.into_iter().map(Touched::Budget));
        self.touched.extend(keys.into_iter().map(Touched::Key));
    }

    fn known_waits(&self, new: &NewMessage) -> Vec<(u16, KnownWait)> {
        if self.waits.is_empty() {
            return Vec::new();
        }
        let indices = (0..).zip(&new.message.envelope.recipients).map(|(index, _)| index);
        let wait = |index| Some((index, self.waits.get(&Self::waiting(&new.message, index))?.clone()));
        indices.filter_map(wait).collect()
    }

    /// What would stand in the way.
    pub(in crate::ledger) fn precheck(&self, ask: &Precheck, now: Timestamp) -> Obstacles {
        let (suppression, standing) = self.suppressions.against(&ask.recipient, now);
        let budget = ask.budgets.iter().find_map(|budget| {
            let why = self.budgets.room(budget, &ask.ahead, now).err()?;
            Some(OverBudget { why, may_repeat: self.budgets.may_repeat(budget, now) })
        });
        // Names need not be made where nobody waits.
        let waiting = (!self.waits.is_empty()).then(|| (ask.sender.clone(), ask.recipient.plain_key().into()));
        let wait = waiting.and_then(|waiting| self.waits.get(&waiting).cloned());
        Obstacles { suppression, standing, budget, wait }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, Happened};
    use crate::ledger::tables::state::{EndRow, NodeRow};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::IdSource;
    use crate::mail::message::Content;

    const NOW: Timestamp = Timestamp::from_millis(1_795_255_200_000);
    const SLOT: KeyHash = KeyHash([1; 16]);
    const BY: Accepting = Accepting {
        me: Epoch(1),
        delivery: Delivery::AtLeastOnce,
        entries_max: 100,
        supersession: Supersession::ByOwner,
    };

    fn in_slot(ids: &IdSource) -> NewMessage {
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse("a@one.test").unwrap())],
        };
        let life = NOW..NOW.plus(Duration::from_secs(600));
        let message = Arc::new(Message::new(ids.next(NOW), "shop".into(), envelope, life));
        let event = Event { head: message.head(NOW), what: Happened::Accepted { note: None, others: Arc::default() } };
        NewMessage { slots: vec![(0, SLOT)], ..NewMessage::plain(message, Content::default(), event) }
    }

    /// The newer message is stored sooner and has ended when the older one comes, which is useless all the same. Then the slot
    /// is forgotten.
    #[test]
    fn an_older_message_that_comes_late_is_outlived_by_one_that_has_ended() {
        let (mut state, ids) = (State::default(), IdSource::with_random(|| 3));
        let row = NodeRow { id: 0, name: "node".into(), egress: "node".into(), beat: 1, revoked_at: None };
        state.nodes.insert(BY.me, row);
        let (older, newer) = (in_slot(&ids), in_slot(&ids));
        let id = |new: &NewMessage| EntryId { message: new.message.id, index: 0 };
        let end = |kind| EndRow { kind, by: None, at: NOW };
        let Ok(Reserved::New(first)) = state.reserve(BY, &older, NOW) else { panic!() };
        assert_eq!(state.accept(BY, &newer, NOW).unwrap().outlived, []);
        state.remove(id(&newer), end(Kind::Delivered));
        assert_eq!(state.admit(BY, &older, first, NOW).outlived, [(id(&older), newer.message.id)]);
        assert_eq!(state.slots.len(), 1);
        state.remove(id(&older), end(Kind::Superseded));
        assert!(state.slots.is_empty() && state.emptied.is_empty());
        // So is it when the older one is given up.
        let (older, newer) = (in_slot(&ids), in_slot(&ids));
        assert!(matches!(state.reserve(BY, &older, NOW), Ok(Reserved::New(_))));
        state.accept(BY, &newer, NOW).unwrap();
        state.remove(id(&newer), end(Kind::Delivered));
        assert_eq!(state.slots.len(), 1, "the older one may come yet");
        state.release(&older);
        assert!(state.slots.is_empty());
    }
}
