//! Events on their way to people and programs. Whoever emits an event only puts it into a bounded list; one thread
//! turns it into what each sink wants. Waking that thread costs whoever emits more than all else, so it is woken for the
//! first event only, and gathers what comes in the next moment.

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
pub mod recent;
pub mod recipients;
pub mod refusals;
pub mod trace;
mod trace_form;
pub mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::event::{Event, Sink};
use log::EventLog;

/// Events that may wait. When more come than can be written down, mail goes on and events are lost, which is told.
const WAITING_MAX: usize = 16_384;
/// How long events are gathered before they are passed on, unless somebody waits for that.
const GATHERING: Duration = Duration::from_millis(2);
/// Events for which a list keeps its room.
const GATHERED: usize = 1024;
/// How long to wait at most for events that are being passed on.
const SETTLING_MAX: Duration = Duration::from_secs(1);

/// Somebody to whom the reporting thread tells every event, in their order.
pub trait Listener: Send + Sync {
    /// Takes note of an event. Must not wait for anybody.
    fn on_event(&self, event: &Arc<Event>);
}

#[derive(Debug)]
enum Told {
    Event(Box<Event>),
    /// Answer when everything before this has been passed on.
    Mark(oneshot::Sender<()>),
}

/// Takes events and passes them on.
#[derive(Debug)]
pub struct Reporter {
    inbox: Arc<Inbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What waits for the reporting thread.
#[derive(Debug, Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    told: Vec<Told>,
    /// The thread waits for the first.
    is_idle: bool,
    /// Somebody waits for what is there to be passed on.
    is_wanted_now: bool,
    is_closed: bool,
}

impl Reporter {
    /// Starts the thread, which writes the log and then tells the listeners, in this order.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(log: EventLog, listeners: Vec<Arc<dyn Listener>>) -> std::io::Result<Arc<Self>> {
        let inbox = Arc::new(Inbox::default());
        let (theirs, passing) = (inbox.clone(), Passing { log, listeners });
        let thread = std::thread::Builder::new().name("report".into()).spawn(move || run(&theirs, &passing))?;
        Ok(Arc::new(Self { inbox, thread: Mutex::new(Some(thread)) }))
    }

    /// Returns when everything that was emitted before has reached the listeners, or after `SETTLING_MAX`.
    pub async fn settled(&self) {
        let (sender, receiver) = oneshot::channel();
        // When there is no place for the mark, there is a backlog that nobody should wait for.
        if self.inbox.put(Told::Mark(sender)) {
            // What holds the thread up must not hold up who asks.
            let _ = tokio::time::timeout(SETTLING_MAX, receiver).await;
        }
    }

    /// Events that nobody heard of, because too many came at once.
    pub fn lost(&self) -> u64 {
        self.inbox.lost.load(Ordering::Relaxed)
    }

    /// Passes on what waits and ends the thread.
    pub fn close(&self) {
        self.inbox.waiting.lock().is_closed = true;
        self.inbox.wake.notify_one();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the reporting thread panicked");
        }
    }
}

impl Sink for Reporter {
    fn emit(&self, event: Event) {
        if !self.inbox.put(Told::Event(Box::new(event))) {
            self.inbox.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inbox {
    /// False where there is no place. What comes after closing is dropped.
    fn put(&self, told: Told) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return true;
        }
        if waiting.told.len() >= WAITING_MAX {
            return false;
        }
        let is_wanted_now = matches!(told, Told::Mark(_));
        waiting.told.push(told);
        waiting.is_wanted_now |= is_wanted_now;
        let wakes = std::mem::take(&mut waiting.is_idle) || is_wanted_now;
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
        true
    }

    /// Waits for some, and has them change places with what was there; false when there will be none any more.
    fn take(&self, told: &mut Vec<Told>) -> bool {
        told.clear();
        // What a burst has taken is not kept for ever.
        told.shrink_to(GATHERED);
        let mut waiting = self.waiting.lock();
        if waiting.told.is_empty() {
            waiting.is_idle = true;
            self.wake.wait_while(&mut waiting, |waiting| waiting.told.is_empty() && !waiting.is_closed);
            let is_early = |waiting: &mut Waiting| !waiting.is_wanted_now && !waiting.is_closed;
            self.wake.wait_while_for(&mut waiting, is_early, GATHERING);
        }
        waiting.is_idle = false;
        waiting.is_wanted_now = false;
        std::mem::swap(told, &mut waiting.told);
        !told.is_empty()
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

fn run(inbox: &Inbox, passing: &Passing) {
    let (mut told, mut known) = (Vec::new(), 0);
    while inbox.take(&mut told) {
        told.drain(..).for_each(|told| passing.pass_on(told));
        let lost = inbox.lost.load(Ordering::Relaxed);
        if lost > known {
            tracing::warn!(events = lost - known, "events came faster than they can be passed on, and are lost");
            known = lost;
        }
    }
}
