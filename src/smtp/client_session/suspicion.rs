//! What a server offers and does not support, as a failed transaction shows it; and replies that may answer something else
//! than they seem to.

use std::time::Instant;

use super::{ClientSession, Failure, Fault, Framing, PROBE_TIMEOUT, Stage, State, Step};
use crate::smtp::extension::{Feature, Features};
use crate::smtp::reply::{Reply, Severity};

/// Replies to nothing that are read at most before the one to QUIT.
const UNASKED_MAX: u32 = 16;

/// What a failed transaction lets suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    /// What to leave out from now on.
    pub features: Features,
    /// Whether nothing of the message was taken, so that it can be tried again at once without them.
    pub may_repeat: bool,
}

impl ClientSession {
    /// What to suspect when a transaction ends so.
    pub(super) fn suspect(&self, failure: &Failure) -> Option<Suspicion> {
        let Failure { stage, fault } = failure;
        // A chunk is in one write with its command, whatever goes before it.
        let chunking = (self.framing == Framing::Chunk).then_some(Feature::Chunking);
        let features = [Feature::Pipelining].into_iter().chain(chunking).collect();
        let pipelining = |may_repeat| Suspicion { features, may_repeat };
        match (stage, fault) {
            (Stage::Content, _) if self.framing == Framing::Dotted => None,
            (Stage::Content, Fault::Reply(reply)) if matches!(reply.code, 500..=504) => {
                Some(Suspicion { features: Feature::Chunking.into(), may_repeat: true })
            }
            (Stage::Content, Fault::Reply(reply)) if reply.is_refusal() => None,
            // Perhaps it was taken, perhaps it was never understood.
            (Stage::Content, Fault::Reply(_) | Fault::Timeout | Fault::Closed | Fault::Malformed(_)) => {
                let is_rest_lost = self.pipelines && *fault == Fault::Timeout && self.due.front() == Some(&Stage::Rcpt);
                let lost = is_rest_lost.then_some(Feature::Pipelining);
                Some(Suspicion { features: lost.into_iter().chain([Feature::Chunking]).collect(), may_repeat: false })
            }
            _ if !self.pipelines => None,
            (Stage::Mail | Stage::Rcpt | Stage::Data, Fault::Reply(reply)) if is_about_order(reply) => {
                Some(pipelining(!self.has_taken_content))
            }
            (Stage::Rcpt | Stage::Data, Fault::Timeout) => Some(pipelining(!self.has_sent_content)),
            _ => None,
        }
    }

    /// The server said yes to content.
    pub(super) fn content_taken(&mut self, reply: Reply) {
        self.has_taken_content = true;
        match &self.outcome {
            None => self.outcome = Some(Ok(reply)),
            // It said neither yes nor no to the commands before: the yes may be to one of them.
            Some(Err(Failure { fault: Fault::Reply(odd), .. })) if !odd.is_refusal() => {
                self.outcome = Some(Err(Failure { stage: Stage::Content, fault: Fault::Reply(reply) }));
            }
            Some(_) => {}
        }
    }

    /// Whether the yes to a chunk may be one to a command before it. There is no such doubt behind 354.
    pub(super) fn is_in_doubt(&mut self) -> bool {
        self.framing == Framing::Chunk && (self.reader.sloppiness().is_some() || self.reader.has_begun())
    }

    /// Asks for a reply that can be taken for no other: what comes before it belongs to the content.
    pub(super) fn confirm(&mut self, now: Instant) -> Step {
        self.state = State::Confirming;
        self.timer = now + PROBE_TIMEOUT;
        self.output.0.extend_from_slice(b"QUIT\r\n");
        self.read_replies(now)
    }

    pub(super) fn confirming_reply(&mut self, reply: Reply) -> Step {
        match reply.severity() {
            Severity::Success if reply.code == 221 || self.unasked == UNASKED_MAX => self.end(Fault::Closed),
            Severity::Success => {
                self.unasked += 1;
                Step::Read
            }
            Severity::Intermediate | Severity::Transient | Severity::Permanent => {
                // Either that is the verdict, or what the server says to QUIT.
                self.outcome = None;
                self.is_out_of_step = true;
                self.end(Fault::Closed)
            }
        }
    }
}

/// Commands came in an order, or at a time, that the server does not understand; sent in one write, they were in order.
fn is_about_order(reply: &Reply) -> bool {
    match reply.severity() {
        Severity::Success | Severity::Intermediate => true,
        Severity::Transient => false,
        Severity::Permanent => reply.code == 503 || reply.text.to_ascii_lowercase().contains("synchroni"),
    }
}
