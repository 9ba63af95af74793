//! How an attempt ended.

use crate::base::clock::Timestamp;
use crate::event::{Attempted, Suppress};

/// How an attempt ended, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The receiver took the message.
    Delivered {
        /// What it came to.
        attempted: Attempted,
        /// Whether the host was asked to notify the sender of a success itself (RFC 3461 section 5.2.2).
        notifies: bool,
    },
    /// Not yet.
    Deferred {
        /// What it came to.
        attempted: Attempted,
        /// When to try again. At or after the end of life there is no other attempt; the entry expires then.
        next_attempt_at: Timestamp,
        /// Whether the plan cannot promise any more that it arrives in time.
        at_risk: bool,
    },
    /// Never.
    Failed {
        /// What it came to.
        attempted: Attempted,
        /// What becomes of the address.
        suppress: Suppress,
    },
    /// The life ended during the attempt, before the content was sent.
    Expired(Attempted),
    /// Nothing came of it; the attempt does not count and the entry is ready again. It is told if there is a note.
    Released(Attempted),
}

impl Settlement {
    /// Put off for a reason that says nothing of what can be promised.
    pub fn put_off(attempted: Attempted, next_attempt_at: Timestamp) -> Self {
        Self::Deferred { attempted, next_attempt_at, at_risk: false }
    }

    /// What the attempt came to.
    pub(crate) fn attempted_mut(&mut self) -> &mut Attempted {
        match self {
            Self::Delivered { attempted, .. }
            | Self::Deferred { attempted, .. }
            | Self::Failed { attempted, .. }
            | Self::Expired(attempted)
            | Self::Released(attempted) => attempted,
        }
    }
}
