//! What many messages have in common, so that it is in memory once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::ledger::entry::{Message, Progress};
use crate::mail::address::Mailbox;

/// What is known so far.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Common {
    texts: HashSet<Arc<str>>,
    senders: HashSet<Mailbox>,
}

impl Common {
    /// Puts what is known in the place of its equals.
    pub(in crate::ledger) fn share(&mut self, message: &mut Message, stored: &mut [(u16, Progress)]) {
        let replies = stored.iter_mut().map(|(_, progress)| &mut progress.last_reply);
        for text in replies.chain([&mut message.signing_domain, &mut message.tag]).flatten() {
            share(&mut self.texts, text);
        }
        share(&mut self.texts, &mut message.user);
        message.envelope.reverse_path.0.iter_mut().for_each(|sender| share(&mut self.senders, sender));
    }
}

fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, one: &mut T) {
    match known.get(one) {
        Some(equal) => one.clone_from(equal),
        None => drop(known.insert(one.clone())),
    }
}
