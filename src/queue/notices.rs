//! What others do to what is ours, and what we do to what may be theirs. Notices are heard in their order and before anything new
//! is held, so that nothing of a revoked epoch outlives it.

use std::task::{Context, Poll};
use std::time::Duration;

use super::ending::End;
use super::outbox::Patience;
use super::schedule::Again;
use super::{AppendError, Queue};
use crate::event::Kind;
use crate::ledger::LedgerError;
use crate::ledger::accept::{Accepted, NewMessage, Refused};
use crate::ledger::attempt::{Notice, Target};
use crate::ledger::entry::{SignedContent, State};
use crate::ledger::filter::Filter;
use crate::mail::id::EntryId;
use std::sync::Arc;

impl Queue {
    /// Hears one notice; whether more can come.
    pub(super) fn poll_notice(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut notices = self.notices.lock();
        notices.poll_recv(context).map(|notice| {
            let is_open = notice.is_some();
            notice.into_iter().for_each(|notice| self.on_notice(notice));
            is_open
        })
    }

    pub(super) fn on_waiting_notices(&self) {
        let mut notices = self.notices.lock();
        while let Ok(notice) = notices.try_recv() {
            self.on_notice(notice);
        }
    }

    fn on_notice(&self, notice: Notice) {
        let now = self.ledger.now();
        match notice {
            Notice::Acquired(acquired) => {
                let epoch = self.ledger.lease().epoch;
                self.apply(Patience::PassBy, |schedule, effects| {
                    schedule.set_owner(epoch);
                    acquired.into_iter().for_each(|held| schedule.acquire(held, now, effects));
                    effects.wakes = true;
                });
            }
            Notice::Ended(id, kind) => self.on_ended(id, kind),
            Notice::MakeDue(ids) => {
                let again = Again::After(Duration::ZERO);
                self.apply(Patience::PassBy, |schedule, effects| drop(schedule.retry(&ids, again, now, effects)));
            }
            Notice::Fenced => {
                self.outbox.schedule(|schedule| schedule.forget_all());
                drop(self.verbs.take_rested());
            }
            // New mail is refused by the ledger itself, and attempts end at their lease.
            Notice::Unavailable | Notice::Available => {}
        }
    }

    /// An entry is not ours any more, by what the ledger says.
    pub(super) fn on_ended(&self, id: EntryId, kind: Kind) {
        if !kind.is_end() {
            return self.outbox.schedule(|schedule| schedule.part_with(id));
        }
        let now = self.ledger.now();
        self.apply(Patience::PassBy, |schedule, effects| schedule.ended_elsewhere(id, End::of(kind), now, effects));
    }

    /// Takes a message in, where the ledger accepts it; its entries are ready at once.
    ///
    /// # Errors
    /// Why it was not accepted.
    pub async fn accept(self: &Arc<Self>, new: NewMessage) -> Result<Accepted, Refused> {
        let content = SignedContent { signatures: bytes::Bytes::new(), content: new.content.clone() };
        let mut acceptance = self.begin(new).map_err(|error| match error {
            AppendError::Refused(refused) => refused,
            AppendError::QueueFull { .. } | AppendError::ShareFull(_) => Refused::Full,
        })?;
        let accepted = acceptance.answered().await?;
        drop(self.admit(acceptance, content, &[]));
        Ok(accepted)
    }

    /// Hands those of the entries over that are not being attempted; says which went.
    ///
    /// # Errors
    /// When the ledger does not answer. Who has them is known when it does.
    pub async fn hand_over(&self, mut entries: Vec<EntryId>, to: Target) -> Result<Vec<EntryId>, LedgerError> {
        // What was decided about them before goes before.
        drop(self.pass_on(Patience::Wait));
        self.outbox.schedule(|schedule| {
            entries.retain(|id| {
                let snapshot = schedule.snapshot(id.message, None);
                let state = snapshot.and_then(|snapshot| snapshot.entries.get(usize::from(id.index))?.state);
                matches!(state, Some(State::Queued | State::Deferred)) && !self.verbs.is_pending(*id)
            });
            // From here on nobody claims them.
            for id in &entries {
                schedule.unfreshen(*id);
                self.verbs.begin(*id);
            }
        });
        let went = self.ledger.hand_over(entries.clone(), to).await;
        entries.iter().for_each(|id| self.verbs.answered(*id));
        let went = went?;
        self.outbox.schedule(|schedule| went.iter().for_each(|id| schedule.part_with(*id)));
        // What a ledger gives back at once comes behind that.
        self.on_waiting_notices();
        Ok(went)
    }

    /// Entries that are ours, in the order of their messages; at most so many.
    pub fn entries(&self, most: usize) -> Vec<EntryId> {
        let (mut found, mut behind) = (Vec::new(), None);
        while found.len() < most {
            let (page, next) = self.outbox.schedule(|schedule| schedule.page(&Filter::default(), behind, most));
            found.extend(page);
            let Some(next) = next else { break };
            behind = Some(next);
        }
        found.truncate(most);
        found
    }
}
