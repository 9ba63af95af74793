//! A file of the queue in which octets have changed: what else is in it is served, and nothing is missing without a word.
//! `ROUNDS=500 cargo test --release --test damage -- --nocapture` changes more places, and counts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::ledger::embedded::key_ring::{KeyRing, Sealing};
use otp_relay::testing::ledger::embedded::store::sled::SledStore;
use otp_relay::testing::ledger::embedded::store::{Change, Found, Store as _};
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::{EntryId, IdSource, MessageId};
use otp_relay::testing::mail::message::Content;

use crate::support::copy_folder;
use crate::support::random::Random;

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

fn open(folder: &Path) -> SledStore {
    let ring = KeyRing::open(&folder.join("keys"), Sealing::On, START).unwrap();
    SledStore::open(&folder.join("queue"), ring).unwrap()
}

fn message(ids: &IdSource) -> Arc<Message> {
    let envelope = Envelope {
        reverse_path: ReversePath::NULL,
        parameters: MailParameters::default(),
        recipients: vec![Recipient::new(Mailbox::parse("alice@example.test").unwrap())],
    };
    Arc::new(Message::new(ids.next(START), "app".into(), envelope, START..START.plus(Duration::from_secs(86400))))
}

fn content(number: usize) -> Content {
    let body = format!("\r\n{}", format!("{number:08} of a body\r\n").repeat(1 + number * 37 % 600));
    Content { head: format!("Subject: {number}\r\n").into(), body: body.into() }
}

/// A queue that has seen messages come and go, closed, and as it was before it was closed; and what is in it.
struct Filled {
    closed: tempfile::TempDir,
    open: tempfile::TempDir,
    live: BTreeSet<MessageId>,
}

fn fill(count: usize) -> Filled {
    let (closed, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ids = IdSource::with_random(|| 5);
    let mut store = open(closed.path());
    let mut live = Vec::new();
    for number in 0..count {
        let message = message(&ids);
        store.commit(&[&[Change::Accept(message.clone(), content(number))]]).unwrap();
        let entry = EntryId { message: message.id, index: 0 };
        store.commit(&[&[Change::Update(entry, Arc::default())]]).unwrap();
        live.push(message.id);
        if number % 2 == 1 {
            let gone = live.remove(number * 31 % live.len());
            store.commit(&[&[Change::Remove(gone)]]).unwrap();
        }
    }
    copy_folder(closed.path(), before.path());
    Filled { closed, open: before, live: live.into_iter().collect() }
}

/// What a start on this folder serves and what it names; everything that is served can be read.
fn served(folder: &Path) -> (BTreeSet<MessageId>, Vec<String>) {
    let mut store = open(folder);
    let (mut served, mut named) = (BTreeSet::new(), Vec::new());
    store
        .scan(&mut |found| match found {
            Found::Message(message, _) => drop(served.insert(message.id)),
            Found::Unreadable(name) => named.push(name),
            Found::Side(..) => {}
        })
        .unwrap();
    (served, named)
}

fn is_set_aside(folder: &Path) -> bool {
    let mut names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.any(|name| name.to_string_lossy().starts_with("queue.damaged-"))
}

/// Changes so many octets, beginning with one that is not zero and is neither among the first nor the last of the file.
fn damage(folder: &Path, random: &mut Random, len: usize) {
    let path = folder.join("queue/db");
    let mut octets = fs::read(&path).unwrap();
    let used = octets.iter().rposition(|octet| *octet != 0).unwrap();
    let mut places = std::iter::repeat_with(|| random.index(used - len));
    let at = places.find(|at| octets[*at] != 0).unwrap();
    for octet in &mut octets[at..at + len] {
        *octet ^= 1 << random.index(8);
    }
    fs::write(path, octets).unwrap();
}

/// Starts on a copy of the folder in which `change` changed something; how many messages are missing or have come back.
fn start_on_damaged(folder: &Path, live: &BTreeSet<MessageId>, change: impl FnOnce(&Path)) -> (usize, usize) {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    change(copy.path());
    let (served, named) = served(copy.path());
    let missing = live.difference(&served).count();
    assert!(missing == 0 || !named.is_empty() || is_set_aside(copy.path()), "{missing} are missing without a word");
    (missing, served.difference(live).count())
}

#[test]
fn what_is_whole_is_not_touched() {
    let Filled { closed, open, live } = fill(40);
    for folder in [&closed, &open] {
        assert_eq!(served(folder.path()), (live.clone(), vec![]));
        assert!(!is_set_aside(folder.path()));
    }
}

#[test]
fn one_octet_costs_no_more_than_what_stands_with_it() {
    let Filled { closed, open, live } = fill(160);
    let mut random = Random::new(1);
    let rounds = std::env::var("ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
    let (mut all_missing, mut all_back) = (0, 0);
    for (round, folder) in [&closed, &open].into_iter().cycle().take(rounds).enumerate() {
        let (missing, back) = start_on_damaged(folder.path(), &live, |copy| damage(copy, &mut random, 1));
        assert!(missing <= 3 && back <= 3, "round {round}: {missing} are missing, {back} are back");
        (all_missing, all_back) = (all_missing + missing, all_back + back);
    }
    eprintln!("{rounds} octets, {} messages each: {all_missing} missing, {all_back} back", live.len());
    for round in 0..4 {
        let (missing, back) = start_on_damaged(closed.path(), &live, |copy| damage(copy, &mut random, 4096));
        assert!(missing <= 6 && back <= 6, "round {round}: {missing} are missing, {back} are back");
    }
}

#[test]
fn what_the_engine_keeps_beside_the_messages_is_not_needed() {
    let Filled { closed, live, .. } = fill(40);
    let garbage = |name: &'static str| {
        let live = &live;
        let write = move |copy: &Path| fs::write(copy.join("queue").join(name), b"garbage: beyond repair").unwrap();
        start_on_damaged(closed.path(), live, write)
    };
    assert_eq!(garbage("conf"), (0, 0));
    assert_eq!(garbage("state"), (0, 0));
    assert_eq!(garbage("db"), (live.len(), 0), "nothing of it can be read");
    // The header of the first segment.
    let change_header = |copy: &Path| {
        let path = copy.join("queue/db");
        let mut octets = fs::read(&path).unwrap();
        octets[5] ^= 1;
        fs::write(path, octets).unwrap();
    };
    assert_eq!(start_on_damaged(closed.path(), &live, change_header), (0, 0));
}

#[test]
fn a_repair_that_was_cut_short_is_finished() {
    let Filled { closed, live, .. } = fill(40);
    let cut_short = |copy: &Path| fs::rename(copy.join("queue"), copy.join("queue.new")).unwrap();
    assert_eq!(start_on_damaged(closed.path(), &live, cut_short), (0, 0));
    let made_anew = |copy: &Path| fs::create_dir_all(copy.join("queue.new")).unwrap();
    assert_eq!(start_on_damaged(closed.path(), &live, made_anew), (0, 0));
}
