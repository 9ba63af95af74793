//! What was sent where, by provider: who runs the mail hosts, told by the registrable part of the host's name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Listener;
use super::exposition::{Exposition, Type};
use super::stats::counts::blames_sender;
use crate::event::cause::Cause;
use crate::event::{Event, Kind};
use crate::mail::id::MessageId;
use crate::mail::registrable::registrable_domain;

/// Providers with a row of their own; further ones share one.
const ROWS_MAX: usize = 20;
const OTHER: &str = "other";
/// Upper bounds of the latency buckets, in seconds.
pub(super) const BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// The same of the time until a code was used.
const VERIFIED_BUCKETS: [f64; 6] = [10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Delivered messages whose provider is remembered until they are used.
const DELIVERED_MAX: usize = 20_000;

/// How attempts end, as far as metrics tell them apart.
const OUTCOMES: [&str; 5] = ["delivered", "greylisted", "blames_sender", "deferred", "failed"];

#[derive(Debug, Default, Clone)]
struct Row {
    outcomes: [u64; OUTCOMES.len()],
    buckets: [u64; BUCKETS.len()],
    sum: Duration,
    verified: u64,
    verified_buckets: [u64; VERIFIED_BUCKETS.len()],
    verified_sum: Duration,
    /// The last reply of refusals that blame the sender, by cause.
    replies: BTreeMap<Cause, Arc<str>>,
}

/// All providers since the start.
#[derive(Debug, Default)]
pub struct Providers(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<Arc<str>, Row>,
    /// Who took which message, of those delivered last.
    took: HashMap<MessageId, Arc<str>>,
    delivered: VecDeque<MessageId>,
}

impl Providers {
    /// What a provider said last when it refused the relay for this cause, since the start.
    pub fn reply(&self, provider: &str, cause: Cause) -> Option<Arc<str>> {
        self.0.lock().rows.get(provider)?.replies.get(&cause).cloned()
    }

    /// Families of metrics.
    pub fn write(&self, out: &mut Exposition) {
        let rows: BTreeMap<Arc<str>, Row> =
            self.0.lock().rows.iter().map(|(name, row)| (name.clone(), row.clone())).collect();
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
        let help = "From acceptance until the app saw the code used, by the provider that took it.";
        out.family("provider_verified_seconds", Type::Histogram, help);
        for (name, row) in &rows {
            let buckets = VERIFIED_BUCKETS.iter().zip(row.verified_buckets).map(|(bound, count)| (*bound, count, None));
            out.histogram(&[("provider", name)], buckets, (row.verified, row.verified_sum.as_secs_f64()));
        }
        // Nothing holds a whole provider yet, and no source is warmed up.
        out.family("provider_hold_seconds", Type::Gauge, "How long nothing is sent to a provider yet.");
        out.family("source_daily_total", Type::Counter, "Messages that left by a source address today.");
        out.family("source_cap", Type::Gauge, "Messages that may leave by a source address today.");
    }
}

impl Row {
    fn add(&mut self, event: &Event) {
        let blamed = blames_sender(event);
        let kind = event.kind();
        let others = [(Kind::Delivered, 0), (Kind::Greylisted, 1), (Kind::Deferred, 3), (Kind::Failed, 4)];
        let plain = others.iter().find(|(known, _)| *known == kind).map_or(4, |(_, outcome)| *outcome);
        let outcome = if blamed.is_some() { 2 } else { plain };
        self.outcomes[outcome] += 1;
        if outcome == 0 {
            let span = event.head.since_accepted;
            self.sum += span;
            let reached = BUCKETS.iter().zip(&mut self.buckets).filter(|(bound, _)| span.as_secs_f64() <= **bound);
            reached.for_each(|(_, count)| *count += 1);
        }
        if let Some(cause) = blamed {
            self.replies.insert(cause, event.reply().unwrap_or_default().into());
        }
    }
}

impl Table {
    fn row(&mut self, name: &str) -> (Arc<str>, &mut Row) {
        let name = if self.rows.contains_key(name) || self.rows.len() < ROWS_MAX { name } else { OTHER };
        let name = self.rows.get_key_value(name).map_or_else(|| name.into(), |(known, _)| known.clone());
        let row = self.rows.entry(name.clone()).or_default();
        (name, row)
    }

    fn was_delivered(&mut self, id: MessageId, provider: Arc<str>) {
        if self.took.insert(id, provider).is_none() {
            self.delivered.push_back(id);
        }
        while self.delivered.len() > DELIVERED_MAX {
            let oldest = self.delivered.pop_front();
            oldest.map(|oldest| self.took.remove(&oldest));
        }
    }

    fn was_verified(&mut self, event: &Event) {
        let row = self.took.get(&event.head.id).and_then(|provider| self.rows.get_mut(provider));
        let Some(row) = row else { return };
        let span = event.head.since_accepted;
        row.verified += 1;
        row.verified_sum += span;
        let reached = VERIFIED_BUCKETS.iter().zip(&mut row.verified_buckets);
        reached.filter(|(bound, _)| span.as_secs_f64() <= **bound).for_each(|(_, count)| *count += 1);
    }
}

impl Listener for Providers {
    fn on_event(&self, event: &Arc<Event>) {
        let kind = event.kind();
        let mut table = self.0.lock();
        if kind == Kind::Verified {
            return table.was_verified(event);
        }
        let is_attempt = matches!(kind, Kind::Delivered | Kind::Greylisted | Kind::Deferred | Kind::Failed);
        let Some(host) = event.destination().filter(|_| is_attempt) else { return };
        let (provider, row) = table.row(registrable_domain(host));
        row.add(event);
        if kind == Kind::Delivered {
            table.was_delivered(event.head.id, provider);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposition::Format;
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::event::{Attempted, Happened, Head};

    fn event(id: u8, kind: Kind, cause: Option<Cause>, seconds: u64) -> Arc<Event> {
        let time = Timestamp::from_millis(1_795_255_200_000);
        let since_accepted = Duration::from_secs(seconds);
        let head = Head { since_accepted, ..Head::sample(MessageId::from_bytes([id; 16]), time) };
        let destination = Some("mx1.mail.example.com".into());
        let attempted = Attempted { destination, cause, reply: Some("550 no".into()), ..Attempted::default() };
        Arc::new(Event { head, what: Happened::of(kind, attempted, None) })
    }

    #[test]
    fn a_provider_is_told_by_what_it_took_refused_and_what_was_used() {
        let providers = Providers::default();
        providers.on_event(&event(1, Kind::Delivered, None, 2));
        providers.on_event(&event(2, Kind::Failed, Some(Cause::ReputationBlocked), 1));
        providers.on_event(&event(3, Kind::Failed, Some(Cause::BadMailbox), 1));
        providers.on_event(&event(1, Kind::Verified, None, 40));
        providers.on_event(&event(9, Kind::Verified, None, 40));
        let mut out = Exposition::new(Format::Prometheus);
        providers.write(&mut out);
        let text = out.finish();
        for line in [
            "provider_attempts_total{provider=\"example.com\",outcome=\"delivered\"} 1",
            "provider_attempts_total{provider=\"example.com\",outcome=\"blames_sender\"} 1",
            "provider_attempts_total{provider=\"example.com\",outcome=\"failed\"} 1",
            "provider_delivery_seconds_bucket{provider=\"example.com\",le=\"2.5\"} 1",
            "provider_verified_seconds_bucket{provider=\"example.com\",le=\"30\"} 0",
            "provider_verified_seconds_bucket{provider=\"example.com\",le=\"60\"} 1",
            "provider_verified_seconds_count{provider=\"example.com\"} 1",
        ] {
            assert!(text.contains(&format!("\notp_relay_{line}\n")), "{line} in {text}");
        }
        assert_eq!(providers.reply("example.com", Cause::ReputationBlocked).as_deref(), Some("550 no"));
        assert_eq!(providers.reply("example.com", Cause::BadMailbox), None);
    }

    #[test]
    fn twenty_providers_have_rows_and_what_was_delivered_is_bounded() {
        let mut table = Table::default();
        (0..25).for_each(|number| table.row(&format!("p{number}.example")).1.outcomes[0] += 1);
        assert_eq!((table.rows.len(), table.rows[OTHER].outcomes[0]), (ROWS_MAX + 1, 5));
        for number in 0..DELIVERED_MAX as u128 + 10 {
            table.was_delivered(MessageId::from_bytes(number.to_be_bytes()), OTHER.into());
        }
        assert_eq!((table.took.len(), table.delivered.len()), (DELIVERED_MAX, DELIVERED_MAX));
    }
}
