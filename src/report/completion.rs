//! Who waits for a message to end.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Listener;
use crate::event::Event;
use crate::mail::id::MessageId;

/// Those who wait, by message: how many of its entries have ended since somebody waits.
#[derive(Debug, Default)]
pub struct Completions(Mutex<HashMap<MessageId, watch::Sender<usize>>>);

/// One who waits.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    ends: &'a Completions,
    id: MessageId,
    ended: watch::Receiver<usize>,
}

impl Completions {
    /// From now on the ends of this message's entries are noticed.
    pub(crate) fn wait_for(&self, id: MessageId) -> Waiter<'_> {
        let ended = self.0.lock().entry(id).or_default().subscribe();
        Waiter { ends: self, id, ended }
    }
}

impl Waiter<'_> {
    /// Returns when an entry has ended since the last call, or since the beginning.
    pub(crate) async fn next(&mut self) {
        if self.ended.changed().await.is_err() {
            // The sender stays in the table as long as there is a waiter.
            std::future::pending().await
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.ends.0.lock();
        if waiting.get(&self.id).is_some_and(|sender| sender.receiver_count() == 1) {
            waiting.remove(&self.id);
        }
    }
}

impl Listener for Completions {
    fn on_event(&self, event: &Arc<Event>) {
        if event.kind().is_end()
            && let Some(sender) = self.0.lock().get(&event.head.id)
        {
            sender.send_modify(|ended| *ended += 1);
        }
    }

    /// Whoever waits looks for itself.
    fn on_gap(&self) {
        self.0.lock().values().for_each(|sender| sender.send_modify(|ended| *ended += 1));
    }
}
