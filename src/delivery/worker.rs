//! One session with one site, from its first entry, or from before it, to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::attempt::{self, At};
use super::environment::Environment;
use super::places::{HeldPlace, Tenure};
use super::prewarm::{self, PrewarmResult};
use super::race::Race;
use super::sessions::{Assignment, Next, Sessions};
use super::site::Site;
use super::sites::{Beginning, Start};
use super::transact::Connection;
use crate::base::lane::Lane;

/// How long an idle session is left alone before it is asked whether it is still there. Some firewalls forget silent
/// connections without announcing it.
const PROBE_EVERY: Duration = Duration::from_secs(20);

/// How a session's rest ended.
enum RestEnd {
    /// An entry came; the session still stands, unless it ended at the same moment.
    Entry(Assignment, Option<Box<Connection>>),
    /// It is still there, and has been asked.
    Probed(Box<Connection>),
    Ended,
    /// Nothing came for long enough.
    Enough(Box<Connection>),
    /// The relay needs the connection elsewhere, or ends.
    Over(Box<Connection>),
}

/// A session, counted at its site and among all.
pub(super) struct Worker {
    env: Arc<Environment>,
    site: Arc<Site>,
    /// Among all sessions. It is given back before the site is asked whether it needs another.
    tenure: Option<Tenure>,
    held: HeldPlace,
    connection: Option<Box<Connection>>,
    /// The lane of the entry in work.
    busy: Option<Lane>,
    /// It is being opened before there is an entry for it.
    is_opening: bool,
    has_left: bool,
}

impl Worker {
    /// Works for a site until there is nothing to do for a while.
    pub(super) async fn run(env: Arc<Environment>, start: Start) {
        let Start { site, beginning, tenure } = start;
        let (busy, is_opening) = match &beginning {
            Beginning::Entry(taken) => (Some(taken.lane), false),
            Beginning::Prewarm(_) => (None, true),
        };
        let (held, tenure) = (tenure.held().clone(), Some(tenure));
        let worker = Self { env, site, tenure, held, connection: None, busy, is_opening, has_left: false };
        worker.work(beginning).await;
    }

    async fn work(mut self, beginning: Beginning) {
        let (mut next, mut begun) = self.begin(beginning).await;
        while let Some(taken) = next {
            self.held.works(self.env.clock.instant());
            let at = At { env: &self.env, site: &self.site, held: &self.held };
            attempt::make(at, &mut self.connection, begun.take(), taken).await;
            if self.held.has_to_go() {
                break;
            }
            let allows_another = |connection: &mut Box<Connection>| {
                let transactions = connection.transactions();
                connection.is_usable() && self.site.limits(|limits| limits.allows_another(transactions))
            };
            let usable = self.connection.take_if(allows_another);
            if let Some(used_up) = self.connection.take() {
                used_up.quit().await;
            }
            next = match usable {
                Some(usable) => self.rest(usable).await,
                None => self.next_or_leave(),
            };
        }
    }

    /// The first entry, and the race that was begun before it came.
    async fn begin(&mut self, beginning: Beginning) -> (Option<Assignment>, Option<Race>) {
        let caller = match beginning {
            Beginning::Entry(taken) => return (Some(taken), None),
            Beginning::Prewarm(caller) => caller,
        };
        match prewarm::open(&self.env, &self.site, &caller, &self.held).await {
            PrewarmResult::Session(opened) => {
                self.is_opening = false;
                self.site.sessions(Sessions::opened);
                (self.rest(opened).await, None)
            }
            PrewarmResult::Slow(race) => (self.not_opened(), Some(*race)),
            PrewarmResult::Nobody => (self.not_opened(), None),
        }
    }

