//! What a change of the schedule leads to, as values. Whoever made it acts on them once nothing is locked.

use std::sync::Arc;

use super::ending::Ending;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::event::{Event, Happened};
use crate::ledger::embedded::store::Change;
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

/// One thing that happened. Its changes are one commit.
#[derive(Debug)]
pub(super) enum Occurrence {
    /// A message is accepted, and that is on its way to the disk already.
    Accepted(Box<Event>),
    /// Something to be stored, of which nobody is told.
    Stored(Vec<Change>),
    /// An event, and what is stored with it.
    Told(Vec<Change>, Box<Event>),
    /// An end, or that an entry is at risk: what it entails is stored with it.
    Ended(Vec<Change>, Box<Ending>),
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
}

impl Effects {
    pub(super) fn is_empty(&self) -> bool {
        self.happened.is_empty() && self.lost.is_empty() && self.offers.is_empty() && !self.wakes
    }

    pub(super) fn store(&mut self, id: EntryId, progress: &Progress) {
        self.happened.push(Occurrence::Stored(vec![Change::Update(id, Box::new(progress.clone()))]));
    }

    pub(super) fn accepted(&mut self, event: Event) {
        self.happened.push(Occurrence::Accepted(Box::new(event)));
    }

    pub(super) fn tell(&mut self, changes: Vec<Change>, event: Event) {
        self.happened.push(Occurrence::Told(changes, Box::new(event)));
    }

    pub(super) fn end(&mut self, changes: Vec<Change>, ending: Ending) {
        self.happened.push(Occurrence::Ended(changes, Box::new(ending)));
    }

    pub(super) fn offer(&mut self, entry: EntryId, message: Arc<Message>) {
        self.offers.push(Offer::of(entry, message));
    }
}
