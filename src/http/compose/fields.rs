//! Header fields that an app gives: which are kept, which are options of the message, and which the relay writes itself.

use mail_builder::headers::HeaderType;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;

use super::super::problem::Problem;
use crate::intake::options::{self, Options};

/// Fields of one message.
const FIELDS_MAX: usize = 100;
/// Octets of a name and of a value.
const NAME_LEN_MAX: usize = 76;
const VALUE_LEN_MAX: usize = 4000;
/// Octets of a Message-ID.
const MESSAGE_ID_LEN_MAX: usize = 250;

/// What the relay writes itself, or what names the parties.
const IGNORED: [&str; 14] = [
    "From",
    "Sender",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "Date",
    "MIME-Version",
    "Return-Path",
    "Received",
    "DKIM-Signature",
    "Apparently-To",
    "Delivered-To",
];
const IGNORED_BEGINNINGS: [&str; 3] = ["Content-", "ARC-", "Resent-"];
const SINGLE: [&str; 4] = ["Message-ID", "In-Reply-To", "References", "Auto-Submitted"];

/// The fields of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::http) struct Fields {
    kept: Vec<(String, String)>,
    /// What the `X-OTP-` fields among them ask for.
    pub(in crate::http) options: Options,
}

impl Fields {
    /// Sorts what an app gives; `what` names the list.
    ///
    /// # Errors
    /// Where a field cannot be written as it is, or an option cannot be understood.
    pub(in crate::http) fn read<'a>(
        given: impl IntoIterator<Item = (&'a str, &'a str)>,
        what: &str,
    ) -> Result<Self, Problem> {
        let mut fields = Self::default();
        for (number, (name, value)) in given.into_iter().enumerate() {
            let malformed = |why: &str| Problem::invalid(format!("{what}: {why}")).in_our_words().at_field(what);
            if number >= FIELDS_MAX {
                return Err(malformed("at most 100 header fields"));
            }
            check_name(name).and_then(|()| check_value(value)).map_err(malformed)?;
            fields.add(name, value.trim())?;
        }
        Ok(fields)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        if options::is_option(name.as_bytes()) {
            return Ok(self.options.read(name.as_bytes(), value)?);
        }
        let is = |known: &&str| known.eq_ignore_ascii_case(name);
        let begins = |start: &&str| name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
        let is_ignored = IGNORED.iter().any(is) || IGNORED_BEGINNINGS.iter().any(begins);
        if is_ignored || value.is_empty() || is(&"Message-ID") && !is_message_id(value) {
            return Ok(());
        }
        if SINGLE.iter().any(is) {
            self.kept.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        }
        self.kept.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether a field of this name is kept.
    pub(super) fn has(&self, name: &str) -> bool {
        self.kept.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    pub(super) fn written(&self) -> impl Iterator<Item = (String, HeaderType<'static>)> {
        self.kept.iter().map(|(name, value)| {
            let is_plain = value.is_ascii();
            let value = value.clone();
            (name.clone(), if is_plain { Raw::new(value).into() } else { Text::new(value).into() })
        })
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let is_allowed = |b: u8| (b'!'..=b'~').contains(&b) && b != b':';
    if (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err("a header field's name is 1 to 76 printable ASCII characters without colon and blank")
    }
}

fn check_value(value: &str) -> Result<(), &'static str> {
    if value.contains(['\r', '\n']) {
        return Err("a CR or LF in the value of a header field");
    }
    if value.len() > VALUE_LEN_MAX || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a header field's value is at most 4000 bytes, no control characters");
    }
    Ok(())
}

/// `<left@right>`, of printable ASCII.
fn is_message_id(value: &str) -> bool {
    let inside = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| (b'!'..=b'~').contains(&b) && !b"<>@,;:\\\"()".contains(&b))
    };
    value.len() <= MESSAGE_ID_LEN_MAX
        && inside.and_then(|inside| inside.split_once('@')).is_some_and(|(left, right)| is_part(left) && is_part(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(given: &[(&str, &str)]) -> Vec<(String, String)> {
        Fields::read(given.iter().copied(), "headers").unwrap_or_else(|problem| panic!("{problem:?}")).kept
    }

    #[test]
    fn the_relays_own_fields_and_the_parties_are_ignored() {
        let ignored = [
            "From",
            "sender",
            "TO",
            "Cc",
            "bcc",
            "Reply-To",
            "Subject",
            "Date",
            "Mime-Version",
            "Content-Type",
            "content-transfer-encoding",
            "Return-Path",
            "Received",
            "DKIM-Signature",
            "ARC-Seal",
            "Resent-To",
        ];
        for name in ignored {
            assert!(kept(&[(name, "x@y.test")]).is_empty(), "{name}");
        }
        for name in ["X-Entity-Ref-ID", "List-Unsubscribe", "References", "X-Content-Type", "Auto-Submitted"] {
            assert_eq!(kept(&[(name, " 1 ")]), [(name.to_owned(), "1".to_owned())]);
        }
        assert_eq!(kept(&[("Message-ID", "<1@shop.test>")]).len(), 1);
        assert_eq!(kept(&[("Message-ID", "<1@shop.test>"), ("message-id", "<2@shop.test>")]).len(), 1);
        for malformed in ["1@shop.test", "<1>", "<@x>", "<a@b@c>", "<a b@c>", "<a@b>, <c@d>"] {
            assert!(kept(&[("Message-ID", malformed)]).is_empty(), "{malformed}");
        }
    }

    #[test]
    fn options_are_taken_out() {
        let fields = Fields::read([("X-OTP-Tag", "signup"), ("x-otp-key", "a"), ("X-A", "b")], "headers").unwrap();
        assert_eq!(fields.kept.len(), 1);
        assert_eq!((fields.options.tag.as_deref(), fields.options.key.as_deref()), (Some("signup"), Some("a")));
        assert!(Fields::read([("X-OTP-Life", "soon")], "headers").is_err());
        assert!(Fields::read([("X-OTP-Other", "1")], "headers").is_err());
    }

    #[test]
    fn what_would_be_another_field_is_refused() {
        for (name, value) in [
            ("X-A", "b\r\nBcc: c@d.test"),
            ("X-A", "b\nc"),
            ("X-A", "b\rc"),
            ("X-A", "b\0"),
            ("X-A\r\nBcc", "b"),
            ("X A", "b"),
            ("X-A:", "b"),
            ("", "b"),
            ("X-\u{e4}", "b"),
            ("Subject", "x\r\ny"),
        ] {
            assert!(Fields::read([(name, value)], "headers").is_err(), "{name:?}: {value:?}");
        }
        assert!(Fields::read([("X-A", "y".repeat(4001).as_str())], "headers").is_err());
        assert!(Fields::read((0..101).map(|_| ("X-A", "b")), "headers").is_err());
    }
}
