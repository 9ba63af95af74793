//! Durations, sizes and rates as people write them.

use std::time::Duration;

use super::rate::Rate;

/// `250ms`, `60s`, `10m`, `2h`, `7d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// `1048576`, `64KiB`, `1MiB`, `2GiB`; octets.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let octets = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(octets)
}

/// Reads a rate; the number before the unit of time may be left out.
pub(crate) fn rate(text: &str) -> Option<Rate> {
    let (count, span) = text.split_once('/')?;
    let count = count.trim().parse().ok().filter(|count| *count > 0)?;
    let span = span.trim();
    let span = if span.starts_with(|c: char| c.is_ascii_digit()) { span.to_owned() } else { format!("1{span}") };
    duration(&span).filter(|span| !span.is_zero()).map(|span| Rate { count, span })
}

/// The reverse of [`rate`].
pub(crate) fn rate_text(rate: Rate) -> String {
    let span = duration_text(rate.span);
    let single = span.strip_prefix('1').filter(|unit| unit.starts_with(|c: char| c.is_ascii_alphabetic()));
    format!("{}/{}", rate.count, single.unwrap_or(&span))
}

/// The reverse of [`size`], in the largest unit that is exact.
pub(crate) fn size_text(octets: u64) -> String {
    [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| octets >= *unit && octets.is_multiple_of(*unit))
        .map_or_else(|| octets.to_string(), |(unit, name)| format!("{}{name}", octets / unit))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// The reverse of [`duration`], in the largest unit that is exact.
pub(crate) fn duration_text(span: Duration) -> String {
    let milliseconds = span.as_millis();
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
        .into_iter()
        .find(|(unit, _)| milliseconds >= *unit && milliseconds.is_multiple_of(*unit))
        .map_or_else(|| format!("{milliseconds}ms"), |(unit, name)| format!("{}{name}", milliseconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(duration("60s"), Some(Duration::from_secs(60)));
        assert_eq!(duration("10 m"), Some(Duration::from_secs(600)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "60", "s", "-1s", "1.5s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(size("1MiB"), Some(1 << 20));
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("1MB"), None);
        assert_eq!(rate("5/10m"), Some(Rate { count: 5, span: Duration::from_secs(600) }));
        assert_eq!(rate("50/s"), Some(Rate { count: 50, span: Duration::from_secs(1) }));
        for bad in ["5", "0/s", "5/", "5/0s", "/s"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn units_are_written_shortly() {
        for text in ["250ms", "90s", "10m", "2h", "7d"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
        for text in ["1000", "64KiB", "1MiB", "2GiB", "1025KiB"] {
            assert_eq!(size_text(size(text).unwrap()), text);
        }
        for text in ["50/s", "5/10m", "1/d", "3/10s", "7/1500ms"] {
            assert_eq!(rate_text(rate(text).unwrap()), text);
        }
    }
}
