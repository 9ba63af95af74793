//! Events as they are stored with the change of state they tell of: MessagePack with short names. Whoever reads them may be
//! another version: what it does not know is left out, and what is missing has a default.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::{Attempted, Event, Happened, Head, Kind, Step};
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::mail::address::Mailbox;
use crate::mail::id::MessageId;

/// An event as it is stored, by itself or beside its message, which says what all of its events have in common.
#[derive(Serialize, Deserialize)]
pub(crate) struct Form<'a> {
    #[serde(rename = "k", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "t")]
    time: Timestamp,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    id: Option<MessageId>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    entry: Option<u16>,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    lane: Option<Lane>,
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    tag: Option<Cow<'a, str>>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    recipient: Option<Cow<'a, str>>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    from: Option<Cow<'a, str>>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Cow<'a, str>>,
    #[serde(rename = "vf", default, skip_serializing_if = "Option::is_none")]
    verification: Option<Cow<'a, str>>,
    #[serde(rename = "mi", default, skip_serializing_if = "Option::is_none")]
    message_id: Option<Cow<'a, str>>,
    #[serde(rename = "a", default, skip_serializing_if = "is_zero")]
    attempt: u32,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(rename = "m", default, skip_serializing_if = "is_zero")]
    ms: u64,
    #[serde(rename = "md", default, skip_serializing_if = "Option::is_none")]
    ms_since_delivered: Option<u64>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    destination: Option<Cow<'a, str>>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    cause: Option<Cow<'a, str>>,
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    reply: Option<Cow<'a, str>>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    plan: Option<Cow<'a, str>>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
    #[serde(rename = "h", default, skip_serializing_if = "std::ops::Not::not")]
    may_have_arrived: bool,
    #[serde(rename = "b", default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<Cow<'a, str>>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    steps: Option<Cow<'a, [Step]>>,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> Form<'a> {
    fn alone(event: &'a Event) -> Self {
        let head = &event.head;
        Self {
            id: Some(head.id),
            user: Some((&*head.user).into()),
            lane: Some(head.lane),
            tag: head.tag.as_deref().map(Into::into),
            from: head.from.as_ref().map(|from| from.as_str().into()),
            traceparent: head.traceparent.as_deref().map(Into::into),
            message_id: head.message_id.as_deref().map(Into::into),
            expires_at: Some(head.expires_at),
            // What led to a delivery is in the trace as long as that is written in order.
            steps: event.steps().filter(|_| event.kind() != Kind::Delivered).map(|steps| (&**steps).into()),
            ..Self::of_message(event)
        }
    }

    /// An event beside its message.
    pub(crate) fn of_message(event: &'a Event) -> Self {
        let Event { head, what } = event;
        let attempted = what.attempted();
        Self {
            kind: what.kind().name().into(),
            time: head.time,
            id: None,
            entry: head.entry,
            user: None,
            lane: None,
            tag: None,
            recipient: head.recipient.as_ref().map(|recipient| recipient.as_str().into()),
            from: None,
            traceparent: None,
            verification: head.verification.as_deref().map(Into::into),
            message_id: None,
            attempt: head.attempt,
            expires_at: None,
            ms: millis(head.since_accepted),
            ms_since_delivered: event.since_delivered().map(millis),
            next_attempt_at: event.next_attempt_at(),
            destination: event.destination().map(Into::into),
            cause: event.cause().map(|cause| cause.name().into()),
            reply: event.reply().map(Into::into),
            plan: attempted.and_then(|attempted| attempted.plan.as_deref()).map(Into::into),
            note: event.note().map(Into::into),
            may_have_arrived: event.may_have_arrived(),
            others: what.others().iter().map(|domain| (&**domain).into()).collect(),
            steps: event.steps().map(|steps| (&**steps).into()),
        }
    }

    fn read_alone(mut self) -> Option<Event> {
        let head = Head {
            time: self.time,
            id: self.id?,
            entry: None,
            user: self.user.take()?.into(),
            lane: self.lane?,
            tag: self.tag.take().map(Arc::from),
            recipient: None,
            from: self.from.take().and_then(|from| Mailbox::parse(&from).ok()),
            traceparent: self.traceparent.take().map(Arc::from),
            verification: None,
            message_id: self.message_id.take().map(Arc::from),
            attempt: 0,
            expires_at: self.expires_at?,
            since_accepted: Duration::ZERO,
        };
        self.read(head)
    }

    /// The event again, of a message of which `head` tells. None if it is not known what happened.
    pub(crate) fn read(self, head: Head) -> Option<Event> {
        let kind = Kind::by_name(&self.kind)?;
        let attempted = Attempted {
            destination: self.destination.map(Arc::from),
            cause: self.cause.as_deref().and_then(Cause::by_name),
            reply: self.reply.map(Arc::from),
            plan: self.plan.map(|plan| Cow::Owned(plan.into_owned())),
            note: self.note.map(Arc::from),
            steps: self.steps.map(Arc::from),
            may_have_arrived: self.may_have_arrived,
        };
        let head = Head {
            time: self.time,
            entry: self.entry,
            recipient: self.recipient.and_then(|recipient| Mailbox::parse(&recipient).ok()),
            verification: self.verification.map(Arc::from),
            attempt: self.attempt,
            since_accepted: Duration::from_millis(self.ms),
            ..head
        };
        let mut what = Happened::of(kind, attempted, self.next_attempt_at);
        if let Happened::Accepted { others, .. } = &mut what {
            *others = self.others.into_iter().map(Arc::from).collect();
        } else if let Happened::Verified { since_delivered } = &mut what {
            *since_delivered = self.ms_since_delivered.map(Duration::from_millis);
        }
        Some(Event { head, what })
    }
}

