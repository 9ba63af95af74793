//! A failure with what it comes to. It is judged once, where it becomes known, and passed on so.

use crate::policy::cause::{Verdict, of_failure};
use crate::smtp::client_session::Failure;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JudgedFailure {
    pub(super) failure: Failure,
    /// What it comes to, whoever sent to whom.
    pub(super) verdict: Verdict,
}

impl From<Failure> for JudgedFailure {
    fn from(failure: Failure) -> Self {
        Self { verdict: of_failure(&failure), failure }
    }
}
