//! The schedule behind its lock, and what it leads to on the way out.
//!
//! Lock, apply, unlock, act. Effects are put into the outbox under the lock of the schedule, so they keep the order in which
//! they came about. They leave it one after the other, by whoever has the turn: what ends is stored in that order, each end
//! with what it entails, and an event goes out before those that follow from it. The schedule is free meanwhile.
//!
//! The turn is taken first, then for a moment the schedule. Whoever may not wait for the turn passes by, and whoever has it
//! acts for both.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};

use super::Queue;
use super::effects::{Effects, Occurrence, Offer, accepted};
use super::ending::{Consequences, Ending};
use super::offers::Offered;
use super::schedule::Schedule;
use crate::base::clock::Timestamp;
use crate::event::{Event, Kind};
use crate::ledger::accept::{KeyOf, NewMessage};
use crate::ledger::attempt::{Attempt, End, Settled, Side};
use crate::ledger::entry::{Message, Progress};

/// Whether to wait for the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// When it returns, all that has happened so far is on its way to the storage thread and to the reports.
    Wait,
    /// If others are at it, they will do this too.
    PassBy,
}

#[derive(Debug, Default)]
struct Inner {
    schedule: Schedule,
    waiting: VecDeque<Effects>,
}

/// The schedule, and its effects that wait for their turn.
#[derive(Debug)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    turn: Mutex<()>,
}

impl Outbox {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self { inner: Mutex::new(Inner { schedule, waiting: VecDeque::new() }), turn: Mutex::new(()) }
    }

    /// Looks at the schedule, or changes it without effects.
    pub(super) fn schedule<T>(&self, look: impl FnOnce(&mut Schedule) -> T) -> T {
        look(&mut self.inner.lock().schedule)
    }

    /// The same, one of several in a row: others have the schedule in between.
    pub(super) fn schedule_in_turns<T>(&self, look: impl FnOnce(&mut Schedule) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = look(&mut inner.schedule);
        MutexGuard::unlock_fair(inner);
        result
    }

    pub(super) fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.inner.lock());
        drop(forgotten);
    }

    fn apply<T>(&self, command: impl FnOnce(&mut Schedule, &mut Effects) -> T) -> (T, bool) {
        let mut effects = Effects::default();
        let mut inner = self.inner.lock();
        let result = command(&mut inner.schedule, &mut effects);
        let has_effects = !effects.is_empty();
        if has_effects {
            effects.owner = inner.schedule.owner();
            inner.waiting.push_back(effects);
        }
        (result, has_effects)
    }

    fn next(&self) -> Option<Effects> {
        self.inner.lock().waiting.pop_front()
    }
}

impl Queue {
    /// Changes the schedule, then does what that leads to.
    pub(super) fn apply<T>(&self, patience: Patience, command: impl FnOnce(&mut Schedule, &mut Effects) -> T) -> T {
        self.apply_and_offer(patience, command).0
    }

    /// The same for a caller that has the workers take what was offered in its place.
    pub(super) fn apply_and_offer<T>(
        &self,
        patience: Patience,
        command: impl FnOnce(&mut Schedule, &mut Effects) -> T,
    ) -> (T, Offered) {
        let (result, has_effects) = self.outbox.apply(command);
        let offered = if has_effects { self.pass_on(patience) } else { Offered::default() };
        (result, offered)
    }

    /// Does what is to be done, in its order; what was offered is to be announced by the caller.
    pub(super) fn pass_on(&self, patience: Patience) -> Offered {
        let mut offered = Offered::default();
        loop {
            let turn = match patience {
                Patience::Wait => Some(self.outbox.turn.lock()),
                Patience::PassBy => self.outbox.turn.try_lock(),
            };
            let Some(turn) = turn else { return offered };
            while let Some(effects) = self.outbox.next() {
                offered.and(self.act(effects));
            }
            drop(turn);
            // Whoever passed by since then counts on us.
            if self.outbox.inner.lock().waiting.is_empty() {
                return offered;
            }
        }
    }