/// Writes an event behind what is there, in at most `len_max` octets: what is only for people goes first, steps before
/// notes.
pub fn write(event: &Event, len_max: usize, octets: &mut Vec<u8>) {
    let start = octets.len();
    let mut form = Form::alone(event);
    let shorten: [fn(&mut Form<'_>); 3] = [
        |_| {},
        |form| form.steps = None,
        |form| {
            (form.plan, form.note, form.reply, form.destination) = (None, None, None, None);
            // How many there are is kept.
            form.others.iter_mut().for_each(|domain| *domain = Cow::default());
        },
    ];
    for shorten in shorten {
        shorten(&mut form);
        octets.truncate(start);
        // It has nothing that could fail, and memory takes all that is written.
        let _ = rmp_serde::encode::write_named(octets, &form);
        if octets.len() - start <= len_max {
            return;
        }
    }
}

/// Reads what [`write()`] wrote; none where this version does not know what happened.
pub fn read(octets: &[u8]) -> Option<Event> {
    rmp_serde::from_slice::<Form<'_>>(octets).ok()?.read_alone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::KINDS;

    fn event(kind: Kind) -> Event {
        let step = Step { stage: "RCPT".into(), host: "mx.test".into(), ms: 3, result: "450 \"later\"".into() };
        let attempted = Attempted {
            destination: Some("mx.test".into()),
            cause: Some(Cause::MailboxFull),
            reply: Some("452 4.2.2 \u{201e}full\u{201c}\\".into()),
            plan: Some("the reply asks for this wait".into()),
            note: Some("in clear text".into()),
            steps: Some(Arc::new([step])),
            may_have_arrived: true,
        };
        let head = Head {
            time: Timestamp::from_millis(1_795_255_200_020),
            id: MessageId::from_bytes([7; 16]),
            entry: Some(3),
            user: "shop".into(),
            lane: Lane::Otp,
            tag: Some("signup".into()),
            recipient: Some(Mailbox::parse("j\u{f6}rg@example.com").unwrap()),
            from: Some(Mailbox::parse("otp@app.test").unwrap()),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            verification: Some("vrf_01".into()),
            message_id: Some("<7@shop.example>".into()),
            attempt: 2,
            expires_at: Timestamp::from_millis(1_795_255_800_000),
            since_accepted: Duration::from_millis(20),
        };
        Event { head, what: Happened::of(kind, attempted, Some(Timestamp::from_millis(1_795_255_205_020))) }
    }

    #[test]
    fn what_is_written_is_read() {
        for kind in KINDS {
            let mut expected = event(kind);
            match &mut expected.what {
                Happened::Accepted { others, .. } => *others = ["two.test".into(), "three.test".into()].into(),
                Happened::Verified { since_delivered } => *since_delivered = Some(Duration::from_millis(1500)),
                _ => {}
            }
            let mut octets = b"before".to_vec();
            write(&expected, 4096, &mut octets);
            if let Some(attempted) = expected.what.attempted_mut().filter(|_| kind == Kind::Delivered) {
                attempted.steps = None;
            }
            assert_eq!(read(&octets[6..]), Some(expected), "{kind:?}");
        }
    }

    #[test]
    fn what_is_too_long_loses_what_is_for_people() {
        let mut long = event(Kind::Failed);
        let step = Step { stage: "RCPT".into(), host: "mx.test".into(), ms: 3, result: "x".repeat(9000).into() };
        let attempted = long.what.attempted_mut().unwrap();
        attempted.steps = Some(Arc::new([step]));
        let mut octets = Vec::new();
        write(&long, 2048, &mut octets);
        let read_back = read(&octets).unwrap();
        assert!(octets.len() < 2048 && read_back.steps().is_none() && read_back.note().is_some());
        long.what.attempted_mut().unwrap().note = Some("n".repeat(9000).into());
        octets.clear();
        write(&long, 2048, &mut octets);
        let read_back = read(&octets).unwrap();
        assert!(octets.len() < 2048 && read_back.note().is_none());
        assert_eq!((read_back.kind(), read_back.cause()), (Kind::Failed, Some(Cause::MailboxFull)));
    }

    #[test]
    fn what_another_version_wrote_does_no_harm() {
        let stored = |change: &[(&str, &str)]| {
            let mut all =
                serde_json::json!({"t": 1, "i": "01M7YRRT9A0000000000000000", "u": "shop", "l": "otp", "x": 2});
            change.iter().for_each(|(name, value)| all[name] = (*value).into());
            rmp_serde::to_vec_named(&all).unwrap()
        };
        assert_eq!(read(&stored(&[("k", "teleported")])), None);
        let known = read(&stored(&[("k", "failed"), ("c", "bad_weather"), ("mood", "sunny")])).unwrap();
        assert_eq!((known.kind(), known.cause()), (Kind::Failed, None));
        assert_eq!(read(b"no event"), None);
    }
}
