//! Where lines go: a bounded buffer, and a thread that empties it into standard output or whatever else takes them.
//!
//! Whoever has a line only puts it into the buffer. When nobody reads what is written, the thread waits, the buffer
//! fills, further lines are dropped and counted, and mail goes on.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Octets that may wait to be written.
pub(crate) const WAITING_LEN_MAX: usize = 4 << 20;
/// How long lines are gathered before they are written in one go.
const GATHERING: Duration = Duration::from_millis(20);
/// Octets that are worth writing at once.
const GATHERED_LEN: usize = 64 << 10;

/// Where lines go.
#[derive(Clone)]
pub struct Output(Arc<Owner>);

/// The last one to let go tells the thread to end.
struct Owner(Arc<Shared>);

struct Shared {
    waiting: Mutex<LineBuffer>,
    /// Something waits, or the owners are gone.
    wake: Condvar,
    /// Everything has been written.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct LineBuffer {
    lines: Vec<u8>,
    count: u64,
    /// Lines that found no room since that was last told.
    untold: u64,
    is_writing: bool,
    is_wanted_now: bool,
    is_closed: bool,
    /// Without a thread everything is dropped.
    is_served: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self::new(io::stdout())
    }

    /// Somewhere else.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || theirs.run(writer));
        shared.waiting.lock().is_served = thread.is_ok();
        Self(Arc::new(Owner(shared)))
    }

    /// Takes a whole line, its end included; never waits for whoever reads.
    pub(crate) fn put(&self, line: &[u8]) {
        let shared = &self.0.0;
        let mut waiting = shared.waiting.lock();
        if !waiting.is_served || waiting.lines.len() + line.len() > WAITING_LEN_MAX {
            waiting.untold += 1;
            drop(waiting);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = waiting.lines.len();
        waiting.lines.extend_from_slice(line);
        waiting.count += 1;
        let is_worth_waking = before == 0 || before < GATHERED_LEN && waiting.lines.len() >= GATHERED_LEN;
        drop(waiting);
        if is_worth_waking {
            shared.wake.notify_one();
        }
    }

    /// Lines that were not written, because nobody read or the writer failed.
    pub fn dropped(&self) -> u64 {
        self.0.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, at most so long; whether it is.
    pub fn settle(&self, patience: Duration) -> bool {
        let shared = &self.0.0;
        let mut waiting = shared.waiting.lock();
        waiting.is_wanted_now = true;
        shared.wake.notify_one();
        let is_busy = |waiting: &mut LineBuffer| waiting.is_served && (waiting.is_writing || !waiting.lines.is_empty());
        !shared.emptied.wait_while_for(&mut waiting, is_busy, patience).timed_out()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.waiting.lock().is_closed = true;
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn run(&self, mut writer: impl Write) {
        let mut lines = Vec::new();
        loop {
            let (count, untold) = {
                let mut waiting = self.waiting.lock();
                waiting.is_writing = false;
                lines.clear();
                // What a burst has taken is not kept for ever.
                lines.shrink_to(GATHERED_LEN);
                if waiting.lines.is_empty() {
                    self.emptied.notify_all();
                    self.wake.wait_while(&mut waiting, |waiting| waiting.lines.is_empty() && !waiting.is_closed);
                }
                if waiting.lines.is_empty() {
                    return;
                }
                self.gather(&mut waiting);
                std::mem::swap(&mut lines, &mut waiting.lines);
                waiting.is_writing = true;
                (std::mem::take(&mut waiting.count), std::mem::take(&mut waiting.untold))
            };
            if untold > 0 {
                // Goes into the buffer like any other line, behind those that found room.
                tracing::warn!(lines = untold, "lines dropped: nobody reads the log");
            }
            if writer.write_all(&lines).and_then(|()| writer.flush()).is_err() {
                self.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Lets more lines come, so that they go out together.
    fn gather(&self, waiting: &mut parking_lot::MutexGuard<'_, LineBuffer>) {
        let is_early = |waiting: &mut LineBuffer| {
            !waiting.is_closed && !waiting.is_wanted_now && waiting.lines.len() < GATHERED_LEN
        };
        self.wake.wait_while_for(waiting, is_early, GATHERING);
        waiting.is_wanted_now = false;
    }
}

/// One line in the making; it goes when it is dropped.
#[derive(Debug)]
pub struct Line {
    output: Output,
    line: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.output.put(&self.line);
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { output: self.clone(), line: Vec::new() }
    }
}

/// As a shell says of a program that SIGPIPE ended.
const BROKEN_PIPE_STATUS: i32 = 141;

/// One line on standard output, for people who wait for it. Where nobody reads any more, the program ends as `cat` does,
/// without a word.
pub(crate) fn say(line: &str) {
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(&format!("otp-relay: standard output: {error}"));
            std::process::exit(1);
        }
        std::process::exit(BROKEN_PIPE_STATUS);
    }
}

/// One line on standard error, for people who need to know.
pub(crate) fn complain(line: &str) {
    // There is nowhere else to say it.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says when a write has begun, and waits for leave to end it.
    struct Stalled {
        began: Sender<()>,
        leave: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            self.leave.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written.lock().extend_from_slice(lines);
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Written = Arc<Mutex<Vec<u8>>>;

    fn stalled() -> (Output, Receiver<()>, Sender<()>, Written) {
        let ((began, has_begun), (leave, may_go)) = (channel(), channel());
        let written = Arc::new(Mutex::default());
        let output = Output::new(Stalled { began, leave: may_go, written: written.clone() });
        (output, has_begun, leave, written)
    }

    #[test]
    fn nobody_waits_for_a_log_that_nobody_reads() {
        let (output, has_begun, leave, written) = stalled();
        output.put(b"first\n");
        has_begun.recv().unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let room = WAITING_LEN_MAX / line.len();
        for _ in 0..room + 7 {
            output.put(&line);
        }
        assert_eq!(output.dropped(), 7, "what fits waits, what does not is counted");
        assert!(!output.settle(Duration::from_millis(1)), "the end does not wait for ever either");
        (0..room + 2).for_each(|_| leave.send(()).unwrap());
        assert!(output.settle(Duration::from_secs(30)));
        assert_eq!(written.lock().len(), 6 + room * line.len());
        output.put(b"last\n");
        assert!(output.settle(Duration::from_secs(30)));
        assert!(written.lock().ends_with(b"last\n"), "it goes on when it is read again");
    }

    #[test]
    fn a_writer_that_fails_costs_lines_and_nothing_else() {
        let (output, _, leave, _) = stalled();
        drop(leave);
        output.put(b"a\n");
        assert!(output.settle(Duration::from_secs(30)));
        output.put(b"b\n");
        assert!(output.settle(Duration::from_secs(30)));
        assert_eq!(output.dropped(), 2);
    }
}
