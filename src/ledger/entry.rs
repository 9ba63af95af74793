//! Messages and entries as the queue holds them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::accounts::supersede::Supersede;
use crate::base::clock::{Step, Timestamp};
use crate::base::lane::Lane;
use crate::dkim::{SenderField, Terms};
use crate::event::cause::Cause;
use crate::event::{Head, Kind};
use crate::mail::envelope::{DeliverByMode, Envelope, Recipient};
use crate::mail::id::MessageId;
use crate::mail::message::Content;
use crate::policy::failover::Relayed;

/// How long a claim holds without being renewed. An attempt renews it before every wait that could outlast it.
pub const LEASE: Duration = Duration::from_secs(120);

/// What is known of a message from its acceptance on; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// Whose it is.
    pub user: Arc<str>,
    /// How urgent it is.
    pub lane: Lane,
    /// Label for events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Arc<str>>,
    /// What a newer message of the same user and recipient replaces it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// What the app's own tracing knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Arc<str>>,
    /// Which newer message takes its place, and which older ones it replaces; none: by its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersede: Option<Supersede>,
    /// The header fields that a notification returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned_fields: Option<Arc<str>>,
    /// Who sends and who receives.
    pub envelope: Envelope,
    /// Octets of content, without signatures.
    pub size: u64,
    /// Whether the content has octets above 127.
    #[serde(default)]
    pub eight_bit: bool,
    /// Whether header fields have octets above 127.
    #[serde(default)]
    pub utf8_fields: bool,
    /// The domain that signs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_domain: Option<Arc<str>>,
    /// Whether, when it was accepted, no smart host could come to carry it. Kept because its signatures say so, and have to
    /// be the same again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_direct: bool,
    /// The verification whose code it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Arc<str>>,
    /// Its Message-ID field, as `Head` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Arc<str>>,
}

impl Message {
    /// A message of lane `otp` that asks for nothing, unsigned, its content in ASCII and of unknown size.
    pub fn new(id: MessageId, user: Arc<str>, envelope: Envelope, life: Range<Timestamp>) -> Self {
        Self {
            id,
            accepted_at: life.start,
            expires_at: life.end,
            user,
            lane: Lane::Otp,
            tag: None,
            key: None,
            traceparent: None,
            supersede: None,
            returned_fields: None,
            envelope,
            size: 0,
            eight_bit: false,
            utf8_fields: false,
            signing_domain: None,
            is_direct: false,
            verification: None,
            message_id: None,
        }
    }

    /// What its signatures say, while the wall clock differs so far from the relay's time.
    pub fn signature_terms(&self, step: Step) -> Terms {
        let sender = if self.is_direct { SenderField::Closed } else { SenderField::Open };
        Terms { signed_at: step.wall(self.accepted_at), life_ends_at: step.wall(self.expires_at), sender }
    }

    /// The names of the supersession slots that an entry takes: of two live entries in one slot, the newer stays.
    pub fn slot_names(&self, index: u16) -> impl Iterator<Item = Box<str>> + use<> {
        let rule = self.supersede.unwrap_or_default();
        let by_key = if rule == Supersede::Off { None } else { self.key.as_deref() };
        let by_recipient =
            rule == Supersede::SameRecipient && self.lane.rules().is_superseded_by_recipient && self.is_supersedable();
        let slot = |key: &str| {
            let recipient = self.recipient(index).mailbox.plain_key();
            // A key is printable: no other user, recipient and key give the same slot.
            format!("{}\n{recipient}\n{key}", self.user).into_boxed_str()
        };
        by_key.map(slot).into_iter().chain(by_recipient.then(|| slot("")))
    }

    /// Whether a newer message can take its place. Notifications have none: they have no reverse-path.
    pub fn is_supersedable(&self) -> bool {
        self.envelope.reverse_path.mailbox().is_some()
    }

    /// Whether the sender may want to know that an entry ended so. What a newer message or the app itself ended is no
    /// failure, and an arrival is told where that was asked for.
    pub fn may_tell(&self, index: u16, kind: Kind) -> bool {
        let wants_arrival = || self.recipient(index).notify.is_some_and(|notify| notify.success);
        let is_news = matches!(kind, Kind::Failed | Kind::Expired) || kind == Kind::Delivered && wants_arrival();
        is_news && self.envelope.reverse_path.mailbox().is_some()
    }

