//! Secrets that are replaced daily, in a file apart from the database, whose dead pages stay on disk for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::random::fill_random;
use crate::base::files;
use crate::intake::idempotency::RotatingSecrets;

/// Today's and yesterday's.
const KEPT: usize = 2;

/// The secrets of today and yesterday; what is older is overwritten.
#[derive(Debug)]
pub(crate) struct FileSecrets {
    path: PathBuf,
    known: Mutex<BTreeMap<u64, [u8; 32]>>,
}

impl FileSecrets {
    /// Reads the file, if there is one. Days behind `latest` are dropped: a clock that was ahead made their secrets, and
    /// they would stand in the way of those of the days until then.
    pub(crate) fn new(path: PathBuf, latest: u64) -> Self {
        let mut known = std::fs::read(&path).map(|octets| decode(&octets)).unwrap_or_default();
        let read = known.len();
        known.retain(|day, _| *day <= latest);
        if known.len() < read {
            tracing::warn!(path = %path.display(), "secrets of days that lie ahead are dropped: the clock was ahead");
        }
        Self { path, known: Mutex::new(known) }
    }
}

impl RotatingSecrets for FileSecrets {
    fn of(&self, day: u64) -> Option<[u8; 32]> {
        self.known.lock().get(&day).copied()
    }

    /// Writes the file when a day is new: once a day, and small.
    fn of_today(&self, day: u64) -> Option<[u8; 32]> {
        let mut known = self.known.lock();
        if let Some(secret) = known.get(&day) {
            return Some(*secret);
        }
        let mut secret = [0; 32];
        fill_random(&mut secret).ok()?;
        let before = known.clone();
        known.insert(day, secret);
        while known.len() > KEPT {
            // What is past goes first; then the clock was ahead, and what lies farthest ahead is of no use.
            let is_past = known.first_key_value().is_some_and(|(first, _)| first.saturating_add(1) < day);
            if is_past || known.last_key_value().is_some_and(|(last, _)| *last == day) {
                known.pop_first();
            } else {
                known.pop_last();
            }
        }
        if let Err(error) = files::replace(&self.path, &encode(&known)) {
            tracing::error!(path = %self.path.display(), %error, "today's secret cannot be written");
            *known = before;
            return None;
        }
        Some(secret)
    }
}

fn encode(known: &BTreeMap<u64, [u8; 32]>) -> Vec<u8> {
    known.iter().flat_map(|(day, secret)| [&day.to_be_bytes()[..], &secret[..]].concat()).collect()
}

fn decode(octets: &[u8]) -> BTreeMap<u64, [u8; 32]> {
    let entry = |raw: &[u8]| Some((u64::from_be_bytes(raw.get(..8)?.try_into().ok()?), raw.get(8..)?.try_into().ok()?));
    octets.chunks(40).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_stays_for_a_day_longer_than_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daily-secrets");
        let secrets = FileSecrets::new(path.clone(), 100);
        let first = secrets.of_today(100).unwrap();
        let second = secrets.of_today(101).unwrap();
        assert_ne!(first, second);
        let again = FileSecrets::new(path, 101);
        assert_eq!((again.of(100), again.of(101)), (Some(first), Some(second)));
        assert!(again.of_today(102).is_some());
        assert_eq!(again.of(100), None);
        assert_eq!(again.of(101), Some(second));
        assert_eq!(again.of(103), None, "it is made only when its day has come");
    }

    #[test]
    fn a_clock_that_was_ahead_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daily-secrets");
        let secrets = FileSecrets::new(path.clone(), 100);
        let honest = secrets.of_today(100).unwrap();
        secrets.of_today(107).unwrap();
        assert_eq!(secrets.of_today(100), Some(honest), "one day ahead is no harm");
        secrets.of_today(108).unwrap();
        let made = secrets.of_today(100).unwrap();
        assert_eq!(secrets.of_today(100), Some(made), "corrected while the relay runs");
        let tomorrow = secrets.of_today(101).unwrap();
        assert_eq!((secrets.of(100), secrets.of(101)), (Some(made), Some(tomorrow)));
        let ahead = FileSecrets::new(path.clone(), 101);
        ahead.of_today(107).unwrap();
        ahead.of_today(108).unwrap();
        drop(ahead);
        let restarted = FileSecrets::new(path, 102);
        assert_eq!((restarted.of(107), restarted.of(108)), (None, None));
        assert!(restarted.of_today(102).is_some(), "corrected over a restart");
    }
}
