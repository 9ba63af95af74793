//! One to four nodes, each the queue's half above the seam, on one ledger in memory, in simulated time: requests and answers
//! are lost or late, nodes are cut off, crash, stand still, have clocks that are hours off and run 0.5 % too fast or too slow; the database goes away, and comes
//! back without its last commits where its replication is asynchronous. One number decides everything; a run that breaks a
//! law prints it, and `NODES_SEED=n cargo test --test relay simulation::nodes`
//! plays it again.
//!
//! `NODES_SEEDS=n` sets how many numbers are tried, `NODES_FIRST_SEED=n` from which on.

mod laws;
mod owner;

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock, Step, Timestamp};
use otp_relay::testing::ledger::attempt::Target;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::memory::{Database, Faults, Replication};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::id::IdSource;

use super::drawn::{LIFE_MAX, message};
use super::number;
use crate::support::random::Random;
use laws::Laws;
use owner::Owner;

/// `.ci/run simulation` tries many more.
const SEEDS_DEFAULT: u64 = 100;
const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
const LEASE: Duration = Duration::from_millis(1200);
/// How long a process stands still, at most.
const STILL_MAX: Duration = Duration::from_secs(4);

/// What a seed decides beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub delivery: Delivery,
    pub replication: Replication,
    pub faults: Faults,
}

/// A node's own clock: hours off, and too fast or too slow.
struct OwnClock {
    inner: Arc<ManualClock>,
    origin: std::time::Instant,
    /// Parts in 1,000.
    rate: u32,
    ahead: Duration,
}

impl OwnClock {
    fn passed(&self) -> Duration {
        (self.inner.instant() - self.origin) * self.rate / 1000
    }
}

impl Clock for OwnClock {
    fn now(&self) -> Timestamp {
        START.plus(self.ahead).plus(self.passed())
    }

    fn step(&self) -> Step {
        Step::NONE
    }

    fn instant(&self) -> std::time::Instant {
        self.origin + self.passed()
    }
}

struct World {
    random: Random,
    clock: Arc<ManualClock>,
    database: Database,
    terms: Terms,
    laws: Arc<Laws>,
    owners: Vec<Option<Owner>>,
    clocks: Vec<Arc<dyn Clock>>,
    ids: IdSource,
}

fn terms(random: &mut Random) -> Terms {
    let sometimes = |random: &mut Random, most: u64| if random.below(2) == 0 { 0 } else { random.below(most) };
    Terms {
        delivery: if random.below(4) == 0 { Delivery::AtMostOnce } else { Delivery::AtLeastOnce },
        replication: if random.below(4) == 0 { Replication::Asynchronous } else { Replication::Synchronous },
        faults: Faults {
            delay_max: Duration::from_millis(sometimes(random, 60)),
            requests_lost: sometimes(random, 60),
            answers_lost: sometimes(random, 60),
            delayed: sometimes(random, 20),
        },
    }
}

impl World {
    async fn begin(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clock = Arc::new(ManualClock::new(START));
        let terms = terms(&mut random);
        let database = Database::new(clock.clone(), seed, terms.replication);
        let count = random.index(4) + 1;
        let clocks = (0..count).map(|_| {
            let rate = [995, 1000, 1005][random.index(3)];
            let ahead = Duration::from_secs(random.below(6 * 3600));
            Arc::new(OwnClock { inner: clock.clone(), origin: clock.instant(), rate, ahead }) as Arc<dyn Clock>
        });
        let clocks: Vec<_> = clocks.collect();
        let laws = Arc::new(Laws::new(terms, clock.clone(), database.clone()));
        let mut world = Self {
            random,
            clock,
            database,
            terms,
            laws,
            owners: (0..count).map(|_| None).collect(),
            clocks,
            ids: IdSource::with_random(|| 1),
        };
        for place in 0..count {
            world.start(place).await;
        }
        world.database.set_faults(terms.faults);
        world
    }

    async fn start(&mut self, place: usize) {
        let seed = self.random.next();
        let clock = self.clocks[place].clone();
        self.owners[place] = Owner::join(place, seed, &self.database, clock, self.terms, self.laws.clone()).await;
    }

