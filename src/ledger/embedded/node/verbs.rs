//! The verbs, as the only node says them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::{Inner, Node};
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::event::Event;
use crate::ledger::accept::{
    Accepted, Idempotency, KeyHash, KeyOf, NewMessage, Obstacles, Precheck, Refused, Repeated,
};
use crate::ledger::attempt::{Attempt, Epoch, Lost, Mark, Notice, Settled, Target};
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::journal::JournalError;
use crate::ledger::embedded::store::Change;
use crate::ledger::filter::Filter;
use crate::ledger::latest::Latest;
use crate::ledger::listing::{Cancelled, Listing};
use crate::ledger::outbox::{Outbox, Read};
use crate::ledger::read::{Health, MessageStatus, Page, Peer, Put, Row, RowChange, Table, Version};
use crate::ledger::rules::Standing;
use crate::ledger::side::{SideChange, SideRow, SideTable, SideTables};
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
            self.store(&mut tables);
            done
        };
        self.journal.flush().await.map_err(fault)?;
        Ok(done)
    }

    fn look<T>(&self, look: impl FnOnce(&State, Timestamp) -> T) -> Result<T, LedgerError> {
        let tables = self.tables().ok_or(LedgerError::Unavailable)?;
        Ok(look(&tables.state, self.clock.now()))
    }

    fn recall(&self, of: &Idempotency) -> Result<Option<Repeated>, LedgerError> {
        let tables = self.tables().ok_or(LedgerError::Unavailable)?;
        let found = tables.state.keys.find(of, self.clock.now());
        Ok(found.filter(|found| match found {
            Repeated::Same(message) | Repeated::OtherDay { message, .. } => !tables.under_way.contains(message),
            Repeated::Other => true,
        }))
    }

    async fn gate(&self, attempt: Attempt, mark: Mark) -> Result<(), Lost> {
        let commit = {
            let mut tables = self.tables().ok_or(Lost::Fenced)?;
            tables.state.gate(self.by.me, attempt).map_err(Self::says)?;
            self.store(&mut tables);
            if mark == Mark::Visible {
                return Ok(());
            }
            let lane = tables.state.messages.get(&attempt.entry.message).map_or(Lane::Otp, |held| held.message.lane);
            let row = tables.state.entry_mut(attempt.entry);
            row.map(|row| {
                let progress = row.progress_mut();
                progress.attempts = attempt.number;
                progress.content_sent = true;
                let change = Change::Update(attempt.entry, Arc::new(progress.clone()));
                self.journal.begin_commit(lane, vec![change], true)
            })
        };
        let Some(mut commit) = commit else { return Ok(()) };
        self.journal.finish(&mut commit).await.map_err(|_| Lost::Unavailable)
    }

    /// Decided at once; the journal keeps it until it can be written.
    fn settle(&self, attempt: Attempt, settled: Settled) -> Result<(), Lost> {
        let learned = {
            let mut tables = self.tables().ok_or(Lost::Fenced)?;
            let learned = tables.state.settle(self.by, attempt, settled, self.clock.now()).map_err(Self::says)?;
            self.store(&mut tables);
            learned
        };
        if let Some(learned) = learned {
            learned.log(self.clock.step());
        }
        Ok(())
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

    /// Looks through all events that are still there.
    async fn lookup(&self, id: MessageId) -> Result<Option<MessageStatus>, LedgerError> {
        let message = self.look(|state, _| state.messages.get(&id).map(|held| held.message.clone()))?;
        let (mut at, mut status) = (Cursor::default(), None::<MessageStatus>);
        loop {
            let read = self.journal.events_after(at, usize::MAX).await.map_err(fault)?;
            for (_, event) in read.events.iter().filter(|(_, event)| event.head.id == id) {
                status.get_or_insert_with(|| MessageStatus::begin(event)).apply(message.as_deref(), event);
            }
            if read.at == at {
                return Ok(status);
            }
            at = read.at;
        }
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
        {
            // What is decided under the lock is decided before.
            let _tables = self.tables.lock();
            self.has_left.store(true, Ordering::Relaxed);
        }
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
        if self.0.has_left.load(Ordering::Relaxed) {
            return Lease { epoch: Epoch::UNOWNED, until: self.0.clock.instant() };
        }
        Lease { epoch: me, until }
    }

    fn key_hash(&self, of: KeyOf, name: &[u8]) -> KeyHash {
        self.0.key_secret.hash(of, name)
    }

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.0.receiving.lock().take()
    }

    fn accept(&self, new: NewMessage) -> BoxFuture<'_, Result<Accepted, Refused>> {
        Box::pin(self.0.accept(new))
    }

    fn adopt(&self, new: NewMessage) {
        if let Some(mut tables) = self.0.tables() {
            tables.state.adopt(self.0.by, &new, self.0.clock.now());
            self.0.store(&mut tables);
        }
    }

    fn precheck(&self, ask: Precheck) -> Answer<'_, Obstacles> {
        Box::pin(async move { self.0.look(|state, now| state.precheck(&ask, now)) })
    }

    fn recall(&self, of: Idempotency) -> Answer<'_, Option<Repeated>> {
        Box::pin(std::future::ready(self.0.recall(&of)))
    }

    fn gate(&self, attempt: Attempt, mark: Mark) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(self.0.gate(attempt, mark))
    }

    fn settle(&self, attempt: Attempt, settled: Settled) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(std::future::ready(self.0.settle(attempt, settled)))
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
        Box::pin(self.0.lookup(message))
    }

    fn row(&self, table: Table, key: Box<[u8]>) -> Answer<'_, Option<Row>> {
        Box::pin(async move { self.0.look(|state, _| state.row(table, &key)) })
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
        let (journal, now) = (&self.0.journal, self.0.clock.instant());
        Health { fault: journal.fault(), kept: journal.kept(), activity: journal.activity(now) }
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.leave(grace))
    }
}

impl SideTables for Node {
    fn take_side(&self, table: SideTable) -> Vec<SideRow> {
        self.0.side.lock().extract_if(.., |(of, _)| *of == table).map(|(_, row)| row).collect()
    }

    fn store(&self, rows: Vec<SideChange>) -> Answer<'_, ()> {
        Box::pin(async move {
            drop(self.0.tables().ok_or(LedgerError::Unavailable)?);
            self.0.journal.commit(Lane::Otp, rows.into_iter().map(Change::from).collect()).await.map_err(fault)
        })
    }

    fn store_soon(&self, rows: Vec<SideChange>) {
        self.0.journal.commit_later(rows.into_iter().map(Change::from).collect());
    }
}

impl Outbox for Node {
    fn events(&self, after: Cursor, most: usize) -> Answer<'_, Read> {
        Box::pin(self.0.journal.events_after(after, most).map(|read| read.map_err(fault)))
    }

    fn latest(&self) -> &Arc<Latest> {
        self.0.journal.events()
    }

    fn publish(&self, event: Event) {
        self.0.journal.commit_later(vec![Change::Event(Arc::new(event))]);
    }

    fn record(&self, event: Event) -> Answer<'_, ()> {
        let lane = event.head.lane;
        let changes = vec![Change::Event(Arc::new(event))];
        Box::pin(async move { self.0.journal.commit(lane, changes).await.map_err(fault) })
    }

    fn erase(&self, plain: Arc<str>) -> Answer<'_, usize> {
        Box::pin(async move { self.0.journal.erase(&plain).await.map_err(fault) })
    }

    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(self.0.journal.flush().map(|flushed| flushed.map_err(fault)))
    }

    fn hurry(&self) {
        self.0.journal.hurry();
    }
}
