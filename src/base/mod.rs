//! The ground floor: the clock, small files, text, lanes, a map with a bound, and shares of what is bounded. It knows nobody above.

pub(crate) mod bounded;
pub mod clock;
pub mod files;
pub mod format;
pub mod lane;
pub mod rate;
pub mod shares;
pub mod telemetry;
pub mod text;
pub mod units;
