//! What the service manager hears (sd_notify): whether the relay is ready, reloads or stops, and a line about how it is.

use sd_notify::NotifyState;

use crate::base::clock::monotonic_us;
use crate::queue::Depth;

/// The service manager; without one, nobody is told.
#[derive(Debug, Default)]
pub(super) struct Manager {
    /// What is worth knowing beside the queue.
    note: Option<String>,
    /// The line that it has.
    told: String,
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

    /// Tells how the queue is, if that has changed.
    pub(super) fn tell(&mut self, depth: Depth) {
        let line = self.line(depth);
        if line != self.told {
            notify(&[NotifyState::Status(&line)]);
            self.told = line;
        }
    }

    fn line(&self, depth: Depth) -> String {
        let Depth { queued, sending, deferred, .. } = depth;
        let live = match queued + sending + deferred {
            0 => "no live entries".to_owned(),
            1 => "1 live entry".to_owned(),
            live => format!("{live} live entries"),
        };
        let waiting = if deferred == 0 { String::new() } else { format!(", {deferred} of them deferred") };
        let note = self.note.as_deref().map(|note| format!("; {note}")).unwrap_or_default();
        format!("{live}{waiting}{note}")
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
        let depth = |queued, sending, deferred| Depth { messages: 0, queued, sending, deferred };
        let plain = Manager::default();
        let noted = Manager { note: Some("hostname needs a restart".to_owned()), ..Manager::default() };
        for (manager, depth, expected) in [
            (&plain, depth(0, 0, 0), "no live entries"),
            (&plain, depth(0, 1, 0), "1 live entry"),
            (&plain, depth(3, 1, 2), "6 live entries, 2 of them deferred"),
            (&noted, depth(0, 0, 0), "no live entries; hostname needs a restart"),
        ] {
            assert_eq!(manager.line(depth), expected);
        }
    }
}
