//! What is asked of the ledger when a message comes in, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;

use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Happened};
use crate::greylist::facts::Forecast;
use crate::ledger::entry::Message;
use crate::ledger::side::SideChange;
use crate::ledger::suppression::{Standing, Suppression};
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};
use crate::mail::message::Content;

/// A name under a secret of all nodes: who reads the ledger cannot tell which name it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 16]);

/// What a name is the name of: the same name of two of them has two hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// A message, by the key that the app gave it.
    Idempotency,
    /// What may go to a recipient.
    Budget,
    /// The place that a newer message takes.
    Slot,
}

impl KeyHash {
    /// None is before it in the order of names.
    pub(crate) const FIRST: Self = Self([0; 16]);

    /// The first 16 octets of an HMAC-SHA-256.
    pub fn of(secret: &[u8], of: KeyOf, name: &[u8]) -> Self {
        KeySecret::new(secret).hash(of, name)
    }
}

/// The secret under which names are hashed, ready for use.
#[derive(Debug)]
pub(crate) struct KeySecret(hmac::Key);

impl KeySecret {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    pub(crate) fn hash(&self, of: KeyOf, name: &[u8]) -> KeyHash {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[of as u8]);
        context.update(name);
        let mut hash = [0; 16];
        hash.copy_from_slice(&context.sign().as_ref()[..16]);
        KeyHash(hash)
    }
}

/// What a message was, under the secret of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The day of the secret, since 1970.
    pub day: u64,
    /// HMAC-SHA-256.
    pub octets: [u8; 32],
}

/// By what a repeat of a message is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Its name.
    pub key: KeyHash,
    /// What it was; none: the name says so.
    pub digest: Option<Digest>,
    /// How long it is known.
    pub span: Duration,
    /// The names under which the same would have been accepted on the days before.
    pub also: Vec<KeyHash>,
}

/// What was accepted before under a name of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// The same, as this message.
    Same(MessageId),
    /// Another one.
    Other,
    /// This message. What it was is known under the secret of another day; asked with a digest of that day, the ledger can
    /// tell.
    OtherDay {
        /// The day of the secret, since 1970.
        day: u64,
        /// What was accepted.
        message: MessageId,
    },
}

/// How much may go to a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimit {
    /// So many places, as it is told to who is refused. A mailbox that has had them is not forgotten before others.
    pub count: u32,
    /// So many places where this message asks: some lanes have more.
    pub most: u32,
    /// How long a place counts.
    pub span: Duration,
}

/// Places in a budget that a message needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetAsk {
    /// Of which mailbox.
    pub key: KeyHash,
    /// Who takes them: the name of a user in this mailbox.
    pub whose: KeyHash,
    /// Which of the recipients need a place in it.
    pub entries: Vec<u16>,
    /// What this user may send there.
    pub own: Option<BudgetLimit>,
    /// What all users together may.
    pub total: Option<BudgetLimit>,
    /// So many of a user's places the limit over all users never refuses.
    pub own_min: u32,
    /// Whether the message may be asked for again under its idempotency key, which takes no place.
    pub is_repeatable: bool,
}

impl BudgetAsk {
    /// How long a place counts for anything.
    pub(crate) fn longest(&self) -> Duration {
        self.own.into_iter().chain(self.total).map(|limit| limit.span).max().unwrap_or_default()
    }
}

/// Places that another message of the same node is about to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// In which mailbox.
    pub key: KeyHash,
    /// For whom.
    pub whose: KeyHash,
    /// By which message: what it has taken already counts once.
    pub message: MessageId,
    /// So many.
    pub count: u32,
}

/// Why a message has no place in a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The recipient has had what this user may send to it.
    Own {
        /// So many may go to it.
        count: u32,
        /// Within this time.
        span: Duration,
        /// When there is room for this message.
        again_at: Timestamp,
    },
    /// It has had what all users together may send to it.
    Total,
}

/// An entry that cannot be expected to arrive in time.
#[derive(Debug, Clone)]
pub struct Risk {
    /// Which of the recipients.
    pub index: u16,
    /// The destination's name.
    pub destination: Arc<str>,
    /// Why.
    pub forecast: Forecast,
}

impl Risk {
    /// That it is so, before the first attempt.
    pub(crate) fn happened(&self, now: Timestamp) -> Happened {
        let attempted = Attempted {
            destination: Some(self.destination.clone()),
            cause: Some(Cause::Greylisted),
            note: Some(self.forecast.text().into()),
            ..Attempted::default()
        };
        Happened::AtRisk { attempted, next_attempt_at: Some(now) }
    }
}

