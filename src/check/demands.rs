//! What big providers demand of whoever sends to them, against what was found: an error above is a refusal there. The facts are
//! from their own pages for senders, read on 2026-11-28. A provider is the registrable domain of its mail hosts.

use super::finding::{Check, Finding};
use super::look::Look;
use crate::config::findings::Severity;

use Check::{Dkim, Dmarc, EhloName, FromDomain, Ptr, Spf};

/// A provider, for whom it takes mail, and what it demands.
const DEMANDS: [(&str, &str, &[Check]); 9] = [
    ("google.com", "Gmail", &[Spf, Dkim, Dmarc, Ptr]),
    ("yahoodns.net", "Yahoo and AOL", &[Spf, Dkim, Dmarc, Ptr, FromDomain]),
    ("outlook.com", "Outlook.com and Microsoft 365", &[Spf, Dkim, Dmarc, Ptr]),
    ("icloud.com", "iCloud", &[Spf, Dkim, Dmarc, Ptr]),
    ("gmx.net", "GMX and WEB.DE", &[Dkim, Ptr, EhloName, FromDomain]),
    ("t-online.de", "T-Online", &[Ptr]),
    ("orange.fr", "Orange and Wanadoo", &[Spf, Dkim, Dmarc, Ptr, EhloName]),
    ("qq.com", "QQ", &[Spf, Dmarc]),
    ("mail.ru", "Mail.ru", &[Dmarc]),
];

/// A note for each provider that refuses mail because of an error; after everything else.
pub(super) fn look(look: &Look<'_>) {
    for (provider, whose, demands) in DEMANDS {
        let unmet = demands.iter().filter(|check| look.has(**check, Severity::Error));
        let unmet: Vec<&str> = unmet.map(|check| check.name()).collect();
        if !unmet.is_empty() {
            let text =
                format!("{whose} refuses mail, or files it as spam, for what is wrong with {}", unmet.join(", "));
            look.add(Finding::new(Severity::Note, Check::Provider, provider, text).mend("mend these errors first"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, found};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_is_told_with_who_refuses_for_it() {
        let told = async |faults: &'static [Check]| {
            let world = World::sound();
            let findings = found(&world, move |look| {
                Box::pin(async move {
                    faults.iter().for_each(|check| look.add(Finding::new(Severity::Error, *check, "", "broken")));
                    super::look(look);
                })
            });
            let findings = findings.await.into_iter().filter(|finding| finding.check == Check::Provider);
            findings.map(|finding| (finding.subject, finding.text)).collect::<Vec<_>>()
        };
        assert_eq!(told(&[]).await, []);
        assert_eq!(told(&[Check::SmartHost]).await, []);
        let dmarc: Vec<String> = told(&[Dmarc]).await.into_iter().map(|(provider, _)| provider).collect();
        assert_eq!(
            dmarc,
            ["google.com", "icloud.com", "mail.ru", "orange.fr", "outlook.com", "qq.com", "yahoodns.net"]
        );
        let both = told(&[Ptr, Dkim]).await;
        let gmx = both.iter().find(|(provider, _)| provider == "gmx.net").unwrap();
        assert!(gmx.1.ends_with("what is wrong with dkim, ptr"), "{both:?}");
    }
}
