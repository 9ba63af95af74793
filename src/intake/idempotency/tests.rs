use super::*;
use crate::base::clock::{Clock as _, ManualClock};
use crate::event::NoSink;
use crate::intake::options::Options;
use crate::intake::testing;
use crate::ledger::accept::NewMessage;
use crate::ledger::embedded::node::{Node, Storage};
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::ledger::embedded::store::{Change, Store as _, Table};
use crate::ledger::entry::Message;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{MailParameters, Recipient};
use crate::mail::id::IdSource;
use crate::queue::{Consequences, Ending, Settings};

struct Secrets;

impl RotatingSecrets for Secrets {
    fn of(&self, day: u64) -> Option<[u8; 32]> {
        Some([u8::try_from(day % 251).unwrap_or(0); 32])
    }
}

fn mail(boundary: &str, code: &str) -> (Envelope, Content) {
    let envelope = Envelope {
        reverse_path: ReversePath::parse("<otp@example.com>").unwrap(),
        parameters: MailParameters::default(),
        recipients: vec![Recipient::new(Mailbox::parse("a@example.org").unwrap())],
    };
    let text = format!(
        "Date: {boundary}\r\nMessage-ID: <{boundary}@example.com>\r\nSubject: {code} is your code\r\n\
         Content-Type: multipart/alternative; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n\
         Content-Type: text/plain\r\n\r\n{code}\r\n--{boundary}--\r\n"
    );
    (envelope, Content::split(text.into()))
}

const WINDOW: Duration = Duration::from_secs(30);

/// What the door asks, and a queue on one node's ledger.
struct World {
    disk: MemoryStore,
    clock: Arc<ManualClock>,
    queue: Arc<Queue>,
    keys: Keys,
    ids: IdSource,
}

impl World {
    fn new() -> Self {
        Self::on(MemoryStore::default(), 0)
    }

    /// On what is stored, from this time on.
    fn on(disk: MemoryStore, at_s: u64) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(at_s * 1000)));
        let settings = Settings::default();
        let node = Node::alone(Box::new(disk.clone()), Storage::Inline, clock.clone(), settings.delivery()).unwrap();
        let entail = Box::new(|_: &Ending| Consequences::default());
        let queue = Queue::open(node, settings, clock.clone(), Arc::new(NoSink), entail).unwrap();
        Self { disk, clock, queue, keys: Keys::new(Arc::new(Secrets)), ids: IdSource::new() }
    }

    /// On what a crash now would leave.
    async fn again(&self, at_s: u64) -> Self {
        self.queue.flush().await.unwrap();
        Self::on(self.disk.image(), at_s)
    }

    fn go_to(&self, at_s: u64) -> Timestamp {
        let at = Timestamp::from_millis(at_s * 1000);
        self.clock.advance(at.since(self.clock.now()));
        assert_eq!(self.clock.now(), at, "times only grow");
        at
    }

    async fn ask(&self, (envelope, content): &(Envelope, Content), at_s: u64) -> Result<Lookup<'_>, Refusal> {
        let (user, now) = (User::unlimited("shop"), self.go_to(at_s));
        let asked = self.keys.ask((&self.queue, &user), Some("7f3a"), (envelope, content), InWork::Wait, now).await;
        asked.map(|asked| asked.expect("a key is an answer"))
    }

    /// Of a user with a window, without a key.
    async fn ask_again(&self, mail: &(Envelope, Content), at_s: u64) -> Option<Lookup<'_>> {
        let (mut user, now) = (User::unlimited("shop"), self.go_to(at_s));
        user.defaults.idempotency_window = WINDOW;
        self.keys.ask((&self.queue, &user), None, (&mail.0, &mail.1), InWork::Wait, now).await.unwrap()
    }

    /// The message is accepted.
    async fn taken(&self, reservation: Box<Reservation<'_>>) -> MessageId {
        let now = self.clock.now();
        let (envelope, content) = mail("x", "1");
        let message = Message::new(self.ids.next(now), "shop".into(), envelope, now..now.plus(WINDOW));
        let new = self.queue.new_message(Arc::new(message), content, None);
        let id = new.message.id;
        let new = NewMessage { idempotency: Some(reservation.known_by.clone()), ..new };
        self.queue.accept(new).await.unwrap();
        id
    }

    async fn rows(&self) -> usize {
        self.queue.flush().await.unwrap();
        let rows = self.disk.rows().into_iter();
        rows.filter(|(table, key)| *table == Table::Idempotency || *table == Table::Ledger && key[0] == b'k').count()
    }
}

