//! A repeat of a submission gets the answer of the first and is not sent again.
//!
//! An app says so by an idempotency key, or its user has a window within which the same mail is a repeat. What is the same,
//! `same.rs` says; it is compared by a digest under a key that is kept outside the database and replaced daily, since a plain
//! hash of a mail made from a template would soon give its six digits away.

mod memory;
mod same;

use std::sync::Arc;
use std::time::Duration;

pub(super) use self::memory::Reservation;
use self::memory::{AHEAD_MAX, Look, Memory, Name, Record};
use self::same::{Digest, Sameness, digest_of};
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::base::clock::Timestamp;
use crate::ledger::side::SideRow;
use crate::mail::envelope::Envelope;
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// How long a key is remembered, and the longest window of a user. Secrets last for it: they are kept for two days.
pub(crate) const MEMORY: Duration = Duration::from_secs(86_400);
/// Keys remembered at most; beyond that the oldest go.
const KEYS_MAX: usize = 500_000;
/// Mails remembered for windows at most; beyond that those go whose window ends first.
const CONTENTS_MAX: usize = 500_000;
const DAY_S: u64 = 86_400;
/// In front of the digest by which a mail within a window is known. No key begins so, since no user's name does.
const OF_CONTENT: u8 = b'\n';

/// Secrets that are kept for two days and then destroyed.
pub trait RotatingSecrets: Send + Sync {
    /// The secret of a day since 1970; none if it is gone.
    fn of(&self, day: u64) -> Option<[u8; 32]>;
    /// The secret of the day that it is, made if there is none; none if that failed.
    fn of_today(&self, day: u64) -> Option<[u8; 32]> {
        self.of(day)
    }
}

/// Since 1970, the latest day that it can be: clocks are set by less than an hour every now and then.
pub(crate) fn latest_day(now: Timestamp) -> u64 {
    now.plus(AHEAD_MAX).as_secs() / DAY_S
}

/// Whether a stored row can be read.
pub(super) fn reads(row: &SideRow) -> bool {
    Record::decode(&row.1, MEMORY).is_some()
}

/// What was taken lately, of all users.
pub(super) struct Keys {
    /// By users' names and keys.
    by_key: Memory,
    /// By digests.
    by_content: Memory,
    secrets: Arc<dyn RotatingSecrets>,
}

/// What is done where the same is being accepted right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InWork {
    /// Its answer is waited for, and given.
    Wait,
    /// It is refused.
    Refuse,
}

/// What a submission turned out to be.
#[derive(Debug)]
pub(super) enum Lookup<'a> {
    /// It is new; a repeat will be known by this.
    First(Reservation<'a>),
    /// The same was accepted before, as this message.
    Repeat(MessageId),
}

impl Keys {
    /// Takes up the rows found at start, but for those that cannot have been taken yet.
    pub(super) fn new(rows: Vec<SideRow>, secrets: Arc<dyn RotatingSecrets>, now: Timestamp) -> Self {
        let record = |(name, value): SideRow| Some((name, Record::decode(&value, MEMORY)?));
        let records = rows.into_iter().filter_map(record);
        let (by_content, by_key) = records.partition::<Vec<_>, _>(|(name, _)| name.first() == Some(&OF_CONTENT));
        let by_content = Memory::new(by_content, CONTENTS_MAX, now);
        Self { by_key: Memory::new(by_key, KEYS_MAX, now), by_content, secrets }
    }

