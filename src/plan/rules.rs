//! The rules of `rules.toml`, compiled once into one set of patterns that is matched in linear time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;

use super::cause::Cause;
use super::wording::folded;
use crate::smtp::client_session::Stage;
use crate::smtp::reply::{EnhancedCode, Reply, Severity};

/// The rules as they stand in the file.
const SOURCE: &str = include_str!("rules.toml");
/// Octets that the compiled patterns may take.
const COMPILED_LEN_MAX: usize = 64 << 20;
/// Octets that the states met so far may take; beyond, they are forgotten and built again.
const STATES_LEN_MAX: usize = 16 << 20;

// A test compiles the embedded file, so that no other can be shipped.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::compile(SOURCE).expect("rules.toml is sound"));

/// Compiles the rules.
pub(super) fn prepare() {
    LazyLock::force(&RULES);
}

/// What a cause was told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// By words, or by a code that means one thing only.
    Said,
    /// By a basic code that means several things.
    Code,
}

/// The cause that a refusal names: that of the first rule that holds.
pub(super) fn cause_of_refusal(stage: Stage, reply: &Reply) -> (Cause, Evidence) {
    RULES.cause(stage, reply)
}

struct Rules {
    rules: Vec<Rule>,
    patterns: RegexSet,
}

struct Rule {
    cause: Cause,
    temporary: Cause,
    severity: Option<Severity>,
    at_rcpt_only: bool,
    codes: Vec<u16>,
    enhanced: Vec<EnhancedPattern>,
    says: Range<usize>,
}

impl Rule {
    fn evidence(&self) -> Evidence {
        let names_enhanced = self.enhanced.iter().any(|pattern| matches!(pattern, EnhancedPattern::Like(..)));
        if self.says.is_empty() && !names_enhanced { Evidence::Code } else { Evidence::Said }
    }
}

/// What a rule expects of the enhanced code.
enum EnhancedPattern {
    /// There is none.
    Absent,
    /// Any class if there is none here; the subject; details from, to.
    Like(Option<u8>, u16, u16, u16),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    words: BTreeMap<String, String>,
    rule: Vec<RuleInFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleInFile {
    cause: String,
    temporary: Option<String>,
    when: Option<String>,
    at: Option<String>,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    enhanced: Vec<String>,
    #[serde(default)]
    says: Vec<String>,
}

impl Rules {
    /// # Errors
    /// What is wrong with the file, in words.
    fn compile(source: &str) -> Result<Self, String> {
        let file: File = toml::from_str(source).map_err(|error| error.to_string())?;
        let words = |pattern: &str| {
            // Words may be built of words, one level deep.
            let once =
                file.words.iter().fold(pattern.to_owned(), |p, (name, is)| p.replace(&format!("{{{name}}}"), is));
            file.words.iter().fold(once, |p, (name, is)| p.replace(&format!("{{{name}}}"), is))
        };
        let mut patterns = Vec::new();
        let mut rules = Vec::new();
        for rule in &file.rule {
            let start = patterns.len();
            patterns.extend(rule.says.iter().map(|pattern| words(pattern)));
            rules.push(rule.compile(start..patterns.len())?);
        }
        let patterns = RegexSetBuilder::new(&patterns)
            .unicode(false)
            .size_limit(COMPILED_LEN_MAX)
            .dfa_size_limit(STATES_LEN_MAX)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { rules, patterns })
    }

    fn cause(&self, stage: Stage, reply: &Reply) -> (Cause, Evidence) {
        let severity = reply.severity();
        let text = folded(&reply.text);
        let enhanced = reply.enhanced.or_else(|| enhanced_within(&text));
        let said = self.patterns.matches(text.as_bytes());
        let holds = |rule: &&Rule| {
            rule.severity.is_none_or(|expected| expected == severity)
                && (!rule.at_rcpt_only || stage == Stage::Rcpt)
                && (rule.codes.is_empty() || rule.codes.contains(&reply.code))
                && (rule.enhanced.is_empty() || rule.enhanced.iter().any(|pattern| pattern.fits(enhanced)))
                && (rule.says.is_empty() || rule.says.clone().any(|index| said.matched(index)))
        };
        let of_rule = |rule: &Rule| if severity == Severity::Permanent { rule.cause } else { rule.temporary };
        // The last rule of the file asks for nothing.
        self.rules
            .iter()
            .find(holds)
            .map_or((Cause::OtherTemp, Evidence::Code), |rule| (of_rule(rule), rule.evidence()))
    }
}

