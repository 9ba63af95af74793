//! The only place that reads a clock.
//!
//! Two times exist: [`Instant`] for deadlines inside one connection, and [`Timestamp`] (UTC milliseconds) for
//! everything else. A decision takes both as arguments and uses one value throughout.
//!
//! [`Clock::now`] begins with the wall clock and goes on evenly from there, also while the machine is suspended: lives,
//! retries, rates and budgets are counted by it, so that they neither stand still nor end when the wall clock is set.
//! [`Clock::step`] says how far the wall clock has been set since; what is stored or told to people is moved by it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::{Date, OffsetDateTime};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest time that can be written down; used as "never".
    pub const MAX: Self = Self(253_402_300_799_999);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This time plus `span`, at most [`Timestamp::MAX`].
    pub fn plus(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis)).min(Self::MAX)
    }

    /// This time minus `span`, at least the epoch.
    pub fn minus(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// How long ago `earlier` was; zero if it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `2026-11-21T10:00:00.000Z` (RFC 3339).
    pub fn rfc3339(self) -> String {
        let (date, milli) = self.parts();
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{milli:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second()
        )
    }

    /// Reads what [`Timestamp::rfc3339`] wrote.
    pub(crate) fn from_rfc3339(text: &str) -> Option<Self> {
        let is_ours = text.len() == 24 && text.is_ascii() && text.ends_with('Z');
        let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<u16>().ok();
        let small = |at| number(at).and_then(|number| u8::try_from(number).ok());
        let (year, milli) = (i32::from(number(0..4).filter(|_| is_ours)?), number(20..23)?);
        let date = Date::from_calendar_date(year, small(5..7)?.try_into().ok()?, small(8..10)?).ok()?;
        let at = date.with_hms_milli(small(11..13)?, small(14..16)?, small(17..19)?, milli).ok()?.assume_utc();
        let millis = at.unix_timestamp_nanos() / 1_000_000;
        u64::try_from(millis).ok().map(Self)
    }

    /// `Sat, 21 Nov 2026 10:00:00 +0000` (RFC 5322 section 3.3).
    pub(crate) fn rfc5322(self) -> String {
        const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (date, _) = self.parts();
        format!(
            "{}, {} {} {:04} {:02}:{:02}:{:02} +0000",
            DAYS[usize::from(date.weekday().number_days_from_monday())],
            date.day(),
            MONTHS[usize::from(u8::from(date.month()) - 1)],
            date.year(),
            date.hour(),
            date.minute(),
            date.second()
        )
    }

    /// `2026-11-21`.
    pub fn date(self) -> String {
        self.rfc3339()[..10].to_owned()
    }

    fn parts(self) -> (OffsetDateTime, u64) {
        let bounded = self.min(Self::MAX);
        let seconds = i64::try_from(bounded.0 / 1000).unwrap_or(0);
        (OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH), bounded.0 % 1000)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// How far the wall clock has been set from the relay's time since the relay started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    ahead_ms: i64,
}

impl Step {
    /// The wall clock shows the relay's time.
    pub const NONE: Self = Self { ahead_ms: 0 };

    /// The wall clock is ahead by so many milliseconds, or behind where it is negative.
    #[cfg(test)]
    pub(crate) const fn ahead_by_millis(ahead_ms: i64) -> Self {
        Self { ahead_ms }
    }

    /// What the wall clock shows at this time of the relay's. [`Timestamp::MAX`] stays "never".
    pub(crate) fn wall(self, at: Timestamp) -> Timestamp {
        if at == Timestamp::MAX { at } else { Timestamp(at.0.saturating_add_signed(self.ahead_ms)).min(Timestamp::MAX) }
    }