    /// Asks by the key of a message, or where it has none and its user has a window, by its content; none where it has
    /// neither.
    ///
    /// # Errors
    /// Where other content was accepted under the key, or the same is being accepted right now and that is refused.
    pub(super) async fn ask(
        &self,
        user: &User,
        key: Option<&str>,
        mail: (&Envelope, &Content),
        in_work: InWork,
        now: Timestamp,
    ) -> Result<Option<Lookup<'_>>, Refusal> {
        if let Some(key) = key {
            return self.ask_by_key((&user.name, key), mail, in_work, now).await.map(Some);
        }
        let window = user.defaults.idempotency_window;
        if window.is_zero() {
            return Ok(None);
        }
        self.ask_by_content((&user.name, window), mail, in_work, now).await.map(Some)
    }

    async fn ask_by_key(
        &self,
        (user, key): (&str, &str),
        mail: (&Envelope, &Content),
        in_work: InWork,
        now: Timestamp,
    ) -> Result<Lookup<'_>, Refusal> {
        let name: Name = format!("{user}\n{key}").into_bytes().into();
        let today = day_of(now);
        let digest = self.digest(&Sameness::UnderKey, today, now, mail).await.ok_or(Refusal::Internal)?;
        loop {
            match self.by_key.look(std::slice::from_ref(&name), MEMORY, Some(digest), now) {
                Look::Reserved(reservation) => return Ok(Lookup::First(reservation)),
                Look::Pending(_) if in_work == InWork::Refuse => return Err(Refusal::InWork),
                // Nothing is ever sent: it ends with the reservation.
                Look::Pending(mut pending) => _ = pending.changed().await,
                Look::Taken(record) => {
                    let day = day_of(record.at);
                    let digest = if day == today {
                        Some(digest)
                    } else {
                        self.digest(&Sameness::UnderKey, day, now, mail).await
                    };
                    let is_same = digest.is_none_or(|digest| record.digest == Some(digest));
                    return if is_same { Ok(Lookup::Repeat(record.id)) } else { Err(Refusal::IdempotencyConflict) };
                }
            }
        }
    }

    async fn ask_by_content(
        &self,
        (user, window): (&str, Duration),
        mail: (&Envelope, &Content),
        in_work: InWork,
        now: Timestamp,
    ) -> Result<Lookup<'_>, Refusal> {
        let sameness = Sameness::OfContent(user.into());
        let (today, first_day) = (day_of(now), day_of(now.minus(window)));
        let digest = self.digest(&sameness, today, now, mail).await.ok_or(Refusal::Internal)?;
        let mut names = vec![name_of(&digest)];
        // What was taken before midnight is known by the secret of that day.
        for day in first_day..today {
            names.extend(self.digest(&sameness, day, now, mail).await.as_ref().map(name_of));
        }
        loop {
            match self.by_content.look(&names, window, None, now) {
                Look::Reserved(reservation) => return Ok(Lookup::First(reservation)),
                Look::Pending(_) if in_work == InWork::Refuse => return Err(Refusal::InWork),
                Look::Pending(mut pending) => _ = pending.changed().await,
                Look::Taken(record) => return Ok(Lookup::Repeat(record.id)),
            }
        }
    }

    /// The digest of a mail under the secret of a day, if there is one.
    async fn digest(
        &self,
        sameness: &Sameness,
        day: u64,
        now: Timestamp,
        (envelope, content): (&Envelope, &Content),
    ) -> Option<Digest> {
        let secret = if day == day_of(now) { self.secrets.of_today(day) } else { self.secrets.of(day) };
        Some(digest_of(sameness, secret?, envelope, content).await)
    }
}

fn day_of(at: Timestamp) -> u64 {
    at.as_secs() / DAY_S
}

