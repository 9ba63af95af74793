//! Verifications over a real queue and a store in memory: races, crashes at every step, and attackers.

use std::collections::HashSet;

use super::checks::NOTHING;
use super::code::Alphabet;
use super::state::Answer;
use super::*;
use crate::accounts::user::User;
use crate::base::clock::ManualClock;
use crate::event::NoSink;
use crate::ledger::accept::NewMessage;
use crate::ledger::attempt::Side;
use crate::ledger::embedded::node::{Node, Storage};
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::ledger::entry::SignedContent;
use crate::ledger::side::{SideTable, SideTables as _};
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::id::IdSource;
use crate::mail::message::Content;
use crate::queue::claim::Settlement;
use crate::queue::{Consequences, Settings};

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

/// A relay's part that matters here, from a start to a crash.
struct World {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    queue: Arc<Queue>,
    all: Arc<Verifications>,
    limits: Limits,
    user: User,
    ids: IdSource,
}

impl World {
    fn new() -> Self {
        Self::on(MemoryStore::default(), START)
    }

    fn on(store: MemoryStore, now: Timestamp) -> Self {
        let clock = Arc::new(ManualClock::new(now));
        let all = Arc::new(Verifications::new(Arc::new(CodeKeys::in_memory(&[7; 32]))));
        let learning = all.clone();
        let entail = Box::new(move |ending: &Ending| Consequences {
            side: learning.learn(ending, Step::NONE).into_iter().map(Side::Row).collect(),
            gives_back: None,
            notification: None,
        });
        let settings = Settings { entries_max: 10_000, ..Settings::default() };
        let boxed = Box::new(store.clone());
        let queue = Queue::open(
            Node::alone(boxed, Storage::Inline, clock.clone(), settings.delivery()).unwrap(),
            settings,
            clock.clone(),
            Arc::new(NoSink),
            entail,
        )
        .unwrap();
        let limits = Limits::default();
        all.take_up(queue.take_side(SideTable::Verification), &limits, now);
        Self { store, clock, queue, all, limits, user: User::unlimited("shop"), ids: IdSource::new() }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn plan(&self, to: &str, session: Option<&str>) -> Result<Plan, Refused> {
        let to = Mailbox::parse(to).unwrap();
        let request = Request {
            user: &self.user,
            to: &to,
            purpose: "login",
            session,
            life: Duration::from_secs(600),
            alphabet: Alphabet::Digits,
            length: 6,
            secrecy: Secrecy::Open,
            idempotency_key: None,
        };
        self.all.plan(&request, &self.limits, self.now())
    }

    /// Sends a code: its verification, the code and the message.
    async fn send(&self, to: &str, session: Option<&str>) -> (Arc<str>, String, MessageId) {
        let slot = match self.plan(to, session) {
            Ok(Plan::Send(slot)) => slot,
            other => panic!("{other:?}"),
        };
        let envelope = Envelope {
            reverse_path: ReversePath::parse("<otp@shop.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse(to).unwrap())],
        };
        let (now, id) = (self.now(), self.ids.next(self.now()));
        let life = now..now.plus(Duration::from_secs(600));
        let message = Arc::new(slot.carried_by(Message::new(id, self.user.name.clone(), envelope, life)));
        let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
        let side = self.all.sent(&slot, &message, Step::NONE);
        let new = NewMessage { rows: side, ..self.queue.new_message(message.clone(), content.clone(), None) };
        let mut acceptance = self.queue.begin(new).unwrap();
        acceptance.stored().await.unwrap();
        drop(self.queue.admit(acceptance, SignedContent { signatures: Default::default(), content }, &[]));
        (slot.id.clone(), slot.code.to_string(), id)
    }

    fn deliver(&self, message: MessageId) {
        let entry = crate::mail::id::EntryId { message, index: 0 };
        let settlement = Settlement::Delivered { attempted: Default::default(), notifies: false };
        self.queue.claim(entry, self.now()).unwrap().settle(settlement, self.now());
    }

    async fn check(&self, id: &str, code: &str) -> Answer {
        self.checked((Selector::Id(id), code, None)).await.unwrap().answer
    }

    async fn check_at(&self, to: &str, session: Option<&str>, code: &str) -> Result<Answer, CheckError> {
        let to = Mailbox::parse(to).unwrap();
        self.checked((Selector::Address(&to, "login", session), code, None)).await.map(|checked| checked.answer)
    }

    async fn checked(&self, (which, code, key): (Selector<'_>, &str, Option<&str>)) -> Result<CheckResult, CheckError> {
        self.all.check(("shop", which, code, key), &self.queue, &*self.clock, &self.limits).await
    }

    fn view(&self, id: &str) -> View {
        self.all.view("shop", id, &self.limits, self.now()).unwrap()
    }

    /// The next life of the relay, with what a crash now leaves.
    fn after_crash(&self) -> Self {
        Self::on(self.store.image(), self.now())
    }
}

fn wrong(code: &str) -> String {
    let other = if code.starts_with('1') { '2' } else { '1' };
    format!("{other}{}", &code[1..])
}

#[tokio::test(start_paused = true)]
async fn a_code_is_right_once() {
    let world = World::new();
    let (id, code, message) = world.send("alice@example.test", None).await;
    assert!(id.starts_with("vrf_"));
    world.clock.advance(Duration::from_secs(3));
    world.deliver(message);
    world.clock.advance(Duration::from_secs(7));
    let answer = world.check(&id, &wrong(&code)).await;
    assert_eq!((answer.valid, answer.state, answer.checks_left), (false, State::Pending, 4));
    let spaced = format!(" {}-{} ", &code[..3], &code[3..]);
    let checked = world.checked((Selector::Id(&id), &spaced, None)).await.unwrap();
    assert_eq!((checked.answer.valid, checked.answer.state), (true, State::Approved));
    let (head, since_delivered) = *checked.approved.unwrap();
    assert_eq!((head.id, head.verification.as_deref(), head.tag.as_deref()), (message, Some(&*id), Some("login")));
    assert_eq!((since_delivered, head.since_accepted), (Some(Duration::from_secs(7)), Duration::from_secs(10)));
    let again = world.check(&id, &code).await;
    assert_eq!((again.valid, again.state, again.checks_left), (false, State::Approved, 0));
    assert!(matches!(world.checked((Selector::Id(&id), "abc", None)).await, Err(CheckError::Malformed)));
    assert!(matches!(world.checked((Selector::Id("vrf_x"), &code, None)).await, Err(CheckError::Unknown)));
    let theirs =
        world.all.check(("bank", Selector::Id(&id), &code, None), &world.queue, &*world.clock, &world.limits).await;
    assert!(matches!(theirs, Err(CheckError::Unknown)));
}

/// However many ask at once, and however the runtime orders them: one of them hears yes, and never more checks are spent than
/// there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_races_of_thirty_two_checks() {
    let world = Arc::new(World::new());
    for race in 0..1000 {
        let (id, code, _) = world.send(&format!("a{race}@example.test"), None).await;
        // Right ones among wrong ones; of some races only four wrong ones.
        let wrong_ones = if race % 2 == 0 { 4 } else { 31 };
        let asked = (0..32).map(|n| {
            let (world, id) = (world.clone(), id.clone());
            let typed = if (n * 7 + race) % 32 < wrong_ones { wrong(&code) } else { code.clone() };
            tokio::spawn(async move { (typed.clone(), world.check(&id, &typed).await) })
        });
        let answers: Vec<(String, Answer)> =
            futures_util::future::join_all(asked).await.into_iter().map(Result::unwrap).collect();
        let valid: Vec<_> = answers.iter().filter(|(_, answer)| answer.valid).collect();
        assert!(valid.len() <= 1 && valid.iter().all(|(typed, _)| *typed == code), "race {race}");
        let expected = if valid.is_empty() { State::Exhausted } else { State::Approved };
        assert_eq!(world.view(&id).state, expected, "race {race}");
        assert!(race % 2 == 1 || valid.len() == 1, "four wrong ones leave one: race {race}");
        if race % 50 == 0 {
            assert_eq!(world.after_crash().view(&id).state, expected, "on disk: race {race}");
        }
        // The counter of wrong ones is one recipient's.
        world.clock.advance(Duration::from_secs(1));
    }
}

/// A crash at any moment: what was answered is on disk, so that no check comes back, and no code is right twice.
#[tokio::test(start_paused = true)]
async fn a_check_is_spent_on_disk_before_its_answer() {
    for kill in 0..20 {
        let mut world = World::new();
        let (id, code, _) = world.send("alice@example.test", None).await;
        let (mut valid, mut answered) = (0, 0);
        for n in 0..8 {
            let typed = if n == kill % 6 { code.clone() } else { wrong(&code) };
            // Before the answer is given, the image has it, or nobody hears of it.
            let before = world.store.commits();
            let answer = world.check(&id, &typed).await;
            let was_pending = answered < 5 && valid == 0;
            answered += 1;
            valid += usize::from(answer.valid);
            assert_eq!(world.store.commits() > before, was_pending, "check {n} of kill {kill}");
            if n % (kill / 6 + 1) == 0 {
                let next = world.after_crash();
                assert_eq!(next.view(&id), world.view(&id), "check {n} of kill {kill}");
                world = next;
            }
        }
        assert!(valid <= 1, "kill {kill}");
        assert_eq!(valid, usize::from(kill % 6 < 5), "kill {kill}: the sixth comes too late");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_not_answered_and_can_be_asked_again() {
    let world = World::new();
    let (id, code, _) = world.send("alice@example.test", None).await;
    world.store.set_failing(true);
    assert!(matches!(world.checked((Selector::Id(&id), &code, None)).await, Err(CheckError::Store(_))));
    assert_eq!(world.view(&id).state, State::Pending);
    world.store.heal();
    let mut answers = Vec::new();
    for _ in 0..3 {
        // The store recovers by itself, with the first that comes after a while.
        world.clock.advance(Duration::from_secs(2));
        if let Ok(checked) = world.checked((Selector::Id(&id), &code, None)).await {
            answers.push(checked.answer.valid);
        }
    }
    assert_eq!(answers.iter().filter(|valid| **valid).count(), 1, "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_check_gets_its_answer_for_two_minutes() {
    let world = World::new();
    let (id, code, _) = world.send("alice@example.test", None).await;
    let ask = async |world: &World, code: &str, key| {
        world.checked((Selector::Id(&id), code, Some(key))).await.map(|c| c.answer)
    };
    let first = ask(&world, &wrong(&code), "a").await.unwrap();
    assert_eq!(ask(&world, &wrong(&code), "a").await.unwrap(), first);
    assert_eq!(world.view(&id).checks_left, 4, "spent once");
    assert!(matches!(ask(&world, &code, "a").await, Err(CheckError::Conflict)));
    assert!(ask(&world, &code, "b").await.unwrap().valid);
    let next = world.after_crash();
    assert!(ask(&next, &code, "b").await.unwrap().valid, "the answer to the same request");
    next.clock.advance(Duration::from_secs(120));
    assert!(!ask(&next, &code, "b").await.unwrap().valid);
    // By address too.
    let (_, code, _) = next.send("bob@example.test", None).await;
    let to = Mailbox::parse("bob@example.test").unwrap();
    for _ in 0..2 {
        assert!(next.checked((Selector::Address(&to, "login", None), &code, Some("c"))).await.unwrap().answer.valid);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_code_voids_what_has_not_left_and_stands_beside_what_may_have_arrived() {
    let world = World::new();
    let (id, first, message) = world.send("alice@example.test", None).await;
    assert!(matches!(world.plan("alice@example.test", None), Ok(Plan::Repeat(view)) if view.id == id));
    world.clock.advance(Duration::from_secs(30));
    let (same, second, second_message) = world.send("alice@example.test", None).await;
    assert_eq!((same, world.view(&id).sends), (id.clone(), 2));
    assert!(!world.queue.is_live(message), "the first was superseded");
    assert!(!world.check(&id, &first).await.valid, "and is void");
    world.deliver(second_message);
    world.clock.advance(Duration::from_secs(60));
    let (_, third, _) = world.send("alice@example.test", None).await;
    let next = world.after_crash();
    assert!(!next.check(&id, &first).await.valid, "also after a crash");
    assert!(next.check(&id, &second).await.valid, "it arrived before the third was sent");
    assert_ne!(second, third);
    assert!(!next.queue.is_live(next.view(&id).message.unwrap()), "what is still queued is of no use");
}

#[tokio::test(start_paused = true)]
async fn sends_are_spaced_and_bounded() {
    let world = World::new();
    let (id, ..) = world.send("alice@example.test", None).await;
    for (wait, sends) in [(30, 2), (60, 3), (120, 4), (120, 5)] {
        world.clock.advance(Duration::from_secs(wait - 1));
        assert!(matches!(world.plan("alice@example.test", None), Ok(Plan::Repeat(_))));
        world.clock.advance(Duration::from_secs(1));
        world.send("alice@example.test", None).await;
        assert_eq!(world.view(&id).sends, sends);
    }
    world.clock.advance(Duration::from_secs(120));
    assert!(matches!(world.plan("alice@example.test", None), Err(Refused::Sends(_))));
    // Three that arrived are as many as can be typed.
    let world = World::new();
    for wait in [30, 60, 120] {
        let (.., message) = world.send("bob@example.test", None).await;
        world.deliver(message);
        world.clock.advance(Duration::from_secs(wait));
    }
    assert!(matches!(world.plan("bob@example.test", None), Err(Refused::Sends(_))));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_arrive_it_is_over() {
    let world = World::new();
    let (id, code, message) = world.send("alice@example.test", None).await;
    let entry = crate::mail::id::EntryId { message, index: 0 };
    let failed = Settlement::Failed { attempted: Default::default(), suppress: crate::event::Suppress::No };
    world.queue.claim(entry, world.now()).unwrap().settle(failed, world.now());
    assert_eq!(world.view(&id).state, State::Undeliverable);
    assert_eq!(world.check(&id, &code).await, Answer { valid: false, state: State::Undeliverable, checks_left: 0 });
    let (other, ..) = world.send("alice@example.test", None).await;
    assert_ne!(other, id, "another one begins");
    world.queue.flush().await.unwrap();
    assert_eq!(world.after_crash().view(&id).state, State::Undeliverable);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_withdrawn_stays_so() {
    let world = World::new();
    let (id, code, message) = world.send("alice@example.test", None).await;
    assert_eq!(world.all.cancel("bank", &id, &world.queue, &*world.clock).await.unwrap(), None);
    assert_eq!(world.all.cancel("shop", &id, &world.queue, &*world.clock).await.unwrap(), Some(false));
    assert!(!world.queue.is_live(message));
    assert_eq!(world.check(&id, &code).await.state, State::Cancelled);
    assert_eq!(world.after_crash().view(&id).state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn an_address_with_a_tag_is_another_one() {
    let world = World::new();
    let (_, code, _) = world.send("bob@example.test", None).await;
    for other in ["bob+x@example.test", "Bob@example.test", "b.ob@example.test", "\"bob\"@example.test"] {
        assert!(!world.check_at(other, None, &code).await.unwrap().valid, "{other}");
    }
    let (_, tagged, _) = world.send("bob+x@example.test", None).await;
    if tagged != code {
        assert!(!world.check_at("bob@example.test", None, &tagged).await.unwrap().valid);
    }
    assert!(world.check_at("bob@Example.TEST", None, &code).await.unwrap().valid);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_right_is_told_alike_by_address() {
    let world = World::new();
    let (_, code, _) = world.send("alice@example.test", None).await;
    let nobody = world.check_at("nobody@example.test", None, &code).await;
    assert_eq!(nobody, Ok(NOTHING));
    assert_eq!(world.check_at("alice@example.test", None, &wrong(&code)).await, nobody);
    assert_eq!(world.check_at("alice@example.test", Some("other"), &code).await, nobody);
    world.clock.advance(Duration::from_secs(600));
    assert_eq!(world.check_at("alice@example.test", None, &code).await, nobody, "expired");
}

/// Whoever sits at the form can name the victim, ask for codes and guess: the victim's own session goes on.
#[tokio::test(start_paused = true)]
async fn an_attacker_at_the_form_does_not_hold_the_victim_up() {
    let world = World::new();
    let (mine, code, message) = world.send("victim@example.test", Some("mine")).await;
    world.deliver(message);
    // Three sessions of the attacker's, spellings of the address, and all checks of each.
    for (session, to) in [("a", "victim@example.test"), ("b", "victim+1@example.test"), ("c", "VICTIM@example.test")] {
        let (theirs, other, _) = world.send(to, Some(session)).await;
        for _ in 0..9 {
            world.check(&theirs, &wrong(&other)).await;
        }
        assert_eq!(world.view(&theirs).state, State::Exhausted);
    }
    for n in 0..50 {
        let _ = world.check_at("victim@example.test", None, "000000").await;
        let _ = world.check_at("victim@example.test", Some(&n.to_string()), "000000").await;
    }
    assert!(
        matches!(world.plan("victim@example.test", Some("new")), Err(Refused::Guessed(wait)) if wait <= Duration::from_secs(3600))
    );
    assert!(matches!(world.check_at("victim@example.test", None, "000000").await, Err(CheckError::Guessed(_))));
    let view = world.view(&mine);
    assert_eq!((view.state, view.checks_left), (State::Pending, 5), "untouched");
    // The hour survives a restart, and so does the victim's session.
    let next = world.after_crash();
    assert!(matches!(next.plan("victim@example.test", Some("new")), Err(Refused::Guessed(_))));
    assert!(matches!(
        next.check_at("victim@example.test", Some("mine"), &wrong(&code)).await,
        Err(CheckError::Guessed(_))
    ));
    assert!(next.check_at("victim@example.test", Some("mine"), &code).await.unwrap().valid);
    next.clock.advance(Duration::from_secs(3600));
    assert!(matches!(next.plan("victim@example.test", Some("new")), Ok(Plan::Send(_))));
    // Others are not counted.
    assert!(matches!(world.plan("other@example.test", None), Ok(Plan::Send(_))));
}

#[tokio::test(start_paused = true)]
async fn four_at_once_are_enough_for_a_recipient() {
    let world = World::new();
    let mut ids = HashSet::new();
    for session in ["a", "b", "c", "d"] {
        ids.insert(world.send("alice@example.test", Some(session)).await.0);
    }
    assert_eq!(ids.len(), 4);
    assert!(matches!(world.plan("alice+x@example.test", Some("e")), Err(Refused::Live(_))));
    world.clock.advance(Duration::from_secs(600));
    assert!(matches!(world.plan("alice@example.test", Some("e")), Ok(Plan::Send(_))));
}

#[tokio::test(start_paused = true)]
async fn what_is_final_goes_after_a_day_and_its_rows_with_it() {
    let world = World::new();
    let (id, code, _) = world.send("alice@example.test", None).await;
    world.check(&id, &wrong(&code)).await;
    let _ = world.check_at("alice@example.test", Some("other"), "000000").await;
    let let_go = |world: &World| world.all.table.lock().let_go(Duration::from_secs(3600), world.now()).1;
    world.clock.advance(Duration::from_secs(600));
    assert!(let_go(&world).is_empty());
    assert_eq!(world.view(&id).state, State::Expired);
    world.clock.advance(Duration::from_secs(86_400));
    let changes = let_go(&world);
    world.queue.store_side(changes).await.unwrap();
    assert!(world.all.view("shop", &id, &world.limits, world.now()).is_none());
    world.queue.flush().await.unwrap();
    let left = Node::alone(
        Box::new(world.store.image()),
        Storage::Inline,
        world.clock.clone(),
        Settings::default().delivery(),
    );
    let rows = left.unwrap().take_side(SideTable::Verification);
    // The message's own end comes with its timers, which nobody runs here.
    assert!(rows.iter().all(|(key, _)| key.first() == Some(&b'e')), "{} rows", rows.len());
}

#[tokio::test(start_paused = true)]
async fn a_person_is_forgotten_once_it_is_final() {
    let world = World::new();
    let (theirs, code, _) = world.send("alice@Example.test", None).await;
    let (other, ..) = world.send("bob@example.test", None).await;
    assert!(world.all.erase("alice@example.test", world.now()).is_empty(), "it is pending");
    world.check(&theirs, &code).await;
    let changes = world.all.erase("alice@example.test", world.now());
    world.queue.store_side(changes).await.unwrap();
    let left = |world: &World, id: &str| world.all.view("shop", id, &world.limits, world.now()).is_some();
    for world in [&world, &world.after_crash()] {
        assert!(!left(world, &theirs) && left(world, &other));
    }
}

/// Neither the code nor what was typed is in what is stored.
#[tokio::test(start_paused = true)]
async fn no_code_is_stored() {
    let world = World::new();
    let (id, code, _) = world.send("alice@example.test", None).await;
    let guess = wrong(&code);
    world.checked((Selector::Id(&id), &guess, Some("k"))).await.unwrap();
    let queue = world.after_crash().queue;
    drop(queue);
    let image = format!("{:?}", world.store.image());
    for secret in [&code, &guess] {
        assert!(!image.contains(secret.as_str()));
        let octets: Vec<String> = secret.bytes().map(|octet| octet.to_string()).collect();
        assert!(!image.contains(&octets.join(", ")), "as octets");
    }
}
