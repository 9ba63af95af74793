//! Text of unknown senders, on their way to somebody's screen.

use std::borrow::Cow;

/// Whether a character can make a line look like something else: controls (with them the escape sequences of terminals),
/// line and paragraph separators, and those that turn the direction of writing.
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

/// The text with a blank for each of them.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return text.into();
    }
    text.chars().map(|c| if is_deceptive(c) { ' ' } else { c }).collect()
}

/// Somebody else's text as one argument of a command that people paste into a shell: in single quotes, and behind `--` where it
/// would pass for an option.
pub(crate) fn shell_argument(text: &str) -> String {
    let quoted = format!("'{}'", one_line(text).replace('\'', "'\\''"));
    if text.starts_with('-') { format!("-- {quoted}") } else { quoted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_becomes_a_blank() {
        let check = |text: &str, expected: &str| assert_eq!(one_line(text), expected, "{}", text.escape_unicode());
        check("Größe 日本 שלום", "Größe 日本 שלום");
        check("a\r\nb\tc\u{7f}", "a  b c ");
        check("\u{1b}[2Jx\u{9b}31my", " [2Jx 31my");
        check("a\u{2028}b\u{85}c", "a b c");
        check("\u{202e}moc.live\u{2066}", " moc.live ");
    }

    #[test]
    fn arguments_stay_arguments() {
        let check = |text: &str, expected: &str| assert_eq!(shell_argument(text), expected);
        check("alice@example.com", "'alice@example.com'");
        check("$(reboot)@example.com", "'$(reboot)@example.com'");
        check("`reboot`@example.com", "'`reboot`@example.com'");
        check("o'hara@example.com", "'o'\\''hara@example.com'");
        check("';reboot;'@example.com", "''\\'';reboot;'\\''@example.com'");
        check("--url=x@example.com", "-- '--url=x@example.com'");
        check("a\nb", "'a b'");
        check("", "''");
    }

    /// Read back by a shell, which is what counts.
    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in
            ["$HOME", "a'b", "'", "''", "\\", "a\"b", "`id`", "!x", "a b", "#", "&|;<>(){}[]*?~", "\\'", "-n", "--"]
        {
            let command = format!("printf '%s\n' {}", shell_argument(text).trim_start_matches("-- "));
            let output = std::process::Command::new("sh").arg("-c").arg(&command).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{text}\n"), "{command}");
        }
    }
}
