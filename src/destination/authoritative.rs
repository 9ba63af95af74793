//! What the authoritative name servers of a domain show themselves, past every cache.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::resolver::{DnsError, Settings, direct, dns_error, read_txt, resolver};
use crate::dkim::rotation::Sight;

/// Name servers of a zone that are asked, and addresses of one of them.
const SERVERS_MAX: usize = 16;
const ADDRESSES_MAX: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// As its NS record names it.
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// The authoritative servers of the zone in which a domain is.
pub(crate) async fn servers(settings: &Settings, domain: &str) -> Result<Vec<Server>, DnsError> {
    let resolver = resolver(settings).map_err(|error| DnsError::Failed(error.to_string()))?;
    let mut zone = domain;
    let names = loop {
        match names(&resolver, zone).await {
            Ok(names) if !names.is_empty() => break names,
            Err(error) if !error.is_answer() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        // A zone begins at the domain or above it.
        zone = zone
            .split_once('.')
            .map(|(_, above)| above)
            .filter(|above| above.contains('.'))
            .ok_or(DnsError::NoRecords)?;
    };
    let mut servers = Vec::new();
    for name in names.into_iter().take(SERVERS_MAX) {
        let found = resolver.lookup_ip(name.clone()).await.map_err(dns_error);
        let addresses = found.map(|found| found.iter().take(ADDRESSES_MAX).collect()).unwrap_or_default();
        servers.push(Server { name: name.to_ascii().trim_end_matches('.').to_ascii_lowercase(), addresses });
    }
    Ok(servers)
}

async fn names(resolver: &TokioResolver, zone: &str) -> Result<Vec<Name>, DnsError> {
    let mut name = Name::from_ascii(zone).map_err(|_| DnsError::BadName)?;
    name.set_fqdn(true);
    let found = resolver.lookup(name, RecordType::NS).await.map_err(dns_error)?;
    let name = |data: &RData| if let RData::NS(name) = data { Some(name.0.clone()) } else { None };
    Ok(found.answers().iter().filter_map(|record| name(&record.data)).collect())
}

/// The texts that one of them shows under a name; the first of its addresses that answers counts.
///
/// # Errors
/// That it shows none, or that none of its addresses answers.
pub(crate) async fn texts(server: &Server, name: &str) -> Result<Vec<String>, DnsError> {
    let mut asked = Name::from_ascii(name).map_err(|_| DnsError::BadName)?;
    asked.set_fqdn(true);
    let mut last = DnsError::Timeout;
    for address in &server.addresses {
        let resolver = direct(*address).map_err(|error| DnsError::Failed(error.to_string()))?;
        let found = resolver.lookup(asked.clone(), RecordType::TXT).await.map_err(dns_error);
        match found.and_then(|found| read_txt(found.answers())) {
            Ok(found) => return Ok(found.records),
            Err(error) if error.is_answer() => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether all servers of the domain's zone show these records: names below the domain, and texts. Which server has not is
/// told in the log.
pub(crate) async fn sight(settings: &Settings, domain: &str, records: &[(String, String)]) -> Sight {
    let servers = match servers(settings, domain).await {
        Ok(servers) if !servers.is_empty() => servers,
        Ok(_) => return Sight::Unknown,
        Err(error) => {
            tracing::info!(domain, %error, "the name servers of the domain are not found");
            return Sight::Unknown;
        }
    };
    let mut sight = Sight::Shown;
    for server in &servers {
        for (below, text) in records {
            let seen = of_record(text, texts(server, &format!("{below}.{domain}")).await);
            if seen != Sight::Shown {
                let text = if seen == Sight::Missing { "does not show it" } else { "does not answer" };
                tracing::info!(server = server.name, record = below, domain, "a name server {text}");
            }
            sight = together(sight, seen);
        }
    }
    sight
}

/// Strings of one record may be split anywhere, and blanks in it mean nothing.
fn of_record(text: &str, found: Result<Vec<String>, DnsError>) -> Sight {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    match found {
        Ok(texts) if texts.iter().any(|found| bare(found) == bare(text)) => Sight::Shown,
        Ok(_) => Sight::Missing,
        Err(error) if error.is_answer() => Sight::Missing,
        Err(_) => Sight::Unknown,
    }
}

fn together(a: Sight, b: Sight) -> Sight {
    match (a, b) {
        (Sight::Missing, _) | (_, Sight::Missing) => Sight::Missing,
        (Sight::Unknown, _) | (_, Sight::Unknown) => Sight::Unknown,
        (Sight::Shown, Sight::Shown) => Sight::Shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_without_the_record_counts_more_than_one_that_is_silent() {
        let shown = || Ok(vec!["v=spf1 -all".to_owned(), "v=DKIM1; k=rsa; p=AB CD".to_owned()]);
        let check = |found: Result<Vec<String>, DnsError>, expected| {
            assert_eq!(of_record("v=DKIM1; k=rsa; p=ABCD", found), expected);
        };
        check(shown(), Sight::Shown);
        check(Ok(vec!["v=DKIM1; k=rsa; p=".to_owned()]), Sight::Missing);
        check(Err(DnsError::NoSuchName), Sight::Missing);
        check(Err(DnsError::Timeout), Sight::Unknown);
        assert_eq!(together(Sight::Unknown, Sight::Missing), Sight::Missing);
        assert_eq!(together(Sight::Shown, Sight::Unknown), Sight::Unknown);
        assert_eq!(together(Sight::Shown, Sight::Shown), Sight::Shown);
    }
}
