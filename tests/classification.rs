//! How well the rules name the cause of real replies. Prints tables: `cargo test --test classification -- --nocapture`.
//!
//! The sets are split in two by a hash of the text. Rules are written with one half in view and measured on the other,
//! whose lines are never printed: see docs/CLASSIFICATION.md. What was collected last was measured once, at the end.

#![allow(clippy::print_stdout, reason = "the table is what one looks at")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use otp_relay::testing::event::Suppress;
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::policy::cause::{Verdict, of_reply};
use otp_relay::testing::smtp::client_session::Stage;
use otp_relay::testing::smtp::reply::{EnhancedCode, Reply};

const REPLIES: &str = include_str!("data/smtp-replies.tsv");
const MORE_REPLIES: &str = include_str!("data/smtp-replies-2.tsv");
const NEW_REPLIES: &str = include_str!("data/smtp-replies-3.tsv");
/// Each set with its name, classified once.
static SETS: LazyLock<[(&str, Vec<Sample>); 3]> = LazyLock::new(|| {
    [("smtp-replies", REPLIES), ("smtp-replies-2", MORE_REPLIES), ("smtp-replies-3", NEW_REPLIES)]
        .map(|(name, set)| (name, set.lines().skip(1).map(sample).collect()))
});
const BY_KIND: &str = include_str!("data/replies-by-kind.tsv");

const WITHOUT_FAULT: &str = include_str!("data/replies-without-fault.tsv");

/// What a text may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Seen,
    HeldBack,
    /// Collected when the rules were nearly done; measured once.
    Last,
}

/// FNV-1a, its upper and lower half folded into one bit.
fn half(text: &str) -> Half {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    if (hash ^ (hash >> 32)) & 1 == 1 { Half::HeldBack } else { Half::Seen }
}

/// Lines named right, of each set's halves: what was measured, so that no change loses a line without a word.
const FLOORS: [(usize, Half, usize); 7] = [
    (0, Half::Seen, 331),
    (0, Half::HeldBack, 329),
    (1, Half::Seen, 29),
    (1, Half::HeldBack, 23),
    (2, Half::Seen, 266),
    (2, Half::HeldBack, 222),
    (2, Half::Last, 39),
];

struct Sample {
    half: Half,
    line: &'static str,
    expected: &'static str,
    wait_s: Option<u64>,
    /// Whether the recipient's address may be suppressed for it.
    may_suppress: bool,
    /// None for a reply that is no refusal.
    verdict: Option<Verdict>,
}

impl Sample {
    fn cause(&self) -> &'static str {
        self.verdict.map_or("accepted", |verdict| verdict.cause.name())
    }
}

fn samples(set: usize) -> &'static [Sample] {
    &SETS[set].1
}

fn sample(line: &'static str) -> Sample {
    let columns: Vec<&str> = line.split('\t').collect();
    let [code, enhanced, text, _, expected, wait_s, ..] = columns[..] else { panic!("columns") };
    // The third set says both itself.
    let half = match columns.get(7) {
        Some(&"last") => Half::Last,
        Some(&"seen" | &"held") | None => half(text),
        Some(other) => panic!("half {other}"),
    };
    let may_suppress = match columns.get(8) {
        Some(told) => *told == "may",
        None => matches!(expected, "bad_mailbox" | "inactive_mailbox") && code.starts_with('5'),
    };
    let verdict = verdict(code, enhanced, text);
    Sample { half, line, expected, wait_s: wait_s.parse().ok(), may_suppress, verdict }
}

fn verdict(code: &str, enhanced: &str, text: &'static str) -> Option<Verdict> {
    let reply = Reply {
        code: code.parse().unwrap(),
        enhanced: EnhancedCode::split_from(enhanced).map(|(code, _)| code),
        text: text.into(),
    };
    of_reply(Stage::Rcpt, &reply)
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
    let is_wrong = |sample: &&Sample| sample.cause() != sample.expected;
    for wrong in samples.iter().filter(|sample| sample.half == Half::Seen).filter(is_wrong) {
        let line: String = wrong.line.chars().take(110).collect();
        writeln!(out, "{} named {}: {line}", wrong.expected, wrong.cause()).unwrap();
    }
    out
}

