//! The wall clock beside the relay's own time: who has set it is told once.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::queue::Queue;

/// How often the clock is looked at: after a suspension nothing is later by more than this.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// Says when somebody has set the wall clock, and wakes the timers that slept through a suspension.
pub(super) async fn watch_clock(clock: Arc<dyn Clock>, queue: Arc<Queue>) {
    let mut known = clock.setting();
    loop {
        tokio::time::sleep(CLOCK_LOOK).await;
        let step = clock.setting();
        if let Some(change) = known.change_to(step) {
            tracing::warn!("the system clock was set {change}; lives and retries go on as before");
        }
        known = step;
        queue.look_at_timers();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use parking_lot::Mutex;

    use super::*;
    use crate::base::clock::{ManualClock, Timestamp};
    use crate::event::{Event, Kind, Sink};
    use crate::ledger::embedded::node::{Node, Storage};
    use crate::ledger::embedded::store::memory::MemoryStore;
    use crate::ledger::entry::{Message, SignedContent};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::envelope::{Envelope, MailParameters, Recipient};
    use crate::mail::id::IdSource;
    use crate::mail::message::Content;
    use crate::queue::{Consequences, Ending, Settings};

    const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
    const LIFE: Duration = Duration::from_secs(600);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR_MS: i64 = 3_600_000;

    #[derive(Default)]
    struct RecordedEvents(Mutex<Vec<Kind>>);

    impl Sink for RecordedEvents {
        fn emit(&self, event: Event) {
            self.0.lock().push(event.kind());
        }
    }

    /// Lines of the log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn about_the_clock(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().clone()).unwrap();
            text.lines().filter(|line| line.contains("system clock")).map(str::to_owned).collect()
        }
    }

    /// A queue whose timers run and whose clock is looked at.
    fn watched(clock: &Arc<ManualClock>) -> (Arc<Queue>, Arc<RecordedEvents>) {
        let (told, store) = (Arc::new(RecordedEvents::default()), Box::new(MemoryStore::default()));
        let (settings, entail) = (Settings::default(), Box::new(|_: &Ending| Consequences::default()));
        let queue = Queue::open(
            Node::alone(store, Storage::Inline, clock.clone(), settings.delivery()).unwrap(),
            settings,
            clock.clone(),
            told.clone(),
            entail,
        )
        .unwrap();
        tokio::spawn(queue.clone().run());
        tokio::spawn(watch_clock(clock.clone(), queue.clone()));
        (queue, told)
    }

    fn accept(queue: &Arc<Queue>) {
        let recipients = vec![Recipient::new(Mailbox::parse("alice@example.test").unwrap())];
        let envelope = Envelope { reverse_path: ReversePath::NULL, parameters: MailParameters::default(), recipients };
        let life = START..START.plus(LIFE);
        let message = Arc::new(Message::new(IdSource::new().next(START), "shop".into(), envelope, life));
        let content = Content { head: "A: b\r\n".into(), body: "\r\n".into() };
        let acceptance = queue.begin(queue.new_message(message.clone(), content.clone(), None)).unwrap();
        drop(queue.admit(acceptance, SignedContent { signatures: Default::default(), content }, &[]));
    }

    /// The runtime's timer stands still while the machine is suspended, lives do not.
    #[tokio::test(start_paused = true)]
    async fn a_life_that_ended_in_a_suspension_is_over_soon_after_it() {
        let clock = Arc::new(ManualClock::new(START));
        let (queue, told) = watched(&clock);
        accept(&queue);
        tokio::time::sleep(MINUTE).await;
        assert_eq!(*told.0.lock(), [Kind::Accepted]);
        clock.advance(LIFE);
        tokio::time::sleep(CLOCK_LOOK).await;
        tokio::task::yield_now().await;
        assert_eq!(*told.0.lock(), [Kind::Accepted, Kind::Expired]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_the_clock_was_set_is_told_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let clock = Arc::new(ManualClock::new(START));
        let (queue, told) = watched(&clock);
        accept(&queue);
        tokio::time::sleep(MINUTE).await;
        assert!(lines.about_the_clock().is_empty());
        clock.set_wall_clock(-HOUR_MS);
        tokio::time::sleep(MINUTE).await;
        let [line] = &lines.about_the_clock()[..] else { panic!("{:?}", lines.about_the_clock()) };
        assert!(line.contains("WARN") && line.contains("was set back by 3600.0 s"), "{line}");
        clock.set_wall_clock(HOUR_MS);
        tokio::time::sleep(MINUTE).await;
        let [_, line] = &lines.about_the_clock()[..] else { panic!("{:?}", lines.about_the_clock()) };
        assert!(line.contains("was set forward by 7200.0 s"), "{line}");
        assert_eq!(*told.0.lock(), [Kind::Accepted], "no life ends by a clock that was set");
    }
}
