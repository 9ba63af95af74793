//! What a node does beside its heartbeats: revocations, comparison, settlements that were kept, takeovers.

use std::sync::Arc;

use super::super::copies::Kept;
use super::super::membership::Differences;
use super::{Inner, PATIENCE};
use crate::ledger::attempt::{Epoch, Held, Lost, Notice};
use crate::ledger::suppression::Learned;
use crate::ledger::tables::settle::Verdict;
use crate::mail::id::EntryId;

/// Entries that are taken over with one statement.
const TAKEN_AT_ONCE: usize = 500;

/// The database did not answer, or the epoch is over.
struct Stopped;

impl Inner {
    pub(super) async fn run_chores(self: Arc<Self>) {
        loop {
            self.chores.notified().await;
            // What is left is done after the next heartbeat.
            let _ = self.do_chores().await;
        }
    }

    async fn do_chores(&self) -> Result<(), Stopped> {
        let me = self.local.lock().epoch;
        let dead = std::mem::take(&mut self.local.lock().dead);
        for (epoch, number) in dead {
            let revoked = self.ask(PATIENCE, move |state, now| state.revoke(epoch, number, now)).await;
            let is_revoked = revoked.map_err(|_| Stopped)?;
            self.local.lock().has_orphans |= is_revoked;
        }
        let now = self.clock.instant();
        let is_due = {
            let local = self.local.lock();
            let is_due = local.compared_at.is_none_or(|at| now - at >= super::RECONCILE_EVERY);
            is_due || !local.is_connected
        };
        if is_due {
            self.reconcile(me).await?;
        }
        self.write_kept(me).await?;
        self.take_over(me).await
    }

    async fn reconcile(&self, me: Epoch) -> Result<(), Stopped> {
        let now = self.ledger_time();
        let compared = {
            let mut local = self.local.lock();
            // A loss from here on makes another comparison necessary.
            local.is_connected = true;
            local.copies.compared(now)
        };
        let answer = self.ask(PATIENCE, move |state, now| state.reconcile(me, &compared, now)).await;
        let Ok(differences) = answer.map_err(|_| Stopped)? else {
            self.fence(me);
            return Err(Stopped);
        };
        let Differences { unknown_to_node, gone, unknown_to_database, unsettled, unparted } = differences;
        {
            let mut local = self.local.lock();
            if local.epoch != me {
                return Err(Stopped);
            }
            let acquired: Vec<Held> =
                unknown_to_node.into_iter().filter_map(|taken| local.copies.acquire(taken)).collect();
            local.acquired(acquired);
            let heard = self.clock.instant();
            gone.into_iter().for_each(|(id, parting)| local.ended_elsewhere(id, parting, heard));
            self.pass_on(&mut local);
        }
        for id in unknown_to_database {
            self.insert_again(me, id).await?;
        }
        for id in unsettled {
            self.settle_again(me, id).await?;
        }
        for id in unparted {
            self.part_again(me, id).await?;
        }
        let mut local = self.local.lock();
        local.compared_at = Some(self.clock.instant());
        if !std::mem::replace(&mut local.is_available, true) {
            local.waiting.push_back(Notice::Available);
        }
        self.pass_on(&mut local);
        Ok(())
    }

    async fn insert_again(&self, me: Epoch, id: EntryId) -> Result<(), Stopped> {
        let copy = {
            let local = self.local.lock();
            local.copies.copy(id).filter(|_| !local.copies.is_busy(id))
        };
        let Some(copy) = copy else { return Ok(()) };
        self.ask(PATIENCE, move |state, now| state.insert_again(me, id, &copy, now)).await.map_err(|_| Stopped)
    }

    async fn part_again(&self, me: Epoch, id: EntryId) -> Result<(), Stopped> {
        let Some((parting, copy)) = self.local.lock().copies.parted(id) else { return Ok(()) };
        let asked = move |state: &mut super::State, now| state.part_again(me, (id, &copy), parting, now);
        self.ask(PATIENCE, asked).await.map_err(|_| Stopped)
    }

    async fn settle_again(&self, me: Epoch, id: EntryId) -> Result<(), Stopped> {
        let Some(kept) = self.local.lock().copies.recent(id) else { return Ok(()) };
        self.write(me, kept).await.map(|_| ()).map_err(|_| Stopped)
    }

    /// Writes a settlement down. A database that came back without the entry gets it again first.
    pub(super) async fn write(&self, me: Epoch, kept: Kept) -> Result<Result<(), Verdict>, super::Unanswered> {
        let by = self.accepting(me);
        let Kept { attempt, settled, copy } = kept;
        let first = settled.clone();
        let done = self.ask(PATIENCE, move |state, now| state.settle(by, attempt, first, now)).await?;
        let (Err(Verdict::Missing), Some(copy)) = (done, copy) else { return Ok(self.logged(done)) };
        let again = move |state: &mut super::State, now| {
            state.insert_again(me, attempt.entry, &copy, now);
            state.settle(by, attempt, settled, now)
        };
        Ok(self.logged(self.ask(PATIENCE, again).await?))
    }

    /// Tells the operator what a settlement taught.
    fn logged(&self, done: Result<Option<Learned>, Verdict>) -> Result<(), Verdict> {
        done.map(|learned| learned.into_iter().for_each(|learned| learned.log(self.clock.step())))
    }

    /// Settlements that were kept go first, in their order.
    async fn write_kept(&self, me: Epoch) -> Result<(), Stopped> {
        loop {
            let Some(kept) = self.local.lock().copies.first_kept() else { return Ok(()) };
            let entry = kept.attempt.entry;
            let done = self.write(me, kept.clone()).await.map_err(|_| Stopped)?;
            let now = self.clock.instant();
            let mut local = self.local.lock();
            if local.epoch != me {
                return Err(Stopped);
            }
            local.copies.drop_first_kept(entry);
            match done {
                Ok(()) => local.copies.settled(kept, now),
                Err(Verdict::Lost(Lost::Fenced)) => {
                    drop(local);
                    self.fence(me);
                    return Err(Stopped);
                }
                Err(verdict @ Verdict::Lost(Lost::Ended(kind))) => {
                    let was_held = local.copies.holds(entry);
                    local.copies.lost(kept, verdict, now);
                    if was_held {
                        local.waiting.push_back(Notice::Ended(entry, kind));
                    }
                    self.pass_on(&mut local);
                }
                Err(verdict @ (Verdict::Lost(Lost::TakenOver | Lost::Unavailable) | Verdict::Missing)) => {
                    local.copies.lost(kept, verdict, now);
                }
            }
        }
    }

    async fn take_over(&self, me: Epoch) -> Result<(), Stopped> {
        while std::mem::take(&mut self.local.lock().has_orphans) {
            let (by, patience) = (self.accepting(me), self.timing.lease() / 2);
            let taking = self.ask(PATIENCE, move |state, now| state.take(by, TAKEN_AT_ONCE, patience, now)).await;
            let Ok((taken, is_more)) = taking.map_err(|_| Stopped)? else {
                self.fence(me);
                return Err(Stopped);
            };
            let mut local = self.local.lock();
            if local.epoch != me {
                return Err(Stopped);
            }
            local.has_orphans |= is_more;
            let acquired: Vec<Held> = taken.into_iter().filter_map(|taken| local.copies.acquire(taken)).collect();
            local.acquired(acquired);
            self.pass_on(&mut local);
        }
        Ok(())
    }
}
