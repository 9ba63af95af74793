//! An entry with all that is sent of it, and what is told and learned of the host that hears it.

use std::sync::Arc;
use std::time::Duration;

use super::super::caller::Caller;
use super::super::environment::Environment;
use super::super::peer::{Lesson, Peer};
use super::super::race::Runner;
use super::super::transact::Connection;
use super::claimed_entry::ClaimedEntry;
use crate::base::clock::Timestamp;
use crate::destination::demand::TlsOption;
use crate::event::Attempted;
use crate::greylist::pending::Greylister;
use crate::greylist::table::Triplet;
use crate::ledger::entry::SignedContent;
use crate::mail::address::ReversePath;
use crate::mail::envelope::DeliverBy;
use crate::smtp::client_session::{Bdat, EightBit, Transaction};
use crate::smtp::extension::Features;

/// The answer to the content is awaited to the end of life, within these bounds.
const FINAL_TIMEOUT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// What is told of a session without TLS.
const CLEAR_TEXT: &str = "in clear text";

pub(super) struct LoadedEntry {
    pub(super) claimed: ClaimedEntry,
    pub(super) triplet: Option<Triplet>,
    pub(super) content: Arc<SignedContent>,
    pub(super) caller: Caller,
}

impl LoadedEntry {
    pub(super) fn new(
        env: &Environment,
        claimed: ClaimedEntry,
        triplet: Option<Triplet>,
        content: Arc<SignedContent>,
    ) -> Self {
        let message = claimed.claim.message();
        let option = TlsOption::of(message.envelope.parameters.require_tls, &content.content.head);
        let recipient = &message.recipient(claimed.claim.id().index).mailbox;
        let sender = env.settings.own_reverse_path(&message.envelope.reverse_path);
        let caller = env.caller(&sender, recipient).with_tls_option(option);
        Self { claimed, triplet, content, caller }
    }

    /// The transaction with a host of which nothing is known.
    pub(super) fn transaction(&self, env: &Environment, now: Timestamp) -> Transaction {
        let claim = &self.claimed.claim;
        let message = claim.message();
        let envelope = &message.envelope;
        let elapsed = i32::try_from(now.since(message.accepted_at).as_secs()).unwrap_or(i32::MAX);
        let deliver_by = envelope.parameters.deliver_by;
        Transaction {
            reverse_path: self.sender(env),
            parameters: envelope.parameters.clone(),
            recipient: message.recipient(claim.id().index).clone(),
            size: self.content.len() as u64,
            eight_bit: if message.eight_bit { EightBit::Declared } else { EightBit::No },
            avoid: Features::NONE,
            utf8_fields: message.utf8_fields,
            deliver_by: deliver_by.map(|by| DeliverBy { seconds: by.seconds.saturating_sub(elapsed), ..by }),
            final_timeout: self.final_timeout(now),
            bdat: Bdat::AtOnce,
        }
    }

    /// How long the answer to the content is awaited.
    pub(super) fn final_timeout(&self, now: Timestamp) -> Duration {
        self.claimed.claim.message().expires_at.since(now).clamp(FINAL_TIMEOUT.0, FINAL_TIMEOUT.1)
    }

    /// What is told and learned of the host of a session.
    pub(super) fn peer(&self, env: &Environment, runner: &Runner) -> Peer {
        let connection = &runner.connection;
        let (destination, note) = (Some(connection.host.clone()), self.note(connection));
        let attempted = Attempted { destination, note, ..Attempted::default() };
        let by = Greylister { host: connection.host.clone(), address: connection.address.ip() };
        let (sender, began) = (self.sender(env), runner.began);
        let lesson = self.triplet.clone().map(|triplet| Lesson { triplet, sender, by, began });
        Peer { attempted, notifies: connection.offers_dsn(), lesson }
    }

    /// How the session was secured, and how 8-bit content went.
    fn note(&self, connection: &Connection) -> Option<Arc<str>> {
        let is_undeclared = self.claimed.claim.message().eight_bit && !connection.offers_eight_bit();
        let undeclared = is_undeclared.then_some("8-bit content as it is: the host does not offer 8BITMIME");
        let security = connection.security().unwrap_or_else(|| CLEAR_TEXT.into());
        Some(undeclared.map_or(security.clone(), |undeclared| format!("{security}; {undeclared}").into()))
    }

    fn sender(&self, env: &Environment) -> ReversePath {
        env.settings.own_reverse_path(&self.claimed.claim.message().envelope.reverse_path)
    }
}
