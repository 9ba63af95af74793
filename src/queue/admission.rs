//! The way into the queue: stored first, then brought to life.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::future::BoxFuture;

use super::effects::{Effects, accepted};
use super::ending::End;
use super::offers::Offered;
use super::outbox::Patience;
use super::schedule::Schedule;
use super::{AppendError, Queue};
use crate::base::clock::Timestamp;
use crate::base::shares::Beyond;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::ledger::accept::{Accepted, KeyHash, KeyOf, MayHaveArrived, NewMessage, Refused, Risk, slots_of};
use crate::ledger::attempt::{self, Attempt, Epoch, Settled, Side};
use crate::ledger::entry::{Message, SignedContent};
use crate::mail::id::EntryId;
use crate::mail::message::Content;

/// What is told of an entry of a message that was stored and not acknowledged.
fn given_up(message: &Message, index: u16, now: Timestamp) -> Event {
    let attempted = Attempted { note: Some("given up before it was acknowledged".into()), ..Attempted::default() };
    Event { head: message.entry_head(index, 0, now), what: Happened::Cancelled(attempted) }
}

/// A message on its way into the ledger. If it gets no further, because something failed or nobody waits for it any more, its
/// places are given back and what was stored of it goes; where its acceptance was told, its end is told too.
#[must_use = "a message that is not admitted is cancelled"]
pub struct Acceptance {
    queue: Arc<Queue>,
    message: Arc<Message>,
    what: Happened,
    /// What is given back with each of its entries: places in budgets, and the name by which a repeat would be taken for done.
    claims: Vec<Side>,
    /// Under which it was asked for.
    epoch: Epoch,
    accepting: BoxFuture<'static, Result<Accepted, Refused>>,
    answer: Option<Result<Accepted, Refused>>,
    is_over: bool,
}

impl std::fmt::Debug for Acceptance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptance").field("id", &self.message.id).finish_non_exhaustive()
    }
}

impl Acceptance {
    /// Waits until the message is durable.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn stored(&mut self) -> Result<(), AppendError> {
        self.answered().await.map(|_| ()).map_err(AppendError::Refused)
    }

    pub(super) async fn answered(&mut self) -> Result<Accepted, Refused> {
        if let Some(answer) = &self.answer {
            return answer.clone();
        }
        self.queue.ledger.hurry();
        let answer = (&mut self.accepting).await;
        self.answer.insert(answer).clone()
    }

    fn entries(&self) -> impl Iterator<Item = EntryId> + use<> {
        let message = self.message.id;
        let indices = (0..).zip(&self.message.envelope.recipients).map(|(index, _)| index);
        let indices: Vec<u16> = indices.collect();
        indices.into_iter().map(move |index| EntryId { message, index })
    }
}

impl Drop for Acceptance {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (queue, message) = (&self.queue, &self.message);
        let count = message.envelope.recipients.len();
        queue.outbox.schedule(|schedule| schedule.shares().give_back(&message.user, count));
        // What the ledger has not answered yet it undoes itself.
        if !matches!(self.answer, Some(Ok(_))) {
            return;
        }
        let now = queue.ledger.now();
        for entry in self.entries() {
            let end = attempt::End { kind: Kind::Cancelled, left: None };
            let events = vec![given_up(message, entry.index, now)];
            let settled = Settled::End { end, events, side: self.claims.clone(), notification: None };
            queue.settle(Attempt { entry, number: 0 }, settled);
        }
    }
}

impl Queue {
    /// A message for [`Queue::begin`]. `note` is more for people, told with the acceptance.
    pub fn new_message(&self, message: Arc<Message>, content: Content, note: Option<&'static str>) -> NewMessage {
        let event = accepted(&message, note, self.ledger.now());
        NewMessage::plain(message, content, event)
    }

    /// A name under the secret of all nodes, as the ledger knows it.
    pub(crate) fn key_hash(&self, of: KeyOf, name: &[u8]) -> KeyHash {
        self.ledger.key_hash(of, name)
    }

