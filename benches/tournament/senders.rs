//! Who takes part: the relay's own plan, and the schedules of other senders with their default settings, as functions.

use std::time::Duration;

use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::greylist::facts::Facts;
use otp_relay::testing::greylist::pending::{Refusal, Wait};
use otp_relay::testing::greylist::step::History;
use otp_relay::testing::policy::cause::of_reply;
use otp_relay::testing::policy::next::{Next, believable, decide};
use otp_relay::testing::smtp::client_session::Stage;
use otp_relay::testing::smtp::reply::Reply;

use crate::random::Random;
use crate::world::Destination;

/// One refused attempt.
pub struct Refused<'a> {
    pub stage: Stage,
    pub reply: &'a Reply,
    /// When the code was accepted, and when its life ends, which only the relay knows of.
    pub accepted: Timestamp,
    pub expires: Timestamp,
    /// When the attempt began, and when the reply was there.
    pub began: Timestamp,
    pub ended: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
}

/// A sender with what it remembers of one destination.
pub trait Sender {
    /// A code for a recipient not written to before.
    fn begin(&mut self, random: &mut Random);
    /// When it tries again; none: never.
    fn after(&mut self, refused: &Refused<'_>) -> Option<Timestamp>;
    /// An attempt that began then was accepted.
    fn accepted(&mut self, began: Timestamp);
}

/// The relay's plan.
#[derive(Default)]
pub struct Own {
    learns: bool,
    facts: Facts,
    wait: Option<Wait>,
    spread: f64,
}

impl Own {
    pub fn new(learns: bool) -> Self {
        Self { learns, ..Self::default() }
    }
}

impl Sender for Own {
    fn begin(&mut self, random: &mut Random) {
        self.wait = None;
        self.spread = random.below(1000) as f64 / 1000.0;
        if !self.learns {
            self.facts = Facts::default();
        }
    }

    fn after(&mut self, refused: &Refused<'_>) -> Option<Timestamp> {
        let Refused { began, ended, .. } = *refused;
        let verdict = of_reply(refused.stage, refused.reply)?;
        let refusal = Refusal { asked: believable(verdict.hint), by: None, began, ended };
        let wait = self.facts.refused(self.wait.take(), refusal, 1);
        let history = History {
            accepted_at: refused.accepted,
            expires_at: refused.expires,
            first_deferred_at: wait.first_refused_at,
            attempts: refused.attempts,
            spread: self.spread,
        };
        self.wait = Some(wait);
        let unlearned = Facts::default();
        match decide(verdict, &history, if self.learns { &self.facts } else { &unlearned }, ended) {
            (Next::At(at), _) => Some(at),
            (Next::Expire | Next::GiveUp, _) => None,
        }
    }

    fn accepted(&mut self, began: Timestamp) {
        match &mut self.wait {
            Some(wait) => self.facts.passed(wait, 1, began),
            None => {
                self.facts.accepted_at_once(1, began);
            }
        }
    }
}

/// Another program: seconds from the first refusal (`age`) to the next attempt, by its number, and the phase of its
/// queue runner, from 0 to 1.
pub struct Other {
    next: fn(attempts: u32, age_s: f64, phase: f64, reply: &Reply) -> f64,
    phase: f64,
    first: Option<Timestamp>,
}

impl Other {
    fn new(next: fn(u32, f64, f64, &Reply) -> f64) -> Self {
        Self { next, phase: 0.0, first: None }
    }
}

impl Sender for Other {
    fn begin(&mut self, random: &mut Random) {
        self.phase = random.below(1000) as f64 / 1000.0;
        self.first = None;
    }

    fn after(&mut self, refused: &Refused<'_>) -> Option<Timestamp> {
        let first = *self.first.get_or_insert(refused.ended);
        let age_s = refused.ended.since(first).as_secs_f64();
        let next_s = (self.next)(refused.attempts, age_s, self.phase, refused.reply);
        Some(first.plus(Duration::from_secs_f64(next_s)).max(refused.ended))
    }

