//! Events as rows, several in one row: what a batch of the engine has of them, up to a bounded length. So an event costs its
//! octets and little else, and removing it next to nothing.
//!
//! Keys: `e` and the number of the first event in the row. `e` alone has the place up to which events are gone, and how many
//! octets there were about then. A row: a version, then each event behind its length.

use std::sync::Arc;

use sled::{Db, IVec};

use super::batched::Rows;
use super::engine::{engine_error, touch_page};
use super::record::EVENT;
use crate::event::{Event, stored};
use crate::ledger::cursor::Cursor;
use crate::ledger::embedded::store::{HeldEvents, ReadEvents, StoreError};

const VERSION: u8 = 2;
/// Octets of one row; see `PIECE_LEN` in `record.rs`.
const ROW_LEN: usize = 4096;
/// Octets of one event, beside its length and the row's version.
const EVENT_LEN_MAX: usize = ROW_LEN - 5;
/// Octets of all events at most; beyond, the oldest go, also those that somebody has not read.
pub(super) const OCTETS_MAX: u64 = 256 << 20;
/// Octets after which their number is noted anew.
const NOTE_PAUSE: u64 = 4 << 20;
/// Rows removed with one commit.
const SWEPT_MAX: usize = 256;
/// Octets handed out at once.
const READ_LEN: usize = 64 << 10;
/// Numbers that a former process may have given without storing the event.
const GIVEN_MAX: u64 = 4096;
/// How often a page is looked at for each row that was read from it.
const TOUCHES: usize = 2;

const NOTE_KEY: [u8; 1] = [EVENT];

fn row_key(first: u64) -> [u8; 9] {
    let mut key = [EVENT; 9];
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

fn first_of(key: &[u8]) -> Option<u64> {
    key.get(1..)?.try_into().ok().map(u64::from_be_bytes)
}

/// What is known of the rows.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct EventRows {
    swept: Cursor,
    newest: Cursor,
    octets: u64,
    noted_octets: u64,
    /// Up to where events may go.
    may_go: Cursor,
    /// Rows behind the newest event are those of a commit that failed.
    has_failed: bool,
}

impl EventRows {
    pub(super) fn open(&mut self, db: &Db, from: Cursor) -> Result<HeldEvents, StoreError> {
        let note = db.get(NOTE_KEY).map_err(engine_error)?;
        let number = |at: usize| {
            let octets = note.as_ref()?.get(at..at + 8)?;
            octets.try_into().ok().map(u64::from_be_bytes)
        };
        self.octets = number(8).unwrap_or_default();
        self.noted_octets = self.octets;
        let mut rows = db.range(row_key(0)..[EVENT + 1; 9]);
        let last = rows.next_back().transpose().map_err(engine_error)?;
        let last = last.and_then(|(key, row)| Some(first_of(&key)? + decode(&row).count().max(1) as u64 - 1));
        self.newest = last.map_or(from, |last| from.max(Cursor::behind(last).plus(GIVEN_MAX)));
        let known = number(0).map(Cursor::behind);
        self.swept = known.unwrap_or(if last.is_some() { Cursor::default() } else { self.newest });
        Ok(HeldEvents { swept: self.swept, newest: self.newest })
    }

    /// A commit begins.
    pub(super) fn writing(&self) -> Writing {
        Writing { after: *self, row: Vec::new(), in_row: 0 }
    }

    /// It is on disk.
    pub(super) fn written(&mut self, writing: Writing) {
        *self = EventRows { may_go: self.may_go, has_failed: false, ..writing.after };
    }

    /// A commit failed, and may be found on disk all the same. Its rows go with the next one, together with what else is taken
    /// back of it, and its numbers are given again.
    pub(super) fn failed(&mut self) {
        self.has_failed = true;
    }

    pub(super) fn sweep(&mut self, to: Option<Cursor>) -> Cursor {
        self.may_go = self.may_go.max(to.unwrap_or_default());
        self.swept
    }

