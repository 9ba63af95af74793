//! Addresses as apps write them: with a name for people in front, in quotes or not, one or several.

use mail_builder::headers::address::Address;

use super::super::problem::Problem;
use crate::mail::address::Mailbox;

/// Longest name of a person or an app, in characters.
pub(in crate::http) const NAME_LEN_MAX: usize = 100;
/// Characters that programs take for an `@`.
const LIKE_AT: [char; 3] = ['@', '\u{ff20}', '\u{fe6b}'];

/// An address, with a name for people if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Person {
    pub(in crate::http) name: Option<String>,
    pub(in crate::http) mailbox: Mailbox,
}

impl Person {
    /// Reads `alice@example.com`, `Alice <alice@example.com>` or `"Alice" <alice@example.com>`. A name without quotes may
    /// hold commas.
    pub(in crate::http) fn parse(text: &str, what: &str) -> Result<Self, Problem> {
        let malformed = |why: &str| malformed(what, why);
        let text = text.trim();
        let Some(rest) = text.strip_suffix('>') else {
            return Self::named(text, None, what);
        };
        let (name, address) = rest.rsplit_once('<').ok_or_else(|| malformed("a > without <"))?;
        let name = name.trim();
        let inside = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        Self::named(address, Some(&inside.map_or_else(|| name.to_owned(), without_escapes)), what)
    }

    /// An address and its name, apart.
    pub(in crate::http) fn named(address: &str, name: Option<&str>, what: &str) -> Result<Self, Problem> {
        let mailbox = Mailbox::parse(address.trim()).map_err(|error| malformed(what, &error.to_string()))?;
        let name = name.unwrap_or_default().trim();
        if name.chars().count() > NAME_LEN_MAX || name.chars().any(char::is_control) {
            return Err(malformed(what, "a name is at most 100 characters, none of them control characters"));
        }
        Ok(Self { name: (!name.is_empty()).then(|| name.to_owned()), mailbox })
    }

    /// Reads the author, who may not look like two.
    pub(in crate::http) fn author(text: &str, what: &str) -> Result<Self, Problem> {
        let author = Self::parse(text, what)?;
        let name = text.trim().rsplit_once('<').map_or("", |(name, _)| name.trim());
        let is_quoted = name.len() > 1 && name.starts_with('"') && name.ends_with('"');
        if !is_quoted && name.contains(LIKE_AT) {
            return Err(malformed(what, "an unquoted @ in the name; put the name in quotes"));
        }
        Ok(author)
    }

    /// Reads addresses with commas between them.
    pub(in crate::http) fn list(text: &str, what: &str) -> Result<Vec<Self>, Problem> {
        apart(text).iter().map(|one| Self::parse(one, what)).collect()
    }

    /// For a header field: the domain in A-labels, without which nothing but a local part needs SMTPUTF8.
    pub(super) fn address(&self, name: Option<&str>) -> Address<'static> {
        let text = self.mailbox.to_ascii().unwrap_or_else(|| self.mailbox.as_str().to_owned());
        Address::new_address(name.map(str::to_owned), text)
    }
}

fn malformed(what: &str, why: &str) -> Problem {
    Problem::invalid(format!("{what}: {why}")).in_our_words().at_field(what)
}

