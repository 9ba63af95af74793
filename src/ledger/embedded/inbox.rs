//! What the storage thread has to do, by lane. Waking a thread costs more than most of what it is woken for, so the
//! thread is woken at once only for what somebody waits for; the rest stays until there is such a thing, or for
//! [`LINGER`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::base::clock::Clock;
use crate::base::lane::{Lane, Lanes};

/// How long work that nobody waits for may wait for company.
pub(super) const LINGER: Duration = Duration::from_millis(10);

/// Whether somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// At once.
    Now,
    /// With the next that is.
    Later,
}

/// Work for one thread.
pub(super) struct Inbox<T> {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

struct Inner<T> {
    /// In the order in which it came, before all else.
    in_order: Vec<T>,
    lanes: Lanes<T>,
    in_haste: bool,
    /// When the oldest of what waits came.
    since: Option<Instant>,
    closed: bool,
}

/// What waiting came to.
pub(super) enum Waited<T> {
    /// Work.
    Batch(Vec<T>),
    /// None until the given time.
    Nothing,
    /// There will be none any more.
    Closed,
}

impl<T> Inbox<T> {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let inner =
            Inner { in_order: Vec::new(), lanes: Lanes::default(), in_haste: false, since: None, closed: false };
        Self { clock, inner: Mutex::new(inner), arrived: Condvar::new() }
    }

    /// Adds work; after [`Inbox::close`] it is dropped.
    pub(super) fn push(&self, lane: Lane, item: T, haste: Haste) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.lanes.push(lane, item);
        let is_first = inner.since.is_none();
        if is_first {
            inner.since = Some(self.clock.instant());
        }
        let is_news = haste == Haste::Now && !inner.in_haste;
        inner.in_haste |= is_news;
        drop(inner);
        // The first sets the thread's timer.
        if is_first || is_news {
            self.arrived.notify_one();
        }
    }

    /// Adds work that nobody waits for, which is done in the order in which it comes, and before what waits in the lanes.
    pub(super) fn push_in_order(&self, item: T) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.in_order.push(item);
        if inner.since.is_none() {
            inner.since = Some(self.clock.instant());
            drop(inner);
            self.arrived.notify_one();
        }
    }

    /// Somebody waits for what was pushed so far.
    pub(super) fn hurry(&self) {
        let mut inner = self.inner.lock();
        if !inner.lanes.is_empty() && !std::mem::replace(&mut inner.in_haste, true) {
            drop(inner);
            self.arrived.notify_one();
        }
    }

    /// Waits for work, at most until `until`, and has `gather` take as much as it likes. What was pushed before closing
    /// is still handed out.
    pub(super) fn wait(&self, until: Option<Instant>, gather: impl Fn(&mut Lanes<T>) -> Vec<T>) -> Waited<T> {
        let mut inner = self.inner.lock();
        loop {
            let now = self.clock.instant();
            let due = inner.since.map(|since| since + LINGER);
            if due.is_some_and(|due| inner.in_haste || inner.closed || due <= now) {
                let mut batch = std::mem::take(&mut inner.in_order);
                batch.extend(gather(&mut inner.lanes));
                // What is left has waited long enough.
                let is_left = !inner.lanes.is_empty();
                inner.in_haste = is_left;
                inner.since = inner.since.filter(|_| is_left);
                return Waited::Batch(batch);
            }
            if inner.closed {
                return Waited::Closed;
            }
            match due.into_iter().chain(until).min() {
                None => self.arrived.wait(&mut inner),
                Some(_) if until.is_some_and(|until| until <= now) => return Waited::Nothing,
                Some(at) => drop(self.arrived.wait_for(&mut inner, at - now)),
            }
        }
    }

    /// Lets nothing more in.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SystemClock;

    fn all(lanes: &mut Lanes<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.pop()).collect()
    }

    fn inbox() -> Inbox<u32> {
        Inbox::new(Arc::new(SystemClock::default()))
    }

    #[test]
    fn work_without_haste_goes_along_with_work_in_haste() {
        let inbox = inbox();
        inbox.push(Lane::Otp, 1, Haste::Later);
        inbox.push(Lane::Otp, 2, Haste::Now);
        assert!(matches!(inbox.wait(None, all), Waited::Batch(batch) if batch == [1, 2]));
        inbox.push(Lane::Otp, 3, Haste::Later);
        inbox.hurry();
        assert!(matches!(inbox.wait(None, all), Waited::Batch(batch) if batch == [3]));
    }

    #[test]
    fn what_is_to_be_done_in_order_goes_first() {
        let inbox = inbox();
        inbox.push(Lane::Otp, 3, Haste::Later);
        inbox.push_in_order(1);
        inbox.push_in_order(2);
        inbox.hurry();
        assert!(matches!(inbox.wait(None, all), Waited::Batch(batch) if batch == [1, 2, 3]));
    }

    #[test]
    fn work_without_haste_is_done_all_the_same() {
        let inbox = inbox();
        inbox.push(Lane::Otp, 1, Haste::Later);
        let at_once = inbox.clock.instant();
        assert!(matches!(inbox.wait(Some(at_once), all), Waited::Nothing));
        assert!(matches!(inbox.wait(None, all), Waited::Batch(batch) if batch == [1]));
    }

    #[test]
    fn what_is_left_and_what_came_before_closing_is_handed_out() {
        let inbox = inbox();
        inbox.push(Lane::Otp, 1, Haste::Now);
        inbox.push(Lane::Otp, 2, Haste::Later);
        let one = |lanes: &mut Lanes<u32>| lanes.pop().into_iter().collect();
        assert!(matches!(inbox.wait(None, one), Waited::Batch(batch) if batch == [1]));
        inbox.close();
        inbox.push(Lane::Otp, 3, Haste::Now);
        assert!(matches!(inbox.wait(None, one), Waited::Batch(batch) if batch == [2]));
        assert!(matches!(inbox.wait(None, one), Waited::Closed));
    }
}
