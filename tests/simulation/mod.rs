//! The production queue, plan, sessions and workers in simulated time, against a made-up network in which mail hosts
//! greylist, refuse, stall, drop, vanish, are slow or take one connection, a disk that is full, fails a commit of which it
//! keeps a part, or cannot be read, and crashes of the relay at any moment. One number decides everything; a run that
//! breaks a law prints it, and `SEED=n cargo test --test relay simulation::laws` plays it again.
//!
//! `SEEDS=n` sets how many numbers are tried, `FIRST_SEED=n` from which on.

#![allow(clippy::wildcard_enum_match_arm, reason = "a law names the events it is about")]

mod drawn;
mod laws;
mod network;

mod attacker;
mod nodes;
mod one_node;
mod reader;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use otp_relay::testing::accounts::user::{Senders, User};
use otp_relay::testing::base::clock::{ManualClock, Timestamp};
use otp_relay::testing::base::lane::LANES;
use otp_relay::testing::event::Event;
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::IdSource;
use otp_relay::testing::queue::inspect::Filter;
use otp_relay::testing::smtp::server_session::{Protocol, Submission};
use parking_lot::Mutex;

use crate::support::in_memory::{Life, NEXT_ID};
use crate::support::random::Random;
use laws::Laws;
use network::SimulatedNetwork;
use reader::Reader;

/// `.ci/run simulation` tries many more.
const SEEDS_DEFAULT: u64 = 30;
/// The longest life of a message.
const LIFE_MAX_S: u64 = 904;
/// Sessions with one destination, few enough that entries wait.
const SESSIONS_MAX: usize = 3;
/// How far the wall clock is set from the relay's time, in milliseconds.
const STEPS_MS: [i64; 5] = [-86_400_000, -600_000, 0, 600_000, 86_400_000];
const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

/// Everything in memory is gone at once; what attempts were doing stays undone.
async fn crash(life: Life, network: &SimulatedNetwork, laws: &Laws) {
    network.cut_all();
    laws.crashed();
    life.end().await;
}

/// The whole of one seed.
async fn play(seed: u64) {
    let mut random = Random::new(seed);
    let clock = Arc::new(ManualClock::new(START));
    let laws = Arc::new(Laws::new(clock.clone(), SESSIONS_MAX));
    let network = SimulatedNetwork::new(random.fork(), clock.clone(), laws.clone());
    let store = MemoryStore::default();
    let begin = || Life::begin_with(&store, &network, &clock, laws.clone(), SESSIONS_MAX, network.smart_hosts());
    let mut life = begin();
    let mut reader = Reader::default();
    // A crash takes up what is stored by the wall clock; here the laws go by one time from beginning to end.
    let wall_clock_is_set = random.below(4) == 0;
    for _ in 0..random.below(40) + 5 {
        laws.check();
        if random.below(3) == 0 {
            reader.read_on(&life).await;
        }
        match random.below(16) {
            0 if wall_clock_is_set => clock.set_wall_clock(STEPS_MS[random.index(STEPS_MS.len())]),
            0 => {
                crash(life, &network, &laws).await;
                life = begin();
            }
            1 => store.set_failing(true),
            13 | 14 => store.fail_next(random.index(4)),
            15 => store.hide_content(),
            2 => steer(&life, &mut random, &laws).await,
            3 | 4 => tokio::time::sleep(Duration::from_millis(random.below(60_000))).await,
            _ => {
                if random.below(3) == 0 {
                    store.heal();
                }
                submit(&life, &store, &mut random, &laws).await;
                tokio::time::sleep(Duration::from_millis(random.below(500))).await;
            }
        }
    }
    store.heal();
    // What was refused may live too, where a commit failed and a crash came. The answer to a final dot may be awaited for ten
    // minutes beyond the end of life.
    tokio::time::sleep(Duration::from_secs(LIFE_MAX_S + 700)).await;
    life.queue.flush().await.unwrap();
    laws.at_the_end();
    reader.read_on(&life).await;
    reader.at_the_end(&store, &laws);
    let depth = life.queue.depth();
    assert_eq!(depth.messages, 0, "{depth:?} is left: {:?}", life.queue.list(&Filter::default(), 5).messages);
    assert!(store.is_empty(), "{} messages are left on disk", store.len());
    crash(life, &network, &laws).await;
}

