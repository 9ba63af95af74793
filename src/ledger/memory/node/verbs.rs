//! The verbs, as this node says them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::super::database::Unanswered;
use super::super::parting::Parting;
use super::{Inner, Node, PATIENCE};
use crate::base::clock::Timestamp;
use crate::event::{Event, Kind};
use crate::ledger::accept::{
    Accepted, Idempotency, KeyHash, KeyOf, NewMessage, Obstacles, Precheck, Refused, Repeated, Stored,
};
use crate::ledger::attempt::{Attempt, Epoch, Lost, Mark, Notice, Settled, Target};
use crate::ledger::cursor::Cursor;
use crate::ledger::entry::Message;
use crate::ledger::filter::Filter;
use crate::ledger::latest::Latest;
use crate::ledger::listing::{Cancelled, Listing};
use crate::ledger::outbox::{Outbox, Read};
use crate::ledger::read::{Activity, Health, MessageStatus, Page, Peer, Put, Row, RowChange, Table, Version};
use crate::ledger::side::{SideChange, SideRow, SideTable, SideTables};
use crate::ledger::tables::settle::Verdict;
use crate::ledger::tables::state::State;
use crate::ledger::{Answer, Ledger, LedgerError};
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;

/// How often a node that leaves looks whether its last attempts are over.
const LEAVE_LOOK: Duration = Duration::from_millis(50);

/// An acceptance under way. Where nobody waits for it any more, it is undone.
struct UnderWay<'a> {
    inner: &'a Inner,
    message: Arc<Message>,
    is_over: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut local = self.inner.local.lock();
            local.copies.refused(&self.message);
            local.is_connected = false;
        }
    }
}

impl Inner {
    async fn accept(&self, new: NewMessage) -> Result<Accepted, Refused> {
        self.stand().await;
        let me = {
            let mut local = self.local.lock();
            if local.is_stopped || local.epoch == Epoch::UNOWNED || !local.own.holds(self.clock.instant()) {
                return Err(Refused::Unavailable(Stored::No));
            }
            local.copies.begin_acceptance(new.message.id);
            local.epoch
        };
        let mut under_way = UnderWay { inner: self, message: new.message.clone(), is_over: false };
        let (by, asked) = (self.accepting(me), new.clone());
        let answer = self.ask(PATIENCE, move |state, now| state.accept(by, &asked, now)).await;
        let mut local = self.local.lock();
        let id = new.message.id;
        under_way.is_over = true;
        match answer {
            Ok(Ok(mut accepted)) => {
                if local.epoch != me {
                    accepted.overtaken = (0..).zip(&new.message.envelope.recipients).map(|(index, _)| index).collect();
                }
                local.copies.accepted(&new, &accepted, self.clock.instant());
                Ok(accepted)
            }
            Ok(Err(refused)) => {
                local.copies.not_accepted(id);
                Err(refused)
            }
            Err(Unanswered::NotSent) => {
                local.copies.not_accepted(id);
                Err(Refused::Unavailable(Stored::No))
            }
            Err(Unanswered::Unknown) => {
                local.copies.refused(&new.message);
                Err(Refused::Unavailable(Stored::Unknown))
            }
        }
    }

    async fn gate(&self, attempt: Attempt) -> Result<(), Lost> {
        let (me, copy, void) = {
            let local = self.local.lock();
            if local.copies.is_kept(attempt.entry) {
                return Err(Lost::Unavailable);
            }
            (local.epoch, local.copies.copy(attempt.entry), local.copies.handing(attempt.entry))
        };
        let asked = move |state: &mut State, now| {
            // A hand-over that was given up must not come after it.
            void.into_iter().for_each(|number| state.give_up(me, number));
            let gated = state.gate(me, attempt);
            match (gated, copy) {
                (Err(Verdict::Missing), Some(copy)) => {
                    state.insert_again(me, attempt.entry, &copy, now);
                    state.gate(me, attempt)
                }
                (gated, _) => gated,
            }
        };
        match self.ask(PATIENCE, asked).await {
            Ok(Ok(())) => {
                self.local.lock().copies.gated(attempt, void);
                Ok(())
            }
            Ok(Err(verdict)) => {
                self.local.lock().copies.not_ours(attempt.entry, verdict, self.clock.instant());
                Err(self.says(me, verdict))
            }
            Err(_) => Err(Lost::Unavailable),
        }
    }

