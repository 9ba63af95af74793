//! The way to the workers: entries that are ready, and messages that are about to come.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::effects::Offer;
use crate::mail::address::{Mailbox, ReversePath};

/// Messages about to come that nobody has looked at yet; further ones are not told, and open their sessions themselves.
const EXPECTED_MAX: usize = 1024;

/// A message that is about to come.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What MAIL said.
    pub reverse_path: ReversePath,
    /// What RCPT says.
    pub recipient: Mailbox,
}

/// The next thing for the workers.
#[derive(Debug)]
pub enum Work {
    /// An entry is ready.
    Offer(Offer),
    /// A message is about to come.
    Expected(Expected),
}

/// The workers' end. Offers have no bound but that of live entries, of which each is offered once until it is claimed.
#[derive(Debug)]
pub struct Offers {
    offers: mpsc::UnboundedReceiver<Offer>,
    expected: mpsc::Receiver<Expected>,
}

impl Offers {
    /// The next; none when the queue is gone. Entries that are ready go first.
    pub async fn next(&mut self) -> Option<Work> {
        tokio::select! {
            biased;
            offer = self.offers.recv() => offer.map(Work::Offer),
            Some(expected) = self.expected.recv() => Some(Work::Expected(expected)),
        }
    }

    /// An entry that is ready now.
    pub fn try_next(&mut self) -> Option<Offer> {
        self.offers.try_recv().ok()
    }
}

/// The queue's end.
#[derive(Debug)]
pub(super) struct Offering {
    offers: mpsc::UnboundedSender<Offer>,
    expected: mpsc::Sender<Expected>,
    /// Until somebody takes it.
    receiving: Mutex<Option<Offers>>,
}

impl Default for Offering {
    fn default() -> Self {
        let (offers, offered) = mpsc::unbounded_channel();
        let (expected, expecting) = mpsc::channel(EXPECTED_MAX);
        let receiving = Mutex::new(Some(Offers { offers: offered, expected: expecting }));
        Self { offers, expected, receiving }
    }
}

impl Offering {
    pub(super) fn take(&self) -> Option<Offers> {
        self.receiving.lock().take()
    }

    pub(super) fn offer(&self, offer: Offer) {
        // Where nobody works, it is found again when somebody does.
        let _ = self.offers.send(offer);
    }

    pub(super) fn expect(&self, expected: Expected) {
        let _ = self.expected.try_send(expected);
    }
}
