//! The bucket keys on disk: one small file per ten minutes of expiry time, in a folder of their own and never in the
//! database, whose dead pages stay on disk.
//!
//! A key is on disk before anything sealed under it is, and is made ahead of need. It is destroyed (overwritten,
//! unlinked, the folder synced) when its bucket is past, and before that when nothing sealed under it has been live for
//! `REST`; a bucket that is needed again gets another key.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::seal::{Bucket, BucketKey, FILE_LEN, KEY_LEN, decode_key, encode_key};
use crate::base::clock::Timestamp;
use crate::base::files;

/// How long nothing has to be live under a key before it goes ahead of its time.
const REST: Duration = Duration::from_secs(60);
/// Buckets behind the current one that have their keys ahead of need: twenty minutes, in which the default life ends.
const AHEAD: u32 = 2;
/// How long to leave the folder alone after an error.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether new content is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// It is.
    On,
    /// It is stored as it is; what was sealed before can still be opened.
    Off,
}

/// The keys.
#[derive(Debug)]
pub struct KeyRing {
    folder: PathBuf,
    sealing: Sealing,
    keys: BTreeMap<Bucket, Kept>,
    /// As of the last look at the clock.
    current: Bucket,
    now: Timestamp,
    retry_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Kept {
    key: BucketKey,
    /// Messages sealed under it, or more: one whose acceptance failed may count until the bucket is past.
    live: usize,
    /// Whether anything has ever been sealed under it.
    is_used: bool,
    /// Since when it was seen to be used and to have nothing live.
    resting_since: Option<Timestamp>,
}

impl Kept {
    /// When it is to go.
    fn goes_at(&self, bucket: Bucket) -> Timestamp {
        self.resting_since.map_or(bucket.end(), |since| bucket.end().min(since.plus(REST)))
    }
}

impl KeyRing {
    /// Reads the keys in `folder`, which is made if there is none, and destroys those that are past.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(folder: &Path, sealing: Sealing, now: Timestamp) -> io::Result<Self> {
        let current = Bucket::of(now);
        let mut ring = Self { folder: folder.into(), sealing, keys: BTreeMap::new(), current, now, retry_at: None };
        if !fs::exists(folder)? {
            fs::create_dir_all(folder)?;
            folder.parent().map_or(Ok(()), files::sync_folder)?;
        }
        for entry in fs::read_dir(folder)? {
            ring.take(&entry?.path())?;
        }
        ring.housekeep(now);
        Ok(ring)
    }

    /// Without any key, for a look at what was never sealed.
    pub fn none() -> Self {
        let (keys, now) = (BTreeMap::new(), Timestamp::default());
        let current = Bucket::of(now);
        Self { folder: PathBuf::new(), sealing: Sealing::Off, keys, current, now, retry_at: None }
    }