    fn owner(&mut self) -> Option<&Owner> {
        let place = self.random.index(self.owners.len());
        self.owners[place].as_ref()
    }

    async fn pass(&mut self, most_ms: u64) {
        let span = Duration::from_millis(self.random.below(most_ms) + 1);
        tokio::time::sleep(span).await;
    }

    async fn step(&mut self) {
        let place = self.random.index(self.owners.len());
        match self.random.below(24) {
            0 => {
                if let Some(owner) = self.owners[place].take() {
                    owner.crash(&self.laws);
                }
            }
            1 | 2 if self.owners[place].is_none() => self.start(place).await,
            3 => {
                let span = Duration::from_millis(self.random.below(STILL_MAX.as_millis() as u64));
                if let Some(owner) = &self.owners[place] {
                    owner.stand_still(span);
                }
            }
            4 => self.database.set_cut(place as u64, true),
            5 | 6 => self.database.set_cut(place as u64, false),
            7 => self.database.set_available(false),
            8 | 9 => self.database.set_available(true),
            10 => {
                self.database.set_available(false);
                self.pass(3000).await;
                self.laws.failed_over();
                self.database.fail_over();
            }
            11 => self.cancel().await,
            12 => self.pass(8000).await,
            13 | 14 => self.hand_over().await,
            _ => self.submit().await,
        }
        self.pass(400).await;
        self.laws.check();
    }

    async fn submit(&mut self) {
        let new = message(&mut self.random, &self.ids, self.clock.now());
        let place = self.random.index(self.owners.len());
        let Some(owner) = &self.owners[place] else { return };
        owner.accept(new, &self.laws).await;
    }

    async fn cancel(&mut self) {
        let Some(id) = self.laws.some_message(self.random.next()) else { return };
        if let Some(owner) = self.owner() {
            owner.cancel(Filter::of_message(id)).await;
        }
    }

    async fn hand_over(&mut self) {
        let (number, place) = (self.random.next(), self.random.index(self.owners.len() + 1));
        // One more than there are: to whoever takes it.
        let is_node = place < self.owners.len();
        let to = if is_node { Target::Node(format!("node{place}").into()) } else { Target::Unowned };
        if let Some(owner) = self.owner() {
            owner.hand_over(number, to).await;
        }
    }

    /// All is well from now on.
    async fn heal(&mut self) {
        self.database.set_faults(Faults::default());
        self.database.set_available(true);
        for place in 0..self.owners.len() {
            self.database.set_cut(place as u64, false);
            if self.owners[place].is_none() {
                self.start(place).await;
            }
        }
        // Nodes that stood still, takeovers, and the first comparison with all that was lost.
        tokio::time::sleep(STILL_MAX + LEASE * 2 + Duration::from_secs(1)).await;
        let is_owned = |owner: &(_, _, bool)| owner.2;
        assert!(self.database.owners().iter().all(is_owned), "an entry has no owner that lives");
    }
}

async fn play(seed: u64) {
    let mut world = World::begin(seed).await;
    for _ in 0..world.random.below(50) + 5 {
        world.step().await;
    }
    world.heal().await;
    tokio::time::sleep(LIFE_MAX + Duration::from_secs(15)).await;
    world.laws.at_the_end();
    world.owners.iter_mut().filter_map(Option::take).for_each(|owner| owner.crash(&world.laws));
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(seed))));
    if let Err(panic) = played {
        eprintln!("the law was broken with NODES_SEED={seed}: {:?}", terms(&mut Random::new(seed)));
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn laws_hold_over_several_nodes() {
    if let Some(seed) = number("NODES_SEED") {
        return run(seed);
    }
    let first = number("NODES_FIRST_SEED").unwrap_or(0);
    for seed in first..first + number("NODES_SEEDS").unwrap_or(SEEDS_DEFAULT) {
        run(seed);
    }
    let seen = laws::seen();
    assert!(seen.taken_over > 0 && seen.fenced > 0 && seen.twice > 0, "{seen:?}");
}
