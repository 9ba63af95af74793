//! How long a reply asks to wait, in the words of many programs and some languages. Linear in the length of the text,
//! which is the remote host's: what comes out is for the caller to bound.

use std::time::Duration;

use super::wording::folded;

/// Longer waits are no waits but lifetimes of something else.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Words before a number that are looked at.
const WORDS_BEFORE: usize = 4;

/// Without one of these the text speaks of some other time.
const CUES: &[&str] = &[
    "grey",
    "gray",
    "again",
    "retry",
    "retri",
    "wait",
    "back",
    "resend",
    "resubmit",
    "delay",
    "defer",
    "later",
    "accepted",
    "next",
    "embargo",
    "throttl",
    "remaining",
    "erneut",
    "nochmal",
    "wieder",
    "warten",
    "versuch",
    "reessay",
    "ressay",
    "patient",
    "attend",
    "intent",
    "espere",
    "reint",
    "riprov",
    "tente",
    "novamente",
    "aguard",
    "probuj",
    "ponow",
    "opnieuw",
    "zkuste",
    "forsok",
    "igen",
    "повтор",
    "попроб",
    "через",
    "重试",
    "稍",
    "再",
    "間",
    "grise",
    "gris",
];
/// A time behind one of these has passed, or is a limit.
const NOT_A_WAIT: &[&str] = &[
    "last", "past", "per", "previous", "every", "each", "timeout", "timed", "idle", "inactivity", "older", "expired",
    "limit", "lifetime", "letzten", "dernieres", "ultimos", "ultimi", "pro", "por", "laatste",
];
/// A time behind one of these is a wait.
const BEFORE_WAIT: &[&str] = &[
    "in",
    "after",
    "wait",
    "another",
    "for",
    "least",
    "about",
    "approximately",
    "retry",
    "delay",
    "delayed",
    "dans",
    "nach",
    "fur",
    "fuer",
    "en",
    "dentro",
    "tra",
    "fra",
    "za",
    "po",
    "over",
    "om",
    "apres",
    "pendant",
    "tras",
    "despues",
    "depois",
    "dopo",
    "em",
    "attendre",
    "warten",
    "через",
    "again",
    "within",
    "minimum",
    "until",
    "back",
    "=",
    "~",
];
const AFTER_WAIT: &[&str] = &["remaining", "left", "more", "restantes", "restant", "restantes", "verbleibend"];

