//! Which addresses are the public internet's.

use std::net::{IpAddr, Ipv6Addr};

/// Whether an address belongs to the public internet: not this machine, not its neighbours, not the special blocks of
/// RFC 6890.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let is_special = ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b));
            !is_special
        }
        IpAddr::V6(ip) => match embedded_ipv4(ip) {
            Some(ipv4) => is_public(ipv4),
            None => {
                let first = ip.segments()[0];
                let is_special = ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || (first & 0xfe00) == 0xfc00
                    || (first & 0xffc0) == 0xfe80
                    || (first & 0xffc0) == 0xfec0;
                !is_special
            }
        },
    }
}

/// The IPv4 address inside a mapped, compatible, 6to4 or NAT64 address, which decides where packets go.
fn embedded_ipv4(ip: Ipv6Addr) -> Option<IpAddr> {
    let s = ip.segments();
    let at = match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => 6,
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => 6,
        [0x2002, ..] => 1,
        _ => return None,
    };
    let bits = (u32::from(s[at]) << 16) | u32::from(s[at + 1]);
    Some(IpAddr::V4(bits.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public() {
        let check = |text: &str, expected: bool| assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
        check("192.0.2.1", true);
        check("8.8.8.8", true);
        check("2001:4860::8", true);
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            check(text, false);
        }
    }
}
