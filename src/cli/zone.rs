//! What has to be in DNS for the relay's mail to be believed, as a fragment of a zone file (RFC 1035 section 5) to paste: keys,
//! SPF (RFC 7208), DMARC, the relay's own name. The way back (PTR) is in a zone of whoever gave out the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use crate::config::Config;
use crate::destination::public::is_public;
use crate::dkim::record::zone_line;
use crate::mail::address::domain_key;
use crate::net::own_addresses::{by_default_route, reverse_name};

/// Stands where only the operator knows the address.
const UNKNOWN_ADDRESS: &str = "PUBLIC-ADDRESS";
/// Stands where the configuration has no full name.
const UNKNOWN_NAME: &str = "RELAY-NAME";

/// What receivers see of the relay itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// The full name in EHLO, if it has one.
    hostname: Option<String>,
    /// Public addresses from which mail goes.
    addresses: Vec<IpAddr>,
}

impl Sight {
    /// As far as configuration and machine tell.
    pub(super) fn new(hostname: &str, sources: &[IpAddr]) -> Self {
        let public = |addresses: Vec<IpAddr>| addresses.into_iter().filter(|address| is_public(*address)).collect();
        let configured: Vec<IpAddr> = public(sources.to_vec());
        let addresses = if configured.is_empty() { public(by_default_route()) } else { configured };
        let hostname = domain_key(hostname).filter(|name| name.contains('.') && !name.starts_with('['));
        Self { hostname, addresses }
    }

    /// Of a file that may still have errors, as before its keys are made.
    pub(super) fn of_file(path: Option<&Path>) -> Self {
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let hostname = table.get("hostname").and_then(toml::Value::as_str).unwrap_or_default();
        let sources = table.get("delivery").and_then(|section| section.get("source_addresses"));
        let sources = sources.and_then(toml::Value::as_array).into_iter().flatten();
        let sources: Vec<IpAddr> = sources.filter_map(|source| source.as_str()?.parse().ok()).collect();
        Self::new(hostname, &sources)
    }

    /// The full name, where the addresses are still to be found.
    pub(super) fn to_resolve(&self) -> Option<&str> {
        self.hostname.as_deref().filter(|_| self.addresses.is_empty())
    }

    /// With what DNS has for the name.
    pub(super) fn with(self, addresses: Vec<IpAddr>) -> Self {
        Self { addresses: addresses.into_iter().filter(|address| is_public(*address)).collect(), ..self }
    }
}

/// A domain's keys: selector and text of the record.
pub(super) type KeyRecords = Vec<(String, String)>;

/// Everything that a configuration wants published.
pub(super) fn of_config(config: &Config, sight: &Sight) -> Vec<String> {
    let mut domains: BTreeMap<String, KeyRecords> = BTreeMap::new();
    for key in config.keys.all() {
        let records = domains.entry(key.domain().to_owned()).or_default();
        records.push((key.selector().to_owned(), key.record().to_owned()));
    }
    for sender in config.sender_domains().into_iter().filter(|sender| !sender.is_below) {
        domains.entry(sender.domain).or_default();
    }
    let reverse_path = config.delivery.reverse_path.as_ref().and_then(|path| domain_key(path.domain()));
    if let Some(domain) = reverse_path {
        domains.entry(domain).or_default();
    }
    if domains.is_empty() { Vec::new() } else { fragment(&domains, sight) }
}

/// The lines for these domains and the relay's own name.
pub(super) fn fragment(domains: &BTreeMap<String, KeyRecords>, sight: &Sight) -> Vec<String> {
    let mut lines =
        vec!["; What DNS has to say, in the form of a zone file; everything else in a zone stays as it is.".to_owned()];
    for (domain, keys) in domains {
        lines.push(format!(";\n; --- {domain}"));
        if !keys.is_empty() {
            lines.push("; DKIM: the public halves of the keys that sign.".to_owned());
            lines.extend(keys.iter().map(|(selector, record)| zone_line(domain, selector, record)));
        }
        lines.push(
            "; SPF: a domain has one such record; if there is one, put the middle of this one into it.".to_owned(),
        );
        lines.push(spf(domain, sight));
        lines.push(
            "; DMARC: say p=reject once the reports, which go to this address, show no mail of yours that fails."
                .to_owned(),
        );
        lines.push(format!("_dmarc.{domain}. 3600 IN TXT \"v=DMARC1; p=none; rua=mailto:postmaster@{domain}\""));
    }
    lines.extend(own_name(domains.keys().collect(), sight));
    lines.iter().flat_map(|lines| lines.lines()).map(str::to_owned).collect()
}

fn spf(domain: &str, sight: &Sight) -> String {
    let mechanisms: Vec<String> = match (sight.addresses.as_slice(), &sight.hostname) {
        ([], Some(hostname)) => vec![format!("a:{hostname}")],
        ([], None) => vec![format!("ip4:{UNKNOWN_ADDRESS}")],
        (addresses, _) => addresses.iter().map(|address| format!("{}:{address}", family(*address))).collect(),
    };
    let is_to_complete = sight.addresses.is_empty() && sight.hostname.is_none();
    let comment = if is_to_complete { "; " } else { "" };
    format!("{comment}{domain}. 3600 IN TXT \"v=spf1 {} ~all\"", mechanisms.join(" "))
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip4" } else { "ip6" }
}

