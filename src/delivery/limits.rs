//! What a destination was seen to bear, and how it is used: how many sessions at once, how long they may rest, how many
//! messages each may carry.

use std::time::{Duration, Instant};

use super::window::Window;

/// How long the most that was needed at once counts; then it is halved.
const PEAK_SPAN: Duration = Duration::from_secs(600);
/// How long a session rests for the next entry where nothing is known of how often they come.
const REST_FIRST: Duration = Duration::from_secs(30);
/// The least that it rests: who asks for a code often asks for another.
const REST_LEAST: Duration = Duration::from_secs(10);
/// Sessions that end within this time of each other end for the same reason.
const TOGETHER: Duration = Duration::from_secs(1);
/// Part of the time after which a host was seen to close idle sessions, in percent, that they are kept.
const REST_PART: u32 = 80;
/// A host that closes idle sessions sooner than this does not want them.
pub(super) const REST_WANTED: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct LearnedLimits {
    /// Sessions at once that the host took when it turned others away.
    cap: Option<usize>,
    /// Sessions at once.
    pub(super) window: Window,
    /// The most entries at once, and when that was.
    peak: (usize, Option<Instant>),
    /// The mean time between entries, recent ones counting more, and when the last one came.
    gap: Option<Duration>,
    last_entry: Option<Instant>,
    /// How long the host allows a session to idle, and when that was learned.
    rest_max: Option<(Duration, Instant)>,
    /// How long the session had rested that the host ended last, and when.
    ended: Option<(Duration, Instant)>,
    /// How many transactions the host takes in one session.
    transactions_max: Option<u32>,
}

