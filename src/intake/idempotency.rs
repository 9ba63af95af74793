//! A repeat of a submission gets the answer of the first and is not sent again.
//!
//! What counts as the same content is decided by what a retry leaves as it is: reverse-path, recipients, subject and
//! decoded parts; programs build Date, Message-ID and boundaries anew. It is compared by a digest under a key that is
//! kept outside the database and replaced daily, since a plain hash of a mail made from a template would soon give its
//! six digits away.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use mail_parser::PartType;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::refusal::Refusal;
use crate::clock::Timestamp;
use crate::mail::envelope::Envelope;
use crate::mail::id::MessageId;
use crate::mail::message::{Content, body_parser};
use crate::queue::store::{Change, Row, Table};

/// How long a key is remembered.
pub const MEMORY: Duration = Duration::from_secs(86_400);
/// Keys remembered at most; beyond that the oldest go.
const KEYS_MAX: usize = 500_000;
const VERSION: u8 = 1;
const DIGEST_LEN: usize = 32;
const DAY_S: u64 = 86_400;
/// What was taken later than this from now was taken by a clock that was ahead, and is forgotten.
const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// Longest content that is hashed where it came in.
const SHORT_LEN: usize = 32 << 10;

/// Secrets that are kept for two days and then destroyed.
pub trait DailySecrets: Send + Sync {
    /// The secret of a day since 1970; none if it is gone.
    fn of(&self, day: u64) -> Option<[u8; 32]>;
    /// The secret of the day that it is, made if there is none; none if that failed.
    fn of_today(&self, day: u64) -> Option<[u8; 32]> {
        self.of(day)
    }
}

/// Since 1970, the latest day that it can be: clocks are set by less than an hour every now and then.
pub fn latest_day(now: Timestamp) -> u64 {
    now.plus(AHEAD_MAX).as_secs() / DAY_S
}

/// A message taken under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    id: MessageId,
    at: Timestamp,
    digest: [u8; DIGEST_LEN],
}

#[derive(Debug)]
enum Slot {
    /// Somebody is about to be accepted under it; the channel closes when that is decided.
    Pending(watch::Receiver<()>),
    Taken(Record),
}

#[derive(Debug, Default)]
struct Known {
    slots: HashMap<Box<str>, Slot>,
    /// Keys in the order in which they were taken.
    order: VecDeque<(Timestamp, Box<str>)>,
}

/// The keys of all users.
pub(super) struct Keys {
    known: Mutex<Known>,
    secrets: Arc<dyn DailySecrets>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// What a key came to.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    /// It is new.
    First(Reservation<'a>),
    /// The same was accepted before, as this message.
    Repeat(MessageId),
}

/// A key that waits for its message to be accepted. Dropped before, it is free again.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    keys: &'a Keys,
    key: Box<str>,
    digest: [u8; DIGEST_LEN],
    now: Timestamp,
    is_taken: bool,
    /// Its end wakes those who wait.
    _waking: watch::Sender<()>,
}

impl Keys {
    /// Takes up the rows found at start, but for those that cannot have been taken yet.
    pub(super) fn new(rows: Vec<Row>, secrets: Arc<dyn DailySecrets>, now: Timestamp) -> Self {
        let mut records: Vec<(Box<str>, Record)> = rows
            .into_iter()
            .filter_map(|(key, value)| Some((String::from_utf8(key.into()).ok()?.into(), decode(&value)?)))
            .filter(|(_, record): &(_, Record)| record.at <= now.plus(AHEAD_MAX))
            .collect();
        records.sort_by_key(|(_, record)| record.at);
        let order = records.iter().map(|(key, record)| (record.at, key.clone())).collect();
        let slots = records.into_iter().map(|(key, record)| (key, Slot::Taken(record))).collect();
        Self { known: Mutex::new(Known { slots, order }), secrets }
    }

