//! SPF (RFC 7208): that each source address passes, for the reverse-path domains, the From domains and the EHLO name; and
//! what of a record makes receivers give up on it. The verdict itself is the library's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::Pin;

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::finding::{Check, Finding};
use super::look::Look;
use super::world::{Kind, Spf};
use crate::config::findings::Severity;

/// Terms that ask DNS, in a whole evaluation (RFC 7208 section 4.6.4).
const LOOKUPS_MAX: usize = 10;
/// Of these, such as find nothing.
const VOID_MAX: usize = 2;
/// Octets of a record that fit into an answer by UDP everywhere (section 3.4).
const RECORD_LEN_MAX: usize = 450;
/// Records within records that are followed: what is deeper has asked too much anyway.
const DEPTH_MAX: usize = 11;

/// What counts up while a record is followed.
#[derive(Debug, Default)]
struct Tally {
    lookups: usize,
    void: usize,
    /// Somebody else's record is missing, or not one.
    broken: Vec<String>,
}

/// All names whose records are looked at.
pub(super) async fn look(look: &Look<'_>) {
    let reverse_path = look.bounce_domain();
    let mut domains: BTreeSet<String> = look.domains.iter().cloned().collect();
    domains.extend(reverse_path);
    let sources = look.sources();
    let own = look.hostname.clone().filter(|name| !domains.contains(name) && !domains.is_empty());
    let each = domains.iter().map(|domain| of_domain(look, domain, &sources, Role::Sender));
    let own = own.iter().map(|name| of_domain(look, name, &sources, Role::Ehlo));
    tokio::join!(join_all(each), join_all(own));
}

/// As what a name is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// In MAIL FROM, or in From.
    Sender,
    /// In EHLO, which counts for notifications.
    Ehlo,
}

async fn of_domain(look: &Look<'_>, domain: &str, sources: &[IpAddr], role: Role) {
    let Some(texts) = look.ask(domain, Kind::Txt).await else { return };
    let records: Vec<&String> = texts.iter().filter(|text| is_spf(text)).collect();
    let add = |severity, text: String, mend: &str, record: Option<String>| {
        let finding = Finding::new(severity, Check::Spf, domain, text).mend(mend);
        look.add(record.into_iter().fold(finding, Finding::record));
    };
    let [record] = records.as_slice() else {
        if records.is_empty() {
            let text = "there is no SPF record (TXT with v=spf1)";
            return add(Severity::Error, text.into(), "publish", Some(first(domain, sources, role, look)));
        }
        let terms: Vec<&str> = records.iter().flat_map(|record| record.split_whitespace().skip(1)).collect();
        let text = format!("there are {} SPF records, which count as none", records.len());
        return add(Severity::Error, text, "publish one in place of them", Some(merged(domain, &terms, sources)));
    };
    let terms: Vec<&str> = record.split_whitespace().skip(1).collect();
    if terms.iter().any(|term| ["all", "+all"].contains(&term.to_ascii_lowercase().as_str())) {
        let text = "the SPF record lets everybody send (+all), so that it says nothing for the relay";
        return add(Severity::Error, text.into(), "publish", Some(merged(domain, &terms, sources)));
    }
    let tally = Mutex::new(Tally::default());
    follow(look, domain.to_owned(), (*record).clone(), &tally, 0).await;
    let tally = tally.into_inner();
    if let Some(text) = tally.fault() {
        let mend = "take terms out, or replace an include by the ip4 and ip6 ranges behind it";
        return add(Severity::Error, text, mend, None);
    }
    // What a name that leads elsewhere may send from is told of the name.
    let leads_here = async {
        let found = look.addresses(domain).await;
        found.is_some_and(|found| sources.iter().all(|source| found.contains(source)))
    };
    if role == Role::Sender || leads_here.await {
        passes(look, domain, sources, &add, &terms).await;
    }
    if record.len() > RECORD_LEN_MAX {
        let text = format!("the SPF record has {} bytes; beyond {RECORD_LEN_MAX} answers may not arrive", record.len());
        add(Severity::Warning, text, "take terms out", None);
    }
    let is_ptr = |term: &&&str| {
        let bare = term.trim_start_matches(['+', '-', '~', '?']).to_ascii_lowercase();
        bare == "ptr" || bare.starts_with("ptr:")
    };
    if terms.iter().any(|term| is_ptr(&term)) {
        let text = "the SPF record uses ptr, which receivers may ignore (RFC 7208 section 5.5)";
        let rest: Vec<&str> = terms.iter().filter(|term| !is_ptr(term)).copied().collect();
        add(Severity::Warning, text.into(), "publish", Some(merged(domain, &rest, sources)));
    }
}

