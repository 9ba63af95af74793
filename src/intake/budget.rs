//! How many messages may go to one mailbox within a time, of one user and of all together: sliding windows, so that
//! nobody's mailbox can be flooded with codes through an app's login form, in whatever spelling of the address. Survives
//! a restart.

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::budget_form::budget_form;
pub use super::budget_table::Limits;
use super::budget_table::{Booking, BudgetPlace, Table, Windows, within};
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::base::rate::Rate;
use crate::ledger::side::{SideChange, SideRow};
use crate::mail::address::Mailbox;
use crate::mail::envelope::Recipient;
use crate::mail::id::{EntryId, MessageId};

/// Mailboxes counted at most; beyond that, the oldest that has room left goes.
const MAILBOXES_MAX: usize = 500_000;
/// So many of a user's messages to a mailbox the budget over all users never refuses.
const OWN_MIN: usize = 2;

/// What was sent to whom lately.
#[derive(Debug)]
pub(super) struct Budgets {
    limits: ArcSwap<Limits>,
    table: Mutex<Table>,
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

impl Budgets {
    /// With these rows.
    pub(super) fn new(limits: Limits, rows: Vec<SideRow>, now: Timestamp) -> Self {
        Self::bounded(limits, rows, MAILBOXES_MAX, now)
    }

    fn bounded(limits: Limits, rows: Vec<SideRow>, mailboxes_max: usize, now: Timestamp) -> Self {
        Self { limits: ArcSwap::from_pointee(limits), table: Mutex::new(Table::new(rows, mailboxes_max, now)) }
    }

    /// Takes up the rows found at start, in the place of what is known.
    pub(super) fn take_up(&self, rows: Vec<SideRow>, now: Timestamp) {
        *self.table.lock() = Table::new(rows, MAILBOXES_MAX, now);
    }

    /// Changes the limits.
    pub(super) fn set_limits(&self, limits: Limits) {
        self.limits.store(limits.into());
    }

    /// Whether a message to this recipient could pass in any lane that the user may use, or as a repeat.
    ///
    /// # Errors
    /// Where none could.
    pub(super) fn check(&self, user: &User, recipient: &Mailbox, now: Timestamp) -> Result<(), Refusal> {
        let Some(windows) = Windows::of(**self.limits.load()) else { return Ok(()) };
        let table = self.table.lock();
        let Some(taken) = table.of(&budget_form(recipient)) else { return Ok(()) };
        let is_repeatable = |one: &Booking| one.place.is_repeatable && *one.user == *user.name;
        if within(taken, windows.longest, now).any(is_repeatable) {
            return Ok(());
        }
        let asking = Applicant { user: &user.name, lane: user.lane.with_most_budget(), before: 0, now };
        room(taken, windows.limits, asking)
    }

    /// Takes a place for each recipient, all or none; the changes are to be stored with the message.
    ///
    /// # Errors
    /// Where a recipient has had too many.
    pub(super) fn take(&self, request: &Request<'_>, recipients: &[Recipient]) -> Result<Vec<SideChange>, Refusal> {
        let Some(windows) = Windows::of(**self.limits.load()) else { return Ok(Vec::new()) };
        let Request { now, lane, user, .. } = *request;
        let mut table = self.table.lock();
        let forms: Vec<String> = recipients.iter().map(|recipient| budget_form(&recipient.mailbox)).collect();
        for (index, wanted) in forms.iter().enumerate() {
            let before = forms[..index].iter().filter(|other| *other == wanted).count();
            room(table.of(wanted).unwrap_or_default(), windows.limits, Applicant { user, lane, before, now })?;
        }
        let mut changes = table.sweep(&windows, now);
        for (wanted, index) in forms.iter().zip(0..) {
            let entry = EntryId { message: request.id, index };
            let place = BudgetPlace { at: now, entry, is_repeatable: request.is_repeatable };
            table.add(wanted, user, place, &windows, &mut changes);
        }
        Ok(changes)
    }

    /// Gives a place back; the change is to be stored.
    pub(super) fn give_back(&self, user: &str, recipient: &Mailbox, entry: EntryId) -> Option<SideChange> {
        self.table.lock().give_back(&budget_form(recipient), user, entry)
    }
}

/// Who wants a place.
#[derive(Clone, Copy)]
struct Applicant<'a> {
    user: &'a str,
    lane: Lane,
    /// Places that the same message takes besides.
    before: usize,
    now: Timestamp,
}

