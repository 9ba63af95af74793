//! Who is suppressed by what, for how long, and who is not.

use std::sync::Arc;

use super::*;
use crate::event::{Attempted, Event, Happened};
use crate::ledger::entry::Message;
use crate::ledger::suppression::TRY_MAX;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::id::IdSource;
use crate::queue::Telling;

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    list: Suppressions,
    ids: IdSource,
}

fn mailbox() -> Mailbox {
    Mailbox::parse("alice@example.com").unwrap()
}

impl World {
    fn new() -> Self {
        Self { list: Suppressions::default(), ids: IdSource::with_random(|| 3) }
    }

    fn end(&self, kind: Kind, suppress: Suppress, at_h: u64) -> Vec<SideChange> {
        self.end_for(mailbox(), kind, suppress, at_h)
    }

    fn end_for(&self, mailbox: Mailbox, kind: Kind, suppress: Suppress, at_h: u64) -> Vec<SideChange> {
        let now = at(at_h);
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(mailbox)],
        };
        let message = Arc::new(Message::new(self.ids.next(now), "shop".into(), envelope, now..now));
        let attempted = Attempted {
            cause: Some(Cause::BadMailbox),
            reply: Some("550 5.1.1 no such user".into()),
            ..Attempted::default()
        };
        let ending = Ending {
            event: Event { head: message.entry_head(0, 1, now), what: Happened::of(kind, attempted, None) },
            message,
            suppress,
            was_sent: false,
            is_passed_on: false,
            is_late: false,
            telling: Telling::Not,
        };
        self.list.learn(&ending, Step::NONE)
    }

    fn is_open(&self, at_h: u64) -> bool {
        self.list.check(&mailbox(), "shop", at(at_h)).is_ok()
    }
}

/// What became of a message is told to whose it was; others hear until when.
#[test]
fn a_bounce_is_told_to_whose_message_it_was() {
    let world = World::new();
    world.end(Kind::Failed, Suppress::Address, 0);
    let text = |user: &str| world.list.check(&mailbox(), user, at(0)).unwrap_err().reply().text.into_owned();
    let end = "until 2026-11-21T11:00; to override: otp-relay suppression remove 'alice@example.com'";
    assert_eq!(text("shop"), format!("suppressed: hard bounce on 2026-11-21, {end}"));
    assert_eq!(text("bank"), format!("suppressed, {end}"));
    world.list.put("alice@example.com", Source::Complaint, "owner of a trap", at(0));
    for user in ["shop", "bank"] {
        assert_eq!(text(user), "suppressed; to override: otp-relay suppression remove 'alice@example.com'");
    }
}

fn taken_up(rows: Vec<SideRow>) -> Suppressions {
    let list = Suppressions::default();
    list.take_up(rows, at(0));
    list
}

fn at(hours: u64) -> Timestamp {
    Timestamp::from_millis(1_795_255_200_000).plus(HOUR * u32::try_from(hours).unwrap())
}

#[test]
fn terms_grow_and_success_clears() {
    let world = World::new();
    world.end(Kind::Failed, Suppress::Address, 0);
    assert!(!world.is_open(0) && world.is_open(1));
    world.end(Kind::Failed, Suppress::Address, 1);
    assert!(!world.is_open(168) && world.is_open(169));
    world.end(Kind::Failed, Suppress::Address, 169);
    assert!(!world.is_open(169 + 719) && world.is_open(169 + 720));
    world.end(Kind::Delivered, Suppress::No, 900);
    world.end(Kind::Failed, Suppress::Address, 901);
    assert!(world.is_open(902));
}

#[test]
fn what_was_under_way_does_not_lengthen_a_term() {
    let world = World::new();
    world.end(Kind::Failed, Suppress::Address, 0);
    assert!(world.end(Kind::Failed, Suppress::Address, 0).is_empty());
    assert!(world.is_open(1));
}

#[test]
fn one_try_at_a_time() {
    let world = World::new();
    world.end(Kind::Failed, Suppress::Address, 0);
    let id = world.ids.next(at(2));
    assert!(world.list.try_with(&mailbox(), ("shop", id), at(2)).is_ok());
    assert!(!world.is_open(2));
    world.list.release(&mailbox(), id);
    assert!(world.is_open(2));
}