/// Adds what a receiver's check finds of each source.
async fn passes(
    look: &Look<'_>,
    domain: &str,
    sources: &[IpAddr],
    add: &impl Fn(Severity, String, &str, Option<String>),
    terms: &[&str],
) {
    let ehlo = look.hostname.as_deref().unwrap_or(&look.config.hostname);
    let verdicts =
        join_all(sources.iter().map(|source| async { (*source, look.names.spf(*source, ehlo, domain).await) }));
    let mut refused: Vec<(IpAddr, &str)> = Vec::new();
    for (source, verdict) in verdicts.await {
        match verdict {
            Spf::Pass | Spf::Unknown => {}
            Spf::Other(result) => refused.push((source, result)),
        }
    }
    if let Some((_, result)) = refused.first() {
        let shown: Vec<String> = refused.iter().map(|(source, _)| source.to_string()).collect();
        let text = format!("SPF says {result} for mail from {}", shown.join(" and "));
        let addresses: Vec<IpAddr> = refused.iter().map(|(source, _)| *source).collect();
        add(Severity::Error, text, "publish", Some(merged(domain, terms, &addresses)));
    }
}

impl Tally {
    fn fault(&self) -> Option<String> {
        if let Some(name) = self.broken.first() {
            return Some(format!(
                "the SPF record includes {name}, which has no record of its own or several: it counts as none"
            ));
        }
        if self.lookups > LOOKUPS_MAX {
            return Some(format!(
                "the SPF record needs {} look-ups, and receivers give up after {LOOKUPS_MAX}",
                self.lookups
            ));
        }
        (self.void > VOID_MAX).then(|| {
            format!("{} look-ups of the SPF record find nothing, and receivers give up after {VOID_MAX}", self.void)
        })
    }
}

pub(super) fn is_spf(text: &str) -> bool {
    text.to_ascii_lowercase().split(' ').next() == Some("v=spf1")
}

/// Counts the look-ups of a record and of those that it includes.
fn follow<'a>(
    look: &'a Look<'_>,
    domain: String,
    record: String,
    tally: &'a Mutex<Tally>,
    depth: usize,
) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    Box::pin(async move {
        for term in record.split_whitespace().skip(1) {
            if depth > DEPTH_MAX || tally.lock().lookups > 2 * LOOKUPS_MAX {
                return;
            }
            let term = term.trim_start_matches(['+', '-', '~', '?']).to_ascii_lowercase();
            let (name, value) = term.split_once([':', '=']).unwrap_or((term.as_str(), ""));
            let (name, _) = name.split_once('/').unwrap_or((name, ""));
            let (target, _) = value.split_once('/').unwrap_or((value, ""));
            let target = if target.is_empty() { domain.clone() } else { target.to_owned() };
            if !["include", "redirect", "a", "mx", "ptr", "exists"].contains(&name) {
                continue;
            }
            tally.lock().lookups += 1;
            // What a macro leads to depends on the message.
            if target.contains('%') {
                continue;
            }
            match name {
                "include" | "redirect" => deeper(look, target, tally, depth).await,
                "a" => void_unless(tally, look.addresses(&target).await.map(|found| found.len())),
                "mx" => void_unless(tally, look.ask(&target, Kind::Mx).await.map(|found| found.len())),
                _ => {}
            }
        }
    })
}

fn void_unless(tally: &Mutex<Tally>, found: Option<usize>) {
    tally.lock().void += usize::from(found == Some(0));
}

async fn deeper(look: &Look<'_>, target: String, tally: &Mutex<Tally>, depth: usize) {
    let Some(texts) = look.ask(&target, Kind::Txt).await else { return };
    void_unless(tally, Some(texts.len()));
    let records: Vec<String> = texts.into_iter().filter(|text| is_spf(text)).collect();
    match records.as_slice() {
        [record] => follow(look, target, record.clone(), tally, depth + 1).await,
        _ => tally.lock().broken.push(target),
    }
}

/// A record where there was none.
fn first(domain: &str, sources: &[IpAddr], role: Role, look: &Look<'_>) -> String {
    if role == Role::Ehlo {
        return format!("{domain}. 3600 IN TXT \"v=spf1 a -all\"");
    }
    match (sources.is_empty(), &look.hostname) {
        (true, Some(name)) => format!("{domain}. 3600 IN TXT \"v=spf1 a:{name} ~all\""),
        _ => merged(domain, &["~all"], sources),
    }
}

