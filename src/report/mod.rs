//! Events on their way to people and programs. Whoever emits an event only puts it into a bounded channel; one thread
//! turns it into what each sink wants.

pub mod json;
pub mod log;
pub mod recipients;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::event::{Event, Sink};
use log::EventLog;

/// Events that may wait. When more come than can be written down, mail goes on and events are lost, which is told.
const WAITING_MAX: usize = 65_536;
/// How long events may stay in the log's buffer while more are coming.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);

/// Takes events and passes them on.
#[derive(Debug)]
pub struct Reporter {
    channel: Mutex<Option<SyncSender<Event>>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reporter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(log: EventLog) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let thread = std::thread::Builder::new().name("report".into()).spawn(move || run(&receiver, &counter, &log))?;
        Ok(Arc::new(Self { channel: Mutex::new(Some(sender)), lost, thread: Mutex::new(Some(thread)) }))
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
        if let Err(TrySendError::Full(_)) = channel.try_send(event) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(events: &Receiver<Event>, lost: &AtomicU64, log: &EventLog) {
    loop {
        match events.recv_timeout(FLUSH_PAUSE) {
            Ok(event) => log.write(&event),
            Err(RecvTimeoutError::Timeout) => {
                log.flush();
                // Nothing to do until something comes.
                match events.recv() {
                    Ok(event) => log.write(&event),
                    Err(_) => return,
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                log.flush();
                return;
            }
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "events came faster than they can be written down");
        }
    }
}
