//! The places taken in budgets, by mailbox: what is in memory, its bound, and its rows on disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::budget_form::{budget_form, form_of};
use crate::base::clock::Timestamp;
use crate::base::rate::Rate;
use crate::ledger::side::{SideChange, SideRow, SideTable};
use crate::mail::address::Mailbox;
use crate::mail::id::{EntryId, MessageId};

/// Version of the rows: one a user and mailbox.
const VERSION: u8 = 2;
/// Version 0.1 wrote the recipient in another form: lower case with quotes, and only Gmail's dots and tags off.
const VERSION_OF_OTHER_FORM: u8 = 1;
const PLACE_LEN: usize = 8 + 16 + 2 + 1;

/// A place taken in a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BudgetPlace {
    pub(super) at: Timestamp,
    pub(super) entry: EntryId,
    /// It may be asked for again under the same idempotency key, which does not count.
    pub(super) is_repeatable: bool,
}

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Booking {
    pub(super) user: Arc<str>,
    pub(super) place: BudgetPlace,
}

/// What may go to one mailbox; none: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of one user.
    pub own: Option<Rate>,
    /// Of all users together.
    pub total: Option<Rate>,
}

/// How far back places count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub(super) limits: Limits,
    pub(super) longest: Duration,
}

/// The places that are not older than this.
pub(super) fn within(taken: &[Booking], span: Duration, now: Timestamp) -> impl Iterator<Item = &Booking> {
    taken.iter().filter(move |one| now.since(one.place.at) < span)
}

impl Windows {
    /// None where nothing is limited.
    pub(super) fn of(limits: Limits) -> Option<Self> {
        let longest = limits.own.into_iter().chain(limits.total).map(|rate| rate.span).max()?;
        Some(Self { limits, longest })
    }

    /// Whether a mailbox has had all that a user may send to it, or all users together.
    fn are_used_up(&self, taken: &[Booking], user: &str, now: Timestamp) -> bool {
        let is_full = |limit: Option<Rate>, of: &dyn Fn(&&Booking) -> bool| {
            let Some(limit) = limit else { return false };
            let count = within(taken, limit.span, now).filter(of).count();
            count >= usize::try_from(limit.count).unwrap_or(usize::MAX)
        };
        is_full(self.limits.own, &|one| *one.user == *user) || is_full(self.limits.total, &|_| true)
    }
}

/// Whether a mailbox still has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Force {
    /// Nobody is refused on its account: it may be forgotten.
    Idle,
    /// Somebody is.
    InForce,
}

/// What went to one mailbox, the oldest first.
#[derive(Debug, Default)]
struct Account {
    taken: Vec<Booking>,
    /// Its place in the order in which mailboxes are forgotten.
    rank: Option<(Force, Timestamp)>,
}

#[derive(Debug)]
pub(super) struct Table {
    accounts: HashMap<Arc<str>, Account>,
    /// The first is forgotten first.
    order: BTreeSet<(Force, Timestamp, Arc<str>)>,
    mailboxes_max: usize,
    swept_at: Timestamp,
    /// What is to be stored of rows that were read in another form, with the next change.
    leftovers: Vec<SideChange>,
}

impl Table {
    /// Takes up the rows found at start. What a clock took that was ahead counts as taken now.
    pub(super) fn new(rows: Vec<SideRow>, mailboxes_max: usize, now: Timestamp) -> Self {
        let mut table = Self {
            accounts: HashMap::new(),
            order: BTreeSet::new(),
            mailboxes_max,
            swept_at: Timestamp::default(),
            leftovers: Vec::new(),
        };
        let mut renamed = Vec::new();
        for (key, value) in rows {
            let Some((user, form, places)) = decode(&key, &value) else { continue };
            let name = row_key(&user, &form);
            if *name.as_bytes() != *key {
                table.leftovers.push(SideChange(SideTable::Budget, key, None));
                renamed.push((user.clone(), form.clone()));
            }
            let account = table.accounts.entry(form.into()).or_default();
            let places = places.into_iter().map(|place| BudgetPlace { at: place.at.min(now), ..place });
            account.taken.extend(places.map(|place| Booking { user: user.clone(), place }));
        }
        let mut forms: Vec<Arc<str>> = table.accounts.keys().cloned().collect();
        forms.sort_unstable();
        for form in forms {
            if let Some(account) = table.accounts.get_mut(&form) {
                account.taken.sort_by_key(|one| one.place.at);
            }
            table.file(&form, Force::Idle);
        }
        for (user, form) in renamed {
            let row = table.row(&user, &form);
            table.leftovers.push(row);
        }
        table
    }

    /// What went to a mailbox, the oldest first.
    pub(super) fn of(&self, form: &str) -> Option<&[Booking]> {
        self.accounts.get(form).map(|account| &*account.taken)
    }

    /// Takes a place; where the table is full, the mailbox that can best be spared is forgotten.
    pub(super) fn add(
        &mut self,
        form: &str,
        user: &str,
        place: BudgetPlace,
        windows: &Windows,
        changes: &mut Vec<SideChange>,
    ) {
        while !self.accounts.contains_key(form) && self.accounts.len() >= self.mailboxes_max {
            let Some((_, _, forgotten)) = self.order.pop_first() else { break };
            let account = self.accounts.remove(&forgotten).unwrap_or_default();
            changes.extend(removals(&account.taken, &forgotten));
        }
        let account = self.accounts.entry(form.into()).or_default();
        let old = account.taken.extract_if(.., |one| place.at.since(one.place.at) >= windows.longest);
        let mut old: Vec<Booking> = old.collect();
        // Whoever has newer places keeps a row, which is written anew with the next of them.
        old.retain(|one| account.taken.iter().all(|other| other.user != one.user));
        changes.extend(removals(&old, form));
        account.taken.push(Booking { user: user.into(), place });
        let is_used_up = windows.are_used_up(&account.taken, user, place.at);
        self.file(form, if is_used_up { Force::InForce } else { Force::Idle });
        changes.push(self.row(user, form));
    }

