//! The figures of the page, out of the statistics, so that they are there again after a restart: the last hour beside the same
//! hour of yesterday, the times to delivered of a day, and providers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::super::Api;
use super::super::auth::Principal;
use super::chart;
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::mail::registrable::registrable_domain;
use crate::report::stats::counts::Counts;
use crate::report::stats::table::By;
use crate::report::stats::{Answer, Selection, Statistics};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Length of a step of the picture, in seconds.
const STEP_S: u64 = 600;
/// How old the picture may be: it takes a day of minutes to read.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Steps of the picture that are told in numbers too.
const ROWS_MAX: usize = 24;
/// Providers that are shown.
const PROVIDERS_MAX: usize = 20;

/// A time, and the median and the 99th percentile of what was delivered then, in milliseconds.
type Row = (String, Option<u64>, Option<u64>);

/// The picture of the last day as it was drawn last, and when that was.
#[derive(Debug, Default)]
pub(in super::super) struct Day(Mutex<Option<(Timestamp, Picture)>>);

/// The times to delivered of a day.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    /// SVG.
    pub(super) chart: String,
    /// The same in numbers, the newest first.
    pub(super) rows: Vec<Row>,
}

/// Codes of an hour.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Hour {
    in_time: u64,
    /// Delivered late, expired, failed.
    late: u64,
}

/// How a provider took codes in the last 24 hours.
#[derive(Debug, Serialize)]
pub(super) struct Provider {
    name: String,
    delivered: u64,
    p50_ms: Option<u64>,
    p95_ms: Option<u64>,
    /// Attempts refused for what the relay is or does.
    refused: u64,
    /// Entries that failed for another reason.
    failed: u64,
    /// Sessions open with its hosts.
    sessions: usize,
    /// The shortest wait that its greylisting let pass.
    greylisted_s: Option<u64>,
}

/// Refusals of the last 24 hours that blame the relay.
#[derive(Debug, Serialize)]
pub(super) struct Refusals {
    provider: String,
    cause: &'static str,
    meaning: &'static str,
    count: u64,
    /// What was said last; empty where that was before the start.
    reply: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) hour: Hour,
    /// None where nothing ended then.
    pub(super) yesterday: Option<Hour>,
    pub(super) picture: Picture,
    pub(super) providers: Vec<Provider>,
    pub(super) refusals: Vec<Refusals>,
}

/// Reads them; zeros where the statistics cannot be read, which the log tells.
pub(super) async fn read(api: &Api, who: &Principal) -> Figures {
    let now = api.parts.clock.wall();
    // What an answer told of is counted.
    api.parts.stats.caught_up(api.parts.queue.happened().newest()).await;
    let known = api.day.0.lock().clone().filter(|(at, _)| *at <= now && now.since(*at) < KEPT_FOR);
    let has_picture = known.is_some();
    let stats = api.parts.stats.clone();
    let read = move |known: Option<Picture>| {
        let picture = known.unwrap_or_else(|| picture(&stats, now));
        let providers = stats.hourly(&of(now, DAY, Some(By::Provider)));
        (hour(&stats, now), hour(&stats, now.minus(DAY)), picture, providers)
    };
    let known = known.map(|(_, picture)| picture);
    let (hour, yesterday, picture, providers) = api.scan(who, move |_| read(known)).await;
    if !has_picture {
        *api.day.0.lock() = Some((now, picture.clone()));
    }
    let yesterday = Some(yesterday).filter(|hour| *hour != Hour::default());
    let groups = providers.map(|answer| answer.groups).unwrap_or_default();
    let counts = groups.into_iter().map(|(name, group)| (name, group.total)).collect();
    let refusals = refusals(api, &counts);
    Figures { hour, yesterday, picture, providers: rows(api, counts), refusals }
}

fn of(to: Timestamp, span: Duration, by: Option<By>) -> Selection {
    Selection { from: to.minus(span), to, by, user: None }
}

/// The hour that ends then.
fn hour(stats: &Statistics, to: Timestamp) -> Hour {
    let total = stats.answer(&of(to, HOUR, None)).map(|answer| answer.total).unwrap_or_default();
    Hour { in_time: total.in_time, late: total.missed() }
}

fn picture(stats: &Statistics, now: Timestamp) -> Picture {
    stats.answer(&of(now, DAY, Some(By::Lane))).map(|answer| drawn(answer, now)).unwrap_or_default()
}

