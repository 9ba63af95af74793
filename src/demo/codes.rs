//! Finds the code and the links in a mail, as a person would.
//!
//! A code is a run of 4 to 10 digits, or two groups of digits, next to the word for it; in the subject before the text. Where
//! no such word is, the only run there is counts.

/// The word for a code in the languages of the built-in template, in lower case.
const WORDS: [&str; 4] = ["code", "code", "c\u{f3}digo", "codigo"];
/// Words that say the same of a code in one of those languages.
const OTHER_WORDS: [&str; 6] = ["passcode", "otp", "pin", "kennwort", "mot de passe", "contrase\u{f1}a"];
/// How far from the word a code may stand, in characters, on the same line or the next.
const NEAR: usize = 80;
/// Digits of a code.
const DIGITS: std::ops::RangeInclusive<usize> = 4..=10;
/// Codes and links that are kept of one mail.
const FOUND_MAX: usize = 20;
/// Octets of a text that are looked at.
const LOOKED_AT_MAX: usize = 256 << 10;

/// A run of digits with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    digits: String,
    /// In characters.
    start: usize,
    end: usize,
}

/// The codes of a mail, the one that is meant first.
pub(super) fn codes(subject: &str, text: &str) -> Vec<String> {
    let (subject, text) = (bounded(subject), without_links(bounded(text)));
    let mut found = near_word(subject);
    found.extend(near_word(&text));
    if found.is_empty() {
        let all: Vec<String> = runs(subject).into_iter().chain(runs(&text)).map(|run| run.digits).collect();
        let mut apart = all.clone();
        apart.sort_unstable();
        apart.dedup();
        if let [only] = apart.as_slice() {
            found.push(only.clone());
        }
    }
    let mut unique = Vec::new();
    for code in found {
        if !unique.contains(&code) && unique.len() < FOUND_MAX {
            unique.push(code);
        }
    }
    unique
}

/// The links of a mail: those of the text, then those of the HTML part, the one that is to be followed first.
pub(super) fn links(text: &str, html: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let in_text =
        urls(bounded(text)).map(|url| url.trim_end_matches(['.', ',', ')', '>', ';', '!', '?', '\'']).to_owned());
    let in_html = urls(bounded(html)).filter(|url| !is_decoration(url)).map(|url| url.replace("&amp;", "&"));
    for url in in_text.chain(in_html) {
        if !found.contains(&url) && found.len() < FOUND_MAX {
            found.push(url);
        }
    }
    // Ready to be followed: what carries something that cannot be guessed. The order is kept otherwise.
    found.sort_by_key(|url| !carries_secret(url));
    found
}

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOOKED_AT_MAX)]
}

fn urls(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("http").filter_map(|(at, _)| {
        let rest = &text[at..];
        let len =
            rest.strip_prefix("https://").or_else(|| rest.strip_prefix("http://")).filter(|host| !host.is_empty());
        len?;
        let end =
            rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>' | '\u{a0}')).unwrap_or(rest.len());
        Some(&rest[..end])
    })
}

/// An image, a style sheet or a name space.
fn is_decoration(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    [".png", ".jpg", ".jpeg", ".gif", ".svg", ".css", ".dtd", ".ico", ".woff2"].iter().any(|end| path.ends_with(end))
        || path.contains("://www.w3.org/")
}

fn carries_secret(url: &str) -> bool {
    let rest = url.splitn(4, '/').nth(3).unwrap_or_default();
    rest.split(['/', '?', '&', '=', '#', '.']).any(|part| part.len() >= 16 && part.bytes().any(|b| b.is_ascii_digit()))
        || ["token", "verify", "confirm", "magic", "login", "signin", "reset", "activate"]
            .iter()
            .any(|word| rest.contains(word))
}

/// The text without its links, whose digits are no codes.
fn without_links(text: &str) -> String {
    let mut without = text.to_owned();
    for url in urls(text) {
        without = without.replace(url, " ");
    }
    without
}

/// Runs of digits that could be a code. Two groups count as one where both are of three or four digits.
fn runs(text: &str) -> Vec<Run> {
    let characters: Vec<char> = text.chars().collect();
    let mut groups: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        if !characters[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let end = characters[at..].iter().position(|c| !c.is_ascii_digit()).map_or(characters.len(), |len| at + len);
        groups.push(Run { digits: characters[at..end].iter().collect(), start: at, end });
        at = end;
    }
    let joins = |one: &Run, other: &Run| {
        let between = &characters[one.end..other.start];
        let is_gap = matches!(between, [' ' | '-' | '\u{a0}' | '\u{2013}']);
        is_gap && one.digits.len() == other.digits.len() && (2..=5).contains(&one.digits.len())
    };
    let mut found = Vec::new();
    let mut index = 0;
    while index < groups.len() {
        let mut run = groups[index].clone();
        // Three groups or more are a telephone number or a date.
        let mut count = 1;
        while index + count < groups.len() && joins(&groups[index + count - 1], &groups[index + count]) {
            count += 1;
        }
        if count == 2 {
            run = Run { digits: run.digits + &groups[index + 1].digits, end: groups[index + 1].end, ..run };
        }
        index += count;
        if count <= 2 && DIGITS.contains(&run.digits.len()) && stands_alone(&characters, &run) {
            found.push(run);
        }
    }
    found
}

