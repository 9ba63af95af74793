//! Sealing: content is encrypted under a key of its own, which follows from a bucket's key and the message's id. Whoever
//! destroys the bucket's key has destroyed all content that was sealed under it, wherever copies of it lie.
//!
//! Pure: where the keys are kept, and when they go, is seen to by `key_ring`. HKDF with SHA-256 (RFC 5869), AES-256-GCM
//! (RFC 5116 section 5.2). The nonce is constant: each key seals one content.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::{Zeroize as _, Zeroizing};

use crate::base::clock::Timestamp;
use crate::mail::id::MessageId;

/// Octets by which sealed content is longer than the content.
pub(super) const TAG_LEN: usize = 16;
/// Octets of a bucket's key.
pub(super) const KEY_LEN: usize = 32;
/// Octets of a key's file: what it is, the bucket, the key, a part of the digest of all before.
pub(super) const FILE_LEN: usize = MAGIC.len() + 4 + KEY_LEN + CHECK_LEN;
const MAGIC: &[u8; 4] = b"otk1";
const CHECK_LEN: usize = 8;
const BUCKET_MS: u64 = 600_000;
const SALT: &[u8] = b"otp-relay content";
/// What keys for codes follow from; ids of messages, from which those for content do, are longer.
const CODES: &[u8] = b"codes";

/// Ten minutes, counted from the epoch: the lives that end in it share a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Bucket(pub(super) u32);

impl Bucket {
    /// The one in which a life ends.
    pub(super) fn of(expires_at: Timestamp) -> Self {
        Self(u32::try_from(expires_at.as_millis() / BUCKET_MS).unwrap_or(u32::MAX))
    }

    /// When the last of its lives is over.
    pub(super) fn end(self) -> Timestamp {
        Timestamp::from_millis((u64::from(self.0) + 1) * BUCKET_MS)
    }

    /// The one `count` later.
    pub(super) fn plus(self, count: u32) -> Self {
        Self(self.0.saturating_add(count))
    }
}

/// Why sealed content cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealError {
    /// Its key is gone.
    #[error("the key of its content is missing")]
    NoKey,
    /// What is stored is not what was sealed.
    #[error("its content is not what was sealed")]
    NotAuthentic,
}

/// A bucket's key. Overwritten in memory when it is dropped.
pub(super) struct BucketKey(Prk);

impl std::fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BucketKey")
    }
}

impl BucketKey {
    pub(super) fn new(secret: &[u8; KEY_LEN]) -> Self {
        Self(Salt::new(HKDF_SHA256, SALT).extract(secret))
    }

