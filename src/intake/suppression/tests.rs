//! What users and operators are told of the list, and what the door makes of it.

use std::time::Duration;

use super::*;
use crate::intake::door::Ready;
use crate::intake::options::Options;
use crate::intake::recipient::RecipientCheck;
use crate::intake::testing::{self, ALICE, NOW, door, user};
use crate::ledger::suppression::{Bounce, Counted, TRY_MAX};

const HOUR: Duration = Duration::from_secs(3600);

/// One of which a message of `shop` bounced.
fn bounced() -> Suppression {
    let mut row = Suppression::silent(ALICE, NOW);
    assert_eq!(row.bounced(Bounce::Hard, ("shop", "550 no"), NOW), Counted::Suppressed);
    row
}

/// What became of a message is told to whose it was; others hear until when.
#[test]
fn a_bounce_is_told_to_whose_message_it_was() {
    let text = |row: &Suppression, user: &str| Refusal::suppressed(row, user).reply().text.into_owned();
    let end = "until 2026-11-21T11:00; to override: otp-relay suppression remove 'alice@example.com'";
    assert_eq!(text(&bounced(), "shop"), format!("suppressed: hard bounce on 2026-11-21, {end}"));
    assert_eq!(text(&bounced(), "bank"), format!("suppressed, {end}"));
    let row = Suppression::lasting(ALICE, Source::Complaint, "owner of a trap", NOW);
    for user in ["shop", "bank"] {
        assert_eq!(text(&row, user), "suppressed; to override: otp-relay suppression remove 'alice@example.com'");
    }
}

#[test]
fn what_only_counts_or_is_over_is_not_shown() {
    let mut counted = Suppression::silent(ALICE, NOW);
    assert_eq!(counted.bounced(Bounce::Soft, ("shop", "552 full"), NOW), Counted::Noted);
    assert_eq!(shown(&counted.encode(), NOW), None);
    assert_eq!(shown(&bounced().encode(), NOW), Some(bounced()));
    assert_eq!(shown(&bounced().encode(), NOW.plus(HOUR)), None);
    assert_eq!(shown(b"\x07{}", NOW), None);
}

#[test]
fn an_address_or_a_domain_is_read_as_it_is_kept() {
    assert_eq!(suppression_key(" @EXAMPLE.com "), Some("@example.com".to_owned()));
    assert_eq!(suppression_key("Alice@Example.com"), Some("alice@example.com".to_owned()));
    assert_eq!(suppression_key("nobody"), None);
}

async fn prepared(door: &Door) -> Result<Box<Ready<'_>>, Refusal> {
    testing::prepared(door, Options::default(), "hello").await
}

async fn check(door: &Door) -> RecipientCheck {
    door.check_recipient(&user(), &Mailbox::parse(ALICE).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn who_is_on_the_list_is_refused_at_the_door_until_off_it() {
    let door = door();
    let entry = door.suppress(ALICE, Source::Manual, "asked\u{7} for it").await.unwrap();
    assert_eq!((&*entry.address, &*entry.reason, entry.since, entry.until), (ALICE, "asked for it", NOW, None));
    let refusal = Refusal::Suppressed { bounced: None, until: None, address: ALICE.to_owned() };
    assert_eq!(check(&door).await, RecipientCheck::Done(Err(refusal.clone())));
    assert_eq!(prepared(&door).await.err(), Some(refusal));
    assert_eq!(door.suppression(ALICE).await, Ok(Some(entry.clone())));
    door.suppress("@spam.test", Source::Complaint, "").await.unwrap();
    let (all, count) = door.suppressions(1).await.unwrap();
    assert_eq!((count, all), (2, vec![Suppression::lasting("@spam.test", Source::Complaint, "", NOW)]));
    assert_eq!(door.standing(&Mailbox::parse("x@SPAM.test").unwrap()).await, Ok(Standing::Suppressed { until: None }));
    assert_eq!(door.suppression("x@spam.test").await, Ok(None), "no entry of its own");
    assert_eq!(door.suppression_rows().await.unwrap()[1], (ALICE.as_bytes().into(), entry.encode()));
    // It is written over, whatever it says.
    let again = door.suppress(ALICE, Source::Complaint, "").await.unwrap();
    assert_eq!(door.suppression(ALICE).await, Ok(Some(again)));
    assert_eq!((door.unsuppress(ALICE).await, door.unsuppress(ALICE).await), (Ok(true), Ok(false)));
    assert_eq!(check(&door).await, RecipientCheck::NeedsDns);
    door.accept(*prepared(&door).await.unwrap()).await.unwrap();
}

/// Both were found good while nobody tried; the ledger takes one.
#[tokio::test(start_paused = true)]
async fn of_two_that_are_prepared_one_is_the_try() {
    let door = door();
    let replaced = door.parts.queue.replace_row(Table::Suppression, ALICE.as_bytes(), Some(bounced().encode())).await;
    assert_eq!(replaced, Ok(None));
    let until = NOW.plus(HOUR);
    let refusal = Refusal::Suppressed { bounced: Some(NOW), until: Some(until), address: ALICE.to_owned() };
    assert_eq!(prepared(&door).await.err(), Some(refusal));
    tokio::time::sleep(HOUR).await;
    let (first, second) = (prepared(&door).await.unwrap(), prepared(&door).await.unwrap());
    // A message that was only prepared is no try.
    drop(prepared(&door).await.unwrap());
    door.accept(*first).await.unwrap();
    let until = Some(NOW.plus(HOUR).plus(TRY_MAX));
    let refusal = Refusal::Suppressed { bounced: Some(NOW), until, address: ALICE.to_owned() };
    assert_eq!(door.accept(*second).await.err(), Some(refusal.clone()));
    assert_eq!(prepared(&door).await.err(), Some(refusal.clone()));
    assert_eq!(check(&door).await, RecipientCheck::Done(Err(refusal)));
    assert_eq!(door.standing(&Mailbox::parse(ALICE).unwrap()).await, Ok(Standing::Suppressed { until }));
    assert_eq!(door.parts.queue.depth().messages, 1);
    assert_eq!(door.suppressions(10).await, Ok((Vec::new(), 0)), "its term is over");
}
