//! What is counted of entries, and how long they took.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Event, Kind};
use crate::policy::action::{Blame, Finality, action};

/// A delivery is in time with so much of the life left, or with `LEFT_SHARE` of a shorter life.
const LEFT: Duration = Duration::from_secs(25);
const LEFT_SHARE: f64 = 0.4;
/// Buckets for each doubling of the milliseconds.
const FINENESS: f64 = 8.0;
/// Longer times count as this.
const LONGEST_MS: f64 = 86_400_000.0 * 30.0;

/// Times by size: how often each of them came, to a tenth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Times(BTreeMap<u16, u32>);

impl Times {
    fn add(&mut self, time: Duration) {
        let ms = (time.as_secs_f64() * 1000.0).clamp(1.0, LONGEST_MS);
        let count = self.0.entry((ms.log2() * FINENESS) as u16).or_default();
        *count = count.saturating_add(1);
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            let own = self.0.entry(*bucket).or_default();
            *own = own.saturating_add(*count);
        }
    }

    /// The milliseconds that this share kept, at most a tenth too long; none before the first.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let all: u64 = self.0.values().map(|count| u64::from(*count)).sum();
        let mut below = 0;
        let (bucket, _) = self.0.iter().find(|(_, count)| {
            below += u64::from(**count);
            below as f64 >= share * all as f64
        })?;
        Some(f64::exp2(f64::from(bucket + 1) / FINENESS).round() as u64)
    }
}

/// Numbers of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Accepted.
    #[serde(rename = "a", default, skip_serializing_if = "is_zero")]
    pub accepted: u64,
    /// Delivered.
    #[serde(rename = "d", default, skip_serializing_if = "is_zero")]
    pub delivered: u64,
    /// Of these, with enough of the life left.
    #[serde(rename = "i", default, skip_serializing_if = "is_zero")]
    pub(crate) in_time: u64,
    /// Of these, with less.
    #[serde(rename = "l", default, skip_serializing_if = "is_zero")]
    pub(crate) late: u64,
    /// Failed, by cause.
    #[serde(rename = "f", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failed: BTreeMap<String, u64>,
    /// Attempts that were refused for what the sender is or does, by cause: an entry can have several.
    #[serde(rename = "b", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) blames_sender: BTreeMap<String, u64>,
    #[serde(rename = "e", default, skip_serializing_if = "is_zero")]
    pub(crate) expired: u64,
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    pub(crate) superseded: u64,
    #[serde(rename = "c", default, skip_serializing_if = "is_zero")]
    pub(crate) cancelled: u64,
    #[serde(rename = "r", default, skip_serializing_if = "is_zero")]
    pub(crate) at_risk: u64,
    #[serde(rename = "v", default, skip_serializing_if = "is_zero")]
    pub(crate) verified: u64,
    /// From acceptance to delivery.
    #[serde(rename = "td", default)]
    pub(crate) to_delivered: Times,
    /// From acceptance to verification.
    #[serde(rename = "tv", default)]
    pub(crate) to_verified: Times,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counts {
    /// Counts an event of one entry; an acceptance as one.
    pub(crate) fn add(&mut self, event: &Event) {
        let head = &event.head;
        if let Some(cause) = blames_sender(event) {
            *self.blames_sender.entry(cause.name().to_owned()).or_default() += 1;
        }
        match event.kind() {
            Kind::Accepted => self.accepted += 1,
            Kind::Delivered => {
                self.delivered += 1;
                *(if is_in_time(event) { &mut self.in_time } else { &mut self.late }) += 1;
                self.to_delivered.add(head.since_accepted);
            }
            Kind::Failed => {
                let cause = event.cause().map_or("unknown", Cause::name);
                *self.failed.entry(cause.to_owned()).or_default() += 1;
            }
            Kind::Expired => self.expired += 1,
            Kind::Superseded => self.superseded += 1,
            Kind::Cancelled => self.cancelled += 1,
            Kind::AtRisk => self.at_risk += 1,
            Kind::Verified => {
                self.verified += 1;
                self.to_verified.add(head.since_accepted);
            }
            Kind::Queued | Kind::Attempted | Kind::Deferred | Kind::Greylisted | Kind::Bounced | Kind::Complained => {}
        }
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.in_time += other.in_time;
        self.late += other.late;
        for (cause, count) in &other.failed {
            *self.failed.entry(cause.clone()).or_default() += count;
        }
        for (cause, count) in &other.blames_sender {
            *self.blames_sender.entry(cause.clone()).or_default() += count;
        }
        self.expired += other.expired;
        self.superseded += other.superseded;
        self.cancelled += other.cancelled;
        self.at_risk += other.at_risk;
        self.verified += other.verified;
        self.to_delivered.merge(&other.to_delivered);
        self.to_verified.merge(&other.to_verified);
    }
}

impl Counts {
    /// Entries that came too late for their code, or not at all.
    pub(crate) fn missed(&self) -> u64 {
        self.late + self.expired + self.failed.values().sum::<u64>()
    }
}

/// Whether a delivery left enough of the life to use the code; no other event does.
pub(crate) fn is_in_time(event: &Event) -> bool {
    let head = &event.head;
    event.kind() == Kind::Delivered && leaves_enough(head.time, head.since_accepted, head.expires_at)
}

/// Why an attempt was refused, where that is for what the sender is or does.
pub(crate) fn blames_sender(event: &Event) -> Option<Cause> {
    let finality = [(Kind::Deferred, Finality::Temporary), (Kind::Failed, Finality::Final)];
    let (_, finality) = finality.into_iter().find(|(kind, _)| *kind == event.kind())?;
    event.cause().filter(|cause| action(*cause, finality).blame == Blame::Relay)
}

fn leaves_enough(at: Timestamp, since_accepted: Duration, expires_at: Timestamp) -> bool {
    let life = expires_at.since(at.minus(since_accepted));
    expires_at.since(at) >= LEFT.min(life.mul_f64(LEFT_SHARE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_time_is_with_25_s_or_two_fifths_of_the_life_left() {
        let check = |life: u64, took: u64, expected: bool| {
            let accepted = Timestamp::from_millis(1_795_255_200_000);
            let span = Duration::from_secs;
            let is = leaves_enough(accepted.plus(span(took)), span(took), accepted.plus(span(life)));
            assert_eq!(is, expected, "{took} of {life} s");
        };
        check(600, 575, true);
        check(600, 576, false);
        check(50, 30, true);
        check(50, 31, false);
    }

    #[test]
    fn quantiles_are_a_tenth_too_long_at_most() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.5), None);
        (1..=100).for_each(|n| times.add(Duration::from_millis(10 * n)));
        for (share, exact) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
            let found = times.quantile(share).unwrap() as f64;
            assert!(found >= exact && found <= exact * 1.1, "{share}: {found}");
        }
    }
}
