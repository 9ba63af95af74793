//! What was sent where, by provider: who runs the mail hosts, told by the registrable part of the host's name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Listener;
use super::exposition::{Exposition, Type};
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Event, Kind};
use crate::mail::registrable::registrable_domain;
use crate::policy::action::{Blame, Finality, action};

/// Providers with a row of their own; further ones share one.
const ROWS_MAX: usize = 20;
const OTHER: &str = "other";
/// Upper bounds of the latency buckets, in seconds.
pub(super) const BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
/// Hours for which refusals are remembered.
const HOURS: usize = 24;

/// How attempts end, as far as metrics tell them apart.
const OUTCOMES: [&str; 5] = ["delivered", "greylisted", "blames_sender", "deferred", "failed"];

#[derive(Debug, Default, Clone)]
struct Row {
    outcomes: [u64; OUTCOMES.len()],
    buckets: [u64; BUCKETS.len()],
    sum: Duration,
    /// Of refusals that blame the sender: by cause, how many in each hour, and the last reply.
    blamed: BTreeMap<Cause, Blamed>,
}

#[derive(Debug, Default, Clone)]
struct Blamed {
    hours: [(u64, u32); HOURS],
    reply: Arc<str>,
}

/// A provider, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Provider {
    /// Its domain.
    pub name: Arc<str>,
    /// Recipients that took their message.
    pub delivered: u64,
    /// Attempts that were refused for what the sender is or does.
    pub refused: u64,
    /// Milliseconds within which half of the messages were delivered, as far as buckets tell.
    pub p50_ms: Option<u64>,
    /// The same of nineteen in twenty.
    pub p95_ms: Option<u64>,
}

/// Refusals of the last 24 hours that blame the sender.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Refusals {
    /// Who refused.
    pub provider: Arc<str>,
    /// Why.
    pub cause: &'static str,
    /// The cause in a sentence.
    pub meaning: &'static str,
    /// How often.
    pub count: u64,
    /// What was said last.
    pub reply: Arc<str>,
}

/// All providers since the start.
#[derive(Debug, Default)]
pub struct Providers(Mutex<HashMap<Arc<str>, Row>>);

impl Providers {
    /// Those with a row, the busiest first.
    pub fn rows(&self) -> Vec<Provider> {
        let rows = self.0.lock();
        let mut all: Vec<Provider> = rows.iter().map(|(name, row)| row.shown(name)).collect();
        all.sort_by(|a, b| (b.delivered + b.refused, &a.name).cmp(&(a.delivered + a.refused, &b.name)));
        all
    }

    /// Who refused the relay in the last 24 hours, and why.
    pub fn refusals(&self, now: Timestamp) -> Vec<Refusals> {
        let hour = now.as_secs() / 3600;
        let rows = self.0.lock();
        let mut all = Vec::new();
        for (provider, row) in &*rows {
            for (cause, blamed) in &row.blamed {
                let recent = blamed.hours.iter().filter(|(at, _)| at + (HOURS as u64) > hour);
                let count: u64 = recent.map(|(_, count)| u64::from(*count)).sum();
                if count > 0 {
                    let (cause, meaning) = (cause.name(), cause.meaning());
                    all.push(Refusals {
                        provider: provider.clone(),
                        cause,
                        meaning,
                        count,
                        reply: blamed.reply.clone(),
                    });
                }
            }
        }
        all.sort_by(|a, b| (b.count, &a.provider).cmp(&(a.count, &b.provider)));
        all
    }

    /// Families of metrics.
    pub fn write(&self, out: &mut Exposition) {
        let rows: BTreeMap<Arc<str>, Row> =
            self.0.lock().iter().map(|(name, row)| (name.clone(), row.clone())).collect();
        out.family("provider_attempts_total", Type::Counter, "Attempts that came to an end, by provider and outcome.");
        for (name, row) in &rows {
            for (outcome, count) in OUTCOMES.iter().zip(row.outcomes) {
                out.sample(&[("provider", name), ("outcome", outcome)], count);
            }
        }
        let help = "From acceptance to the receiver's final answer, by provider.";
        out.family("provider_delivery_seconds", Type::Histogram, help);
        for (name, row) in &rows {
            let buckets = BUCKETS.iter().zip(row.buckets).map(|(bound, count)| (*bound, count, None));
            out.histogram(&[("provider", name)], buckets, (row.outcomes[0], row.sum.as_secs_f64()));
        }
    }
}

impl Row {
    fn shown(&self, name: &Arc<str>) -> Provider {
        let within = |share: f64| {
            let (all, wanted) = (self.outcomes[0], self.outcomes[0] as f64 * share);
            let at = BUCKETS.iter().zip(self.buckets).find(|(_, count)| *count as f64 >= wanted);
            at.filter(|_| all > 0).map(|(bound, _)| (bound * 1000.0) as u64)
        };
        let (delivered, refused) = (self.outcomes[0], self.outcomes[2]);
        Provider { name: name.clone(), delivered, refused, p50_ms: within(0.5), p95_ms: within(0.95) }
    }

    fn add(&mut self, event: &Event) {
        let blames = event.cause().is_some_and(|cause| action(cause, Finality::Final).blame == Blame::Relay);
        let kind = event.kind();
        let others = [(Kind::Delivered, 0), (Kind::Greylisted, 1), (Kind::Deferred, 3), (Kind::Failed, 4)];
        let plain = others.iter().find(|(known, _)| *known == kind).map_or(4, |(_, outcome)| *outcome);
        let outcome = if blames && plain >= 3 { 2 } else { plain };
        self.outcomes[outcome] += 1;
        if outcome == 0 {
            let span = event.head.since_accepted;
            self.sum += span;
            let reached = BUCKETS.iter().zip(&mut self.buckets).filter(|(bound, _)| span.as_secs_f64() <= **bound);
            reached.for_each(|(_, count)| *count += 1);
        }
        if let Some(cause) = event.cause().filter(|_| outcome == 2) {
            let hour = event.head.time.as_secs() / 3600;
            let blamed = self.blamed.entry(cause).or_default();
            let slot = &mut blamed.hours[usize::try_from(hour % HOURS as u64).unwrap_or(0)];
            *slot = if slot.0 == hour { (hour, slot.1.saturating_add(1)) } else { (hour, 1) };
            blamed.reply = event.reply().unwrap_or_default().into();
        }
    }
}

impl Listener for Providers {
    fn on_event(&self, event: &Arc<Event>) {
        let is_attempt = matches!(event.kind(), Kind::Delivered | Kind::Greylisted | Kind::Deferred | Kind::Failed);
        let Some(host) = event.destination().filter(|_| is_attempt) else { return };
        let name = registrable_domain(host);
        let mut rows = self.0.lock();
        let name = if rows.contains_key(name) || rows.len() < ROWS_MAX { name } else { OTHER };
        if !rows.contains_key(name) {
            rows.insert(name.into(), Row::default());
        }
        if let Some(row) = rows.get_mut(name) {
            row.add(event);
        }
    }
}
