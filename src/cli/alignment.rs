//! Whether receivers find signatures of a parent domain's key aligned (RFC 7489 section 3.1.1): where a DMARC record says
//! `adkim=s`, they do not.

use crate::config::Config;
use crate::destination::resolver::{Dns, DnsError};

/// Sender domains that are looked at.
const DOMAINS_MAX: usize = 100;
/// Names asked for on the way from a domain up.
const STEPS_MAX: usize = 8;

/// One sentence for each sender domain whose signatures do not count. Where DNS does not answer, nothing is said.
pub(super) async fn findings(config: &Config, dns: &dyn Dns) -> Vec<String> {
    let mut findings = Vec::new();
    for sender in config.sender_domains().into_iter().take(DOMAINS_MAX) {
        let Some(signing) = config.keys.signing_domain(&sender.domain) else { continue };
        if signing == sender.domain && !sender.is_below {
            continue;
        }
        match is_strict(dns, &sender.domain).await {
            Ok(true) => findings.push(format!(
                "[[dkim]] the DMARC record of {} says adkim=s, so the signatures of {signing} do not count for senders of \
                 {sender}; give each of these domains a key of its own, or publish adkim=r",
                sender.domain
            )),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    findings
}

/// What the record of a domain says, or else that of the nearest domain above it.
async fn is_strict(dns: &dyn Dns, domain: &str) -> Result<bool, DnsError> {
    let above = std::iter::successors(Some(domain), |name| name.split_once('.').map(|(_, parent)| parent));
    for name in above.take_while(|name| name.contains('.')).take(STEPS_MAX) {
        match dns.txt(&format!("_dmarc.{name}")).await {
            Ok(texts) => {
                if let Some(record) = texts.records.iter().find(|text| tags(text).next() == Some(("v", "DMARC1"))) {
                    return Ok(tags(record).any(|(tag, value)| tag == "adkim" && value.eq_ignore_ascii_case("s")));
                }
            }
            Err(error) if error.is_answer() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn tags(record: &str) -> impl Iterator<Item = (&str, &str)> {
    record.split(';').filter_map(|tag| tag.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::destination::resolver::{Answer, MxRecord, Records};

    struct Table(&'static [(&'static str, &'static str)]);

    impl Dns for Table {
        fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, MxRecord> {
            Box::pin(async { Err(DnsError::NoRecords) })
        }

        fn ipv4<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
            Box::pin(async { Err(DnsError::NoRecords) })
        }

        fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
            Box::pin(async { Err(DnsError::NoRecords) })
        }

        fn txt<'a>(&'a self, name: &'a str) -> Answer<'a, String> {
            let records: Vec<String> =
                self.0.iter().filter(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned()).collect();
            let is_ill = records.iter().any(|text| text == "ill");
            Box::pin(async move {
                match (is_ill, records.is_empty()) {
                    (true, _) => Err(DnsError::Timeout),
                    (false, true) => Err(DnsError::NoSuchName),
                    (false, false) => Ok(Records { records, ttl: Duration::from_secs(60), secure: false }),
                }
            })
        }
    }

    async fn told(senders: &str, table: &'static [(&'static str, &'static str)]) -> usize {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("k"), crate::dkim::record::generate_ed25519().unwrap()).unwrap();
        let text = format!(
            "hostname = \"relay.test\"\n[[user]]\nname = \"shop\"\nsenders = [{senders}]\n\
             [[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nprivate_key = \"k\"\n"
        );
        let (config, findings) = Config::from_text(&text, folder.path(), Some(Path::new("relay.toml")));
        findings_of(&config.unwrap_or_else(|| panic!("{findings}")), table).await
    }

    async fn findings_of(config: &Config, table: &'static [(&'static str, &'static str)]) -> usize {
        findings(config, &Table(table)).await.len()
    }

    #[tokio::test]
    async fn strict_alignment_is_told() {
        const STRICT: &[(&str, &str)] =
            &[("_dmarc.example.com", "other"), ("_dmarc.example.com", "v=DMARC1; p=reject; adkim = S; aspf=r")];
        const RELAXED: &[(&str, &str)] = &[("_dmarc.example.com", "v=DMARC1; p=reject; aspf=s; adkim=r")];
        const OWN: &[(&str, &str)] =
            &[("_dmarc.example.com", "v=DMARC1; adkim=s"), ("_dmarc.mail.example.com", "v=DMARC1; p=none")];
        assert_eq!(told("\"*@mail.example.com\"", STRICT).await, 1);
        assert_eq!(told("\"*@a.b.example.com\", \"*@*.example.com\"", STRICT).await, 2);
        assert_eq!(told("\"*@example.com\"", STRICT).await, 0, "its own key signs");
        assert_eq!(told("\"*@mail.example.com\"", RELAXED).await, 0);
        assert_eq!(told("\"*@mail.example.com\"", OWN).await, 0);
        assert_eq!(told("\"*@mail.example.com\"", &[]).await, 0);
        assert_eq!(told("\"*@mail.example.com\"", &[("_dmarc.mail.example.com", "ill")]).await, 0);
    }
}
