//! The domains in From and in the reverse-path: that they exist, take mail, and what else their zones could say.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;

use super::finding::{Check, Finding};
use super::look::Look;
use super::talk::Talk;
use super::world::Kind;
use crate::config::findings::Severity;
use crate::destination::public::is_public;
use crate::mail::registrable::registrable_domain;

/// Who has to be there at every domain that sends (RFC 5321 section 4.5.1, RFC 2142).
const ROLES: [&str; 2] = ["postmaster", "abuse"];
const PORT: &str = "see that port 25 there is open and answers";

/// Every From domain, and the zones that they are in.
pub(super) async fn look(look: &Look<'_>) {
    let zones: BTreeSet<&str> = look.domains.iter().map(|domain| registrable_domain(domain)).collect();
    let each = look.domains.iter().map(|domain| of_domain(look, domain, Check::FromDomain));
    let zones = zones.into_iter().map(|zone| own_zone(look, zone));
    tokio::join!(join_all(each), join_all(zones));
}

/// The domain that bounces go to, where it is the relay's to choose.
pub(super) async fn bounces(look: &Look<'_>) {
    let reverse_path = look.bounce_domain();
    let Some(domain) = reverse_path else { return };
    if let Some(hosts) = of_domain(look, &domain, Check::BounceDomain).await {
        answers(look, &domain, &hosts).await;
    }
}

/// The hosts that take mail for a domain; none where that is a finding.
async fn of_domain(look: &Look<'_>, domain: &str, check: Check) -> Option<Vec<String>> {
    let add = |severity, text: String, mend: &str| look.add(Finding::new(severity, check, domain, text).mend(mend));
    let mx = match look.names.ask(domain, Kind::Mx).await {
        Ok(records) => records,
        Err(error) if error.is_answer() => Vec::new(),
        Err(error) => {
            look.is_told(domain);
            add(Severity::Error, format!("nobody can look it up: {error}"), "see to the name servers of its zone");
            return None;
        }
    };
    let hosts: Vec<String> =
        mx.iter().filter_map(|record| record.split_once(' ')).map(|(_, host)| host.to_owned()).collect();
    if hosts.iter().any(String::is_empty) {
        let text = "it says that it takes no mail (a null MX), and hosts refuse mail from such domains";
        add(Severity::Error, text.into(), "publish an MX record that leads to a mailbox");
        return None;
    }
    let (addresses, soa) = tokio::join!(look.addresses(domain), look.ask(domain, Kind::Soa));
    if hosts.is_empty() {
        let has_address = !addresses?.is_empty();
        if !has_address && soa?.is_empty() {
            let text = "it is not in DNS: no SOA, MX or address records, and hosts refuse mail from such domains";
            add(Severity::Error, text.into(), "publish an MX record that leads to a mailbox");
            return None;
        }
        if !has_address {
            let severity = if check == Check::BounceDomain { Severity::Error } else { Severity::Note };
            let text = "it takes no mail: it has neither MX nor address records, so that answers and bounces are lost";
            add(severity, text.into(), "publish an MX record that leads to a mailbox");
            return None;
        }
        return Some(vec![domain.to_owned()]);
    }
    let found = join_all(hosts.iter().map(|host| look.addresses(host))).await;
    let known: Option<Vec<Vec<IpAddr>>> = found.into_iter().collect();
    if known?.iter().all(Vec::is_empty) {
        let text = format!("its MX records lead to {}, which has no address", hosts.join(", "));
        let severity = if check == Check::BounceDomain { Severity::Error } else { Severity::Warning };
        add(severity, text, "publish the address of the host, or another MX record");
        return None;
    }
    Some(hosts)
}

