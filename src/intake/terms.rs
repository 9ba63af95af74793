//! The terms on which a message is taken: its lane, its life.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::dsn;
use super::options::{self, LIFE, Options};
use super::refusal::Refusal;
use crate::accounts::user::User;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::ledger::entry::Message;
use crate::mail::envelope::{DeliverByMode, Envelope};
use crate::mail::id::MessageId;
use crate::mail::message::Content;

/// A message as it goes into the queue.
pub(super) fn message(
    id: MessageId,
    user: &User,
    envelope: Envelope,
    content: &Content,
    options: &Options,
    signing_domain: Option<Arc<str>>,
    life: Range<Timestamp>,
) -> Message {
    let mut envelope = envelope;
    envelope.recipients.shrink_to_fit();
    Message {
        lane: user.lane.max(asked_lane(options, &envelope).unwrap_or(user.lane)),
        tag: options.tag.clone().or_else(|| user.defaults.tag.clone()),
        key: options.key.clone().or_else(|| default_key(user, &envelope)),
        traceparent: options.traceparent.clone(),
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

/// The end of life: as the app asks, by `BY=`, as the user has it; and no later than the Expires field says.
///
/// # Errors
/// The Expires field is in the past.
pub(super) fn expires_at(
    user: &User,
    options: &Options,
    envelope: &Envelope,
    content: &Content,
    now: Timestamp,
) -> Result<Timestamp, Refusal> {
    let option = envelope.parameters.deliver_by.filter(|by| by.mode == DeliverByMode::Return);
    let life = option.map(|by| Duration::from_secs(u64::from(by.seconds.unsigned_abs())));
    let end = now.plus(options.life.or(life).unwrap_or(user.life).clamp(LIFE.0, LIFE.1));
    match options::expires(&content.head) {
        Some(at) if at <= now => Err(Refusal::Option("the message has expired; its Expires field is in the past")),
        Some(at) => Ok(at.min(end)),
        None => Ok(end),
    }
}

/// The lane the message asks for.
pub(super) fn asked_lane(options: &Options, envelope: &Envelope) -> Option<Lane> {
    options.lane.or(envelope.parameters.priority.map(Lane::of_priority))
}
