//! Lists of addresses and domains that send unwanted mail: opt-in, asked once, for the own ones only. A list is believed only
//! if it knows its own test entries, since one that refuses to answer seems to list everybody.

use std::net::IpAddr;

use futures_util::future::join_all;

use super::Blocklists;
use super::finding::{Check, Finding};
use super::look::Look;
use super::world::Kind;
use crate::config::findings::Severity;
use crate::destination::public::is_public;

/// Of addresses, each with the page on which to be taken off.
const ADDRESSES: [(&str, &str); 5] = [
    ("zen.spamhaus.org", "https://check.spamhaus.org/"),
    ("bl.spamcop.net", "https://www.spamcop.net/bl.shtml"),
    ("psbl.surriel.com", "https://psbl.org/remove"),
    ("b.barracudacentral.org", "https://www.barracudacentral.org/lookups"),
    ("bl.mailspike.net", "https://mailspike.io/ip_verify"),
];
/// Of domains, with an entry that is always there.
const DOMAINS: (&str, &str, &str) = ("dbl.spamhaus.org", "dbltest.com", "https://check.spamhaus.org/");
/// Answers from here are no listing: too many questions, an open resolver, a typing error.
const REFUSAL: &str = "127.255.255.";

pub(super) async fn look(look: &Look<'_>, wanted: Blocklists) {
    if wanted == Blocklists::Leave {
        return;
    }
    let own: Vec<IpAddr> = look.sources().into_iter().filter(|address| is_public(*address)).collect();
    let lists = ADDRESSES.iter().map(|(list, page)| {
        let own = own.iter().filter_map(|address| Some((address.to_string(), reversed(*address)?))).collect();
        of_list(look, list, page, ["2.0.0.127", "1.0.0.127"], own)
    });
    let domains = look.domains.iter().map(|domain| (domain.clone(), domain.clone())).collect();
    let (list, listed, page) = DOMAINS;
    tokio::join!(join_all(lists), of_list(look, list, page, [listed, "example.com"], domains));
}

/// The octets of an IPv4 address the other way round; the lists are not asked for others.
fn reversed(address: IpAddr) -> Option<String> {
    let IpAddr::V4(ip) = address else { return None };
    let [a, b, c, d] = ip.octets();
    Some(format!("{d}.{c}.{b}.{a}"))
}

async fn of_list(look: &Look<'_>, list: &str, page: &str, [listed, unlisted]: [&str; 2], own: Vec<(String, String)>) {
    let ask = |name: String| async move {
        match look.names.ask(&format!("{name}.{list}"), Kind::A).await {
            Ok(answers) if answers.iter().all(|answer| answer.starts_with("127.") && !answer.starts_with(REFUSAL)) => {
                Ok(true)
            }
            Ok(_) => Err(()),
            Err(error) if error.is_answer() => Ok(false),
            Err(_) => Err(()),
        }
    };
    if (ask(listed.to_owned()).await, ask(unlisted.to_owned()).await) != (Ok(true), Ok(false)) {
        let text = "the list does not answer this resolver as it should, so nothing is known";
        return look.add(
            Finding::new(Severity::Note, Check::Blocklist, list, text).mend("ask through a resolver of your own"),
        );
    }
    for (shown, name) in own {
        match ask(name).await {
            Ok(false) => {}
            Ok(true) => {
                let text = format!("{shown} is listed by {list}, and some hosts refuse mail from it");
                let mend = format!("find out why, then ask to be taken off at {page}");
                look.add(Finding::new(Severity::Warning, Check::Blocklist, shown, text).mend(mend));
            }
            Err(()) => {
                look.add(Finding::new(Severity::Note, Check::Blocklist, shown, format!("{list} could not be asked")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, found};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_is_believed_only_where_it_answers() {
        let told = async |records: &[(&str, Kind, &str)]| {
            let mut world = World::sound();
            world.extend(records);
            let findings = found(&world, |look| Box::pin(super::look(look, Blocklists::Ask))).await;
            findings.into_iter().map(|f| (f.severity, f.subject)).collect::<Vec<_>>()
        };
        let all = told(&[]).await;
        assert!(
            all.len() == 6 && all.iter().all(|(severity, _)| *severity == Severity::Note),
            "no test entries: {all:?}"
        );
        let good = ("2.0.0.127.zen.spamhaus.org", Kind::A, "127.0.0.2");
        assert_eq!(told(&[good]).await.len(), 5);
        let own = "7.100.17.198.zen.spamhaus.org";
        let listed = told(&[good, (own, Kind::A, "127.0.0.4")]).await;
        assert!(listed.len() == 6 && listed[0] == (Severity::Warning, "198.17.100.7".into()), "{listed:?}");
        let refused = told(&[("2.0.0.127.zen.spamhaus.org", Kind::A, "127.255.255.254")]).await;
        assert_eq!(refused.len(), 6);
    }
}
