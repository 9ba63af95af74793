//! Who is suppressed by what, for how long, and who is not.

use std::sync::Arc;

use super::*;
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Happened, Kind};
use crate::ledger::accept::{NewMessage, Precheck, Refused};
use crate::ledger::attempt::{Attempt, End, Epoch, Settled, Side};
use crate::ledger::read::{Put, Row, RowChange, Table};
use crate::ledger::rules::Delivery;
use crate::ledger::suppression::{Bounce, Learned, Source, TRY_MAX};
use crate::ledger::tables::accept::{Accepting, Reserved, Supersession};
use crate::ledger::tables::state::{NodeRow, State, Touched};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::id::{EntryId, IdSource};
use crate::mail::message::Content;

const HOUR: Duration = Duration::from_secs(3600);
const BY: Accepting =
    Accepting { me: Epoch(1), delivery: Delivery::AtLeastOnce, entries_max: 1000, supersession: Supersession::ByOwner };
const ALICE: &str = "alice@example.com";

struct World {
    state: State,
    ids: IdSource,
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

fn at(hours: u64) -> Timestamp {
    Timestamp::from_millis(1_795_255_200_000).plus(HOUR * u32::try_from(hours).unwrap())
}

fn bounced(bounce: Bounce) -> Side {
    Side::Bounced { bounce, reason: "bad_mailbox: 550 5.1.1 no such user".into() }
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        let row = NodeRow { id: 0, name: "node".into(), egress: "node".into(), beat: 1, revoked_at: None };
        state.nodes.insert(BY.me, row);
        Self { state, ids: IdSource::with_random(|| 3) }
    }

    /// One that found these rows.
    fn found(rows: &[(&[u8], &[u8])]) -> (Self, Vec<Box<[u8]>>) {
        let (mut world, mut leftovers) = (Self::new(), Vec::new());
        for (key, value) in rows {
            if !world.state.take_up_suppression(Suppression::decode(value).unwrap(), at(0)) {
                leftovers.push((*key).into());
            }
        }
        (world, leftovers)
    }

    fn message(&self, recipients: &[&str], now: Timestamp) -> NewMessage {
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: recipients.iter().map(|text| Recipient::new(mailbox(text))).collect(),
        };
        let message = Arc::new(Message::new(self.ids.next(now), "shop".into(), envelope, now..now.plus(HOUR)));
        let event = Event { head: message.head(now), what: Happened::Accepted { note: None, others: Arc::default() } };
        NewMessage::plain(message, Content { head: "A: b\r\n".into(), body: "\r\n".into() }, event)
    }

    /// A message that was on its way before anything was known ends.
    fn end(&mut self, recipient: &str, kind: Kind, side: Vec<Side>, at_h: u64) -> Option<Learned> {
        let new = self.message(&[recipient], at(at_h));
        self.state.adopt(BY, &new, at(at_h));
        self.settle(&new, kind, side, at_h)
    }

    fn settle(&mut self, new: &NewMessage, kind: Kind, side: Vec<Side>, at_h: u64) -> Option<Learned> {
        let attempted = Attempted { cause: Some(Cause::BadMailbox), ..Attempted::default() };
        let head = new.message.entry_head(0, 1, at(at_h));
        let events = vec![Event { head, what: Happened::of(kind, attempted, None) }];
        let settled = Settled::End { end: End { kind, left: None }, events, side, notification: None };
        let attempt = Attempt { entry: EntryId { message: new.message.id, index: 0 }, number: 1 };
        self.state.touched.clear();
        self.state.settle(BY, attempt, settled, at(at_h)).unwrap()
    }

    /// The rows that the last end changed.
    fn changed(&self) -> Vec<(&str, Option<&Suppression>)> {
        let changed = self.state.touched.iter().filter_map(|touched| {
            let Touched::Suppression(address) = touched else { return None };
            Some((&**address, self.state.suppressions.get(address)))
        });
        changed.collect()
    }

    fn put(&mut self, address: &str, source: Source, reason: &str, at_h: u64) {
        let entry = Suppression::lasting(address, source, reason, at(at_h));
        self.change(address, Some(&entry), at_h);
    }

    fn change(&mut self, address: &str, entry: Option<&Suppression>, at_h: u64) {
        let from =
            self.state.row(Table::Suppression, address.as_bytes()).map_or_else(Version::default, |row| row.version);
        let change = RowChange { key: address.as_bytes().into(), value: entry.map(Suppression::encode), from };
        assert!(matches!(self.state.put(Table::Suppression, change, at(at_h)), Ok(Put::Done(_))));
    }

    fn standing(&self, text: &str, now: Timestamp) -> Standing {
        let ask = Precheck { sender: Box::default(), recipient: mailbox(text), budgets: Vec::new(), ahead: Vec::new() };
        let obstacles = self.state.precheck(&ask, now);
        assert_eq!(obstacles.suppression.is_none(), obstacles.standing == Standing::Open);
        obstacles.standing
    }

    fn is_open(&self, at_h: u64) -> bool {
        self.standing(ALICE, at(at_h)) == Standing::Open
    }

    fn reserve(&mut self, new: &NewMessage, now: Timestamp) -> Result<Reserved, Refused> {
        self.state.reserve(BY, new, now)
    }
}

