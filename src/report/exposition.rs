//! The text that Prometheus scrapes (format 0.0.4) and OpenMetrics 1.0, from one list of families.

use std::fmt::{Display, Write as _};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, the default.
    Prometheus,
    /// With exemplars.
    OpenMetrics,
}

impl Format {
    /// What a scraper asks for in `Accept`.
    pub(crate) fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the numbers of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One value that explains a bucket: the message behind it, its value, when in seconds.
pub(crate) type Exemplar = (String, f64, f64);

/// Series in one answer at most: whoever scrapes keeps each of them for weeks.
pub(crate) const SERIES_MAX: usize = 2000;

/// The text so far.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
    name: String,
    series: usize,
    left_out: usize,
}

impl Exposition {
    /// An empty one.
    pub fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(16 << 10), name: String::new(), series: 0, left_out: 0 }
    }

    /// Begins a family; `name` is without `otp_relay_`, that of a counter ends in `_total`. Names of the process itself are
    /// as every other program has them.
    pub(crate) fn family(&mut self, name: &str, of_type: Type, help: &str) -> &mut Self {
        self.name = if name.starts_with("process_") { name.to_owned() } else { format!("otp_relay_{name}") };
        let (shown, of_type) = match (self.format, of_type) {
            (Format::OpenMetrics, Type::Counter) => (self.name.strip_suffix("_total").unwrap_or(&self.name), "counter"),
            (_, Type::Counter) => (self.name.as_str(), "counter"),
            (_, Type::Gauge) => (self.name.as_str(), "gauge"),
            (_, Type::Histogram) => (self.name.as_str(), "histogram"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {shown} {help}\n# TYPE {shown} {of_type}");
        self
    }

    /// One number of the family.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, value, None);
        self
    }

    /// A distribution: the numbers up to each bound, in all, and the sum.
    pub(crate) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64, Option<Exemplar>)>,
        (count, sum): (u64, f64),
    ) -> &mut Self {
        for (bound, count, exemplar) in buckets {
            let bound = bound.to_string();
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.line("_bucket", &labels, count, exemplar);
        }
        let whole = [labels, &[("le", "+Inf")]].concat();
        self.line("_bucket", &whole, count, None);
        self.line("_sum", labels, sum, None);
        self.line("_count", labels, count, None);
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display, exemplar: Option<Exemplar>) {
        // The last one says how many there was no room for.
        if self.series + 1 >= SERIES_MAX {
            self.left_out += 1;
            return;
        }
        self.series += 1;
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = write!(self.text, "{}{suffix}{labels} {value}", self.name);
        if let (Format::OpenMetrics, Some((id, value, at))) = (self.format, exemplar) {
            let _ = write!(self.text, " # {{message_id=\"{id}\"}} {value} {at:.3}");
        }
        self.text.push('\n');
    }

    /// All of it, and how many series there was no room for.
    pub(crate) fn finish(mut self) -> String {
        let help = "Series that were left out, since there are 2,000 at most.";
        self.family("series_left_out", Type::Gauge, help);
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{} {}", self.name, self.left_out);
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format) -> String {
        let mut out = Exposition::new(format);
        out.family("a_total", Type::Counter, "A.").sample(&[("tag", "x\"y\\z\n")], 1);
        let exemplar = Some(("01M7".to_owned(), 0.02, 1.5));
        out.family("b_seconds", Type::Histogram, "B.").histogram(&[], [(0.1, 1, exemplar)].into_iter(), (2, 0.5));
        out.finish()
    }

    #[test]
    fn there_are_two_thousand_series_at_most() {
        let mut out = Exposition::new(Format::Prometheus);
        out.family("a", Type::Gauge, "A.");
        (0..2500).for_each(|number: u32| {
            out.sample(&[("n", &number.to_string())], 1);
        });
        let text = out.finish();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), SERIES_MAX);
        assert!(text.ends_with("\notp_relay_series_left_out 501\n"), "{text}");
    }

    #[test]
    fn both_formats_are_as_they_have_to_be() {
        let rest =
            "otp_relay_b_seconds_bucket{le=\"+Inf\"} 2\notp_relay_b_seconds_sum 0.5\notp_relay_b_seconds_count 2\n";
        let label = "otp_relay_a_total{tag=\"x\\\"y\\\\z\\n\"} 1\n";
        let head = "# HELP otp_relay_b_seconds B.\n# TYPE otp_relay_b_seconds histogram\n";
        let bucket = "otp_relay_b_seconds_bucket{le=\"0.1\"} 1";
        let left = "# HELP otp_relay_series_left_out Series that were left out, since there are 2,000 at most.\n\
                    # TYPE otp_relay_series_left_out gauge\notp_relay_series_left_out 0\n";
        assert_eq!(
            text(Format::Prometheus),
            format!(
                "# HELP otp_relay_a_total A.\n# TYPE otp_relay_a_total counter\n{label}{head}{bucket}\n{rest}{left}"
            )
        );
        let exemplar = " # {message_id=\"01M7\"} 0.02 1.500\n";
        assert_eq!(
            text(Format::OpenMetrics),
            format!(
                "# HELP otp_relay_a A.\n# TYPE otp_relay_a counter\n{label}{head}{bucket}{exemplar}{rest}{left}# EOF\n"
            )
        );
        assert_eq!(Format::wanted("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), Format::OpenMetrics);
        assert_eq!(Format::wanted("*/*"), Format::Prometheus);
    }
}