    /// When the sender wants to be told that it is not delivered yet: the time of `BY=` with mode `N`. One that was over
    /// at acceptance was told by whoever had the message then.
    pub fn late_at(&self) -> Option<Timestamp> {
        let by = self.envelope.parameters.deliver_by.filter(|by| by.mode == DeliverByMode::Notify)?;
        let seconds = u64::try_from(by.seconds).ok().filter(|seconds| *seconds > 0)?;
        Some(self.accepted_at.plus(Duration::from_secs(seconds))).filter(|at| *at < self.expires_at)
    }

    /// What events about it have in common.
    pub fn head(&self, now: Timestamp) -> Head {
        Head {
            time: now,
            id: self.id,
            entry: None,
            user: self.user.clone(),
            lane: self.lane,
            tag: self.tag.clone(),
            from: self.envelope.reverse_path.mailbox().cloned(),
            traceparent: self.traceparent.clone(),
            verification: self.verification.clone(),
            message_id: self.message_id.clone(),
            recipient: self.envelope.recipients.first().map(|recipient| recipient.mailbox.clone()),
            attempt: 0,
            expires_at: self.expires_at,
            since_accepted: now.since(self.accepted_at),
        }
    }

    /// What events about one of its entries have in common.
    pub fn entry_head(&self, index: u16, attempt: u32, now: Timestamp) -> Head {
        let recipient = Some(self.recipient(index).mailbox.clone());
        Head { entry: Some(index), recipient, attempt, ..self.head(now) }
    }

    /// As it is stored while the wall clock differs from the relay's time.
    pub(crate) fn moved(&self, step: Step) -> Self {
        let (accepted_at, expires_at) = (step.wall(self.accepted_at), step.wall(self.expires_at));
        Self { accepted_at, expires_at, ..self.clone() }
    }

    /// The recipient of an entry.
    pub fn recipient(&self, index: u16) -> &Recipient {
        &self.envelope.recipients[usize::from(index)]
    }
}

/// Content as it leaves: the stored content with its signatures in front.
#[derive(Clone, Debug)]
pub struct SignedContent {
    /// DKIM-Signature fields, each ending in CRLF; empty if the message is unsigned.
    pub signatures: Bytes,
    /// What was stored.
    pub content: Content,
}

impl SignedContent {
    /// Octets in all.
    pub fn len(&self) -> usize {
        self.signatures.len() + self.content.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where an entry stands while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for a delivery slot.
    Queued,
    /// An attempt is running.
    Sending,
    /// Waits for its next attempt.
    Deferred,
}

impl State {
    /// As in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Deferred => "deferred",
        }
    }
}

/// Why an entry must not be sent (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostClaim {
    /// Its life is over.
    Expired,
    /// It ended, or somebody else has it.
    Ended,
    /// Nobody can say now whether it is ours: later perhaps.
    NotNow,
}

/// Who works on an entry, and until when that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The process, by a number it draws at its start.
    pub owner: u64,
    /// Which claim of that process.
    pub token: u64,
    /// When it ends unless renewed.
    pub ends_at: Timestamp,
}

/// What changes of an entry between acceptance and end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Attempts begun.
    pub attempts: u32,
    /// When the first attempt was answered; retries are counted from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_deferred_at: Option<Timestamp>,
    /// When the next attempt is due.
    #[serde(default)]
    pub next_attempt_at: Timestamp,
    /// Why the last attempt ended as it did.
    #[serde(default, deserialize_with = "known_cause", skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What the remote server said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<Arc<str>>,
    /// The smart host that the next attempt goes by; none: straight to the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<Box<Relayed>>,
    /// Who works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// With `deliver_at_most_once`: the last bytes of an attempt were about to leave, and no answer is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content_sent: bool,
    /// The content was sent, in this attempt or an earlier one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_sent: bool,
    /// It was told that the entry may not arrive in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_risk: bool,
    /// It was told that the time of `BY=` is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// The entry has ended; kept only while others of its message live.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// How it ended, where the sender may want to know: one notification tells of the whole message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<Outcome>>,
}

