//! DKIM (RFC 6376): that the public half of every key is published, on every authoritative server, as it has to be for a
//! signature to hold; and that each From domain has a key that signs.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::finding::{Check, Finding};
use super::look::Look;
use super::world::Kind;
use crate::config::findings::Severity;
use crate::destination::resolver::Settings;
use crate::dkim::record::zone_line;
use crate::dkim::{Key, SenderField, Terms, verify};
use crate::mail::message::Content;

/// Authoritative servers that are asked.
const SERVERS_MAX: usize = 8;
/// Keys are changed after half a year, as M3AAWG advises.
const OLD: Duration = Duration::from_secs(183 * 86_400);
/// For how long the test signature holds. Nobody else sees it; what verifies it goes by the machine's clock, which may be
/// years from the relay's in a simulation.
const LIFE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// All keys, and all From domains without one.
pub(super) async fn look(look: &Look<'_>) {
    let keys: Vec<&Key> = look.config.keys.all().collect();
    for domain in look.domains.iter().filter(|domain| look.config.keys.signing_domain(domain).is_none()) {
        let text = "no key signs mail from this domain, and big providers refuse unsigned mail";
        let mend = format!(
            "run `otp-relay dkim generate {domain} otp1`, publish what it prints, and add the [[dkim]] sections"
        );
        look.add(Finding::new(Severity::Error, Check::Dkim, domain, text).mend(mend));
    }
    join_all(keys.into_iter().map(|key| of_key(look, key))).await;
}

async fn of_key(look: &Look<'_>, key: &Key) {
    let name = format!("{}._domainkey.{}", key.selector(), key.domain());
    let age = key.made_at().map(|made_at| look.clock.wall().since(made_at));
    if let Some(age) = age.filter(|age| *age > OLD) {
        let text = format!("the key is {} days old", age.as_secs() / 86_400);
        let mend = format!("change it with `otp-relay dkim rotate {}`", key.domain());
        look.add(Finding::new(Severity::Note, Check::Dkim, &name, text).mend(mend));
    }
    let (published, servers) = tokio::join!(look.ask(&name, Kind::Txt), servers(look, key.domain()));
    let Some(published) = published else { return };
    let add = |severity, text: String, mend: &str| {
        let finding = Finding::new(severity, Check::Dkim, &name, text).mend(mend);
        look.add(finding.record(zone_line(key.domain(), key.selector(), key.record())));
    };
    if let Err(text) = compare(&published, key.record()) {
        return add(Severity::Error, text, "publish");
    }
    let asked = join_all(
        servers.iter().map(async |(server, address)| (server, look.names.ask_at(*address, &name, Kind::Txt).await)),
    );
    let (mut lacking, mut silent) = (Vec::new(), Vec::new());
    for (server, answer) in asked.await {
        match answer {
            Ok(texts) if compare(&texts, key.record()).is_ok() => {}
            Ok(_) => lacking.push(server.as_str()),
            Err(error) if error.is_answer() => lacking.push(server.as_str()),
            Err(_) => silent.push(server.as_str()),
        }
    }
    if !lacking.is_empty() {
        let text = format!("the authoritative server {} does not have the record", lacking.join(", "));
        return add(Severity::Error, text, "have the zone copied to all its servers; it has to hold");
    }
    if !silent.is_empty() && silent.len() < servers.len() {
        let text = format!("the authoritative server {} does not answer", silent.join(", "));
        look.add(
            Finding::new(Severity::Warning, Check::Dkim, &name, text).mend("see to it, or take it out of the zone"),
        );
    }
    if let Err(text) = verifies(look, key, &published[0]).await {
        add(Severity::Error, format!("a test signature does not hold by what DNS says: {text}"), "publish");
    }
}

/// The tags of a record, with white space taken out of values (RFC 6376 section 3.2).
fn tags(record: &str) -> impl Iterator<Item = (&str, String)> {
    record
        .split(';')
        .filter_map(|tag| tag.split_once('='))
        .map(|(name, value)| (name.trim(), value.chars().filter(|c| !c.is_whitespace()).collect()))
}

