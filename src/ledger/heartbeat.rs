//! When a node may count on its epoch, and when another may revoke it. Values over the node's own clock, and no clock is
//! compared with another's.
//!
//! A node that sends heartbeat v at its time s, and has it answered, may send mail until s + L - m: L is the lease, m a sixth
//! of it. Another revokes it only after it has itself seen v unchanged for L, from the answer of one reading to the sending
//! of a later one, with three readings or more and no gap above half of L between them, and only by a statement that
//! holds while the number is still v. The ledger made v no earlier than s, so revocation comes after s + L by any clocks
//! whose rates differ by less than 1 %: m covers that and the time from the last look at the lease to the last octet.

use std::time::{Duration, Instant};

/// The times that follow from the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
}

/// Readings that show a number unchanged, at least.
const READINGS_MIN: u32 = 3;

impl Timing {
    /// Of this lease.
    pub fn of(lease: Duration) -> Self {
        Self { lease }
    }

    /// L.
    pub fn lease(self) -> Duration {
        self.lease
    }

    /// From one heartbeat to the next.
    pub fn interval(self) -> Duration {
        self.lease / 5
    }

    /// How long an answer is waited for, so that one lost heartbeat costs no lease.
    pub fn patience(self) -> Duration {
        self.lease / 4
    }

    /// m: what the end of the lease is early by.
    pub fn margin(self) -> Duration {
        self.lease / 6
    }

    fn gap_max(self) -> Duration {
        self.lease / 2
    }
}

/// Until when a node may count on its own epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnLease {
    until: Option<Instant>,
}

impl OwnLease {
    /// A heartbeat that was sent at `sent` was answered.
    pub fn answered(&mut self, sent: Instant, timing: Timing) {
        let until = sent + timing.lease - timing.margin();
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
    }

    /// Until when; none before the first answer.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether it lasts.
    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// What one node has seen of another's heartbeats.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    number: u64,
    /// When the first reading that showed it was answered.
    since: Instant,
    /// When the last was.
    last: Instant,
    readings: u32,
}

/// What a reading says of the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It may live.
    Alive,
    /// It may be revoked while its number is still this one.
    Dead(u64),
}

impl Watch {
    /// The first reading, answered at `answered`.
    pub fn begin(number: u64, answered: Instant) -> Self {
        Self { number, since: answered, last: answered, readings: 1 }
    }

    /// Another reading, sent and answered at these times.
    pub fn reading(&mut self, number: u64, sent: Instant, answered: Instant, timing: Timing) -> Sign {
        let gap = answered.saturating_duration_since(self.last);
        if number != self.number || gap > timing.gap_max() {
            *self = Self::begin(number, answered);
            return Sign::Alive;
        }
        self.last = answered;
        self.readings = self.readings.saturating_add(1);
        let unchanged = sent.saturating_duration_since(self.since);
        if self.readings >= READINGS_MIN && unchanged >= timing.lease { Sign::Dead(number) } else { Sign::Alive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};
    use proptest::prelude::*;

    const TIMING: Timing = Timing { lease: Duration::from_millis(1200) };

    fn at(origin: Instant, ms: u64) -> Instant {
        origin + Duration::from_millis(ms)
    }

    /// Readings at these times, each answered 10 ms later, of a number that stands still; when it is seen to be dead.
    fn seen_dead(times: &[u64]) -> Option<u64> {
        let origin = SystemClock::default().instant();
        let mut watch = Watch::begin(5, at(origin, times[0] + 10));
        times[1..]
            .iter()
            .copied()
            .find(|ms| watch.reading(5, at(origin, *ms), at(origin, ms + 10), TIMING) == Sign::Dead(5))
    }

    #[test]
    fn a_node_is_dead_after_a_whole_lease_of_readings_without_a_gap() {
        assert_eq!(seen_dead(&[0, 240, 480, 720, 960, 1200, 1440]), Some(1440), "1200 was sent too early");
        assert_eq!(seen_dead(&[0, 1500]), None, "nobody looked meanwhile");
        assert_eq!(seen_dead(&[0, 600, 1210]), None, "a gap above half of the lease");
        assert_eq!(seen_dead(&[0, 590, 1180, 1770]), Some(1770));
    }

    #[test]
    fn a_number_that_changes_begins_anew() {
        let origin = SystemClock::default().instant();
        let mut watch = Watch::begin(5, origin);
        for ms in [240, 480, 720, 960] {
            assert_eq!(watch.reading(5, at(origin, ms), at(origin, ms), TIMING), Sign::Alive);
        }
        assert_eq!(watch.reading(6, at(origin, 1200), at(origin, 1200), TIMING), Sign::Alive);
        assert_eq!(watch.reading(6, at(origin, 1440), at(origin, 1440), TIMING), Sign::Alive);
    }

    #[test]
    fn a_lease_is_counted_from_the_sending_and_never_gets_shorter() {
        let origin = SystemClock::default().instant();
        let mut lease = OwnLease::default();
        assert!(!lease.holds(origin));
        lease.answered(at(origin, 240), TIMING);
        assert_eq!(lease.until(), Some(at(origin, 1240)));
        lease.answered(origin, TIMING);
        assert!(lease.holds(at(origin, 1239)) && !lease.holds(at(origin, 1240)));
    }

    proptest! {
        /// Two clocks whose rates differ by 0.5 % each way, any delays of heartbeats and readings: nobody is revoked while it may
        /// count on its epoch.
        #[test]
        fn a_lease_is_over_before_its_node_is_revoked(
            beats in prop::collection::vec((1u64..900, 0u64..300, 0u64..300, any::<bool>()), 1..20),
            looks in prop::collection::vec((1u64..700, 0u64..200, 0u64..200), 1..60),
            fast in any::<bool>(),
        ) {
            let origin = SystemClock::default().instant();
            // In microseconds of true time; each node has its own rate.
            let (own, others) = if fast { (995, 1005) } else { (1005, 995) };
            let local = |rate: u64, us: u64| origin + Duration::from_micros(us * rate / 1000);
            let mut lease = OwnLease::default();
            let mut numbers = vec![(0u64, 1u64)];
            let mut now = 0;
            let mut ends = 0;
            for (number, (pause, there, back, is_answered)) in (2..).zip(beats) {
                let arrives = now + there * 1000;
                numbers.push((arrives, number));
                if is_answered {
                    lease.answered(local(own, now), TIMING);
                    // The end of the lease, in true time.
                    ends = (now * own / 1000 + 1_000_000) * 1000 / own;
                }
                now = arrives + back * 1000 + pause * 1000;
            }
            let mut watch: Option<Watch> = None;
            let mut now = 0;
            for (pause, there, back) in looks.into_iter().cycle().take(200) {
                let read = now + there * 1000;
                let number = numbers.iter().rev().find(|(at, _)| *at <= read).map_or(1, |(_, number)| *number);
                let (sent, answered) = (local(others, now), local(others, read + back * 1000));
                let sign = match &mut watch {
                    Some(watch) => watch.reading(number, sent, answered, TIMING),
                    None => {
                        watch = Some(Watch::begin(number, answered));
                        Sign::Alive
                    }
                };
                now = read + back * 1000;
                if let Sign::Dead(dead) = sign {
                    // The statement holds only while the number is still that one.
                    let is_still = numbers.iter().rev().find(|(at, _)| *at <= now).is_some_and(|(_, last)| *last == dead);
                    if is_still {
                        prop_assert!(now >= ends, "revoked at {now} us, its lease ends at {ends} us");
                        break;
                    }
                }
                now += pause * 1000;
            }
        }
    }
}
