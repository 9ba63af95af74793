//! The keys of what faces clients: who may come, and what is taken from them.

use std::sync::Arc;
use std::time::Duration;

use super::super::drafts::{Auth, DkimKey, Listener, SENDERS, UserSettings};
use super::super::kinds::{
    ANY, Choice, FILE, FLAG, HOST_NAMES, List, Maybe, NETWORKS, NoneBy, Number, RATE, SECRET_FILE, SOCKET, Secret,
    Size, Span, Text,
};
use super::super::table::Reload::{Live, Restart};
use super::super::table::{Key, Table, keys};
use super::super::{Certificate, Config};
use crate::accounts::credentials::{PasswordHash, TokenHash};
use crate::accounts::supersede::Supersede;
use crate::accounts::user::KEY_OF_RECIPIENT;
use crate::base::lane::{self, Lane};
use crate::base::rate::Rate;
use crate::base::units::{self, duration_text};
use crate::intake::idempotency::MEMORY;
use crate::intake::options::{self, LIFE};
use crate::intake::stamp::LongLines;
use crate::submission::listener::ListenerTls;
use crate::tls::acme::Challenge;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const LANES: Choice<Lane> = Choice(&lane::NAMED);
const SUPERSEDE: Choice<Supersede> =
    Choice(&[("by-key", Supersede::ByKey), ("same-recipient", Supersede::SameRecipient), ("off", Supersede::Off)]);
const BUDGET: NoneBy<Rate> = NoneBy("off", Text { form: "a rate like \"5/10m\", or \"off\",", ..RATE });
const USER_NAME: Text<Arc<str>> = Text {
    form: "a name of 1 to 64 characters, none of them control characters,",
    parse: |text| {
        let fits = !text.is_empty() && text.len() <= 64 && !text.contains(char::is_control);
        fits.then(|| text.into())
    },
    write: |name| name.to_string(),
};
const PASSWORD_HASH: Text<PasswordHash> = Text {
    form: "a hash from `otp-relay user hash` (SCRAM-SHA-256$... or $argon2id$...)",
    parse: PasswordHash::from_text,
    write: |_| String::new(),
};
const TOKEN_HASH: Text<TokenHash> =
    Text { form: "a hash from `otp-relay user hash --token`", parse: TokenHash::from_text, write: |_| String::new() };

/// `[[listener]]`.
pub(in crate::config) fn listener() -> Table<Listener> {
    let address = Text { form: "an IP address with a port, like \"127.0.0.1:2525\" or \"[::1]:587\",", ..SOCKET };
    let tls = Choice(&[
        ("starttls", ListenerTls::StartTls),
        ("implicit", ListenerTls::Implicit),
        ("none", ListenerTls::None),
    ]);
    let auth = Choice(&[("required", Auth::Required), ("trusted", Auth::Trusted)]);
    let keys = keys! { Listener;
        address => settings.address, address, Restart, "IP address and port."
            .example("\"0.0.0.0:587\"").required("is missing; write address = \"0.0.0.0:587\", say");
        tls => settings.tls, tls, Restart,
            "\"starttls\": clear text until the client says STARTTLS; \"implicit\": TLS from the first byte; \"none\".";
        auth => auth, auth, Restart,
            "\"required\": clients log in; \"trusted\": those in trusted_networks need not. They act as the user \
             `trusted`, which may be declared below; undeclared, it may send as any address of a domain that has a \
             DKIM key.";
        trusted_networks => settings.trusted_networks, NETWORKS, Restart,
            "Networks that need not log in. 0.0.0.0/0 and ::/0 are refused.";
        proxy_protocol_from => settings.proxy_protocol_from, NETWORKS, Restart,
            "Networks of proxies, which must send a PROXY v1/v2 header; trust and limits then look at the address in \
             it. From anywhere else such a header is a bad command.";
    };
    let help =
        "Where apps submit mail; one [[listener]] for each address. Default: one at 127.0.0.1:2525 with STARTTLS.";
    Table::many("listener", help, keys)
}

