//! How well the rules name the cause of real replies. Prints tables: `cargo test --test classification -- --nocapture`.
//!
//! Both sets are split in two by a hash of the text. Rules are written with one half in view and measured on the other,
//! whose lines are never printed: see docs/CLASSIFICATION.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the table is what one looks at")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use otp_relay::plan::action::Suppress;
use otp_relay::plan::cause::{Cause, Verdict, of_reply};
use otp_relay::smtp::client_session::Stage;
use otp_relay::smtp::reply::{EnhancedCode, Reply};

const REPLIES: &str = include_str!("data/smtp-replies.tsv");
const MORE_REPLIES: &str = include_str!("data/smtp-replies-2.tsv");
const NEW_REPLIES: &str = include_str!("data/smtp-replies-3.tsv");
const BY_KIND: &str = include_str!("data/replies-by-kind.tsv");

/// What a text may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Seen,
    HeldBack,
}

/// FNV-1a, its upper and lower half folded into one bit.
fn half(text: &str) -> Half {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    if (hash ^ (hash >> 32)) & 1 == 1 { Half::HeldBack } else { Half::Seen }
}

/// Of the held-back half of the second set, which the rules were not fitted to.
const HELD_BACK_MIN: f64 = 0.82;

struct Sample {
    half: Half,
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

fn samples(set: &'static str) -> Vec<Sample> {
    set.lines().skip(1).map(sample).collect()
}

fn sample(line: &'static str) -> Sample {
    let columns: Vec<&str> = line.split('\t').collect();
    let [code, enhanced, text, _, expected, wait_s, ..] = columns[..] else { panic!("columns") };
    Sample { half: half(text), line, expected, wait_s: wait_s.parse().ok(), verdict: verdict(code, enhanced, text) }
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
    let samples = samples(REPLIES);
    assert!(samples.len() > 600);
    let counts = counts(&samples);
    let report = report(&counts, &samples);
    println!("{report}");
    let right: usize = counts.values().map(|count| count.right).sum();
    assert!(share(right, samples.len()) >= 0.986, "{report}");
    let greylisted = counts[Cause::Greylisted.name()];
    assert!(greylisted.recall() >= 0.99 && greylisted.precision() >= 0.99, "{report}");
}

#[test]
fn causes_of_replies_not_seen_are_named_right() {
    for (name, set, right_min) in [("smtp-replies", REPLIES, 0.97), ("smtp-replies-2", MORE_REPLIES, HELD_BACK_MIN), ("smtp-replies-3", NEW_REPLIES, 0.0)] {
        let samples = samples(set);
        let (seen, held_back) = (right_of(&samples, Half::Seen), right_of(&samples, Half::HeldBack));
        let percent = |(right, all)| share(right, all) * 100.0;
        println!("{name}: seen {seen:?} {:.1} %, held back {held_back:?} {:.1} %", percent(seen), percent(held_back));
        assert!(share(held_back.0, held_back.1) >= right_min, "{name}: {held_back:?}");
    }
}

/// Nobody's address is suppressed for what somebody or something else did.
#[test]
fn only_the_recipients_own_fault_suppresses() {
    let is_own = |class: &str| matches!(class, "bad_mailbox" | "inactive_mailbox");
    let mut wrong = Vec::new();
    let (mut own, mut suppressed) = (0, 0);
    for sample in samples(REPLIES).into_iter().chain(samples(MORE_REPLIES)) {
        own += usize::from(is_own(sample.expected) && sample.line.starts_with('5'));
        if sample.verdict.is_some_and(|verdict| verdict.action.suppress == Suppress::Address) {
            suppressed += 1;
            if !is_own(sample.expected) {
                wrong.push(if sample.half == Half::Seen { sample.line } else { "a line held back" });
            }
        }
    }
    println!(
        "{own} replies blame the recipient for good, {suppressed} suppress, {} without fault: {wrong:?}",
        wrong.len()
    );
    assert!(wrong.len() <= 1, "{wrong:#?}");
    assert!(suppressed * 10 >= own * 7, "{suppressed} of {own}");
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
    let samples = samples(REPLIES);
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
    for sample in samples(REPLIES).into_iter().chain(samples(MORE_REPLIES)) {
        let accepts = sample.line.starts_with('2');
        assert_eq!(sample.verdict.is_none(), accepts, "{}", sample.line);
    }
}
