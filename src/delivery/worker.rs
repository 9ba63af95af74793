//! One session with one destination, from its first entry, or from before it, to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Delivery;
use super::candidates::Caller;
use super::places::{Held, Tenure};
use super::prewarm::Prewarmed;
use super::site::{Next, Site, Taken};
use super::transact::Connection;
use crate::lane::Lane;

/// How long an idle session is left alone before it is asked whether it is still there. Some firewalls forget silent
/// connections without telling anybody.
const PROBE_EVERY: Duration = Duration::from_secs(20);

/// What a session begins with.
pub(super) enum Beginning {
    /// An entry, whose attempt opens the connection.
    Entry(Taken),
    /// Nothing yet: the connection is opened ahead, as this caller would.
    Prewarm(Caller),
}

/// How a session's rest ended.
enum Rested {
    /// An entry came; the session still stands, unless it ended at the same moment.
    Entry(Taken, Option<Box<Connection>>),
    /// It is still there, and has been asked.
    Probed(Box<Connection>),
    /// The host ended it.
    Ended,
    /// Nothing came for long enough.
    Enough(Box<Connection>),
    /// The relay needs the connection elsewhere, or ends.
    Over(Box<Connection>),
}

impl Delivery {
    /// Works for a site until there is nothing to do for a while.
    pub(super) async fn run(self: Arc<Self>, site: Arc<Site>, beginning: Beginning, tenure: Tenure) {
        let mut place = Place::new(&self, site, &beginning, tenure);
        let (mut connection, mut begun) = (None, None);
        let mut next = match beginning {
            Beginning::Entry(taken) => Some(taken),
            Beginning::Prewarm(caller) => match self.open_before_entry(&place.site, &caller, &place.held).await {
                Prewarmed::Session(opened) => {
                    place.opened();
                    self.rest(&mut place, &mut connection, opened).await
                }
                Prewarmed::Slow(race) => {
                    begun = Some(race);
                    place.not_opened()
                }
                Prewarmed::Nobody => place.not_opened(),
            },
        };
        while let Some(taken) = next {
            place.held.works(self.parts.clock.instant());
            self.attempt(&place.site, &mut connection, begun.take(), taken, &place.held).await;
            if place.held.has_to_go() {
                break;
            }
            let allows_another = |connection: &mut Box<Connection>| {
                connection.is_usable() && place.site.allows_another(connection.transactions())
            };
            let usable = connection.take_if(allows_another);
            if let Some(used_up) = connection.take() {
                used_up.quit().await;
            }
            next = match usable {
                Some(usable) => self.rest(&mut place, &mut connection, usable).await,
                None => place.next_or_leave(),
            };
        }
    }

    /// The next entry for a session, at once or after a rest; `connection` is what is left of the session then.
    async fn rest(
        self: &Arc<Self>,
        place: &mut Place,
        connection: &mut Option<Box<Connection>>,
        mut resting: Box<Connection>,
    ) -> Option<Taken> {
        let since = self.parts.clock.instant();
        loop {
            let promise = match place.next_or_idle() {
                Next::Entry(taken) => {
                    *connection = Some(resting);
                    return Some(taken);
                }
                Next::Leave => {
                    resting.quit().await;
                    return place.next_or_leave();
                }
                Next::Idle(promise) => promise,
            };
            resting.rests();
            let now = self.parts.clock.instant();
            place.held.rests(now);
            if self.is_wanted(&place.held) {
                place.held.go();
            }
            let rest =
                place.site.rest(self.settings.idle_timeout, now).saturating_sub(now.saturating_duration_since(since));
            let outcome = self.wait_idle(resting, promise, rest, &place.held).await;
            let now = self.parts.clock.instant();
            let rested = now.saturating_duration_since(since);
            match outcome {
                Rested::Probed(still_there) => resting = still_there,
                Rested::Entry(taken, left) => {
                    *connection = left;
                    place.site.woke_after(rested);
                    return Some(place.handed(taken));
                }
                Rested::Ended => {
                    place.site.ended_at_rest(rested, now);
                    return self.next_or_replace(place);
                }
                Rested::Enough(idle) => {
                    idle.quit().await;
                    return self.next_or_replace(place);
                }
                Rested::Over(over) => {
                    over.quit().await;
                    return if place.held.has_to_go() { None } else { place.next_or_leave() };
                }
            }
        }
    }

