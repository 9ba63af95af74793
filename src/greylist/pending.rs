//! Greylisting: software that refuses a triplet of client, sender and recipient that it has not met, and lets it pass
//! once a delay is over. Here is what one triplet's wait consists of; `facts` says what is learned from it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{is_plausible, is_recent};
use crate::base::clock::Timestamp;

/// A wait is remembered for so long after its last refusal: longer than most programs remember a first attempt.
pub(crate) const WAIT_KEPT: Duration = Duration::from_secs(2 * 86_400);

/// The host that makes a triplet wait. The wait is over only there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greylister {
    /// Its name.
    pub host: Arc<str>,
    /// The address that was connected to.
    pub address: IpAddr,
}

/// How long one triplet has been waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// When it was refused first.
    pub first_refused_at: Timestamp,
    pub(crate) last_refused_at: Timestamp,
    /// How often it was.
    pub refusals: u16,
    /// The wait that the first refusal asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passed_at: Option<Timestamp>,
    /// Who makes it wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Greylister>,
    /// It has been counted among those in vain, or as one whose hint was too short.
    #[serde(default)]
    pub(super) counted: (bool, bool),
}

/// One refusal by greylisting.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The wait that it asks for.
    pub asked: Option<Duration>,
    /// Who refused.
    pub by: Option<Greylister>,
    /// When the transaction began; waits are measured up to here, so that the next can be planned by them.
    pub began: Timestamp,
    /// When the reply was there.
    pub ended: Timestamp,
}

impl Wait {
    pub(super) fn new(asked: Option<Duration>, by: Option<Greylister>, now: Timestamp) -> Self {
        let (first_refused_at, last_refused_at) = (now, now);
        Self { first_refused_at, last_refused_at, refusals: 1, asked, passed_at: None, by, counted: (false, false) }
    }

    /// As [`is_plausible`](super::facts::Facts::is_plausible).
    pub(crate) fn is_plausible(&self) -> bool {
        self.asked.is_none_or(is_plausible)
    }

    /// Whether it is worth keeping.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        is_recent(self.last_refused_at.max(self.passed_at.unwrap_or_default()), WAIT_KEPT, now)
    }
}
