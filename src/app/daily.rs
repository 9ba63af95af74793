//! Secrets that are replaced daily, in a file apart from the database, whose dead pages stay on disk for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::folder::fill_random;
use crate::files;
use crate::intake::idempotency::DailySecrets;

/// Today's and yesterday's.
const KEPT: usize = 2;

/// The secrets of today and yesterday; what is older is overwritten.
#[derive(Debug)]
pub struct FileSecrets {
    path: PathBuf,
    known: Mutex<BTreeMap<u64, [u8; 32]>>,
}

impl FileSecrets {
    /// Reads the file, if there is one.
    pub fn new(path: PathBuf) -> Self {
        let known = std::fs::read(&path).map(|octets| decode(&octets)).unwrap_or_default();
        Self { path, known: Mutex::new(known) }
    }
}

impl DailySecrets for FileSecrets {
    /// Writes the file when a day is new: once a day, and small.
    fn of(&self, day: u64) -> Option<[u8; 32]> {
        let mut known = self.known.lock();
        let is_past = known.last_key_value().is_some_and(|(latest, _)| day < *latest);
        if let Some(secret) = known.get(&day) {
            return Some(*secret);
        }
        if is_past {
            return None;
        }
        let mut secret = [0; 32];
        fill_random(&mut secret).ok()?;
        known.insert(day, secret);
        while known.len() > KEPT {
            known.pop_first();
        }
        if let Err(error) = files::replace(&self.path, &encode(&known)) {
            tracing::error!(path = %self.path.display(), %error, "today's secret cannot be written");
            known.remove(&day);
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
        let secrets = FileSecrets::new(path.clone());
        let first = secrets.of(100).unwrap();
        let second = secrets.of(101).unwrap();
        assert_ne!(first, second);
        let again = FileSecrets::new(path);
        assert_eq!((again.of(100), again.of(101)), (Some(first), Some(second)));
        assert!(again.of(102).is_some());
        assert_eq!(again.of(100), None);
        assert_eq!(again.of(101), Some(second));
    }
}
