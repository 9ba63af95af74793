use std::sync::LazyLock;

use super::*;
use crate::base::clock::{SystemClock, Timestamp};
use crate::event::{Attempted, Happened, Head, Step};
use crate::mail::address::Mailbox;
use crate::mail::id::IdSource;

/// The same for all events of a message.
static EXPIRES_AT: LazyLock<Timestamp> = LazyLock::new(|| SystemClock::default().now().plus(Duration::from_secs(600)));

/// The traces of messages to a recipient, the newest first.
fn of_recipient(traces: &Traces, plain: &str) -> Vec<Arc<Trace>> {
    let wanted = TraceFilter { recipient: Some(plain), ..TraceFilter::default() };
    traces.newest(wanted, 9).0.into_iter().filter_map(|id| traces.get(id)).collect()
}

fn event(kind: Kind, id: MessageId, recipient: &str) -> Arc<Event> {
    let time = SystemClock::default().now();
    let head = Head {
        entry: (kind != Kind::Accepted).then_some(0),
        recipient: Some(Mailbox::parse(recipient).unwrap()),
        expires_at: *EXPIRES_AT,
        since_accepted: Duration::from_millis(12),
        ..Head::sample(id, time)
    };
    let step = Step { stage: "RCPT".into(), host: "mx".into(), ms: 3, result: "250 ok".into() };
    let attempted = Attempted { reply: Some("250 ok".into()), steps: Some(Arc::new([step])), ..Attempted::default() };
    Arc::new(Event { head, what: Happened::of(kind, attempted, None) })
}

fn open(folder: &Path, limits: Limits) -> Arc<Traces> {
    Traces::start(folder, limits, Arc::new(SystemClock::default())).unwrap()
}

impl Traces {
    fn record(&self, event: &Arc<Event>) {
        let at = self.shared.folded.borrow().plus(1);
        self.shared.add(at, event);
        self.shared.folded.send_replace(at);
    }
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

#[test]
fn traces_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let ids = IdSource::new();
    let id = ids.next(SystemClock::default().now());
    let traces = open(folder.path(), Limits::of(WEEK));
    for kind in [Kind::Accepted, Kind::Attempted, Kind::Delivered] {
        traces.record(&event(kind, id, "Alice@Example.com"));
    }
    let before = traces.get(id).unwrap();
    assert_eq!(before.events.len(), 3);
    assert_eq!(of_recipient(&traces, "alice@example.com").len(), 1);
    traces.close();
    let traces = open(folder.path(), Limits::of(WEEK));
    assert_eq!(traces.get(id).unwrap(), before);
    traces.record(&event(Kind::Delivered, id, "alice@example.com"));
    assert_eq!(traces.get(id).unwrap(), before, "it has been told up to there");
    let stored = traces.shared.stored(|records| Ok(records.cursor())).flatten();
    traces.shared.folded.send_replace(stored.unwrap());
    traces.record(&event(Kind::Verified, id, "alice@example.com"));
    assert_eq!(traces.get(id).unwrap().events.len(), 4);
    assert_eq!(of_recipient(&traces, "alice@example.com")[0].events.len(), 4);
    assert!(of_recipient(&traces, "alice@example.co").is_empty());
    traces.close();
}

/// What was sent to others stays, also of the same message; nothing finds the address afterwards.
#[test]
fn a_recipient_is_erased() {
    let folder = tempfile::tempdir().unwrap();
    let ids = IdSource::new();
    let [alone, shared, new] = [(); 3].map(|()| ids.next(SystemClock::default().now()));
    let (alice, bob) = ("alice@example.com", "bob@example.com");
    let traces = open(folder.path(), Limits::of(WEEK));
    traces.record(&event(Kind::Accepted, alone, alice));
    traces.record(&event(Kind::Delivered, shared, alice));
    traces.record(&event(Kind::Delivered, shared, bob));
    traces.close();
    let traces = open(folder.path(), Limits::of(WEEK));
    traces.record(&event(Kind::Accepted, new, alice));
    assert_eq!((traces.erase(alice), traces.erase(alice)), (3, 0));
    assert!(traces.get(alone).is_none() && traces.get(new).is_none());
    assert!(of_recipient(&traces, alice).is_empty());
    assert_eq!(of_recipient(&traces, bob)[0].events.len(), 1);
    traces.close();
}

#[test]
fn damaged_traces_are_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("traces");
    let ids = IdSource::new();
    let written: Vec<MessageId> = (0..400).map(|_| ids.next(SystemClock::default().now())).collect();
    let traces = open(&path, Limits::of(WEEK));
    written.iter().for_each(|id| traces.record(&event(Kind::Accepted, *id, "alice@example.com")));
    traces.close();
    for (file, is_set_aside) in [("db", false), ("conf", true), ("db", true)] {
        let mut octets = std::fs::read(path.join(file)).unwrap();
        let middle = octets.iter().rposition(|octet| *octet != 0).unwrap() / 2;
        octets[middle] ^= 0x55;
        std::fs::write(path.join(file), octets).unwrap();
        let traces = open(&path, Limits::of(WEEK));
        // All that is asked of the old ones is that they do no harm.
        let _: Vec<_> = written.iter().map(|id| traces.get(*id)).collect();
        let id = ids.next(SystemClock::default().now());
        traces.record(&event(Kind::Accepted, id, "bob@example.com"));
        assert!(traces.get(id).is_some());
        traces.close();
        assert_eq!(folder.path().join("traces.damaged").exists(), is_set_aside, "{file}");
    }
}

#[test]
fn the_oldest_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let ids = IdSource::new();
    let now = SystemClock::default().now();
    let old = ids.next(now.minus(2 * WEEK));
    let young: Vec<MessageId> = (0..5).map(|_| ids.next(now)).collect();
    let limits = Limits { messages_max: 3, ..Limits::of(WEEK) };
    let traces = open(folder.path(), limits);
    traces.record(&event(Kind::Accepted, old, "alice@example.com"));
    for id in &young {
        traces.record(&event(Kind::Accepted, *id, "alice@example.com"));
    }
    traces.close();
    let traces = open(folder.path(), limits);
    assert!(traces.get(old).is_none());
    let kept: Vec<MessageId> = of_recipient(&traces, "alice@example.com").iter().map(|trace| trace.id).collect();
    assert_eq!(kept, [young[4], young[3], young[2]]);
    traces.close();
}
