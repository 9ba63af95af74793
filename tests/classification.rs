//! How well the rules name the cause of real replies. Prints a table: `cargo test --test classification -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the table is what one looks at")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use otp_relay::plan::cause::{Cause, Verdict, of_reply};
use otp_relay::smtp::client_session::Stage;
use otp_relay::smtp::reply::{EnhancedCode, Reply};

const REPLIES: &str = include_str!("data/smtp-replies.tsv");

struct Sample {
    line: &'static str,
    expected: &'static str,
    wait_s: Option<u64>,
    /// None for a reply that is no refusal.
    verdict: Option<Verdict>,
}

impl Sample {
    fn cause(&self) -> &'static str {
        self.verdict.map_or("accepted", |verdict| verdict.cause.name())
    }
}

fn samples() -> Vec<Sample> {
    REPLIES.lines().skip(1).map(sample).collect()
}

fn sample(line: &'static str) -> Sample {
    let columns: Vec<&str> = line.split('\t').collect();
    let [code, enhanced, text, _, expected, wait_s, ..] = columns[..] else { panic!("columns: {line}") };
    let reply = Reply {
        code: code.parse().unwrap(),
        enhanced: EnhancedCode::split_from(enhanced).map(|(code, _)| code),
        text: text.into(),
    };
    Sample { line, expected, wait_s: wait_s.parse().ok(), verdict: of_reply(Stage::Rcpt, &reply) }
}

/// Replies of one cause: labelled so, named so, both.
#[derive(Default, Clone, Copy)]
struct Count {
    labelled: usize,
    named: usize,
    right: usize,
}

impl Count {
    fn recall(self) -> f64 {
        share(self.right, self.labelled)
    }

    fn precision(self) -> f64 {
        share(self.right, self.named)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

fn counts(samples: &[Sample]) -> BTreeMap<&'static str, Count> {
    let mut counts: BTreeMap<&'static str, Count> = BTreeMap::new();
    for sample in samples {
        let named = sample.cause();
        counts.entry(sample.expected).or_default().labelled += 1;
        counts.entry(named).or_default().named += 1;
        if named == sample.expected {
            counts.entry(named).or_default().right += 1;
        }
    }
    counts
}

fn report(counts: &BTreeMap<&'static str, Count>, samples: &[Sample]) -> String {
    let mut out = format!("{:<26}{:>8}{:>8}{:>9}{:>11}\n", "cause", "lines", "right", "recall", "precision");
    for (cause, count) in counts {
        let (recall, precision) = (count.recall() * 100.0, count.precision() * 100.0);
        writeln!(out, "{cause:<26}{:>8}{:>8}{recall:>8.1}%{precision:>10.1}%", count.labelled, count.right).unwrap();
    }
    let right: usize = counts.values().map(|count| count.right).sum();
    writeln!(out, "{:<26}{:>8}{right:>8}{:>8.1}%", "all", samples.len(), share(right, samples.len()) * 100.0).unwrap();
    for wrong in samples.iter().filter(|sample| sample.cause() != sample.expected) {
        let line: String = wrong.line.chars().take(110).collect();
        writeln!(out, "{} named {}: {line}", wrong.expected, wrong.cause()).unwrap();
    }
    out
}

#[test]
fn causes_are_named_right() {
    let samples = samples();
    assert!(samples.len() > 600);
    let counts = counts(&samples);
    let report = report(&counts, &samples);
    println!("{report}");
    let right: usize = counts.values().map(|count| count.right).sum();
    assert!(share(right, samples.len()) >= 0.97, "{report}");
    let greylisted = counts[Cause::Greylisted.name()];
    assert!(greylisted.recall() >= 0.99 && greylisted.precision() >= 0.99, "{report}");
}

#[test]
fn waits_are_read_exactly() {
    let samples = samples();
    let hinted = samples.iter().filter(|sample| sample.wait_s.is_some()).count();
    assert!(hinted >= 10);
    let read_s = |sample: &Sample| sample.verdict.and_then(|verdict| verdict.hint).map(|hint| hint.as_secs());
    let wrong: Vec<_> = samples.iter().filter(|s| read_s(s) != s.wait_s).map(|s| (read_s(s), s.line)).collect();
    println!("waits: {hinted} replies name one; {} of {} replies read otherwise", wrong.len(), samples.len());
    assert!(wrong.len() * 50 <= hinted, "{wrong:#?}");
}

/// Nothing that a text says can make a refusal look like another kind of answer.
#[test]
fn only_codes_accept() {
    for sample in samples() {
        let accepts = sample.line.starts_with('2');
        assert_eq!(sample.verdict.is_none(), accepts, "{}", sample.line);
    }
}