    /// How far `later` has been set from this one, in words for the operator; none if it has not.
    pub(crate) fn change_to(self, later: Self) -> Option<String> {
        let ahead_ms = later.ahead_ms.saturating_sub(self.ahead_ms);
        let direction = if ahead_ms < 0 { "back" } else { "forward" };
        (ahead_ms != 0)
            .then(|| format!("{direction} by {:.1} s", Duration::from_millis(ahead_ms.unsigned_abs()).as_secs_f64()))
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The relay's time, which never jumps.
    fn now(&self) -> Timestamp;
    /// How far the wall clock is from it.
    fn step(&self) -> Step {
        Step::NONE
    }
    /// What the wall clock shows now.
    fn wall(&self) -> Timestamp {
        self.step().wall(self.now())
    }
    /// Time that never jumps, for deadlines within the process.
    fn instant(&self) -> Instant;
    /// How long the machine has to run until `span` has passed by [`Clock::now`].
    fn until_passed(&self, span: Duration) -> Duration {
        span
    }
    /// How much may pass by [`Clock::now`] while the machine runs for `span`.
    fn within(&self, span: Duration) -> Duration {
        span
    }
    /// The part of [`Clock::step`] that somebody set: what an operator is told of.
    fn setting(&self) -> Step {
        self.step()
    }
}

/// A difference that two readings one after the other can have, or that a clock is led over gradually.
const STEP_MIN_MS: u64 = 500;

/// The machine's clocks: the wall clock at the start, and the one that counts from boot on, suspended or not.
#[derive(Debug)]
pub struct SystemClock {
    start: Timestamp,
    origin: Duration,
    ahead_ms: AtomicI64,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: wall_clock(), origin: since_boot(), ahead_ms: AtomicI64::new(0) }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the source")]
fn wall_clock() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)).min(Timestamp::MAX)
}

/// Time since boot, suspension included (`CLOCK_BOOTTIME`). Every kernel that this runs on has it.
fn since_boot() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Microseconds of `CLOCK_MONOTONIC`, by which service managers put what they are told in order.
pub(crate) fn monotonic_us() -> i64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.start.plus(since_boot().saturating_sub(self.origin))
    }

    /// Changes only where the wall clock was set, so that times told one after the other keep their distance.
    fn step(&self) -> Step {
        let ahead = i64::try_from(wall_clock().0).unwrap_or(i64::MAX) - i64::try_from(self.now().0).unwrap_or(i64::MAX);
        let known = self.ahead_ms.load(Ordering::Relaxed);
        if ahead.abs_diff(known) < STEP_MIN_MS {
            return Step { ahead_ms: known };
        }
        self.ahead_ms.store(ahead, Ordering::Relaxed);
        Step { ahead_ms: ahead }
    }

    /// Follows the timer of the runtime, so that a paused runtime pauses deadlines too.
    #[expect(clippy::disallowed_methods, reason = "this is the source")]
    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// A clock that follows the runtime's timer from a chosen start: with a paused runtime, the whole relay runs in
/// simulated time.
#[derive(Debug)]
pub struct ManualClock {
    start: Timestamp,
    origin: tokio::time::Instant,
    ahead_ms: AtomicU64,
    step_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that shows `start` now.
    #[expect(clippy::disallowed_methods, reason = "this is the source")]
    pub fn new(start: Timestamp) -> Self {
        let origin = tokio::time::Instant::now();
        Self { start, origin, ahead_ms: AtomicU64::new(0), step_ms: AtomicI64::new(0) }
    }

    /// Sets the wall clock, so many milliseconds ahead of the relay's time; behind it where negative.
    pub fn set_wall_clock(&self, ahead_ms: i64) {
        self.step_ms.store(ahead_ms, Ordering::Relaxed);
    }

