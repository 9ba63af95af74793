//! A trace, and how it is written down: a version and MessagePack, in which events look as they do wherever they are stored
//! ([`stored`]).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::event::cause::Cause;
use crate::event::{Attempted, Event, Happened, Head, Kind, Step, stored};
use crate::ledger::cursor::Cursor;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// The version that is written.
const VERSION: u8 = 3;
/// The version that 0.1 wrote, which had a form of events of its own.
const FIRST: u8 = 1;

/// Octets of one trace at most, roughly; beyond half of it steps are left out, beyond all of it what is no end.
const TRACE_LEN_MAX: usize = 96 << 10;

/// The story of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// Whose it is.
    pub user: Arc<str>,
    pub(crate) lane: Lane,
    /// Its label.
    pub tag: Option<Arc<str>>,
    /// Its reverse-path, where that is known.
    pub from: Option<Mailbox>,
    /// What the app's own tracing knows it by.
    pub(crate) traceparent: Option<Arc<str>>,
    /// Its Message-ID field, as [`Head`] has it.
    pub(super) message_id: Option<Arc<str>>,
    /// What happened, in order.
    pub events: Vec<Arc<Event>>,
    /// Events left out because the trace had become too long.
    pub(crate) left_out: u32,
    /// The place of the last event that it was told.
    last: Cursor,
    /// Octets, roughly.
    len: usize,
}

impl Trace {
    pub(super) fn new(event: &Event) -> Self {
        let head = &event.head;
        Self {
            id: head.id,
            accepted_at: head.time.minus(head.since_accepted),
            expires_at: head.expires_at,
            user: head.user.clone(),
            lane: head.lane,
            tag: head.tag.clone(),
            from: head.from.clone(),
            traceparent: head.traceparent.clone(),
            message_id: head.message_id.clone(),
            events: Vec::new(),
            left_out: 0,
            last: Cursor::default(),
            len: 0,
        }
    }

    /// What another event of the message begins with.
    pub fn head(&self, now: Timestamp) -> Head {
        Head {
            time: now,
            id: self.id,
            entry: None,
            user: self.user.clone(),
            lane: self.lane,
            tag: self.tag.clone(),
            from: self.from.clone(),
            traceparent: self.traceparent.clone(),
            verification: self.events.iter().find_map(|event| event.head.verification.clone()),
            message_id: self.message_id.clone(),
            recipient: self.events.iter().find_map(|event| event.head.recipient.clone()),
            attempt: 0,
            expires_at: self.expires_at,
            since_accepted: now.since(self.accepted_at),
        }
    }

    /// The recipients that events named, in the form in which they are looked up.
    pub fn recipients(&self) -> BTreeSet<String> {
        let mut mailboxes: Vec<&Mailbox> =
            self.events.iter().filter_map(|event| event.head.recipient.as_ref()).collect();
        mailboxes.dedup();
        mailboxes.into_iter().map(Mailbox::plain_key).collect()
    }

    /// What is left of it without a recipient; none if that is nothing.
    pub(super) fn without(&self, plain: &str) -> Option<Self> {
        let is_others =
            |event: &&Arc<Event>| event.head.recipient.as_ref().is_none_or(|recipient| recipient.plain_key() != plain);
        let events: Vec<Arc<Event>> = self.events.iter().filter(is_others).cloned().collect();
        let names_somebody = events.iter().any(|event| event.head.recipient.is_some());
        names_somebody.then(|| Self { len: events.iter().map(|event| len(event)).sum(), events, ..self.clone() })
    }

    /// Takes in an event, once.
    pub(super) fn add(&mut self, at: Cursor, event: &Arc<Event>) {
        if at <= self.last {
            return;
        }
        self.last = at;
        if self.len > TRACE_LEN_MAX && !event.kind().is_end() {
            self.left_out += 1;
            return;
        }
        let mut event = event.clone();
        if self.len > TRACE_LEN_MAX / 2
            && let Some(attempted) = Arc::make_mut(&mut event).what.attempted_mut()
        {
            attempted.steps = None;
        }
        self.len += len(&event);
        self.events.push(event);
    }
}

/// Octets of an event, roughly.
fn len(event: &Event) -> usize {
    let texts = [event.destination(), event.cause().map(Cause::name), event.reply(), event.note()];
    let plan = event.what.attempted().and_then(|attempted| attempted.plan.as_deref());
    let steps = event.steps().into_iter().flat_map(|steps| steps.iter());
    160 + texts.into_iter().chain([plan]).flatten().map(str::len).sum::<usize>()
        + event.head.recipient.as_ref().map_or(0, |recipient| recipient.as_str().len())
        + steps.map(|step| 48 + step.host.len() + step.result.len()).sum::<usize>()
}

