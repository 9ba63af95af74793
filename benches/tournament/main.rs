//! Who gets a one-time code through greylisting in time: the relay's plan, through the functions that the relay itself
//! uses, against the schedules of other senders, at made-up destinations. Fixed seeds: the same table each time.
//!
//! `cargo bench --bench tournament` prints it; with `-- --write` it also goes into docs/GREYLISTING.md.

#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(unreachable_pub, missing_docs, reason = "modules of one program")]

#[path = "../../tests/support/random.rs"]
mod random;
mod senders;
mod world;

use std::fmt::Write as _;
use std::time::Duration;

use otp_relay::testing::base::clock::Timestamp;

use random::Random;
use senders::{ALL, Make, Refused, Sender};
use world::{Answer, Destination, Host, KINDS, Kind};

const DESTINATIONS: usize = 2000;
/// Codes for one destination, each for a recipient not written to before, an hour and more apart.
const CODES: u64 = 8;
/// From this code on the relay counts as having learned.
const LEARNED: u64 = 3;
const LIVES_S: [u64; 3] = [60, 300, 600];
const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
const MARKERS: (&str, &str) = ("<!-- tournament -->", "<!-- end of tournament -->");

/// What became of one code.
struct Outcome {
    is_delivered: bool,
    attempts: u32,
    /// Seconds between the opening of the window and the delivery, where it had to wait; to the end of the life, if it
    /// was not delivered although the window opened within it.
    lost_s: Option<f64>,
    has_hint: bool,
    is_honest: bool,
}

/// The table's numbers for one sender.
struct Score {
    name: &'static str,
    delivered_percent: [f64; 3],
    lost_s: Option<f64>,
    lost_hinted_s: Option<f64>,
    lost_unhinted_s: Option<f64>,
    attempts_per_code: f64,
    attempts_where_delivered: f64,
    attempts_per_delivery: f64,
}

fn main() {
    let mut text = String::new();
    for kind in &KINDS {
        text.push_str(&table(kind));
    }
    println!("{text}");
    if std::env::args().any(|argument| argument == "--write") {
        write(&text);
    }
}

/// One code, until it is delivered or its life ends.
fn play(host: &mut Host<'_>, sender: &mut dyn Sender, recipient: u64, accepted: Timestamp, life_s: u64) -> Outcome {
    let expires = accepted.plus(Duration::from_secs(life_s));
    let (mut attempts, mut began) = (0, accepted);
    loop {
        let (answer, ended) = host.attempt(recipient, began);
        attempts += 1;
        let (stage, reply) = match answer {
            Answer::Taken => {
                sender.accepted(began);
                let is_delivered = ended < expires;
                let opened = host.opens_at(recipient).filter(|_| attempts > 1 && is_delivered);
                let lost_s = opened.map(|at| began.since(at).as_secs_f64());
                return Outcome { is_delivered, attempts, lost_s, has_hint: false, is_honest: false };
            }
            Answer::Refused(stage, reply) => (stage, reply),
        };
        let refused = Refused { stage, reply: &reply, accepted, expires, began, ended, attempts };
        match sender.after(&refused) {
            Some(at) if at < expires => began = at,
            _ => {
                let opened = host.opens_at(recipient).filter(|at| *at < expires);
                let lost_s = opened.map(|at| expires.since(at).as_secs_f64());
                return Outcome { is_delivered: false, attempts, lost_s, has_hint: false, is_honest: false };
            }
        }
    }
}

/// All codes of one life at all destinations.
fn play_all(kind: &Kind, make: Make, life_s: u64, from: u64) -> Vec<Outcome> {
    let mut random = Random::new(kind.seed);
    let mut outcomes = Vec::new();
    for _ in 0..DESTINATIONS {
        let destination = Destination::new(kind, &mut random);
        // Who needs how much chance must not change the next destination.
        let mut chance = random.fork();
        let (mut host, mut sender, mut accepted) = (Host::new(&destination), make(&destination), START);
        for code in 0..CODES {
            accepted = accepted.plus(Duration::from_millis(3_600_000 + chance.below(36_000_000)));
            let mut random = chance.fork();
            sender.begin(&mut random);
            let outcome = play(&mut host, sender.as_mut(), code, accepted, life_s);
            let (has_hint, is_honest) = (destination.has_hint(), destination.has_honest_hint());
            if code >= from {
                outcomes.push(Outcome { has_hint, is_honest, ..outcome });
            }
        }
    }
    outcomes
}

/// From which code on it counts: for everybody the same, so that what hosts have learned of a sender is the same too.
fn score(kind: &Kind, name: &'static str, make: Make) -> Score {
    let all = LIVES_S.map(|life_s| play_all(kind, make, life_s, LEARNED));
    let percent = |outcomes: &Vec<Outcome>| {
        100.0 * outcomes.iter().filter(|outcome| outcome.is_delivered).count() as f64 / outcomes.len() as f64
    };
    let [_, _, longest] = &all;
    let lost = |fits: fn(&Outcome) -> bool| {
        median(longest.iter().filter(|outcome| fits(outcome)).filter_map(|outcome| outcome.lost_s).collect())
    };
    let attempts: u32 = longest.iter().map(|outcome| outcome.attempts).sum();
    let delivered = longest.iter().filter(|outcome| outcome.is_delivered);
    let attempts_delivered: u32 = delivered.clone().map(|outcome| outcome.attempts).sum();
    let deliveries = delivered.count() as f64;
    Score {
        name,
        delivered_percent: all.each_ref().map(percent),
        lost_s: lost(|_| true),
        lost_hinted_s: lost(|outcome| outcome.is_honest),
        lost_unhinted_s: lost(|outcome| !outcome.has_hint),
        attempts_per_code: f64::from(attempts) / longest.len() as f64,
        attempts_where_delivered: f64::from(attempts_delivered) / deliveries.max(1.0),
        attempts_per_delivery: f64::from(attempts) / deliveries,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn table(kind: &Kind) -> String {
    let mut text = format!(
        "**{}** ({DESTINATIONS} destinations, {} codes each, seed {})\n\n",
        kind.name,
        CODES - LEARNED,
        kind.seed
    );
    text.push_str(
        "| sender | 60 s | 5 min | 10 min | lost | with an honest hint | without one | attempts | where delivered | per delivery |\n",
    );
    text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} s"));
    for (name, make) in ALL {
        let score = score(kind, name, *make);
        let [shortest, middle, longest] = score.delivered_percent;
        let _ = writeln!(
            text,
            "| {} | {shortest:.1} % | {middle:.1} % | {longest:.1} % | {} | {} | {} | {:.1} | {:.1} | {} |",
            score.name,
            seconds(score.lost_s),
            seconds(score.lost_hinted_s),
            seconds(score.lost_unhinted_s),
            score.attempts_per_code,
            score.attempts_where_delivered,
            if score.attempts_per_delivery.is_finite() {
                format!("{:.1}", score.attempts_per_delivery)
            } else {
                "-".to_owned()
            },
        );
    }
    text.push('\n');
    text
}

fn write(tables: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/GREYLISTING.md");
    let text = std::fs::read_to_string(path).expect("docs/GREYLISTING.md can be read");
    let (before, rest) = text.split_once(MARKERS.0).expect("it has the first marker");
    let (_, after) = rest.split_once(MARKERS.1).expect("it has the second marker");
    let (first, second) = MARKERS;
    std::fs::write(path, format!("{before}{first}\n{tables}{second}{after}")).expect("it can be written");
}