/// Asks the domain's own host for the mailboxes that have to be there.
async fn answers(look: &Look<'_>, domain: &str, hosts: &[String]) {
    let mut addresses = Vec::new();
    for host in hosts {
        addresses.extend(look.addresses(host).await.unwrap_or_default());
    }
    let may = |address: &&IpAddr| look.config.delivery.allow_private_destinations || is_public(**address);
    let Some(address) = addresses.iter().find(may) else { return };
    let to = SocketAddr::new(*address, look.config.delivery.port);
    let add = |text: String, mend: &str| {
        look.add(Finding::new(Severity::Warning, Check::BounceDomain, domain, text).mend(mend));
    };
    let mut talk = match Talk::open(look, to, None).await {
        Ok(talk) => talk,
        Err(error) => return add(format!("its host at {to} does not take mail: {error}"), PORT),
    };
    let _ = talk.say("MAIL FROM:<>").await;
    let mut refused = Vec::new();
    for role in ROLES {
        match talk.say(&format!("RCPT TO:<{role}@{domain}>")).await {
            Ok(reply) if !reply.is_refusal() => {}
            Ok(reply) => refused.push(format!("{role}: {reply}")),
            Err(error) => refused.push(format!("{role}: {error}")),
        }
    }
    talk.quit().await;
    if !refused.is_empty() {
        add(
            format!("its host refuses mail to {}", refused.join("; ")),
            "make these mailboxes: whoever has a complaint writes there",
        );
    }
}

/// What a zone could say beside; all of it is for mail that comes in.
async fn own_zone(look: &Look<'_>, zone: &str) {
    let (report, policy) = (format!("_smtp._tls.{zone}"), format!("_mta-sts.{zone}"));
    let (report, policy, ds, mx) = tokio::join!(
        look.ask(&report, Kind::Txt),
        look.ask(&policy, Kind::Txt),
        look.ask(zone, Kind::Ds),
        look.ask(zone, Kind::Mx)
    );
    let (Some(report), Some(policy), Some(ds), Some(mx)) = (report, policy, ds, mx) else { return };
    let mut missing: Vec<&str> = Vec::new();
    let mut records = Vec::new();
    if !report.iter().any(|text| text.starts_with("v=TLSRPTv1")) {
        missing.push("reports of failed TLS (TLS-RPT)");
        records.push(format!("_smtp._tls.{zone}. 3600 IN TXT \"v=TLSRPTv1; rua=mailto:postmaster@{zone}\""));
    }
    if !policy.iter().any(|text| text.starts_with("v=STSv1")) {
        missing.push("a policy that mail to it needs TLS (MTA-STS)");
    }
    if ds.is_empty() {
        missing.push("DNSSEC");
    } else if let Some((_, host)) =
        mx.first().and_then(|record| record.split_once(' ')).filter(|(_, host)| !host.is_empty())
        && look.ask(&format!("_25._tcp.{host}"), Kind::Tlsa).await.is_some_and(|found| found.is_empty())
    {
        missing.push("keys of its mail host (TLSA, for DANE)");
    }
    if !missing.is_empty() {
        let text = format!("the zone does not have {}", missing.join(", "));
        let finding = Finding::new(Severity::Note, Check::OwnZone, zone, text).mend("it can be left so");
        look.add(records.into_iter().fold(finding, Finding::record));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    async fn texts(world: &World) -> Vec<(Check, Severity, String)> {
        summary(world, |look| Box::pin(super::look(look))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_from_domain_exists_and_takes_mail() {
        use Kind::{A, Mx, Soa};
        assert_eq!(texts(&World::sound()).await, []);
        for (gone, published, expected) in [
            (&[("app.test", Mx)][..], &[("app.test", Mx, "0 ")][..], Some((Severity::Error, "a null MX"))),
            (&[("app.test", Mx)], &[("app.test", A, "198.17.100.9")], None),
            (&[("app.test", Mx)], &[], Some((Severity::Note, "takes no mail"))),
            (&[("app.test", Mx), ("app.test", Soa)], &[], Some((Severity::Error, "not in DNS"))),
            (&[("mx.app.test", A)], &[], Some((Severity::Warning, "mx.app.test, which has no address"))),
        ] {
            let mut world = World::sound();
            gone.iter().for_each(|(name, kind)| world.without(name, *kind));
            world.extend(published);
            let told = texts(&world).await;
            match expected {
                None => assert_eq!(told, []),
                Some((severity, text)) => assert_one(&told, severity, text),
            }
        }
        let mut world = World::sound();
        world.broken("app.test");
        let told = texts(&world).await;
        assert!(told.len() == 1 && told[0].2.starts_with("nobody can look it up"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_else_a_zone_could_say_is_one_note() {
        let mut world = World::sound();
        world.without("app.test", Kind::Ds);
        world.without("_smtp._tls.app.test", Kind::Txt);
        let told = texts(&world).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].0, told[0].1), (Check::OwnZone, Severity::Note));
        assert!(told[0].2.ends_with("reports of failed TLS (TLS-RPT), DNSSEC"), "{told:?}");
    }
}
