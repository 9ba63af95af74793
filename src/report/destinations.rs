//! What was sent where, from the events since the start: a row for each recipient domain.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Listener;
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::{Event, Kind};
use crate::mail::id::EntryId;

/// Domains with a row of their own. Beyond, the one that was quiet longest and has nothing waiting goes; if each has,
/// further ones share a row.
pub(crate) const ROWS_MAX: usize = 1000;
/// Entries that are told apart while they wait; further ones are not counted as waiting.
const WAITING_MAX: usize = 500_000;
/// The row of those for whom there is none.
pub(crate) const OTHERS: &str = "*";
/// Four for each doubling of the milliseconds, up to a day.
const BUCKETS: usize = 4 * 27;

/// What was sent to a recipient domain.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Recipients that took their message.
    pub sent: u64,
    /// Entries under way, or between attempts.
    pub(crate) waiting: u64,
    /// Entries that will not be delivered.
    pub(crate) failed: u64,
    /// Entries that expired.
    pub(crate) expired: u64,
    /// The last attempt that was refused or came to nothing.
    pub(crate) last_refusal: Option<LastRefusal>,
    times: [u32; BUCKETS],
    updated_at: Timestamp,
}

/// What was wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastRefusal {
    /// When.
    pub at: Timestamp,
    /// Where.
    pub host: Option<Arc<str>>,
    /// Why.
    pub cause: Option<Cause>,
    /// What the mail host said, or what else happened.
    pub reply: Option<Arc<str>>,
}

impl Default for Row {
    fn default() -> Self {
        let (sent, waiting, failed, expired) = (0, 0, 0, 0);
        let updated_at = Timestamp::default();
        Self { sent, waiting, failed, expired, last_refusal: None, times: [0; BUCKETS], updated_at }
    }
}

impl Row {
    /// The time from acceptance to delivery that this share of deliveries kept, at most a fifth too long; none before
    /// the first.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let all: u64 = self.times.iter().map(|count| u64::from(*count)).sum();
        let mut below = 0;
        let bucket = self.times.iter().position(|count| {
            below += u64::from(*count);
            below > 0 && below as f64 >= share * all as f64
        })?;
        let end = f64::exp2((bucket + 1) as f64 / 4.0);
        Some(Duration::from_secs_f64((end / 1000.0).min(86_400.0)))
    }

    fn took(&mut self, since_accepted: Duration) {
        let ms = (since_accepted.as_secs_f64() * 1000.0).max(1.0);
        let bucket = (ms.log2() * 4.0) as usize;
        let count = &mut self.times[bucket.min(BUCKETS - 1)];
        *count = count.saturating_add(1);
    }
}

/// All rows.
#[derive(Debug, Default)]
pub struct Destinations(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<Arc<str>, Row>,
    waiting: HashSet<EntryId>,
}

impl Destinations {
    /// The rows, those with most waiting first, then those with most traffic.
    pub(crate) fn rows(&self) -> Vec<(Arc<str>, Row)> {
        let table = self.0.lock();
        let mut rows: Vec<_> = table.rows.iter().map(|(domain, row)| (domain.clone(), row.clone())).collect();
        drop(table);
        rows.sort_by_cached_key(|(domain, row)| (Reverse((row.waiting, row.sent + row.failed)), domain.clone()));
        rows
    }

    /// Forgets what a mail host said last to a domain: it may quote an address.
    pub(crate) fn forget_reply(&self, domain: &str) {
        if let Some(refusal) = self.0.lock().rows.get_mut(domain).and_then(|row| row.last_refusal.as_mut()) {
            refusal.reply = None;
        }
    }

    /// An entry to this domain waits since before the start.
    pub fn waits(&self, entry: EntryId, domain: &str) {
        self.0.lock().waits(entry, domain);
    }
}

impl Table {
    fn row(&mut self, domain: &str) -> &mut Row {
        if !self.rows.contains_key(domain) && self.rows.len() >= ROWS_MAX {
            let quiet = self.rows.iter().filter(|(_, row)| row.waiting == 0).min_by_key(|(_, row)| row.updated_at);
            match quiet.map(|(domain, _)| domain.clone()) {
                Some(quiet) => self.rows.remove(&quiet),
                None => return self.rows.entry(OTHERS.into()).or_default(),
            };
        }
        self.rows.entry(domain.into()).or_default()
    }

    fn waits(&mut self, entry: EntryId, domain: &str) {
        if self.waiting.len() < WAITING_MAX && self.waiting.insert(entry) {
            self.row(domain).waiting += 1;
        }
    }

    fn waits_no_more(&mut self, entry: EntryId, domain: &str) {
        if self.waiting.remove(&entry) {
            let row = self.row(domain);
            row.waiting = row.waiting.saturating_sub(1);
        }
    }
}

