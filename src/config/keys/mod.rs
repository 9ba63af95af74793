//! Every key there is, in the order of the commented file. A key is here and nowhere else: reading, `config/relay.toml`,
//! `otp-relay config`, the search for where a misplaced key belongs, and what SIGHUP takes on all follow from it.

mod clients;
mod mail_hosts;

use std::path::PathBuf;
use std::time::Duration;

use tracing::Level;

use super::Config;
use super::drafts::{EVENT, HookSettings, TARGET, Webhook};
use super::kinds::{
    ANY, Choice, FILE, FLAG, Flag, HOST_NAMES, Kind as _, List, Maybe, NoneBy, Number, Own, SECRET_FILE, SOCKET, Span,
    Text, quoted,
};
use super::table::Reload::{Live, Restart};
use super::table::{Key, SectionDescription, Table, Times, heading, keys};
use crate::http::{HookKind, Shape, Templates};
use crate::intake::options::LIFE;
use crate::ledger::embedded::key_ring::Sealing;
use crate::mail::address::is_domain_or_literal;
use crate::report::log::Format;
use crate::report::recipients::{Disclosure, Recipients};
use crate::report::webhooks::endpoint::Format as PostFormat;

pub(super) use clients::{acme, certificate, certificates, dkim, listener, otp, submission, user, verification};
pub(super) use mail_hosts::{delivery, destination, resolver, smart_host};

/// A folder of templates, or none.
const TEMPLATES: Own<Templates> = Own {
    read: |section, key| {
        let shown = section.text(key)?;
        if shown.value.is_empty() {
            return Some(Templates::default());
        }
        let folder = section.path(key)?;
        let loaded = Templates::load(&folder.value, &shown.value);
        loaded.map_err(|error| section.error(shown.line, key, &error.to_string())).ok()
    },
    write: |templates| Some(quoted(templates.folder())),
};

const DISCLOSURE: Choice<Disclosure> =
    Choice(&[("masked", Disclosure::Masked), ("full", Disclosure::Full), ("hashed", Disclosure::Hashed)]);

/// All sections, as the commented file has them.
pub(super) fn all() -> Vec<SectionDescription> {
    vec![
        top().described(),
        listener().described(),
        certificate().described(),
        certificates().described(),
        acme().described(),
        user().described(),
        submission().described(),
        otp().described(),
        verification().described(),
        dkim().described(),
        queue().described(),
        resolver().described(),
        delivery().described(),
        destination().described(),
        smart_host().described(),
        http().described(),
        hook().described(),
        webhook().described(),
        log().described(),
    ]
}

/// The sections that are there once.
pub(super) fn once() -> Vec<Table<Config>> {
    vec![
        top(),
        certificate(),
        acme(),
        submission(),
        otp(),
        verification(),
        queue(),
        resolver(),
        delivery(),
        http(),
        log(),
    ]
}

/// Where a key of this name belongs, in words; none if there is no such key.
pub(super) fn home(name: &str) -> Option<String> {
    let has_it = |section: &SectionDescription| section.keys.iter().any(|key| key.name == name);
    let homes: Vec<SectionDescription> = all().into_iter().filter(has_it).collect();
    if homes.iter().any(|section| section.heading.is_empty()) {
        return Some("it belongs to the top of the file, above the first heading".to_owned());
    }
    let headings: Vec<&str> = homes.iter().map(|section| section.heading.as_str()).collect();
    let belongs = format!("it belongs below {}; is that heading still commented out?", headings.join(" or "));
    (!headings.is_empty()).then_some(belongs)
}

/// The name of a key with that of its section, as a log line names it.
pub(super) fn full_name<S>(table: &Table<S>, key: &Key<S>) -> String {
    if table.name.is_empty() { key.name.to_owned() } else { format!("{}.{}", table.name, key.name) }
}

