//! Supersession slots: the places of which two live entries never share one.

use crate::accounts::supersede::Supersede;
use crate::ledger::entry::Message;

/// The slots that an entry takes; `rule` counts where its message does not say otherwise. Of two live entries in one slot, the
/// newer stays.
pub(super) fn slots(rule: Supersede, message: &Message, index: u16) -> impl Iterator<Item = Box<str>> + use<> {
    let rule = message.supersede.unwrap_or(rule);
    let by_key = if rule == Supersede::Off { None } else { message.key.as_deref() };
    let by_recipient = rule == Supersede::SameRecipient
        && message.lane.rules().is_superseded_by_recipient
        && message.is_supersedable();
    let slot = |key: &str| {
        let recipient = message.recipient(index).mailbox.plain_key();
        // A key is printable: no other user, recipient and key give the same slot.
        format!("{}\n{recipient}\n{key}", message.user).into_boxed_str()
    };
    by_key.map(slot).into_iter().chain(by_recipient.then(|| slot("")))
}
