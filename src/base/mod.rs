//! The ground floor: the clock, small files, text, lanes, a map with a bound, and shares of what is bounded. It knows nobody above.

pub(crate) mod bounded;
pub mod clock;
pub(crate) mod files;
pub(crate) mod format;
pub mod lane;
pub(crate) mod named;
pub mod rate;
pub mod shares;
pub(crate) mod telemetry;
pub mod text;
pub(crate) mod units;
