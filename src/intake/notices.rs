//! How often one address is notified. Whoever can make codes fail could otherwise have the sender's mailbox flooded by us:
//! so many notifications a minute, and what comes beyond is gathered and told in one mail from time to time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::clock::Timestamp;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// Notifications to one address within [`WINDOW`].
const MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// How long the first of what is gathered waits for others, and the least time between two mails about what was gathered.
const FIRST_AFTER: Duration = WINDOW;
const NEXT_AFTER: Duration = Duration::from_secs(600);
/// Messages that one of those mails lists.
const LISTED_MAX: usize = 100;
/// Addresses remembered; beyond, those that come are notified uncounted.
const ADDRESSES_MAX: usize = 10_000;

/// What one mail tells of many messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) to: Mailbox,
    /// Whose the first of the messages is.
    pub(super) user: Arc<str>,
    /// Some of the messages, in the order in which they ended.
    pub(super) listed: Vec<MessageId>,
    /// How many more there are.
    pub(super) more: u64,
    /// When the first of them ended.
    pub(super) since: Timestamp,
}

/// Whether a notification is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is.
    Now,
    /// Its message is told of in the next digest.
    Gathered,
}

/// What one address was told.
#[derive(Debug, Default)]
struct Account {
    sent: VecDeque<Timestamp>,
    gathered: Option<Digest>,
    /// When the last digest was sent.
    last_digest_at: Option<Timestamp>,
}

impl Account {
    fn forget_old(&mut self, now: Timestamp) {
        while self.sent.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.sent.pop_front();
        }
        self.last_digest_at = self.last_digest_at.filter(|at| now.since(*at) < NEXT_AFTER);
    }

    fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.gathered.is_none() && self.last_digest_at.is_none()
    }

    fn due_at(&self) -> Option<Timestamp> {
        let first = self.gathered.as_ref()?.since.plus(FIRST_AFTER);
        Some(self.last_digest_at.map_or(first, |at| first.max(at.plus(NEXT_AFTER))))
    }
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<Box<str>, Account>,
    swept_at: Timestamp,
}

/// What all addresses were told.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<State>);

impl Notices {
    /// Asks for a notification of a message to its sender. Says when the next digest is due where that may have become
    /// sooner.
    pub(super) fn admit(
        &self,
        to: &Mailbox,
        user: &Arc<str>,
        id: MessageId,
        now: Timestamp,
    ) -> (Admission, Option<Timestamp>) {
        let mut state = self.0.lock();
        let key = to.plain_key();
        if !state.accounts.contains_key(key.as_str()) && !state.has_room(now) {
            return (Admission::Now, None);
        }
        let account = state.accounts.entry(key.into()).or_default();
        account.forget_old(now);
        if account.gathered.is_none() && account.sent.len() < MAX {
            account.sent.push_back(now);
            return (Admission::Now, None);
        }
        let digest = account.gathered.get_or_insert_with(|| Digest {
            to: to.clone(),
            user: user.clone(),
            listed: Vec::new(),
            more: 0,
            since: now,
        });
        if digest.listed.len() < LISTED_MAX {
            digest.listed.push(id);
        } else {
            digest.more += 1;
        }
        (Admission::Gathered, account.due_at())
    }

    /// The digests that are due, and when the next one is.
    pub(super) fn take_due(&self, now: Timestamp) -> (Vec<Digest>, Option<Timestamp>) {
        let mut state = self.0.lock();
        let mut due = Vec::new();
        for account in state.accounts.values_mut().filter(|account| account.due_at().is_some_and(|at| at <= now)) {
            due.extend(account.gathered.take());
            account.last_digest_at = Some(now);
        }
        due.sort_by_key(|digest| digest.since);
        (due, state.accounts.values().filter_map(Account::due_at).min())
    }

