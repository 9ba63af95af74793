//! Events on their way to people and programs. What was committed is read by each sink at its own pace, so that a slow one
//! delays itself only. One thread reads for all who do no more than take note: log, counters, those who wait for an end. Where
//! that cannot keep up it skips events, and says so. Traces have a thread and a place of their own and miss nothing.

mod addresses;
pub(crate) mod completion;
pub(crate) mod destinations;
pub(crate) mod exposition;
pub(crate) mod journald;
pub mod log;
pub(crate) mod metrics;
pub(crate) mod output;
pub(crate) mod providers;
pub(crate) mod reasons;
pub(crate) mod recipients;
pub mod refusals;
pub mod stats;
pub mod trace;
mod trace_form;
pub(crate) mod upkeep;
pub mod webhooks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::event::{Event, Sink};
use crate::ledger::cursor::Cursor;
use crate::ledger::latest::{Latest, Next};
use log::EventLog;

/// Events passed on in one go.
const PASSED_ON_MAX: usize = 256;
/// How often the thread looks whether it is to end.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long events are gathered before they are passed on: being woken costs whoever commits them.
const GATHERING: Duration = Duration::from_millis(2);
/// How long to wait at most for events that are being passed on.
const CATCHING_UP_MAX: Duration = Duration::from_secs(1);

/// Somebody to whom the reporting thread tells events, in their order.
pub trait Listener: Send + Sync {
    /// Takes note of an event. Must not wait for anybody.
    fn on_event(&self, event: &Arc<Event>);

    /// Events were skipped.
    fn on_gap(&self) {}
}

/// Somebody else who hears of events.
pub(crate) struct PassedOn(pub Arc<dyn Sink>);

impl Listener for PassedOn {
    fn on_event(&self, event: &Arc<Event>) {
        self.0.emit(Event::clone(event));
    }
}

/// Passes events on.
#[derive(Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    events: Arc<Latest>,
    passed_on: watch::Sender<Cursor>,
    lost: AtomicU64,
    is_closed: AtomicBool,
}

impl Reporter {
    /// Starts the thread, which passes on what happens from now on: it writes the log and then tells the listeners, in this
    /// order.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(events: Arc<Latest>, log: EventLog, listeners: Vec<Arc<dyn Listener>>) -> std::io::Result<Arc<Self>> {
        let passed_on = watch::Sender::new(events.before_latest());
        let (lost, is_closed) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { events, passed_on, lost, is_closed });
        let (own, passing) = (shared.clone(), ReportingThread { log, listeners });
        let thread = std::thread::Builder::new().name("report".into()).spawn(move || own.run(&passing))?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Returns when everything that was committed before has reached the listeners, or after `CATCHING_UP_MAX`.
    pub(crate) async fn caught_up(&self) {
        let newest = self.shared.events.newest();
        let mut passed_on = self.shared.passed_on.subscribe();
        // What holds the thread up must not hold up who asks.
        let _ = tokio::time::timeout(CATCHING_UP_MAX, passed_on.wait_for(|passed_on| *passed_on >= newest)).await;
    }

    /// Events that log and counters skipped, because too many came at once.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Passes on what was committed and ends the thread.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the reporting thread panicked");
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self, passing: &ReportingThread) {
        loop {
            let at = *self.passed_on.borrow();
            match self.events.wait(at, PASSED_ON_MAX, LOOK_PAUSE) {
                Some(Next::Events(events)) => {
                    events.iter().for_each(|(_, event)| passing.pass_on(event));
                    if let Some((at, _)) = events.last() {
                        self.passed_on.send_replace(*at);
                    }
                    if events.len() < PASSED_ON_MAX {
                        std::thread::sleep(GATHERING);
                    }
                }
                Some(Next::Nothing) if self.is_closed.load(Ordering::Relaxed) => return,
                Some(Next::Nothing) => {}
                Some(Next::InStore | Next::Missed(_)) => {
                    let next = self.events.before_latest();
                    let skipped = next.number() - at.number();
                    self.lost.fetch_add(skipped, Ordering::Relaxed);
                    tracing::warn!(
                        events = skipped,
                        "events came faster than log and counters take them, which skip them; traces have them"
                    );
                    passing.listeners.iter().for_each(|listener| listener.on_gap());
                    self.passed_on.send_replace(next);
                }
                None => return,
            }
        }
    }
}

struct ReportingThread {
    log: EventLog,
    listeners: Vec<Arc<dyn Listener>>,
}

impl ReportingThread {
    fn pass_on(&self, event: &Arc<Event>) {
        self.log.write(event);
        self.listeners.iter().for_each(|listener| listener.on_event(event));
    }
}
