//! The clock, against what others say: the dates in providers' banners and in answers of web servers. A signature says when it
//! was made, so one from the future is not believed.

use std::path::Path;

use mail_parser::DateTime;

use super::finding::{Check, Finding};
use super::look::Look;
use crate::config::findings::Severity;

/// How far the clock may be from another's, in seconds, before it matters, and before signatures fail.
const SKEW: (u64, u64) = (5, 60);
/// There while systemd-timesyncd has the time from somebody.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

/// Compares the clock with somebody's time, in seconds since 1970.
pub(super) fn compare(look: &Look<'_>, whose: &str, theirs: u64) {
    look.was_told_time();
    let apart = look.clock.wall().as_secs().abs_diff(theirs);
    if apart > SKEW.0 && !look.has(Check::Clock, Severity::Error) && !look.has(Check::Clock, Severity::Warning) {
        let severity = if apart > SKEW.1 { Severity::Error } else { Severity::Warning };
        let text = format!("the clock is {apart} s from that of {whose}");
        look.add(Finding::new(severity, Check::Clock, "", text).mend("install chrony, or turn on systemd-timesyncd"));
    }
}

/// Where nobody told the time, that is said; last of all.
pub(super) fn unasked(look: &Look<'_>) {
    if look.knows_time() || Path::new(SYNCHRONIZED).exists() {
        return;
    }
    let text = "nobody who was asked told the time, so the clock was compared with none";
    let mend = "see that chrony or systemd-timesyncd runs (`timedatectl`)";
    look.add(Finding::new(Severity::Note, Check::Clock, "", text).mend(mend));
}

/// A date as in mail, in seconds since 1970.
pub(super) fn seconds_in(date: &str) -> Option<u64> {
    u64::try_from(DateTime::parse_rfc822(date)?.to_timestamp()).ok()
}
