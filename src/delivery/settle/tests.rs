//! What becomes of an entry, by how its attempt ended.

use super::super::smart_host::{SmartHost, SmartHosts};
use super::*;
use crate::base::clock::Clock as _;
use crate::destination::resolver::DnsError;
use crate::greylist::pending::Greylister;
use crate::mail::address::ReversePath;
use crate::queue::testing::Bench;
use crate::smtp::reply::{EnhancedCode, Reply};

const MX: &str = "mx.example.test";
const SMART_HOST: &str = "smtp.app.test:587";

/// An entry on its first attempt.
struct World {
    bench: Bench,
    claim: Claim,
    hops: NextHops,
}

impl World {
    /// Without smart hosts.
    async fn direct() -> Self {
        Self::new(Vec::new()).await
    }

    /// By the only smart host.
    async fn by_smart_host() -> Self {
        Self::new(vec![SmartHost::at("smtp.app.test", 587)]).await
    }

    async fn new(hosts: Vec<SmartHost>) -> Self {
        let bench = Bench::new();
        let claim = bench.claimed().await;
        let hosts = SmartHosts::new(hosts).for_domain("example.test");
        let via = hosts.first().cloned().map_or(NextHop::Direct, NextHop::SmartHost);
        let hops = NextHops::new(hosts, via, bench.clock.now());
        Self { bench, claim, hops }
    }

    fn ended(&mut self) -> EndedAttempt<'_> {
        EndedAttempt { claim: &mut self.claim, hops: &self.hops, now: self.bench.clock.now() }
    }

    /// With what is learned from a transaction at the recipient's own host.
    fn peer(&self) -> Peer {
        let sender = ReversePath::parse("<otp@app.test>").unwrap();
        let triplet = Triplet::new("otp@app.test", "user0@example.test", MX);
        let by = Greylister { host: MX.into(), address: [192, 0, 2, 1].into() };
        let lesson = Some(Lesson { triplet, sender, by, began: self.bench.clock.now() });
        Peer { lesson, ..Peer::at(Some(MX.into())) }
    }

    fn failed(&mut self, stage: Stage, fault: Fault, from: Peer) -> Settlement {
        self.ended().not_delivered(&Failure { stage, fault }.into(), &Mask::default(), from)
    }

    /// After the same pause of all that say nothing of when.
    fn after(&self, pause: Duration) -> Timestamp {
        self.bench.clock.now().plus(pause)
    }
}

fn reply(code: u16, enhanced: EnhancedCode, text: &'static str) -> Fault {
    Fault::Reply(Reply::new(code, enhanced, text))
}

fn no_such_user() -> Fault {
    reply(550, EnhancedCode(5, 1, 1), "no such user")
}

fn decided(mut settlement: Settlement) -> (&'static str, Option<Cause>) {
    let word = match &settlement {
        Settlement::Delivered { .. } => "delivered",
        Settlement::Deferred { .. } => "deferred",
        Settlement::Failed { suppress, .. } => match suppress {
            Suppress::No => "failed",
            Suppress::Count => "failed, counts",
            Suppress::Address => "failed, suppressed",
        },
        Settlement::Expired(_) => "expired",
        Settlement::Released(_) => "released",
    };
    (word, settlement.attempted_mut().cause)
}