/// Whether one more may go to a mailbox that has had these.
fn room(taken: &[Booking], limits: Limits, asking: Applicant<'_>) -> Result<(), Refusal> {
    let Applicant { user, lane, before, now } = asking;
    let is_own = |one: &&Booking| *one.user == *user;
    if let Some(limit) = limits.own {
        let own: Vec<Timestamp> = within(taken, limit.span, now).filter(is_own).map(|one| one.place.at).collect();
        if let Some(first_to_go) = own.len().checked_sub(most(limit, lane).saturating_sub(before)) {
            let wait = own.get(first_to_go).map_or(limit.span, |at| at.plus(limit.span).since(now));
            return Err(Refusal::Budget { count: limit.count, window: limit.span, wait });
        }
    }
    if let Some(limit) = limits.total {
        let own = within(taken, limit.span, now).filter(is_own).count() + before;
        let all = within(taken, limit.span, now).count() + before;
        if own >= OWN_MIN && all >= most(limit, lane) {
            return Err(Refusal::TotalBudget);
        }
    }
    Ok(())
}

fn most(limit: Rate, lane: Lane) -> usize {
    let most = limit.count.saturating_add(lane.rules().budget_bonus);
    usize::try_from(most).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::side::SideTable;
    use crate::mail::id::IdSource;

    const SPAN: Duration = Duration::from_secs(600);

    struct World {
        budgets: Budgets,
        ids: IdSource,
    }

    impl World {
        fn new() -> Self {
            Self::with(2, None, 1000, Vec::new())
        }

        fn with(own: u32, total: Option<u32>, mailboxes_max: usize, rows: Vec<SideRow>) -> Self {
            let rate = |count| Rate { count, span: SPAN };
            let limits = Limits { own: Some(rate(own)), total: total.map(rate) };
            let now = Timestamp::from_millis(10_000);
            Self { budgets: Budgets::bounded(limits, rows, mailboxes_max, now), ids: IdSource::with_random(|| 7) }
        }

        fn take(&self, lane: Lane, recipients: &[&str], at_s: u64) -> Result<(EntryId, Vec<SideChange>), Refusal> {
            self.take_as("shop", lane, recipients, at_s)
        }

        fn take_as(
            &self,
            user: &str,
            lane: Lane,
            recipients: &[&str],
            at_s: u64,
        ) -> Result<(EntryId, Vec<SideChange>), Refusal> {
            let now = Timestamp::from_millis(at_s * 1000);
            let id = self.ids.next(now);
            let request = Request { user, lane, id, is_repeatable: false, now };
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

    /// What is on disk after these changes.
    fn stored(rows: &mut Vec<SideRow>, changes: Vec<SideChange>) {
        for change in changes {
            let SideChange(SideTable::Budget, key, value) = change else { panic!("{change:?}") };
            rows.retain(|(known, _)| *known != key);
            rows.extend(value.map(|value| (key, value)));
        }
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
        world.take(Lane::Otp, &["J.Doe+a@gmail.com", "\"j..doe\"@googlemail.com"], 0).unwrap();
        assert!(world.take(Lane::Otp, &["jd.oe@gmail.com"], 1).is_err());
        assert!(world.take(Lane::Otp, &["x@b.example", "\"x\"@b.example", "x+2@b.example"], 1).is_err());
        assert!(world.take(Lane::Otp, &["j.doe@b.example", "jdoe@b.example", "jdoe@b.example"], 1).is_ok());
    }

    #[test]
    fn places_are_given_back_and_survive_a_restart() {
        let (world, mut rows) = (World::new(), Vec::new());
        let (first, changes) = world.take(Lane::Otp, &["\"a\"@example.com"], 0).unwrap();
        stored(&mut rows, changes);
        stored(&mut rows, world.take(Lane::Otp, &["a@example.com"], 1).unwrap().1);
        let again = World { ids: IdSource::with_random(|| 8), ..World::with(2, None, 1000, rows.clone()) };
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).is_err());
        let change = again.budgets.give_back("shop", &Mailbox::parse("a@example.com").unwrap(), first);
        stored(&mut rows, change.into_iter().collect());
        assert_eq!(rows.len(), 1);
        stored(&mut rows, again.take(Lane::Otp, &["a@example.com"], 2).unwrap().1);
        assert!(again.take(Lane::Otp, &["a@example.com"], 2).is_err());
        // When all of it is over, nothing is left of it.
        let rest = World::with(2, None, 1000, rows.clone());
        stored(&mut rows, rest.take(Lane::Otp, &["b@example.com"], 2000).unwrap().1);
        assert_eq!(rows.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), [&b"shop\nb@example.com"[..]]);
    }

    #[test]
    fn the_rows_of_version_0_1_still_count() {
        let mut value = vec![1];
        for at_s in [0_u64, 1] {
            value.extend_from_slice(&(at_s * 1000).to_be_bytes());
            value.extend_from_slice(&[9; 16]);
            value.extend_from_slice(&[0, 0, 0]);
        }
        for (written, spelling) in [
            ("a@example.com", "A@example.com"),
            ("\"a\"@example.com", "a@example.com"),
            ("j.doe@yandex.com", "j-doe@ya.ru"),
            ("\"a b@example.com", "\"a b\"@example.com"),
        ] {
            let row: SideRow = (format!("shop\n{written}").into_bytes().into(), value.clone().into());
            let world = World::with(2, None, 1000, vec![row]);
            let is_cut = written.starts_with("\"a b");
            assert_eq!(world.take(Lane::Otp, &[spelling], 2).is_err(), !is_cut, "{written}");
        }
        // Rows that turn out to be one mailbox's come together, under its name.
        let row = |written: &str| -> SideRow { (format!("shop\n{written}").into_bytes().into(), value.clone().into()) };
        let mut rows = vec![row("a@example.com"), row("\"a\"@example.com")];
        let world = World::with(5, None, 1000, rows.clone());
        stored(&mut rows, world.take(Lane::Otp, &["a@example.com"], 2).unwrap().1);
        assert_eq!(rows.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), [&b"shop\na@example.com"[..]]);
        assert!(World::with(5, None, 1000, rows).take(Lane::Otp, &["a@example.com"], 3).is_err());
    }

    #[test]
    fn all_users_share_a_budget_that_leaves_each_its_first_two() {
        let world = World::with(3, Some(4), 1000, Vec::new());
        let take = |user: &str, at| world.take_as(user, Lane::Otp, &["a@example.com"], at).map(|_| ());
        for at in 0..3 {
            assert_eq!(take("shop", at), Ok(()));
        }
        assert_eq!(take("bank", 3), Ok(()));
        // The fourth of all was the first of the bank's; its second passes, its third does not.
        assert_eq!(take("bank", 4), Ok(()));
        assert_eq!(take("bank", 5), Err(Refusal::TotalBudget));
        assert_eq!((take("game", 6), take("game", 7)), (Ok(()), Ok(())));
        assert_eq!(take("game", 8), Err(Refusal::TotalBudget));
        // Its own budget is told with its own count.
        assert!(matches!(take("shop", 9), Err(Refusal::Budget { count: 3, .. })));
        assert_eq!(take("game", 604), Ok(()));
    }

    #[test]
    fn what_a_clock_took_that_was_ahead_counts_no_longer_than_a_window() {
        let (world, mut rows) = (World::new(), Vec::new());
        for at in [0, 1] {
            stored(&mut rows, world.take(Lane::Otp, &["a@example.com"], 30_000_000 + at).unwrap().1);
        }
        let again = World::with(2, None, 1000, rows);
        assert_eq!(wait(again.take(Lane::Otp, &["a@example.com"], 20)), Some(590));
        assert!(again.take(Lane::Otp, &["a@example.com"], 611).is_ok());
    }

    #[test]
    fn the_budget_of_all_survives_a_restart() {
        let (world, mut rows) = (World::with(3, Some(4), 1000, Vec::new()), Vec::new());
        for (user, at) in [("shop", 0), ("shop", 1), ("bank", 2), ("bank", 3)] {
            stored(&mut rows, world.take_as(user, Lane::Otp, &["a@example.com"], at).unwrap().1);
        }
        let again = World::with(3, Some(4), 1000, rows);
        assert_eq!(again.take_as("bank", Lane::Otp, &["a@example.com"], 4).err(), Some(Refusal::TotalBudget));
        assert!(again.take_as("game", Lane::Otp, &["a@example.com"], 4).is_ok());
    }

    /// Who names many recipients cannot make the relay forget whom it protects, nor stop counting.
    #[test]
    fn a_full_table_forgets_the_oldest_that_have_room() {
        let (world, mut rows) = (World::with(2, None, 100, Vec::new()), Vec::new());
        for at in [0, 1] {
            stored(&mut rows, world.take(Lane::Otp, &["victim@example.com"], at).unwrap().1);
        }
        for number in 0..1000 {
            let name = format!("a{number}@example.com");
            stored(&mut rows, world.take(Lane::Otp, &[&name], 2 + number / 10).unwrap().1);
        }
        assert!(world.take(Lane::Otp, &["victim@example.com"], 200).is_err());
        assert_eq!(rows.len(), 100);
        // The latest are counted as ever.
        assert!(world.take(Lane::Otp, &["a999@example.com"], 200).is_ok());
        assert!(world.take(Lane::Otp, &["a999@example.com"], 200).is_err());
        // Where nobody has room left, the oldest goes all the same: the table has its bound.
        for number in 0..200 {
            let name = format!("b{number}@example.com");
            stored(&mut rows, world.take(Lane::Otp, &[&name, &name], 300).unwrap().1);
        }
        assert_eq!(rows.len(), 100);
    }

    #[test]
    fn who_is_counted_no_more_leaves_no_row() {
        let (world, mut rows) = (World::with(2, Some(9), 1000, Vec::new()), Vec::new());
        stored(&mut rows, world.take_as("bank", Lane::Otp, &["a@example.com"], 0).unwrap().1);
        for at in [500, 900, 1300, 1700] {
            stored(&mut rows, world.take(Lane::Otp, &["a@example.com"], at).unwrap().1);
        }
        assert_eq!(rows.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), [&b"shop\na@example.com"[..]]);
    }
}