/// Reads the wait that `text` asks for.
pub fn wait(text: &str) -> Option<Duration> {
    let text = folded(text);
    if !CUES.iter().any(|cue| text.contains(cue)) {
        return None;
    }
    let text = without_links(&text);
    let tokens = tokens(&text);
    let mut best: Option<(u8, Duration)> = None;
    let mut at = 0;
    while at < tokens.len() {
        let Some((wait, end)) = span(&tokens, at) else {
            at += 1;
            continue;
        };
        if let Some(likelihood) = likelihood(&tokens, at, end)
            && best.is_none_or(|(other, _)| likelihood > other)
            && wait.time <= WAIT_MAX
            && (wait.has_unit || likelihood > 1)
        {
            best = Some((likelihood, wait.time));
        }
        at = end;
    }
    best.map(|(_, time)| time)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Number(f64),
    /// `mm:ss` or `hh:mm:ss`.
    Clock {
        high: u32,
        middle: Option<u32>,
        low: u32,
    },
    Word(&'a str),
    Mark(char),
}

/// A time in the text.
struct Wait {
    time: Duration,
    has_unit: bool,
}

/// The text without tags of HTML and without URLs, so that no number of theirs counts.
fn without_links(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        let Some(close) = rest[open..].find('>') else { break };
        out.push_str(&rest[..open]);
        out.push(' ');
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    let is_link = |word: &&str| word.contains("://") || word.contains("www.") || word.contains("href=");
    out.split(' ').filter(|word| !is_link(word)).collect::<Vec<_>>().join(" ")
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let (mut is_glued, mut after_digit) = (false, false);
    while let Some(first) = rest.chars().next() {
        let is_digit = first.is_ascii_digit();
        let len = if is_digit {
            rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.' && c != ',').unwrap_or(rest.len())
        } else if first.is_alphabetic() {
            rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, behind) = rest.split_at(len);
        if is_digit {
            // A digit inside a word is part of a name, unless the word is a unit ("1h30m").
            let in_name = is_glued && !matches!(tokens.last(), Some(Token::Word(word)) if unit_s(word).is_some());
            tokens.push(if in_name { Token::Word(token) } else { number(token.trim_end_matches([':', '.', ','])) });
        } else if first.is_alphabetic() {
            tokens.push(Token::Word(token));
        } else if first != ' ' {
            tokens.push(Token::Mark(first));
        }
        let is_joint = matches!(first, '-' | '_' | '/' | '#' | '.');
        // "5-10 minutes" is a range, "mx-10" a name.
        is_glued = first.is_alphabetic() || is_joint && !after_digit;
        after_digit = is_digit;
        rest = behind;
    }
    tokens
}

fn number(text: &str) -> Token<'_> {
    let parts: Vec<&str> = text.split(':').collect();
    let two_digits = |part: &str| if part.len() == 2 { part.parse().ok().filter(|value| *value < 60) } else { None };
    let clock = match parts[..] {
        [high, low] => Some((high.parse().ok(), None, two_digits(low))),
        [high, middle, low] => Some((high.parse().ok(), two_digits(middle), two_digits(low))),
        _ => None,
    };
    match clock {
        Some((Some(high), middle, Some(low))) if parts.len() == 2 || middle.is_some() => {
            return Token::Clock { high, middle, low };
        }
        _ => {}
    }
    let is_plain = text.len() <= 9 && text.bytes().filter(|b| !b.is_ascii_digit()).count() <= 1;
    match text.replace(',', ".").parse() {
        Ok(value) if is_plain => Token::Number(value),
        _ => Token::Word(text),
    }
}

