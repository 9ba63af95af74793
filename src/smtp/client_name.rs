//! What a client calls itself in EHLO or HELO (RFC 5321 section 4.1.1.1). Clients send what their machine is called, which is
//! often no domain, and mail must not be refused for it (section 4.1.4): any name is taken, and cleaned where it is shown.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::mail::address::{DOMAIN_MAX, domain_key, is_domain_or_literal};

/// Longest name, in octets (RFC 5321 section 4.5.3.1.2).
pub const NAME_LEN_MAX: usize = DOMAIN_MAX;
/// What is shown of a name that is no domain beside letters and digits. Nothing that ends a comment, quotes, or parts words.
const SHOWN: &str = "-._:%'[]";

/// Name and address as the `from` of a Received field has them (section 4.4). A name that is neither a domain nor an address
/// literal stands in a comment, with `?` for what could pass for something else there.
pub fn received_from(name: &str, address: IpAddr) -> String {
    let literal = literal(address);
    match domain_shown(name) {
        Some(domain) => format!("{domain} ({literal})"),
        None => format!("{literal} (helo={})", cleaned(name)),
    }
}

fn domain_shown(name: &str) -> Option<String> {
    if name.len() > NAME_LEN_MAX || !is_domain_or_literal(name) {
        return None;
    }
    if name.is_ascii() { Some(name.to_owned()) } else { domain_key(name) }
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

fn cleaned(name: &str) -> String {
    let mut shown = String::with_capacity(name.len().min(NAME_LEN_MAX));
    for character in name.chars().take(NAME_LEN_MAX) {
        let is_shown = character.is_ascii_alphanumeric() || SHOWN.contains(character);
        // Writing to a text does not fail.
        let _ = shown.write_char(if is_shown { character } else { '?' });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn names_are_shown_without_harm() {
        let long = "x".repeat(1000);
        let cut = format!("[192.0.2.1] (helo={})", &long[..255]);
        for (name, expected) in [
            ("client.example", "client.example ([192.0.2.1])"),
            ("localhost", "localhost ([192.0.2.1])"),
            ("my_laptop", "my_laptop ([192.0.2.1])"),
            ("bücher.example", "xn--bcher-kva.example ([192.0.2.1])"),
            ("[127.0.0.1]", "[127.0.0.1] ([192.0.2.1])"),
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1] ([192.0.2.1])"),
            ("[IPv6:fe80::1%en0]", "[192.0.2.1] (helo=[IPv6:fe80::1%en0])"),
            ("fe80:0:0:0:1c2a:3bff:fe4d:5e6f%en0", "[192.0.2.1] (helo=fe80:0:0:0:1c2a:3bff:fe4d:5e6f%en0)"),
            ("Bob's-MacBook.local", "[192.0.2.1] (helo=Bob's-MacBook.local)"),
            ("Bob’s MacBook", "[192.0.2.1] (helo=Bob?s?MacBook)"),
            ("192.0.2.9", "[192.0.2.1] (helo=192.0.2.9)"),
            ("client.example.", "[192.0.2.1] (helo=client.example.)"),
            ("-", "[192.0.2.1] (helo=-)"),
            ("a) by evil.example; \"x\"", "[192.0.2.1] (helo=a??by?evil.example???x?)"),
            ("(\\<@,=>", "[192.0.2.1] (helo=???????)"),
            ("a\r\nX-Injected: b\t\u{85}\u{2028}", "[192.0.2.1] (helo=a??X-Injected:?b???)"),
            ("B\u{fffd}RO", "[192.0.2.1] (helo=B?RO)"),
            ("", "[192.0.2.1] (helo=)"),
            (long.as_str(), cut.as_str()),
        ] {
            assert_eq!(received_from(name, ADDRESS), expected, "{name:?}");
        }
        assert_eq!(received_from("a.example", "2001:db8::1".parse().unwrap()), "a.example ([IPv6:2001:db8::1])");
    }

    proptest::proptest! {
        /// Whatever the name, it is one word in a comment, or a domain.
        #[test]
        fn a_name_stays_one_word(name in "\\PC{0,300}") {
            let shown = received_from(&name, ADDRESS);
            proptest::prop_assert!(shown.bytes().all(|octet| (b' '..=b'~').contains(&octet)));
            proptest::prop_assert_eq!(shown.matches([' ', '(', ')']).count(), 3, "{}", shown);
            proptest::prop_assert!(!shown.contains(['\\', '"', ';', '<', '>', '@', ',']));
            proptest::prop_assert!(shown.len() <= NAME_LEN_MAX + 40);
        }
    }
}
