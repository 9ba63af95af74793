//! What happens to a code while several sessions race for it: its content is under way in one of them, whatever comes.

use std::time::Duration;

use otp_relay::testing::base::clock::Clock as _;
use otp_relay::testing::event::Kind;
use otp_relay::testing::mail::envelope::MailParameters;
use otp_relay::testing::queue::inspect::Filter;

use crate::hosts::network::{Chunking, GOOD, Manner};
use crate::hosts::{PLAIN, SECOND, World};
use crate::support::in_memory::{Bounds, Life};

const RECIPIENT: &str = "a@two.test";

fn slow(seconds: u64) -> Manner {
    Manner { rcpt_takes: Duration::from_secs(seconds), ..GOOD }
}

impl World {
    /// A code is handed in, and both hosts are being asked when this returns.
    async fn race(&self) -> Filter {
        let id = self.submit(RECIPIENT, PLAIN, MailParameters::default()).await;
        tokio::time::sleep(SECOND * 22).await;
        assert!(self.hosts.connections() >= 2, "{}", self.hosts.connections());
        Filter::of_message(id)
    }

    /// The relay stops, waiting so long for attempts under way, and starts again on what it has stored.
    async fn restarted(self, patience: Duration) -> Self {
        let Self { store, life, hosts, told, .. } = self;
        life.shut_down(patience).await;
        let life = Life::begin_within(Bounds::default(), &store, &hosts, &self.clock, told.clone(), Vec::new());
        Self { store, life, hosts, told, ..self }
    }

    fn told(&self, kind: Kind) -> usize {
        self.told.count(kind, |_| true)
    }

    /// The hosts that took the code.
    fn copies(&self) -> Vec<u8> {
        self.hosts.taken().iter().filter(|taken| taken.recipient == RECIPIENT).map(|taken| taken.host).collect()
    }
}

/// The second host takes the code and does not say so, while the first is slow.
#[tokio::test(start_paused = true)]
async fn what_goes_at_most_once_goes_once_out_of_a_race() {
    let second = Manner { offers: "PIPELINING CHUNKING", chunking: Chunking::TakenAndDropped, ..GOOD };
    let fate = async |at_most_once| {
        let world = World::within(Bounds { at_most_once, ..Bounds::default() }, &[slow(45), second.clone()]);
        let fate = world.fate(RECIPIENT).await;
        (fate.kind, fate.event.cause().map(|cause| cause.name()), world.copies())
    };
    let (kind, cause, copies) = fate(true).await;
    assert_eq!((kind, cause, copies), (Kind::Failed, Some("outcome_unknown"), vec![2]));
    let (kind, _, copies) = fate(false).await;
    assert_eq!(kind, Kind::Delivered);
    assert!(copies.len() > 1, "it is tried again: {copies:?}");
}

#[tokio::test(start_paused = true)]
async fn a_code_that_is_cancelled_in_a_race_does_not_leave() {
    let world = World::new(&[slow(30), slow(60)]);
    let filter = world.race().await;
    let cancelled = world.life.queue.cancel(&filter, world.clock.now());
    assert_eq!(cancelled.iter().map(|one| one.may_still_arrive).collect::<Vec<_>>(), [false]);
    tokio::time::sleep(SECOND * 300).await;
    assert_eq!((world.copies(), world.told(Kind::Cancelled), world.told(Kind::Delivered)), (vec![], 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_code_whose_content_is_out_may_still_arrive_when_it_is_cancelled() {
    let second = Manner { dot_takes: SECOND * 10, ..GOOD };
    let world = World::new(&[slow(30), second]);
    let filter = world.race().await;
    assert_eq!(world.copies(), [2], "its content is out");
    let cancelled = world.life.queue.cancel(&filter, world.clock.now());
    assert_eq!(cancelled.iter().map(|one| one.may_still_arrive).collect::<Vec<_>>(), [true]);
    tokio::time::sleep(SECOND * 300).await;
    assert_eq!((world.copies(), world.told(Kind::Cancelled)), (vec![2], 1), "no other session has sent it");
}

#[tokio::test(start_paused = true)]
async fn a_race_may_end_while_the_relay_stops_and_the_code_goes_once() {
    let world = World::new(&[slow(30), slow(60)]);
    world.race().await;
    let world = world.restarted(SECOND * 20).await;
    tokio::time::sleep(SECOND * 300).await;
    assert_eq!((world.copies(), world.told(Kind::Delivered)), (vec![1], 1));
}

#[tokio::test(start_paused = true)]
async fn a_race_that_is_cut_off_when_the_relay_stops_leaves_nothing_under_way() {
    let world = World::new(&[slow(30), slow(60)]);
    world.race().await;
    let world = world.restarted(SECOND).await;
    assert!(world.copies().is_empty(), "{:?}", world.copies());
    tokio::time::sleep(SECOND * 300).await;
    assert_eq!((world.copies().len(), world.told(Kind::Delivered)), (1, 1), "the next start sends it, once");
}
