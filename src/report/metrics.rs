//! Counters of events, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Listener;
use crate::base::lane::{LANES, Lane};
use crate::event::{Event, KINDS, Kind};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 15] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Tags counted by themselves; further ones are counted as `other`.
const TAGS_MAX: usize = 100;

/// What happened so far in this process.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    events: BTreeMap<(Kind, Lane), u64>,
    causes: BTreeMap<(Kind, &'static str), u64>,
    tags: BTreeMap<Arc<str>, BTreeMap<Kind, u64>>,
    latency: BTreeMap<Lane, Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, span: Duration) {
        let reached = BUCKETS.iter().zip(&mut self.buckets).filter(|(bound, _)| span.as_secs_f64() <= **bound);
        reached.for_each(|(_, count)| *count += 1);
        self.count += 1;
        self.sum += span;
    }
}

/// Name and content of a label; the latter has neither quotes nor back-slashes.
pub type Label = (&'static str, Arc<str>);

/// A number that is read when it is asked for.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// Its name, without `otp_relay_`.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// A label and its values, or one value without.
    pub values: Vec<(Option<Label>, u64)>,
}

impl Metrics {
    /// Everything, with these gauges.
    pub fn text(&self, gauges: &[Gauge]) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.0.lock().write(&mut text);
        for gauge in gauges {
            let _ = write_gauge(&mut text, gauge);
        }
        text
    }
}

fn write_gauge(text: &mut String, gauge: &Gauge) -> fmt::Result {
    let name = gauge.name;
    head(text, name, "gauge", gauge.help);
    for (label, value) in &gauge.values {
        match label {
            Some((label, of)) => writeln!(text, "otp_relay_{name}{{{label}=\"{of}\"}} {value}")?,
            None => writeln!(text, "otp_relay_{name} {value}")?,
        }
    }
    Ok(())
}

/// What a scraper has to know before the samples of a name.
pub(super) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP otp_relay_{name} {help}\n# TYPE otp_relay_{name} {kind}");
}

/// A counter without labels.
pub fn write_counter(text: &mut String, name: &str, help: &str, value: u64) {
    head(text, name, "counter", help);
    let _ = writeln!(text, "otp_relay_{name} {value}");
}

impl Counters {
    fn write(&self, text: &mut String) -> fmt::Result {
        head(text, "events_total", "counter", "What happened, by event and lane.");
        for kind in KINDS {
            for lane in LANES {
                let count = self.events.get(&(kind, lane)).copied().unwrap_or(0);
                writeln!(text, "otp_relay_events_total{{event=\"{}\",lane=\"{lane}\"}} {count}", kind.name())?;
            }
        }
        head(text, "causes_total", "counter", "Why attempts ended otherwise than delivered.");
        for ((kind, cause), count) in &self.causes {
            writeln!(text, "otp_relay_causes_total{{event=\"{}\",cause=\"{cause}\"}} {count}", kind.name())?;
        }
        head(text, "tag_events_total", "counter", "Completions and verifications, by tag.");
        for (tag, kinds) in &self.tags {
            for (kind, count) in kinds {
                writeln!(text, "otp_relay_tag_events_total{{event=\"{}\",tag=\"{tag}\"}} {count}", kind.name())?;
            }
        }
        head(text, "delivery_seconds", "histogram", "From acceptance to the receiver's final answer.");
        for (lane, histogram) in &self.latency {
            for (bound, count) in BUCKETS.iter().zip(&histogram.buckets) {
                writeln!(text, "otp_relay_delivery_seconds_bucket{{lane=\"{lane}\",le=\"{bound}\"}} {count}")?;
            }
            let (count, sum) = (histogram.count, histogram.sum.as_secs_f64());
            writeln!(text, "otp_relay_delivery_seconds_bucket{{lane=\"{lane}\",le=\"+Inf\"}} {count}")?;
            writeln!(text, "otp_relay_delivery_seconds_sum{{lane=\"{lane}\"}} {sum}")?;
            writeln!(text, "otp_relay_delivery_seconds_count{{lane=\"{lane}\"}} {count}")?;
        }
        Ok(())
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
            counters.latency.entry(lane).or_default().add(event.head.since_accepted);
        }
        if let Some(tag) = event.head.tag.as_ref().filter(|_| kind.is_end() || kind == Kind::Verified) {
            let is_known = counters.tags.contains_key(tag) || counters.tags.len() < TAGS_MAX;
            let tag = if is_known { tag.clone() } else { "other".into() };
            *counters.tags.entry(tag).or_default().entry(kind).or_default() += 1;
        }
    }
}
