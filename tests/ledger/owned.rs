//! The queue's half above the seam: what it offers, when it lets go, and what it does not do without a lease.

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock};
use otp_relay::testing::event::{Attempted, Kind};
use otp_relay::testing::ledger::attempt::Target;
use otp_relay::testing::ledger::embedded::node::Node as OneNode;
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::memory::{Faults, Replication};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::id::{EntryId, IdSource};
use otp_relay::testing::queue::Offer;
use otp_relay::testing::queue::claim::Settlement;
use otp_relay::testing::queue::owned::{NotReleased, Owned};
use tokio::sync::mpsc;

use super::cluster::{Cluster, pass};
use super::{START, World, embedded_settings};

struct Queue {
    world: World,
    owned: Arc<Owned>,
    offers: mpsc::UnboundedReceiver<Offer>,
    node: Arc<otp_relay::testing::ledger::memory::Node>,
}

impl Queue {
    async fn join(cluster: &Cluster, id: u64) -> Self {
        let node = cluster.node(id).await;
        let clock = cluster.clock.clone();
        let (owned, offers) = Owned::of(node.clone(), clock, Delivery::AtLeastOnce).unwrap();
        tokio::spawn(owned.clone().run());
        let world = World::of(node.clone(), cluster.ids.clone());
        Self { world, owned, offers, node }
    }

    fn offered(&mut self) -> Vec<EntryId> {
        std::iter::from_fn(|| self.offers.try_recv().ok()).map(|offer| offer.entry).collect()
    }
}