#[test]
fn terms_grow_and_success_clears() {
    let mut world = World::new();
    let learned = world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0).unwrap();
    assert_eq!((learned.cause, learned.until, learned.bounces), (Some(Cause::BadMailbox), Some(at(1)), 1));
    assert!(!world.is_open(0) && world.is_open(1));
    assert_eq!(world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 1).unwrap().bounces, 2);
    assert!(!world.is_open(168) && world.is_open(169));
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 169);
    assert!(!world.is_open(169 + 719) && world.is_open(169 + 720));
    world.end(ALICE, Kind::Delivered, vec![Side::Lifted], 900);
    assert_eq!(world.changed(), [(ALICE, None)]);
    assert_eq!(world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 901).unwrap().bounces, 1);
    assert!(world.is_open(902));
    world.end(ALICE, Kind::Delivered, vec![Side::Lifted], 903);
    world.end(ALICE, Kind::Delivered, vec![Side::Lifted], 903);
    assert_eq!(world.changed(), [], "there is nothing to forget");
}

#[test]
fn what_was_under_way_does_not_lengthen_a_term() {
    let mut world = World::new();
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    assert_eq!(world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0), None);
    assert_eq!(world.changed(), []);
    assert!(world.is_open(1));
}

#[test]
fn one_try_at_a_time() {
    let mut world = World::new();
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    let (try_, other) = (world.message(&[ALICE], at(2)), world.message(&["bob@example.com", ALICE], at(2)));
    assert!(matches!(world.reserve(&try_, at(2)), Ok(Reserved::New(_))));
    assert!(!world.is_open(2));
    let live = world.state.live;
    let refused = world.reserve(&other, at(2)).unwrap_err();
    assert!(matches!(&refused, Refused::Suppressed(row) if row.address == ALICE), "{refused:?}");
    assert_eq!(world.state.live, live, "a message that is refused takes nothing");
    // It was not stored.
    world.state.release(&try_);
    assert!(world.is_open(2));
    assert!(matches!(world.reserve(&other, at(2)), Ok(Reserved::New(_))));
}

/// Whoever gives its message a day does not keep others out for a day, and each is told the truth meanwhile.
#[test]
fn others_wait_for_a_try_only_so_long() {
    let mut world = World::new();
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    // The same message to another spelling is the same try.
    let try_ = world.message(&[ALICE, "ALICE@example.com"], at(2));
    assert!(world.reserve(&try_, at(2)).is_ok());
    let ends = at(2).plus(TRY_MAX);
    let before = ends.minus(Duration::from_millis(1));
    assert_eq!(world.standing(ALICE, before), Standing::Suppressed { until: Some(ends) });
    let other = world.message(&[ALICE], before);
    let refused = world.reserve(&other, before);
    assert!(matches!(&refused, Err(Refused::Suppressed(row)) if row.until == Some(ends)), "{refused:?}");
    assert_eq!(world.standing(ALICE, ends), Standing::Open);
    assert!(world.reserve(&other, ends).is_ok());
}

/// The relay's own mail is neither refused nor a try.
#[test]
fn own_mail_passes_and_keeps_nobody_waiting() {
    let mut world = World::new();
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    for at_h in [0, 2] {
        let own = world.message(&[ALICE], at(at_h));
        world.state.adopt(BY, &own, at(at_h));
        assert!(world.state.messages.contains_key(&own.message.id));
    }
    assert!(world.is_open(2));
}

#[test]
fn an_address_is_open_or_suppressed_until() {
    let mut world = World::new();
    assert_eq!(world.standing(ALICE, at(0)), Standing::Open);
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    assert_eq!(world.standing(ALICE, at(0)), Standing::Suppressed { until: Some(at(1)) });
    assert_eq!(world.standing(ALICE, at(1)), Standing::Open);
    world.put("@example.com", Source::Manual, "traps", 0);
    assert_eq!(world.standing(ALICE, at(0)), Standing::Suppressed { until: None });
    // What is told of a message is told by the address itself first.
    let (row, _) = world.state.suppressions.against(&mailbox(ALICE), at(0));
    let row = row.unwrap();
    assert_eq!((&*row.address, row.until, row.bounced_for("shop")), (ALICE, Some(at(1)), Some(at(0))));
    assert_eq!(row.bounced_for("bank"), None);
}

#[test]
fn three_doubtful_refusals_count_as_one() {
    let mut world = World::new();
    for hour in 0..3 {
        assert!(world.is_open(hour));
        let learned = world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Soft)], hour);
        assert_eq!((learned.is_some(), world.changed().len()), (hour == 2, 1), "each is stored");
    }
    assert!(!world.is_open(2) && world.is_open(3));
}

