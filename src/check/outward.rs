//! The way out: connections to two providers from each source address, what address they see, and whether somebody in
//! between changes the conversation. Up to EHLO; with `--probe` up to MAIL FROM at the big ones. Never RCPT.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;

use super::Probe;
use super::clock;
use super::finding::{Check, Finding};
use super::look::Look;
use super::talk::Talk;
use super::world::Kind;
use crate::config::findings::Severity;
use crate::destination::public::is_public;
use crate::mail::registrable::registrable_domain;
use crate::policy::cause::of_reply;
use crate::smtp::client_session::Stage;
use crate::smtp::reply::Reply;

/// They answer everybody, and repeat the client's address.
const GREETED: [&str; 2] = ["gmail.com", "outlook.com"];
/// Whom `--probe` asks.
const PROBED: [&str; 8] =
    ["gmail.com", "outlook.com", "yahoo.com", "icloud.com", "gmx.de", "web.de", "t-online.de", "orange.fr"];

/// From where: the family, and the address where one is configured.
#[derive(Debug, Clone, Copy)]
struct From {
    address: IpAddr,
    bound: Option<IpAddr>,
}

impl From {
    fn fits(self, other: IpAddr) -> bool {
        self.address.is_ipv4() == other.is_ipv4()
    }
}

/// A host of a provider.
struct Host {
    provider: &'static str,
    name: String,
    addresses: Vec<IpAddr>,
}

pub(super) async fn look(look: &Look<'_>, probe: Probe) {
    let providers: &[&str] = match probe {
        Probe::Greeting => &GREETED,
        Probe::Sender => &PROBED,
    };
    let hosts: Vec<Host> =
        join_all(providers.iter().map(|provider| host_of(look, provider))).await.into_iter().flatten().collect();
    let is_bound = !look.config.delivery.source_addresses.is_empty();
    let sources: Vec<From> =
        look.own().iter().map(|address| From { address: *address, bound: is_bound.then_some(*address) }).collect();
    join_all(sources.into_iter().map(|from| from_source(look, from, &hosts, probe))).await;
}

async fn host_of(look: &Look<'_>, provider: &'static str) -> Option<Host> {
    let records = look.ask(provider, Kind::Mx).await?;
    let best = records.iter().filter_map(|record| record.split_once(' '));
    let (_, name) = best.min_by_key(|(preference, _)| preference.parse::<u16>().unwrap_or(u16::MAX))?;
    let addresses = look.addresses(name).await?;
    Some(Host { provider, name: name.to_owned(), addresses })
}

/// What came of a conversation.
struct Conversation {
    seen: Option<IpAddr>,
    is_reached: bool,
    why: String,
}

async fn from_source(look: &Look<'_>, from: From, hosts: &[Host], probe: Probe) {
    let may = |address: &&IpAddr| {
        from.fits(**address) && (look.config.delivery.allow_private_destinations || is_public(**address))
    };
    let reachable: Vec<(&Host, IpAddr)> =
        hosts.iter().filter_map(|host| Some((host, *host.addresses.iter().find(may)?))).collect();
    let heard = join_all(reachable.iter().map(|(host, address)| greet(look, from, host, *address, probe))).await;
    let greeted = reachable.iter().zip(&heard).filter(|((host, _), _)| GREETED.contains(&host.provider));
    let greeted: Vec<_> = greeted.collect();
    if !greeted.is_empty() && greeted.iter().all(|(_, heard)| !heard.is_reached) {
        let told: Vec<String> =
            greeted.iter().map(|((host, _), heard)| format!("{}: {}", host.name, heard.why)).collect();
        let port = look.config.delivery.port;
        let text = format!("no mail host can be reached at port {port} from here ({})", told.join("; "));
        let mend = "ask the hosting provider to open the port outwards (most have a form for it), or send by a smart host: \
                    [[smart_host]] address = \"smtp.example.com:587\", when = \"always\"";
        look.add(Finding::new(Severity::Error, Check::Port25, from.address.to_string(), text).mend(mend));
    }
    let seen = heard.iter().find_map(|heard| heard.seen);
    seen.into_iter().for_each(|seen| look.saw(seen));
    seen_address(look, from, seen);
}

