//! How many messages a user may send to one recipient within a time: a sliding window, so that nobody's mailbox can be
//! flooded with codes through an app's login form. Survives a restart.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::rate::Rate;
use super::refusal::Refusal;
use super::user::User;
use crate::clock::Timestamp;
use crate::lane::Lane;
use crate::mail::address::Mailbox;
use crate::mail::envelope::Recipient;
use crate::mail::id::{EntryId, MessageId};
use crate::queue::store::{Change, Row, Table};

/// Recipients counted at most; beyond that, those that come are let through uncounted.
const RECIPIENTS_MAX: usize = 500_000;
/// Domains where dots in the local part do not count, and the one they all are.
const DOTLESS: [(&str, &str); 2] = [("gmail.com", "gmail.com"), ("googlemail.com", "gmail.com")];
/// Version of the rows.
const VERSION: u8 = 1;
const PLACE_LEN: usize = 8 + 16 + 2 + 1;

/// A place taken in a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    at: Timestamp,
    entry: EntryId,
    /// It may be asked for again under the same idempotency key, which does not count.
    is_repeatable: bool,
}

#[derive(Debug, Default)]
struct Taken {
    places: HashMap<Box<str>, Vec<Place>>,
    swept_at: Timestamp,
}

/// What was sent to whom lately.
#[derive(Debug)]
pub(super) struct Budgets {
    limit: ArcSwapOption<Rate>,
    taken: Mutex<Taken>,
}

impl Budgets {
    /// Takes up the rows found at start.
    pub(super) fn new(limit: Option<Rate>, rows: Vec<Row>) -> Self {
        let places = rows.into_iter().filter_map(|(key, value)| {
            let key = String::from_utf8(key.into()).ok()?;
            Some((key.into_boxed_str(), decode(&value)?))
        });
        let taken = Taken { places: places.collect(), swept_at: Timestamp::default() };
        Self { limit: ArcSwapOption::from_pointee(limit), taken: Mutex::new(taken) }
    }

    /// Changes the limit.
    pub(super) fn set_limit(&self, limit: Option<Rate>) {
        self.limit.store(limit.map(Arc::new));
    }

    /// Whether a message to this recipient could pass in any lane that the user may use, or as a repeat.
    ///
    /// # Errors
    /// Where none could.
    pub(super) fn check(&self, user: &User, recipient: &Mailbox, now: Timestamp) -> Result<(), Refusal> {
        let Some(limit) = self.limit.load_full() else { return Ok(()) };
        let most = most(*limit, user.lane.max(Lane::Reset));
        let taken = self.taken.lock();
        let Some(places) = taken.places.get(key(&user.name, recipient).as_str()) else { return Ok(()) };
        let places: Vec<Place> = current(places, *limit, now).collect();
        if places.iter().any(|place| place.is_repeatable) { Ok(()) } else { room(&places, *limit, most, now) }
    }

    /// Takes a place for each recipient, all or none; the changes are to be stored with the message.
    ///
    /// # Errors
    /// Where a recipient has had too many.
    pub(super) fn take(&self, request: &Request<'_>, recipients: &[Recipient]) -> Result<Vec<Change>, Refusal> {
        let Some(limit) = self.limit.load_full() else { return Ok(Vec::new()) };
        let Request { now, lane, user, .. } = *request;
        let mut taken = self.taken.lock();
        let mut changes = taken.sweep(*limit, now);
        let keys: Vec<Box<str>> =
            recipients.iter().map(|recipient| key(user, &recipient.mailbox).into_boxed_str()).collect();
        for (index, wanted) in keys.iter().enumerate() {
            let before = keys[..index].iter().filter(|other| *other == wanted).count();
            let places: Vec<Place> = taken.places.get(wanted).map_or(Vec::new(), |p| current(p, *limit, now).collect());
            let most = most(*limit, lane).saturating_sub(before);
            room(&places, *limit, most, now)?;
        }
        for (wanted, index) in keys.into_iter().zip(0..) {
            if taken.places.len() >= RECIPIENTS_MAX && !taken.places.contains_key(&wanted) {
                continue;
            }
            let entry = EntryId { message: request.id, index };
            let places = taken.places.entry(wanted.clone()).or_default();
            places.retain(|place| now.since(place.at) < limit.span);
            places.push(Place { at: now, entry, is_repeatable: request.is_repeatable });
            changes.push(row(&wanted, places));
        }
        Ok(changes)
    }

