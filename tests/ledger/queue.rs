//! The queue's half above the seam: what it offers, when it lets go, and what it does not do without a lease.

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock, Timestamp};
use otp_relay::testing::event::{Attempted, Kind, NoSink};
use otp_relay::testing::ledger::Ledger;
use otp_relay::testing::ledger::accept::{NewMessage, Refused, Repeated};
use otp_relay::testing::ledger::attempt::Target;
use otp_relay::testing::ledger::embedded::node::{Node as OneNode, Storage};
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::ledger::entry::{LostClaim, State};
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::memory::{Faults, Replication};
use otp_relay::testing::mail::id::{EntryId, IdSource};
use otp_relay::testing::queue::claim::{Claim, NotReleased, Settlement};
use otp_relay::testing::queue::{Consequences, Ending, Offers, Queue, Settings};

use parking_lot::Mutex;

use super::cluster::{Cluster, pass};
use super::{START, World, embedded_settings};

/// A queue on one node's ledger, which decides on slots.
struct Bench {
    world: World,
    owned: Arc<Queue>,
    /// Ends of which this node has seen to what they entail.
    entailed: Arc<Mutex<Vec<(EntryId, Kind)>>>,
    offers: Offers,
    node: Arc<otp_relay::testing::ledger::memory::Node>,
}

/// The queue over this ledger.
pub fn queue_over(ledger: Arc<dyn Ledger>, clock: Arc<dyn Clock>, settings: Settings) -> Arc<Queue> {
    Queue::open(ledger, settings, clock, Arc::new(NoSink), Box::new(|_: &Ending| Consequences::default())).unwrap()
}

impl Bench {
    async fn join(cluster: &Cluster, id: u64) -> Self {
        let node = cluster.node(id).await;
        let clock = cluster.clock.clone();
        let entailed = Arc::new(Mutex::new(Vec::new()));
        let seen = entailed.clone();
        let entail = Box::new(move |ending: &Ending| {
            seen.lock().push((ending.entry(), ending.event.kind()));
            Consequences::default()
        });
        let owned = Queue::open(node.clone(), Settings::default(), clock, Arc::new(NoSink), entail).unwrap();
        let offers = owned.take_offers().unwrap();
        tokio::spawn(owned.clone().run());
        let world = World::of(node.clone(), cluster.ids.clone());
        Self { world, owned, entailed, offers, node }
    }

    fn now(&self) -> Timestamp {
        self.world.ledger.now()
    }

    fn claim(&self, id: EntryId) -> Result<Claim, LostClaim> {
        self.owned.claim(id, self.now())
    }

    fn offered(&self) -> Vec<EntryId> {
        std::iter::from_fn(|| self.offers.try_next()).map(|offer| offer.entry).collect()
    }
}

