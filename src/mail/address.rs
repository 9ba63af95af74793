//! Mailboxes and paths (RFC 5321 section 4.1.2, RFC 6531 section 3.3).
//!
//! A mailbox is kept as the client wrote it, because the receiver alone knows what its local part means. Comparison
//! forms (`domain_key`, `plain_key`) are derived from it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::base::text::is_deceptive;

/// Longest local part in octets (RFC 5321 section 4.5.3.1.1).
pub(crate) const LOCAL_PART_MAX: usize = 64;
/// Longest domain in octets (RFC 5321 section 4.5.3.1.2).
pub(crate) const DOMAIN_MAX: usize = 255;
/// Longest path in octets, angle brackets included (RFC 5321 section 4.5.3.1.3).
pub const PATH_MAX: usize = 256;

/// Why text is not a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `local@domain`.
    #[error("an address has the form local@domain")]
    NoDomain,
    /// The part before the `@`.
    #[error("the part before the @ is malformed")]
    LocalPart,
    /// The part behind the `@`.
    #[error("the domain is malformed")]
    Domain,
    /// A path lacks `<` or `>`, or has text around them.
    #[error("a path stands in angle brackets")]
    Brackets,
    /// One of the limits of RFC 5321 section 4.5.3.1.
    #[error("the address is too long")]
    TooLong,
}

/// `local@domain`, valid by RFC 5321 or, with other than ASCII characters, by RFC 6531.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    text: Arc<str>,
}

impl Mailbox {
    /// Reads `local@domain`. The domain may be an address literal; see [`Mailbox::address_literal`].
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let at = local_part_end(text)?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        if local.len() > LOCAL_PART_MAX || domain.len() > DOMAIN_MAX || text.len() + 2 > PATH_MAX {
            return Err(AddressError::TooLong);
        }
        if !is_domain_or_literal(domain) {
            return Err(AddressError::Domain);
        }
        Ok(Self { text: text.into() })
    }

    /// The whole address as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where the `@` is that divides it: no domain has one.
    fn at(&self) -> usize {
        memchr::memrchr(b'@', self.text.as_bytes()).unwrap_or_default()
    }

    /// The part before the last `@`, quotes included.
    pub fn local_part(&self) -> &str {
        &self.text[..self.at()]
    }

    /// The domain as written: letters, an internationalized name, or an address literal in brackets.
    pub fn domain(&self) -> &str {
        &self.text[self.at() + 1..]
    }

    /// The domain in the form in which domains are compared and looked up: lower case, A-labels.
    pub fn domain_key(&self) -> String {
        let domain = self.domain();
        // It was looked at when the address was read; only other letters have another form.
        let has_another = !domain.is_ascii() || domain.ends_with('.');
        let key = if has_another { domain_key(domain) } else { None };
        key.unwrap_or_else(|| domain.to_ascii_lowercase())
    }

    /// The address form: the local part without quotes, ASCII letters in lower case, the domain in A-labels. Equal for
    /// what every mail host takes for one address. Letters beyond ASCII stay as they are: some of them have an ASCII
    /// letter for their lower case (KELVIN SIGN has `k`), and nobody may pass for somebody else by them.
    pub fn plain_key(&self) -> String {
        if self.text.is_ascii() && !self.text.starts_with('"') && !self.text.ends_with('.') {
            return self.text.to_ascii_lowercase();
        }
        format!("{}@{}", self.plain_local_part(), self.domain_key())
    }

    /// The local part as the address form has it.
    pub fn plain_local_part(&self) -> String {
        unquoted(self.local_part()).to_ascii_lowercase()
    }

    /// Whether it is written, octet for octet, in its address form; then it leaves in this form too.
    pub fn is_plain(&self) -> bool {
        *self.text == self.plain_key()
    }

    /// Whether some mail hosts read another address in the local part, and would pass mail on to it: `user%host`,
    /// `host!user`, or an `@` in quotes.
    pub(crate) fn is_routed(&self) -> bool {
        unquoted(self.local_part()).contains(['%', '!', '@'])
    }

    /// Whether it can travel without SMTPUTF8 once its domain is written in A-labels.
    pub fn has_ascii_local_part(&self) -> bool {
        self.local_part().is_ascii()
    }

    /// The form to send to a host that does not offer SMTPUTF8; none if the local part is not ASCII.
    pub fn to_ascii(&self) -> Option<String> {
        if self.text.is_ascii() {
            return Some(self.text.to_string());
        }
        self.has_ascii_local_part().then(|| format!("{}@{}", self.local_part(), self.domain_key()))
    }

    /// The address if the domain is an address literal (RFC 5321 section 4.1.3).
    pub fn address_literal(&self) -> Option<IpAddr> {
        parse_address_literal(self.domain())
    }

    /// Enough of it to be recognised by who knows it: `a***e@example.com`.
    pub fn masked(&self) -> String {
        format!("{}@{}", self.masked_local_part(), self.domain())
    }

    /// `a***e`.
    pub(crate) fn masked_local_part(&self) -> String {
        let local = unquoted(self.local_part());
        let mut characters = local.chars();
        let first = characters.next();
        let last = characters.next_back();
        match (first, last) {
            (Some(first), Some(last)) if local.chars().count() > 2 => format!("{first}***{last}"),
            _ => "***".to_owned(),
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.masked())
    }
}