pub(in crate::config) fn certificate() -> Table<Config> {
    let keys = keys! { Config;
        certificate => certificate.chain, Maybe(FILE), Live, "PEM, the chain with the own certificate first."
            .example("\"certs/relay.pem\"");
        private_key => certificate.private_key, Maybe(SECRET_FILE), Live, "PEM.".example("\"certs/relay.key\"");
    };
    let help = "The certificate shown to clients. Both absent: a self-signed one is made for a year, and anew when hostname \
                changes; clients trust self-signed.pem in data_dir (docs/clients.md).";
    Table::once("tls", help, keys)
}

/// `[[certificate]]`.
pub(in crate::config) fn certificates() -> Table<Certificate> {
    let keys = keys! { Certificate;
        certificate => chain, Maybe(FILE), Live, "PEM, the chain with the own certificate first."
            .example("\"certs/mail.example.net.pem\"").required("is missing; certificate and private_key go together");
        private_key => private_key, Maybe(SECRET_FILE), Live, "PEM."
            .example("\"certs/mail.example.net.key\"").required("is missing; certificate and private_key go together");
    };
    let help = "More certificates, for clients that connect by another name (SNI); all others are shown that of [tls]. Files of \
                certificates are watched, and taken on within 10 s of a change.";
    Table::many("certificate", help, keys)
}

/// `[acme]`.
pub(in crate::config) fn acme() -> Table<Config> {
    let challenge = Choice(&[
        ("http-01", Challenge::Http),
        ("tls-alpn-01", Challenge::TlsAlpn),
        ("dns-persist-01", Challenge::DnsPersist),
    ]);
    let address = Text { form: "an IP address with a port, like \"0.0.0.0:80\" or \"[::]:80\",", ..SOCKET };
    let keys = keys! { Config;
        domains => acme.domains, HOST_NAMES, Restart, "The names of the certificate. Empty: none is got."
            .example("[\"relay.example.com\"]");
        email => acme.email, NoneBy("", ANY), Restart, "Whom the CA may write to. \"\": nobody.";
        directory => acme.directory, ANY, Restart, "The CA's directory. Who names domains accepts its terms.";
        ca_file => acme.ca_file, Maybe(FILE), Restart,
            "PEM: authorities that the CA's own web server may lead to, beside those of the system."
            .example("\"certs/own-ca.pem\"");
        challenge => acme.challenge, challenge, Restart,
            "\"http-01\": the CA comes to http_address by port 80; \"tls-alpn-01\": to a listener with tls = \
             \"implicit\" by port 443; \"dns-persist-01\": to a TXT record that stays, which the log and `check` \
             print.";
        http_address => acme.http_address, address, Restart, "Where http-01 is answered, only while the CA asks.";
    };
    let help = "Gets and renews the certificate of [tls] from a CA (ACME): when the CA suggests, else at two thirds of its life. \
                Account and certificate are in data_dir/acme. Until there is one, and where renewal fails, the old one stays.";
    Table::once("acme", help, keys)
}