    /// What was offered is to be announced by the caller.
    fn act(&self, effects: Effects) -> Offered {
        let mut offered = Offered::default();
        let Effects { happened, lost, offers, wakes, owner } = effects;
        for occurrence in happened {
            match occurrence {
                Occurrence::Accepted(event) => self.events.emit(*event),
                Occurrence::Informed(event) => self.publish(*event),
                Occurrence::Deferred(progress, event, at_risk) => {
                    offered.and(self.conclude(Change::Deferred(progress), Some(*event), at_risk));
                }
                Occurrence::Noted(progress, ending) => {
                    offered.and(self.conclude(Change::Noted(progress), None, Some(ending)));
                }
                Occurrence::Ended(left, ending) => offered.and(self.conclude(Change::Ended(left), None, Some(ending))),
                Occurrence::EndedElsewhere(ending) => offered.and(self.follow_up(*ending)),
            }
        }
        for entry in lost {
            tracing::error!(%entry, "an attempt did not renew its lease; the entry is offered again");
        }
        if !offers.is_empty() {
            offered.and(self.offer(self.attemptable(offers, owner)));
        }
        if wakes {
            self.timers_changed.notify_one();
        }
        offered
    }

    /// Offers entries; whoever calls this announces them.
    pub(super) fn offer(&self, offers: Vec<Offer>) -> Offered {
        if offers.is_empty() || self.stopped.load(Ordering::Relaxed) {
            return Offered::default();
        }
        self.offering.offer(offers)
    }

    /// The ledger has ended an entry. What follows from that is stored behind it.
    fn follow_up(&self, ending: Ending) -> Offered {
        // Its place in a budget stays taken, since the row is gone by which the ledger would give it back.
        let Consequences { side, notification, gives_back: _ } = (self.entail)(&ending);
        let row = |side| if let Side::Row(row) = side { Some(row) } else { None };
        let rows: Vec<_> = side.into_iter().filter_map(row).collect();
        if !rows.is_empty() {
            self.ledger.store_soon(rows);
        }
        let mut adopted = Effects::default();
        if let Some((message, content)) = notification {
            let event = accepted(&message, None, ending.now());
            self.ledger.adopt(NewMessage::plain(message.clone(), content, event));
            self.adopted(message, ending.now(), &mut adopted);
        }
        let offered = self.act(adopted);
        self.events.emit(ending.event);
        offered
    }

    fn adopted(&self, message: Arc<Message>, now: Timestamp, effects: &mut Effects) {
        self.outbox.schedule(|schedule| {
            schedule.adopt(message, now, effects);
            effects.owner = schedule.owner();
        });
    }

    /// What has become of an entry, stored with what that entails. A notification is in the queue before the end is told.
    fn conclude(&self, change: Change, event: Option<Event>, ending: Option<Box<Ending>>) -> Offered {
        let (mut side, mut notification, mut adopted) = (Vec::new(), None, Effects::default());
        if let Some(ending) = &ending {
            let consequences = (self.entail)(ending);
            side = consequences.side;
            let budget = consequences.gives_back.map(|name| self.key_hash(KeyOf::Budget, name.as_bytes()));
            side.extend(budget.map(Side::GivesBack));
            if let Some((message, content)) = consequences.notification {
                let event = accepted(&message, None, ending.now());
                notification = Some(Box::new(NewMessage::plain(message.clone(), content, event)));
                self.adopted(message, ending.now(), &mut adopted);
            }
        }
        let events: Vec<Event> = event.into_iter().chain(ending.map(|ending| ending.event)).collect();
        if let Some(attempt) = events.first().and_then(Attempt::of) {
            self.settle(attempt, change.settled(events.clone(), side, notification));
        }
        let offered = self.act(adopted);
        events.into_iter().for_each(|event| self.events.emit(event));
        offered
    }
}

/// What becomes of an entry in the ledger.
enum Change {
    Deferred(Arc<Progress>),
    Noted(Arc<Progress>),
    Ended(Option<Box<Progress>>),
}

