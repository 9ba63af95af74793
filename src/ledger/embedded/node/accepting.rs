//! Messages are accepted. Until its commit is over, a message has all that it needs, and its entries are not there.

use std::sync::Arc;

use super::{Inner, Tables};
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Event, Happened};
use crate::ledger::accept::{Accepted, NewMessage, Refused, Repeated, Stored};
use crate::ledger::embedded::journal::{JournalError, PendingCommit};
use crate::ledger::embedded::store::Change;
use crate::ledger::entry::Message;
use crate::ledger::tables::accept::Reserved;
use crate::mail::message::Content;

/// What became of a message that asks to be let in.
enum Begun<'a> {
    /// It was accepted before.
    Known(Accepted),
    /// It waits for its commit.
    UnderWay(Box<UnderWay<'a>>),
    /// What it repeats does.
    RepeatsUnderWay(Box<NewMessage>),
}

/// A message that waits for its commit. If it gets no further, because that failed or nobody waits any more, it gives back what
/// it had taken, and what was stored of it goes.
struct UnderWay<'a> {
    inner: &'a Inner,
    new: NewMessage,
    sequence: u64,
    commit: PendingCommit,
    is_over: bool,
}

/// What is told of an entry of a message that was stored and not acknowledged.
fn given_up(message: &Message, index: u16, now: Timestamp) -> Event {
    let attempted = Attempted { note: Some("given up before it was acknowledged".into()), ..Attempted::default() };
    Event { head: message.entry_head(index, 0, now), what: Happened::Cancelled(attempted) }
}

impl Inner {
    pub(super) async fn accept(&self, new: NewMessage) -> Result<Accepted, Refused> {
        let mut begun = self.begin(new)?;
        let mut under_way = loop {
            let again = match begun {
                Begun::Known(accepted) => return Ok(accepted),
                Begun::UnderWay(under_way) => break under_way,
                Begun::RepeatsUnderWay(new) => new,
            };
            // Waited for from before the look on, so that nothing is missed.
            let mut concluded = std::pin::pin!(self.concluded.notified());
            concluded.as_mut().enable();
            begun = match self.begin(*again)? {
                Begun::RepeatsUnderWay(new) => {
                    concluded.await;
                    self.begin(*new)?
                }
                begun @ (Begun::Known(_) | Begun::UnderWay(_)) => begun,
            };
        };
        self.journal.wait(&mut under_way.commit).await.map_err(|error| match error {
            JournalError::Full => Refused::Full,
            JournalError::Failed => Refused::Failed,
            JournalError::Closed => Refused::Unavailable(Stored::No),
        })?;
        Ok(under_way.conclude())
    }

    fn begin(&self, mut new: NewMessage) -> Result<Begun<'_>, Refused> {
        let mut tables = self.tables().ok_or(Refused::Unavailable(Stored::No))?;
        let is_under_way = |tables: &Tables, id| tables.under_way.contains(&id);
        match tables.state.reserve(self.by, &new, self.clock.now()) {
            Err(Refused::Repeats(Repeated::Same(first) | Repeated::OtherDay { message: first, .. }))
                if is_under_way(&tables, first) =>
            {
                Ok(Begun::RepeatsUnderWay(Box::new(new)))
            }
            Err(refused) => Err(refused),
            Ok(Reserved::Known(_)) if is_under_way(&tables, new.message.id) => {
                Ok(Begun::RepeatsUnderWay(Box::new(new)))
            }
            Ok(Reserved::Known(accepted)) => Ok(Begun::Known(accepted)),
            Ok(Reserved::New(sequence)) => {
                tables.under_way.insert(new.message.id);
                let changes = self.drain(&mut tables);
                let commit = self.journal.begin_commit(new.message.lane, changes, new.at_once);
                (new.content, new.rows) = (Content::default(), Vec::new());
                let under_way = UnderWay { inner: self, new, sequence, commit, is_over: false };
                Ok(Begun::UnderWay(Box::new(under_way)))
            }
        }
    }
}

impl UnderWay<'_> {
    fn conclude(mut self) -> Accepted {
        self.is_over = true;
        let Self { inner, new, sequence, .. } = &self;
        let accepted = {
            let mut tables = inner.tables.lock();
            tables.under_way.remove(&new.message.id);
            let accepted = tables.state.admit(inner.by, new, *sequence, inner.clock.now());
            inner.store(&mut tables);
            accepted
        };
        inner.concluded.notify_waiters();
        accepted
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let Self { inner, new, commit, .. } = self;
        let message = &new.message;
        {
            let mut tables = inner.tables.lock();
            tables.under_way.remove(&message.id);
            tables.state.release(new);
            let mut changes = inner.drain(&mut tables);
            changes.append(&mut commit.undo);
            if !commit.has_failed() {
                let (now, count) = (inner.clock.now(), message.envelope.recipients.len());
                let ends = (0..).take(count).map(|index| Change::Event(Arc::new(given_up(message, index, now))));
                changes.extend(ends);
            }
            inner.journal.withdraw(message.lane, changes);
        }
        inner.concluded.notify_waiters();
    }
}
