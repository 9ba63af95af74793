use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::ledger::embedded::key_ring::Sealing;
use crate::ledger::entry::{Message, Progress};
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::id::{EntryId, IdSource};
use crate::mail::message::Content;

static IDS: std::sync::LazyLock<IdSource> = std::sync::LazyLock::new(IdSource::new);

fn message(recipients: usize) -> Arc<Message> {
    let id = IDS.next(Timestamp::from_millis(1_795_255_200_000));
    let mailbox = |n: usize| Recipient::new(Mailbox::parse(&format!("user{n}@example.com")).unwrap());
    let envelope = Envelope {
        reverse_path: ReversePath::NULL,
        parameters: MailParameters::default(),
        recipients: (0..recipients).map(mailbox).collect(),
    };
    let life = Timestamp::from_millis(1_795_255_200_000)..Timestamp::from_millis(1_795_255_800_000);
    Arc::new(Message::new(id, "shop".into(), envelope, life))
}

fn key_ring(folder: &Path, sealing: Sealing) -> KeyRing {
    KeyRing::open(&folder.join("keys"), sealing, Timestamp::from_millis(1_795_255_200_000)).unwrap()
}

fn open(folder: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(&folder.join("queue"), key_ring(folder, Sealing::On))
}

fn content(len: usize) -> Content {
    let body: Vec<u8> = (0..len).map(|i| (i * 7919 % 251) as u8).collect();
    Content { head: Bytes::from_static(b"From: a@example.com\r\n"), body: body.into() }
}

type Scanned = (Vec<(Message, Vec<(u16, Progress)>)>, Vec<String>);

fn scan(store: &mut SledStore) -> Scanned {
    let (mut messages, mut unreadable) = (Vec::new(), Vec::new());
    store
        .scan(&mut |found| match found {
            Found::Message(message, entries) => messages.push((*message, entries)),
            Found::Unreadable(name) => unreadable.push(name),
            Found::Side(..) => {}
        })
        .unwrap();
    (messages, unreadable)
}

#[test]
fn what_is_committed_is_found_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (message(1), message(100));
    let progress = Progress { attempts: 2, cause: Some(Cause::Greylisted), ..Progress::default() };
    let entry = EntryId { message: large.id, index: 7 };
    {
        let mut store = open(folder.path()).unwrap();
        store
            .commit(&[
                &[Change::Accept(small.clone(), content(100))],
                &[
                    Change::Accept(large.clone(), content(1 << 20)),
                    Change::Update(entry, Arc::new(progress.clone())),
                    Change::Side(Table::Budget, b"k".as_slice().into(), Some(b"v".as_slice().into())),
                ],
            ])
            .unwrap();
    }
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.content(small.id).unwrap(), Some(content(100)));
    assert_eq!(store.content(large.id).unwrap(), Some(content(1 << 20)));
    let (messages, unreadable) = scan(&mut store);
    assert_eq!(messages, [((*small).clone(), vec![]), ((*large).clone(), vec![(7, progress)])]);
    assert!(unreadable.is_empty());
    store.commit(&[&[Change::Remove(small.id), Change::Remove(large.id)]]).unwrap();
    assert_eq!(store.content(large.id).unwrap(), None);
    assert!(scan(&mut store).0.is_empty());
}

/// Were they on one leaf, events of 60 KB would be written again with every tenth change of a message.
#[test]
fn a_message_that_comes_and_goes_writes_no_events_anew() {
    let written = |part: bool| {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        let db = store.db().unwrap();
        if !part {
            let rows: Vec<IVec> = db.scan_prefix([record::PARTING]).keys().map(Result::unwrap).collect();
            rows.into_iter().for_each(|key| drop(db.remove(key).unwrap()));
        }
        (0..15_u8).for_each(|number| drop(db.insert([record::EVENT, number], vec![7; 4000]).unwrap()));
        db.flush().unwrap();
        let before = db.size_on_disk().unwrap();
        for _ in 0..400 {
            let message = message(1);
            store.commit(&[&[Change::Accept(message.clone(), content(100))]]).unwrap();
            store.commit(&[&[Change::Remove(message.id)]]).unwrap();
        }
        store.db().unwrap().size_on_disk().unwrap() - before
    };
    let (parted, together) = (written(true), written(false));
    assert!(parted * 2 < together, "{parted} and {together} octets");
}

/// What a failed commit left is set right by one group, which may undo what it adds itself.
#[test]
fn what_a_group_adds_and_removes_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let (kept, gone, old) = (message(1), message(1), message(1));
    store.commit(&[&[Change::Accept(old.clone(), content(9000))]]).unwrap();
    let progress = Arc::<Progress>::default();
    store
        .commit(&[&[
            Change::Accept(gone.clone(), content(9000)),
            Change::Update(EntryId { message: gone.id, index: 0 }, progress.clone()),
            Change::Accept(kept.clone(), content(100)),
            Change::Update(EntryId { message: old.id, index: 0 }, progress),
            Change::Remove(gone.id),
            Change::Remove(old.id),
        ]])
        .unwrap();
    assert_eq!(scan(&mut store), (vec![((*kept).clone(), vec![])], vec![]));
}