fn drawn(answer: Answer, now: Timestamp) -> Picture {
    let mut steps: BTreeMap<u64, Counts> = BTreeMap::new();
    for (at, counts) in answer.groups.into_values().flat_map(|group| group.series) {
        steps.entry(at / STEP_S).or_default().merge(&counts);
    }
    let (last, in_day) = (now.as_secs() / STEP_S, DAY.as_secs() / STEP_S);
    let ago = |step: u64| last.saturating_sub(step);
    let line = |share: f64| -> Vec<(f64, u64)> {
        let points = steps.iter().filter_map(|(step, counts)| {
            let at = 1.0 - ago(*step) as f64 / in_day as f64;
            Some((at.max(0.0), counts.to_delivered.quantile(share)?))
        });
        points.collect()
    };
    let row = |(step, counts): (&u64, &Counts)| {
        let times = &counts.to_delivered;
        (format!("{} min ago", ago(*step) * STEP_S / 60), times.quantile(0.5), times.quantile(0.99))
    };
    let rows = steps.iter().rev().filter(|(_, counts)| counts.delivered > 0).take(ROWS_MAX).map(row).collect();
    Picture { chart: chart::times(&[("p50", line(0.5)), ("p99", line(0.99))]), rows }
}

/// A row for each provider, the busiest first.
fn rows(api: &Api, counts: BTreeMap<String, Counts>) -> Vec<Provider> {
    let mut sessions: BTreeMap<String, usize> = BTreeMap::new();
    for (host, count) in api.parts.delivery.connections_by_host() {
        *sessions.entry(registrable_domain(&host).to_owned()).or_default() += count;
    }
    let mut delays: BTreeMap<String, Duration> = BTreeMap::new();
    for (destination, delay) in api.parts.queue.greylists().delays() {
        // Its name is that of its hosts.
        let host = destination.split(',').next().unwrap_or_default();
        let shortest = delays.entry(registrable_domain(host).to_owned()).or_insert(delay);
        *shortest = delay.min(*shortest);
    }
    let row = |(name, counts): (String, Counts)| Provider {
        delivered: counts.delivered,
        p50_ms: counts.to_delivered.quantile(0.5),
        p95_ms: counts.to_delivered.quantile(0.95),
        refused: counts.blames_sender.values().sum(),
        failed: others(&counts),
        sessions: sessions.get(&name).copied().unwrap_or_default(),
        greylisted_s: delays.get(&name).map(Duration::as_secs),
        name,
    };
    let mut all: Vec<Provider> = counts.into_iter().map(row).collect();
    all.sort_by(|a, b| (b.delivered + b.refused, &a.name).cmp(&(a.delivered + a.refused, &b.name)));
    all.truncate(PROVIDERS_MAX);
    all
}

/// Entries that failed for what neither the relay is nor does.
fn others(counts: &Counts) -> u64 {
    let failed = counts.failed.iter().filter(|(cause, _)| !counts.blames_sender.contains_key(*cause));
    failed.map(|(_, count)| count).sum()
}

fn refusals(api: &Api, counts: &BTreeMap<String, Counts>) -> Vec<Refusals> {
    let mut all = Vec::new();
    for (provider, counts) in counts {
        for (cause, count) in &counts.blames_sender {
            let Some(cause) = Cause::ALL.iter().copied().find(|known| known.name() == cause) else { continue };
            let reply = api.parts.providers.reply(provider, cause).unwrap_or_default();
            let (provider, meaning) = (provider.clone(), cause.meaning());
            all.push(Refusals { provider, cause: cause.name(), meaning, count: *count, reply });
        }
    }
    all.sort_by(|a, b| (b.count, &a.provider).cmp(&(a.count, &b.provider)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::stats::Group;
    use crate::report::stats::table::Resolution;

    #[test]
    fn minutes_are_put_together_to_steps_of_ten() {
        let now = Timestamp::from_millis(1_795_255_200_000);
        let delivered = |count| Counts { delivered: count, ..Counts::default() };
        let minute = |ago: u64| now.as_secs() - ago * 60;
        let series = [(minute(1), delivered(1)), (minute(4), delivered(2)), (minute(25), delivered(3))];
        let group = Group { total: Counts::default(), series: series.into() };
        let from = now.minus(DAY);
        let groups = [("otp".to_owned(), group)].into();
        let answer = Answer { from, to: now, resolution: Resolution::Minutes, total: Counts::default(), groups };
        let picture = drawn(answer, now);
        let when: Vec<&str> = picture.rows.iter().map(|(when, ..)| when.as_str()).collect();
        assert_eq!(when, ["10 min ago", "30 min ago"]);
        assert!(picture.chart.starts_with("<svg"));
    }

    #[test]
    fn what_blames_the_relay_is_told_apart_from_other_failures() {
        let failed = [("bad_mailbox".to_owned(), 3), ("reputation_blocked".to_owned(), 2)].into();
        let blames_sender = [("reputation_blocked".to_owned(), 5)].into();
        assert_eq!(others(&Counts { failed, blames_sender, ..Counts::default() }), 3);
    }
}