    /// Gives a place back; the change is to be stored.
    pub(super) fn give_back(&self, user: &str, recipient: &Mailbox, entry: EntryId) -> Option<Change> {
        let key = key(user, recipient);
        let mut taken = self.taken.lock();
        let places = taken.places.get_mut(key.as_str())?;
        let before = places.len();
        places.retain(|place| place.entry != entry);
        let change = (places.len() < before).then(|| row(&key, places));
        if places.is_empty() {
            taken.places.remove(key.as_str());
        }
        change
    }
}

/// What places are taken for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) user: &'a str,
    pub(super) lane: Lane,
    pub(super) id: MessageId,
    pub(super) is_repeatable: bool,
    pub(super) now: Timestamp,
}

impl Taken {
    /// Once a window, forgets what lies before it.
    fn sweep(&mut self, limit: Rate, now: Timestamp) -> Vec<Change> {
        if now.since(self.swept_at) < limit.span {
            return Vec::new();
        }
        self.swept_at = now;
        let mut changes = Vec::new();
        self.places.retain(|key, places| {
            places.retain(|place| now.since(place.at) < limit.span);
            if places.is_empty() {
                changes.push(row(key, places));
            }
            !places.is_empty()
        });
        changes
    }
}

/// One more for `reset`: who has asked for codes until nothing went any more resets the password.
fn most(limit: Rate, lane: Lane) -> usize {
    let most = usize::try_from(limit.count).unwrap_or(usize::MAX);
    if lane == Lane::Reset { most.saturating_add(1) } else { most }
}

fn current(places: &[Place], limit: Rate, now: Timestamp) -> impl Iterator<Item = Place> + '_ {
    places.iter().copied().filter(move |place| now.since(place.at) < limit.span)
}

fn room(places: &[Place], limit: Rate, most: usize, now: Timestamp) -> Result<(), Refusal> {
    let Some(first_to_go) = places.len().checked_sub(most) else { return Ok(()) };
    let wait = places.get(first_to_go).map_or(limit.span, |place| place.at.plus(limit.span).since(now));
    Err(Refusal::Budget { count: limit.count, window: limit.span, wait })
}

/// The user and the mailbox that an address belongs to: no case, no plus-tag, no dots where they do not count.
fn key(user: &str, recipient: &Mailbox) -> String {
    let local = recipient.local_part().to_lowercase();
    let mut local = local.split_once('+').map_or(local.as_str(), |(box_name, _)| box_name).to_owned();
    let mut domain = recipient.domain_key();
    if let Some((_, name)) = DOTLESS.iter().find(|(dotless, _)| *dotless == domain) {
        local.retain(|c| c != '.');
        (*name).clone_into(&mut domain);
    }
    format!("{user}\n{local}@{domain}")
}

fn row(key: &str, places: &[Place]) -> Change {
    let value = (!places.is_empty()).then(|| encode(places));
    Change::Side(Table::Budget, key.as_bytes().into(), value)
}

fn encode(places: &[Place]) -> Box<[u8]> {
    let mut value = vec![VERSION];
    for place in places {
        value.extend_from_slice(&place.at.as_millis().to_be_bytes());
        value.extend_from_slice(&place.entry.message.to_bytes());
        value.extend_from_slice(&place.entry.index.to_be_bytes());
        value.push(u8::from(place.is_repeatable));
    }
    value.into()
}

