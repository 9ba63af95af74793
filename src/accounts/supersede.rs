//! A newer code makes an older one worthless: which takes the place of which.

use serde::{Deserialize, Serialize};

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