    /// Takes a recipient's events out.
    pub(super) fn erase(&self, db: &Db, plain: &str) -> Result<(), StoreError> {
        for row in db.range(row_key(0)..[EVENT + 1; 9]) {
            let (key, row) = row.map_err(engine_error)?;
            if let Some(rest) = without(&row, plain) {
                db.insert(key, rest).map_err(engine_error)?;
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, db: &Db, after: Cursor) -> Result<ReadEvents, StoreError> {
        let mut found = Vec::new();
        let (mut len, mut reached) = (0, self.newest);
        // The row in which the next event is may begin before it.
        let first = db.range(row_key(0)..=row_key(after.plus(1).number())).next_back().transpose();
        let first = first.map_err(engine_error)?.map_or_else(|| IVec::from(&row_key(0)), |(key, _)| key);
        for row in db.range(first..=IVec::from(&row_key(self.newest.number()))) {
            let (key, row) = row.map_err(engine_error)?;
            touch_page(db, &key, TOUCHES).map_err(engine_error)?;
            let Some(first) = first_of(&key) else { continue };
            for (event, number) in decode(&row).zip(first..) {
                let at = Cursor::behind(number);
                if at > after {
                    // An event that this version does not know has its number all the same.
                    found.extend(event.map(|event| (at, Arc::new(event))));
                    reached = at;
                }
            }
            len += row.len();
            if len >= READ_LEN && reached > after {
                return Ok((found, reached));
            }
        }
        Ok((found, self.newest.max(after)))
    }
}

/// A row without a recipient; none where it has nothing of that one.
fn without(row: &[u8], plain: &str) -> Option<Vec<u8>> {
    let is_theirs = |event: &Option<Event>| event.as_ref().is_some_and(|event| event.is_about(plain));
    if !decode(row).any(|event| is_theirs(&event)) {
        return None;
    }
    let mut written = vec![VERSION];
    for (event, octets) in decode(row).zip(pieces(row)) {
        let start = written.len();
        written.extend_from_slice(&[0; 4]);
        match event.filter(|event| event.is_about(plain)) {
            Some(event) => stored::write(&event.without_recipient(), EVENT_LEN_MAX, &mut written),
            None => written.extend_from_slice(octets),
        }
        let len = u32::try_from(written.len() - start - 4).unwrap_or_default();
        written[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }
    Some(written)
}

/// The events of a row, each as far as this version knows it.
fn decode(row: &[u8]) -> impl Iterator<Item = Option<Event>> {
    pieces(row).map(stored::read)
}

/// What stands for each event of a row.
fn pieces(row: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = match row {
        [VERSION, rest @ ..] => rest,
        _ => &[],
    };
    std::iter::from_fn(move || {
        let (len, behind) = rest.split_at_checked(4)?;
        let len = u32::from_be_bytes(len.try_into().ok()?) as usize;
        let (event, behind) = behind.split_at_checked(len)?;
        rest = behind;
        Some(event)
    })
}

/// The events of one commit.
#[derive(Debug)]
pub(super) struct Writing {
    /// What is known of the rows once it is on disk.
    after: EventRows,
    row: Vec<u8>,
    /// Events in `row`, the last of which has the newest number.
    in_row: u64,
}

impl Writing {
    /// Adds an event; returns how many octets it takes.
    pub(super) fn add(&mut self, event: &Event, rows: &mut Rows) -> usize {
        if self.row.is_empty() {
            self.row.push(VERSION);
        }
        let start = self.row.len();
        self.row.extend_from_slice(&[0; 4]);
        stored::write(event, EVENT_LEN_MAX, &mut self.row);
        let len = self.row.len() - start;
        let octets = u32::try_from(len - 4).unwrap_or_default().to_be_bytes();
        self.row[start..start + 4].copy_from_slice(&octets);
        if start > 1 && self.row.len() > ROW_LEN {
            let next = self.row.split_off(start);
            self.finish_row(rows);
            self.row.push(VERSION);
            self.row.extend_from_slice(&next);
        }
        self.in_row += 1;
        self.after.newest = self.after.newest.plus(1);
        len
    }

    /// Puts what was added into the rows.
    pub(super) fn finish_row(&mut self, rows: &mut Rows) {
        if self.in_row > 0 {
            let first = self.after.newest.minus(self.in_row - 1).number();
            self.after.octets += self.row.len() as u64;
            rows.insert(&row_key(first), std::mem::take(&mut self.row));
            self.in_row = 0;
        }
    }

    /// To be called first. Removes what a commit that failed left behind; and some of the oldest rows, if they may go or there
    /// are too many. The newest row stays: the next start goes on from its numbers.
    pub(super) fn begin(&mut self, db: &Db, rows: &mut Rows) -> Result<(), StoreError> {
        if self.after.has_failed {
            for key in db.range(row_key(self.after.newest.plus(1).number())..[EVENT + 1; 9]).keys() {
                rows.need_batch = true;
                rows.remove(key.map_err(engine_error)?);
            }
        }
        let before = self.after.swept;
        let is_wanted = |after: &EventRows| after.may_go > after.swept || after.octets > OCTETS_MAX;
        if is_wanted(&self.after) {
            let mut oldest: Option<(u64, usize)> = None;
            for row in db.range(row_key(0)..[EVENT + 1; 9]).take(SWEPT_MAX) {
                let (key, row) = row.map_err(engine_error)?;
                let Some(first) = first_of(&key) else { continue };
                let up_to = Cursor::behind(first).minus(1);
                if let Some((older, len)) = oldest.take() {
                    if up_to > self.after.may_go && self.after.octets <= OCTETS_MAX {
                        break;
                    }
                    rows.remove(&row_key(older));
                    self.after.octets = self.after.octets.saturating_sub(len as u64);
                    self.after.swept = self.after.swept.max(up_to);
                }
                oldest = Some((first, row.len()));
            }
        }
        if self.after.swept > before || self.after.octets > self.after.noted_octets + NOTE_PAUSE {
            self.after.noted_octets = self.after.octets;
            let note = [self.after.swept.number().to_be_bytes(), self.after.octets.to_be_bytes()].concat();
            rows.need_batch = true;
            rows.insert(&NOTE_KEY, note);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::event::{Attempted, Happened, Head};
    use crate::mail::id::MessageId;

    fn event(number: u32) -> Event {
        let time = Timestamp::from_millis(1_795_255_200_000);
        let head = Head { attempt: number, ..Head::sample(MessageId::from_bytes([0; 16]), time) };
        let attempted = Attempted { note: Some("n".repeat(200).into()), ..Attempted::default() };
        Event { head, what: Happened::Failed(attempted) }
    }

    struct Scene {
        _folder: tempfile::TempDir,
        db: Db,
        rows: EventRows,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let db = sled::open(folder.path()).unwrap();
            let mut rows = EventRows::default();
            rows.open(&db, Cursor::behind(1000)).unwrap();
            Self { _folder: folder, db, rows }
        }

        fn write(&mut self, numbers: std::ops::Range<u32>) -> Writing {
            let (mut writing, mut rows) = (self.rows.writing(), Rows::default());
            writing.begin(&self.db, &mut rows).unwrap();
            for number in numbers {
                writing.add(&event(number), &mut rows);
            }
            writing.finish_row(&mut rows);
            rows.apply(&self.db).unwrap();
            writing
        }

        fn commit(&mut self, numbers: std::ops::Range<u32>) {
            let writing = self.write(numbers);
            self.rows.written(writing);
        }

        fn read(&self, after: u64) -> Vec<(u64, u32)> {
            let (mut all, mut at) = (Vec::new(), Cursor::behind(after));
            loop {
                let (found, reached) = self.rows.read(&self.db, at).unwrap();
                all.extend(found.iter().map(|(at, event)| (at.number(), event.head.attempt)));
                if reached == at || reached == self.rows.newest {
                    return all;
                }
                at = reached;
            }
        }
    }

    #[test]
    fn many_share_a_row_and_each_is_found() {
        let mut scene = Scene::new();
        scene.commit(0..1);
        scene.commit(1..500);
        assert!(scene.db.len() < 50, "{} rows", scene.db.len());
        let all = scene.read(1000);
        assert_eq!(all, (0..500).map(|n| (1001 + u64::from(n), n)).collect::<Vec<_>>());
        assert_eq!(scene.read(1250), all[250..]);
        assert_eq!(scene.read(1500), []);
    }

    #[test]
    fn a_recipient_is_taken_out_and_the_rest_stays() {
        let mut row = vec![VERSION];
        for recipient in ["alice@example.com", "bob@example.com"] {
            let mut event = event(7);
            event.head.recipient = crate::mail::address::Mailbox::parse(recipient).ok();
            let mut octets = Vec::new();
            stored::write(&event, EVENT_LEN_MAX, &mut octets);
            row.extend_from_slice(&u32::try_from(octets.len()).unwrap().to_be_bytes());
            row.extend_from_slice(&octets);
        }
        assert_eq!(without(&row, "carol@example.com"), None);
        let rest = without(&row, "alice@example.com").unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("alice"));
        let left: Vec<bool> = decode(&rest).map(|event| event.unwrap().is_about("bob@example.com")).collect();
        assert_eq!(left, [false, true]);
    }

    #[test]
    fn a_new_process_goes_on_behind_what_the_former_one_gave() {
        let mut scene = Scene::new();
        scene.commit(0..10);
        let held = EventRows::default().open(&scene.db, Cursor::behind(5)).unwrap();
        assert_eq!((held.swept.number(), held.newest.number()), (0, 1010 + GIVEN_MAX));
        scene.rows.open(&scene.db, Cursor::behind(9000)).unwrap();
        scene.commit(10..11);
        assert_eq!(scene.read(1009), [(1010, 9), (9001, 10)]);
    }

    #[test]
    fn the_rows_of_a_failed_commit_go_and_its_numbers_are_given_again() {
        let mut scene = Scene::new();
        scene.commit(0..10);
        drop(scene.write(10..100));
        assert_eq!(scene.read(1000).len(), 10);
        scene.rows.failed();
        assert!(scene.db.len() > 2, "its rows are there");
        scene.commit(200..202);
        assert_eq!(scene.read(1009), [(1010, 9), (1011, 200), (1012, 201)]);
    }

    #[test]
    fn what_may_go_goes_by_and_by_and_the_newest_row_stays() {
        let mut scene = Scene::new();
        (0..600).for_each(|n| scene.commit(n..n + 1));
        scene.rows.sweep(Some(Cursor::behind(1400)));
        scene.commit(600..601);
        assert_eq!(scene.read(1000).len(), 601 - (SWEPT_MAX - 1));
        scene.commit(601..602);
        assert_eq!(scene.read(1000)[0], (1401, 400));
        assert_eq!(scene.rows.sweep(None).number(), 1400);
        scene.rows.sweep(Some(Cursor::behind(5000)));
        (602..606).for_each(|n| scene.commit(n..n + 1));
        assert_eq!(scene.read(1000).len(), 1 + 1);
        let held = EventRows::default().open(&scene.db, Cursor::default()).unwrap();
        assert_eq!(held.swept, scene.rows.swept);
    }
}