impl LearnedLimits {
    /// Nothing is known; `most`: sessions at once at most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            cap: None,
            window: Window::new(most),
            peak: (0, None),
            gap: None,
            last_entry: None,
            rest_max: None,
            ended: None,
            transactions_max: None,
        }
    }

    /// Sessions at once at most, 1 or more.
    pub(super) fn sessions_max(&self) -> usize {
        self.window.sessions_max().min(self.cap.unwrap_or(usize::MAX))
    }

    /// The host took so many sessions and turned another one away; whether that is news.
    pub(super) fn turned_away(&mut self, taken: usize) -> bool {
        let before = self.cap.replace(self.cap.unwrap_or(usize::MAX).min(taken.max(1)));
        before.is_none()
    }

    /// One more than it took may be tried now.
    pub(super) fn let_one_more(&mut self) {
        self.cap = self.cap.map(|cap| cap + 1);
    }

    /// What it took when it turned others away counts no more.
    pub(super) fn forget_cap(&mut self) {
        self.cap = None;
    }

    /// Sessions at once that entries of lower lanes may use; the rest is kept for codes.
    pub(super) fn lower_max(&self) -> usize {
        let all = self.sessions_max();
        let kept_for_codes = if all > 1 { (all / 4).max(1) } else { 0 };
        all - kept_for_codes
    }

    /// An entry came, with which `at_once` are being sent or wait.
    pub(super) fn came(&mut self, at_once: usize, now: Instant) {
        if let Some(last) = self.last_entry {
            let gap = now.saturating_duration_since(last);
            self.gap = Some(self.gap.map_or(gap, |mean| (mean * 7 + gap) / 8));
        }
        self.last_entry = Some(now);
        self.fade(now);
        if at_once >= self.peak.0 {
            self.peak = (at_once, Some(now));
        }
    }

    fn fade(&mut self, now: Instant) {
        while let (peak @ 1.., Some(at)) = self.peak
            && now.saturating_duration_since(at) >= PEAK_SPAN
        {
            self.peak = (peak / 2, Some(at + PEAK_SPAN));
        }
    }

    /// Sessions that should be open when an entry has come: as many as were needed of late, and one more where several
    /// come at once.
    pub(super) fn sessions_wanted(&self) -> usize {
        let peak = self.peak.0;
        (peak + usize::from(peak > 1)).min(self.sessions_max())
    }

    /// How long a session is kept for the next entry; `most`: at most.
    pub(super) fn rest(&self, most: Duration, now: Instant) -> Duration {
        let borne = self.rest_borne(now).map_or(most, |rest| rest * REST_PART / 100);
        self.rest_wanted(most).min(borne)
    }

    fn rest_borne(&self, now: Instant) -> Option<Duration> {
        let (rest, since) = self.rest_max?;
        (now.saturating_duration_since(since) < PEAK_SPAN).then_some(rest)
    }

    fn rest_wanted(&self, most: Duration) -> Duration {
        let wanted = match self.gap {
            None => REST_FIRST,
            // Where the next is not to be expected in time, waiting for it is of no use.
            Some(gap) if gap > most => REST_LEAST,
            Some(gap) => (gap * 3).max(REST_LEAST),
        };
        wanted.min(most)
    }

    /// Whether another entry is to be expected while a session would be kept for it.
    pub(super) fn expects_another(&self, most: Duration, now: Instant) -> bool {
        let wanted = self.rest_wanted(most);
        self.last_entry.is_some_and(|last| now.saturating_duration_since(last) < wanted)
    }

    /// Whether the host keeps idle sessions at all.
    pub(super) fn allows_rest(&self, now: Instant) -> bool {
        self.rest_borne(now).is_none_or(|rest| rest >= REST_WANTED)
    }

    /// The host ended a session that had been idle for so long. Once can have many reasons, and sessions that end
    /// together have one in common; the second time after about as long it is a habit.
    pub(super) fn ended_at_rest(&mut self, after: Duration, now: Instant) {
        let Some((last, at)) = self.ended.replace((after, now)) else { return };
        let is_another = now.saturating_duration_since(at) > TOGETHER;
        if is_another && after.abs_diff(last) <= after.max(last) / 4 {
            self.rest_max = Some((after.min(last), now));
        }
    }

    /// A session that had been idle for so long still worked.
    pub(super) fn woke_after(&mut self, rest: Duration) {
        if let Some((known, since)) = self.rest_max {
            self.rest_max = Some((known.max(rest), since));
        }
    }

    /// The host ended a session in which it had taken so many transactions.
    pub(super) fn ended_after(&mut self, transactions: u32) {
        self.transactions_max = Some(transactions.max(1));
    }

    /// Whether a session with so many transactions can carry another.
    pub(super) fn allows_another(&self, transactions: u32) -> bool {
        self.transactions_max.is_none_or(|most| transactions < most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        SystemClock::default().instant()
    }

    #[test]
    fn a_quarter_of_the_sessions_is_kept_for_codes() {
        let kept = |most: usize| LearnedLimits::new(most).sessions_max() - LearnedLimits::new(most).lower_max();
        assert_eq!([1, 2, 3, 4, 20].map(kept), [0, 1, 1, 1, 1]);
    }

    #[test]
    fn as_many_sessions_are_kept_ready_as_were_needed() {
        let (mut limits, start) = (LearnedLimits::new(20), start());
        limits.came(1, start);
        assert_eq!(limits.sessions_wanted(), 1, "one at a time needs no spare");
        limits.came(2, start + SECOND);
        assert_eq!(limits.sessions_wanted(), 3);
        limits.came(1, start + PEAK_SPAN * 2);
        assert_eq!(limits.sessions_wanted(), 1, "long ago");
    }

    #[test]
    fn sessions_rest_while_the_next_entry_can_be_expected() {
        let (mut limits, start, most) = (LearnedLimits::new(20), start(), SECOND * 60);
        limits.came(1, start);
        assert_eq!(limits.rest(most, start), REST_FIRST);
        limits.came(1, start + SECOND * 15);
        assert_eq!(limits.rest(most, start), SECOND * 45);
        limits.came(1, start + SECOND * 3600);
        assert_eq!(limits.rest(most, start), REST_LEAST);
    }

    #[test]
    fn a_host_that_ends_idle_sessions_is_believed_the_second_time() {
        let (mut limits, start, most) = (LearnedLimits::new(20), start(), SECOND * 60);
        limits.ended_at_rest(SECOND * 2, start);
        limits.ended_at_rest(SECOND * 2, start);
        limits.ended_at_rest(SECOND * 10, start + SECOND * 20);
        assert_eq!(limits.rest(most, start), REST_FIRST);
        let now = start + SECOND * 40;
        limits.ended_at_rest(SECOND * 11, now);
        assert_eq!(limits.rest(most, now), SECOND * 8);
        limits.woke_after(SECOND * 20);
        assert_eq!(limits.rest(most, now), SECOND * 16);
        assert_eq!(limits.rest(most, now + PEAK_SPAN), REST_FIRST, "long ago");
        limits.ended_at_rest(SECOND, now + SECOND * 20);
        limits.ended_at_rest(SECOND, now + SECOND * 30);
        assert!(!limits.allows_rest(now + SECOND * 30));
    }

    #[test]
    fn a_host_that_ends_sessions_after_some_messages_is_believed() {
        let mut limits = LearnedLimits::new(20);
        assert!(limits.allows_another(10_000));
        limits.ended_after(50);
        assert!(limits.allows_another(49) && !limits.allows_another(50));
    }
}
