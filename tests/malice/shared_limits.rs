//! What one mailbox's refusals do to all others at the same host.

use std::time::Duration;

use otp_relay::testing::event::Kind;

use crate::malice::world::{Manner, World};

const REFUSAL: &str =
    "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages";

/// One host for all.
fn serves(_: &str) -> (String, Manner) {
    ("mx.shared.test".to_owned(), Manner::Refuses("full@", REFUSAL))
}

/// The median time of codes that come thirty a second for a while, at most `refused` codes a second being refused.
async fn median(refused: u32) -> Duration {
    let world = World::new(serves);
    let mut sent = Vec::new();
    for tick in 0..30 * 120u32 {
        let recipient = format!("user{tick}@customer{}.test", tick % 7);
        sent.push((recipient.clone(), world.now()));
        world.submit(&recipient).await;
        if tick % 30 < refused {
            world.submit("full@evil.test").await;
        }
        tokio::time::sleep(Duration::from_millis(33)).await;
    }
    // The first half is for finding out what the host allows.
    let mut costs = Vec::new();
    for (recipient, before) in sent.split_off(30 * 60) {
        costs.push(world.arrival(&recipient, before).await.unwrap_or(Duration::MAX));
    }
    costs.sort_unstable();
    assert_eq!(world.told.count(Kind::Deferred, |_| true) > 0, refused > 0);
    costs[costs.len() / 2]
}

#[tokio::test(start_paused = true)]
async fn one_full_mailbox_slows_nobody_else_at_its_host() {
    let (without, with) = (median(0).await, median(1).await);
    assert!(with <= without + without / 10, "{with:?} in place of {without:?}");
}