    /// Gives a place back.
    pub(super) fn give_back(&mut self, form: &str, user: &str, entry: EntryId) -> Option<SideChange> {
        let account = self.accounts.get_mut(form)?;
        let before = account.taken.len();
        account.taken.retain(|one| one.place.entry != entry || *one.user != *user);
        if account.taken.len() == before {
            return None;
        }
        self.file(form, Force::Idle);
        Some(self.row(user, form))
    }

    /// Once a window, forgets what lies before it.
    pub(super) fn sweep(&mut self, windows: &Windows, now: Timestamp) -> Vec<SideChange> {
        let mut changes = std::mem::take(&mut self.leftovers);
        if now.since(self.swept_at) < windows.longest {
            return changes;
        }
        self.swept_at = now;
        let is_over = |account: &Account| within(&account.taken, windows.longest, now).next().is_none();
        let over: Vec<Arc<str>> =
            self.accounts.iter().filter(|(_, account)| is_over(account)).map(|(form, _)| form.clone()).collect();
        for form in over {
            let Some(account) = self.accounts.remove(&form) else { continue };
            if let Some((force, at)) = account.rank {
                self.order.remove(&(force, at, form.clone()));
            }
            changes.extend(removals(&account.taken, &form));
        }
        changes
    }

    /// Puts a mailbox in its place among those that are forgotten; one without places is so at once.
    fn file(&mut self, form: &str, force: Force) {
        let Some((name, account)) = self.accounts.get_key_value(form) else { return };
        let (name, newest) = (name.clone(), account.taken.last().map(|one| one.place.at));
        if let Some((force, at)) = account.rank {
            self.order.remove(&(force, at, name.clone()));
        }
        let Some(at) = newest else {
            self.accounts.remove(form);
            return;
        };
        self.order.insert((force, at, name));
        if let Some(account) = self.accounts.get_mut(form) {
            account.rank = Some((force, at));
        }
    }

    /// A user's places in a mailbox, as they are stored.
    fn row(&self, user: &str, form: &str) -> SideChange {
        let own = self.of(form).unwrap_or_default().iter().filter(|one| *one.user == *user);
        let places: Vec<BudgetPlace> = own.map(|one| one.place).collect();
        let value = (!places.is_empty()).then(|| encode(&places));
        SideChange(SideTable::Budget, row_key(user, form).into_bytes().into(), value)
    }
}

fn removals(taken: &[Booking], form: &str) -> Vec<SideChange> {
    let users: BTreeSet<&str> = taken.iter().map(|one| &*one.user).collect();
    let removal = |user: &str| SideChange(SideTable::Budget, row_key(user, form).into_bytes().into(), None);
    users.into_iter().map(removal).collect()
}

/// A user's name has no line end.
fn row_key(user: &str, form: &str) -> String {
    format!("{user}\n{form}")
}

fn encode(places: &[BudgetPlace]) -> Box<[u8]> {
    let mut value = vec![VERSION];
    for place in places {
        value.extend_from_slice(&place.at.as_millis().to_be_bytes());
        value.extend_from_slice(&place.entry.message.to_bytes());
        value.extend_from_slice(&place.entry.index.to_be_bytes());
        value.push(u8::from(place.is_repeatable));
    }
    value.into()
}

/// Whether a stored row can be read.
pub(super) fn reads(row: &SideRow) -> bool {
    decode(&row.0, &row.1).is_some()
}

/// User, budget form and places of a row.
fn decode(key: &[u8], value: &[u8]) -> Option<(Arc<str>, String, Vec<BudgetPlace>)> {
    let (user, recipient) = std::str::from_utf8(key).ok()?.split_once('\n')?;
    let (&version, places) = value.split_first()?;
    let form = match version {
        VERSION => recipient.to_owned(),
        VERSION_OF_OTHER_FORM => from_other_form(recipient),
        _ => return None,
    };
    if !places.len().is_multiple_of(PLACE_LEN) {
        return None;
    }
    let place = |raw: &[u8]| {
        let at = Timestamp::from_millis(u64::from_be_bytes(raw[..8].try_into().ok()?));
        let message = MessageId::from_bytes(raw[8..24].try_into().ok()?);
        let index = u16::from_be_bytes(raw[24..26].try_into().ok()?);
        Some(BudgetPlace { at, entry: EntryId { message, index }, is_repeatable: raw[26] != 0 })
    };
    let places: Option<Vec<BudgetPlace>> = places.chunks(PLACE_LEN).map(place).collect();
    Some((user.into(), form, places?))
}

/// The budget form of what version 0.1 wrote. It cut tags inside of quotes, too; such a rest stays as it is.
fn from_other_form(recipient: &str) -> String {
    if let Ok(mailbox) = Mailbox::parse(recipient) {
        return budget_form(&mailbox);
    }
    recipient.rsplit_once('@').map_or_else(|| recipient.to_owned(), |(local, domain)| form_of(local, domain))
}
