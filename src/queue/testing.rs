//! A queue on simulated time, whose entries have what it takes to claim them: for tests of the queue, and of those who settle.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::claim::Claim;
use super::{AppendError, Consequences, Ending, Offers, Queue, Settings};
use crate::base::clock::{Clock as _, ManualClock, Timestamp};
use crate::event::{Event, Kind, Sink};
use crate::ledger::embedded::node::{Node, Storage};
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::ledger::entry::{Message, SignedContent};
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::id::{EntryId, IdSource};
use crate::mail::message::Content;

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
pub(crate) const LIFE: Duration = Duration::from_secs(600);

/// Remembers what it is told.
#[derive(Default)]
pub(crate) struct Witness {
    events: Mutex<Vec<Kind>>,
}

impl Sink for Witness {
    fn emit(&self, event: Event) {
        self.events.lock().push(event.kind());
    }
}

pub(crate) struct Bench {
    pub(crate) queue: Arc<Queue>,
    pub(crate) store: MemoryStore,
    pub(crate) clock: Arc<ManualClock>,
    witness: Arc<Witness>,
    offers: Mutex<Offers>,
    ids: IdSource,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::on(MemoryStore::default(), Arc::new(ManualClock::new(START)))
    }

    pub(crate) fn on(store: MemoryStore, clock: Arc<ManualClock>) -> Self {
        let witness = Arc::new(Witness::default());
        let settings = Settings { entries_max: 3, deliver_at_most_once: true };
        let (stored, entail) = (Box::new(store.clone()), Box::new(|_: &Ending| Consequences::default()));
        let queue = Queue::open(
            Node::alone(stored, Storage::Inline, clock.clone(), settings.delivery()).unwrap(),
            settings,
            clock.clone(),
            witness.clone(),
            entail,
        )
        .unwrap();
        let offers = Mutex::new(queue.take_offers().unwrap());
        tokio::spawn(queue.clone().run());
        Self { queue, store, clock, witness, offers, ids: IdSource::new() }
    }

    /// One more message, on its first attempt.
    pub(crate) async fn claimed(&self) -> Claim {
        let entry = self.accept(1).await.unwrap();
        self.queue.claim(entry, self.clock.now()).unwrap()
    }

    pub(crate) async fn accept(&self, recipients: usize) -> Result<EntryId, AppendError> {
        self.accept_under(None, recipients).await
    }

    /// With a key under which it can be superseded.
    pub(crate) async fn accept_under(&self, key: Option<&str>, recipients: usize) -> Result<EntryId, AppendError> {
        let now = self.clock.now();
        let reverse_path = key.map_or(ReversePath::NULL, |_| ReversePath::parse("<otp@app.test>").unwrap());
        let mailbox = |n: usize| Recipient::new(Mailbox::parse(&format!("user{n}@example.test")).unwrap());
        let envelope = Envelope {
            reverse_path,
            parameters: MailParameters::default(),
            recipients: (0..recipients).map(mailbox).collect(),
        };
        let message = Message::new(self.ids.next(now), "app".into(), envelope, now..now.plus(LIFE));
        let message = Arc::new(Message { key: key.map(Arc::from), ..message });
        let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
        let mut acceptance = self.queue.begin(self.queue.new_message(message.clone(), content.clone(), None))?;
        acceptance.stored().await?;
        drop(self.queue.admit(acceptance, SignedContent { signatures: Default::default(), content }, &[]));
        Ok(EntryId { message: message.id, index: 0 })
    }

    pub(crate) fn offers(&self) -> Vec<EntryId> {
        let offers = self.offers.lock();
        std::iter::from_fn(|| offers.try_next()).map(|offer| offer.entry).collect()
    }

    pub(crate) fn events(&self) -> Vec<Kind> {
        std::mem::take(&mut self.witness.events.lock())
    }
}