fn first(asked: Result<Lookup<'_>, Refusal>) -> Box<Reservation<'_>> {
    match asked {
        Ok(Lookup::First(reservation)) => reservation,
        Ok(Lookup::Repeat(message)) => panic!("a repeat of {message}"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

fn is_repeat_of(asked: Result<Lookup<'_>, Refusal>, id: MessageId) -> bool {
    matches!(asked, Ok(Lookup::Repeat(first)) if first == id)
}

#[tokio::test(start_paused = true)]
async fn a_repeat_is_known_by_what_stays_the_same_and_for_a_day() {
    let world = World::new();
    let id = world.taken(first(world.ask(&mail("x1", "123456"), 0).await)).await;
    assert!(matches!(world.ask(&mail("y2", "654321"), 1).await, Err(Refusal::IdempotencyConflict)));
    // After a restart too.
    let again = world.again(5).await;
    assert!(is_repeat_of(again.ask(&mail("y2", "123456"), 5).await, id));
    assert!(is_repeat_of(world.ask(&mail("y2", "123456"), 86_399).await, id));
    let reservation = first(again.ask(&mail("y2", "123456"), 86_400).await);
    again.taken(reservation).await;
    assert_eq!(again.rows().await, 1, "what is stored anew is not removed");
}

#[tokio::test(start_paused = true)]
async fn after_midnight_the_digest_of_the_day_before_is_compared() {
    let world = World::on(MemoryStore::default(), 86_390);
    let id = world.taken(first(world.ask(&mail("x1", "123456"), 86_390).await)).await;
    assert!(is_repeat_of(world.ask(&mail("y2", "123456"), 86_410).await, id));
    assert!(matches!(world.ask(&mail("y2", "654321"), 86_410).await, Err(Refusal::IdempotencyConflict)));
}

#[tokio::test(start_paused = true)]
async fn where_another_node_was_faster_its_message_is_the_answer() {
    let world = World::new();
    let slower = first(world.ask(&mail("x1", "123456"), 86_410).await);
    // The other node's submission, of before midnight.
    let other = World::on(MemoryStore::default(), 86_390);
    let known_by = first(other.ask(&mail("y2", "123456"), 86_390).await).known_by;
    let (envelope, content) = mail("x1", "123456");
    let now = world.clock.now();
    let message = Message::new(world.ids.next(now), "shop".into(), envelope.clone(), now..now.plus(WINDOW));
    let new = world.queue.new_message(Arc::new(message), content, None);
    let (id, digest) = (new.message.id, known_by.digest);
    let known_by = Idempotency { digest, ..slower.known_by.clone() };
    world.queue.accept(NewMessage { idempotency: Some(known_by), ..new }).await.unwrap();
    let found = world.queue.recall(slower.known_by.clone()).await.unwrap().unwrap();
    assert_eq!(found, Repeated::OtherDay { day: 0, message: id });
    assert_eq!(world.keys.resolve(&world.queue, found, &slower, &envelope, now).await, Ok(id));
    let differing = Reservation { content: mail("z3", "654321").1, ..*slower };
    let resolved = world.keys.resolve(&world.queue, found, &differing, &envelope, now).await;
    assert_eq!(resolved, Err(Refusal::IdempotencyConflict));
}

#[tokio::test(start_paused = true)]
async fn what_a_clock_took_that_was_ahead_is_not_remembered_for_days() {
    let week = 7 * 86_400;
    let world = World::on(MemoryStore::default(), week);
    let id = world.taken(first(world.ask(&mail("x1", "123456"), week).await)).await;
    let set_back_a_little = world.again(week - 3600).await;
    assert!(is_repeat_of(set_back_a_little.ask(&mail("x1", "123456"), week - 3600).await, id));
    let again = world.again(0).await;
    drop(first(again.ask(&mail("x1", "123456"), 0).await));
    assert_eq!(again.rows().await, 0);
}

#[tokio::test(start_paused = true)]
async fn long_content_is_known_again_too() {
    let world = World::new();
    let long = |last: &str| mail("x", &format!("{}{last}", "0123456789 ".repeat(10_000)));
    let id = world.taken(first(world.ask(&long("1"), 0).await)).await;
    let now = world.clock.now().as_secs();
    assert!(is_repeat_of(world.ask(&long("1"), now + 1).await, id));
    assert!(matches!(world.ask(&long("2"), now + 1).await, Err(Refusal::IdempotencyConflict)));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_waits_for_the_first() {
    let (world, content) = (World::new(), mail("x", "123456"));
    let reservation = first(world.ask(&content, 0).await);
    let (second, id) = tokio::join!(world.ask(&content, 0), world.taken(reservation));
    assert!(is_repeat_of(second, id));
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_wait_is_refused_meanwhile() {
    let (world, content) = (World::new(), mail("x", "123456"));
    let reservation = first(world.ask(&content, 0).await);
    let (user, now) = (User::unlimited("shop"), world.clock.now());
    let asked =
        world.keys.ask((&world.queue, &user), Some("7f3a"), (&content.0, &content.1), InWork::Refuse, now).await;
    assert!(matches!(asked, Err(Refusal::InWork)));
    drop(reservation);
}

#[tokio::test(start_paused = true)]
async fn a_first_that_fails_leaves_the_key_free() {
    let (world, content) = (World::new(), mail("x", "123456"));
    let reservation = first(world.ask(&content, 0).await);
    let (second, ()) = tokio::join!(world.ask(&content, 0), async { drop(reservation) });
    first(second);
}

#[tokio::test(start_paused = true)]
async fn within_a_window_the_same_mail_is_a_repeat() {
    // Also over midnight, when the secret changes.
    for first_at in [1000, 86_390] {
        let world = World::on(MemoryStore::default(), first_at);
        let asked = world.ask_again(&mail("x1", "123456"), first_at).await.unwrap();
        let id = world.taken(first(Ok(asked))).await;
        let is_repeat = |asked: Option<Lookup<'_>>| is_repeat_of(Ok(asked.unwrap()), id);
        assert!(!is_repeat(world.ask_again(&mail("x1", "654321"), first_at + 1).await), "another code");
        assert!(is_repeat(world.ask_again(&mail("y2", "123456"), first_at + 29).await));
        // After a restart too.
        let again = world.again(first_at).await;
        assert!(is_repeat(again.ask_again(&mail("y2", "123456"), first_at + 29).await));
        assert!(!is_repeat(world.ask_again(&mail("y2", "123456"), first_at + 30).await), "the window is over");
        let other = again.ask_again(&mail("z3", "777777"), first_at + 30).await.unwrap();
        again.taken(first(Ok(other))).await;
        assert_eq!(again.rows().await, 1, "what is over goes with the next");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_counts_more_than_a_window() {
    let (world, content) = (World::new(), mail("x", "123456"));
    let by_content = world.ask_again(&content, 0).await.unwrap();
    world.taken(first(Ok(by_content))).await;
    let by_key = first(world.ask(&content, 1).await);
    world.taken(by_key).await;
    let (user, now) = (User::unlimited("shop"), world.go_to(2));
    let asked = world.keys.ask((&world.queue, &user), None, (&content.0, &content.1), InWork::Wait, now).await;
    assert!(asked.unwrap().is_none(), "no window, no repeat");
}

#[tokio::test(start_paused = true)]
async fn of_two_at_once_within_a_window_one_waits_for_the_other() {
    let (world, content) = (World::new(), mail("x", "123456"));
    let reservation = first(Ok(world.ask_again(&content, 0).await.unwrap()));
    let (second, id) = tokio::join!(world.ask_again(&content, 0), world.taken(reservation));
    assert!(is_repeat_of(Ok(second.unwrap()), id));
    let other = mail("x", "654321");
    let reservation = first(Ok(world.ask_again(&other, 0).await.unwrap()));
    let (second, ()) = tokio::join!(world.ask_again(&other, 0), async { drop(reservation) });
    // The first was refused.
    first(Ok(second.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn the_rows_of_former_versions_still_count() {
    let (envelope, content) = mail("x1", "123456");
    let now = Timestamp::from_millis(5000);
    let world = World::on(MemoryStore::default(), 5);
    let user_key = (Some("7f3a"), Sameness::UnderKey);
    let window = (None, Sameness::OfContent("shop".into()));
    for (key, sameness) in [user_key, window] {
        let digest = world.keys.digest(&sameness, 0, now, (&envelope, &content)).await.unwrap();
        let id = MessageId::from_bytes([9; 16]);
        let end = 35_000_u64.to_be_bytes();
        let (version, name, last) = match key {
            Some(key) => (1, format!("shop\n{key}").into_bytes(), &digest[..]),
            None => (2, [&[OF_CONTENT], &digest[..]].concat(), &end[..]),
        };
        let value = [&[version], &id.to_bytes()[..], &5000_u64.to_be_bytes(), last].concat();
        let mut disk = MemoryStore::default();
        disk.commit(&[&[Change::Side(Table::Idempotency, name.into(), Some(value.into()))]]).unwrap();
        let again = World::on(disk, 6);
        let repeat = mail("y2", "123456");
        let asked = match key {
            Some(_) => again.ask(&repeat, 6).await,
            None => Ok(again.ask_again(&repeat, 6).await.unwrap()),
        };
        assert!(is_repeat_of(asked, id), "{key:?}");
        assert_eq!(again.rows().await, 1);
        let rows = again.disk.rows();
        assert!(rows.iter().all(|(table, _)| *table != Table::Idempotency), "under a name of the ledger's own");
    }
}

/// Each was found new by its node; the ledger takes one, and the others hear what became of that.
#[tokio::test(start_paused = true)]
async fn of_those_that_two_nodes_found_new_the_ledger_takes_one() {
    let door = testing::door();
    let other = testing::beside(&door);
    let key = || Options { idempotency_key: Some("7f3a".into()), ..Options::default() };
    let first = testing::prepared(&door, key(), "123456").await.unwrap();
    let second = testing::prepared(&other, key(), "123456").await.unwrap();
    let third_node = testing::beside(&door);
    let third = testing::prepared(&third_node, key(), "654321").await.unwrap();
    let accepted = door.accept(*first).await.unwrap();
    assert_eq!(accepted.repeat_of, None);
    let repeat = other.accept(*second).await.unwrap();
    assert_eq!((repeat.id, repeat.repeat_of), (accepted.id, Some("queued")));
    assert_eq!(third_node.accept(*third).await.err(), Some(Refusal::IdempotencyConflict));
    assert_eq!(door.parts.queue.depth().messages, 1);
}
