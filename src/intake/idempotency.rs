//! A repeat of a submission gets the answer of the first and is not sent again.
//!
//! An app says so by an idempotency key, or its user has a window within which the same mail is a repeat. What is the same,
//! `same.rs` says; it is compared by a digest under a key that is kept outside the database and replaced daily, since a plain
//! hash of a mail made from a template would soon give its six digits away.
//!
//! The ledger knows what was accepted and decides. Here is what it is asked, and under which names this node is accepting a
//! message right now: a repeat that comes meanwhile takes nothing, and waits for the answer of the first.

mod same;
#[cfg(test)]
mod tests;
mod under_way;

use std::sync::Arc;
use std::time::Duration;

use self::same::{DIGEST_LEN, Sameness, digest_of};
use self::under_way::{Begun, Pending, UnderWay};
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::base::clock::Timestamp;
use crate::ledger::accept::{Digest, Idempotency, KeyHash, KeyOf, Repeated};
use crate::ledger::{IDEMPOTENCY_AHEAD_MAX, IDEMPOTENCY_MEMORY};
use crate::mail::envelope::Envelope;
use crate::mail::id::MessageId;
use crate::mail::message::Content;
use crate::queue::Queue;

/// How long a key is remembered, and the longest window of a user. Secrets last for it: they are kept for two days.
pub(crate) const MEMORY: Duration = IDEMPOTENCY_MEMORY;
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
    now.plus(IDEMPOTENCY_AHEAD_MAX).as_secs() / DAY_S
}

/// Who recognizes repeats.
pub(super) struct Keys {
    under_way: UnderWay,
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
pub(super) enum Lookup<'a> {
    /// As far as is known it is new; a repeat will be known by this.
    First(Box<Reservation<'a>>),
    /// The same was accepted before, as this message.
    Repeat(MessageId),
}

/// A name that waits for its message to be accepted. Dropped, it does not wait any more.
pub(super) struct Reservation<'a> {
    pub(super) known_by: Idempotency,
    /// As it came in: what digests are made of.
    content: Content,
    _pending: Pending<'a>,
}

impl Keys {
    pub(super) fn new(secrets: Arc<dyn RotatingSecrets>) -> Self {
        Self { under_way: UnderWay::default(), secrets }
    }

    /// Asks by the key of a message, or where it has none and its user has a window, by its content; none where it has
    /// neither.
    ///
    /// # Errors
    /// Where other content was accepted under the key, or the same is being accepted right now and that is refused.
    pub(super) async fn ask(
        &self,
        (queue, user): (&Queue, &User),
        key: Option<&str>,
        mail: (&Envelope, &Content),
        in_work: InWork,
        now: Timestamp,
    ) -> Result<Option<Lookup<'_>>, Refusal> {
        let window = user.defaults.idempotency_window;
        let known_by = match key {
            Some(key) => self.by_key(queue, (&user.name, key), mail, now).await?,
            None if window.is_zero() => return Ok(None),
            None => self.by_content(queue, (&user.name, window), mail, now).await?,
        };
        loop {
            let pending = match self.under_way.begin(&known_by) {
                Begun::First(pending) => pending,
                Begun::Pending(_) if in_work == InWork::Refuse => return Err(Refusal::InWork),
                Begun::Pending(mut pending) => {
                    // Nothing is ever sent: it ends with the other one.
                    _ = pending.changed().await;
                    continue;
                }
            };
            return Ok(Some(match queue.recall(known_by.clone()).await? {
                Some(repeated) => Lookup::Repeat(self.compared(queue, repeated, &known_by, mail, now).await?),
                None => {
                    let content = mail.1.clone();
                    Lookup::First(Box::new(Reservation { known_by, content, _pending: pending }))
                }
            }));
        }
    }

    /// What the ledger found under a name, which it may not be able to compare.
    ///
    /// # Errors
    /// Where it was another message.
    async fn compared(
        &self,
        queue: &Queue,
        repeated: Repeated,
        known_by: &Idempotency,
        mail: (&Envelope, &Content),
        now: Timestamp,
    ) -> Result<MessageId, Refusal> {
        let (day, first) = match repeated {
            Repeated::Same(message) => return Ok(message),
            Repeated::Other => return Err(Refusal::IdempotencyConflict),
            Repeated::OtherDay { day, message } => (day, message),
        };
        // Without its secret nobody can tell them apart.
        let Some(octets) = self.digest(&Sameness::UnderKey, day, now, mail).await else { return Ok(first) };
        let that_day = Idempotency { digest: Some(Digest { day, octets }), ..known_by.clone() };
        match queue.recall(that_day).await? {
            Some(Repeated::Same(message) | Repeated::OtherDay { message, .. }) => Ok(message),
            Some(Repeated::Other) => Err(Refusal::IdempotencyConflict),
            // It is forgotten by now.
            None => Ok(first),
        }
    }

    /// The ledger did not accept a message because of what it had accepted meanwhile.
    ///
    /// # Errors
    /// Where that was another message.
    pub(super) async fn resolve(
        &self,
        queue: &Queue,
        repeated: Repeated,
        reservation: &Reservation<'_>,
        envelope: &Envelope,
        now: Timestamp,
    ) -> Result<MessageId, Refusal> {
        self.compared(queue, repeated, &reservation.known_by, (envelope, &reservation.content), now).await
    }

    async fn by_key(
        &self,
        queue: &Queue,
        (user, key): (&str, &str),
        mail: (&Envelope, &Content),
        now: Timestamp,
    ) -> Result<Idempotency, Refusal> {
        let day = day_of(now);
        let octets = self.digest(&Sameness::UnderKey, day, now, mail).await.ok_or(Refusal::Internal)?;
        let key = queue.key_hash(KeyOf::Idempotency, format!("{user}\n{key}").as_bytes());
        Ok(Idempotency { key, digest: Some(Digest { day, octets }), span: MEMORY, also: Vec::new() })
    }

    async fn by_content(
        &self,
        queue: &Queue,
        (user, window): (&str, Duration),
        mail: (&Envelope, &Content),
        now: Timestamp,
    ) -> Result<Idempotency, Refusal> {
        let sameness = Sameness::OfContent(user.into());
        let (today, first_day) = (day_of(now), day_of(now.minus(window)));
        let digest = self.digest(&sameness, today, now, mail).await.ok_or(Refusal::Internal)?;
        let mut also = Vec::new();
        // What was taken before midnight is known by the secret of that day.
        for day in first_day..today {
            also.extend(self.digest(&sameness, day, now, mail).await.map(|digest| name_of(queue, &digest)));
        }
        Ok(Idempotency { key: name_of(queue, &digest), digest: None, span: window, also })
    }

    /// The digest of a mail under the secret of a day, if there is one.
    async fn digest(
        &self,
        sameness: &Sameness,
        day: u64,
        now: Timestamp,
        (envelope, content): (&Envelope, &Content),
    ) -> Option<[u8; DIGEST_LEN]> {
        let secret = if day == day_of(now) { self.secrets.of_today(day) } else { self.secrets.of(day) };
        Some(digest_of(sameness, secret?, envelope, content).await)
    }
}

fn day_of(at: Timestamp) -> u64 {
    at.as_secs() / DAY_S
}

fn name_of(queue: &Queue, digest: &[u8; DIGEST_LEN]) -> KeyHash {
    queue.key_hash(KeyOf::Idempotency, &[&[OF_CONTENT], &digest[..]].concat())
}
