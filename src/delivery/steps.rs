//! What an attempt did, step by step, for its trace.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::mask::{self, Mask};
use crate::base::clock::Timestamp;
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

/// Takes steps down while an attempt runs. The sessions of one attempt write on the same sheet.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    since: Instant,
    taken: Arc<Mutex<Vec<TimedStep>>>,
}

#[derive(Debug)]
struct TimedStep {
    at: Instant,
    stage: &'static str,
    host: Arc<str>,
    ms: u32,
    result: String,
}

impl Steps {
    /// For an attempt that begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, taken: Arc::default() }
    }

    /// For one more session of the attempt, which begins now.
    pub(super) fn beside(&self, now: Instant) -> Self {
        Self { since: now, taken: self.taken.clone() }
    }

    /// Takes down what came of a step.
    pub(super) fn add(&mut self, stage: Stage, host: &Arc<str>, result: String, now: Instant) {
        let ms = now.saturating_duration_since(self.since).as_millis();
        self.since = now;
        let mut taken = self.taken.lock();
        if taken.len() < STEPS_MAX {
            let ms = u32::try_from(ms).unwrap_or(u32::MAX);
            taken.push(TimedStep { at: now, stage: stage.name(), host: host.clone(), ms, result });
        }
    }

    /// Takes down what DNS said; from memory it takes no time.
    pub(super) fn add_route(&self, route: &Route, accepted_at: Timestamp) {
        let Some(asked) = route.asked else { return };
        let hosts: Vec<&str> = route.hosts.iter().map(|host| host.name.as_ref()).collect();
        let was_known = asked.at.plus(ASKED_AHEAD) < accepted_at;
        let (took, from) = if was_known { (Duration::ZERO, ", from memory") } else { (asked.took, "") };
        let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let result = format!("{}{from}", hosts.join(", "));
        self.taken.lock().push(TimedStep { at: self.since, stage: DNS, host: route.domain.clone(), ms, result });
    }

    /// Takes over what another has taken down.
    pub(super) fn absorb(&mut self, other: Self) {
        let others = std::mem::take(&mut *other.taken.lock());
        let mut taken = self.taken.lock();
        let room = STEPS_MAX.saturating_sub(taken.len());
        taken.extend(others.into_iter().take(room));
        self.since = self.since.max(other.since);
    }

    /// Takes down the replies that a session has heard.
    pub(super) fn add_replies(&mut self, session: &mut ClientSession, host: &Arc<str>, now: Instant) {
        for (stage, reply) in session.take_heard() {
            self.add(stage, host, reply.line(), now);
        }
    }

    /// Takes down what went wrong, unless that was a reply or has been said already.
    pub(super) fn add_failure(&mut self, failure: &Failure, host: &Arc<str>, now: Instant) {
        let result = match &failure.fault {
            Fault::Timeout => "no answer".to_owned(),
            Fault::Closed => "connection lost".to_owned(),
            Fault::Malformed(error) => error.to_string(),
            Fault::Reply(_) | Fault::Unsupported(_) | Fault::Tls(_) | Fault::Ours(_) => return,
        };
        if failure.stage != Stage::Connect {
            self.add(failure.stage, host, result, now);
        }
    }

    /// Words of the replies among them, and of another one, that look like codes.
    pub(super) fn like_codes(&self, last: Option<&str>) -> HashSet<String> {
        let taken = self.taken.lock();
        mask::like_codes(taken.iter().map(|taken| taken.result.as_str()).chain(last))
    }

    /// The steps of all sessions in the order of time, with what could be words of the message masked in the replies.
    pub(super) fn finish(self, mask: &Mask) -> Option<Arc<[Step]>> {
        let mut taken = std::mem::take(&mut *self.taken.lock());
        // What DNS said comes first.
        taken.sort_by_key(|taken| (taken.stage != DNS, taken.at));
        let step = |TimedStep { stage, host, ms, result, .. }: TimedStep| {
            // Mask before truncating: a cut code would not match.
            let masked = mask.apply(&result);
            let result = masked[..masked.floor_char_boundary(RESULT_LEN_MAX)].into();
            Step { stage: stage.into(), host, ms, result }
        };
        (!taken.is_empty()).then(|| taken.into_iter().map(step).collect())
    }
}
