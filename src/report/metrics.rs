//! Counters of events, for Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Listener;
use super::exposition::{Exemplar, Exposition, Type};
use super::stats::counts::is_in_time;
use crate::base::lane::{LANES, Lane};
use crate::base::telemetry::{self, Timer};
use crate::event::{Event, KINDS, Kind, Suppress};
use crate::mail::id::EntryId;
use crate::policy::action::{Finality, action};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 15] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Tags counted by themselves; further ones are counted as `other`.
const TAGS_MAX: usize = 60;
/// Entries at risk that are told apart.
const AT_RISK_MAX: usize = 100_000;

/// What happened so far in this process.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    events: BTreeMap<(Kind, Lane), u64>,
    causes: BTreeMap<(Kind, &'static str), u64>,
    tags: BTreeMap<Arc<str>, BTreeMap<Kind, u64>>,
    latency: BTreeMap<Lane, Histogram>,
    verified: BTreeMap<Lane, Histogram>,
    in_time: BTreeMap<Lane, u64>,
    late: BTreeMap<Lane, u64>,
    suppressed: BTreeMap<&'static str, u64>,
    at_risk: BTreeMap<Lane, BTreeSet<EntryId>>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    exemplars: [Option<Exemplar>; BUCKETS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, event: &Event) {
        let span = event.head.since_accepted;
        let seconds = span.as_secs_f64();
        let own = BUCKETS.iter().position(|bound| seconds <= *bound);
        for count in self.buckets.iter_mut().skip(own.unwrap_or(BUCKETS.len())) {
            *count += 1;
        }
        if let Some(own) = own {
            let at = Duration::from_millis(event.head.time.as_millis()).as_secs_f64();
            self.exemplars[own] = Some((event.head.id.to_string(), seconds, at));
        }
        self.count += 1;
        self.sum += span;
    }

    fn write(&self, out: &mut Exposition, lane: Lane) {
        let buckets = BUCKETS.iter().zip(self.buckets).zip(self.exemplars.iter().cloned());
        let buckets = buckets.map(|((bound, count), exemplar)| (*bound, count, exemplar));
        out.histogram(&[("lane", lane.name())], buckets, (self.count, self.sum.as_secs_f64()));
    }
}

impl Metrics {
    /// Families of what was counted.
    pub fn write(&self, out: &mut Exposition) {
        self.0.lock().write(out);
        for (name, help, timer) in [
            ("commit_seconds", "A synced commit of the queue.", &telemetry::COMMIT),
            ("sign_seconds", "The DKIM signatures of a message.", &telemetry::SIGN),
            ("dns_seconds", "A question to the resolver.", &telemetry::DNS),
            ("connect_seconds", "A connection to a mail host.", &telemetry::CONNECT),
        ] {
            write_timer(out, name, help, timer);
        }
        let failures = telemetry::DNS_FAILURES.load(std::sync::atomic::Ordering::Relaxed);
        out.family("dns_failures_total", Type::Counter, "Questions that nobody answered.").sample(&[], failures);
        let help = "Encrypted sessions with mail hosts, by version, and by what the host was verified.";
        out.family("tls_sessions_total", Type::Counter, help);
        for (version, by, count) in telemetry::tls_sessions() {
            out.sample(&[("version", version), ("verified_by", by)], count);
        }
    }

    /// Live entries at risk, by lane.
    pub(crate) fn at_risk(&self, lane: Lane) -> usize {
        self.0.lock().at_risk.get(&lane).map_or(0, BTreeSet::len)
    }
}

fn write_timer(out: &mut Exposition, name: &str, help: &str, timer: &Timer) {
    let (counts, count, sum) = timer.read();
    let buckets = telemetry::BOUNDS.iter().zip(counts).map(|(bound, count)| (*bound, count, None));
    out.family(name, Type::Histogram, help).histogram(&[], buckets, (count, sum));
}