/// Whoever gives its message a day does not keep others out for a day, and each is told the truth meanwhile.
#[test]
fn others_wait_for_a_try_only_so_long() {
    let world = World::new();
    world.end(Kind::Failed, Suppress::Address, 0);
    let id = world.ids.next(at(2));
    assert!(world.list.try_with(&mailbox(), ("shop", id), at(2)).is_ok());
    // The same message to another spelling is the same try.
    assert!(world.list.try_with(&Mailbox::parse("ALICE@example.com").unwrap(), ("shop", id), at(2)).is_ok());
    let ends = at(2).plus(TRY_MAX);
    let before = ends.minus(Duration::from_millis(1));
    assert_eq!(world.list.standing(&mailbox(), before), Standing::Suppressed { until: Some(ends) });
    let refused = world.list.check(&mailbox(), "shop", before);
    assert!(matches!(refused, Err(Refusal::Suppressed { until, .. }) if until == Some(ends)), "{refused:?}");
    assert_eq!(
        (world.list.standing(&mailbox(), ends), world.list.check(&mailbox(), "shop", ends)),
        (Standing::Open, Ok(()))
    );
}

#[test]
fn an_address_is_open_or_suppressed_until() {
    let world = World::new();
    let standing = |at_h| world.list.standing(&mailbox(), at(at_h));
    assert_eq!(standing(0), Standing::Open);
    world.end(Kind::Failed, Suppress::Address, 0);
    assert_eq!(standing(0), Standing::Suppressed { until: Some(at(1)) });
    assert_eq!(standing(1), Standing::Open);
    world.list.put("@example.com", Source::Manual, "traps", at(0));
    assert_eq!(standing(0), Standing::Suppressed { until: None });
}

#[test]
fn three_doubtful_refusals_count_as_one() {
    let world = World::new();
    for hour in 0..3 {
        assert!(world.is_open(hour));
        world.end(Kind::Failed, Suppress::Count, hour);
    }
    assert!(!world.is_open(2) && world.is_open(3));
}

#[test]
fn other_spellings_and_routes_teach_nothing() {
    let world = World::new();
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
        let changes = world.end_for(Mailbox::parse(text).unwrap(), Kind::Failed, Suppress::Address, 0);
        assert!(changes.is_empty(), "{text}: {changes:?}");
    }
    assert!(world.is_open(0));
    // The address itself does, and counts for every spelling of it.
    world.end(Kind::Failed, Suppress::Address, 0);
    for text in ["ALICE@example.com", "\"alice\"@EXAMPLE.com"] {
        assert!(world.list.check(&Mailbox::parse(text).unwrap(), "shop", at(0)).is_err(), "{text}");
    }
}

#[test]
fn domains_that_an_earlier_version_learned_hold_no_more() {
    let stored = |address: &str, source: Source| {
        let (entry, _) = Suppressions::default().put(address, source, "554 5.7.1 Relay access denied", at(0));
        let mut entry = entry;
        entry.until = (source == Source::Learned).then(|| at(24));
        (address.as_bytes().into(), serde_json::to_vec(&entry).unwrap().into_boxed_slice())
    };
    let rows = vec![stored("@example.com", Source::Learned), stored("@spam.example", Source::Manual)];
    let world = World { list: taken_up(rows), ..World::new() };
    assert!(world.is_open(1));
    assert!(world.list.check(&Mailbox::parse("a@spam.example").unwrap(), "shop", at(1)).is_err());
    // Its row goes with the next end.
    let changes = world.end(Kind::Delivered, Suppress::No, 1);
    assert!(matches!(&changes[..], [SideChange(SideTable::Suppression, key, None)] if **key == *b"@example.com"));
    assert!(world.end(Kind::Delivered, Suppress::No, 1).is_empty());
}

#[test]
fn what_a_clock_learned_that_was_ahead_holds_no_longer_than_meant() {
    let world = World::new();
    let year_h = 8760;
    let changes = world.end(Kind::Failed, Suppress::Address, year_h);
    let Some(SideChange(SideTable::Suppression, key, Some(value))) = changes.into_iter().next_back() else { panic!() };
    let again = World { list: taken_up(vec![(key, value)]), ..World::new() };
    assert!(!again.is_open(0) && again.is_open(1));
}

#[test]
fn manual_entries_and_restarts() {
    let world = World::new();
    let changes = world.end(Kind::Failed, Suppress::Address, 0);
    let Some(SideChange(SideTable::Suppression, key, Some(value))) = changes.into_iter().next_back() else { panic!() };
    assert_eq!(key.as_ref(), b"alice@example.com");
    let again = World { list: taken_up(vec![(key, value)]), ..World::new() };
    assert!(!again.is_open(0));
    again.list.put("alice@example.com", Source::Manual, "asked for it", at(0));
    assert!(!again.is_open(10_000));
    again.end(Kind::Delivered, Suppress::No, 10_000);
    assert!(!again.is_open(10_000));
    assert_eq!(again.list.list(at(30), 10).1, 1);
    assert!(again.list.remove("alice@example.com").is_some());
    assert!(again.is_open(10_001));
    assert_eq!(suppression_key(" @EXAMPLE.com "), Some("@example.com".to_owned()));
    assert_eq!(suppression_key("Alice@Example.com"), Some("alice@example.com".to_owned()));
    assert_eq!(suppression_key("nobody"), None);
}
