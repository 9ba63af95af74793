//! The schedule by itself: commands in, effects out, on made-up time.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ledger::attempt::Held;
use crate::ledger::entry::LostClaim;
use crate::ledger::filter::Filter;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{DeliverBy, DeliverByMode, Envelope, MailParameters, Recipient};
use crate::mail::id::IdSource;
use crate::mail::message;
use crate::queue::effects::Occurrence;
use crate::queue::settlement::Settlement;

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
const LIFE: Duration = Duration::from_secs(600);

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

/// A live entry, its state, its user and its recipient.
type Live = (EntryId, State, Arc<str>, Mailbox);

/// A schedule and what it led to.
struct World {
    schedule: Schedule,
    ids: IdSource,
    now: Timestamp,
    effects: Effects,
    holds: Vec<Hold>,
}

impl World {
    fn new() -> Self {
        let schedule = Schedule::new(Epoch(1));
        let (effects, holds) = (Effects::default(), Vec::new());
        Self { schedule, ids: IdSource::with_random(|| 7), now: START, effects, holds }
    }

    fn accept(&mut self, user: &str, recipients: &[&str], key: Option<&str>) -> MessageId {
        let recipient = |text: &&str| Recipient::new(Mailbox::parse(text).unwrap());
        let envelope = Envelope {
            reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: recipients.iter().map(recipient).collect(),
        };
        let life = self.now..self.now.plus(LIFE);
        let message = Message::new(self.ids.next(self.now), user.into(), envelope, life);
        let message = Arc::new(Message { key: key.map(Arc::from), ..message });
        let content = message::Content { head: "A: b\r\n".into(), body: "\r\n".into() };
        let content = SignedContent { signatures: Default::default(), content };
        self.schedule.shares().add(&message.user, recipients.len());
        let accepted =
            Event { head: message.head(self.now), what: Happened::Accepted { note: None, others: Arc::default() } };
        let outlived = self.outlived_by(&message);
        self.schedule.accept(&message, content, (&[], &outlived), accepted, &mut self.effects);
        message.id
    }

    /// What a ledger says of its slots.
    fn outlived_by(&self, newer: &Message) -> Vec<(EntryId, MessageId)> {
        let names: BTreeSet<_> = entries_of(newer).flat_map(|id| newer.slot_names(id.index)).collect();
        let live = self.schedule.held.values().flat_map(|held| {
            let live = entries_of(&held.message).zip(&held.entries).filter(|(_, entry)| entry.state.is_some());
            live.map(|(id, _)| (&held.message, id))
        });
        let outlived = live.filter(|(message, id)| message.slot_names(id.index).any(|name| names.contains(&name)));
        outlived.map(|(_, id)| (id, newer.id)).collect()
    }

    fn claim(&mut self, id: EntryId) -> Result<Hold, LostClaim> {
        self.schedule.claim(id, self.now, &mut self.effects).map(|(hold, _)| hold)
    }

    fn settle(&mut self, mut hold: Hold, settlement: Settlement) {
        self.schedule.settle(&mut hold, settlement, self.now, &mut self.effects);
    }

    /// The kinds of events since the last call.
    fn told(&mut self) -> Vec<Kind> {
        let happened = std::mem::take(&mut self.effects).happened;
        let kinds = |occurrence| match occurrence {
            Occurrence::Accepted(event) | Occurrence::Informed(event) => vec![event.kind()],
            Occurrence::Deferred(_, event, at_risk) => {
                std::iter::once(event.kind()).chain(at_risk.map(|ending| ending.event.kind())).collect()
            }
            Occurrence::Noted(_, ending) | Occurrence::Ended(_, ending) | Occurrence::EndedElsewhere(ending) => {
                vec![ending.event.kind()]
            }
        };
        happened.into_iter().flat_map(kinds).collect()
    }

    fn found(&self, filter: &Filter, most: usize) -> BTreeSet<EntryId> {
        let (mut found, mut behind) = (BTreeSet::new(), None);
        loop {
            let (page, next) = self.schedule.page(filter, behind, most);
            for id in page {
                assert!(found.insert(id), "{id} is found twice");
            }
            match next {
                Some(next) => behind = Some(next),
                None => return found,
            }
        }
    }