impl Change {
    fn settled(self, events: Vec<Event>, side: Vec<Side>, notification: Option<Box<NewMessage>>) -> Settled {
        match self {
            Self::Deferred(progress) => Settled::Deferred { progress, events, side, notification },
            Self::Noted(progress) => Settled::Noted { progress, events, side, notification },
            Self::Ended(left) => {
                let kind = events.last().map_or(Kind::Failed, Event::kind);
                Settled::End { end: End { kind, left }, events, side, notification }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{OnceLock, Weak};
    use std::time::Duration;

    use super::*;
    use crate::base::clock::ManualClock;
    use crate::event::Sink;
    use crate::ledger::embedded::node::{Node, Storage};
    use crate::ledger::embedded::store::memory::MemoryStore;
    use crate::ledger::entry::SignedContent;
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::{EntryId, IdSource};
    use crate::mail::message::Content;
    use crate::queue::Settings;
    use crate::queue::inspect::Filter;

    /// Remembers what it is told, and whether the schedule was free then.
    #[derive(Default)]
    struct Witness {
        queue: OnceLock<Weak<Queue>>,
        told: Mutex<Vec<Kind>>,
        entailed: Mutex<Vec<Kind>>,
    }

    impl Witness {
        fn look(&self) {
            let queue = self.queue.get().and_then(Weak::upgrade).unwrap();
            assert!(queue.outbox.inner.try_lock().is_some(), "called under the schedule's lock");
        }
    }

    impl Sink for Witness {
        fn emit(&self, event: Event) {
            self.look();
            self.told.lock().push(event.kind());
        }
    }

    fn queue() -> (Arc<Queue>, Arc<Witness>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_255_200_000)));
        let settings = Settings { entries_max: 100, deliver_at_most_once: false };
        let witness = Arc::new(Witness::default());
        let also = witness.clone();
        let entail = Box::new(move |ending: &Ending| {
            also.look();
            also.entailed.lock().push(ending.event.kind());
            Consequences::default()
        });
        let store = Box::new(MemoryStore::default());
        let queue = Queue::open(
            Node::alone(store, Storage::Inline, clock.clone(), settings.delivery()).unwrap(),
            settings,
            clock,
            witness.clone(),
            entail,
        )
        .unwrap();
        witness.queue.set(Arc::downgrade(&queue)).unwrap();
        (queue, witness)
    }

    fn accept(queue: &Arc<Queue>, ids: &IdSource) -> EntryId {
        let now = queue.clock.now();
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse("a@one.test").unwrap())],
        };
        let message = Message::new(ids.next(now), "shop".into(), envelope, now..now.plus(Duration::from_secs(600)));
        let message = Arc::new(Message { key: Some("login".into()), ..message });
        let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
        let acceptance = queue.begin(queue.new_message(message.clone(), content.clone(), None)).unwrap();
        drop(queue.admit(acceptance, SignedContent { signatures: Default::default(), content }, &[]));
        EntryId { message: message.id, index: 0 }
    }

    #[test]
    fn the_schedule_is_free_while_something_is_told_or_entailed() {
        let (queue, witness) = queue();
        let ids = IdSource::new();
        let older = accept(&queue, &ids);
        let claim = queue.claim(older, queue.clock.now()).unwrap();
        drop(claim);
        accept(&queue, &ids);
        queue.cancel(&Filter::default(), queue.clock.now());
        let told = std::mem::take(&mut *witness.told.lock());
        assert_eq!(told, [Kind::Accepted, Kind::Deferred, Kind::Accepted, Kind::Superseded, Kind::Cancelled]);
        assert_eq!(*witness.entailed.lock(), [Kind::Superseded, Kind::Cancelled]);
    }

    #[test]
    fn who_passes_by_is_acted_for_in_order() {
        let (queue, witness) = queue();
        let ids = IdSource::new();
        let turn = queue.outbox.turn.lock();
        let id = accept(&queue, &ids);
        queue.claim(id, queue.clock.now()).unwrap().settle(
            crate::queue::claim::Settlement::Delivered { attempted: Default::default(), notifies: false },
            queue.clock.now(),
        );
        assert!(witness.told.lock().is_empty(), "somebody else has the turn");
        drop(turn);
        assert!(!queue.is_live(id.message), "it has ended");
        let told = std::mem::take(&mut *witness.told.lock());
        assert_eq!(told, [Kind::Accepted, Kind::Delivered], "and whoever sees that finds its end among the events");
    }
}
