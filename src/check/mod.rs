//! What the world sees of the relay, and what of it would keep its mail from being believed: names, addresses, records, keys,
//! the way out, the machine. Everything is asked over two seams, [`world::Names`] and [`crate::net::Network`]; each finding
//! says what is wrong and how to mend it. Nothing is changed, and no recipient is ever named to a host of somebody else.

mod blocklists;
mod certificate;
mod clock;
mod demands;
mod dmarc;
mod domains;
mod finding;
mod keys;
mod look;
mod machine;
mod outward;
mod own_names;
mod relaying;
mod resolver;
mod smart_hosts;
mod spf;
mod talk;
#[cfg(test)]
mod testing;
mod webhooks;
pub(crate) mod world;

use std::time::Duration;

pub(crate) use finding::{Check, Finding};
pub(crate) use look::Look;

/// How long everything takes together, with what is left to print it.
const TIME_MAX: Duration = Duration::from_millis(4_500);
/// How long the way out is looked at where the rest has to wait for it.
const OUTWARD_MAX: Duration = Duration::from_millis(2_200);

/// What is looked at beside what always is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Whether the big providers are asked what they say to MAIL FROM.
    pub(crate) probe: Probe,
    /// Whether block lists are asked for the own addresses.
    pub(crate) blocklists: Blocklists,
}

/// `--probe`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Two providers, up to EHLO.
    #[default]
    Greeting,
    /// The big ones, up to MAIL FROM.
    Sender,
}

/// `--blocklists`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Blocklists {
    /// They are not asked.
    #[default]
    Leave,
    /// They are asked, once.
    Ask,
}

/// Everything that can be seen from outside and on this machine, in the order of the checks.
pub(crate) async fn online(look: &Look<'_>, extent: Extent) -> Vec<Finding> {
    let deadline = look.clock.instant() + TIME_MAX;
    let outward = outward::look(look, extent.probe);
    if look.lacks_public_source() {
        let until = look.clock.instant() + OUTWARD_MAX;
        look.until(until, Check::Port25, outward).await;
        tokio::join!(of_dns(look, deadline), beside(look, extent, deadline));
    } else {
        let outward = look.until(deadline, Check::Port25, outward);
        tokio::join!(outward, of_dns(look, deadline), beside(look, extent, deadline));
    }
    clock::unasked(look);
    demands::look(look);
    look.findings()
}

/// What DNS has to say, which is asked again daily.
pub(crate) async fn dns(look: &Look<'_>) -> Vec<Finding> {
    of_dns(look, look.clock.instant() + TIME_MAX).await;
    look.findings()
}

async fn of_dns(look: &Look<'_>, deadline: std::time::Instant) {
    tokio::join!(
        look.until(deadline, Check::EhloName, own_names::look(look)),
        look.until(deadline, Check::Spf, spf::look(look)),
        look.until(deadline, Check::Dkim, keys::look(look)),
        look.until(deadline, Check::Dmarc, dmarc::look(look)),
        look.until(deadline, Check::FromDomain, domains::look(look)),
        look.until(deadline, Check::Resolver, resolver::look(look)),
    );
    resolver::unanswered(look);
}

async fn beside(look: &Look<'_>, extent: Extent, deadline: std::time::Instant) {
    certificate::look(look);
    tokio::join!(
        look.until(deadline, Check::DataFolder, machine::look(look)),
        look.until(deadline, Check::Relaying, relaying::look(look)),
        look.until(deadline, Check::SmartHost, smart_hosts::look(look)),
        look.until(deadline, Check::Webhook, webhooks::look(look)),
        look.until(deadline, Check::BounceDomain, domains::bounces(look)),
        look.until(deadline, Check::Blocklist, blocklists::look(look, extent.blocklists)),
    );
}
