//! The verbs, as the only node says them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::{Inner, Node};
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::ledger::accept::{Accepted, NewMessage, Obstacles, Precheck, Refused};
use crate::ledger::attempt::{Attempt, Epoch, Lost, Mark, Notice, Settled, Target};
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::journal::JournalError;
use crate::ledger::embedded::store::Change;
use crate::ledger::filter::Filter;
use crate::ledger::listing::{Cancelled, Listing};
use crate::ledger::read::{Health, MessageStatus, Page, Peer, Put, ReadEvents, Row, RowChange, Table, Version};
use crate::ledger::rules::Standing;
use crate::ledger::tables::settle::Verdict;
use crate::ledger::tables::state::State;
use crate::ledger::{Answer, Lease, Ledger, LedgerError};
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;

/// How often a node that leaves looks whether its last attempts are over.
const LEAVE_LOOK: Duration = Duration::from_millis(50);

impl Inner {
    /// Nobody else can have taken what is not known here.
    fn says(verdict: Verdict) -> Lost {
        match verdict {
            Verdict::Lost(lost) => lost,
            Verdict::Missing => Lost::TakenOver,
        }
    }

    /// Decides at once, then waits until that is on disk.
    async fn change<T>(&self, statement: impl FnOnce(&mut State, Timestamp) -> T) -> Result<T, LedgerError> {
        let done = {
            let mut tables = self.tables().ok_or(LedgerError::Unavailable)?;
            let done = statement(&mut tables.state, self.clock.now());
            self.store(&mut tables, Vec::new());
            done
        };
        self.journal.flush().await.map_err(fault)?;
        Ok(done)
    }

    fn look<T>(&self, look: impl FnOnce(&State, Timestamp) -> T) -> Result<T, LedgerError> {
        let tables = self.tables().ok_or(LedgerError::Unavailable)?;
        Ok(look(&tables.state, self.clock.now()))
    }

    async fn gate(&self, attempt: Attempt, mark: Mark) -> Result<(), Lost> {
        let commit = {
            let mut tables = self.tables().ok_or(Lost::Fenced)?;
            tables.state.gate(self.by.me, attempt).map_err(Self::says)?;
            self.store(&mut tables, Vec::new());
            let row = tables.state.entry_mut(attempt.entry).filter(|_| mark == Mark::Durable);
            row.map(|row| {
                row.progress.attempts = attempt.number;
                row.progress.content_sent = true;
                let change = Change::Update(attempt.entry, Box::new(row.progress.clone()));
                self.journal.begin_commit(Lane::Otp, vec![change], true)
            })
        };
        let Some(mut commit) = commit else { return Ok(()) };
        self.journal.finish(&mut commit).await.map_err(|_| Lost::Unavailable)
    }