    /// Encrypts `content` in its place; returns the tag that belongs behind it. `context` can be read by anybody, and
    /// the content opens only together with it.
    pub(super) fn seal(&self, id: MessageId, context: &[u8], content: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        let tag = self.derive(id)?.seal_in_place_separate_tag(nonce(), Aad::from(context), content).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// The reverse: `sealed` is content and tag; afterwards its front is the content.
    ///
    /// # Errors
    /// [`SealError::NotAuthentic`]; then what is in `sealed` is of no use.
    pub(super) fn open(&self, id: MessageId, context: &[u8], sealed: &mut [u8]) -> Result<(), SealError> {
        let key = self.derive(id).ok_or(SealError::NotAuthentic)?;
        let opened = key.open_in_place(nonce(), Aad::from(context), sealed);
        opened.map(drop).map_err(|_| SealError::NotAuthentic)
    }

    /// HMAC-SHA-256 over a code with whose it is, under a key that follows from this one.
    pub(super) fn digest(&self, whose: &[&str], code: &str) -> [u8; 32] {
        let mut secret = Zeroizing::new([0; 32]);
        let derived = self.0.expand(&[CODES], HKDF_SHA256).and_then(|key| key.fill(&mut secret[..]));
        derived.expect("the length is that of the hash");
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret[..]));
        for part in whose.iter().chain([&code]) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().expect("a digest of SHA-256 has 32 octets")
    }

    fn derive(&self, id: MessageId) -> Option<LessSafeKey> {
        let info = [&id.to_bytes()[..]];
        let derived = self.0.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// What a key's file holds.
pub(super) fn encode_key(bucket: Bucket, secret: &[u8; KEY_LEN]) -> Zeroizing<[u8; FILE_LEN]> {
    let mut file = Zeroizing::new([0; FILE_LEN]);
    let (text, check) = file.split_at_mut(FILE_LEN - CHECK_LEN);
    text[..4].copy_from_slice(MAGIC);
    text[4..8].copy_from_slice(&bucket.0.to_be_bytes());
    text[8..].copy_from_slice(secret);
    check.copy_from_slice(&digest(&SHA256, text).as_ref()[..CHECK_LEN]);
    file
}

/// The reverse of [`encode_key`]; none if it is not whole, or of another bucket. The octets are overwritten.
pub(super) fn decode_key(bucket: Bucket, file: &mut [u8]) -> Option<BucketKey> {
    let key = file.len().checked_sub(CHECK_LEN).and_then(|at| {
        let (text, check) = file.split_at(at);
        let is_whole = file.len() == FILE_LEN && digest(&SHA256, text).as_ref()[..CHECK_LEN] == *check;
        let is_ours = is_whole && text[..4] == *MAGIC && text[4..8] == bucket.0.to_be_bytes();
        let mut secret: [u8; KEY_LEN] = text.get(8..).filter(|_| is_ours)?.try_into().ok()?;
        let key = BucketKey::new(&secret);
        secret.zeroize();
        Some(key)
    });
    file.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: MessageId = MessageId::from_bytes([7; 16]);
    const OTHER: MessageId = MessageId::from_bytes([8; 16]);

    fn sealed(key: &BucketKey, content: &[u8]) -> Vec<u8> {
        let mut sealed = content.to_vec();
        let tag = key.seal(ID, b"context", &mut sealed).unwrap();
        [&sealed[..], &tag].concat()
    }

    fn open(key: &BucketKey, id: MessageId, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut opened = sealed.to_vec();
        key.open(id, context, &mut opened)?;
        opened.truncate(sealed.len() - TAG_LEN);
        Ok(opened)
    }

    #[test]
    fn content_opens_only_with_all_that_it_was_sealed_with() {
        let (key, another) = (BucketKey::new(&[1; KEY_LEN]), BucketKey::new(&[2; KEY_LEN]));
        let sealed = sealed(&key, b"your code is 481516");
        assert_eq!(open(&key, ID, b"context", &sealed), Ok(b"your code is 481516".to_vec()));
        let no = Err(SealError::NotAuthentic);
        assert_eq!(open(&another, ID, b"context", &sealed), no);
        assert_eq!(open(&key, OTHER, b"context", &sealed), no);
        assert_eq!(open(&key, ID, b"contexT", &sealed), no);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&key, ID, b"context", &changed), no, "octet {at}");
        }
        assert_eq!(open(&key, ID, b"context", &sealed[1..]), no);
        assert_eq!(key.open(ID, b"", &mut []), Err(SealError::NotAuthentic));
    }

    #[test]
    fn equal_content_of_two_messages_looks_different() {
        let key = BucketKey::new(&[1; KEY_LEN]);
        let (mut one, mut two) = ([0; 32], [0; 32]);
        key.seal(ID, b"", &mut one).unwrap();
        key.seal(OTHER, b"", &mut two).unwrap();
        assert_ne!(one, two);
    }

    #[test]
    fn a_bucket_is_ten_minutes_of_expiry_time() {
        let at = |millis| Bucket::of(Timestamp::from_millis(millis));
        assert_eq!((at(0), at(599_999), at(600_000)), (Bucket(0), Bucket(0), Bucket(1)));
        assert_eq!(at(600_000).end(), Timestamp::from_millis(1_200_000));
    }

    #[test]
    fn a_key_file_is_read_back_or_refused() {
        let whole = encode_key(Bucket(5), &[9; KEY_LEN]);
        let read = |bucket, file: &[u8]| decode_key(bucket, &mut file.to_vec());
        let key = read(Bucket(5), &whole[..]).unwrap();
        let sealed = sealed(&BucketKey::new(&[9; KEY_LEN]), b"x");
        assert!(open(&key, ID, b"context", &sealed).is_ok());
        assert!(read(Bucket(6), &whole[..]).is_none());
        for at in 0..FILE_LEN {
            assert!(read(Bucket(5), &whole[..at]).is_none(), "cut at {at}");
            let mut changed = whole.to_vec();
            changed[at] ^= 1;
            assert!(read(Bucket(5), &changed).is_none(), "octet {at}");
        }
    }

    /// What is stored today must be readable tomorrow.
    #[test]
    fn sealing_keeps_its_form() {
        let mut content = *b"481516";
        let tag = BucketKey::new(&[3; KEY_LEN]).seal(ID, b"context", &mut content).unwrap();
        assert_eq!(content, [7, 229, 155, 235, 131, 104]);
        assert_eq!(tag, [87, 130, 59, 233, 87, 194, 83, 151, 140, 109, 190, 180, 237, 241, 53, 88]);
    }
}