/// Not a part of a word, a number with a fraction, a date, a time or an amount.
fn stands_alone(characters: &[char], run: &Run) -> bool {
    let before = run.start.checked_sub(1).and_then(|at| characters.get(at)).copied();
    let (after, next) = (characters.get(run.end).copied(), characters.get(run.end + 1).copied());
    let is_tied = |c: char| c.is_alphanumeric() || matches!(c, '@' | '_' | '/' | '#' | '$' | '\u{20ac}');
    let continues =
        |c: char| matches!(c, '.' | ',' | ':' | '-' | '/') && next.is_some_and(|next| next.is_ascii_digit());
    let is_behind = |c: char| {
        matches!(c, '.' | ',' | ':' | '/' | '-' | '+')
            && run.start.checked_sub(2).and_then(|at| characters.get(at)).is_some_and(char::is_ascii_digit)
    };
    !before.is_some_and(|c| is_tied(c) || is_behind(c)) && !after.is_some_and(|c| is_tied(c) || continues(c))
}

/// Codes next to a word for them, the nearest first.
fn near_word(text: &str) -> Vec<String> {
    let lower: Vec<char> = text.chars().flat_map(|c| c.to_lowercase().next()).collect();
    let mut places: Vec<(usize, usize)> = Vec::new();
    for word in WORDS.iter().chain(&OTHER_WORDS) {
        let word: Vec<char> = word.chars().collect();
        for start in 0..lower.len().saturating_sub(word.len() - 1) {
            let end = start + word.len();
            let is_word = lower[start..end] == word[..]
                && !start.checked_sub(1).is_some_and(|at| lower[at].is_alphabetic() && !is_compound(&lower, at));
            if is_word {
                places.push((start, end));
            }
        }
    }
    let mut found: Vec<(usize, Run)> = Vec::new();
    for run in runs(text) {
        let distance =
            |(start, end): &(usize, usize)| run.start.saturating_sub(*end).max(start.saturating_sub(run.end));
        if let Some(nearest) = places.iter().map(distance).min().filter(|distance| *distance <= NEAR) {
            found.push((nearest, run));
        }
    }
    // Of equals the first; a code in front of everything else is how these mails are written.
    found.sort_by_key(|(distance, run)| (*distance, run.start));
    found.into_iter().map(|(_, run)| run.digits).collect()
}

/// `Anmeldecode`, `Bestätigungscode`: the end of a longer word is the word as well.
fn is_compound(characters: &[char], end: usize) -> bool {
    characters[..=end].iter().rev().take_while(|c| c.is_alphabetic()).count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_one_that_is_meant() {
        let check = |subject: &str, text: &str, expected: &str| {
            let found = codes(subject, text).first().cloned().unwrap_or_default();
            assert_eq!(found, expected, "{subject} / {text}");
        };
        check("481516 is your code for Shop", "Valid for 10 minutes.", "481516");
        check("481 516 ist Ihr Code", "", "481516");
        check("Your code", "Your code: 4815\nIt is valid for 10 minutes. Call 0800 123456.", "4815");
        check("Anmeldung", "Ihr Anmeldecode lautet 123-456. Bestellung 99887766 vom 12.11.2026", "123456");
        check("Votre code\u{a0}: 0042", "", "0042");
        check("Hola", "Tu c\u{f3}digo: 77 88\n2026 Example S.A.", "7788");
        check("Order 20260001 shipped", "Your order of 2026-11-28 over 1299.00 EUR", "20260001");
        check("Hello", "Please use 918273 to sign in.", "918273");
        check("Hello", "918273 or 112233", "");
        check("Sign in", "https://app.test/login?token=12345678 Your PIN is 2468.", "2468");
        check("Your code 12345678901", "", "");
        check("Ticket A1234 code", "", "");
        check("Your code", "Hi! 555666\n\n(c) 2026 Example, Main Street 12345", "");
        check("Use code 192837", "Your code is 111111", "192837");
    }

    #[test]
    fn the_link_is_the_one_to_follow() {
        let html = "<a href=\"https://app.test/magic?a=1&amp;token=abc\">in</a><img src=\"https://app.test/logo.png\">\
                    <a href='https://app.test/help'>help</a>";
        assert_eq!(links("", html)[0], "https://app.test/magic?a=1&token=abc");
        let text = "Read https://app.test/terms. Sign in: https://app.test/s/Zk9x8Q7w6E5r4T3y2U1i.";
        assert_eq!(links(text, "")[0], "https://app.test/s/Zk9x8Q7w6E5r4T3y2U1i");
        assert_eq!(links(text, "")[1], "https://app.test/terms");
        assert!(links("no http here, http://", "").is_empty());
    }

    #[test]
    fn long_texts_end_somewhere() {
        let text = "1234 5678 http ".repeat(100_000);
        assert!(codes(&text, &text).len() <= FOUND_MAX);
        assert!(links(&text, &text).is_empty());
    }
}
