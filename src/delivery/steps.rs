//! What an attempt did, step by step, for its trace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mask::Mask;
use crate::clock::Timestamp;
use crate::destination::route::Route;
use crate::event::Step;
use crate::smtp::client_session::{ClientSession, Failure, Fault, Stage};

/// Steps kept of one attempt at most.
const STEPS_MAX: usize = 64;
/// The stage before all others.
const DNS: &str = "DNS";
/// A look-up so long before the message was accepted was made for it, when its recipient was named.
const ASKED_AHEAD: Duration = Duration::from_secs(5);
/// Longest result that is kept, in octets.
const RESULT_LEN_MAX: usize = 300;

/// Takes steps down while an attempt runs.
#[derive(Debug)]
pub(super) struct Steps {
    since: Instant,
    taken: Vec<(&'static str, Arc<str>, u32, String)>,
}

impl Steps {
    /// For an attempt that begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, taken: Vec::new() }
    }

    /// Takes down what came of a step.
    pub(super) fn add(&mut self, stage: Stage, host: &Arc<str>, result: String, now: Instant) {
        let ms = now.saturating_duration_since(self.since).as_millis();
        self.since = now;
        if self.taken.len() < STEPS_MAX {
            self.taken.push((stage.name(), host.clone(), u32::try_from(ms).unwrap_or(u32::MAX), result));
        }
    }

    /// Takes down what DNS said; from memory it takes no time.
    pub(super) fn add_route(&mut self, route: &Route, accepted_at: Timestamp) {
        let Some(asked) = route.asked else { return };
        let hosts: Vec<&str> = route.hosts.iter().map(|host| host.name.as_ref()).collect();
        let was_known = asked.at.plus(ASKED_AHEAD) < accepted_at;
        let (took, from) = if was_known { (Duration::ZERO, ", from memory") } else { (asked.took, "") };
        let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.taken.push((DNS, route.domain.clone(), ms, format!("{}{from}", hosts.join(", "))));
    }

    /// Takes over what another has taken down.
    pub(super) fn absorb(&mut self, other: Self) {
        let room = STEPS_MAX.saturating_sub(self.taken.len());
        self.taken.extend(other.taken.into_iter().take(room));
        self.since = self.since.max(other.since);
    }

    /// Takes down the replies that a session has heard.
    pub(super) fn add_heard(&mut self, session: &mut ClientSession, host: &Arc<str>, now: Instant) {
        for (stage, reply) in session.take_heard() {
            self.add(stage, host, reply.to_string(), now);
        }
    }

    /// Takes down what went wrong, unless that was a reply or has been said already.
    pub(super) fn add_failure(&mut self, failure: &Failure, host: &Arc<str>, now: Instant) {
        let result = match &failure.fault {
            Fault::Timeout => "no answer".to_owned(),
            Fault::Closed => "connection lost".to_owned(),
            Fault::Malformed(error) => error.to_string(),
            Fault::Reply(_) | Fault::Unsupported(_) | Fault::Tls(_) => return,
        };
        if failure.stage != Stage::Connect {
            self.add(failure.stage, host, result, now);
        }
    }

    /// The replies among them, and what else there is to be told.
    pub(super) fn results(&self) -> impl Iterator<Item = &str> {
        self.taken.iter().map(|(_, _, _, result)| result.as_str())
    }

    /// The steps, with what could be words of the message masked in the replies.
    pub(super) fn finish(self, mask: &Mask) -> Option<Arc<[Step]>> {
        let step = |(stage, host, ms, result): (&'static str, Arc<str>, u32, String)| {
            // Half a code would not be known for one.
            let masked = mask.apply(&result);
            let result = masked[..masked.floor_char_boundary(RESULT_LEN_MAX)].into();
            Step { stage: stage.into(), host, ms, result }
        };
        (!self.taken.is_empty()).then(|| self.taken.into_iter().map(step).collect())
    }
}
