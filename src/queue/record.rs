//! Messages and entries as octets, in pieces of a bounded length, and the keys under which they are stored.
//!
//! Keys: `q`, the message's id, a kind and a number; or `s`, a table and the row's key. Everything about a message is
//! in one run of keys.

use bytes::{Bytes, BytesMut};

use super::entry::{Message, Progress};
use super::store::{Found, StoreError, Table};
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// Octets of one stored value. A page holds up to some twenty values and has to stay below a quarter of a segment.
pub(super) const PIECE_LEN: usize = 4096;

pub(super) const MESSAGE: u8 = b'q';
pub(super) const SIDE: u8 = b's';
pub(super) const KIND_HEAD: u8 = 0;
pub(super) const KIND_PIECE: u8 = 1;
pub(super) const KIND_PROGRESS: u8 = 2;
/// Records that could not be read are moved behind this prefix.
pub(super) const SET_ASIDE: u8 = b'x';

/// Version of the records written by this file.
const VERSION: u8 = 1;
/// Flag of a message record: its content is sealed. Never set by this version.
const FLAG_SEALED: u8 = 1;
const HEADER_LEN: usize = 14;

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

/// The key of a side table's row.
pub(super) fn side_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[SIDE, table_number(table)], key].concat()
}

fn table_number(table: Table) -> u8 {
    match table {
        Table::Idempotency => b'i',
        Table::Budget => b'b',
        Table::Greylist => b'g',
        Table::Supersession => b'k',
        Table::Suppression => b'u',
        Table::Meta => b'm',
    }
}

pub(super) fn table_of(number: u8) -> Option<Table> {
    [Table::Idempotency, Table::Budget, Table::Greylist, Table::Supersession, Table::Suppression, Table::Meta]
        .into_iter()
        .find(|table| table_number(*table) == number)
}

/// Version, flags, length of the description, length of the header section, length of the whole record; then the
/// description in JSON, the header section and the body.
pub(super) fn encode_message(message: &Message, content: &Content) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_LEN + 512 + content.len());
    record.resize(HEADER_LEN, 0);
    // The description has no map with keys that are not text and nothing else that could fail.
    let _ = serde_json::to_writer(&mut record, message);
    let description_len = record.len() - HEADER_LEN;
    record.extend_from_slice(&content.head);
    record.extend_from_slice(&content.body);
    let total = record.len();
    record[0] = VERSION;
    for (at, len) in [(2, description_len), (6, content.head.len()), (10, total)] {
        record[at..at + 4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    }
    record
}

pub(super) fn decode_message(record: Bytes) -> Option<(Message, Content)> {
    if record.len() < HEADER_LEN || record[0] != VERSION || record[1] & FLAG_SEALED != 0 {
        return None;
    }
    let length = |at: usize| record[at..at + 4].try_into().ok().map(|b| u32::from_be_bytes(b) as usize);
    let (description_len, head_len, total) = (length(2)?, length(6)?, length(10)?);
    let head_at = HEADER_LEN.checked_add(description_len)?;
    let body_at = head_at.checked_add(head_len)?;
    if total != record.len() || body_at > total {
        return None;
    }
    let mut message: Message = serde_json::from_slice(&record[HEADER_LEN..head_at]).ok()?;
    message.envelope.recipients.shrink_to_fit();
    Some((message, Content { head: record.slice(head_at..body_at), body: record.slice(body_at..) }))
}

/// Version, then JSON.
pub(super) fn encode_progress(progress: &Progress) -> Result<Vec<u8>, StoreError> {
    let mut value = vec![VERSION];
    serde_json::to_writer(&mut value, progress).map_err(|e| StoreError::Failed(e.to_string()))?;
    Ok(value)
}

pub(super) fn decode_progress(value: &[u8]) -> Option<Progress> {
    match value {
        [VERSION, json @ ..] => serde_json::from_slice(json).ok(),
        _ => None,
    }
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

    pub(super) fn finish(self, visit: &mut dyn FnMut(Found), unreadable: &mut Vec<K>, orphans: &mut Vec<K>) {
        if self.keys.is_empty() {
            return;
        }
        // An update that came after the removal.
        if self.record.is_empty() && !self.is_broken {
            orphans.extend(self.keys);
            return;
        }
        match decode_message(self.record.freeze()) {
            Some((message, _)) if !self.is_broken && Some(message.id) == self.id => {
                visit(Found::Message(Box::new(message), self.entries));
            }
            _ => unreadable.extend(self.keys),
        }
    }
}
