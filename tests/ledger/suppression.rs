//! Addresses that are not sent to: what every implementation of the ledger makes of bounces, tries and rows that are put, and
//! what several nodes make of each other's.

use std::time::Duration;

use otp_relay::testing::event::Kind;
use otp_relay::testing::ledger::accept::{Accepted, Obstacles, Precheck, Refused};
use otp_relay::testing::ledger::attempt::{Settled, Side};
use otp_relay::testing::ledger::memory::Replication;
use otp_relay::testing::ledger::read::{Put, Row, RowChange, Table, Version};
use otp_relay::testing::ledger::suppression::{Bounce, Source, Standing, Suppression};
use otp_relay::testing::mail::address::Mailbox;

use super::cluster::{Cluster, pass};
use super::{Engine, World, attempt, first};
use crate::support::lines::Lines;

const HOUR: Duration = Duration::from_secs(3600);
/// How long others wait for a try.
const TRY: Duration = Duration::from_secs(600);
const ENGINES: [Engine; 3] = [Engine::Memory, Engine::Embedded, Engine::Sled];

/// By what a message was refused.
fn suppressed(answer: Result<Accepted, Refused>) -> Suppression {
    let Err(Refused::Suppressed(row)) = answer else { panic!("{answer:?}") };
    *row
}

/// A change of a row, as it is made from this version.
fn change(address: &str, entry: Option<&[u8]>, from: Version) -> RowChange {
    RowChange { key: address.as_bytes().into(), value: entry.map(Into::into), from }
}

impl World {
    async fn obstacles(&self, recipient: &str) -> Obstacles {
        let recipient = Mailbox::parse(recipient).unwrap();
        self.ledger
            .precheck(Precheck { sender: Box::default(), recipient, budgets: Vec::new(), ahead: Vec::new() })
            .await
            .unwrap()
    }

    /// A message to this recipient ends so.
    async fn settle(&self, recipient: &str, kind: Kind, side: Side) {
        let new = self.message(&[recipient]);
        let id = self.accept(&new).await;
        self.ledger.settle(attempt(id, 1), self.end(&new.message, 0, kind, vec![side])).await.unwrap();
    }

    async fn bounce(&self, recipient: &str, bounce: Bounce) {
        self.settle(recipient, Kind::Failed, Side::Bounced { bounce, reason: "550 no".into() }).await;
    }