impl RuleInFile {
    fn compile(&self, says: Range<usize>) -> Result<Rule, String> {
        let cause = cause_by_name(&self.cause)?;
        let severity = match self.when.as_deref() {
            None => None,
            Some("4xx") => Some(Severity::Transient),
            Some("5xx") => Some(Severity::Permanent),
            Some(other) => return Err(format!("when = {other:?}")),
        };
        let at_rcpt_only = match self.at.as_deref() {
            None => false,
            Some("rcpt") => true,
            Some(other) => return Err(format!("at = {other:?}")),
        };
        Ok(Rule {
            cause,
            temporary: self.temporary.as_deref().map_or(Ok(cause), cause_by_name)?,
            severity,
            at_rcpt_only,
            codes: self.codes.clone(),
            enhanced: self.enhanced.iter().map(|text| EnhancedPattern::parse(text)).collect::<Result<_, _>>()?,
            says,
        })
    }
}

fn cause_by_name(name: &str) -> Result<Cause, String> {
    Cause::ALL.iter().copied().find(|cause| cause.name() == name).ok_or_else(|| format!("no cause {name:?}"))
}

impl EnhancedPattern {
    /// `x.7.*`, `5.1.1`, `4.7.500-699` or `none`.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("enhanced = {text:?}");
        if text == "none" {
            return Ok(Self::Absent);
        }
        let [class, subject, detail] = text.split('.').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let class = if class == "x" { None } else { Some(class.parse().map_err(|_| wrong())?) };
        let (from, to) = match detail.split_once('-') {
            _ if detail == "*" => (0, u16::MAX),
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(detail)?, number(detail)?),
        };
        Ok(Self::Like(class, number(subject)?, from, to))
    }

    fn fits(&self, code: Option<EnhancedCode>) -> bool {
        match (self, code) {
            (Self::Absent, code) => code.is_none(),
            (Self::Like(..), None) => false,
            (Self::Like(class, subject, from, to), Some(code)) => {
                class.is_none_or(|class| class == code.0) && *subject == code.1 && (*from..=*to).contains(&code.2)
            }
        }
    }
}

/// An enhanced code somewhere in a text, as gateways put it behind their own tag, or in brackets at the end. Takes no
/// part of an IP address for one.
fn enhanced_within(text: &str) -> Option<EnhancedCode> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let words = text.split(|c: char| !is_part(c) && !c.is_alphabetic() && c != '-' && c != '/');
    words.filter(|word| word.len() <= 9).find_map(|word| {
        let (code, rest) = EnhancedCode::split_from(word.strip_suffix('.').unwrap_or(word))?;
        (rest.is_empty() && code.0 != 2 && code.1 < 10).then_some(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_sound() {
        let rules = Rules::compile(SOURCE).unwrap();
        assert!(rules.rules.len() > 20);
        let last = rules.rules.last().unwrap();
        let is_general = last.severity.is_none() && last.codes.is_empty() && last.enhanced.is_empty();
        assert!(is_general && last.says.is_empty() && !last.at_rcpt_only, "the last rule takes what is left");
        assert_eq!((last.cause, last.temporary), (Cause::OtherPerm, Cause::OtherTemp));
    }

    #[test]
    fn a_wrong_file_is_told() {
        let error = |source: &str| Rules::compile(source).err().expect("it is wrong");
        let rule = |rest: &str| format!("[words]\n[[rule]]\ncause = \"greylisted\"\n{rest}");
        assert!(Rules::compile(&rule("")).is_ok());
        error("[words]\n[[rule]]\ncause = \"bad_luck\"");
        for rest in ["when = \"6xx\"", "at = \"quit\"", "enhanced = [\"5.1\"]", "says = ['(']", "say = ['typo']"] {
            error(&rule(rest));
        }
    }

    #[test]
    fn no_rule_names_a_greylisting_that_is_final() {
        for rule in Rules::compile(SOURCE).unwrap().rules {
            let is_temporary = rule.severity == Some(Severity::Transient);
            let never_final = [Cause::Greylisted, Cause::MailboxUnavailableTemp, Cause::OtherTemp];
            assert!(is_temporary || !never_final.contains(&rule.cause), "{:?}", rule.cause);
        }
    }

    #[test]
    fn enhanced_codes_are_found_within() {
        let check = |text: &str, expected: Option<(u8, u16, u16)>| {
            assert_eq!(enhanced_within(text), expected.map(|(a, b, c)| EnhancedCode(a, b, c)), "{text}");
        };
        check("no mailbox here (#5.1.1)", Some((5, 1, 1)));
        check("#5.1.0 address rejected", Some((5, 1, 0)));
        check("not accepted: 5.7.1 this", Some((5, 7, 1)));
        check("over quota 4.2.2.", Some((4, 2, 2)));
        check("from 5.1.1.9 and 192.0.2.25", None);
        check("version 4.92.3", None);
        check("release-4.2.2", None);
    }
}
