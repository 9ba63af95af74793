//! Hosts that take longer for a reply than the moment after which others are asked beside them.

use std::time::Duration;

use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::intake::options::Options;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};

use crate::fast_path::network::{GOOD, Manner, Mood};
use crate::fast_path::{MX1, MX2, ROUND_TRIP, SECOND, World};

const LIFE: Duration = Duration::from_secs(100);

/// Each stage, and how much longer than the others it takes.
const SLOW: [&[(&str, Duration)]; 9] = [
    &[("banner", Duration::from_secs(12))],
    &[("banner", Duration::from_secs(25))],
    &[("EHLO", Duration::from_secs(12))],
    &[("EHLO", Duration::from_secs(25))],
    &[("MAIL", Duration::from_secs(25))],
    &[("RCPT", Duration::from_secs(25))],
    &[("DATA", Duration::from_secs(25))],
    &[("banner", Duration::from_secs(12)), ("EHLO", Duration::from_secs(12)), ("RCPT", Duration::from_secs(25))],
    &[("MAIL", Duration::from_secs(25)), ("RCPT", Duration::from_secs(25)), ("dot", Duration::from_secs(25))],
];

const SILENT: &[(&str, Duration)] = &[("banner", Duration::from_secs(100_000))];

fn slow(slow: &'static [(&'static str, Duration)], chunking: bool) -> Mood {
    Mood::Serves(Manner { slow, chunking, ..GOOD })
}

fn span(slow: &[(&str, Duration)]) -> Duration {
    slow.iter().map(|(_, more)| *more).sum()
}

impl World {
    /// From the submission of a message with a short life to its arrival, if it arrives.
    async fn cost_within_life(&self, recipient: &str) -> Option<Duration> {
        let before = self.elapsed();
        self.submit_for(LIFE, recipient).await;
        let arrival = tokio::time::timeout(LIFE + SECOND, self.hosts.arrival(recipient)).await;
        // What comes twice comes later.
        tokio::time::sleep(LIFE * 3).await;
        assert!(self.hosts.seen(recipient).len() <= 1, "it arrived twice");
        arrival.ok().map(|at| at.saturating_sub(before))
    }

    fn last(&self, kind: Kind) -> Event {
        self.told.0.lock().iter().rfind(|event| event.kind() == kind).cloned().unwrap()
    }

