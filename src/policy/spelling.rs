//! Spellings of one thing made one: what is shortened or often mistyped, and names of machines that look like mailboxes.

use std::sync::LazyLock;

use regex::Regex;

/// Words as hosts are seen to mistype them, and how they are spelled.
const TYPOS: [(&str, &str); 32] = [
    ("doesen't", "does not"),
    ("dosn't", "does not"),
    ("dosnt", "does not"),
    ("unknow", "unknown"),
    ("unkown", "unknown"),
    ("unknonw", "unknown"),
    ("adress", "address"),
    ("recepient", "recipient"),
    ("reciepient", "recipient"),
    ("recipiant", "recipient"),
    ("recipent", "recipient"),
    ("exsist", "exist"),
    ("exits", "exists"),
    ("existant", "existent"),
    ("temporarilly", "temporarily"),
    ("temporarly", "temporarily"),
    ("recieved", "received"),
    ("recieving", "receiving"),
    ("recieve", "receive"),
    ("administrativley", "administratively"),
    ("unavaliable", "unavailable"),
    ("unavailible", "unavailable"),
    ("acount", "account"),
    ("maiibox", "mailbox"),
    ("maibox", "mailbox"),
    ("refussed", "refused"),
    ("denined", "denied"),
    ("blacklised", "blacklisted"),
    ("exceded", "exceeded"),
    ("quata", "quota"),
    ("authentification", "authentication"),
    ("autentication", "authentication"),
];

struct Patterns {
    contraction: Regex,
    typo: Regex,
    machine: Regex,
    name: Regex,
}

// A test spells texts, so that no pattern that is not sound can be shipped.
static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |pattern: &str| Regex::new(pattern).expect("the patterns of spellings are sound");
    let typos = TYPOS.map(|(typed, _)| typed).join("|");
    Patterns {
        contraction: regex(
            r"(?-u:\b)(?:(do|does|did|is|are|was|were|has|have|had|could|would|should|must|need)n'?t|can(?:'?t| not)|(wo)n'?t)(?-u:\b)",
        ),
        typo: regex(&format!(r"(?-u:\b)(?:{typos})(?-u:\b)")),
        machine: regex(
            r"(?-u:\b)(?:mailbox|user|recipient|account|address|alias|customer) (server|service|database|backend|back-end)s?(?-u:\b)",
        ),
        name: regex(r"(?-u:\b)[A-Z][a-z]+(?:[A-Z][a-z]+)+(?-u:\b)"),
    }
});

/// Words at most in a reply whose names are taken apart: a longer one says in words what it means.
const NAMES_WITHIN: usize = 3;
/// Octets of a reply that are looked at for names.
const NAMES_LEN_MAX: usize = 1000;

/// A text with the words behind it that stand in its names, where it is hardly more than a name: `RecipientNotFound`.
pub(super) fn with_names_apart(text: &str) -> String {
    let mut out = text.to_owned();
    if text.len() > NAMES_LEN_MAX || text.split_whitespace().count() > NAMES_WITHIN {
        return out;
    }
    for name in PATTERNS.name.find_iter(text) {
        for c in name.as_str().chars() {
            if c.is_ascii_uppercase() {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

/// A folded text in one spelling.
pub(super) fn spelled(folded: &str) -> String {
    let whole =
        PATTERNS.contraction.replace_all(folded, |found: &regex::Captures<'_>| match (found.get(1), found.get(2)) {
            (Some(verb), _) => format!("{} not", verb.as_str()),
            (None, Some(_)) => "will not".to_owned(),
            (None, None) => "cannot".to_owned(),
        });
    let typed = PATTERNS.typo.replace_all(&whole, |found: &regex::Captures<'_>| {
        TYPOS.iter().find(|(typed, _)| *typed == &found[0]).map_or("", |(_, meant)| meant)
    });
    let machines = PATTERNS.machine.replace_all(&typed, "directory $1");
    machines.replace("user agent", "agent").replace("relay recipient table", "recipient table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_spelled_one_way() {
        for (text, expected) in [
            ("user doesn't exist", "user does not exist"),
            ("it wasnt accepted", "it was not accepted"),
            ("can't be found, can not be found", "cannot be found, cannot be found"),
            ("we won't take it", "we will not take it"),
            ("adress unkown", "address unknown"),
            ("no mailbox server is available", "no directory server is available"),
            ("user database unreachable", "directory database unreachable"),
            ("unknown user agent", "unknown agent"),
            ("no such user here", "no such user here"),
            ("want, tent, redone", "want, tent, redone"),
            ("", ""),
        ] {
            assert_eq!(spelled(text), expected, "{text}");
        }
    }

    #[test]
    fn every_typo_is_mended() {
        for (typed, meant) in TYPOS {
            assert_eq!(spelled(typed), meant);
        }
    }

    #[test]
    fn names_are_taken_apart_where_there_is_little_else() {
        for (text, expected) in [
            ("RecipientNotFound", "RecipientNotFound Recipient Not Found"),
            ("RESOLVER.ADR.RecipNotFound; not found", "RESOLVER.ADR.RecipNotFound; not found Recip Not Found"),
            ("Refused by MailMarshal for this reason", "Refused by MailMarshal for this reason"),
            ("OK", "OK"),
            ("", ""),
        ] {
            assert_eq!(with_names_apart(text), expected, "{text}");
        }
        let long = "AbCd".repeat(100_000);
        assert_eq!(with_names_apart(&long).len(), long.len());
    }
}
