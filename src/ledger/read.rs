//! What can be read in the ledger: events, messages, shared tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Event, Kind};
use crate::ledger::attempt::{Epoch, NodeName};
use crate::ledger::cursor::Cursor;
use crate::ledger::entry::Message;
use crate::mail::id::MessageId;

/// A part of a long list, by the age of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Behind this message; none: from the oldest on.
    pub after: Option<MessageId>,
    /// Messages at most.
    pub most: usize,
}

/// Events, each with its place, and the place up to which that is.
pub type ReadEvents = (Vec<(Cursor, Arc<Event>)>, Cursor);

/// What became of a message, as its events tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageStatus {
    /// Which.
    pub id: MessageId,
    /// Whose.
    pub user: Arc<str>,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// Its entries, by their numbers.
    pub entries: BTreeMap<u16, EntryStatus>,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryStatus {
    /// To whom.
    pub recipient: Option<Arc<str>>,
    /// What happened last; an end stays.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// In which attempt.
    pub attempt: u32,
    /// Why.
    pub cause: Option<Cause>,
    /// What the mail host said.
    pub reply: Option<Arc<str>>,
    /// Whether it may have arrived although nobody said so.
    pub may_have_arrived: bool,
}

impl MessageStatus {
    /// As these events of one message tell it, in their order; none where there are none. `message` is the message while an
    /// entry of it lives: of entries that nothing has happened to yet it is known from there.
    pub fn of<'a>(message: Option<&Message>, events: impl Iterator<Item = &'a Event>) -> Option<Self> {
        let mut status: Option<Self> = None;
        for event in events {
            status.get_or_insert_with(|| Self::begin(event)).apply(message, event);
        }
        status
    }

    /// Nothing is known of the entries of the message that this event is about.
    pub(crate) fn begin(event: &Event) -> Self {
        let head = &event.head;
        Self { id: head.id, user: head.user.clone(), expires_at: head.expires_at, entries: BTreeMap::new() }
    }

    /// What happened next. `message` as in [`MessageStatus::of`].
    pub(crate) fn apply(&mut self, message: Option<&Message>, event: &Event) {
        match (event.head.entry, message) {
            (Some(index), _) => self.apply_to(index, event),
            (None, Some(message)) => {
                for (index, recipient) in (0..).zip(&message.envelope.recipients) {
                    self.apply_to(index, event);
                    if let Some(entry) = self.entries.get_mut(&index) {
                        entry.recipient = Some(recipient.mailbox.as_str().into());
                    }
                }
            }
            (None, None) => {}
        }
    }

    fn apply_to(&mut self, index: u16, event: &Event) {
        let known = self.entries.get(&index);
        if known.is_some_and(|known| known.kind.is_end() && !event.kind().is_end()) {
            return;
        }
        let recipient = event.head.recipient.as_ref().map(|recipient| recipient.as_str().into());
        let entry = EntryStatus {
            recipient,
            kind: event.kind(),
            at: event.head.time,
            attempt: event.head.attempt,
            cause: event.cause(),
            reply: event.what.attempted().and_then(|attempted| attempted.reply.clone()),
            may_have_arrived: event.may_have_arrived(),
        };
        self.entries.insert(index, entry);
    }

    /// Whether no entry has a future.
    pub fn is_over(&self) -> bool {
        self.entries.values().all(|entry| entry.kind.is_end())
    }
}

/// Rows of a shared table that are read at once, at most: nobody waits behind a long one.
pub(crate) const ROWS_AT_ONCE: usize = 1000;

/// A table that all nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Addresses that are not sent to.
    Suppression,
    /// What destinations were seen to do with unknown senders.
    Fact,
}

/// Rises with each change of a shared table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

/// A row of a shared table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub key: Box<[u8]>,
    /// What it says; none: it is gone.
    pub value: Option<Box<[u8]>>,
    /// Since which version.
    pub version: Version,
}

/// A change of a row that was made from one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// Its name.
    pub key: Box<[u8]>,
    /// What it says then; none: it goes.
    pub value: Option<Box<[u8]>>,
    /// The version of the row that the change was made from; 0: there was none.
    pub from: Version,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It holds, as this version.
    Done(Version),
    /// Another was first; the change is to be made anew from this row.
    Raced(Row),
}

/// A node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its name.
    pub name: NodeName,
    /// The address by which it leaves.
    pub egress: Arc<str>,
}

/// What whoever writes the ledger down is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// It waits for work.
    #[default]
    Rests,
    /// It has been at one batch of commits, or at housekeeping, for so long.
    Works(Duration),
    /// It is gone: nothing is stored any more until the relay starts anew.
    Panicked,
}

/// How the ledger is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Health {
    /// Why it takes no new mail, while it takes none.
    pub fault: Option<Arc<str>>,
    /// Settlements, or changes, that it keeps until it is well again.
    pub kept: usize,
    /// What its storage is at.
    pub activity: Activity,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Attempted, Happened};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::IdSource;

    #[test]
    fn an_end_stays_and_nothing_is_unknown() {
        let at = Timestamp::from_millis(1_795_255_200_000);
        let recipient = |text: &str| Recipient::new(Mailbox::parse(text).unwrap());
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: vec![recipient("a@one.test"), recipient("b@two.test")],
        };
        let id = IdSource::with_random(|| 1).next(at);
        let message = Message::new(id, "shop".into(), envelope, at..at.plus(Duration::from_secs(60)));
        let event = |index, what| Event { head: message.entry_head(index, 1, at), what };
        let accepted =
            Event { head: message.head(at), what: Happened::Accepted { note: None, others: Arc::default() } };
        let attempted = || Attempted { reply: Some("250 ok".into()), ..Attempted::default() };
        let events = [
            accepted,
            event(1, Happened::Delivered(attempted())),
            // Told late by an attempt whose epoch was over.
            event(1, Happened::Attempted { destination: None }),
        ];
        let status = MessageStatus::of(Some(&message), events.iter()).unwrap();
        let kinds: Vec<_> = status.entries.values().map(|entry| (entry.kind, entry.recipient.as_deref())).collect();
        assert_eq!(kinds, [(Kind::Accepted, Some("a@one.test")), (Kind::Delivered, Some("b@two.test"))]);
        assert!(!status.is_over());
        assert_eq!(MessageStatus::of(None, [].iter()), None);
        let gone = MessageStatus::of(None, events.iter()).unwrap();
        assert!(gone.is_over(), "all that is known of an ended message has ended");
    }
}
