//! Words of strangers, on their way to somebody's screen.

/// Whether a character can make a line look like something else: controls (with them the escape sequences of terminals),
/// line and paragraph separators, and those that turn the direction of writing.
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

/// The text with a blank for each of them.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_deceptive(c) { ' ' } else { c }).collect()
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
}