/// Compares what is known here with what others see.
fn seen_address(look: &Look<'_>, from: From, seen: Option<IpAddr>) {
    let is_private_world = look.config.delivery.allow_private_destinations;
    let subject = from.address.to_string();
    let setting = if from.bound.is_some() { "[delivery] source_addresses: " } else { "" };
    let add = |severity, text: String, mend: &str| {
        look.add(Finding::new(severity, Check::SeenAddress, &subject, text).mend(mend));
    };
    match seen.filter(|seen| *seen != from.address) {
        Some(seen) if is_public(from.address) || is_private_world => add(
            Severity::Error,
            format!(
                "{setting}mail leaves from {subject}, and providers see it come from {seen}: there is a NAT in between"
            ),
            "SPF, PTR and the address of the EHLO name have to be about the address that they see",
        ),
        Some(seen) => add(
            Severity::Note,
            format!(
                "{setting}the address is private, and providers see {seen}, which is what SPF and PTR were looked at for"
            ),
            "",
        ),
        None if is_public(from.address) => {}
        None => add(
            if is_private_world { Severity::Note } else { Severity::Error },
            format!("{setting}the address is not one of the public internet, and no provider said which one it sees"),
            "see that the machine has a public address, and name it under [delivery] source_addresses",
        ),
    }
}

async fn greet(look: &Look<'_>, from: From, host: &Host, address: IpAddr, probe: Probe) -> Conversation {
    let to = SocketAddr::new(address, look.config.delivery.port);
    let mut talk = match Talk::open(look, to, from.bound).await {
        Ok(talk) => talk,
        Err(why) => return Conversation { seen: None, is_reached: false, why },
    };
    if let Some(seconds) = date_in(&talk.banner.text) {
        clock::compare(look, &host.name, seconds);
    }
    let Some(ehlo) = talk.ehlo.clone() else {
        refused(look, from, host, Stage::Banner, &talk.banner);
        talk.quit().await;
        return Conversation { seen: None, is_reached: true, why: String::new() };
    };
    if !ehlo.is_refusal() {
        between(look, host, &ehlo);
    }
    if probe == Probe::Sender {
        let sender = look.config.delivery.reverse_path.as_ref().map(ToString::to_string);
        let sender = sender.or_else(|| look.domains.first().map(|domain| format!("postmaster@{domain}")));
        if let Ok(reply) = talk.say(&format!("MAIL FROM:<{}>", sender.unwrap_or_default())).await {
            if reply.is_refusal() {
                refused(look, from, host, Stage::Mail, &reply);
            } else {
                let _ = talk.say("RSET").await;
            }
        }
    }
    talk.quit().await;
    Conversation { seen: seen_in(&ehlo), is_reached: true, why: String::new() }
}

/// What a provider says against the relay, explained.
fn refused(look: &Look<'_>, from: From, host: &Host, stage: Stage, reply: &Reply) {
    let meaning = of_reply(stage, reply).map_or("", |verdict| verdict.cause.meaning());
    let text = format!("{} says to {} at {}: {reply} ({meaning})", host.name, from.address, stage.name());
    let finding = Finding::new(Severity::Warning, Check::Provider, host.provider, text);
    look.add(
        finding
            .mend("`otp-relay explain` says more of it; ask the provider's postmaster, and use a smart host meanwhile"),
    );
}

/// The client's address in the reply to EHLO.
fn seen_in(ehlo: &Reply) -> Option<IpAddr> {
    let first = ehlo.text.lines().next()?;
    let (_, rest) = first.split_once('[')?;
    let (address, _) = rest.split_once(']')?;
    address.trim_start_matches("IPv6:").parse().ok()
}

