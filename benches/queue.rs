//! How long a claim waits while somebody looks through a long queue, counts it, or takes back what goes to one recipient.
//!
//! `cargo bench --bench queue` prints the longest wait of each round of claims: the least and the median over the rounds,
//! since a machine that does other things at the same time adds its own.

#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, SystemClock, Timestamp};
use otp_relay::testing::event::{Attempted, NoSink};
use otp_relay::testing::ledger::embedded::node::{Node, Storage};
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::ledger::entry::{Message, SignedContent, State};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::{EntryId, IdSource};
use otp_relay::testing::mail::message::Content;
use otp_relay::testing::queue::claim::Settlement;
use otp_relay::testing::queue::inspect::Filter;
use otp_relay::testing::queue::{Consequences, Ending, Queue, Settings};

const ENTRIES: usize = 200_000;
const ROUNDS: usize = 15;
const CLAIMS: usize = 4000;
/// Between two requests: without it the lock would be seen at its most unfair, which no client's requests bring about.
const PAUSE: Duration = Duration::from_micros(200);

/// What is done meanwhile.
type Work = fn(&Queue, Timestamp, usize);

const CASES: [(&str, Work); 9] = [
    ("nothing", |_, _, _| {}),
    ("list, as GET /v1/queue", |queue, _, _| drop(queue.list(&Filter::default(), 100))),
    ("list of a state", |queue, _, _| {
        drop(queue.list(&Filter { state: Some(State::Sending), ..Filter::default() }, 100));
    }),
    // Nothing is deferred.
    ("list of a user's in no state", |queue, _, _| {
        drop(queue.list(&Filter { user: Some("app".into()), state: Some(State::Deferred), ..Filter::default() }, 100));
    }),
    // It takes a look at all.
    ("list of a key nobody has", |queue, _, _| {
        drop(queue.list(&Filter { key: Some("login".into()), ..Filter::default() }, 100));
    }),
    ("list of a domain", |queue, _, _| {
        drop(queue.list(&Filter { domain: Some("d7.test".into()), ..Filter::default() }, 100));
    }),
    ("depth", |queue, _, _| {
        std::hint::black_box(queue.depth());
    }),
    ("lanes, as GET /metrics", |queue, now, _| {
        std::hint::black_box(queue.standing(now));
    }),
    ("cancel by recipient", |queue, now, turn| {
        // From the end, where no claims are.
        let number = ENTRIES - 1 - turn % (ENTRIES / 2);
        queue.cancel(&Filter { recipient: Some(address(number)), ..Filter::default() }, now);
    }),
];

fn address(number: usize) -> String {
    format!("user{number}@d{}.test", number % 1000)
}

fn queue(clock: Arc<dyn Clock>) -> (Arc<Queue>, Vec<EntryId>) {
    let settings = Settings { entries_max: ENTRIES, deliver_at_most_once: false };
    let entail = Box::new(|_: &Ending| Consequences::default());
    let (store, now, ids) = (Box::new(MemoryStore::default()), clock.now(), IdSource::new());
    let queue = Queue::open(
        Node::alone(store, Storage::Inline, clock.clone(), Delivery::AtLeastOnce).unwrap(),
        settings,
        clock,
        Arc::new(NoSink),
        entail,
    )
    .unwrap();
    drop(queue.take_offers());
    let mut entries = Vec::new();
    for number in 0..ENTRIES {
        let envelope = Envelope {
            reverse_path: ReversePath::NULL,
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(&address(number)).unwrap())],
        };
        let life = now..now.plus(Duration::from_secs(86_400));
        let message = Arc::new(Message::new(ids.next(now), "app".into(), envelope, life));
        let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
        let acceptance = queue.begin(queue.new_message(message.clone(), content.clone(), None)).unwrap();
        drop(queue.admit(acceptance, SignedContent { signatures: Default::default(), content }, &[]));
        entries.push(EntryId { message: message.id, index: 0 });
    }
    (queue, entries)
}

/// The longest that a claim took, and how often the work was done meanwhile.
fn round(queue: &Arc<Queue>, entries: &[EntryId], clock: &SystemClock, work: Work) -> (Duration, usize) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut turns = 0;
            while !is_over.load(Ordering::Relaxed) {
                work(queue, clock.now(), turns);
                turns += 1;
                std::thread::sleep(PAUSE);
            }
            turns
        });
        let mut longest = Duration::ZERO;
        for entry in entries {
            let (now, began) = (clock.now(), clock.instant());
            let claim = queue.claim(*entry, now);
            longest = longest.max(clock.instant().saturating_duration_since(began));
            claim.unwrap().settle(Settlement::Released(Attempted::default()), now);
            std::thread::sleep(Duration::from_micros(20));
        }
        is_over.store(true, Ordering::Relaxed);
        (longest, other.join().unwrap())
    })
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let before = resident_kib();
    let clock = Arc::new(SystemClock::default());
    println!("{ENTRIES} entries; the longest wait of {CLAIMS} claims, in microseconds, over {ROUNDS} rounds");
    println!("{:<28} {:>8} {:>8} {:>10}", "meanwhile", "least", "median", "times");
    for (number, (name, work)) in CASES.into_iter().enumerate() {
        let (queue, entries) = queue(clock.clone());
        if number == 0 {
            println!("{} KiB for the queue and its store in memory", resident_kib() - before);
        }
        let mut longest = Vec::new();
        let mut times = 0;
        for _ in 0..ROUNDS {
            let (one, turns) = round(&queue, &entries[..CLAIMS], &clock, work);
            longest.push(one.as_micros());
            times += turns;
        }
        longest.sort_unstable();
        println!("{name:<28} {:>8} {:>8} {times:>10}", longest[0], longest[ROUNDS / 2]);
    }
}
