//! What tests, benchmarks and fuzz targets see of the crate, room by room. Nothing else does: this is no interface that stays.

pub mod accounts {
    pub use crate::accounts::{credentials, supersede, user};
}

pub mod base {
    pub use crate::base::{clock, lane, rate, shares, text};
}

/// The configuration and what is found in it.
pub mod config {
    pub use crate::config::{Config, commented, findings};
}

pub mod delivery {
    pub use crate::delivery::{Delivery, Settings, smart_host};
}

pub mod demo {
    pub use crate::demo::{dns, paths_alone};
}

pub mod destination {
    pub use crate::destination::{dane, demand, mta_sts, mx, public, resolver, route, tlsa};
}

pub mod dkim {
    pub use crate::dkim::{Key, SenderField, Terms, record, verify};
}

/// What happens.
pub mod event {
    pub use crate::event::{Attempted, Event, Happened, Kind, NoSink, Sink, Suppress, cause, stored};
}

/// What is known of destinations that greylist.
pub mod greylist {
    pub use crate::greylist::{facts, pending, step, table};
}

pub mod http {
    pub use crate::http::{Api, HookKind, HookSecrets, Parts, Settings, asked_of, is_proved};
}

pub mod intake {
    pub use crate::intake::{budget, door, idempotency, options, recipient, suppression};
}

pub mod ledger {
    pub use crate::ledger::{
        FRESH, IDEMPOTENCY_MEMORY, Ledger, accept, attempt, cursor, embedded, entry, filter, heartbeat, latest, memory,
        outbox, read, rules, side, suppression,
    };
}

pub mod mail {
    pub use crate::mail::{address, authors, envelope, id, message};
}

pub mod net {
    pub use crate::net::{BoxStream, Connecting, Network, places};
}

pub mod policy {
    pub use crate::policy::{action, cause, failover, hint, next};
}

pub mod queue {
    pub use crate::queue::{
        Acceptance, Consequences, Ending, Offer, Offers, Queue, Reporting, Settings, claim, inspect,
    };
}

pub mod relay {
    pub use crate::relay::{Environment, Relay, builder};
}

pub mod report {
    pub use crate::report::{Reporter, log, refusals, stats, trace, webhooks};
}

pub mod smtp {
    pub use crate::smtp::{client_name, client_session, command, data, extension, line, reply, sasl, server_session};
}

pub mod submission {
    pub use crate::submission::{listener, proxy_header};
}

pub mod tls {
    pub use crate::tls::{acceptor, opportunistic_connector, read_certificates, self_signed, verify};
}