    /// Starts storing a message; [`Acceptance::stored`] says when it is durable, then [`Queue::admit`] brings it to life. A
    /// caller that is busy meanwhile lets it wait for others (not `at_once`), so that fewer syncs serve more messages.
    ///
    /// # Errors
    /// When there are too many entries already, in all or of the message's user, or the ledger refuses it at once.
    pub fn begin(self: &Arc<Self>, mut new: NewMessage) -> Result<Acceptance, AppendError> {
        let message = new.message.clone();
        new.slots = slots_of(&message, |name| self.ledger.key_hash(KeyOf::Slot, name));
        let recipients = message.envelope.recipients.len();
        let portion = self.sharing.lock().of(self.settings.entries_max);
        let taken = self.outbox.schedule(|schedule| schedule.shares().take(&message.user, recipients, portion));
        taken.map_err(|beyond| match beyond {
            Beyond::Whole => AppendError::QueueFull { entries_max: self.settings.entries_max },
            Beyond::Share => AppendError::ShareFull(portion),
        })?;
        let (what, epoch) = (new.event.what.clone(), self.ledger.lease().epoch);
        let name = new.idempotency.iter().map(|known| Side::Unknown(known.key));
        let claims = new.budgets.iter().map(|ask| Side::GivesBack(ask.key)).chain(name).collect();
        let ledger = self.ledger.clone();
        let mut accepting: BoxFuture<'static, _> = Box::pin(async move { ledger.accept(new).await });
        // Now it has its place.
        let answer = match accepting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        let refused = answer.as_ref().and_then(|answer| answer.as_ref().err()).cloned();
        let queue = self.clone();
        let acceptance = Acceptance { queue, message, what, claims, epoch, accepting, answer, is_over: false };
        refused.map_or(Ok(acceptance), |refused| Err(AppendError::Refused(refused)))
    }

    /// Brings a stored message to life: its entries are offered to the workers, also those at risk. One that is not stored is
    /// undone.
    pub fn admit(&self, mut acceptance: Acceptance, content: SignedContent, risks: &[Risk]) -> Offered {
        let Some(Ok(stored)) = acceptance.answer.take() else { return Offered::default() };
        acceptance.is_over = true;
        // What others did to entries of before comes first.
        self.on_waiting_notices();
        let (message, epoch) = (&acceptance.message, acceptance.epoch);
        let event = Event { head: message.head(self.ledger.now()), what: acceptance.what.clone() };
        // Where it was revoked meanwhile, others have it; where it is later, that will be heard.
        let is_ours = self.ledger.lease().epoch == epoch;
        let accept = |schedule: &mut Schedule, effects: &mut Effects| {
            let now = event.head.time;
            for (id, arrived) in &stored.superseded {
                let mut end = End::superseded_by(message.id);
                end.attempted.may_have_arrived = *arrived == MayHaveArrived::Yes;
                schedule.ended_elsewhere(*id, end, now, effects);
            }
            if !is_ours {
                schedule.shares().give_back(&message.user, message.envelope.recipients.len());
                return;
            }
            schedule.set_owner(epoch);
            schedule.accept(message, content, (risks, &stored.outlived), event, effects);
            stored
                .overtaken
                .iter()
                .for_each(|index| schedule.part_with(EntryId { message: message.id, index: *index }));
        };
        self.apply_and_offer(Patience::PassBy, accept).1
    }

    /// Takes in a message of the relay's own that no end entails; it is stored soon.
    pub(crate) fn take_in(&self, message: Arc<Message>, content: Content) {
        let now = self.ledger.now();
        self.ledger.adopt(NewMessage::plain(message.clone(), content, accepted(&message, None, now)));
        self.apply(Patience::PassBy, |schedule, effects| schedule.adopt(message, now, effects));
    }
}
