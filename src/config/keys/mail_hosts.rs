//! The keys of the way out: DNS, mail hosts, other relays.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::Config;
use super::super::drafts::{ADDRESS, SmartHostSettings, USERNAME};
use super::super::kinds::{
    ADDRESSES, Choice, DOMAINS, FLAG, List, Maybe, NoneBy, Number, Own, SECRET_FILE, Span, Text, quoted, usable_file,
};
use super::super::table::Reload::{Live, Restart};
use super::super::table::{Table, keys};
use crate::delivery::Exception;
use crate::delivery::smart_host::Tls;
use crate::destination::demand::Strictness;
use crate::destination::resolver::{self, Dnssec};
use crate::mail::address::Mailbox;
use crate::policy::failover::When;
use crate::smtp::extension::{Feature, Features};
use crate::tls;

const STRICTNESS: Choice<Strictness> = Choice(&[
    ("opportunistic", Strictness::Opportunistic),
    ("verify", Strictness::Verify),
    ("dane", Strictness::Dane),
    ("none", Strictness::None),
]);

pub(in crate::config) fn resolver() -> Table<Config> {
    let servers = List(Text {
        form: "an address like \"127.0.0.1:53\"",
        parse: |text| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53))),
        write: SocketAddr::to_string,
    });
    let dnssec = Own {
        read: |section, key| {
            section.flag_or_word(key, "auto").map(|flag| match flag {
                None => Dnssec::Auto,
                Some(true) => Dnssec::On,
                Some(false) => Dnssec::Off,
            })
        },
        write: |dnssec| {
            let word = match dnssec {
                Dnssec::Auto => "\"auto\"",
                Dnssec::On => "true",
                Dnssec::Off => "false",
            };
            Some(word.to_owned())
        },
    };
    let anchor = Own {
        read: |section, key| usable_file::read(section, key, |path| resolver::trust_anchors(path).map(drop)),
        write: usable_file::write,
    };
    let keys = keys! { Config;
        nameservers => resolver.nameservers, servers, Restart,
            "Name servers, like \"127.0.0.1:53\"; empty: the system's.";
        dnssec => resolver.dnssec, dnssec, Restart,
            "\"auto\": DNSSEC where the resolver carries it, elsewhere DANE is off; true: always, without it nothing \
             resolves; false. Resolvers that do not know EDNS are asked without it, but with true.";
        trust_anchor => resolver.trust_anchor, anchor, Restart,
            "A file with trust anchors, DNSKEY records as in a zone file; empty: the root's.";
    };
    Table::once("resolver", "How DNS is asked.", keys)
}

pub(in crate::config) fn delivery() -> Table<Config> {
    let addresses = List(Text { form: "an IP address", parse: |text| text.parse().ok(), write: IpAddr::to_string });
    let authorities = Own {
        read: |section, key| {
            usable_file::read(section, key, |path| {
                tls::read_certificates(path).map(drop).map_err(|error| error.to_string())
            })
        },
        write: usable_file::write,
    };
    let path = NoneBy(
        "",
        Text { form: "an address, or \"\",", parse: |text| Mailbox::parse(text).ok(), write: Mailbox::to_string },
    );
    let keys = keys! { Config;
        port => delivery.port, Number(1, 65_535), Restart, "Port of mail hosts.";
        source_addresses => delivery.source_addresses, addresses, Restart,
            "Addresses to send from, which this machine has to have; a sender and a recipient domain always get the \
             same one. Empty: the system chooses.";
        connections_per_destination_max => delivery.connections_per_destination_max, Number(1, 1000), Restart,
            "Sessions with one destination; a quarter of them is kept for codes.";
        allow_private_destinations => delivery.allow_private_destinations, FLAG, Restart,
            "Deliver to mail hosts at loopback and private addresses.";
        only_to => intake.only_to, ADDRESSES, Live,
            "Staging: recipients outside these patterns are refused at RCPT. Empty: no limit.";
        connect_timeout => delivery.connect_timeout, Span(Duration::from_millis(100), Duration::from_secs(60)), Restart,
            "For a TCP connection to one address of a mail host.";
        tls => delivery.tls, STRICTNESS, Restart,
            "\"opportunistic\": encrypt where offered, with whatever certificate, unless DANE, MTA-STS or REQUIRETLS \
             ask for more. \"verify\": a valid certificate for the host's name, or DANE. \"dane\": DANE; hosts \
             without it get nothing. \"none\": no TLS.";
        ca_file => delivery.ca_file, authorities, Restart,
            "A file with more roots for verified TLS and for fetching MTA-STS policies, besides the system's (or the \
             built-in).";
        reverse_path => delivery.reverse_path, path, Restart,
            "One address for the reverse-path of all mail, so that greylists see one sender; empty: the client's.";
    };
    Table::once("delivery", "How mail goes to mail hosts.", keys)
}