    async fn row(&self, address: &str) -> Option<Row> {
        self.ledger.row(Table::Suppression, address.as_bytes().into()).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_is_over_with_its_message() {
    for engine in ENGINES {
        let world = engine.begin(100).await;
        world.bounce("a@one.test", Bounce::Hard).await;
        let until = world.ledger.now().plus(HOUR);
        assert_eq!(suppressed(world.ledger.accept(world.message(&["A@one.test"])).await).until, Some(until));
        tokio::time::sleep(HOUR).await;
        let tried = world.message(&["a@one.test"]);
        let id = world.accept(&tried).await;
        let ends = world.ledger.now().plus(TRY);
        assert_eq!(world.obstacles("a@one.test").await.standing, Standing::Suppressed { until: Some(ends) });
        assert_eq!(suppressed(world.ledger.accept(world.message(&["a@one.test"])).await).until, Some(ends));
        // It came to nothing, of which nothing is learned.
        let end = world.end(&tried.message, 0, Kind::Expired, Vec::new());
        world.ledger.settle(attempt(id, 1), end).await.unwrap();
        assert_eq!(world.obstacles("a@one.test").await.standing, Standing::Open, "{engine:?}");
        world.accept(&world.message(&["a@one.test"])).await;
        tokio::time::sleep(TRY).await;
        world.bounce("a@one.test", Bounce::Hard).await;
        let until = world.ledger.now().plus(7 * 24 * HOUR);
        assert_eq!(world.obstacles("a@one.test").await.standing, Standing::Suppressed { until: Some(until) });
    }
}

#[tokio::test(start_paused = true)]
async fn the_operator_hears_of_each_suppression_once() {
    for engine in ENGINES {
        let world = engine.begin(100).await;
        let lines = Lines::default();
        let _guard = lines.gather();
        let new = world.message(&["a@one.test"]);
        let id = world.accept(&new).await;
        let bounced = Side::Bounced { bounce: Bounce::Hard, reason: "550 no".into() };
        let end = world.end(&new.message, 0, Kind::Failed, vec![bounced]);
        world.ledger.settle(attempt(id, 1), end.clone()).await.unwrap();
        world.ledger.settle(attempt(id, 1), end).await.unwrap();
        world.bounce("b@one.test", Bounce::Soft).await;
        let [line] = &lines.with("recipient suppressed")[..] else { panic!("{engine:?}: {}", lines.text()) };
        assert!(line.contains(&format!("id={} until=\"2026-11-21T11:00:00.000Z\" bounces=1", id.message)), "{line}");
    }
}

/// However many ask at once.
#[tokio::test(start_paused = true)]
async fn there_is_one_try_at_a_time() {
    for engine in ENGINES {
        let world = engine.begin(100).await;
        world.bounce("a@one.test", Bounce::Hard).await;
        tokio::time::sleep(HOUR).await;
        let asked = (0..20).map(|_| world.ledger.accept(world.message(&["b@one.test", "a@one.test"])));
        let answers = futures_util::future::join_all(asked).await;
        let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((accepted.len(), refused.len()), (1, 19), "{engine:?}");
        refused.into_iter().for_each(|refused| assert_eq!(suppressed(refused).address, "a@one.test"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_stays_and_what_was_delivered_lifts_only_what_was_learned() {
    for engine in ENGINES {
        let world = engine.begin(100).await;
        // On its way before anybody knows.
        let early = world.message(&["a@two.test"]);
        let early_id = world.accept(&early).await;
        let now = world.ledger.now();
        world.bounce("a@one.test", Bounce::Hard).await;
        let domain =
            br#"{"address":"@two.test","source":"manual","reason":"traps","since":0,"until":null,"bounces":1}"#;
        let done = world.ledger.put(Table::Suppression, change("@two.test", Some(domain), Version(0))).await.unwrap();
        let Put::Done(version) = done else { panic!("{done:?}") };
        let end = world.end(&early.message, 0, Kind::Delivered, vec![Side::Lifted]);
        world.ledger.settle(attempt(early_id, 1), end).await.unwrap();
        let found = suppressed(world.ledger.accept(world.message(&["b@two.test"])).await);
        assert_eq!((&*found.address, found.source, &*found.reason), ("@two.test", Source::Manual, "traps"));
        assert_eq!(world.obstacles("b@two.test").await.standing, Standing::Suppressed { until: None });
        let (rows, _) = world.ledger.rows(Table::Suppression, Version(0)).await.unwrap();
        let keys: Vec<&[u8]> = rows.iter().map(|row| &*row.key).collect();
        assert_eq!(keys, [&b"a@one.test"[..], b"@two.test"], "{engine:?}");
        // By whoever has not seen it, it is not changed.
        let raced = world.ledger.put(Table::Suppression, change("@two.test", None, Version(0))).await.unwrap();
        assert!(matches!(&raced, Put::Raced(row) if row.version == version && row.value.is_some()), "{raced:?}");
        let gone = world.ledger.put(Table::Suppression, change("@two.test", None, version)).await.unwrap();
        assert!(matches!(gone, Put::Done(_)));
        assert_eq!(world.row("@two.test").await, None);
        world.accept(&world.message(&["b@two.test"])).await;
        let not_read = world.ledger.put(Table::Suppression, change("c@one.test", Some(b"{}"), Version(0))).await;
        assert!(not_read.is_err(), "{engine:?}");
        let until = Some(now.plus(HOUR));
        assert_eq!(world.obstacles("a@one.test").await.standing, Standing::Suppressed { until });
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_in_doubt_are_counted_and_not_shown() {
    for engine in ENGINES {
        let world = engine.begin(100).await;
        for _ in 0..2 {
            world.bounce("a@one.test", Bounce::Soft).await;
            assert_eq!(world.obstacles("a@one.test").await, Obstacles::default());
        }
        let counted = world.row("a@one.test").await.unwrap();
        world.bounce("a@one.test", Bounce::Soft).await;
        assert!(world.row("a@one.test").await.unwrap().version > counted.version);
        assert_ne!(world.obstacles("a@one.test").await.standing, Standing::Open, "{engine:?}");
    }
}

/// Mail of the relay's own goes to whoever is to know.
#[tokio::test(start_paused = true)]
async fn own_mail_is_not_refused() {
    for engine in ENGINES {
        let world = engine.begin(100).await;
        world.bounce("otp@app.test", Bounce::Hard).await;
        let (own, entailed, new) =
            (world.message(&["otp@app.test"]), world.message(&["otp@app.test"]), world.message(&["a@one.test"]));
        world.ledger.adopt(own.clone());
        let id = world.accept(&new).await;
        let mut end = world.end(&new.message, 0, Kind::Failed, Vec::new());
        let Settled::End { notification, .. } = &mut end else { panic!() };
        *notification = Some(Box::new(entailed.clone()));
        world.ledger.settle(attempt(id, 1), end).await.unwrap();
        tokio::task::yield_now().await;
        for own in [own, entailed] {
            let delivered = world.end(&own.message, 0, Kind::Delivered, Vec::new());
            assert_eq!(world.ledger.settle(attempt(first(&own), 1), delivered).await, Ok(()), "{engine:?}");
        }
    }
}

/// What one node learns, all go by; one of them tries at a time.
#[tokio::test(start_paused = true)]
async fn nodes_share_what_they_learn() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    let (a, b) = (World::of(a, cluster.ids.clone()), World::of(b, cluster.ids.clone()));
    a.bounce("a@one.test", Bounce::Hard).await;
    assert_eq!(suppressed(b.ledger.accept(b.message(&["a@one.test"])).await).reason, "550 no");
    assert_ne!(b.obstacles("a@one.test").await.standing, Standing::Open);
    assert_eq!(a.row("a@one.test").await, b.row("a@one.test").await);
    pass(3_600_000).await;
    let tried = b.message(&["a@one.test"]);
    let id = b.accept(&tried).await;
    suppressed(a.ledger.accept(a.message(&["a@one.test"])).await);
    let end = b.end(&tried.message, 0, Kind::Delivered, vec![Side::Lifted]);
    b.ledger.settle(attempt(id, 1), end).await.unwrap();
    assert_eq!(a.row("a@one.test").await, None);
    a.accept(&a.message(&["a@one.test"])).await;
}

/// Two look at one row, and both change it: the second hears of the first.
#[tokio::test(start_paused = true)]
async fn of_two_who_change_a_row_one_is_first() {
    let cluster = Cluster::new(Replication::Synchronous);
    let (a, b) = (cluster.node(1).await, cluster.node(2).await);
    let (a, b) = (World::of(a, cluster.ids.clone()), World::of(b, cluster.ids.clone()));
    a.bounce("a@one.test", Bounce::Hard).await;
    let seen = b.row("a@one.test").await.unwrap();
    let removed = change("a@one.test", None, seen.version);
    let (one, two) =
        tokio::join!(a.ledger.put(Table::Suppression, removed.clone()), b.ledger.put(Table::Suppression, removed));
    let (Put::Done(version), Put::Raced(row)) = (one.unwrap(), two.unwrap()) else { panic!() };
    assert_eq!(row, Row { key: (*b"a@one.test").into(), value: None, version });
    a.accept(&a.message(&["a@one.test"])).await;
}