#[tokio::test(start_paused = true)]
async fn a_reply_decides_whether_there_is_another_attempt_and_whether_the_address_is_suppressed() {
    let check = async |stage, fault: Fault, expected, cause| {
        let mut world = World::direct().await;
        let from = world.peer();
        assert_eq!(decided(world.failed(stage, fault.clone(), from)), (expected, Some(cause)), "{stage:?} {fault:?}");
    };
    check(Stage::Rcpt, reply(450, EnhancedCode(4, 2, 0), "Greylisted"), "deferred", Cause::Greylisted).await;
    check(Stage::Rcpt, no_such_user(), "failed, suppressed", Cause::BadMailbox).await;
    check(Stage::Rcpt, reply(552, EnhancedCode(5, 2, 2), "mailbox is full"), "failed, counts", Cause::MailboxFull)
        .await;
    check(Stage::Content, reply(554, EnhancedCode(5, 7, 1), "this is spam"), "failed", Cause::ContentRejected).await;
    check(Stage::Rcpt, Fault::Closed, "deferred", Cause::ConnectionLost).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_no_host_of_the_recipient_says_nothing_of_the_address() {
    let mut world = World::direct().await;
    let settlement = world.failed(Stage::Rcpt, no_such_user(), Peer::at(Some(MX.into())));
    assert_eq!(decided(settlement), ("failed", Some(Cause::BadMailbox)));
    let mut world = World::by_smart_host().await;
    let from = world.peer();
    assert_eq!(decided(world.failed(Stage::Rcpt, no_such_user(), from)), ("failed", Some(Cause::BadMailbox)));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_arrived_is_not_sent_again_where_once_is_the_most() {
    let mut world = World::direct().await;
    let from = world.peer();
    let mut settlement = world.failed(Stage::Content, Fault::Timeout, from);
    assert!(settlement.attempted_mut().may_have_arrived);
    assert_eq!(decided(settlement), ("failed", Some(Cause::OutcomeUnknown)));
}

#[tokio::test(start_paused = true)]
async fn without_a_route_the_domain_is_to_blame_and_dns_is_asked_again() {
    let check = async |world: &mut World, error: RouteError, expected| {
        let mut settlement = world.ended().without_route(&error);
        assert_eq!(settlement.attempted_mut().reply.as_deref(), Some(error.to_string().as_str()));
        assert_eq!(decided(settlement), expected, "{error:?}");
    };
    let (failed, again) = (("failed", Some(Cause::BadDomain)), ("deferred", Some(Cause::DnsFailure)));
    let mut direct = World::direct().await;
    check(&mut direct, RouteError::NoSuchDomain, failed).await;
    check(&mut direct, RouteError::NullMx, failed).await;
    check(&mut direct, RouteError::Trouble(DnsError::Timeout), again).await;
    // A smart host without an address is trouble of ours, and no fault of the recipient's domain.
    check(&mut World::by_smart_host().await, RouteError::NoSuchDomain, again).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_in_trouble_is_left_alone_for_a_moment() {
    let mut world = World::direct().await;
    let next = world.after(STORE_PAUSE);
    let withheld = content_withheld(world.bench.clock.now());
    let not_noted = world.ended().not_noted(Peer::at(None));
    for settlement in [withheld, not_noted] {
        let Settlement::Deferred { attempted, next_attempt_at, at_risk: false } = settlement else { panic!() };
        assert_eq!((next_attempt_at, attempted.cause), (next, None), "nobody is blamed");
    }
    assert_eq!(decided(without_content()), ("failed", Some(Cause::OtherPerm)));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_an_attempt_is_over_before_it_begins() {
    let mut world = World::direct().await;
    let mut settlement = world.ended().not_tried(MX.into());
    assert_eq!(settlement.attempted_mut().destination.as_deref(), Some(MX));
    assert_eq!(decided(settlement), ("deferred", Some(Cause::Unreachable)));
    let mut world = World::by_smart_host().await;
    assert_eq!(decided(world.ended().resting()), ("deferred", Some(Cause::Unreachable)));
}

#[tokio::test(start_paused = true)]
async fn a_smart_host_that_fails_gives_way_to_the_hosts_of_the_domain() {
    let mut world = World::by_smart_host().await;
    let now = world.bench.clock.now();
    let settlement = world.failed(Stage::Connect, Fault::Timeout, Peer::at(Some("smtp.app.test".into())));
    let Settlement::Deferred { attempted, next_attempt_at, .. } = settlement else { panic!("{settlement:?}") };
    assert_eq!((next_attempt_at, attempted.note.as_deref()), (now, Some("next directly to the destination")));
    assert_eq!(world.claim.progress().relayed, None);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_names_the_smart_host_that_made_it() {
    let mut world = World::by_smart_host().await;
    let mut settlement = world.ended().delivered("250 ok", Peer::at(Some("smtp.app.test".into())));
    let note = settlement.attempted_mut().note.clone().unwrap();
    assert!(note.starts_with(&format!("smart host {SMART_HOST}: ")), "{note}");
    assert_eq!(decided(settlement), ("delivered", None));
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_expires_the_entry_or_leaves_it_to_whoever_took_it() {
    assert_eq!(decided(lost_claim(LostClaim::Expired, Peer::at(None))).0, "expired");
    assert_eq!(decided(lost_claim(LostClaim::Ended, Peer::at(None))).0, "released");
}