/// `[[destination]]`.
pub(in crate::config) fn destination() -> Table<Exception> {
    let domains = List(Text {
        form: "a pattern like \"*.example.com\"",
        parse: |text| (DOMAINS.0.parse)(text).map(|pattern| pattern.to_ascii_lowercase()),
        write: String::clone,
    });
    let avoid = Own {
        read: |section, key| {
            let form = "one of \"chunking\", \"pipelining\", \"starttls\", \"8bitmime\", \"smtputf8\"";
            let feature = |text: &str| Feature::ALL.into_iter().find(|feature| feature.keyword() == text);
            section.parsed_list(key, form, feature).map(|list| list.into_iter().collect())
        },
        write: |features: &Features| {
            let keywords: Vec<String> = features.iter().map(|feature| quoted(feature.keyword())).collect();
            Some(format!("[{}]", keywords.join(", ")))
        },
    };
    let keys = keys! { Exception;
        domains => domains, domains, Restart, "\"example.net\", \"*.example.net\".".example("[\"*.example.net\"]");
        connections_max => connections_max, Maybe(Number(1, 1000)), Restart,
            "Sessions with the destination; default: delivery.connections_per_destination_max.".example("20");
        tls => tls, Maybe(STRICTNESS), Restart, "As [delivery] tls; the first section that covers the domain counts."
            .example("\"verify\"");
        avoid => avoid, Maybe(avoid), Restart,
            "Not used there although the hosts offer it: \"chunking\", \"pipelining\", \"starttls\", \"8bitmime\", \
             \"smtputf8\". What a host does not support is found out anyway, and left out for a day. TLS that DANE, \
             MTA-STS or the message demand stays demanded.".example("[\"chunking\"]");
    };
    Table::many("destination", "Exceptions for recipient domains.", keys)
}

/// `[[smart_host]]`.
pub(in crate::config) fn smart_host() -> Table<SmartHostSettings> {
    let tls = Choice(&[
        ("verify", Tls::Verify),
        ("implicit", Tls::Implicit),
        ("opportunistic", Tls::Opportunistic),
        ("none", Tls::Never),
    ]);
    let when = Choice(&[("deadline", When::Deadline), ("direct-failed", When::DirectFailed), ("always", When::Always)]);
    let keys = keys! { SmartHostSettings;
        address => address, ADDRESS, Live, "Host and port."
            .example("\"smtp.fallback.example:587\"")
            .required("is missing; write address = \"smtp.example.com:587\", say");
        tls => tls, tls, Live,
            "\"verify\": STARTTLS, with the certificate of the named host; \"implicit\": the same where TLS begins \
             with the connection (port 465); \"opportunistic\": STARTTLS where it is offered, with any certificate; \
             \"none\". Only with the first two can there be a username: a password is never sent over an unverified \
             session. delivery.ca_file names more certificate authorities.";
        username => username, Maybe(USERNAME), Live, "Whom to log in.".example("\"relay\"");
        password_file => password_file, Maybe(SECRET_FILE), Live,
            "One line; read at start and on SIGHUP. Nobody else should be able to read it."
            .example("\"certs/smart-host.password\"");
        when => when, when, Live,
            "\"deadline\": when direct delivery cannot make it in time; \"direct-failed\": also when it failed for a \
             reason that another sender may not have (reputation, rate, policy, nobody answers); \"always\": from the \
             first attempt on.";
        domains => domains, DOMAINS, Live, "Recipient domains it is used for.";
    };
    let help = "Other relays to hand mail to, tried in order; their addresses may be private.";
    Table::many("smart_host", help, keys)
}
