//! Hosts and addresses that work, behind more dead ones than one attempt tries.

use std::time::Duration;

use otp_relay::event::Kind;

use crate::network::{GOOD, Manner, Mood};
use crate::{SECOND, World};

/// Attempts until a code arrives where the last of the addresses 198.51.100.1 and following works, and the others do this.
async fn attempts(domain: &str, addresses: u8, others: Mood) -> Option<usize> {
    let name = |last: u8| format!("198.51.100.{last}");
    let names: Vec<String> = (1..=addresses).map(name).collect();
    let moods = names.iter().map(|name| (name.as_str(), others)).collect::<Vec<_>>();
    let world = World::new(&moods);
    world.hosts.turn(&name(addresses), Mood::Serves(GOOD));
    let recipient = format!("a@{domain}");
    world.submit_for(SECOND * 300, &recipient).await;
    let arrival = tokio::time::timeout(SECOND * 400, world.hosts.arrival(&recipient)).await;
    arrival.ok().map(|_| world.told(Kind::Attempted))
}

const DEAF: &[(&str, Duration)] = &[("banner", Duration::from_secs(100_000))];

#[tokio::test(start_paused = true)]
async fn a_host_behind_sixteen_that_do_not_work_gets_the_code() {
    let busy = Manner { banner: "421 4.3.2 too busy", ..GOOD };
    let deaf = Manner { slow: DEAF, ..GOOD };
    for (others, most) in [(Mood::Refuses, 2), (Mood::Silent, 2), (Mood::Serves(busy), 2), (Mood::Serves(deaf), 3)] {
        let attempts = attempts("many.test", 17, others).await;
        assert!(attempts.is_some_and(|attempts| attempts <= most), "{attempts:?} instead of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_behind_eight_that_do_not_work_gets_the_code() {
    for others in [Mood::Refuses, Mood::Silent] {
        assert_eq!(attempts("wide.test", 9, others).await, Some(1));
    }
}