    /// Reads the keys in `folder` and changes nothing there; those that are past can still open what was sealed under them.
    /// Returns how many files hold no key, too.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn look(folder: &Path) -> io::Result<(Self, usize)> {
        let mut ring = Self { folder: folder.into(), ..Self::none() };
        let mut damaged = 0;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(bucket) = name.parse().map(Bucket) else { continue };
            let mut file = Zeroizing::new(Vec::with_capacity(FILE_LEN + 1));
            File::open(&path)?.take(FILE_LEN as u64 + 1).read_to_end(&mut file)?;
            match decode_key(bucket, &mut file) {
                Some(key) => {
                    ring.keys.insert(bucket, Kept { key, live: 0, is_used: true, resting_since: None });
                }
                None => damaged += 1,
            }
        }
        Ok((ring, damaged))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes up a file as it is found at start.
    fn take(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let bucket = match name.parse().map(Bucket) {
            Ok(bucket) if bucket.end() > self.now => bucket,
            Ok(_) => return files::destroy(path),
            Err(_) if files::is_unfinished(path) => return files::destroy(path),
            Err(_) => return Ok(()),
        };
        let mut file = Zeroizing::new(Vec::with_capacity(FILE_LEN + 1));
        File::open(path)?.take(FILE_LEN as u64 + 1).read_to_end(&mut file)?;
        if file.iter().all(|octet| *octet == 0) {
            // A crash came between overwriting and unlinking.
            return files::destroy(path);
        }
        match decode_key(bucket, &mut file) {
            Some(key) => {
                self.keys.insert(bucket, Kept { key, live: 0, is_used: true, resting_since: None });
            }
            None => tracing::error!(
                file = %path.display(),
                "a key file is damaged; messages whose life ends before {:?} cannot be opened", bucket.end()
            ),
        }
        Ok(())
    }

    /// Whether new content is to be sealed.
    pub(super) fn is_sealing(&self) -> bool {
        self.sealing == Sealing::On
    }

    /// The key for content of a life that ends in `bucket`, made if there is none; it counts as live under it.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(super) fn key_for(&mut self, bucket: Bucket) -> io::Result<&BucketKey> {
        if !self.keys.contains_key(&bucket) {
            self.make(bucket)?;
        }
        let kept = self.keys.get_mut(&bucket).ok_or(io::ErrorKind::NotFound)?;
        kept.live += 1;
        kept.is_used = true;
        Ok(&kept.key)
    }

    /// Makes the key for content of a life that ends in `bucket` ahead of need.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(super) fn prepare(&mut self, bucket: Bucket) -> io::Result<()> {
        if self.keys.contains_key(&bucket) { Ok(()) } else { self.make(bucket) }
    }

    /// The key under which content was sealed; none if it was destroyed.
    pub(super) fn key(&self, bucket: Bucket) -> Option<&BucketKey> {
        self.keys.get(&bucket).map(|kept| &kept.key)
    }

    /// Whether the lives that end in `bucket` are over, so that its key is gone by right.
    pub(super) fn is_past(&self, bucket: Bucket) -> bool {
        bucket.end() <= self.now
    }

    /// Content sealed under this key was found at start.
    pub(super) fn found(&mut self, bucket: Bucket) {
        if let Some(kept) = self.keys.get_mut(&bucket) {
            kept.live += 1;
        }
    }

    /// Content is to be found anew.
    pub(super) fn forget_found(&mut self) {
        self.keys.values_mut().for_each(|kept| kept.live = 0);
    }

    /// Content sealed under this key is no longer stored.
    pub(super) fn removed(&mut self, bucket: Bucket) {
        if let Some(kept) = self.keys.get_mut(&bucket) {
            kept.live = kept.live.saturating_sub(1);
        }
    }

    /// Whether nothing sealed is live.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_sealing() && self.keys.values().all(|kept| kept.live == 0)
    }

    /// The time of the last look at the clock.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Looks at which keys rest, and says when [`KeyRing::housekeep`] has something to do.
    pub(super) fn due_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.now = now;
        for kept in self.keys.values_mut() {
            let is_resting = kept.is_used && kept.live == 0;
            kept.resting_since = is_resting.then(|| kept.resting_since.unwrap_or(now));
        }
        let ahead = self.is_sealing().then(|| self.current.end());
        let first = self.keys.iter().map(|(bucket, kept)| kept.goes_at(*bucket)).chain(ahead).min();
        self.retry_at.or(first)
    }

    /// Destroys the keys that are past or at rest, and makes those that will be needed.
    pub(super) fn housekeep(&mut self, now: Timestamp) {
        self.due_at(now);
        self.current = Bucket::of(now);
        let result = self.destroy_due().and_then(|()| self.make_ahead());
        if let Err(error) = &result
            && self.retry_at.is_none()
        {
            tracing::error!(folder = %self.folder.display(), %error, "keys cannot be made or destroyed; trying again");
        }
        self.retry_at = result.is_err().then(|| now.plus(PAUSE));
    }

    fn destroy_due(&mut self) -> io::Result<()> {
        let goes = |(bucket, kept): (&Bucket, &Kept)| (kept.goes_at(*bucket) <= self.now).then_some(*bucket);
        let due: Vec<Bucket> = self.keys.iter().filter_map(goes).collect();
        for bucket in due {
            files::destroy(&self.path(bucket))?;
            self.keys.remove(&bucket);
        }
        Ok(())
    }

    fn make_ahead(&mut self) -> io::Result<()> {
        if !self.is_sealing() {
            return Ok(());
        }
        let wanted = (0..=AHEAD).map(|count| self.current.plus(count));
        let missing: Vec<Bucket> = wanted.filter(|bucket| !self.keys.contains_key(bucket)).collect();
        missing.into_iter().try_for_each(|bucket| self.make(bucket))
    }

    fn make(&mut self, bucket: Bucket) -> io::Result<()> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        SystemRandom::new().fill(&mut secret[..]).map_err(|_| io::Error::other("no random numbers"))?;
        files::replace(&self.path(bucket), &encode_key(bucket, &secret)[..])?;
        let kept = Kept { key: BucketKey::new(&secret), live: 0, is_used: false, resting_since: None };
        self.keys.insert(bucket, kept);
        Ok(())
    }

    fn path(&self, bucket: Bucket) -> PathBuf {
        self.folder.join(bucket.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::mail::id::MessageId;

    const ID: MessageId = MessageId::from_bytes([7; 16]);
    const MINUTE: Duration = Duration::from_secs(60);

    fn start() -> Timestamp {
        Timestamp::from_millis(1_795_255_200_000)
    }

    fn at(minutes: u32) -> Timestamp {
        start().plus(MINUTE * minutes)
    }

    fn key_ring(folder: &Path, now: Timestamp) -> KeyRing {
        KeyRing::open(folder, Sealing::On, now).unwrap()
    }

    fn names(folder: &Path) -> Vec<u32> {
        let first = Bucket::of(start()).0;
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().to_str().unwrap().parse::<u32>();
        let mut names: Vec<u32> = fs::read_dir(folder).unwrap().map(|entry| name(entry).unwrap() - first).collect();
        names.sort_unstable();
        names
    }

    fn sealed(ring: &mut KeyRing, bucket: Bucket) -> Vec<u8> {
        let mut content = b"481516".to_vec();
        let tag = ring.key_for(bucket).unwrap().seal(ID, b"", &mut content).unwrap();
        [&content[..], &tag].concat()
    }

    fn opens(ring: &KeyRing, bucket: Bucket, sealed: &[u8]) -> bool {
        ring.key(bucket).is_some_and(|key| key.open(ID, b"", &mut sealed.to_vec()).is_ok())
    }

    #[test]
    fn keys_are_there_ahead_of_need_and_stay_over_a_restart() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let mut first = key_ring(&folder, at(0));
        assert_eq!(names(&folder), [0, 1, 2]);
        let far = Bucket::of(at(45));
        let (near_sealed, far_sealed) = (sealed(&mut first, Bucket::of(at(10))), sealed(&mut first, far));
        assert_eq!(names(&folder), [0, 1, 2, 4]);
        for entry in fs::read_dir(&folder).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let second = key_ring(&folder, at(5));
        assert!(opens(&second, Bucket::of(at(10)), &near_sealed));
        assert!(opens(&second, far, &far_sealed));
        let without = KeyRing::open(&folder, Sealing::Off, at(35)).unwrap();
        assert_eq!(names(&folder), [4], "past ones go, none is made");
        assert!(opens(&without, far, &far_sealed));
        assert!(without.is_past(Bucket::of(at(10))));
    }

    #[test]
    fn a_key_goes_when_its_bucket_is_past() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = key_ring(folder.path(), at(0));
        let bucket = Bucket::of(at(9));
        let content = sealed(&mut ring, bucket);
        ring.housekeep(at(9));
        assert!(opens(&ring, bucket, &content));
        assert_eq!(ring.due_at(at(9)), Some(at(10)));
        ring.housekeep(at(10));
        assert!(!opens(&ring, bucket, &content));
        assert_eq!(names(folder.path()), [1, 2, 3]);
    }

    #[test]
    fn a_key_goes_a_minute_after_the_last_of_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = key_ring(folder.path(), at(0));
        let bucket = Bucket::of(at(10));
        let (one, _) = (sealed(&mut ring, bucket), sealed(&mut ring, bucket));
        ring.removed(bucket);
        ring.housekeep(at(2));
        assert!(opens(&ring, bucket, &one), "one is live");
        ring.removed(bucket);
        assert_eq!(ring.due_at(at(2)), Some(at(3)));
        let other = sealed(&mut ring, bucket);
        ring.housekeep(at(3));
        assert!(opens(&ring, bucket, &other), "it is in use again");
        ring.removed(bucket);
        assert_eq!(ring.due_at(at(4)), Some(at(5)));
        ring.housekeep(at(5));
        assert!(!opens(&ring, bucket, &other), "another key stands in its place");
        assert_eq!(names(folder.path()), [0, 1, 2]);
        assert_eq!(ring.due_at(at(5)), Some(at(10)), "one that was never used stays");
    }

    #[test]
    fn after_a_restart_keys_without_content_go() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::of(at(10));
        let content = sealed(&mut key_ring(folder.path(), at(0)), bucket);
        let mut again = key_ring(folder.path(), at(1));
        again.found(bucket);
        again.housekeep(at(2));
        again.housekeep(at(3));
        assert!(opens(&again, bucket, &content));
        let mut empty = key_ring(folder.path(), at(4));
        empty.housekeep(at(5));
        assert!(!opens(&empty, bucket, &content));
    }

    #[test]
    fn what_a_crash_leaves_is_cleared_away_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        drop(key_ring(folder.path(), at(0)));
        let path = |minutes| folder.path().join(Bucket::of(at(minutes)).0.to_string());
        fs::write(path(0), [0; FILE_LEN]).unwrap();
        fs::write(path(10), b"half").unwrap();
        fs::write(folder.path().join("1.unfinished"), b"half").unwrap();
        let ring = key_ring(folder.path(), at(0));
        assert_eq!(names(folder.path()), [0, 1, 2]);
        assert_eq!(fs::metadata(path(10)).unwrap().len(), FILE_LEN as u64, "made anew");
        assert!(ring.key(Bucket::of(at(20))).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_written_gives_no_key() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let mut ring = key_ring(&folder, at(0));
        fs::rename(&folder, parent.path().join("elsewhere")).unwrap();
        assert!(ring.key_for(Bucket::of(at(45))).is_err());
        assert!(ring.key_for(Bucket::of(at(10))).is_ok(), "it is there");
        ring.housekeep(at(10));
        assert_eq!(ring.due_at(at(10)), Some(at(10).plus(PAUSE)));
        fs::rename(parent.path().join("elsewhere"), &folder).unwrap();
        ring.housekeep(at(11));
        assert_eq!(names(&folder), [1, 2, 3]);
    }
}
