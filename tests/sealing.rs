//! Content at rest: never in plain anywhere in the data directory, and beyond anybody's reach once its key is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::support::client::{Client, mail};
use crate::support::fake_mx::{FakeMx, Trick};
use crate::support::{copy_folder, start_relay_by};
use otp_relay::testing::base::clock::{ManualClock, Timestamp};
use otp_relay::testing::event::Kind;
use otp_relay::testing::ledger::embedded::key_ring::{KeyRing, Sealing};
use otp_relay::testing::ledger::embedded::store::sled::SledStore;
use otp_relay::testing::ledger::embedded::store::{Change, Found, Store};
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::IdSource;
use otp_relay::testing::mail::message::Content;

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
const MINUTE: Duration = Duration::from_secs(60);
const MARKER: &str = "hush-481516-hush";

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files in which these octets stand.
fn found_in(folder: &Path, octets: &[u8]) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| std::fs::read(path).unwrap().windows(octets.len()).any(|window| window == octets);
    let all = files(folder);
    assert!(all.len() > 1, "there is something to look into");
    all.into_iter().filter(holds).collect()
}

fn key_of(folder: &Path, expires_at: Timestamp) -> PathBuf {
    folder.join(format!("keys/{}", expires_at.as_millis() / 600_000))
}

fn open(folder: &Path, sealing: Sealing, now: Timestamp) -> SledStore {
    SledStore::open(&folder.join("queue"), KeyRing::open(&folder.join("keys"), sealing, now).unwrap()).unwrap()
}

fn message(ids: &IdSource, life: Duration) -> Arc<Message> {
    let envelope = Envelope {
        reverse_path: ReversePath::NULL,
        parameters: MailParameters::default(),
        recipients: vec![Recipient::new(Mailbox::parse("alice@example.test").unwrap())],
    };
    Arc::new(Message::new(ids.next(START), "app".into(), envelope, START..START.plus(life)))
}

fn content() -> Content {
    let body = format!("\r\n{MARKER}\r\n{}", "0123456789\r\n".repeat(2000));
    Content { head: format!("Subject: {MARKER}\r\n").into(), body: body.into() }
}

/// Ids of what is served, and what was set aside.
fn scan(store: &mut SledStore) -> (Vec<String>, Vec<String>) {
    let (mut served, mut set_aside) = (Vec::new(), Vec::new());
    let mut visit = |found| match found {
        Found::Message(message, _) => served.push(message.id.to_string()),
        Found::Unreadable(name) => set_aside.push(name),
        Found::Side(..) => {}
    };
    store.scan(&mut visit).unwrap();
    (served, set_aside)
}

#[test]
fn sealed_content_is_not_on_disk_in_plain_and_is_read_back() {
    for (sealing, places) in [(Sealing::On, 0), (Sealing::Off, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let message = message(&IdSource::new(), 10 * MINUTE);
        let mut store = open(folder.path(), sealing, START);
        store.commit(&[&[Change::Accept(message.clone(), content())]]).unwrap();
        drop(store);
        assert_eq!(found_in(folder.path(), MARKER.as_bytes()).len(), places);
        // What is stored is read back whatever is said about new content.
        for now in [Sealing::On, Sealing::Off] {
            let mut store = open(folder.path(), now, START);
            assert_eq!(scan(&mut store), (vec![message.id.to_string()], vec![]));
            assert_eq!(store.content(message.id).unwrap(), Some(content()));
        }
    }
}

#[test]
fn without_its_key_a_message_is_set_aside_and_the_rest_is_served() {
    let ids = IdSource::new();
    let [near, middle, far] = [10, 20, 90].map(|minutes| message(&ids, minutes * MINUTE));
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), Sealing::On, START);
    let accept = [&near, &middle, &far].map(|message| Change::Accept(message.clone(), content()));
    store.commit(&[&accept]).unwrap();
    drop(store);
    // Another is made in its place at once.
    std::fs::remove_file(key_of(folder.path(), middle.expires_at)).unwrap();
    std::fs::remove_file(key_of(folder.path(), far.expires_at)).unwrap();
    let mut store = open(folder.path(), Sealing::On, START);
    let (served, set_aside) = scan(&mut store);
    assert_eq!(served, [near.id.to_string()]);
    let told = |what: String| set_aside.contains(&what);
    assert!(told(format!("{}, record 0: its content is not what was sealed", middle.id)), "{set_aside:?}");
    assert!(told(format!("{}, record 0: the key of its content is missing", far.id)), "{set_aside:?}");
    assert_eq!(store.content(near.id).unwrap(), Some(content()));
    assert_eq!(scan(&mut store), (served, vec![]), "it is told once");
}

/// Nobody needs the key of a life that is over; that it is over is still to be told.
#[test]
fn what_ended_while_nothing_ran_is_found_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let message = message(&IdSource::new(), 10 * MINUTE);
    open(folder.path(), Sealing::On, START).commit(&[&[Change::Accept(message.clone(), content())]]).unwrap();
    let mut store = open(folder.path(), Sealing::On, START.plus(30 * MINUTE));
    assert!(!key_of(folder.path(), message.expires_at).exists());
    assert_eq!(scan(&mut store), (vec![message.id.to_string()], vec![]));
    assert!(store.content(message.id).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_beyond_reach_after_its_life() {
    let (folder, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = folder.path().join("data");
    let mx = FakeMx::start(&["PIPELINING"]).await;
    mx.trick("content", Trick::Say("451 4.3.0 try again"), 1);
    let clock = Arc::new(ManualClock::new(START));
    let (relay, mut events) = start_relay_by(clock, folder.path(), mx.address, "");
    let mut app = Client::connect(relay.addresses()[0]).await;
    let reply = app.submit(&["alice@example.test"], &format!("{}\r\n{MARKER}\r\n", mail(MARKER))).await;
    assert!(reply.starts_with("250"), "{reply}");
    let expires_at = events.next(Kind::Deferred).await.head.expires_at;
    relay.queue().flush().await.unwrap();
    let key = std::fs::read(key_of(&data, expires_at)).unwrap();
    copy_folder(&data, image.path());
    assert!(found_in(image.path(), MARKER.as_bytes()).is_empty());
    relay.shut_down().await;

    let clock = Arc::new(ManualClock::new(START.plus(30 * MINUTE)));
    let (relay, mut events) = start_relay_by(clock, folder.path(), mx.address, "");
    assert_eq!(events.next_end().await.kind(), Kind::Expired);
    relay.shut_down().await;
    assert!(found_in(&data, MARKER.as_bytes()).is_empty());
    assert!(found_in(&data, &key[8..40]).is_empty());
    // The database of then with the keys of now.
    std::fs::remove_dir_all(image.path().join("keys")).unwrap();
    copy_folder(&data.join("keys"), &image.path().join("keys"));
    let (served, set_aside) = scan(&mut open(image.path(), Sealing::Off, START));
    assert!(served.is_empty());
    assert!(set_aside[0].ends_with("the key of its content is missing"), "{set_aside:?}");
}
