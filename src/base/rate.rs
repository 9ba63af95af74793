//! How fast a user may send.

use std::time::Duration;

/// So many in such a span: `50/s`, `5/10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub span: Duration,
}

impl Rate {
    /// The same span with as many as it takes for everything that `other` allows, if that is more.
    pub(crate) fn allowing(self, other: Self) -> Self {
        let windows = self.span.as_millis().div_ceil(other.span.as_millis().max(1)).max(1);
        let needed = u128::from(other.count).saturating_mul(windows);
        Self { count: self.count.max(u32::try_from(needed).unwrap_or(u32::MAX)), ..self }
    }

    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.count) / self.span.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_can_be_made_to_allow_another() {
        let rate = |count, seconds| Rate { count, span: Duration::from_secs(seconds) };
        for (one, other, expected) in [
            (rate(20, 600), rate(5, 600), rate(20, 600)),
            (rate(20, 600), rate(50, 600), rate(50, 600)),
            (rate(4, 60), rate(5, 600), rate(5, 60)),
            (rate(20, 3600), rate(5, 600), rate(30, 3600)),
            (rate(20, 700), rate(15, 600), rate(30, 700)),
            (rate(1, 86_400), rate(u32::MAX, 1), rate(u32::MAX, 86_400)),
        ] {
            assert_eq!(one.allowing(other), expected, "{one:?} {other:?}");
        }
    }
}
