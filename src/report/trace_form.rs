//! How a trace is written down: a version and JSON, in which events look as everywhere else ([`EventJson`]).

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::trace::Trace;
use crate::clock::Timestamp;
use crate::event::cause::Cause;
use crate::event::json::EventJson;
use crate::event::{Attempted, Event, Happened, Head, Kind, Step};
use crate::lane::Lane;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// The version that is written.
const VERSION: u8 = 2;
/// The version that 0.1 wrote, which had a form of events of its own.
const FIRST: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Stored<E> {
    id: MessageId,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    user: Arc<str>,
    lane: Lane,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<Arc<str>>,
    events: Vec<E>,
    #[serde(default)]
    left_out: u32,
    #[serde(default)]
    len: usize,
}

/// A trace as it is stored.
pub(super) fn encode(trace: &Trace) -> Vec<u8> {
    let stored = Stored {
        id: trace.id,
        accepted_at: trace.accepted_at,
        expires_at: trace.expires_at,
        user: trace.user.clone(),
        lane: trace.lane,
        tag: trace.tag.clone(),
        events: trace.events.iter().map(|event| EventJson::of_message(event)).collect(),
        left_out: trace.left_out,
        len: trace.len,
    };
    let mut value = vec![VERSION];
    // It has no map with keys that are not text and nothing else that could fail.
    let _ = serde_json::to_writer(&mut value, &stored);
    value
}

/// A trace that was stored, by this version or an earlier one.
pub(super) fn decode(value: &[u8]) -> Option<Trace> {
    match value {
        [VERSION, json @ ..] => Some(serde_json::from_slice::<Stored<EventJson>>(json).ok()?.trace(EventJson::read)),
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
            events,
            left_out: self.left_out,
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
        let attempted = Attempted {
            destination: self.destination,
            cause: self.cause.as_deref().and_then(Cause::by_name),
            reply: self.reply,
            plan: self.plan.map(Cow::Owned),
            note: self.note,
            steps: self.steps,
            may_have_arrived: self.may_have_arrived,
        };
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
        let json = r#"{"id":"01M7YRRT9A0000000000000000","accepted_at":1,"expires_at":2,"user":"shop","lane":"otp","events":[
            {"event":"teleported","time":"2026-11-21T10:00:00.020Z"},
            {"event":"failed","time":"2026-11-21T10:00:00.020Z","cause":"bad_weather","mood":"sunny"}]}"#;
        let trace = decode(&[&[2], json.as_bytes()].concat()).unwrap();
        let known: Vec<_> = trace.events.iter().map(|event| (event.kind(), event.cause())).collect();
        assert_eq!(known, [(Kind::Failed, None)]);
    }
}
