//! The latest events, for whoever follows along: a bounded ring that readers walk at their own pace.
//!
//! Nothing is kept for a reader but its place. One that is so slow that the ring has gone round is told that it missed
//! something.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Listener;
use crate::event::Event;

/// Events kept.
pub const RING_LEN: usize = 8192;

/// The ring.
#[derive(Debug)]
pub struct Feed {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The number of the first event in `events`; the first ever has 1.
    first: u64,
    events: VecDeque<Arc<Event>>,
}

/// A reader's next events.
#[derive(Debug)]
pub enum Next {
    /// These, with the number of the last of them.
    Events(Vec<Arc<Event>>, u64),
    /// Nothing yet.
    Nothing,
    /// Some are gone from the ring.
    Missed,
}

impl Default for Feed {
    fn default() -> Self {
        let ring = Ring { first: 1, events: VecDeque::with_capacity(RING_LEN) };
        Self { ring: Mutex::new(ring), newest: watch::Sender::new(0) }
    }
}

impl Feed {
    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The number before that of the oldest event in the ring.
    pub fn before_oldest(&self) -> u64 {
        self.ring.lock().first - 1
    }

    /// Up to `limit` events behind the one of this number.
    pub fn after(&self, number: u64, limit: usize) -> Next {
        let ring = self.ring.lock();
        let end = ring.first + ring.events.len() as u64;
        if number + 1 < ring.first {
            return Next::Missed;
        }
        if number + 1 >= end {
            return Next::Nothing;
        }
        let skip = usize::try_from(number + 1 - ring.first).unwrap_or(usize::MAX);
        let events: Vec<_> = ring.events.iter().skip(skip).take(limit).cloned().collect();
        let last = number + events.len() as u64;
        Next::Events(events, last)
    }

    /// Takes a recipient's events out; their numbers stay, without anybody in them. Returns how many.
    pub fn erase(&self, plain: &str) -> usize {
        let mut ring = self.ring.lock();
        let is_theirs = |event: &&mut Arc<Event>| {
            event.head.recipient.as_ref().is_some_and(|recipient| recipient.plain_key() == plain)
        };
        let theirs = ring.events.iter_mut().filter(is_theirs);
        theirs.map(|event| *event = Arc::new(event.without_recipient())).count()
    }

    /// Tells of every new event; [`Feed::after`] has it then.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

impl Listener for Feed {
    fn on_event(&self, event: &Arc<Event>) {
        let mut ring = self.ring.lock();
        if ring.events.len() == RING_LEN {
            ring.events.pop_front();
            ring.first += 1;
        }
        ring.events.push_back(event.clone());
        let newest = ring.first + ring.events.len() as u64 - 1;
        drop(ring);
        self.newest.send_replace(newest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Timestamp;
    use crate::base::lane::Lane;
    use crate::event::{Happened, Head};
    use crate::mail::id::MessageId;

    fn event(number: u32) -> Arc<Event> {
        let time = Timestamp::from_millis(1_795_255_200_000);
        let head = Head {
            time,
            id: MessageId::from_bytes([0; 16]),
            entry: None,
            user: "shop".into(),
            lane: Lane::Otp,
            tag: None,
            from: None,
            traceparent: None,
            recipient: None,
            attempt: number,
            expires_at: time,
            since_accepted: Duration::ZERO,
        };
        Arc::new(Event { head, what: Happened::Verified })
    }

    #[test]
    fn each_reader_walks_at_its_own_pace() {
        let feed = Feed::default();
        assert!(matches!(feed.after(0, 10), Next::Nothing));
        for number in 1..=5 {
            feed.on_event(&event(number));
        }
        let Next::Events(events, last) = feed.after(2, 2) else { panic!("there is more") };
        assert_eq!((events.iter().map(|event| event.head.attempt).collect::<Vec<_>>(), last), (vec![3, 4], 4));
        assert!(matches!(feed.after(5, 10), Next::Nothing));
        assert_eq!((feed.newest(), feed.before_oldest()), (5, 0));
    }

    #[test]
    fn who_is_too_slow_is_told() {
        let feed = Feed::default();
        for number in 0..u32::try_from(RING_LEN).unwrap() + 3 {
            feed.on_event(&event(number));
        }
        assert_eq!(feed.before_oldest(), 3);
        assert!(matches!(feed.after(2, 1), Next::Missed));
        assert!(matches!(feed.after(3, 1), Next::Events(events, 4) if events[0].head.attempt == 3));
    }
}
