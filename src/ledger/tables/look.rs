//! What people and apps ask and do, whoever owns the entries.

use std::ops::Bound;
use std::sync::Arc;

use super::state::{EntryRow, MessageRow, Signal, State, Touched};
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Kind};
use crate::ledger::accept::MayHaveArrived;
use crate::ledger::attempt::Epoch;
use crate::ledger::cursor::Cursor;
use crate::ledger::entry::State as EntryState;
use crate::ledger::filter::Filter;
use crate::ledger::listing::{Cancelled, EntrySnapshot, Listing, Snapshot};
use crate::ledger::outbox::Read;
use crate::ledger::read::{MessageStatus, Page};
use crate::mail::id::{EntryId, MessageId};

fn state_of(row: &EntryRow) -> EntryState {
    if row.standing.is_out {
        EntryState::Sending
    } else if row.standing.settled > 0 {
        EntryState::Deferred
    } else {
        EntryState::Queued
    }
}

fn snapshot(held: &MessageRow, filter: &Filter) -> Option<Snapshot> {
    if !filter.covers_message(&held.message) {
        return None;
    }
    let covered = held
        .entries
        .iter()
        .filter(|(index, row)| filter.covers_entry(&held.message.recipient(**index).mailbox, Some(state_of(row))));
    let entries = covered.map(|(index, row)| EntrySnapshot {
        id: EntryId { message: held.message.id, index: *index },
        state: Some(state_of(row)),
        progress: row.progress(),
        may_have_arrived: row.standing.is_out,
    });
    let entries: Vec<_> = entries.collect();
    (!entries.is_empty()).then(|| Snapshot { message: held.message.clone(), entries })
}

impl State {
    pub(in crate::ledger) fn find(&self, filter: &Filter, page: Page) -> Listing {
        let after = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut messages: Vec<Snapshot> = match filter.message {
            Some(id) if page.after.is_none_or(|after| after < id) => {
                self.messages.get(&id).into_iter().filter_map(|held| snapshot(held, filter)).collect()
            }
            Some(_) => Vec::new(),
            None => {
                let all = self.messages.range((after, Bound::Unbounded));
                all.filter_map(|(_, held)| snapshot(held, filter)).collect()
            }
        };
        let entries = messages.iter().map(|message| message.entries.len()).sum();
        messages.truncate(page.most);
        Listing { messages, entries }
    }

    fn covered(&self, filter: &Filter) -> Vec<EntryId> {
        let found = self.find(filter, Page { after: None, most: usize::MAX }).messages.into_iter();
        found.flat_map(|found| found.entries.into_iter().map(|entry| entry.id)).collect()
    }

    pub(in crate::ledger) fn cancel(&mut self, by: Epoch, filter: &Filter, now: Timestamp) -> Vec<Cancelled> {
        let mut cancelled = Vec::new();
        for id in self.covered(filter) {
            let Some(held) = self.messages.get(&id.message) else { continue };
            let recipient = held.message.recipient(id.index).mailbox.clone();
            if let Some(content) = self.end_by(by, id, Kind::Cancelled, Attempted::default(), now) {
                cancelled.push(Cancelled { id, recipient, may_still_arrive: content == MayHaveArrived::Yes });
            }
        }
        cancelled
    }

    pub(in crate::ledger) fn make_due(&mut self, by: Epoch, filter: &Filter, now: Timestamp) -> Vec<EntryId> {
        let covered = self.covered(filter);
        for id in &covered {
            let Some(row) = self.entry_mut(*id) else { continue };
            let progress = row.progress_mut();
            progress.next_attempt_at = progress.next_attempt_at.min(now);
            let owner = row.standing.owner;
            self.touched.push(Touched::Entry(*id));
            self.signal(owner, by, Signal::Due(*id));
        }
        covered
    }

    pub(in crate::ledger) fn lookup(&self, id: MessageId) -> Option<MessageStatus> {
        let message = self.messages.get(&id).map(|held| &*held.message);
        MessageStatus::of(message, self.events.iter().map(Arc::as_ref).filter(|event| event.head.id == id))
    }

    pub(in crate::ledger) fn events(&self, after: Cursor, most: usize) -> Read {
        let from = usize::try_from(after.number()).unwrap_or(usize::MAX).min(self.events.len());
        let some = self.events[from..].iter().take(most);
        let some: Vec<_> = (1..).map(|number| after.plus(number)).zip(some.cloned()).collect();
        let at = some.last().map_or(after, |(cursor, _)| *cursor);
        Read { events: some, at, has_missed: false }
    }
}
