use std::sync::Arc;
use std::time::Duration;

use super::{Database, Faults, Node, Replication, Settings};
use crate::base::clock::{Clock, ManualClock, Timestamp};
use crate::event::{Event, Happened, Kind};
use crate::ledger::Ledger;
use crate::ledger::accept::NewMessage;
use crate::ledger::attempt::{Attempt, Mark, Target};
use crate::ledger::entry::Message;
use crate::ledger::filter::Filter;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::envelope::{Envelope, MailParameters, Recipient};
use crate::mail::id::{EntryId, IdSource};
use crate::mail::message::Content;

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

struct Cluster {
    database: Database,
    clock: Arc<dyn Clock>,
    ids: IdSource,
}

impl Cluster {
    fn new(replication: Replication, seed: u64) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
        let database = Database::new(clock.clone(), seed, replication);
        Self { database, clock, ids: IdSource::new() }
    }

    async fn join(&self, id: u64) -> Node {
        Node::join(&self.database, self.clock.clone(), Settings::of(id)).await.unwrap()
    }

    async fn accept(&self, by: &Node) -> EntryId {
        let now = self.clock.now();
        let envelope = Envelope {
            reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: vec![Recipient::new(Mailbox::parse("a@one.test").unwrap())],
        };
        let life = now..now.plus(Duration::from_secs(600));
        let message = Arc::new(Message::new(self.ids.next(now), "shop".into(), envelope, life));
        let event = Event { head: message.head(now), what: Happened::Accepted { note: None, others: Arc::default() } };
        let content = Content { head: "A: b\r\n".into(), body: "\r\ncode\r\n".into() };
        let id = EntryId { message: message.id, index: 0 };
        by.accept(NewMessage::plain(message, content, event)).await.unwrap();
        id
    }

    fn has_a_living_owner(&self, id: EntryId) -> bool {
        self.database.owners().iter().any(|(entry, _, is_alive)| *entry == id && *is_alive)
    }

    fn ends_of(&self, id: EntryId) -> Vec<Kind> {
        let events = self.database.events();
        let ends = events.iter().filter(|event| event.kind().is_end() && event.entry() == Some(id));
        ends.map(Event::kind).collect()
    }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_survives_a_fail_over_that_lost_it_with_its_hand_over() {
    let to_b = || Target::Node("node2".into());
    // Whoever got it may have heard of it, or not.
    for (to, until) in [(Target::Unowned, 0), (Target::Unowned, 300), (to_b(), 0), (to_b(), 300)] {
        let cluster = Cluster::new(Replication::Asynchronous, 1);
        let (a, _b) = (cluster.join(1).await, cluster.join(2).await);
        pass(1000).await;
        let id = cluster.accept(&a).await;
        assert_eq!(a.hand_over(vec![id], to).await.unwrap(), [id]);
        pass(until).await;
        cluster.database.fail_over_without(usize::MAX);
        assert!(!cluster.has_a_living_owner(id), "it is lost");
        pass(12_000).await;
        assert!(cluster.has_a_living_owner(id), "it is there again");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_node_ended_does_not_vanish_with_a_fail_over() {
    let cluster = Cluster::new(Replication::Asynchronous, 1);
    let (a, b) = (cluster.join(1).await, cluster.join(2).await);
    pass(1000).await;
    let id = cluster.accept(&a).await;
    assert_eq!(b.cancel(Filter::of_message(id.message)).await.unwrap().len(), 1);
    // Its owner hears of it.
    pass(300).await;
    cluster.database.fail_over_without(usize::MAX);
    assert_eq!(cluster.ends_of(id), [], "it is lost, with its end");
    pass(12_000).await;
    assert_eq!(cluster.ends_of(id), [Kind::Cancelled]);
    assert!(!cluster.has_a_living_owner(id));
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_to_its_owner_stays() {
    let cluster = Cluster::new(Replication::Synchronous, 1);
    let a = cluster.join(1).await;
    let id = cluster.accept(&a).await;
    assert_eq!(a.hand_over(vec![id], Target::Node("node1".into())).await.unwrap(), []);
    let mut notices = a.notices().unwrap();
    pass(12_000).await;
    assert!(notices.try_recv().is_err(), "nothing is news");
}

/// Each request comes up to 8 s late, and nobody waits for longer than 3 s.
#[tokio::test(start_paused = true)]
async fn a_hand_over_that_was_given_up_comes_to_nothing_once_an_attempt_may_begin() {
    let mut given_up = 0;
    for seed in 0..20 {
        let cluster = Cluster::new(Replication::Synchronous, seed);
        let (a, b) = (cluster.join(1).await, cluster.join(2).await);
        let mut notices = b.notices().unwrap();
        let id = cluster.accept(&a).await;
        cluster.database.set_faults(Faults { delayed: 1000, ..Faults::default() });
        let handing = a.hand_over(vec![id], Target::Node("node2".into()));
        let (went, ()) = tokio::join!(handing, async { cluster.database.set_faults(Faults::default()) });
        if went.is_ok() {
            continue;
        }
        given_up += 1;
        a.gate(Attempt { entry: id, number: 1 }, Mark::Visible).await.unwrap();
        pass(8000).await;
        let owner = cluster.database.standing(id, a.lease().epoch).0;
        assert_eq!(owner, Some(a.lease().epoch), "its content is under way");
        assert!(notices.try_recv().is_err());
    }
    assert!(given_up > 5, "{given_up} came too late");
}
