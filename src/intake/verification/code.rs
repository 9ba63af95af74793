//! Ids and codes: how they are drawn, and how what somebody typed is read.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::intake::refusal::Refusal;

/// Characters of a code.
pub(crate) const LENGTHS: (usize, usize) = (6, 10);
/// Those of one of letters: each tells less than two digits do.
pub(crate) const LETTERS_MIN: usize = 8;
/// Consonants, so that no word comes about; without Y, which some read as a vowel.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const DIGITS: &[u8; 10] = b"0123456789";
/// Crockford's: 5 bits each.
const ID_LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_PREFIX: &str = "vrf_";
/// 80 bits.
const ID_LEN: usize = 16;

/// What a code is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Alphabet {
    /// Ten digits.
    #[default]
    Digits,
    /// Twenty consonants.
    Letters,
}

/// A new code.
///
/// # Errors
/// When the operating system gives no random numbers.
pub(super) fn new_code(alphabet: Alphabet, length: usize) -> Result<Zeroizing<String>, Refusal> {
    Ok(Zeroizing::new(match alphabet {
        Alphabet::Digits => drawn(DIGITS, length)?,
        Alphabet::Letters => drawn(LETTERS, length)?,
    }))
}

/// A new id.
///
/// # Errors
/// When the operating system gives no random numbers.
pub(super) fn new_id() -> Result<Arc<str>, Refusal> {
    Ok(format!("{ID_PREFIX}{}", drawn(ID_LETTERS, ID_LEN)?).into())
}

/// Characters drawn one by one, each as likely as any other.
fn drawn(letters: &[u8], length: usize) -> Result<String, Refusal> {
    let random = SystemRandom::new();
    // What is above the largest multiple would make the first ones likelier.
    let usable = 256 / letters.len() * letters.len();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut octets = Zeroizing::new([0_u8; 16]);
        random.fill(&mut octets[..]).map_err(|_| Refusal::Internal)?;
        let fit = octets.iter().map(|octet| usize::from(*octet)).filter(|octet| *octet < usable);
        text.extend(fit.take(length - text.len()).map(|octet| char::from(letters[octet % letters.len()])));
    }
    Ok(text)
}

/// What somebody typed, without blanks and hyphens and in upper case; none where it cannot be a code at all. Whose it is makes
/// no difference.
pub(super) fn typed(text: &str) -> Option<Zeroizing<String>> {
    let is_skipped = |c: char| c.is_whitespace() || matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    if text.len() > 100 {
        return None;
    }
    let code: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !is_skipped(*c)).map(|c| c.to_ascii_uppercase()).collect());
    let is_of = |letters: &[u8]| code.bytes().all(|octet| letters.contains(&octet));
    let is_digits = (LENGTHS.0..=LENGTHS.1).contains(&code.len()) && is_of(DIGITS);
    let is_letters = (LETTERS_MIN..=LENGTHS.1).contains(&code.len()) && is_of(LETTERS);
    (is_digits || is_letters).then_some(code)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        for (text, expected) in [
            ("481516", Some("481516")),
            (" 481 516\n", Some("481516")),
            ("481-516", Some("481516")),
            ("481\u{2011}516\u{a0}", Some("481516")),
            ("bcdf-ghjk", Some("BCDFGHJK")),
            ("4815162342", Some("4815162342")),
            ("48151", None),
            ("48151623421", None),
            ("48151a", None),
            ("bcdfgh", None),
            ("aeiouaei", None),
            ("", None),
            ("\u{0664}\u{0668}\u{0661}\u{0665}\u{0661}\u{0666}", None),
        ] {
            assert_eq!(typed(text).as_ref().map(|code| code.as_str()), expected, "{text:?}");
        }
        assert!(typed(&"4 ".repeat(60)).is_none());
    }

    #[test]
    fn what_is_drawn_can_be_typed_and_is_evenly_spread() {
        for (alphabet, length) in
            [(Alphabet::Digits, 6), (Alphabet::Digits, 10), (Alphabet::Letters, 8), (Alphabet::Letters, 10)]
        {
            let code = new_code(alphabet, length).unwrap();
            assert_eq!(typed(&code).unwrap(), code);
        }
        let mut counts: HashMap<char, usize> = HashMap::new();
        for _ in 0..2000 {
            new_code(Alphabet::Digits, 10).unwrap().chars().for_each(|c| *counts.entry(c).or_default() += 1);
        }
        // 2,000 expected, with a standard deviation of 42.
        assert!(counts.len() == 10 && counts.values().all(|count| (1700..2300).contains(count)), "{counts:?}");
        let id = new_id().unwrap();
        assert!(id.starts_with("vrf_") && id.len() == 20 && id != new_id().unwrap());
    }
}