fn top() -> Table<Config> {
    let name = Text {
        form: "a host name like \"relay.example.com\"",
        parse: |text| is_domain_or_literal(text).then(|| text.to_ascii_lowercase()),
        write: String::clone,
    };
    let keys = keys! { Config;
        hostname => hostname, name, Restart,
            "The relay's name in EHLO and Received. Must resolve to the address it sends from, and back. Default: the \
             machine's name.".example("\"relay.example.com\"");
        data_dir => data_dir, FILE, Restart,
            "Queue, traces, learned facts and generated keys; made with mode 0700, everything in it 0600. Default: \
             the folder \"data\" beside this file; /var/lib/otp-relay for a file below /etc.".written("\"data\"");
    };
    Table::once("", "", keys)
}

fn queue() -> Table<Config> {
    let keys = keys! { Config;
        entries_max => queue.entries_max, Number(1, 10_000_000), Restart,
            "Entries (message times recipient) kept at most; above, new mail is refused with 452 and nothing accepted \
             is dropped. Where there are several users, one has three quarters of them at most.";
        seal => seal, Flag(Sealing::On, Sealing::Off), Restart,
            "Message content encrypted at rest, the key destroyed when the life ends. Takes effect at a start; what \
             was stored before stays as it was stored.";
        trace_retention => trace_retention, Span(Duration::from_secs(60), 365 * Duration::from_secs(86_400)), Restart,
            "How long traces are kept, from the message's acceptance; the oldest go earlier when there are a million, \
             or 1 GiB.";
    };
    Table::once("queue", "What is kept on disk.", keys)
}

fn http() -> Table<Config> {
    let address = NoneBy(
        "off",
        Text { form: "an IP address with a port, like \"127.0.0.1:8587\" or \"[::1]:8587\", or \"off\",", ..SOCKET },
    );
    let doors = List(Text {
        form: "one of \"emails\", \"email\" and \"mail_send\"",
        parse: Shape::by_name,
        write: |shape| shape.name().to_owned(),
    });
    let token = Own {
        read: |section, key| section.text(key).map(|text| PathBuf::from(text.value)),
        write: |path| Some(quoted(&path.to_string_lossy())),
    };
    let keys = keys! { Config;
        address => http.address, address, Restart,
            "Address and port of the HTTP API; \"off\" to disable. Beyond loopback, tls = true, or put a proxy with \
             TLS in front.";
        tls => http.tls, FLAG, Restart, "Everything over TLS (https), with the certificate of [tls].";
        hosts => http.hosts, HOST_NAMES, Live,
            "Names by which it may be asked, besides addresses, names without a dot and hostname. Any other name in \
             Host is answered with 421, unless a valid token comes along: a web page could have such a name lead \
             here. /healthz, /readyz and /metrics answer to every name.";
        doors => http.doors, doors, Live,
            "Compatible doors: requests in the shapes of other mail APIs, at /emails, /email and /v3/mail/send, so \
             that an app keeps its library. [] closes all.";
        token_file => http.token_file, token, Restart,
            "The operator's token, made at the first start; relative to data_dir. Users' own: token_hash above.";
        templates => http.templates, TEMPLATES, Live,
            "A folder with own words for the relay's mail: LANGUAGE.toml changes or adds a language, layout.toml the \
             layout. Empty: those that are built in, of which the repository has the files (templates/).";
    };
    Table::once("http", "The HTTP API.", keys)
}