    /// Moves this clock forward, apart from the runtime's timer.
    pub fn advance(&self, span: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(span.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.start.plus(self.origin.elapsed()).plus(self.ahead())
    }

    fn step(&self) -> Step {
        Step { ahead_ms: self.step_ms.load(Ordering::Relaxed) }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the source")]
    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std() + self.ahead()
    }
}

/// The furthest that a [`FastClock`] is moved forward in one go.
pub(crate) const ADVANCE_MAX: Duration = Duration::from_secs(86_400);

/// The machine's clocks, with a relay's time that runs faster than the wall clock and can be moved forward: lives, waits and
/// windows pass sooner, while what is shown or signed keeps the time of the wall clock.
#[derive(Debug)]
pub(crate) struct FastClock {
    machine: SystemClock,
    rate: u32,
    ahead_ms: AtomicU64,
}

impl FastClock {
    /// A clock by which so many seconds pass in one of the machine's.
    pub(crate) fn new(rate: u32) -> Self {
        Self { machine: SystemClock::default(), rate: rate.max(1), ahead_ms: AtomicU64::new(0) }
    }

    /// Moves the relay's time forward, by [`ADVANCE_MAX`] at most. Whoever sleeps has to be woken.
    pub(crate) fn advance(&self, span: Duration) {
        let span = u64::try_from(span.min(ADVANCE_MAX).as_millis()).unwrap_or(0);
        self.ahead_ms.fetch_add(span, Ordering::Relaxed);
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.machine.now().since(self.machine.start);
        let ahead = Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed));
        self.machine.start.plus(elapsed.saturating_mul(self.rate)).plus(ahead)
    }

    fn step(&self) -> Step {
        let millis = |at: Timestamp| i64::try_from(at.0).unwrap_or(i64::MAX);
        Step { ahead_ms: millis(self.machine.wall()).saturating_sub(millis(self.now())) }
    }

    fn wall(&self) -> Timestamp {
        self.machine.wall()
    }

    fn instant(&self) -> Instant {
        self.machine.instant()
    }

    /// Rounded up, so that whoever wakes finds the time passed.
    fn until_passed(&self, span: Duration) -> Duration {
        span / self.rate + Duration::from_millis(u64::from(self.rate > 1))
    }

    fn within(&self, span: Duration) -> Duration {
        span.saturating_mul(self.rate).saturating_add(ADVANCE_MAX)
    }

    fn setting(&self) -> Step {
        self.machine.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_moves_lives_and_not_dates() {
        let clock = FastClock::new(60);
        let (began, wall) = (clock.now(), clock.wall());
        clock.advance(Duration::from_secs(300));
        assert!(clock.now().since(began) >= Duration::from_secs(300));
        assert!(clock.wall().since(wall) < Duration::from_secs(200), "the wall clock is the machine's");
        assert!(clock.step().wall(clock.now()).since(wall) < Duration::from_secs(200));
        assert_eq!(clock.until_passed(Duration::from_secs(60)), Duration::from_millis(1001));
        let before = clock.now();
        clock.advance(Duration::MAX);
        assert!(clock.now().since(before) < ADVANCE_MAX + Duration::from_secs(3600), "one advance is bounded");
        assert!(clock.within(Duration::from_secs(120)) > ADVANCE_MAX, "a lease outlasts an advance");
    }

    #[test]
    fn dates_are_written_as_the_rfcs_want() {
        let time = Timestamp::from_millis(1_795_255_200_042);
        assert_eq!(time.rfc3339(), "2026-11-21T10:00:00.042Z");
        assert_eq!(time.rfc5322(), "Sat, 21 Nov 2026 10:00:00 +0000");
        assert_eq!(time.date(), "2026-11-21");
        assert_eq!(Timestamp::from_millis(951_782_400_000).date(), "2000-02-29");
        assert_eq!(Timestamp::MAX.rfc3339(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn spans_saturate() {
        let time = Timestamp::from_millis(5_000);
        assert_eq!(time.since(Timestamp::from_millis(9_000)), Duration::ZERO);
        assert_eq!(time.minus(Duration::from_secs(9)), Timestamp::from_millis(0));
        assert_eq!(time.plus(Duration::MAX), Timestamp::MAX);
    }
}