fn tag(record: &str, name: &str) -> Option<String> {
    tags(record).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// What is wrong with the texts at a key's name.
fn compare(published: &[String], own: &str) -> Result<(), String> {
    let [record] = published else {
        return Err(if published.is_empty() {
            "the key is not published".to_owned()
        } else {
            format!("there are {} records, and receivers may take any of them", published.len())
        });
    };
    let key = tag(record, "p").unwrap_or_default();
    if key.is_empty() {
        return Err("the record says that the key is revoked (p= is empty)".to_owned());
    }
    if tag(own, "p") != Some(key) || tag(own, "k") != Some(tag(record, "k").unwrap_or_else(|| "rsa".to_owned())) {
        return Err("another key is published than the one that signs".to_owned());
    }
    let flags = tag(record, "t").unwrap_or_default();
    if flags.split(':').any(|flag| flag == "y") {
        return Err("the record says t=y (testing), so that receivers treat signed mail as unsigned".to_owned());
    }
    let hashes = tag(record, "h");
    if hashes.is_some_and(|hashes| !hashes.split(':').any(|hash| hash == "sha256")) {
        return Err("the record forbids SHA-256 (h=), with which the relay signs".to_owned());
    }
    Ok(())
}

/// The authoritative servers of the zone that a domain is in.
async fn servers(look: &Look<'_>, domain: &str) -> Vec<(String, IpAddr)> {
    let above = std::iter::successors(Some(domain), |name| name.split_once('.').map(|(_, parent)| parent));
    for name in above.filter(|name| name.contains('.')) {
        // Names without a zone of their own have none.
        let Ok(servers) = look.names.ask(name, Kind::Ns).await else { continue };
        let found = join_all(servers.iter().take(SERVERS_MAX).map(|server| async {
            let addresses = look.ask(server, Kind::A).await.unwrap_or_default();
            addresses.first().and_then(|address| address.parse().ok()).map(|address| (server.clone(), address))
        }));
        return found.await.into_iter().flatten().collect();
    }
    Vec::new()
}

/// Signs a message and checks it as a receiver would, with the record that DNS has.
async fn verifies(look: &Look<'_>, key: &Key, record: &str) -> Result<(), String> {
    let now = look.clock.wall();
    let text = format!(
        "From: <check@{domain}>\r\nTo: <check@{domain}>\r\nSubject: check\r\nDate: {}\r\n\r\ncheck\r\n",
        now.rfc5322(),
        domain = key.domain()
    );
    let content = Content::split(Bytes::from(text.clone()));
    let terms = Terms { signed_at: now, life_ends_at: now.plus(LIFE), sender: SenderField::Closed };
    let signature = key.sign(&content, terms).ok_or("the key does not sign")?;
    let loopback = Settings { nameservers: vec![([127, 0, 0, 1], 53).into()], ..Settings::default() };
    // It asks nobody: the record is given.
    let resolver = crate::destination::resolver::resolver(&loopback).map_err(|error| error.to_string())?;
    let verdicts = verify::verify_against(resolver, format!("{signature}{text}").as_bytes(), record).await;
    let verdicts = verdicts.ok_or("the record cannot be read")?;
    verdicts.into_iter().try_for_each(|verdict| verdict.result)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{KEY, World, assert_one, summary};
    use super::*;

    async fn texts(world: &World) -> Vec<(Check, Severity, String)> {
        summary(world, |look| Box::pin(super::look(look))).await
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_of_a_key_is_one_finding() {
        let sound = World::sound();
        let record = sound.record();
        assert_eq!(texts(&sound).await, []);
        let other = crate::dkim::record::txt_record(&crate::dkim::record::generate_ed25519().unwrap()).unwrap();
        for (published, expected) in [
            (vec![], "the key is not published"),
            (vec![record.clone(), record.clone()], "there are 2 records"),
            (vec!["v=DKIM1; k=ed25519; p=".to_owned()], "revoked"),
            (vec![other], "another key is published"),
            (vec![record.replace("k=ed25519", "k=rsa")], "another key is published"),
            (vec![record.replace("k=ed25519", "t=s:y; k=ed25519")], "t=y (testing)"),
            (vec![record.replace("k=ed25519", "h=sha1; k=ed25519")], "forbids SHA-256"),
        ] {
            let mut world = World::sound();
            world.without(KEY, Kind::Txt);
            published.iter().for_each(|text| world.extend(&[(KEY, Kind::Txt, text)]));
            assert_one(&texts(&world).await, Severity::Error, expected);
        }
        // White space within a key is none of it.
        let mut world = World::sound();
        world.without(KEY, Kind::Txt);
        world.extend(&[(KEY, Kind::Txt, &record.replace("; ", " ;\t").replace("p=", "p= ").replace('A', " A"))]);
        assert_eq!(texts(&world).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn every_authoritative_server_is_asked() {
        let mut world = World::sound();
        world.at("203.1.113.2", KEY, &[]);
        assert_one(&texts(&world).await, Severity::Error, "server ns2.app.test does not have");
        world.silent("203.1.113.2");
        assert_one(&texts(&world).await, Severity::Warning, "does not answer");
    }

    #[tokio::test(start_paused = true)]
    async fn each_from_domain_has_a_key() {
        let mut world = World::sound();
        world.senders = "\"*@app.test\", \"*@mail.app.test\", \"*@other.test\"";
        assert_one(&texts(&world).await, Severity::Error, "no key signs");
    }
}