impl Counters {
    fn write(&self, out: &mut Exposition) {
        out.family("events_total", Type::Counter, "What happened, by event and lane.");
        for kind in KINDS {
            for lane in LANES {
                let count = self.events.get(&(kind, lane)).copied().unwrap_or(0);
                out.sample(&[("event", kind.name()), ("lane", lane.name())], count);
            }
        }
        out.family("causes_total", Type::Counter, "Why attempts ended otherwise than delivered.");
        for ((kind, cause), count) in &self.causes {
            out.sample(&[("event", kind.name()), ("cause", cause)], count);
        }
        out.family("tag_events_total", Type::Counter, "Ends and verifications, by tag.");
        for (tag, kinds) in &self.tags {
            for (kind, count) in kinds {
                out.sample(&[("event", kind.name()), ("tag", tag)], count);
            }
        }
        out.family("delivery_seconds", Type::Histogram, "From acceptance to the receiver's final answer.");
        self.latency.iter().for_each(|(lane, histogram)| histogram.write(out, *lane));
        out.family("verified_seconds", Type::Histogram, "From acceptance until the app saw the code used.");
        self.verified.iter().for_each(|(lane, histogram)| histogram.write(out, *lane));
        self.write_lanes(out);
        out.family("suppressed_total", Type::Counter, "Addresses that are not sent to any more, by cause.");
        for (cause, count) in &self.suppressed {
            out.sample(&[("reason", cause)], count);
        }
        out.family("reports_total", Type::Counter, "Reports on what had been delivered, by kind.");
        for (kind, name) in [(Kind::Bounced, "bounce"), (Kind::Complained, "complaint")] {
            let counts = LANES.iter().filter_map(|lane| self.events.get(&(kind, *lane)));
            out.sample(&[("kind", name)], counts.sum::<u64>());
        }
    }

    fn write_lanes(&self, out: &mut Exposition) {
        let help = "Delivered with 25 s, or two fifths of a shorter life, left.";
        by_lane(out, ("in_time_total", Type::Counter, help), |lane| self.in_time.get(&lane).copied().unwrap_or(0));
        let help = "Delivered later than that, expired, failed.";
        by_lane(out, ("late_total", Type::Counter, help), |lane| self.late.get(&lane).copied().unwrap_or(0));
        let verified = |lane| self.events.get(&(Kind::Verified, lane)).copied().unwrap_or(0);
        by_lane(out, ("verified_total", Type::Counter, "Codes that the app saw used."), verified);
        let at_risk = |lane| self.at_risk.get(&lane).map_or(0, |entries| entries.len() as u64);
        by_lane(out, ("entries_at_risk", Type::Gauge, "Live entries that may not arrive in time."), at_risk);
    }

    fn ends(&mut self, event: &Event) {
        let counted = if is_in_time(event) { &mut self.in_time } else { &mut self.late };
        *counted.entry(event.head.lane).or_default() += 1;
        let cause = event.cause().filter(|_| event.kind() == Kind::Failed);
        if let Some(cause) = cause.filter(|cause| action(*cause, Finality::Final).suppress == Suppress::Address) {
            *self.suppressed.entry(cause.name()).or_default() += 1;
        }
    }
}

/// A family with a number for each lane.
pub(crate) fn by_lane(out: &mut Exposition, (name, of_type, help): (&str, Type, &str), number: impl Fn(Lane) -> u64) {
    out.family(name, of_type, help);
    for lane in LANES {
        out.sample(&[("lane", lane.name())], number(lane));
    }
}

impl Listener for Metrics {
    fn on_event(&self, event: &Arc<Event>) {
        let (kind, lane) = (event.kind(), event.head.lane);
        let mut counters = self.0.lock();
        *counters.events.entry((kind, lane)).or_default() += 1;
        if let Some(cause) = event.cause() {
            *counters.causes.entry((kind, cause.name())).or_default() += 1;
        }
        if kind == Kind::Delivered {
            counters.latency.entry(lane).or_default().add(event);
        }
        if kind == Kind::Verified {
            counters.verified.entry(lane).or_default().add(event);
        }
        if [Kind::Delivered, Kind::Failed, Kind::Expired].contains(&kind) {
            counters.ends(event);
        }
        if let Some(entry) = event.entry() {
            let at_risk = counters.at_risk.entry(lane).or_default();
            if kind.is_end() {
                at_risk.remove(&entry);
            } else if kind == Kind::AtRisk && at_risk.len() < AT_RISK_MAX {
                at_risk.insert(entry);
            }
        }
        if let Some(tag) = event.head.tag.as_ref().filter(|_| kind.is_end() || kind == Kind::Verified) {
            let is_known = counters.tags.contains_key(tag) || counters.tags.len() < TAGS_MAX;
            let tag = if is_known { tag.clone() } else { "other".into() };
            *counters.tags.entry(tag).or_default().entry(kind).or_default() += 1;
        }
    }
}