    async fn settle(&self, attempt: Attempt, settled: Settled) -> Result<(), Lost> {
        let (me, kept) = {
            let mut local = self.local.lock();
            if local.is_stopped || local.epoch == Epoch::UNOWNED {
                return Err(Lost::Fenced);
            }
            let was_kept = local.copies.is_kept(attempt.entry);
            let kept = local.copies.begin_settlement(attempt, &settled);
            if was_kept {
                local.copies.keep(kept);
                return Err(Lost::Unavailable);
            }
            (local.epoch, kept)
        };
        let done = self.write(me, kept.clone()).await;
        let now = self.clock.instant();
        let mut local = self.local.lock();
        if local.epoch != me {
            return done.ok().and_then(Result::ok).ok_or(Lost::Fenced);
        }
        match done {
            Ok(Ok(())) => {
                local.copies.settled(kept, now);
                Ok(())
            }
            Ok(Err(verdict)) => {
                local.copies.lost(kept, verdict, now);
                drop(local);
                Err(self.says(me, verdict))
            }
            Err(_) => {
                local.copies.keep(kept);
                Err(Lost::Unavailable)
            }
        }
    }

    async fn look<T: Send + 'static>(
        &self,
        statement: impl FnOnce(&mut State, Timestamp) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(PATIENCE, statement).await.map_err(|_| LedgerError::Unavailable)
    }

    /// What nobody waits for.
    fn ask_soon(self: &Arc<Self>, statement: impl FnOnce(&mut State, Timestamp) + Send + 'static) {
        let this = self.clone();
        tokio::spawn(async move { this.ask(PATIENCE, statement).await });
    }

    async fn hand_over(&self, entries: Vec<EntryId>, to: Target) -> Result<Vec<EntryId>, LedgerError> {
        let (me, number) = {
            let mut local = self.local.lock();
            (local.epoch, local.copies.begin_hand_over(&entries))
        };
        let asked = entries.clone();
        let went = self.look(move |state, _| state.hand_over_numbered((me, number), &asked, &to)).await?;
        let now = self.clock.instant();
        let mut local = self.local.lock();
        if local.epoch == me {
            local.copies.end_hand_over(&entries, number);
            went.iter().for_each(|(id, owner)| _ = local.copies.part_with(*id, Parting::To(*owner), now));
        }
        Ok(went.into_iter().map(|(id, _)| id).collect())
    }

    async fn cancel(&self, which: Filter) -> Result<Vec<Cancelled>, LedgerError> {
        let me = self.local.lock().epoch;
        let cancelled = self.look(move |state, now| state.cancel(me, &which, now)).await?;
        let now = self.clock.instant();
        let mut local = self.local.lock();
        let parting = Parting::Ended(Kind::Cancelled);
        cancelled.iter().for_each(|cancelled| _ = local.copies.part_with(cancelled.id, parting, now));
        Ok(cancelled)
    }

    /// Those that are not being settled go to whoever takes them; the others get so long.
    async fn leave(&self, grace: Duration) {
        let until = self.clock.instant() + grace;
        loop {
            let idle = {
                let mut local = self.local.lock();
                let now = local.latest;
                local.copies.compared(now).held
            };
            if idle.is_empty() || self.clock.instant() >= until {
                break;
            }
            let _ = self.hand_over(idle, Target::Unowned).await;
            tokio::time::sleep(LEAVE_LOOK).await;
        }
        let me = self.local.lock().epoch;
        let _ = self.ask(PATIENCE, move |state, now| state.leave(me, now)).await;
        self.local.lock().is_stopped = true;
    }
}

impl Ledger for Node {
    fn now(&self) -> Timestamp {
        self.inner.ledger_time()
    }

    fn lease(&self) -> crate::ledger::Lease {
        self.inner.lease()
    }

