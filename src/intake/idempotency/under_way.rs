//! Names under which this node is accepting a message right now.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ledger::accept::{Idempotency, KeyHash};

/// The names, each with a channel that closes when that is decided.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<HashMap<KeyHash, watch::Receiver<()>>>);

/// What there is to some names.
pub(super) enum Begun<'a> {
    /// Nothing; the first is kept for whoever asked.
    First(Pending<'a>),
    /// Another submission is being accepted; to be asked again when the channel closes.
    Pending(watch::Receiver<()>),
}

/// A name that is kept. Dropped, it is free again, and whoever waited goes on.
pub(super) struct Pending<'a> {
    under_way: &'a UnderWay,
    name: KeyHash,
    /// Its end wakes those who wait.
    _waking: watch::Sender<()>,
}

impl UnderWay {
    pub(super) fn begin(&self, known_by: &Idempotency) -> Begun<'_> {
        let mut known = self.0.lock();
        let mut names = std::iter::once(&known_by.key).chain(&known_by.also);
        if let Some(pending) = names.find_map(|name| known.get(name)) {
            return Begun::Pending(pending.clone());
        }
        let (waking, pending) = watch::channel(());
        known.insert(known_by.key, pending);
        Begun::First(Pending { under_way: self, name: known_by.key, _waking: waking })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.under_way.0.lock().remove(&self.name);
    }
}
