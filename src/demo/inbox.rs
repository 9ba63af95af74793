//! What the mail hosts received: kept in memory, asked for by tests, waited for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::mail::{Arrival, Mail, Mark};
use crate::event::{Event, Kind};
use crate::mail::id::MessageId;

/// Mails kept at once; behind them the oldest go.
const MAILS_MAX: usize = 5000;
/// Octets kept at once.
const OCTETS_MAX: usize = 256 << 20;
/// Labels of messages that are under way.
const TAGS_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    mails: VecDeque<Arc<Mail>>,
    by_recipient: HashMap<String, VecDeque<Arc<Mail>>>,
    tags: HashMap<MessageId, Arc<str>>,
    octets: usize,
    last: u64,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { state: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Inbox {
    pub(super) fn keep(&self, how: Arrival, content: Bytes) -> Arc<Mail> {
        let key = how.recipient.plain_key();
        let number = {
            let mut state = self.state.lock();
            state.last += 1;
            state.last
        };
        // Taken apart without the lock.
        let mail = Arc::new(Mail::new(number, how, content));
        {
            let mut state = self.state.lock();
            if let Some(tag) = mail.message.and_then(|id| state.tags.get(&id).cloned()) {
                mail.set_tag(&tag);
            }
            state.octets += mail.content.len();
            let at = state.mails.partition_point(|other| other.number < number);
            state.mails.insert(at, mail.clone());
            let own = state.by_recipient.entry(key).or_default();
            let at = own.partition_point(|other| other.number < number);
            own.insert(at, mail.clone());
            while state.mails.len() > MAILS_MAX || (state.octets > OCTETS_MAX && state.mails.len() > 1) {
                let Some(oldest) = state.mails.front().cloned() else { break };
                state.remove(&oldest);
            }
        }
        self.changed();
        mail
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The relay says that something happened to a message.
    pub(super) fn on_event(&self, event: &Event) {
        let (id, tag) = (event.head.id, &event.head.tag);
        match event.kind() {
            Kind::Accepted => {
                if let Some(tag) = tag {
                    let mut state = self.state.lock();
                    if state.tags.len() >= TAGS_MAX {
                        state.tags.clear();
                    }
                    state.tags.insert(id, tag.clone());
                }
            }
            Kind::Delivered => self.settle(event),
            Kind::Queued
            | Kind::Attempted
            | Kind::Deferred
            | Kind::Greylisted
            | Kind::AtRisk
            | Kind::Failed
            | Kind::Expired
            | Kind::Superseded
            | Kind::Cancelled
            | Kind::Bounced
            | Kind::Complained
            | Kind::Verified => {}
        }
    }

    fn settle(&self, event: &Event) {
        let Some(recipient) = &event.head.recipient else { return };
        let mails = self.of(&recipient.plain_key());
        let own = mails.iter().filter(|mail| mail.message == Some(event.head.id));
        let settle = |mail: &&Arc<Mail>| {
            if let Some(tag) = &event.head.tag {
                mail.set_tag(tag);
            }
            mail.settle()
        };
        let settled = own.filter(settle).count();
        if settled > 0 {
            self.changed();
        }
    }

    /// Does not wait any longer for the relay to say that this one arrived.
    pub(super) fn settle_now(&self, mail: &Mail) {
        if mail.settle() {
            self.changed();
        }
    }

    /// All, from the oldest on.
    pub(super) fn all(&self) -> Vec<Arc<Mail>> {
        self.state.lock().mails.iter().cloned().collect()
    }

    /// Those to one recipient (as `plain_key` writes it), from the oldest on.
    pub(super) fn of(&self, recipient: &str) -> Vec<Arc<Mail>> {
        self.state.lock().by_recipient.get(recipient).into_iter().flatten().cloned().collect()
    }

    pub(super) fn by_number(&self, number: u64) -> Option<Arc<Mail>> {
        let state = self.state.lock();
        let at = state.mails.binary_search_by_key(&number, |mail| mail.number).ok()?;
        Some(state.mails[at].clone())
    }

    /// The last that came of the message with this id of the relay.
    pub(super) fn by_message(&self, id: MessageId) -> Option<Arc<Mail>> {
        self.state.lock().mails.iter().rev().find(|mail| mail.message == Some(id)).cloned()
    }

    /// Removes those that are named; says how many there were.
    pub(super) fn remove(&self, mails: &[Arc<Mail>]) -> usize {
        let removed = {
            let mut state = self.state.lock();
            mails.iter().filter(|mail| state.remove(mail)).count()
        };
        self.changed();
        removed
    }
}

impl State {
    fn remove(&mut self, mail: &Mail) -> bool {
        let Ok(at) = self.mails.binary_search_by_key(&mail.number, |other| other.number) else { return false };
        self.mails.remove(at);
        self.octets = self.octets.saturating_sub(mail.content.len());
        let key = mail.how.recipient.plain_key();
        if let Some(own) = self.by_recipient.get_mut(&key) {
            own.retain(|other| other.number != mail.number);
            if own.is_empty() {
                self.by_recipient.remove(&key);
            }
        }
        true
    }
}

/// Whether a person who looks into the mailbox sees it.
pub(super) fn is_seen(mail: &Mail) -> bool {
    mail.how.mark != Mark::Hidden && mail.is_settled()
}

#[cfg(test)]
mod tests {
    use super::super::mail::Tls;
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::mail::address::Mailbox;

    fn arrival(to: &str) -> Arrival {
        Arrival {
            sender: "otp@shop.test".to_owned(),
            recipient: Mailbox::parse(to).unwrap(),
            received_at: Timestamp::from_millis(0),
            attempts: 1,
            mark: Mark::Kept,
            tls: Tls::On,
            verdicts: Vec::new(),
        }
    }

    fn keep(inbox: &Inbox, to: &str, body: &str) -> Arc<Mail> {
        inbox.keep(arrival(to), Bytes::from(format!("Subject: x\r\n\r\n{body}\r\n")))
    }

    #[test]
    fn each_recipient_has_its_own() {
        let inbox = Inbox::default();
        let first = keep(&inbox, "a@b.test", "your code 123456");
        let second = keep(&inbox, "A@B.test", "your code 654321");
        keep(&inbox, "c@b.test", "nothing");
        assert_eq!(first.code(), Some("123456"));
        let codes: Vec<_> = inbox.of("a@b.test").iter().map(|mail| mail.code().map(str::to_owned)).collect();
        assert_eq!(codes, [Some("123456".to_owned()), Some("654321".to_owned())]);
        assert_eq!(inbox.by_number(second.number).unwrap().id(), second.id());
        assert_eq!(Mail::number_of(&second.id()), Some(second.number));
        assert_eq!(inbox.remove(&inbox.of("a@b.test")), 2);
        assert_eq!((inbox.all().len(), inbox.of("a@b.test").len()), (1, 0));
        assert_eq!(inbox.remove(&[first]), 0);
    }

    #[test]
    fn the_oldest_go_first() {
        let inbox = Inbox::default();
        for number in 0..MAILS_MAX + 10 {
            keep(&inbox, &format!("x{}@b.test", number % 7), "");
        }
        assert_eq!(inbox.all().len(), MAILS_MAX);
        assert_eq!(inbox.all()[0].number, 11);
        let kept: usize = (0..7).map(|number| inbox.of(&format!("x{number}@b.test")).len()).sum();
        assert_eq!(kept, MAILS_MAX);
    }
}