    fn connects(&self, ip: &str) -> usize {
        self.hosts.seen("connect").iter().filter(|seen| seen.host.to_string() == ip).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_slow_at_any_stage_gets_the_code_in_one_attempt() {
    for stages in SLOW {
        for chunking in [false, true] {
            let world = World::new(&[(MX2, slow(stages, chunking))]);
            let cost = world.cost_within_life("a@one.test").await;
            let has_data = stages.iter().any(|(verb, _)| *verb == "DATA");
            if chunking && has_data {
                continue;
            }
            let expected = span(stages);
            assert!(
                cost.is_some_and(|cost| cost <= expected + ROUND_TRIP * 6),
                "{cost:?} where {stages:?} (chunking: {chunking})"
            );
            assert_eq!((world.told(Kind::Attempted), world.told(Kind::Deferred)), (1, 0), "{stages:?}");
            let steps = world.last(Kind::Delivered).steps().unwrap().clone();
            let is_told = |(verb, more): &(&str, Duration)| {
                let ms = u32::try_from(more.as_millis()).unwrap();
                let stage = if *verb == "dot" { "content" } else { verb };
                steps.iter().any(|step| step.stage.as_ref() == stage && (ms..ms + 500).contains(&step.ms))
            };
            assert!(stages.iter().all(is_told), "{stages:?} in {steps:?}");
        }
    }
}

/// A session that was begun when the recipient was named goes on as the code's own.
#[tokio::test(start_paused = true)]
async fn a_slow_session_that_was_begun_ahead_is_the_codes_own() {
    for stages in [SLOW[0], SLOW[1], SLOW[3]] {
        let world = World::new(&[(MX2, slow(stages, false))]);
        let sender = ReversePath::parse("<otp@app.test>").unwrap();
        world.life.delivery.prewarm(&sender, &Mailbox::parse("a@one.test").unwrap());
        tokio::time::sleep(SECOND).await;
        let cost = world.cost_within_life("a@one.test").await.unwrap();
        assert!(cost <= span(stages) - SECOND + ROUND_TRIP * 6, "{cost:?} where {stages:?}");
        assert_eq!((world.told(Kind::Attempted), world.told(Kind::Deferred)), (1, 0), "{stages:?}");
        assert_eq!(world.life.delivery.destinations_down(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_slow_is_waited_for_at_once_the_next_time() {
    for (stages, chunking) in [(SLOW[0], true), (SLOW[5], true), (SLOW[6], false)] {
        let moods = [(MX1, slow(stages, chunking)), (MX2, Mood::Refuses)];
        let world = World::new(&moods);
        world.cost_within_life("a@two.test").await.unwrap();
        world.hosts.turn(MX2, Mood::Serves(GOOD));
        let before = world.connects(MX2);
        let cost = world.cost_within_life("b@two.test").await.unwrap();
        assert!(cost >= span(stages) && cost <= span(stages) + ROUND_TRIP * 6, "{cost:?}");
        assert_eq!(world.connects(MX2), before, "the second host is not asked beside it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_host_takes_the_code_while_the_first_is_slow() {
    for stages in SLOW {
        for chunking in [false, true] {
            let world = World::new(&[(MX1, slow(stages, chunking)), (MX2, Mood::Serves(GOOD))]);
            let cost = world.cost_within_life("a@two.test").await.unwrap();
            // Content that is out with the commands is not sent to another.
            let is_out = chunking && stages.iter().any(|(verb, _)| ["MAIL", "RCPT", "dot"].contains(verb));
            let most = if is_out { span(stages) } else { span(stages).min(SECOND * 20) };
            assert!(cost <= most + ROUND_TRIP * 10, "{cost:?} where {stages:?} (chunking: {chunking})");
            assert_eq!(world.told(Kind::Attempted), 1, "{stages:?}");
        }
    }
}

/// What a less preferred host says does not end a slow one that may accept; and where that never speaks, it counts.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_second_host_does_not_end_a_slow_first_one() {
    let refusing = |rcpt| Mood::Serves(Manner { rcpt, chunking: true, ..GOOD });
    let cases = [SLOW[1], SLOW[3], SLOW[5], SLOW[6]]
        .map(|stages| [(stages, "550 5.1.1 no such user"), (stages, "451 4.3.0 no")]);
    for (stages, rcpt) in cases.into_iter().flatten() {
        let world = World::new(&[(MX1, slow(stages, false)), (MX2, refusing(rcpt))]);
        let cost = world.cost_within_life("a@two.test").await;
        let is_in_time = cost.is_some_and(|cost| cost <= span(stages) + ROUND_TRIP * 6);
        assert!(is_in_time, "{cost:?} where {stages:?} beside {rcpt}");
        assert_eq!((world.told(Kind::Attempted), world.told(Kind::Delivered)), (1, 1), "{stages:?}");
        let steps = world.last(Kind::Delivered).steps().unwrap().clone();
        assert!(steps.iter().any(|step| step.result.starts_with(&rcpt[..3])), "the refusal is told: {steps:?}");
    }
    let world = World::new(&[(MX1, slow(SILENT, false)), (MX2, refusing("550 5.1.1 no such user"))]);
    assert_eq!(world.cost_within_life("a@two.test").await, None);
    let failed = world.last(Kind::Failed);
    assert!(failed.head.time.since(world.start) <= SECOND * 63, "{:?}", failed.head.time.since(world.start));
    assert_eq!((failed.cause(), failed.destination()), (Some(Cause::BadMailbox), Some("mx2.test")));
}

#[tokio::test(start_paused = true)]
async fn a_slow_second_host_does_not_delay_what_the_first_one_says() {
    let refusing = Manner { rcpt: "550 5.1.1 no such user", slow: SLOW[0], ..GOOD };
    let world = World::new(&[(MX1, Mood::Serves(refusing)), (MX2, slow(SILENT, false))]);
    assert_eq!(world.cost_within_life("a@two.test").await, None);
    let failed = world.last(Kind::Failed).head.time.since(world.start);
    assert!(failed <= SECOND * 13, "{failed:?}");
}

/// The wait of greylisting goes on at the host that makes the code wait, whoever else is slow.
#[tokio::test(start_paused = true)]
async fn a_host_that_greylists_beside_a_silent_one_gets_the_code_when_the_wait_is_over() {
    let greylisting = Manner { greylists: SECOND * 30, ..GOOD };
    let world = World::new(&[(MX1, slow(SILENT, false)), (MX2, Mood::Serves(greylisting))]);
    let cost = world.cost_within_life("a@two.test").await.unwrap();
    assert!(cost <= SECOND * 45, "{cost:?}");
}

/// A connection that is lost without a word is not waited for to the end of life.
#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_tried_anew_after_a_while() {
    let world = World::new(&[(MX2, slow(SILENT, false))]);
    world.submit_for(LIFE, "a@one.test").await;
    tokio::time::sleep(SECOND * 30).await;
    assert_eq!(world.connects(MX2), 1, "the one slow session is waited for");
    world.hosts.turn(MX2, Mood::Serves(GOOD));
    let arrival = world.hosts.arrival("a@one.test").await;
    assert!(arrival <= SECOND * 46, "{arrival:?}");
    assert_eq!((world.told(Kind::Attempted), world.connects(MX2)), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_code_whose_life_ends_at_a_slow_host_says_so() {
    let world = World::new(&[(MX2, slow(SILENT, false))]);
    assert_eq!(world.cost_within_life("a@one.test").await, None);
    let expired = world.last(Kind::Expired);
    assert!(expired.head.time.since(world.start) <= LIFE + SECOND);
    assert_eq!(expired.reply(), Some("no answer at banner"));
    assert!(expired.steps().is_some_and(|steps| steps.iter().any(|step| step.result.contains("closed"))));
    assert_eq!(world.life.delivery.destinations_down(), 0, "somebody is there");
}

#[tokio::test(start_paused = true)]
async fn a_newer_code_ends_an_older_one_that_waits_at_a_slow_host() {
    let world = World::new(&[(MX2, slow(SLOW[1], false))]);
    let options = || Options { key: Some("login:1".into()), ..Options::default() };
    world.submit_with(LIFE, "a@one.test", options()).await;
    tokio::time::sleep(SECOND * 15).await;
    world.submit_with(LIFE, "a@one.test", options()).await;
    tokio::time::sleep(LIFE).await;
    assert_eq!((world.told(Kind::Superseded), world.told(Kind::Delivered)), (1, 1));
    assert_eq!(world.hosts.seen("a@one.test").len(), 1);
}

/// Sessions beside others count against the limits; where there is no place, the slow one gives way, as the next address
/// may be quick.
#[tokio::test(start_paused = true)]
async fn sessions_beside_slow_ones_keep_to_the_limits() {
    let world = World::limited(&[(MX1, slow(SILENT, false)), (MX2, Mood::Serves(GOOD))], 4);
    for n in 0..12 {
        world.submit_for(LIFE, &format!("user{n}@two.test")).await;
    }
    tokio::time::sleep(LIFE).await;
    assert_eq!((world.told(Kind::Delivered), world.hosts.most_at_once()), (12, 4));
    let latest = (0..12).map(|n| world.hosts.seen(&format!("user{n}@two.test"))[0].at).max().unwrap();
    assert!(latest <= SECOND * 12, "{latest:?}");
}