/// The record with the addresses in front, once each, and one `all` at its end, which lets nobody else in.
fn merged(domain: &str, terms: &[&str], sources: &[IpAddr]) -> String {
    let own = sources.iter().map(|source| format!("{}:{source}", if source.is_ipv4() { "ip4" } else { "ip6" }));
    let mut all: Vec<String> = own.collect();
    let is_end = |term: &str| term.trim_start_matches(['+', '-', '~', '?']).eq_ignore_ascii_case("all");
    for term in terms.iter().filter(|term| !is_end(term)) {
        if !all.iter().any(|known| known.eq_ignore_ascii_case(term)) {
            all.push((*term).to_owned());
        }
    }
    let end = terms.iter().rev().find(|term| is_end(term) && term.starts_with(['-', '~'])).copied().unwrap_or("~all");
    let is_redirected = terms.iter().any(|term| term.to_ascii_lowercase().starts_with("redirect="));
    all.extend((!is_redirected).then(|| end.to_owned()));
    let text = format!("v=spf1 {}", all.join(" "));
    format!("{domain}. 3600 IN TXT{}", crate::dkim::record::strings(&text))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    #[test]
    fn records_are_merged() {
        let check = |terms: &[&str], expected: &str| {
            let line = merged("a.test", terms, &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
            assert_eq!(line, format!("a.test. 3600 IN TXT \"v=spf1 {expected}\""));
        };
        check(&[], "ip4:192.0.2.1 ip6:2001:db8::1 ~all");
        check(&["mx", "-all"], "ip4:192.0.2.1 ip6:2001:db8::1 mx -all");
        check(&["mx", "~all", "mx", "ip4:192.0.2.1", "?all"], "ip4:192.0.2.1 ip6:2001:db8::1 mx ~all");
        check(&["+all"], "ip4:192.0.2.1 ip6:2001:db8::1 ~all");
        check(&["redirect=b.test"], "ip4:192.0.2.1 ip6:2001:db8::1 redirect=b.test");
    }

    /// The only name with a record is `app.test`; each expected text stands in the one finding.
    async fn check(records: &[(&str, Kind, &str)], expected: Option<(Severity, &str)>) {
        let mut world = World::sound();
        world.without("app.test", Kind::Txt);
        world.extend(records);
        let told = summary(&world, |look| Box::pin(super::look(look))).await;
        match expected {
            None => assert_eq!(told, []),
            Some((severity, text)) => assert_one(&told, severity, text),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_is_one_finding() {
        use Kind::{A, Txt};
        use Severity::{Error, Warning};
        let own = |rest: &str| format!("v=spf1 ip4:198.17.100.7 {rest}");
        check(&[("app.test", Txt, "v=spf1 ip4:198.17.100.7 -all")], None).await;
        check(&[("app.test", Txt, "google-site-verification=x")], Some((Error, "no SPF record"))).await;
        check(&[("app.test", Txt, "v=spf10 all")], Some((Error, "no SPF record"))).await;
        check(&[("app.test", Txt, "v=spf1 ~all"), ("app.test", Txt, &own("~all"))], Some((Error, "there are 2"))).await;
        check(
            &[("app.test", Txt, "v=spf1 ip4:192.0.2.1 -all")],
            Some((Error, "SPF says fail for mail from 198.17.100.7")),
        )
        .await;
        check(&[("app.test", Txt, &own("+all"))], Some((Error, "everybody"))).await;
        check(&[("app.test", Txt, &own("ptr ~all"))], Some((Warning, "uses ptr"))).await;
        check(&[("app.test", Txt, &own("include:gone.test ~all"))], Some((Error, "includes gone.test"))).await;
        let many: String = (0..11).map(|n| format!("exists:{n}.test ")).collect();
        check(&[("app.test", Txt, &own(&many))], Some((Error, "needs 11 look-ups"))).await;
        let void: String = (0..3).map(|n| format!("a:{n}.test ")).collect();
        check(&[("app.test", Txt, &own(&void))], Some((Error, "3 look-ups of the SPF record find nothing"))).await;
        check(&[("app.test", Txt, &own(&void)), ("0.test", A, "192.0.2.9")], None).await;
        let ranges: String = (0..30).map(|n| format!("ip4:192.0.{n}.0/24 ")).collect();
        check(&[("app.test", Txt, &own(&ranges))], Some((Warning, "bytes"))).await;
        let redirected =
            [("app.test", Txt, "v=spf1 ip4:198.17.100.7 include:b.test"), ("b.test", Txt, "v=spf1 include:app.test")];
        check(&redirected, Some((Error, "look-ups, and receivers give up"))).await;
    }
}
