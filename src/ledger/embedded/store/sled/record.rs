//! Messages and entries as octets, in pieces of a bounded length, and the keys under which they are stored.
//!
//! Keys: `q`, the message's id, a kind and a number; or `s`, a table and the row's key. Everything about a message is
//! in one run of keys. Events have a file of their own (`event_rows.rs`).

use bytes::BytesMut;

use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::seal::{Bucket, BucketKey, SealError, TAG_LEN};
use crate::ledger::embedded::store::{Found, StoreError, Table};
use crate::ledger::entry::{Message, Progress};
use crate::mail::id::MessageId;
use crate::mail::message::{Content, wiped};

/// Octets of one stored value. A page holds up to some twenty values and has to stay below a quarter of a segment.
pub(super) const PIECE_LEN: usize = 4096;

pub(super) const MESSAGE: u8 = b'q';
pub(super) const SIDE: u8 = b's';
pub(super) const EVENT: u8 = b'e';
/// Rows without content, between events and messages.
pub(super) const PARTING: u8 = b'p';
pub(super) const KIND_HEAD: u8 = 0;
pub(super) const KIND_PIECE: u8 = 1;
pub(super) const KIND_PROGRESS: u8 = 2;
/// The row of the format, among the facts about the store itself; no other row there has this name.
pub(super) const FORMAT_ROW: &[u8] = b"format";
/// Records that could not be read are moved behind this prefix.
pub(super) const SET_ASIDE: u8 = b'x';

/// Version of the records written by this file.
const VERSION: u8 = 1;
/// Flag of a message record: its content is sealed, and its bucket follows the header.
const FLAG_SEALED: u8 = 1;
const HEADER_LEN: usize = 14;
const BUCKET_LEN: usize = 4;

pub(super) fn message_prefix(id: MessageId) -> [u8; 17] {
    let mut prefix = [MESSAGE; 17];
    prefix[1..].copy_from_slice(&id.to_bytes());
    prefix
}

pub(super) fn message_key(id: MessageId, kind: u8, number: usize) -> Result<Vec<u8>, StoreError> {
    let number = u16::try_from(number).map_err(|_| StoreError::Failed("a message of too many pieces".into()))?;
    Ok([&message_prefix(id)[..], &[kind], &number.to_be_bytes()].concat())
}

pub(super) fn message_id(key: &[u8]) -> Option<MessageId> {
    if key.len() != 20 {
        return None;
    }
    key.get(1..17)?.try_into().ok().map(MessageId::from_bytes)
}

/// Whether octets can be the key of a row.
pub(super) fn is_key(key: &[u8]) -> bool {
    match key.first() {
        Some(&MESSAGE) => message_id(key).is_some(),
        Some(&SIDE) => key.get(1).copied().and_then(table_of).is_some(),
        Some(&EVENT) => matches!(key.len(), 1 | 9),
        Some(&PARTING) => key.len() == 2,
        Some(&SET_ASIDE) => true,
        _ => false,
    }
}

/// The key of a side table's row.
pub(super) fn side_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[SIDE, table_number(table)], key].concat()
}

fn table_number(table: Table) -> u8 {
    match table {
        Table::Idempotency => b'i',
        Table::Budget => b'b',
        Table::Greylist => b'g',
        Table::Suppression => b'u',
        Table::Verification => b'v',
        Table::Meta => b'm',
        Table::Ledger => b'l',
    }
}

pub(super) fn table_of(number: u8) -> Option<Table> {
    Table::ALL.into_iter().find(|table| table_number(*table) == number)
}

/// Version, flags, length of the description, length of the header section, length of the whole record, and the bucket
/// where it is sealed; then the description in JSON, the header section and the body, and the seal's tag behind them.
pub(super) fn encode_message(
    message: &Message,
    content: &Content,
    seal: Option<(Bucket, &BucketKey)>,
) -> Result<Vec<u8>, StoreError> {
    let mut record = Vec::with_capacity(HEADER_LEN + BUCKET_LEN + 512 + content.len() + TAG_LEN);
    record.resize(HEADER_LEN, 0);
    if let Some((bucket, _)) = seal {
        record.extend_from_slice(&bucket.0.to_be_bytes());
    }
    let description_at = record.len();
    serde_json::to_writer(&mut record, message).map_err(|e| StoreError::Failed(e.to_string()))?;
    let head_at = record.len();
    record.extend_from_slice(&content.head);
    record.extend_from_slice(&content.body);
    let total = record.len() + if seal.is_some() { TAG_LEN } else { 0 };
    record[0] = VERSION;
    record[1] = if seal.is_some() { FLAG_SEALED } else { 0 };
    for (at, len) in [(2, head_at - description_at), (6, content.head.len()), (10, total)] {
        record[at..at + 4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    }
    if let Some((_, key)) = seal {
        let (context, content) = record.split_at_mut(head_at);
        let tag = key.seal(message.id, context, content);
        record.extend_from_slice(&tag.ok_or_else(|| StoreError::Failed("content cannot be sealed".into()))?);
    }
    Ok(record)
}

/// A message record as it is read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) message: Message,
    /// Under which bucket's key it is sealed.
    pub(super) bucket: Option<Bucket>,
    pub(super) content: Result<Content, SealError>,
}

