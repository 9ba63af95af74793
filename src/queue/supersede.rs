//! A newer code makes an older one worthless: which takes the place of which.

use serde::{Deserialize, Serialize};

use super::entry::Message;
use crate::lane::Lane;

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
