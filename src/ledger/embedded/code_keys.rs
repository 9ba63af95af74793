//! Digests of codes, under bucket keys of their own: the same files as those of content, in another folder. A key goes when no
//! code under it is live any more, or its ten minutes are past; then nobody can try codes against what the database still has.

use std::io;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use parking_lot::Mutex;

use super::key_ring::{KeyRing, Sealing};
use super::seal::{Bucket, BucketKey};
use crate::base::clock::Timestamp;

/// Octets of a digest.
pub(crate) const DIGEST_LEN: usize = 32;

/// HMAC-SHA-256 of a code with whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CodeDigest(pub [u8; DIGEST_LEN]);

impl std::fmt::Debug for CodeDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeDigest")
    }
}

impl CodeDigest {
    /// Whether both are the same; it takes as long where they are not.
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// The keys.
#[derive(Debug)]
pub struct CodeKeys(Kept);

#[derive(Debug)]
enum Kept {
    /// In a folder.
    Files(Mutex<KeyRing>),
    /// One for all, gone with the process.
    Memory(BucketKey),
}

impl CodeKeys {
    /// Those in a folder, which is made if there is none.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(folder: &Path, now: Timestamp) -> io::Result<Self> {
        Ok(Self(Kept::Files(Mutex::new(KeyRing::open(folder, Sealing::On, now)?))))
    }

    /// One key that is gone with the process.
    pub fn in_memory(secret: &[u8; 32]) -> Self {
        Self(Kept::Memory(BucketKey::new(secret)))
    }

    /// Which key a code has that is valid until then.
    pub fn bucket(expires_at: Timestamp) -> u32 {
        Bucket::of(expires_at).0
    }

    /// Whether a new code's digest can be made without writing anything.
    pub fn is_ready(&self, bucket: u32) -> bool {
        match &self.0 {
            Kept::Files(ring) => ring.lock().key(Bucket(bucket)).is_some(),
            Kept::Memory(_) => true,
        }
    }

    /// Makes a key ahead of need.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn prepare(&self, bucket: u32) -> io::Result<()> {
        match &self.0 {
            Kept::Files(ring) => ring.lock().prepare(Bucket(bucket)),
            Kept::Memory(_) => Ok(()),
        }
    }

    /// The digest of a new code, which counts as live under its key until [`CodeKeys::released`]. `whose` tells its user and
    /// verification from all others.
    ///
    /// # Errors
    /// When the key is new and cannot be made durable.
    pub fn new_digest(&self, bucket: u32, whose: &[&str], code: &str) -> io::Result<CodeDigest> {
        match &self.0 {
            Kept::Files(ring) => Ok(CodeDigest(ring.lock().key_for(Bucket(bucket))?.digest(whose, code))),
            Kept::Memory(key) => Ok(CodeDigest(key.digest(whose, code))),
        }
    }

    /// The digest of what somebody typed; none if the key is gone.
    pub fn digest(&self, bucket: u32, whose: &[&str], code: &str) -> Option<CodeDigest> {
        match &self.0 {
            Kept::Files(ring) => ring.lock().key(Bucket(bucket)).map(|key| CodeDigest(key.digest(whose, code))),
            Kept::Memory(key) => Some(CodeDigest(key.digest(whose, code))),
        }
    }

    /// A live code under this key was found at start.
    pub fn found(&self, bucket: u32) {
        if let Kept::Files(ring) = &self.0 {
            ring.lock().found(Bucket(bucket));
        }
    }

    /// A code under this key is not live any more.
    pub fn released(&self, bucket: u32) {
        if let Kept::Files(ring) = &self.0 {
            ring.lock().removed(Bucket(bucket));
        }
    }

    /// When [`CodeKeys::housekeep`] has something to do.
    pub fn due_at(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kept::Files(ring) => ring.lock().due_at(now),
            Kept::Memory(_) => None,
        }
    }

    /// Destroys the keys that are past or at rest, and makes those that will be needed.
    pub fn housekeep(&self, now: Timestamp) {
        if let Kept::Files(ring) = &self.0 {
            ring.lock().housekeep(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    #[test]
    fn a_digest_is_that_of_one_code_of_one_verification() {
        let folder = tempfile::tempdir().unwrap();
        let keys = CodeKeys::open(&folder.path().join("code-keys"), START).unwrap();
        let bucket = CodeKeys::bucket(START.plus(Duration::from_secs(600)));
        let digest = keys.new_digest(bucket, &["shop", "vrf_1"], "481516").unwrap();
        assert!(digest.is(&keys.digest(bucket, &["shop", "vrf_1"], "481516").unwrap()));
        for (whose, code) in
            [(["shop", "vrf_1"], "481517"), (["shop", "vrf_2"], "481516"), (["sho", "pvrf_1"], "481516")]
        {
            assert!(!digest.is(&keys.digest(bucket, &whose, code).unwrap()), "{whose:?} {code}");
        }
        assert!(!digest.is(&keys.digest(bucket + 1, &["shop", "vrf_1"], "481516").unwrap()));
        assert!(!format!("{digest:?} {keys:?}").contains("481516"));
        // Over a restart.
        let again = CodeKeys::open(&folder.path().join("code-keys"), START).unwrap();
        assert!(digest.is(&again.digest(bucket, &["shop", "vrf_1"], "481516").unwrap()));
    }

    #[test]
    fn a_key_goes_when_its_codes_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let keys = CodeKeys::open(folder.path(), START).unwrap();
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        let bucket = CodeKeys::bucket(at(600));
        let digest = keys.new_digest(bucket, &["shop", "vrf_1"], "481516").unwrap();
        keys.housekeep(at(100));
        keys.released(bucket);
        assert_eq!(keys.due_at(at(100)), Some(at(160)));
        keys.housekeep(at(160));
        let gone = keys.digest(bucket, &["shop", "vrf_1"], "481516").is_none_or(|other| !digest.is(&other));
        assert!(gone, "another key, or none, stands in its place");
    }
}