/// A message that is to be accepted, with all that decides whether it may be.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The message; its entries are those of its recipients.
    pub message: Arc<Message>,
    /// Its content.
    pub content: Content,
    /// By what a repeat of it is known, and what it was.
    pub idempotency: Option<Idempotency>,
    /// The places it needs: all of them or none.
    pub budgets: Vec<BudgetAsk>,
    /// The supersession slots that its entries take, as [`slots_of`] finds them.
    pub slots: Vec<(u16, KeyHash)>,
    /// The entries of which it is known that they come too late.
    pub risks: Vec<Risk>,
    /// That it was accepted.
    pub event: Event,
    /// Rows that were decided above.
    pub rows: Vec<SideChange>,
    /// Whether it is waited for now; else the caller is busy meanwhile, and says so by [`Outbox::hurry`].
    ///
    /// [`Outbox::hurry`]: crate::ledger::outbox::Outbox::hurry
    pub at_once: bool,
}

impl NewMessage {
    /// One that nothing stands in the way of: of the relay's own.
    pub fn plain(message: Arc<Message>, content: Content, event: Event) -> Self {
        Self {
            message,
            content,
            idempotency: None,
            budgets: Vec::new(),
            slots: Vec::new(),
            risks: Vec::new(),
            event,
            rows: Vec::new(),
            at_once: true,
        }
    }

    /// What its acceptance tells, in order.
    pub(crate) fn events(&self, now: Timestamp) -> Vec<Event> {
        let at_risk = self.risks.iter();
        let at_risk =
            at_risk.map(|risk| Event { head: self.message.entry_head(risk.index, 0, now), what: risk.happened(now) });
        std::iter::once(self.event.clone()).chain(at_risk).collect()
    }
}

/// The supersession slots that a message's entries take, by how their names are hashed.
pub fn slots_of(message: &Message, hash: impl Fn(&[u8]) -> KeyHash) -> Vec<(u16, KeyHash)> {
    let indices = (0..).zip(&message.envelope.recipients).map(|(index, _)| index);
    let named = indices.flat_map(|index| message.slot_names(index).map(move |name| (index, name)));
    named.map(|(index, name)| (index, hash(name.as_bytes()))).collect()
}

/// Whether the content of an entry that ended may arrive all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayHaveArrived {
    /// It never left.
    No,
    /// It is or was under way.
    Yes,
}

/// Since when a mail host makes a triplet wait, and from which address the next attempt has to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownWait {
    /// The nodes that leave by this address.
    pub egress: Arc<str>,
    /// Since when.
    pub since: Timestamp,
    /// Until when it is worth remembering.
    pub until: Timestamp,
}

/// A message was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Its place among all messages of all nodes: newer is higher.
    pub sequence: u64,
    /// Older entries whose slot it took, and which have ended by that.
    pub superseded: Vec<(EntryId, MayHaveArrived)>,
    /// Entries of ours that a newer message, which is named, makes useless. A ledger may leave their ends to their owner, who
    /// knows best what became of their content; the owner ends them now.
    pub outlived: Vec<(EntryId, MessageId)>,
    /// Its entries that are not ours: a newer message has their slot already and they have ended, or our epoch was revoked
    /// meanwhile.
    pub overtaken: Vec<u16>,
    /// Triplets of its entries that wait already.
    pub waits: Vec<(u16, KnownWait)>,
}

/// Why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A message was accepted before under one of its names.
    Repeats(Repeated),
    /// A recipient is not sent to, by this row; until when, as it stands.
    Suppressed(Box<Suppression>),
    /// A recipient has had too many.
    Budget(NoRoom),
    /// `queue.entries_max` is reached, or the disk is full.
    Full,
    /// The ledger failed, and nothing of it is stored.
    Failed,
    /// The ledger does not answer.
    Unavailable(Stored),
}

/// Whether a message that was refused may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is not.
    No,
    /// Nobody knows. The ledger undoes it before it says that it is well again.
    Unknown,
}

/// A message to this recipient is about to come.
#[derive(Clone, Debug)]
pub struct Precheck {
    /// From whom, as it leaves; empty for the null reverse-path.
    pub sender: Box<str>,
    /// To whom.
    pub recipient: Mailbox,
    /// The places that it would need.
    pub budgets: Vec<BudgetAsk>,
    /// Those that others are about to take.
    pub ahead: Vec<Ahead>,
}

/// A budget has no room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Which.
    pub why: NoRoom,
    /// Whether it may be a repeat, which takes no place.
    pub may_repeat: bool,
}

/// What would stand in its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacles {
    /// The recipient is not sent to, by this row; until when, as it stands.
    pub suppression: Option<Suppression>,
    /// Until when it is not, by all that is known of it and of its domain.
    pub standing: Standing,
    /// The recipient has had too many.
    pub budget: Option<OverBudget>,
    /// Its triplet waits.
    pub wait: Option<KnownWait>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_another_hash_for_each_use_and_each_secret() {
        let hash = KeyHash::of(&[1; 32], KeyOf::Slot, b"shop\na@example.com\nlogin");
        assert_eq!(hash, KeyHash::of(&[1; 32], KeyOf::Slot, b"shop\na@example.com\nlogin"));
        assert_ne!(hash, KeyHash::of(&[1; 32], KeyOf::Budget, b"shop\na@example.com\nlogin"));
        assert_ne!(hash, KeyHash::of(&[2; 32], KeyOf::Slot, b"shop\na@example.com\nlogin"));
    }
}