/// An app takes a message back, or an operator hurries one.
async fn steer(life: &Life, random: &mut Random, laws: &Laws) {
    let Some(id) = laws.id(random.index(1000)) else { return };
    if random.below(2) == 0 {
        // An attempt may begin before the call returns.
        laws.hurried(id);
        life.queue.retry_now(&Filter::of_message(id), laws.now());
        return;
    }
    let cancelled = life.queue.cancel(&Filter::of_message(id), laws.now());
    if life.queue.flush().await.is_ok() {
        laws.taken_back(&cancelled);
    }
}

/// Submits a message to a few recipients.
async fn submit(life: &Life, store: &MemoryStore, random: &mut Random, laws: &Laws) {
    let user = User {
        name: "app".into(),
        senders: Senders::Patterns(vec!["*@app.test".into()]),
        lane: LANES[random.index(LANES.len())],
        life: Duration::from_secs(5 + random.below(LIFE_MAX_S - 4)),
        ..User::unlimited("app")
    };
    let recipients: Vec<Recipient> = (0..=random.below(3))
        .map(|number| {
            let address = format!("user{number}-{}@d{}.test", random.below(5), random.below(4));
            Recipient::new(Mailbox::parse(&address).unwrap())
        })
        .collect();
    let number = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let content = format!("From: otp@app.test\r\nX-Number: {number}\r\n\r\ncode\r\n");
    let submission = Submission {
        envelope: Envelope {
            reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: recipients.clone(),
        },
        content: content.into(),
        client_name: "app.test".into(),
        protocol: Protocol { extended: true, utf8: false, encrypted: false, authenticated: true, http: false },
    };
    let before = laws.now();
    let client: Option<IpAddr> = None;
    let key: Option<Arc<str>> = (random.below(2) == 0).then(|| format!("login:{}", random.below(2)).into());
    let idempotency_key = (random.below(4) == 0).then(|| format!("once:{}", random.below(3)).into());
    let options = Options { key: key.clone(), idempotency_key, ..Options::default() };
    let Ok(receipt) = life.door.submit(&user, submission, options, client).await else { return };
    life.delivery.take_up(receipt.offered);
    if receipt.repeat_of.is_some() {
        laws.repeated(receipt.id, store.holds(receipt.id));
        return;
    }
    let expires_at = before.plus(user.life);
    laws.acknowledged(receipt.id, number, &recipients, expires_at, key);
}

/// Held while a run lasts: ids are numbered through.
static ALONE: Mutex<()> = Mutex::new(());

fn run(seed: u64) {
    let _alone = ALONE.lock();
    NEXT_ID.store(0, Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(seed))));
    if let Err(panic) = played {
        eprintln!("the law was broken with SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn laws_hold_for_every_seed() {
    if let Some(seed) = number("SEED") {
        return run(seed);
    }
    let first = number("FIRST_SEED").unwrap_or(0);
    for seed in first..first + number("SEEDS").unwrap_or(SEEDS_DEFAULT) {
        run(seed);
    }
    assert!(laws::delivered_by_smart_hosts() > 0, "no smart host carried anything");
}

/// A law that cannot be broken proves nothing: a host that takes mail twice must be noticed.
#[test]
#[should_panic(expected = "arrived twice")]
fn the_laws_can_be_broken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let laws = Laws::new(Arc::new(ManualClock::new(START)), SESSIONS_MAX);
        let recipient = Recipient::new(Mailbox::parse("user@d0.test").unwrap());
        let id = IdSource::with_random(|| 1).next(START);
        laws.acknowledged(id, 7, std::slice::from_ref(&recipient), START.plus(Duration::from_secs(60)), None);
        laws.arrived(7, "user@d0.test", 1);
        laws.arrived(7, "user@d0.test", 2);
        laws.at_the_end();
    });
}

/// Nor may content be sent while it is under way elsewhere.
#[test]
#[should_panic(expected = "is under way twice")]
fn content_in_two_sessions_is_noticed() {
    let laws = Laws::new(Arc::new(ManualClock::new(START)), SESSIONS_MAX);
    laws.content_leaves(1, 7, "user@d0.test");
    laws.content_leaves(2, 7, "other@d0.test");
    laws.content_ended(1);
    laws.content_leaves(3, 7, "user@d0.test");
    laws.check();
    laws.content_leaves(4, 7, "user@d0.test");
    laws.check();
}

/// Used by the laws: which entry an event is about.
type Entries<T> = HashMap<(otp_relay::testing::mail::id::MessageId, u16), T>;

fn key(event: &Event) -> Option<(otp_relay::testing::mail::id::MessageId, u16)> {
    event.head.entry.map(|index| (event.head.id, index))
}
