//! Domains behind a shared host whose mail is made to wait by whoever owns them, so that others wait too: on simulated time,
//! through the functions that the relay itself uses.

use std::time::Duration;

use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::greylist::pending::Refusal;
use otp_relay::testing::greylist::step::History;
use otp_relay::testing::greylist::table::{Greylists, Triplet};
use otp_relay::testing::policy::action::Finality;
use otp_relay::testing::policy::cause::Verdict;
use otp_relay::testing::policy::next::{Next, decide};

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
/// Who serves all the domains here.
const SHARED: &str = "mx1.host.example,mx2.host.example";

/// A relay's memory, and the time.
struct World {
    memory: Greylists,
    now: Timestamp,
    codes: u32,
}

impl World {
    fn new() -> Self {
        Self { memory: Greylists::default(), now: START, codes: 0 }
    }

    /// A code to a new recipient of a domain that takes mail after this delay: when it is taken, and in how many attempts.
    fn send(&mut self, domain: &str, delay_s: f64, life_s: u64) -> (Option<f64>, u32) {
        self.codes += 1;
        self.now = self.now.plus(Duration::from_secs(600));
        let (accepted_at, verdict) = (self.now, Verdict::of(Cause::Greylisted, Finality::Temporary));
        let triplet = Triplet::new("otp@app.example", &format!("user{}@{domain}", self.codes), SHARED);
        let expires_at = accepted_at.plus(Duration::from_secs(life_s));
        let (mut at, mut attempts) = (accepted_at, 0);
        loop {
            attempts += 1;
            let age = at.since(accepted_at).as_secs_f64();
            if age >= delay_s {
                self.memory.accepted(&triplet, at);
                return (Some(age), attempts);
            }
            let refusal = Refusal { asked: None, by: None, began: at, ended: at };
            let (wait, facts, _) = self.memory.refused(&triplet, refusal);
            let first_deferred_at = wait.first_refused_at;
            let history = History { accepted_at, expires_at, first_deferred_at, attempts, spread: 0.0 };
            match decide(verdict, &history, &facts, at) {
                (Next::At(next), _) => at = next,
                (Next::Expire | Next::GiveUp, _) => return (None, attempts),
            }
        }
    }
}

/// One zone, or as many names below it as anybody likes, that takes codes only after minutes.
fn teach_from_one_zone(world: &mut World) {
    for (number, delay_s) in [45.0, 100.0, 200.0, 210.0, 205.0, 200.0, 208.0, 212.0].into_iter().enumerate() {
        world.send("stranger.example", delay_s, 900);
        world.send(&format!("s{number}.stranger.example"), delay_s, 900);
    }
}

#[test]
fn a_zone_behind_a_shared_host_teaches_others_nothing() {
    let mut honest = World::new();
    let (without, _) = honest.send("honest.example", 9.0, 600);
    let mut world = World::new();
    teach_from_one_zone(&mut world);
    let (with, attempts) = world.send("honest.example", 9.0, 600);
    assert_eq!((with, without), (Some(16.2), Some(16.2)), "in {attempts} attempts");
    let (second, attempts) = world.send("honest.example", 9.0, 600);
    assert!(second <= with && attempts <= 4, "it has learned from itself: {second:?} in {attempts} attempts");
}

#[test]
fn a_short_life_is_not_spent_on_what_was_taught() {
    let mut world = World::new();
    teach_from_one_zone(&mut world);
    assert_eq!(world.send("honest.example", 9.0, 60).0, Some(13.2));
    // Three domains that were registered for it, and long waits that others never had.
    let mut world = World::new();
    for _ in 0..3 {
        for domain in ["one.example", "two.example", "three.example"] {
            world.send(domain, 200.0, 900);
        }
    }
    assert_eq!(world.send("honest.example", 9.0, 60).0, Some(13.2), "the steps of a short life are tried besides");
}

#[test]
fn the_first_retry_comes_no_later_than_what_passed_lately() {
    let mut world = World::new();
    world.send("honest.example", 9.0, 600);
    for _ in 0..3 {
        for domain in ["one.example", "two.example", "three.example"] {
            world.send(domain, 200.0, 900);
        }
    }
    let (taken, _) = world.send("other.example", 9.0, 600);
    assert!(taken <= Some(16.5), "{taken:?}");
}

#[test]
fn who_refuses_for_ever_teaches_others_nothing() {
    let mut world = World::new();
    for _ in 0..6 {
        for domain in ["one.example", "two.example", "three.example", "four.example"] {
            assert_eq!(world.send(domain, f64::INFINITY, 600).0, None);
        }
    }
    assert_eq!(world.send("honest.example", 9.0, 600).0, Some(16.2));
}

/// The honest case: what domains behind a filter have in common is learned once for all.
#[test]
fn a_filter_that_serves_many_domains_is_known_to_all_of_them() {
    let mut world = World::new();
    let first = world.send("one.example", 300.0, 600);
    for domain in ["two.example", "three.example"] {
        world.send(domain, 300.0, 600);
    }
    let (taken, attempts) = world.send("four.example", 300.0, 600);
    assert_eq!(first.0, Some(301.2));
    assert!(taken <= Some(301.3) && attempts < first.1, "{taken:?} in {attempts} attempts, {} at first", first.1);
}

/// A domain with hosts of its own learns from itself, as ever.
#[test]
fn a_domain_of_its_own_learns_from_itself() {
    let mut world = World::new();
    let (first, at_first) = world.send("alone.example", 250.0, 600);
    let (mut taken, mut attempts) = (first, at_first);
    for _ in 0..4 {
        (taken, attempts) = world.send("alone.example", 250.0, 600);
    }
    assert!(taken < Some(265.0) && attempts <= 4, "{taken:?} in {attempts}, {first:?} in {at_first} at first");
}