/// `[[user]]`.
pub(in crate::config) fn user() -> Table<UserSettings> {
    let keys = keys! { UserSettings;
        name => user.name, USER_NAME, Live, "The name to log in with.".example("\"shop\"").required("is missing");
        password_hash => password, Secret(Maybe(PASSWORD_HASH)), Live,
            "From `otp-relay user hash`: SCRAM-SHA-256$..., or $argon2id$..., with which SCRAM cannot be used."
            .example("\"SCRAM-SHA-256$100000:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AA\
                     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"");
        token_hash => token, Secret(Maybe(TOKEN_HASH)), Live, "From `otp-relay user hash --token`: HTTP as this user."
            .example("\"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\"");
        senders => user.senders, SENDERS, Live,
            "What it may put into reverse-path and From: \"*@example.com\", \"*@*.example.com\", one address. \
             Default: nothing.".example("[\"*@example.com\"]");
        lane => user.lane, LANES, Live,
            "Its default lane, and the most urgent it may ask for: \"otp\", \"reset\" or \"notice\".";
        life => user.life, Span(LIFE.0, LIFE.1), Live,
            "How long a message is worth delivering when it does not say so itself; from 5s to 1d.";
        rate => user.rate, Maybe(RATE), Live, "Accepted recipients; default: no limit.".example("\"50/s\"");
    };
    let keys = keys.into_iter().chain(defaults()).collect();
    let help = "Who may log in; one [[user]] for each app. None by default. Whoever is removed or gets another hash is sent \
                away at its next message.";
    Table::many("user", help, keys)
}

/// The options of `[[user]]` for an app that cannot set header fields.
fn defaults() -> Vec<Key<UserSettings>> {
    let recipient = Text {
        form: "\"recipient\", or \"\",",
        parse: |text| (text == KEY_OF_RECIPIENT).then(|| text.into()),
        write: |key: &Arc<str>| key.to_string(),
    };
    let tag = Text {
        form: "1 to 64 letters, digits and - _ . : /, or \"\",",
        parse: |text| options::tag(text).ok(),
        write: |tag: &Arc<str>| tag.to_string(),
    };
    keys! { UserSettings;
        supersede => user.defaults.supersede, Maybe(SUPERSEDE), Live,
            "This and the three that follow are for an app that cannot set header fields; what a message says itself \
             counts more. Which newer message of this user takes the place of an older one, as otp.supersede; \
             default: as that says.".example("\"same-recipient\"");
        key => user.defaults.key, NoneBy("", recipient), Live,
            "\"recipient\": a message without X-OTP-Key has the key \"recipient\". Of this user's mail to one address \
             the newest counts, whatever it says: for a user that sends nothing but codes. \"\": none.";
        tag => user.defaults.tag, NoneBy("", tag), Live, "X-OTP-Tag of messages without one. \"\": none.";
        idempotency_window => user.defaults.idempotency_window, Span(Duration::ZERO, MEMORY), Live,
            "How long the same mail to the same recipients is a repeat: it gets the 250 and the id of the first, \
             whatever became of that, and is not queued. For apps that send again when the reply to a mail was lost; \
             0s (off) to 1d. Date, Message-ID, Received, fields of an app's own and the boundaries of parts may \
             differ; From, Sender, Reply-To, To, Cc, Subject, In-Reply-To, References, the types of parts and every \
             byte of the body may not: two codes are two mails. Who asks for the same code again within the window \
             gets no second mail. A message with X-OTP-Idempotency-Key goes by that alone.".written("\"0s\"");
    }
}

pub(in crate::config) fn submission() -> Table<Config> {
    let lines = Choice(&[("encode", LongLines::Encode), ("refuse", LongLines::Refuse)]);
    let keys = keys! { Config;
        message_size_max => submission.session.message_size_max, Size(16 << 10, 64 << 20), Live,
            "Bytes of one message; 16KiB to 64MiB.";
        recipients_max => submission.session.recipients_max, Number(1, 1000), Live,
            "RCPTs in one transaction; up to 1000.";
        connections_max => submission.limits.connections_max, Number(1, 100_000), Live,
            "Connections at once. Where there are several users, one has three quarters of them at most.";
        connections_per_address_max => submission.limits.connections_per_address_max, Number(1, 100_000), Live,
            "Of them, from one address.";
        command_timeout => submission.session.command_timeout, Span(SECOND, HOUR), Live,
            "Before login, for a whole command line.".written("\"60s\"");
        idle_timeout => submission.session.idle_timeout, Span(SECOND, DAY), Live, "After login, between commands.";
        verify_domain => intake.verify_domain, FLAG, Live,
            "Refuse a recipient at RCPT whose domain cannot receive mail (no such name, null MX). All recipients of a \
             message together wait for DNS at most 1 s, then they are accepted.";
        received_client => intake.received_client, FLAG, Live,
            "Tell the client's address, and what it calls itself, in the Received field.";
        long_lines => intake.long_lines, lines, Live,
            "Lines of more than 998 bytes, which mail hosts cut or refuse. \"encode\": the part with such a line is \
             made quoted-printable before it is signed, header fields are folded, and the trace says so; what is \
             signed or encrypted in the message is refused. \"refuse\": 554 naming the line.";
        routed_addresses => intake.routed_addresses, FLAG, Live,
            "Take recipients in whose local part a mail host may read another address and pass mail on to it: \
             user%host@, host!user@, \"user@host\"@. Otherwise 501 at RCPT, 422 over HTTP. A source route \
             (<@host:user@example.com>) is read and dropped either way.";
    };
    Table::once("submission", "Limits for clients.", keys)
}

pub(in crate::config) fn otp() -> Table<Config> {
    let keys = keys! { Config;
        supersede => intake.supersede, SUPERSEDE, Live,
            "Which newer message takes the place of an older one: \"by-key\" (X-OTP-Key), \"same-recipient\", \"off\".";
        recipient_budget => intake.budgets.own, BUDGET, Live,
            "Accepted messages per user and mailbox, whatever the spelling: case, quotes, tags, dots and other names \
             of a provider do not count. \"off\" to disable.";
        recipient_budget_total => intake.budgets.total, BUDGET, Live,
            "The same over all users, or \"off\"; at least recipient_budget. A user's first two in that time always \
             pass. Where the line is missing and recipient_budget is larger, that counts; where recipient_budget is \
             off, so is this.";
        deliver_at_most_once => queue.deliver_at_most_once, FLAG, Restart,
            "What to do when the connection died after the final dot: true: give up, it may have arrived; false: send \
             again.";
    };
    Table::once("otp", "What is special about codes.", keys)
}

pub(in crate::config) fn verification() -> Table<Config> {
    let spans = List(Text {
        form: "a time from 1s to 1h, like \"30s\",",
        parse: |text| units::duration(text).filter(|span| (SECOND..=HOUR).contains(span)),
        write: |span| duration_text(*span),
    });
    let keys = keys! { Config;
        checks => intake.verification.checks, Number(1, 20), Live,
            "Checks of one verification in all, whatever number of codes is live.";
        sends => intake.verification.sends, Number(1, 20), Live, "Codes sent for one verification in all.";
        resend_after => intake.verification.resend_after, spans, Live,
            "How long after each code the next may be sent; the last counts for all behind it.";
        live_codes => intake.verification.live_codes, Number(1, 10), Live,
            "Codes of one verification that can be typed at once: a new code takes the place of one that has not \
             left, and stands beside one that may have arrived.";
        recipient_checks => intake.verification.recipient_checks, RATE, Live,
            "Wrong checks per user and mailbox, whatever the spelling. Beyond them no new verification of the \
             recipient begins for that time; one that has begun keeps its checks.";
    };
    Table::once("verification", "Codes that the relay makes and checks.", keys)
}

/// `[[dkim]]`.
pub(in crate::config) fn dkim() -> Table<DkimKey> {
    let keys = keys! { DkimKey;
        domain => domain, ANY, Live, "The domain in From that it signs for."
            .example("\"example.com\"").required("is missing");
        selector => selector, ANY, Live, "Its name in DNS: SELECTOR._domainkey.DOMAIN."
            .example("\"otp1\"").required("is missing");
        private_key => private_key, SECRET_FILE, Live, "PEM; RSA or Ed25519, told from the file."
            .example("\"certs/dkim/example.com.otp1.pem\"").required("is missing");
    };
    let help = "Keys that sign; several for a domain sign several times. A sender's domain without a key is signed for with the \
                key of the nearest domain above it; where there is none, mail goes unsigned, with a warning. `otp-relay dkim \
                generate DOMAIN SELECTOR` makes keys and prints this section.";
    Table::many("dkim", help, keys)
}
