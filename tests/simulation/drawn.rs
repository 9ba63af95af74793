//! What the simulations over a ledger draw at random.

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::Timestamp;
use otp_relay::testing::event::{Event, Happened};
use otp_relay::testing::ledger::IDEMPOTENCY_MEMORY;
use otp_relay::testing::ledger::accept::{
    BudgetAsk, BudgetLimit, Digest, Idempotency, KeyHash, KeyOf, NewMessage, slots_of,
};
use otp_relay::testing::ledger::entry::Message;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::IdSource;
use otp_relay::testing::mail::message::Content;

use crate::support::random::Random;

/// The longest life of a message.
pub const LIFE_MAX: Duration = Duration::from_secs(40);
/// Entries that a budget allows.
pub const BUDGET_MOST: u32 = 6;
/// Keys of each kind that messages meet at.
const KEYS: u64 = 4;

/// A message of one to three recipients at two domains; a third of all each have an idempotency key, a budget, a slot.
pub fn message(random: &mut Random, ids: &IdSource, now: Timestamp) -> NewMessage {
    let count = random.below(3) + 1;
    let recipient =
        |number: u64| Recipient::new(Mailbox::parse(&format!("user{number}@d{}.test", number % 2)).unwrap());
    let envelope = Envelope {
        reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
        parameters: MailParameters::default(),
        recipients: (0..count).map(recipient).collect(),
    };
    let life = Duration::from_millis(5000 + random.below(LIFE_MAX.as_millis() as u64 - 5000));
    let message = Message::new(ids.next(now), "app".into(), envelope, now..now.plus(life));
    let key = (random.below(3) == 0).then(|| format!("key {}", random.below(KEYS)).into());
    let message = Arc::new(Message { key, ..message });
    let event = Event { head: message.head(now), what: Happened::Accepted { note: None, others: Arc::default() } };
    let content = Content { head: "A: b\r\n".into(), body: "\r\ncode\r\n".into() };
    let hash = |of, name: u64| KeyHash::of(&[1; 32], of, &name.to_be_bytes());
    let mut new = NewMessage::plain(message, content, event);
    if random.below(3) == 0 {
        let once = hash(KeyOf::Idempotency, random.below(KEYS));
        let digest = Some(Digest { day: 1, octets: [1; 32] });
        new.idempotency = Some(Idempotency { key: once, digest, span: IDEMPOTENCY_MEMORY, also: Vec::new() });
    }
    if random.below(3) == 0 {
        let key = hash(KeyOf::Budget, random.below(KEYS));
        let (entries, span) = ((0..).zip(0..count).map(|(index, _)| index).collect(), Duration::from_secs(86_400));
        let own = Some(BudgetLimit { count: BUDGET_MOST, most: BUDGET_MOST, span });
        let whose = KeyHash([1; 16]);
        new.budgets.push(BudgetAsk { key, whose, entries, own, total: None, own_min: 2, is_repeatable: true });
    }
    new.slots = slots_of(&new.message, |name| KeyHash::of(&[1; 32], KeyOf::Slot, name));
    new
}