fn delivered() -> Settlement {
    Settlement::Delivered { attempted: Attempted::default(), notifies: false }
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_goes_without_a_gate_for_a_moment() {
    let cluster = Cluster::new(Replication::Synchronous);
    let mut queue = Queue::join(&cluster, 1).await;
    let new = queue.world.message(&["a@one.test"]);
    queue.owned.accept(new.clone()).await.unwrap();
    let [id] = queue.offered()[..] else { panic!() };
    // Nobody is asked: the database is not there.
    cluster.database.set_available(false);
    let mut claim = queue.owned.claim(id).unwrap();
    assert_eq!(claim.release_content().await, Ok(()));
    pass(300).await;
    assert_eq!(claim.release_content().await, Err(NotReleased::NotNow), "it is not fresh any more");
    claim.settle(delivered());
    assert_eq!(queue.owned.depth().messages, 0);
    cluster.database.set_available(true);
    pass(2000).await;
    assert_eq!(cluster.ends(), [Kind::Delivered]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_offered_without_a_lease_and_all_is_with_one() {
    let cluster = Cluster::new(Replication::Synchronous);
    let mut queue = Queue::join(&cluster, 1).await;
    queue.owned.accept(queue.world.message(&["a@one.test"])).await.unwrap();
    let [id] = queue.offered()[..] else { panic!() };
    let claim = queue.owned.claim(id).unwrap();
    claim.settle(Settlement::put_off(Attempted::default(), queue.world.ledger.now().plus(Duration::from_secs(5))));
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
    let mut queue = Queue::join(&cluster, 1).await;
    queue.owned.accept(queue.world.message(&["a@one.test"])).await.unwrap();
    let [id] = queue.offered()[..] else { panic!() };
    cluster.database.set_faults(Faults { delay_max: Duration::from_millis(400), ..Faults::default() });
    let claim = queue.owned.claim(id).unwrap();
    claim.settle(Settlement::put_off(Attempted::default(), queue.world.ledger.now()));
    assert!(queue.owned.claim(id).is_err());
    pass(5000).await;
    assert_eq!(queue.offered(), [id], "once");
    assert!(queue.owned.claim(id).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_fenced_forgets_all_and_others_go_on() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (mut a, mut b) = (Queue::join(&cluster, 1).await, Queue::join(&cluster, 2).await);
    let new = a.world.message(&["a@one.test", "b@two.test"]);
    a.owned.accept(new.clone()).await.unwrap();
    let offered = a.offered();
    let mut claim = a.owned.claim(offered[0]).unwrap();
    a.node.stand_still(Duration::from_secs(4));
    pass(3000).await;
    assert!(claim.check().is_err());
    let mut taken = b.offered();
    taken.sort_unstable();
    assert_eq!(taken, offered, "both, of one message");
    pass(1500).await;
    assert!(claim.release_content().await.is_err());
    drop(claim);
    assert_eq!((a.owned.depth().messages, b.owned.depth().messages), (0, 1));
    for id in taken {
        let mut claim = b.owned.claim(id).unwrap();
        assert_eq!(claim.release_content().await, Ok(()));
        claim.settle(delivered());
    }
    pass(300).await;
    assert_eq!(cluster.ends(), [Kind::Delivered; 2]);
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_a_message_can_be_with_several_nodes() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (mut a, mut b) = (Queue::join(&cluster, 1).await, Queue::join(&cluster, 2).await);
    a.owned.accept(a.world.message(&["a@one.test", "b@two.test"])).await.unwrap();
    let offered = a.offered();
    let to_b = Target::Node("node2".into());
    assert_eq!(a.owned.hand_over(vec![offered[1]], to_b.clone()).await.unwrap(), [offered[1]]);
    pass(300).await;
    assert_eq!(b.offered(), [offered[1]]);
    assert!(a.owned.claim(offered[1]).is_err());
    let held = a.owned.claim(offered[0]).unwrap();
    assert_eq!(a.owned.hand_over(vec![offered[0]], to_b.clone()).await.unwrap(), [], "it is being attempted");
    drop(held);
    assert_eq!(a.owned.hand_over(vec![offered[0]], to_b).await.unwrap(), [offered[0]]);
    pass(300).await;
    assert_eq!(b.offered(), [offered[0]], "the other one is there already");
    assert_eq!((a.owned.depth().messages, b.owned.depth().messages), (0, 1));
    assert_eq!(a.owned.cancel(Filter::default()).await.unwrap().len(), 2, "whoever owns them");
    pass(300).await;
    assert_eq!(b.owned.depth().messages, 0);
}

/// The same queue on the ledger of one node, which is opened again on what a crash left.
#[tokio::test(start_paused = true)]
async fn one_node_goes_on_with_what_a_crash_left() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
    let (disk, ids) = (MemoryStore::default(), Arc::new(IdSource::new()));
    let open = async |disk: &MemoryStore| {
        let node = OneNode::open_inline(Box::new(disk.clone()), clock.clone(), embedded_settings(100)).await.unwrap();
        let (owned, offers) = Owned::of(Arc::new(node.clone()), clock.clone(), Delivery::AtLeastOnce).unwrap();
        let running = tokio::spawn(owned.clone().run());
        (World::of(Arc::new(node), ids.clone()), owned, offers, running)
    };
    let (world, owned, mut offers, running) = open(&disk).await;
    owned.accept(world.in_slot("login", &["a@one.test"])).await.unwrap();
    let older = offers.try_recv().unwrap().entry;
    let new = world.in_slot("login", &["a@one.test"]);
    assert_eq!(owned.accept(new.clone()).await.unwrap().superseded.len(), 1);
    assert!(owned.claim(older).is_err());
    let id = offers.try_recv().unwrap().entry;
    let mut claim = owned.claim(id).unwrap();
    claim.release_content().await.unwrap();
    claim.settle(Settlement::put_off(Attempted::default(), world.ledger.now().plus(Duration::from_secs(5))));
    pass(100).await;
    running.abort();
    let disk = disk.image();
    drop((world, owned, offers));

    let (world, owned, mut offers, _running) = open(&disk).await;
    pass(1000).await;
    assert!(offers.try_recv().is_err(), "it is not due yet");
    pass(5000).await;
    assert_eq!(offers.try_recv().unwrap().entry, id);
    let mut claim = owned.claim(id).unwrap();
    assert_eq!(claim.progress().attempts, 2);
    assert_eq!(claim.content().await.unwrap(), Some(new.content));
    claim.release_content().await.unwrap();
    claim.settle(delivered());
    pass(100).await;
    let kinds = world.kinds().await;
    let expected = [Kind::Accepted, Kind::Accepted, Kind::Superseded, Kind::Deferred, Kind::Delivered];
    assert_eq!(kinds, expected);
    assert!(disk.is_empty());
}