    /// Asks for a key; where another submission under it is being accepted right now, waits for what becomes of it.
    ///
    /// # Errors
    /// Where other content was accepted under it.
    pub(super) async fn ask(
        &self,
        user: &str,
        key: &str,
        (envelope, content): (&Envelope, &Content),
        now: Timestamp,
    ) -> Result<Asked<'_>, Refusal> {
        let key: Box<str> = format!("{user}\n{key}").into();
        let mut hashed = None;
        loop {
            match self.look(&key, hashed.take(), now)? {
                Look::Settled(asked) => return Ok(asked),
                // Nothing is ever sent: it ends with the reservation.
                Look::Wait(mut pending) => _ = pending.changed().await,
                Look::Hash(day) => {
                    let is_today = day == now.as_secs() / DAY_S;
                    let secret = if is_today { self.secrets.of_today(day) } else { self.secrets.of(day) };
                    let digest = match secret {
                        Some(secret) => Some(digest_of(secret, envelope, content).await),
                        None => None,
                    };
                    hashed = Some(Hashed { day, digest });
                }
            }
        }
    }

    /// What there is to a key now; `hashed` was asked for by an earlier look.
    fn look(&self, key: &str, hashed: Option<Hashed>, now: Timestamp) -> Result<Look<'_>, Refusal> {
        let mut known = self.known.lock();
        let record = match known.slots.get(key) {
            Some(Slot::Pending(pending)) => return Ok(Look::Wait(pending.clone())),
            Some(Slot::Taken(record)) if is_current(record.at, now) => Some(record),
            Some(Slot::Taken(_)) | None => None,
        };
        let day = record.map_or(now, |record| record.at).as_secs() / DAY_S;
        let Some(Hashed { digest, .. }) = hashed.filter(|hashed| hashed.day == day) else { return Ok(Look::Hash(day)) };
        if let Some(record) = record {
            let is_same = digest.is_none_or(|digest| digest == record.digest);
            return if is_same {
                Ok(Look::Settled(Asked::Repeat(record.id)))
            } else {
                Err(Refusal::IdempotencyConflict)
            };
        }
        let digest = digest.ok_or(Refusal::Internal)?;
        let (waking, pending) = watch::channel(());
        known.slots.insert(key.into(), Slot::Pending(pending));
        let (key, is_taken) = (key.into(), false);
        Ok(Look::Settled(Asked::First(Reservation { keys: self, key, digest, now, is_taken, _waking: waking })))
    }
}

/// What follows from a look at a key.
enum Look<'a> {
    Settled(Asked<'a>),
    /// For what becomes of another submission.
    Wait(watch::Receiver<()>),
    /// The content, under the secret of this day, without the lock.
    Hash(u64),
}

/// The content under the secret of a day, if there is one.
struct Hashed {
    day: u64,
    digest: Option<[u8; DIGEST_LEN]>,
}

/// Whether something taken at a time is still remembered; what a clock took that was ahead is not.
fn is_current(at: Timestamp, now: Timestamp) -> bool {
    now.since(at) < MEMORY && at <= now.plus(AHEAD_MAX)
}

impl Reservation<'_> {
    /// What is to be stored together with the message, and what goes meanwhile.
    pub(super) fn changes(&self, id: MessageId) -> Vec<Change> {
        let record = Record { id, at: self.now, digest: self.digest };
        let mut changes = vec![Change::Side(Table::Idempotency, self.key.as_bytes().into(), Some(encode(&record)))];
        let mut known = self.keys.known.lock();
        let is_full = |known: &Known| known.order.len() > KEYS_MAX;
        while known.order.front().is_some_and(|(at, _)| !is_current(*at, self.now) || is_full(&known)) {
            let Some((at, key)) = known.order.pop_front() else { break };
            if matches!(known.slots.get(&key), Some(Slot::Taken(record)) if record.at == at) {
                known.slots.remove(&key);
                changes.push(Change::Side(Table::Idempotency, key.as_bytes().into(), None));
            }
        }
        changes
    }

    /// The message is accepted.
    pub(super) fn taken(mut self, id: MessageId) {
        self.is_taken = true;
        let record = Record { id, at: self.now, digest: self.digest };
        let mut known = self.keys.known.lock();
        known.order.push_back((record.at, self.key.clone()));
        known.slots.insert(self.key.clone(), Slot::Taken(record));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.keys.known.lock().slots.remove(&self.key);
        }
    }
}

/// Long content is taken apart and hashed where no mail waits for the thread.
async fn digest_of(secret: [u8; 32], envelope: &Envelope, content: &Content) -> [u8; DIGEST_LEN] {
    if content.len() <= SHORT_LEN {
        return digest(&secret, envelope, content);
    }
    let (of_envelope, of_content) = (envelope.clone(), content.clone());
    match tokio::task::spawn_blocking(move || digest(&secret, &of_envelope, &of_content)).await {
        Ok(digest) => digest,
        Err(_) => digest(&secret, envelope, content),
    }
}

fn digest(secret: &[u8], envelope: &Envelope, content: &Content) -> [u8; DIGEST_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    let mut add = |octets: &[u8]| {
        context.update(&(octets.len() as u64).to_be_bytes());
        context.update(octets);
    };
    add(envelope.reverse_path.as_str().as_bytes());
    let mut recipients: Vec<String> = envelope.recipients.iter().map(|r| r.mailbox.plain_key()).collect();
    recipients.sort_unstable();
    add(&(recipients.len() as u64).to_be_bytes());
    recipients.iter().for_each(|recipient| add(recipient.as_bytes()));
    let whole = [content.head.as_ref(), content.body.as_ref()].concat();
    match body_parser().parse(&whole) {
        Some(message) => {
            add(content.subject().unwrap_or_default().as_bytes());
            for part in &message.parts {
                match &part.body {
                    PartType::Text(text) | PartType::Html(text) => add(text.as_bytes()),
                    PartType::Binary(octets) | PartType::InlineBinary(octets) => add(octets),
                    PartType::Message(inner) => add(inner.raw_message()),
                    // Its parts come by themselves.
                    PartType::Multipart(_) => {}
                }
            }
        }
        None => add(&whole),
    }
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(context.sign().as_ref());
    digest
}

