//! What a message has to expect at its recipients' destinations, as far as that is known without asking anybody.

use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::destination::mx::Router;
use crate::destination::route::Route;
use crate::destination::via::SmartHostDomains;
use crate::greylist::facts::Forecast;
use crate::greylist::table::Triplet;
use crate::ledger::accept::Risk;
use crate::ledger::entry::Message;
use crate::mail::address::Mailbox;
use crate::mail::envelope::Recipient;
use crate::queue::Queue;

/// By what forecasts are made.
pub(super) struct Forecasts {
    pub(super) queue: Arc<Queue>,
    pub(super) router: Arc<Router>,
    pub(super) smart_hosts: Arc<SmartHostDomains>,
    /// The reverse-path that mail leaves with; none: the client's.
    pub(super) reverse_path: Option<Mailbox>,
}

impl Forecasts {
    /// What a message has to expect at this recipient's destination; none: nothing, or nobody knows.
    pub(super) fn of(&self, message: &Message, recipient: &Mailbox, now: Timestamp) -> Option<(Arc<Route>, Forecast)> {
        let domain = self.router.name(recipient);
        let route = self.router.remembered(&domain)?.ok()?;
        // Most destinations do not greylist; that costs no more than a look.
        if !self.queue.greylists().knows(&route.destination) || self.smart_hosts.take_all(&domain) {
            return None;
        }
        let sender = message.envelope.reverse_path.sent_as(self.reverse_path.as_ref());
        let triplet = Triplet::new(sender.as_str(), &recipient.plain_key(), &route.destination);
        let forecast = self.queue.greylists().forecast(&triplet, now);
        Some((route, forecast))
    }

    /// The entries of which it is known that they come too late.
    pub(super) fn risks(&self, message: &Message, now: Timestamp) -> Vec<Risk> {
        let risk = |(recipient, index): (&Recipient, u16)| {
            let (route, forecast) = self.of(message, &recipient.mailbox, now)?;
            let is_too_late = forecast.is_too_late(message.accepted_at, message.expires_at, now);
            is_too_late.then(|| Risk { index, destination: route.name().clone(), forecast })
        };
        message.envelope.recipients.iter().zip(0..).filter_map(risk).collect()
    }
}
