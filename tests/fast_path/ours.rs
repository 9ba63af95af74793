//! Connections that fail on the relay's own machine are held against nobody.

use otp_relay::testing::event::Kind;

use crate::fast_path::network::{GOOD, Mood};
use crate::fast_path::{MX1, MX2, SECOND, World};

/// "Too many open files" on Linux and elsewhere.
const EMFILE: i32 = 24;

#[tokio::test(start_paused = true)]
async fn without_descriptors_no_destination_counts_as_down() {
    let world = World::new(&[(MX2, Mood::Fails(EMFILE))]);
    for n in 0..20 {
        world.submit(&format!("user{n}@one.test")).await;
    }
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(world.life.delivery.destinations_down(), 0);
    let deferred: Vec<_> = world.told.0.lock().iter().filter(|event| event.kind() == Kind::Deferred).cloned().collect();
    assert!(deferred.len() >= 20);
    for event in deferred {
        assert_eq!(event.reply(), Some("this machine has no free file descriptors (EMFILE)"));
        let steps = event.steps().unwrap();
        assert!(steps.iter().any(|step| step.result.ends_with("(EMFILE)")), "{steps:?}");
    }
    world.hosts.turn(MX2, Mood::Serves(GOOD));
    for n in 0..20 {
        world.hosts.arrival(&format!("user{n}@one.test")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_no_address_counts_as_silent() {
    let world = World::new(&[(MX1, Mood::Fails(EMFILE)), (MX2, Mood::Serves(GOOD))]);
    world.cost("a@two.test").await;
    world.hosts.turn(MX1, Mood::Serves(GOOD));
    // At once, so that one of them needs another session.
    let both = ["b@two.test", "c@two.test"];
    for recipient in both {
        world.submit(recipient).await;
    }
    for recipient in both {
        world.hosts.arrival(recipient).await;
    }
    let asked = world.hosts.seen("connect").iter().filter(|seen| seen.host.to_string() == MX1).count();
    assert!(asked > 1, "the preferred host is still asked first");
}

/// What one address lacks here does not hide that another host does not answer, and the other way round.
#[tokio::test(start_paused = true)]
async fn a_host_that_refuses_beside_one_that_could_not_be_asked_is_not_the_end_of_its_destination() {
    let world = World::new(&[(MX1, Mood::Fails(EMFILE)), (MX2, Mood::Refuses)]);
    for n in 0..20 {
        world.submit(&format!("user{n}@two.test")).await;
    }
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(world.life.delivery.destinations_down(), 0);
}
