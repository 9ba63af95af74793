//! A line chart as SVG, without a colour or a font of its own: the page's style gives them.

use std::fmt::Write as _;

const SIZE: (f64, f64) = (720.0, 160.0);
/// Room for the words at the left and below.
const LEFT: f64 = 72.0;
const BELOW: f64 = 28.0;

/// A line: its name, which is its class too, and its points, from 0 to 1 and in milliseconds.
pub(super) type Line = (&'static str, Vec<(f64, u64)>);

/// Times over a day, on a logarithmic scale.
pub(super) fn times(lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, ms)| *ms));
    let low = 10f64.powf((all().min().unwrap_or(10).max(1) as f64).log10().floor());
    let high = 10f64.powf((all().max().unwrap_or(1000).max(1) as f64).log10().ceil()).max(low * 10.0);
    let (width, height) = (SIZE.0 - LEFT - 8.0, SIZE.1 - BELOW - 8.0);
    let x = |at: f64| LEFT + at * width;
    let y = |ms: f64| 8.0 + height * (1.0 - (ms / low).log10() / (high / low).log10());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
        SIZE.0, SIZE.1, "Time to delivered over the last 24 hours: median and 99th percentile"
    );
    let mut step = low;
    while step <= high * 1.001 {
        let at = y(step);
        // Writing to a String cannot fail.
        let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", x(1.0));
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            words(step)
        );
        step *= 10.0;
    }
    for (hours, anchor) in [(24, "start"), (18, "middle"), (12, "middle"), (6, "middle"), (0, "end")] {
        let text = if hours == 0 { "now".to_owned() } else { format!("−{hours} h") };
        let at = x(1.0 - f64::from(hours) / 24.0);
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{at:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{text}</text>",
            SIZE.1 - 4.0
        );
    }
    for (name, points) in lines {
        let shown: Vec<String> = points.iter().map(|(at, ms)| format!("{:.1},{:.1}", x(*at), y(*ms as f64))).collect();
        let _ = write!(svg, "<polyline class=\"{name}\" points=\"{}\"/>", shown.join(" "));
        for point in points.iter().filter(|_| points.len() < 3) {
            let _ = write!(
                svg,
                "<circle class=\"{name}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                x(point.0),
                y(point.1 as f64)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

fn words(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.0} s", ms / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_picture() {
        let svg = times(&[("p50", vec![(0.0, 12), (1.0, 900)]), ("p99", vec![(0.5, 31_000)])]);
        for part in ["class=\"p50\" points=\"72.0,", ">10 ms<", ">100 s<", "−12 h"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(times(&[]).ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