/// sled keeps pages beyond a quarter of a segment in files that nothing syncs.
#[test]
fn no_page_becomes_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    for _ in 0..8 {
        let large: Vec<Change> = (0..4).map(|_| Change::Accept(message(100), content(1 << 20))).collect();
        let groups: Vec<&[Change]> = large.chunks(1).collect();
        store.commit(&groups).unwrap();
    }
    let blobs = fs::read_dir(folder.path().join("queue/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}

#[test]
fn space_is_given_back_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let kept = message(1);
    store.commit(&[&[Change::Accept(kept.clone(), content(5000))]]).unwrap();
    let gone: Vec<Change> = (0..8).map(|_| Change::Accept(message(1), content(1 << 20))).collect();
    store.commit(&[&gone]).unwrap();
    let len = |folder: &Path| fs::metadata(folder.join("queue/db")).unwrap().len();
    store.give_back(1 << 20, usize::MAX).unwrap();
    assert!(len(folder.path()) > 8 << 20, "all of it is live");
    for change in &gone {
        let Change::Accept(message, _) = change else { continue };
        store.commit(&[&[Change::Remove(message.id)]]).unwrap();
    }
    store.give_back(1 << 20, 1).unwrap();
    assert!(len(folder.path()) > 8 << 20, "there are more rows than may be copied");
    store.give_back(1 << 20, usize::MAX).unwrap();
    assert!(len(folder.path()) <= 1 << 20, "{}", len(folder.path()));
    for _ in 0..2 {
        assert_eq!(scan(&mut store), (vec![((*kept).clone(), vec![])], vec![]));
        assert_eq!(store.content(kept.id).unwrap(), Some(content(5000)));
        drop(store);
        store = open(folder.path()).unwrap();
    }
    assert!(!folder.path().join("queue.new").exists());
}

/// A crash came while it was copied, or before the old one was removed.
#[test]
fn what_is_left_of_a_copy_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("queue.new")).unwrap();
    let _store = open(folder.path()).unwrap();
    assert!(!folder.path().join("queue.new").exists());
}

/// The sentence names the format; nothing is changed, so that the newer program goes on with it.
#[test]
fn what_a_newer_program_wrote_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let (key, newer) = (FORMAT_ROW, b"9999\n".as_slice());
    assert!(scan(&mut store).0.is_empty(), "the row is nobody's");
    store.commit(&[&[Change::Side(Table::Meta, key.into(), Some(newer.into()))]]).unwrap();
    drop(store);
    for _ in 0..2 {
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it has format 9999, which a newer otp-relay wrote"), "{error}");
    }
}

#[test]
fn a_second_process_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::InUse(_))));
}

#[test]
fn leftovers_of_a_snapshot_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    fs::write(folder.path().join("queue/snap.00000001.generating"), b"half").unwrap();
    assert!(open(folder.path()).is_ok());
}

#[test]
fn half_a_first_start_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("queue")).unwrap();
    fs::write(folder.path().join("queue/conf"), b"segment_size: 52").unwrap();
    drop(open(folder.path()).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the keys and the queue");
}

#[test]
fn after_a_failed_commit_the_rest_can_be_read_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let kept = message(1);
    let in_an_hour = kept.expires_at.plus(Duration::from_secs(3600));
    let refused = Arc::new(Message { expires_at: in_an_hour, ..(*message(1)).clone() });
    let mut store = open(folder.path()).unwrap();
    store.commit(&[&[Change::Accept(kept.clone(), content(100))]]).unwrap();
    let (keys, away) = (folder.path().join("keys"), folder.path().join("away"));
    fs::rename(&keys, &away).unwrap();
    let accept = [Change::Accept(refused.clone(), content(9))];
    assert!(store.commit(&[&accept]).is_err(), "its key cannot be made");
    assert!(store.commit(&[&[Change::Remove(kept.id)]]).is_err(), "nothing goes on before it has recovered");
    assert_eq!(store.content(kept.id).unwrap(), Some(content(100)));
    fs::rename(&away, &keys).unwrap();
    store.recover().unwrap();
    assert_eq!(scan(&mut store).0, [((*kept).clone(), vec![])]);
    store.commit(&[&accept]).unwrap();
    assert_eq!(store.content(refused.id).unwrap(), Some(content(9)));
}

#[test]
fn a_record_that_cannot_be_read_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (message(1), message(1));
    let mut store = open(folder.path()).unwrap();
    store.commit(&[&[Change::Accept(good.clone(), content(9)), Change::Accept(bad.clone(), content(9))]]).unwrap();
    let key = message_key(bad.id, KIND_HEAD, 0).unwrap();
    store.db().unwrap().insert(&key, b"\x01garbage").unwrap();
    let (messages, unreadable) = scan(&mut store);
    assert_eq!(messages.len(), 1);
    assert_eq!(unreadable, [format!("{}, record 0", bad.id)]);
    assert!(scan(&mut store).1.is_empty());
}

#[test]
fn a_message_accepted_and_removed_by_one_commit_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let (stays, goes) = (message(1), message(1));
    let accept = [stays.clone(), goes.clone()].map(|message| Change::Accept(message, content(5000)));
    store.commit(&[&accept[..1], &accept[1..], &[Change::Remove(goes.id)]]).unwrap();
    assert_eq!(scan(&mut store).0, [((*stays).clone(), vec![])]);
}

#[test]
fn a_removed_message_leaves_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    let message = message(3);
    let entry = EntryId { message: message.id, index: 1 };
    let before = store.db().unwrap().len();
    store.commit(&[&[Change::Accept(message.clone(), content(20_000))]]).unwrap();
    store.commit(&[&[Change::Update(entry, Arc::default())]]).unwrap();
    store.commit(&[&[Change::Remove(message.id)]]).unwrap();
    assert_eq!(store.db().unwrap().len(), before);
}