    fn accepted(&mut self, _: Timestamp) {}
}

/// Who knows the delay: what is possible at all.
struct Clairvoyant(Duration);

impl Sender for Clairvoyant {
    fn begin(&mut self, _: &mut Random) {}

    fn after(&mut self, refused: &Refused<'_>) -> Option<Timestamp> {
        Some(refused.ended.plus(self.0 + Duration::from_secs(1)))
    }

    fn accepted(&mut self, _: Timestamp) {}
}

/// Makes a sender for a destination.
pub type Make = fn(&Destination) -> Box<dyn Sender>;

/// Everybody, the relay first.
pub const ALL: &[(&str, Make)] = &[
    ("(who knows the delay)", |destination| Box::new(Clairvoyant(destination.delay()))),
    ("otp-relay, after learning", |_| Box::new(Own::new(true))),
    ("otp-relay, first time", |_| Box::new(Own::new(false))),
    ("Haraka", |_| Box::new(Other::new(haraka))),
    ("Stalwart", |_| Box::new(Other::new(stalwart))),
    ("Postal", |_| Box::new(Other::new(postal))),
    ("ZoneMTA", |_| Box::new(Other::new(zone_mta))),
    ("Postfix", |_| Box::new(Other::new(postfix))),
    ("KumoMTA", |_| Box::new(Other::new(kumo_mta))),
    ("Exim", |_| Box::new(Other::new(exim))),
];

/// Times of a list, then its last pause over and over.
fn listed(times_s: &[f64], attempts: u32) -> f64 {
    let index = attempts as usize - 1;
    let last = times_s.len() - 1;
    let pause = times_s[last] - times_s[last - 1];
    times_s.get(index).copied().unwrap_or_else(|| times_s[last] + pause * (index - last) as f64)
}

/// 64 s, then twice the pause before.
fn haraka(attempts: u32, _: f64, _: f64, _: &Reply) -> f64 {
    listed(&[64.0, 192.0, 448.0, 960.0, 1984.0], attempts)
}

/// After 2, 5, 10, 15 min.
fn stalwart(attempts: u32, _: f64, _: f64, _: &Reply) -> f64 {
    listed(&[120.0, 420.0, 1020.0, 1920.0], attempts)
}

fn zone_mta(attempts: u32, _: f64, _: f64, _: &Reply) -> f64 {
    listed(&[300.0, 720.0, 1200.0, 2700.0], attempts)
}

/// 20 min, doubling.
fn kumo_mta(attempts: u32, _: f64, phase: f64, _: &Reply) -> f64 {
    listed(&[1170.0, 3570.0, 8370.0], attempts) + 60.0 * phase
}

/// As long again as it has waited, between 300 s and 4000 s, at the next run of the queue, every 300 s.
fn postfix(_: u32, age_s: f64, phase: f64, _: &Reply) -> f64 {
    next_run(age_s + age_s.clamp(300.0, 4000.0), 300.0, phase)
}

/// 15 min after the last attempt, at the next run of the queue, every 30 min.
fn exim(_: u32, age_s: f64, phase: f64, _: &Reply) -> f64 {
    next_run(age_s + 900.0, 1800.0, phase)
}

fn next_run(due_s: f64, every_s: f64, phase: f64) -> f64 {
    ((due_s / every_s - phase).ceil() + phase) * every_s
}

/// Ten seconds behind a wait in seconds or minutes; else 300 s, each pause 1.3 times the one before.
fn postal(attempts: u32, age_s: f64, _: f64, reply: &Reply) -> f64 {
    let words: Vec<&str> = reply.text.split(' ').collect();
    let asked = words.windows(2).find_map(|pair| {
        let number: f64 = pair[0].parse().ok()?;
        match pair[1] {
            unit if unit.starts_with("second") => Some(number),
            unit if unit.starts_with("minute") => Some(number * 60.0),
            _ => None,
        }
    });
    age_s + asked.map_or_else(|| 300.0 * 1.3f64.powi(attempts as i32 - 1), |asked| asked + 10.0)
}