    /// Counts and places are what a look at all entries says.
    fn check(&self) {
        let live = |held: &LiveMessage| held.entries.iter().filter(|entry| entry.state.is_some()).count();
        let mut depth = Depth { messages: self.schedule.held.len(), ..Depth::default() };
        let mut all: Vec<Live> = Vec::new();
        for held in self.schedule.held.values() {
            assert_eq!(usize::from(held.live), live(held));
            for (id, entry) in entries_of(&held.message).zip(&held.entries) {
                if let Some(state) = entry.state {
                    *depth.count(state) += 1;
                    depth.at_risk += usize::from(entry.progress.at_risk);
                    all.push((id, state, held.message.user.clone(), held.message.recipient(id.index).mailbox.clone()));
                }
            }
        }
        assert_eq!(self.schedule.depth(), depth);
        let expected = |fits: &dyn Fn(&Live) -> bool| -> BTreeSet<EntryId> {
            all.iter().filter(|entry| fits(entry)).map(|(id, ..)| *id).collect()
        };
        for most in [1, 3, 100] {
            assert_eq!(self.found(&Filter::default(), most), expected(&|_| true));
            for name in ["a@one.test", "b@one.test", "a@two.test"] {
                let filter = Filter { recipient: Some(name.into()), ..Filter::default() };
                assert_eq!(self.found(&filter, most), expected(&|entry| entry.3.plain_key() == name));
            }
            let filter = Filter { domain: Some("one.test".into()), ..Filter::default() };
            assert_eq!(self.found(&filter, most), expected(&|entry| entry.3.domain_key() == "one.test"));
            let filter = Filter { user: Some("bank".into()), ..Filter::default() };
            assert_eq!(self.found(&filter, most), expected(&|entry| &*entry.2 == "bank"));
            let filter = Filter { state: Some(State::Deferred), ..Filter::default() };
            assert_eq!(self.found(&filter, most), expected(&|entry| entry.1 == State::Deferred));
        }
        let held: usize = ["shop", "bank"].iter().map(|user| self.schedule.shares.of(user)).sum();
        assert_eq!(held, all.len());
        assert!(!self.schedule.held.is_empty() || self.schedule.timers.is_empty(), "{:?}", self.schedule.timers);
    }
}

fn first(id: MessageId) -> EntryId {
    EntryId { message: id, index: 0 }
}

fn delivered() -> Settlement {
    Settlement::Delivered { attempted: Attempted::default(), notifies: false }
}

fn put_off(seconds: u64) -> Settlement {
    Settlement::put_off(Attempted::default(), at(seconds))
}

#[test]
fn an_entry_is_offered_claimed_once_and_settled_once() {
    let mut world = World::new();
    let id = first(world.accept("shop", &["a@one.test"], None));
    assert_eq!(world.effects.offers.iter().map(|offer| offer.entry).collect::<Vec<_>>(), [id]);
    let hold = world.claim(id).unwrap();
    assert_eq!(world.claim(id).unwrap_err(), LostClaim::Ended);
    assert_eq!(world.told(), [Kind::Accepted], "a lease is of this process, and is not stored");
    world.settle(hold, put_off(30));
    assert_eq!(world.schedule.depth(), Depth { messages: 1, deferred: 1, ..Depth::default() });
    let [Occurrence::Deferred(progress, event, None)] = &world.effects.happened[..] else {
        panic!("{:?}", world.effects)
    };
    assert_eq!((progress.next_attempt_at, event.next_attempt_at()), (at(30), Some(at(30))));
    world.effects = Effects::default();
    assert_eq!(world.schedule.fire(9, at(29), &mut world.effects), Some(at(30)));
    assert!(world.effects.is_empty());
    world.now = at(30);
    world.schedule.fire(9, at(30), &mut world.effects);
    assert_eq!(world.effects.offers.len(), 1);
    let hold = world.claim(id).unwrap();
    world.settle(hold, delivered());
    assert_eq!((world.told(), world.schedule.is_live(id.message)), (vec![Kind::Delivered], false));
    world.check();
}