impl Listener for Destinations {
    fn on_event(&self, event: &Arc<Event>) {
        let (Some(recipient), Some(entry)) = (&event.head.recipient, event.entry()) else { return };
        let (domain, kind) = (recipient.domain_key(), event.kind());
        let mut table = self.0.lock();
        if kind.is_end() {
            table.waits_no_more(entry, &domain);
        } else if matches!(kind, Kind::Queued | Kind::Attempted | Kind::Deferred | Kind::Greylisted) {
            table.waits(entry, &domain);
        }
        let row = table.row(&domain);
        row.updated_at = event.head.time;
        match kind {
            Kind::Delivered => {
                row.sent += 1;
                row.took(event.head.since_accepted);
            }
            Kind::Failed => row.failed += 1,
            Kind::Expired => row.expired += 1,
            Kind::Accepted
            | Kind::Queued
            | Kind::Attempted
            | Kind::Deferred
            | Kind::Greylisted
            | Kind::AtRisk
            | Kind::Superseded
            | Kind::Cancelled
            | Kind::Bounced
            | Kind::Complained
            | Kind::Verified => {}
        }
        if matches!(kind, Kind::Deferred | Kind::Greylisted | Kind::Failed | Kind::Bounced) {
            let reply = event.reply().or_else(|| event.note()).map(Arc::from);
            let host = event.what.destination().cloned();
            row.last_refusal = Some(LastRefusal { at: event.head.time, host, cause: event.cause(), reply });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Attempted, Happened, Head};
    use crate::mail::address::Mailbox;
    use crate::mail::id::{IdSource, MessageId};

    struct World {
        destinations: Destinations,
        ids: IdSource,
        now: Timestamp,
    }

    impl World {
        fn new() -> Self {
            let (destinations, now) = (Destinations::default(), Timestamp::from_millis(1_795_255_200_000));
            Self { destinations, ids: IdSource::with_random(|| 7), now }
        }

        fn on_event(&mut self, kind: Kind, id: MessageId, domain: &str, ms: u64) {
            self.now = self.now.plus(Duration::from_millis(1));
            let head = Head {
                recipient: Some(Mailbox::parse(&format!("alice@{domain}")).unwrap()),
                since_accepted: Duration::from_millis(ms),
                ..Head::sample(id, self.now)
            };
            let attempted = Attempted {
                destination: Some("mx.example.com".into()),
                cause: Some(Cause::Greylisted),
                reply: Some("450 later".into()),
                ..Attempted::default()
            };
            self.destinations.on_event(&Arc::new(Event { head, what: Happened::of(kind, attempted, None) }));
        }

        fn message(&mut self, kinds: &[Kind], domain: &str, ms: u64) -> MessageId {
            let id = self.ids.next(self.now);
            kinds.iter().for_each(|kind| self.on_event(*kind, id, domain, ms));
            id
        }

        fn row(&self, domain: &str) -> Option<Row> {
            self.destinations.rows().into_iter().find(|(name, _)| name.as_ref() == domain).map(|(_, row)| row)
        }
    }

    #[test]
    fn a_row_says_what_became_of_the_mail_to_a_domain() {
        let mut world = World::new();
        for ms in [10, 20, 30, 2000] {
            world.message(&[Kind::Queued, Kind::Attempted, Kind::Delivered], "Example.COM", ms);
        }
        world.message(&[Kind::Attempted, Kind::Failed], "example.com", 5);
        world.message(&[Kind::Attempted, Kind::Deferred, Kind::Expired], "example.com", 5);
        let waits = world.message(&[Kind::Attempted, Kind::Greylisted, Kind::Attempted], "example.com", 5);
        let row = world.row("example.com").unwrap();
        assert_eq!((row.sent, row.waiting, row.failed, row.expired), (4, 1, 1, 1));
        let ms = |share| row.quantile(share).unwrap().as_secs_f64() * 1000.0;
        assert!((20.0..24.0).contains(&ms(0.5)) && (2000.0..2400.0).contains(&ms(0.99)), "{} {}", ms(0.5), ms(0.99));
        let last = row.last_refusal.unwrap();
        assert_eq!((last.cause, last.reply.as_deref()), (Some(Cause::Greylisted), Some("450 later")));
        world.on_event(Kind::Cancelled, waits, "example.com", 5);
        assert_eq!(world.row("example.com").unwrap().waiting, 0);
        assert_eq!(Row::default().quantile(0.5), None);
    }

    #[test]
    fn the_table_does_not_grow_for_ever() {
        let mut world = World::new();
        let waits = world.message(&[Kind::Attempted], "first.example", 5);
        for number in 0..ROWS_MAX + 10 {
            world.message(&[Kind::Attempted, Kind::Failed], &format!("d{number}.example"), 5);
        }
        assert_eq!(world.destinations.rows().len(), ROWS_MAX);
        assert!(world.row("first.example").is_some(), "something waits there");
        assert!(world.row("d0.example").is_none(), "the quietest has gone");
        for number in 0..ROWS_MAX + 10 {
            world.message(&[Kind::Attempted], &format!("w{number}.example"), 5);
        }
        assert_eq!(world.destinations.rows().len(), ROWS_MAX + 1);
        assert_eq!(world.row(OTHERS).unwrap().waiting, 11);
        world.on_event(Kind::Delivered, waits, "first.example", 5);
        assert_eq!(world.row("first.example").unwrap().waiting, 0);
    }
}