/// `[[hook]]`.
pub(super) fn hook() -> Table<HookSettings> {
    let name = Text {
        form: "1 to 64 lower-case letters, digits, - and _,",
        parse: |text| {
            let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
            ((1..=64).contains(&text.len()) && text.bytes().all(is_allowed)).then(|| text.to_owned())
        },
        write: String::clone,
    };
    const KINDS: [(&str, HookKind); HookKind::ALL.len()] = [
        (HookKind::Supabase.name(), HookKind::Supabase),
        (HookKind::Logto.name(), HookKind::Logto),
        (HookKind::Zitadel.name(), HookKind::Zitadel),
    ];
    let kind = Choice(&KINDS);
    let keys = keys! { HookSettings;
        name => name, name, Live, "The last part of the path: /v1/hooks/auth."
            .example("\"auth\"").required("is missing");
        kind => kind, Maybe(kind), Live, "\"supabase\", \"logto\" or \"zitadel\"."
            .example("\"supabase\"").required("is missing");
        user => user, ANY, Live, "The user whose senders, budget and defaults count."
            .example("\"shop\"").required("is missing");
        from => from, ANY, Live, "The author of the mail, one of the user's senders."
            .example("\"Shop <otp@example.com>\"").required("is missing");
        app => app, Maybe(ANY), Live, "Named in the mail.".example("\"Example Shop\"");
        secret_file => secret_file, Maybe(SECRET_FILE), Live,
            "What proves a call, one a line while it is being changed. supabase: v1,whsec_...; zitadel: the signing \
             key; logto: the value of Authorization.".example("\"certs/hook.secret\"").required("is missing");
        locale => locale, ANY, Live, "The language of the mail where a call names none.";
        life => life, Span(LIFE.0, LIFE.1), Live, "How long the server's codes are valid.";
    };
    let help = "Identity servers that post the bare code: the relay writes the mail (docs/hooks.md).";
    Table::many("hook", help, keys)
}

/// `[[webhook]]`.
pub(super) fn webhook() -> Table<Webhook> {
    let format = Choice(&[("events", PostFormat::Events), ("emails", PostFormat::Emails)]);
    let keys = keys! { Webhook;
        url => url, Maybe(TARGET), Live, "Where events are posted. No other address is ever called."
            .example("\"https://app.example.com/otp-events\"").required("is missing");
        secret_file => secret_file, Maybe(SECRET_FILE), Live,
            "What posts are signed with (Standard Webhooks): one line, \"whsec_\" and base64; two while it is being \
             changed, the new one first. Read at start and on SIGHUP."
            .example("\"certs/webhook.secret\"")
            .required("is missing; `echo whsec_$(openssl rand -base64 32)` makes one");
        events => events, List(EVENT), Live, "Which events; empty: all."
            .example("[\"delivered\", \"failed\", \"expired\", \"at_risk\"]");
        users => users, List(ANY), Live, "Of whose messages; empty: of all.";
        format => format, format, Live,
            "\"events\": each event as GET /v1/events has it. \"emails\": as \"email.delivered\" and the like, for \
             apps that read those.";
    };
    let help = "Who is told of events. A post that is not taken is made again for 24 h, in the order of its message.";
    Table::many("webhook", help, keys)
}

fn log() -> Table<Config> {
    let format = Choice(&[("text", Format::Text), ("json", Format::Json), ("journald", Format::Journald)]);
    let recipients = Own {
        read: |section, key| DISCLOSURE.read(section, key).map(Recipients::new),
        write: |recipients| DISCLOSURE.write(&recipients.disclosure()),
    };
    let level = Choice(&[
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ]);
    let keys = keys! { Config;
        format => log.format, format, Restart,
            "\"text\": one aligned line an event; \"json\": an object a line; \"journald\": the journal's own fields \
             (ENTRY=, CAUSE=, RECIPIENT_HASH=).";
        recipients => log.recipients, recipients, Restart,
            "\"masked\" (a***e@example.com), \"full\", or \"hashed\" with a key that changes daily; also where mail \
             hosts quote addresses.";
        level => log.level, level, Restart,
            "\"error\", \"warn\", \"info\", \"debug\", \"trace\"; of the relay's own lines, libraries never below \
             warn.";
    };
    Table::once("log", "What is written to standard output.", keys)
}

/// The heading of a section that is there for each of something, as a log line names it.
pub(super) fn many(name: &str) -> String {
    heading(name, Times::Many)
}