impl serde::Serialize for Mailbox {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Mailbox {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Where failures are told: the reverse-path of MAIL (RFC 5321 section 3.3). Null for notifications.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ReversePath(pub Option<Mailbox>);

impl ReversePath {
    /// `<>`.
    pub const NULL: Self = Self(None);

    /// Reads a path with its angle brackets; `<>` is the null path.
    ///
    /// # Errors
    /// As [`Mailbox::parse`], or that the brackets are missing.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text == "<>" {
            return Ok(Self::NULL);
        }
        parse_path(text).map(|mailbox| Self(Some(mailbox)))
    }

    /// The address without brackets; empty for the null path.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", Mailbox::as_str)
    }

    /// The mailbox, unless it is the null path.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        self.0.as_ref()
    }

    /// The path that mail leaves with where all mail is to leave with `own`; the null path stays.
    pub(crate) fn sent_as(&self, own: Option<&Mailbox>) -> Self {
        Self(self.0.as_ref().map(|client| own.unwrap_or(client).clone()))
    }
}

/// Reads a forward-path with its angle brackets. A source route in front (`@a,@b:`) is read over and dropped, as RFC
/// 5321 appendix C recommends: mail goes where the mailbox says, never by way of a relay that a client names.
///
/// # Errors
/// As [`Mailbox::parse`], or that the brackets are missing.
pub fn parse_path(text: &str) -> Result<Mailbox, AddressError> {
    let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).ok_or(AddressError::Brackets)?;
    if inner.len() + 2 > PATH_MAX * 2 {
        return Err(AddressError::TooLong);
    }
    if inner.starts_with('@') {
        let (route, mailbox) = inner.split_once(':').ok_or(AddressError::Domain)?;
        let hops_are_domains = route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(is_domain_or_literal));
        return if hops_are_domains { Mailbox::parse(mailbox) } else { Err(AddressError::Domain) };
    }
    Mailbox::parse(inner)
}

/// A domain name in the form in which names are compared and looked up: lower case, A-labels, no final dot. None if it
/// is not a domain name (an address literal, or labels that IDNA forbids).
pub fn domain_key(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_ascii() {
        return is_ascii_domain(domain).then(|| domain.to_ascii_lowercase());
    }
    let ascii = idna::domain_to_ascii_cow(domain.as_bytes(), idna::AsciiDenyList::STD3).ok()?;
    is_ascii_domain(&ascii).then(|| ascii.into_owned())
}

/// Whether `pattern` covers the address: `*@example.com` (any local part), `*@*.example.com` (any name below),
/// `*` (all), or one address. The case of ASCII letters does not count.
pub fn pattern_covers(pattern: &str, mailbox: &Mailbox) -> bool {
    if pattern == "*" {
        return true;
    }
    let Some((local, domain)) = pattern.rsplit_once('@') else {
        return domain_pattern_covers(pattern, &mailbox.domain_key());
    };
    let local_fits = local == "*" || unquoted(local).eq_ignore_ascii_case(&unquoted(mailbox.local_part()));
    local_fits && domain_pattern_covers(domain, &mailbox.domain_key())
}

