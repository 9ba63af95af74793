//! What is known of a message at its admission.

pub(crate) use crate::ledger::accept::Risk;

/// What is known of a message at its admission.
#[derive(Debug, Clone, Copy, Default)]
pub struct Foreknowledge<'a> {
    /// Of entries that come too late.
    pub(crate) risks: &'a [Risk],
    /// More for people, told with the acceptance.
    pub(crate) note: Option<&'static str>,
}
