//! What a change of the schedule leads to, as values. Whoever made it acts on them once nothing is locked.

use std::sync::Arc;

use super::ending::Ending;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::event::{Event, Happened};
use crate::ledger::attempt::Epoch;
use crate::ledger::entry::{Message, Progress};
use crate::mail::id::EntryId;

/// An entry that is ready.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which.
    pub entry: EntryId,
    pub(crate) lane: Lane,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// Its message; the recipient's domain says where it goes.
    pub message: Arc<Message>,
}

impl Offer {
    pub(super) fn of(entry: EntryId, message: Arc<Message>) -> Self {
        Self { entry, lane: message.lane, expires_at: message.expires_at, message }
    }
}

/// What is told of an acceptance.
pub(super) fn accepted(message: &Message, note: Option<&str>, now: Timestamp) -> Event {
    let recipients = message.envelope.recipients.len();
    let several = (recipients > 1).then(|| format!("{recipients} recipients"));
    let notes: Vec<String> = several.into_iter().chain(note.map(str::to_owned)).collect();
    let note = (!notes.is_empty()).then(|| notes.join("; ").into());
    let others = message.envelope.recipients.iter().skip(1).map(|other| other.mailbox.domain_key().into()).collect();
    Event { head: message.head(now), what: Happened::Accepted { note, others } }
}

/// One thing that happened. What it changes is one commit.
#[derive(Debug)]
pub(super) enum Occurrence {
    /// A message is accepted, and that is stored, or on its way there, already.
    Accepted(Box<Event>),
    /// Something informative.
    Informed(Box<Event>),
    /// An attempt has come to nothing yet, by which the entry may be at risk.
    Deferred(Arc<Progress>, Box<Event>, Option<Box<Ending>>),
    /// An entry is at risk, or late, and goes on.
    Noted(Arc<Progress>, Box<Ending>),
    /// An entry has ended; what is known of it while others of its message live.
    Ended(Option<Box<Progress>>, Box<Ending>),
    /// The ledger has ended an entry.
    EndedElsewhere(Box<Ending>),
}

/// What there is to be done, in this order.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To be stored and told.
    pub(super) happened: Vec<Occurrence>,
    /// Entries whose attempt did not renew its lease.
    pub(super) lost: Vec<EntryId>,
    /// Entries that are ready.
    pub(super) offers: Vec<Offer>,
    /// A timer is due before the timers are looked at next.
    pub(super) wakes: bool,
    /// Under which epoch all of that is ours.
    pub(super) owner: Epoch,
}

impl Effects {
    pub(super) fn is_empty(&self) -> bool {
        self.happened.is_empty() && self.lost.is_empty() && self.offers.is_empty() && !self.wakes
    }

    pub(super) fn accepted(&mut self, event: Event) {
        self.happened.push(Occurrence::Accepted(Box::new(event)));
    }

    pub(super) fn publish(&mut self, event: Event) {
        self.happened.push(Occurrence::Informed(Box::new(event)));
    }

    pub(super) fn defer(&mut self, progress: &Arc<Progress>, event: Event, at_risk: Option<Ending>) {
        let deferred = Occurrence::Deferred(progress.clone(), Box::new(event), at_risk.map(Box::new));
        self.happened.push(deferred);
    }

    pub(super) fn keep(&mut self, progress: &Arc<Progress>, ending: Ending) {
        self.happened.push(Occurrence::Noted(progress.clone(), Box::new(ending)));
    }

    pub(super) fn end(&mut self, left: Option<Box<Progress>>, ending: Ending) {
        self.happened.push(Occurrence::Ended(left, Box::new(ending)));
    }

    pub(super) fn ended_elsewhere(&mut self, ending: Ending) {
        self.happened.push(Occurrence::EndedElsewhere(Box::new(ending)));
    }

    pub(super) fn offer(&mut self, entry: EntryId, message: Arc<Message>) {
        self.offers.push(Offer::of(entry, message));
    }
}