    async fn settle(&self, attempt: Attempt, settled: Settled) -> Result<(), Lost> {
        {
            let mut tables = self.tables().ok_or(Lost::Fenced)?;
            tables.state.settle(self.by, attempt, &settled, self.clock.now()).map_err(Self::says)?;
            self.store(&mut tables, Vec::new());
        }
        match self.journal.flush().await {
            Ok(()) => {
                // All that was kept came before it.
                self.kept.store(0, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => {
                self.kept.fetch_add(1, Ordering::Relaxed);
                Err(Lost::Unavailable)
            }
        }
    }

    /// There is nobody else: what goes to whoever takes it comes back at once.
    fn hand_over(&self, entries: &[EntryId], to: &Target) -> Result<Vec<EntryId>, LedgerError> {
        let me = self.by.me;
        let mut tables = self.tables().ok_or(LedgerError::Unavailable)?;
        // Whoever hands something over has to hear of it again.
        let Ok(notice) = self.notices.try_reserve() else { return Ok(Vec::new()) };
        let went = tables.state.hand_over(me, entries, to);
        let mut held = Vec::new();
        for id in &went {
            if let Some(row) = tables.state.entry_mut(*id) {
                row.standing = Standing { owner: me, ..row.standing };
            }
            held.extend(tables.state.messages.get(&id.message).map(|held| held.taken(&[id.index]).held));
        }
        if !held.is_empty() {
            notice.send(Notice::Acquired(held));
        }
        Ok(went)
    }

    async fn content(&self, message: MessageId) -> Result<Option<Content>, LedgerError> {
        let lane = self.look(|state, _| state.messages.get(&message).map(|held| held.message.lane))?;
        let Some(lane) = lane else { return Ok(None) };
        self.journal.content(lane, message).await.map_err(fault)
    }

    async fn events(&self, after: Cursor, most: usize) -> Result<ReadEvents, LedgerError> {
        drop(self.tables().ok_or(LedgerError::Unavailable)?);
        let mut read = self.journal.events_after(after, most).await.map_err(fault)?;
        // More come at once from the store.
        read.events.truncate(most);
        let at = if read.events.len() == most { read.events.last().map_or(read.at, |(at, _)| *at) } else { read.at };
        Ok((read.events, at))
    }

    async fn leave(&self, grace: Duration) {
        let until = self.clock.instant() + grace;
        let is_sending = || {
            let tables = self.tables.lock();
            let mut rows = tables.state.messages.values().flat_map(|held| held.entries.values());
            rows.any(|row| row.standing.attempt > row.standing.settled)
        };
        while is_sending() && self.clock.instant() < until {
            tokio::time::sleep(LEAVE_LOOK).await;
        }
        self.tables.lock().has_left = true;
        let _ = self.journal.flush().await;
        self.journal.close();
    }
}

fn fault(error: JournalError) -> LedgerError {
    match error {
        JournalError::Full => LedgerError::Full,
        JournalError::Failed => LedgerError::Fault(error.to_string()),
        JournalError::Closed => LedgerError::Unavailable,
    }
}

impl Ledger for Node {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn lease(&self) -> Lease {
        let (me, until) = (self.0.by.me, self.0.lease_until);
        match self.0.tables() {
            Some(_) => Lease { epoch: me, until },
            None => Lease { epoch: Epoch::UNOWNED, until: self.0.clock.instant() },
        }
    }

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.0.receiving.lock().take()
    }

    fn accept(&self, new: NewMessage) -> BoxFuture<'_, Result<Accepted, Refused>> {
        Box::pin(self.0.accept(new))
    }

    fn precheck(&self, ask: Precheck) -> Answer<'_, Obstacles> {
        Box::pin(async move { self.0.look(|state, now| state.precheck(&ask, now)) })
    }

    fn gate(&self, attempt: Attempt, mark: Mark) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(self.0.gate(attempt, mark))
    }

    fn settle(&self, attempt: Attempt, settled: Settled) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(self.0.settle(attempt, settled))
    }

    fn content(&self, message: MessageId, _: Timestamp) -> Answer<'_, Option<Content>> {
        Box::pin(self.0.content(message))
    }

    fn hand_over(&self, entries: Vec<EntryId>, to: Target) -> Answer<'_, Vec<EntryId>> {
        Box::pin(async move { self.0.hand_over(&entries, &to) })
    }

    fn cancel(&self, which: Filter) -> Answer<'_, Vec<Cancelled>> {
        let me = self.0.by.me;
        Box::pin(self.0.change(move |state, now| state.cancel(me, &which, now)))
    }

    fn make_due(&self, which: Filter) -> Answer<'_, Vec<EntryId>> {
        let me = self.0.by.me;
        Box::pin(self.0.change(move |state, now| state.make_due(me, &which, now)))
    }

    fn find(&self, which: Filter, page: Page) -> Answer<'_, Listing> {
        Box::pin(async move { self.0.look(|state, _| state.find(&which, page)) })
    }

    fn lookup(&self, message: MessageId) -> Answer<'_, Option<MessageStatus>> {
        Box::pin(async move {
            let tables = self.0.tables().ok_or(LedgerError::Unavailable)?;
            Ok(tables.statuses.get(&message).cloned())
        })
    }

    fn events(&self, after: Cursor, most: usize) -> Answer<'_, ReadEvents> {
        Box::pin(self.0.events(after, most))
    }

    fn rows(&self, table: Table, since: Version) -> Answer<'_, (Vec<Row>, Version)> {
        Box::pin(async move { self.0.look(|state, _| state.rows(table, since)) })
    }

    fn put(&self, table: Table, change: RowChange) -> Answer<'_, Put> {
        Box::pin(async move { self.0.change(|state, now| state.put(table, change, now)).await? })
    }

    fn peers(&self) -> Arc<[Peer]> {
        self.0.peers.clone()
    }

    fn health(&self) -> Health {
        Health { fault: self.0.journal.fault(), kept: self.0.kept.load(Ordering::Relaxed) }
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.leave(grace))
    }
}
