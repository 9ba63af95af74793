//! What is known of a message at its admission.

use std::sync::Arc;

use crate::greylist::facts::Forecast;

/// An entry that cannot be expected to arrive in time.
#[derive(Debug, Clone)]
pub struct Risk {
    /// Which of the recipients.
    pub index: u16,
    /// The destination's name.
    pub destination: Arc<str>,
    /// Why.
    pub forecast: Forecast,
}

/// What is known of a message at its admission.
#[derive(Debug, Clone, Copy, Default)]
pub struct Foreknowledge<'a> {
    /// Of entries that come too late.
    pub risks: &'a [Risk],
    /// More for people, told with the acceptance.
    pub note: Option<&'static str>,
}
