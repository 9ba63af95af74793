//! What the end of an entry entails at the door: places given back, addresses learned, the sender told.
//!
//! The queue is handed [`Aftermath::entail`] at its opening, and stores what that says together with the end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::budget::Expected;
use super::dsn;
use super::learning::learned;
use super::notices::{Admission, Digest, Notices};
use super::settings::{Learning, Settings};
use super::verification::Verifications;
use crate::base::clock::{Clock, Timestamp};
use crate::dkim::Keys;
use crate::ledger::attempt::Side;
use crate::ledger::embedded::code_keys::CodeKeys;
use crate::ledger::entry::Message;
use crate::ledger::side::SideTable;
use crate::mail::address::Mailbox;
use crate::mail::budget_form::budget_form;
use crate::mail::id::IdSource;
use crate::queue::{Consequences, Ending, Entail, Queue};

/// What ends teach, and whom they are told. It knows no queue of its own.
pub struct Aftermath {
    pub(super) settings: ArcSwap<Settings>,
    pub(super) expected: Expected,
    pub(super) verifications: Verifications,
    pub(super) ids: IdSource,
    notices: Notices,
    digests_changed: Notify,
    keys: Arc<ArcSwap<Keys>>,
    clock: Arc<dyn Clock>,
}

impl Aftermath {
    /// One that knows nothing yet: the queue, which has what is stored, is opened with it.
    pub fn new(
        settings: Settings,
        ids: IdSource,
        keys: Arc<ArcSwap<Keys>>,
        code_keys: Arc<CodeKeys>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            expected: Expected::default(),
            settings: ArcSwap::from_pointee(settings),
            verifications: Verifications::new(code_keys),
            ids,
            notices: Notices::default(),
            digests_changed: Notify::new(),
            keys,
            clock,
        })
    }

    /// For the opening of the queue.
    pub(crate) fn entail(self: &Arc<Self>) -> Entail {
        let this = self.clone();
        Box::new(move |ending| this.entailed(ending))
    }

    /// Takes up what the queue found in the store.
    pub(super) fn take_up(&self, queue: &Queue, now: Timestamp) {
        let limits = &self.settings.load().verification;
        self.verifications.take_up(queue.take_side(SideTable::Verification), limits, now);
    }

    pub(super) fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// What an end entails, or that an entry is at risk.
    pub fn entailed(&self, ending: &Ending) -> Consequences {
        let settings = self.settings.load();
        let (message, step) = (&ending.message, self.clock.step());
        let is_end = ending.event.kind().is_end();
        let mut consequences = Consequences::default();
        let rows = self.verifications.learn(ending, step);
        if is_end && settings.learning == Learning::On {
            consequences.side.extend(learned(ending));
        }
        if is_end && !ending.was_sent {
            consequences.gives_back = Some(budget_form(ending.recipient()));
        }
        consequences.side.extend(rows.into_iter().map(Side::Row));
        let sender = message.envelope.reverse_path.mailbox();
        if let Some(sender) = sender.filter(|sender| settings.covers(sender))
            && let Some(report) = dsn::Report::of(ending, step)
            && self.admits_notice(sender, message, ending.now())
        {
            let id = self.ids.next(ending.now());
            consequences.notification = report.notification(&settings.hostname, id, self.own_signing_domain(&settings));
        }
        consequences
    }
}

/// The relay's own mail.
impl Aftermath {
    /// Whether the sender is notified by itself of this message; otherwise the next digest tells of it.
    fn admits_notice(&self, sender: &Mailbox, message: &Message, now: Timestamp) -> bool {
        let (admission, due_at) = self.notices.admit(sender, &message.user, message.id, now);
        if due_at.is_some() {
            self.digests_changed.notify_one();
        }
        admission == Admission::Now
    }

    /// Sends what is gathered for senders when it is due. Goes on until it is dropped.
    pub(super) async fn run_digests(&self, queue: &Queue) {
        loop {
            let now = self.clock.now();
            let (due, next) = self.notices.take_due(now);
            due.iter().for_each(|digest| self.send_digest(digest, queue, now));
            let Some(next) = next else {
                self.digests_changed.notified().await;
                continue;
            };
            let until = tokio::time::Instant::from_std(self.clock.instant() + self.clock.until_passed(next.since(now)));
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.digests_changed.notified() => {}
            }
        }
    }

    /// Sends all that is gathered, before the relay stops.
    pub(super) fn send_digests(&self, queue: &Queue) {
        let now = self.clock.now();
        self.notices.take_all().iter().for_each(|digest| self.send_digest(digest, queue, now));
    }

    fn send_digest(&self, digest: &Digest, queue: &Queue, now: Timestamp) {
        let settings = self.settings.load();
        let id = self.ids.next(now);
        let mail =
            dsn::digest(digest, &settings.hostname, id, self.own_signing_domain(&settings), (now, self.clock.step()));
        if let Some((message, content)) = mail {
            queue.take_in(message, content);
        }
    }

    fn own_signing_domain(&self, settings: &Settings) -> Option<Arc<str>> {
        self.keys.load().signing_domain(&settings.hostname).map(Arc::from)
    }
}
