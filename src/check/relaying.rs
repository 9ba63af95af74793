//! Who may send: trusted networks are the operator's own, the API is not open to all, and the running relay takes nothing
//! from whoever has not logged in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::finding::{Check, Finding};
use super::look::Look;
use super::talk::Talk;
use crate::config::findings::Severity;
use crate::destination::public::is_public;
use crate::submission::listener::{ListenerSettings, ListenerTls};

/// Nobody's, for ever (RFC 2606).
const NOBODY: &str = "check@otp-relay-check.invalid";

pub(super) async fn look(look: &Look<'_>) {
    for listener in &look.config.listeners {
        for network in &listener.trusted_networks {
            trusted(look, listener, network);
        }
    }
    let http = &look.config.http;
    if let Some(address) = http.address.filter(|address| !http.tls && !is_own(address.ip())) {
        let text = "the HTTP API answers other machines in clear text, so that tokens and codes can be read on the way";
        let mend = "set http.address to a loopback address, and put a proxy with TLS in front of it";
        look.add(Finding::new(Severity::Warning, Check::Relaying, address.to_string(), text).mend(mend));
    }
    for listener in &look.config.listeners {
        try_out(look, listener).await;
    }
}

fn is_own(address: IpAddr) -> bool {
    address.is_loopback()
}

fn trusted(look: &Look<'_>, listener: &ListenerSettings, network: &IpNet) {
    let subject = network.to_string();
    let at = listener.address;
    if is_public(network.addr()) && network.prefix_len() < network.max_prefix_len() {
        let text = format!("a network of the public internet may send at {at} without logging in");
        let mend = "name single addresses, or have the apps log in";
        look.add(Finding::new(Severity::Warning, Check::Relaying, subject, text).mend(mend));
    }
}

/// Asks the running relay, from this machine, to take mail for somebody without a login.
async fn try_out(look: &Look<'_>, listener: &ListenerSettings) {
    let own = if listener.address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listener.address.ip() };
    let of_us = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&own));
    if listener.tls == ListenerTls::Implicit
        || of_us(&listener.trusted_networks)
        || of_us(&listener.proxy_protocol_from)
    {
        return;
    }
    let Ok(mut talk) = Talk::open(look, SocketAddr::new(own, listener.address.port()), None).await else { return };
    let is_taken = async {
        let _ = talk.say(&format!("MAIL FROM:<{NOBODY}>")).await?;
        talk.say(&format!("RCPT TO:<{NOBODY}>")).await
    };
    if is_taken.await.is_ok_and(|reply| !reply.is_refusal()) {
        let text = "whoever connects may send to anybody without logging in: an open relay answers here";
        let mend = "see what listens at this address";
        look.add(Finding::new(Severity::Error, Check::Relaying, listener.address.to_string(), text).mend(mend));
    }
    talk.quit().await;
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, assert_one, summary};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_sends_without_a_login() {
        let told = async |world: &World| summary(world, |look| Box::pin(super::look(look))).await;
        assert_eq!(told(&World::sound()).await, []);
        let check = async |listener: &'static str, severity, expected: &str| {
            let mut world = World::sound();
            world.listener = listener;
            assert_one(&told(&world).await, severity, expected);
        };
        check("auth = \"trusted\"\ntrusted_networks = [\"8.8.0.0/16\"]", Severity::Warning, "public internet").await;
        let mut world = World::sound();
        world.listener = "auth = \"trusted\"\ntrusted_networks = [\"10.0.0.0/8\", \"8.8.8.8/32\"]";
        assert_eq!(told(&world).await, []);
        let greeting = "220 a\r\n250 a\r\n250 ok\r\n";
        world.says("127.0.0.1", &format!("{greeting}530 5.7.0 log in\r\n"));
        assert_eq!(told(&world).await, []);
        world.says("127.0.0.1", &format!("{greeting}250 ok\r\n"));
        assert_eq!(told(&world).await.len(), 1);
    }
}