    /// The next entry, at once or after a rest of this session.
    async fn rest(&mut self, mut resting: Box<Connection>) -> Option<Assignment> {
        let since = self.env.clock.instant();
        loop {
            let promise = match self.next_or_idle() {
                Next::Entry(taken) => {
                    self.connection = Some(resting);
                    return Some(taken);
                }
                Next::Leave => {
                    resting.quit().await;
                    return self.next_or_leave();
                }
                Next::Idle(promise) => promise,
            };
            resting.rests();
            let now = self.env.clock.instant();
            self.held.rests(now);
            if self.env.sites.are_short_of(&self.held) {
                self.held.go();
            }
            let most = self.env.settings.idle_timeout;
            let rest = self.site.limits(|limits| limits.rest(most, now));
            let rest = rest.saturating_sub(now.saturating_duration_since(since));
            let outcome = self.wait_idle(resting, promise, rest).await;
            let now = self.env.clock.instant();
            let rested = now.saturating_duration_since(since);
            match outcome {
                RestEnd::Probed(still_there) => resting = still_there,
                RestEnd::Entry(taken, left) => {
                    self.connection = left;
                    self.busy = Some(taken.lane);
                    self.site.limits(|limits| limits.woke_after(rested));
                    return Some(taken);
                }
                RestEnd::Ended => {
                    self.site.limits(|limits| limits.ended_at_rest(rested, now));
                    return self.next_or_replace();
                }
                RestEnd::Enough(idle) => {
                    idle.quit().await;
                    return self.next_or_replace();
                }
                RestEnd::Over(over) => {
                    over.quit().await;
                    return if self.held.has_to_go() { None } else { self.next_or_leave() };
                }
            }
        }
    }

    /// Waits for an entry, the end of the peer's patience or of our own.
    async fn wait_idle(
        &self,
        mut idle: Box<Connection>,
        mut promise: oneshot::Receiver<Assignment>,
        rest: Duration,
    ) -> RestEnd {
        let rested = tokio::select! {
            biased;
            taken = &mut promise => return match taken {
                Ok(taken) => RestEnd::Entry(taken, Some(idle)),
                Err(_) => RestEnd::Over(idle),
            },
            () = idle.until_peer_speaks() => RestEnd::Ended,
            () = tokio::time::sleep(rest.min(PROBE_EVERY)) => if rest > PROBE_EVERY { RestEnd::Probed(idle) } else { RestEnd::Enough(idle) },
            () = self.held.gives_way() => RestEnd::Over(idle),
            () = self.env.tasks.draining() => RestEnd::Over(idle),
        };
        // An entry may have been handed over at the same moment. From here on it goes to others.
        promise.close();
        match (promise.try_recv(), rested) {
            (Ok(taken), RestEnd::Probed(idle) | RestEnd::Enough(idle) | RestEnd::Over(idle)) => {
                RestEnd::Entry(taken, Some(idle))
            }
            (Ok(taken), RestEnd::Ended | RestEnd::Entry(..)) => RestEnd::Entry(taken, None),
            (Err(_), RestEnd::Probed(mut idle)) => {
                if idle.probe().await {
                    RestEnd::Probed(idle)
                } else {
                    RestEnd::Ended
                }
            }
            (Err(_), rested) => rested,
        }
    }

    fn not_opened(&mut self) -> Option<Assignment> {
        self.is_opening = false;
        let next = self.site.sessions(Sessions::not_opened);
        self.took(next)
    }

    fn next_or_idle(&mut self) -> Next {
        let finished = self.busy.take();
        let next = self.site.sessions(|sessions| sessions.next_or_idle(finished));
        if let Next::Entry(taken) = &next {
            self.busy = Some(taken.lane);
        }
        next
    }

    fn next_or_leave(&mut self) -> Option<Assignment> {
        let finished = self.busy.take();
        let next = self.site.sessions(|sessions| sessions.next_or_leave(finished));
        self.took(next)
    }

    fn next_or_replace(&mut self) -> Option<Assignment> {
        let next = self.next_or_leave();
        if next.is_none() {
            self.env.sites.replace(&self.site);
        }
        next
    }

    fn took(&mut self, next: Option<Assignment>) -> Option<Assignment> {
        self.busy = next.map(|next| next.lane);
        self.has_left = next.is_none();
        next
    }
}

/// Given back also where the task is ended or panics. That others may have the place goes out as a value.
impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_left {
            self.site.sessions(|sessions| sessions.leave(self.busy, self.is_opening));
        }
        drop(self.tenure.take());
        self.env.sites.session_ended(&self.site);
    }
}