#[test]
fn what_ends_is_stored_with_its_end_and_the_last_takes_the_message_along() {
    let mut world = World::new();
    let id = world.accept("shop", &["a@one.test", "b@one.test"], None);
    world.told();
    let (one, other) = (first(id), EntryId { message: id, index: 1 });
    let hold = world.claim(one).unwrap();
    world.settle(hold, Settlement::Failed { attempted: Attempted::default(), suppress: Default::default() });
    assert_eq!(world.schedule.cancel(&[other], Kind::Cancelled, world.now, &mut world.effects).len(), 1);
    let [Occurrence::Ended(first, failed), Occurrence::Ended(second, cancelled)] = &world.effects.happened[..] else {
        panic!("{:?}", world.effects)
    };
    assert!(
        first.as_ref().is_some_and(|left| left.ended && left.outcome.is_some()) && failed.reporting == Reporting::Not
    );
    assert!(second.is_none(), "the message goes with it");
    let Reporting::Now(others) = &cancelled.reporting else { panic!("{cancelled:?}") };
    assert_eq!(others.iter().map(|(index, outcome)| (*index, outcome.kind)).collect::<Vec<_>>(), [(0, Kind::Failed)]);
    world.check();
}

#[test]
fn a_newer_one_ends_the_older_and_content_that_is_out_may_arrive() {
    let mut world = World::new();
    let older = first(world.accept("shop", &["a@one.test"], Some("login")));
    let mut hold = world.claim(older).unwrap();
    world.schedule.release_content(&mut hold).unwrap();
    world.accept("shop", &["a@one.test"], Some("login"));
    let ended = world.effects.happened.iter().find_map(|occurrence| match occurrence {
        Occurrence::Ended(_, ending) => Some(ending),
        Occurrence::Accepted(_)
        | Occurrence::Informed(_)
        | Occurrence::Deferred(..)
        | Occurrence::Noted(..)
        | Occurrence::EndedElsewhere(_) => None,
    });
    let ended = ended.unwrap();
    assert_eq!((ended.entry(), ended.event.kind(), ended.event.may_have_arrived()), (older, Kind::Superseded, true));
    assert_eq!(world.told(), [Kind::Accepted, Kind::Accepted, Kind::Superseded]);
    world.settle(hold, delivered());
    assert_eq!(world.told(), [], "the claim was lost");
    world.check();
}

#[test]
fn a_lease_that_is_not_renewed_is_lost() {
    let mut world = World::new();
    let id = first(world.accept("shop", &["a@one.test"], None));
    let hold = world.claim(id).unwrap();
    world.schedule.renew(&hold, at(200));
    world.effects = Effects::default();
    world.schedule.fire(9, at(199), &mut world.effects);
    assert!(world.effects.is_empty(), "{:?}", world.effects);
    world.schedule.fire(9, at(200), &mut world.effects);
    assert_eq!((world.effects.lost.len(), world.effects.offers.len()), (1, 1));
    assert_eq!(world.schedule.check(&hold), Err(LostClaim::Ended));
    world.check();
}

/// With `deliver_at_most_once` the note is what keeps a start from sending again.
#[test]
fn what_is_stored_beside_the_note_of_an_attempt_keeps_it() {
    let mut world = World::new();
    let id = world.accept("shop", &["alice@example.com"], None);
    let by = DeliverBy { seconds: 60, mode: DeliverByMode::Notify, trace: false };
    let held = world.schedule.held.get_mut(&id).unwrap();
    let mut message = Message::clone(&held.message);
    message.envelope.parameters.deliver_by = Some(by);
    held.message = Arc::new(message);
    world.schedule.timers.insert(world.now.plus(Duration::from_secs(60)), first(id), Timer::Late);
    let mut hold = world.claim(first(id)).unwrap();
    world.schedule.record_content(&mut hold).unwrap();
    world.effects = Effects::default();
    world.now = at(61);
    world.schedule.fire(10, world.now, &mut world.effects);
    let happened = std::mem::take(&mut world.effects).happened;
    let stored = happened.iter().find_map(|occurrence| match occurrence {
        Occurrence::Noted(progress, ending) if ending.is_late => Some(progress),
        Occurrence::Accepted(_)
        | Occurrence::Informed(_)
        | Occurrence::Deferred(..)
        | Occurrence::Noted(..)
        | Occurrence::Ended(..)
        | Occurrence::EndedElsewhere(_) => None,
    });
    assert!(stored.is_some_and(|progress| progress.content_sent && progress.late));
    // The attempt's end says what became of the content.
    world.schedule.release_content(&mut hold).unwrap();
    world.settle(hold, put_off(90));
    assert!(!world.schedule.held[&id].entries[0].progress.content_sent);
}