fn decode(value: &[u8]) -> Option<Vec<Place>> {
    let (&version, places) = value.split_first()?;
    if version != VERSION || !places.len().is_multiple_of(PLACE_LEN) {
        return None;
    }
    let place = |raw: &[u8]| {
        let at = Timestamp::from_millis(u64::from_be_bytes(raw[..8].try_into().ok()?));
        let message = MessageId::from_bytes(raw[8..24].try_into().ok()?);
        let index = u16::from_be_bytes(raw[24..26].try_into().ok()?);
        Some(Place { at, entry: EntryId { message, index }, is_repeatable: raw[26] != 0 })
    };
    places.chunks(PLACE_LEN).map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mail::id::IdSource;

    const LIMIT: Rate = Rate { count: 2, span: Duration::from_secs(600) };

    struct World {
        budgets: Budgets,
        ids: IdSource,
    }

    impl World {
        fn new() -> Self {
            Self { budgets: Budgets::new(Some(LIMIT), Vec::new()), ids: IdSource::with_random(|| 7) }
        }

        fn take(&self, lane: Lane, recipients: &[&str], at_s: u64) -> Result<(EntryId, Vec<Change>), Refusal> {
            let now = Timestamp::from_millis(at_s * 1000);
            let id = self.ids.next(now);
            let request = Request { user: "shop", lane, id, is_repeatable: false, now };
            let recipients: Vec<Recipient> =
                recipients.iter().map(|text| Recipient::new(Mailbox::parse(text).unwrap())).collect();
            let changes = self.budgets.take(&request, &recipients)?;
            Ok((EntryId { message: id, index: 0 }, changes))
        }

        fn check(&self, recipient: &str, at_s: u64) -> Result<(), Refusal> {
            let user = User::unlimited("shop");
            self.budgets.check(&user, &Mailbox::parse(recipient).unwrap(), Timestamp::from_millis(at_s * 1000))
        }
    }

    fn wait(result: Result<impl Sized, Refusal>) -> Option<u64> {
        result.err().and_then(|refusal| refusal.retry_after()).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_window_slides() {
        let world = World::new();
        for (at, expected) in [(0, None), (100, None), (200, Some(400)), (599, Some(1)), (600, None), (601, Some(99))] {
            assert_eq!(wait(world.take(Lane::Otp, &["a@example.com"], at)), expected, "at {at} s");
        }
        assert_eq!(wait(world.take(Lane::Otp, &["b@example.com"], 601)), None);
    }

    #[test]
    fn a_reset_has_one_place_more_and_rcpt_refuses_only_what_could_not_pass() {
        let world = World::new();
        world.take(Lane::Otp, &["a@example.com"], 0).unwrap();
        world.take(Lane::Otp, &["a@example.com"], 1).unwrap();
        assert_eq!(world.check("a@example.com", 2), Ok(()));
        assert_eq!(wait(world.take(Lane::Notice, &["a@example.com"], 2)), Some(598));
        assert_eq!(wait(world.take(Lane::Reset, &["a@example.com"], 2)), None);
        assert_eq!(wait(world.take(Lane::Reset, &["a@example.com"], 3)), Some(597));
        assert_eq!(wait(world.check("A+x@EXAMPLE.com", 3)), Some(597));
    }

    #[test]
    fn spellings_of_one_mailbox_share_its_budget() {
        let world = World::new();
        world.take(Lane::Otp, &["J.Doe+a@gmail.com", "jdoe@googlemail.com"], 0).unwrap();
        assert!(world.take(Lane::Otp, &["jd.oe@gmail.com"], 1).is_err());
        assert!(world.take(Lane::Otp, &["x@b.example", "x+1@b.example", "x+2@b.example"], 1).is_err());
        assert!(world.take(Lane::Otp, &["j.doe@b.example", "jdoe@b.example", "jdoe@b.example"], 1).is_ok());
    }

    #[test]
    fn places_are_given_back_and_survive_a_restart() {
        let world = World::new();
        let (first, _) = world.take(Lane::Otp, &["a@example.com"], 0).unwrap();
        let (_, changes) = world.take(Lane::Otp, &["a@example.com"], 1).unwrap();
        let Some(Change::Side(Table::Budget, key, Some(value))) = changes.into_iter().next_back() else { panic!() };
        let again = World { budgets: Budgets::new(Some(LIMIT), vec![(key, value)]), ids: IdSource::with_random(|| 8) };
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).is_err());
        assert!(again.budgets.give_back("shop", &Mailbox::parse("a@example.com").unwrap(), first).is_some());
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).is_ok());
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).is_err());
    }
}
