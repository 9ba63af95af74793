//! What was refused before it became a message: one line and a count by reason.
//!
//! The words are ours, never those of whoever was refused. A peer that is refused for the same reason again and again
//! has one line in ten seconds; how many were left out is told when they are over.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::exposition::{Exposition, Type};
use super::reasons::{Door, Reason, Stage};
use super::recipients::Recipients;
use crate::base::clock::Clock;
use crate::mail::address::Mailbox;
use crate::net::network;
use crate::smtp::reply::EnhancedCode;

/// How long the same peer and reason have one line.
pub(crate) const SPAN: Duration = Duration::from_secs(10);
/// Peers and reasons with a span of their own; all others share one for each reason.
pub(crate) const SPANS_MAX: usize = 1000;
/// How often spans are looked through for those that are over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A refusal.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// Which way somebody wanted in.
    pub door: Door,
    /// Whose connection it is.
    pub peer: IpAddr,
    /// The listening address.
    pub listener: SocketAddr,
    /// Who it is, where that is known: the name of a configured user.
    pub user: Option<&'a str>,
    /// What was being done.
    pub stage: Stage,
    /// The code of the reply or the status of the answer; none where the connection was closed without a word.
    pub code: Option<u16>,
    /// The enhanced status code of the reply.
    pub enhanced: Option<EnhancedCode>,
    pub(crate) reason: Reason,
    /// The same in our words; may name the recipient, which is told as configured.
    pub text: &'a str,
    /// To whom mail was meant to go.
    pub recipient: Option<&'a Mailbox>,
    /// How many more recipients there were.
    pub more_recipients: usize,
}

/// Tells and counts what is refused.
pub struct Refusals {
    clock: Arc<dyn Clock>,
    recipients: Recipients,
    spans: Mutex<Spans>,
    counts: Mutex<BTreeMap<(Door, Stage, Reason), u64>>,
    /// There is a span to wait for.
    news: Notify,
}

impl Refusals {
    /// Nothing has been refused yet.
    pub fn new(clock: Arc<dyn Clock>, recipients: Recipients) -> Arc<Self> {
        let (spans, counts, news) = (Mutex::default(), Mutex::default(), Notify::new());
        Arc::new(Self { clock, recipients, spans, counts, news })
    }

    /// Counts a refusal and tells it, unless that was done a moment ago.
    pub(crate) fn report(&self, refused: &Refused<'_>) {
        *self.counts.lock().entry((refused.door, refused.stage, refused.reason)).or_default() += 1;
        let is_first = self.spans.lock().count(refused, self.clock.instant());
        if !is_first {
            return;
        }
        self.news.notify_one();
        let now = self.clock.wall();
        let recipient = refused.recipient.map(|mailbox| self.recipients.render(mailbox, now));
        let more_recipients = (refused.more_recipients > 0).then_some(refused.more_recipients);
        let text = self.recipients.render_in(refused.text, refused.recipient, now);
        tracing::info!(
            door = refused.door.name(),
            peer = %refused.peer,
            listener = %refused.listener,
            user = refused.user.unwrap_or("unknown user"),
            stage = refused.stage.name(),
            code = refused.code,
            enhanced = refused.enhanced.map(tracing::field::display),
            reason = refused.reason.name(),
            limit = refused.reason.limit(),
            recipient,
            more_recipients,
            text = text.as_ref(),
            "refused"
        );
    }

    /// Tells from time to time what was left out.
    pub(crate) async fn report_left_out(&self) {
        loop {
            self.news.notified().await;
            while !self.spans.lock().of.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
                let ended = self.spans.lock().ended(self.clock.instant());
                ended.iter().for_each(log_left_out);
            }
        }
    }

    /// Tells what was left out up to now, at the end.
    pub fn close(&self) {
        let ended = self.spans.lock().ended(self.clock.instant() + SPAN);
        ended.iter().for_each(log_left_out);
    }

    /// The counters, in the text format of Prometheus.
    pub(crate) fn write_metrics(&self, out: &mut Exposition) {
        let counts = self.counts.lock();
        out.family("refused_total", Type::Counter, "What was refused before it became a message, by reason.");
        for ((door, stage, reason), count) in &*counts {
            out.sample(&[("door", door.name()), ("stage", stage.name()), ("reason", reason.name())], count);
        }
        let suppressed = counts.iter().filter(|((_, _, reason), _)| *reason == Reason::Suppressed);
        let suppressed: u64 = suppressed.map(|(_, count)| *count).sum();
        let help = "Recipients that were refused because they are suppressed.";
        out.family("suppressed_refusals_total", Type::Counter, help).sample(&[], suppressed);
    }
}

