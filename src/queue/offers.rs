//! The way to the workers: entries that are ready.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::effects::Offer;

/// Entries that are ready, until a worker takes them. They have no bound but that of live entries, of which each is offered
/// once until it is claimed.
#[derive(Debug, Default)]
pub(super) struct OfferQueue {
    waiting: Mutex<PendingOffers>,
    news: Notify,
}

#[derive(Debug, Default)]
struct PendingOffers {
    offers: VecDeque<Offer>,
    /// Somebody has the other end, or had it.
    is_taken: bool,
    /// Nobody works any more. What is ready is found again at the next start.
    is_closed: bool,
}

impl OfferQueue {
    /// The workers' end; it can be taken once.
    pub(super) fn take(self: &Arc<Self>) -> Option<Offers> {
        let was_taken = std::mem::replace(&mut self.waiting.lock().is_taken, true);
        (!was_taken).then(|| Offers(self.clone()))
    }

    /// Adds entries; who adds them has to announce them, by what this returns.
    pub(super) fn offer(self: &Arc<Self>, offers: Vec<Offer>) -> Offered {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return Offered(None);
        }
        waiting.offers.extend(offers);
        Offered(Some(self.clone()))
    }
}

/// The workers' end.
#[derive(Debug)]
pub struct Offers(Arc<OfferQueue>);

impl Offers {
    /// An entry that is ready now.
    pub fn try_next(&self) -> Option<Offer> {
        self.0.waiting.lock().offers.pop_front()
    }

    /// Returns when entries were announced since it last did.
    pub async fn announced(&self) {
        self.0.news.notified().await;
    }
}

impl Drop for Offers {
    fn drop(&mut self) {
        let left = {
            let mut waiting = self.0.waiting.lock();
            waiting.is_closed = true;
            std::mem::take(&mut waiting.offers)
        };
        drop(left);
    }
}

/// That entries were offered. Whoever has it hands it to the workers, who then take the entries in the caller's place, which
/// saves waking a task. Where it is dropped, they are announced.
#[derive(Debug, Default)]
#[must_use = "entries that the workers take in the caller's place are on their way sooner"]
pub struct Offered(Option<Arc<OfferQueue>>);

impl Offered {
    /// Whether there are any.
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_some()
    }

    /// All have been taken.
    pub(crate) fn are_taken(mut self) {
        self.0 = None;
    }

    /// What was offered now, or before.
    pub(super) fn and(&mut self, more: Self) {
        if !self.is_any() {
            *self = more;
        } else {
            more.are_taken();
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(offering) = &self.0 {
            offering.news.notify_one();
        }
    }
}