    /// All that is gathered, before the relay stops.
    pub(super) fn take_all(&self) -> Vec<Digest> {
        let mut gathered: Vec<Digest> =
            self.0.lock().accounts.values_mut().filter_map(|account| account.gathered.take()).collect();
        gathered.sort_by_key(|digest| digest.since);
        gathered
    }
}

impl State {
    /// Whether another address can be remembered; at most once a second it is looked for some that need not be.
    fn has_room(&mut self, now: Timestamp) -> bool {
        if self.accounts.len() >= ADDRESSES_MAX && now.since(self.swept_at) >= Duration::from_secs(1) {
            self.swept_at = now;
            self.accounts.retain(|_, account| {
                account.forget_old(now);
                !account.is_idle()
            });
        }
        self.accounts.len() < ADDRESSES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::IdSource;

    struct World {
        notices: Notices,
        ids: IdSource,
    }

    impl World {
        fn new() -> Self {
            Self { notices: Notices::default(), ids: IdSource::with_random(|| 5) }
        }

        fn admit(&self, to: &str, at_s: u64) -> (Admission, Option<u64>) {
            let to = Mailbox::parse(to).unwrap();
            let (admission, due) = self.notices.admit(&to, &"shop".into(), self.ids.next(at(at_s)), at(at_s));
            (admission, due.map(|due| due.as_secs() - at(0).as_secs()))
        }

        fn due(&self, at_s: u64) -> Vec<(usize, u64)> {
            let (due, _) = self.notices.take_due(at(at_s));
            due.iter().map(|digest| (digest.listed.len(), digest.more)).collect()
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_795_255_200_000).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_flood_is_told_in_five_mails_and_a_digest_every_ten_minutes() {
        let world = World::new();
        let now = (0..500).filter(|number| world.admit("otp@app.test", number / 63).0 == Admission::Now).count();
        assert_eq!(now, 5);
        assert_eq!(world.due(59), []);
        assert_eq!(world.due(60), [(100, 395)]);
        assert_eq!(world.due(1860), []);
    }

    #[test]
    fn a_flood_that_goes_on_has_a_digest_every_ten_minutes() {
        let world = World::new();
        let (mut mails, mut digests) = (0, Vec::new());
        for second in 0..3600 {
            mails += usize::from(world.admit("otp@app.test", second).0 == Admission::Now);
            digests.extend(world.due(second).into_iter().map(|_| second));
        }
        assert_eq!(digests, [65, 665, 1265, 1865, 2465, 3065]);
        // Up to five between a digest and what is gathered next.
        assert!(mails <= 5 * (digests.len() + 1), "{mails}");
    }

    #[test]
    fn others_are_notified_as_ever_and_so_is_who_was_flooded_once_it_is_over() {
        let world = World::new();
        for _ in 0..100 {
            world.admit("otp@app.test", 0);
        }
        assert_eq!(world.admit("OTP@app.test", 0), (Admission::Gathered, Some(60)));
        assert_eq!(world.admit("otp@bank.test", 0), (Admission::Now, None));
        assert_eq!(world.due(60), [(96, 0)]);
        assert_eq!(world.admit("otp@app.test", 61), (Admission::Now, None));
    }

    #[test]
    fn what_is_gathered_is_not_lost_at_a_stop() {
        let world = World::new();
        for _ in 0..7 {
            world.admit("otp@app.test", 0);
        }
        assert_eq!(world.notices.take_all().iter().map(|digest| digest.listed.len()).collect::<Vec<_>>(), [2]);
        assert_eq!(world.due(1000), []);
    }

    #[test]
    fn there_is_a_bound() {
        let world = World::new();
        for number in 0..ADDRESSES_MAX + 100 {
            assert_eq!(world.admit(&format!("a{number}@app.test"), 0).0, Admission::Now);
        }
        assert_eq!(world.notices.0.lock().accounts.len(), ADDRESSES_MAX);
        world.admit("b@app.test", 61);
        assert_eq!(world.notices.0.lock().accounts.len(), 1);
    }
}
