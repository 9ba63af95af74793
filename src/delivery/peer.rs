//! What is told and learned of the host with which an attempt ended.

use std::sync::Arc;

use super::judged_failure::JudgedFailure;
use super::wording::describe;
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Step};
use crate::greylist::pending::Greylister;
use crate::greylist::table::Triplet;
use crate::mail::address::ReversePath;

/// What is to be learned from an attempt that came to a reply about the recipient or the message.
pub(super) struct Lesson {
    pub(super) triplet: Triplet,
    pub(super) sender: ReversePath,
    pub(super) by: Greylister,
    pub(super) began: Timestamp,
}

/// What is told and learned of the session in which an attempt ended.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) attempted: Attempted,
    /// Whether the host notifies the sender of a success itself.
    pub(super) notifies: bool,
    pub(super) lesson: Option<Lesson>,
}

impl Peer {
    /// A host of which nothing is known but its name, or none at all.
    pub(super) fn at(destination: Option<Arc<str>>) -> Self {
        Self { attempted: Attempted { destination, ..Attempted::default() }, ..Self::default() }
    }

    /// A host that said nothing to the end.
    pub(super) fn silent(host: Arc<str>, judged: &JudgedFailure) -> Self {
        let (cause, reply) = (Some(judged.verdict.cause), Some(describe(&judged.failure)));
        Self {
            attempted: Attempted { destination: Some(host), cause, reply, ..Attempted::default() },
            ..Self::default()
        }
    }

    pub(super) fn with_steps(mut self, steps: Option<Arc<[Step]>>) -> Self {
        self.attempted.steps = steps;
        self
    }

    pub(super) fn with_note(mut self, note: &str) -> Self {
        self.attempted.note = Some(note.into());
        self
    }
}
