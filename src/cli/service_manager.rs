//! What the service manager hears (sd_notify): whether the relay is ready, reloads or stops, and a line about how it is.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::base::clock::monotonic_us;
use crate::queue::Depth;

/// How often it hears how the queue is.
const STATUS_PAUSE: Duration = Duration::from_secs(10);
/// A commit that takes longer than this means that the disk hangs.
const HANGS_FROM: Duration = Duration::from_secs(10);
const HANGS: &str = "the disk hangs";

/// The service manager; without one, nobody is told.
#[derive(Debug, Default)]
pub(super) struct Manager {
    /// What is worth knowing beside the queue.
    note: Option<String>,
    /// The line that it has.
    told: String,
    /// How long the disk has hung, while it does.
    hangs_for: Option<Duration>,
}

impl Manager {
    /// Clients can connect, at first and after each reload.
    pub(super) fn ready(&mut self, depth: Depth, note: Option<String>) {
        self.note = note;
        self.told = self.line(depth);
        notify(&[NotifyState::Ready, NotifyState::Status(&self.told)]);
    }

    /// A reload begins. The manager tells by the time whether the `ready` that follows belongs to the reload that it asked for.
    pub(super) fn reloading(&self) {
        let time = NotifyState::MonotonicUsec(i128::from(monotonic_us()));
        notify(&[NotifyState::Reloading, time, NotifyState::Status("reloading the configuration")]);
    }

    /// No more mail is taken.
    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping; attempts under way get their time")]);
    }

    /// Tells how the queue is, if that has changed, and that the process works. A disk that hangs is told and nothing is killed:
    /// what was accepted is in memory, and a restart would wait for the same disk.
    pub(super) fn tell(&mut self, depth: Depth, storage_busy_for: Duration) {
        self.hangs_for = Some(storage_busy_for).filter(|busy| *busy >= HANGS_FROM);
        let line = self.line(depth);
        if line == self.told {
            return watched();
        }
        if self.hangs_for.is_some() && !self.told.contains(HANGS) {
            tracing::error!("{HANGS}: a commit has been waiting for {} s", storage_busy_for.as_secs());
        }
        notify(&[NotifyState::Status(&line)]);
        watched();
        self.told = line;
    }

    /// How often it wants to hear: twice in the time after which it takes the relay for dead.
    pub(super) fn pause() -> Duration {
        sd_notify::watchdog_enabled().map_or(STATUS_PAUSE, |span| (span / 2).min(STATUS_PAUSE))
    }

    fn line(&self, depth: Depth) -> String {
        let Depth { queued, sending, deferred, at_risk, .. } = depth;
        let live = match queued + sending + deferred {
            0 => "no live entries".to_owned(),
            1 => "1 live entry".to_owned(),
            live => format!("{live} live entries"),
        };
        let waiting = if deferred == 0 { String::new() } else { format!(", {deferred} of them deferred") };
        let risk = if at_risk == 0 { String::new() } else { format!(", {at_risk} at risk") };
        let hangs = self.hangs_for.map(|span| format!("; {HANGS} for {} s", span.as_secs())).unwrap_or_default();
        let note = self.note.as_deref().map(|note| format!("; {note}")).unwrap_or_default();
        format!("{live}{waiting}{risk}{hangs}{note}")
    }
}

/// The process works, where the manager wants to know.
fn watched() {
    if sd_notify::watchdog_enabled().is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_the_queue_is() {
        let depth = |queued, sending, deferred| Depth { queued, sending, deferred, ..Depth::default() };
        let risky = Depth { at_risk: 2, ..depth(3, 1, 2) };
        let hanging = Manager { hangs_for: Some(Duration::from_secs(31)), ..Manager::default() };
        let plain = Manager::default();
        let noted = Manager { note: Some("hostname needs a restart".to_owned()), ..Manager::default() };
        for (manager, depth, expected) in [
            (&plain, depth(0, 0, 0), "no live entries"),
            (&plain, depth(0, 1, 0), "1 live entry"),
            (&plain, depth(3, 1, 2), "6 live entries, 2 of them deferred"),
            (&plain, risky, "6 live entries, 2 of them deferred, 2 at risk"),
            (&hanging, depth(1, 0, 0), "1 live entry; the disk hangs for 31 s"),
            (&noted, depth(0, 0, 0), "no live entries; hostname needs a restart"),
        ] {
            assert_eq!(manager.line(depth), expected);
        }
    }
}
