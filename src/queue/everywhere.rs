//! What is live on any node, for those who ask this one. The schedule knows best what is ours; the ledger is asked for what
//! other nodes have.

use std::collections::HashMap;
use std::time::Duration;

use super::Queue;
use super::schedule::{Cancelled, RetriedEntries, Snapshot};
use crate::event::Kind;
use crate::ledger::LedgerError;
use crate::ledger::filter::Filter;
use crate::ledger::listing::Listing;
use crate::ledger::read::Page;
use crate::mail::id::{EntryId, MessageId};

impl Queue {
    fn has_others(&self) -> bool {
        self.ledger.peers().len() > 1
    }

    /// Ends the live entries of any node that a filter covers, after ours were ended and that was stored.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn cancel_everywhere(&self, which: Filter) -> Result<Vec<Cancelled>, LedgerError> {
        if !self.has_others() {
            return Ok(Vec::new());
        }
        let cancelled = self.ledger.cancel(which).await?;
        cancelled.iter().for_each(|one| self.on_ended(one.id, Kind::Cancelled));
        Ok(cancelled)
    }

    /// Makes entries of other nodes due too, and adds them to those of ours.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn retry_everywhere(
        &self,
        which: Filter,
        pause: Duration,
        mut ours: RetriedEntries,
    ) -> Result<RetriedEntries, LedgerError> {
        // This node does not know when another one last retried an entry: a user, who has to pause, retries none of theirs.
        if self.has_others() && pause.is_zero() {
            let due = self.ledger.make_due(which).await?;
            let is_new = |id: &EntryId| !ours.entries.contains(id);
            let others: Vec<EntryId> = due.into_iter().filter(is_new).collect();
            ours.entries.extend(others);
        }
        Ok(ours)
    }

    /// Adds what other nodes have to a list of ours: the oldest first, of at most `most` messages.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn list_everywhere(&self, which: Filter, most: usize, ours: Listing) -> Result<Listing, LedgerError> {
        if !self.has_others() {
            return Ok(ours);
        }
        let mut all = self.ledger.find(which, Page { after: None, most }).await?;
        let mut known: HashMap<MessageId, Snapshot> =
            ours.messages.into_iter().map(|found| (found.message.id, found)).collect();
        for found in &mut all.messages {
            let Some(own) = known.remove(&found.message.id) else { continue };
            for entry in own.entries {
                if let Some(same) = found.entries.iter_mut().find(|other| other.id == entry.id) {
                    *same = entry;
                }
            }
        }
        Ok(all)
    }
}