fn delivered() -> Settlement {
    Settlement::Delivered { attempted: Attempted::default(), notifies: false }
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_goes_without_a_gate_for_a_moment() {
    let cluster = Cluster::new(Replication::Synchronous);
    let queue = Bench::join(&cluster, 1).await;
    let new = queue.world.message(&["a@one.test"]);
    queue.owned.accept(new.clone()).await.unwrap();
    let [id] = queue.offered()[..] else { panic!() };
    // Nobody is asked: the database is not there.
    cluster.database.set_available(false);
    let mut claim = queue.claim(id).unwrap();
    assert_eq!(claim.release_content(queue.now()).await, Ok(()));
    pass(300).await;
    assert_eq!(claim.release_content(queue.now()).await, Err(NotReleased::NotNoted), "it is not fresh any more");
    claim.settle(delivered(), queue.now());
    assert_eq!(queue.owned.depth().messages, 0);
    cluster.database.set_available(true);
    pass(2000).await;
    assert_eq!(cluster.ends(), [Kind::Delivered]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_offered_without_a_lease_and_all_is_with_one() {
    let cluster = Cluster::new(Replication::Synchronous);
    let queue = Bench::join(&cluster, 1).await;
    queue.owned.accept(queue.world.message(&["a@one.test"])).await.unwrap();
    let [id] = queue.offered()[..] else { panic!() };
    let claim = queue.claim(id).unwrap();
    let now = queue.world.ledger.now();
    claim.settle(Settlement::put_off(Attempted::default(), now.plus(Duration::from_secs(5))), now);
    pass(1000).await;
    cluster.database.set_available(false);
    pass(20_000).await;
    assert_eq!(queue.offered(), []);
    cluster.database.set_available(true);
    pass(1000).await;
    assert_eq!(queue.offered(), [id]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_not_attempted_while_its_settlement_is_under_way() {
    let cluster = Cluster::new(Replication::Synchronous);
    let queue = Bench::join(&cluster, 1).await;
    queue.owned.accept(queue.world.message(&["a@one.test"])).await.unwrap();
    let [id] = queue.offered()[..] else { panic!() };
    cluster.database.set_faults(Faults { delay_max: Duration::from_millis(400), ..Faults::default() });
    let claim = queue.claim(id).unwrap();
    let now = queue.world.ledger.now();
    claim.settle(Settlement::put_off(Attempted::default(), now), now);
    assert!(queue.claim(id).is_err());
    pass(5000).await;
    assert_eq!(queue.offered(), [id], "once");
    assert!(queue.claim(id).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_fenced_forgets_all_and_others_go_on() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (Bench::join(&cluster, 1).await, Bench::join(&cluster, 2).await);
    let new = a.world.message(&["a@one.test", "b@two.test"]);
    a.owned.accept(new.clone()).await.unwrap();
    let offered = a.offered();
    let mut claim = a.claim(offered[0]).unwrap();
    a.node.stand_still(Duration::from_secs(4));
    pass(3000).await;
    assert!(claim.check(a.now()).is_err());
    let mut taken = b.offered();
    taken.sort_unstable();
    assert_eq!(taken, offered, "both, of one message");
    pass(1500).await;
    assert!(claim.release_content(a.now()).await.is_err());
    drop(claim);
    assert_eq!((a.owned.depth().messages, b.owned.depth().messages), (0, 1));
    for id in taken {
        let mut claim = b.claim(id).unwrap();
        assert_eq!(claim.release_content(b.now()).await, Ok(()));
        claim.settle(delivered(), b.now());
    }
    pass(300).await;
    assert_eq!(cluster.ends(), [Kind::Delivered; 2]);
}

/// What a newer message ends, on its own node or on another: its owner sees to what that entails, once.
#[tokio::test(start_paused = true)]
async fn what_another_node_supersedes_entails_the_same() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (Bench::join(&cluster, 1).await, Bench::join(&cluster, 2).await);
    let in_slot = |bench: &Bench| bench.world.in_slot("login", &["a@one.test"]);
    let id = |new: &NewMessage| EntryId { message: new.message.id, index: 0 };
    let (first, second, third) = (in_slot(&a), in_slot(&a), in_slot(&b));
    a.owned.accept(first.clone()).await.unwrap();
    a.owned.accept(second.clone()).await.unwrap();
    assert_eq!(*a.entailed.lock(), [(id(&first), Kind::Superseded)]);
    b.owned.accept(third).await.unwrap();
    pass(300).await;
    assert_eq!(*a.entailed.lock(), [(id(&first), Kind::Superseded), (id(&second), Kind::Superseded)]);
    assert!(b.entailed.lock().is_empty());
    assert_eq!((a.owned.depth().messages, b.owned.depth().messages), (0, 1));
    assert_eq!(cluster.ends(), [Kind::Superseded; 2], "told once each");
}

/// Whoever asks one node sees, and reaches, what others have.
#[tokio::test(start_paused = true)]
async fn one_node_is_asked_for_all() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (Bench::join(&cluster, 1).await, Bench::join(&cluster, 2).await);
    pass(300).await;
    let new = |bench: &Bench| bench.world.message(&["a@one.test"]);
    a.owned.accept(new(&a)).await.unwrap();
    b.owned.accept(new(&b)).await.unwrap();
    let (ours, theirs) = (a.offered()[0], b.offered()[0]);
    let (all, later) = (Filter::default(), b.now().plus(Duration::from_secs(60)));
    b.claim(theirs).unwrap().settle(Settlement::put_off(Attempted::default(), later), b.now());
    b.owned.flush().await.unwrap();
    let claim = a.claim(ours).unwrap();
    let listing = a.owned.list_everywhere(all.clone(), 10, a.owned.list(&all, 10)).await.unwrap();
    let states: Vec<_> = listing.messages.iter().map(|found| found.entries[0].state).collect();
    assert_eq!((listing.entries, states), (2, vec![Some(State::Sending), Some(State::Deferred)]));
    drop(claim);
    let retried = a.owned.retry_after(&all, Duration::ZERO, a.now());
    let retried = a.owned.retry_everywhere(all.clone(), Duration::ZERO, retried).await.unwrap();
    assert_eq!(retried.entries, [ours, theirs]);
    pass(300).await;
    assert_eq!(b.offered(), [theirs]);
    assert_eq!(a.owned.cancel(&all, a.now()).len(), 1);
    a.owned.flush().await.unwrap();
    assert_eq!(a.owned.cancel_everywhere(all).await.unwrap().iter().map(|one| one.id).collect::<Vec<_>>(), [theirs]);
    pass(300).await;
    assert_eq!((b.owned.depth().messages, cluster.ends()), (0, vec![Kind::Cancelled; 2]));
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_a_message_can_be_with_several_nodes() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (Bench::join(&cluster, 1).await, Bench::join(&cluster, 2).await);
    a.owned.accept(a.world.message(&["a@one.test", "b@two.test"])).await.unwrap();
    let offered = a.offered();
    let to_b = Target::Node("node2".into());
    assert_eq!(a.owned.hand_over(vec![offered[1]], to_b.clone()).await.unwrap(), [offered[1]]);
    pass(300).await;
    assert_eq!(b.offered(), [offered[1]]);
    assert!(a.claim(offered[1]).is_err());
    let held = a.claim(offered[0]).unwrap();
    assert_eq!(a.owned.hand_over(vec![offered[0]], to_b.clone()).await.unwrap(), [], "it is being attempted");
    held.settle(Settlement::Released(Attempted::default()), a.now());
    assert_eq!(a.owned.hand_over(vec![offered[0]], to_b).await.unwrap(), [offered[0]]);
    pass(300).await;
    assert_eq!(b.offered(), [offered[0]], "the other one is there already");
    assert_eq!((a.owned.depth().messages, b.owned.depth().messages), (0, 1));
    assert_eq!(a.owned.cancel_everywhere(Filter::default()).await.unwrap().len(), 2, "whoever owns them");
    pass(300).await;
    assert_eq!(b.owned.depth().messages, 0);
}

/// The same queue on the ledger of one node, which is opened again on what a crash left.
#[tokio::test(start_paused = true)]
async fn one_node_goes_on_with_what_a_crash_left() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
    let (disk, ids) = (MemoryStore::default(), Arc::new(IdSource::new()));
    let open = |disk: &MemoryStore| {
        let disk = Box::new(disk.clone());
        let node = OneNode::open(disk, Storage::Inline, clock.clone(), embedded_settings(100)).unwrap();
        let owned = queue_over(Arc::new(node.clone()), clock.clone(), Settings::default());
        let (offers, running) = (owned.take_offers().unwrap(), tokio::spawn(owned.clone().run()));
        (World::of(Arc::new(node), ids.clone()), owned, offers, running)
    };
    let (world, owned, offers, running) = open(&disk);
    owned.accept(world.in_slot("login", &["a@one.test"])).await.unwrap();
    let older = offers.try_next().unwrap().entry;
    let new = world.in_slot("login", &["a@one.test"]);
    let accepted = owned.accept(new.clone()).await.unwrap();
    assert_eq!(accepted.outlived, [(older, new.message.id)], "its owner ends it");
    assert!(owned.claim(older, world.ledger.now()).is_err());
    let id = offers.try_next().unwrap().entry;
    let mut claim = owned.claim(id, world.ledger.now()).unwrap();
    claim.release_content(world.ledger.now()).await.unwrap();
    let now = world.ledger.now();
    claim.settle(Settlement::put_off(Attempted::default(), now.plus(Duration::from_secs(5))), now);
    world.ledger.flush().await.unwrap();
    running.abort();
    let disk = disk.image();
    drop((world, owned, offers));

    let (world, owned, offers, _running) = open(&disk);
    pass(1000).await;
    assert!(offers.try_next().is_none(), "it is not due yet");
    pass(5000).await;
    assert_eq!(offers.try_next().unwrap().entry, id);
    let mut claim = owned.claim(id, world.ledger.now()).unwrap();
    assert_eq!(claim.progress().attempts, 2);
    assert_eq!(claim.stored_content().await.unwrap(), Some(new.content));
    claim.release_content(world.ledger.now()).await.unwrap();
    claim.settle(delivered(), world.ledger.now());
    pass(100).await;
    let kinds = world.kinds().await;
    let expected = [Kind::Accepted, Kind::Accepted, Kind::Superseded, Kind::Deferred, Kind::Delivered];
    assert_eq!(kinds, expected);
    assert!(disk.is_empty());
}

/// As where nobody can sign it.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_after_it_was_stored_counts_for_nothing() {
    let cluster = Cluster::new(Replication::Synchronous);
    let bench = Bench::join(&cluster, 1).await;
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
    let disk = Box::new(MemoryStore::default());
    let node = Arc::new(OneNode::open(disk, Storage::Inline, clock.clone(), embedded_settings(100)).unwrap());
    let world = World::of(node.clone(), Arc::new(IdSource::new()));
    let of_one_node = queue_over(node, clock, Settings::default());
    for (world, owned) in [(&bench.world, &bench.owned), (&world, &of_one_node)] {
        let new = || NewMessage { budgets: world.within("b", 1, &["a@one.test"]).budgets, ..world.keyed("once", 1) };
        let mut acceptance = owned.begin(new()).unwrap();
        acceptance.stored().await.unwrap();
        drop(acceptance);
        let again = new();
        owned.accept(again.clone()).await.unwrap();
        let repeat = owned.accept(new()).await;
        assert_eq!(repeat, Err(Refused::Repeats(Repeated::Same(again.message.id))));
        assert_eq!(world.kinds().await, [Kind::Accepted, Kind::Cancelled, Kind::Accepted]);
    }
}