#[test]
fn other_spellings_and_routes_teach_nothing() {
    let mut world = World::new();
    for text in [
        "ALICE@example.com",
        "\"alice\"@example.com",
        "\"a\\lice\"@example.com",
        "alice@EXAMPLE.com",
        "alice%x@example.com",
        "x!alice@example.com",
        "\"alice@x\"@example.com",
        "alice@b\u{fc}cher.example",
    ] {
        assert_eq!(world.end(text, Kind::Failed, vec![bounced(Bounce::Hard)], 0), None, "{text}");
        assert_eq!(world.changed(), [], "{text}");
    }
    assert!(world.is_open(0));
    // The address itself does, and counts for every spelling of it.
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    for text in ["ALICE@example.com", "\"alice\"@EXAMPLE.com"] {
        assert_ne!(world.standing(text, at(0)), Standing::Open, "{text}");
    }
}

#[test]
fn domains_that_an_earlier_version_learned_hold_no_more() {
    let stored = |address: &str, source: Source| {
        let mut entry = Suppression::lasting(address, source, "554 5.7.1 Relay access denied", at(0));
        entry.until = (source == Source::Learned).then(|| at(24));
        serde_json::to_vec(&entry).unwrap()
    };
    let (learned, manual) = (stored("@example.com", Source::Learned), stored("@spam.example", Source::Manual));
    let (world, leftovers) = World::found(&[(b"@example.com", &learned), (b"@spam.example", &manual)]);
    assert!(world.is_open(1));
    assert_ne!(world.standing("a@spam.example", at(1)), Standing::Open);
    assert_eq!(leftovers, [(*b"@example.com").into()]);
}

#[test]
fn what_a_clock_learned_that_was_ahead_holds_no_longer_than_meant() {
    let mut world = World::new();
    let year_h = 8760;
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], year_h);
    let value = world.changed()[0].1.unwrap().encode();
    let (again, _) = World::found(&[(ALICE.as_bytes(), &value)]);
    assert!(!again.is_open(0) && again.is_open(1));
}

#[test]
fn manual_entries_and_restarts() {
    let mut world = World::new();
    world.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 0);
    let [(address, Some(entry))] = world.changed()[..] else { panic!() };
    assert_eq!(address, ALICE);
    let (mut again, _) = World::found(&[(address.as_bytes(), &entry.encode())]);
    assert!(!again.is_open(0));
    again.put(ALICE, Source::Manual, "asked for it", 0);
    assert!(!again.is_open(10_000));
    again.end(ALICE, Kind::Delivered, vec![Side::Lifted], 10_000);
    assert!(!again.is_open(10_000));
    assert_eq!(again.end(ALICE, Kind::Failed, vec![bounced(Bounce::Hard)], 10_000), None, "it stays what it is");
    let (rows, _) = again.state.rows(Table::Suppression, Version(0));
    let [Row { key, value: Some(value), .. }] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&**key, value), (ALICE.as_bytes(), &again.state.suppressions.get(ALICE).unwrap().encode()));
    again.change(ALICE, None, 10_000);
    assert_eq!(again.state.row(Table::Suppression, ALICE.as_bytes()), None);
    assert!(again.is_open(10_001));
}

#[test]
fn a_full_list_forgets_once_an_hour_what_was_not_confirmed() {
    let mut world = World::new();
    let old = |number: usize| format!("u{number}@old.example");
    for number in 0..SWEPT_AT_ONCE + 1 {
        world.end(&old(number), Kind::Failed, vec![bounced(Bounce::Soft)], 0);
    }
    world.put("@old.example", Source::Manual, "stays", 0);
    let (days, all) = (60 * 24, SWEPT_AT_ONCE + 2);
    world.state.touched.clear();
    assert!(!world.state.has_room_for_suppression(all, at(days - 1)));
    assert!(!world.state.has_room_for_suppression(all, at(days - 1).plus(HOUR / 2)), "it was looked through");
    assert_eq!(world.changed(), []);
    assert!(world.state.has_room_for_suppression(all, at(days)));
    assert_eq!(world.changed().len(), SWEPT_AT_ONCE, "and their rows go");
    assert!(world.state.has_room_for_suppression(2, at(days)), "the last one too");
    assert_eq!(world.state.suppressions.rows.len(), 1);
    assert!(!world.state.has_room_for_suppression(1, at(days)));
    assert_ne!(world.standing("a@old.example", at(days)), Standing::Open);
}

#[test]
fn what_is_no_row_of_the_list_is_not_taken() {
    let mut world = World::new();
    let mut put = |key: &[u8], value: &[u8]| {
        let change = RowChange { key: key.into(), value: Some(value.into()), from: Version(0) };
        world.state.put(Table::Suppression, change, at(0)).is_ok()
    };
    let entry = Suppression::lasting(ALICE, Source::Manual, "", at(0)).encode();
    assert!(!put(b"\xff", &entry) && !put(ALICE.as_bytes(), b"{}") && put(ALICE.as_bytes(), &entry));
}