fn right_of(samples: &[Sample], half: Half) -> (usize, usize) {
    let of_half = || samples.iter().filter(|sample| sample.half == half);
    (of_half().filter(|sample| sample.cause() == sample.expected).count(), of_half().count())
}

#[test]
fn causes_are_named_right() {
    let samples = samples(0);
    assert!(samples.len() > 600);
    let counts = counts(samples);
    let report = report(&counts, samples);
    println!("{report}");
    let right: usize = counts.values().map(|count| count.right).sum();
    assert!(share(right, samples.len()) >= 0.986, "{report}");
    let greylisted = counts[Cause::Greylisted.name()];
    assert!(greylisted.recall() >= 0.99 && greylisted.precision() >= 0.99, "{report}");
}

#[test]
fn causes_of_replies_not_seen_are_named_right() {
    for (set, half, right_min) in FLOORS {
        let (name, samples) = &SETS[set];
        let (right, all) = right_of(samples, half);
        println!("{name}, {half:?}: {right} of {all}, {:.1} %", share(right, all) * 100.0);
        assert!(right >= right_min, "{name}, {half:?}: {right} of {all}, {right_min} before");
    }
    println!("{}", report(&counts(samples(2)), samples(2)));
}

/// Nobody's address is suppressed for what somebody or something else did.
#[test]
fn only_the_recipients_own_fault_suppresses() {
    let mut wrong = Vec::new();
    for ((name, samples), suppressed_min) in SETS.iter().zip([79, 1, 74]) {
        let (mut own, mut suppressed) = (0, 0);
        for sample in samples {
            let does = sample.verdict.is_some_and(|verdict| verdict.action.suppress == Suppress::Address);
            own += usize::from(sample.may_suppress);
            suppressed += usize::from(sample.may_suppress && does);
            if does && !sample.may_suppress {
                wrong.push((name, if sample.half == Half::Seen { sample.line } else { "a line held back" }));
            }
        }
        println!("{name}: {own} replies blame the recipient for good, {suppressed} of them suppress");
        assert!(suppressed >= suppressed_min, "{name}: {suppressed} of {own}");
    }
    println!("{} replies of all suppress without fault: {wrong:?}", wrong.len());
    assert!(wrong.len() <= 1, "{wrong:#?}");
}

/// Words for a mailbox, or its code, beside what is no fault of the recipient's.
#[test]
fn what_only_sounds_like_the_recipients_fault_suppresses_nobody() {
    let mut wrong = Vec::new();
    for line in WITHOUT_FAULT.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [code, enhanced, text] = columns[..] else { panic!("columns: {line}") };
        if verdict(code, enhanced, text).is_none_or(|verdict| verdict.action.suppress == Suppress::Address) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{} suppress: {wrong:#?}", wrong.len());
}

/// Replies in the words of software in use, by the kind of mistake that they tempt to.
#[test]
fn the_grammar_of_a_reply_decides() {
    let mut wrong = Vec::new();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for line in BY_KIND.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [kind, code, enhanced, text, expected] = columns[..] else { panic!("columns: {line}") };
        let verdict = verdict(code, enhanced, text).unwrap();
        *kinds.entry(kind).or_default() += 1;
        let is_own = matches!(expected, "bad_mailbox" | "inactive_mailbox");
        if verdict.cause.name() != expected || (verdict.action.suppress == Suppress::Address && !is_own) {
            wrong.push((verdict.cause.name(), line));
        }
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    assert!(kinds.values().sum::<usize>() >= 80);
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}

#[test]
fn waits_are_read_exactly() {
    let samples = samples(0);
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
    for sample in SETS.iter().flat_map(|(_, samples)| samples) {
        let accepts = sample.line.starts_with('2');
        assert_eq!(sample.verdict.is_none(), accepts, "{}", sample.line);
    }
}
