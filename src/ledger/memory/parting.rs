//! How an entry came to be ours no more.

use crate::event::Kind;
use crate::ledger::attempt::{Epoch, Lost};
use crate::ledger::tables::settle::Verdict;

/// How an entry came to be ours no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// Somebody else ended it.
    Ended(Kind),
    /// It lives on, and whose it was then; [`Epoch::UNOWNED`]: nobody's, or it is not known whose.
    To(Epoch),
}

impl Parting {
    pub(super) fn is_end(self) -> bool {
        match self {
            Self::Ended(_) => true,
            Self::To(_) => false,
        }
    }

    /// What the queue hears. A kind that is no end: it lives on.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Ended(kind) => kind,
            Self::To(_) => Kind::Queued,
        }
    }

    /// What a verb says of an entry that it found with somebody else.
    pub(super) fn of(verdict: Verdict) -> Option<Self> {
        match verdict {
            Verdict::Lost(Lost::Ended(kind)) => Some(Self::Ended(kind)),
            Verdict::Lost(Lost::TakenOver) => Some(Self::To(Epoch::UNOWNED)),
            Verdict::Lost(Lost::Fenced | Lost::Unavailable) | Verdict::Missing => None,
        }
    }
}