/// What a notification says of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended, or that it is late.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// What the remote server said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Arc<str>>,
    /// The host that said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Arc<str>>,
    /// Whether the host that took it notifies the sender.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_passed_on: bool,
}

/// A cause that another version gave, and that is not known here, is as good as none.
fn known_cause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cause>, D::Error> {
    let name = Option::<Cow<'_, str>>::deserialize(deserializer)?;
    Ok(name.as_deref().and_then(Cause::by_name))
}

impl Progress {
    /// As it is stored while the wall clock differs from the relay's time.
    pub(crate) fn moved(&self, step: Step) -> Self {
        Self {
            first_deferred_at: self.first_deferred_at.map(|at| step.wall(at)),
            next_attempt_at: step.wall(self.next_attempt_at),
            lease: self.lease.map(|lease| Lease { ends_at: step.wall(lease.ends_at), ..lease }),
            outcome: self.outcome.clone().map(|outcome| Box::new(Outcome { at: step.wall(outcome.at), ..*outcome })),
            ..self.clone()
        }
    }
}

/// A message as it is taken up at start, with those of its entries that are not fresh. One that was accepted by a clock
/// that was ahead has the life left that it was accepted for.
pub(crate) fn taken_up(
    message: Message,
    entries: Vec<(u16, Progress)>,
    now: Timestamp,
) -> (Box<Message>, Vec<(u16, Progress)>) {
    let ahead = message.accepted_at.since(now);
    if ahead.is_zero() {
        return (Box::new(message), entries);
    }
    let earlier = |progress: Progress| Progress {
        first_deferred_at: progress.first_deferred_at.map(|at| at.minus(ahead)),
        next_attempt_at: progress.next_attempt_at.minus(ahead),
        outcome: progress.outcome.map(|outcome| Box::new(Outcome { at: outcome.at.minus(ahead), ..*outcome })),
        ..progress
    };
    let entries = entries.into_iter().map(|(index, progress)| (index, earlier(progress))).collect();
    let (accepted_at, expires_at) = (message.accepted_at.minus(ahead), message.expires_at.minus(ahead));
    (Box::new(Message { accepted_at, expires_at, ..message }), entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::MailParameters;
    use crate::mail::id::IdSource;

    #[test]
    fn how_far_an_entry_of_another_version_got_can_be_read() {
        let read = |json: &str| serde_json::from_str::<Progress>(json).unwrap().cause;
        assert_eq!(read(r#"{"attempts":2,"cause":"greylisted"}"#), Some(Cause::Greylisted));
        assert_eq!(read(r#"{"attempts":2,"cause":"bad_weather"}"#), None);
        assert_eq!(read(r#"{"attempts":2}"#), None);
        let progress = Progress { cause: Some(Cause::OutcomeUnknown), ..Progress::default() };
        assert!(serde_json::to_string(&progress).unwrap().contains(r#""cause":"outcome_unknown""#));
    }

    /// What an earlier version stored has no word of the way; its signatures leave Sender open.
    #[test]
    fn a_message_of_before_can_be_read() {
        let accepted_at = Timestamp::from_millis(1_795_255_200_000);
        let envelope =
            Envelope { reverse_path: ReversePath::NULL, parameters: MailParameters::default(), recipients: Vec::new() };
        let id = IdSource::with_random(|| 1).next(accepted_at);
        let life = accepted_at..accepted_at.plus(Duration::from_secs(600));
        let before = Message::new(id, "shop".into(), envelope, life);
        let json = serde_json::to_string(&before).unwrap();
        assert!(!json.contains("is_direct"), "{json}");
        assert_eq!(serde_json::from_str::<Message>(&json).unwrap(), before);
        assert_eq!(before.signature_terms(Step::NONE).sender, SenderField::Open);
        let direct = Message { is_direct: true, ..before };
        let json = serde_json::to_string(&direct).unwrap();
        assert_eq!(
            serde_json::from_str::<Message>(&json).unwrap().signature_terms(Step::NONE).sender,
            SenderField::Closed
        );
    }
}