fn name_of(digest: &Digest) -> Name {
    [&[OF_CONTENT], &digest[..]].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::side::{SideChange, SideTable};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{MailParameters, Recipient};
    use crate::mail::id::IdSource;

    struct Secrets;

    impl RotatingSecrets for Secrets {
        fn of(&self, day: u64) -> Option<[u8; 32]> {
            Some([u8::try_from(day % 251).unwrap_or(0); 32])
        }
    }

    fn mail(boundary: &str, code: &str) -> (Envelope, Content) {
        let envelope = Envelope {
            reverse_path: ReversePath::parse("<otp@example.com>").unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse("a@example.org").unwrap())],
        };
        let text = format!(
            "Date: {boundary}\r\nMessage-ID: <{boundary}@example.com>\r\nSubject: {code} is your code\r\n\
             Content-Type: multipart/alternative; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n\
             Content-Type: text/plain\r\n\r\n{code}\r\n--{boundary}--\r\n"
        );
        (envelope, Content::split(text.into()))
    }

    async fn ask<'a>(
        keys: &'a Keys,
        (envelope, content): &(Envelope, Content),
        at_s: u64,
    ) -> Result<Lookup<'a>, Refusal> {
        let user = User::unlimited("shop");
        let asked =
            keys.ask(&user, Some("7f3a"), (envelope, content), InWork::Wait, Timestamp::from_millis(at_s * 1000)).await;
        asked.map(|asked| asked.expect("a key is an answer"))
    }

    fn keys() -> Keys {
        Keys::new(Vec::new(), Arc::new(Secrets), Timestamp::default())
    }

    fn some_id() -> MessageId {
        IdSource::with_random(|| 7).next(Timestamp::from_millis(1000))
    }

    #[tokio::test]
    async fn a_repeat_is_known_by_what_stays_the_same_and_for_a_day() {
        let (keys, id) = (keys(), some_id());
        let Ok(Lookup::First(reservation)) = ask(&keys, &mail("x1", "123456"), 0).await else { panic!() };
        let rows = reservation.changes(id);
        reservation.taken(id);
        assert!(matches!(ask(&keys, &mail("y2", "123456"), 86_399).await, Ok(Lookup::Repeat(first)) if first == id));
        assert!(matches!(ask(&keys, &mail("y2", "654321"), 1).await, Err(Refusal::IdempotencyConflict)));
        // After a restart too.
        let [SideChange(SideTable::Idempotency, key, Some(value))] = rows.as_slice() else { panic!() };
        let again = Keys::new(vec![(key.clone(), value.clone())], Arc::new(Secrets), Timestamp::default());
        assert!(matches!(ask(&again, &mail("y2", "123456"), 5).await, Ok(Lookup::Repeat(first)) if first == id));
        let Ok(Lookup::First(reservation)) = ask(&again, &mail("y2", "123456"), 86_400).await else { panic!() };
        // What is stored anew is not removed.
        assert_eq!(reservation.changes(id).len(), 1);
    }

    #[tokio::test]
    async fn what_a_clock_took_that_was_ahead_is_not_remembered_for_days() {
        let (keys, id, week) = (keys(), some_id(), 7 * 86_400);
        let Ok(Lookup::First(reservation)) = ask(&keys, &mail("x1", "123456"), week).await else { panic!() };
        let rows = reservation.changes(id);
        reservation.taken(id);
        let set_back_a_little = ask(&keys, &mail("x1", "123456"), week - 3600).await;
        assert!(matches!(set_back_a_little, Ok(Lookup::Repeat(_))));
        assert!(matches!(ask(&keys, &mail("x1", "123456"), 0).await, Ok(Lookup::First(_))), "while the relay runs");
        let [SideChange(SideTable::Idempotency, key, Some(value))] = rows.as_slice() else { panic!() };
        let again = Keys::new(vec![(key.clone(), value.clone())], Arc::new(Secrets), Timestamp::default());
        assert!(matches!(ask(&again, &mail("x1", "123456"), 0).await, Ok(Lookup::First(_))), "over a restart");
    }

    #[tokio::test]
    async fn long_content_is_known_again_too() {
        let (keys, id) = (keys(), some_id());
        let long = |last: &str| mail("x", &format!("{}{last}", "0123456789 ".repeat(10_000)));
        let Ok(Lookup::First(reservation)) = ask(&keys, &long("1"), 0).await else { panic!() };
        reservation.taken(id);
        assert!(matches!(ask(&keys, &long("1"), 1).await, Ok(Lookup::Repeat(_))));
        assert!(matches!(ask(&keys, &long("2"), 1).await, Err(Refusal::IdempotencyConflict)));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first() {
        let (keys, id) = (keys(), some_id());
        let content = mail("x", "123456");
        let Ok(Lookup::First(first)) = ask(&keys, &content, 0).await else { panic!() };
        let (second, ()) = tokio::join!(ask(&keys, &content, 0), async { first.taken(id) });
        assert!(matches!(second, Ok(Lookup::Repeat(repeated)) if repeated == id));
    }

    #[tokio::test]
    async fn a_first_that_fails_leaves_the_key_free() {
        let keys = keys();
        let content = mail("x", "123456");
        let Ok(Lookup::First(first)) = ask(&keys, &content, 0).await else { panic!() };
        let (second, ()) = tokio::join!(ask(&keys, &content, 0), async { drop(first) });
        assert!(matches!(second, Ok(Lookup::First(_))));
    }

    const WINDOW: Duration = Duration::from_secs(30);

    /// Of a user with a window, without a key.
    async fn ask_again<'a>(keys: &'a Keys, mail: &(Envelope, Content), at_s: u64) -> Option<Lookup<'a>> {
        let mut user = User::unlimited("shop");
        user.defaults.idempotency_window = WINDOW;
        keys.ask(&user, None, (&mail.0, &mail.1), InWork::Wait, Timestamp::from_millis(at_s * 1000)).await.unwrap()
    }

    #[tokio::test]
    async fn within_a_window_the_same_mail_is_a_repeat() {
        let id = some_id();
        // Also over midnight, when the secret changes.
        for first_at in [1000, 86_390] {
            let keys = keys();
            let Some(Lookup::First(first)) = ask_again(&keys, &mail("x1", "123456"), first_at).await else { panic!() };
            let rows = first.changes(id);
            first.taken(id);
            let is_repeat = |asked| matches!(asked, Some(Lookup::Repeat(first)) if first == id);
            assert!(is_repeat(ask_again(&keys, &mail("y2", "123456"), first_at + 29).await));
            assert!(!is_repeat(ask_again(&keys, &mail("x1", "654321"), first_at + 1).await), "another code");
            assert!(!is_repeat(ask_again(&keys, &mail("y2", "123456"), first_at + 30).await), "the window is over");
            // After a restart too.
            let [SideChange(SideTable::Idempotency, name, Some(value))] = rows.as_slice() else { panic!() };
            let row = || vec![(name.clone(), value.clone())];
            let again = Keys::new(row(), Arc::new(Secrets), Timestamp::from_millis(first_at * 1000));
            assert!(is_repeat(ask_again(&again, &mail("y2", "123456"), first_at + 29).await));
            let late = Keys::new(row(), Arc::new(Secrets), Timestamp::from_millis(first_at * 1000));
            let Some(Lookup::First(other)) = ask_again(&late, &mail("z3", "777777"), first_at + 30).await else {
                panic!()
            };
            let removed = SideChange(SideTable::Idempotency, name.clone(), None);
            assert!(other.changes(id).iter().any(|change| format!("{change:?}") == format!("{removed:?}")));
        }
    }

    #[tokio::test]
    async fn a_key_counts_more_than_a_window() {
        let (keys, content, id) = (keys(), mail("x", "123456"), some_id());
        let Some(Lookup::First(first)) = ask_again(&keys, &content, 0).await else { panic!() };
        first.taken(id);
        let Ok(Lookup::First(by_key)) = ask(&keys, &content, 1).await else { panic!("a key of its own makes it new") };
        by_key.taken(id);
        let user = User::unlimited("shop");
        let now = Timestamp::from_millis(2000);
        assert!(
            keys.ask(&user, None, (&content.0, &content.1), InWork::Wait, now).await.unwrap().is_none(),
            "no window, no repeat"
        );
    }

    #[tokio::test]
    async fn of_two_at_once_within_a_window_one_waits_for_the_other() {
        let (keys, content, id) = (keys(), mail("x", "123456"), some_id());
        let Some(Lookup::First(first)) = ask_again(&keys, &content, 0).await else { panic!() };
        let (second, ()) = tokio::join!(ask_again(&keys, &content, 0), async { first.taken(id) });
        assert!(matches!(second, Some(Lookup::Repeat(repeated)) if repeated == id));
        let other = mail("x", "654321");
        let Some(Lookup::First(first)) = ask_again(&keys, &other, 0).await else { panic!() };
        let (second, ()) = tokio::join!(ask_again(&keys, &other, 0), async { drop(first) });
        assert!(matches!(second, Some(Lookup::First(_))), "the first was refused");
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let (now, id) = (Timestamp::from_millis(5000), some_id());
        let memory = Memory::new(Vec::new(), 3, now);
        let mut rows = std::collections::BTreeSet::new();
        for number in 0..10_u8 {
            let Look::Reserved(reservation) = memory.look(&[[number].into()], WINDOW, None, now) else { panic!() };
            for change in reservation.changes(id) {
                let SideChange(_, name, value) = change;
                if value.is_some() {
                    rows.insert(name)
                } else {
                    rows.remove(&name)
                };
            }
            reservation.taken(id);
            assert_eq!((memory.len(), rows.len()), (usize::from(number + 1).min(3), usize::from(number + 1).min(3)));
        }
        let later = now.plus(WINDOW);
        let Look::Reserved(reservation) = memory.look(&[[99].into()], WINDOW, None, later) else { panic!() };
        assert_eq!((reservation.changes(id).len(), memory.len()), (4, 1), "what is over goes with the next");
    }
}
