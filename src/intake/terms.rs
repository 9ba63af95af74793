//! The terms on which a message is taken: its lane, its life.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::dsn;
use super::refusal::Refusal;
use super::user::User;
use super::wishes::{self, LIFE, Wishes};
use crate::clock::Timestamp;
use crate::lane::Lane;
use crate::mail::envelope::{DeliverByMode, Envelope};
use crate::mail::id::MessageId;
use crate::mail::message::Content;
use crate::queue::entry::Message;

/// A message as it goes into the queue.
pub(super) fn message(
    id: MessageId,
    user: &User,
    envelope: Envelope,
    content: &Content,
    wishes: &Wishes,
    signing_domain: Option<Arc<str>>,
    life: Range<Timestamp>,
) -> Message {
    let mut envelope = envelope;
    envelope.recipients.shrink_to_fit();
    Message {
        lane: user.lane.max(wished_lane(wishes, &envelope).unwrap_or(user.lane)),
        tag: wishes.tag.clone().or_else(|| user.defaults.tag.clone()),
        key: wishes.key.clone().or_else(|| default_key(user, &envelope)),
        supersede: user.defaults.supersede,
        returned_fields: dsn::returned_fields(&content.head, &envelope),
        size: content.len() as u64,
        eight_bit: !content.is_ascii(),
        utf8_fields: envelope.parameters.smtputf8 && !content.head.is_ascii(),
        signing_domain,
        ..Message::new(id, user.name.clone(), envelope, life)
    }
}

/// A notification that the user passes on is no newer code.
fn default_key(user: &User, envelope: &Envelope) -> Option<Arc<str>> {
    user.defaults.key.clone().filter(|_| envelope.reverse_path.mailbox().is_some())
}

/// The end of life: as the app wishes, by `BY=`, as the user has it; and no later than the Expires field says.
///
/// # Errors
/// The Expires field is in the past.
pub(super) fn expires_at(
    user: &User,
    wishes: &Wishes,
    envelope: &Envelope,
    content: &Content,
    now: Timestamp,
) -> Result<Timestamp, Refusal> {
    let wish = envelope.parameters.deliver_by.filter(|by| by.mode == DeliverByMode::Return);
    let life = wish.map(|by| Duration::from_secs(u64::from(by.seconds.unsigned_abs())));
    let end = now.plus(wishes.life.or(life).unwrap_or(user.life).clamp(LIFE.0, LIFE.1));
    match wishes::expires(&content.head) {
        Some(at) if at <= now => Err(Refusal::Wish("the message has expired; its Expires field is in the past")),
        Some(at) => Ok(at.min(end)),
        None => Ok(end),
    }
}

/// The lane the message asks for.
pub(super) fn wished_lane(wishes: &Wishes, envelope: &Envelope) -> Option<Lane> {
    wishes.lane.or(envelope.parameters.priority.map(lane))
}

/// The lane of a priority (RFC 6710): 4 and above is `otp`, 1 to 3 `reset`, the rest `notice`.
fn lane(priority: i8) -> Lane {
    match priority {
        4.. => Lane::Otp,
        1..=3 => Lane::Reset,
        _ => Lane::Notice,
    }
}