/// Whether it is the provider that answers, with all that it offers.
fn between(look: &Look<'_>, host: &Host, ehlo: &Reply) {
    let mut lines = ehlo.text.lines();
    let name = lines.next().unwrap_or_default().split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    let words: Vec<String> =
        lines.filter_map(|line| line.split_whitespace().next()).map(str::to_ascii_uppercase).collect();
    let what = if registrable_domain(&name) != registrable_domain(&host.name) {
        format!("who answers for {} calls itself {name}", host.name)
    } else if words.iter().any(|word| word.len() > 2 && word.bytes().all(|octet| octet == b'X')) {
        format!("what {} offers arrives masked (XXXX)", host.name)
    } else if !words.iter().any(|word| word == "STARTTLS") {
        format!("{} offers no STARTTLS here, and offers it to everybody", host.name)
    } else {
        return;
    };
    let text = format!("somebody between the relay and the world changes the conversation: {what}");
    let finding = Finding::new(Severity::Error, Check::Middlebox, host.provider, text);
    look.add(
        finding.mend("turn off the SMTP inspection of the firewall (\"SMTP fixup\"), or ask the hosting provider"),
    );
}

/// The date that some hosts say in their banner, in seconds since 1970.
fn date_in(banner: &str) -> Option<u64> {
    let days = ["Mon, ", "Tue, ", "Wed, ", "Thu, ", "Fri, ", "Sat, ", "Sun, "];
    let at = days.iter().filter_map(|day| banner.find(day)).min()?;
    clock::seconds_in(&banner[at..])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    const GMAIL: &str =
        "220 mx.google.com ESMTP\r\n250-mx.google.com at your service, [198.17.100.7]\r\n250-STARTTLS\r\n250 SIZE\r\n";

    async fn texts(world: &World, probe: Probe) -> Vec<(Check, Severity, String)> {
        summary(world, move |look| Box::pin(super::look(look, probe))).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_way_out_is_looked_at() {
        assert_eq!(texts(&World::sound(), Probe::Greeting).await, []);
        for (says, check, severity, expected) in [
            (GMAIL.replace("100.7]", "100.8]"), Check::SeenAddress, Severity::Error, "see it come from 198.17.100.8"),
            (GMAIL.replace("-STARTTLS", "-8BITMIME"), Check::Middlebox, Severity::Error, "no STARTTLS"),
            (GMAIL.replace("-STARTTLS", "-XXXXXXXX"), Check::Middlebox, Severity::Error, "masked"),
            (
                GMAIL.replace("250-mx.google.com", "250-fw.test"),
                Check::Middlebox,
                Severity::Error,
                "calls itself fw.test",
            ),
            ("554 5.7.1 blocked\r\n".into(), Check::Provider, Severity::Warning, "says to 198.17.100.7 at banner: 554"),
            (
                GMAIL.replace("ESMTP", "ready at Thu, 26 Nov 2026 10:00:00 +0000"),
                Check::Clock,
                Severity::Error,
                "s from that of",
            ),
        ] {
            let mut world = World::sound();
            world.says("203.1.113.25", &says);
            let told = texts(&world, Probe::Greeting).await;
            assert_one(&told, severity, expected);
            assert_eq!(told[0].0, check);
        }
        let mut world = World::sound();
        world.hosts.clear();
        let told = texts(&world, Probe::Greeting).await;
        assert!(told.len() == 1 && told[0].0 == Check::Port25, "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_says_mail_and_no_recipient() {
        let mut world = World::sound();
        world.says("203.1.113.25", &format!("{GMAIL}550 5.7.1 S3140 your network is on our block list\r\n"));
        let told = texts(&world, Probe::Sender).await;
        assert!(told.len() == 1 && told[0].0 == Check::Provider && told[0].2.contains("S3140"), "{told:?}");
        let heard = world.heard.lock().clone();
        assert!(heard.iter().any(|line| line == "MAIL FROM:<postmaster@app.test>"), "{heard:?}");
        assert!(!heard.iter().any(|line| line.starts_with("RCPT")), "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn private_addresses_are_told() {
        let mut world = World::sound();
        world.source = "10.0.0.7";
        let told = texts(&world, Probe::Greeting).await;
        assert!(told.len() == 1 && told[0].0 == Check::SeenAddress && told[0].1 == Severity::Note, "NAT: {told:?}");
        world.says("203.1.113.25", &GMAIL.replace(", [198.17.100.7]", ""));
        assert_eq!(texts(&world, Probe::Greeting).await[0].1, Severity::Error);
        world.delivery = "allow_private_destinations = true";
        assert_eq!(texts(&world, Probe::Greeting).await[0].1, Severity::Note);
    }
}
