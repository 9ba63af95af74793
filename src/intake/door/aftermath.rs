//! What the end of an entry entails at the door: places given back, addresses learned, the sender told.

use std::sync::Arc;

use super::{Door, Settings, is_covered};
use crate::clock::Timestamp;
use crate::intake::dsn;
use crate::intake::notices::{Admission, Digest};
use crate::mail::address::Mailbox;
use crate::queue::entry::Message;
use crate::queue::{Aftermath, Consequences, Ending};

impl Aftermath for Door {
    fn ended(&self, ending: &Ending) -> Consequences {
        let settings = self.settings.load();
        let message = &ending.message;
        let is_end = ending.event.kind().is_end();
        let mut consequences = Consequences::default();
        if is_end {
            consequences.changes.extend(self.suppressions.learn(ending, self.parts.clock.step()));
        }
        if is_end && !ending.was_sent {
            consequences.changes.extend(self.budgets.give_back(&message.user, ending.recipient(), ending.entry()));
        }
        let sender = message.envelope.reverse_path.mailbox();
        if let Some(sender) = sender.filter(|sender| is_covered(&settings.only_to, sender))
            && let Some(report) = dsn::Report::of(ending, self.parts.clock.step())
            && self.admits_notice(sender, message, ending.now())
        {
            let id = self.parts.ids.next(ending.now());
            consequences.notification = report.notification(&settings.hostname, id, self.own_signing_domain(&settings));
        }
        consequences
    }
}

/// The relay's own mail.
impl Door {
    /// Whether the sender is notified by itself of this message; otherwise the next digest tells of it.
    fn admits_notice(&self, sender: &Mailbox, message: &Message, now: Timestamp) -> bool {
        let (admission, due_at) = self.notices.admit(sender, &message.user, message.id, now);
        if due_at.is_some() {
            self.digests_changed.notify_one();
        }
        admission == Admission::Now
    }

    /// Sends what is gathered for senders when it is due. Goes on until it is dropped.
    pub async fn run_digests(&self) {
        loop {
            let now = self.parts.clock.now();
            let (due, next) = self.notices.take_due(now);
            due.iter().for_each(|digest| self.send_digest(digest, now));
            let Some(next) = next else {
                self.digests_changed.notified().await;
                continue;
            };
            let until = tokio::time::Instant::from_std(self.parts.clock.instant() + next.since(now));
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.digests_changed.notified() => {}
            }
        }
    }

    /// Sends all that is gathered, before the relay stops.
    pub fn send_digests(&self) {
        let now = self.parts.clock.now();
        self.notices.take_all().iter().for_each(|digest| self.send_digest(digest, now));
    }

    fn send_digest(&self, digest: &Digest, now: Timestamp) {
        let settings = self.settings.load();
        let id = self.parts.ids.next(now);
        let mail = dsn::digest(
            digest,
            &settings.hostname,
            id,
            self.own_signing_domain(&settings),
            (now, self.parts.clock.step()),
        );
        if let Some((message, content)) = mail {
            self.parts.queue.take_in(message, content);
        }
    }

    fn own_signing_domain(&self, settings: &Settings) -> Option<Arc<str>> {
        self.parts.keys.load().signing_domain(&settings.hostname).map(Arc::from)
    }
}
