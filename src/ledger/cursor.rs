//! Places among the events of a ledger.

use serde::{Deserialize, Serialize};

/// A place among the events: behind the event of this number. Numbers only grow, also over restarts; not each is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(u64);

impl Cursor {
    /// Behind the event of this number.
    pub const fn behind(number: u64) -> Self {
        Self(number)
    }

    /// The number of the event before this place.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// So many events on.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        Self(self.0.saturating_add(events))
    }

    /// So many numbers back.
    #[must_use]
    pub const fn minus(self, events: u64) -> Self {
        Self(self.0.saturating_sub(events))
    }
}