/// The relay's name, and the way back from its addresses.
fn own_name(domains: BTreeSet<&String>, sight: &Sight) -> Vec<String> {
    let name = sight.hostname.as_deref().unwrap_or(UNKNOWN_NAME);
    let mut lines = vec![format!(";\n; --- {name}, the relay itself")];
    if sight.hostname.is_none() {
        lines.push(format!(
            "; {UNKNOWN_NAME}: set hostname in the configuration to a full name, like relay.example.com."
        ));
    }
    if sight.addresses.is_empty() {
        lines.push(format!(
            "; {UNKNOWN_ADDRESS}: this machine has private addresses only; put the one here from which the world sees it send."
        ));
    }
    let is_complete = sight.hostname.is_some() && !sight.addresses.is_empty();
    let comment = if is_complete { "" } else { "; " };
    let shown: Vec<String> = sight.addresses.iter().map(ToString::to_string).collect();
    let shown = if shown.is_empty() { vec![UNKNOWN_ADDRESS.to_owned()] } else { shown };
    for address in &shown {
        let kind = if address.contains(':') { "AAAA" } else { "A" };
        lines.push(format!("{comment}{name}. 3600 IN {kind} {address}"));
    }
    if let Some(own) = sight.hostname.as_ref().filter(|name| !domains.contains(name)) {
        lines.push("; SPF of the name itself, for notifications, which have no sender.".to_owned());
        lines.push(format!("{own}. 3600 IN TXT \"v=spf1 a -all\""));
    }
    lines.push("; PTR, the way back: not in your zone; ask the provider of the address to publish".to_owned());
    if sight.addresses.is_empty() {
        lines.push(format!(";   the name of {UNKNOWN_ADDRESS} (its PTR record): {name}."));
    }
    lines.extend(sight.addresses.iter().map(|address| format!(";   {}. 3600 IN PTR {name}.", reverse_name(*address))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(hostname: Option<&str>, addresses: &[&str]) -> Sight {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Sight { hostname: hostname.map(str::to_owned), addresses }
    }

    fn lines(sight: &Sight, domains: &[&str]) -> Vec<String> {
        let keys = vec![("otp1".to_owned(), format!("v=DKIM1; k=rsa; p={}", "A".repeat(400)))];
        fragment(&domains.iter().map(|domain| ((*domain).to_owned(), keys.clone())).collect(), sight)
    }

    /// What is published when the lines are pasted.
    fn published(sight: &Sight, domains: &[&str]) -> Vec<String> {
        lines(sight, domains).into_iter().filter(|line| !line.starts_with(';')).collect()
    }

    #[test]
    fn the_whole_zone_is_told() {
        let sight = sight(Some("relay.example.com"), &["198.51.100.7", "2001:db8::7"]);
        let key = format!(
            "otp1._domainkey.example.com. 3600 IN TXT \"v=DKIM1; k=rsa; p={}\" \"{}\"",
            "A".repeat(237),
            "A".repeat(163)
        );
        assert_eq!(
            published(&sight, &["example.com"]),
            [
                key.as_str(),
                "example.com. 3600 IN TXT \"v=spf1 ip4:198.51.100.7 ip6:2001:db8::7 ~all\"",
                "_dmarc.example.com. 3600 IN TXT \"v=DMARC1; p=none; rua=mailto:postmaster@example.com\"",
                "relay.example.com. 3600 IN A 198.51.100.7",
                "relay.example.com. 3600 IN AAAA 2001:db8::7",
                "relay.example.com. 3600 IN TXT \"v=spf1 a -all\"",
            ]
        );
        let all = lines(&sight, &["example.com"]).join("\n");
        assert!(all.contains("\n;   7.100.51.198.in-addr.arpa. 3600 IN PTR relay.example.com.\n"), "{all}");
        let ptr = format!(";   7.{}8.b.d.0.1.0.0.2.ip6.arpa. 3600 IN PTR relay.example.com.", "0.".repeat(23));
        assert!(all.ends_with(&ptr), "{all}");
    }

    #[test]
    fn what_is_not_known_is_not_published() {
        let nameless = published(&sight(None, &[]), &["example.com"]);
        assert_eq!(nameless.len(), 2, "{nameless:#?}");
        let behind_nat = sight(Some("relay.example.com"), &[]);
        let told = published(&behind_nat, &["example.com"]);
        assert_eq!(told[1], "example.com. 3600 IN TXT \"v=spf1 a:relay.example.com ~all\"");
        assert!(!told.iter().any(|line| line.contains(UNKNOWN_ADDRESS)), "{told:#?}");
        let all = lines(&behind_nat, &["example.com"]).join("\n");
        assert!(all.contains("; relay.example.com. 3600 IN A PUBLIC-ADDRESS"), "{all}");
        assert!(all.contains("; PUBLIC-ADDRESS: this machine has private addresses only"), "{all}");
    }

    #[test]
    fn no_name_has_two_spf_records() {
        let told = published(&sight(Some("example.com"), &["198.51.100.7"]), &["example.com", "example.net"]);
        let of = |name: &str| told.iter().filter(|line| line.starts_with(name) && line.contains("spf1")).count();
        assert_eq!((of("example.com. "), of("example.net. ")), (1, 1), "{told:#?}");
    }

    #[test]
    fn a_file_with_errors_still_names_the_relay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        let text = "hostname = \"Relay.Example.com\"\n[delivery]\nsource_addresses = [\"8.8.4.4\"]\n[[dkim]]\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(Sight::of_file(Some(&file)), sight(Some("relay.example.com"), &["8.8.4.4"]));
        assert_eq!(Sight::new("relay", &[]).hostname, None);
        assert_eq!(Sight::of_file(None).hostname, None);
    }
}
