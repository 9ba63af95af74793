use super::*;
use crate::base::clock::ManualClock;
use crate::event::cause::Cause;
use crate::event::{Attempted, Happened, Head, NoSink};
use crate::ledger::embedded::node::{Node, Storage};
use crate::ledger::embedded::store::memory::MemoryStore;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;
use crate::queue::{Consequences, Ending, Settings};

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

fn head(user: &str, at: Timestamp, tag: Option<&str>, recipient: &str) -> Head {
    Head {
        entry: None,
        user: user.into(),
        tag: tag.map(Arc::from),
        recipient: Some(Mailbox::parse(recipient).unwrap()),
        from: Some(Mailbox::parse("otp@app.test").unwrap()),
        attempt: 0,
        since_accepted: Duration::from_millis(200),
        ..Head::sample(MessageId::from_bytes([7; 16]), at)
    }
}

struct Scene {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    queue: Arc<Queue>,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let entail = Box::new(|_: &Ending| Consequences::default());
        let store = Box::new(MemoryStore::default());
        let settings = Settings::default();
        let queue = Queue::open(
            Node::alone(store, Storage::Inline, clock.clone(), settings.delivery()).unwrap(),
            settings,
            clock.clone(),
            Arc::new(NoSink),
            entail,
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { folder: tempfile::tempdir().unwrap(), clock, queue, runtime }
    }

    fn statistics(&self) -> Arc<Statistics> {
        Statistics::start(&self.folder.path().join("stats"), self.clock.clone(), &self.queue).unwrap()
    }

    fn commit(&self, head: Head, what: Happened) {
        self.runtime.block_on(self.queue.commit_event(Event { head, what })).unwrap();
    }

    fn ask(&self, statistics: &Statistics, by: By, user: Option<&str>) -> Answer {
        let newest = self.queue.happened().newest();
        assert!(self.runtime.block_on(statistics.caught_up(newest)));
        let (from, to) = (START.minus(Duration::from_secs(600)), START.plus(Duration::from_secs(600)));
        statistics.answer(&Selection { from, to, by: Some(by), user: user.map(Arc::from) }).unwrap()
    }
}

#[test]
fn entries_count_once_by_each_of_their_names_also_over_a_restart() {
    let scene = Scene::new();
    let mut statistics = scene.statistics();
    let others: Arc<[Arc<str>]> = ["two.test".into()].into();
    scene.commit(head("shop", START, Some("login"), "a@one.test"), Happened::Accepted { note: None, others });
    let delivered = Attempted { destination: Some("mx1.mail.example.com".into()), ..Attempted::default() };
    scene.commit(head("shop", START, Some("login"), "a@one.test"), Happened::Delivered(delivered));
    for round in 1..=3 {
        let by_destination = scene.ask(&statistics, By::Destination, None);
        assert_eq!((by_destination.total.accepted, by_destination.total.delivered), (2, 1), "round {round}");
        let names: Vec<&str> = by_destination.groups.keys().map(String::as_str).collect();
        assert_eq!(names, ["one.test", "two.test"]);
        assert_eq!(by_destination.groups["one.test"].total.in_time, 1);
        let by_provider = scene.ask(&statistics, By::Provider, None);
        assert_eq!(by_provider.groups["example.com"].total.accepted, 1);
        assert_eq!(scene.ask(&statistics, By::Tag, None).groups["login"].total.accepted, 2);
        statistics.close();
        statistics = scene.statistics();
    }
    let blocked = Attempted {
        destination: Some("mx1.mail.example.com".into()),
        cause: Some(Cause::ReputationBlocked),
        ..Attempted::default()
    };
    let deferred = Happened::Deferred { attempted: blocked, next_attempt_at: None };
    scene.commit(head("shop", START, None, "a@one.test"), deferred);
    let refused = scene.ask(&statistics, By::Provider, None).groups["example.com"].total.clone();
    assert_eq!((refused.accepted, refused.blames_sender["reputation_blocked"], refused.missed()), (1, 1, 0));
    let failed = Attempted { cause: Some(Cause::BadMailbox), ..Attempted::default() };
    scene.commit(head("bank", START, None, "b@one.test"), Happened::Failed(failed));
    let (all, own) = (scene.ask(&statistics, By::User, None), scene.ask(&statistics, By::User, Some("bank")));
    assert_eq!((all.groups.len(), own.groups.len()), (2, 1), "a user sees its own");
    assert_eq!((own.total.accepted, own.total.failed["bad_mailbox"]), (0, 1));
    // What the relay writes itself is no code of anybody.
    let notification = Head { from: None, ..head("bank", START, None, "b@one.test") };
    scene.commit(notification, Happened::Delivered(Attempted::default()));
    assert_eq!(scene.ask(&statistics, By::User, None).total.delivered, 1);
    statistics.close();
}

#[test]
fn minutes_are_kept_for_a_day_and_hours_for_thirty() {
    let scene = Scene::new();
    let statistics = scene.statistics();
    scene.commit(head("shop", START, None, "a@one.test"), Happened::Delivered(Attempted::default()));
    let minutes = scene.ask(&statistics, By::Lane, None);
    let steps: Vec<u64> = minutes.groups["otp"].series.keys().copied().collect();
    assert_eq!((minutes.resolution, steps), (Resolution::Minutes, vec![START.as_secs()]));
    scene.clock.advance(Duration::from_secs(2 * 86_400));
    let hours = scene.ask(&statistics, By::Lane, None);
    assert_eq!((hours.resolution, hours.total.delivered), (Resolution::Hours, 1));
    statistics.close();
}
