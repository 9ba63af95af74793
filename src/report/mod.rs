//! Events on their way to people and programs. Whoever emits an event only puts it into a bounded channel; one thread
//! turns it into what each sink wants.

mod addresses;
pub mod completion;
pub mod destinations;
pub mod exposition;
pub mod feed;
pub mod log;
pub mod metrics;
pub mod output;
pub mod providers;
pub mod reasons;
pub mod recipients;
pub mod refusals;
pub mod trace;
mod trace_form;
pub mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::event::{Event, Sink};
use log::EventLog;

/// Events that may wait. When more come than can be written down, mail goes on and events are lost, which is told.
const WAITING_MAX: usize = 16_384;
/// How long to wait at most for events that are being passed on.
const SETTLING_MAX: Duration = Duration::from_secs(1);

/// Somebody to whom the reporting thread tells every event, in their order.
pub trait Listener: Send + Sync {
    /// Takes note of an event. Must not wait for anybody.
    fn on_event(&self, event: &Arc<Event>);
}

enum Told {
    Event(Box<Event>),
    /// Answer when everything before this has been passed on.
    Mark(oneshot::Sender<()>),
}

/// Takes events and passes them on.
#[derive(Debug)]
pub struct Reporter {
    channel: Mutex<Option<SyncSender<Told>>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reporter {
    /// Starts the thread, which writes the log and then tells the listeners, in this order.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(log: EventLog, listeners: Vec<Arc<dyn Listener>>) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let passing = Passing { log, listeners };
        let thread =
            std::thread::Builder::new().name("report".into()).spawn(move || run(&receiver, &counter, &passing))?;
        Ok(Arc::new(Self { channel: Mutex::new(Some(sender)), lost, thread: Mutex::new(Some(thread)) }))
    }

    /// Returns when everything that was emitted before has reached the listeners, or after `SETTLING_MAX`.
    pub async fn settled(&self) {
        let (sender, receiver) = oneshot::channel();
        let channel = self.channel.lock().clone();
        let Some(channel) = channel else { return };
        // When there is no place for the mark, there is a backlog that nobody should wait for.
        if channel.try_send(Told::Mark(sender)).is_ok() {
            drop(channel);
            // What holds the thread up must not hold up who asks.
            let _ = tokio::time::timeout(SETTLING_MAX, receiver).await;
        }
    }

    /// Events that nobody heard of, because too many came at once.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Passes on what waits and ends the thread.
    pub fn close(&self) {
        self.channel.lock().take();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the reporting thread panicked");
        }
    }
}

impl Sink for Reporter {
    fn emit(&self, event: Event) {
        let channel = self.channel.lock();
        let Some(channel) = channel.as_ref() else { return };
        if let Err(TrySendError::Full(_)) = channel.try_send(Told::Event(Box::new(event))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.close();
    }
}

struct Passing {
    log: EventLog,
    listeners: Vec<Arc<dyn Listener>>,
}

impl Passing {
    fn pass_on(&self, told: Told) {
        match told {
            Told::Event(event) => {
                self.log.write(&event);
                let event = Arc::from(event);
                self.listeners.iter().for_each(|listener| listener.on_event(&event));
            }
            // Whoever asked may have gone away.
            Told::Mark(answer) => drop(answer.send(())),
        }
    }
}

fn run(events: &Receiver<Told>, lost: &AtomicU64, passing: &Passing) {
    let mut told = 0;
    for next in events {
        passing.pass_on(next);
        let lost = lost.load(Ordering::Relaxed);
        if lost > told {
            tracing::warn!(events = lost - told, "events came faster than they can be passed on, and are lost");
            told = lost;
        }
    }
}
