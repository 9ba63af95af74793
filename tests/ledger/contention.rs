//! Eight writers on three hundred keys, on threads of their own: no key twice, no budget exceeded, one live entry a slot and
//! that the newest, no deadlock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::event::Kind;
use otp_relay::testing::ledger::accept::{BudgetAsk, BudgetLimit, KeyOf, NewMessage, Refused, Repeated, Stored};
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::read::Page;
use otp_relay::testing::mail::id::{EntryId, MessageId};
use parking_lot::Mutex;

use super::{Engine, World, attempt, budget_ask, key, known_by};
use crate::support::random::Random;

const WRITERS: u64 = 8;
const KEYS: u64 = 300;
const BUDGET: u32 = 8;

#[derive(Default)]
struct Seen {
    /// By key: what was accepted under it.
    keys: HashMap<u64, Vec<MessageId>>,
    /// By budget: places taken.
    budgets: HashMap<u64, u32>,
    /// By slot: the newest, by its place in the order.
    slots: HashMap<u64, (u64, EntryId)>,
    refused: HashMap<&'static str, u64>,
}

fn message(world: &World, random: &mut Random) -> (NewMessage, [u64; 3]) {
    let [once, budget, slot] = [random.below(KEYS * 8), random.below(KEYS), random.below(KEYS)];
    let address = format!("user{slot}@one.test");
    let own = Some(BudgetLimit { count: BUDGET, most: BUDGET, span: Duration::from_secs(86_400) });
    let ask = BudgetAsk { own, is_repeatable: true, ..budget_ask(key(KeyOf::Budget, &budget.to_string())) };
    let new = NewMessage {
        idempotency: Some(known_by(key(KeyOf::Idempotency, &once.to_string()), 1, 1)),
        budgets: vec![ask],
        ..world.message(&[address.as_str()])
    };
    let new = world.taking_slot("login", new);
    (new, [once, budget, slot])
}

async fn write(world: Arc<World>, seen: Arc<Mutex<Seen>>, writer: u64, rounds: u64) {
    let mut random = Random::new(writer);
    for _ in 0..rounds {
        let (new, [once, budget, slot]) = message(&world, &mut random);
        let id = EntryId { message: new.message.id, index: 0 };
        // On a machine that has no time for heartbeats a lease may be over for a moment.
        let accepted = loop {
            match world.ledger.accept(new.clone()).await {
                Err(Refused::Unavailable(Stored::No)) => tokio::task::yield_now().await,
                answer => break answer,
            }
        };
        match accepted {
            Ok(accepted) => {
                world.replaced(&accepted).await;
                let mut seen = seen.lock();
                seen.keys.entry(once).or_default().push(id.message);
                *seen.budgets.entry(budget).or_default() += 1;
                let newest = seen.slots.entry(slot).or_insert((accepted.sequence, id));
                *newest = (*newest).max((accepted.sequence, id));
            }
            Err(refused) => {
                let name = match refused {
                    Refused::Repeats(Repeated::Same(_)) => "repeat",
                    Refused::Budget(_) => "budget",
                    Refused::Repeats(Repeated::Other | Repeated::OtherDay { .. })
                    | Refused::Suppressed(_)
                    | Refused::Full
                    | Refused::Failed
                    | Refused::Unavailable(_) => {
                        panic!("{refused:?}")
                    }
                };
                *seen.lock().refused.entry(name).or_default() += 1;
            }
        }
        if random.below(8) == 0 {
            let end = world.end(&new.message, 0, Kind::Delivered, Vec::new());
            // It may have been superseded.
            let _ = world.ledger.settle(attempt(id, 1), end).await;
        }
    }
}

async fn many_writers(engine: Engine, rounds: u64) {
    let world = Arc::new(engine.begin(1_000_000).await);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(world.clone(), seen.clone(), writer, rounds))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = std::mem::take(&mut *seen.lock());
    assert!(seen.keys.values().all(|accepted| accepted.len() == 1), "a key was taken twice");
    assert!(seen.budgets.values().all(|taken| *taken <= BUDGET), "a budget was exceeded");
    assert!(seen.refused["repeat"] > 0 && seen.refused["budget"] > 0, "{:?}", seen.refused);
    let page = Page { after: None, most: usize::MAX };
    let live = world.ledger.find(Filter::default(), page);
    let live: HashSet<EntryId> = live.await.unwrap().messages.iter().map(|message| message.entries[0].id).collect();
    let newest: HashSet<EntryId> = seen.slots.values().map(|(_, id)| *id).collect();
    assert!(live.is_subset(&newest), "an entry lives that is not the newest of its slot");
    let kinds = world.kinds().await;
    let ends = kinds.iter().filter(|kind| kind.is_end()).count();
    let accepted = kinds.iter().filter(|kind| **kind == Kind::Accepted).count();
    assert_eq!(accepted, ends + live.len(), "each entry lives or ended once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_writers_on_three_hundred_keys_in_memory() {
    many_writers(Engine::Memory, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_writers_on_three_hundred_keys_of_one_node() {
    many_writers(Engine::Embedded, 500).await;
}

/// With a sync a commit, and several writers a commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_writers_on_three_hundred_keys_on_disk() {
    many_writers(Engine::SledOnAThread, 500).await;
}
