//! Rows that former versions kept above the ledger, by users' names and addresses: taken up at the opening, as rows of the
//! ledger's own, and removed.
//!
//! Budgets: a row a user and mailbox, named `user\nrecipient`, of places. Idempotency: a row a key of an app, named
//! `user\nkey`, with a digest; or of a content, named by its digest behind a line end.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::ledger::IDEMPOTENCY_MEMORY;
use crate::ledger::accept::{Digest, KeyOf, KeySecret};
use crate::ledger::embedded::store::{Change, Table};
use crate::ledger::side::SideRow;
use crate::ledger::tables::budgets::Place;
use crate::ledger::tables::keys::KeyRow;
use crate::ledger::tables::state::{State, Touched};
use crate::mail::address::Mailbox;
use crate::mail::budget_form::{budget_form, form_of};
use crate::mail::id::{EntryId, MessageId};

/// Version of the rows of budgets.
const BUDGET: u8 = 2;
/// Version 0.1 wrote the recipient in another form: lower case with quotes, and only Gmail's dots and tags off.
const BUDGET_OF_OTHER_FORM: u8 = 1;
const PLACE_LEN: usize = 8 + 16 + 2 + 1;
/// Version of the rows that hold a digest, whose name is a user's key.
const KEY_WITH_DIGEST: u8 = 1;
/// Version of the rows whose name is a digest, with the end of their window.
const KEY_WITH_END: u8 = 2;
const DAY_S: u64 = 86_400;
/// How long places are kept of which no row says how long they count, unless somebody asks sooner.
const KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);

/// A row of a budget, read.
struct Budget {
    user: String,
    /// The budget form of the recipient.
    form: String,
    places: Vec<(Timestamp, EntryId, bool)>,
}

/// Whether a row of a budget can be read.
pub(super) fn reads_budget((key, value): &SideRow) -> bool {
    Budget::decode(key, value).is_some()
}

/// Whether a row of an idempotency key can be read.
pub(super) fn reads_key((_, value): &SideRow) -> bool {
    decode_key(value).is_some()
}

/// Rows of former versions, as they were found.
#[derive(Debug, Default)]
pub(super) struct Former {
    pub(super) budgets: Vec<SideRow>,
    pub(super) keys: Vec<SideRow>,
}

impl Former {
    /// Takes them up; says what becomes of them.
    pub(super) fn take_up(self, state: &mut State, secret: &KeySecret, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.budgets.len() + self.keys.len());
        for (name, value) in self.budgets {
            if let Some(Budget { user, form, places }) = Budget::decode(&name, &value) {
                let hash = |name: &str| secret.hash(KeyOf::Budget, name.as_bytes());
                let (key, whose) = (hash(&form), hash(&format!("{user}\n{form}")));
                let place = |(at, entry, is_repeatable)| Place { at, whose, entry, is_repeatable };
                state.budgets.take_up(key, KEPT_FOR, places.into_iter().map(place).collect(), now);
                state.touched.push(Touched::Budget(key));
            }
            changes.push(Change::Side(Table::Budget, name, None));
        }
        for (name, value) in self.keys {
            if let Some(row) = decode_key(&value) {
                let key = secret.hash(KeyOf::Idempotency, &name);
                if state.keys.take_up(key, row, now) {
                    state.touched.push(Touched::Key(key));
                }
            }
            changes.push(Change::Side(Table::Idempotency, name, None));
        }
        changes
    }
}

fn decode_key(value: &[u8]) -> Option<KeyRow> {
    let (&version, rest) = value.split_first()?;
    let (message, rest) = rest.split_first_chunk::<16>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (message, at) = (MessageId::from_bytes(*message), Timestamp::from_millis(u64::from_be_bytes(*at)));
    match version {
        KEY_WITH_DIGEST => {
            let digest = Digest { day: at.as_secs() / DAY_S, octets: rest.try_into().ok()? };
            Some(KeyRow { message, at, until: at.plus(IDEMPOTENCY_MEMORY), digest: Some(digest) })
        }
        KEY_WITH_END => {
            let until = Timestamp::from_millis(u64::from_be_bytes(rest.try_into().ok()?));
            Some(KeyRow { message, at, until, digest: None })
        }
        _ => None,
    }
}

impl Budget {
    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (user, recipient) = std::str::from_utf8(key).ok()?.split_once('\n')?;
        let (&version, places) = value.split_first()?;
        let form = match version {
            BUDGET => recipient.to_owned(),
            BUDGET_OF_OTHER_FORM => from_other_form(recipient),
            _ => return None,
        };
        if !places.len().is_multiple_of(PLACE_LEN) {
            return None;
        }
        let place = |raw: &[u8]| {
            let at = Timestamp::from_millis(u64::from_be_bytes(raw[..8].try_into().ok()?));
            let message = MessageId::from_bytes(raw[8..24].try_into().ok()?);
            let index = u16::from_be_bytes(raw[24..26].try_into().ok()?);
            Some((at, EntryId { message, index }, raw[26] != 0))
        };
        let places: Option<Vec<_>> = places.chunks(PLACE_LEN).map(place).collect();
        Some(Self { user: user.to_owned(), form, places: places? })
    }
}

/// The budget form of what version 0.1 wrote. It cut tags inside of quotes, too; such a rest stays as it is.
fn from_other_form(recipient: &str) -> String {
    if let Ok(mailbox) = Mailbox::parse(recipient) {
        return budget_form(&mailbox);
    }
    recipient.rsplit_once('@').map_or_else(|| recipient.to_owned(), |(local, domain)| form_of(local, domain))
}
