//! The text of a reply in the form that rules and hints are matched against: lower case, plain letters, single blanks.

/// Characters looked at; what a reply is about stands near its beginning.
const LEN_MAX: usize = 1000;

/// Folds a reply's text: lower case without accents, runs of blanks and control characters as one blank, straight
/// quotes, `@` in place of every mail address (what an address is called says nothing).
pub(super) fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LEN_MAX) + 8);
    let plain = text.chars().take(LEN_MAX).flat_map(char::to_lowercase);
    let mut word_start = 0;
    for c in plain {
        if c.is_whitespace() || c.is_control() {
            end_word(&mut out, word_start);
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
            word_start = out.len();
        } else if is_around_address(c) {
            end_word(&mut out, word_start);
            push_plain(&mut out, c);
            word_start = out.len();
        } else {
            push_plain(&mut out, c);
        }
    }
    end_word(&mut out, word_start);
    out.truncate(out.trim_end().len());
    out
}

/// What stands next to a mail address without being part of it, here.
fn is_around_address(c: char) -> bool {
    matches!(c, '<' | '>' | '[' | ']' | '(' | ')' | ':' | ';' | ',' | '"' | '\'' | '=' | '\u{2018}'..='\u{201f}')
}

/// If the word since `start` is a mail address, `@` takes its place; a full stop behind it stays.
fn end_word(out: &mut String, start: usize) {
    let word = &out[start..];
    let stop = if word.ends_with('.') { "." } else { "" };
    let is_address = word.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if is_address {
        out.truncate(start);
        out.push('@');
        out.push_str(stop);
    }
}

fn push_plain(out: &mut String, c: char) {
    let plain = match c {
        'à'..='å' | 'ā' | 'ă' | 'ą' => "a",
        'æ' => "ae",
        'ç' | 'ć' | 'č' => "c",
        'ď' | 'đ' => "d",
        'è'..='ë' | 'ē' | 'ę' | 'ě' | 'ė' => "e",
        'ì'..='ï' | 'ı' | 'ī' => "i",
        'ł' | 'ľ' => "l",
        'ñ' | 'ń' | 'ň' => "n",
        'ò'..='ö' | 'ø' | 'ő' => "o",
        'ř' => "r",
        'š' | 'ś' | 'ş' | 'ș' => "s",
        'ß' => "ss",
        'ť' | 'ț' | 'ţ' => "t",
        'ù'..='ü' | 'ů' | 'ű' | 'ū' => "u",
        'ý' | 'ÿ' => "y",
        'ž' | 'ź' | 'ż' => "z",
        '\u{2018}' | '\u{2019}' | '\u{201b}' | '`' | '\u{b4}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\u{2010}'..='\u{2015}' => "-",
        // Accents that stand by themselves.
        '\u{300}'..='\u{36f}' => "",
        other => return out.push(other),
    };
    out.push_str(plain);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_folded() {
        let check = |text: &str, expected: &str| assert_eq!(folded(text), expected, "{text:?}");
        check("  User\tUNKNOWN\r\n here ", "user unknown here");
        check("<Spam@Example.com>: Boîte pleine", "<@>: boite pleine");
        check("mail to quota@example.com.", "mail to @.");
        check("the user’s “box” – full", "the user's \"box\" - full");
        check("a @ b", "a @ b");
        check("", "");
        assert!(folded(&"é".repeat(100_000)).len() <= LEN_MAX);
    }
}
