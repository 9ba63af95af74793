//! The relay's name and the names of its addresses: what a mail host looks up before it hears a word.

use std::net::IpAddr;

use futures_util::future::join_all;

use super::finding::{Check, Finding};
use super::look::Look;
use super::world::Kind;
use crate::config::findings::Severity;
use crate::net::own_addresses::reverse_name;

const HOSTS: &str = "/etc/hosts";
/// Labels, or beginnings of them, that providers give to addresses of their customers.
const GENERIC: [&str; 13] = [
    "dyn", "dynamic", "dhcp", "pool", "static", "dsl", "adsl", "ppp", "dialup", "cable", "customer", "broadband",
    "cust",
];

/// The EHLO name, and the way back from each source address.
pub(super) async fn look(look: &Look<'_>) {
    let Some(name) = look.hostname.clone() else {
        let text = "the name in EHLO is no full name, and mail hosts refuse such";
        let mend = "set hostname to a name like relay.example.com, which leads to the relay's addresses";
        return look.add(Finding::new(Severity::Error, Check::EhloName, &look.config.hostname, text).mend(mend));
    };
    let sources = look.sources();
    let back = async {
        join_all(sources.iter().map(|source| way_back(look, *source, &name))).await;
    };
    tokio::join!(forward(look, &name, &sources), back);
}

async fn forward(look: &Look<'_>, name: &str, sources: &[IpAddr]) {
    let Some(found) = look.addresses(name).await else { return };
    let missing: Vec<IpAddr> = sources.iter().copied().filter(|source| !found.contains(source)).collect();
    if found.is_empty() && sources.is_empty() {
        let text = "the name in EHLO has no address in DNS";
        look.add(Finding::new(Severity::Error, Check::EhloName, name, text).mend("publish the relay's public address"));
    } else if !missing.is_empty() {
        let shown: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let text = format!("the name in EHLO does not lead to {}, from which mail goes", shown.join(" and "));
        let finding = Finding::new(Severity::Error, Check::EhloName, name, text).mend("publish");
        look.add(missing.iter().fold(finding, |finding, address| finding.record(address_record(name, *address))));
    }
    let by_hosts = std::fs::read_to_string(HOSTS).map(|text| loopback_in(&text, name)).unwrap_or_default();
    if let Some(address) = by_hosts.filter(|address| !found.contains(address)) {
        let text = format!(
            "{HOSTS} gives the name in EHLO the address {address}: apps on this machine see another than the world"
        );
        let mend = format!("take {name} out of the line that begins with {address}");
        look.add(Finding::new(Severity::Warning, Check::EhloName, name, text).mend(mend));
    }
}

/// A line of a zone file with the address of a name.
pub(super) fn address_record(name: &str, address: IpAddr) -> String {
    let kind = if address.is_ipv4() { "A" } else { "AAAA" };
    format!("{name}. 3600 IN {kind} {address}")
}

/// The loopback address that a hosts file gives a name.
fn loopback_in(hosts: &str, name: &str) -> Option<IpAddr> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.into_iter().find_map(|line| {
        let mut words = line.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let is_named = words.any(|word| word.eq_ignore_ascii_case(name));
        (is_named && address.is_loopback()).then_some(address)
    })
}

async fn way_back(look: &Look<'_>, source: IpAddr, name: &str) {
    let reverse = reverse_name(source);
    let Some(names) = look.ask(&reverse, Kind::Ptr).await else { return };
    let subject = source.to_string();
    let record = format!("{reverse}. 3600 IN PTR {name}.");
    let mend = "ask whoever gave out the address, mostly in the hosting provider's panel, to publish";
    if names.is_empty() {
        let text = "the address has no name (PTR record), and big providers refuse mail from it";
        return look.add(Finding::new(Severity::Error, Check::Ptr, subject, text).mend(mend).record(record));
    }
    let mut leads_back = false;
    let mut is_known = true;
    for found in &names {
        match look.addresses(found).await {
            Some(addresses) => leads_back |= addresses.contains(&source),
            None => is_known = false,
        }
    }
    let shown = names.join(", ");
    if !leads_back && is_known {
        let text = format!("its name {shown} does not lead back to it, and big providers refuse mail from it");
        let mend = format!("publish the address under that name, or {mend}");
        return look.add(Finding::new(Severity::Error, Check::Ptr, subject, text).mend(mend).record(record));
    }
    if !names.iter().any(|found| found == name) && names.iter().all(|found| is_generic(found, source)) {
        let text = format!("its name {shown} looks like one of many customers' addresses, which some providers refuse");
        return look.add(Finding::new(Severity::Warning, Check::Ptr, subject, text).mend(mend).record(record));
    }
    if is_known && !names.iter().any(|found| found == name) {
        let text = format!("its name is {shown}, and EHLO says {name}: this is allowed, one name is better");
        look.add(Finding::new(Severity::Note, Check::Ptr, subject, text).mend(mend).record(record));
    }
}

/// Whether a name has the digits of its address, or words that providers use for customers.
fn is_generic(name: &str, address: IpAddr) -> bool {
    let numbers: Vec<u32> = name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let has_digits = match address {
        IpAddr::V4(ip) => {
            let octets: Vec<u32> = ip.octets().into_iter().map(u32::from).collect();
            let reversed: Vec<u32> = octets.iter().rev().copied().collect();
            let joined = octets.iter().map(|octet| format!("{octet:03}")).collect::<String>();
            let contains = |wanted: &[u32]| numbers.windows(3).any(|part| part == &wanted[..3] || part == &wanted[1..]);
            contains(&octets) || contains(&reversed) || name.contains(&joined)
        }
        IpAddr::V6(ip) => {
            let hex = ip.octets().map(|octet| format!("{octet:02x}")).concat();
            name.replace(['-', '.'], "").contains(&hex[16..])
        }
    };
    let mut words = name.split(['.', '-']).map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()));
    has_digits || words.any(|word| GENERIC.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_customers_are_known() {
        let check = |name: &str, address: &str, expected: bool| {
            assert_eq!(is_generic(name, address.parse().unwrap()), expected, "{name}");
        };
        check("relay.example.com", "198.51.100.7", false);
        check("mx7.example.com", "198.51.100.7", false);
        check("static.7.100.51.198.clients.example.net", "198.51.100.7", true);
        check("198-51-100-7.example.net", "198.51.100.7", true);
        check("ip-100-51-198.example.net", "198.51.100.7", true);
        check("host198051100007.example.net", "198.51.100.7", true);
        check("dhcp12.example.net", "198.51.100.7", true);
        check("p4.dynamic.example.net", "198.51.100.7", true);
        check("relay.example.com", "2001:db8::7", false);
        check("0000000000000007.example.net", "2001:db8::7", true);
    }

    #[test]
    fn a_hosts_file_hides_the_world() {
        let hosts =
            "127.0.0.1 localhost\n# 127.0.0.1 relay.test\n127.0.1.1\trelay.example.com relay\n192.0.2.1 other.test\n";
        assert_eq!(loopback_in(hosts, "relay.example.com"), Some("127.0.1.1".parse().unwrap()));
        for name in ["relay.test", "other.test", "example.com"] {
            assert_eq!(loopback_in(hosts, name), None, "{name}");
        }
    }
}