fn encode(record: &Record) -> Box<[u8]> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&record.id.to_bytes());
    value.extend_from_slice(&record.at.as_millis().to_be_bytes());
    value.extend_from_slice(&record.digest);
    value.into()
}

fn decode(value: &[u8]) -> Option<Record> {
    let (&version, rest) = value.split_first()?;
    if version != VERSION || rest.len() != 16 + 8 + DIGEST_LEN {
        return None;
    }
    Some(Record {
        id: MessageId::from_bytes(rest[..16].try_into().ok()?),
        at: Timestamp::from_millis(u64::from_be_bytes(rest[16..24].try_into().ok()?)),
        digest: rest[24..].try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{MailParameters, Recipient};
    use crate::mail::id::IdSource;

    struct Secrets;

    impl DailySecrets for Secrets {
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
    ) -> Result<Asked<'a>, Refusal> {
        keys.ask("shop", "7f3a", (envelope, content), Timestamp::from_millis(at_s * 1000)).await
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
        let Ok(Asked::First(reservation)) = ask(&keys, &mail("x1", "123456"), 0).await else { panic!() };
        let rows = reservation.changes(id);
        reservation.taken(id);
        assert!(matches!(ask(&keys, &mail("y2", "123456"), 86_399).await, Ok(Asked::Repeat(first)) if first == id));
        assert!(matches!(ask(&keys, &mail("y2", "654321"), 1).await, Err(Refusal::IdempotencyConflict)));
        // After a restart too.
        let [Change::Side(Table::Idempotency, key, Some(value))] = rows.as_slice() else { panic!() };
        let again = Keys::new(vec![(key.clone(), value.clone())], Arc::new(Secrets), Timestamp::default());
        assert!(matches!(ask(&again, &mail("y2", "123456"), 5).await, Ok(Asked::Repeat(first)) if first == id));
        let Ok(Asked::First(reservation)) = ask(&again, &mail("y2", "123456"), 86_400).await else { panic!() };
        // What is stored anew is not removed.
        assert_eq!(reservation.changes(id).len(), 1);
    }

    #[tokio::test]
    async fn what_a_clock_took_that_was_ahead_is_not_remembered_for_days() {
        let (keys, id, week) = (keys(), some_id(), 7 * 86_400);
        let Ok(Asked::First(reservation)) = ask(&keys, &mail("x1", "123456"), week).await else { panic!() };
        let rows = reservation.changes(id);
        reservation.taken(id);
        let set_back_a_little = ask(&keys, &mail("x1", "123456"), week - 3600).await;
        assert!(matches!(set_back_a_little, Ok(Asked::Repeat(_))));
        assert!(matches!(ask(&keys, &mail("x1", "123456"), 0).await, Ok(Asked::First(_))), "while the relay runs");
        let [Change::Side(Table::Idempotency, key, Some(value))] = rows.as_slice() else { panic!() };
        let again = Keys::new(vec![(key.clone(), value.clone())], Arc::new(Secrets), Timestamp::default());
        assert!(matches!(ask(&again, &mail("x1", "123456"), 0).await, Ok(Asked::First(_))), "over a restart");
    }

    #[tokio::test]
    async fn long_content_is_known_again_too() {
        let (keys, id) = (keys(), some_id());
        let long = |last: &str| mail("x", &format!("{}{last}", "0123456789 ".repeat(10_000)));
        let Ok(Asked::First(reservation)) = ask(&keys, &long("1"), 0).await else { panic!() };
        reservation.taken(id);
        assert!(matches!(ask(&keys, &long("1"), 1).await, Ok(Asked::Repeat(_))));
        assert!(matches!(ask(&keys, &long("2"), 1).await, Err(Refusal::IdempotencyConflict)));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first() {
        let (keys, id) = (keys(), some_id());
        let content = mail("x", "123456");
        let Ok(Asked::First(first)) = ask(&keys, &content, 0).await else { panic!() };
        let (second, ()) = tokio::join!(ask(&keys, &content, 0), async { first.taken(id) });
        assert!(matches!(second, Ok(Asked::Repeat(repeated)) if repeated == id));
    }

    #[tokio::test]
    async fn a_first_that_fails_leaves_the_key_free() {
        let keys = keys();
        let content = mail("x", "123456");
        let Ok(Asked::First(first)) = ask(&keys, &content, 0).await else { panic!() };
        let (second, ()) = tokio::join!(ask(&keys, &content, 0), async { drop(first) });
        assert!(matches!(second, Ok(Asked::First(_))));
    }
}