/// Whether `pattern` covers the domain (given as [`domain_key`] writes it): `example.com`, `*.example.com` (every name
/// below, not itself), or `*`.
pub fn domain_pattern_covers(pattern: &str, domain: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.strip_prefix("*.") {
        Some(parent) => {
            let parent = domain_key(parent).unwrap_or_default();
            domain.strip_suffix(&parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        // An address literal has no other form.
        None => domain_key(pattern).unwrap_or_else(|| pattern.to_ascii_lowercase()) == domain,
    }
}

/// Index of the `@` behind a valid local part.
fn local_part_end(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_string_end(text);
    }
    let at = text.find('@').ok_or(AddressError::NoDomain)?;
    if is_dot_string(&text[..at]) { Ok(at) } else { Err(AddressError::LocalPart) }
}

fn quoted_string_end(text: &str) -> Result<usize, AddressError> {
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => {
                return if text[index + 1..].starts_with('@') { Ok(index + 1) } else { Err(AddressError::LocalPart) };
            }
            '\\' => match characters.next() {
                Some((_, ' '..='~')) => {}
                _ => return Err(AddressError::LocalPart),
            },
            ' '..='~' => {}
            other if !other.is_ascii() && !is_deceptive(other) => {}
            _ => return Err(AddressError::LocalPart),
        }
    }
    Err(AddressError::LocalPart)
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(character: char) -> bool {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        _ if character.is_ascii() => "!#$%&'*+-/=?^_`{|}~".contains(character),
        _ => !is_deceptive(character) && !character.is_whitespace(),
    }
}

/// Whether `text` may stand where RFC 5321 says Domain or address-literal.
pub(crate) fn is_domain_or_literal(text: &str) -> bool {
    if text.len() > DOMAIN_MAX {
        return false;
    }
    if text.starts_with('[') {
        return parse_address_literal(text).is_some();
    }
    if text.is_ascii() { is_ascii_domain(text) } else { !text.ends_with('.') && domain_key(text).is_some() }
}

fn is_ascii_domain(text: &str) -> bool {
    if text.is_empty() || text.len() > DOMAIN_MAX {
        return false;
    }
    let labels_are_fine = text.split('.').all(|label| {
        let bytes = label.as_bytes();
        matches!(bytes.len(), 1..=63)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    });
    let last_label = text.rsplit('.').next().unwrap_or_default();
    labels_are_fine && !last_label.bytes().all(|b| b.is_ascii_digit())
}

