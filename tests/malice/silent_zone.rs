//! All outgoing sessions taken by hosts that fall silent behind the dot, and the codes of others meanwhile.

use std::time::Duration;

use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};

use crate::malice::world::{Manner, World};

const SECOND: Duration = Duration::from_secs(1);
/// A code to a host that takes everything, session included.
const HONEST: Duration = Duration::from_millis(500);

/// Whatever is below `evil.test`, and every domain that begins with `evil`, has hosts of its own, which are silent.
fn serves(domain: &str) -> (String, Manner) {
    let manner = if domain.contains("evil") { Manner::SilentBehindDot } else { Manner::Takes };
    (format!("mx.{domain}"), manner)
}

/// The cost of a code to a host that nobody has sent to, and to one that took mail before, while so many codes are on
/// their way to silent hosts.
async fn costs(world: &World, codes: usize, domain: impl Fn(usize) -> String) -> [Option<Duration>; 2] {
    assert!(world.cost("first@known.test").await.is_some_and(|cost| cost <= HONEST));
    for number in 0..codes {
        world.submit(&format!("user@{}", domain(number))).await;
    }
    // All of them are out by then.
    tokio::time::sleep(SECOND * 5).await;
    [world.cost("a@new.test").await, world.cost("a@known.test").await]
}

#[tokio::test(start_paused = true)]
async fn one_zone_delays_nobody() {
    let world = World::new(serves);
    let costs = costs(&world, 1050, |number| format!("{number}.evil.test")).await;
    assert!(costs.iter().all(|cost| cost.is_some_and(|cost| cost <= HONEST)), "{costs:?}");
    assert!(world.life.delivery.connections() <= 80, "{} sessions", world.life.delivery.connections());
}

/// As many zones as somebody may own.
#[tokio::test(start_paused = true)]
async fn thirty_zones_delay_nobody() {
    let world = World::new(serves);
    let costs = costs(&world, 2000, |number| format!("{number}.evil{}.test", number % 30)).await;
    assert!(costs.iter().all(|cost| cost.is_some_and(|cost| cost <= HONEST)), "{costs:?}");
}

/// A zone for each code: then no share holds, and those that were silent for a minute give way. A host that has taken mail
/// is not touched.
#[tokio::test(start_paused = true)]
async fn where_no_share_holds_the_oldest_give_way() {
    let world = World::new(serves);
    let [new, known] = costs(&world, 1050, |number| format!("evil{number}.test")).await;
    assert!(new.is_some_and(|cost| cost <= SECOND * 62), "{new:?}");
    assert!(known.is_some_and(|cost| cost <= HONEST), "{known:?}");
    // What gave way is tried again, and that it may have arrived is told.
    let gave_way = world.told.count(Kind::Deferred, |event| {
        let note = event.note().unwrap_or_default();
        note.starts_with("gave way") && event.may_have_arrived() && event.cause() == Some(Cause::OutcomeUnknown)
    });
    assert!(gave_way > 0);
    assert_eq!(world.told.count(Kind::Failed, |_| true), 0);
    // All of it ends, once.
    tokio::time::sleep(SECOND * 1300).await;
    assert_eq!(world.life.queue.depth().messages, 0);
    let is_code =
        |event: &Event| event.head.recipient.as_ref().is_some_and(|recipient| recipient.domain() != "app.test");
    assert_eq!((world.told.count(Kind::Delivered, is_code), world.told.count(Kind::Expired, is_code)), (3, 1050));
}

/// One provider with many destinations, as those whose customers each have a host's name of their own.
#[tokio::test(start_paused = true)]
async fn a_provider_with_six_hundred_destinations_at_once_is_not_slowed() {
    let world = World::new(|domain| (format!("{domain}.mail.provider.test"), Manner::Takes));
    assert!(world.cost("first@customer.test").await.is_some());
    let before = world.now();
    for number in 0..600 {
        world.submit(&format!("user@customer{number}.test")).await;
    }
    for number in 0..600 {
        let arrival = world.arrival(&format!("user@customer{number}.test"), before).await;
        assert!(arrival.is_some_and(|arrival| arrival <= HONEST), "{arrival:?}");
    }
}
