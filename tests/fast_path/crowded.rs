//! Hosts that take one or two connections at once, and turn others away before MAIL.

use std::time::Duration;

use otp_relay::testing::event::Kind;

use crate::fast_path::network::{GOOD, Manner, Mood, TurnsAway};
use crate::fast_path::{MX1, MX2, ROUND_TRIP, SECOND, World};

fn crowded(sessions_max: usize, turns_away: TurnsAway) -> Mood {
    Mood::Serves(Manner { sessions_max, turns_away, ..GOOD })
}

const WAYS: [TurnsAway; 3] = [TurnsAway::AtBanner, TurnsAway::AtEhlo, TurnsAway::Silently];

/// When the last of twelve codes arrived that came at once.
async fn twelve(world: &World, domain: &str) -> Duration {
    let before = world.elapsed();
    let recipients = (0..12).map(|n| format!("user{n}at{}@{domain}", before.as_secs())).collect::<Vec<_>>();
    for recipient in &recipients {
        world.submit_for(SECOND * 100, recipient).await;
    }
    let mut last = Duration::ZERO;
    for recipient in &recipients {
        let arrival = world.hosts.arrival(recipient);
        last = last.max(tokio::time::timeout(SECOND * 200, arrival).await.unwrap());
    }
    last - before
}

#[tokio::test(start_paused = true)]
async fn codes_that_are_turned_away_go_next_on_the_session_that_is_there() {
    for turns_away in WAYS {
        for sessions_max in [1, 2] {
            let world = World::new(&[(MX2, crowded(sessions_max, turns_away))]);
            let last = twelve(&world, "one.test").await;
            // Three round trips each, one after the other, and the greeting.
            assert!(last <= ROUND_TRIP * 45, "{last:?} where {sessions_max} are taken");
            assert_eq!((world.told(Kind::Delivered), world.told(Kind::Deferred)), (12, 0));
            let asked = world.hosts.seen("connect").len();
            assert!(asked <= 8, "asked {asked} times");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_host_takes_what_the_first_one_turns_away() {
    let world = World::new(&[(MX1, crowded(1, TurnsAway::AtBanner)), (MX2, Mood::Serves(GOOD))]);
    let last = twelve(&world, "two.test").await;
    assert!(last <= ROUND_TRIP * 20, "{last:?}");
    assert_eq!(world.told(Kind::Deferred), 0);
}

/// Where no session is there, being turned away is an outcome; and a session that does not come free is not waited for
/// beyond the next attempt.
#[tokio::test(start_paused = true)]
async fn a_code_that_is_turned_away_is_put_off_where_nothing_comes_free() {
    let busy = Manner { banner: "421 4.7.0 too many connections", ..GOOD };
    let world = World::new(&[(MX2, Mood::Serves(busy))]);
    world.submit_for(SECOND * 100, "a@one.test").await;
    tokio::time::sleep(SECOND).await;
    assert_eq!((world.told(Kind::Attempted), world.told(Kind::Deferred)), (1, 1));

    const STUCK: &[(&str, Duration)] = &[("dot", Duration::from_secs(90))];
    let stuck = Manner { sessions_max: 1, slow: STUCK, ..GOOD };
    let world = World::new(&[(MX2, Mood::Serves(stuck))]);
    world.submit_for(SECOND * 100, "a@one.test").await;
    tokio::time::sleep(SECOND).await;
    world.submit_for(SECOND * 100, "b@one.test").await;
    tokio::time::sleep(SECOND * 5).await;
    assert_eq!(world.told(Kind::Deferred), 0, "it waits for the session");
    tokio::time::sleep(SECOND * 55).await;
    assert!(world.told(Kind::Deferred) > 0, "it has waited long enough");
    tokio::time::sleep(SECOND * 100).await;
    assert_eq!(world.hosts.seen("a@one.test").len(), 1);
}

/// What a host took is not for ever.
#[tokio::test(start_paused = true)]
async fn more_sessions_are_tried_again_later() {
    let world = World::new(&[(MX2, crowded(1, TurnsAway::AtBanner))]);
    twelve(&world, "one.test").await;
    world.hosts.turn(MX2, Mood::Serves(GOOD));
    tokio::time::sleep(SECOND * 700).await;
    let before = world.hosts.seen("connect").len();
    twelve(&world, "one.test").await;
    assert!(world.hosts.seen("connect").len() >= before + 3);
}