#[derive(Serialize, Deserialize)]
struct Stored<E> {
    id: MessageId,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    user: Arc<str>,
    lane: Lane,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Mailbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_id: Option<Arc<str>>,
    events: Vec<E>,
    #[serde(default)]
    left_out: u32,
    #[serde(default)]
    last: Cursor,
    #[serde(default)]
    len: usize,
}

/// A trace as it is stored.
pub fn encode(trace: &Trace) -> Vec<u8> {
    let stored = Stored {
        id: trace.id,
        accepted_at: trace.accepted_at,
        expires_at: trace.expires_at,
        user: trace.user.clone(),
        lane: trace.lane,
        tag: trace.tag.clone(),
        from: trace.from.clone(),
        traceparent: trace.traceparent.clone(),
        message_id: trace.message_id.clone(),
        events: trace.events.iter().map(|event| stored::Form::of_message(event)).collect(),
        left_out: trace.left_out,
        last: trace.last,
        len: trace.len,
    };
    let mut value = Vec::with_capacity(trace.len + 512);
    value.push(VERSION);
    // It has nothing that could fail, and memory takes all that is written.
    let _ = rmp_serde::encode::write_named(&mut value, &stored);
    value
}

/// A trace that was stored, by this version or an earlier one.
pub fn decode(value: &[u8]) -> Option<Trace> {
    match value {
        [VERSION, octets @ ..] => {
            Some(rmp_serde::from_slice::<Stored<stored::Form<'_>>>(octets).ok()?.trace(stored::Form::read))
        }
        [FIRST, json @ ..] => {
            Some(serde_json::from_slice::<Stored<FirstEvent>>(json).ok()?.trace(|event, head| Some(event.read(head))))
        }
        _ => None,
    }
}

impl<E> Stored<E> {
    fn trace(self, read: impl Fn(E, Head) -> Option<Event>) -> Trace {
        let head = Head {
            time: self.accepted_at,
            id: self.id,
            entry: None,
            user: self.user.clone(),
            lane: self.lane,
            tag: self.tag.clone(),
            from: self.from.clone(),
            traceparent: self.traceparent.clone(),
            verification: None,
            message_id: self.message_id.clone(),
            recipient: None,
            attempt: 0,
            expires_at: self.expires_at,
            since_accepted: std::time::Duration::ZERO,
        };
        let events = self.events.into_iter().filter_map(|event| read(event, head.clone()).map(Arc::new)).collect();
        Trace {
            id: self.id,
            accepted_at: self.accepted_at,
            expires_at: self.expires_at,
            user: self.user,
            lane: self.lane,
            tag: self.tag,
            from: self.from,
            traceparent: self.traceparent,
            message_id: self.message_id,
            events,
            left_out: self.left_out,
            last: self.last,
            len: self.len,
        }
    }
}

/// An event as version 0.1 stored it.
#[derive(Deserialize)]
struct FirstEvent {
    kind: Kind,
    time: Timestamp,
    entry: Option<u16>,
    recipient: Option<Mailbox>,
    destination: Option<Arc<str>>,
    cause: Option<String>,
    reply: Option<Arc<str>>,
    #[serde(default)]
    attempt: u32,
    next_attempt_at: Option<Timestamp>,
    plan: Option<String>,
    #[serde(default)]
    may_have_arrived: bool,
    note: Option<Arc<str>>,
    steps: Option<Arc<[Step]>>,
}

impl FirstEvent {
    fn read(self, head: Head) -> Event {
        let mut attempted = Attempted {
            destination: self.destination,
            cause: self.cause.as_deref().and_then(Cause::by_name),
            reply: self.reply,
            plan: self.plan.map(Cow::Owned),
            note: self.note,
            may_have_arrived: self.may_have_arrived,
            ..Attempted::default()
        };
        attempted.steps = self.steps;
        // Until then it carried the time of its acceptance.
        let since_accepted = self.time.since(head.time);
        let (time, entry, recipient, attempt) = (self.time, self.entry, self.recipient, self.attempt);
        Event {
            head: Head { time, entry, recipient, attempt, since_accepted, ..head },
            what: Happened::of(self.kind, attempted, self.next_attempt_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::json::EventJson;

    /// Octets that version 0.1 wrote.
    #[test]
    fn a_trace_of_version_0_1_can_be_read_and_is_written_anew() {
        let json = r#"{"id":"01M7YRRT9A0000000000000000","accepted_at":1795255200004,"expires_at":1795255800004,
            "user":"shop","lane":"otp","tag":"signup","events":[
            {"kind":"accepted","time":1795255200004,"recipient":"alice@example.com","attempt":0},
            {"kind":"attempted","time":1795255200005,"entry":0,"recipient":"alice@example.com","destination":"mx.test","attempt":1},
            {"kind":"greylisted","time":1795255200020,"entry":0,"recipient":"alice@example.com","destination":"mx.test",
             "cause":"greylisted","reply":"451 4.7.1 Greylisted","attempt":1,"next_attempt_at":1795255205020,
             "plan":"the reply asks for this wait","note":"in clear text",
             "steps":[{"stage":"RCPT","host":"mx.test","ms":15,"result":"451 4.7.1 Greylisted"}]},
            {"kind":"cancelled","time":1795255200030,"entry":0,"recipient":"alice@example.com","reply":"451 4.7.1 Greylisted",
             "attempt":1,"may_have_arrived":true}],"left_out":3,"len":700}"#;
        let trace = decode(&[&[1], json.as_bytes()].concat()).unwrap();
        let kinds: Vec<Kind> = trace.events.iter().map(|event| event.kind()).collect();
        assert_eq!(kinds, [Kind::Accepted, Kind::Attempted, Kind::Greylisted, Kind::Cancelled]);
        assert_eq!((trace.left_out, trace.len), (3, 700));
        let told = serde_json::to_string(&EventJson::of_message(&trace.events[2])).unwrap();
        assert_eq!(
            told,
            r#"{"event":"greylisted","time":"2026-11-21T10:00:00.020Z","entry":"01M7YRRT9A0000000000000000-1","recipient":"alice@example.com","destination":"mx.test","cause":"greylisted","reply":"451 4.7.1 Greylisted","attempt":1,"next_attempt_at":"2026-11-21T10:00:05.020Z","plan":"the reply asks for this wait","ms":16,"note":"in clear text","steps":[{"stage":"RCPT","host":"mx.test","ms":15,"result":"451 4.7.1 Greylisted"}]}"#
        );
        let told = serde_json::to_string(&EventJson::alone(&trace.events[3])).unwrap();
        assert_eq!(
            told,
            r#"{"event":"cancelled","time":"2026-11-21T10:00:00.030Z","id":"01M7YRRT9A0000000000000000","entry":"01M7YRRT9A0000000000000000-1","user":"shop","lane":"otp","tag":"signup","recipient":"alice@example.com","reply":"451 4.7.1 Greylisted","attempt":1,"expires_at":"2026-11-21T10:10:00.004Z","ms":26,"may_have_arrived":true}"#
        );
        assert_eq!(decode(&encode(&trace)).unwrap(), trace);
    }

    #[test]
    fn what_another_version_wrote_does_no_harm() {
        assert_eq!(decode(&[9, b'{', b'}']), None);
        let stored = serde_json::json!({"id": "01M7YRRT9A0000000000000000", "accepted_at": 1, "expires_at": 2, "user": "shop",
            "lane": "otp", "events": [{"k": "teleported", "t": 3}, {"k": "failed", "t": 4, "c": "bad_weather", "mood": "sunny"}]});
        let trace = decode(&[vec![VERSION], rmp_serde::to_vec_named(&stored).unwrap()].concat()).unwrap();
        let known: Vec<_> = trace.events.iter().map(|event| (event.kind(), event.cause())).collect();
        assert_eq!(known, [(Kind::Failed, None)]);
    }

    #[test]
    fn a_trace_does_not_grow_for_ever() {
        let head = Head::sample(MessageId::from_bytes([0; 16]), Timestamp::from_millis(1_795_255_200_000));
        let step = Step { stage: "RCPT".into(), host: "mx".into(), ms: 3, result: "250 ok".into() };
        let attempted = Attempted { steps: Some(Arc::new([step])), ..Attempted::default() };
        let event = |kind| Arc::new(Event { head: head.clone(), what: Happened::of(kind, attempted.clone(), None) });
        let mut trace = Trace::new(&event(Kind::Accepted));
        (1..=2000).for_each(|number| trace.add(Cursor::behind(number), &event(Kind::Deferred)));
        trace.add(Cursor::behind(2001), &event(Kind::Failed));
        assert!(trace.left_out > 0 && trace.events.len() < 1000);
        assert!(trace.events[1].steps().is_some(), "there is room for the first");
        assert_eq!(trace.events.last().unwrap().kind(), Kind::Failed);
        assert!(encode(&trace).len() < 2 * TRACE_LEN_MAX);
    }
}
