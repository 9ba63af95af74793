//! The rules of `rules.toml`, compiled once, each into a pattern that is matched in linear time.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::parts::Parts;
use crate::base::named::named;
use crate::event::cause::Cause;
use crate::smtp::client_session::Stage;
use crate::smtp::reply::{EnhancedCode, Reply, Severity};

/// The rules as they stand in the file.
const SOURCE: &str = include_str!("rules.toml");
/// Octets that a rule's compiled pattern may take.
const COMPILED_LEN_MAX: usize = 4 << 20;
/// Octets that the states of a rule's pattern met so far may take; beyond, they are forgotten and built again.
const STATES_LEN_MAX: usize = 256 << 10;
/// Words may be built of words, so many levels deep.
const WORDS_DEEP: usize = 3;
/// Words beside which the code of an unknown mailbox is no evidence of one, where no rule for words holds: hosts give that
/// code to what is not allowed, not reachable or not now, too.
const DOUBT: &str = r"\b(?:not|permission|allow\w*|permit\w*|den[iy]\w*|refus\w*|reject\w*|block\w*|fail\w*|errors?|servers?|services?|systems?|try|later|temporar\w*|messages?|mails?|size|from|limit\w*|restrict\w*|cannot|unable|could|would|agents?|over|yet|load\w*|only)\b";

// A test compiles the embedded file, so that no other can be shipped.
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::compile(SOURCE).expect("rules.toml is sound"));

pub(super) fn prepare() {
    LazyLock::force(&RULES);
}

named! {
    /// What a cause was told by.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Evidence: name {
        /// By words about the mailbox, or by the code for one that is not there or disabled, and nothing said beside it
        /// speaks of other matters.
        Recipient = "it speaks of the mailbox and of nothing else",
        /// By words, or by a code that means one thing only.
        Said = "words, or an enhanced code of one meaning",
        /// By a basic code that means several things.
        Code = "the code alone",
    }
}

/// The cause that a refusal names: that of the first rule that holds. Rules for a subject and its predicate come first,
/// then the reason that is given where the predicate says nothing, then all that is said. The words of links and help count
/// only where nothing else says anything.
pub(super) fn cause_of_refusal(stage: Stage, reply: &Reply) -> (Cause, Evidence) {
    RULES.cause(stage, reply)
}

struct Rules {
    rules: Vec<Rule>,
    /// Words for whom mail is for.
    recipient: Regex,
    /// [`DOUBT`].
    doubt: Regex,
}

struct Rule {
    cause: Cause,
    temporary: Cause,
    severity: Option<Severity>,
    at_rcpt_only: bool,
    codes: Vec<u16>,
    enhanced: Vec<EnhancedPattern>,
    says: Option<Regex>,
    unless: Option<Regex>,
    is_firm: bool,
    is_loose: bool,
    of_tags: bool,
}

/// What is known of a reply beside its words.
struct Head {
    stage: Stage,
    code: u16,
    severity: Severity,
    enhanced: Option<EnhancedCode>,
}

impl Rule {
    /// Whether it asks for an enhanced code that means one thing; any detail of a subject is no such code.
    fn names_enhanced(&self) -> bool {
        let is_any = |pattern: &EnhancedPattern| matches!(pattern, EnhancedPattern::Like(.., u16::MAX));
        self.enhanced.iter().any(|pattern| matches!(pattern, EnhancedPattern::Like(..)))
            && !self.enhanced.iter().any(is_any)
    }

    fn is_of_code_only(&self) -> bool {
        self.says.is_none() && !self.names_enhanced()
    }

    fn fits(&self, head: &Head) -> bool {
        self.severity.is_none_or(|expected| expected == head.severity)
            && (!self.at_rcpt_only || head.stage == Stage::Rcpt)
            && (self.codes.is_empty() || self.codes.contains(&head.code))
            && (self.enhanced.is_empty() || self.enhanced.iter().any(|pattern| pattern.fits(head.enhanced)))
    }

    /// Whether its words stand there, and none that it must not see.
    fn is_said(&self, text: &str) -> bool {
        self.says.as_ref().is_none_or(|says| says.is_match(text.as_bytes()))
            && !self.unless.as_ref().is_some_and(|unless| unless.is_match(text.as_bytes()))
    }

    fn cause(&self, severity: Severity) -> Cause {
        if severity == Severity::Permanent { self.cause } else { self.temporary }
    }
}

/// What a rule expects of the enhanced code.
enum EnhancedPattern {
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
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default)]
    firm: bool,
    #[serde(default)]
    loose: bool,
    #[serde(rename = "in")]
    part: Option<String>,
}

fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(COMPILED_LEN_MAX)
        .dfa_size_limit(STATES_LEN_MAX)
        .build()
        .map_err(|error| error.to_string())
}

