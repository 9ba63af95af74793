//! Which addresses are the public internet's, by the special-purpose address registries of IANA (RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address belongs to the public internet, so that a mail host may have it: not this machine, not its
/// neighbours, none of the blocks that are not reachable from everywhere or set aside for documentation.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_public_ipv4(ip),
        IpAddr::V6(ip) => is_public_ipv6(ip),
    }
}

fn is_public_ipv4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // Relays to 6to4, which are gone (RFC 7526).
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !is_special
}

/// Only 2000::/3 is given out at all. Within it the protocol assignments are no hosts (2001::/23, Teredo and ORCHID among
/// them), nor is documentation. Where an address holds an IPv4 one that decides where packets go, that one counts. So all
/// other forms are refused: compatible, translated (SIIT, ::ffff:0:0:0/96), local NAT64 (64:ff9b:1::/48), discard (100::/64),
/// segment routing (5f00::/16), unique and link local, multicast.
fn is_public_ipv6(ip: Ipv6Addr) -> bool {
    if let Some(ipv4) = embedded_ipv4(ip) {
        return is_public_ipv4(ipv4);
    }
    match ip.segments() {
        [0x2001, second, ..] => second >= 0x0200 && second != 0x0db8,
        [0x3fff, second, ..] => second >= 0x1000,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
fn embedded_ipv4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let at = match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => 6,
        [0x2002, ..] => 1,
        _ => return None,
    };
    Some(Ipv4Addr::from((u32::from(s[at]) << 16) | u32::from(s[at + 1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addresses: &str, expected: bool) {
        for text in addresses.split_whitespace() {
            assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn addresses_of_the_internet() {
        check(
            "8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.1 172.32.0.1 192.0.1.1 198.17.0.1 198.20.0.1 223.255.255.1",
            true,
        );
        check("2001:200::1 2001:4860::8 2003::1 2a01:4f8::1 2606:4700::1111 2620:4f:8000::1 3fff:1000::1", true);
        check("::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1", true);
    }

    #[test]
    fn addresses_that_are_not_public() {
        check("0.0.0.0 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 169.254.169.254 172.16.0.1 192.168.1.1", false);
        check("192.0.0.8 192.0.0.170 192.88.99.1 198.18.0.1 198.19.255.255 224.0.0.1 240.0.0.1 255.255.255.255", false);
        check("192.0.2.1 198.51.100.1 203.0.113.1", false);
        check(":: ::1 fe80::1 fec0::1 fc00::1 fdff::1 ff02::1 100::1 100:0:0:1::1 4000::1 5f00::1", false);
        check("2001:db8::1 3fff::1 3fff:fff:ffff::1", false);
    }

    #[test]
    fn addresses_that_lead_inward_by_another_form() {
        check(
            "::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1 64:ff9b::192.0.2.1 2002:7f00:1:: 2002:a9fe:a9fe::",
            false,
        );
        // Teredo: the server's address, and the client's, upside down, at its end.
        check("2001::1 2001:0:808:808::1 2001:0:808:808:0:0:80ff:fffe", false);
        check("2001:2::1 2001:10::1 2001:20::1 2001:30::1 2001:1::1 2001:1ff::1", false);
        check("::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8", false);
        check("64:ff9b:1::1 64:ff9b:1:ffff::8.8.8.8 64:ff9b:0:1::8.8.8.8", false);
    }
}