    fn next_or_replace(self: &Arc<Self>, place: &mut Place) -> Option<Taken> {
        let next = place.next_or_leave();
        if next.is_none() {
            self.replace(&place.site);
        }
        next
    }

    /// Waits for an entry, the end of the peer's patience or of our own.
    async fn wait_idle(
        &self,
        mut idle: Box<Connection>,
        mut promise: oneshot::Receiver<Taken>,
        rest: Duration,
        held: &Held,
    ) -> Rested {
        let rested = tokio::select! {
            biased;
            taken = &mut promise => return match taken {
                Ok(taken) => Rested::Entry(taken, Some(idle)),
                Err(_) => Rested::Over(idle),
            },
            _ = idle.until_peer_speaks() => Rested::Ended,
            () = tokio::time::sleep(rest.min(PROBE_EVERY)) => if rest > PROBE_EVERY { Rested::Probed(idle) } else { Rested::Enough(idle) },
            () = held.gives_way() => Rested::Over(idle),
            () = self.draining.cancelled() => Rested::Over(idle),
        };
        // An entry may have been handed over at the same moment. From here on it goes to others.
        promise.close();
        match (promise.try_recv(), rested) {
            (Ok(taken), Rested::Probed(idle) | Rested::Enough(idle) | Rested::Over(idle)) => {
                Rested::Entry(taken, Some(idle))
            }
            (Ok(taken), Rested::Ended | Rested::Entry(..)) => Rested::Entry(taken, None),
            (Err(_), Rested::Probed(mut idle)) => {
                if idle.probe().await {
                    Rested::Probed(idle)
                } else {
                    Rested::Ended
                }
            }
            (Err(_), rested) => rested,
        }
    }
}

/// A session's place at its site. Given back when it leaves, also when its task is aborted or panics.
struct Place {
    delivery: Arc<Delivery>,
    site: Arc<Site>,
    /// Among all sessions. It is given back before the site is asked whether it needs another.
    tenure: Option<Tenure>,
    held: Held,
    /// The lane of the entry in work.
    busy: Option<Lane>,
    /// It is being opened ahead of its entry.
    is_opening: bool,
    has_left: bool,
}

impl Place {
    fn new(delivery: &Arc<Delivery>, site: Arc<Site>, beginning: &Beginning, tenure: Tenure) -> Self {
        let (busy, is_opening) = match beginning {
            Beginning::Entry(taken) => (Some(taken.lane), false),
            Beginning::Prewarm(_) => (None, true),
        };
        let held = tenure.held().clone();
        Self { delivery: delivery.clone(), site, tenure: Some(tenure), held, busy, is_opening, has_left: false }
    }

    fn opened(&mut self) {
        self.is_opening = false;
        self.site.opened();
    }

    fn not_opened(&mut self) -> Option<Taken> {
        self.is_opening = false;
        let next = self.site.not_opened();
        self.took(next)
    }

    fn next_or_idle(&mut self) -> Next {
        let next = self.site.next_or_idle(self.busy.take());
        if let Next::Entry(taken) = &next {
            self.busy = Some(taken.lane);
        }
        next
    }

    fn next_or_leave(&mut self) -> Option<Taken> {
        let next = self.site.next_or_leave(self.busy.take());
        self.took(next)
    }

    fn took(&mut self, next: Option<Taken>) -> Option<Taken> {
        self.busy = next.map(|next| next.lane);
        self.has_left = next.is_none();
        next
    }

    /// An entry came while the session was idle.
    fn handed(&mut self, taken: Taken) -> Taken {
        self.busy = Some(taken.lane);
        taken
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.has_left {
            self.site.leave(self.busy, self.is_opening);
        }
        drop(self.tenure.take());
        self.delivery.connection_ended(&self.site);
    }
}