/// Without the backslashes of quoted pairs (RFC 5322 section 3.2.4).
fn without_escapes(quoted: &str) -> String {
    let mut plain = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

/// The addresses of a list. What has no `@` before its comma is the beginning of a name.
fn apart(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = String::new();
    for piece in at_commas(text) {
        if open.is_empty() && piece.trim().is_empty() {
            continue;
        }
        open.push_str(piece);
        if piece.contains('@') {
            found.push(std::mem::take(&mut open));
        } else {
            open.push(',');
        }
    }
    let rest = open.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
    found.extend((!rest.is_empty()).then(|| rest.to_owned()));
    found
}

/// The pieces between commas outside of quotes. A quote counts at the beginning of a piece: a name without quotes may hold one.
fn at_commas(text: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' if is_quoted => is_quoted = false,
            '"' => is_quoted = text[start..at].trim().is_empty(),
            ',' if !is_quoted => {
                pieces.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_read() {
        let check = |text: &str, name: Option<&str>| {
            let person = Person::parse(text, "from").unwrap();
            assert_eq!((person.name.as_deref(), person.mailbox.as_str()), (name, "otp@example.com"), "{text}");
        };
        check("otp@example.com", None);
        check(" <otp@example.com>", None);
        check("\"\" <otp@example.com>", None);
        check("Shop, Inc. <otp@example.com>", Some("Shop, Inc."));
        check("\"Shop, Inc.\" <otp@example.com>", Some("Shop, Inc."));
        check("\"The \\\"Shop\\\" \\\\ Inc\" <otp@example.com>", Some("The \"Shop\" \\ Inc"));
        check("Caf\u{e9} \"Shop\" <otp@example.com>", Some("Caf\u{e9} \"Shop\""));
        check("\u{5e97} <otp@example.com>", Some("\u{5e97}"));
        for text in ["", "otp", "a b@example.com", "x\ny <otp@example.com>", "otp@example.com>", "<a@b.example> c"] {
            assert!(Person::parse(text, "from").is_err(), "{text}");
        }
        assert!(Person::parse(&format!("{} <otp@example.com>", "x".repeat(101)), "from").is_err());
    }

    #[test]
    fn an_author_is_one() {
        for text in ["Shop <otp@app.test>", "\"ceo@bank.test\" <otp@app.test>", "otp@app.test", " <otp@app.test>"] {
            assert_eq!(Person::author(text, "from").unwrap().mailbox.as_str(), "otp@app.test", "{text}");
        }
        for text in
            ["ceo@bank.test <otp@app.test>", "\" ceo@bank.test <otp@app.test>", "ceo\u{ff20}bank.test <otp@app.test>"]
        {
            assert!(Person::author(text, "from").is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_taken_apart() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let people = Person::list(text, "to").unwrap_or_else(|problem| panic!("{text}: {problem:?}"));
            let read: Vec<_> =
                people.iter().map(|p| (p.name.as_deref().unwrap_or_default(), p.mailbox.as_str())).collect();
            assert_eq!(read, expected, "{text}");
        };
        check("", &[]);
        check(" , ", &[]);
        check("a@x.test", &[("", "a@x.test")]);
        check("a@x.test,b@x.test, ", &[("", "a@x.test"), ("", "b@x.test")]);
        check("Shop, Inc. <a@x.test>, b@x.test", &[("Shop, Inc.", "a@x.test"), ("", "b@x.test")]);
        check("\"A, B\" <a@x.test>, C <c@x.test>", &[("A, B", "a@x.test"), ("C", "c@x.test")]);
        check("\"A\\\", <b@x.test>\" <a@x.test>", &[("A\", <b@x.test>", "a@x.test")]);
        check("6\" pipes <a@x.test>, b@x.test", &[("6\" pipes", "a@x.test"), ("", "b@x.test")]);
        check("\u{5e97}, \u{5ba2} <a@x.test>", &[("\u{5e97}, \u{5ba2}", "a@x.test")]);
        for text in ["a@x.test, bob", "bob", "a@x.test; b@x.test", "\"a@x.test, b@x.test"] {
            assert!(Person::list(text, "to").is_err(), "{text}");
        }
    }

    proptest::proptest! {
        /// However names are written, the addresses behind them are those that were meant.
        #[test]
        fn names_do_not_change_who_is_meant(names in proptest::collection::vec("[ a-z,\"\\\\]{0,8}", 1..5)) {
            let quoted = |name: &str| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
            let texts = names.iter().enumerate().map(|(number, name)| format!("{} <u{number}@x.test>", quoted(name)));
            let list = texts.collect::<Vec<_>>().join(", ");
            let people = Person::list(&list, "to").unwrap();
            let read: Vec<_> = people.iter().map(|person| person.mailbox.as_str().to_owned()).collect();
            proptest::prop_assert_eq!(read, (0..names.len()).map(|n| format!("u{n}@x.test")).collect::<Vec<_>>());
        }
    }
}
