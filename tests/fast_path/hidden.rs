//! Hosts and addresses that work, behind more dead ones than one attempt tries.

use std::time::Duration;

use otp_relay::testing::event::Kind;

use crate::fast_path::network::{GOOD, Manner, Mood};
use crate::fast_path::{SECOND, World};

/// Attempts until a code arrives, and when it does, where of so many addresses 198.51.100.1 and following one works, and the others
/// do this.
async fn arrival(domain: &str, addresses: u16, works: u16, others: Mood) -> Option<(usize, Duration)> {
    let name = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("198.51.{}.{low}", 100 + high)
    };
    let names: Vec<String> = (1..=addresses).map(name).collect();
    let moods = names.iter().map(|name| (name.as_str(), others)).collect::<Vec<_>>();
    let world = World::new(&moods);
    world.hosts.turn(&name(works), Mood::Serves(GOOD));
    let recipient = format!("a@{domain}");
    world.submit_for(LIFE, &recipient).await;
    let arrival = tokio::time::timeout(LIFE + SECOND * 100, world.hosts.arrival(&recipient)).await;
    arrival.ok().map(|at| (world.told(Kind::Attempted), at))
}

/// Attempts until a code arrives where the last of the addresses works.
async fn attempts(domain: &str, addresses: u16, others: Mood) -> Option<usize> {
    arrival(domain, addresses, addresses, others).await.map(|(attempts, _)| attempts)
}

const LIFE: Duration = Duration::from_secs(300);
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

/// A route holds a part of so many; each has its turn.
#[tokio::test(start_paused = true)]
async fn one_of_forty_hosts_gets_the_code_within_its_life() {
    let busy = Manner { banner: "421 4.3.2 too busy", ..GOOD };
    let deaf = Manner { slow: DEAF, ..GOOD };
    let full = Manner { rcpt: "452 4.3.1 Insufficient system storage", ..GOOD };
    let others = [Mood::Refuses, Mood::Silent, Mood::Serves(busy), Mood::Serves(deaf), Mood::Serves(full)];
    for works in [37, 20] {
        for (number, others) in others.into_iter().enumerate() {
            let arrival = arrival("hosts-40.test", 40, works, others).await;
            assert!(arrival.is_some_and(|(_, at)| at < LIFE), "others {number}, works {works}: {arrival:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_of_many_addresses_gets_the_code_within_its_life() {
    for (domain, addresses) in [("addresses-60.test", 60), ("addresses-300.test", 300)] {
        for others in [Mood::Refuses, Mood::Silent] {
            let arrival = arrival(domain, addresses, addresses, others).await;
            assert!(arrival.is_some_and(|(_, at)| at < LIFE), "{domain}: {arrival:?}");
        }
    }
}