    fn key_hash(&self, of: KeyOf, name: &[u8]) -> KeyHash {
        self.inner.key_secret.hash(of, name)
    }

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.inner.receiving.lock().take()
    }

    fn accept(&self, new: NewMessage) -> BoxFuture<'_, Result<Accepted, Refused>> {
        Box::pin(self.inner.accept(new))
    }

    fn adopt(&self, new: NewMessage) {
        let me = self.inner.local.lock().epoch;
        let by = self.inner.accepting(me);
        self.inner.ask_soon(move |state, now| state.adopt(by, &new, now));
    }

    fn precheck(&self, ask: Precheck) -> Answer<'_, Obstacles> {
        Box::pin(self.inner.look(move |state, now| state.precheck(&ask, now)))
    }

    fn recall(&self, of: Idempotency) -> Answer<'_, Option<Repeated>> {
        Box::pin(self.inner.look(move |state, now| state.keys.find(&of, now)))
    }

    fn gate(&self, attempt: Attempt, _: Mark) -> BoxFuture<'_, Result<(), Lost>> {
        // All that is done here is durable.
        Box::pin(self.inner.gate(attempt))
    }

    fn settle(&self, attempt: Attempt, settled: Settled) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(self.inner.settle(attempt, settled))
    }

    fn content(&self, message: MessageId, _: Timestamp) -> Answer<'_, Option<Content>> {
        Box::pin(self.inner.look(move |state, _| state.messages.get(&message).map(|held| held.content())))
    }

    fn hand_over(&self, entries: Vec<EntryId>, to: Target) -> Answer<'_, Vec<EntryId>> {
        Box::pin(self.inner.hand_over(entries, to))
    }

    fn cancel(&self, which: Filter) -> Answer<'_, Vec<Cancelled>> {
        Box::pin(self.inner.cancel(which))
    }

    fn make_due(&self, which: Filter) -> Answer<'_, Vec<EntryId>> {
        let me = self.inner.local.lock().epoch;
        Box::pin(self.inner.look(move |state, now| state.make_due(me, &which, now)))
    }

    fn find(&self, which: Filter, page: Page) -> Answer<'_, Listing> {
        Box::pin(self.inner.look(move |state, _| state.find(&which, page)))
    }

    fn lookup(&self, message: MessageId) -> Answer<'_, Option<MessageStatus>> {
        Box::pin(self.inner.look(move |state, _| state.lookup(message)))
    }

    fn row(&self, table: Table, key: Box<[u8]>) -> Answer<'_, Option<Row>> {
        Box::pin(self.inner.look(move |state, _| state.row(table, &key)))
    }

    fn rows(&self, table: Table, since: Version) -> Answer<'_, (Vec<Row>, Version)> {
        Box::pin(self.inner.look(move |state, _| state.rows(table, since)))
    }

    fn put(&self, table: Table, change: RowChange) -> Answer<'_, Put> {
        Box::pin(async move { self.inner.look(move |state, now| state.put(table, change, now)).await? })
    }

    fn peers(&self) -> Arc<[Peer]> {
        self.inner.local.lock().peers.clone()
    }

    fn health(&self) -> Health {
        let local = self.inner.local.lock();
        let fault = (!local.is_available).then(|| "the ledger does not answer".into());
        Health { fault, kept: local.copies.kept_len(), activity: Activity::Rests }
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.leave(grace))
    }
}

impl SideTables for Node {
    fn take_side(&self, table: SideTable) -> Vec<SideRow> {
        self.inner.database.side(table)
    }

    fn store(&self, rows: Vec<SideChange>) -> Answer<'_, ()> {
        Box::pin(self.inner.look(move |state, _| state.change_rows(rows)))
    }

    fn store_soon(&self, rows: Vec<SideChange>) {
        self.inner.ask_soon(move |state, _| state.change_rows(rows));
    }
}

impl Outbox for Node {
    fn events(&self, after: Cursor, most: usize) -> Answer<'_, Read> {
        Box::pin(self.inner.look(move |state, _| state.events(after, most)))
    }

    fn latest(&self) -> &Arc<Latest> {
        &self.inner.latest
    }

    fn publish(&self, event: Event) {
        self.inner.ask_soon(move |state, _| state.publish(event));
    }

    fn record(&self, event: Event) -> Answer<'_, ()> {
        Box::pin(self.inner.look(move |state, _| state.publish(event)))
    }

    fn erase(&self, plain: Arc<str>) -> Answer<'_, usize> {
        Box::pin(async move {
            self.inner.latest.erase(&plain);
            self.inner.look(move |state, _| state.erase(&plain)).await
        })
    }

    /// All that is answered is durable.
    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
