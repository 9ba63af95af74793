//! What the service manager hears (sd_notify): whether the relay is ready, reloads or stops, and a line about how it is.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::base::clock::monotonic_us;
use crate::ledger::read::Activity;
use crate::queue::Depth;

/// How often it hears how the queue is.
const STATUS_PAUSE: Duration = Duration::from_secs(10);
/// A commit that takes longer than this means that the disk hangs.
const HANGS_FROM: Duration = Duration::from_secs(10);

/// Brings words to the service manager.
type Notify = dyn Fn(&[NotifyState<'_>]);

/// The service manager; without one, nobody is told.
pub(super) struct Manager {
    notify: Box<Notify>,
    /// After how long without a word it takes the relay for dead; none where it does not watch.
    watchdog: Option<Duration>,
    /// What is worth knowing beside the queue.
    note: Option<String>,
    /// The line that it has.
    last_sent: String,
    storage: Storage,
}

/// Whether the storage thread gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Works,
    /// The disk has kept it waiting for so long.
    Hangs(Duration),
    Panicked,
}

impl Storage {
    fn of(activity: Activity) -> Self {
        match activity {
            Activity::Works(busy) if busy >= HANGS_FROM => Self::Hangs(busy),
            Activity::Rests | Activity::Works(_) => Self::Works,
            Activity::Panicked => Self::Panicked,
        }
    }
}

impl Manager {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        Self::new(Box::new(notify), sd_notify::watchdog_enabled())
    }

    fn new(notify: Box<Notify>, watchdog: Option<Duration>) -> Self {
        Self { notify, watchdog, note: None, last_sent: String::new(), storage: Storage::Works }
    }

    /// Clients can connect, at first and after each reload.
    pub(super) fn ready(&mut self, depth: Depth, note: Option<String>) {
        self.note = note;
        self.last_sent = self.line(depth);
        (self.notify)(&[NotifyState::Ready, NotifyState::Status(&self.last_sent)]);
    }

    /// A reload begins. The manager tells by the time whether the `ready` that follows belongs to the reload that it asked for.
    pub(super) fn reloading(&self) {
        let time = NotifyState::MonotonicUsec(i128::from(monotonic_us()));
        (self.notify)(&[NotifyState::Reloading, time, NotifyState::Status("reloading the configuration")]);
    }

    /// No more mail is taken.
    pub(super) fn stopping(&self) {
        (self.notify)(&[NotifyState::Stopping, NotifyState::Status("stopping; attempts under way get their time")]);
    }

    /// Tells how the queue is, if that has changed, and that the process works. A disk that hangs is reported and nothing is killed:
    /// what was accepted is in memory, and a restart would wait for the same disk. Without a storage thread a restart helps, so
    /// the watchdog hears nothing any more.
    pub(super) fn notify(&mut self, depth: Depth, activity: Activity) {
        let before = std::mem::replace(&mut self.storage, Storage::of(activity));
        match (before, self.storage) {
            (Storage::Works, Storage::Hangs(busy)) => {
                tracing::error!("the disk hangs: a commit has been waiting for {} s", busy.as_secs());
            }
            (Storage::Hangs(_), Storage::Works) => tracing::info!("the disk goes on"),
            (Storage::Works | Storage::Hangs(_), Storage::Panicked) => {
                tracing::error!("the storage thread panicked: no mail is taken until a restart");
            }
            (_, _) => {}
        }
        let line = self.line(depth);
        if line != self.last_sent {
            (self.notify)(&[NotifyState::Status(&line)]);
            self.last_sent = line;
        }
        if self.watchdog.is_some() && self.storage != Storage::Panicked {
            (self.notify)(&[NotifyState::Watchdog]);
        }
    }

    /// How often it wants to hear: twice in the time after which it takes the relay for dead.
    pub(super) fn pause(&self) -> Duration {
        self.watchdog.map_or(STATUS_PAUSE, |span| (span / 2).min(STATUS_PAUSE))
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
        let storage = match self.storage {
            Storage::Works => String::new(),
            Storage::Hangs(busy) => format!("; the disk hangs for {} s", busy.as_secs()),
            Storage::Panicked => "; the storage thread panicked, no mail is taken until a restart".to_owned(),
        };
        let note = self.note.as_deref().map(|note| format!("; {note}")).unwrap_or_default();
        format!("{live}{waiting}{risk}{storage}{note}")
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be notified");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;
    use crate::base::clock::{Clock as _, ManualClock, Timestamp};
    use crate::base::lane::Lane;
    use crate::ledger::embedded::journal::{Journal, JournalError};
    use crate::ledger::embedded::store::memory::MemoryStore;
    use crate::ledger::embedded::store::{Change, Found, Store, StoreError, Table};
    use crate::mail::id::MessageId;
    use crate::mail::message::Content;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A manager, and what it has heard since it was last asked.
    fn manager(watchdog: Option<Duration>) -> (Manager, impl Fn() -> String) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = heard.clone();
        let notify = move |states: &[NotifyState<'_>]| {
            sink.lock().unwrap().extend(states.iter().map(ToString::to_string));
        };
        let heard = move || std::mem::take(&mut *heard.lock().unwrap()).join("|");
        (Manager::new(Box::new(notify), watchdog), heard)
    }

    fn plain() -> Manager {
        manager(None).0
    }

    /// A store on a disk that lets a commit through for each word, and breaks the thread when nobody can give one any more.
    struct Slow {
        begun: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
        store: MemoryStore,
    }

    impl Store for Slow {
        fn commit(&mut self, groups: &[&[Change]]) -> Result<(), StoreError> {
            self.begun.send(()).expect("the test listens");
            self.go_on.recv().expect("a disk that is there");
            self.store.commit(groups)
        }
        fn content(&mut self, id: MessageId) -> Result<Option<Content>, StoreError> {
            self.store.content(id)
        }
        fn scan(&mut self, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
            self.store.scan(visit)
        }
        fn has_room(&mut self) -> bool {
            self.store.has_room()
        }
        fn recover(&mut self) -> Result<(), StoreError> {
            self.store.recover()
        }
    }

    #[test]
    fn a_disk_that_hangs_is_told_and_the_watchdog_goes_on_hearing() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_255_200_000)));
        let ((begun, has_begun), (go, go_on)) = (mpsc::channel(), mpsc::channel());
        let store = Slow { begun, go_on, store: MemoryStore::default() };
        let journal = Journal::start(Box::new(store), clock.clone()).unwrap();
        let (mut manager, heard) = manager(Some(Duration::from_secs(60)));
        assert_eq!(manager.pause(), STATUS_PAUSE);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut notified = || {
            manager.notify(Depth::default(), journal.activity(clock.instant()));
            heard()
        };
        let change =
            || vec![Change::Side(Table::Idempotency, b"key".as_slice().into(), Some(b"value".as_slice().into()))];

        let mut pending = journal.begin_commit(Lane::Otp, change(), true);
        has_begun.recv_timeout(PATIENCE).unwrap();
        assert_eq!(notified(), "STATUS=no live entries|WATCHDOG=1");
        clock.advance(Duration::from_secs(9));
        assert_eq!(notified(), "WATCHDOG=1", "a slow disk is none that hangs");
        clock.advance(Duration::from_secs(2));
        assert_eq!(notified(), "STATUS=no live entries; the disk hangs for 11 s|WATCHDOG=1");
        // However long: nothing is killed.
        clock.advance(Duration::from_secs(600));
        assert_eq!(notified(), "STATUS=no live entries; the disk hangs for 611 s|WATCHDOG=1");

        go.send(()).unwrap();
        assert_eq!(runtime.block_on(journal.finish(&mut pending)), Ok(()));
        // The next commit has begun, so the one before is over.
        let mut pending = journal.begin_commit(Lane::Otp, change(), true);
        has_begun.recv_timeout(PATIENCE).unwrap();
        assert_eq!(notified(), "STATUS=no live entries|WATCHDOG=1");

        // Without the thread there is nothing to wait for.
        drop(go);
        assert_eq!(runtime.block_on(journal.finish(&mut pending)), Err(JournalError::Closed));
        while journal.activity(clock.instant()) != Activity::Panicked {
            std::thread::yield_now();
        }
        assert_eq!(notified(), "STATUS=no live entries; the storage thread panicked, no mail is taken until a restart");
        assert_eq!(notified(), "");
    }

    #[test]
    fn who_does_not_watch_is_not_pinged() {
        let (mut manager, heard) = manager(None);
        manager.ready(Depth::default(), None);
        assert_eq!(heard(), "READY=1|STATUS=no live entries");
        manager.notify(Depth::default(), Activity::Rests);
        assert_eq!(heard(), "");
        manager.notify(Depth { queued: 1, ..Depth::default() }, Activity::Rests);
        assert_eq!(heard(), "STATUS=1 live entry");
        manager.reloading();
        let last_sent = heard();
        assert!(
            last_sent.starts_with("RELOADING=1|MONOTONIC_USEC=")
                && last_sent.ends_with("|STATUS=reloading the configuration")
        );
        manager.stopping();
        assert_eq!(heard(), "STOPPING=1|STATUS=stopping; attempts under way get their time");
    }

    #[test]
    fn the_line_says_how_the_queue_is() {
        let depth = |queued, sending, deferred| Depth { queued, sending, deferred, ..Depth::default() };
        let risky = Depth { at_risk: 2, ..depth(3, 1, 2) };
        let hanging = Manager { storage: Storage::Hangs(Duration::from_secs(31)), ..plain() };
        let noted = Manager { note: Some("hostname needs a restart".to_owned()), ..plain() };
        for (manager, depth, expected) in [
            (&plain(), depth(0, 0, 0), "no live entries"),
            (&plain(), depth(0, 1, 0), "1 live entry"),
            (&plain(), depth(3, 1, 2), "6 live entries, 2 of them deferred"),
            (&plain(), risky, "6 live entries, 2 of them deferred, 2 at risk"),
            (&hanging, depth(1, 0, 0), "1 live entry; the disk hangs for 31 s"),
            (&noted, depth(0, 0, 0), "no live entries; hostname needs a restart"),
        ] {
            assert_eq!(manager.line(depth), expected);
        }
    }
}