#[test]
fn a_page_looks_at_so_many_and_no_more() {
    let mut world = World::new();
    for _ in 0..10 {
        world.accept("shop", &["a@one.test", "b@one.test", "a@two.test"], None);
    }
    let filter = |recipient: Option<&str>| Filter { recipient: recipient.map(str::to_owned), ..Filter::default() };
    let (page, next) = world.schedule.page(&filter(None), None, 7);
    assert_eq!((page.len(), next.is_some()), (9, true), "whole messages");
    let (page, next) = world.schedule.page(&filter(Some("a@two.test")), None, 7);
    assert_eq!((page.len(), next.is_some()), (7, true));
    let (page, next) = world.schedule.page(&filter(Some("a@two.test")), next, 7);
    assert_eq!((page.len(), next.is_some()), (3, false));
    let (page, next) = world.schedule.page(&filter(Some("c@two.test")), None, 1);
    assert_eq!((page.len(), next.is_some()), (0, false), "no others are looked at");
}

#[test]
fn what_has_no_future_at_a_start_is_ended_a_part_at_a_time() {
    let mut world = World::new();
    let ids: Vec<MessageId> = (0..5).map(|_| world.accept("shop", &["a@one.test"], None)).collect();
    let messages: Vec<Arc<Message>> = ids.iter().map(|id| world.schedule.held[id].message.clone()).collect();
    world.schedule = Schedule::new(Epoch(1));
    world.effects = Effects::default();
    for message in messages {
        let held = Held { message, entries: vec![(0, Arc::default())], ended: Vec::new(), outlived: Vec::new() };
        world.schedule.acquire(held, at(601), &mut world.effects);
    }
    assert!(world.schedule.end_doomed(3, at(601), &mut world.effects));
    assert_eq!(world.told(), [Kind::Expired; 3]);
    assert!(!world.schedule.end_doomed(3, at(601), &mut world.effects));
    assert_eq!(world.told(), [Kind::Expired; 2]);
    world.check();
}

proptest! {
    /// Whatever happens in whatever order, the counts and the places are true, and each entry ends once.
    #[test]
    fn counts_and_places_are_true(commands in prop::collection::vec((0u8..8, 0usize..40), 1..120)) {
        let mut world = World::new();
        let (mut entries, mut ended) = (Vec::new(), BTreeSet::new());
        for (command, number) in commands {
            let chosen = (!entries.is_empty()).then(|| entries[number % entries.len()]);
            match (command, chosen) {
                (0 | 1, _) | (_, None) => {
                    let user = ["shop", "bank"][number % 2];
                    let recipients: &[&str] = [&["a@one.test"][..], &["B@ONE.test", "a@two.test"], &["a@one.test", "a@one.test"]][number % 3];
                    let id = world.accept(user, recipients, [None, Some("k")][number / 20]);
                    entries.extend((0..recipients.len()).map(|index| EntryId { message: id, index: index as u16 }));
                }
                (2, Some(id)) => {
                    let claimed = world.claim(id);
                    world.holds.extend(claimed);
                }
                (3 | 4, Some(_)) => {
                    if !world.holds.is_empty() {
                        let hold = world.holds.swap_remove(number % world.holds.len());
                        let later = world.now.plus(Duration::from_secs(number as u64));
                        let settlement = match number % 4 {
                            0 => delivered(),
                            1 => Settlement::Failed { attempted: Attempted::default(), suppress: Default::default() },
                            2 => Settlement::Released(Attempted::default()),
                            _ => Settlement::put_off(Attempted::default(), later),
                        };
                        world.settle(hold, settlement);
                    }
                }
                (5, Some(id)) => drop(world.schedule.cancel(&[id], Kind::Cancelled, world.now, &mut world.effects)),
                (6, Some(id)) => {
                    world.schedule.retry(&[id], Again::After(Duration::ZERO), world.now, &mut world.effects);
                }
                (_, Some(_)) => {
                    world.now = world.now.plus(Duration::from_secs(5 * number as u64));
                    world.schedule.fire(1000, world.now, &mut world.effects);
                }
            }
            world.check();
            for occurrence in std::mem::take(&mut world.effects).happened {
                if let Occurrence::Ended(_, ending) = occurrence && ending.event.kind().is_end() {
                    prop_assert!(ended.insert(ending.entry()), "{} ended twice", ending.entry());
                }
            }
        }
        let live: usize = world.schedule.depth().of_state(None);
        prop_assert_eq!(ended.len() + live, entries.len());
    }
}
