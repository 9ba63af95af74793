//! DMARC by the tree walk of RFC 9989, and whether From, reverse-path and signatures belong together by it.

use futures_util::future::join_all;

use super::finding::{Check, Finding};
use super::look::Look;
use super::world::Kind;
use crate::config::findings::Severity;

/// Names asked for on the way from a domain up (RFC 9989 section 4.10).
const STEPS_MAX: usize = 8;
/// Tags that RFC 9989 took out.
const REMOVED: [&str; 3] = ["pct", "rf", "ri"];

/// What stands at the names from a domain up, the longest first.
struct Walk(Vec<(String, Vec<String>)>);

/// Every From domain.
pub(super) async fn look(look: &Look<'_>) {
    let below = look.config.sender_domains().into_iter().filter(|sender| sender.is_below).map(|sender| sender.domain);
    let below: Vec<String> = below.filter(|domain| !look.domains.contains(domain)).collect();
    let each = look.domains.iter().chain(&below).map(|domain| of_domain(look, domain));
    join_all(each).await;
}

async fn walk(look: &Look<'_>, domain: &str) -> Option<Walk> {
    let all: Vec<&str> =
        std::iter::successors(Some(domain), |name| name.split_once('.').map(|(_, parent)| parent)).collect();
    // Of a long name the middle is left out.
    let skipped = all.len().saturating_sub(STEPS_MAX);
    let names = all.iter().enumerate().filter(|(at, _)| *at == 0 || *at > skipped).map(|(_, name)| *name);
    let asked = join_all(names.map(|name| async move {
        let texts = look.ask(&format!("_dmarc.{name}"), Kind::Txt).await?;
        Some((name.to_owned(), texts.into_iter().filter(|text| is_dmarc(text)).collect()))
    }));
    asked.await.into_iter().collect::<Option<Vec<_>>>().map(Walk)
}

fn is_dmarc(text: &str) -> bool {
    tags(text).next().is_some_and(|(name, value)| name.eq_ignore_ascii_case("v") && value == "DMARC1")
}