fn log_left_out(left: &LeftOut) {
    let LeftOut { of: Of { peer, door, reason }, count } = left;
    let peer = peer.map_or_else(|| "other peers".to_owned(), |peer| peer.to_string());
    let (door, reason, seconds) = (door.name(), reason.name(), SPAN.as_secs());
    tracing::info!(door, peer, reason, left_out = *count, "refused: and {count} more in {seconds} s");
}

/// Who was refused why; no peer: somebody for whom there was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Of {
    peer: Option<IpAddr>,
    door: Door,
    reason: Reason,
}

/// Refusals without a line.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    of: Of,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    ends: Instant,
    left_out: u64,
}

/// Those who have had a line lately.
#[derive(Debug, Default)]
struct Spans {
    of: HashMap<Of, Span>,
}

impl Spans {
    /// Whether a refusal gets a line.
    fn count(&mut self, refused: &Refused<'_>, now: Instant) -> bool {
        let peer = Some(network(refused.peer));
        let mut of = Of { peer, door: refused.door, reason: refused.reason };
        if self.of.len() >= SPANS_MAX && !self.of.contains_key(&of) {
            of.peer = None;
        }
        if let Some(span) = self.of.get_mut(&of) {
            // One that is over stays until what it left out is told.
            span.left_out += 1;
            return false;
        }
        self.of.insert(of, Span { ends: now + SPAN, left_out: 0 });
        true
    }

    /// Forgets the spans that are over; returns what they have left out.
    fn ended(&mut self, now: Instant) -> Vec<LeftOut> {
        let mut ended = Vec::new();
        self.of.retain(|of, span| {
            let is_over = span.ends <= now;
            if is_over && span.left_out > 0 {
                ended.push(LeftOut { of: *of, count: span.left_out });
            }
            !is_over
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposition::Format;
    use super::*;
    use crate::base::clock::SystemClock;

    fn refused(peer: &str, reason: Reason) -> Refused<'static> {
        Refused {
            door: Door::Smtp,
            peer: peer.parse().unwrap(),
            listener: "192.0.2.1:587".parse().unwrap(),
            user: None,
            stage: Stage::Connect,
            code: None,
            enhanced: None,
            reason,
            text: "",
            recipient: None,
            more_recipients: 0,
        }
    }

    #[test]
    fn one_line_in_ten_seconds_and_a_count() {
        let mut spans = Spans::default();
        let start = SystemClock::default().instant();
        let at = |s: u64| start + Duration::from_secs(s);
        let (budget, size) = (refused("192.0.2.7", Reason::Budget), refused("192.0.2.7", Reason::Size));
        assert!(spans.count(&budget, at(0)));
        assert!(spans.count(&size, at(1)), "another reason");
        assert!(spans.count(&refused("192.0.2.8", Reason::Budget), at(1)), "another peer");
        (0..41).for_each(|_| assert!(!spans.count(&budget, at(9))));
        assert_eq!(spans.ended(at(9)), []);
        let ended = spans.ended(at(11));
        assert_eq!(ended.iter().map(|left| left.count).collect::<Vec<_>>(), [41], "the others left nothing out");
        assert!(spans.of.is_empty());
        assert!(spans.count(&budget, at(12)), "a new span");
    }

    #[test]
    fn an_ipv6_customer_is_one_peer() {
        let mut spans = Spans::default();
        let now = SystemClock::default().instant();
        assert!(spans.count(&refused("2001:db8::1", Reason::Budget), now));
        assert!(!spans.count(&refused("2001:db8::2", Reason::Budget), now));
        assert!(spans.count(&refused("2001:db8:0:1::1", Reason::Budget), now));
    }

    #[test]
    fn peers_for_whom_there_is_no_room_share_a_line() {
        let mut spans = Spans::default();
        let now = SystemClock::default().instant();
        let peer = |number: usize| format!("10.0.{}.{}", number / 250, number % 250);
        let lines =
            (0..SPANS_MAX + 500).filter(|number| spans.count(&refused(&peer(*number), Reason::Size), now)).count();
        assert_eq!(lines, SPANS_MAX + 1);
        assert!(spans.of.len() <= SPANS_MAX + 1);
        let ended = spans.ended(now + SPAN);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].of.peer, ended[0].count), (None, 499));
    }

    #[test]
    fn counters_are_labelled() {
        let refusals = Refusals::new(Arc::new(SystemClock::default()), Recipients::default());
        refusals.report(&refused("192.0.2.7", Reason::Size));
        refusals.report(&refused("192.0.2.8", Reason::Size));
        let mut out = Exposition::new(Format::Prometheus);
        refusals.write_metrics(&mut out);
        let text = out.finish();
        assert!(text.contains("# TYPE otp_relay_refused_total counter\n"));
        assert!(
            text.contains("otp_relay_refused_total{door=\"smtp\",stage=\"connect\",reason=\"size\"} 2\n"),
            "{text}"
        );
    }
}
