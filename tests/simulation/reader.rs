//! Somebody who reads the events that were committed, now and then, and keeps its place over crashes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use otp_relay::testing::event::{Event, Kind};
use otp_relay::testing::ledger::cursor::Cursor;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;

use crate::simulation::key;
use crate::simulation::laws::Laws;
use crate::support::in_memory::Life;

/// A reader, and what it has read.
#[derive(Default)]
pub struct Reader {
    at: Cursor,
    read: Vec<(Cursor, Arc<Event>)>,
}

impl Reader {
    /// Reads what was committed since.
    pub async fn read_on(&mut self, life: &Life) {
        loop {
            let at = self.at.max(life.queue.happened().before_oldest());
            let read = life.queue.events_after(at, 16).await.unwrap();
            assert!(!read.has_missed, "events are gone that were not read");
            self.read.extend(read.events);
            if read.at == self.at {
                return;
            }
            self.at = read.at;
        }
    }

    /// What was committed was read, once and in its order; each entry ended in it once, and nothing came after its end.
    pub fn at_the_end(&self, store: &MemoryStore, laws: &Laws) {
        assert_eq!(self.read, store.stored_events(), "what was read is not what was committed");
        assert!(self.read.is_sorted_by(|(one, _), (other, _)| one < other));
        let (mut accepted, mut ends) = (HashSet::new(), HashMap::new());
        for (at, event) in &self.read {
            if event.kind() == Kind::Accepted {
                assert!(accepted.insert(event.head.id), "{} was accepted twice", event.head.id);
            }
            assert!(accepted.contains(&event.head.id), "{event:?} came before the message was accepted");
            let Some(key) = key(event) else { continue };
            let before = ends.get(&key);
            assert!(before.is_none(), "{event:?} at {at:?} came after the end of the entry, {before:?}");
            if event.kind().is_end() {
                ends.insert(key, event.kind());
            }
        }
        for entry in laws.acknowledged_entries() {
            assert!(ends.contains_key(&entry), "{entry:?} was acknowledged, and its end was never told");
        }
    }
}