pub(super) fn decode_message<'k>(
    mut record: BytesMut,
    key: impl FnOnce(Bucket) -> Option<&'k BucketKey>,
) -> Option<Decoded> {
    let bucket = bucket_of(&record);
    if record.len() < HEADER_LEN || record[0] != VERSION || record[1] & !FLAG_SEALED != 0 {
        return None;
    }
    let length = |at: usize| number(&record, at).map(|len| len as usize);
    let (description_len, head_len, total) = (length(2)?, length(6)?, length(10)?);
    let (before, behind) = if bucket.is_some() { (HEADER_LEN + BUCKET_LEN, TAG_LEN) } else { (HEADER_LEN, 0) };
    let head_at = before.checked_add(description_len)?;
    let body_at = head_at.checked_add(head_len)?;
    if total != record.len() || body_at > total.checked_sub(behind)? {
        return None;
    }
    let mut message: Message = serde_json::from_slice(&record[before..head_at]).ok()?;
    message.envelope.recipients.shrink_to_fit();
    let (context, sealed) = record.split_at_mut(head_at);
    let opened = bucket.map_or(Ok(()), |bucket| key(bucket).ok_or(SealError::NoKey)?.open(message.id, context, sealed));
    let record = wiped(record);
    let content =
        opened.map(|()| Content { head: record.slice(head_at..body_at), body: record.slice(body_at..total - behind) });
    Some(Decoded { message, bucket, content })
}

/// Under which bucket's key a record is sealed; its first piece will do.
pub(super) fn bucket_of(record: &[u8]) -> Option<Bucket> {
    match record {
        [VERSION, FLAG_SEALED, ..] => number(record, HEADER_LEN).map(Bucket),
        _ => None,
    }
}

fn number(record: &[u8], at: usize) -> Option<u32> {
    record.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Version, then JSON.
///
/// # Errors
/// When it cannot be written down.
pub fn encode_progress(progress: &Progress) -> Result<Vec<u8>, StoreError> {
    let mut value = vec![VERSION];
    serde_json::to_writer(&mut value, progress).map_err(|e| StoreError::Failed(e.to_string()))?;
    Ok(value)
}

/// The reverse of [`encode_progress`]; none if it cannot be read.
pub fn decode_progress(value: &[u8]) -> Option<Progress> {
    match value {
        [VERSION, json @ ..] => serde_json::from_slice(json).ok(),
        _ => None,
    }
}

/// Reads a message's record that is not sealed; none if it cannot be read.
pub fn read_message(record: &[u8]) -> Option<(Message, Content)> {
    let decoded = decode_message(record.into(), |_| None)?;
    Some((decoded.message, decoded.content.ok()?))
}

/// The reverse of [`read_message`].
///
/// # Errors
/// When it cannot be written down.
pub fn write_message(message: &Message, content: &Content) -> Result<Vec<u8>, StoreError> {
    encode_message(message, content, None)
}

/// The rows of one message during a scan, with their keys as the engine has them.
#[derive(Debug, Default)]
pub(super) struct Gathered<K> {
    pub(super) id: Option<MessageId>,
    keys: Vec<K>,
    record: BytesMut,
    entries: Vec<(u16, Progress)>,
    is_broken: bool,
}

impl<K: AsRef<[u8]> + Default> Gathered<K> {
    pub(super) fn of(id: MessageId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    pub(super) fn add(&mut self, key: K, value: &[u8]) {
        match (key.as_ref().get(17), key.as_ref().get(18..20).and_then(|number| number.try_into().ok())) {
            (Some(&(KIND_HEAD | KIND_PIECE)), _) => self.record.extend_from_slice(value),
            (Some(&KIND_PROGRESS), Some(number)) => match decode_progress(value) {
                Some(progress) => self.entries.push((u16::from_be_bytes(number), progress)),
                None => self.is_broken = true,
            },
            _ => self.is_broken = true,
        }
        self.keys.push(key);
    }

    pub(super) fn finish(self, ring: &mut KeyRing, visit: &mut dyn FnMut(Found), leftovers: &mut Leftovers<K>) {
        if self.keys.is_empty() {
            return;
        }
        // An update that came after the removal.
        if self.record.is_empty() && !self.is_broken {
            leftovers.orphans.extend(self.keys);
            return;
        }
        let decoded = decode_message(self.record, |bucket| ring.key(bucket));
        let decoded = decoded.filter(|decoded| !self.is_broken && Some(decoded.message.id) == self.id);
        let fault = match decoded {
            Some(Decoded { message, bucket, content }) => match content {
                // Of a life that is over, only the end is still to be told.
                Err(SealError::NoKey) if !bucket.is_some_and(|bucket| ring.is_past(bucket)) => Some(SealError::NoKey),
                Err(SealError::NotAuthentic) => Some(SealError::NotAuthentic),
                Ok(_) | Err(SealError::NoKey) => {
                    bucket.into_iter().for_each(|bucket| ring.found(bucket));
                    visit(Found::Message(Box::new(message), self.entries));
                    return;
                }
            },
            None => None,
        };
        leftovers.unreadable.extend(self.keys.into_iter().map(|key| (key, fault)));
    }
}

/// Rows that a scan found to be of no use.
#[derive(Debug, Default)]
pub(super) struct Leftovers<K> {
    /// They cannot be read, some for this reason.
    pub(super) unreadable: Vec<(K, Option<SealError>)>,
    /// They belong to nothing.
    pub(super) orphans: Vec<K>,
}
