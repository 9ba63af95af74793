//! Addresses in somebody's words: replies of mail hosts quote recipients, in more than one spelling.

use std::borrow::Cow;

use crate::mail::address::Mailbox;

/// Octets that are looked at for one local part; the longest has 64, rewritten ones a few times that.
const RUN_LEN_MAX: usize = 320;
/// Longest address literal, brackets included.
const LITERAL_LEN_MAX: usize = 64;
/// A local part of fewer characters is also a word of many languages.
const NAME_LEN_MIN: usize = 3;
/// An `@` as it stands in a URL.
const ENCODED_AT: &str = "%40";

/// A text, and the names of the recipient to look for in it.
pub(super) struct AddressesIn<'a> {
    text: &'a str,
    /// The recipient's local part in lower case, with and without what a plus adds to it.
    names: Vec<Vec<char>>,
}

impl<'a> AddressesIn<'a> {
    pub(super) fn new(text: &'a str, recipient: Option<&Mailbox>) -> Self {
        Self { text, names: recipient.map_or_else(Vec::new, |recipient| names(text, recipient)) }
    }

    /// The text with `told` in the place of each address, given as a mailbox, or none where it is not a valid one, and
    /// its domain; and with `alone` in the place of the recipient's local part by itself.
    pub(super) fn replaced(&self, told: impl Fn(Option<Mailbox>, &str) -> String, alone: &str) -> Cow<'a, str> {
        let text = self.text;
        let mut replaced = String::new();
        let (mut at, mut copied, mut plain_until) = (0, 0, 0);
        while let Some(character) = text[at..].chars().next() {
            let address = if at >= plain_until { self.address_at(at, &mut plain_until) } else { None };
            let (len, instead) = match (address, self.name_at(at)) {
                (Some(address), _) => (address.len, told(address.mailbox(), address.domain)),
                (None, Some(len)) => (len, alone.to_owned()),
                (None, None) => {
                    at += character.len_utf8();
                    continue;
                }
            };
            replaced.push_str(&text[copied..at]);
            replaced.push_str(&instead);
            at += len;
            copied = at;
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        replaced.push_str(&text[copied..]);
        Cow::Owned(replaced)
    }

    /// The address that begins here; if none does, up to where that is certain.
    fn address_at(&self, at: usize, plain_until: &mut usize) -> Option<Address<'a>> {
        let rest = &self.text[at..];
        if let Some(end) = quoted_end(rest) {
            let domain = domain_of(&rest[end + 1..]);
            return Some(Address { local: &rest[..end], domain, len: end + 1 + domain.len() });
        }
        let run = local_run(rest);
        if run.is_empty() || run.starts_with(['\'', '=', '*', '`', '/']) {
            return None;
        }
        if rest[run.len()..].starts_with('@') {
            let domain = domain_of(&rest[run.len() + 1..]);
            return Some(Address { local: run, domain, len: run.len() + 1 + domain.len() });
        }
        *plain_until = at + run.len();
        let end = run.find(ENCODED_AT)?;
        let begin = run[..end].rfind(['/', '?', '&', '=']).map_or(0, |delimiter| delimiter + 1);
        if begin > 0 {
            *plain_until = at + begin;
            return None;
        }
        let domain = domain_of(&rest[end + ENCODED_AT.len()..]);
        (end > 0).then(|| Address { local: &run[..end], domain, len: end + ENCODED_AT.len() + domain.len() })
    }

    /// How long the recipient's local part is that stands here as a word.
    fn name_at(&self, at: usize) -> Option<usize> {
        let is_inside_word = self.text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        if is_inside_word {
            return None;
        }
        self.names.iter().find_map(|name| self.one_name_at(name, at))
    }

    fn one_name_at(&self, name: &[char], at: usize) -> Option<usize> {
        let is_code = at == 0 && name.iter().all(char::is_ascii_digit);
        let mut rest = self.text[at..].chars();
        let mut left = name.iter();
        while !left.as_slice().is_empty() {
            let fits = rest.next()?.to_lowercase().all(|lower| left.next() == Some(&lower));
            if !fits {
                return None;
            }
        }
        let goes_on = rest.clone().next().is_some_and(char::is_alphanumeric);
        (!goes_on && !is_code).then(|| self.text.len() - at - rest.as_str().len())
    }
}

/// `local@domain` in a text.
struct Address<'a> {
    local: &'a str,
    domain: &'a str,
    len: usize,
}

impl Address<'_> {
    fn mailbox(&self) -> Option<Mailbox> {
        Mailbox::parse(&format!("{}@{}", self.local, self.domain)).ok()
    }
}

/// What to look for by itself. A short name is a word like any other, unless the domain stands near.
fn names(text: &str, recipient: &Mailbox) -> Vec<Vec<char>> {
    let lower = text.to_lowercase();
    let is_domain_near = [recipient.domain().to_lowercase(), recipient.domain_key()]
        .iter()
        .any(|domain| lower.contains(domain.as_str()));
    let whole = recipient.plain_local_part().to_lowercase();
    let base = whole.split('+').next().unwrap_or_default().to_owned();
    let mut names: Vec<Vec<char>> = [whole, base].iter().map(|name| name.chars().collect()).collect();
    names.dedup();
    names.retain(|name| name.len() >= NAME_LEN_MIN || is_domain_near && !name.is_empty());
    names
}

/// Index of the `@` behind a quoted local part that begins here.
fn quoted_end(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('"')?;
    let mut is_escaped = false;
    for (index, character) in inner.char_indices().take_while(|(index, _)| *index < RUN_LEN_MAX) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return inner[index + 1..].starts_with('@').then_some(index + 2),
            _ => {}
        }
    }
    None
}

/// The characters at the start of `text` that may belong to a local part.
fn local_run(text: &str) -> &str {
    let is_local = |character: char| match character {
        '.' => true,
        _ if character.is_ascii() => character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character),
        _ => !character.is_whitespace() && !"«»‹›„“”‚‘’".contains(character),
    };
    let outside = |(index, character): &(usize, char)| *index >= RUN_LEN_MAX || !is_local(*character);
    let end = text.char_indices().find(outside).map_or(text.len(), |(index, _)| index);
    &text[..end]
}

/// The domain or address literal at the start of `text`.
fn domain_of(text: &str) -> &str {
    if text.starts_with('[') {
        let literal = &text[..text.floor_char_boundary(LITERAL_LEN_MAX)];
        return literal.find(']').map_or("", |end| &text[..=end]);
    }
    let is_of_domain = |c: char| matches!(c, '-' | '.' | '_') || c.is_alphanumeric();
    let end = text.find(|c: char| !is_of_domain(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', '-', '_'])
}