fn tags(record: &str) -> impl Iterator<Item = (&str, &str)> {
    record.split(';').filter_map(|tag| tag.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

fn tag<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    tags(record).find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Walk {
    /// The organisational domain (RFC 9989 section 4.10.2): where a record says `psd=n`, or one below `psd=y`, else the
    /// shortest name with a record; without any the domain itself.
    fn organization(&self) -> &str {
        let single = |texts: &[String]| if let [text] = texts { Some(text.clone()) } else { None };
        let mut below = None;
        for (name, texts) in &self.0 {
            let psd = single(texts).and_then(|text| tag(&text, "psd").map(str::to_ascii_lowercase));
            match psd.as_deref() {
                Some("n") => return name,
                Some("y") if below.is_some() => return below.unwrap_or(name),
                _ => below = Some(name.as_str()),
            }
        }
        let shortest = self.0.iter().rev().find(|(_, texts)| texts.len() == 1);
        shortest.or(self.0.first()).map_or("", |(name, _)| name)
    }

    /// The record that counts, and at which name; the domain's own comes before its organisation's.
    fn policy(&self) -> Option<(&str, &[String])> {
        let own = self.0.first().filter(|(_, texts)| !texts.is_empty());
        let above = self.0.iter().find(|(name, _)| name == self.organization());
        let found = own.or(above.filter(|(_, texts)| !texts.is_empty()))?;
        Some((&found.0, &found.1))
    }
}

fn record_for(domain: &str) -> String {
    format!("_dmarc.{domain}. 3600 IN TXT \"v=DMARC1; p=none; rua=mailto:postmaster@{domain}\"")
}

async fn of_domain(look: &Look<'_>, domain: &str) {
    let Some(walk) = walk(look, domain).await else { return };
    let add = |severity, text: String, mend: &str, record: Option<String>| {
        let finding = Finding::new(severity, Check::Dmarc, domain, text).mend(mend);
        look.add(record.into_iter().fold(finding, Finding::record));
    };
    let Some((at, texts)) = walk.policy() else {
        let text = "there is no DMARC record, and big providers refuse mail without one";
        return add(Severity::Error, text.into(), "publish", Some(record_for(domain)));
    };
    let [record] = texts else {
        let text = format!("_dmarc.{at} has {} DMARC records, which count as none", texts.len());
        return add(Severity::Error, text, "keep one of them, such as", Some(record_for(at)));
    };
    let policy = tag(record, "p").map(str::to_ascii_lowercase);
    match policy.as_deref() {
        Some("none" | "quarantine" | "reject") => {}
        Some(other) => {
            let text = format!("the DMARC record at _dmarc.{at} says p={other}, which is no policy");
            return add(Severity::Error, text, "say p=none, p=quarantine or p=reject", None);
        }
        None => {
            let text = format!("the DMARC record at _dmarc.{at} has no p=, which some providers count as none");
            return add(Severity::Warning, text, "publish", Some(with_policy(at, record)));
        }
    }
    reports(look, at, record, &add).await;
    let removed: Vec<&str> = REMOVED.into_iter().filter(|name| tag(record, name).is_some()).collect();
    if !removed.is_empty() {
        let text =
            format!("the DMARC record at _dmarc.{at} has tags that are not used any more: {}", removed.join(", "));
        add(Severity::Note, text, "take them out", None);
    }
    modes(look, domain, record, &add);
    reverse_path(look, domain, walk.organization()).await;
}

fn with_policy(at: &str, record: &str) -> String {
    let rest: Vec<&str> = record.split(';').skip(1).map(str::trim).filter(|tag| !tag.is_empty()).collect();
    let all = [vec!["v=DMARC1", "p=none"], rest].concat();
    format!("_dmarc.{at}. 3600 IN TXT \"{}\"", all.join("; "))
}

type Add<'a> = dyn Fn(Severity, String, &str, Option<String>) + Send + Sync + 'a;

/// Whoever gets reports of another organisation has to agree (RFC 9990 section 4).
async fn reports(look: &Look<'_>, at: &str, record: &str, add: &Add<'_>) {
    let Some(rua) = tag(record, "rua") else {
        let text = format!("the DMARC record at _dmarc.{at} has no rua=, so that nobody learns what fails");
        return add(Severity::Note, text, "add rua=mailto: and an address", None);
    };
    for uri in rua.split(',').map(str::trim) {
        let Some(domain) = uri.strip_prefix("mailto:").and_then(|rest| rest.rsplit_once('@')).map(|(_, domain)| domain)
        else {
            let text = format!("the DMARC record at _dmarc.{at} sends reports to {uri}, which is no mailto: address");
            add(Severity::Warning, text, "say rua=mailto: and an address", None);
            continue;
        };
        let domain = domain.split('!').next().unwrap_or(domain).to_ascii_lowercase();
        let Some(theirs) = walk(look, &domain).await else { continue };
        let Some(ours) = walk(look, at).await else { continue };
        if theirs.organization() == ours.organization() || domain == at || at.ends_with(&format!(".{domain}")) {
            continue;
        }
        let name = format!("{at}._report._dmarc.{domain}");
        if look.ask(&name, Kind::Txt).await.is_some_and(|texts| !texts.iter().any(|text| is_dmarc(text))) {
            let text =
                format!("the DMARC reports of {at} go to {domain}, which does not agree to it, so nobody sends them");
            let record = format!("{name}. 3600 IN TXT \"v=DMARC1\"");
            add(Severity::Warning, text, "have the owner of that domain publish", Some(record));
        }
    }
}

/// Signatures of a parent domain's key, and the reverse-path, do not count where the record is strict.
fn modes(look: &Look<'_>, domain: &str, record: &str, add: &Add<'_>) {
    let is_strict = |name: &str| tag(record, name).is_some_and(|value| value.eq_ignore_ascii_case("s"));
    let of_keys = look.config.keys.signing_domain(domain);
    let has_below = look.config.sender_domains().iter().any(|sender| sender.is_below && sender.domain == domain);
    if let Some(signing) = of_keys.filter(|signing| is_strict("adkim") && (*signing != domain || has_below)) {
        let senders = if has_below { format!("*.{domain}") } else { domain.to_owned() };
        let text = format!(
            "[[dkim]] the DMARC record of {domain} says adkim=s, so the signatures of {signing} do not count for senders of \
             {senders}"
        );
        add(Severity::Warning, text, "give each of these domains a key of its own, or publish adkim=r", None);
    }
    let reverse_path = look.bounce_domain();
    if let Some(other) = reverse_path.filter(|other| is_strict("aspf") && other != domain) {
        let text =
            format!("the DMARC record of {domain} says aspf=s, so SPF of the reverse-path {other} does not count");
        add(Severity::Note, text, "publish aspf=r; DKIM counts by itself", None);
    }
}

/// Mail passes DMARC by SPF only where reverse-path and From have one organisation.
async fn reverse_path(look: &Look<'_>, domain: &str, organization: &str) {
    let reverse_path = look.bounce_domain();
    let Some(other) = reverse_path.filter(|other| other != domain) else { return };
    let Some(theirs) = walk(look, &other).await else { return };
    let same = theirs.organization() == organization || other.ends_with(&format!(".{organization}"));
    if !same {
        let text =
            format!("the reverse-path is at {other}, another organisation's domain: SPF does not count for DMARC");
        let mend = format!("set delivery.reverse_path to an address at {organization} or below it");
        look.add(Finding::new(Severity::Warning, Check::Alignment, domain, text).mend(mend));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    async fn texts(world: &World) -> Vec<(Check, Severity, String)> {
        summary(world, |look| Box::pin(super::look(look))).await
    }

    fn with(record: &[&str]) -> World {
        let mut world = World::sound();
        world.without("_dmarc.app.test", Kind::Txt);
        record.iter().for_each(|text| world.extend(&[("_dmarc.app.test", Kind::Txt, text)]));
        world
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_is_one_finding() {
        use Severity::{Error, Note, Warning};
        assert_eq!(texts(&World::sound()).await, []);
        let good = "v=DMARC1; p=none; rua=mailto:a@app.test";
        for (records, severity, expected) in [
            (&[][..], Error, "no DMARC record"),
            (&["v=DMARC2; p=none"], Error, "no DMARC record"),
            (&[good, good], Error, "has 2 DMARC records"),
            (&["v=DMARC1; rua=mailto:a@app.test"], Warning, "has no p="),
            (&["v=DMARC1; p=maybe; rua=mailto:a@app.test"], Error, "p=maybe"),
            (&["v=DMARC1; p=none"], Note, "has no rua="),
            (&["v=DMARC1; p=none; rua=https://app.test/"], Warning, "no mailto:"),
            (&["v=DMARC1; p=none; rua=mailto:a@reports.test"], Warning, "does not agree"),
            (&["v=DMARC1; p=none; pct=50; rua=mailto:a@app.test"], Note, "not used any more: pct"),
        ] {
            assert_one(&texts(&with(records)).await, severity, expected);
        }
        let mut agreed = with(&["v=DMARC1; p=none; rua=mailto:a@reports.test!10m"]);
        agreed.extend(&[("app.test._report._dmarc.reports.test", Kind::Txt, "v=DMARC1")]);
        assert_eq!(texts(&agreed).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn strict_alignment_is_told() {
        let check = async |senders: &'static str, records: &[(&str, Kind, &str)], expected: usize| {
            let mut world = World::sound();
            world.senders = senders;
            for (name, kind, _) in records {
                world.without(name, *kind);
            }
            world.extend(records);
            let told = texts(&world).await;
            let strict = told.iter().filter(|(check, _, text)| *check == Check::Dmarc && text.contains("adkim=s"));
            assert_eq!(strict.count(), expected, "{senders}: {told:?}");
        };
        let strict = [("_dmarc.app.test", Kind::Txt, "v=DMARC1; p=reject; adkim = S; aspf=r")];
        let own = [
            ("_dmarc.app.test", Kind::Txt, "v=DMARC1; p=none; adkim=s"),
            ("_dmarc.mail.app.test", Kind::Txt, "v=DMARC1; p=none"),
        ];
        check("\"*@mail.app.test\"", &strict, 1).await;
        check("\"*@a.b.app.test\", \"*@*.app.test\"", &strict, 2).await;
        check("\"*@app.test\"", &strict, 0).await;
        check("\"*@mail.app.test\"", &[("_dmarc.app.test", Kind::Txt, "v=DMARC1; p=reject; aspf=s")], 0).await;
        check("\"*@mail.app.test\"", &own, 0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_reverse_path_of_somebody_else_is_told() {
        let mut world = World::sound();
        world.delivery = "reverse_path = \"bounces@other.test\"";
        let told = texts(&world).await;
        assert!(told.len() == 1 && told[0].0 == Check::Alignment, "{told:?}");
        world.delivery = "reverse_path = \"bounces@bounce.app.test\"";
        assert_eq!(texts(&world).await, []);
    }
}