impl Rules {
    /// # Errors
    /// What is wrong with the file, in words.
    fn compile(source: &str) -> Result<Self, String> {
        let file: File = toml::from_str(source).map_err(|error| error.to_string())?;
        let words = |pattern: &str| {
            let once = |pattern: String, _| {
                file.words.iter().fold(pattern, |p, (name, is)| p.replace(&format!("{{{name}}}"), is))
            };
            (0..WORDS_DEEP).fold(pattern.to_owned(), once)
        };
        // One of several wordings; none for none.
        let any = |patterns: &[String]| {
            let pattern =
                patterns.iter().map(|pattern| format!("(?:{})", words(pattern))).collect::<Vec<_>>().join("|");
            (!patterns.is_empty()).then(|| regex(&pattern)).transpose()
        };
        let rules = file.rule.iter().map(|rule| rule.compile(any(&rule.says)?, any(&rule.unless)?));
        let rules = rules.collect::<Result<_, String>>()?;
        let who = words(file.words.get("who").map_or("recipient", String::as_str));
        Ok(Self { rules, recipient: regex(&who)?, doubt: regex(DOUBT)? })
    }

    fn cause(&self, stage: Stage, reply: &Reply) -> (Cause, Evidence) {
        let parts = Parts::of(&reply.text);
        let enhanced = reply.enhanced.or_else(|| enhanced_within(&parts.whole));
        let head = Head { stage, code: reply.code, severity: reply.severity(), enhanced };
        // The last rule of the file asks for nothing.
        self.rule(&head, &parts).map_or((Cause::OtherTemp, Evidence::Code), |rule| {
            (rule.cause(head.severity), self.evidence(rule, &parts, enhanced))
        })
    }

    fn rule(&self, head: &Head, parts: &Parts) -> Option<&Rule> {
        let first = |said: &str, is_asked: &dyn Fn(&Rule) -> bool| {
            let holds = |rule: &&Rule| {
                is_asked(rule) && rule.fits(head) && rule.is_said(if rule.of_tags { &parts.tags } else { said })
            };
            self.rules.iter().find(holds)
        };
        if let Some(firm) = first(&parts.said, &|rule| rule.is_firm) {
            return Some(firm);
        }
        let is_word_rule = |rule: &Rule| rule.says.is_some() && !rule.of_tags;
        if let Some(told) = parts.reason().and_then(|reason| first(reason, &is_word_rule)) {
            return Some(told);
        }
        match first(&parts.said, &|_| true) {
            Some(rule) if rule.is_of_code_only() && parts.whole != parts.said => {
                first(&parts.whole, &is_word_rule).or(Some(rule))
            }
            found => found,
        }
    }

    fn evidence(&self, rule: &Rule, parts: &Parts, enhanced: Option<EnhancedCode>) -> Evidence {
        if rule.is_of_code_only() {
            return Evidence::Code;
        }
        let is_doubtful = rule.says.is_none() && self.doubt.is_match(parts.said.as_bytes());
        let is_coded = matches!(enhanced, Some(EnhancedCode(_, 1 | 2, 1))) && !is_doubtful;
        let is_named = rule.says.is_some() && !rule.of_tags && self.recipient.is_match(parts.said.as_bytes());
        let is_told = (is_coded || is_named) && !rule.is_loose;
        if is_told && !parts.speaks_of_others() { Evidence::Recipient } else { Evidence::Said }
    }
}

impl RuleInFile {
    fn compile(&self, says: Option<Regex>, unless: Option<Regex>) -> Result<Rule, String> {
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
        let of_tags = match self.part.as_deref() {
            None => false,
            Some("tags") => true,
            Some(other) => return Err(format!("in = {other:?}")),
        };
        Ok(Rule {
            cause,
            temporary: self.temporary.as_deref().map_or(Ok(cause), cause_by_name)?,
            severity,
            at_rcpt_only,
            codes: self.codes.clone(),
            enhanced: self.enhanced.iter().map(|text| EnhancedPattern::parse(text)).collect::<Result<_, _>>()?,
            says,
            unless,
            is_firm: self.firm,
            is_loose: self.loose,
            of_tags,
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
        assert!(is_general && last.says.is_none() && !last.at_rcpt_only, "the last rule takes what is left");
        assert_eq!((last.cause, last.temporary), (Cause::OtherPerm, Cause::OtherTemp));
    }

    #[test]
    fn a_wrong_file_is_told() {
        let error = |source: &str| Rules::compile(source).err().expect("it is wrong");
        let rule = |rest: &str| format!("[words]\n[[rule]]\ncause = \"greylisted\"\n{rest}");
        assert!(Rules::compile(&rule("")).is_ok());
        error("[words]\n[[rule]]\ncause = \"bad_luck\"");
        for rest in [
            "when = \"6xx\"",
            "at = \"quit\"",
            "enhanced = [\"5.1\"]",
            "says = ['(']",
            "unless = ['(']",
            "in = \"links\"",
            "say = ['typo']",
        ] {
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