fn parse_address_literal(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    if inner.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:")) {
        return inner[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// A local part without quotes and back-slashes.
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str), AddressError>) {
        let got = Mailbox::parse(text);
        assert_eq!(got.as_ref().map(|m| (m.local_part(), m.domain())).map_err(|e| *e), expected, "{text}");
    }

    #[test]
    fn mailboxes() {
        check("user@example.com", Ok(("user", "example.com")));
        check("a.b+c@example.com", Ok(("a.b+c", "example.com")));
        check("\"a b\"@example.com", Ok(("\"a b\"", "example.com")));
        check("\"a@b\"@example.com", Ok(("\"a@b\"", "example.com")));
        check("\"a\\\"b\"@example.com", Ok(("\"a\\\"b\"", "example.com")));
        check("user@[192.0.2.1]", Ok(("user", "[192.0.2.1]")));
        check("user@[IPv6:2001:db8::1]", Ok(("user", "[IPv6:2001:db8::1]")));
        check("üser@exämple.com", Ok(("üser", "exämple.com")));
        check("user%other.example@example.com", Ok(("user%other.example", "example.com")));
        check("user@localhost", Ok(("user", "localhost")));
        check("user@_dmarc.example.com", Ok(("user", "_dmarc.example.com")));
        check("user", Err(AddressError::NoDomain));
        check("@example.com", Err(AddressError::LocalPart));
        check(".a@example.com", Err(AddressError::LocalPart));
        check("a..b@example.com", Err(AddressError::LocalPart));
        check("a b@example.com", Err(AddressError::LocalPart));
        check("a@b@example.com", Err(AddressError::Domain));
        check("\"a\"b@example.com", Err(AddressError::LocalPart));
        check("\"a\r\"@example.com", Err(AddressError::LocalPart));
        check("user@", Err(AddressError::Domain));
        check("user@-a.com", Err(AddressError::Domain));
        check("user@a..com", Err(AddressError::Domain));
        check("user@example.com.", Err(AddressError::Domain));
        check("user@exämple.com.", Err(AddressError::Domain));
        check("user@192.0.2.1", Err(AddressError::Domain));
        check("user@[192.0.2.300]", Err(AddressError::Domain));
        check("user@exa mple.com", Err(AddressError::Domain));
        check(&format!("{}@example.com", "a".repeat(65)), Err(AddressError::TooLong));
        check(&format!("a@{}", "a.".repeat(130) + "com"), Err(AddressError::TooLong));
    }

    #[test]
    fn paths_drop_source_routes() {
        assert_eq!(parse_path("<@a.example,@b.example:user@c.example>").unwrap().as_str(), "user@c.example");
        assert_eq!(parse_path("<user@c.example>").unwrap().as_str(), "user@c.example");
        assert_eq!(parse_path("<@a.example user@c.example>"), Err(AddressError::Domain));
        assert_eq!(parse_path("<@a b:user@c.example>"), Err(AddressError::Domain));
        assert_eq!(parse_path("user@c.example"), Err(AddressError::Brackets));
        assert_eq!(ReversePath::parse("<>"), Ok(ReversePath::NULL));
    }

    #[test]
    fn keys_join_what_people_take_for_one_address() {
        let key = |text: &str| Mailbox::parse(text).unwrap().plain_key();
        assert_eq!(key("User@Example.COM"), "user@example.com");
        assert_eq!(key("\"user\"@example.com"), "user@example.com");
        assert_eq!(key("\"u\\ser\"@example.com"), "user@example.com");
        assert_eq!(key("user@BÜCHER.example"), "user@xn--bcher-kva.example");
        assert_eq!(Mailbox::parse("u@bücher.example").unwrap().to_ascii().unwrap(), "u@xn--bcher-kva.example");
        assert_eq!(Mailbox::parse("ü@bücher.example").unwrap().to_ascii(), None);
    }

    #[test]
    fn letters_beyond_ascii_become_no_ascii_letters() {
        // KELVIN SIGN, LATIN CAPITAL I WITH DOT ABOVE, LATIN SMALL LETTER LONG S.
        for (look_alike, victim) in [("\u{212a}ate", "kate"), ("\u{130}ris", "iris"), ("\u{17f}am", "sam")] {
            let look_alike = Mailbox::parse(&format!("{look_alike}@example.com")).unwrap();
            let victim = Mailbox::parse(&format!("{victim}@example.com")).unwrap();
            assert_ne!(look_alike.plain_key(), victim.plain_key());
            assert!(!look_alike.plain_key().is_ascii(), "{look_alike}");
            assert!(!pattern_covers(victim.as_str(), &look_alike) && !pattern_covers(look_alike.as_str(), &victim));
        }
    }

    #[test]
    fn the_address_form_is_known_when_it_is_written() {
        let check =
            |text: &str, expected: bool| assert_eq!(Mailbox::parse(text).unwrap().is_plain(), expected, "{text}");
        check("kate@example.com", true);
        check("kate+x@example.com", true);
        check("kate@xn--bcher-kva.example", true);
        check("größe@example.com", true);
        check("Kate@example.com", false);
        check("kate@Example.com", false);
        check("\"kate\"@example.com", false);
        check("\"a b\"@example.com", false);
        check("kate@bücher.example", false);
    }

    #[test]
    fn routes_in_local_parts_are_seen() {
        let check =
            |text: &str, expected: bool| assert_eq!(Mailbox::parse(text).unwrap().is_routed(), expected, "{text}");
        for text in ["a%b@c.example", "b!a@c.example", "\"a@b\"@c.example", "\"a\\@b\"@c.example", "\"b!a\"@c.example"]
        {
            check(text, true);
        }
        for text in ["a@c.example", "a+b=c.example@c.example", "\"a b\"@c.example", "\"a..b\"@c.example"] {
            check(text, false);
        }
    }

    #[test]
    fn masks_hide_the_middle() {
        let mask = |text: &str| Mailbox::parse(text).unwrap().masked();
        assert_eq!(mask("alice@example.com"), "a***e@example.com");
        assert_eq!(mask("al@example.com"), "***@example.com");
        assert_eq!(mask("a@example.com"), "***@example.com");
        assert_eq!(format!("{:?}", Mailbox::parse("alice@example.com").unwrap()), "<a***e@example.com>");
    }

    #[test]
    fn patterns() {
        let covers = |pattern: &str, text: &str| pattern_covers(pattern, &Mailbox::parse(text).unwrap());
        assert!(covers("*@example.com", "a@EXAMPLE.com"));
        assert!(!covers("*@example.com", "a@sub.example.com"));
        assert!(!covers("*@example.com", "a@notexample.com"));
        assert!(covers("*@*.example.com", "a@sub.example.com"));
        assert!(!covers("*@*.example.com", "a@example.com"));
        assert!(!covers("*@*.example.com", "a@badexample.com"));
        assert!(covers("Otp@example.com", "otp@example.com"));
        assert!(!covers("otp@example.com", "other@example.com"));
        assert!(covers("example.com", "a@example.com"));
        assert!(covers("*", "a@example.com"));
        assert!(covers("a@[IPv6:::1]", "A@[ipv6:::1]"));
        assert!(!covers("a@[192.0.2.1]", "a@[192.0.2.2]"));
    }
}
