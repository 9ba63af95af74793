//! Verifications as they are stored: rows of a side table, each written by one of those who change it and never by two, so that
//! it makes no difference which of two commits comes first.
//!
//! A version, then JSON. Times are those of the wall clock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::guesses::GuessKey;
use super::state::{Answer, AnsweredCheck, Fate, Key, Send, State, Verification};
use crate::base::clock::{Step, Timestamp};
use crate::base::lane::Lane;
use crate::ledger::embedded::code_keys::{CodeDigest, DIGEST_LEN};
use crate::ledger::side::{SideChange, SideRow, SideTable};
use crate::mail::id::MessageId;

const VERSION: u8 = 1;
/// What begins the keys of each kind of row.
const START: u8 = b'v';
const CHECK: u8 = b's';
const FATE: u8 = b'e';
const END: u8 = b'f';
const GUESS: u8 = b'g';

/// Whose a verification is and what was sent for it: written by who starts or sends again.
#[derive(Serialize, Deserialize)]
struct StartRow {
    user: Arc<str>,
    to: Arc<str>,
    purpose: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Arc<str>>,
    form: Arc<str>,
    lane: Lane,
    #[serde(default)]
    quiet: bool,
    checks: u32,
    created_at: Timestamp,
    #[serde(default)]
    asked: Vec<Arc<str>>,
    sends: Vec<SendRow>,
}

#[derive(Serialize, Deserialize)]
struct SendRow {
    message: Option<MessageId>,
    digest: String,
    bucket: u32,
    at: Timestamp,
    expires_at: Timestamp,
}