/// The time that begins at `at`, of one or several numbers with their units, and where it ends.
fn span(tokens: &[Token<'_>], at: usize) -> Option<(Wait, usize)> {
    let unit = |index: usize| match tokens.get(index) {
        Some(Token::Word(word)) => unit_s(word),
        // "5-minute"
        Some(Token::Mark('-')) => match tokens.get(index + 1) {
            Some(Token::Word(word)) => unit_s(word),
            _ => None,
        },
        _ => None,
    };
    let unit_len = |index: usize| if matches!(tokens.get(index), Some(Token::Mark(_))) { 2 } else { 1 };
    let seconds = |s: f64| Duration::try_from_secs_f64(s).ok();
    match *tokens.get(at)? {
        Token::Clock { high, middle, low } => {
            let has_unit = unit(at + 1).is_some();
            let is_hours = unit(at + 1) == Some(3600.0);
            let (high, low) = (f64::from(high), f64::from(low));
            let time = match middle {
                Some(middle) => high * 3600.0 + f64::from(middle) * 60.0 + low,
                None if is_hours => high * 3600.0 + low * 60.0,
                None => high * 60.0 + low,
            };
            Some((Wait { time: seconds(time)?, has_unit }, at + 1 + usize::from(has_unit)))
        }
        Token::Number(_) | Token::Word(_) => {
            let value = value(tokens.get(at))?;
            let Some(factor) = unit(at + 1) else { return range_or_bare(tokens, at, value) };
            let mut total = value * factor;
            let mut end = at + 1 + unit_len(at + 1);
            let mut smallest = factor;
            // "4 minutes and 30 seconds"
            loop {
                let joint = matches!(
                    tokens.get(end),
                    Some(Token::Word("and" | "und" | "et" | "y" | "e" | "en") | Token::Mark(','))
                );
                let next = end + usize::from(joint);
                match (tokens.get(next), unit(next + 1)) {
                    (Some(Token::Number(more)), Some(factor)) if factor < smallest => {
                        total += more * factor;
                        smallest = factor;
                        end = next + 1 + unit_len(next + 1);
                    }
                    _ => break,
                }
            }
            Some((Wait { time: seconds(total)?, has_unit: true }, end))
        }
        Token::Mark(_) => None,
    }
}

/// "5 to 10 minutes", of which the lesser counts; or "retry=300", "try again in 300.", seconds.
fn range_or_bare(tokens: &[Token<'_>], at: usize, value: f64) -> Option<(Wait, usize)> {
    if !matches!(tokens[at], Token::Number(_)) {
        return None;
    }
    let wait = |time: f64, has_unit| Some(Wait { time: Duration::try_from_secs_f64(time).ok()?, has_unit });
    if let (
        Some(Token::Mark('-' | '/') | Token::Word("to" | "and" | "or" | "bis" | "a" | "und" | "ou" | "o")),
        Some(Token::Number(_)),
        Some(Token::Word(word)),
    ) = (tokens.get(at + 1), tokens.get(at + 2), tokens.get(at + 3))
        && let Some(factor) = unit_s(word)
    {
        return Some((wait(value * factor, true)?, at + 4));
    }
    let ends = matches!(tokens.get(at + 1), None | Some(Token::Mark(')' | ';' | ']')));
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    let is_named = matches!(before, Some(Token::Word("in" | "after") | Token::Mark('=' | ':')));
    if ends && is_named { Some((wait(value, false)?, at + 1)) } else { None }
}

/// A number in digits, or as a word.
fn value(token: Option<&Token<'_>>) -> Option<f64> {
    match token? {
        Token::Number(value) => Some(*value),
        Token::Word(word) => Some(match *word {
            "one" | "a" | "an" | "einer" | "une" | "un" | "una" | "um" | "uma" | "een" => 1.0,
            "two" | "zwei" | "deux" | "dos" | "due" | "dois" => 2.0,
            "three" | "drei" | "trois" | "tres" | "tre" => 3.0,
            "four" | "vier" | "quatre" => 4.0,
            "five" | "funf" | "fuenf" | "cinq" | "cinco" | "cinque" | "vijf" => 5.0,
            "ten" | "zehn" | "dix" | "diez" | "dieci" | "dez" | "tien" => 10.0,
            "fifteen" | "quinze" | "quince" => 15.0,
            "twenty" => 20.0,
            "thirty" => 30.0,
            "sixty" => 60.0,
            _ => return None,
        }),
        Token::Clock { .. } | Token::Mark(_) => None,
    }
}

/// Seconds of a unit.
fn unit_s(word: &str) -> Option<f64> {
    let starts = |stems: &[&str]| stems.iter().any(|stem| word.starts_with(stem));
    match word {
        "s" | "sec" | "secs" | "sek" | "sn" | "с" => Some(1.0),
        "m" | "min" | "mins" | "mn" | "м" => Some(60.0),
        "h" | "hr" | "hrs" | "std" | "uur" | "uren" | "ora" | "ore" | "ч" | "timer" | "timmar" => Some(3600.0),
        "d" | "day" | "days" | "tag" | "tage" | "tagen" | "jour" | "jours" | "dia" | "dias" => Some(86400.0),
        _ if starts(&["second", "sekund", "segund", "sekond", "сек", "秒"]) => Some(1.0),
        _ if starts(&["minut", "мин", "分", "perc"]) => Some(60.0),
        _ if starts(&["hour", "stunde", "heure", "hora", "godzin", "hodin", "час", "小时", "時間"]) => {
            Some(3600.0)
        }
        _ => None,
    }
}

/// How likely the time from `at` to `end` is the wait, from what stands around it; none: it is some other time.
fn likelihood(tokens: &[Token<'_>], at: usize, end: usize) -> Option<u8> {
    let before = &tokens[at.saturating_sub(WORDS_BEFORE)..at];
    let is_one_of = |list: &[&str]| {
        before.iter().any(|token| match token {
            Token::Word(word) => list.contains(word),
            Token::Mark('=') => list.contains(&"="),
            Token::Number(_) | Token::Clock { .. } | Token::Mark(_) => false,
        })
    };
    let after = match tokens.get(end) {
        Some(Token::Word(word)) => *word,
        _ => "",
    };
    let is_count = before.last().is_some_and(|token| matches!(token, Token::Word(word) if word.ends_with("sages")));
    if is_one_of(NOT_A_WAIT) || matches!(after, "ago" | "utc" | "gmt" | "am" | "pm" | "old" | "z") || is_count {
        return None;
    }
    Some(match () {
        () if AFTER_WAIT.contains(&after) => 3,
        () if is_one_of(BEFORE_WAIT) => 2,
        () => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, seconds: u64) {
        assert_eq!(wait(text), Some(Duration::from_secs(seconds)), "{text}");
    }

    #[test]
    fn waits_are_read() {
        check("Greylisted for 300 seconds", 300);
        check("Greylisted for 5 minutes", 300);
        check("Greylisting in action, please come back in 00:29:47", 1787);
        check("greylisted, retry in 4:30 minutes", 270);
        check("please retry in 1:30 hours", 5400);
        check("Sender address rejected: Greylisted for 60 sec.", 60);
        check("will be accepted in 240s", 240);
        check("try again in about 2 minutes", 120);
        check("wait at least 15 min", 900);
        check("try again in 4 minutes and 30 seconds", 270);
        check("retry after 1h30m", 5400);
        check("retry in five minutes", 300);
        check("try again in an hour", 3600);
        check("please retry in 5 to 10 minutes", 300);
        check("please wait 5-10 minutes", 300);
        check("Greylisted for 5 minutes (287 seconds remaining)", 287);
        check("Greylisted; retry=300", 300);
        check("try again in 1.5 minutes", 90);
        check("greylisted. (5-minute delay)", 300);
    }

    #[test]
    fn waits_are_read_in_several_languages() {
        check("Bitte versuchen Sie es in 5 Minuten erneut", 300);
        check("Veuillez réessayer dans 10 minutes", 600);
        check("Inténtelo de nuevo en 2 horas", 7200);
        check("Riprovare tra 30 secondi", 30);
        check("Tente novamente em 3 minutos", 180);
        check("Probeer het over 5 minuten opnieuw", 300);
        check("Повторите попытку через 5 минут", 300);
        check("Proszę spróbować ponownie za 5 minut", 300);
        check("请在 60 秒 后重试", 60);
    }

    #[test]
    fn other_numbers_are_no_waits() {
        for text in [
            "Greylisted, see http://example.com/300seconds/help 300.html",
            "Greylisted, see <a href=\"http://example.com/5 minutes\">help</a>",
            "You sent too many mails in the last 10 minutes, try again later",
            "limit of 10 messages per 5 minutes, try again later",
            "Greylisted at 12:45:10 UTC",
            "try again later [2024-05-25T22:22:22.000Z 08DC93]",
            "id=11249-03, try again later",
            "try again later from 192.0.2.25",
            "timeout after 300 seconds, try again",
            "message size 300 exceeds 14 MB",
            "maximum queue time is 5 days",
            "greylisted",
            "",
        ] {
            assert_eq!(wait(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_read(text in "\\PC{0,200}") {
            prop_assert!(wait(&text).is_none_or(|wait| wait <= WAIT_MAX));
        }

        #[test]
        fn what_is_asked_for_is_read(seconds in 1u64..100_000, unit in prop::sample::select(vec![("s", 1u64), (" seconds", 1), (" min", 60)])) {
            prop_assume!(seconds * unit.1 < WAIT_MAX.as_secs());
            check(&format!("<user@example.com>: Greylisted, try again in {seconds}{} (see http://example.com/7m)", unit.0), seconds * unit.1);
        }

        #[test]
        fn words_of_waits_in_any_order_end(text in "(in |wait |5|10:|:30|\\.| minutes| seconds|h|m|<|>|http://|-|=|again| and ){0,60}") {
            prop_assert!(wait(&text).is_none_or(|wait| wait <= WAIT_MAX));
        }
    }
}
