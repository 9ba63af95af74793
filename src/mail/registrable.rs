//! Whose name a domain is: the part that somebody registered.
//!
//! Whoever owns a zone makes as many names below it as they like, but registers few names. What is shared out, or
//! believed, by domain is therefore counted by this part. The list of public suffixes is built in.

/// The registrable part of a domain: the public suffix and one label more (`example.co.uk` of `mx1.mail.example.co.uk`).
/// `domain` is in the form of [`super::address::domain_key`]. What has no such part (a public suffix itself, a single
/// label, an address literal) is returned whole.
pub(crate) fn registrable_domain(domain: &str) -> &str {
    let name = domain.strip_suffix('.').unwrap_or(domain);
    let is_literal = name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok();
    if is_literal { domain } else { psl::domain_str(name).unwrap_or(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_somebody_registered() {
        let check = |domain: &str, expected: &str| assert_eq!(registrable_domain(domain), expected, "{domain}");
        check("example.com", "example.com");
        check("mx1.mail.example.com", "example.com");
        check("example.com.", "example.com");
        check("a.b.example.co.uk", "example.co.uk");
        check("a.b.xn--bcher-kva.example", "xn--bcher-kva.example");
        // Below a suffix of the list's private part everybody has a name of their own.
        check("www.alice.github.io", "alice.github.io");
        // A top-level domain that the list does not have, as in private networks and tests.
        check("mx.dest.test", "dest.test");
        check("co.uk", "co.uk");
        check("localhost", "localhost");
        check("", "");
        check("[192.0.2.1]", "[192.0.2.1]");
        check("192.0.2.1", "192.0.2.1");
        check("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]");
    }
}