/// A check: written once, by who checks.
#[derive(Serialize, Deserialize)]
struct CheckRow {
    at: Timestamp,
    valid: bool,
    /// Whether it was the last that there was.
    last: bool,
    left: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// What became of a send: written once, with the end of its message.
#[derive(Serialize, Deserialize)]
struct FateRow {
    at: Timestamp,
    fate: FateWord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FateWord {
    Arrived,
    Perhaps,
    Gone,
}

/// The app withdrew it.
#[derive(Serialize, Deserialize)]
struct EndRow {
    at: Timestamp,
}

/// A wrong check where nothing was pending.
#[derive(Serialize, Deserialize)]
struct GuessRow {
    user: Arc<str>,
    form: Arc<str>,
    at: Timestamp,
}

fn row(key: Vec<u8>, value: &impl Serialize) -> SideChange {
    let mut octets = vec![VERSION];
    // It has no map with keys that are not text and nothing else that could fail.
    let _ = serde_json::to_writer(&mut octets, value);
    SideChange(SideTable::Verification, key.into(), Some(octets.into()))
}

fn key(kind: u8, id: &str) -> Vec<u8> {
    [&[kind], id.as_bytes()].concat()
}

fn nth_key(kind: u8, id: &str, nth: usize) -> Vec<u8> {
    let nth = u16::try_from(nth).unwrap_or(u16::MAX);
    [&[kind], id.as_bytes(), &nth.to_be_bytes()].concat()
}

pub(super) fn start(one: &Verification, step: Step) -> SideChange {
    let sends = one.sends.iter().map(|send| SendRow {
        message: send.message,
        digest: text_of(&send.digest),
        bucket: send.bucket,
        at: step.wall(send.at),
        expires_at: step.wall(send.expires_at),
    });
    let value = StartRow {
        user: one.key.user.clone(),
        to: one.key.to.clone(),
        purpose: one.key.purpose.clone(),
        session: one.key.session.clone(),
        form: one.form.clone(),
        lane: one.lane,
        quiet: one.quiet,
        checks: one.checks,
        created_at: step.wall(one.created_at),
        asked: one.asked.clone(),
        sends: sends.collect(),
    };
    row(key(START, &one.id), &value)
}

/// The row of the latest check.
pub(super) fn check(
    one: &Verification,
    answer: Answer,
    answered: Option<&AnsweredCheck>,
    at: Timestamp,
    step: Step,
) -> SideChange {
    let value = CheckRow {
        at: step.wall(at),
        valid: answer.valid,
        last: answer.state == State::Exhausted,
        left: answer.checks_left,
        key: answered.map(|answered| answered.key.clone()),
        digest: answered.map(|answered| text_of(&answered.digest)),
    };
    row(nth_key(CHECK, &one.id, one.spent as usize), &value)
}

/// The row of a send's fate; none while it is under way.
pub(super) fn fate(id: &str, index: usize, fate: Fate, step: Step) -> Option<SideChange> {
    let (word, at) = match fate {
        Fate::UnderWay => return None,
        Fate::Arrived(at) => (FateWord::Arrived, at),
        Fate::Perhaps(at) => (FateWord::Perhaps, at),
        Fate::Gone(at) => (FateWord::Gone, at),
    };
    Some(row(nth_key(FATE, id, index), &FateRow { at: step.wall(at), fate: word }))
}

pub(super) fn cancelled(id: &str, at: Timestamp, step: Step) -> SideChange {
    row(key(END, id), &EndRow { at: step.wall(at) })
}

pub(super) fn guess((user, form): &GuessKey, at: Timestamp, step: Step) -> SideChange {
    let value = GuessRow { user: user.clone(), form: form.clone(), at: step.wall(at) };
    row(key(GUESS, &ulid::Ulid::generate().to_string()), &value)
}

/// All rows of a verification go.
pub(super) fn removed(one: &Verification) -> Vec<SideChange> {
    let checks = (1..=one.spent as usize).map(|nth| nth_key(CHECK, &one.id, nth));
    let fates = (0..one.sends.len()).map(|nth| nth_key(FATE, &one.id, nth));
    let keys = [key(START, &one.id), key(END, &one.id)].into_iter().chain(checks).chain(fates);
    keys.map(|key| SideChange(SideTable::Verification, key.into(), None)).collect()
}

fn text_of(digest: &CodeDigest) -> String {
    digest.0.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn digest_of(text: &str) -> Option<CodeDigest> {
    let mut digest = [0; DIGEST_LEN];
    if text.len() != 2 * DIGEST_LEN || !text.is_ascii() {
        return None;
    }
    for (octet, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *octet = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(CodeDigest(digest))
}

/// Whether a row can be read.
pub(in crate::intake) fn reads((key, value): &SideRow) -> bool {
    let Some((&VERSION, json)) = value.split_first() else { return false };
    match key.first() {
        Some(&START) => serde_json::from_slice::<StartRow>(json).is_ok(),
        Some(&CHECK) => serde_json::from_slice::<CheckRow>(json).is_ok(),
        Some(&FATE) => serde_json::from_slice::<FateRow>(json).is_ok(),
        Some(&END) => serde_json::from_slice::<EndRow>(json).is_ok(),
        Some(&GUESS) => serde_json::from_slice::<GuessRow>(json).is_ok(),
        _ => false,
    }
}

/// What was found at start.
#[derive(Default)]
pub(super) struct RestoredState {
    /// With the times of their wrong checks.
    pub(super) verifications: Vec<Verification>,
    /// In order.
    pub(super) wrong: Vec<(Timestamp, GuessKey)>,
    /// Guesses' rows with their time, to be removed when it is past.
    pub(super) guesses: Vec<(Timestamp, Box<[u8]>)>,
}

/// Reads all rows; what cannot be read is passed over, and what was written by a clock that was ahead counts from now.
pub(super) fn read(rows: Vec<SideRow>, now: Timestamp) -> RestoredState {
    let mut found = RestoredState::default();
    let (mut starts, mut others) = (std::collections::BTreeMap::new(), Vec::new());
    for (key, value) in rows {
        let Some((&VERSION, json)) = value.split_first() else { continue };
        match key.first() {
            Some(&START) => {
                if let (Ok(id), Ok(start)) = (std::str::from_utf8(&key[1..]), serde_json::from_slice::<StartRow>(json))
                {
                    starts.extend(start.verification(id).map(|one| (id.to_owned(), one)));
                }
            }
            Some(&GUESS) => {
                if let Ok(GuessRow { user, form, at }) = serde_json::from_slice(json) {
                    found.wrong.push((at.min(now), (user, form)));
                    found.guesses.push((at.min(now), key));
                }
            }
            _ => others.push((key.clone(), json.to_vec())),
        }
    }
    // Checks before what ended otherwise, each in its order.
    others.sort();
    for (key, json) in others {
        let Some((kind, id, nth)) = parts(&key) else { continue };
        let Some(one) = starts.get_mut(id) else { continue };
        let wrong = one.take(kind, nth, &json);
        found.wrong.extend(wrong.map(|at| (at.min(now), (one.key.user.clone(), one.form.clone()))));
    }
    found.verifications.extend(starts.into_values().map(|one| one.settled().not_ahead_of(now)));
    found.wrong.sort();
    found
}

/// Kind, id and number of a row.
fn parts(key: &[u8]) -> Option<(u8, &str, usize)> {
    let (&kind, rest) = key.split_first()?;
    if kind == END {
        return Some((kind, std::str::from_utf8(rest).ok()?, 0));
    }
    let (id, nth) = rest.split_at_checked(rest.len().checked_sub(2)?)?;
    let nth = u16::from_be_bytes(nth.try_into().ok()?);
    Some((kind, std::str::from_utf8(id).ok()?, usize::from(nth)))
}

impl StartRow {
    fn verification(self, id: &str) -> Option<Verification> {
        let send = |row: SendRow| {
            Some(Send {
                message: row.message,
                digest: digest_of(&row.digest)?,
                bucket: row.bucket,
                at: row.at,
                expires_at: row.expires_at,
                fate: Fate::UnderWay,
            })
        };
        Some(Verification {
            id: id.into(),
            key: Key { user: self.user, to: self.to, purpose: self.purpose, session: self.session },
            form: self.form,
            lane: self.lane,
            quiet: self.quiet,
            checks: self.checks,
            created_at: self.created_at,
            asked: self.asked,
            sends: self.sends.into_iter().map(send).collect::<Option<_>>()?,
            spent: 0,
            end: None,
            answers: Vec::new(),
        })
    }
}

impl Verification {
    /// Takes in a row; the time of a wrong check.
    fn take(&mut self, kind: u8, nth: usize, json: &[u8]) -> Option<Timestamp> {
        match kind {
            CHECK => self.take_check(u32::try_from(nth).ok()?, serde_json::from_slice(json).ok()?),
            FATE => {
                let FateRow { at, fate } = serde_json::from_slice(json).ok()?;
                self.sends.get_mut(nth)?.fate = match fate {
                    FateWord::Arrived => Fate::Arrived(at),
                    FateWord::Perhaps => Fate::Perhaps(at),
                    FateWord::Gone => Fate::Gone(at),
                };
                None
            }
            END => {
                let EndRow { at } = serde_json::from_slice(json).ok()?;
                self.end = self.end.or(Some((State::Cancelled, at)));
                None
            }
            _ => None,
        }
    }

    fn take_check(&mut self, nth: u32, row: CheckRow) -> Option<Timestamp> {
        self.spent = self.spent.max(nth);
        let state = match (row.valid, row.last) {
            (true, _) => State::Approved,
            (false, true) => State::Exhausted,
            (false, false) => State::Pending,
        };
        if state != State::Pending {
            // What was said to be right stays so.
            self.end = Some((state, row.at)).filter(|_| !matches!(self.end, Some((State::Approved, _)))).or(self.end);
        }
        if let (Some(key), Some(digest)) = (row.key, row.digest.as_deref().and_then(digest_of)) {
            let answer = Answer { valid: row.valid, state, checks_left: row.left };
            self.answers.push(AnsweredCheck { key, digest, at: row.at, answer });
        }
        (!row.valid).then_some(row.at)
    }

    /// Ended, where no send can arrive.
    fn settled(mut self) -> Self {
        let gone = |send: &Send| if let Fate::Gone(at) = send.fate { Some(at) } else { None };
        if self.end.is_none()
            && !self.quiet
            && let Some(ends) = self.sends.iter().map(gone).collect::<Option<Vec<_>>>()
        {
            self.end = ends.into_iter().max().map(|at| (State::Undeliverable, at));
        }
        self
    }

    /// What a clock wrote that was ahead has the time left that it had then.
    fn not_ahead_of(mut self, now: Timestamp) -> Self {
        let latest = self.sends.iter().map(|send| send.at).fold(self.created_at, Timestamp::max);
        let ahead = latest.since(now);
        if !ahead.is_zero() {
            self.created_at = self.created_at.minus(ahead);
            for send in &mut self.sends {
                (send.at, send.expires_at) = (send.at.minus(ahead), send.expires_at.minus(ahead));
            }
            self.end = self.end.map(|(state, at)| (state, at.min(now)));
        }
        self
    }
}
