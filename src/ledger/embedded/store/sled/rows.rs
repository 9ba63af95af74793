//! Which changes become which rows.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use sled::{Db, IVec};

use super::batched::Rows;
use super::engine::{BATCH_LEN, engine_error, io_error};
use super::event_rows::Writing;
use super::record::{
    KIND_HEAD, KIND_PIECE, KIND_PROGRESS, PIECE_LEN, SET_ASIDE, bucket_of, encode_message, encode_progress, message_id,
    message_key, message_prefix, side_key,
};
use crate::ledger::embedded::key_ring::KeyRing;
use crate::ledger::embedded::seal::{Bucket, SealError};
use crate::ledger::embedded::store::{Change, Found, StoreError};
use crate::mail::id::MessageId;

/// What a change counts beside its content.
const CHANGE_LEN: usize = 512;

/// A group is never split over two batches, so that it is on disk wholly or not at all; but many share one.
pub(super) fn apply(
    db: &Db,
    ring: &mut KeyRing,
    groups: &[&[Change]],
    events: &mut Writing,
    removed: &mut HashMap<MessageId, Bucket>,
) -> Result<(), StoreError> {
    let mut rows = Rows::default();
    events.begin(db, &mut rows)?;
    let mut len = 0;
    // Those that the rows tell of.
    let mut messages = HashSet::new();
    for group in groups {
        if len >= BATCH_LEN {
            events.finish_row(&mut rows);
            std::mem::take(&mut rows).apply(db)?;
            messages.clear();
            len = 0;
        }
        let before = rows.len();
        for change in *group {
            match change {
                Change::Accept(message, content) => {
                    messages.insert(message.id);
                    len += content.len();
                }
                Change::Update(entry, _) => {
                    messages.insert(entry.message);
                }
                Change::Remove(id) if messages.contains(id) => rows.take_back(&message_prefix(*id)),
                Change::Remove(_) | Change::Side(..) => {}
                Change::Event(event) => {
                    len += events.add(event, &mut rows);
                    continue;
                }
            }
            len += CHANGE_LEN;
            add_change(db, ring, &mut rows, change, removed)?;
        }
        // An event's row may be finished later, with those of other groups.
        let has_event = group.iter().any(|change| matches!(change, Change::Event(_)));
        rows.need_batch |= rows.len() > before + usize::from(!has_event);
    }
    events.finish_row(&mut rows);
    rows.apply(db)
}

/// Notes the buckets of what is `removed`.
fn add_change(
    db: &Db,
    ring: &mut KeyRing,
    rows: &mut Rows,
    change: &Change,
    removed: &mut HashMap<MessageId, Bucket>,
) -> Result<(), StoreError> {
    match change {
        Change::Accept(message, content) => {
            let bucket = ring.is_sealing().then(|| Bucket::of(message.expires_at));
            let key = bucket.map(|bucket| ring.key_for(bucket)).transpose().map_err(|e| io_error(&e))?;
            let record = encode_message(message, content, bucket.zip(key))?;
            for (number, piece) in record.chunks(PIECE_LEN).enumerate() {
                let kind = if number == 0 { KIND_HEAD } else { KIND_PIECE };
                rows.insert(message_key(message.id, kind, number)?.as_slice(), piece);
            }
        }
        Change::Update(entry, progress) => {
            let key = message_key(entry.message, KIND_PROGRESS, usize::from(entry.index))?;
            rows.insert(key.as_slice(), encode_progress(progress)?);
        }
        Change::Remove(id) => {
            for row in db.scan_prefix(message_prefix(*id)) {
                let (key, value) = row.map_err(engine_error)?;
                if key.get(17) == Some(&KIND_HEAD) {
                    removed.extend(bucket_of(&value).map(|bucket| (*id, bucket)));
                }
                rows.remove(key);
            }
        }
        Change::Side(table, key, value) => {
            let full_key = side_key(*table, key);
            match value {
                Some(value) => rows.insert(full_key, value.as_ref()),
                None => rows.remove(full_key),
            }
        }
        Change::Event(_) => {}
    }
    Ok(())
}

/// The message's record put together from its pieces; none if there is no such message.
pub(super) fn read_message_bytes(db: &Db, id: MessageId) -> Result<Option<BytesMut>, StoreError> {
    let mut record = BytesMut::new();
    for row in db.scan_prefix(message_prefix(id)) {
        let (key, value) = row.map_err(engine_error)?;
        if matches!(key.get(17), Some(&(KIND_HEAD | KIND_PIECE))) {
            record.extend_from_slice(&value);
        }
    }
    Ok(if record.is_empty() { None } else { Some(record) })
}

/// Moves a record that cannot be read out of the way of the rest, and names it.
pub(super) fn set_aside(
    db: &Db,
    key: &IVec,
    fault: Option<SealError>,
    visit: &mut dyn FnMut(Found),
) -> Result<(), StoreError> {
    if let Some(value) = db.remove(key).map_err(engine_error)? {
        db.insert([&[SET_ASIDE], key.as_ref()].concat(), value).map_err(engine_error)?;
    }
    let name = match message_id(key) {
        Some(id) => format!("{id}, record {}", key[17]),
        None => format!("row of {} bytes", key.len()),
    };
    visit(Found::Unreadable(fault.map_or(name.clone(), |fault| format!("{name}: {fault}"))));
    Ok(())
}
