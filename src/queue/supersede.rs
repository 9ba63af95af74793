//! A newer code makes an older one worthless: which takes the place of which.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Queue;
use super::ending::End;
use super::entry::Message;
use super::schedule::{Schedule, entries_of};
use crate::clock::Timestamp;
use crate::event::{Attempted, Event, Kind};
use crate::lane::Lane;
use crate::mail::id::EntryId;

/// `otp.supersede`, and `supersede` of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Supersede {
    /// A message with a key replaces those of the same user, recipient and key.
    #[default]
    ByKey,
    /// So does, without regard to keys, a code those of the same user and recipient.
    SameRecipient,
    /// Nothing replaces anything.
    Off,
}

impl Supersede {
    /// The places that an entry takes where its message does not say otherwise. Of two live entries in one place, the
    /// newer stays.
    pub(super) fn slots(self, message: &Message, index: u16) -> impl Iterator<Item = Box<str>> + use<> {
        let rule = message.supersede.unwrap_or(self);
        let by_key = if rule == Self::Off { None } else { message.key.as_deref() };
        let by_recipient = rule == Self::SameRecipient && message.lane == Lane::Otp && message.is_supersedable();
        let slot = |key: &str| {
            let recipient = message.recipient(index).mailbox.plain_key();
            // A key is printable: no other user, recipient and key give the same place.
            format!("{}\n{recipient}\n{key}", message.user).into_boxed_str()
        };
        by_key.map(slot).into_iter().chain(by_recipient.then(|| slot("")))
    }
}

impl Queue {
    /// Gives the entries of a message that comes to life their places, and ends those that held them. Where the message
    /// itself is the older one, because another overtook it on its way to the disk, its own entries end.
    pub(super) fn take_slots(&self, schedule: &mut Schedule, message: &Arc<Message>, now: Timestamp) -> Vec<Event> {
        let ends: Vec<(EntryId, End)> =
            entries_of(message).flat_map(|id| schedule.take_slots_of(self.settings.supersede, message, id)).collect();
        ends.into_iter().filter_map(|(id, end)| self.end(schedule, id, end, now)).collect()
    }
}

impl Schedule {
    /// Gives an entry its places; says which entries end by that.
    pub(super) fn take_slots_of(
        &mut self,
        supersede: Supersede,
        message: &Message,
        id: EntryId,
    ) -> Vec<(EntryId, End)> {
        let mut ended = Vec::new();
        for slot in supersede.slots(message, id.index) {
            let holder = self.slots.get(&slot).copied();
            let (newer, older) = match holder {
                // The same recipient twice in one message is no newer code.
                Some(holder) if holder.message == id.message => (id, None),
                Some(holder) if holder.message > id.message => (holder, Some(id)),
                Some(holder) => (id, Some(holder)),
                None => (id, None),
            };
            self.slots.insert(slot, newer);
            let attempted = Attempted { note: Some(format!("by {}", newer.message).into()), ..Attempted::default() };
            ended.extend(older.map(|older| (older, End::after(Kind::Superseded, attempted))));
        }
        ended
    }
}
